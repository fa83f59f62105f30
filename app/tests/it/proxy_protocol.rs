//! PROXY protocol headers before the first byte of clients' connections.

use crate::{
    support::{App, Endpoint, PATIENCE, admin, body, endpoint, get},
    tls::{
        HOST,
        pki::{Authority, Files},
    },
};
use bytes::Bytes;
use h2::client::SendRequest;
use http::Response;
use serde_json::Value;
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const NETWORKS: &str = "LINKERD2_PROXY_OUTBOUND_ACCEPT_PROXY_PROTOCOL_NETWORKS";
/// A request waits for the connection that is made for its client, however busy the machine is.
const PATIENT: [(&str, &str); 2] =
    [("LINKERD2_PROXY_OUTBOUND_CONNECT_TIMEOUT", "1m"), ("LINKERD2_PROXY_OUTBOUND_HTTP_FAILFAST_TIMEOUT", "1m")];
const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 56164 443\r\n";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: test.example\r\nconnection: close\r\n\r\n";

/// Version 2 with the address of [`V1`], and TLVs: one that is registered, and one that is not.
fn v2() -> Vec<u8> {
    let addresses = [192, 0, 2, 1, 198, 51, 100, 1, 0xdb, 0x64, 1, 0xbb];
    let tlvs = [&[0x02, 0, 1, b'a'][..], &[0xe9, 0, 2, 1, 2]].concat();
    let len = (addresses.len() + tlvs.len()) as u8;
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"[..], &[len], &addresses, &tlvs].concat()
}

async fn start(networks: &str, settings: &[(&str, &str)]) -> App {
    let endpoint = Endpoint::start().await;
    endpoint.answer.send_replace(true);
    App::start(endpoint.addr, &[&[(NETWORKS, networks)], settings].concat())
}

/// Sends bytes, then closes this half of the connection if it is to, and returns the answer.
async fn sent(app: &App, bytes: &[u8], closes: bool) -> String {
    let mut stream = TcpStream::connect(app.proxy).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    if closes {
        stream.shutdown().await.unwrap();
    }
    let mut rsp = Vec::new();
    // A connection that is closed with bytes unread is reset.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rsp)).await.expect("it closes");
    String::from_utf8(rsp).unwrap()
}

async fn counted(app: &App, result: &str, count: u64) {
    let labels = format!("{{direction=\"outbound\",result=\"{result}\"}}");
    app.counted(&format!("proxy_protocol_headers_total{labels} {count}")).await;
}

/// The address of the only client, on the page of connections.
async fn listed(app: &App) -> String {
    let page: Value = serde_json::from_str(&admin(app.admin, "GET", "/connections", "").await.1).unwrap();
    let connections = page["connections"].as_array().unwrap();
    let clients: Vec<_> = connections.iter().filter(|connection| connection["peer"] == "src").collect();
    assert_eq!(clients.len(), 1, "{page}");
    clients[0]["address"].as_str().unwrap().to_owned()
}

/// Sends a header in pieces of `size`, then a request of HTTP/2, and returns this end's own address and the client's as it is listed.
async fn proxied(app: &App, header: &[u8], size: usize) -> (SocketAddr, String) {
    let mut stream = TcpStream::connect(app.proxy).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in header.chunks(size) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let own = stream.local_addr().unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let answer = timeout(PATIENCE, body(client.send_request(get(), true).unwrap().0)).await.expect("an answer");
    assert_eq!(answer.unwrap(), b"answer");
    let listed = listed(app).await;
    drop(client);
    connection.await.unwrap().unwrap();
    app.counted("tcp_open_connections{direction=\"outbound\",peer=\"src\",tls=\"false\"} 0").await;
    (own, listed)
}

#[tokio::test]
async fn the_address_in_a_header_is_the_clients() {
    let app = start("10.0.0.0/8,127.0.0.1", &[]).await;
    for (number, (header, size)) in [(V1.to_vec(), 100), (V1.to_vec(), 1), (v2(), 100), (v2(), 1)].iter().enumerate() {
        assert_eq!(proxied(&app, header, *size).await.1, "192.0.2.1:56164");
        counted(&app, "proxied", number as u64 + 1).await;
    }
}

