//! Values that only make sense together.

use crate::support::{config, effective, errors, full, on, vars, warnings};
use app_env::{Dns, Origin};
use http_h2::{ClientKeepAlive, KeepAlive, MaxConnectionAge};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn keep_alive_interval_alone_takes_the_default_timeout() {
    let config = config(&on([
        ("INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "1s"),
        ("INBOUND_CONNECT_HTTP2_KEEP_ALIVE_INTERVAL", "2s"),
    ]));
    let inbound = config.inbound.unwrap();
    assert_eq!(inbound.server.keep_alive, Some(KeepAlive { interval: SECOND, timeout: 20 * SECOND }));
    assert_eq!(
        inbound.connect.http2.keep_alive,
        Some(ClientKeepAlive { interval: 2 * SECOND, timeout: 20 * SECOND, while_idle: false })
    );
}

#[test]
fn keep_alive_timeout_alone_is_an_error_of_the_interval() {
    for side in ["INBOUND_SERVER", "INBOUND_CONNECT", "OUTBOUND_SERVER", "OUTBOUND_CONNECT"] {
        let timeout = format!("{side}_HTTP2_KEEP_ALIVE_TIMEOUT");
        let lines = errors(&on([(&timeout, "1s")]));
        assert_eq!(lines.len(), 1, "{lines:?}");
        let start = format!("{side}_HTTP2_KEEP_ALIVE_INTERVAL: is not set, must be a duration");
        assert!(lines[0].starts_with(&start), "{}", lines[0]);
        assert!(lines[0].ends_with(&format!("since {} is set", full(&timeout).replace("LINKERD2_PROXY_", ""))));
    }
}

#[test]
fn keep_alive_while_idle_alone_is_an_error_if_true() {
    let name = "INBOUND_CONNECT_HTTP2_KEEP_ALIVE_WHILE_IDLE";
    let lines = errors(&on([(name, "true")]));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("INBOUND_CONNECT_HTTP2_KEEP_ALIVE_INTERVAL: is not set"), "{}", lines[0]);
    assert!(lines[0].ends_with(&format!("since {name} is true")), "{}", lines[0]);
    assert_eq!(config(&on([(name, "false")])), config(&on([])));
}

#[test]
fn two_that_need_the_interval_are_one_error() {
    let lines = errors(&on([
        ("INBOUND_CONNECT_HTTP2_KEEP_ALIVE_TIMEOUT", "1s"),
        ("INBOUND_CONNECT_HTTP2_KEEP_ALIVE_WHILE_IDLE", "true"),
    ]));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("_TIMEOUT is set and "), "{}", lines[0]);
}

#[test]
fn a_wrong_interval_is_not_called_missing_as_well() {
    let lines = errors(&on([
        ("INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "soon"),
        ("INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "1s"),
    ]));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL: is \"soon\""), "{}", lines[0]);
}

