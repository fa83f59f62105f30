//! The endpoints, the state of each, and the choice among them for each request.
//!
//! [`Endpoints`] has the connections to a list of [`Endpoint`]s, which may change, and [`Params`] tune both. A
//! [`Proxy`](crate::Proxy) sends requests through them; [`proxy`](crate::proxy#examples) has an example.

mod backoff;
pub mod breaker;
mod chain;
mod choice;
pub mod endpoint;
mod endpoint_state;
mod endpoint_task;
mod endpoints;
pub mod health_check;
mod load;
mod params;
mod queue;
mod report;
pub(crate) mod shared;
mod state;

pub use self::{backoff::Backoff, endpoint::Endpoint, endpoints::Endpoints, params::Params};
