//! Parameters of the connections to endpoints and of load balancing.

use crate::balance::{backoff::Backoff, breaker};
use std::{num::NonZeroUsize, time::Duration};

/// Parameters of the connections to endpoints and of load balancing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Pauses between attempts to connect to an endpoint.
    pub backoff: Backoff,
    /// Connections to one endpoint at most; another is opened when all have as many streams as they may have.
    /// Default: 16.
    pub max_connections: NonZeroUsize,
    /// Streams on a connection at most, if the endpoint's SETTINGS_MAX_CONCURRENT_STREAMS is higher. `None`, the
    /// default: no other limit.
    pub max_streams: Option<NonZeroUsize>,
    /// How long a connection may go without a request before it is closed. In HTTP/2 the last one stays. `None`: no limit.
    /// Default: a minute.
    pub max_idle: Option<Duration>,
    /// Idle connections of HTTP/1.1 that are kept to one endpoint, at least one; more are closed when their requests end.
    /// `None`, the default: no limit.
    pub max_idle_connections: Option<usize>,
    /// Slow start: an endpoint's share grows from a tenth to all of it over this time. Default: 10 s. Zero: no slow start.
    ///
    /// It starts when an endpoint is connected that was listed while others were ready, or to which attempts to connect had
    /// failed, and when an endpoint is healthy again whose health checks had failed. Endpoints that are listed while none is
    /// ready get their full share at once, as do all when none was ready any more, and endpoints that were ejected, or connected
    /// to again without a failure.
    pub slow_start: Duration,
    /// When an endpoint is ejected.
    pub breaker: breaker::Params,
}

impl Default for Params {
    /// 16 connections to an endpoint at most, idle ones closed after a minute, 10 s of slow start.
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            max_connections: NonZeroUsize::new(16).expect("16 is not zero"),
            max_streams: None,
            max_idle: Some(Duration::from_secs(60)),
            max_idle_connections: None,
            slow_start: Duration::from_secs(10),
            breaker: breaker::Params::default(),
        }
    }
}
