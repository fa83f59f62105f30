//! Both ends of every range: the bound loads, one past it does not.

use crate::support::{add_needed, errors, full, loaded, on};
use app_env::variables;

/// Values that are accepted and values one past them, below and above; by the name's end.
const BOUNDS: &[(&str, [&str; 2], [&str; 2])] = &[
    ("INITIAL_STREAM_WINDOW_SIZE", ["1", "0"], ["2147483647", "2147483648"]),
    ("INITIAL_CONNECTION_WINDOW_SIZE", ["1", "0"], ["2147483647", "2147483648"]),
    ("KEEP_ALIVE_INTERVAL", ["1ms", "0"], CENTURY),
    ("KEEP_ALIVE_TIMEOUT", ["1ms", "0ms"], CENTURY),
    ("MAX_FRAME_SIZE", ["16384", "16383"], ["16777215", "16777216"]),
    ("MAX_HEADER_LIST_SIZE", ["1", "0"], U32),
    ("MAX_SEND_BUF_SIZE", ["1", "0"], U32),
    ("MAX_CONCURRENT_STREAMS", ["1", "0"], U32),
    ("HEADER_TABLE_SIZE", ["0", "-1"], U32),
    ("MAX_PENDING_ACCEPT_RESET_STREAMS", ["0", "-1"], U32),
    ("MAX_LOCAL_ERROR_RESET_STREAMS", ["0", "-1"], U32),
    ("MAX_CONCURRENT_RESET_STREAMS", ["0", "-1"], U32),
    ("ACCEPT_BACKLOG", ["1", "0"], ["65535", "65536"]),
    ("TLS_HANDSHAKE_TIMEOUT", ["1ms", "0"], CENTURY),
    ("DETECT_TIMEOUT", ["1ms", "0"], CENTURY),
    ("HEADER_READ_TIMEOUT", ["1ms", "0"], CENTURY),
    ("CONNECT_TIMEOUT", ["1ms", "0s"], CENTURY),
    ("EXP_BACKOFF_MIN", ["1ms", "0"], CENTURY),
    ("EXP_BACKOFF_MAX", ["1ms", "0"], CENTURY),
    ("EXP_BACKOFF_JITTER", ["0", "-0.1"], ["100", "100.1"]),
    ("BOUND_ACCEPT_KEEPALIVE", ["1s", "999ms"], ["32767s", "32767001ms"]),
    ("BOUND_CONNECT_KEEPALIVE", ["1s", "999ms"], ["32767s", "32767001ms"]),
    ("USER_TIMEOUT", ["1ms", "0"], ["2147483647ms", "2147483648ms"]),
    ("HTTP_QUEUE_CAPACITY", ["1", "0"], U32),
    ("HTTP_RATE_LIMIT_PER_CLIENT", ["1", "0"], ["1000000", "1000001"]),
    ("HTTP_RATE_LIMIT_BURST", ["1", "0"], ["1000000", "1000001"]),
    ("HTTP_FAILFAST_TIMEOUT", ["1ms", "0"], CENTURY),
    ("HTTP_REQUEST_TIMEOUT", ["1ms", "0"], CENTURY),
    ("MAX_IN_FLIGHT", ["1", "0"], U32),
    ("MAX_STREAMS_PER_CONNECTION", ["1", "0"], U32),
    ("MAX_CONNECTION_AGE", ["1ms", "0"], CENTURY),
    ("MAX_CONNECTION_AGE_GRACE", ["0", "-1s"], CENTURY),
    ("MAX_CONNECTION_IDLE", ["1ms", "0"], CENTURY),
    ("HTTP1_MAX_CONNECTIONS", ["1", "0"], U32),
    ("HTTP1_MAX_IDLE", ["1", "0"], U32),
    ("MAX_CONNECTIONS_PER_ENDPOINT", ["1", "0"], U32),
    ("MAX_CONNECTIONS", ["1", "0"], U32),
    ("HANDSHAKE_TIMEOUT", ["1ms", "0"], CENTURY),
    ("HEADER_TIMEOUT", ["1ms", "0"], CENTURY),
    ("MAX_PREMATURE_RESETS", ["0", "-1"], U32),
    ("MAX_CONTROL_FRAMES", ["100", "99"], U32),
    ("HTTP_MAX_HEADERS_COUNT", ["0", "-1"], U32),
    ("HTTP_MAX_URI_LENGTH", ["1", "0"], U32),
    ("SLOW_START", ["0", "-1s"], CENTURY),
    ("DISCOVERY_IDLE_TIMEOUT", ["1ms", "0"], CENTURY),
    ("MAX_DESTINATIONS", ["1", "0"], U32),
    ("BREAKER_CONSECUTIVE_FAILURES", ["0", "-1"], U32),
    ("BREAKER_MIN_EJECTION", ["1ms", "0"], CENTURY),
    ("BREAKER_MAX_EJECTION", ["1ms", "0"], CENTURY),
    ("HEALTH_CHECK_INTERVAL", ["1ms", "0"], CENTURY),
    ("HEALTH_CHECK_TIMEOUT", ["1ms", "0"], CENTURY),
    ("HEALTH_CHECK_UNHEALTHY_THRESHOLD", ["1", "0"], U32),
    ("HEALTH_CHECK_HEALTHY_THRESHOLD", ["1", "0"], U32),
    ("HTTP_RETRY_BUDGET_RATIO", ["0", "-0.1"], ["100", "100.1"]),
    ("HTTP_RETRY_BUDGET_MIN_PER_SECOND", ["0", "-1"], U32),
    ("HTTP_RETRY_BUFFER_SIZE", ["0", "-1"], U32),
    ("WRITE_STALL_TIMEOUT", ["1ms", "0"], CENTURY),
    ("STREAM_IDLE_TIMEOUT", ["1ms", "0"], CENTURY),
    ("MAX_BUFFERED_BYTES", ["0", "-1"], U32),
    ("CONTROL_STREAM_INITIAL_TIMEOUT", ["1ms", "0"], CENTURY),
    ("CONTROL_STREAM_IDLE_TIMEOUT", ["1ms", "0"], CENTURY),
    ("DNS_MIN_TTL", ["0", "-1s"], CENTURY),
    ("DNS_MAX_TTL", ["0", "-1s"], CENTURY),
    ("DNS_NEGATIVE_HOLD", ["0", "-1s"], CENTURY),
    ("SHUTDOWN_GRACE_PERIOD", ["0", "-1s"], CENTURY),
    ("SHUTDOWN_LAME_DUCK_PERIOD", ["0", "-1s"], CENTURY),
    ("UPGRADE_TIMEOUT", ["1ms", "0"], CENTURY),
    ("CORES", ["1", "0"], ["1024", "1025"]),
    ("ACCESS_LOG_SAMPLE", ["0", "-0.1"], ["1", "1.1"]),
];

