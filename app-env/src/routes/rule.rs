//! Routes: hosts, and the rules for their requests.

use super::{
    BackendRef, HeaderMatch, Hostname, Match, PathMatch, Retry, Route, Routes, Rule, Timeouts,
    backend::Entry,
    fields::{Fields, Known, Problems, nearest},
    unreachable,
    yaml::{Node, Position, Value},
};
use crate::{
    RateLimit,
    error::{plain, quote},
    grammar::{Grammar, Number, Time},
};
use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    num::NonZeroU32,
};

/// A match, and its place in the file.
pub(super) struct Placed {
    pub(super) position: Position,
    pub(super) of: Match,
}

const ROUTE: Known = Known {
    kind: "a route",
    keys: &["name", "hostnames", "rules"],
    unsupported: &["parentRefs", "apiVersion", "kind", "metadata", "spec", "useDefaultGateways"],
};

const RULE: Known = Known {
    kind: "a rule",
    keys: &["name", "matches", "backendRefs", "timeouts", "retry", "rateLimit"],
    unsupported: &["filters", "sessionPersistence"],
};

const MATCH: Known = Known { kind: "a match", keys: &["path", "method", "headers"], unsupported: &["queryParams"] };

const PATH: Known = Known { kind: "path", keys: &["type", "value"], unsupported: &[] };

const METHOD: Known = Known { kind: "method", keys: &["type", "service", "method"], unsupported: &[] };

const HEADER: Known = Known { kind: "a header", keys: &["type", "name", "value"], unsupported: &[] };

const BACKEND_REF: Known = Known {
    kind: "a backendRef",
    keys: &["name", "weight"],
    unsupported: &["group", "kind", "namespace", "port", "filters"],
};

const TIMEOUTS: Known = Known { kind: "timeouts", keys: &["request", "backendRequest"], unsupported: &[] };

const RATE_LIMIT: Known = Known {
    kind: "rateLimit",
    keys: &["requestsPerSecond", "burst"],
    unsupported: &["total", "identity", "overrides", "targetRef"],
};

const RETRY: Known = Known { kind: "retry", keys: &["attempts", "codes"], unsupported: &["backoff"] };

/// As the Gateway API has it.
const WEIGHT: Number = Number::In(0..=1_000_000);

/// Requests, as the variables of the rate limit by client have it.
const RATE: Number = Number::In(1..=1_000_000);

/// Retries of one request at most, however they are asked for.
const ATTEMPTS: Number = Number::In(0..=5);

/// As the Gateway API has it.
const MAX_PATH: usize = 1024;

/// Hostnames times matches, over all routes: each pair takes memory of its own where requests are matched.
const MAX_PLACES: usize = 100_000;

/// Reads the routes, and looks for backends that none of them uses. Without `backends`, names of them are not checked.
pub(super) fn read_all(
    node: &Node,
    backends: Option<BTreeMap<String, Entry>>,
    problems: &mut Problems,
) -> Option<Routes> {
    let items = problems.list(node, "routes", "mappings")?;
    let mut names = Names::default();
    let mut used = BTreeSet::new();
    let mut placed = Vec::new();
    let mut routes = Vec::with_capacity(items.len());
    for item in items {
        let mut reader =
            Reader { backends: backends.as_ref(), used: &mut used, problems: &mut *problems, matches: Vec::new() };
        let route = reader.route(item, &mut names);
        let matches = reader.matches;
        if let Some(route) = route {
            placed.push((route.hostnames.clone(), matches));
            routes.push(route);
        }
    }
    let places: usize = placed.iter().map(|(hosts, matches)| hosts.len().max(1) * matches.len()).sum();
    if places > MAX_PLACES {
        let message = format!("the routes have {places} pairs of hostname and match, must have at most {MAX_PLACES}");
        problems.error(node.position, message);
        return None;
    }
    unreachable::warn(&placed, problems);
    let backends = backends?;
    for (name, entry) in backends.iter().filter(|(name, _)| !used.contains(*name)) {
        problems.warn(entry.position, format!("the backend {} is in no rule", plain(name)));
    }
    let backends = backends.into_iter().map(|(name, entry)| Some((name, entry.backend?))).collect::<Option<_>>()?;
    Some(Routes { backends, routes })
}

/// Names that must not come twice, and their first places.
#[derive(Default)]
struct Names(BTreeMap<String, Position>);

struct Reader<'a> {
    backends: Option<&'a BTreeMap<String, Entry>>,
    used: &'a mut BTreeSet<String>,
    problems: &'a mut Problems,
    /// The matches of the route so far.
    matches: Vec<Placed>,
}

// === impl Names ===

