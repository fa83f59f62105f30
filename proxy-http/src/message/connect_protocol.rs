//! The protocol that an extended CONNECT asks for.

use h2::ext::Protocol;
use http::Extensions;
use std::fmt;

/// The `:protocol` of an extended CONNECT (RFC 8441 section 4), as an extension of the request.
///
/// A request that a [`Server`](crate::Server) receives has it if its client sent one, or if it is a WebSocket handshake of
/// HTTP/1.1. A CONNECT that has it is sent to an endpoint as extended CONNECT, in HTTP/1.1 as a WebSocket handshake. In a request
/// of another method the extension has no effect.
///
/// # Examples
///
/// ```
/// use proxy_http::ConnectProtocol;
///
/// let req = http::Request::connect("http://chat.example/room").extension(ConnectProtocol::WEBSOCKET).body(())?;
/// assert_eq!(req.extensions().get::<ConnectProtocol>().map(ConnectProtocol::as_str), Some("websocket"));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Eq, PartialEq)]
pub struct ConnectProtocol(Protocol);

// === impl ConnectProtocol ===

impl ConnectProtocol {
    /// WebSocket (RFC 8441 section 5).
    pub const WEBSOCKET: Self = Self::from_static("websocket");

    /// A protocol by its name in the HTTP Upgrade Token Registry.
    #[must_use]
    pub const fn from_static(name: &'static str) -> Self {
        Self(Protocol::from_static(name))
    }

    /// The protocol's name, as it was sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Puts this type in the place of the engine's, in a request that was received.
    pub(crate) fn from_engine(extensions: &mut Extensions) {
        if let Some(protocol) = extensions.remove() {
            extensions.insert(Self(protocol));
        }
    }

    /// Puts the engine's type in the place of this one, in a request that is sent.
    pub(crate) fn to_engine(extensions: &mut Extensions) {
        match extensions.remove() {
            Some(Self(protocol)) => _ = extensions.insert(protocol),
            // A service may have added one, which only this type is to send.
            None => _ = extensions.remove::<Protocol>(),
        }
    }
}

impl From<&str> for ConnectProtocol {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Debug for ConnectProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
