//! Bounds on what a proxy takes on, and what is counted against them.

use crate::{Stats, message::grpc, proxy::retry};
use http::HeaderMap;
use std::{
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// Bounds on what a proxy takes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Requests that may wait for an endpoint at once; more are turned away.
    pub queue_capacity: usize,
    /// How long no endpoint may be ready before requests fail at once.
    pub failfast_timeout: Duration,
    /// Requests that may be in flight at once; more are turned away.
    pub max_in_flight: usize,
    /// Fields that the head of a request may have, pseudo-fields aside; one with more is turned away.
    pub max_headers_count: usize,
    /// Bytes that the path and query of a request may have; one with more is turned away.
    pub max_uri_length: usize,
    /// The longest a request may take, from its head to its response's end. A gRPC client's own `grpc-timeout` counts
    /// if it is shorter. `None`: no limit.
    pub request_timeout: Option<Duration>,
    /// Whether trailers of requests are left out toward endpoints: END_STREAM comes on DATA then, or the last chunk ends the
    /// body. Some servers end the connection for trailers, and all other requests on it. Trailers that are malformed are
    /// refused all the same, and the `trailer` field, which names those to come, is passed on.
    pub drop_request_trailers: bool,
    /// Which requests are sent again.
    pub retry: retry::Params,
}

/// What is counted against the [`Params`]; proxies on several threads share one.
#[derive(Debug)]
pub struct Limits {
    pub(super) params: Params,
    pub(super) in_flight: AtomicUsize,
    pub(super) waiting: AtomicUsize,
}

/// When a request must be over. Boxed, since few have one.
pub(super) type Deadline = Option<Pin<Box<Sleep>>>;

/// A place in the queue, however it is left.
pub(super) struct Waiting<'a> {
    limits: &'a Limits,
    stats: &'a Stats,
    since: Instant,
}

// === impl Params ===

impl Default for Params {
    /// 10,000 may wait, 3 s at most; 100,000 may be in flight, for any time. They may have 100 fields, and 8 KiB of path
    /// and query. Trailers are passed on.
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
    /// Nothing is counted yet.
    #[must_use]
    pub fn new(params: Params) -> Self {
        Self { params, in_flight: AtomicUsize::new(0), waiting: AtomicUsize::new(0) }
    }

    /// Requests in flight now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Requests that wait for an endpoint now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    pub(super) fn deadline(&self, grpc: bool, headers: &HeaderMap) -> Deadline {
        let asked = if grpc { grpc::timeout(headers) } else { None };
        let limit = match (asked, self.params.request_timeout) {
            (Some(asked), Some(most)) => asked.min(most),
            (asked, most) => asked.or(most)?,
        };
        Some(Box::pin(tokio::time::sleep(limit)))
    }
}

// === impl Waiting ===

impl<'a> Waiting<'a> {
    pub(super) fn start(limits: &'a Limits, stats: &'a Stats) -> Option<Self> {
        if limits.waiting.fetch_add(1, Relaxed) >= limits.params.queue_capacity {
            limits.waiting.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Self { limits, stats, since: Instant::now() })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.limits.waiting.fetch_sub(1, Relaxed);
        self.stats.count_queued(self.since.elapsed());
    }
}
