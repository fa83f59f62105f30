//! Counters of requests, responses, connections and streams, for an exporter of metrics, and the labels they are kept by.

mod blocked;
mod connections;
mod counters;
mod destinations;
mod latency;
mod limit;
mod proxy_error;
mod request_record;
mod responses;
mod retry;
mod side;

pub use self::{
    blocked::{Blocked, BlockedReason},
    connections::{BlockedStream, Connection, FlowStatus, LimitingWindow, WindowLimit, WindowSizes},
    counters::{ResetCode, Stats, Transport},
    destinations::{ByDestination, DestinationLabels, DestinationStats},
    latency::{LATENCY_BUCKETS, Latency},
    limit::{Limit, StreamLimit},
    proxy_error::ProxyError,
    request_record::{Observe, ObserveEnd, RequestEnd, Reset, ResetBy, Retry},
    responses::Responses,
    retry::Reason as RetryReason,
    side::Side as Peer,
};

pub(crate) use self::{
    connections::Describe,
    destinations::is_failure,
    request_record::{ExchangeFacts, OpenRecord, Record, record_refused},
    side::Side,
};
