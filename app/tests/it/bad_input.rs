//! Mistakes of operators: one report, and exit code 64.

use crate::{docs, support::command};
use std::{
    io,
    net::{TcpListener, UdpSocket},
    process::{Output, Stdio},
};

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn every_wrong_variable_has_its_line_in_one_report() {
    let mut command = command();
    // Any text will do for a log filter's grammar and a file's path; what they say is checked by other tests.
    let takes_any = |accepts: &str| accepts == "text" || accepts.starts_with("the path of ");
    let variables: Vec<_> = app_env::variables().filter(|variable| !takes_any(&variable.accepts)).collect();
    assert!(variables.len() > 60, "both directions' variables are here");
    for variable in &variables {
        command.env(&variable.name, "?");
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let stderr = stderr(&output);
    for variable in &variables {
        let lines = stderr.lines().filter(|line| line.starts_with(&format!("error: {}: ", variable.name)));
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines.len(), 1, "{}: {lines:?}", variable.name);
        assert!(lines[0].contains("\"?\"") && lines[0].contains("must be"), "{}", lines[0]);
    }
}

#[test]
fn nothing_to_do_is_an_error_that_says_what_to_set() {
    let output = command().output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("LINKERD2_PROXY_OUTBOUND_ENDPOINTS"), "{}", stderr(&output));
}

#[test]
fn bad_log_filter_is_an_error() {
    let mut command = command();
    command.env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1").env("LINKERD2_PROXY_LOG", "a=b=c");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("error: LINKERD2_PROXY_LOG: "), "{}", stderr(&output));
}

#[test]
fn a_misspelt_log_level_is_an_error() {
    for arguments in [&["check"][..], &[]] {
        let mut command = command();
        command.args(arguments).env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1");
        let output = command.env("LINKERD2_PROXY_LOG", "inof").output().unwrap();
        assert_eq!(output.status.code(), Some(64));
        let stderr = stderr(&output);
        assert!(stderr.contains("error: LINKERD2_PROXY_LOG: \"inof\" is neither a level nor"), "{stderr}");
        assert!(!stderr.contains("directives"), "{stderr}");
    }
}

#[test]
fn address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let mut command = command();
    command
        .env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1")
        .env("LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR", &addr)
        .env("LINKERD2_PROXY_ADMIN_LISTEN_ADDR", "127.0.0.1:0");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&format!("cannot listen on {addr}")), "{}", stderr(&output));
}

#[test]
fn unknown_variable_is_a_warning_with_the_nearest_name() {
    let mut command = command();
    command
        .arg("check")
        .env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1")
        .env("LINKERD2_PROXY_OUTBOUND_ENDPOINT", "127.0.0.1:1");
    let output = command.output().unwrap();
    assert!(output.status.success());
    let stderr = stderr(&output);
    assert!(stderr.contains("warning: LINKERD2_PROXY_OUTBOUND_ENDPOINT: "), "{stderr}");
    assert!(stderr.contains("LINKERD2_PROXY_OUTBOUND_ENDPOINTS"), "{stderr}");
}

#[test]
fn check_fails_on_warnings_if_it_is_strict() {
    for more in [&[][..], &["--all"], &["--json"]] {
        let check = |strict: bool, max_connections: &str, unknown: bool| {
            let mut command = command();
            command.arg("check").args(more).args(strict.then_some("--strict"));
            command.env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1");
            command.env("LINKERD2_PROXY_OUTBOUND_MAX_CONNECTIONS", max_connections);
            if unknown {
                command.env("LINKERD2_PROXY_OUTBOUND_CONECT_TIMEOUT", "1s");
            }
            let output = command.output().unwrap();
            assert_eq!(stderr(&output).contains("error: --strict"), !output.status.success(), "{output:?}");
            assert_eq!(
                stderr(&output).lines().filter(|line| !line.contains("file descriptors")).count(),
                usize::from(unknown) + usize::from(!output.status.success())
            );
            (output.status.code(), output.stdout.is_empty())
        };
        assert_eq!(check(true, "1", false), (Some(0), false));
        // More than the limit of descriptors is enough for: a warning about this host, which counts for nothing.
        assert_eq!(check(true, "4294967295", false), (Some(0), false));
        assert_eq!(check(false, "1", true), (Some(0), false));
        assert_eq!(check(true, "1", true), (Some(64), true));
    }
}

