//! Routes in words, for `app check`.

use super::{Place, directions, load, rules};
use app_env::{
    Config, EndpointProtocol, RateLimit,
    routes::{Backend, BackendRef, HeaderMatch, Match, Route, Routes, Rule, Timeouts},
};
use http::{HeaderName, HeaderValue, Request};
use proxy_http::route::Table;
use std::{fmt::Write as _, str::FromStr, time::Duration};

/// A request that somebody asks about, as `GET http://shop.example/cart`.
#[derive(Clone, Debug)]
pub(crate) struct Query(Box<Request<()>>);

/// The rules and the back ends of each, a line each; no line if there is no file of routes.
pub(crate) fn describe(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, direction, path) in directions(config) {
        let Ok(loaded) = load(path, &direction.connect) else { continue };
        lines.push(format!("{name} routes of {}:", path.display()));
        for Route { name, hostnames, rules, .. } in &loaded.routes.routes {
            let hosts: Vec<_> = hostnames.iter().map(ToString::to_string).collect();
            let hosts = if hosts.is_empty() { "all hosts".to_owned() } else { hosts.join(", ") };
            lines.push(format!("  {hosts}{}", name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default()));
            for rule in rules {
                let matches: Vec<_> = rule.matches.iter().map(words).collect();
                lines.push(format!("    {}: {} -> {}", at(rule), matches.join(" or "), target(rule)));
            }
        }
        lines.extend(
            loaded.routes.backends.iter().map(|(name, backend)| format!("  backend {name}: {}", endpoints(backend))),
        );
    }
    lines
}

// === impl Query ===

impl Query {
    pub(crate) fn add(&mut self, (name, value): (HeaderName, HeaderValue)) {
        self.0.headers_mut().append(name, value);
    }

    /// Says where the request goes, a line for each direction that has routes. The second value: whether a rule takes it.
    pub(crate) fn answer(&self, config: &Config) -> (Vec<String>, bool) {
        let mut is_taken = false;
        let mut lines = Vec::new();
        for (name, direction, path) in directions(config) {
            let Ok(loaded) = load(path, &direction.connect) else { continue };
            let Ok(rules) = rules(&loaded.routes) else { continue };
            let uri = self.0.uri();
            let authority = uri.authority().map(|authority| authority.as_str());
            match Table::new(rules).find(authority, uri.path(), self.0.method(), self.0.headers()) {
                Some(place) => {
                    is_taken = true;
                    lines.extend(Self::taken(name, &path.display().to_string(), &loaded.routes, *place));
                }
                None => {
                    lines.push(format!("{name}: no rule of {} takes it: 404, or UNIMPLEMENTED of gRPC", path.display()))
                }
            }
        }
        (lines, is_taken)
    }

    fn taken(direction: &str, file: &str, routes: &Routes, Place { route, rule }: Place) -> Vec<String> {
        let Some(route) = routes.routes.get(route) else { return Vec::new() };
        let Some(rule) = route.rules.get(rule) else { return Vec::new() };
        let of = route.name.as_ref().map(|name| format!(" of route {name}")).unwrap_or_default();
        let mut lines = vec![format!("{direction}: the rule of {file}, {}{of} -> {}", at(rule), target(rule))];
        for BackendRef { name, .. } in rule.backend_refs.iter().filter(|backend| backend.weight > 0) {
            lines.extend(routes.backends.get(name).map(|backend| format!("  backend {name}: {}", endpoints(backend))));
        }
        lines
    }
}

impl FromStr for Query {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "must be a method and a URI, as 'GET http://shop.example/cart'";
        let (method, uri) = text.trim().split_once(' ').ok_or(expected)?;
        let request = Request::builder().method(method).uri(uri.trim()).body(());
        request.map(|request| Self(Box::new(request))).map_err(|error| format!("{error}; {expected}"))
    }
}

/// A field, as `name: value`.
pub(crate) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("must be 'name: value'")?;
    let name = name.trim().parse().map_err(|error| format!("{error}"))?;
    Ok((name, HeaderValue::from_bytes(value.trim().as_bytes()).map_err(|error| error.to_string())?))
}

/// A rule's line, and its name if it has one.
fn at(rule: &Rule) -> String {
    rule.name.as_ref().map_or_else(|| format!("line {}", rule.line), |name| format!("line {} ({name})", rule.line))
}

fn words(Match { path, method, headers, .. }: &Match) -> String {
    let mut words = method.as_ref().map(|method| format!("{method} ")).unwrap_or_default();
    words.push_str(&path.to_string());
    for HeaderMatch { name, value } in headers {
        let _ = write!(words, ", {name}: {value}");
    }
    words
}

/// Where a rule's requests go, and how.
fn target(rule: &Rule) -> String {
    let sum: u64 = rule.backend_refs.iter().map(|backend| u64::from(backend.weight)).sum();
    let shares: Vec<_> = rule
        .backend_refs
        .iter()
        .map(|BackendRef { name, weight }| match rule.backend_refs.len() {
            1 => name.clone(),
            _ => format!("{name} ({weight} of {sum})"),
        })
        .collect();
    let mut words = if sum == 0 { "500, since all weights are 0".to_owned() } else { shares.join(", ") };
    let Timeouts { request, backend_request, .. } = rule.timeouts;
    for (name, timeout) in [("request", request), ("backendRequest", backend_request)] {
        let _ = match timeout {
            Some(Duration::ZERO) => write!(words, "; {name} without a timeout"),
            Some(timeout) => write!(words, "; {name} within {timeout:?}"),
            None => Ok(()),
        };
    }
    if let Some(RateLimit { per_second, burst }) = rule.rate_limit {
        let _ = write!(words, "; at most {per_second} requests a second, {burst} at once");
    }
    if let Some(retry) = rule.retry {
        let _ = retry.attempts.map(|attempts| write!(words, "; at most {attempts} retries"));
        let _ = retry
            .gateway_errors
            .map(|on| write!(words, "; {} after 502, 503, 504", if on { "retries" } else { "no retries" }));
    }
    words
}

fn endpoints(Backend { endpoints, connect, .. }: &Backend) -> String {
    let listed: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
    let protocol = match connect.protocol {
        EndpointProtocol::Http2 => "HTTP/2",
        EndpointProtocol::Http1 => "HTTP/1.1",
        EndpointProtocol::Same => "the client's protocol",
    };
    format!("{} by {protocol}{}", listed.join(", "), if connect.tls.is_some() { " with TLS" } else { "" })
}
