//! Connections that are no longer HTTP: what both sides have agreed on in an upgrade (RFC 9110 section 7.8).

use crate::activity::OpenStream;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::{
    io,
    sync::{Arc, Mutex},
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

/// What a request asks to go on with, in place of HTTP/1.1.
#[derive(Clone, Debug)]
pub(super) struct Upgrade(HeaderValue);

/// An upgrade that the endpoint has agreed to.
pub(super) struct Tunnel<B> {
    endpoint: OnUpgrade,
    /// The response's, which keeps the request counted.
    _body: B,
    _stream: Option<OpenStream>,
}

/// Where a connection finds its tunnel, when hyper has done its part.
pub(super) struct Place<B>(Arc<Mutex<Option<Tunnel<B>>>>);

/// The only one that is passed on: `h2c` would be another protocol, and others say nothing of the connection's bytes.
const WEBSOCKET: &[u8] = b"websocket";
const UNPOISONED: &str = "nothing panics with the lock held";

// === impl Upgrade ===

impl Upgrade {
    /// The upgrade that a message's `connection` and `upgrade` fields speak of.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(header::UPGRADE).into_iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let named = super::fields::has_token(headers, &header::CONNECTION, "upgrade");
        (named && value.as_bytes().eq_ignore_ascii_case(WEBSOCKET)).then(|| Self(value.clone()))
    }

    /// Says it in the fields of a message.
    pub(super) fn put(self, headers: &mut HeaderMap) {
        headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.0);
    }
}

// === impl Tunnel ===

impl<B> Tunnel<B> {
    pub(super) fn new(endpoint: OnUpgrade, body: B, stream: Option<OpenStream>) -> Self {
        Self { endpoint, _body: body, _stream: stream }
    }

    /// Copies bytes both ways until both sides have ended. `read`: what the client has sent already.
    pub(super) async fn run<I: AsyncRead + AsyncWrite + Unpin>(self, mut client: I, read: Bytes) -> io::Result<()> {
        let endpoint = self.endpoint.await.map_err(io::Error::other)?;
        let mut endpoint = TokioIo::new(endpoint);
        endpoint.write_all(&read).await?;
        tokio::io::copy_bidirectional(&mut client, &mut endpoint).await?;
        Ok(())
    }
}

// === impl Place ===

impl<B> Place<B> {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    pub(super) fn put(&self, tunnel: Tunnel<B>) {
        *self.0.lock().expect(UNPOISONED) = Some(tunnel);
    }

    pub(super) fn take(&self) -> Option<Tunnel<B>> {
        self.0.lock().expect(UNPOISONED).take()
    }
}

impl<B> Clone for Place<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
