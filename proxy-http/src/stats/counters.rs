//! The counters of a stack and of its transports.
//!
//! Each is a plain atomic that only grows, so each worker has its own set and a reader adds the sets up.

use crate::stats::{
    blocked::{Blocked, BlockedTimes},
    connections::{Connection, Describe, OpenConnections},
    destinations::ByDestination,
    latency::Latency,
    limit::{Limit, StreamLimit},
    proxy_error::ProxyError,
    responses::{Answers, Responses},
    retry,
    side::Side,
};
use h2::Reason;
use http::StatusCode;
use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The counters of one stack: its requests and responses, and its transports on both sides.
#[derive(Debug)]
pub struct Stats {
    requests: AtomicU64,
    /// Responses by HTTP status and gRPC status.
    responses: Box<[AtomicU64]>,
    latency: Latency,
    shed: AtomicU64,
    denied: AtomicU64,
    failfast: AtomicU64,
    queued: Latency,
    retries: [AtomicU64; retry::Reason::ALL.len()],
    over_budget: AtomicU64,
    destinations: Arc<ByDestination>,
    client: Arc<Transport>,
    endpoint: Arc<Transport>,
}

/// The counters of all transports to one side's peers.
#[derive(Debug, Default)]
pub struct Transport {
    opened: AtomicU64,
    closed: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    resets: CodeCounts,
    go_aways: CodeCounts,
    malformed: AtomicU64,
    limits: [AtomicU64; Limit::ALL.len()],
    stream_limits: [AtomicU64; StreamLimit::ALL.len()],
    blocked: BlockedTimes,
    open: OpenConnections,
    durations: Latency,
    proxy_errors: [AtomicU64; ProxyError::ALL.len()],
    early_answers: Answers,
    late_answers: Answers,
}

/// The error code that a stream was reset with, or a connection ended with.
///
/// Exhaustive, since RFC 9113 either defines a code or does not.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ResetCode {
    /// An error code that RFC 9113 section 7 defines, 0 to 13.
    Known(u8),
    /// A code that RFC 9113 does not define, or none: the connection was lost.
    Other,
}

/// Codes 0 to 13, and one counter for all others.
const RESET_CODES: usize = 15;
/// gRPC statuses 0 to 16, "none", and one counter for all others.
const GRPC_STATUSES: usize = 19;
const GRPC_NONE: usize = 17;
const GRPC_OTHER: usize = 18;
const FIRST_STATUS: usize = 100;
const STATUSES: usize = 900;

// === impl Stats ===

impl Default for Stats {
    fn default() -> Self {
        Self {
            requests: AtomicU64::new(0),
            responses: (0..STATUSES * GRPC_STATUSES).map(|_| AtomicU64::new(0)).collect(),
            latency: Latency::default(),
            shed: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            failfast: AtomicU64::new(0),
            queued: Latency::default(),
            retries: Default::default(),
            over_budget: AtomicU64::new(0),
            destinations: Arc::default(),
            client: Arc::default(),
            endpoint: Arc::default(),
        }
    }
}

impl Stats {
    /// Counters that are all zero, but for the ones by destination, which other threads' counters share.
    pub fn with_destinations(destinations: Arc<ByDestination>) -> Self {
        Self { destinations, ..Self::default() }
    }

    /// Counters of the requests by route or authority, by destination.
    pub fn destinations(&self) -> &Arc<ByDestination> {
        &self.destinations
    }

    /// Requests received.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Responses by status, each counted when it ended. Only combinations that occurred are yielded.
    pub fn responses(&self) -> impl Iterator<Item = Responses> {
        self.responses.iter().enumerate().filter_map(|(i, count)| {
            let count = count.load(Relaxed);
            let status = StatusCode::from_u16(u16::try_from(FIRST_STATUS + i / GRPC_STATUSES).ok()?).ok()?;
            let grpc_status = match i % GRPC_STATUSES {
                GRPC_NONE => None,
                GRPC_OTHER => Some(u8::MAX),
                code => u8::try_from(code).ok(),
            };
            (count > 0).then_some(Responses { status, grpc_status, count })
        })
    }

    /// Durations of exchanges, from the request's header section to the response's end.
    pub fn latency(&self) -> &Latency {
        &self.latency
    }

    /// Requests shed because too many were in flight or queued.
    pub fn shed(&self) -> u64 {
        self.shed.load(Relaxed)
    }

    /// Requests denied because their client is not allowed.
    pub fn denied(&self) -> u64 {
        self.denied.load(Relaxed)
    }

    /// Requests that found no ready endpoint within the fail-fast timeout.
    pub fn failfast(&self) -> u64 {
        self.failfast.load(Relaxed)
    }

