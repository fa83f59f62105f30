//! Rules for the messages of HTTP and gRPC: what a head, a field or a status means, apart from any connection.

pub(crate) mod answer;
pub(crate) mod fields;
pub(crate) mod grpc;
pub(crate) mod head;
pub(crate) mod interim;
pub(crate) mod reason;
pub(crate) mod validate;
