//! Routes: which requests go to which endpoints, as a file says it.
//!
//! The file is YAML with two keys: `backends`, lists of endpoints by name, and `routes`, with the names and the shape of the
//! Gateway API's HTTPRoute and GRPCRoute.
//!
//! ```
//! use app_env::routes::Routes;
//! # use std::collections::BTreeMap;
//! # let vars = BTreeMap::from([("LINKERD2_PROXY_OUTBOUND_ROUTES", "routes.yaml")]);
//! # let connect = app_env::load(&vars)?.config.outbound.unwrap().connect;
//!
//! let text = "
//! backends:
//!   shop: {endpoints: ['10.0.0.1:8080'], protocol: http1}
//!   orders: {endpoints: ['orders.example:50051']}
//! routes:
//!   - hostnames: [shop.example]
//!     rules:
//!       - backendRefs: [{name: shop}]
//!       - matches: [{method: {service: shop.Orders}}]
//!         backendRefs: [{name: orders}]
//! ";
//! let (routes, warnings) = Routes::parse(text, &connect).unwrap();
//! assert_eq!(routes.routes[0].rules[1].backend_refs[0].name, "orders");
//! assert!(warnings.is_empty());
//!
//! let errors = Routes::parse(&text.replace("{name: shop}", "{name: shp, wieght: 1}"), &connect).unwrap_err();
//! let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
//! assert_eq!(lines[0], "8:30: name is \"shp\", must be one of backends; the nearest is shop");
//! # assert_eq!(lines[1], "8:35: wieght is no key of a backendRef; the nearest known one is weight, must be one of name, weight");
//! # Ok::<(), app_env::Errors>(())
//! ```

mod backend;
mod fields;
mod rule;
#[cfg(test)]
mod tests;
mod unreachable;
mod yaml;

use crate::{Connect, EndpointAddr, RateLimit, host_port::dns_name};
use fields::{Known, Problems};
use std::{collections::BTreeMap, fmt, net::Ipv4Addr, str::FromStr, time::Duration};
use yaml::Position;

/// All routes of a file.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    /// The lists of endpoints, by name.
    pub backends: BTreeMap<String, Backend>,
    /// The routes, in the order of the file.
    pub routes: Vec<Route>,
}

/// A list of endpoints that are one service.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// At least one, none twice.
    pub endpoints: Vec<EndpointAddr>,
    /// How they are connected to: the direction's settings, and in their place those of the file.
    pub connect: Connect,
}

/// Rules for the requests of some hosts.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its name, which no other route has.
    pub name: Option<String>,
    /// The hosts whose requests it takes, none twice. None: all hosts.
    pub hostnames: Vec<Hostname>,
    /// At least one.
    pub rules: Vec<Rule>,
}

/// Where some requests go to, and how.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name, which no other rule of its route has.
    pub name: Option<String>,
    /// The line of the file that it starts in.
    pub line: usize,
    /// It takes requests that one of these matches. At least one; a rule that has none in the file takes all.
    pub matches: Vec<Match>,
    /// Among which requests are divided by weight. At least one; if all weights are 0, requests are answered with 500.
    pub backend_refs: Vec<BackendRef>,
    /// How long requests may take.
    pub timeouts: Timeouts,
    /// The retries of its requests. `None`: the direction's.
    pub retry: Option<Retry>,
    /// The requests that it may get, from all clients together. `None`: no limit.
    pub rate_limit: Option<RateLimit>,
}

/// Conditions on a request, all of which must hold.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    /// The path.
    pub path: PathMatch,
    /// The method, as it is written. `None`: any; of gRPC it is POST.
    pub method: Option<String>,
    /// The fields, none twice.
    pub headers: Vec<HeaderMatch>,
}

/// The path of a request, without its query.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum PathMatch {
    /// This path.
    Exact(String),
    /// This path and all paths below it, by segments: `/a` has `/a/b` and not `/ab`. There is no `/` at the end, but of `/` itself.
    PathPrefix(String),
    /// A call of gRPC: POST to `/service/method`. One of both is always there.
    GrpcMethod {
        /// The full name of the service. `None`: any.
        service: Option<String>,
        /// The method. `None`: any.
        method: Option<String>,
    },
}

/// A field with one value.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HeaderMatch {
    /// The name, in lower case.
    pub name: String,
    /// The value, in which case counts.
    pub value: String,
}

