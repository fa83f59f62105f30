//! The endpoints, the state of each, and the choice among them for each request.
//!
//! [`Endpoints`] has the connections to a list of [`Endpoint`]s, which may change, and [`Params`] tune both. A
//! [`Proxy`](crate::Proxy) sends requests through them; [`proxy`](crate::proxy#examples) has an example.

mod backoff;
pub(crate) mod balancer;
pub mod breaker;
mod choice;
pub mod endpoint;
mod endpoint_state;
mod endpoint_task;
mod endpoints;
mod error_chain;
pub mod health_check;
mod params;
mod peak_ewma;
pub(crate) mod priority;
mod queue;
mod report;
mod slow_start;
mod state;

pub use self::{backoff::Backoff, endpoint::Endpoint, endpoints::Endpoints, params::Params};
