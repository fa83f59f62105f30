//! Words the tests are written in.

use app_env::{Config, Effective, Loaded, load};
use std::collections::BTreeMap;

pub(crate) type Vars = BTreeMap<String, String>;

/// Variables by their names without the prefix.
pub(crate) fn vars<const N: usize>(vars: [(&str, &str); N]) -> Vars {
    vars.into_iter().map(|(name, value)| (full(name), value.to_owned())).collect()
}

/// The same, with both directions on.
pub(crate) fn on<const N: usize>(more: [(&str, &str); N]) -> Vars {
    let mut all = vars([("INBOUND_ENDPOINTS", "127.0.0.1:80"), ("OUTBOUND_ENDPOINTS", "127.0.0.1:80")]);
    all.extend(vars(more));
    all
}

/// Sets the variables without which a variable, by its full name, does nothing: an interval, an age, a rate, a health check, or
/// TLS.
pub(crate) fn add_needed(vars: &mut Vars, name: &str) {
    let mut set = |name: String, value: &str| _ = vars.insert(name, value.to_owned());
    if let Some((base, rest)) = name.split_once("_KEEP_ALIVE_").filter(|(_, rest)| *rest != "INTERVAL") {
        assert!(["TIMEOUT", "WHILE_IDLE"].contains(&rest));
        set(format!("{base}_KEEP_ALIVE_INTERVAL"), "1s");
    } else if let Some(base) = name.strip_suffix("_BURST") {
        set(format!("{base}_PER_CLIENT"), "1");
    } else if let Some(base) = name.strip_suffix("_LISTEN_MODE") {
        set(format!("{base}_LISTEN_ADDR"), "unix:/needed");
    } else if let Some(age) = name.strip_suffix("_GRACE") {
        assert!(age.ends_with("_MAX_CONNECTION_AGE"));
        set(age.to_owned(), "1s");
    } else if let Some((base, rest)) = name.split_once("_SERVER_TLS_") {
        set(format!("{base}_SERVER_TLS_CERT"), "needed");
        set(format!("{base}_SERVER_TLS_KEY"), "needed");
        if ["CLIENT_AUTH", "ALLOWED_CLIENTS", "FORWARD_CLIENT_CERT"].contains(&rest) {
            set(format!("{base}_SERVER_TLS_CLIENT_CA"), "needed");
        }
    } else if let Some((base, rest)) = name.split_once("_CONNECT_TLS_") {
        set(format!("{base}_CONNECT_TLS"), "on");
        if ["CERT", "KEY"].contains(&rest) {
            set(format!("{base}_CONNECT_TLS_CERT"), "needed");
            set(format!("{base}_CONNECT_TLS_KEY"), "needed");
        }
    } else if let Some((base, _)) = name.split_once("_HEALTH_CHECK_") {
        set(format!("{base}_HEALTH_CHECK"), "grpc");
    } else if let Some((base, _)) = name.split_once("ACCESS_LOG_") {
        set(format!("{base}ACCESS_LOG"), "json");
    } else if name.ends_with("TRACE_SERVICE_NAME") || name.contains("_ATTRIBUTES") {
        set(full("TRACE_COLLECTOR_SVC_ADDR"), "needed:1");
    }
}

pub(crate) fn full(name: &str) -> String {
    format!("LINKERD2_PROXY_{name}")
}

#[track_caller]
pub(crate) fn loaded(vars: &Vars) -> Loaded {
    load(vars).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The configuration, loaded without a single warning.
#[track_caller]
pub(crate) fn config(vars: &Vars) -> Config {
    let loaded = loaded(vars);
    assert_eq!(loaded.warnings, []);
    loaded.config
}

/// The lines of the report, without the prefix of names.
#[track_caller]
pub(crate) fn errors(vars: &Vars) -> Vec<String> {
    let errors = load(vars).expect_err("it loads");
    errors.to_string().lines().map(|line| line.replace("LINKERD2_PROXY_", "")).collect()
}

/// The warnings, without the prefix of names.
#[track_caller]
pub(crate) fn warnings(vars: &Vars) -> Vec<String> {
    loaded(vars).warnings.iter().map(|warning| warning.to_string().replace("LINKERD2_PROXY_", "")).collect()
}

/// The effective value of a variable.
#[track_caller]
pub(crate) fn effective(vars: &Vars, name: &str) -> Effective {
    let name = full(name);
    loaded(vars).settings.into_iter().find(|setting| setting.name == name).expect("it is known")
}
