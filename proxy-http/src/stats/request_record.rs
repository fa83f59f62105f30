//! Records of requests: the facts that an observer gets at the end of each.

use crate::stats::{
    destinations::{DestinationLabels, is_failure},
    proxy_error::ProxyError,
    retry::Reason as RetryReason,
};
use http::{StatusCode, Version, request};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::time::Instant;

/// Observes the requests of a client's connection. Called on the thread that serves the connection, so it must not block.
pub trait Observe: fmt::Debug + Send + Sync {
    /// Called for each request when its head has come, before the proxy reads it, so that changed fields are sent to the
    /// endpoint. `None`: the request is not recorded.
    fn observe(&self, head: &mut request::Parts) -> Option<Box<dyn ObserveEnd>>;

    /// Called for each request that is answered before its head is known: one of HTTP/1.1 that cannot be parsed, or one whose
    /// head is far too large. `None`, as by default: the request is not recorded.
    fn observe_refused(&self, _version: Version) -> Option<Box<dyn ObserveEnd>> {
        None
    }
}

/// Observes the end of one request.
pub trait ObserveEnd: Send {
    /// Called once, when the response has ended and no more of the request is read.
    fn end(self: Box<Self>, end: &RequestEnd);
}

/// A request that has ended.
#[non_exhaustive]
#[derive(Clone, Debug, Default)]
pub struct RequestEnd {
    /// The status of the response. `None`: no head was sent.
    pub status: Option<StatusCode>,
    /// The gRPC status, from the header section or the trailers. `None`: there was none, or no number up to 255.
    pub grpc_status: Option<u8>,
    /// Bytes of the request's content, or of the client's direction of a tunnel, that were read.
    pub request_bytes: u64,
    /// Bytes of the response's content, or of the endpoint's direction of a tunnel, that were passed on.
    pub response_bytes: u64,
    /// The time from the request's head to the end.
    pub duration: Duration,
    /// The time from the request's head until it was first sent to an endpoint. `None`: it was sent to none.
    pub time_to_send: Option<Duration>,
    /// The time from the request's head to an endpoint's response's head. `None`: no endpoint has answered.
    pub time_to_head: Option<Duration>,
    /// The address of the endpoint that the request was last sent to. `None`: it was sent to none.
    pub endpoint: Option<Arc<str>>,
    /// The destination and the route. `None`: requests have one destination, or this one found none, or it has no series among
    /// the [counters by destination](crate::stats::ByDestination).
    pub labels: Option<Arc<DestinationLabels>>,
    /// How often the request was sent to an endpoint.
    pub attempts: u32,
    /// The retries of the request, in order; no more than the first 16.
    pub retries: Vec<Retry>,
    /// Why the proxy answered the request itself, or cut the response. `None`: it did not.
    pub proxy_error: Option<ProxyError>,
    /// The same in words, as the client gets it in `proxy-error`.
    pub proxy_error_detail: Option<String>,
    /// How the request ended before its response was whole. `None`: the response is whole.
    pub reset: Option<Reset>,
}

/// One retry of a request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Retry {
    /// The time from the request's head to the failure of the attempt before.
    pub after: Duration,
    /// Why that attempt is followed by another one.
    pub reason: RetryReason,
    /// The address of the endpoint that it was sent to.
    pub endpoint: Option<Arc<str>>,
}

/// The end of a request whose response is not whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reset {
    /// The side that ended it.
    pub by: ResetBy,
    /// The error code of RST_STREAM. `None`: the connection was lost or closed, or it is of HTTP/1.1.
    pub code: Option<u32>,
}

/// The side that ended a request before its response was whole.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ResetBy {
    /// The client.
    Client,
    /// The endpoint.
    Endpoint,
    /// The proxy, for example at a deadline.
    Proxy,
}

/// The record of one request, which ends with the last clone. By default the request is not recorded.
#[derive(Clone, Default)]
pub(crate) struct Record(Option<Arc<Mutex<State>>>);

/// Facts that an exchange keeps until it ends, and then adds to its record all at once: each edit of a record takes a lock.
/// The fields are the ones of [`RequestEnd`].
#[derive(Debug, Default)]
pub(crate) struct ExchangeFacts {
    pub(crate) attempts: u32,
    pub(crate) endpoint: Option<Arc<str>>,
    pub(crate) time_to_send: Option<Duration>,
    pub(crate) time_to_head: Option<Duration>,
    pub(crate) response_bytes: u64,
}

struct State {
    started: Instant,
    end: RequestEnd,
    /// `None`: it was told.
    observer: Option<Box<dyn ObserveEnd>>,
}

/// The observer of a connection of HTTP/1.1, which has one request at a time. `None`: there is no observer.
#[derive(Clone, Debug)]
pub(crate) struct OpenRecord(Option<Arc<Open>>);

