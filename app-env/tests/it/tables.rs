//! The list of variables, for people.

use crate::support::{add_needed, loaded, on, vars};
use app_env::{PREFIX, markdown, variables};
use http_h2::{
    ClientParams, DEFAULT_INITIAL_CONNECTION_WINDOW_SIZE, DEFAULT_INITIAL_STREAM_WINDOW_SIZE, FlowControl, Protection,
    ServerParams,
};
use std::collections::BTreeSet;

#[test]
fn names_are_full_and_unique() {
    let names: BTreeSet<_> = variables().map(|variable| variable.name).collect();
    assert_eq!(names.len(), variables().count());
    let others: Vec<_> = names.iter().filter(|name| !name.starts_with(PREFIX)).collect();
    assert_eq!(others, ["OTEL_RESOURCE_ATTRIBUTES"]);
}

#[test]
fn words_fit_a_table() {
    for variable in variables() {
        for text in [variable.accepts.as_str(), variable.default.as_str(), variable.help] {
            assert!(!text.is_empty() && !text.contains(['|', '\n', '`']), "{variable:?}");
        }
    }
}

#[test]
fn defaults_are_what_unset_variables_come_to() {
    let mut unset = on([]);
    // Without them the timeouts, graces and clients' certificates are unset, too.
    for name in variables().map(|variable| variable.name).filter(|name| name.ends_with("_SERVER_TLS_CLIENT_AUTH")) {
        add_needed(&mut unset, &name);
    }
    for side in ["INBOUND_SERVER", "OUTBOUND_SERVER", "INBOUND_CONNECT", "OUTBOUND_CONNECT"] {
        unset.extend(vars([(&format!("{side}_HTTP2_KEEP_ALIVE_INTERVAL"), "1s")]));
    }
    unset.extend(vars([
        ("INBOUND_SERVER_HTTP2_MAX_CONNECTION_AGE", "1s"),
        ("OUTBOUND_SERVER_HTTP2_MAX_CONNECTION_AGE", "1s"),
    ]));
    for (setting, variable) in loaded(&unset).settings.into_iter().zip(variables()) {
        if unset.contains_key(&variable.name) || variable.name.ends_with("_CORES") {
            continue;
        }
        let default = match variable.default.strip_prefix("that of ") {
            Some(shared) => variables().find(|other| other.name == format!("{PREFIX}{shared}")).unwrap().default,
            None => variable.default,
        };
        assert_eq!(setting.value.unwrap_or_else(|| "unset".to_owned()), default, "{}", setting.name);
    }
}

#[test]
fn defaults_are_those_of_the_params() {
    let size = |size: usize| u64::try_from(size).unwrap();
    for (suffix, value) in [
        ("SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE", DEFAULT_INITIAL_STREAM_WINDOW_SIZE.into()),
        ("SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", DEFAULT_INITIAL_CONNECTION_WINDOW_SIZE.into()),
        ("SERVER_HTTP2_MAX_CONCURRENT_STREAMS", ServerParams::DEFAULT_MAX_CONCURRENT_STREAMS.into()),
        ("SERVER_HTTP2_MAX_FRAME_SIZE", ServerParams::DEFAULT_MAX_FRAME_SIZE.into()),
        ("SERVER_HTTP2_MAX_HEADER_LIST_SIZE", ServerParams::DEFAULT_MAX_HEADER_LIST_SIZE.into()),
        ("SERVER_HTTP2_MAX_PENDING_ACCEPT_RESET_STREAMS", size(ServerParams::DEFAULT_MAX_PENDING_ACCEPT_RESET_STREAMS)),
        ("SERVER_HTTP2_MAX_CONCURRENT_RESET_STREAMS", size(ServerParams::DEFAULT_MAX_CONCURRENT_RESET_STREAMS)),
        ("SERVER_HTTP2_MAX_LOCAL_ERROR_RESET_STREAMS", size(ServerParams::DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS)),
        ("SERVER_HTTP2_MAX_SEND_BUF_SIZE", size(ServerParams::DEFAULT_MAX_SEND_BUF_SIZE)),
        ("CONNECT_HTTP2_MAX_CONCURRENT_RESET_STREAMS", size(ClientParams::DEFAULT_MAX_CONCURRENT_RESET_STREAMS)),
        ("CONNECT_HTTP2_MAX_LOCAL_ERROR_RESET_STREAMS", size(ClientParams::DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS)),
        ("CONNECT_HTTP2_MAX_FRAME_SIZE", ClientParams::DEFAULT_MAX_FRAME_SIZE.into()),
        ("CONNECT_HTTP2_MAX_HEADER_LIST_SIZE", ClientParams::DEFAULT_MAX_HEADER_LIST_SIZE.into()),
        ("CONNECT_HTTP2_MAX_SEND_BUF_SIZE", size(ClientParams::DEFAULT_MAX_SEND_BUF_SIZE)),
    ] {
        let found: Vec<_> = variables().filter(|variable| variable.name.ends_with(suffix)).collect();
        assert_eq!(found.len(), 2, "{suffix}");
        for variable in found {
            let said = match variable.default.as_str() {
                "unset" => variable.help.rsplit_once("unset: ").unwrap().1,
                default => default,
            };
            assert_eq!(said, u64::to_string(&value), "{suffix}");
        }
    }
    let inbound = loaded(&on([])).config.inbound.unwrap();
    assert_eq!(inbound.server.write_stall_timeout, Some(ServerParams::DEFAULT_WRITE_STALL_TIMEOUT));
    assert_eq!(inbound.server.protection, Protection::DEFAULT);
    assert_eq!(inbound.connect.http2.write_stall_timeout, Some(ClientParams::DEFAULT_WRITE_STALL_TIMEOUT));
    assert_eq!(inbound.connect.http2.flow_control, Some(FlowControl::DEFAULT));
}

#[test]
fn help_says_what_unset_means() {
    for variable in variables() {
        assert_eq!(variable.default == "unset", variable.help.contains("unset"), "{variable:?}");
    }
}

#[test]
fn markdown_has_a_row_for_each_variable_or_pair() {
    let table = markdown();
    let rows: Vec<&str> = table.lines().skip(2).collect();
    let pairs = variables().filter(|variable| variable.name.contains("_INBOUND_")).count();
    assert_eq!(rows.len(), variables().count() - pairs);
    for variable in variables() {
        let name = variable.name.replace(PREFIX, "").replace("INBOUND_", "D_").replace("OUTBOUND_", "D_");
        let row = rows.iter().find(|row| row.starts_with(&format!("| `{name}`")));
        let row = row.unwrap_or_else(|| panic!("{name} has no row"));
        assert!(row.contains(&variable.default) && row.contains(&variable.accepts), "{row}");
        assert_eq!(row.contains("(ours)"), variable.ours, "{row}");
    }
    assert!(table.lines().all(|row| row.matches('|').count() == 5), "{table}");
}

#[test]
fn markdown_shows_both_defaults_where_they_differ() {
    let table = markdown();
    assert!(
        table.contains(
            "| `D_CONNECT_TIMEOUT` | a duration (as 250ms, 10s, 5m, 2h or 1d) in 1ms..=36500d | 300ms / 1s |"
        )
    );
    assert!(table.contains("| 0.0.0.0:4143 / 127.0.0.1:4140 |"));
    assert!(table.contains("| `CORES` | a whole number in 1..=1024 | available cores | worker threads |"));
}
