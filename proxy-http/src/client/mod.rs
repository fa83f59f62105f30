//! Connections to endpoints: a tower service that makes them, and the service that each one is.

mod connect;
pub(crate) mod error;
mod failure;
mod http1;
mod http2;
pub(crate) mod log;
mod room;
pub(crate) mod send_request;

pub use self::{
    connect::{Connect, ConnectFuture},
    error::{ConnectError, Error, SendError},
    log::EndpointLog,
    send_request::{ResponseFuture, SendRequest, Sending},
};