#[derive(Debug)]
struct Open {
    observe: Arc<dyn Observe>,
    last: Mutex<Weak<Mutex<State>>>,
}

/// Retries of one request that its record keeps.
const MAX_RETRIES: usize = 16;

// === impl ResetBy ===

impl ResetBy {
    /// The name, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Endpoint => "endpoint",
            Self::Proxy => "proxy",
        }
    }
}

// === impl RequestEnd ===

impl RequestEnd {
    /// Whether the response is a failure, as [`Responses::is_failure`](crate::stats::Responses::is_failure) has it, or is not
    /// whole, or the proxy has answered in the place of an endpoint.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        let is_whole = self.reset.is_none() && self.proxy_error.is_none();
        !is_whole || self.status.is_none_or(|status| is_failure(status, self.grpc_status))
    }
}

// === impl Record ===

impl Record {
    /// Starts a record if an observer wants one.
    pub(crate) fn start(observe: Option<&Arc<dyn Observe>>, head: &mut request::Parts, started: Instant) -> Self {
        Self(observe.and_then(|observe| {
            let observer = Some(observe.observe(head)?);
            Some(Arc::new(Mutex::new(State { started, end: RequestEnd::default(), observer })))
        }))
    }

    /// Whether the request is recorded.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn edit(&self, edit: impl FnOnce(&mut RequestEnd)) {
        if let Some(state) = &self.0 {
            edit(&mut state.lock().unwrap_or_else(PoisonError::into_inner).end);
        }
    }

    /// The attempt at `endpoint` has failed after a time, and is followed by another one.
    pub(crate) fn retry(&self, after: Duration, reason: RetryReason, endpoint: Option<&Arc<str>>) {
        self.edit(|end| {
            if end.retries.len() < MAX_RETRIES {
                end.retries.push(Retry { after, reason, endpoint: endpoint.cloned() });
            }
        });
    }

    /// The endpoint has ended its response before it is whole. The first cause counts.
    pub(crate) fn reset_by_endpoint(&self, code: Option<u32>) {
        self.edit(|end| {
            end.reset.get_or_insert(Reset { by: ResetBy::Endpoint, code });
        });
    }

    /// The client has ended the request. That may be the cause of the endpoint's reset.
    pub(crate) fn reset_by_client(&self, code: Option<u32>) {
        self.edit(|end| {
            if end.reset.is_none_or(|reset| reset.by != ResetBy::Proxy) {
                end.reset = Some(Reset { by: ResetBy::Client, code });
            }
        });
    }

    /// The proxy ends the response before it is whole. The first cause counts.
    pub(crate) fn cut(&self, cause: ProxyError, code: Option<u32>) {
        self.edit(|end| {
            if end.reset.is_none() {
                end.reset = Some(Reset { by: ResetBy::Proxy, code });
                end.proxy_error.get_or_insert(cause);
            }
        });
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Record").field(&self.is_on()).finish()
    }
}

/// Records a request that is answered with `status` before its head is known.
pub(crate) fn record_refused(
    observe: Option<&Arc<dyn Observe>>,
    version: Version,
    status: StatusCode,
    error: ProxyError,
) {
    if let Some(observer) = observe.and_then(|observe| observe.observe_refused(version)) {
        observer.end(&RequestEnd { status: Some(status), proxy_error: Some(error), ..RequestEnd::default() });
    }
}

// === impl State ===

impl Drop for State {
    fn drop(&mut self) {
        if self.end.duration.is_zero() {
            self.end.duration = self.started.elapsed();
        }
        if let Some(observer) = self.observer.take() {
            observer.end(&self.end);
        }
    }
}

// === impl OpenRecord ===

impl OpenRecord {
    pub(crate) fn new(observe: Option<Arc<dyn Observe>>) -> Self {
        Self(observe.map(|observe| Arc::new(Open { observe, last: Mutex::default() })))
    }

    /// The record of the next request.
    pub(crate) fn start(&self, head: &mut request::Parts) -> Record {
        let Some(Open { observe, last }) = self.0.as_deref() else { return Record::default() };
        let record = Record::start(Some(observe), head, Instant::now());
        *last.lock().unwrap_or_else(PoisonError::into_inner) =
            record.0.as_ref().map(Arc::downgrade).unwrap_or_default();
        record
    }

    /// Records a request that is answered with `status` before its head is known.
    pub(crate) fn refused(&self, status: StatusCode, error: ProxyError) {
        record_refused(self.0.as_ref().map(|open| &open.observe), Version::HTTP_11, status, error);
    }

    /// The record of the last request, unless that has ended.
    pub(crate) fn last(&self) -> Record {
        let last = self.0.as_ref().map(|open| open.last.lock().unwrap_or_else(PoisonError::into_inner).clone());
        Record(last.and_then(|last| last.upgrade()))
    }
}
