//! Limits of a proxy, and the counters for them.

use crate::{Stats, message::grpc, proxy::retry};
use http::HeaderMap;
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Context,
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// Limits of a proxy, and its policies for requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Requests that may wait for an endpoint at once; more are answered with 503. Default: 10,000.
    pub queue_capacity: usize,
    /// Requests fail at once when no endpoint has been ready for this long. Default: 3 s.
    pub failfast_timeout: Duration,
    /// Requests that may be in flight at once, from a request's head to its response's end; more are answered with 503.
    /// Default: 100,000.
    pub max_in_flight: usize,
    /// Fields in the head of a request, without pseudo-header fields, and with all of `cookie` as one; a request with more is
    /// answered with 431. Default: 100.
    pub max_headers_count: usize,
    /// Bytes in the path and query of a request; a request with more is answered with 414. Default: 8 KiB.
    pub max_uri_length: usize,
    /// The longest time from a request's head to its response's end. A gRPC client's `grpc-timeout` applies if it is
    /// shorter. `None`, the default: no limit.
    pub request_timeout: Option<Duration>,
    /// Whether trailers of requests are dropped: some servers end the connection for trailers, and with it all other
    /// requests. The body ends with END_STREAM on DATA, or with the last chunk. Malformed trailers are rejected all the
    /// same, and the `trailer` field, which announces trailers, is passed on. Default: false.
    pub drop_request_trailers: bool,
    /// Which requests are retried.
    pub retry: retry::Params,
}

/// Counters of requests for the limits of [`Params`]; proxies on several threads share them.
#[derive(Debug)]
pub struct Limits {
    pub(super) params: Params,
    pub(super) in_flight: AtomicUsize,
    pub(super) waiting: AtomicUsize,
    /// When a loop was last logged.
    loop_logged: Mutex<Option<Instant>>,
}

/// The deadline of a request. Boxed, since few requests have one.
pub(super) type Deadline = Option<Pin<Box<Sleep>>>;

/// The deadline of each attempt to get a response, if there is one. Boxed, since few requests have one.
pub(super) struct AttemptDeadline(Option<Box<(Duration, Pin<Box<Sleep>>)>>);

/// Counts a request that waits for an endpoint, until this is dropped.
pub(super) struct PendingRequest<'a> {
    limits: &'a Limits,
    stats: &'a Stats,
    since: Instant,
}

// === impl Params ===

impl Default for Params {
    /// 10,000 requests may wait, and fail when no endpoint has been ready for 3 s; 100,000 may be in flight, without a deadline.
    /// Requests may have 100 fields, and 8 KiB of path and query. Trailers are passed on.
    fn default() -> Self {
        Self {
            queue_capacity: 10_000,
            failfast_timeout: Duration::from_secs(3),
            max_in_flight: 100_000,
            max_headers_count: 100,
            max_uri_length: 8 << 10,
            request_timeout: None,
            drop_request_trailers: false,
            retry: retry::Params::default(),
        }
    }
}

// === impl Limits ===

impl Limits {
    /// Limits without any requests yet.
    #[must_use]
    pub fn new(params: Params) -> Self {
        Self { params, in_flight: AtomicUsize::new(0), waiting: AtomicUsize::new(0), loop_logged: Mutex::new(None) }
    }

    /// Requests in flight now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Requests that wait for an endpoint now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Whether a line about a request that came back may be logged now; one a minute is.
    pub(super) fn may_log_loop(&self) -> bool {
        let mut logged = self.loop_logged.lock().expect("nothing panics with the lock held");
        let may_log = logged.is_none_or(|at| at.elapsed() >= Duration::from_secs(60));
        if may_log {
            *logged = Some(Instant::now());
        }
        may_log
    }

    /// `limit`: of the request's route, in place of the proxy's.
    pub(super) fn deadline(&self, grpc: bool, headers: &HeaderMap, limit: Option<Duration>) -> Deadline {
        let asked = if grpc { grpc::timeout(headers) } else { None };
        let limit = limit.or(self.params.request_timeout).filter(|limit| !limit.is_zero());
        let limit = match (asked, limit) {
            (Some(asked), Some(most)) => asked.min(most),
            (asked, most) => asked.or(most)?,
        };
        Some(Box::pin(tokio::time::sleep(limit)))
    }
}

// === impl AttemptDeadline ===

impl AttemptDeadline {
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self(limit.filter(|limit| !limit.is_zero()).map(|limit| Box::new((limit, Box::pin(tokio::time::sleep(limit))))))
    }

    /// Starts anew, for the next attempt.
    pub(super) fn start(&mut self) {
        if let Some((limit, deadline)) = self.0.as_deref_mut() {
            deadline.as_mut().reset(Instant::now() + *limit);
        }
    }

    /// Whether it has passed; if not, wakes `cx` when it does.
    pub(super) fn is_expired(&mut self, cx: &mut Context<'_>) -> bool {
        self.0.as_deref_mut().is_some_and(|(_, deadline)| deadline.as_mut().poll(cx).is_ready())
    }
}

// === impl PendingRequest ===

impl<'a> PendingRequest<'a> {
    pub(super) fn start(limits: &'a Limits, stats: &'a Stats) -> Option<Self> {
        if limits.waiting.fetch_add(1, Relaxed) >= limits.params.queue_capacity {
            limits.waiting.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Self { limits, stats, since: Instant::now() })
    }
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        self.limits.waiting.fetch_sub(1, Relaxed);
        self.stats.count_queued(self.since.elapsed());
    }
}
