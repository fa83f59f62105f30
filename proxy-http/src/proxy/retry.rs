//! Retries: which requests are sent again, and the retry budget.

pub use crate::stats::RetryReason as Reason;

use crate::{client, message::grpc, proxy::policy::Policy};
use http::{Method, Response, StatusCode};
use std::{
    mem,
    sync::{Mutex, MutexGuard},
};
use tokio::time::Instant;

/// Which requests are retried, on another endpoint if there is one.
///
/// Always retried are requests that were certainly not processed: nothing of them was sent, or their stream is above the last
/// one of the endpoint's GOAWAY. So is a request that was reset with REFUSED_STREAM; but one that is not idempotent is sent to
/// the same endpoint once more at most, since some proxies turn each reset of a server behind them into REFUSED_STREAM, though
/// the server has processed the request. RFC 9110 section 9.2.2 lets idempotent requests be
/// retried, too: on a connection of HTTP/1.1 that had been used or idle before, as the endpoint may have closed it at the
/// same time (RFC 9112 section 9.3.1); and once on a connection of HTTP/2 that ended by GOAWAY with an error code, as the
/// error may be that of another request. Where the endpoint closed an idle connection with 408 and `connection: close`, any
/// method is retried. `gateway_errors` and `unavailable` add requests that may have been processed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Bytes of a request's body that are kept until the response; each frame after the first counts as at least 256. A
    /// request that has sent more is not retried. Default: 64 KiB.
    pub buffer: usize,
    /// Retries for each request: 0.2, the default, allows one retry for five requests.
    pub budget_ratio: f64,
    /// Retries a second that are allowed in addition, so that rare requests can be retried, too. Default: 10.
    pub budget_min_per_second: u32,
    /// Whether GET and HEAD requests are retried after 502, 503 or 504, or the loss of their connection. Default: false.
    pub gateway_errors: bool,
    /// Whether requests of methods that are not idempotent, which include all of gRPC, are retried after REFUSED_STREAM.
    /// Default: true.
    pub refused_non_idempotent: bool,
    /// Whether gRPC calls are retried after UNAVAILABLE without any message, or the loss of their connection. Default:
    /// false.
    pub unavailable: bool,
}

/// The state of a request's retries.
#[derive(Clone, Debug)]
pub(crate) struct RetryState {
    pub(crate) left: u32,
    pub(crate) left_if_unprocessed: u32,
    /// The request's place in the queue, once it has waited: later requests are not served before it.
    pub(crate) queue_number: Option<u64>,
    pub(crate) grpc: bool,
    /// See [`Params::gateway_errors`].
    gateway_errors: bool,
    /// GET or HEAD.
    pub(crate) safe: bool,
    /// The reason of the last retry is more than that the endpoint did not get the request.
    pub(crate) endpoint_may_have_failed: bool,
    /// The endpoint had answered some request on the last connection.
    connection_answered: bool,
    /// The method is idempotent (RFC 9110 section 9.2.2).
    pub(crate) idempotent: bool,
    /// A connection of the request ended by GOAWAY with an error code. If the request is the cause, a further retry would end
    /// another connection.
    pub(crate) ended_by_error: bool,
    /// The endpoints that have reset the request with REFUSED_STREAM, if it is not idempotent.
    refused_by: Vec<u64>,
}

/// The retry budget: a part of all requests, and some a second.
#[derive(Debug)]
pub(crate) struct Budget(Mutex<BudgetWindow>);

/// The requests and retries of the last [`BUCKETS`] seconds, the current one included.
#[derive(Debug)]
struct BudgetWindow {
    started: Instant,
    /// Whole seconds from `started` to the current bucket.
    second: u64,
    /// The bucket of a second is at its remainder.
    buckets: [Bucket; BUCKETS],
}

/// A second of the budget's window.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Requests that had come when it started.
    requests_before: u64,
    retries: u64,
}

/// Retries of one request at most after it may have been processed, or was refused.
const MAX_RETRIES: u32 = 5;
/// Retries of one request at most that was not processed on connections which had answered others: an endpoint that ends
/// each connection after a few requests leaves most of many concurrent requests unprocessed, again and again.
const MAX_UNPROCESSED: u32 = 1_000;
/// Seconds of the budget's window, which slides: a window whose counts start at zero would have no budget in its first moments.
const BUCKETS: usize = 10;
/// The budget learns of one in so many requests, so that the others cost nothing.
const REQUESTS_PER_SAMPLE: u64 = 64;

