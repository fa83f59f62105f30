//! An endpoint as service discovery describes it: address, weight, parameters, labels; and the endpoint's status.

use crate::balance::report::{Report, Reports};
use http::uri::Authority;
use http_h2::ClientParams;
use std::{fmt, num::NonZeroU32};

/// An endpoint: its address, and how to connect and send requests to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint<A> {
    /// The target of the connector. Also identifies the endpoint, and names it in logs and metrics.
    pub addr: A,
    /// Its share of the requests, relative to other endpoints' weights: of equally fast endpoints one of weight 3 gets three
    /// times the requests of one of weight 1, give or take 5 % of a few thousand, whatever the load. Default: 1.
    pub weight: NonZeroU32,
    /// Endpoints of a higher number get requests only while none of a lower one can: all have failed, are unhealthy or are ejected.
    /// One that is being connected to without a failure before, or that has no free stream, is waited for, unless it is ejected. At
    /// most half of all endpoints are ejected, whatever their priorities. Default: 0.
    pub priority: u16,
    /// Parameters of its connections; each that is set takes precedence over that of [`Connect`](crate::Connect).
    /// Default: none is set.
    pub params: ClientParams,
    /// The authority of requests to it, but for CONNECT. `None`: requests keep the authority that their client has sent.
    pub authority: Option<Authority>,
    /// Names and values that label its metrics; [`Status`] has them. Default: none.
    pub labels: Vec<(String, String)>,
    /// The reports of its health checks, which say whether it gets new requests. `None`, the default: it is not checked.
    pub reports: Option<Reports>,
}

/// An endpoint's state and load at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The endpoint's address.
    pub addr: String,
    /// The endpoint's labels.
    pub labels: Vec<(String, String)>,
    /// The endpoint's weight.
    pub weight: u32,
    /// The endpoint's priority.
    pub priority: u16,
    /// Whether requests are sent to the endpoint.
    pub state: State,
    /// Open connections that accept requests.
    pub connections: usize,
    /// Open streams on the endpoint's connections.
    pub streams: usize,
    /// The moving average of the time to a response's head, in seconds, as of the last response. `None`: not measured, as with a single endpoint.
    pub latency: Option<f64>,
    /// The error of the last attempt to connect, or of the last connection if it was lost before any response. `None`: neither
    /// failed.
    pub error: Option<String>,
    /// The report of its health checks. `None`: it is not checked.
    pub report: Option<Report>,
    /// The responses that have ended. `None`: there was none yet, or they are not counted, as with a single endpoint.
    pub responses: Option<ResponseCounts>,
}

/// An endpoint's responses that have ended, since it joined.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct ResponseCounts {
    /// Responses that are no failures.
    pub successes: u64,
    /// Responses that are failures by their [status](crate::stats::Responses::is_failure), were sent again for it, or were cut,
    /// connections lost before a response, and requests that ran into their deadline while the endpoint was waited for.
    pub failures: u64,
}

/// Whether requests are sent to an endpoint.
///
/// Exhaustive, so that a program that acts on the state, as for its own readiness, does not compile until it knows a new one.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum State {
    /// At least one connection accepts requests, or, in HTTP/1.1, connections are made as requests come.
    Ready,
    /// No connection is open; one is being made, for the first time or again.
    Connecting,
    /// No connection is open, and the last attempt to connect has failed; attempts go on after a pause.
    Failed,
    /// Too many consecutive requests have failed; no requests are sent for a time. See [`breaker`](crate::balance::breaker).
    Ejected,
    /// The health checks fail, or none has passed yet; no new requests are sent. See [`health_check`](crate::balance::health_check).
    Unhealthy,
}

// === impl Endpoint ===

impl<A> Endpoint<A> {
    /// An endpoint of weight 1 and priority 0, without parameters, authority or labels of its own, and without health checks.
    pub fn new(addr: A) -> Self {
        let (weight, params) = (NonZeroU32::MIN, ClientParams::DEFAULT);
        Self { addr, weight, priority: 0, params, authority: None, labels: Vec::new(), reports: None }
    }

    /// Whether connections to this endpoint are the same as to the other one, and its health checks are: weight, priority
    /// and labels do not concern them.
    pub(super) fn has_same_connections_and_checks(&self, other: &Self) -> bool
    where
        A: PartialEq,
    {
        self.reports == other.reports && self.has_same_connections(other)
    }

    /// Whether connections to this endpoint are the same as to the other one.
    pub(super) fn has_same_connections(&self, other: &Self) -> bool
    where
        A: PartialEq,
    {
        let Self { addr, weight: _, priority: _, params, authority, labels: _, reports: _ } = self;
        *addr == other.addr && *params == other.params && *authority == other.authority
    }
}

// === impl State ===

impl State {
    /// All states.
    pub const ALL: [Self; 5] = [Self::Ready, Self::Connecting, Self::Failed, Self::Ejected, Self::Unhealthy];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Connecting => "connecting",
            Self::Failed => "failed",
            Self::Ejected => "ejected",
            Self::Unhealthy => "unhealthy",
        })
    }
}
