//! PINGs of a connection: keep-alive, and measurements of the path.

use crate::connection::{
    flow::{network_path::NetworkPath, windows::Engine},
    now::now,
    state::ConnectionState,
};
use h2::{Ping, PingPong};
use http_h2::ClientKeepAlive;
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
    /// `None`: no PING has been sent.
    ping_pong: Option<PingPong>,
    sent_at: Option<Instant>,
    /// The connection's count of reads and writes at the last poll.
    moves: u64,
    params: Option<ClientKeepAlive>,
    /// `None`: there is none, or the connection is not established yet.
    keep_alive: Option<KeepAlive>,
    estimate: PathEstimate,
}

/// A result of [`Pings::poll`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PingEvent {
    /// A PING was not acknowledged in time.
    KeepAliveTimedOut,
    /// The bytes of DATA that came while a PING was in flight: the bandwidth-delay product, if they are at least [`MIN_RECEIVED`]
    /// and the window was not the limit.
    Measured(u32),
}

#[derive(Debug)]
struct KeepAlive {
    params: ClientKeepAlive,
    last_read: Instant,
    /// Until the next PING, or, while one is in flight, until the keep-alive timeout.
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

/// The estimate of a path's round-trip time and bandwidth. A PING is sent when DATA has come, so that idle connections, and the
/// ones of few bytes, have none.
#[derive(Debug)]
struct PathEstimate {
    /// [`NetworkPath::received_bytes`] when the PING was sent, or else when the last one was acknowledged.
    received: u64,
    /// The highest bandwidth measured, in bytes a second; fades.
    bandwidth: f64,
    /// In seconds. `None`: not measured yet.
    rtt: Option<f64>,
    /// The pause between PINGs, which grows while nothing changes.
    pause: Duration,
    min_pause: Duration,
    /// `None`: now.
    next_at: Option<Instant>,
}

/// Bytes of DATA after which a measurement is worth a PING: half of the initial window of RFC 9113 section 6.9.2.
pub(super) const MIN_RECEIVED: u32 = 32_768;
/// The pause where windows are adaptive: short at first, since the windows may have to grow.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// The least pause where they are fixed.
const MIN_PAUSE_FIXED: Duration = Duration::from_secs(2);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// The weight of the last round trip in the moving average.
const RTT_WEIGHT: f64 = 0.125;
/// The part of the highest bandwidth that is left after another measurement.
const BANDWIDTH_DECAY: f64 = 0.9;

// === impl Pings ===

impl Pings {
    pub(crate) fn new(keep_alive: Option<ClientKeepAlive>, adaptive: bool) -> Self {
        let min_pause = if adaptive { MIN_PAUSE } else { MIN_PAUSE_FIXED };
        Self {
            ping_pong: None,
            sent_at: None,
            moves: 0,
            params: keep_alive,
            keep_alive: None,
            estimate: PathEstimate {
                received: 0,
                bandwidth: 0.0,
                rtt: None,
                pause: min_pause,
                min_pause,
                next_at: None,
            },
        }
    }

    /// Starts keep-alive. To be called once the connection is established.
    pub(crate) fn start(&mut self) {
        self.keep_alive = self.params.map(|params| KeepAlive {
            params,
            last_read: Instant::now(),
            timer: Box::pin(tokio::time::sleep(params.interval)),
            waiting: false,
        });
    }

    /// Sends PINGs; ready with a keep-alive timeout or a measurement.
    pub(crate) fn poll(
        &mut self,
        engine: &mut impl Engine,
        state: &ConnectionState,
        cx: &mut Context<'_>,
    ) -> Poll<PingEvent> {
        let mut found = Poll::Pending;
        if self.sent_at.is_none() && self.estimate.is_due(state.path()) {
            self.send(engine, state.path(), cx);
        }
        if let (Some(sent_at), Some(ping_pong)) = (self.sent_at, &mut self.ping_pong)
            && let Poll::Ready(Ok(_)) = ping_pong.poll_pong(cx)
        {
            self.sent_at = None;
            if let Some(keep_alive) = &mut self.keep_alive {
                keep_alive.answered();
            }
            found = Poll::Ready(PingEvent::Measured(self.estimate.measure(sent_at, state.path())));
        }
        if self.keep_alive.is_some() {
            return self.poll_keep_alive(engine, state, cx).map_or(found, Poll::Ready);
        }
        found
    }