// === impl Params ===

impl Default for Params {
    /// Only requests that can be retried safely, with bodies up to 64 KiB; a fifth of all requests and 10 a second.
    fn default() -> Self {
        Self {
            buffer: 64 << 10,
            budget_ratio: 0.2,
            budget_min_per_second: 10,
            gateway_errors: false,
            refused_non_idempotent: true,
            unavailable: false,
        }
    }
}

impl Params {
    /// Records an attempt that got no response from `endpoint`, and returns the reason to retry the request. `None`: it is not
    /// retried.
    pub(crate) fn evaluate_error(
        &self,
        error: &client::Error,
        endpoint: u64,
        retry_state: &mut RetryState,
    ) -> Option<Reason> {
        retry_state.connection_answered = error.connection_had_answered();
        let failed_with_connection =
            error.is_ended_by_error() && retry_state.idempotent && !mem::replace(&mut retry_state.ended_by_error, true);
        if error.is_malformed() || error.is_request_too_large() {
            None
        } else if error.is_unsent() {
            Some(Reason::Unsent)
        } else if error.is_excluded_by_go_away() {
            Some(Reason::GoAway)
        } else if error.is_unprocessed() {
            (retry_state.idempotent || self.record_refusal(endpoint, &mut retry_state.refused_by))
                .then_some(Reason::Refused)
        } else if error.is_idle_timeout() {
            // RFC 9110 section 15.5.9: the client may repeat the request on another connection.
            Some(Reason::ConnectionLost)
        } else {
            // RFC 9112 section 9.3.1: idempotent requests may be retried after a connection has closed.
            let stale = error.is_stale() && (retry_state.idempotent || error.is_websocket_handshake());
            let may = stale
                || failed_with_connection
                || (retry_state.gateway_errors && retry_state.safe)
                || (self.unavailable && retry_state.grpc);
            (error.is_connection_lost() && may).then_some(Reason::ConnectionLost)
        }
    }

    /// Records that `endpoint` has refused a request that is not idempotent. Returns whether the request may be retried:
    /// the endpoint may have processed it each time.
    fn record_refusal(&self, endpoint: u64, refused_by: &mut Vec<u64>) -> bool {
        let may = self.refused_non_idempotent && !refused_by.contains(&endpoint);
        refused_by.push(endpoint);
        may
    }

    /// The reason to retry a request after its response. `None`: it is not retried.
    pub(crate) fn evaluate_response<B>(&self, rsp: &Response<B>, retry_state: &RetryState) -> Option<Reason> {
        if self.unavailable && retry_state.grpc && grpc::status(rsp.headers()) == Some(grpc::Code::Unavailable as u8) {
            return Some(Reason::Unavailable);
        }
        (retry_state.gateway_errors && retry_state.safe && is_gateway_error(rsp.status()))
            .then_some(Reason::GatewayError)
    }
}

/// Whether a status tells that a server further on the way failed: 502, 503, 504.
pub(crate) fn is_gateway_error(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

// === impl RetryState ===

impl RetryState {
    pub(crate) fn new(method: &Method, grpc: bool, policy: &Policy, params: &Params) -> Self {
        let safe = matches!(*method, Method::GET | Method::HEAD);
        Self {
            left: policy.retries.map_or(MAX_RETRIES, |retries| retries.min(MAX_RETRIES)),
            gateway_errors: policy.retry_gateway_errors.unwrap_or(params.gateway_errors),
            left_if_unprocessed: MAX_UNPROCESSED,
            queue_number: None,
            endpoint_may_have_failed: false,
            connection_answered: false,
            grpc,
            safe,
            idempotent: method.is_idempotent(),
            ended_by_error: false,
            refused_by: Vec::new(),
        }
    }

    pub(crate) fn has_left(&mut self, reason: Reason) -> bool {
        *self.left(reason) > 0
    }

    pub(crate) fn take(&mut self, reason: Reason) {
        *self.left(reason) -= 1;
        self.endpoint_may_have_failed = !matches!(reason, Reason::Unsent | Reason::GoAway);
    }

    fn left(&mut self, reason: Reason) -> &mut u32 {
        if self.connection_answered && !reason.is_budgeted() { &mut self.left_if_unprocessed } else { &mut self.left }
    }
}

// === impl Budget ===

impl Budget {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(BudgetWindow { started: Instant::now(), second: 0, buckets: [Bucket::default(); BUCKETS] }))
    }

    /// To be called for each request. `requests`: all that have come before.
    #[inline]
    pub(crate) fn request(&self, requests: u64, now: Instant) {
        if requests.is_multiple_of(REQUESTS_PER_SAMPLE) {
            self.lock().advance(requests, now);
        }
    }

    /// Takes one retry from the budget; false if none is left. `requests`: all that have come so far.
    pub(crate) fn take(&self, params: &Params, requests: u64, now: Instant) -> bool {
        let mut window = self.lock();
        let current = window.advance(requests, now);
        let requests = requests.saturating_sub(window.buckets[(current + 1) % BUCKETS].requests_before);
        let retries: u64 = window.buckets.iter().map(|bucket| bucket.retries).sum();
        let budget = f64::from(params.budget_min_per_second) * BUCKETS as f64 + params.budget_ratio * requests as f64;
        let is_left = (retries as f64) < budget;
        window.buckets[current].retries += u64::from(is_left);
        is_left
    }

    fn lock(&self) -> MutexGuard<'_, BudgetWindow> {
        self.0.lock().expect("nothing panics with the lock held")
    }
}

