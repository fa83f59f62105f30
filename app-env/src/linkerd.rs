//! Names of linkerd2-proxy that the table does not have: newer names for the same settings, and settings that mean nothing
//! here.

use crate::{PREFIX, Warning};
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
};

/// Names of linkerd2-proxy, and ours for the same settings.
const ALIASES: &[(&str, &str)] = &[
    ("INBOUND_TCP_LISTEN_BACKLOG", "INBOUND_ACCEPT_BACKLOG"),
    ("OUTBOUND_TCP_LISTEN_BACKLOG", "OUTBOUND_ACCEPT_BACKLOG"),
    ("INBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT", "INBOUND_CONNECT_HTTP1_MAX_CONNECTION_IDLE"),
    ("OUTBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT", "OUTBOUND_CONNECT_HTTP1_MAX_CONNECTION_IDLE"),
    ("INBOUND_MAX_IDLE_CONNS_PER_ENDPOINT", "INBOUND_CONNECT_HTTP1_MAX_IDLE"),
    // That of inbound, for years.
    ("MAX_IDLE_CONNS_PER_ENDPOINT", "INBOUND_CONNECT_HTTP1_MAX_IDLE"),
    ("OUTBOUND_MAX_IDLE_CONNS_PER_ENDPOINT", "OUTBOUND_CONNECT_HTTP1_MAX_IDLE"),
    (LISTEN_ADDRS, "OUTBOUND_LISTEN_ADDR"),
];
/// One address of each family, of which the first counts here.
const LISTEN_ADDRS: &str = "OUTBOUND_LISTEN_ADDRS";

/// First parts of names of settings that concern the mesh.
const MESH: &[&str] = &[
    "CONTROL_",
    "DESTINATION_",
    "IDENTITY_",
    "INBOUND_DEFAULT_POLICY",
    "INBOUND_GATEWAY_SUFFIXES",
    "INBOUND_IPS",
    "INBOUND_PORTS",
    "INGRESS_MODE",
    "METRICS_RETAIN_IDLE",
    "OUTBOUND_DISABLE_INFORMATIONAL_HEADERS",
    "OUTBOUND_TCP_FAILFAST_TIMEOUT",
    "OUTBOUND_TCP_QUEUE_CAPACITY",
    "POLICY_",
    "RESOLV_CONF",
    "TAP_",
    "TRACE_",
];

/// Whether linkerd2-proxy has a variable of this name that means nothing here.
pub(crate) fn has(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|name| MESH.iter().any(|first| name.starts_with(first)))
}

/// Puts the values of aliases under our names. Returns the alias that each of these has its value from.
pub(crate) fn resolve_aliases(
    vars: &mut BTreeMap<OsString, OsString>,
    warnings: &mut Vec<Warning>,
) -> BTreeMap<String, String> {
    let mut aliases = BTreeMap::new();
    for (alias, name) in ALIASES {
        let (alias_name, name) = (format!("{PREFIX}{alias}"), format!("{PREFIX}{name}"));
        let Some(value) = vars.remove(OsStr::new(&alias_name)) else { continue };
        if vars.contains_key(OsStr::new(&name)) {
            warnings.push(Warning::new(alias_name, format!("has no effect, {name} is set")));
            continue;
        }
        let value = match value.to_str().and_then(|value| value.split_once(',')) {
            Some((first, _)) if *alias == LISTEN_ADDRS => {
                warnings.push(Warning::new(&alias_name, "has several addresses, of which the first is listened on"));
                first.into()
            }
            _ => value,
        };
        vars.insert(OsString::from(&name), value);
        aliases.insert(name, alias_name);
    }
    aliases
}
