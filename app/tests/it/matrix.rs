//! Each kind of exchange of each kind of client with each kind of endpoint: HTTP/1.1 and HTTP/2, with TLS and without. hyper
//! is both client and endpoint.

use crate::{
    support::{App, PATIENCE, admin},
    tls::{
        self, HOST,
        pki::{Authority, Files},
        start,
    },
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn,
    server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, ServerConfig};
use std::{convert::Infallible, net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

type Body = BoxBody<Bytes, hyper::Error>;

const MIB: usize = 1 << 20;

/// An endpoint that reports the outcomes of the requests that never end.
struct Endpoint {
    addr: SocketAddr,
    events: mpsc::UnboundedReceiver<&'static str>,
}

/// A client's connection.
enum Client {
    Http1(conn::http1::SendRequest<Body>),
    Http2(conn::http2::SendRequest<Body>),
}

/// Tells when it is dropped.
struct Told(mpsc::UnboundedSender<&'static str>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send("cancelled");
    }
}

impl Endpoint {
    async fn start(version: Version, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (told, events) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (told, tls) = (told.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, version, told).await,
                        Some(tls) => serve(TlsAcceptor::from(tls).accept(stream).await.unwrap(), version, told).await,
                    }
                });
            }
        });
        Self { addr, events }
    }
}

async fn serve<I>(io: I, version: Version, told: mpsc::UnboundedSender<&'static str>)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |req| answer(req, version, told.clone()));
    let io = TokioIo::new(io);
    if version == Version::HTTP_2 {
        _ = server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        _ = server::conn::http1::Builder::new().serve_connection(io, service).await;
    }
}

/// The answer to each path.
async fn answer(
    req: Request<Incoming>,
    version: Version,
    told: mpsc::UnboundedSender<&'static str>,
) -> Result<Response<Body>, Infallible> {
    assert_eq!(req.version(), version);
    let host = req.uri().authority().map(ToString::to_string);
    let host = host.or_else(|| req.headers().get("host").map(|host| host.to_str().unwrap().to_owned()));
    assert_eq!(host.as_deref(), Some("test.example"));
    let rsp = match req.uri().path() {
        "/get" => Response::new(full("got")),
        // The body is sent back as it comes.
        "/echo" => {
            let mut rsp = Response::builder();
            for (name, told) in [("content-length", "x-content-length"), ("trailer", "trailer")] {
                if let Some(value) = req.headers().get(name) {
                    rsp = rsp.header(told, value);
                }
            }
            rsp.body(BodyExt::boxed(req.into_body())).unwrap()
        }
        "/head" => Response::builder().header("content-length", 1_000).body(full("")).unwrap(),
        "/204" => Response::builder().status(204).body(full("")).unwrap(),
        "/hang" => {
            let _told = Told(told.clone());
            told.send("asked").unwrap();
            std::future::pending().await
        }
        path => panic!("{path}"),
    };
    Ok(rsp)
}

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed()
}

fn stream(frames: Vec<Frame<Bytes>>) -> Body {
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames.into_iter().map(Ok))))
}

impl Client {
    async fn connect(addr: SocketAddr, version: Version) -> Self {
        Self::over(TcpStream::connect(addr).await.unwrap(), version).await
    }

    /// By ALPN.
    async fn connect_tls(addr: SocketAddr, version: Version, mut config: ClientConfig) -> Self {
        config.alpn_protocols = vec![alpn(version).as_bytes().to_vec()];
        let stream = tls::connect(addr, config).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn(version).as_bytes()));
        Self::over(stream, version).await
    }

    async fn over<I: AsyncRead + AsyncWrite + Send + Unpin + 'static>(io: I, version: Version) -> Self {
        let io = TokioIo::new(io);
        if version == Version::HTTP_2 {
            let (client, connection) = conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            Self::Http2(client)
        } else {
            let (client, connection) = conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            Self::Http1(client)
        }
    }

    async fn send(&mut self, method: Method, path: &str, fields: &[(&str, &str)], body: Body) -> Response<Incoming> {
        let mut req = Request::new(body);
        *req.method_mut() = method;
        let mut headers: HeaderMap = fields
            .iter()
            .map(|(name, value)| (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap()))
            .collect();
        match self {
            Self::Http1(client) => {
                headers.insert("host", HeaderValue::from_static("test.example"));
                *req.uri_mut() = path.parse().unwrap();
                *req.headers_mut() = headers;
                client.ready().await.unwrap();
                client.send_request(req).await.unwrap()
            }
            Self::Http2(client) => {
                *req.uri_mut() = format!("http://test.example{path}").parse().unwrap();
                *req.headers_mut() = headers;
                client.ready().await.unwrap();
                client.send_request(req).await.unwrap()
            }
        }
    }
}

fn alpn(version: Version) -> &'static str {
    if version == Version::HTTP_2 { "h2" } else { "http/1.1" }
}