#[tokio::test]
async fn a_header_without_a_tcp_address_leaves_the_connection_its_own() {
    let app = start("127.0.0.1", &[]).await;
    let v2 = |command: u8, family: u8, rest: &[u8]| {
        [b"\r\n\r\n\0\r\nQUIT\n", &[command, family, 0, rest.len() as u8][..], rest].concat()
    };
    let headers = [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 192.0.2.1 198.51.100.1 56164 443\r\n".to_vec(),
        v2(0x20, 0, &[]),
        v2(0x20, 0x11, &[1; 12]),
        v2(0x21, 0, &[7; 5]),
        v2(0x21, 0x31, &[b'x'; 216]),
    ];
    for header in &headers {
        let (own, listed) = proxied(&app, header, 100).await;
        assert_eq!(listed, own.to_string(), "{}", header.escape_ascii());
    }
    counted(&app, "local", headers.len() as u64).await;
}

#[tokio::test]
async fn requests_in_the_packet_of_the_header_are_answered() {
    let app = start("127.0.0.1", &[]).await;
    for header in [V1, &v2()] {
        let rsp = sent(&app, &[header, REQUEST].concat(), false).await;
        assert!(rsp.starts_with("HTTP/1.1 200 OK\r\n") && rsp.contains("answer"), "{rsp}");
    }
}

