//! Which rule takes a request: by host, path, method and headers, the most specific first.
//!
//! Names and precedence are the Gateway API's, of HTTPRoute and GRPCRoute.

mod rule;
mod table;

pub use rule::{Hostname, InvalidHostname, Match, PathMatch, Rule};
pub use table::Table;
