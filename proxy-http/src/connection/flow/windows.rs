//! The receive windows of one connection and of its streams.
//!
//! The streams of a connection share its window, and data that is received but not read uses up its part of it (RFC 9113
//! section 5.2). Streams whose readers have stopped would use up all of it, and then the others could not receive. So the
//! connection's window is raised by what such streams hold: the others always have the configured window, or three
//! quarters of it at worst. The price is memory, which [`BufferLimit`] bounds.
//!
//! Adaptive windows start so large that they fill long paths, since a window costs nothing as long as readers read. When too
//! much is held, the streams of the connections that hold it get a smaller window by SETTINGS, and their full one again
//! later. A stream that has more than its new window on its way is owed nothing until its reader has caught up (section
//! 6.9.2).

use crate::{
    connection::{
        flow::buffer_limit::{BufferLimit, MIN_CONNECTION_WINDOW, MIN_STREAM_WINDOW},
        now::now,
        state::ConnectionState,
        write_batch::Chunk,
    },
    stats::Side,
};
use h2::PingPong;
use http_h2::FlowControl;
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep},
};

/// The windows that one connection grants its peer.
#[derive(Debug)]
pub(crate) struct Windows {
    buffers: Arc<BufferLimit>,
    adaptive: Option<Adaptive>,
    /// The window of a stream, as the engine has it.
    stream: u32,
    /// The window of the connection, not raised.
    connection: u32,
    /// Bytes by which it is raised.
    given: u32,
    /// The streams that hold data, as `buffers` has them.
    holding: usize,
    /// The connection's waker, as the streams have it.
    waker: Option<Waker>,
    /// Since when the connection waits for others to give back, as `buffers` has it. `None`: it does not.
    waits_since: Option<u64>,
    /// Until windows may become full again. `None`: they are, or the pressure is not over.
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Adaptive {
    /// The part of the connection's window that is reserved. `None`: the peer is an endpoint, and nothing needs to be: there
    /// are as many connections as the operator wants.
    reserved: Option<u32>,
    /// The full window of a stream.
    full: u32,
    /// When the streams' window was last changed. `None`: never.
    changed: Option<Instant>,
}

/// An engine of HTTP/2, as far as windows concern it.
pub(crate) trait Engine {
    /// Sets the connection's window: bytes that the peer may send, with the bytes that are not read yet.
    fn set_connection_window(&mut self, bytes: u32);

    /// Sets the window of all streams by SETTINGS. Returns whether it did: not while other SETTINGS wait to be acknowledged.
    fn set_stream_window(&mut self, bytes: u32) -> bool;

    /// The handle for PINGs, once.
    fn ping_pong(&mut self) -> Option<PingPong>;
}

/// The largest window there is (RFC 9113 section 6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;
/// One part in this many of the connection's window may be held before the window is raised, and be given in excess before
/// it is lowered, so that streams which stop for a short time do not change it.
const SLACK: u32 = 4;
/// The most of that where windows are adaptive.
const MAX_SLACK: u32 = 1 << 20;
/// The window of a stream, unless a path is longer: 16 MiB, or 1.6 Gbit/s at 80 ms. Toward a client it is the most at first.
pub const STREAM_WINDOW: u32 = 16 << 20;
/// The largest window of a connection on a long path, of which a stream has two thirds: 64 MiB.
pub const MAX_CONNECTION_WINDOW: u32 = 64 << 20;
/// The window of a connection: 24 MiB, toward a client as far as there is enough to reserve.
pub const CONNECTION_WINDOW: u32 = 24 << 20;
/// The shortest time for which windows stay small.
const MIN_SMALL_TIME: Duration = Duration::from_secs(1);
/// A stream window above this is too good for new streams to be sent elsewhere.
const AMPLE: u32 = 1 << 20;

/// The windows of a stream and of a connection with a peer of that side, in bytes, as the engine's builder is given them.
pub(crate) fn initial_windows(flow_control: FlowControl, peer: Side) -> (u32, u32) {
    match flow_control {
        FlowControl::Adaptive => match peer {
            Side::Client => (STREAM_WINDOW, MIN_CONNECTION_WINDOW),
            Side::Endpoint => (STREAM_WINDOW, CONNECTION_WINDOW),
        },
        FlowControl::Fixed { initial_stream_window_size, initial_connection_window_size } => {
            (initial_stream_window_size, initial_connection_window_size)
        }
    }
}

// === impl Windows ===

impl Windows {
    /// Windows for a connection that is about to be established.
    pub(crate) fn new(buffers: Arc<BufferLimit>, flow_control: FlowControl, peer: Side) -> Self {
        let (mut stream, mut connection) = initial_windows(flow_control, peer);
        let is_adaptive = flow_control == FlowControl::Adaptive;
        let mut reserved = None;
        if is_adaptive && peer == Side::Client {
            let more = buffers.reserve(CONNECTION_WINDOW - connection, false);
            (reserved, connection) = (Some(more), connection + more);
            // One upload alone is not to hold much more than is reserved.
            stream = more.clamp(MIN_STREAM_WINDOW, STREAM_WINDOW);
        }
        let adaptive = is_adaptive.then_some(Adaptive { reserved, full: stream, changed: None });
        Self {
            buffers,
            adaptive,
            stream,
            connection,
            given: 0,
            holding: 0,
            waker: None,
            waits_since: None,
            timer: None,
        }
    }

