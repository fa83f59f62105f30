//! Which requests are sent again, and how many.

pub use crate::stats::RetryReason as Reason;

use crate::{client, message::grpc};
use http::{Method, Response, StatusCode};
use std::{mem, sync::Mutex, time::Duration};
use tokio::time::Instant;

/// Which requests are sent to another endpoint, or again to the same one.
///
/// Those that were certainly not processed always are: nothing of them was sent, or the endpoint refused them
/// (REFUSED_STREAM), or its GOAWAY leaves them out. So are those of idempotent methods that had no response on a
/// connection of HTTP/1.1 that others had used before: its endpoint may have closed it. If the endpoint says so, by 408 and
/// `connection: close`, the method does not matter. So are once those on a connection of HTTP/2 that its endpoint ended for an
/// error, which may be that of another request. `gateway_errors` and `unavailable` add some that may have been processed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Bytes of a request's body that are kept until it is answered, where each frame after the first counts as 256 at
    /// least. A request that has sent more is not sent again.
    pub buffer: usize,
    /// Retries for each request that comes, such as 0.2.
    pub budget_ratio: f64,
    /// Retries a second beside those, so that few requests can be retried, too.
    pub budget_min_per_second: u32,
    /// GET and HEAD requests that are answered with 502, 503 or 504, or whose connection is lost.
    pub gateway_errors: bool,
    /// gRPC calls that end with UNAVAILABLE before any message, or whose connection is lost.
    pub unavailable: bool,
}

/// What is known of a request that may be sent again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tries {
    pub(crate) left: u32,
    pub(crate) unprocessed_left: u32,
    /// Its place among the requests that wait, once it has waited: those that come later are not served before it.
    pub(crate) place: Option<u64>,
    pub(crate) grpc: bool,
    /// GET or HEAD.
    pub(crate) safe: bool,
    /// The last connection that it was sent on was of use to some request.
    of_use: bool,
    /// To do it twice is to do it once (RFC 9110 section 9.2.2).
    pub(crate) idempotent: bool,
    /// It was on a connection that its endpoint ended for an error. If that is its own fault, it must not end one after the other.
    pub(crate) ended_by_error: bool,
}

/// How many retries there may be: some for each request, and some a second.
#[derive(Debug)]
pub(crate) struct Budget(Mutex<Window>);

#[derive(Debug)]
struct Window {
    started: Instant,
    /// How many requests had come by then.
    requests: u64,
    retries: f64,
}

/// Times that one request is sent again at most after it may have been processed, or was refused.
const MAX_RETRIES: u32 = 5;
/// Times that one request is sent again at most because connections that were of use to others took no more requests before
/// they came to it: an endpoint that ends each connection after a few requests leaves out most of those that come together.
const MAX_UNPROCESSED: u32 = 1_000;
/// A budget is counted for this long, and then starts over.
const WINDOW: Duration = Duration::from_secs(10);

// === impl Params ===

impl Default for Params {
    /// What is certainly safe, from 64 KiB of body, for a fifth of the requests and 10 a second.
    fn default() -> Self {
        Self {
            buffer: 64 << 10,
            budget_ratio: 0.2,
            budget_min_per_second: 10,
            gateway_errors: false,
            unavailable: false,
        }
    }
}

impl Params {
    /// Why a request that got no response is to be sent again.
    pub(crate) fn after_error(&self, error: &client::Error, tries: &mut Tries) -> Option<Reason> {
        tries.of_use = error.was_of_use();
        let shot_down = error.is_ended_by_error() && tries.idempotent && !mem::replace(&mut tries.ended_by_error, true);
        if error.is_malformed() || error.is_request_too_large() {
            None
        } else if error.is_unsent() {
            Some(Reason::Unsent)
        } else if error.is_left_out() {
            Some(Reason::GoAway)
        } else if error.is_unprocessed() {
            Some(Reason::Refused)
        } else if error.is_idle_timeout() {
            // RFC 9110 section 15.5.9.
            Some(Reason::ConnectionLost)
        } else {
            // RFC 9112 section 9.3.1.
            let stale = error.is_stale() && (tries.idempotent || error.is_handshake());
            let may = stale || shot_down || (self.gateway_errors && tries.safe) || (self.unavailable && tries.grpc);
            (error.is_connection_lost() && may).then_some(Reason::ConnectionLost)
        }
    }

    /// Why a request with this response is to be sent again.
    pub(crate) fn after_response<B>(&self, rsp: &Response<B>, tries: &Tries) -> Option<Reason> {
        if self.unavailable && tries.grpc && grpc::status(rsp.headers()) == Some(grpc::Code::Unavailable as u8) {
            return Some(Reason::Unavailable);
        }
        (self.gateway_errors && tries.safe && is_gateway_error(rsp.status())).then_some(Reason::GatewayError)
    }
}

/// 502, 503 and 504: they say that somebody on the way failed.
pub(crate) fn is_gateway_error(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

// === impl Tries ===

impl Tries {
    pub(crate) fn new(method: &Method, grpc: bool) -> Self {
        let safe = matches!(*method, Method::GET | Method::HEAD);
        Self {
            left: MAX_RETRIES,
            unprocessed_left: MAX_UNPROCESSED,
            place: None,
            of_use: false,
            grpc,
            safe,
            idempotent: method.is_idempotent(),
            ended_by_error: false,
        }
    }

    pub(crate) fn has_left(&mut self, reason: Reason) -> bool {
        *self.left(reason) > 0
    }

    pub(crate) fn take(&mut self, reason: Reason) {
        *self.left(reason) -= 1;
    }

    fn left(&mut self, reason: Reason) -> &mut u32 {
        if self.of_use && !reason.is_budgeted() { &mut self.unprocessed_left } else { &mut self.left }
    }
}

// === impl Budget ===

impl Budget {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Window { started: Instant::now(), requests: 0, retries: 0.0 }))
    }

    /// Takes one retry; false if none is left. `requests`: how many have come so far.
    pub(crate) fn take(&self, params: &Params, requests: u64, now: Instant) -> bool {
        let mut window = self.0.lock().expect("nothing panics with the lock held");
        if now >= window.started + WINDOW {
            *window = Window { started: now, requests, retries: 0.0 };
        }
        let budget = f64::from(params.budget_min_per_second) * WINDOW.as_secs_f64()
            + params.budget_ratio * requests.saturating_sub(window.requests) as f64;
        let left = window.retries < budget;
        if left {
            window.retries += 1.0;
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: Params =
        Params { buffer: 0, budget_ratio: 0.5, budget_min_per_second: 2, gateway_errors: false, unavailable: false };

    #[test]
    fn budget_is_a_part_of_the_requests_and_some_a_second() {
        let budget = Budget::new();
        let start = Instant::now();
        let take = |requests, now| (0..1_000).filter(|_| budget.take(&PARAMS, requests, now)).count();
        assert_eq!(take(0, start), 20, "ten seconds' worth");
        assert_eq!(take(100, start), 50, "half of the requests");
        assert_eq!(take(100, start + WINDOW / 2), 0);
        assert_eq!(take(300, start + WINDOW), 20, "it starts over");
        assert_eq!(take(310, start + WINDOW), 5);
    }
}
