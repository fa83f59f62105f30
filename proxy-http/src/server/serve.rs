//! Serves connections from clients, of which it finds out what they speak.

use crate::{
    BoxError, IncomingBody,
    connection::{
        detect::{Detected, Protocol, detect},
        io::Io,
        rewind::{ReadAhead, Rewind},
        state::ConnectionState,
        timeouts::lifetime::{DRAIN_SILENCE, Lifetime},
    },
    server::{
        builder::{Opened, Server},
        error::{Error, ErrorKind},
        http1::Life,
        http2::Serving,
    },
    stats::Limit,
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
    /// set: the client is told by GOAWAY to open no more streams, those that it had sent by then are served, and the
    /// connection closes when the last one ends. In HTTP/1.1 it closes after the request that is being answered. A
    /// client that does not play along is closed once no stream is open and nothing has moved for five seconds. At the
    /// end of the grace after its age a connection is closed in any case, whatever is still open on it and whatever it
    /// is drained for.
    ///
    /// An error of `service` resets the stream, with the code of the first `h2::Error` among its sources or else with
    /// INTERNAL_ERROR. So does a response that HTTP/2 has no form for, such as one with a `connection` field. When a
    /// client resets its stream, or is lost, the future or the body of its response is dropped.
    ///
    /// So it is when the client takes nothing of the response for the write-stall timeout, or when nothing moves on the
    /// stream for the stream idle timeout: the stream is reset with CANCEL then; where the head is not there yet, it is
    /// answered with 504 (gRPC status 4). Envoy answers the latter with 408 where the request is not whole, but that
    /// asks clients to send it again, and what was done with it nobody knows.
    ///
    /// A client of HTTP/2 whose response is whole while its request is not may go on for a second, but gets no more window;
    /// the stream is reset with NO_ERROR then, or when its window is used up (RFC 9113 section 8.1).
    ///
    /// A client of HTTP/1.1 that asks for a WebSocket comes to `service` as one of HTTP/2 does, with extended CONNECT (RFC 8441),
    /// and 2xx of version HTTP/2 has it agreed. What follows that, or 2xx to CONNECT, are bytes for either side until both
    /// have ended.
    ///
    /// Interim responses (1xx) that come in to a [`SendRequest`](crate::SendRequest) while `service`'s future is polled go on
    /// to a client of HTTP/2.
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
        let started = Instant::now();
        let connection_state = ConnectionState::new(self.adaptive);
        let mut io = Io::new(io, &self.transport, &connection_state);
        let mut drain = pin!(maybe_done(drain));
        let detected = tokio::select! {
            biased;
            detected = tokio::time::timeout(self.detect_timeout, detect(&mut io)) => detected,
            // What is on its way is still served.
            () = async {
                drain.as_mut().await;
                tokio::time::sleep(DRAIN_SILENCE).await;
            } => return Ok(()),
        };
        match detected {
            Ok(Ok(Detected::Http(protocol, ahead))) => {
                let opened = Opened { io, ahead, connection_state, started };
                self.serve_as(protocol, opened, service, drain).await
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

    /// Serves one connection like [`serve`](Self::serve), of which it is known what is spoken on it.
    ///
    /// # Errors
    ///
    /// Those of [`serve`](Self::serve).
    pub async fn serve_protocol<I, S, B, D>(&self, protocol: Protocol, io: I, service: S, drain: D) -> Result<(), Error>
    where
        I: AsyncRead + AsyncWrite + Unpin,
        S: Service<Request<IncomingBody>, Response = Response<B>> + Clone,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<BoxError>,
        D: Future<Output = ()>,
    {
        let connection_state = ConnectionState::new(self.adaptive);
        let io = Io::new(io, &self.transport, &connection_state);
        let opened = Opened { io, ahead: ReadAhead::default(), connection_state, started: Instant::now() };
        self.serve_as(protocol, opened, service, pin!(maybe_done(drain))).await
    }

    async fn serve_as<I, S, B, D>(
        &self,
        protocol: Protocol,
        opened: Opened<I>,
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
            Protocol::Http2 => {
                let mut serving = Serving::new(self, opened, service);
                serving.serve(drain).await
            }
            Protocol::Http1 => {
                let Opened { io, ahead, connection_state, started } = opened;
                let lifetime = Lifetime::without_frames(self.max_age, self.max_idle, started);
                let life = Life {
                    lifetime,
                    write_stall: self.write_stall,
                    stream_idle: self.stream_idle,
                    transport: &self.transport,
                };
                // Boxed, so that connections of HTTP/2 are not the larger for it.
                Box::pin(self.http1.serve(Rewind::new(io, ahead), service, connection_state, life, drain)).await
            }
        }
    }
}
