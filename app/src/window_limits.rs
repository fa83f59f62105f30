//! Windows of ours that are too small for a path: which variable to set, and its value.

use crate::{metrics::PEERS, worker::Worker};
use app_env::{Config, PREFIX};
use http_h2::FlowControl;
use proxy_http::{
    Stats,
    stats::{Connection, LimitingWindow, Peer},
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// The connections of one side of a direction, on all workers.
#[derive(Debug)]
struct Side {
    direction: &'static str,
    peer: Peer,
    /// As metrics name it.
    peer_name: &'static str,
    stats: Vec<Arc<Stats>>,
    /// When a line was last logged. `None`: never.
    logged: Option<Instant>,
}

/// A connection that a window of ours limits.
#[derive(Clone, Debug)]
struct Limited {
    address: Option<String>,
    window: LimitingWindow,
    stream_window: u32,
    connection_window: u32,
    round_trip: Duration,
    /// For how long.
    time: Duration,
}

/// How often connections are looked at.
const INTERVAL: Duration = Duration::from_secs(10);
/// The shortest time between two lines about one side.
const PAUSE: Duration = Duration::from_secs(60);
/// Connections of a side, on one worker, of which the one with the longest round trip is named.
const MAX_CONNECTIONS: usize = 100;
/// The bandwidth that windows are to be large enough for, in bytes a second: 1 Gbit/s.
const BANDWIDTH: f64 = 125e6;
/// The default window of a stream.
const DEFAULT_WINDOW: u32 = 65_535;
/// The largest window there is (RFC 9113 section 6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// Looks at all connections now and then, and logs. Ends when it is aborted.
pub(crate) async fn watch(directions: Vec<&'static str>, workers: Arc<[Worker]>) {
    let sides = directions.iter().enumerate().flat_map(|(index, direction)| {
        let stats: Vec<_> = workers.iter().map(|worker| Arc::clone(&worker.stats[index])).collect();
        PEERS.map(|(peer, peer_name)| Side { direction, peer, peer_name, stats: stats.clone(), logged: None })
    });
    let mut sides: Vec<_> = sides.collect();
    loop {
        sleep(INTERVAL).await;
        for side in &mut sides {
            let limited = side.limited();
            if let Some(worst) = side.next_line(&limited) {
                side.log(worst, limited.len());
            }
        }
    }
}

// === impl Side ===

impl Side {
    fn limited(&self) -> Vec<Limited> {
        let transports = self.stats.iter().map(|stats| stats.transport(self.peer));
        transports
            .flat_map(|transport| transport.connections_limited_by_window(MAX_CONNECTIONS))
            .filter_map(Limited::new)
            .collect()
    }

    /// The connection that a line is to be logged about. `None`: there is none, or the last line is too recent.
    fn next_line<'a>(&mut self, limited: &'a [Limited]) -> Option<&'a Limited> {
        let worst = limited.iter().max_by_key(|connection| connection.round_trip)?;
        if self.logged.is_some_and(|logged| logged.elapsed() < PAUSE) {
            return None;
        }
        self.logged = Some(Instant::now());
        Some(worst)
    }

    fn log(&self, worst: &Limited, connections: usize) {
        let bytes = match worst.window {
            LimitingWindow::Stream => worst.stream_window,
            LimitingWindow::Connection => worst.connection_window,
        };
        tracing::warn!(
            direction = self.direction,
            peer = self.peer_name,
            address = worst.address,
            connections,
            window = bytes,
            round_trip_ms = worst.round_trip.as_secs_f64() * 1e3,
            seconds = worst.time.as_secs(),
            "our {} window limits what {} send, a window a round trip; set {}",
            match worst.window {
                LimitingWindow::Stream => "stream",
                LimitingWindow::Connection => "connection",
            },
            match self.peer {
                Peer::Client => "clients",
                Peer::Endpoint => "endpoints",
            },
            self.advice(worst),
        );
    }

    /// The variables to set, with their values.
    fn advice(&self, worst: &Limited) -> String {
        let [adaptive, stream, connection] =
            ["ADAPTIVE_FLOW_CONTROL", "INITIAL_STREAM_WINDOW_SIZE", "INITIAL_CONNECTION_WINDOW_SIZE"]
                .map(|suffix| variable(self.direction, self.peer, suffix));
        let windows = match worst.window {
            LimitingWindow::Stream => {
                let window = worst.fitting(worst.stream_window);
                let mut windows = format!("{stream}={window}");
                // A stream never has more than its connection.
                if window > worst.connection_window {
                    windows.push_str(&format!(" and {connection}={window}"));
                }
                windows
            }
            LimitingWindow::Connection => format!("{connection}={}", worst.fitting(worst.connection_window)),
        };
        format!("{adaptive}=true, or {windows}")
    }
}

/// A line about the default windows of streams: their cost, and the variables that end it. `None`: no side has them.
pub(crate) fn note(config: &Config) -> Option<String> {
    let mut switches = Vec::new();
    for (name, direction) in [("inbound", &config.inbound), ("outbound", &config.outbound)] {
        let Some(direction) = direction else { continue };
        let sides =
            [(Peer::Client, direction.server.flow_control), (Peer::Endpoint, direction.connect.http2.flow_control)];
        for (peer, flow_control) in sides {
            if let Some(FlowControl::Fixed { initial_stream_window_size: DEFAULT_WINDOW, .. }) = flow_control {
                let of = match peer {
                    Peer::Client => "uploads",
                    Peer::Endpoint => "downloads",
                };
                switches.push(format!("{}=true for {of}", variable(name, peer, "ADAPTIVE_FLOW_CONTROL")));
            }
        }
    }
    (!switches.is_empty()).then(|| {
        format!(
            "note: a window of {DEFAULT_WINDOW} bytes lets a stream have at most 6.5 MB/s at a round trip of 10 ms, and 1.6 MB/s at \
             40 ms; where the path is longer than a rack, set {}",
            switches.join(" and ")
        )
    })
}

