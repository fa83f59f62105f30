//! Finds the rule of a request, in a time that hardly depends on their number.

use super::{
    Match, PathMatch, Rule,
    rule::{Hostname, MAX_HOST},
};
use crate::message::authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use std::{cmp::Reverse, collections::HashMap};

/// Rules, and the target of each.
///
/// Of all rules that take a request the most specific has it, as the Gateway API says: first the one with the exact host, then
/// with the longest `*.`; then the one with the exact path, then with the longest prefix, then with a method (a gRPC method
/// without a service is one), then with the most headers, and then the first.
///
/// ```
/// use http::{HeaderMap, Method};
/// use proxy_http::route::{Match, PathMatch, Rule, Table};
///
/// let shop = |path: &str| Rule {
///     hostnames: vec!["shop.example".parse().unwrap()],
///     matches: vec![Match { path: PathMatch::Prefix(path.to_owned()), ..Match::default() }],
/// };
/// let table = Table::new([(shop("/"), "pages"), (shop("/cart"), "cart"), (Rule::default(), "others")]);
///
/// let find = |host, path| table.find(Some(host), path, &Method::GET, &HeaderMap::new()).copied();
/// assert_eq!(find("Shop.example:8080", "/cart/1"), Some("cart"));
/// assert_eq!(find("shop.example", "/carts"), Some("pages"));
/// assert_eq!(find("example.com", "/cart"), Some("others"));
/// ```
#[derive(Clone, Debug)]
pub struct Table<T> {
    targets: Vec<T>,
    hosts: HashMap<Box<[u8]>, Paths>,
    /// By the names without `*.`.
    wildcards: HashMap<Box<[u8]>, Paths>,
    /// The lengths of the names without `*.`, the longest first.
    wildcard_lengths: Vec<usize>,
    any_host: Paths,
}

/// The rules of one host.
#[derive(Clone, Debug, Default)]
struct Paths {
    exact: HashMap<Box<[u8]>, Vec<Entry>>,
    /// By the prefix without `/` at its end.
    prefixes: HashMap<Box<[u8]>, Vec<Entry>>,
    /// The lengths of prefixes, the longest first.
    prefix_lengths: Vec<usize>,
}

/// A match, but for its host and path, of which the most specific comes first.
#[derive(Clone, Debug)]
struct Entry {
    /// Whether a method makes it more specific. The POST of gRPC does not.
    has_method: bool,
    method: Option<Method>,
    call: Call,
    headers: Box<[(HeaderName, HeaderValue)]>,
    /// The place of its rule.
    target: usize,
}

/// The condition on the path, beside that it is exact or below its prefix.
#[derive(Clone, Debug)]
enum Call {
    /// Anything.
    Any,
    /// A service and a method of gRPC.
    OfService,
    /// A service and this method.
    Method(Box<str>),
}

/// A request, as far as it matters here.
struct Request<'a> {
    path: &'a str,
    method: &'a Method,
    headers: &'a HeaderMap,
}

// === impl Table ===

impl<T> Table<T> {
    /// A table of rules, the first of which counts among equals, and the target of each.
    pub fn new(rules: impl IntoIterator<Item = (Rule, T)>) -> Self {
        let mut table = Self {
            targets: Vec::new(),
            hosts: HashMap::new(),
            wildcards: HashMap::new(),
            wildcard_lengths: Vec::new(),
            any_host: Paths::default(),
        };
        for (Rule { hostnames, mut matches }, target) in rules {
            if matches.is_empty() {
                matches.push(Match::default());
            }
            for of in &matches {
                if hostnames.is_empty() {
                    table.any_host.insert(of, table.targets.len());
                }
                for Hostname { name, is_wildcard } in &hostnames {
                    let hosts = if *is_wildcard { &mut table.wildcards } else { &mut table.hosts };
                    hosts.entry(name.as_bytes().into()).or_default().insert(of, table.targets.len());
                }
            }
            table.targets.push(target);
        }
        table.wildcard_lengths = lengths(&table.wildcards);
        table.hosts.values_mut().chain(table.wildcards.values_mut()).chain([&mut table.any_host]).for_each(Paths::sort);
        table
    }

    /// The target of the rule that has the request. `None`: no rule takes it.
    ///
    /// The authority's case and port make no difference, nor does a dot at its end. One that is malformed is as none.
    pub fn find(&self, authority: Option<&str>, path: &str, method: &Method, headers: &HeaderMap) -> Option<&T> {
        let request = Request { path, method, headers };
        let mut buffer = [0; MAX_HOST];
        let host = authority.and_then(|authority| host(authority, &mut buffer)).unwrap_or_default();
        let target = self
            .find_exact(host, &request)
            .or_else(|| self.find_wildcard(host, &request))
            .or_else(|| self.any_host.find(&request))?;
        self.targets.get(target)
    }