impl Names {
    fn read(&mut self, fields: &Fields<'_>, of: &str, problems: &mut Problems) -> Option<String> {
        let node = fields.get("name")?;
        let parse = |text: &str| name(text).map(|()| text.to_owned()).map_err(|_| String::new());
        let text = problems.parse(node, "name", NAME, parse)?;
        match self.0.entry(text.clone()) {
            btree_map::Entry::Vacant(free) => _ = free.insert(node.position),
            btree_map::Entry::Occupied(first) => {
                let line = first.get().line;
                problems.error(node.position, format!("name is {text:?}, must be another; {of} of line {line} has it"));
            }
        }
        Some(text)
    }
}

const NAME: &str = "1 to 253 letters, digits, dots, - and _";

/// Whether a text is a name. It stands in log lines and metrics.
pub(super) fn name(text: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if (1..=253).contains(&text.len()) && text.bytes().all(allowed) { Ok(()) } else { Err(NAME) }
}

// === impl Reader ===

impl Reader<'_> {
    fn route(&mut self, node: &Node, names: &mut Names) -> Option<Route> {
        let fields = self.problems.fields(node, &ROUTE)?;
        let name = names.read(&fields, "the route", self.problems);
        let hostnames = match fields.get("hostnames") {
            Some(node) => self.hostnames(node),
            None => Some(Vec::new()),
        };
        let items = fields.require(self.problems, "rules");
        let items = items.and_then(|node| self.problems.list(node, "rules", "mappings"))?;
        let mut names = Names::default();
        let rules: Vec<_> = items.iter().filter_map(|item| self.rule(item, &mut names)).collect();
        Some(Route { name, hostnames: hostnames?, rules })
    }

    fn hostnames(&mut self, node: &Node) -> Option<Vec<Hostname>> {
        let items = self.problems.list(node, "hostnames", "host names")?;
        let mut hostnames = Vec::with_capacity(items.len());
        let mut seen = BTreeSet::new();
        for item in items {
            let parse = |text: &str| text.parse::<Hostname>().map_err(|error| error.to_string());
            let expected = "a DNS name (as shop.example or \"*.shop.example\")";
            let Some(hostname) = self.problems.parse(item, "the hostname", expected, parse) else { continue };
            if seen.insert(hostname.clone()) {
                hostnames.push(hostname);
            } else {
                self.problems.warn(item.position, format!("the hostname {hostname} is listed again"));
            }
        }
        (!hostnames.is_empty()).then_some(hostnames)
    }

    fn rule(&mut self, node: &Node, names: &mut Names) -> Option<Rule> {
        let fields = self.problems.fields(node, &RULE)?;
        let name = names.read(&fields, "the rule", self.problems);
        let matches = match fields.get("matches") {
            Some(node) => self.matches(node),
            None => {
                let all = Match { path: PathMatch::PathPrefix("/".to_owned()), method: None, headers: Vec::new() };
                self.matches.push(Placed { position: node.position, of: all.clone() });
                vec![all]
            }
        };
        let backend_refs = fields.require(self.problems, "backendRefs").map(|node| self.backend_refs(node));
        let timeouts = fields.get("timeouts").map(|node| self.timeouts(node));
        let retry = fields.get("retry").map(|node| self.retry(node));
        let rate_limit = fields.get("rateLimit").and_then(|node| self.rate_limit(node));
        Some(Rule {
            name,
            line: node.position.line,
            matches,
            backend_refs: backend_refs?,
            timeouts: timeouts.unwrap_or_default(),
            retry,
            rate_limit,
        })
    }

    fn matches(&mut self, node: &Node) -> Vec<Match> {
        let mut matches = Vec::new();
        for item in self.problems.list(node, "matches", "mappings").unwrap_or_default() {
            if let Some(of) = self.one_match(item) {
                self.matches.push(Placed { position: item.position, of: of.clone() });
                matches.push(of);
            }
        }
        matches
    }

    fn one_match(&mut self, node: &Node) -> Option<Match> {
        let fields = self.problems.fields(node, &MATCH)?;
        let headers = fields.get("headers").map(|node| self.headers(node)).unwrap_or_default();
        let path = fields.get("path");
        // HTTPRoute has a word here, and GRPCRoute a mapping.
        let (path, method) = match fields.get("method") {
            Some(node @ Node { value: Value::Map(_), .. }) => {
                if let Some(path) = path {
                    let message = "path is set beside a gRPC method, must be left out, since that is the path";
                    self.problems.error(path.position, message);
                }
                (self.grpc_method(node), None)
            }
            method => {
                let expected = "an HTTP method (as GET), or a mapping of service and method for gRPC";
                let method = method.and_then(|node| self.problems.parse(node, "method", expected, http_method));
                let any = || Some(PathMatch::PathPrefix("/".to_owned()));
                (path.map_or_else(any, |node| self.path(node)), method)
            }
        };
        Some(Match { path: path?, method, headers })
    }

    fn path(&mut self, node: &Node) -> Option<PathMatch> {
        let fields = self.problems.fields(node, &PATH)?;
        let is_exact = match fields.get("type") {
            None => false,
            Some(node) => self.problems.parse(node, "type", "Exact or PathPrefix", |text| match text {
                "Exact" => Ok(true),
                "PathPrefix" => Ok(false),
                _ => Err(regular_expression(text)),
            })?,
        };
        let value = match fields.get("value") {
            None => "/".to_owned(),
            Some(node) => {
                let expected = "a path (as /cart), without a query, of at most 1024 bytes";
                self.problems.parse(node, "value", expected, path_value)?
            }
        };
        if is_exact {
            return Some(PathMatch::Exact(value));
        }
        let trimmed = value.trim_end_matches('/');
        Some(PathMatch::PathPrefix(if trimmed.is_empty() { "/" } else { trimmed }.to_owned()))
    }

    fn grpc_method(&mut self, node: &Node) -> Option<PathMatch> {
        let fields = self.problems.fields(node, &METHOD)?;
        self.exact(&fields)?;
        let read = |key, expected, problems: &mut Problems, allowed: fn(&str) -> bool| match fields.get(key) {
            None => Some(None),
            Some(node) => {
                let parse = |text: &str| if allowed(text) { Ok(Some(text.to_owned())) } else { Err(String::new()) };
                problems.parse(node, key, expected, parse)
            }
        };
        let is_name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let service = read("service", "the full name of a gRPC service (as shop.v1.Orders)", self.problems, |text| {
            text.split('.').all(|part| !part.is_empty() && name(part).is_ok() && !part.contains('-'))
        });
        let method = read("method", "the name of a gRPC method (as Get)", self.problems, is_name);
        let (service, method) = (service?, method?);
        if service.is_none() && method.is_none() {
            self.problems.error(fields.position, "method is empty, must have service, method or both");
            return None;
        }
        Some(PathMatch::GrpcMethod { service, method })
    }

    fn headers(&mut self, node: &Node) -> Vec<HeaderMatch> {
        let mut headers: Vec<HeaderMatch> = Vec::new();
        for item in self.problems.list(node, "headers", "mappings").unwrap_or_default() {
            let Some(header) = self.header(item) else { continue };
            if headers.iter().any(|other| other.name == header.name) {
                let message = format!("the header {} is in the match again, must be there once", header.name);
                self.problems.error(item.position, message);
            }
            headers.push(header);
        }
        headers
    }

    fn header(&mut self, node: &Node) -> Option<HeaderMatch> {
        let fields = self.problems.fields(node, &HEADER)?;
        let exact = self.exact(&fields);
        let name = fields.require(self.problems, "name");
        let name =
            name.and_then(|node| self.problems.parse(node, "name", "the name of a field (as x-env)", field_name));
        let value = fields.require(self.problems, "value");
        let expected = "text in one line, of at most 4096 bytes";
        let value = value.and_then(|node| self.problems.parse(node, "value", expected, field_value));
        exact?;
        Some(HeaderMatch { name: name?, value: value? })
    }

    /// Reads a type that must be `Exact`, its default.
    fn exact(&mut self, fields: &Fields<'_>) -> Option<()> {
        let Some(node) = fields.get("type") else { return Some(()) };
        let parse = |text: &str| if text == "Exact" { Ok(()) } else { Err(regular_expression(text)) };
        self.problems.parse(node, "type", "Exact", parse)
    }

    fn backend_refs(&mut self, node: &Node) -> Vec<BackendRef> {
        let items = self.problems.list(node, "backendRefs", "mappings").unwrap_or_default();
        items.iter().filter_map(|item| self.backend_ref(item)).collect()
    }

    fn backend_ref(&mut self, node: &Node) -> Option<BackendRef> {
        let fields = self.problems.fields(node, &BACKEND_REF)?;
        let weight = match fields.get("weight") {
            Some(node) => self.problems.read(node, "weight", &WEIGHT),
            None => Some(1),
        };
        let node = fields.require(self.problems, "name")?;
        let Value::Scalar(name) = &node.value else {
            self.problems.error(node.position, format!("name is {}, must be one of backends", node.value.kind()));
            return None;
        };
        if let Some(backends) = self.backends.filter(|backends| !backends.contains_key(name)) {
            let near = nearest(name, backends.keys().map(String::as_str));
            let near = near.map(|near| format!("; the nearest is {}", plain(near))).unwrap_or_default();
            self.problems.error(node.position, format!("name is {}, must be one of backends{near}", quote(name)));
            return None;
        }
        self.used.insert(name.clone());
        Some(BackendRef { name: name.clone(), weight: weight? })
    }

    fn timeouts(&mut self, node: &Node) -> Timeouts {
        let Some(fields) = self.problems.fields(node, &TIMEOUTS) else { return Timeouts::default() };
        let request = fields.read(self.problems, "request", &Time::ANY);
        let backend_request = fields.read(self.problems, "backendRequest", &Time::ANY);
        if let (Some(request), Some(backend)) = (request, backend_request)
            && backend > request
            && !request.is_zero()
        {
            let (request, backend) = (Time::ANY.print(&request), Time::ANY.print(&backend));
            let message = format!("backendRequest is {backend}, must be at most request, which is {request}");
            self.problems.error(fields.position, message);
        }
        Timeouts { request, backend_request }
    }

    fn retry(&mut self, node: &Node) -> Retry {
        let Some(fields) = self.problems.fields(node, &RETRY) else { return Retry::default() };
        let attempts = fields.read(self.problems, "attempts", &ATTEMPTS);
        Retry { attempts, gateway_errors: fields.get("codes").and_then(|node| self.codes(node)) }
    }

    fn rate_limit(&mut self, node: &Node) -> Option<RateLimit> {
        let fields = self.problems.fields(node, &RATE_LIMIT)?;
        let burst = match fields.get("burst") {
            Some(node) => Some(self.problems.read(node, "burst", &RATE)),
            None => None,
        };
        let per_second = fields.require(self.problems, "requestsPerSecond")?;
        let per_second = NonZeroU32::new(self.problems.read(per_second, "requestsPerSecond", &RATE)?)?;
        let burst = burst.map_or(Some(per_second), |burst| NonZeroU32::new(burst?))?;
        Some(RateLimit { per_second, burst })
    }

    /// Whether the three codes are listed, or none. We tell no others apart.
    fn codes(&mut self, node: &Node) -> Option<bool> {
        const EXPECTED: &str =
            "[502, 503, 504], after which GET and HEAD are sent again, or []; others are not supported";
        let Value::List(items) = &node.value else {
            self.problems.error(node.position, format!("codes is {}, must be {EXPECTED}", node.value.kind()));
            return None;
        };
        let mut codes = BTreeSet::new();
        for item in items {
            let Value::Scalar(code) = &item.value else {
                self.problems.error(item.position, format!("a code is {}, must be a number", item.value.kind()));
                return None;
            };
            codes.insert(code.as_str());
        }
        match codes.iter().copied().collect::<Vec<_>>()[..] {
            [] => Some(false),
            ["502", "503", "504"] => Some(true),
            _ => {
                let shown: Vec<_> = codes.iter().take(10).map(|code| plain(code)).collect();
                self.problems.error(node.position, format!("codes is [{}], must be {EXPECTED}", shown.join(", ")));
                None
            }
        }
    }
}