const CENTURY: [&str; 2] = ["36500d", "36501d"];
const U32: [&str; 2] = ["4294967295", "4294967296"];

#[test]
fn each_bound_loads_and_one_past_it_does_not() {
    for variable in variables().filter(|variable| variable.accepts.contains("..=")) {
        let name = variable.name;
        let (_, low, high) = BOUNDS
            .iter()
            .find(|(end, ..)| name.ends_with(end))
            .unwrap_or_else(|| panic!("{name} needs a row in this test"));
        for [inside, outside] in [low, high] {
            let mut vars = on([
                // The other halves of pairs, so that the first may have any value.
                ("INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "1s"),
                ("OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "1s"),
                ("INBOUND_CONNECT_HTTP2_KEEP_ALIVE_INTERVAL", "1s"),
                ("OUTBOUND_CONNECT_HTTP2_KEEP_ALIVE_INTERVAL", "1s"),
                ("INBOUND_SERVER_HTTP2_MAX_CONNECTION_AGE", "1s"),
                ("OUTBOUND_SERVER_HTTP2_MAX_CONNECTION_AGE", "1s"),
                ("INBOUND_CONNECT_EXP_BACKOFF_MIN", "1ms"),
                ("OUTBOUND_CONNECT_EXP_BACKOFF_MIN", "1ms"),
                ("INBOUND_CONNECT_EXP_BACKOFF_MAX", "36500d"),
                ("OUTBOUND_CONNECT_EXP_BACKOFF_MAX", "36500d"),
                ("INBOUND_BREAKER_MIN_EJECTION", "1ms"),
                ("OUTBOUND_BREAKER_MIN_EJECTION", "1ms"),
                ("INBOUND_BREAKER_MAX_EJECTION", "36500d"),
                ("OUTBOUND_BREAKER_MAX_EJECTION", "36500d"),
            ]);
            if name.contains("_TLS_") {
                add_needed(&mut vars, &name);
            }
            vars.insert(name.clone(), (*inside).to_owned());
            let loaded = loaded(&vars);
            for direction in [loaded.config.inbound, loaded.config.outbound].into_iter().flatten() {
                direction.server.validate().unwrap();
                direction.connect.http2.validate().unwrap();
            }

            vars.insert(name.clone(), (*outside).to_owned());
            let lines = errors(&vars);
            assert_eq!(lines.len(), 1, "{name}={outside}: {lines:?}");
            let expected = format!("{}: is {outside:?}, must be {}", name, variable.accepts);
            assert_eq!(full(&lines[0]), expected);
        }
    }
}

#[test]
fn every_row_is_about_a_variable() {
    for (end, ..) in BOUNDS {
        assert!(variables().any(|variable| variable.name.ends_with(end)), "{end}");
    }
}
