//! The methods of this crate's bodies beside `http_body::Body`.

use crate::{body::outcome::Backpressure, message::answer::Answer};
use http::HeaderMap;
use std::task::{Context, Poll};

/// A body that can receive while the frame that it yielded last is not sent yet.
pub(crate) trait Source: Send {
    /// Called while the last frame waits for window: receives more into a buffer, and returns the kind of frame that waits
    /// next.
    fn buffer(&mut self, cx: &mut Context<'_>) -> Backpressure;

    /// Called when all frames have been sent but the body is not dropped yet.
    fn finish(&mut self) {}

    /// Called when the message is ended for `cause` before it is whole, with all that it has yielded sent. Returns the trailers
    /// that say so. `None`: it has none, and only a reset shows that it is not whole.
    fn cut(&mut self, _cause: &Answer) -> Option<HeaderMap> {
        None
    }

    /// Reads and drops the rest of an HTTP/1.1 request's body. Ready at once for other bodies: the rest of a body of HTTP/2
    /// is read by its connection once the body is dropped.
    fn poll_discard(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}