fn regular_expression(kind: &str) -> String {
    let is = kind == "RegularExpression";
    if is { "regular expressions are not supported" } else { "" }.to_owned()
}

/// A method in upper case: case counts, and no client sends others.
fn http_method(text: &str) -> Result<String, String> {
    if !text.bytes().all(is_token) {
        return Err(String::new());
    }
    let upper = text.to_ascii_uppercase();
    if upper == text { Ok(upper) } else { Err("methods are in upper case".to_owned()) }
}

/// A path as the Gateway API has it.
fn path_value(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err("does not start with /".to_owned());
    }
    if text.contains(['?', '#']) {
        return Err("has a query or a fragment".to_owned());
    }
    let lower = text.to_ascii_lowercase();
    let dots = [".", ".."].iter().any(|dots| text.split('/').any(|segment| segment == *dots));
    if text.contains("//") || dots || lower.contains("%2f") {
        return Err("has //, /./, /../ or %2f".to_owned());
    }
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let is_escape = byte == b'%'
            && [bytes.next(), bytes.next()].iter().flatten().filter(|hex| hex.is_ascii_hexdigit()).count() == 2;
        if !is_escape && !byte.is_ascii_alphanumeric() && !b"-/._~!$&'()*+,;=:@".contains(&byte) {
            return Err("has a character that must be escaped with %".to_owned());
        }
    }
    if text.len() > MAX_PATH { Err(format!("has {} bytes", text.len())) } else { Ok(text.to_owned()) }
}

fn field_name(text: &str) -> Result<String, String> {
    if text.starts_with(':') {
        return Err("is a pseudo-field".to_owned());
    }
    if text.eq_ignore_ascii_case("host") {
        return Err("is matched by hostnames".to_owned());
    }
    if text.len() <= 256 && text.bytes().all(is_token) { Ok(text.to_ascii_lowercase()) } else { Err(String::new()) }
}

fn field_value(text: &str) -> Result<String, String> {
    let is_line = text.chars().all(|char| !char.is_control() || char == '\t');
    if is_line && text.len() <= 4096 { Ok(text.to_owned()) } else { Err(String::new()) }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
