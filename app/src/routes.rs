//! The file of routes: reads it, says where requests go by it, and makes the rules that requests are matched with.

mod show;

use crate::tls;
use app_env::{
    Config, Connect, Direction, PREFIX,
    routes::{self, HeaderMatch, Hostname, MAX_SIZE, Routes},
};
use http::{HeaderName, HeaderValue, Method};
use proxy_http::route::{Match, PathMatch, Rule};
use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::FileTypeExt as _,
    path::Path,
    sync::Arc,
};

pub(crate) use show::{Query, describe, header};

/// A file that was read, and its probable mistakes, a line each.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) routes: Routes,
    pub(crate) warnings: Vec<String>,
}

/// A rule's place in [`Routes`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Place {
    pub(crate) route: usize,
    pub(crate) rule: usize,
}

/// Mistakes in the files of a configuration, and probable ones, a line each.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) warnings: Vec<String>,
    pub(crate) errors: Vec<String>,
}

/// Reads a file of routes, whose backends have the settings of `connect` where they set none.
///
/// # Errors
///
/// All mistakes, each as `file:line:column: message`.
pub(crate) fn load(path: &Path, connect: &Connect) -> Result<Loaded, Vec<String>> {
    let file = path.display();
    let bytes = read(path).map_err(|error| vec![format!("{file}: cannot be read: {error}")])?;
    let text = str::from_utf8(&bytes).map_err(|error| {
        let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let (line, column) =
            (before.matches('\n').count() + 1, before.chars().rev().take_while(|char| *char != '\n').count() + 1);
        vec![format!("{file}:{line}:{column}: is not UTF-8")]
    })?;
    let lines = |problems: Vec<routes::Problem>| problems.iter().map(|problem| format!("{file}:{problem}")).collect();
    let (routes, warnings) = Routes::parse(text, connect).map_err(lines)?;
    rules(&routes).map_err(|error| vec![format!("{file}:{error}")])?;
    Ok(Loaded { routes, warnings: lines(warnings) })
}

/// Reads and checks the files of a configuration, without using them.
pub(crate) fn check(config: &Config) -> Checked {
    let mut checked = Checked::default();
    for (name, direction, path) in directions(config) {
        match load(path, &direction.connect) {
            Ok(Loaded { routes, warnings }) => {
                checked.warnings.extend(warnings);
                checked.errors.extend(loops(direction, &routes, config));
                let own = routes.backends.iter().filter(|(_, backend)| backend.connect.tls != direction.connect.tls);
                checked.errors.extend(own.filter_map(|(of, backend)| client(name, path, of, backend).err()));
            }
            Err(errors) => checked.errors.extend(errors),
        }
    }
    checked
}

/// The rules that requests are matched with, in the order of the file, and the place of each.
///
/// # Errors
///
/// The line of a rule that no request can match.
pub(crate) fn rules(routes: &Routes) -> Result<Vec<(Rule, Place)>, String> {
    let mut rules = Vec::new();
    for (route, of) in routes.routes.iter().enumerate() {
        for (rule, of_rule) in of.rules.iter().enumerate() {
            let made =
                make(&of.hostnames, of_rule).ok_or_else(|| format!("{}: no request can match this", of_rule.line))?;
            rules.push((made, Place { route, rule }));
        }
    }
    Ok(rules)
}

/// A rule's name on metrics: that of its route and its own, or the index where there is none.
pub(crate) fn name(routes: &Routes, Place { route, rule }: Place) -> String {
    let of = &routes.routes[route];
    let or_index = |name: &Option<String>, index: usize| name.clone().unwrap_or_else(|| index.to_string());
    format!("{}/{}", or_index(&of.name, route), or_index(&of.rules[rule].name, rule))
}

/// The TLS toward a back end that has its own.
pub(crate) fn client(
    direction: &'static str,
    path: &Path,
    name: &str,
    backend: &routes::Backend,
) -> Result<Option<Arc<tls::Client>>, String> {
    let Some(tls) = &backend.connect.tls else { return Ok(None) };
    match tls::Client::load(direction, tls, &backend.endpoints) {
        Ok(client) => Ok(Some(Arc::new(client))),
        Err(error) => Err(format!("{}: TLS of the backend {name}, in place of {error}", path.display())),
    }
}

/// The directions that have a file of routes, by their names.
fn directions(config: &Config) -> impl Iterator<Item = (&'static str, &Direction, &Path)> {
    [("inbound", &config.inbound), ("outbound", &config.outbound)].into_iter().filter_map(|(name, direction)| {
        let direction = direction.as_ref()?;
        Some((name, direction, direction.routes.as_deref()?))
    })
}

/// At most one byte more than a file may have.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // To open one would wait for a writer.
    if fs::metadata(path)?.file_type().is_fifo() {
        return Err(io::Error::other("is a pipe"));
    }
    let limit = u64::try_from(MAX_SIZE).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Endpoints that are listeners of the process itself, to which it does not connect.
fn loops(direction: &Direction, routes: &Routes, config: &Config) -> Vec<String> {
    let file = direction.routes.as_deref().unwrap_or(Path::new("")).display();
    let own = [
        (config.inbound.as_ref().map(|direction| &direction.listen_addr), "INBOUND_LISTEN_ADDR"),
        (config.outbound.as_ref().map(|direction| &direction.listen_addr), "OUTBOUND_LISTEN_ADDR"),
        (Some(&config.admin_listen_addr), "ADMIN_LISTEN_ADDR"),
    ];
    let own = own.map(|(addr, variable)| addr.map(|addr| (addr, variable)));
    let mut errors = Vec::new();
    for (backend, routes::Backend { endpoints, .. }) in &routes.backends {
        for (addr, variable) in own.iter().flatten() {
            if let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.is_at(addr)) {
                let listener = format!("the proxy's own listener ({PREFIX}{variable})");
                errors.push(format!(
                    "{file}: the backend {backend} has {endpoint}, {listener}, must have addresses of others"
                ));
            }
        }
    }
    errors
}

/// A rule as requests are matched with it. `None`: no request can match it.
fn make(hostnames: &[Hostname], rule: &routes::Rule) -> Option<Rule> {
    let hostnames = hostnames.iter().map(|name| name.as_str().parse().ok()).collect::<Option<_>>()?;
    let matches = rule.matches.iter().map(|of| {
        let headers = of.headers.iter().map(|HeaderMatch { name, value }| {
            Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        });
        let path = match of.path.clone() {
            routes::PathMatch::Exact(path) => PathMatch::Exact(path),
            routes::PathMatch::PathPrefix(path) => PathMatch::Prefix(path),
            routes::PathMatch::GrpcMethod { service, method } => PathMatch::GrpcMethod { service, method },
        };
        let method = match &of.method {
            Some(method) => Some(method.parse::<Method>().ok()?),
            None => None,
        };
        Some(Match { path, method, headers: headers.collect::<Option<_>>()? })
    });
    Some(Rule { hostnames, matches: matches.collect::<Option<_>>()? })
}