#[tokio::test]
async fn a_connection_without_a_valid_header_is_closed_with_a_reason() {
    let app = start("127.0.0.1", &[]).await;
    for (result, bytes, reason) in [
        ("missing", REQUEST, "there is none"),
        ("missing", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "there is none"),
        ("missing", b"\x16\x03\x01\x02\0", "there is none"),
        ("malformed", b"PROXY TCP4 192.0.2.1\r\n", "it does not have two addresses and two ports"),
        ("malformed", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x40\0", "it has more than 16 KiB"),
        ("malformed", &[b'P'; 1], "the connection ends within it"),
    ] {
        // The log has one line of each result a second.
        let app = start("127.0.0.1", &[]).await;
        assert_eq!(sent(&app, bytes, true).await, "", "{}", bytes.escape_ascii());
        counted(&app, result, 1).await;
        let line = app.logged(&["no valid PROXY protocol header", reason, NETWORKS]).await;
        assert!(line.contains("\"peer\":\"127.0.0.1:") && line.contains("\"WARN\""), "{line}");
    }
    for _ in 0..20 {
        sent(&app, REQUEST, true).await;
    }
    counted(&app, "missing", 20).await;
    let lines = app.log().iter().filter(|line| line.contains("no valid PROXY")).count();
    assert!(lines < 20, "{lines}");
}

#[tokio::test]
async fn a_header_has_as_long_as_the_first_bytes() {
    let app = start("127.0.0.1", &[("LINKERD2_PROXY_OUTBOUND_DETECT_TIMEOUT", "50ms")]).await;
    for (number, bytes) in [&b""[..], b"PROXY TCP4"].iter().enumerate() {
        assert_eq!(sent(&app, bytes, false).await, "");
        counted(&app, "timeout", number as u64 + 1).await;
    }
    app.logged(&["no valid PROXY protocol header", "it does not come in time"]).await;
}

#[tokio::test]
async fn health_checks_that_only_connect_are_no_errors() {
    let app = start("127.0.0.1", &[]).await;
    for (result, bytes) in [("closed", &b""[..]), ("proxied", V1), ("local", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")] {
        assert_eq!(sent(&app, bytes, true).await, "");
        counted(&app, result, 1).await;
    }
    assert!(app.log().iter().all(|line| !line.contains("\"WARN\"")), "{:?}", app.log());
}

#[tokio::test]
async fn endpoints_are_told_the_clients_address_if_they_are_to_be() {
    for (setting, field, expect) in [
        ("x-forwarded-for", "x-forwarded-for", "10.0.0.1, 192.0.2.1"),
        ("forwarded", "forwarded", "10.0.0.1, for=192.0.2.1"),
        ("off", "x-forwarded-for", "10.0.0.1"),
    ] {
        let endpoint = endpoint(move |_, req, mut respond| {
            let told = req.headers()[field].clone();
            respond.send_response(Response::builder().header("told", told).body(()).unwrap(), true).unwrap();
        })
        .await;
        let app = App::start(endpoint, &[(NETWORKS, "127.0.0.1"), ("LINKERD2_PROXY_OUTBOUND_HTTP_FORWARDED", setting)]);
        let request = format!("GET / HTTP/1.1\r\nhost: test.example\r\nconnection: close\r\n{field}: 10.0.0.1\r\n\r\n");
        let rsp = sent(&app, &[V1, request.as_bytes()].concat(), false).await;
        assert!(rsp.contains(&format!("told: {expect}\r\n")), "{rsp}");
    }
}

#[tokio::test]
async fn other_networks_are_served_without_a_header_and_are_not_believed() {
    let app = start("10.0.0.0/8,fd00::/8", &[]).await;
    assert!(sent(&app, REQUEST, false).await.starts_with("HTTP/1.1 200 OK\r\n"));
    for header in [V1, &v2()] {
        let rsp = sent(&app, &[header, REQUEST].concat(), false).await;
        assert!(rsp.starts_with("HTTP/1.1 400 "), "{rsp}");
    }
    counted(&app, "proxied", 0).await;
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let (ca, files) = (Authority::new("proxies"), Files::new());
    let [cert, key] = files.identity("proxy", &ca.issue(&[HOST]));
    let settings =
        [("LINKERD2_PROXY_OUTBOUND_SERVER_TLS_CERT", &*cert), ("LINKERD2_PROXY_OUTBOUND_SERVER_TLS_KEY", &key)];
    let app = start("127.0.0.1", &settings).await;
    let mut stream = TcpStream::connect(app.proxy).await.unwrap();
    stream.write_all(&v2()).await.unwrap();
    let tls = TlsConnector::from(Arc::new(ca.client(None)));
    let stream = tls.connect(HOST.try_into().unwrap(), stream).await.unwrap();
    let mut client = crate::tls::open(stream).await.unwrap();
    let answer = timeout(PATIENCE, body(client.send_request(get(), true).unwrap().0)).await.expect("an answer");
    assert_eq!(answer.unwrap(), b"answer");
    assert_eq!(listed(&app).await, "192.0.2.1:56164");
    // The log names the client, too.
    let rsp = sent(&app, &[V1, REQUEST].concat(), false).await;
    assert!(!rsp.contains("200 OK"), "{rsp}");
    app.logged(&["client speaks plain text", "\"peer\":\"192.0.2.1:56164\""]).await;
}

#[tokio::test]
async fn clients_behind_a_load_balancer_have_rates_of_their_own() {
    const REQUESTS: usize = 20;
    let app = start("127.0.0.1", &[("LINKERD2_PROXY_OUTBOUND_HTTP_RATE_LIMIT_PER_CLIENT", "1")]).await;
    let mut refused = 0;
    for addr in ["192.0.2.1", "192.0.2.2"] {
        let mut stream = TcpStream::connect(app.proxy).await.unwrap();
        stream.write_all(format!("PROXY TCP4 {addr} 198.51.100.1 1 2\r\n").as_bytes()).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let responses: Vec<_> = (0..REQUESTS).map(|_| client.send_request(get(), true).unwrap().0).collect();
        let mut statuses = Vec::new();
        for response in responses {
            statuses.push(timeout(PATIENCE, response).await.expect("an answer").unwrap().status().as_u16());
        }
        assert_eq!(statuses[0], 200);
        let too_many = statuses.iter().filter(|status| **status == 429).count();
        assert!(too_many > 0, "{REQUESTS} requests took as many seconds: {statuses:?}");
        refused += too_many;
    }
    app.counted(&format!("http2_connection_limit_total{{direction=\"outbound\",limit=\"rate_limit\"}} {refused}"))
        .await;
}

/// An endpoint whose connections begin with a header of `len` bytes, or with a line if it is 0. It answers with the header, and tells of each
/// header when its connection begins and when it ends.
async fn header_endpoint(
    len: usize,
    tls: Option<Arc<rustls::ServerConfig>>,
) -> (SocketAddr, mpsc::UnboundedReceiver<(&'static str, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (events, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (tls, events) = (tls.clone(), events.clone());
            tokio::spawn(async move {
                let mut header = Vec::new();
                while header.len() < len || len == 0 && !header.ends_with(b"\r\n") {
                    header.push(stream.read_u8().await.unwrap());
                }
                let header = header.escape_ascii().to_string();
                let _ = events.send(("opened", header.clone()));
                match tls {
                    None => answer(stream, &header).await,
                    Some(tls) => answer(TlsAcceptor::from(tls).accept(stream).await.unwrap(), &header).await,
                }
                let _ = events.send(("closed", header));
            });
        }
    });
    (addr, seen)
}