/// The name of a variable of HTTP/2 for one side of a direction.
fn variable(direction: &str, peer: Peer, suffix: &str) -> String {
    let side = match peer {
        Peer::Client => "SERVER",
        Peer::Endpoint => "CONNECT",
    };
    format!("{PREFIX}{}_{side}_HTTP2_{suffix}", direction.to_uppercase())
}

// === impl Limited ===

impl Limited {
    fn new(connection: Connection) -> Option<Self> {
        let http2 = connection.http2?;
        let limit = http2.limited_by_window?;
        Some(Self {
            address: connection.peer,
            window: limit.window,
            stream_window: http2.granted.stream,
            connection_window: u32::try_from(http2.granted.connection).unwrap_or(MAX_WINDOW),
            round_trip: http2.round_trip?,
            time: limit.time,
        })
    }

    /// A window in place of `current` for [`BANDWIDTH`] on this path: the next power of two, and twice the current one at
    /// least, which is too small.
    fn fitting(&self, current: u32) -> u32 {
        // The conversion saturates.
        let product = (BANDWIDTH * self.round_trip.as_secs_f64()).ceil() as u32;
        product.max(current.saturating_mul(2)).checked_next_power_of_two().unwrap_or(MAX_WINDOW).min(MAX_WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn side(peer: Peer) -> Side {
        Side { direction: "outbound", peer, peer_name: "", stats: Vec::new(), logged: None }
    }

    fn limited(window: LimitingWindow, windows: (u32, u32), round_trip_ms: u64) -> Limited {
        Limited {
            address: None,
            window,
            stream_window: windows.0,
            connection_window: windows.1,
            round_trip: Duration::from_millis(round_trip_ms),
            time: Duration::from_secs(11),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_line_a_minute_names_the_longest_path() {
        let mut side = side(Peer::Endpoint);
        let line =
            |side: &mut Side, limited: &[Limited]| side.next_line(limited).map(|worst| worst.round_trip.as_millis());
        assert_eq!(line(&mut side, &[]), None);
        let all = [10, 40, 20].map(|ms| limited(LimitingWindow::Stream, (65_535, 1 << 20), ms));
        let mut lines = Vec::new();
        for second in (0..=120).step_by(10) {
            lines.extend(line(&mut side, &all).map(|ms| (second, ms)));
            advance(INTERVAL).await;
        }
        assert_eq!(lines, [(0, 40), (60, 40), (120, 40)]);
    }

    #[test]
    fn the_note_names_the_sides_that_have_default_windows() {
        let note = |more: &[(&str, &str)]| {
            let mut vars = std::collections::HashMap::from([("LINKERD2_PROXY_INBOUND_ENDPOINTS", "127.0.0.1:1")]);
            vars.extend(more.iter().copied());
            super::note(&app_env::load(&vars).unwrap().config)
        };
        let server = "LINKERD2_PROXY_INBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL";
        let connect = "LINKERD2_PROXY_INBOUND_CONNECT_HTTP2_ADAPTIVE_FLOW_CONTROL";
        assert!(
            note(&[]).unwrap().ends_with(&format!("set {server}=true for uploads and {connect}=true for downloads"))
        );
        assert!(note(&[(server, "true")]).unwrap().ends_with(&format!("set {connect}=true for downloads")));
        let larger = "LINKERD2_PROXY_HTTP2_INITIAL_STREAM_WINDOW_SIZE";
        assert!(note(&[(larger, "65536")]).unwrap().ends_with(&format!("set {server}=true for uploads")));
        assert_eq!(note(&[(server, "true"), (larger, "65536")]), None);
        assert_eq!(note(&[(server, "true"), (connect, "true")]), None);
    }

    #[test]
    fn lines_name_the_variables_and_their_values() {
        let check = |peer, limited: Limited, expect: &[&str]| {
            let advice = side(peer).advice(&limited);
            let settings: Vec<_> = advice.split(", or ").flat_map(|part| part.split(" and ")).collect();
            assert_eq!(settings, expect.iter().map(|setting| format!("{PREFIX}{setting}")).collect::<Vec<_>>());
            for setting in settings {
                let (name, value) = setting.split_once('=').unwrap();
                assert!(app_env::variables().any(|variable| variable.name == name), "{name}");
                let vars = std::collections::HashMap::from([(name, value)]);
                assert!(app_env::load(&vars).is_ok(), "{setting}");
            }
        };
        check(
            Peer::Endpoint,
            limited(LimitingWindow::Stream, (65_535, 1 << 20), 40),
            &[
                "OUTBOUND_CONNECT_HTTP2_ADAPTIVE_FLOW_CONTROL=true",
                "OUTBOUND_CONNECT_HTTP2_INITIAL_STREAM_WINDOW_SIZE=8388608",
                "OUTBOUND_CONNECT_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE=8388608",
            ],
        );
        check(
            Peer::Client,
            limited(LimitingWindow::Stream, (65_535, 1 << 20), 5),
            &[
                "OUTBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL=true",
                "OUTBOUND_SERVER_HTTP2_INITIAL_STREAM_WINDOW_SIZE=1048576",
            ],
        );
        check(
            Peer::Client,
            limited(LimitingWindow::Connection, (1 << 30, 1 << 30), 1),
            &[
                "OUTBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL=true",
                "OUTBOUND_SERVER_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE=2147483647",
            ],
        );
    }
}
