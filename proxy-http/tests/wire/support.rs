//! A raw h2 client and raw h2 endpoints around a proxy, over in-memory pipes.

use crate::raw::Opened;
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client, server};
use http::{Request, Response};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{
    BufferLimit, Connect, Endpoints, Protocol, Proxy, Replay, Server, Stats, balance,
    proxy::{self, retry},
    server as server_end,
    stats::Peer,
};
use std::{
    future::{Ready, pending, ready},
    io,
    num::NonZeroUsize,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{io::DuplexStream, sync::mpsc, task::JoinHandle};

pub(crate) const PROXY: proxy::Params = proxy::Params {
    queue_capacity: 10,
    failfast_timeout: Duration::from_secs(1),
    max_in_flight: 1_000,
    max_headers_count: 100,
    max_uri_length: 8 << 10,
    request_timeout: None,
    drop_request_trailers: false,
    retry: retry::Params {
        buffer: 1 << 16,
        budget_ratio: 0.2,
        budget_min_per_second: 10,
        gateway_errors: false,
        refused_non_idempotent: true,
        unavailable: false,
    },
};

/// Reconnects soon.
pub(crate) fn endpoint_params() -> balance::Params {
    let backoff = balance::Backoff { min: Duration::from_millis(10), max: Duration::from_secs(1), jitter: 0.0 };
    balance::Params { backoff, ..balance::Params::default() }
}

/// A proxy with a client's pipe, and the pipes that it opens toward its endpoint.
pub(crate) struct Rig {
    pub(crate) client_io: Option<DuplexStream>,
    pub(crate) endpoint_ios: Opened,
    pub(crate) stats: Arc<Stats>,
    /// Where both sides' connections buffer.
    pub(crate) buffers: Arc<BufferLimit>,
    pub(crate) limits: Arc<proxy::Limits>,
    pub(crate) endpoints: Endpoints,
    pub(crate) server: Server,
    pub(crate) proxy: Proxy,
}

/// Opens pipes, and hands their far ends out.
#[derive(Clone)]
pub(crate) struct Opens(pub(crate) mpsc::UnboundedSender<DuplexStream>);

impl tower::Service<&'static str> for Opens {
    type Response = DuplexStream;
    type Error = io::Error;
    type Future = Ready<io::Result<DuplexStream>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: &'static str) -> Self::Future {
        let (near, far) = tokio::io::duplex(1 << 20);
        ready(self.0.send(far).map(|()| near).map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused)))
    }
}

/// A stream as the endpoint sees it.
pub(crate) struct Asked {
    pub(crate) request: Request<RecvStream>,
    pub(crate) respond: server::SendResponse<Bytes>,
}

/// The endpoint's end of a connection; its frames are handled by a task of its own.
pub(crate) struct Endpoint {
    asked: mpsc::UnboundedReceiver<Asked>,
    task: tokio::task::JoinHandle<()>,
    goaway: mpsc::UnboundedSender<()>,
}

/// The one endpoint of most rigs.
fn one() -> impl FnOnce(Connect<Opens, Replay>) -> Endpoints {
    |connect| Endpoints::fixed(["endpoint"], &connect, endpoint_params())
}

impl Rig {
    pub(crate) fn new(server: &ServerParams, client: &ClientParams, params: proxy::Params) -> Self {
        Self::buffering(server, client, params, BufferLimit::default())
    }

    pub(crate) fn buffering(
        server: &ServerParams,
        client: &ClientParams,
        params: proxy::Params,
        buffers: BufferLimit,
    ) -> Self {
        Self::build(server, client, params, buffers, proxy::Client::default(), one())
    }

    /// One that opens one connection to its endpoint at most.
    pub(crate) fn with_one_connection(client: &ClientParams, buffers: BufferLimit) -> Self {
        let (server, known) = (&ServerParams::DEFAULT, proxy::Client::default());
        Self::build(server, client, PROXY, buffers, known, |connect| {
            let params = balance::Params { max_connections: NonZeroUsize::MIN, ..endpoint_params() };
            Endpoints::fixed(["endpoint"], &connect, params)
        })
    }

