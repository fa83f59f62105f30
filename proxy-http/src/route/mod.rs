//! Which rule takes a request: by host, path, method and headers, the most specific first.
//!
//! Names and precedence are those of the Gateway API's HTTPRoute and GRPCRoute.

mod rule;
mod table;

pub use rule::{Hostname, InvalidHostname, Match, PathMatch, Rule};
pub use table::Table;
