//! What bodies of this crate can do beside what `http_body::Body` has.

use crate::body::outcome::Backpressure;
use std::task::{Context, Poll};

/// A body that something comes in for while nobody takes what it yields.
pub(crate) trait Source: Send {
    /// To be called where what was yielded last cannot be passed on now: takes what comes while there is no room for it.
    fn hold(&mut self, cx: &mut Context<'_>) -> Backpressure;

    /// To be called where all has been passed on, and the body stays all the same.
    fn finish(&mut self) {}

    /// Reads and drops the rest of the body of a request of HTTP/1.1. Ready at once for others: the rest of a body of HTTP/2
    /// is read by its connection once the body is dropped.
    fn poll_rest(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}