// === impl BudgetWindow ===

impl BudgetWindow {
    /// Starts the buckets of the seconds that have passed, and returns the place of the current one.
    fn advance(&mut self, requests: u64, now: Instant) -> usize {
        let second = now.saturating_duration_since(self.started).as_secs();
        for second in (self.second + 1..=second).rev().take(BUCKETS) {
            self.buckets[place(second)] = Bucket { requests_before: requests, retries: 0 };
        }
        self.second = self.second.max(second);
        place(self.second)
    }
}

fn place(second: u64) -> usize {
    (second % BUCKETS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    const PARAMS: Params = Params {
        buffer: 0,
        budget_ratio: 0.5,
        budget_min_per_second: 2,
        gateway_errors: false,
        refused_non_idempotent: true,
        unavailable: false,
    };

    /// The retries that the budget allows at once, of `requests` so far.
    fn take_all(budget: &Budget, requests: u64, now: Instant) -> usize {
        (0..10_000).filter(|_| budget.take(&PARAMS, requests, now)).count()
    }

    #[test]
    fn budget_is_a_part_of_the_requests_and_some_a_second() {
        let (budget, start) = (Budget::new(), Instant::now());
        assert_eq!(take_all(&budget, 0, start), 20, "ten seconds' worth");
        assert_eq!(take_all(&budget, 100, start), 50, "half of the requests");
        assert_eq!(take_all(&budget, 100, start + 5 * SECOND), 0);
        assert_eq!(take_all(&budget, 300, start + 16 * SECOND), 20, "what is older than the window does not count");
        assert_eq!(take_all(&budget, 310, start + 17 * SECOND), 5);
    }

    /// The requests of the last seconds count, also where none was retried, whenever the first is.
    #[test]
    fn budget_has_no_moment_without_requests() {
        for offset in 0..25 {
            let (budget, start) = (Budget::new(), Instant::now());
            let end = 60_000 + 400 * offset;
            // One request a millisecond.
            for request in 0..end {
                budget.request(request, start + Duration::from_millis(request));
            }
            let allowed = take_all(&budget, end, start + Duration::from_millis(end));
            assert!((20 + 4_468..=20 + 5_000).contains(&allowed), "{offset}: {allowed}");
            // None is left for a second, and then as many as requests come.
            let allowed = take_all(&budget, end, start + Duration::from_millis(end));
            assert_eq!(allowed, 0, "{offset}");
        }
    }

    #[test]
    fn retries_are_bounded_over_any_ten_seconds() {
        let (budget, start) = (Budget::new(), Instant::now());
        let mut retries = Vec::new();
        for request in 0..60_000 {
            let now = start + Duration::from_millis(request);
            budget.request(request, now);
            retries.extend(budget.take(&PARAMS, request + 1, now).then_some(request));
        }
        for from in (0..50_000).step_by(100) {
            let count = retries.iter().filter(|at| (from..from + 10_000).contains(*at)).count();
            assert!(count <= 20 + 5_000 + 600, "{from}: {count}");
        }
        // The steady state.
        assert!(retries.iter().filter(|at| **at >= 50_000).count() >= 4_400);
    }
}
