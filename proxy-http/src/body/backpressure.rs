//! Backpressure on the source of a body: buffers, finishes, cuts or discards a body that the next hop does not read.

use crate::{
    IncomingBody, Replay,
    body::{outcome::Backpressure, response::ResponseBody, source::Source},
    message::answer::Answer,
};
use http::HeaderMap;
use std::{any::Any, future::poll_fn, task::Context, time::Duration};
use tokio::time::timeout;

/// The longest time for which the rest of an HTTP/1.1 request is read. Many clients of HTTP/1.1 read the response only after
/// they have sent all of the request, and a connection that is closed before that may lose the response (RFC 9112 section
/// 9.6). So the time is longer than HTTP/2's: as long as nginx's `lingering_time`.
const HTTP1_DISCARD_TIME: Duration = Duration::from_secs(30);

/// Has a [`Source`] buffer while its next frame cannot be sent.
pub(crate) fn buffer<B: 'static>(body: &mut B, cx: &mut Context<'_>) -> Backpressure {
    as_source(body).map_or(Backpressure::Data, |body| body.buffer(cx))
}

/// Tells a [`Source`] that all of it has been sent.
pub(crate) fn finish<B: 'static>(body: &mut B) {
    if let Some(body) = as_source(body) {
        body.finish();
    }
}

/// The trailers with which a [`Source`] that is not whole ends for `cause`. `None`: only a reset shows that it is not whole.
pub(crate) fn cut<B: 'static>(body: &mut B, cause: &Answer) -> Option<HeaderMap> {
    as_source(body).and_then(|body| body.cut(cause))
}

/// Reads and drops the rest of an HTTP/1.1 request's body, for [`HTTP1_DISCARD_TIME`] at most. Returns at once for a body of
/// HTTP/2, the rest of which its connection reads once the body is dropped.
pub(crate) async fn discard_http1<B: 'static>(mut body: B) {
    let Some(body) = as_source(&mut body) else { return };
    // The rest of a body that takes longer is not read.
    let _ = timeout(HTTP1_DISCARD_TIME, poll_fn(|cx| body.poll_discard(cx))).await;
}

/// `body` as a [`Source`]. `None`: its type is not one of this crate, and it has nothing to buffer.
///
/// Clients and servers accept bodies of any type, so they cannot require a private trait. The compiler knows the type `B`
/// and resolves the comparisons.
fn as_source<B: 'static>(body: &mut B) -> Option<&mut dyn Source> {
    let body: &mut dyn Any = body;
    if body.is::<ResponseBody>() {
        body.downcast_mut::<ResponseBody>().map(|body| body as &mut dyn Source)
    } else if body.is::<Replay>() {
        body.downcast_mut::<Replay>().map(|body| body as &mut dyn Source)
    } else {
        body.downcast_mut::<IncomingBody>().map(|body| body as &mut dyn Source)
    }
}
