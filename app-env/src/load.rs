//! The whole run: reads all variables, checks them against each other, returns the configuration or all errors.

use crate::{
    Config, Effective, Error, Errors, Source, StreamAddr, Warning, direction,
    grammar::Address,
    http2, process,
    reader::Reader,
    table::{ADMIN_LISTEN_ADDR, ENDPOINTS, LISTEN_ADDR},
    variable::{Scope, Var},
};

/// The exit code of a process when [`load`] fails: 64, `EX_USAGE` of BSD's `sysexits.h`, as linkerd2-proxy does.
pub const EXIT_CODE: u8 = 64;

/// A configuration, with its warnings and effective settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The configuration of the proxy. Both directions may be off: whether that is an error is up to the caller.
    pub config: Config,
    /// Settings that are probably not meant, known variables first.
    pub warnings: Vec<Warning>,
    /// The effective value of every variable and its origin, in the order of [`variables`](crate::variables).
    pub settings: Vec<Effective>,
}

/// Reads and checks all variables of a source.
///
/// Besides the source, only the number of available cores is read, for the default of `CORES`.
///
/// # Errors
///
/// Everything that is wrong, never the first problem alone.
pub fn load(source: &(impl Source + ?Sized)) -> Result<Loaded, Errors> {
    let mut env = Reader::new(source);
    let shared = http2::read_shared(&mut env);
    let inbound = direction::read(&mut env, Scope::Inbound, &shared);
    let outbound = direction::read(&mut env, Scope::Outbound, &shared);
    let config = process::read(&mut env, inbound, outbound);
    http2::warn_of_unused_shared(&mut env, &config);
    check_listen_addrs(&mut env, &config);
    check_loops(&mut env, &config);
    env.finish().map(|(settings, warnings)| Loaded { config, warnings, settings })
}

/// The variables of all listeners, with their addresses.
fn listeners<'a>(env: &Reader, config: &'a Config) -> Vec<(&'static Var<Address>, Scope, &'a StreamAddr)> {
    let mut listeners: Vec<(_, _, &StreamAddr)> = Vec::new();
    listeners.extend(config.inbound.as_ref().map(|inbound| (&LISTEN_ADDR, Scope::Inbound, &inbound.listen_addr)));
    listeners.extend(config.outbound.as_ref().map(|outbound| (&LISTEN_ADDR, Scope::Outbound, &outbound.listen_addr)));
    listeners.push((&ADMIN_LISTEN_ADDR, Scope::Process, &config.admin_listen_addr));
    // A wrong one reads as its default, about which there is nothing to say.
    listeners.retain(|(var, scope, _)| !env.is_wrong(var, *scope));
    listeners
}

/// Finds listeners that take each other's address, which would fail to bind one after the other.
fn check_listen_addrs(env: &mut Reader, config: &Config) {
    let listeners = listeners(env, config);
    for (index, later) in listeners.iter().enumerate() {
        let Some(earlier) = listeners[..index].iter().find(|earlier| collide(earlier.2, later.2)) else { continue };
        // The variable that is set is the one to change; a default alone is not at fault.
        let (at_fault, other) = if env.is_set(later.0, later.1) { (later, earlier) } else { (earlier, later) };
        let expected = format!("an address that {} ({}) leaves free", other.0.name(other.1), other.2);
        env.error(Error::new(at_fault.0.name(at_fault.1), format!("is {}", at_fault.2), expected));
    }
}

/// Finds endpoints that are listeners of the process itself, to which it does not connect. Requests to that of the direction would
/// come back for ever. The admin server takes commands from loopback, where requests to it would come from.
fn check_loops(env: &mut Reader, config: &Config) {
    let directions = [(Scope::Inbound, &config.inbound), (Scope::Outbound, &config.outbound)];
    let on: Vec<_> = directions.into_iter().filter_map(|(scope, on)| Some((scope, on.as_ref()?))).collect();
    let listeners = listeners(env, config);
    for (scope, direction) in &on {
        for (var, of, addr) in &listeners {
            let Some(endpoint) = direction.endpoints.iter().find(|endpoint| endpoint.is_at(addr)) else { continue };
            let found = format!("has {endpoint}, the proxy's own listener ({})", var.name(*of));
            let is_other_direction = *of != *scope && *of != Scope::Process;
            let instead = if is_other_direction { "; run a process for each direction" } else { "" };
            let expected = format!("addresses of others, since a process does not connect to itself{instead}");
            env.error(Error::new(ENDPOINTS.name(*scope), found, expected));
        }
    }
}

fn collide(a: &StreamAddr, b: &StreamAddr) -> bool {
    let (Some(a), Some(b)) = (a.tcp(), b.tcp()) else { return a == b };
    let wildcard = a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified());
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || wildcard)
}