    /// The window of a stream, for the engine's builder.
    pub(crate) fn stream(&self) -> u32 {
        self.stream
    }

    pub(crate) fn is_adaptive(&self) -> bool {
        self.adaptive.is_some()
    }

    /// Grants the connection's window. To be called once the connection is established.
    pub(crate) fn start(&mut self, engine: &mut impl Engine, state: &ConnectionState) {
        if self.adaptive.is_some() {
            engine.set_connection_window(self.window());
        }
        self.publish(state);
    }

    /// Raises, lowers, shrinks and restores windows. To be called in each poll of the connection, before the engine is polled,
    /// which then sends the frames, and so that the streams have the current waker.
    #[inline]
    pub(crate) fn poll(&mut self, engine: &mut impl Engine, state: &ConnectionState, cx: &mut Context<'_>) {
        let streams = state.open_streams();
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
            self.waits_since = None;
            streams.set_waker(cx.waker(), self.wakes_at());
        }
        let is_plain = self.given == 0 && self.waits_since.is_none() && !self.is_small() && !state.is_crowded();
        if streams.held() > 0 || !is_plain {
            self.adjust(engine, state, cx);
        }
    }

    #[inline(never)]
    fn adjust(&mut self, engine: &mut impl Engine, state: &ConnectionState, cx: &mut Context<'_>) {
        let streams = state.open_streams();
        let wanted = self.wanted(streams.held());
        if wanted.abs_diff(self.given) > self.slack() || (wanted == 0 && self.given > 0) {
            let before = self.given;
            if wanted > before {
                self.given += self.buffers.give(wanted - before);
            } else {
                self.given = wanted;
                self.buffers.take_back(before - wanted);
            }
            let holding = if self.given > 0 { streams.holding() } else { 0 };
            self.buffers.set_holding(self.holding, holding);
            self.holding = holding;
            if self.given != before {
                engine.set_connection_window(self.window());
            }
        }
        // While the limit is used up, streams do not wake the connection: it is woken when another one gives back.
        let is_short = wanted.saturating_sub(self.given) > self.slack();
        streams.set_wakes_at(if is_short { usize::MAX } else { self.wakes_at() });
        streams.set_short_of_buffers(is_short);
        self.adapt(engine, streams.holding(), cx);
        // Most of the window is held, or new streams would have a small one.
        let is_crowded = wanted > self.connection / 2 || self.stream < AMPLE.min(self.full());
        let stays_crowded = state.is_crowded() && wanted > self.connection / 4;
        state.set_crowded(is_crowded || stays_crowded);
        self.publish(state);
        self.waits_since =
            (is_short || self.is_small()).then(|| self.buffers.wait(cx.waker(), self.waits_since, is_short));
    }

