//! Connections to endpoints: a tower service that makes connections, each of which is a service of requests.
//!
//! The [crate](crate#examples) has an example.

mod capacity;
mod connect;
pub(crate) mod error;
mod failure;
mod http1;
mod http2;
pub(crate) mod log;
pub(crate) mod send_request;

pub use self::{
    connect::{Connect, ConnectFuture},
    error::{ConnectError, Error, SendError},
    log::EndpointLog,
    send_request::{ResponseFuture, SendRequest, Sending},
};
