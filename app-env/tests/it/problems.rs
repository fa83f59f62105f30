//! Reports: everything that is wrong, each with the variable, its value and the values that it accepts.

use crate::support::{Vars, add_needed, config, errors, full, on, vars, warnings};
use app_env::{EXIT_CODE, PREFIX, Variable, load, variables};
use std::{collections::BTreeMap, ffi::OsString, fmt::Debug};

/// A value that is wrong for a variable: one in no grammar, or for variables that take any other value, none at all.
fn wrong(name: &str) -> &'static str {
    let variable = variables().find(|variable| variable.name == name).unwrap();
    let takes_all = variable.accepts == "text" || variable.accepts.starts_with("the path of ");
    if takes_all { "" } else { "?" }
}

/// The variables that can be wrong: one that other programs have as well is left out with a warning.
fn own() -> impl Iterator<Item = Variable> {
    variables().filter(|variable| variable.name.starts_with(PREFIX))
}

#[test]
fn every_variable_that_is_wrong_has_its_line_in_one_report() {
    let all: Vars = own().map(|variable| (variable.name.clone(), wrong(&variable.name).to_owned())).collect();
    let report = load(&all).unwrap_err();
    assert_eq!(report.iter().count(), own().count());
    assert_eq!(report.to_string().lines().count(), own().count());
    for (error, variable) in report.iter().zip(own()) {
        assert_eq!(error.variable(), variable.name);
        assert!(error.to_string().starts_with(&format!("{}: is ", variable.name)), "{error}");
        assert!(error.expected().starts_with(&variable.accepts), "{error}");
    }
}

#[test]
fn every_variable_that_is_wrong_alone_is_the_only_line() {
    for name in own().map(|variable| variable.name) {
        let mut vars = on([]);
        add_needed(&mut vars, &name);
        vars.insert(name.clone(), wrong(&name).to_owned());
        let lines = errors(&vars);
        assert_eq!(lines.len(), 1, "{name}: {lines:?}");
        assert!(full(&lines[0]).starts_with(&name), "{name}: {lines:?}");
    }
}

#[test]
fn a_socket_says_what_is_wrong_with_its_path_or_mode() {
    let path = format!("unix:/{}", "a".repeat(107));
    let wrong = errors(&on([("INBOUND_LISTEN_ADDR", &*path)]));
    let line = "(has the path of a socket with more than 107 bytes, all that the system takes), must be ip:port or unix:/path (as \
                127.0.0.1:80, [::1]:80 or unix:/run/proxy.sock)";
    assert!(
        wrong.len() == 1 && wrong[0].starts_with("INBOUND_LISTEN_ADDR: is ") && wrong[0].ends_with(line),
        "{wrong:?}"
    );
    for mode in ["8", "1777", "u+rw", "-1", "+1"] {
        let line =
            format!("INBOUND_LISTEN_MODE: is \"{mode}\", must be permissions in octal digits up to 777 (as 660)");
        assert_eq!(errors(&on([("INBOUND_LISTEN_MODE", mode)])), [line]);
    }
}

#[test]
fn a_line_says_what_it_was_and_what_it_must_be() {
    let check = |name, value, line: &str| assert_eq!(errors(&on([(name, value)])), [format!("{name}: {line}")]);
    check("CORES", "many", "is \"many\", must be a whole number in 1..=1024");
    check(
        "INBOUND_CONNECT_TIMEOUT",
        "10",
        "is \"10\" (has no unit: did you mean 10s?), must be a duration (as 250ms, 10s, 5m, 2h or 1d) in 1ms..=36500d",
    );
    check("INBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL", "yes", "is \"yes\", must be true or false");
    check("INBOUND_CONNECT_EXP_BACKOFF_JITTER", "NaN", "is \"NaN\", must be a number in 0.0..=100.0");
    check(
        "ADMIN_LISTEN_ADDR",
        "host",
        "is \"host\", must be ip:port or unix:/path (as 127.0.0.1:80, [::1]:80 or unix:/run/proxy.sock)",
    );
    check("LOG_FORMAT", "xml", "is \"xml\", must be plain or json");
    check("ACCESS_LOG", "JSON", "is \"JSON\", must be apache or json");
    check("ACCESS_LOG_SAMPLE", "1.5", "is \"1.5\", must be a number in 0.0..=1.0");
    check("INBOUND_CONNECT_TLS", "true", "is \"true\", must be off or on");
    check(
        "INBOUND_ENDPOINTS",
        "a:1,,b",
        "is \"a:1,,b\" (item 2 is empty; item 3 has no port), must be a comma-separated list of host:port or unix:/path \
         (as 10.0.0.1:80,[::1]:80,api.example:80,unix:/run/api.sock)",
    );
}

