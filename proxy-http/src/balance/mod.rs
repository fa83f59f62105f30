//! Endpoints: which there are, how each is doing, and the choice among them for each request.

mod backoff;
pub mod breaker;
mod chain;
mod choice;
pub mod endpoint;
mod endpoints;
mod keeper;
mod load;
mod nodes;
mod params;
mod queue;
pub(crate) mod shared;

pub use self::{backoff::Backoff, endpoint::Endpoint, endpoints::Endpoints, params::Params};
