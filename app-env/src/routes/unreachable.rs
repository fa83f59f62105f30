//! Matches that no request comes to, since another one takes all of it.
//!
//! By the Gateway API's precedence that is so only for one with the same hostname, path and headers: a more specific match takes
//! less, and a less specific one comes later.

use super::{HeaderMatch, Hostname, PathMatch, fields::Problems, rule::Placed};
use std::collections::HashMap;

/// The methods that the matches of one place take, each with the line and the number of the first that has it.
#[derive(Default)]
struct Taken<'a> {
    methods: HashMap<Option<&'a str>, (usize, usize)>,
    grpc: HashMap<Option<&'a str>, (usize, usize)>,
}

/// A hostname, whether the path is exact, the path, and the headers.
type Place<'a> = (Option<&'a Hostname>, bool, String, Vec<&'a HeaderMatch>);

const POST: Option<&str> = Some("POST");

/// Warns of each match of which others take all requests. `routes` are the hostnames and matches of each.
pub(super) fn warn(routes: &[(Vec<Hostname>, Vec<Placed>)], problems: &mut Problems) {
    let mut taken: HashMap<Place<'_>, Taken<'_>> = HashMap::new();
    let matches = || routes.iter().flat_map(|(hosts, matches)| matches.iter().map(move |placed| (hosts, placed)));
    for (number, (hosts, placed)) in matches().enumerate() {
        for place in places(hosts, placed) {
            taken.entry(place).or_default().insert(placed, number);
        }
    }
    for (number, (hosts, placed)) in matches().enumerate() {
        let by: Option<Vec<usize>> = places(hosts, placed).map(|place| taken.get(&place)?.by(placed, number)).collect();
        if let Some(line) = by.and_then(|lines| lines.first().copied()) {
            let message = format!("no request comes here, the match of line {line} takes all of them");
            problems.warn(placed.position, message);
        }
    }
}

/// Where a match stands: one for each hostname.
fn places<'a>(hosts: &'a [Hostname], placed: &'a Placed) -> impl Iterator<Item = Place<'a>> {
    let (is_exact, path) = match &placed.of.path {
        PathMatch::Exact(path) => (true, path.clone()),
        PathMatch::PathPrefix(path) => (false, path.clone()),
        PathMatch::GrpcMethod { service: Some(service), method: Some(method) } => {
            (true, format!("/{service}/{method}"))
        }
        PathMatch::GrpcMethod { service: Some(service), method: None } => (false, format!("/{service}")),
        PathMatch::GrpcMethod { service: None, .. } => (false, "/".to_owned()),
    };
    let mut headers: Vec<_> = placed.of.headers.iter().collect();
    headers.sort();
    let any = hosts.is_empty().then_some(None);
    hosts.iter().map(Some).chain(any).map(move |host| (host, is_exact, path.clone(), headers.clone()))
}

// === impl Taken ===

impl<'a> Taken<'a> {
    fn insert(&mut self, placed: &'a Placed, number: usize) {
        let first = (number, placed.position.line);
        match &placed.of.path {
            PathMatch::GrpcMethod { service: None, method } => _ = self.grpc.entry(method.as_deref()).or_insert(first),
            PathMatch::GrpcMethod { .. } => _ = self.grpc.entry(None).or_insert(first),
            _ => _ = self.methods.entry(placed.of.method.as_deref()).or_insert(first),
        }
    }

    /// The line of a match that takes all of the match with this number.
    fn by(&self, placed: &'a Placed, number: usize) -> Option<usize> {
        let earlier =
            |first: Option<&(usize, usize)>| first.filter(|(other, _)| *other < number).map(|(_, line)| *line);
        let any = self.methods.get(&None);
        match &placed.of.path {
            // A method more is more specific than none, and a gRPC method without a service counts as one.
            PathMatch::GrpcMethod { service: None, method } => {
                earlier(self.grpc.get(&method.as_deref())).or_else(|| earlier(self.methods.get(&POST)))
            }
            PathMatch::GrpcMethod { .. } => {
                let post = self.methods.get(&POST).map(|(_, line)| *line);
                post.or_else(|| earlier(self.grpc.get(&None))).or_else(|| earlier(any))
            }
            _ => earlier(self.methods.get(&placed.of.method.as_deref())),
        }
    }
}
