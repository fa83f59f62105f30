//! Rules for the messages of HTTP and gRPC: the meaning of heads, fields and statuses, apart from any connection.

pub(crate) mod answer;
pub(crate) mod authority;
pub(crate) mod client_cert;
pub(crate) mod connect_protocol;
pub(crate) mod fields;
pub(crate) mod forwarded;
pub(crate) mod grpc;
pub(crate) mod head;
pub(crate) mod interim;
pub(crate) mod loop_detection;
pub(crate) mod never_indexed;
pub(crate) mod proxy_fields;
pub(crate) mod reset_code;
pub(crate) mod stream_error;
pub(crate) mod validate;
