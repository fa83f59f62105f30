//! From a path's round trip and bandwidth to the windows to set.

use bytes::Bytes;
use h2::{Ping, client};
use http::{Request, Uri};
use std::{error::Error, fmt, future::poll_fn, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout_at},
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

/// The options of a measurement.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`; HTTP/2 without TLS.
    pub authority: String,
    /// The path to fetch for the bandwidth; the larger the response, the better.
    pub path: String,
    /// Downloads at once.
    pub streams: usize,
    /// How long to download.
    pub time: Duration,
}

/// Windows of RFC 9113: none is below.
const LEAST: u32 = 65_535;
/// Above the least, windows are multiples of this.
const STEP: u32 = 64 << 10;
const MOST: u32 = 1 << 30;
/// The part of its window that a stream gets per round trip, at worst: h2 sends WINDOW_UPDATE by the third, and bytes
/// after the last third wait.
const SHARE: f64 = 2.0 / 3.0;
const PINGS: usize = 11;

// === impl Path ===

impl Path {
    /// Measures a server: its round trip by PING, its bandwidth by downloads over windows that never bind.
    ///
    /// # Errors
    ///
    /// When it cannot be reached, or does not speak HTTP/2.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn measure(target: &Target) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let io = TcpStream::connect(&target.authority).await?;
        io.set_nodelay(true)?;
        Self::measure_over(io, target).await
    }

    async fn measure_over<I>(io: I, target: &Target) -> Result<Self, Box<dyn Error + Send + Sync>>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut builder = client::Builder::new();
        builder.initial_window_size(16 << 20).initial_connection_window_size(MOST);
        let (client, mut connection) = builder.handshake::<_, Bytes>(io).await?;
        let mut pings = connection.ping_pong().ok_or("the connection takes no PING")?;
        // Aborted when this is done.
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { connection.await.unwrap_or_default() });
        let mut times = Vec::new();
        for _ in 0..PINGS {
            let start = Instant::now();
            pings.ping(Ping::opaque()).await?;
            times.push(start.elapsed());
        }
        times.sort();

        let uri: Uri = format!("http://{}{}", target.authority, target.path).parse()?;
        let mut downloads = JoinSet::new();
        let start = Instant::now();
        let until = start + target.time;
        for _ in 0..target.streams.max(1) {
            downloads.spawn(download(client.clone(), uri.clone(), until));
        }
        let mut bytes = 0;
        while let Some(received) = downloads.join_next().await {
            bytes += received??;
        }
        if bytes == 0 {
            return Err(format!("{uri} answers with nothing: name another path").into());
        }
        Ok(Self { rtt: times[PINGS / 2], bits_per_second: bytes as f64 * 8.0 / start.elapsed().as_secs_f64() })
    }

    /// Bytes on the way when the path is full.
    pub fn product(&self) -> f64 {
        self.bits_per_second / 8.0 * self.rtt.as_secs_f64()
    }
}

/// Downloads again and again, and says how many bytes came.
async fn download(
    client: client::SendRequest<Bytes>,
    uri: Uri,
    until: Instant,
) -> Result<u64, Box<dyn Error + Send + Sync>> {
    let mut bytes = 0;
    let all = async {
        loop {
            let mut client = client.clone().ready().await?;
            let mut req = Request::new(());
            *req.uri_mut() = uri.clone();
            let (rsp, _) = client.send_request(req, true)?;
            let mut body = rsp.await?.into_body();
            while let Some(data) = poll_fn(|cx| body.poll_data(cx)).await {
                let data = data?;
                bytes += data.len() as u64;
                body.flow_control().release_capacity(data.len())?;
            }
        }
    };
    let ended: Result<Result<(), h2::Error>, _> = timeout_at(until, all).await;
    // It goes on until time is up.
    ended.unwrap_or(Ok(()))?;
    Ok(bytes)
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
        let window = f64::from(self.stream) * 8.0;
        (window * SHARE / self.path.rtt.as_secs_f64()).min(self.path.bits_per_second)
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
        for peer in ["CONNECT", "SERVER"] {
            let name = format!("LINKERD2_PROXY_OUTBOUND_{peer}_HTTP2_INITIAL");
            writeln!(f, "{name}_STREAM_WINDOW_SIZE={stream}")?;
            writeln!(f, "{name}_CONNECTION_WINDOW_SIZE={connection}")?;
        }
        writeln!(f)?;
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
        write!(
            f,
            "- adaptive windows grow by themselves, up to 16 MiB, which is what each reader that stops may hold then"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        link::{Direction, Link},
        load::{Endpoint, serve_endpoint},
        timer::Clock,
    };
    use std::sync::Arc;

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

    #[tokio::test(start_paused = true)]
    async fn measures_what_the_link_is() {
        let both = Direction::of_round_trip(Duration::from_millis(20), 50);
        let (near, far) = Link::new(both, both, Clock::Tokio).pair().unwrap();
        tokio::spawn(serve_endpoint(far, Arc::default()));
        let target = Target {
            authority: "bench.example".to_owned(),
            path: "/bytes/16777216".to_owned(),
            streams: 2,
            time: Duration::from_secs(1),
        };
        let path = Path::measure_over(near, &target).await.unwrap();
        assert!((19.0..=21.0).contains(&(path.rtt.as_secs_f64() * 1e3)), "{path:?}");
        assert!((47e6..=51e6).contains(&path.bits_per_second), "{path:?}");
    }

    #[tokio::test]
    async fn measures_over_tcp() {
        let endpoint = Endpoint::spawn().await.unwrap();
        let target = Target {
            authority: endpoint.addr().to_string(),
            path: "/bytes/65536".to_owned(),
            streams: 2,
            time: Duration::from_millis(50),
        };
        let path = Path::measure(&target).await.unwrap();
        assert!(path.rtt > Duration::ZERO && path.bits_per_second > 0.0, "{path:?}");
    }
}
