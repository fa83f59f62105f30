//! The limits of a route's requests.

use std::time::Duration;

/// The limits of a route's requests, in place of the proxy's [`Params`](super::Params). `None`, the default of each: the proxy's.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Policy {
    /// The longest time from a request's head to its response's end, as Gateway API's `timeouts.request`. Zero: no limit.
    pub request_timeout: Option<Duration>,
    /// The longest time from when a request is sent to an endpoint to its response's end, which starts anew when it is sent
    /// again, as Gateway API's `timeouts.backendRequest`. Zero, or `None`: no limit.
    pub backend_request_timeout: Option<Duration>,
    /// How often one request is sent again at most after it may have been processed, or was refused; at most 5. `None`: 5 times.
    pub retries: Option<u32>,
    /// See [`retry::Params::gateway_errors`](super::retry::Params::gateway_errors).
    pub retry_gateway_errors: Option<bool>,
}

// === impl Policy ===

impl Policy {
    /// That of a request without a route.
    pub(super) const NONE: Self =
        Self { request_timeout: None, backend_request_timeout: None, retries: None, retry_gateway_errors: None };
}
