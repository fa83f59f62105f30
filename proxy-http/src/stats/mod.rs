//! Counters of requests, responses, connections and streams, for an exporter of metrics, and the labels they are kept by.

mod counters;
mod latency;
mod limit;
mod retry;
mod side;

pub use self::{
    counters::{ResetCode, Responses, Stats, Transport},
    latency::{LATENCY_BUCKETS, Latency},
    limit::{Limit, StreamLimit},
    retry::Reason as RetryReason,
    side::Side as Peer,
};

pub(crate) use self::side::Side;