#[test]
fn a_wrong_timeout_without_an_interval_is_two_errors() {
    assert_eq!(errors(&on([("INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "20")])).len(), 2);
}

#[test]
fn keep_alive_timeout_is_unset_until_there_is_an_interval() {
    let name = "INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT";
    assert_eq!(effective(&on([]), name).value, None);
    let setting = effective(&on([("INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "1s")]), name);
    assert_eq!((setting.value.as_deref(), setting.origin), (Some("20s"), Origin::Default));
}

#[test]
fn age_alone_takes_the_default_grace() {
    let age = "INBOUND_SERVER_HTTP2_MAX_CONNECTION_AGE";
    let config = config(&on([(age, "30m"), ("OUTBOUND_SERVER_HTTP2_MAX_CONNECTION_IDLE", "5m")]));
    let (inbound, outbound) = (config.inbound.unwrap().server, config.outbound.unwrap().server);
    let expect = MaxConnectionAge { age: 1_800 * SECOND, grace: 120 * SECOND };
    assert_eq!((inbound.max_connection_age, inbound.max_connection_idle), (Some(expect), Some(3_600 * SECOND)));
    assert_eq!((outbound.max_connection_age, outbound.max_connection_idle), (None, Some(300 * SECOND)));

    let grace = "INBOUND_SERVER_HTTP2_MAX_CONNECTION_AGE_GRACE";
    assert_eq!(effective(&on([]), grace).value, None);
    let setting = effective(&on([(age, "30m")]), grace);
    assert_eq!((setting.value.as_deref(), setting.origin), (Some("2m"), Origin::Default));
}

#[test]
fn grace_alone_is_an_error_of_the_age() {
    for direction in ["INBOUND", "OUTBOUND"] {
        let grace = format!("{direction}_SERVER_HTTP2_MAX_CONNECTION_AGE_GRACE");
        let lines = errors(&on([(&grace, "0")]));
        let expect = format!(
            "{direction}_SERVER_HTTP2_MAX_CONNECTION_AGE: is not set, \
             must be a duration (as 250ms, 10s, 5m, 2h or 1d) in 1ms..=36500d, since {grace} is set"
        );
        assert_eq!(lines, [expect]);
    }
}

#[test]
fn a_wrong_age_is_not_called_missing_as_well() {
    let age = "INBOUND_SERVER_HTTP2_MAX_CONNECTION_AGE";
    let lines = errors(&on([(age, "old"), ("INBOUND_SERVER_HTTP2_MAX_CONNECTION_AGE_GRACE", "1s")]));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with(&format!("{age}: is \"old\"")), "{}", lines[0]);
}

#[test]
fn half_a_backoff_leaves_the_rest_at_its_defaults() {
    let backoff = |vars| config(&vars).outbound.unwrap().connect.backoff;
    let default = backoff(on([]));
    let min = backoff(on([("OUTBOUND_CONNECT_EXP_BACKOFF_MIN", "1s")]));
    assert_eq!((min.min, min.max, min.jitter), (SECOND, default.max, default.jitter));
    let max = backoff(on([("OUTBOUND_CONNECT_EXP_BACKOFF_MAX", "1s")]));
    assert_eq!((max.min, max.max, max.jitter), (default.min, SECOND, default.jitter));
    let jitter = backoff(on([("OUTBOUND_CONNECT_EXP_BACKOFF_JITTER", "0")]));
    assert_eq!((jitter.min, jitter.max, jitter.jitter), (default.min, default.max, 0.0));
}

#[test]
fn backoff_may_stay_the_same() {
    let both = on([("INBOUND_CONNECT_EXP_BACKOFF_MIN", "1s"), ("INBOUND_CONNECT_EXP_BACKOFF_MAX", "1s")]);
    assert_eq!(config(&both).inbound.unwrap().connect.backoff.min, SECOND);
}

#[test]
fn backoff_that_shrinks_is_an_error_of_what_is_set() {
    let (min, max) = ("INBOUND_CONNECT_EXP_BACKOFF_MIN", "INBOUND_CONNECT_EXP_BACKOFF_MAX");
    let max_is_low = format!("{max}: is 50ms, must be at least 100ms, the value of {min}");
    assert_eq!(errors(&on([(max, "50ms")])), [max_is_low.as_str()]);
    assert_eq!(errors(&on([(max, "50ms"), (min, "100ms")])), [max_is_low]);
    let min_is_high = format!("{min}: is 11s, must be at most 10s, the value of {max}");
    assert_eq!(errors(&on([(min, "11s")])), [min_is_high]);
}

#[test]
fn a_wrong_half_of_a_backoff_is_the_only_error() {
    let lines = errors(&on([("INBOUND_CONNECT_EXP_BACKOFF_MIN", "11s"), ("INBOUND_CONNECT_EXP_BACKOFF_MAX", "never")]));
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn each_bound_of_the_ttl_stands_alone_and_both_may_be_the_same() {
    let bounds = |vars| {
        let Dns { min_ttl, max_ttl, negative_hold: _ } = config(&vars).dns;
        (min_ttl, max_ttl)
    };
    assert_eq!(bounds(vars([("DNS_MIN_TTL", "1s")])), (Some(SECOND), None));
    assert_eq!(bounds(vars([("DNS_MAX_TTL", "1s")])), (None, Some(SECOND)));
    let same = bounds(vars([("DNS_MIN_TTL", "1s"), ("DNS_MAX_TTL", "1s")]));
    assert_eq!(same, (Some(SECOND), Some(SECOND)));
}

#[test]
fn a_least_ttl_above_the_most_is_an_error_that_says_so() {
    let lines = errors(&vars([("DNS_MIN_TTL", "2m"), ("DNS_MAX_TTL", "90s")]));
    assert_eq!(lines, ["DNS_MAX_TTL: is 90s, must be at least 2m, the value of DNS_MIN_TTL"]);
    let lines = errors(&vars([("DNS_MIN_TTL", "2m"), ("DNS_MAX_TTL", "soon")]));
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn listeners_that_collide_are_an_error_of_what_is_set() {
    let check = |vars, expect: &[&str]| assert_eq!(errors(&vars), expect);
    check(
        on([("OUTBOUND_LISTEN_ADDR", "0.0.0.0:4143")]),
        &[
            "OUTBOUND_LISTEN_ADDR: is 0.0.0.0:4143, must be an address that INBOUND_LISTEN_ADDR (0.0.0.0:4143) leaves free",
        ],
    );
    check(
        on([("INBOUND_LISTEN_ADDR", "127.0.0.1:4191")]),
        &[
            "INBOUND_LISTEN_ADDR: is 127.0.0.1:4191, must be an address that ADMIN_LISTEN_ADDR (127.0.0.1:4191) leaves free",
        ],
    );
    // A wildcard address takes its port on all of them.
    check(
        on([("ADMIN_LISTEN_ADDR", "127.0.0.1:4143")]),
        &[
            "ADMIN_LISTEN_ADDR: is 127.0.0.1:4143, must be an address that INBOUND_LISTEN_ADDR (0.0.0.0:4143) leaves free",
        ],
    );
    check(
        on([("INBOUND_LISTEN_ADDR", "[::1]:1"), ("OUTBOUND_LISTEN_ADDR", "[::1]:1"), ("ADMIN_LISTEN_ADDR", "[::1]:1")]),
        &[
            "OUTBOUND_LISTEN_ADDR: is [::1]:1, must be an address that INBOUND_LISTEN_ADDR ([::1]:1) leaves free",
            "ADMIN_LISTEN_ADDR: is [::1]:1, must be an address that INBOUND_LISTEN_ADDR ([::1]:1) leaves free",
        ],
    );
}

#[test]
fn listeners_that_do_not_collide_load() {
    for (inbound, outbound) in [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("127.0.0.1:4140", "127.0.0.2:4140"),
        ("127.0.0.1:4140", "[::1]:4140"),
        ("0.0.0.0:4140", "127.0.0.1:4141"),
    ] {
        config(&on([("INBOUND_LISTEN_ADDR", inbound), ("OUTBOUND_LISTEN_ADDR", outbound)]));
    }
}

#[test]
fn a_direction_that_is_off_takes_no_address() {
    let vars = vars([("INBOUND_ENDPOINTS", "a:1"), ("ADMIN_LISTEN_ADDR", "127.0.0.1:4140")]);
    assert!(config(&vars).outbound.is_none());
}

#[test]
fn listeners_on_one_socket_collide() {
    let both = [("INBOUND_LISTEN_ADDR", "unix:/run/a.sock"), ("OUTBOUND_LISTEN_ADDR", "unix:///run/a.sock")];
    assert_eq!(
        errors(&on(both)),
        ["OUTBOUND_LISTEN_ADDR: is unix:/run/a.sock, must be an address that INBOUND_LISTEN_ADDR (unix:/run/a.sock) \
             leaves free"]
    );
    config(&on([("INBOUND_LISTEN_ADDR", "unix:/run/a.sock"), ("OUTBOUND_LISTEN_ADDR", "unix:@/run/a.sock")]));
}

#[test]
fn permissions_are_of_files() {
    let mode = |addr, mode| warnings(&on([("OUTBOUND_LISTEN_ADDR", addr), ("OUTBOUND_LISTEN_MODE", mode)]));
    assert!(mode("unix:/run/a.sock", "660").is_empty());
    for addr in ["unix:@a", "127.0.0.1:1"] {
        let expected = "OUTBOUND_LISTEN_MODE: has no effect, since OUTBOUND_LISTEN_ADDR is not unix:/path";
        assert_eq!(mode(addr, "660"), [expected], "{addr}");
    }
}

#[test]
fn clients_of_a_socket_have_rates_behind_a_load_balancer_alone() {
    let limited = [("OUTBOUND_LISTEN_ADDR", "unix:/run/a.sock"), ("OUTBOUND_HTTP_RATE_LIMIT_PER_CLIENT", "10")];
    assert_eq!(
        warnings(&on(limited)),
        [
            "OUTBOUND_HTTP_RATE_LIMIT_PER_CLIENT: limits no client of OUTBOUND_LISTEN_ADDR, a Unix domain socket, without \
             OUTBOUND_ACCEPT_PROXY_PROTOCOL_NETWORKS"
        ]
    );
    let [addr, limit] = limited;
    assert!(warnings(&on([addr, limit, ("OUTBOUND_ACCEPT_PROXY_PROTOCOL_NETWORKS", "127.0.0.1/32")])).is_empty());
}

#[test]
fn own_listeners_are_no_endpoints() {
    let at = |endpoint: &str, listener: &str| {
        let vars = vars([("OUTBOUND_ENDPOINTS", endpoint), ("OUTBOUND_LISTEN_ADDR", listener)]);
        app_env::load(&vars).err().map(|errors| errors.iter().next().unwrap().to_string())
    };
    for (endpoint, listener) in [
        ("127.0.0.1:4140", "127.0.0.1:4140"),
        ("localhost:4140", "127.0.0.1:4140"),
        ("10.0.0.1:80,127.0.0.9:4140", "0.0.0.0:4140"),
        ("[::1]:4140", "[::]:4140"),
        ("0.0.0.0:4140", "127.0.0.1:4140"),
        ("10.0.0.1:4140", "10.0.0.1:4140"),
        ("[::ffff:127.0.0.1]:4140", "127.0.0.1:4140"),
        ("10.0.0.1:4140", "[::ffff:10.0.0.1]:4140"),
        ("10.0.0.1:80,unix:///run/a.sock", "unix:/run/a.sock"),
        ("unix:@a", "unix:@a"),
    ] {
        let error = at(endpoint, listener).unwrap_or_else(|| panic!("{endpoint} at {listener}"));
        assert!(error.contains("OUTBOUND_ENDPOINTS: has ") && error.contains("OUTBOUND_LISTEN_ADDR"), "{error}");
    }
    assert_eq!(at("10.0.0.1:4140", "127.0.0.1:4140"), None);
    assert_eq!(at("127.0.0.1:4140", "127.0.0.1:4141"), None);
    assert_eq!(at("unix:/run/b.sock", "unix:/run/a.sock"), None);
    assert_eq!(at("api.example:4140", "0.0.0.0:4140"), None);
    assert!(at("127.0.0.1:4191", "127.0.0.1:4140").unwrap().contains("ADMIN_LISTEN_ADDR"));
}

#[test]
fn the_other_directions_listener_is_no_endpoint() {
    let check = |direction: &str, other: &str, endpoint: &str, listener: &str| {
        let vars = vars([
            (&*format!("{direction}_ENDPOINTS"), endpoint),
            (&*format!("{other}_ENDPOINTS"), "10.0.0.1:80"),
            (&*format!("{other}_LISTEN_ADDR"), listener),
        ]);
        let host = endpoint.split(',').next_back().unwrap();
        let expect = format!(
            "{direction}_ENDPOINTS: has {host}, the proxy's own listener ({other}_LISTEN_ADDR), must be addresses of others, \
             since a process does not connect to itself; run a process for each direction"
        );
        assert_eq!(errors(&vars), [expect], "{endpoint} {listener}");
    };
    for (direction, other) in [("OUTBOUND", "INBOUND"), ("INBOUND", "OUTBOUND")] {
        check(direction, other, "127.0.0.1:1", "127.0.0.1:1");
        check(direction, other, "10.0.0.9:1,localhost:1", "0.0.0.0:1");
        check(direction, other, "[::ffff:127.0.0.1]:1", "127.0.0.1:1");
        check(direction, other, "[::1]:1", "[::]:1");
    }
}

#[test]
fn a_listener_of_a_direction_that_is_off_may_be_an_endpoint() {
    let other = vars([("OUTBOUND_ENDPOINTS", "127.0.0.1:4143"), ("INBOUND_LISTEN_ADDR", "127.0.0.1:4143")]);
    assert!(app_env::load(&other).is_ok());
}

#[test]
fn a_circle_is_an_error_of_each_direction() {
    let errors = errors(&vars([("INBOUND_ENDPOINTS", "127.0.0.1:4140"), ("OUTBOUND_ENDPOINTS", "127.0.0.1:4143")]));
    assert_eq!(errors.len(), 2, "{errors:?}");
}
