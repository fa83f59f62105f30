//! Windows: adaptive or fixed, own or shared or default, and where each came from.

use crate::support::{config, effective, full, loaded, on, vars, warnings};
use app_env::{Effective, Origin};
use http_h2::FlowControl;

const fn fixed(initial_stream_window_size: u32, initial_connection_window_size: u32) -> Option<FlowControl> {
    Some(FlowControl::Fixed { initial_stream_window_size, initial_connection_window_size })
}

#[track_caller]
fn shows(setting: Effective, value: Option<&str>, origin: Origin) {
    assert_eq!((setting.value.as_deref(), setting.origin), (value, origin), "{}", setting.name);
}

#[test]
fn half_a_pair_of_windows_leaves_the_other_at_its_default() {
    let config = config(&on([
        ("INBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE", "1000"),
        ("OUTBOUND_SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", "2000"),
        ("INBOUND_CONNECT_HTTP2_INITIAL_STREAM_WINDOW_SIZE", "3000"),
        ("OUTBOUND_CONNECT_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", "4000"),
    ]));
    let (inbound, outbound) = (config.inbound.unwrap(), config.outbound.unwrap());
    assert_eq!(inbound.server.flow_control, fixed(1000, 1_048_576));
    assert_eq!(outbound.server.flow_control, fixed(65_535, 2000));
    assert_eq!(inbound.connect.http2.flow_control, fixed(3000, 1_048_576));
    assert_eq!(outbound.connect.http2.flow_control, fixed(65_535, 4000));
}

#[test]
fn own_windows_win_over_shared_ones_which_win_over_defaults() {
    let vars = on([
        ("HTTP2_INITIAL_STREAM_WINDOW_SIZE", "1000"),
        ("OUTBOUND_CONNECT_HTTP2_INITIAL_STREAM_WINDOW_SIZE", "2000"),
    ]);
    let config = config(&vars);
    let (inbound, outbound) = (config.inbound.unwrap(), config.outbound.unwrap());
    assert_eq!(inbound.connect.http2.flow_control, fixed(1000, 1_048_576));
    assert_eq!(outbound.connect.http2.flow_control, fixed(2000, 1_048_576));
    assert_eq!(inbound.server.flow_control, Some(FlowControl::DEFAULT));

    let shared = Origin::Inherited(full("HTTP2_INITIAL_STREAM_WINDOW_SIZE"));
    shows(effective(&vars, "HTTP2_INITIAL_STREAM_WINDOW_SIZE"), Some("1000"), Origin::Environment);
    shows(effective(&vars, "INBOUND_CONNECT_HTTP2_INITIAL_STREAM_WINDOW_SIZE"), Some("1000"), shared);
    shows(effective(&vars, "OUTBOUND_CONNECT_HTTP2_INITIAL_STREAM_WINDOW_SIZE"), Some("2000"), Origin::Environment);
    shows(effective(&vars, "INBOUND_CONNECT_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE"), Some("1048576"), Origin::Default);
}

#[test]
fn adaptive_wins_over_windows_with_a_warning_for_each() {
    for side in ["SERVER", "CONNECT"] {
        let (adaptive, stream, connection) = (
            format!("INBOUND_{side}_HTTP2_ADAPTIVE_FLOW_CONTROL"),
            format!("INBOUND_{side}_HTTP2_INITIAL_STREAM_WINDOW_SIZE"),
            format!("INBOUND_{side}_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE"),
        );
        let both = on([(&adaptive, "true"), (&stream, "1000"), (&connection, "2000")]);
        let inbound = loaded(&both).config.inbound.unwrap();
        let flow_control =
            if side == "SERVER" { inbound.server.flow_control } else { inbound.connect.http2.flow_control };
        assert_eq!(flow_control, Some(FlowControl::Adaptive), "{side}");
        let no_effect = |name: &str| format!("{name}: has no effect, {adaptive} is true");
        assert_eq!(warnings(&both), [no_effect(&stream), no_effect(&connection)]);
        shows(effective(&both, &stream), None, Origin::Overridden(full(&adaptive)));

        assert_eq!(warnings(&on([(&adaptive, "true"), (&stream, "1000")])), [no_effect(&stream)]);
        assert_eq!(warnings(&on([(&adaptive, "true")])), [""; 0]);
    }
}

#[test]
fn adaptive_in_one_direction_leaves_the_other_its_shared_windows() {
    let config = config(&on([
        ("OUTBOUND_CONNECT_HTTP2_ADAPTIVE_FLOW_CONTROL", "true"),
        ("HTTP2_INITIAL_STREAM_WINDOW_SIZE", "1000"),
    ]));
    assert_eq!(config.inbound.unwrap().connect.http2.flow_control, fixed(1000, 1_048_576));
    assert_eq!(config.outbound.unwrap().connect.http2.flow_control, Some(FlowControl::Adaptive));
}

#[test]
fn adaptive_false_is_windows() {
    let config = config(&on([
        ("INBOUND_CONNECT_HTTP2_ADAPTIVE_FLOW_CONTROL", "false"),
        ("INBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL", "false"),
        ("INBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE", "1000"),
    ]));
    let inbound = config.inbound.unwrap();
    assert_eq!(inbound.connect.http2.flow_control, Some(FlowControl::DEFAULT));
    assert_eq!(inbound.server.flow_control, fixed(1000, 1_048_576));
}

#[test]
fn shared_windows_that_no_direction_uses_are_a_warning() {
    let unused = ["HTTP2_INITIAL_CONNECTION_WINDOW_SIZE: has no effect, no direction that is on uses it"];
    let shared = ("HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", "1000");
    let own = ("INBOUND_CONNECT_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", "1000");
    assert_eq!(warnings(&vars([shared])), unused);
    assert_eq!(warnings(&vars([shared, own, ("INBOUND_ENDPOINTS", "a:1")])), unused);
    assert_eq!(warnings(&on([shared, own])), [""; 0]);
    assert_eq!(warnings(&vars([shared, ("INBOUND_ENDPOINTS", "a:1")])), [""; 0]);
}
