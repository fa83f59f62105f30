//! `app demo`: an echo back end or two, the proxy before them, and traffic through all, on loopback.

mod certificate;
mod routes;

use self::{
    certificate::{Certificate, HOST},
    routes::RouteFile,
};
use crate::{
    LogLevel, Process,
    client_addr::PeerAddr,
    connector::{Connector, OwnListeners},
    dns::Target,
    tls,
    transport::{Socket, Transport},
    window_limits,
};
use app_env::TcpParams;
use bytes::{BufMut as _, Bytes, BytesMut};
use hdrhistogram::Histogram;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use http_h2::{ClientParams, ServerParams};
use indicatif::{ProgressBar, ProgressStyle};
use proxy_http::{BoxError, Connect, IncomingBody, Protocol, SendRequest, Server, body};
use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Future, Ready, ready},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{net::TcpListener, signal::ctrl_c, sync::oneshot, task::JoinSet, time::Instant};
use tower_service::Service;

/// One kind of request that the demo sends.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Traffic {
    Get,
    Grpc,
    Upload,
}

/// The back end: answers GET with a greeting, and all else with the body it got; gRPC with a status behind it.
#[derive(Clone, Debug)]
struct Echo {
    /// Requests so far.
    requests: Arc<AtomicU64>,
}

/// A back end that is up.
#[derive(Debug)]
struct Backend {
    name: &'static str,
    addr: SocketAddr,
    requests: Arc<AtomicU64>,
}

/// The options of `app demo`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// End after the results.
    pub(crate) once: bool,
    /// With TLS on both sides of the proxy.
    pub(crate) tls: bool,
    /// Two back ends, by a file of routes.
    pub(crate) routes: bool,
    /// How long traffic is sent.
    pub(crate) time: Duration,
}

/// The results of one kind's requests.
#[derive(Debug)]
struct Outcome {
    latency_us: Histogram<u64>,
    errors: u64,
    bytes: u64,
}

type Client = SendRequest<Full<Bytes>>;

const ALL: [Traffic; 3] = [Traffic::Get, Traffic::Grpc, Traffic::Upload];
const CONNECTIONS: usize = 4;
/// Of each kind, on each connection.
const STREAMS: usize = 4;
const GREETING: &str = "hello from behind the proxy\n";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Latencies are told up to a minute, to three digits.
const LONGEST_US: u64 = 60_000_000;

/// Runs the demo: sends traffic, prints the results, and stays up until Ctrl-C unless it is to end.
pub(crate) async fn run(Options { once, tls, routes, time }: Options) -> Result<(), BoxError> {
    let certificate = tls.then(Certificate::new).transpose()?;
    let backend_tls = certificate.as_ref().map(Certificate::server).transpose()?.map(Arc::new);
    let mut backends = Vec::new();
    for name in if routes { &routes::BACKENDS[..] } else { &["back end"] } {
        backends.push(Backend::start(name, backend_tls.clone()).await?);
    }
    let addrs: Vec<_> = backends.iter().map(|backend| backend.addr).collect();
    let file = <[SocketAddr; 2]>::try_from(&*addrs).ok().map(RouteFile::new).transpose()?;

    let (variable, value) = match &file {
        Some(file) => ("LINKERD2_PROXY_OUTBOUND_ROUTES", file.path().to_string_lossy().into_owned()),
        None => ("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", addrs[0].to_string()),
    };
    let paths =
        certificate.as_ref().map(|Certificate { cert, key, .. }| [cert, key].map(|path| path.to_string_lossy()));
    let mut env = HashMap::from([
        (variable, value.as_str()),
        ("LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR", "127.0.0.1:0"),
        ("LINKERD2_PROXY_ADMIN_LISTEN_ADDR", "127.0.0.1:0"),
        ("LINKERD2_PROXY_SHUTDOWN_GRACE_PERIOD", "1s"),
    ]);
    if let Some([cert, key]) = &paths {
        env.extend([
            ("LINKERD2_PROXY_OUTBOUND_SERVER_TLS_CERT", &**cert),
            ("LINKERD2_PROXY_OUTBOUND_SERVER_TLS_KEY", key),
            ("LINKERD2_PROXY_OUTBOUND_CONNECT_TLS", "on"),
            ("LINKERD2_PROXY_OUTBOUND_CONNECT_TLS_CA", cert),
        ]);
    }
    let loaded = app_env::load(&env)?;
    let note = window_limits::note(&loaded.config);
    let described = crate::routes::describe(&loaded.config);
    let process = Process::start(loaded, LogLevel::fixed())?;
    let (proxy, admin) = process.outbound_addr().zip(process.admin_addr()).ok_or("the proxy has no address")?;
    let (stop, stopped) = oneshot::channel();
    let proxy_task = tokio::spawn(process.run(async { stopped.await.unwrap_or("the demo has failed") }));

    let listed: Vec<_> = backends.iter().map(|Backend { name, addr, .. }| format!("{name} on {addr}")).collect();
    println!(
        "{}, proxy before {} on {proxy}, admin server on {admin}",
        listed.join(", "),
        if routes { "both" } else { "it" }
    );
    described.iter().for_each(|line| println!("{line}"));
    let tls = match &certificate {
        None => None,
        Some(certificate) => Some((Arc::new(certificate.client()?), Protocol::Http2)),
    };
    let connector = Connector::new(TcpParams::default(), OwnListeners::default(), tls);
    let outcomes = load(Connect::new(connector, &ClientParams::DEFAULT)?, proxy, time).await?;
    print_table(&outcomes, time);
    if routes {
        for Backend { name, requests, .. } in &backends {
            println!("{name} has had {} requests", requests.load(Relaxed));
        }
        println!();
    }
    if let Some(note) = note {
        println!("{note}");
        println!();
    }
    let errors: u64 = outcomes.iter().map(|(_, outcome)| outcome.errors).sum();
    if !once {
        print_commands(proxy, admin, certificate.as_ref());
        ctrl_c().await?;
    }
    let _ = stop.send("the demo is over");
    proxy_task.await?;
    if errors > 0 { Err(format!("{errors} requests failed").into()) } else { Ok(()) }
}