    /// Times that queued requests waited for an endpoint, in vain or not. A retry that waits counts once more.
    pub fn queued(&self) -> &Latency {
        &self.queued
    }

    /// Retries, by reason.
    pub fn retries(&self) -> impl Iterator<Item = (retry::Reason, u64)> {
        retry::Reason::ALL.into_iter().zip(&self.retries).map(|(reason, count)| (reason, count.load(Relaxed)))
    }

    /// Requests not retried because the retry budget was used up.
    pub fn over_budget(&self) -> u64 {
        self.over_budget.load(Relaxed)
    }

    /// The transports of one side.
    pub fn transport(&self, side: Side) -> &Arc<Transport> {
        match side {
            Side::Client => &self.client,
            Side::Endpoint => &self.endpoint,
        }
    }

    /// Counts a request; returns the number of requests before it.
    pub(crate) fn count_request(&self) -> u64 {
        self.requests.fetch_add(1, Relaxed)
    }

    pub(crate) fn count_response(&self, status: StatusCode, grpc_status: Option<u8>, latency: Duration) {
        let grpc = match grpc_status {
            None => GRPC_NONE,
            Some(code) if usize::from(code) < GRPC_NONE => code.into(),
            Some(_) => GRPC_OTHER,
        };
        let row = usize::from(status.as_u16()).saturating_sub(FIRST_STATUS).min(STATUSES - 1);
        self.responses[row * GRPC_STATUSES + grpc].fetch_add(1, Relaxed);
        self.latency.record(latency);
    }

    pub(crate) fn count_shed(&self) {
        self.shed.fetch_add(1, Relaxed);
    }

