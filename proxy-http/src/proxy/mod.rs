//! Forwards requests to endpoints, sends again what was not processed, and answers in their place where they give no answer.

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
