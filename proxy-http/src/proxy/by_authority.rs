//! Destinations that requests name themselves, by their authorities.

use crate::{
    Stats,
    message::{answer::Answer, authority},
    proxy::{
        find::{self, Find, Found},
        limits::Limits,
        policy::Policy,
        pool::{Backend, Bounds, Destination, Pool},
        shared::ProxyShared,
    },
};
use http::{HeaderMap, Method, Uri};
use std::{borrow::Cow, fmt, sync::Arc};
use tokio::time::Instant;

/// Finds the back ends that requests name.
///
/// Not every client may reach every host through a proxy: an implementation resolves the names and addresses that are meant to
/// be reached, and no others.
pub trait Resolve: fmt::Debug + Send + Sync + 'static {
    /// A back end, which follows the endpoints of its name.
    type Backend: Backend;

    /// Starts following the endpoints of a host: a name in lower case without a dot at its end, an IPv4 address, or an IPv6 address
    /// in brackets. Called in a tokio runtime, once for all requests that come while the back end is connected to.
    ///
    /// # Errors
    ///
    /// When requests may not go there.
    fn resolve(&self, host: &str, port: u16) -> Result<Arc<Self::Backend>, NotAllowed>;
}

/// A destination that requests may not go to; they get 403, gRPC status 7.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, thiserror::Error)]
#[error("the destination is not allowed")]
pub struct NotAllowed;

/// The destinations of a [`Proxy`](super::Proxy) on one thread, by the authorities of requests; clones share them.
///
/// A back end is connected to when a first request names it. Names in upper case, with a dot at the end, or with the default port,
/// are the same as without.
#[derive(Debug)]
pub struct ByAuthority<R: Resolve>(Arc<Resolved<R>>);

#[derive(Debug)]
struct Resolved<R: Resolve> {
    resolve: R,
    /// Of an authority without one.
    default_port: u16,
    pool: Arc<Pool<String, R::Backend>>,
}

// === impl ByAuthority ===

impl<R: Resolve> ByAuthority<R> {
    /// Connects to the back ends that `resolve` finds, on `default_port` where an authority has none. All requests share
    /// `limits`, and are counted in `stats`.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn(resolve: R, default_port: u16, limits: Arc<Limits>, stats: Arc<Stats>, bounds: Bounds) -> Self {
        Self(Arc::new(Resolved { resolve, default_port, pool: Pool::spawn(limits, stats, bounds, true) }))
    }

    /// The back ends that are connected to.
    #[must_use]
    pub fn connected(&self) -> Vec<Destination<R::Backend>> {
        self.0.pool.connected()
    }

    pub(super) fn into_find(self) -> Arc<dyn Find> {
        self.0
    }
}

impl<R: Resolve> Clone for ByAuthority<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

// === impl Resolved ===

impl<R: Resolve> Resolved<R> {
    fn choose(&self, uri: &Uri, headers: &HeaderMap, now: Instant) -> Result<Found, Answer> {
        let named = find::authority(uri, headers).and_then(|text| Some((text, authority::split(text)?)));
        let (text, (host, port)) = named
            .ok_or_else(|| Answer::bad_request("the request has no authority, which would name its destination"))?;
        let port = port.unwrap_or(self.default_port);
        let key = key(text, host, (port != self.default_port).then_some(port));
        let (proxy, counters) = self.pool.get(&*key, now, || {
            let host = &key[..without_dot(host).len()];
            self.resolve.resolve(host, port).map_err(|error| {
                self.pool.count_denied();
                Answer::forbidden(error.to_string())
            })
        })?;
        Ok(Found { proxy, policy: Policy::NONE, counters, answer: None })
    }
}

impl<R: Resolve> Find for Resolved<R> {
    fn find(&self, _: &Method, uri: &Uri, headers: &HeaderMap, now: Instant) -> Found {
        self.choose(uri, headers, now).unwrap_or_else(|answer| Found::answer(self.pool.without_destination(), answer))
    }

    fn without_destination(&self) -> &Arc<ProxyShared> {
        self.pool.without_destination()
    }
}

/// A name without a dot at its end, which it may have in DNS.
fn without_dot(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

/// The one form of a destination: the host in lower case without a dot at its end, and the port if it is not the default one.
/// That of most requests is a part of their authority.
fn key<'a>(authority: &'a str, host: &'a str, port: Option<u16>) -> Cow<'a, str> {
    let name = without_dot(host);
    let is_written = name.len() == host.len() && !host.bytes().any(|byte| byte.is_ascii_uppercase());
    match port {
        None if is_written => Cow::Borrowed(name),
        None => Cow::Owned(name.to_ascii_lowercase()),
        // A port may have zeros before it.
        Some(port) if is_written && authority.len() == host.len() + 2 + port.ilog10() as usize => {
            Cow::Borrowed(authority)
        }
        Some(port) => Cow::Owned(format!("{}:{port}", name.to_ascii_lowercase())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_has_one_form() {
        for (written, form) in [
            ("a.example", "a.example"),
            ("A.Example", "a.example"),
            ("a.example.", "a.example"),
            ("a.example..", "a.example."),
            ("a.example:80", "a.example"),
            ("a.example:080", "a.example"),
            ("a.example:", "a.example"),
            ("a.example:8080", "a.example:8080"),
            ("a.example:08080", "a.example:8080"),
            ("a.EXAMPLE.:8080", "a.example:8080"),
            ("a.example:1", "a.example:1"),
            ("127.0.0.1:65535", "127.0.0.1:65535"),
            ("[::1]", "[::1]"),
            ("[::FF]:81", "[::ff]:81"),
        ] {
            let (host, port) = authority::split(written).unwrap();
            assert_eq!(key(written, host, port.filter(|port| *port != 80)), form, "{written}");
        }
        assert_eq!(authority::split("a.example:0"), None);
        assert_eq!(authority::split("a.example:65536"), None);
        assert_eq!(authority::split("user@a.example"), None);
    }
}
