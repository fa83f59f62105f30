//! PINGs of a connection: keep-alive, and the bandwidth-delay product for adaptive windows.

use h2::{Ping, PingPong};
use http_h2::{ClientKeepAlive, FlowControl};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// The PINGs of one connection. Only one is in flight at a time, and serves both uses.
#[derive(Debug)]
pub(crate) struct Pings {
    ping_pong: PingPong,
    sent_at: Option<Instant>,
    /// The connection's count of reads and writes at the last poll.
    moves: u64,
    keep_alive: Option<KeepAlive>,
    window: Option<BdpEstimate>,
}

/// A result of [`Pings::poll`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PingEvent {
    /// A PING was not acknowledged in time.
    KeepAliveTimedOut,
    /// The bandwidth-delay product has grown: windows should have this size in bytes.
    Window(u32),
}

#[derive(Debug)]
struct KeepAlive {
    params: ClientKeepAlive,
    last_read: Instant,
    /// Until the next PING, or, while one is in flight, until the keep-alive timeout.
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

/// The estimate of the bandwidth-delay product (BDP): the bytes that arrive while a PING is in flight, doubled as long as
/// they fill the window and the bandwidth grows.
#[derive(Debug)]
struct BdpEstimate {
    size: u32,
    /// Bytes of DATA since the PING was sent.
    received: usize,
    /// The highest bandwidth measured, in bytes a second.
    bandwidth: f64,
    rtt: Option<f64>,
    /// The pause between PINGs, which grows while nothing changes.
    pause: Duration,
    next_at: Instant,
}

/// The initial window of RFC 9113 section 6.9.2, which adaptive windows start at.
const INITIAL_WINDOW: u32 = 65_535;
/// Adaptive windows stop growing here.
const MAX_WINDOW: u32 = 16 << 20;
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// The weight of the last round trip in the moving average.
const RTT_WEIGHT: f64 = 0.125;

/// The initial windows of a stream and of a connection, in bytes.
pub(crate) fn initial_windows(flow_control: FlowControl) -> (u32, u32) {
    match flow_control {
        FlowControl::Adaptive => (INITIAL_WINDOW, INITIAL_WINDOW),
        FlowControl::Fixed { initial_stream_window_size, initial_connection_window_size } => {
            (initial_stream_window_size, initial_connection_window_size)
        }
    }
}

// === impl Pings ===

impl Pings {
    pub(crate) fn new(ping_pong: PingPong, keep_alive: Option<ClientKeepAlive>, adaptive: bool) -> Self {
        let now = Instant::now();
        Self {
            ping_pong,
            sent_at: None,
            moves: 0,
            keep_alive: keep_alive.map(|params| KeepAlive {
                params,
                last_read: now,
                timer: Box::pin(tokio::time::sleep(params.interval)),
                waiting: false,
            }),
            window: adaptive.then_some(BdpEstimate {
                size: INITIAL_WINDOW,
                received: 0,
                bandwidth: 0.0,
                rtt: None,
                pause: MIN_PAUSE,
                next_at: now,
            }),
        }
    }

    /// Counts `bytes` of DATA that a body took, and sends a PING when a measurement is due.
    pub(crate) fn data(&mut self, bytes: usize) {
        let Some(window) = &mut self.window else { return };
        window.received = window.received.saturating_add(bytes);
        if self.sent_at.is_none() && Instant::now() >= window.next_at {
            window.received = bytes;
            self.send();
        }
    }

    /// Waits for a keep-alive timeout or a new window size. `moves` changes when bytes move; `idle`: no stream is open.
    pub(crate) fn poll(&mut self, moves: u64, idle: bool, cx: &mut Context<'_>) -> Poll<PingEvent> {
        if let Some(keep_alive) = self.keep_alive.as_mut().filter(|_| moves != self.moves) {
            keep_alive.last_read = Instant::now();
        }
        self.moves = moves;
        let mut found = Poll::Pending;
        if let Some(sent_at) = self.sent_at
            && let Poll::Ready(Ok(_)) = self.ping_pong.poll_pong(cx)
        {
            self.sent_at = None;
            if let Some(keep_alive) = &mut self.keep_alive {
                keep_alive.answered();
            }
            if let Some(size) = self.window.as_mut().and_then(|window| window.measure(sent_at)) {
                found = Poll::Ready(PingEvent::Window(size));
            }
        }
        while let Some(keep_alive) = &mut self.keep_alive
            && keep_alive.timer.as_mut().poll(cx).is_ready()
        {
            if keep_alive.waiting {
                return Poll::Ready(PingEvent::KeepAliveTimedOut);
            }
            if keep_alive.is_due(idle) {
                self.send();
            }
        }
        found
    }