    /// The targets of the rules, in their order.
    pub fn targets(&self) -> &[T] {
        &self.targets
    }

    fn find_exact(&self, host: &[u8], request: &Request<'_>) -> Option<usize> {
        self.hosts.get(host)?.find(request)
    }

    fn find_wildcard(&self, host: &[u8], request: &Request<'_>) -> Option<usize> {
        self.wildcard_lengths.iter().find_map(|length| {
            let dot = host.len().checked_sub(length + 1).filter(|dot| *dot > 0 && host[*dot] == b'.')?;
            self.wildcards.get(&host[dot + 1..])?.find(request)
        })
    }
}

// === impl Paths ===

impl Paths {
    fn insert(&mut self, of: &Match, target: usize) {
        let (map, path) = match &of.path {
            PathMatch::Exact(path) => (&mut self.exact, path.clone()),
            PathMatch::Prefix(path) => (&mut self.prefixes, path.trim_end_matches('/').to_owned()),
            PathMatch::GrpcMethod { service: Some(service), method: Some(method) } => {
                (&mut self.exact, format!("/{service}/{method}"))
            }
            PathMatch::GrpcMethod { service: Some(service), method: None } => {
                (&mut self.prefixes, format!("/{service}"))
            }
            PathMatch::GrpcMethod { service: None, .. } => (&mut self.prefixes, String::new()),
        };
        map.entry(path.into_bytes().into()).or_default().push(Entry::new(of, target));
    }

    fn sort(&mut self) {
        // The order among equals stays.
        let entries = self.exact.values_mut().chain(self.prefixes.values_mut());
        entries.for_each(|entries| entries.sort_by_key(|entry| Reverse((entry.has_method, entry.headers.len()))));
        self.prefix_lengths = lengths(&self.prefixes);
    }

    fn find(&self, request: &Request<'_>) -> Option<usize> {
        let path = request.path.as_bytes();
        let first = |entries: &Vec<Entry>| Some(entries.iter().find(|entry| entry.takes(request))?.target);
        self.exact.get(path).and_then(first).or_else(|| {
            self.prefix_lengths.iter().find_map(|length| {
                let is_prefix = *length == 0 || *length == path.len() || path.get(*length) == Some(&b'/');
                self.prefixes.get(path.get(..*length).filter(|_| is_prefix)?).and_then(first)
            })
        })
    }
}

// === impl Entry ===

impl Entry {
    fn new(Match { path, method, headers }: &Match, target: usize) -> Self {
        let (has_method, method, call) = match path {
            PathMatch::GrpcMethod { service, method } => {
                let call = match (service, method) {
                    (Some(_), Some(_)) => Call::Any,
                    (_, None) => Call::OfService,
                    (None, Some(method)) => Call::Method(method.as_str().into()),
                };
                (service.is_none() && method.is_some(), Some(Method::POST), call)
            }
            _ => (method.is_some(), method.clone(), Call::Any),
        };
        Self { has_method, method, call, headers: headers.clone().into(), target }
    }

    /// Whether a request has all but host and path, which were found before.
    fn takes(&self, request: &Request<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method == request.method)
            && self.call.takes(request.path)
            && self.headers.iter().all(|(name, value)| request.headers.get_all(name).iter().any(|line| line == value))
    }
}

// === impl Call ===

impl Call {
    fn takes(&self, path: &str) -> bool {
        let call = || path.strip_prefix('/')?.split_once('/');
        let is_call =
            |(service, method): (&str, &str)| !service.is_empty() && !method.is_empty() && !method.contains('/');
        match self {
            Self::Any => true,
            Self::OfService => call().is_some_and(is_call),
            Self::Method(name) => call().is_some_and(|(service, method)| !service.is_empty() && method == &**name),
        }
    }
}

/// The host of an authority in lower case, without a dot at its end. `None`: there is none, or a longer one than any name.
fn host<'a>(authority: &'a str, buffer: &'a mut [u8; MAX_HOST]) -> Option<&'a [u8]> {
    let host = authority::host(authority.as_bytes())?;
    let host = host.strip_suffix(b".").unwrap_or(host);
    if !host.iter().any(u8::is_ascii_uppercase) {
        return Some(host);
    }
    let lower = buffer.get_mut(..host.len())?;
    lower.copy_from_slice(host);
    lower.make_ascii_lowercase();
    Some(lower)
}

/// The lengths of keys, the longest first.
fn lengths<V>(map: &HashMap<Box<[u8]>, V>) -> Vec<usize> {
    let mut lengths: Vec<_> = map.keys().map(|key| key.len()).collect();
    lengths.sort_unstable_by_key(|length| Reverse(*length));
    lengths.dedup();
    lengths
}

#[cfg(test)]
mod tests;