    /// Counts a request that was answered with 403, gRPC status 7.
    pub(crate) fn count_denied(&self) {
        self.denied.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_failfast(&self) {
        self.failfast.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_queued(&self, waited: Duration) {
        self.queued.record(waited);
    }

    pub(crate) fn count_retry(&self, reason: retry::Reason) {
        self.retries[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn count_over_budget(&self) {
        self.over_budget.fetch_add(1, Relaxed);
    }
}

// === impl Transport ===

impl Transport {
    /// Connections opened so far.
    pub fn open_total(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// Connections closed so far.
    pub fn close_total(&self) -> u64 {
        self.closed.load(Relaxed)
    }

    /// Connections open now.
    pub fn open_connections(&self) -> u64 {
        let closed = self.close_total();
        self.open_total().saturating_sub(closed)
    }

    /// Bytes read so far.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Relaxed)
    }

    /// Bytes written so far.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Relaxed)
    }

    /// Streams that peers reset, by code. Streams open when their connection was lost count as [`ResetCode::Other`].
    pub fn resets(&self) -> impl Iterator<Item = (ResetCode, u64)> {
        by_code(&self.resets)
    }

    /// GOAWAY frames that peers ended connections with, by code. [`ResetCode::Other`]: a code that RFC 9113 does not define.
    pub fn go_aways(&self) -> impl Iterator<Item = (ResetCode, u64)> {
        by_code(&self.go_aways)
    }

    /// Malformed messages from peers (RFC 9113 section 8.1.1), which are not forwarded. Not counted: streams of clients that
    /// the engine resets before they are requests.
    pub fn malformed(&self) -> u64 {
        self.malformed.load(Relaxed)
    }

    /// The number of times that connections, or requests on them, reached each limit. Connections to endpoints have none. A
    /// connection counted as [`Limit::Age`] may be counted as [`Limit::AgeGrace`] later.
    pub fn limits(&self) -> impl Iterator<Item = (Limit, u64)> {
        Limit::ALL.into_iter().zip(&self.limits).map(|(limit, count)| (limit, count.load(Relaxed)))
    }

    /// Streams ended by each timeout.
    pub fn stream_limits(&self) -> impl Iterator<Item = (StreamLimit, u64)> {
        StreamLimit::ALL.into_iter().zip(&self.stream_limits).map(|(limit, count)| (limit, count.load(Relaxed)))
    }

    /// The streams that flow control blocks and has blocked, by reason.
    pub fn blocked(&self) -> impl Iterator<Item = Blocked> {
        self.blocked.all(Instant::now())
    }

    /// The connections open now, `max` at most, the ones that have blocked streams first. 10,000 blocked streams at most are
    /// named in all.
    pub fn connections(&self, max: usize) -> Vec<Connection> {
        self.open.describe(max)
    }

    /// The connections open now that have a [`limited_by_window`](crate::stats::FlowStatus::limited_by_window), `max` at most, without the names of blocked
    /// streams.
    pub fn connections_limited_by_window(&self, max: usize) -> Vec<Connection> {
        self.open.describe_limited(max)
    }

    /// Calls `visit` with each connection open now, without the names of blocked streams.
    pub fn each_connection(&self, visit: impl FnMut(Connection)) {
        self.open.each(visit);
    }

    /// How long connections were open that have closed.
    pub fn durations(&self) -> &Latency {
        &self.durations
    }

    /// Requests that the proxy answered itself, or ended without a response, by reason. Only the client's side has them.
    pub fn proxy_errors(&self) -> impl Iterator<Item = (ProxyError, u64)> {
        ProxyError::ALL.into_iter().zip(&self.proxy_errors).map(|(error, count)| (error, count.load(Relaxed)))
    }

    /// Answers to requests that did not come to the service, because their heads were too large or malformed. Neither these
    /// requests nor their responses are among the ones of [`Stats`].
    pub fn early_answers(&self) -> Vec<Responses> {
        self.early_answers.responses()
    }

    /// Answers in the place of a service that had the request and had not responded: at the stream idle timeout, or when the
    /// connection was closed. The requests are among the ones of [`Stats`], the responses are not.
    pub fn late_answers(&self) -> Vec<Responses> {
        self.late_answers.responses()
    }

    /// Counts a request that the proxy answers itself.
    pub(crate) fn count_proxy_error(&self, error: ProxyError) {
        self.proxy_errors[error as usize].fetch_add(1, Relaxed);
    }

    /// The same for a request that does not come to the service.
    pub(crate) fn count_early_answer(&self, error: ProxyError, status: StatusCode, grpc_status: Option<u8>) {
        self.count_proxy_error(error);
        self.early_answers.count(status, grpc_status);
    }

    /// The same for a request that has come to the service.
    pub(crate) fn count_late_answer(&self, error: ProxyError, status: StatusCode, grpc_status: Option<u8>) {
        self.count_proxy_error(error);
        self.late_answers.count(status, grpc_status);
    }

    /// Counts a request whose head was refused before anything else was known of it.
    pub(crate) fn count_head_too_large(&self) {
        self.limit(Limit::HeadersCount);
        self.count_early_answer(ProxyError::HeadTooLarge, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, None);
    }

    pub(crate) fn blocked_times(&self) -> &BlockedTimes {
        &self.blocked
    }

    /// Counts a stream that a timeout ended.
    pub(crate) fn count_stream_limit(&self, limit: StreamLimit) {
        self.stream_limits[limit as usize].fetch_add(1, Relaxed);
    }

    /// Counts a connection that reached a limit. Public for an acceptor that limits connections before they are served.
    pub fn limit(&self, limit: Limit) {
        self.limits[limit as usize].fetch_add(1, Relaxed);
    }

    /// Counts a stream that the peer reset. `None`: its connection was lost.
    pub(crate) fn count_reset(&self, code: Option<Reason>) {
        count_code(&self.resets, code);
    }

    /// Counts a connection that the peer ended with GOAWAY.
    pub(crate) fn count_go_away(&self, code: Option<Reason>) {
        count_code(&self.go_aways, code);
    }

    /// Counts a malformed message from the peer.
    pub(crate) fn count_malformed(&self) {
        self.malformed.fetch_add(1, Relaxed);
    }

    /// Counts a connection that opens, and returns its place among the open ones.
    pub(crate) fn opened(&self, connection: Weak<dyn Describe>) -> usize {
        self.opened.fetch_add(1, Relaxed);
        self.open.add(connection)
    }

    pub(crate) fn closed(&self, place: usize, duration: Duration) {
        self.closed.fetch_add(1, Relaxed);
        self.durations.record(duration);
        self.open.remove(place);
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.read_bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn wrote(&self, bytes: usize) {
        self.written_bytes.fetch_add(bytes as u64, Relaxed);
    }
}

type CodeCounts = [AtomicU64; RESET_CODES];

fn by_code(counts: &CodeCounts) -> impl Iterator<Item = (ResetCode, u64)> {
    counts.iter().enumerate().map(|(code, count)| {
        let code = match u8::try_from(code) {
            Ok(code) if usize::from(code) < RESET_CODES - 1 => ResetCode::Known(code),
            _ => ResetCode::Other,
        };
        (code, count.load(Relaxed))
    })
}

fn count_code(counts: &CodeCounts, code: Option<Reason>) {
    let code = code.and_then(|code| usize::try_from(u32::from(code)).ok()).unwrap_or(usize::MAX);
    counts[code.min(RESET_CODES - 1)].fetch_add(1, Relaxed);
}
