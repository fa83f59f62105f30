//! From a path's round trip and bandwidth to the windows to set.

mod measure;

pub use measure::{Measured, Target, Tls};

use proxy_http::adaptive_windows;
use std::{
    fmt::{self, Write as _},
    time::Duration,
};

/// The properties of a path to a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Path {
    /// The round trip.
    pub rtt: Duration,
    /// Bits a second.
    pub bits_per_second: f64,
}

/// The demands on the windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Needs {
    /// Streams that share a connection, when it is busy; at least 1.
    pub streams: u32,
    /// Of these, how many may stop reading without taking window from the others, or more memory than is set.
    pub slow_readers: u32,
    /// The most that one connection may make the proxy hold, in bytes.
    pub memory: u32,
}

/// Windows, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Advice {
    path: Path,
    needs: Needs,
    /// Of a stream, in bytes.
    pub stream: u32,
    /// Of a connection, in bytes.
    pub connection: u32,
}

/// Windows of the proxy, and the rates that they allow on a path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlook {
    /// Their name.
    pub name: &'static str,
    /// Of a stream, in bytes.
    pub stream: u32,
    /// Of a connection, in bytes.
    pub connection: u32,
    /// Bits a second of one stream, at least.
    pub one: f64,
    /// Bits a second of all streams of the connection together, at least.
    pub all: f64,
}

/// Windows of RFC 9113: none is below.
const LEAST: u32 = 65_535;
/// Above the least, windows are multiples of this.
const STEP: u32 = 64 << 10;
const MOST: u32 = 1 << 30;
/// The part of its window that a stream gets per round trip, at worst: h2 sends WINDOW_UPDATE by the third, and bytes
/// after the last third wait.
const SHARE: f64 = 2.0 / 3.0;
/// The sides of the proxy, as the names of variables have them.
const PEERS: [&str; 2] = ["CONNECT", "SERVER"];
/// The streams that a client may have open by default.
const DEFAULT_STREAMS: u32 = 200;
/// The default windows of a stream and of a connection.
const DEFAULT: (u32, u32) = (LEAST, 1 << 20);
/// The adaptive windows of a stream and of a connection to an endpoint, at the start.
const ADAPTIVE: (u32, u32) = (adaptive_windows::STREAM_WINDOW, adaptive_windows::CONNECTION_WINDOW);
/// The largest that adaptive windows become, at three times the bytes on the way.
const MOST_ADAPTIVE: u32 = adaptive_windows::MAX_CONNECTION_WINDOW;
/// A path counts as full from this share of its bandwidth on.
const FULL: f64 = 0.95;

// === impl Path ===

impl Path {
    /// Bytes on the way when the path is full.
    pub fn product(&self) -> f64 {
        self.bits_per_second / 8.0 * self.rtt.as_secs_f64()
    }

    /// The bits a second that a window of so many bytes allows at least.
    fn bits_per_second_with(&self, window: u32) -> f64 {
        (f64::from(window) * 8.0 * SHARE / self.rtt.as_secs_f64()).min(self.bits_per_second)
    }
}

// === impl Advice ===

impl Advice {
    /// The windows to set for a path.
    pub fn new(path: Path, needs: Needs) -> Self {
        // One stream alone shall fill the path, though it may get no more than `SHARE` of a window per round trip.
        let wanted = (path.product() * 2.0).min(f64::from(MOST));
        // Beside the windows of streams that stop, one more for the streams that do not.
        let shares = needs.slow_readers.min(needs.streams.saturating_sub(1)).saturating_add(1);
        let stream = round_up(wanted).min(round_down(needs.memory / shares));
        Self { path, needs, stream, connection: stream.saturating_mul(shares).max(stream).min(MOST) }
    }

    /// How many readers may stop before their connection needs more window than is set.
    pub fn slow_readers(&self) -> u32 {
        (self.connection / self.stream).saturating_sub(1)
    }

    /// The bits a second that one stream gets at least.
    pub fn bits_per_second(&self) -> f64 {
        self.path.bits_per_second_with(self.stream)
    }

