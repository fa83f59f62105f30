//! What is known of one endpoint by whoever discovers it.

use http_h2::ClientParams;
use std::{fmt, num::NonZeroU32};

/// An endpoint: where it is, and how to treat it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint<A> {
    /// What a connector connects to. Also the endpoint's name in logs and metrics, and what tells it from others.
    pub addr: A,
    /// Its share of the requests, against other endpoints' weights: of equally fast endpoints one of weight 3 gets three times
    /// the requests of one of weight 1, give or take 5 % of a few thousand, whatever the load. Default: 1.
    pub weight: NonZeroU32,
    /// Params of its connections; those that are set win over the ones of [`Connect`](crate::Connect).
    pub params: ClientParams,
    /// Names and values that go with its metrics.
    pub labels: Vec<(String, String)>,
}

/// How an endpoint is doing.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The endpoint's address.
    pub addr: String,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// Whether requests go to it.
    pub state: State,
    /// Connections that take requests.
    pub connections: usize,
    /// Streams on them.
    pub streams: usize,
    /// The moving average of its latency, in seconds. `None`: not measured, as with a single endpoint.
    pub latency: Option<f64>,
}

/// Whether requests go to an endpoint.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum State {
    /// They do.
    Ready,
    /// It is being connected to, for the first time or again.
    Connecting,
    /// The last attempt to connect has failed; there will be others.
    Failed,
    /// Too many requests have failed in a row; it is left alone for a time.
    Ejected,
}

// === impl Endpoint ===

impl<A> Endpoint<A> {
    /// An endpoint of weight 1, without params or labels of its own.
    pub fn new(addr: A) -> Self {
        Self { addr, weight: NonZeroU32::MIN, params: ClientParams::DEFAULT, labels: Vec::new() }
    }
}

// === impl State ===

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ready, Self::Connecting, Self::Failed, Self::Ejected];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Connecting => "connecting",
            Self::Failed => "failed",
            Self::Ejected => "ejected",
        })
    }
}
