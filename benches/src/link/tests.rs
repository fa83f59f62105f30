//! The link keeps to its settings: round trips and goodput within 5 %, of pairs in memory and of TCP through the relay.
//! Where possible the tests run with time paused, so that it does not matter how busy the machine is.

use super::*;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    time::{Instant, timeout},
};

const TOLERANCE: f64 = 0.05;
/// Milliseconds and Mbit/s.
const LINKS: [(u64, u64); 6] = [(1, 100), (1, 1000), (20, 100), (20, 1000), (80, 100), (80, 1000)];
/// Others get in the way of a measurement, so it is repeated, over another link each time, until it is right; but no
/// longer than this. A link that is wrong would stay wrong.
const PATIENCE: Duration = Duration::from_secs(60);
/// Measurements would disturb one another.
static ALONE: Mutex<()> = Mutex::const_new(());
/// Short, for a busy machine to leave some of them alone.
const TRANSFER: Duration = Duration::from_millis(20);

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

async fn pair_of_memory(link: &Link) -> (End, End) {
    link.pair().unwrap()
}

/// Two TCP connections with a relay between them, which lives as long as the test does.
async fn pair_of_tcp(link: &Link) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = Relay::spawn(link.clone(), listener.local_addr().unwrap()).await.unwrap();
    let near = TcpStream::connect(relay.addr()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    std::mem::forget(relay);
    (near, far)
}

