//! One cell of the matrix.

use crate::{
    link::{Direction, Link, Profile},
    load::Workload,
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, time::Duration};

/// The unit of measurement: one workload through one proxy over one link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The kind of the streams.
    pub workload: Workload,
    /// The proxy's windows, toward the client and toward the endpoint.
    pub windows: Windows,
    /// Streams open at once, in total.
    pub streams: usize,
    /// Client connections that they are spread over.
    pub connections: usize,
    /// Streams a second. `None`: as fast as they end.
    pub rate: Option<u32>,
    /// The link's round trip, in milliseconds.
    pub rtt_ms: u64,
    /// The link's bandwidth, in Mbit/s each way.
    pub mbits: u64,
    /// Where the link is.
    pub side: Side,
    /// How the link changes over time.
    pub profile: Profile,
}

/// The flow control of a proxy.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Windows {
    /// Windows of these sizes, in bytes.
    Fixed {
        /// Of a stream.
        stream: u32,
        /// Of a connection.
        connection: u32,
    },
    /// Windows that the proxy sets by itself; fixed ones mean nothing then.
    Adaptive,
}

/// Where the link is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Nowhere: bare loopback.
    Direct,
    /// Between client and proxy.
    Client,
    /// Between proxy and endpoint.
    Endpoint,
    /// One on each side: the client sees two round trips.
    Both,
}

// === impl Cell ===

impl Cell {
    /// A steady link of 1 Gbit/s, one connection, a closed loop. Without a round trip there is no link.
    pub fn new(workload: Workload, windows: Windows, streams: usize, rtt_ms: u64, side: Side) -> Self {
        let side = if rtt_ms == 0 { Side::Direct } else { side };
        Self {
            workload,
            windows,
            streams,
            connections: 1,
            rate: None,
            rtt_ms,
            mbits: 1_000,
            side,
            profile: Profile::Steady,
        }
    }

    /// Whether the cell's name has each of the words.
    pub fn matches(&self, words: &str) -> bool {
        let name = self.to_string();
        words.split_whitespace().all(|word| name.split(' ').any(|part| part == word))
    }

    /// How long to let the load run before it counts.
    pub fn warm_up(&self) -> Duration {
        if self.profile != Profile::Steady {
            // The same for all, so that all see the same part of it.
            return Duration::from_secs(1);
        }
        let links = if self.side == Side::Both { 2 } else { 1 };
        Duration::from_millis(250 + 10 * self.rtt_ms * links)
    }

    /// How long to measure, where a steady cell is to take `time`.
    pub fn time(&self, time: Duration) -> Duration {
        if self.profile == Profile::Steady { time } else { time.max(Duration::from_secs(2)) }
    }

    /// A fresh link, whose profile starts now.
    pub fn link(&self) -> Link {
        let rtt = Duration::from_millis(self.rtt_ms);
        Link::symmetric(Direction { profile: self.profile, ..Direction::of_round_trip(rtt, self.mbits) })
    }

    /// The variables that set up the proxy, without the `LINKERD2_PROXY_` that all have.
    pub fn settings(&self) -> Vec<(String, String)> {
        settings(self.windows)
    }
}

impl fmt::Display for Cell {
    /// Its name, of words that filters pick by.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, windows, streams, connections, rate, rtt_ms, mbits, side, profile } = self;
        write!(f, "{workload} {windows} x{streams} {rtt_ms}ms {side} {profile}")?;
        if *connections != 1 {
            write!(f, " on{connections}")?;
        }
        if *mbits != 1_000 {
            write!(f, " {mbits}mbit")?;
        }
        rate.map_or(Ok(()), |rate| write!(f, " {rate}/s"))
    }
}

/// The variables that set up a proxy with these windows, without the `LINKERD2_PROXY_` that all have.
pub fn settings(windows: Windows) -> Vec<(String, String)> {
    let mut settings = windows.settings();
    // Unset, a client could have 200.
    settings.push(("OUTBOUND_SERVER_HTTP2_MAX_CONCURRENT_STREAMS".to_owned(), "10000".to_owned()));
    settings
}

// === impl Windows ===

impl Windows {
    /// The proxy's default.
    pub const DEFAULT: Self = Self::Fixed { stream: 65_535, connection: 1 << 20 };
    /// The largest of the plan.
    pub const LARGEST: Self = Self::Fixed { stream: 1 << 20, connection: 16 << 20 };
    /// Windows that fill long paths.
    pub const FIXED: Self = Self::Fixed { stream: 16 << 20, connection: 24 << 20 };

    /// `64K / 1M`, or `adaptive`.
    pub fn label(self) -> String {
        match self {
            Self::Fixed { stream, connection } => format!("{} / {}", size_name(stream), size_name(connection)),
            Self::Adaptive => self.to_string(),
        }
    }

    /// The variables that set them, without the `LINKERD2_PROXY_` that all have.
    pub fn settings(self) -> Vec<(String, String)> {
        let mut settings = Vec::new();
        for peer in ["SERVER", "CONNECT"] {
            let mut set = |name: &str, value: String| settings.push((format!("OUTBOUND_{peer}_HTTP2_{name}"), value));
            match self {
                Self::Adaptive => set("ADAPTIVE_FLOW_CONTROL", true.to_string()),
                Self::Fixed { stream, connection } => {
                    set("INITIAL_STREAM_WINDOW_SIZE", stream.to_string());
                    set("INITIAL_CONNECTION_WINDOW_SIZE", connection.to_string());
                }
            }
        }
        settings
    }
}

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Adaptive => f.write_str("adaptive"),
            Self::Fixed { stream, connection } => write!(f, "w{} c{}", size_name(stream), size_name(connection)),
        }
    }
}

impl FromStr for Windows {
    type Err = String;

    /// `default`, `adaptive`, `fixed` for 16M/24M, or sizes of a stream and a connection as `256K/4M`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "default" => return Ok(Self::DEFAULT),
            "adaptive" => return Ok(Self::Adaptive),
            "fixed" => return Ok(Self::FIXED),
            _ => {}
        }
        let sizes = text.split_once('/').and_then(|(stream, connection)| Some((size(stream)?, size(connection)?)));
        let (stream, connection) = sizes.ok_or("must be default, adaptive, fixed, or sizes as 256K/4M")?;
        Ok(Self::Fixed { stream, connection })
    }
}

/// The bytes of `256K`, `4M` or `65535`.
fn size(text: &str) -> Option<u32> {
    let (number, shift) = match text.split_at_checked(text.len().checked_sub(1)?)? {
        (number, "K") => (number, 10),
        (number, "M") => (number, 20),
        _ => (text, 0),
    };
    let bytes = number.parse::<u32>().ok()?.checked_mul(1 << shift)?;
    (1..1 << 31).contains(&bytes).then_some(bytes)
}

/// `64K` and the like; 65535, the window of RFC 9113, is one of them.
pub fn size_name(bytes: u32) -> String {
    let kib = bytes.div_ceil(1 << 10);
    if kib < 1 << 10 { format!("{kib}K") } else { format!("{}M", kib >> 10) }
}

// === impl Side ===

impl Side {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Client => "client",
            Self::Endpoint => "endpoint",
            Self::Both => "both",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