#[test]
fn a_value_in_a_form_of_other_programs_is_named_in_the_own_one() {
    let check = |name, value: &str, expect: Option<&str>| {
        let lines = errors(&on([(name, value)]));
        let detail = expect.map(|detail| format!(" ({detail})")).unwrap_or_default();
        let start = format!("{name}: is \"{value}\"{detail}, must be ");
        assert!(lines.len() == 1 && lines[0].starts_with(&start), "{start}\n{lines:?}");
    };
    let units = |unit: &str| format!("has the unit {unit}: units are ms, s, m, h, d");
    let time = "INBOUND_CONNECT_TIMEOUT";
    check(time, "5", Some("has no unit: did you mean 5s?"));
    check(time, "5sec", Some(&units("sec")));
    check(time, "100us", Some(&units("us")));
    check(time, "5S", Some(&units("S")));
    for other in ["1.5s", "-1s", "s", "soon", "1m30s", "0s", "36501d", "5 s"] {
        check(time, other, None);
    }
    let size = "INBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE";
    let bytes = |bytes: u32| format!("in bytes, without a unit: {bytes}");
    check(size, "10MiB", Some(&bytes(10_485_760)));
    check(size, "64Ki", Some(&bytes(65_536)));
    check(size, "1GiB", Some(&bytes(1_073_741_824)));
    check(size, "10MB", Some(&bytes(10_000_000)));
    check(size, "100kb", Some(&bytes(100_000)));
    check(size, "65536B", Some(&bytes(65_536)));
    // A letter alone stands for powers of either, and the others are out of range or nothing.
    for other in ["10M", "4GiB", "99999999999GiB", "10XiB", "MiB", "10iB", "10kmb", "-1"] {
        check(size, other, None);
    }
    let addr = "OUTBOUND_LISTEN_ADDR";
    let all = "has no IP address: all are 0.0.0.0:4140 or [::]:4140";
    check(addr, ":4140", Some(all));
    check(addr, "*:4140", Some(all));
    check(addr, "localhost:4140", Some("has a name, no IP address: did you mean 127.0.0.1:4140?"));
    check(addr, "proxy.example:4140", Some("has a name, no IP address"));
    check(addr, "127.0.0.1", Some("has no port"));
    check(addr, "::1", Some("has no port"));
    for other in ["4140", "127.0.0.1:65536", "::1:x", "127.0.0.1:"] {
        check(addr, other, None);
    }
    let protocol = "OUTBOUND_CONNECT_PROTOCOL";
    check(protocol, "http/1.1", Some("did you mean http1?"));
    check(protocol, "HTTP1", Some("did you mean http1?"));
    check(protocol, "h2c", Some("did you mean http2?"));
    check(protocol, "http3", None);
}

#[test]
fn overflow_is_an_error_not_a_small_number() {
    for value in ["18446744073709552s", "213503982335d", "123456789012345678901234567890ms"] {
        assert_eq!(errors(&vars([("SHUTDOWN_GRACE_PERIOD", value)])).len(), 1, "{value}");
    }
}

#[test]
fn an_empty_value_is_an_error_that_says_so() {
    for name in variables().map(|variable| variable.name) {
        if [
            "ENDPOINTS",
            "CORES",
            "LOG_FORMAT",
            "ACCESS_LOG",
            "TRACE_EXTRA_ATTRIBUTES",
            "OTEL_RESOURCE_ATTRIBUTES",
            "CONTROL_STREAM_INITIAL_TIMEOUT",
            "CONTROL_STREAM_IDLE_TIMEOUT",
        ]
        .iter()
        .any(|end| name.ends_with(end))
        {
            continue;
        }
        for empty in ["", " \t"] {
            let mut vars = vars([]);
            add_needed(&mut vars, &name);
            vars.insert(name.clone(), empty.to_owned());
            let report = load(&vars).unwrap_err();
            let [error] = report.iter().as_slice() else { panic!("{report}") };
            assert_eq!((error.variable(), error.found()), (name.as_str(), "is empty"));
            assert!(error.expected().ends_with("; unset it for its default"), "{error}");
        }
    }
}

