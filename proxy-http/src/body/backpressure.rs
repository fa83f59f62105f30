//! What is done with a body whose reader has stopped, or has all of it.

use crate::{
    IncomingBody, Replay,
    body::{outcome::Backpressure, response::ResponseBody, source::Source},
};
use std::{any::Any, future::poll_fn, task::Context, time::Duration};
use tokio::time::timeout;

/// How long the rest of a request of HTTP/1.1 is read at most. Many clients of HTTP/1.1 read the response only after they
/// have sent all of the request, and a connection that is closed before that may lose the response (RFC 9112 section 9.6).
/// So the time is longer: as long as nginx's `lingering_time`.
const HTTP1_TIME: Duration = Duration::from_secs(30);

/// Has a body of ours take what comes while there is no room for it.
pub(crate) fn hold<B: 'static>(body: &mut B, cx: &mut Context<'_>) -> Backpressure {
    as_source(body).map_or(Backpressure::Data, |body| body.hold(cx))
}

/// Tells a body of ours that all of it has been passed on.
pub(crate) fn finish<B: 'static>(body: &mut B) {
    if let Some(body) = as_source(body) {
        body.finish();
    }
}

/// Reads and drops the rest of the body of an HTTP/1.1 client's request, for [`HTTP1_TIME`] at most. Returns at once for a
/// body of HTTP/2, the rest of which its connection reads once the body is dropped.
pub(crate) async fn read_http1<B: 'static>(mut body: B) {
    let Some(body) = as_source(&mut body) else { return };
    // What comes after that time is not read.
    let _ = timeout(HTTP1_TIME, poll_fn(|cx| body.poll_rest(cx))).await;
}

/// `body` as one of this crate. `None`: it is one of others, which have nothing to hold.
///
/// Clients and servers take bodies of any type, so that a trait of ours cannot be asked of them. Which type `B` is the
/// compiler knows.
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