/// All messages of clients of both versions, with TLS and without on each side.
async fn every_message_passes(endpoint_version: Version, endpoint_tls: bool) {
    let (ca, files) = (Authority::new("both"), Files::new());
    let identity = ca.issue(&[HOST, "127.0.0.1"]);
    let ([cert, key], ca_path) = (files.identity("both", &identity), files.write("ca.pem", &ca.pem()));
    let tls = endpoint_tls.then(|| Authority::server(&identity, &[alpn(endpoint_version)], None));
    let mut endpoint = Endpoint::start(endpoint_version, tls).await;
    let protocol = if endpoint_version == Version::HTTP_2 { "http2" } else { "http1" };
    for client_tls in [false, true] {
        let mut settings = vec![("CONNECT_PROTOCOL", protocol), ("CONNECT_TIMEOUT", "1m")];
        if client_tls {
            settings.extend([("SERVER_TLS_CERT", &*cert), ("SERVER_TLS_KEY", &key)]);
        }
        if endpoint_tls {
            settings.extend([("CONNECT_TLS", "on"), ("CONNECT_TLS_CA", &*ca_path)]);
        }
        let app = start(endpoint.addr, &settings);
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let mut client = if client_tls {
                Client::connect_tls(app.proxy, version, ca.client(None)).await
            } else {
                Client::connect(app.proxy, version).await
            };
            timeout(PATIENCE, messages(&mut client, &mut endpoint)).await.expect("nothing hangs");
        }
        let (_, metrics) = admin(app.admin, "GET", "/metrics", "").await;
        // Each client's six that are answered, the one that is not, and the one behind it.
        assert!(metrics.contains("\nrequest_total{direction=\"outbound\"} 15\n"), "{metrics}");
    }
}

#[tokio::test]
async fn every_message_passes_to_http1() {
    every_message_passes(Version::HTTP_11, false).await;
}

#[tokio::test]
async fn every_message_passes_to_http1_over_tls() {
    every_message_passes(Version::HTTP_11, true).await;
}

#[tokio::test]
async fn every_message_passes_to_h2c() {
    every_message_passes(Version::HTTP_2, false).await;
}

#[tokio::test]
async fn every_message_passes_to_h2_over_tls() {
    every_message_passes(Version::HTTP_2, true).await;
}

async fn messages(client: &mut Client, endpoint: &mut Endpoint) {
    let rsp = client.send(Method::GET, "/get", &[], full("")).await;
    assert_eq!(rsp.status(), 200);
    assert_eq!(rsp.into_body().collect().await.unwrap().to_bytes(), "got");

    let bytes: Bytes = (0..MIB).map(|i| (i % 251) as u8).collect::<Vec<_>>().into();
    // With its length, and without.
    let rsp = client.send(Method::POST, "/echo", &[], full(bytes.clone())).await;
    assert_eq!(rsp.headers()["x-content-length"], "1048576");
    assert!(rsp.into_body().collect().await.unwrap().to_bytes() == bytes);
    let frames = bytes.chunks(50_000).map(|chunk| Frame::data(bytes.slice_ref(chunk))).collect();
    let rsp = client.send(Method::POST, "/echo", &[], stream(frames)).await;
    assert_eq!(rsp.headers().get("x-content-length"), None);
    assert!(rsp.into_body().collect().await.unwrap().to_bytes() == bytes);

    let trailers = HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("7"))]);
    let frames = vec![Frame::data("body".into()), Frame::trailers(trailers.clone())];
    let rsp = client.send(Method::POST, "/echo", &[("te", "trailers"), ("trailer", "x-sum")], stream(frames)).await;
    let collected = rsp.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers(), Some(&trailers));
    assert_eq!(collected.to_bytes(), "body");

    let rsp = client.send(Method::HEAD, "/head", &[], full("")).await;
    assert_eq!(rsp.headers()["content-length"], "1000");
    assert!(rsp.into_body().collect().await.unwrap().to_bytes().is_empty());
    let rsp = client.send(Method::GET, "/204", &[], full("")).await;
    assert_eq!((rsp.status().as_u16(), rsp.headers().get("content-length")), (204, None));
    assert!(rsp.into_body().collect().await.unwrap().to_bytes().is_empty());

    {
        let sending = client.send(Method::GET, "/hang", &[], full(""));
        tokio::select! {
            _ = sending => panic!("it is not answered"),
            event = endpoint.events.recv() => assert_eq!(event, Some("asked")),
        }
    }
    assert_eq!(endpoint.events.recv().await, Some("cancelled"));
    // That ends a connection of HTTP/1.1, while others go on.
    if matches!(client, Client::Http2(_)) {
        assert_eq!(client.send(Method::GET, "/get", &[], full("")).await.status(), 200);
    }
}

#[tokio::test]
async fn requests_are_carried_as_their_clients_came() {
    // One port that speaks both: the answer says which it was.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let service = service_fn(async |req: Request<Incoming>| {
                    let rsp = Response::builder().header("x-version", format!("{:?}", req.version()));
                    Ok::<_, Infallible>(rsp.body(full("")).unwrap())
                });
                let mut first = [0];
                let io = TokioIo::new(stream);
                io.inner().peek(&mut first).await.unwrap();
                if first == *b"P" {
                    _ = server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
                } else {
                    _ = server::conn::http1::Builder::new().serve_connection(io, service).await;
                }
            });
        }
    });
    let app = App::start(addr, &[("LINKERD2_PROXY_OUTBOUND_CONNECT_PROTOCOL", "same")]);
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut client = Client::connect(app.proxy, version).await;
        let rsp = client.send(Method::GET, "/", &[], full("")).await;
        assert_eq!(rsp.headers()["x-version"], format!("{version:?}"));
    }
    assert_eq!(admin(app.admin, "GET", "/ready", "").await.0, 200);
}