/// The median round trip of one byte, in seconds.
async fn round_trip(
    runs: usize,
    near: &mut (impl AsyncRead + AsyncWrite + Unpin),
    far: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> f64 {
    let mut times = Vec::new();
    for _ in 0..runs {
        let start = Instant::now();
        let echo = async {
            let byte = far.read_u8().await.unwrap();
            far.write_u8(byte).await.unwrap();
        };
        let ping = async {
            near.write_u8(7).await.unwrap();
            assert_eq!(near.read_u8().await.unwrap(), 7);
            start.elapsed().as_secs_f64()
        };
        times.push(tokio::join!(ping, echo).0);
    }
    median(times)
}

/// Bits a second from the first byte to the last, at the receiver.
async fn goodput(from: &mut (impl AsyncWrite + Unpin), to: &mut (impl AsyncRead + Unpin), bytes: usize) -> f64 {
    let send = async {
        let piece = vec![0; 64 << 10];
        let mut left = bytes;
        while left > 0 {
            let len = left.min(piece.len());
            from.write_all(&piece[..len]).await.unwrap();
            left -= len;
        }
        from.flush().await.unwrap();
    };
    let receive = async {
        let mut piece = vec![0; 64 << 10];
        let first = to.read(&mut piece).await.unwrap();
        let start = Instant::now();
        let mut left = bytes - first;
        while left > 0 {
            left -= to.read(&mut piece).await.unwrap().min(left);
        }
        (bytes - first) as f64 * 8.0 / start.elapsed().as_secs_f64()
    };
    tokio::join!(send, receive).1
}

/// Bytes that take a link of `mbits` [`TRANSFER`].
fn transfer(mbits: u64) -> usize {
    (mbits as f64 * 1e6 / 8.0 * TRANSFER.as_secs_f64()) as usize
}

fn is_near(got: f64, expected: f64, tolerance: f64) -> bool {
    (got / expected - 1.0).abs() < tolerance
}

macro_rules! accuracy {
    ($name:ident, $pair:ident) => {
        #[tokio::test]
        async fn $name() {
            let _alone = ALONE.lock().await;
            for (rtt_ms, mbits) in LINKS {
                let bandwidth = mbits as f64 * 1e6;
                let mut wanted = vec![("RTT", rtt_ms as f64 / 1e3), ("up", bandwidth), ("down", bandwidth)];
                let mut wrong = Vec::new();
                let start = Instant::now();
                while !wanted.is_empty() && start.elapsed() < PATIENCE {
                    let link = Link::symmetric(Direction::of_round_trip(Duration::from_millis(rtt_ms), mbits));
                    let (mut near, mut far) = $pair(&link).await;
                    let mut missing = Vec::new();
                    for (what, expected) in wanted {
                        let got = match what {
                            "RTT" => round_trip(if rtt_ms == 1 { 21 } else { 3 }, &mut near, &mut far).await,
                            "up" => goodput(&mut near, &mut far, transfer(mbits)).await,
                            _ => goodput(&mut far, &mut near, transfer(mbits)).await,
                        };
                        if !is_near(got, expected, TOLERANCE) {
                            missing.push((what, expected));
                            wrong.push((what, got));
                        }
                    }
                    wanted = missing;
                }
                assert!(wanted.is_empty(), "{wanted:?} at {rtt_ms} ms and {mbits} Mbit/s: {wrong:?}");
            }
        }
    };
}

accuracy!(memory_pair_is_accurate, pair_of_memory);
accuracy!(tcp_relay_is_accurate, pair_of_tcp);

/// The computed times of a link; other tests measure them.
#[tokio::test(start_paused = true)]
async fn arrivals_are_exact() {
    for (rtt_ms, mbits) in LINKS {
        let direction = Direction::of_round_trip(Duration::from_millis(rtt_ms), mbits);
        let lane = Lane::new(direction, Clock::Tokio);
        let start = Instant::now();
        let (mut now, mut left, mut last) = (start, transfer(mbits), start);
        while left > 0 {
            match lane.send(left, now) {
                Ok((len, arrival)) => (left, last) = (left - len, arrival),
                Err(full_until) => now = full_until,
            }
        }
        let expected = (direction.delay + TRANSFER).as_secs_f64();
        let got = (last - start).as_secs_f64();
        assert!(is_near(got, expected, 1e-4), "{got} s instead of {expected} at {rtt_ms} ms and {mbits} Mbit/s");
    }
}

#[tokio::test(start_paused = true)]
async fn memory_pair_is_exact_on_a_paused_clock() {
    for (rtt_ms, mbits) in LINKS.into_iter().filter(|(rtt_ms, _)| *rtt_ms > 1) {
        let direction = Direction::of_round_trip(Duration::from_millis(rtt_ms), mbits);
        let (mut near, mut far) = Link::new(direction, direction, Clock::Tokio).pair().unwrap();
        assert_eq!(round_trip(1, &mut near, &mut far).await, rtt_ms as f64 / 1e3);
        // Long, since arrivals are in whole milliseconds.
        let got = goodput(&mut near, &mut far, 10 * transfer(mbits)).await;
        assert!(is_near(got, mbits as f64 * 1e6, 0.02), "{got} at {rtt_ms} ms and {mbits} Mbit/s");
    }
}

/// A pair whose time can be paused.
fn paused(both: Direction) -> (End, End) {
    Link::new(both, both, Clock::Tokio).pair().unwrap()
}

#[tokio::test(start_paused = true)]
async fn jitter_adds_to_the_delay_and_keeps_the_order() {
    let delay = Duration::from_millis(20);
    let jitter = Duration::from_millis(40);
    let (mut near, mut far) = paused(Direction { delay, jitter, ..Direction::DIRECT });
    let start = Instant::now();
    for byte in 0..100 {
        near.write_u8(byte).await.unwrap();
    }
    for byte in 0..100 {
        assert_eq!(far.read_u8().await.unwrap(), byte);
    }
    // The slowest of a hundred is all but certain to be late by a quarter of the jitter.
    assert!((delay + jitter / 4..=delay + jitter).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn full_queue_holds_the_writer_up() {
    let queue = 100_000;
    // A byte takes 8 us: the queue drains in 800 ms.
    let slow = Direction { bandwidth: Some(1_000_000), queue, ..Direction::DIRECT };
    let (mut near, _far) = paused(slow);
    let mut written = 0;
    let flood = async {
        loop {
            written += near.write(&[0; 4096]).await.unwrap();
        }
    };
    timeout(Duration::from_millis(20), flood).await.unwrap_err();
    assert!((queue..queue + 50_000).contains(&written), "{written}");
}

#[tokio::test(start_paused = true)]
async fn unread_bytes_hold_the_writer_up() {
    let (mut near, mut far) = paused(Direction::DIRECT);
    let piece = vec![0; 1 << 20];
    let mut written = 0;
    while let Ok(len) = timeout(Duration::from_millis(20), near.write(&piece)).await {
        written += len.unwrap();
        assert!(written <= 64 << 20, "nothing bounds what is written");
    }
    let writer = tokio::spawn(async move { near.write(&piece).await.unwrap() });
    far.read_exact(&mut [0; 1000]).await.unwrap();
    assert!(writer.await.unwrap() > 0);
}

#[tokio::test(start_paused = true)]
async fn end_arrives_after_the_last_byte() {
    let delay = Duration::from_millis(5);
    let (mut near, mut far) = paused(Direction { delay, ..Direction::DIRECT });
    let start = Instant::now();
    near.write_all(b"bye").await.unwrap();
    drop(near);
    let mut all = Vec::new();
    far.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"bye");
    assert_eq!(start.elapsed(), delay);
    assert_eq!(far.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test(start_paused = true)]
async fn connections_share_the_bandwidth() {
    let both = Direction { bandwidth: Some(100_000_000), ..Direction::DIRECT };
    let link = Link::new(both, both, Clock::Tokio);
    let (mut near, mut far) = link.pair().unwrap();
    let (mut near2, mut far2) = link.pair().unwrap();
    let (one, two) = tokio::join!(goodput(&mut near, &mut far, 1_000_000), goodput(&mut near2, &mut far2, 1_000_000));
    assert!(one < 80e6 && two < 80e6, "{one} and {two}");
    assert_eq!(link.carried(), (2_000_000, 0));
}

#[tokio::test(start_paused = true)]
async fn a_step_takes_bandwidth_away() {
    let profile = Profile::Step { after: Duration::ZERO, bandwidth: 0.1, delay: 1.0 };
    let (mut near, mut far) = paused(Direction { bandwidth: Some(1_000_000_000), profile, ..Direction::DIRECT });
    let got = goodput(&mut near, &mut far, 2_000_000).await;
    assert!(is_near(got, 100e6, TOLERANCE), "{got}");
}
