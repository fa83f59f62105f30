//! WebSocket and CONNECT through the binary, from one version to the other.

use crate::{
    support::{App, PATIENCE},
    tls::{
        self, HOST,
        pki::{Authority, Files},
    },
};
use bytes::Bytes;
use data_encoding::BASE64;
use h2::{Reason, RecvStream, SendStream, client, ext::Protocol, server};
use http::{Method, Request, Response};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use socket2::SockRef;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn accept(key: &str) -> String {
    BASE64.encode(
        digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes()).as_ref(),
    )
}

fn upgrade() -> String {
    format!(
        "GET /chat HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-key: {KEY}\r\nsec-websocket-version: 13\r\n\r\n"
    )
}

/// An endpoint that agrees to WebSocket and CONNECT, and then sends bytes back.
async fn http1_endpoint() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let head = head(&mut stream).await;
                if head.is_empty() {
                    return;
                }
                let rsp = match head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")) {
                    Some(key) => format!(
                        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-accept: {}\r\n\r\n",
                        accept(key)
                    ),
                    None => "HTTP/1.1 200 Connection established\r\n\r\n".to_owned(),
                };
                stream.write_all(rsp.as_bytes()).await.unwrap();
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    addr
}

async fn http2_endpoint() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection =
                    server::Builder::new().enable_connect_protocol().handshake::<_, Bytes>(stream).await.unwrap();
                while let Some(Ok((req, mut respond))) = connection.accept().await {
                    assert_eq!(req.method(), Method::CONNECT);
                    tokio::spawn(async move {
                        let mut to = respond.send_response(Response::new(()), false).unwrap();
                        let mut from = req.into_body();
                        while let Some(Ok(data)) = from.data().await {
                            let _ = from.flow_control().release_capacity(data.len());
                            let _ = to.send_data(data, false);
                        }
                        let _ = to.send_data(Bytes::new(), true);
                    });
                }
            });
        }
    });
    addr
}

/// A head, and not a byte more. Empty: the connection was closed.
async fn head(io: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = io.read_u8().await else { return String::new() };
        head.push(byte);
    }
    String::from_utf8(head).unwrap()
}

/// An HTTP/1.1 client's tunnel to `app`, and the head of the answer.
async fn open(app: &App, request: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(app.proxy).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = timeout(PATIENCE, head(&mut stream)).await.expect("it is answered");
    (stream, head)
}

/// Sends bytes both ways, a few and many, and then ends both.
async fn echoes(stream: TcpStream) {
    let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 251) as u8).collect();
    let (mut from, mut to) = stream.into_split();
    let sending = tokio::spawn({
        let bytes = bytes.clone();
        async move {
            to.write_all(&bytes).await.unwrap();
            to.shutdown().await.unwrap();
        }
    });
    let mut back = Vec::new();
    timeout(PATIENCE, from.read_to_end(&mut back)).await.expect("it ends").unwrap();
    assert!(back == bytes);
    sending.await.unwrap();
}

async fn ping(stream: &mut TcpStream) {
    stream.write_all(b"ping").await.unwrap();
    let mut pong = [0; 4];
    timeout(PATIENCE, stream.read_exact(&mut pong)).await.expect("it comes back").unwrap();
    assert_eq!(&pong, b"ping");
}

/// The same over HTTP/2.
async fn echoes_over_http2(mut rsp: RecvStream, mut to: SendStream<Bytes>) {
    let bytes: Bytes = (0..1 << 20).map(|i: u32| (i % 251) as u8).collect();
    to.send_data(bytes.clone(), true).unwrap();
    let mut back = Vec::new();
    while let Some(data) = timeout(PATIENCE, rsp.data()).await.expect("it ends") {
        let data = data.unwrap();
        rsp.flow_control().release_capacity(data.len()).unwrap();
        back.extend_from_slice(&data);
    }
    assert!(back == bytes);
}

/// A WebSocket as a browser opens it on the connection that it has, and CONNECT beside it.
async fn tunnels_over_http2<I>(io: I)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut client, connection) = client::handshake(io).await.unwrap();
    tokio::spawn(async { _ = connection.await });
    while !client.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    let websocket = Request::builder().method(Method::CONNECT).uri(format!("https://{HOST}/chat"));
    let websocket = websocket.extension(Protocol::from_static("websocket")).header("sec-websocket-version", "13");
    for req in [websocket, Request::connect(format!("{HOST}:443"))] {
        let (response, to) = client.send_request(req.body(()).unwrap(), false).unwrap();
        let rsp = timeout(PATIENCE, response).await.expect("it is answered").unwrap();
        assert_eq!((rsp.status().as_u16(), rsp.headers().len()), (200, 0));
        echoes_over_http2(rsp.into_body(), to).await;
    }
}

