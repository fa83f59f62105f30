//! Detects the protocol of connections from clients, and serves them.

use crate::{
    BoxError, IncomingBody,
    connection::{
        detect::{Detected, Protocol, detect},
        io::Io,
        rewind::{ReadAhead, Rewind},
        state::{ConnectionState, PeerName},
        timeouts::lifetime::{DRAIN_SILENCE, Lifetime},
    },
    server::{
        builder::{Accepted, DetectedConnection, Server},
        error::{Error, ErrorKind},
        http1::Limits,
        http2::Http2Connection,
    },
    stats::{Limit, OpenRecord},
};
use bytes::Bytes;
use futures_util::future::{MaybeDone, maybe_done};
use http::{Request, Response};
use http_body::Body;
use std::{
    future::Future,
    pin::{Pin, pin},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tower_service::Service;

impl Server {
    /// Serves one connection until the client closes it, or until it is drained. Its first bytes tell whether it is
    /// HTTP/2: by the preface (RFC 9113 section 3.4).
    ///
    /// Draining starts when `drain` completes, or when the connection reaches the age or the idle time that the params
    /// set: a GOAWAY tells the client to open no more streams, the streams that it had opened by then are served, and the
    /// connection closes when the last one ends. In HTTP/1.1 it closes after the request that is being answered. If the
    /// client leaves the connection open, it is closed once no stream is open and no byte has moved for five seconds. At
    /// the end of the grace after its age a connection is closed in any case, for whatever reason it is drained, and at the
    /// [`drain_timeout`](Self::drain_timeout) after `drain`. The streams that are open then are reset with INTERNAL_ERROR, or,
    /// between two messages of a gRPC response that [`Proxy`](crate::Proxy) forwards, end with trailers that have status 14.
    ///
    /// An error of `service` resets the stream, with the code of the first [`StreamError`](crate::StreamError) among it and its
    /// sources, or else with INTERNAL_ERROR. So does a response that HTTP/2 has no form for, such as one with a `connection` field. When a
    /// client resets its stream, or is lost, the future or the body of its response is dropped.
    ///
    /// When the client takes no byte of the response for the write-stall timeout, or no frame moves on the stream for the
    /// stream idle timeout, the stream is reset with INTERNAL_ERROR (some clients take CANCEL for a clean end) and the
    /// response dropped. An idle stream without a response
    /// head is answered with 504 (gRPC status 4). Envoy answers it with 408 while the request is not whole, but 408 invites
    /// the client to send a request again of which an endpoint may have done a part (RFC 9110 section 15.5.9).
    ///
    /// A client of HTTP/2 whose response is whole before its request may send on for a second, but gets no more window;
    /// then, or when its window is used up, the stream is reset with NO_ERROR (RFC 9113 section 8.1).
    ///
    /// A WebSocket handshake of an HTTP/1.1 client comes to `service` as HTTP/2 has it, an extended CONNECT (RFC 8441),
    /// and a 2xx of version HTTP/2 accepts it. After that, and after 2xx to CONNECT, the bodies carry the tunnel's
    /// bytes in either direction until both have ended.
    ///
    /// Interim responses (1xx) that a [`SendRequest`](crate::SendRequest) receives while `service`'s future is polled are
    /// forwarded to a client of HTTP/2.
    ///
    /// In HTTP/1.1 an error of `service` or of the response's body closes the connection, so that the client sees no whole
    /// response, as do these timeouts.
    ///
    /// # Errors
    ///
    /// When the transport fails, or when the client breaks the protocol, answers no keep-alive PING or goes beyond what
    /// [`Protection`](http_h2::Protection) allows.
    pub async fn serve<I, S, B, D>(&self, io: I, service: S, drain: D) -> Result<(), Error>
    where
        I: AsyncRead + AsyncWrite + Unpin,
        S: Service<Request<IncomingBody>, Response = Response<B>> + Clone,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<BoxError>,
        D: Future<Output = ()>,
    {
        self.serve_accepted(Accepted::default(), io, service, drain).await
    }

    /// Serves one connection like [`serve`](Self::serve), with the facts of [`Accepted`]: the client's address, which
    /// [`Transport::connections`](crate::stats::Transport::connections) lists; the protocol, for example from ALPN, which is then
    /// not detected; and an observer of the connection's requests.
    ///
    /// # Errors
    ///
    /// As [`serve`](Self::serve) says.
    pub async fn serve_accepted<I, S, B, D>(&self, accepted: Accepted, io: I, service: S, drain: D) -> Result<(), Error>
    where
        I: AsyncRead + AsyncWrite + Unpin,
        S: Service<Request<IncomingBody>, Response = Response<B>> + Clone,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<BoxError>,
        D: Future<Output = ()>,
    {
        let Accepted { peer, protocol, observe } = accepted;
        let started = Instant::now();
        let connection_state = ConnectionState::new(&self.transport);
        connection_state.set_peer(peer.map(PeerName::Addr));
        let mut io = Io::new(io, &self.transport, &connection_state);
        let mut drain = pin!(maybe_done(drain));
        if let Some(protocol) = protocol {
            let connection = DetectedConnection { io, ahead: ReadAhead::default(), connection_state, started, observe };
            return self.serve_as(protocol, connection, service, drain).await;
        }
        let detected = tokio::select! {
            biased;
            detected = tokio::time::timeout(self.detect_timeout, detect(&mut io)) => detected,
            // First bytes that are already on their way are still served.
            () = async {
                drain.as_mut().await;
                tokio::time::sleep(DRAIN_SILENCE).await;
            } => return Ok(()),
        };
        match detected {
            Ok(Ok(Detected::Http(protocol, ahead))) => {
                let connection = DetectedConnection { io, ahead, connection_state, started, observe };
                self.serve_as(protocol, connection, service, drain).await
            }
            Ok(Ok(Detected::Closed)) => Ok(()),
            Ok(Ok(Detected::Tls)) => Err(ErrorKind::Tls.into()),
            Ok(Err(error)) => Err(ErrorKind::Io(error).into()),
            Err(_) => {
                self.transport.limit(Limit::Detect);
                Ok(())
            }
        }
    }

    async fn serve_as<I, S, B, D>(
        &self,
        protocol: Protocol,
        connection: DetectedConnection<I>,
        service: S,
        drain: Pin<&mut MaybeDone<D>>,
    ) -> Result<(), Error>
    where
        I: AsyncRead + AsyncWrite + Unpin,
        S: Service<Request<IncomingBody>, Response = Response<B>> + Clone,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<BoxError>,
        D: Future<Output = ()>,
    {
        match protocol {
            Protocol::Http2 => Http2Connection::new(self, connection, service).serve(drain).await,
            Protocol::Http1 => {
                let DetectedConnection { io, ahead, connection_state, started, observe } = connection;
                let lifetime = Lifetime::without_frames(self.max_age, self.max_idle, started);
                let limits = Limits {
                    lifetime,
                    write_stall: self.write_stall,
                    stream_idle: self.stream_idle,
                    drain_timeout: self.drain_timeout,
                    transport: &self.transport,
                    records: OpenRecord::new(observe),
                };
                // Boxed, or the future of each HTTP/2 connection would have its size, too.
                Box::pin(self.http1.serve(Rewind::new(io, ahead), service, connection_state, limits, drain)).await
            }
        }
    }
}