async fn serve_backend(listener: TcpListener, echo: Echo, tls: Option<Arc<tls::Server>>) {
    let server = Server::new(&ServerParams::DEFAULT).expect("defaults are in range");
    while let Ok((stream, peer)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let (server, echo, tls) = (server.clone(), echo.clone(), tls.clone());
        tokio::spawn(async move {
            let stream = Socket::Tcp(stream);
            let transport = match tls {
                None => Some(Transport::Plain(stream)),
                Some(tls) => {
                    tls.accept(stream, PeerAddr::Tcp(peer)).await.map(|accepted| Transport::TlsServer(accepted.stream))
                }
            };
            if let Some(transport) = transport {
                let _ = server.serve(transport, echo, std::future::pending()).await;
            }
        });
    }
}

/// Sends all kinds of traffic at once.
async fn load(
    mut connect: Connect<Connector, Full<Bytes>>,
    proxy: SocketAddr,
    time: Duration,
) -> Result<Vec<(Traffic, Outcome)>, BoxError> {
    let until = Instant::now() + time;
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let client = connect.call(Target { addr: proxy.into(), host: Some(HOST.into()) }).await?;
        for traffic in ALL.into_iter().cycle().take(ALL.len() * STREAMS) {
            let client = client.clone();
            tasks.spawn(async move { (traffic, traffic.send_until(client, until).await) });
        }
    }
    let progress = ProgressBar::new(u64::try_from(time.as_millis())?)
        .with_style(ProgressStyle::with_template("sending traffic {wide_bar} {msg}")?);
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    while Instant::now() < until {
        ticks.tick().await;
        let left = until.saturating_duration_since(Instant::now());
        progress.set_position(u64::try_from(time.saturating_sub(left).as_millis())?);
        progress.set_message(format!("{:.0} s left", left.as_secs_f64()));
    }
    progress.finish_and_clear();

    let mut outcomes = Vec::new();
    for traffic in ALL {
        outcomes.push((traffic, Outcome::new()?));
    }
    while let Some(done) = tasks.join_next().await {
        let (traffic, outcome) = done?;
        let outcome = outcome?;
        for (_, sum) in outcomes.iter_mut().filter(|(kind, _)| *kind == traffic) {
            sum.latency_us.add(&outcome.latency_us)?;
            sum.errors += outcome.errors;
            sum.bytes += outcome.bytes;
        }
    }
    Ok(outcomes)
}

fn print_table(outcomes: &[(Traffic, Outcome)], time: Duration) {
    println!();
    println!(
        "{:<16} {:>9} {:>7} {:>9} {:>9} {:>9} {:>9} {:>10}",
        "traffic", "requests", "errors", "RPS", "P50 us", "P95 us", "P99 us", "MB"
    );
    for (traffic, Outcome { latency_us, errors, bytes }) in outcomes {
        println!(
            "{:<16} {:>9} {:>7} {:>9.0} {:>9} {:>9} {:>9} {:>10.1}",
            traffic.name(),
            latency_us.len() + errors,
            errors,
            latency_us.len() as f64 / time.as_secs_f64(),
            latency_us.value_at_quantile(0.5),
            latency_us.value_at_quantile(0.95),
            latency_us.value_at_quantile(0.99),
            *bytes as f64 / 1e6,
        );
    }
    println!();
}