    /// With the client's certificate, or without.
    pub(crate) fn for_client(
        server: &ServerParams,
        client: &ClientParams,
        params: proxy::Params,
        known: proxy::Client,
    ) -> Self {
        Self::build(server, client, params, BufferLimit::default(), known, one())
    }

    /// One whose endpoint is spoken to in `protocol`.
    pub(crate) fn to(protocol: Protocol, endpoint_params: balance::Params) -> Self {
        Self::of(&ServerParams::DEFAULT, &ClientParams::DEFAULT, PROXY, |connect| {
            Endpoints::fixed(["endpoint"], &connect.protocol(protocol), endpoint_params)
        })
    }

    pub(crate) fn of(
        server: &ServerParams,
        client: &ClientParams,
        params: proxy::Params,
        endpoints: impl FnOnce(Connect<Opens, Replay>) -> Endpoints,
    ) -> Self {
        Self::build(server, client, params, BufferLimit::default(), proxy::Client::default(), endpoints)
    }

    fn build(
        server: &ServerParams,
        client: &ClientParams,
        params: proxy::Params,
        buffers: BufferLimit,
        known: proxy::Client,
        endpoints: impl FnOnce(Connect<Opens, Replay>) -> Endpoints,
    ) -> Self {
        let buffers = Arc::new(buffers);
        let (opened, endpoint_ios) = mpsc::unbounded_channel();
        let (connector, endpoint_ios) = (Opens(opened), Opened::new(endpoint_ios));
        let stats = Arc::<Stats>::default();
        let connect = Connect::new(connector, client)
            .unwrap()
            .count_on(Arc::clone(stats.transport(Peer::Endpoint)))
            .buffer_in(Arc::clone(&buffers));
        let limits = Arc::new(proxy::Limits::new(params));
        let endpoints = endpoints(connect);
        let asked = endpoints.clone();
        let proxy = Proxy::new(endpoints.clone(), Arc::clone(&limits), Arc::clone(&stats)).for_client(known);
        let server = Server::new(server)
            .unwrap()
            .extended_connect(move || asked.is_extended_connect_enabled())
            .count_on(Arc::clone(stats.transport(Peer::Client)))
            .buffer_in(Arc::clone(&buffers));
        let mut rig = Self { client_io: None, endpoint_ios, stats, buffers, limits, endpoints, server, proxy };
        rig.client_io = Some(rig.connect(1 << 20).0);
        rig
    }

    /// A client's end of one more connection, over a pipe of so many bytes, and how the proxy's end of it ends.
    pub(crate) fn connect(&self, pipe: usize) -> (DuplexStream, JoinHandle<Result<(), server_end::Error>>) {
        let (client_io, server_io) = tokio::io::duplex(pipe);
        let (server, proxy) = (self.server.clone(), self.proxy.clone());
        (client_io, tokio::spawn(async move { server.serve(server_io, proxy, pending()).await }))
    }

    pub(crate) fn defaults() -> Self {
        Self::new(&ServerParams::DEFAULT, &ClientParams::DEFAULT, PROXY)
    }

    /// The client's end of its connection, with large windows.
    pub(crate) async fn client(&mut self) -> client::SendRequest<Bytes> {
        client(self.client_io.take().unwrap()).await
    }

    /// The next connection that the proxy opens.
    pub(crate) async fn endpoint(&mut self) -> Endpoint {
        Endpoint::accept(self.endpoint_ios.recv().await.unwrap()).await
    }
}

impl Endpoint {
    pub(crate) async fn accept(io: DuplexStream) -> Self {
        Self::build(io, &server::Builder::new()).await
    }

