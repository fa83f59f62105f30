//! How endpoints are kept and chosen.

use crate::balance::{backoff::Backoff, breaker};
use std::{num::NonZeroUsize, time::Duration};

/// How endpoints are kept and chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Pauses between attempts to connect to an endpoint.
    pub backoff: Backoff,
    /// Connections to one endpoint at most; another is opened when all have as many streams as they take.
    pub max_connections: NonZeroUsize,
    /// Streams on a connection at most, if its peer takes more. `None`: as many as the peer takes.
    pub max_streams: Option<NonZeroUsize>,
    /// How long a connection may go without a request before it is closed; the last one stays. `None`: for ever.
    pub max_idle: Option<Duration>,
    /// Connections of HTTP/1.1 to one endpoint that are kept without a request; more are closed when their request ends,
    /// but for the last. `None`: as many as there are.
    pub max_idle_connections: Option<usize>,
    /// How long an endpoint gets less than its share: a tenth at first, all of it after this time. Default: 10 s. Zero: all of
    /// it at once.
    ///
    /// That is an endpoint that is listed while others are ready, or that comes back after attempts to connect to it have failed,
    /// from when it is connected. Endpoints that are listed while none is ready get their full share at once, as do all
    /// when none was ready any more, and those that were ejected or connected to again without a failure.
    pub slow_start: Duration,
    /// When an endpoint that keeps failing is left alone.
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
