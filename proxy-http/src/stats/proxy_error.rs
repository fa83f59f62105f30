//! Reasons for which the proxy answers a request itself.

/// Why the proxy answered a request itself, or cut its response. The set is small, so it can be a label of metrics.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ProxyError {
    /// The request is malformed, or names no destination: 400.
    BadRequest,
    /// The client is denied, or may not go to the destination: 403.
    Forbidden,
    /// No route takes the request: 404.
    NoRoute,
    /// The path and query are too long: 414.
    UriTooLong,
    /// The client sends more requests than its rate allows, or the route gets more: 429.
    RateLimited,
    /// The request has too many fields, or a header list that is too large: 431.
    HeadTooLarge,
    /// The heads of open requests are too large together: 431, or 503.
    BufferedHeads,
    /// The head is larger than the endpoint takes: 431.
    EndpointHeadLimit,
    /// The route has no back end: 500.
    NoBackend,
    /// The proxy or the endpoint does not implement the method or protocol: 501.
    Unimplemented,
    /// The connection to the endpoint was lost before the response: 502.
    ConnectionLost,
    /// The endpoint's response is malformed: 502.
    BadResponse,
    /// No endpoint could be connected to: 502.
    ConnectFailed,
    /// No endpoint could be connected to in time: 504.
    ConnectTimeout,
    /// No endpoint was ready in the fail-fast time, or there is none: 503.
    NoEndpoint,
    /// The endpoint refused the request: 503.
    Refused,
    /// Too many requests were in flight: 503.
    InFlight,
    /// Too many requests waited for an endpoint: 503.
    QueueFull,
    /// Too many destinations had requests in flight: 503.
    TooManyDestinations,
    /// The request's deadline passed: 504, or a reset.
    Deadline,
    /// The endpoint took no more of the request: 504, or a reset.
    EndpointStalled,
    /// Nothing moved on the stream: 504, or a reset.
    Idle,
    /// The client took no more of the response: a reset.
    ClientStalled,
    /// The connection was closed before the response was whole, as at the end of a drain: a reset.
    Closing,
    /// The client's connection reached a limit and was closed: a reset.
    ConnectionLimit,
    /// The request has come back too often: 508.
    Loop,
}

// === impl ProxyError ===

impl ProxyError {
    /// All reasons, in the order of their declaration, which is the index of their counters.
    pub(crate) const ALL: [Self; 26] = [
        Self::BadRequest,
        Self::Forbidden,
        Self::NoRoute,
        Self::UriTooLong,
        Self::RateLimited,
        Self::HeadTooLarge,
        Self::BufferedHeads,
        Self::EndpointHeadLimit,
        Self::NoBackend,
        Self::Unimplemented,
        Self::ConnectionLost,
        Self::BadResponse,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::NoEndpoint,
        Self::Refused,
        Self::InFlight,
        Self::QueueFull,
        Self::TooManyDestinations,
        Self::Deadline,
        Self::EndpointStalled,
        Self::Idle,
        Self::ClientStalled,
        Self::Closing,
        Self::ConnectionLimit,
        Self::Loop,
    ];

    /// The name, in snake case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Forbidden => "forbidden",
            Self::NoRoute => "no_route",
            Self::UriTooLong => "uri_too_long",
            Self::RateLimited => "rate_limited",
            Self::HeadTooLarge => "head_too_large",
            Self::BufferedHeads => "buffered_heads",
            Self::EndpointHeadLimit => "endpoint_head_limit",
            Self::NoBackend => "no_backend",
            Self::Unimplemented => "unimplemented",
            Self::ConnectionLost => "connection_lost",
            Self::BadResponse => "bad_response",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::NoEndpoint => "no_endpoint",
            Self::Refused => "refused",
            Self::InFlight => "in_flight",
            Self::QueueFull => "queue_full",
            Self::TooManyDestinations => "too_many_destinations",
            Self::Deadline => "deadline",
            Self::EndpointStalled => "endpoint_stalled",
            Self::Idle => "idle",
            Self::ClientStalled => "client_stalled",
            Self::Closing => "closing",
            Self::ConnectionLimit => "connection_limit",
            Self::Loop => "loop",
        }
    }
}
