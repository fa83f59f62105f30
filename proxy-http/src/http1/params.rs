//! Parameters of HTTP/1.1 servers.

use crate::message::head::field_size;
use std::time::Duration;

/// How HTTP/1.1 clients are served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Params {
    /// How long a client may take to send a request's head once it has begun, before its connection is closed. The
    /// time between requests does not count. Default: 30 s.
    pub header_read_timeout: Duration,
    /// Whether the transport is secure, so that a target without a scheme has `https`. Default: false.
    pub https: bool,
    /// Fields that the head of a request may have. hyper keeps a place for each in every head above 100, so that fewer cost
    /// less; of fewer than 100 the rest is left to [`proxy::Params`](crate::proxy::Params). Default: 100.
    pub max_headers_count: usize,
}

/// The fields that hyper takes by default, on the stack.
const DEFAULT_FIELDS: usize = 100;
/// The least that a field adds to a header list: a name of one byte.
const MIN_FIELD: usize = field_size(1, 0);

/// The limit to set for heads of up to `count` fields, and of header lists of `max_header_list` bytes. `None`: hyper's own.
pub(crate) fn max_headers(count: usize, max_header_list: usize) -> Option<usize> {
    // `host` is no field of HTTP/2.
    Some(count.min(max_header_list / MIN_FIELD) + 1).filter(|_| count > DEFAULT_FIELDS)
}

impl Default for Params {
    /// 30 s for a head of 100 fields, in clear text.
    fn default() -> Self {
        Self { header_read_timeout: Duration::from_secs(30), https: false, max_headers_count: DEFAULT_FIELDS }
    }
}
