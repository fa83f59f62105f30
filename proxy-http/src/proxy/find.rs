//! How a proxy to several destinations has the one of a request found.

use crate::{
    message::answer::Answer,
    proxy::{policy::Policy, shared::ProxyShared},
    stats::DestinationStats,
};
use http::{HeaderMap, Method, Uri, header::HOST, uri::Authority};
use std::{fmt, sync::Arc};
use tokio::time::Instant;

/// Where a request goes, or the answer that it gets.
pub(super) struct Found {
    pub(super) proxy: Arc<ProxyShared>,
    pub(super) policy: Policy,
    /// Where the request and its response count, beside the proxy's counters.
    pub(super) counters: Option<Arc<DestinationStats>>,
    /// `None`: the request is sent.
    pub(super) answer: Option<Answer>,
}

// === impl Found ===

impl Found {
    /// For a request that is answered without a destination.
    pub(super) fn answer(without_destination: &Arc<ProxyShared>, answer: Answer) -> Self {
        Self { proxy: Arc::clone(without_destination), policy: Policy::NONE, counters: None, answer: Some(answer) }
    }
}

/// Finds the back ends of requests.
pub(super) trait Find: fmt::Debug + Send + Sync {
    fn find(&self, method: &Method, uri: &Uri, headers: &HeaderMap, now: Instant) -> Found;

    /// For requests that are answered without a destination, which must not have anything connected to.
    fn without_destination(&self) -> &Arc<ProxyShared>;
}

/// The authority that a request names. One of HTTP/2 may have `host` in its place (RFC 9113 section 8.3.1).
pub(super) fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    uri.authority().map(Authority::as_str).or_else(|| headers.get(HOST)?.to_str().ok())
}