    fn send(&mut self) {
        // A PING that is in flight already serves this use too. Sending fails only if the connection has ended.
        if self.sent_at.is_none() && self.ping_pong.send_ping(Ping::opaque()).is_ok() {
            self.sent_at = Some(Instant::now());
        }
    }
}

// === impl KeepAlive ===

impl KeepAlive {
    /// Whether to send a PING, now that the timer has expired; resets the timer in any case.
    fn is_due(&mut self, idle: bool) -> bool {
        let now = Instant::now();
        let due = self.last_read + self.params.interval;
        let is_paused = idle && !self.params.while_idle;
        self.waiting = due <= now && !is_paused;
        let next = match (self.waiting, is_paused) {
            (true, _) => now + self.params.timeout,
            (false, true) => now + self.params.interval,
            (false, false) => due,
        };
        self.timer.as_mut().reset(next);
        self.waiting
    }

    fn answered(&mut self) {
        self.waiting = false;
        self.last_read = Instant::now();
        self.timer.as_mut().reset(self.last_read + self.params.interval);
    }
}

// === impl BdpEstimate ===

impl BdpEstimate {
    /// Measures by a PING that was sent at `sent_at` and acknowledged now; returns the new window size, if it changes.
    fn measure(&mut self, sent_at: Instant) -> Option<u32> {
        let now = Instant::now();
        let sample = (now - sent_at).as_secs_f64();
        let rtt = self.rtt.map_or(sample, |rtt| rtt + (sample - rtt) * RTT_WEIGHT);
        self.rtt = Some(rtt);
        // One and a half round trips: part of the time is spent at the peer and not in flight.
        let bandwidth = self.received as f64 / (rtt * 1.5).max(f64::EPSILON);
        let more = bandwidth > self.bandwidth;
        self.bandwidth = bandwidth.max(self.bandwidth);
        let full = self.received >= self.size as usize / 3 * 2;
        let grown = u32::try_from(self.received * 2).unwrap_or(MAX_WINDOW).min(MAX_WINDOW);
        let changes = more && full && grown > self.size;
        self.pause = if changes { Duration::ZERO } else { (self.pause * 2).clamp(MIN_PAUSE, MAX_PAUSE) };
        self.next_at = now + self.pause;
        if changes {
            self.size = grown;
        }
        changes.then_some(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> BdpEstimate {
        let next_at = Instant::now();
        BdpEstimate { size: INITIAL_WINDOW, received: 0, bandwidth: 0.0, rtt: None, pause: MIN_PAUSE, next_at }
    }

    /// Runs 30 round trips of a link with `bandwidth` bytes a second and `rtt`; returns the window.
    async fn settle(window: &mut BdpEstimate, bandwidth: u32, rtt: Duration) -> u32 {
        for _ in 0..30 {
            let sent_at = Instant::now();
            tokio::time::advance(rtt).await;
            window.received = ((f64::from(bandwidth) * rtt.as_secs_f64()) as usize).min(window.size as usize);
            window.measure(sent_at);
        }
        window.size
    }

    #[tokio::test(start_paused = true)]
    async fn windows_grow_to_twice_the_bandwidth_delay_product() {
        let product = 125_000_000 / 50;
        let size = settle(&mut window(), 125_000_000, Duration::from_millis(20)).await;
        assert!((product..=2 * product).contains(&size), "{size} for {product}");
    }

    #[tokio::test(start_paused = true)]
    async fn windows_that_are_not_filled_do_not_grow_and_the_maximum_holds() {
        assert_eq!(settle(&mut window(), 1_000_000, Duration::from_millis(1)).await, INITIAL_WINDOW);
        assert_eq!(settle(&mut window(), u32::MAX, Duration::from_secs(1)).await, MAX_WINDOW);
    }

    #[tokio::test(start_paused = true)]
    async fn pings_become_rare_while_the_window_does_not_change() {
        let mut window = window();
        settle(&mut window, 1_000, Duration::from_millis(1)).await;
        assert_eq!(window.pause, MAX_PAUSE);
    }
}
