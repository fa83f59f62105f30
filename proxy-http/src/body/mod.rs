//! Bodies: received, buffered under backpressure or for a retry, and sent.

pub(crate) mod backlog;
pub(crate) mod backpressure;
pub(crate) mod channel;
mod error;
pub(crate) mod http1;
pub(crate) mod incoming;
pub(crate) mod outcome;
mod recorded;
pub(crate) mod replay;
pub(crate) mod response;
pub(crate) mod send;
pub(crate) mod source;
pub(crate) mod upload;

pub use self::{error::Error, incoming::IncomingBody, replay::Replay, response::ResponseBody};
