//! Forwards requests to endpoints, retries requests that were not processed, and answers requests that get no response.

mod exchange;
mod limits;
pub mod retry;
mod service;
mod shared;

pub use self::{
    exchange::Error,
    limits::{Limits, Params},
    service::{Client, Proxy, ResponseFuture},
};
pub use crate::body::ResponseBody as Body;