#[tokio::test]
async fn tunnels_of_http_2_reach_an_http_1_1_endpoint() {
    let endpoint = http1_endpoint().await;
    let (ca, files) = (Authority::new("tunnels"), Files::new());
    let [cert, key] = files.identity("tunnels", &ca.issue(&[HOST]));
    let app = tls::start(endpoint, &[("CONNECT_PROTOCOL", "http1")]);
    tunnels_over_http2(TcpStream::connect(app.proxy).await.unwrap()).await;
    let settings = [("CONNECT_PROTOCOL", "http1"), ("SERVER_TLS_CERT", &*cert), ("SERVER_TLS_KEY", &key)];
    let app = tls::start(endpoint, &settings);
    let mut config = ca.client(None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    tunnels_over_http2(tls::connect(app.proxy, config).await.unwrap()).await;
    app.counted("request_total{direction=\"outbound\"} 2").await;
}

#[tokio::test]
async fn tunnels_of_http_1_1_reach_an_endpoint_of_either_version() {
    for (endpoint, protocol) in [(http1_endpoint().await, "http1"), (http2_endpoint().await, "http2")] {
        let app = tls::start(endpoint, &[("CONNECT_PROTOCOL", protocol)]);
        // Whether an endpoint takes it is known once it is connected.
        while crate::support::admin(app.admin, "GET", "/ready", "").await.0 != 200 {
            tokio::task::yield_now().await;
        }
        let (stream, head) = open(&app, &upgrade()).await;
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{protocol}: {head}");
        assert!(head.contains(&format!("sec-websocket-accept: {}\r\n", accept(KEY))), "{protocol}: {head}");
        echoes(stream).await;
        let (stream, head) = open(&app, &format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\n\r\n")).await;
        // HTTP/2 has no phrase of the endpoint's.
        let phrase = if protocol == "http1" { "Connection established" } else { "OK" };
        assert_eq!(head, format!("HTTP/1.1 200 {phrase}\r\n\r\n"), "{protocol}");
        echoes(stream).await;
    }
}

#[tokio::test]
async fn a_tcp_reset_is_a_reset_of_the_stream_and_the_other_way_round() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = tls::start(listener.local_addr().unwrap(), &[("CONNECT_PROTOCOL", "http1")]);
    // Each worker has connections, of which few get a request.
    let (asked, mut streams) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let asked = asked.clone();
            tokio::spawn(async move {
                if !head(&mut stream).await.is_empty() {
                    let _ = asked.send(stream);
                }
            });
        }
    });
    for endpoint_resets in [true, false] {
        let mut client = crate::support::connect(app.proxy).await;
        let (response, mut to) =
            client.send_request(Request::connect("test.example:443").body(()).unwrap(), false).unwrap();
        let mut stream = timeout(PATIENCE, streams.recv()).await.expect("it is asked").unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello").await.unwrap();
        let mut rsp = timeout(PATIENCE, response).await.expect("it is answered").unwrap().into_body();
        assert_eq!(rsp.data().await.unwrap().unwrap(), "hello");
        if endpoint_resets {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            drop(stream);
            let error = timeout(PATIENCE, rsp.data()).await.expect("it ends").unwrap().unwrap_err();
            assert!(error.is_reset() && error.reason() == Some(Reason::CANCEL), "{error}");
        } else {
            to.send_reset(Reason::CONNECT_ERROR);
            let read = timeout(PATIENCE, stream.read(&mut [0])).await.expect("it ends");
            assert!(matches!(read, Ok(0) | Err(_)));
        }
    }

    let app = App::start(http2_endpoint().await, &[]);
    let (stream, _) = open(&app, "CONNECT test.example:443 HTTP/1.1\r\nhost: test.example:443\r\n\r\n").await;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    app.counted("http2_resets_total{direction=\"outbound\",peer=\"src\",code=\"unknown\"} 1").await;
}

#[tokio::test]
async fn sigterm_lets_tunnels_live_until_they_end_or_the_grace_period_does() {
    for (endpoint, protocol) in [(http1_endpoint().await, "http1"), (http2_endpoint().await, "http2")] {
        for ends in [true, false] {
            let grace = if ends { "2m" } else { "1s" };
            let mut app = App::start(
                endpoint,
                &[
                    ("LINKERD2_PROXY_OUTBOUND_CONNECT_PROTOCOL", protocol),
                    ("LINKERD2_PROXY_SHUTDOWN_GRACE_PERIOD", grace),
                ],
            );
            let (mut stream, _) = open(&app, &format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\n\r\n")).await;
            ping(&mut stream).await;
            let told = Instant::now();
            app.terminate();
            while TcpStream::connect(app.proxy).await.is_ok() {
                tokio::task::yield_now().await;
            }
            if ends {
                ping(&mut stream).await;
                echoes(stream).await;
                assert!(app.ended().await.success());
                assert!(told.elapsed() < Duration::from_secs(30), "{protocol}: {:?}", told.elapsed());
            } else {
                assert!(app.ended().await.success());
                assert!(told.elapsed() >= Duration::from_secs(1), "{protocol}: it was given its time");
                assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
            }
        }
    }
}