    fn poll_keep_alive(
        &mut self,
        engine: &mut impl Engine,
        state: &ConnectionState,
        cx: &mut Context<'_>,
    ) -> Option<PingEvent> {
        let moves = state.moves();
        if let Some(keep_alive) = self.keep_alive.as_mut().filter(|_| moves != self.moves) {
            keep_alive.last_read = Instant::now();
        }
        self.moves = moves;
        while let Some(keep_alive) = &mut self.keep_alive
            && keep_alive.timer.as_mut().poll(cx).is_ready()
        {
            if keep_alive.waiting {
                return Some(PingEvent::KeepAliveTimedOut);
            }
            if keep_alive.is_due(state.streams() == 0) {
                self.send(engine, state.path(), cx);
            }
        }
        None
    }

    fn send(&mut self, engine: &mut impl Engine, path: &NetworkPath, cx: &mut Context<'_>) {
        if self.ping_pong.is_none() {
            self.ping_pong = engine.ping_pong();
            // Until its next poll the engine does not know that there are PINGs to send.
            cx.waker().wake_by_ref();
        }
        // A PING that is in flight already serves this use too. Sending fails only if the connection has ended.
        if self.sent_at.is_none()
            && let Some(ping_pong) = &mut self.ping_pong
            && ping_pong.send_ping(Ping::opaque()).is_ok()
        {
            self.sent_at = Some(Instant::now());
            self.estimate.received = path.received_bytes();
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

// === impl PathEstimate ===

impl PathEstimate {
    /// Whether enough has come for a measurement, and the last one is long enough ago.
    #[inline]
    fn is_due(&self, path: &NetworkPath) -> bool {
        path.received_bytes().wrapping_sub(self.received) >= u64::from(MIN_RECEIVED)
            && self.next_at.is_none_or(|next_at| now() >= next_at)
    }

    /// Measures by a PING that was sent at `sent_at` and acknowledged now; returns the bytes that have come meanwhile.
    fn measure(&mut self, sent_at: Instant, path: &NetworkPath) -> u32 {
        let now = Instant::now();
        let sample = (now - sent_at).as_secs_f64();
        let rtt = self.rtt.map_or(sample, |rtt| rtt + (sample - rtt) * RTT_WEIGHT);
        self.rtt = Some(rtt);
        let total = path.received_bytes();
        let received = total.wrapping_sub(self.received);
        self.received = total;
        let bandwidth = received as f64 / sample.max(f64::EPSILON);
        let faster = bandwidth > self.bandwidth;
        self.bandwidth = bandwidth.max(self.bandwidth * BANDWIDTH_DECAY);
        self.pause = if faster { self.min_pause } else { (self.pause * 2).min(MAX_PAUSE) };
        self.next_at = Some(now + self.pause);
        path.set_measured(Duration::from_secs_f64(rtt), self.bandwidth as u64);
        u32::try_from(received).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs 30 round trips of a link with `bandwidth` bytes a second and `rtt`.
    async fn measure(estimate: &mut PathEstimate, path: &NetworkPath, bandwidth: u32, rtt: Duration) -> u32 {
        let mut product = 0;
        for _ in 0..30 {
            let sent_at = Instant::now();
            estimate.received = path.received_bytes();
            tokio::time::advance(rtt).await;
            path.received((f64::from(bandwidth) * rtt.as_secs_f64()) as usize);
            product = estimate.measure(sent_at, path);
        }
        product
    }

    #[tokio::test(start_paused = true)]
    async fn a_path_is_measured_and_pings_become_rare() {
        let (mut pings, path) = (Pings::new(None, true), NetworkPath::new());
        let estimate = &mut pings.estimate;
        assert!(!estimate.is_due(&path), "nothing has come");
        let product = measure(estimate, &path, 125_000_000, Duration::from_millis(20)).await;
        assert_eq!(product, 2_500_000);
        let (rtt, bandwidth) = path.measured().unwrap();
        assert_eq!(rtt, Duration::from_millis(20));
        assert!((124_000_000..=125_000_000).contains(&bandwidth), "{bandwidth}");
        assert_eq!(estimate.pause, MAX_PAUSE);
        assert_eq!(measure(estimate, &path, 1_000, Duration::from_millis(20)).await, 20);
    }
}
