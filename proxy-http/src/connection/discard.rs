//! Discards the rest of request bodies whose readers are gone.
//!
//! A server may reset a stream whose response is complete (RFC 9113 section 8.1), but frames of the request may still be in
//! flight. h2 ignores them as long as it remembers the stream; after that each is an error of the client, of which a
//! connection survives some. So the request is read for a little longer: until it ends, until the client has used up the
//! stream's window and can send no more, or for a second. Until then it counts toward SETTINGS_MAX_CONCURRENT_STREAMS, so
//! the client itself bounds the number of discarded bodies.

use crate::connection::{now::now, state::ConnectionState, streams::OpenStream};
use h2::RecvStream;
use std::{
    collections::VecDeque,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};

/// The bodies that one connection discards.
#[derive(Debug, Default)]
pub(crate) struct DiscardedBodies {
    /// In the order of `ends_at`.
    bodies: VecDeque<DiscardedBody>,
    /// Until `ends_at` of the first body. A body that ends earlier does not reset the timer, which is checked against the
    /// others when it expires. `None`: there have been no bodies yet.
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct DiscardedBody {
    source: RecvStream,
    /// Holds the DATA that has been read: it uses up a part of the connection's window.
    stream: OpenStream,
    read: usize,
    is_new: bool,
    ends_at: Instant,
}

/// The longest time for which a body is read: longer than a client takes to see that its response is complete.
const DISCARD_TIME: Duration = Duration::from_secs(1);

// === impl DiscardedBodies ===

impl DiscardedBodies {
    /// Reads the data that has come, and drops the bodies that are complete or out of time. To be polled after the
    /// connection.
    pub(crate) fn poll(&mut self, connection_state: &ConnectionState, cx: &mut Context<'_>) {
        for source in connection_state.open_streams().unread_bodies().take() {
            let stream = connection_state.open_stream();
            self.bodies.push_back(DiscardedBody {
                source,
                stream,
                read: 0,
                is_new: true,
                ends_at: now() + DISCARD_TIME,
            });
        }
        if self.bodies.is_empty() {
            return;
        }
        self.bodies.retain_mut(DiscardedBody::read_available);
        while let Some(first) = self.bodies.front() {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(first.ends_at)));
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            let now = Instant::now();
            self.bodies.retain(|body| body.ends_at > now);
            if let Some(first) = self.bodies.front() {
                timer.as_mut().reset(first.ends_at);
            }
        }
    }
}

// === impl DiscardedBody ===

impl DiscardedBody {
    /// Reads the data that has come; false if no more can come: the body has ended, or its window is used up.
    fn read_available(&mut self) -> bool {
        let mut is_changed = mem::take(&mut self.is_new);
        // No waker is needed: frames are received only while the connection is polled, and this poll follows.
        while let Poll::Ready(polled) = self.source.poll_data(&mut Context::from_waker(Waker::noop())) {
            let Some(Ok(data)) = polled else { return false };
            self.stream.received(data.len());
            self.read += data.len();
            self.stream.set_held(self.read);
            is_changed = true;
        }
        if !is_changed {
            return true;
        }
        let window = self.source.flow_control();
        // Releases nothing, but window that was released before may not have been announced yet.
        let _ = window.release_capacity(0);
        window.available_capacity() > 0
    }
}