fn print_commands(proxy: SocketAddr, admin: SocketAddr, certificate: Option<&Certificate>) {
    let (how, scheme) = match certificate {
        None => ("--http2-prior-knowledge".to_owned(), "http"),
        Some(certificate) => (format!("--cacert {}", certificate.cert.display()), "https"),
    };
    println!("Try it, in another terminal:");
    println!();
    println!("  curl {how} {scheme}://{proxy}/");
    println!("  curl {how} --data 'anything' {scheme}://{proxy}/echo");
    println!("  # gRPC: a message of 5 bytes, echoed, with grpc-status in the trailers");
    println!(
        "  printf '\\0\\0\\0\\0\\5hello' | curl -sv {how} -H 'content-type: application/grpc' \
         -H 'te: trailers' --data-binary @- --output - {scheme}://{proxy}/demo.Echo/Unary"
    );
    println!("  curl http://{admin}/metrics");
    println!("  curl 'http://{admin}/connections?format=text'");
    println!("  curl 'http://{admin}/destinations?format=text'");
    println!();
    println!("Ctrl-C ends the demo.");
}

// === impl Traffic ===

impl Traffic {
    fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Grpc => "gRPC unary",
            Self::Upload => "64 KiB echo",
        }
    }

    fn request(self) -> Request<Full<Bytes>> {
        let (method, path, body) = match self {
            Self::Get => (Method::GET, "/", Bytes::new()),
            Self::Grpc => {
                // Not compressed, 128 bytes.
                let mut message = BytesMut::with_capacity(5 + 128);
                message.put_u8(0);
                message.put_u32(128);
                message.put_bytes(b'g', 128);
                (Method::POST, "/demo.Echo/Unary", message.freeze())
            }
            Self::Upload => (Method::POST, "/echo", Bytes::from_static(&[b'u'; 64 << 10])),
        };
        let mut req = Request::new(Full::new(body));
        *req.method_mut() = method;
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(http::uri::Scheme::HTTP);
        uri.authority = Some(http::uri::Authority::from_static("demo.example"));
        uri.path_and_query = Some(http::uri::PathAndQuery::from_static(path));
        *req.uri_mut() = http::Uri::from_parts(uri).expect("scheme, authority and path make a URI");
        if self == Self::Grpc {
            req.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            req.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        }
        req
    }

    /// Sends one request after the other.
    async fn send_until(self, mut client: Client, until: Instant) -> Result<Outcome, BoxError> {
        let mut outcome = Outcome::new()?;
        while Instant::now() < until {
            let started = Instant::now();
            match self.exchange(&mut client).await {
                Some(bytes) => {
                    let us = u64::try_from(started.elapsed().as_micros())?;
                    outcome.latency_us.saturating_record(us);
                    outcome.bytes += bytes;
                }
                None => outcome.errors += 1,
            }
            if client.is_closed() {
                break;
            }
        }
        Ok(outcome)
    }

    /// The bytes of the answer. `None`: it is not the answer that the back end sends.
    async fn exchange(self, client: &mut Client) -> Option<u64> {
        let rsp = client.call(self.request()).await.ok()?;
        let ok = rsp.status() == StatusCode::OK;
        let body = rsp.into_body().collect().await.ok()?;
        let grpc_status = body.trailers().and_then(|trailers| trailers.get(GRPC_STATUS)).cloned();
        let len = body.to_bytes().len();
        let expected = match self {
            Self::Get => len == GREETING.len(),
            Self::Grpc => len == 5 + 128 && grpc_status.is_some_and(|status| status == "0"),
            Self::Upload => len == 64 << 10,
        };
        (ok && expected).then_some(len as u64)
    }
}

// === impl Outcome ===

impl Outcome {
    fn new() -> Result<Self, BoxError> {
        Ok(Self { latency_us: Histogram::new_with_max(LONGEST_US, 3)?, errors: 0, bytes: 0 })
    }
}

// === impl Backend ===

impl Backend {
    async fn start(name: &'static str, tls: Option<Arc<tls::Server>>) -> Result<Self, BoxError> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (addr, requests) = (listener.local_addr()?, Arc::default());
        tokio::spawn(serve_backend(listener, Echo { requests: Arc::clone(&requests) }, tls));
        Ok(Self { name, addr, requests })
    }
}

// === impl Echo ===

impl Service<Request<IncomingBody>> for Echo {
    type Response = Response<UnsyncBoxBody<Bytes, body::Error>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: Request<IncomingBody>) -> Self::Future {
        self.requests.fetch_add(1, Relaxed);
        let content_type = req.headers().get(header::CONTENT_TYPE).cloned();
        let grpc = content_type.as_ref().is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        let body = if grpc {
            req.into_body().with_trailers(trailers()).boxed_unsync()
        } else if req.method() == Method::GET {
            Full::new(Bytes::from_static(GREETING.as_bytes())).map_err(|never| match never {}).boxed_unsync()
        } else {
            req.into_body().boxed_unsync()
        };
        let mut rsp = Response::new(body);
        rsp.headers_mut().extend(content_type.map(|value| (header::CONTENT_TYPE, value)));
        ready(Ok(rsp))
    }
}

fn trailers() -> impl Future<Output = Option<Result<HeaderMap, body::Error>>> {
    ready(Some(Ok(HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]))))
}