#[test]
fn an_empty_value_is_unset_where_that_has_a_meaning() {
    for empty in ["", "  "] {
        let empty =
            vars([("INBOUND_ENDPOINTS", empty), ("CORES", empty), ("LOG_FORMAT", empty), ("ACCESS_LOG", empty)]);
        assert_eq!(config(&empty), config(&vars([])));
    }
}

#[test]
fn long_values_are_shortened_and_control_characters_escaped() {
    let lines = errors(&vars([("CORES", &"9".repeat(1 << 20))]));
    assert!(lines[0].len() < 200 && lines[0].contains("... (1048576 bytes)"), "{}", lines[0]);
    let lines = errors(&vars([("CORES", "1\n\u{1b}[31mX: is fine")]));
    assert_eq!(lines, [r#"CORES: is "1\n\u{1b}[31mX: is fine", must be a whole number in 1..=1024"#]);
}

#[cfg(unix)]
fn not_unicode(text: &[u8]) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(text.to_vec())
}

#[cfg(unix)]
#[test]
fn values_that_are_not_unicode_are_errors_with_a_name() {
    let all: BTreeMap<_, _> = own().map(|variable| (variable.name, not_unicode(b"a\xffb"))).collect();
    let report = load(&all).unwrap_err();
    assert_eq!(report.iter().count(), all.len());
    for error in &report {
        assert_eq!(error.found(), "is not Unicode (\"a\u{fffd}b\")", "{error}");
    }
}

#[cfg(unix)]
#[test]
fn names_that_are_not_unicode_are_unknown() {
    let name = not_unicode(b"LINKERD2_PROXY_CORES\xff");
    let loaded = load(&BTreeMap::from([(name, "1")])).unwrap();
    let [warning] = loaded.warnings.as_slice() else { panic!("{:?}", loaded.warnings) };
    assert_eq!(
        warning.to_string(),
        "LINKERD2_PROXY_CORES\u{fffd}: is not known and ignored; the nearest known name is LINKERD2_PROXY_CORES"
    );
}

#[cfg(unix)]
#[test]
fn foreign_variables_may_be_anything() {
    let foreign = BTreeMap::from([(not_unicode(b"PATH\xff"), not_unicode(b"\xff"))]);
    assert_eq!(load(&foreign).unwrap().warnings, []);
}

#[test]
fn directions_that_are_off_are_checked_all_the_same() {
    let lines = errors(&vars([("OUTBOUND_MAX_IN_FLIGHT", "0"), ("OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "1s")]));
    assert_eq!(lines.len(), 2, "{lines:?}");
}

#[test]
fn windows_without_effect_are_checked_all_the_same() {
    let lines = errors(&on([
        ("INBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL", "true"),
        ("INBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE", "0"),
    ]));
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn a_report_keeps_the_warnings() {
    let report = load(&vars([("CORES", "0"), ("CORE", "1")])).unwrap_err();
    assert_eq!(report.warnings().len(), 1);
    assert_eq!(report.warnings()[0].variable(), full("CORE"));
    assert_eq!(warnings(&vars([("CORE", "1")])).len(), 1);
}

#[test]
fn reports_are_errors_of_the_standard_kind() {
    fn check<T: std::error::Error + Clone + Debug + Send + Sync + 'static>() {}
    check::<app_env::Errors>();
    check::<app_env::Error>();
    check::<app_env::InvalidHostPort>();
    assert_eq!(EXIT_CODE, 64);
}

#[test]
fn grpc_is_not_checked_over_http1() {
    let of = |check, protocol| on([("INBOUND_HEALTH_CHECK", check), ("INBOUND_CONNECT_PROTOCOL", protocol)]);
    assert_eq!(
        errors(&of("grpc", "http1")),
        [
            "INBOUND_HEALTH_CHECK: is grpc beside INBOUND_CONNECT_PROTOCOL=http1, must be http:/PATH, since gRPC needs HTTP/2"
        ]
    );
    for (check, protocol) in [("grpc", "same"), ("grpc", "http2"), ("http:/", "http1"), ("off", "http1")] {
        config(&of(check, protocol));
    }
}
