//! Settings that are probably not meant, but are no reason not to start.

use crate::support::{config, effective, full, loaded, on, vars, warnings};

#[test]
fn an_unknown_name_is_a_warning_with_the_nearest_known_one() {
    let check = |name, near| {
        let expect = format!("{name}: is not known and ignored; the nearest known name is {near}");
        assert_eq!(warnings(&on([(name, "1")])), [expect]);
    };
    check("INBOUND_CONECT_TIMEOUT", "INBOUND_CONNECT_TIMEOUT");
    check("OUTBOUND_LISTEN_ADDRES", "OUTBOUND_LISTEN_ADDR");
    check("OUTBOUND_SERVER_HTTP2_MAX_FRAMESIZE", "OUTBOUND_SERVER_HTTP2_MAX_FRAME_SIZE");
    check("OUTBOUND_CONNECT_BACKOFF_MIN", "OUTBOUND_CONNECT_EXP_BACKOFF_MIN");
    check("HTTP2_INITIAL_STREAM_WINDOW", "HTTP2_INITIAL_STREAM_WINDOW_SIZE");
}

#[test]
fn an_unknown_name_that_is_near_to_none_is_a_warning_all_the_same() {
    assert_eq!(warnings(&vars([("ZZZ", "x")])), ["ZZZ: is not known and ignored"]);
    assert_eq!(warnings(&vars([("", "x")])), [": is not known and ignored"]);
}

#[test]
fn unknown_names_are_shortened_and_escaped() {
    let [line] = &warnings(&vars([(&format!("A\n{}", "B".repeat(1 << 20)), "x")]))[..] else { panic!() };
    assert!(line.starts_with("A\\nBBB") && line.len() < 200, "{line}");
}

#[test]
fn other_prefixes_are_not_ours() {
    let foreign = std::collections::BTreeMap::from([("LINKERD2_PROX", "x"), ("CORES", "x"), ("PATH", "x")]);
    assert_eq!(app_env::load(&foreign).unwrap().warnings, []);
}

