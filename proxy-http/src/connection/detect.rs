//! Detects the protocol of a peer by its first bytes.

use crate::connection::{frames::head::SETTINGS, rewind::ReadAhead};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Protocol {
    /// HTTP/1.1, or HTTP/1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

/// The result of [`detect`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Detected {
    Http(Protocol, ReadAhead),
    /// A TLS handshake.
    Tls,
    /// The client closed the connection before its first bytes told the protocol.
    Closed,
}

/// A protocol that an endpoint's first bytes are of, in place of the one that it was spoken to in.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum OtherProtocol {
    #[error("endpoint speaks HTTP/1.1")]
    Http1,
    #[error("endpoint speaks HTTP/2")]
    Http2,
    #[error("endpoint speaks TLS")]
    Tls,
    /// Some servers of HTTP/1.1 answer to HTTP/2's preface with content that has no status line.
    #[error("endpoint does not speak HTTP/2")]
    NotHttp2,
}

/// HTTP/2's client preface (RFC 9113 section 3.4).
const PREFACE: &[u8; ReadAhead::MAX] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of a TLS record with a handshake message. No HTTP method begins with it.
const TLS_HANDSHAKE: u8 = 0x16;
/// The first byte of a TLS record with an alert, a TLS server's answer to bytes that are not TLS.
const TLS_ALERT: u8 = 0x15;

// === impl OtherProtocol ===

impl OtherProtocol {
    /// By the first bytes of an endpoint: an HTTP/1 status line, a SETTINGS frame without an ACK, or a TLS record. It is
    /// for an error that is there anyway, so that a start in pieces need not be told.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [b'H', b'T', b'T', b'P', b'/', b'1', ..] => Some(Self::Http1),
            [0, _, _, SETTINGS, 0, 0, 0, 0, 0, ..] => Some(Self::Http2),
            [TLS_ALERT | TLS_HANDSHAKE, 3, ..] => Some(Self::Tls),
            // The fourth byte of a frame is its type.
            [_, _, _, b' '..=u8::MAX, ..] => Some(Self::NotHttp2),
            _ => None,
        }
    }
}

/// Reads HTTP/2's preface, or up to the first byte that differs from it; never more, so that no other bytes are copied.
pub(crate) async fn detect<I: AsyncRead + Unpin>(io: &mut I) -> io::Result<Detected> {
    let mut bytes = [0; ReadAhead::MAX];
    let mut len = 0;
    while len < PREFACE.len() {
        let n = io.read(&mut bytes[len..]).await?;
        if n == 0 {
            return Ok(Detected::Closed);
        }
        len += n;
        if bytes[..len] != PREFACE[..len] {
            let http1 = Detected::Http(Protocol::Http1, ReadAhead::new(&bytes[..len]));
            return Ok(if bytes[0] == TLS_HANDSHAKE { Detected::Tls } else { http1 });
        }
    }
    Ok(Detected::Http(Protocol::Http2, ReadAhead::new(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::rewind::Rewind;
    use tokio::io::AsyncWriteExt as _;

    /// The protocol detected for bytes that come one by one, and all bytes that are read after that.
    async fn detected(sent: &[u8]) -> (Option<Protocol>, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(1);
        let sent = sent.to_vec();
        tokio::spawn(async move { near.write_all(&sent).await });
        let Detected::Http(protocol, ahead) = detect(&mut far).await.unwrap() else { return (None, Vec::new()) };
        let mut read = Vec::new();
        Rewind::new(far, ahead).read_to_end(&mut read).await.unwrap();
        (Some(protocol), read)
    }

    #[tokio::test]
    async fn the_preface_tells_the_protocol_and_no_byte_is_lost() {
        let http2 = [&PREFACE[..], b"\0\0\0\x04\0\0\0\0\0"].concat();
        assert_eq!(detected(&http2).await, (Some(Protocol::Http2), http2));
        for http1 in
            ["GET / HTTP/1.1\r\n\r\n", "P", "\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", "PRI * HTTP/1.1\r\n\r\n"]
        {
            // "P" is the beginning of both.
            let protocol = (http1 != "P").then_some(Protocol::Http1);
            let read = protocol.map_or_else(Vec::new, |_| http1.as_bytes().to_vec());
            assert_eq!(detected(http1.as_bytes()).await, (protocol, read), "{http1:?}");
        }
        assert_eq!(detected(b"").await.0, None);
        assert_eq!(detected(b"\x16\x03\x01\x02\0\x01").await.0, None);
    }
}
