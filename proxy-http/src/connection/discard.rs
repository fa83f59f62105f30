//! Requests that are still being sent when nobody reads them any more.
//!
//! To reset a stream whose response is whole (RFC 9113 section 8.1) does not stop what is on its way on it. h2 ignores that
//! as long as it remembers the stream; then it counts as an error of the client's, of which a connection survives some. So
//! a request is read for a little longer: until it ends, until its client has used up the stream's window, so that nothing
//! can be on its way, or for a second. Until then it counts among the streams that the client may have open at once, and
//! nobody else need remember it.

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

/// Those of one connection.
#[derive(Debug, Default)]
pub(crate) struct DiscardedBodies {
    /// In the order of their times.
    bodies: VecDeque<Body>,
    /// Until the first of them may be over. Bodies leave it alone: how they are is looked at when it is up. `None`: there
    /// have been none yet.
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Body {
    from: RecvStream,
    /// Counts as held: what it receives has a part of the connection's window.
    stream: OpenStream,
    fresh: bool,
    ends_at: Instant,
}

/// How long one is read at most: longer than a client takes to see that its response is whole.
const TIME: Duration = Duration::from_secs(1);
/// How long streams that were reset are remembered: longer than a client's or an endpoint's pause or a lost packet
/// holds up what it had sent. With h2's own second, each of those would cost some of the errors that a connection survives.
pub(crate) const RESET_STREAM_DURATION: Duration = Duration::from_secs(5);

// === impl DiscardedBodies ===

impl DiscardedBodies {
    /// Reads what has come of them, and gives those up that are over. To be polled after the connection.
    pub(crate) fn poll(&mut self, connection_state: &ConnectionState, cx: &mut Context<'_>) {
        for from in connection_state.open_streams().left().take() {
            let mut stream = connection_state.open_stream();
            stream.stuck();
            self.bodies.push_back(Body { from, stream, fresh: true, ends_at: now() + TIME });
        }
        if self.bodies.is_empty() {
            return;
        }
        self.bodies.retain_mut(Body::goes_on);
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

// === impl Body ===

impl Body {
    /// Reads what has come; false if nothing more can come: it has ended, or its window is used up.
    fn goes_on(&mut self) -> bool {
        let mut came = mem::take(&mut self.fresh);
        // What comes does so while the connection is polled, and this follows.
        while let Poll::Ready(polled) = self.from.poll_data(&mut Context::from_waker(Waker::noop())) {
            let Some(Ok(data)) = polled else { return false };
            self.stream.received(data.len());
            came = true;
        }
        if !came {
            return true;
        }
        let window = self.from.flow_control();
        // Nothing is given back, but what was before may not have been announced yet.
        let _ = window.release_capacity(0);
        window.available_capacity() > 0
    }
}