#[test]
fn a_directions_variable_without_the_prefix_is_a_warning_with_its_name() {
    let load = |names: &[&str]| {
        let vars: std::collections::BTreeMap<_, _> = names.iter().map(|name| (*name, "1s")).collect();
        let warnings = app_env::load(&vars).unwrap().warnings;
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for name in ["OUTBOUND_CONNECT_TIMEOUT", "INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL"] {
        let expect = format!("{name}: is ignored without its prefix; the known name is LINKERD2_PROXY_{name}");
        assert_eq!(load(&[name]), [expect]);
    }
    // Of other programs, perhaps.
    assert_eq!(
        load(&["LOG", "CORES", "ACCESS_LOG", "SHUTDOWN_GRACE_PERIOD", "OUTBOUND_CONNECT_TIME", "OUTBOUND_"]),
        [""; 0]
    );
    let both = load(&["OUTBOUND_CONNECT_TIMEOUT", "LINKERD2_PROXY_OUTBOUND_CONNECT_TIMEOUT"]);
    assert!(both.iter().all(|warning| warning.starts_with("LINKERD2_PROXY_")), "{both:?}");
}

#[test]
fn variables_of_a_direction_that_is_off_are_a_warning_each() {
    let vars = vars([
        ("INBOUND_ENDPOINTS", "a:1"),
        ("INBOUND_MAX_IN_FLIGHT", "1"),
        ("OUTBOUND_MAX_IN_FLIGHT", "1"),
        ("OUTBOUND_LISTEN_ADDR", "127.0.0.1:1"),
        ("OUTBOUND_CONNECT_HTTP2_MAX_FRAME_SIZE", "20000"),
    ]);
    assert_eq!(
        warnings(&vars),
        ["LISTEN_ADDR", "CONNECT_HTTP2_MAX_FRAME_SIZE", "MAX_IN_FLIGHT"].map(|suffix| format!(
            "OUTBOUND_{suffix}: has no effect, none of OUTBOUND_ENDPOINTS, OUTBOUND_ROUTES and OUTBOUND_DISCOVERY is set"
        ))
    );
}

#[test]
fn intervals_and_thresholds_need_a_health_check_or_a_file_of_routes() {
    let names = ["INTERVAL", "TIMEOUT", "UNHEALTHY_THRESHOLD", "HEALTHY_THRESHOLD"]
        .map(|suffix| format!("INBOUND_HEALTH_CHECK_{suffix}"));
    let set = [(&*names[0], "2s"), (&*names[1], "3s"), (&*names[2], "4"), (&*names[3], "5")];
    let expect = names.each_ref().map(|name| format!("{name}: has no effect without INBOUND_HEALTH_CHECK"));
    assert_eq!(warnings(&on(set)), expect);
    let with = |name: &str, value: &str| {
        let mut all = vars(set);
        all.insert(full(name), value.to_owned());
        all
    };
    assert_eq!(warnings(&with("INBOUND_ROUTES", "routes.yaml")), [""; 0]);
    let mut all = on(set);
    all.insert(full("INBOUND_HEALTH_CHECK"), "grpc:shop.Cart".to_owned());
    let app_env::HealthCheck { request, interval, timeout, unhealthy_threshold, healthy_threshold } =
        config(&all).inbound.unwrap().connect.health_check;
    assert_eq!(request, Some(app_env::HealthCheckRequest::Grpc("shop.Cart".to_owned())));
    assert_eq!((interval.as_secs(), timeout.as_secs(), unhealthy_threshold, healthy_threshold), (2, 3, 4, 5));
}

#[test]
fn repeated_endpoints_are_a_warning_and_count_once() {
    let vars = on([("INBOUND_ENDPOINTS", "a:1,b:1,A:1,a:2,a:1")]);
    assert_eq!(warnings(&vars), ["INBOUND_ENDPOINTS: has more than once, and uses once: a:1"]);
    let endpoints: Vec<_> = loaded(&vars).config.inbound.unwrap().endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(endpoints, ["a:1", "b:1", "a:2"]);
    assert_eq!(effective(&vars, "INBOUND_ENDPOINTS").value.as_deref(), Some("a:1,b:1,a:2"));
}

#[test]
fn a_fixed_window_above_a_sixth_of_what_may_be_buffered_is_a_warning() {
    let why = "a few connections whose readers stop use it up, and then streams beside them stall";
    let check = |more: &[(&str, &str)], expect: &[String]| {
        let mut vars = on([]);
        vars.extend(more.iter().map(|(name, value)| (full(name), (*value).to_owned())));
        assert_eq!(warnings(&vars), expect, "{more:?}");
    };
    let (server, connect, shared) = (
        "INBOUND_SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE",
        "OUTBOUND_CONNECT_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE",
        "HTTP2_INITIAL_CONNECTION_WINDOW_SIZE",
    );
    let above = |name, direction| {
        format!("{name}: is 44739243, more than a sixth of {direction}_MAX_BUFFERED_BYTES (268435456): {why}")
    };
    check(&[(server, "44739242"), (connect, "44739242")], &[]);
    check(&[(server, "44739243")], &[above(server, "INBOUND")]);
    check(&[(connect, "44739243")], &[above(connect, "OUTBOUND")]);
    check(&[(shared, "44739243")], &[above(shared, "INBOUND"), above(shared, "OUTBOUND")]);
    let adaptive = [("INBOUND_MAX_BUFFERED_BYTES", "0"), ("INBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL", "true")];
    let less = format!(
        "INBOUND_MAX_BUFFERED_BYTES: is 0, less than six times {} (1048576): {why}",
        connect.replace("OUT", "IN")
    );
    check(&adaptive, &[less]);
}

#[test]
fn a_stream_window_above_its_connections_is_a_warning() {
    let check = |more: &[(&str, &str)], expect: &[String]| {
        let mut vars = on([]);
        vars.extend(more.iter().map(|(name, value)| (full(name), (*value).to_owned())));
        assert_eq!(warnings(&vars), expect, "{more:?}");
    };
    let stream = |side| format!("{side}_HTTP2_INITIAL_STREAM_WINDOW_SIZE");
    let bound = |name: &str, side, size| {
        format!(
            "{name}: is {size}, and a stream gets no more than {side}_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE (1048576)"
        )
    };
    let server = stream("INBOUND_SERVER");
    check(&[(&server, "1048576")], &[]);
    check(&[(&server, "1048577")], &[bound(&server, "INBOUND_SERVER", 1_048_577)]);
    let connection = "INBOUND_SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE";
    check(&[(&server, "1048577"), (connection, "1048577")], &[]);
    check(
        &[(&server, "1048577"), ("INBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL", "true")],
        &[format!("{server}: has no effect, INBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL is true")],
    );
    let shared = "HTTP2_INITIAL_STREAM_WINDOW_SIZE";
    check(
        &[(shared, "2000000")],
        &[bound(shared, "INBOUND_CONNECT", 2_000_000), bound(shared, "OUTBOUND_CONNECT", 2_000_000)],
    );
}

#[test]
fn known_variables_come_before_unknown_ones() {
    let vars = on([("AAA", "x"), ("INBOUND_ENDPOINTS", "a:1,a:1")]);
    let names: Vec<_> = warnings(&vars).iter().map(|line| line.split(':').next().unwrap().to_owned()).collect();
    assert_eq!(names, ["INBOUND_ENDPOINTS", "AAA"]);
}

#[test]
fn both_directions_off_is_no_problem_here() {
    let config = config(&vars([]));
    assert!(config.inbound.is_none() && config.outbound.is_none());
}

#[test]
fn settings_of_traces_without_a_collector_are_a_warning_each() {
    let all = [("TRACE_SERVICE_NAME", "a"), ("TRACE_EXTRA_ATTRIBUTES", "a=b")];
    let expect = all.map(|(name, _)| format!("{name}: is not used without TRACE_COLLECTOR_SVC_ADDR"));
    assert_eq!(warnings(&on(all)), expect);
    assert_eq!(warnings(&on([all[0], all[1], ("TRACE_COLLECTOR_SVC_ADDR", "a:1")])), [""; 0]);
}

#[test]
fn settings_of_an_access_log_that_is_off_are_a_warning_each() {
    let all = [("ACCESS_LOG_FILE", "/a"), ("ACCESS_LOG_SAMPLE", "0.5"), ("ACCESS_LOG_ERRORS_ONLY", "true")];
    let expect = all.map(|(name, _)| format!("{name}: is not used without ACCESS_LOG"));
    assert_eq!(warnings(&on(all)), expect);
    assert_eq!(warnings(&on([all[0], all[1], ("ACCESS_LOG", "json")])), [""; 0]);
}