    pub(crate) async fn build(io: DuplexStream, builder: &server::Builder) -> Self {
        let mut connection = builder.handshake(io).await.unwrap();
        let (tx, asked) = mpsc::unbounded_channel();
        let (goaway, mut go) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    accepted = connection.accept() => {
                        let Some(Ok((request, respond))) = accepted else { return };
                        let _ = tx.send(Asked { request, respond });
                    }
                    Some(()) = go.recv() => connection.graceful_shutdown(),
                }
            }
        });
        Self { asked, task, goaway }
    }

    pub(crate) async fn asked(&mut self) -> Asked {
        self.asked.recv().await.expect("the proxy sends a request")
    }

    /// Sends GOAWAY and serves the open streams.
    pub(crate) fn go_away(&self) {
        self.goaway.send(()).unwrap();
    }

    /// Drops the connection, as if the process had died.
    pub(crate) fn kill(&self) {
        self.task.abort();
    }
}

impl Asked {
    /// Answers 200, and leaves the response open.
    pub(crate) fn answer(&mut self) -> SendStream<Bytes> {
        self.respond.send_response(Response::new(()), false).unwrap()
    }
}

/// A client, driven by a task, with large windows.
pub(crate) async fn client(io: DuplexStream) -> client::SendRequest<Bytes> {
    let (client, connection) = client::Builder::new()
        .initial_connection_window_size(1 << 24)
        .data_frame_budget(1 << 24)
        .handshake(io)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) fn get() -> Request<()> {
    Request::get("http://test.example/path").body(()).unwrap()
}

pub(crate) fn post() -> Request<()> {
    Request::post("http://test.example/path").body(()).unwrap()
}

pub(crate) fn grpc() -> Request<()> {
    let req = Request::post("http://test.example/pkg.Service/Method");
    req.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

/// All bytes of a body and its trailers, if it ends cleanly.
pub(crate) async fn collect(body: &mut RecvStream) -> Result<(Vec<u8>, Option<http::HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes, body.trailers().await?))
}

/// The code of the RST_STREAM that a result ended with.
#[track_caller]
pub(crate) fn reset<T>(result: Result<T, h2::Error>) -> Reason {
    let Err(error) = result else { panic!("the stream was not reset") };
    assert!(error.is_reset() && error.is_remote(), "not a RST_STREAM of the peer: {error:?}");
    error.reason().unwrap()
}

/// All codes of RFC 9113 section 7, and one that it does not know.
pub(crate) fn codes() -> impl Iterator<Item = Reason> {
    (0..=13).chain([0x55]).map(Reason::from)
}

/// Bodies of the nine other streams: sent by the client, echoed by the endpoint.
pub(crate) struct Others {
    streams: Vec<(client::ResponseFuture, SendStream<Bytes>)>,
    echoes: Vec<Asked>,
}

impl Others {
    /// Opens nine streams and sends the first half of each body.
    pub(crate) async fn open(client: &mut client::SendRequest<Bytes>, endpoint: &mut Endpoint) -> Self {
        let mut others = Self { streams: Vec::new(), echoes: Vec::new() };
        for _ in 0..9 {
            let (response, mut body) = client.send_request(post(), false).unwrap();
            body.send_data("first ".into(), false).unwrap();
            others.streams.push((response, body));
            others.echoes.push(endpoint.asked().await);
        }
        others
    }

    /// Sends the second halves, and checks that all of them come back.
    pub(crate) async fn finish(self) {
        for ((response, mut body), mut asked) in self.streams.into_iter().zip(self.echoes) {
            body.send_data("second".into(), true).unwrap();
            let (bytes, _) = collect(asked.request.body_mut()).await.expect("others are not touched");
            asked.answer().send_data(bytes.into(), true).unwrap();
            let (bytes, _) = collect(response.await.expect("others are not touched").body_mut()).await.unwrap();
            assert_eq!(bytes, b"first second");
        }
    }
}