/// A backend's share of a rule's requests.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackendRef {
    /// The name, which `backends` has.
    pub name: String,
    /// The share is this part of the rule's sum: 0..=1000000.
    pub weight: u32,
}

/// How long requests may take. Zero: as long as they like. `None`: as the direction says.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Timeouts {
    /// From the head of a request to the end of its response.
    pub request: Option<Duration>,
    /// The same, each time that it is sent to an endpoint. At most `request`.
    pub backend_request: Option<Duration>,
}

/// Which requests are sent again, where it differs from the direction.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Retry {
    /// How often one request is sent again at most, 0..=5.
    pub attempts: Option<u32>,
    /// Whether GET and HEAD are, after 502, 503, 504 or a lost connection.
    pub gateway_errors: Option<bool>,
}

/// A DNS name, or `*.` before one: that stands for all names below it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Hostname(String);

/// Why a text is not a [`Hostname`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InvalidHostname {
    reason: String,
}

/// A place of a file, and the mistake, or probable mistake, there.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The text that was found, and the text that must be there.
    pub message: String,
}

/// The largest file of routes, in bytes.
pub const MAX_SIZE: usize = 1 << 20;

const FILE: Known =
    Known { kind: "the file", keys: &["backends", "routes"], unsupported: &["apiVersion", "kind", "metadata", "spec"] };

// === impl Routes ===

impl Routes {
    /// Reads and checks a file. Backends have the settings of `connect` where they set none. The second value has the warnings.
    ///
    /// # Errors
    ///
    /// All mistakes in the order of their lines; of a text that is no YAML, the first place that is none.
    pub fn parse(text: &str, connect: &Connect) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let start = Position { line: 1, column: 1 };
        if text.len() > MAX_SIZE {
            let message = format!("the file has {} bytes, must have at most {MAX_SIZE}", text.len());
            return Err(vec![Problem::new(start, message)]);
        }
        let document = yaml::parse(text).map_err(|problem| vec![problem])?;
        let mut problems = Problems::default();
        let routes = match document {
            Some(node) => Self::read(&node, connect, &mut problems),
            None => {
                problems.error(start, "the file is empty, must be a mapping of backends, routes");
                None
            }
        };
        problems.finish(routes)
    }

    fn read(node: &yaml::Node, connect: &Connect, problems: &mut Problems) -> Option<Self> {
        let file = problems.fields(node, &FILE)?;
        let backends = file.require(problems, "backends").and_then(|node| backend::read_all(node, connect, problems));
        let routes = file.require(problems, "routes")?;
        rule::read_all(routes, backends, problems)
    }
}

// === impl PathMatch ===

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "path {path}"),
            Self::PathPrefix(path) if path == "/" => f.write_str("all paths"),
            Self::PathPrefix(path) => write!(f, "paths below {path}"),
            Self::GrpcMethod { service, method } => {
                let any = |name: &Option<String>| name.clone().unwrap_or_else(|| "*".to_owned());
                write!(f, "gRPC {}/{}", any(service), any(method))
            }
        }
    }
}

// === impl Hostname ===

impl Hostname {
    /// The name in lower case, with `*.` before it if that is there.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Hostname {
    type Err = InvalidHostname;

    fn from_str(text: &str) -> Result<Self, InvalidHostname> {
        let refuse = |reason: &str| Err(InvalidHostname { reason: reason.to_owned() });
        let name = text.strip_prefix("*.").unwrap_or(text);
        if text == "*" {
            return refuse("all hosts are taken where there are no hostnames");
        }
        if text.contains("://") {
            return refuse("has a scheme, which is no part of a host");
        }
        if text.contains('/') {
            return refuse("has a path, which matches have");
        }
        if text.starts_with('[') || text.parse::<Ipv4Addr>().is_ok() {
            return refuse("is an IP address, which the Gateway API does not allow");
        }
        if text.contains(':') {
            return refuse("has a port; requests are taken whatever port they name");
        }
        if name.contains('*') {
            return refuse("has * elsewhere than before the first dot");
        }
        if name.ends_with('.') {
            return refuse("has a dot at its end");
        }
        let name = dns_name(name).map_err(|error| InvalidHostname { reason: error.to_string() })?;
        Ok(Self(if text.starts_with('*') { format!("*.{name}") } else { name }))
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl InvalidHostname ===

impl fmt::Display for InvalidHostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for InvalidHostname {}

// === impl Problem ===

impl Problem {
    fn new(Position { line, column }: Position, message: impl Into<String>) -> Self {
        Self { line, column, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for Problem {}
