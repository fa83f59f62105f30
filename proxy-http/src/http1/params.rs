//! Parameters of HTTP/1.1 servers.

use std::time::Duration;

/// How HTTP/1.1 clients are served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Params {
    /// How long a client may take to send a request's head once it has begun, before its connection is closed. The
    /// time between requests does not count. Default: 30 s.
    pub header_read_timeout: Duration,
    /// Whether the transport is secure, so that a target without a scheme has `https`. Default: false.
    pub https: bool,
}

impl Default for Params {
    /// 30 s for a head, in clear text.
    fn default() -> Self {
        Self { header_read_timeout: Duration::from_secs(30), https: false }
    }
}
