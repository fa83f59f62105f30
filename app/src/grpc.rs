//! Connections to servers of gRPC that the process itself calls: Linkerd's control plane, and a collector of spans.

use crate::{
    connector::{self, OwnListeners},
    dns::{self, Target},
    transport::Transport,
};
use app_env::{HostPort, TcpParams};
use http::Uri;
use hyper_util::rt::TokioIo;
use proxy_http::{BoxError, Endpoint};
use std::{
    error::Error as _,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tonic::{
    Code,
    transport::{Channel, Endpoint as TonicEndpoint},
};
use tower_service::Service;

/// Connects to one of a server's addresses, each in its turn. Clones share the turns.
#[derive(Clone)]
pub(crate) struct Connector {
    server: HostPort,
    addrs: watch::Receiver<Vec<Endpoint<Target>>>,
    tcp: connector::Connector,
    turn: Arc<AtomicUsize>,
    /// When the next connection may be made at the earliest.
    next: Arc<Mutex<Option<Instant>>>,
}

/// How long an address may take to accept a connection, and all of them, their look-up included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const ALL_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The time between two attempts to connect. Each call makes a connection if there is none: with many destinations a control
/// plane that closes all would be sent hundreds a second.
const CONNECT_INTERVAL: Duration = Duration::from_millis(100);
/// TCP finds out that the server's host is gone. PINGs would end the connection: a server of grpc-go takes one in five minutes.
const TCP: TcpParams =
    TcpParams { keepalive: Some(Duration::from_secs(10)), user_timeout: Some(Duration::from_secs(30)) };

// === impl Connector ===

impl Connector {
    /// Nothing is connected to before there is a call. Must be called in a tokio runtime.
    pub(crate) fn new(server: HostPort, own: OwnListeners, dns: app_env::Dns, resolver: &dns::Resolver) -> Self {
        let addrs = dns::discover(&[server.clone().into()], false, dns, resolver).list;
        let tcp = connector::Connector::new(TCP, own, None);
        Self { server, addrs, tcp, turn: Arc::default(), next: Arc::default() }
    }

    /// A connection, which is made again when it is lost and there is a call.
    pub(crate) fn channel(&self) -> Channel {
        let uri = format!("http://{}", self.server);
        let endpoint = TonicEndpoint::from_shared(uri).expect("an address makes an authority");
        endpoint.connect_timeout(ALL_CONNECT_TIMEOUT).connect_with_connector_lazy(self.clone())
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Transport>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Transport>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { server: _, mut addrs, mut tcp, turn, next } = self.clone();
        Box::pin(async move {
            let at = {
                let (mut next, now) = (next.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
                let at = next.map_or(now, |next| next.max(now));
                *next = Some(at + CONNECT_INTERVAL);
                at
            };
            sleep_until(at).await;
            let found = addrs.wait_for(|addrs| !addrs.is_empty()).await;
            let mut found = found.map_err(|_| io::Error::from(io::ErrorKind::NotFound))?.clone();
            let first = turn.fetch_add(1, Relaxed) % found.len();
            found.rotate_left(first);
            let mut last = BoxError::from(io::Error::from(io::ErrorKind::NotFound));
            for Endpoint { addr, .. } in found {
                match tokio::time::timeout(CONNECT_TIMEOUT, tcp.call(addr)).await {
                    Ok(Ok(stream)) => return Ok(TokioIo::new(stream)),
                    Ok(Err(error)) => last = error,
                    Err(_) => last = io::Error::from(io::ErrorKind::TimedOut).into(),
                }
            }
            Err(last)
        })
    }
}

/// A status's message and its sources. tonic's own messages, as "transport error", have the reason in the sources alone.
pub(crate) fn describe(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = status.source();
    while let Some(error) = source {
        let part = error.to_string();
        if !text.contains(&part) {
            text += ": ";
            text += &part;
        }
        source = error.source();
    }
    text
}

/// The name of a status, as gRPC writes it.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