    /// Sets the window of streams as the pressure has it.
    fn adapt(&mut self, engine: &mut impl Engine, holding: usize, cx: &mut Context<'_>) {
        let is_small = self.is_small();
        let Some(Adaptive { full, changed, .. }) = &mut self.adaptive else { return };
        let window = if self.given > 0 && self.buffers.is_under_pressure() {
            self.buffers.stream_window(holding, *full)
        } else if is_small && (self.given == 0 || self.buffers.is_relieved()) {
            *full
        } else {
            return;
        };
        if window > self.stream {
            // Larger ones only after a while: the streams that the pressure came from may come again.
            let left =
                changed.map_or(Duration::ZERO, |changed| (changed + MIN_SMALL_TIME).saturating_duration_since(now()));
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(left)));
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
        }
        self.timer = None;
        if window != self.stream && engine.set_stream_window(window) {
            (self.stream, *changed) = (window, Some(now()));
        }
    }

    /// Makes windows large enough for a path on which `product` bytes are under way at a time.
    pub(crate) fn fit_path(&mut self, product: u32, engine: &mut impl Engine, state: &ConnectionState) {
        if self.adaptive.is_none() || self.is_small() {
            return;
        }
        // The engine sends WINDOW_UPDATE once half of a window is used up, so a sender never waits with twice the product. The
        // connection has half as much again, since one stream is not to use it up.
        let wanted = product.saturating_mul(3).min(MAX_CONNECTION_WINDOW);
        if wanted > self.connection {
            self.reserve(wanted, engine);
        }
        let full = wanted.min(self.connection / 3 * 2);
        if let Some(adaptive) = &mut self.adaptive
            && full > adaptive.full
            && engine.set_stream_window(full)
        {
            (adaptive.full, self.stream) = (full, full);
        }
        self.publish(state);
    }

    /// Raises the connection's window to `wanted`, as far as there is enough to reserve.
    fn reserve(&mut self, wanted: u32, engine: &mut impl Engine) {
        let Some(adaptive) = &mut self.adaptive else { return };
        let wanted = wanted.saturating_sub(self.connection);
        let more = match &mut adaptive.reserved {
            None => wanted,
            Some(reserved) => {
                let more = self.buffers.reserve(wanted, true);
                *reserved += more;
                more
            }
        };
        if more > 0 {
            self.connection += more;
            engine.set_connection_window(self.window());
        }
    }

    /// Whether streams have less than their full window.
    fn is_small(&self) -> bool {
        self.stream < self.full()
    }

    /// Has others see the windows.
    fn publish(&self, state: &ConnectionState) {
        state.path().set_windows(self.stream, self.window());
        state.open_streams().set_window(self.stream);
    }

    fn full(&self) -> u32 {
        self.adaptive.as_ref().map_or(self.stream, |adaptive| adaptive.full)
    }

    fn window(&self) -> u32 {
        self.connection.saturating_add(self.given).min(MAX_WINDOW)
    }

    /// The bytes by which the window is to be raised for streams that hold this much.
    fn wanted(&self, held: usize) -> u32 {
        u32::try_from(held).unwrap_or(u32::MAX).min(MAX_WINDOW.saturating_sub(self.connection))
    }

    fn slack(&self) -> u32 {
        let slack = self.connection / SLACK;
        if self.adaptive.is_some() { slack.min(MAX_SLACK) } else { slack }
    }

    /// The held bytes at which the window is to be raised.
    fn wakes_at(&self) -> usize {
        self.given.saturating_add(self.slack()) as usize + 1
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        self.buffers.take_back(self.given);
        self.buffers.set_holding(self.holding, 0);
        if let Some(adaptive) = &self.adaptive {
            self.buffers.unreserve(adaptive.reserved.unwrap_or(0));
        }
    }
}

// === impl Engine ===

impl<I: AsyncRead + AsyncWrite + Unpin> Engine for h2::client::Connection<I, Chunk> {
    fn set_connection_window(&mut self, bytes: u32) {
        self.set_target_window_size(bytes);
    }

    fn set_stream_window(&mut self, bytes: u32) -> bool {
        self.set_initial_window_size(bytes).is_ok()
    }

    fn ping_pong(&mut self) -> Option<PingPong> {
        self.ping_pong()
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Engine for h2::server::Connection<I, Chunk> {
    fn set_connection_window(&mut self, bytes: u32) {
        self.set_target_window_size(bytes);
    }

    fn set_stream_window(&mut self, bytes: u32) -> bool {
        self.set_initial_window_size(bytes).is_ok()
    }

    fn ping_pong(&mut self) -> Option<PingPong> {
        self.ping_pong()
    }
}

#[cfg(test)]
mod tests;