/// The standard output of `app` with these arguments, one endpoint, and an idle timeout.
fn stdout(arguments: &[&str]) -> String {
    let mut command = command();
    command.args(arguments).env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1");
    command.env("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_MAX_CONNECTION_IDLE", "5m");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn check_prints_the_settings_that_are_no_defaults() {
    let stdout = stdout(&["check"]);
    let expected = format!(
        "LINKERD2_PROXY_OUTBOUND_ENDPOINTS=127.0.0.1:1 (environment)\n\
         LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_MAX_CONNECTION_IDLE=5m (environment)\n\
         {} other settings have their defaults",
        app_env::variables().count() - 2
    );
    assert!(stdout.starts_with(&expected), "{stdout}");
}

#[test]
fn check_prints_every_setting_with_where_it_came_from() {
    let stdout = stdout(&["check", "--all"]);
    assert!(stdout.contains("LINKERD2_PROXY_OUTBOUND_ENDPOINTS=127.0.0.1:1 (environment)"), "{stdout}");
    for variable in app_env::variables() {
        let line = stdout.lines().find(|line| line.split(['=', ':']).next() == Some(&variable.name));
        assert!(line.is_some_and(|line| line.ends_with(')') && !line.contains("unset")), "{}: {line:?}", variable.name);
    }
}

#[test]
fn check_prints_json_as_the_admin_server_does() {
    let settings: serde_json::Map<_, _> = serde_json::from_str(&stdout(&["check", "--json"])).unwrap();
    assert_eq!(settings.len(), app_env::variables().count());
    let idle = &settings["LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_MAX_CONNECTION_IDLE"];
    assert_eq!(*idle, serde_json::json!({ "value": "5m", "origin": "environment" }));
}

#[test]
fn env_lists_the_variables_that_have_a_word() {
    // In some it is in the meaning, in others in the name.
    let found = stdout(&["env", "Keep-Alive"]);
    assert!(found.contains("OUTBOUND_ACCEPT_KEEPALIVE\n") && !found.contains("OUTBOUND_ENDPOINTS\n"), "{found}");
    assert!(found.contains("SERVER_HTTP2_KEEP_ALIVE_INTERVAL\n"), "{found}");
    let mut command = command();
    let output = command.args(["env", "no-such-word"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no variable has \"no-such-word\""), "{}", stderr(&output));
}

#[test]
fn env_lists_every_variable() {
    let stdout = String::from_utf8(command().arg("env").output().unwrap().stdout).unwrap();
    for variable in app_env::variables() {
        assert!(stdout.contains(&variable.name) && stdout.contains(variable.help), "{}", variable.name);
    }
}

#[test]
fn the_manual_has_the_table_of_the_declarations() {
    let chapter = docs::chapter("variables.md");
    let (_, rest) = chapter.split_once("<!-- variables -->\n").unwrap();
    let (table, _) = rest.split_once("<!-- /variables -->").unwrap();
    // Not `assert_eq`: two tables of this size help nobody.
    assert!(table.trim() == app_env::markdown().trim(), "replace it with what `app env --markdown` prints");
}

#[test]
fn check_says_what_unset_means() {
    let stdout = stdout(&["check", "--all"]);
    for meaning in ["SERVER_HTTP2_MAX_CONCURRENT_STREAMS=200", "HTTP_REQUEST_TIMEOUT: no limit"] {
        let line = format!("LINKERD2_PROXY_OUTBOUND_{meaning} (default)");
        assert!(stdout.lines().any(|found| found == line), "{line} is not in {stdout}");
    }
}

#[test]
fn check_says_what_windows_are_at_first_where_they_are_adaptive() {
    for arguments in [&["check"][..], &["check", "--all"]] {
        let mut command = command();
        command.args(arguments).env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1");
        for side in ["SERVER", "CONNECT"] {
            command.env(format!("LINKERD2_PROXY_OUTBOUND_{side}_HTTP2_ADAPTIVE_FLOW_CONTROL"), "true");
        }
        let stdout = String::from_utf8(command.output().unwrap().stdout).unwrap();
        for (side, window, at_first) in [
            ("SERVER", "STREAM", "at most 16777216"),
            ("SERVER", "CONNECTION", "1048576 to 25165824"),
            ("CONNECT", "STREAM", "16777216"),
            ("CONNECT", "CONNECTION", "25165824"),
        ] {
            let side = format!("LINKERD2_PROXY_OUTBOUND_{side}_HTTP2_");
            let line = format!(
                "{side}INITIAL_{window}_WINDOW_SIZE: adaptive, {at_first} at first (overridden by {side}ADAPTIVE_FLOW_CONTROL)"
            );
            assert!(stdout.lines().any(|found| found == line), "{line} is not in {stdout}");
        }
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    for arguments in [&["env"][..], &["env", "--markdown"], &["check"]] {
        let mut command = command();
        command.args(arguments).env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1").stderr(Stdio::piped());
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).spawn().unwrap().wait_with_output().unwrap();
        assert!(output.status.success() && !stderr(&output).contains("panicked"), "{arguments:?} {output:?}");
    }
}

#[test]
fn an_address_in_use_is_named_with_its_variable() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for variable in ["OUTBOUND_LISTEN_ADDR", "ADMIN_LISTEN_ADDR"] {
        let mut command = command();
        command.env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1");
        command.env("LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR", "127.0.0.1:0");
        command.env("LINKERD2_PROXY_ADMIN_LISTEN_ADDR", "127.0.0.1:0");
        let output = command.env(format!("LINKERD2_PROXY_{variable}"), &addr).output().unwrap();
        let expected = format!("error: LINKERD2_PROXY_{variable}: cannot listen on {addr}");
        assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
    }
}

#[test]
fn own_addresses_are_no_endpoints_of_a_listener_on_all() {
    // A datagram socket finds an address of this host, and sends nothing (RFC 5737).
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    if socket.connect("192.0.2.1:9").is_err() {
        return;
    }
    let own = socket.local_addr().unwrap().ip();
    // Inbound listens on all addresses by default.
    for (listener, port) in [("OUTBOUND_LISTEN_ADDR", 4140), ("ADMIN_LISTEN_ADDR", 4191), ("INBOUND_LISTEN_ADDR", 4143)]
    {
        let mut command = command();
        command.arg("check").env("LINKERD2_PROXY_INBOUND_ENDPOINTS", "127.0.0.1:80");
        command.env(format!("LINKERD2_PROXY_{listener}"), format!("0.0.0.0:{port}"));
        let output = command.env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", format!("{own}:{port}")).output().unwrap();
        assert_eq!(output.status.code(), Some(64));
        assert!(stderr(&output).contains("the proxy's own listener"), "{}", stderr(&output));
    }
}