    /// The variables to set, as a file of an environment: `NAME=value` and comments.
    pub fn environment(&self) -> String {
        let Self { path, needs, stream, connection } = self;
        let mbits = |bits: f64| bits / 1e6;
        let [default, _, _, adaptive] = self.outlooks();
        let name = |peer| format!("LINKERD2_PROXY_OUTBOUND_{peer}_HTTP2");
        let mut text = String::new();
        let written = (|| {
            let fills = default.fills(path);
            if fills {
                writeln!(text, "# The default windows fill this path. Fixed windows for it:")?;
            } else {
                let (with, without) = (mbits(adaptive.one), mbits(default.one));
                writeln!(
                    text,
                    "# One stream gets {without:.1} Mbit/s with the default windows, and with these {with:.1} Mbit/s:"
                )?;
                for peer in PEERS {
                    writeln!(text, "{}_ADAPTIVE_FLOW_CONTROL=true", name(peer))?;
                }
                let fixed = mbits(self.bits_per_second());
                writeln!(text, "# Or instead of that fixed windows, with which one stream gets {fixed:.1} Mbit/s:")?;
            }
            for peer in PEERS {
                writeln!(text, "# {}_INITIAL_STREAM_WINDOW_SIZE={stream}", name(peer))?;
                writeln!(text, "# {}_INITIAL_CONNECTION_WINDOW_SIZE={connection}", name(peer))?;
            }
            if needs.streams > DEFAULT_STREAMS {
                writeln!(text, "# Clients may have {DEFAULT_STREAMS} streams on a connection by default:")?;
                writeln!(text, "{}_MAX_CONCURRENT_STREAMS={}", name("SERVER"), needs.streams)?;
            }
            fmt::Result::Ok(())
        })();
        written.expect("a String takes all that is written");
        text
    }

    /// The rates that the default windows, the advised ones, large fixed ones and adaptive ones reach.
    pub fn outlooks(&self) -> [Outlook; 4] {
        let long = (self.path.product() * 3.0).min(f64::from(MOST_ADAPTIVE)) as u32;
        let adaptive = (ADAPTIVE.0.max(long), ADAPTIVE.1.max(long));
        let of = |name, (stream, connection): (u32, u32)| {
            let all = stream.saturating_mul(self.needs.streams).min(connection);
            let one = self.path.bits_per_second_with(stream.min(connection));
            Outlook { name, stream, connection, one, all: self.path.bits_per_second_with(all) }
        };
        [
            of("default", DEFAULT),
            of("fixed, as above", (self.stream, self.connection)),
            of("fixed, 16 / 24 MiB", ADAPTIVE),
            of("adaptive", adaptive),
        ]
    }
}

impl Outlook {
    /// Whether one stream alone fills a path.
    fn fills(&self, path: &Path) -> bool {
        self.one >= path.bits_per_second * FULL
    }
}

fn round_up(bytes: f64) -> u32 {
    if bytes <= f64::from(LEAST) { LEAST } else { (bytes / f64::from(STEP)).ceil() as u32 * STEP }
}