async fn answer<I: AsyncRead + AsyncWrite + Unpin>(io: I, header: &str) {
    let Ok(mut connection) = h2::server::handshake(io).await else { return };
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let rsp = Response::builder().header("told", header).body(()).unwrap();
        let _: Result<h2::SendStream<Bytes>, _> = respond.send_response(rsp, true);
    }
}

/// The addresses that the endpoint has been told, for a request of a client.
async fn told(client: &mut SendRequest<Bytes>) -> String {
    let rsp = timeout(PATIENCE, client.send_request(get(), true).unwrap().0).await.expect("an answer").unwrap();
    let told = rsp.headers().get("told").unwrap_or_else(|| panic!("{rsp:?}"));
    told.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn each_client_has_connections_of_its_own_that_tell_its_address() {
    let (addr, mut seen) = header_endpoint(0, None).await;
    let app = App::start(addr, &[&[("LINKERD2_PROXY_OUTBOUND_CONNECT_PROXY_PROTOCOL", "v1")][..], &PATIENT].concat());
    // One of each worker, for no client.
    for _ in 0..2 {
        assert_eq!(seen.recv().await.unwrap(), ("opened", "PROXY UNKNOWN\\r\\n".to_owned()));
    }
    for _ in 0..3 {
        let stream = TcpStream::connect(app.proxy).await.unwrap();
        let own = stream.local_addr().unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let expect = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\\r\\n", own.port(), app.proxy.port());
        for _ in 0..3 {
            assert_eq!(told(&mut client).await, expect);
        }
        assert_eq!(seen.recv().await.unwrap(), ("opened", expect.clone()));
        drop(client);
        connection.await.unwrap().unwrap();
        let closed = timeout(PATIENCE, seen.recv()).await.expect("the client's connection closes");
        assert_eq!(closed.unwrap(), ("closed", expect));
    }
    // A client that asks for nothing has none.
    drop(TcpStream::connect(app.proxy).await.unwrap());
    app.counted("tcp_open_connections{direction=\"outbound\",peer=\"src\",tls=\"false\"} 0").await;
    assert!(seen.try_recv().is_err());
}

#[tokio::test]
async fn the_header_goes_ahead_of_tls_and_carries_on_what_the_one_of_the_client_had() {
    let (ca, files) = (Authority::new("endpoints"), Files::new());
    let identity = ca.issue(&["127.0.0.1"]);
    let (addr, _seen) = header_endpoint(28, Some(Authority::server(&identity, &["h2"], None))).await;
    let settings = [
        (NETWORKS, "127.0.0.1"),
        ("LINKERD2_PROXY_OUTBOUND_CONNECT_PROXY_PROTOCOL", "v2"),
        ("LINKERD2_PROXY_OUTBOUND_CONNECT_TLS", "on"),
        ("LINKERD2_PROXY_OUTBOUND_CONNECT_TLS_CA", &files.write("ca.pem", &ca.pem())),
    ];
    let app = App::start(addr, &[&settings[..], &PATIENT].concat());
    let mut stream = TcpStream::connect(app.proxy).await.unwrap();
    stream.write_all(V1).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    // The TLVs of a header of version 2 are not carried on, so that all but the length is the same.
    let mut expect = v2();
    expect.truncate(28);
    expect[15] = 12;
    assert_eq!(told(&mut client).await, expect.escape_ascii().to_string());
}