fn round_down(bytes: u32) -> u32 {
    if bytes < 2 * STEP { LEAST } else { bytes / STEP * STEP }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, needs, stream, connection } = self;
        let mbits = |bits: f64| bits / 1e6;
        let kib = |bytes: u32| bytes.div_ceil(1 << 10);
        let outlooks = self.outlooks();
        let all = format!("{} streams", needs.streams);
        writeln!(f, "{:33} {:>10} {:>12} {:>12} {all:>12}", "windows", "stream KiB", "connect. KiB", "one stream")?;
        for Outlook { name, stream, connection, one, all } in &outlooks {
            let (stream, connection) = (kib(*stream), kib(*connection));
            writeln!(f, "{name:33} {stream:>10} {connection:>12} {:>12.1} {:>12.1}", mbits(*one), mbits(*all))?;
        }
        writeln!(f, "\nRates are Mbit/s, at least. Why:\n")?;
        writeln!(
            f,
            "- path: {:.2} ms and {:.1} Mbit/s, so {:.0} KiB are on the way when it is full",
            path.rtt.as_secs_f64() * 1e3,
            mbits(path.bits_per_second),
            path.product() / 1024.0,
        )?;
        writeln!(
            f,
            "- stream window: {} KiB; twice what is on the way would fill the path with one stream, which may get no more \
             than two thirds of a window per round trip (h2 gives credit back by the third). One stream gets {:.1} Mbit/s",
            kib(*stream),
            mbits(self.bits_per_second()),
        )?;
        writeln!(
            f,
            "- connection window: {} KiB; {} of {} streams may stop reading before the proxy has to give their connection \
             more (connection window / stream window - 1)",
            kib(*connection),
            self.slow_readers(),
            needs.streams,
        )?;
        writeln!(
            f,
            "- memory: clients that stop reading can make the proxy hold {} KiB for each connection; allowed are {}. More of \
             them hold {} KiB each, all together no more than D_MAX_BUFFERED_BYTES",
            kib(*connection),
            kib(needs.memory),
            kib(*stream),
        )?;
        if self.slow_readers() < needs.slow_readers.min(needs.streams.saturating_sub(1)) {
            writeln!(f, "- fewer slow readers than asked for: the memory does not suffice for the smallest windows")?;
        }
        if f64::from(*stream) < path.product() {
            writeln!(f, "- the memory bounds the stream window below what the path could carry")?;
        }
        writeln!(
            f,
            "- adaptive: a stream has {} KiB at once, and more on a path that PING finds to need it, up to 64 MiB. While readers \
             that stopped hold more than 1/32 of D_MAX_BUFFERED_BYTES, the windows of their connections' streams shrink, down to \
             65535",
            kib(ADAPTIVE.0),
        )?;
        write!(
            f,
            "- uploads: a client's connection has up to 24 MiB, as far as D_MAX_BUFFERED_BYTES has as much to reserve; each gets no \
             more than a quarter of what is left of one half of it, so that of very many clients the last start with the \
             default windows"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(ms: u64, mbits: f64) -> Path {
        Path { rtt: Duration::from_millis(ms), bits_per_second: mbits * 1e6 }
    }

    const NEEDS: Needs = Needs { streams: 64, slow_readers: 3, memory: 64 << 20 };

    #[test]
    fn stream_window_is_twice_the_product() {
        let advice = Advice::new(path(20, 1_000.0), NEEDS);
        assert_eq!(advice.stream, 77 * STEP);
        assert_eq!((advice.connection, advice.slow_readers()), (4 * 77 * STEP, 3));
        assert!((advice.bits_per_second() / 1e9 - 1.0).abs() < 0.01);
    }

    #[test]
    fn short_paths_need_the_least() {
        let advice = Advice::new(path(0, 1_000.0), NEEDS);
        assert_eq!((advice.stream, advice.slow_readers()), (LEAST, 3));
    }

    #[test]
    fn memory_bounds_the_connection_window() {
        let advice = Advice::new(path(80, 10_000.0), Needs { memory: 4 << 20, ..NEEDS });
        assert_eq!((advice.stream, advice.connection), (1 << 20, 4 << 20));
        assert!(advice.to_string().contains("the memory bounds the stream window"));
    }

    #[test]
    fn one_stream_has_no_slow_neighbours() {
        let advice = Advice::new(path(20, 100.0), Needs { streams: 1, ..NEEDS });
        assert_eq!(advice.stream, advice.connection);
    }

    #[test]
    fn windows_are_what_the_proxy_accepts() {
        for memory in [1, LEAST, 1 << 20, u32::MAX] {
            for slow_readers in [0, 1, 1_000_000, u32::MAX] {
                let needs = Needs { streams: u32::MAX, slow_readers, memory };
                let advice = Advice::new(path(1_000, 100_000.0), needs);
                assert!((LEAST..=MOST).contains(&advice.stream), "{advice:?}");
                assert!((advice.stream..=MOST).contains(&advice.connection), "{advice:?}");
            }
        }
    }

    #[test]
    fn adaptive_fills_paths_that_the_default_does_not() {
        let advice = Advice::new(path(40, 1_000.0), NEEDS);
        let [default, _, fixed, adaptive] = advice.outlooks();
        // Two thirds of 64 KiB, and of 1 MiB, in 40 ms.
        assert!((default.one / 1e6 - 8.7).abs() < 0.1 && (default.all / 1e6 - 139.8).abs() < 0.1, "{default:?}");
        assert_eq!((fixed.one, adaptive.one, adaptive.all), (1e9, 1e9, 1e9));
        let text = advice.environment();
        assert!(
            text.contains("8.7 Mbit/s with the default windows") && text.contains("CONNECT_HTTP2_ADAPTIVE_"),
            "{text}"
        );
        let small = Advice::new(path(40, 1_000.0), Needs { memory: 4 << 20, ..NEEDS });
        let rate = format!("one stream gets {:.1} Mbit/s:", small.bits_per_second() / 1e6);
        assert!(small.environment().contains(&rate) && small.bits_per_second() < 0.5e9, "{rate}");
        let text = Advice::new(path(0, 1_000.0), NEEDS).environment();
        assert!(
            text.starts_with("# The default windows fill") && !text.contains("ADAPTIVE_FLOW_CONTROL=true"),
            "{text}"
        );
    }

    #[test]
    fn the_environment_is_a_file_of_variables_and_comments() {
        for (ms, streams, variables) in [(0, 8, 0), (40, 8, 2), (40, 500, 3)] {
            let text = Advice::new(path(ms, 1_000.0), Needs { streams, ..NEEDS }).environment();
            let set: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
            assert_eq!(set.len(), variables, "{text}");
            assert!(
                set.iter().all(|line| line.starts_with("LINKERD2_PROXY_OUTBOUND_") && line.contains('=')),
                "{text}"
            );
        }
    }

    #[test]
    fn adaptive_follows_the_path_up_to_64_mib() {
        let adaptive = |ms, mbits| Advice::new(path(ms, mbits), NEEDS).outlooks()[3];
        assert_eq!((adaptive(20, 1_000.0).stream, adaptive(20, 1_000.0).connection), (16 << 20, 24 << 20));
        assert_eq!((adaptive(80, 1_000.0).stream, adaptive(80, 1_000.0).connection), (30_000_000, 30_000_000));
        assert_eq!(adaptive(80, 1_000.0).one, 1e9);
        assert_eq!((adaptive(80, 10_000.0).stream, adaptive(80, 10_000.0).connection), (64 << 20, 64 << 20));
    }
}
