//! Toward clients: handshakes, and the certificates of clients.

use super::{
    Answer, CLIENT_CERT, HOST, Rig, ask, connect, connect_shared, endpoint, grpc, open,
    pki::{Authority, Files},
    served, start, stderr,
};
use crate::support::{Endpoint, PATIENCE, command, connect as connect_plain, get};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{HandshakeKind, ProtocolVersion, pki_types::ServerName};
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsConnector;

#[tokio::test]
async fn alpn_is_h2_or_http_1_1_or_nothing() {
    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: test.example\r\nconnection: close\r\n\r\n";
    let rig = Rig::start(&[]).await;
    for (offered, chosen) in [(&["http/1.1", "h2"][..], Some(&b"h2"[..])), (&[], None)] {
        let mut config = rig.ca.client(None);
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = connect(rig.app.proxy, config).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
        assert_eq!(ask(&mut open(stream).await.unwrap(), get()).await.unwrap(), served());
    }
    // Without ALPN the first bytes tell.
    for offered in [&["http/1.1"][..], &[]] {
        let mut config = rig.ca.client(None);
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut stream = connect(rig.app.proxy, config).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), offered.first().map(|name| name.as_bytes()));
        stream.write_all(GET).await.unwrap();
        let mut rsp = String::new();
        let _ = timeout(PATIENCE, stream.read_to_string(&mut rsp)).await.expect("it closes");
        assert!(rsp.starts_with("HTTP/1.1 200 OK\r\n"), "{rsp}");
    }
    let mut config = rig.ca.client(None);
    config.alpn_protocols = vec![b"http/1.0".to_vec()];
    let error = connect(rig.app.proxy, config).await.unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    rig.handshakes("alpn", "", 1).await;
    rig.handshakes("ok", "1.3", 4).await;
    rig.counted("tls_handshake_seconds_count{direction=\"outbound\",peer=\"src\"}", 4).await;
}

#[tokio::test]
async fn both_versions_are_spoken() {
    let rig = Rig::start(&[]).await;
    for (version, expected, name) in [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2, "1.2"),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3, "1.3"),
    ] {
        let stream = connect(rig.app.proxy, rig.ca.client_of(&[version], None)).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(expected));
        assert_eq!(ask(&mut open(stream).await.unwrap(), get()).await.unwrap(), served());
        rig.handshakes("ok", name, 1).await;
    }
}

#[tokio::test]
async fn sessions_are_resumed_on_any_worker() {
    let rig = Rig::start(&[]).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut config = rig.ca.client_of(&[version], None);
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        let config = Arc::new(config);
        let mut kinds = Vec::new();
        // All stay open, so that both workers have some.
        let mut clients = Vec::new();
        for _ in 0..4 {
            let stream = connect_shared(rig.app.proxy, Arc::clone(&config)).await.unwrap();
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
            let mut client = open(stream).await.unwrap();
            assert_eq!(ask(&mut client, get()).await.unwrap(), served());
            clients.push(client);
        }
        let resumed = HandshakeKind::Resumed;
        assert_eq!(kinds, [HandshakeKind::Full, resumed, resumed, resumed], "{version:?}");
    }
}

#[tokio::test]
async fn clients_must_have_a_certificate_of_the_right_authority_that_has_not_expired() {
    let (clients, others) = (Authority::new("clients"), Authority::new("others"));
    let rig = Rig::start_mutual(&clients, &[]).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let identity = clients.issue(&["web.example"]);
        assert_eq!(rig.ask(rig.ca.client_of(&[version], Some(&identity)), get()).await.unwrap(), served());
        let expired = clients.issue_expired(&["web.example"]);
        for wrong in [None, Some(others.issue(&["web.example"])), Some(expired)] {
            assert!(rig.ask(rig.ca.client_of(&[version], wrong.as_ref()), get()).await.is_err());
        }
    }
    rig.handshakes("ok", "1.2", 1).await;
    rig.handshakes("ok", "1.3", 1).await;
    rig.handshakes("certificate", "", 6).await;
    rig.counted("request_total{direction=\"outbound\"}", 2).await;
    rig.app.logged(&["TLS handshake with client failed", "WARN"]).await;
}

#[tokio::test]
async fn clients_that_are_not_allowed_by_name_get_403() {
    let clients = Authority::new("clients");
    let allowed = "web.example,*.prod.example,spiffe://example/batch";
    let rig = Rig::start_mutual(&clients, &[("SERVER_TLS_ALLOWED_CLIENTS", allowed)]).await;
    for names in
        [&["web.example"][..], &["a.prod.example"], &["spiffe://example/batch"], &["no.example", "web.example"]]
    {
        let identity = clients.issue(names);
        assert_eq!(rig.ask(rig.ca.client(Some(&identity)), get()).await.unwrap(), served(), "{names:?}");
    }
    let denied = [&["prod.example"][..], &["a.b.prod.example"], &["spiffe://example/batch2"], &["*.prod.example"], &[]];
    for names in denied {
        let identity = clients.issue_with(names, |params| {
            // A common name is no name.
            params.distinguished_name.push(rcgen::DnType::CommonName, "web.example");
        });
        let stream = connect(rig.app.proxy, rig.ca.client(Some(&identity))).await.unwrap();
        let mut client = open(stream).await.unwrap();
        let answer = ask(&mut client, get()).await.unwrap();
        assert_eq!((answer.status, answer.error.as_deref()), (403, Some("client is not allowed")), "{names:?}");
        let answer = ask(&mut client, grpc()).await.unwrap();
        assert_eq!((answer.status, answer.grpc_status.as_deref()), (200, Some("7")), "{names:?}");
    }
    rig.counted("http_denied_total{direction=\"outbound\"}", 10).await;
    // One line a second, so that the first has its own, and others perhaps.
    let line = rig.app.logged(&["client is not among those allowed", "\"prod.example\""]).await;
    assert!(line.contains("WARN"), "{line}");
    let lines = rig.app.log().iter().filter(|line| line.contains("not among those allowed")).count();
    assert!(lines <= denied.len(), "{lines} lines");
}

#[tokio::test]
async fn clients_may_have_a_certificate_where_it_is_optional() {
    let (clients, others) = (Authority::new("clients"), Authority::new("others"));
    let optional = ("SERVER_TLS_CLIENT_AUTH", "optional");
    let rig = Rig::start_mutual(&clients, &[optional]).await;
    let identity = clients.issue(&["web.example"]);
    for identity in [None, Some(&identity)] {
        assert_eq!(rig.ask(rig.ca.client(identity), get()).await.unwrap(), served());
    }
    // One that is shown must be right.
    assert!(rig.ask(rig.ca.client(Some(&others.issue(&["web.example"]))), get()).await.is_err());

    let rig = Rig::start_mutual(&clients, &[optional, ("SERVER_TLS_ALLOWED_CLIENTS", "web.example")]).await;
    assert_eq!(rig.ask(rig.ca.client(Some(&identity)), get()).await.unwrap(), served());
    assert_eq!(rig.ask(rig.ca.client(None), get()).await.unwrap().status, 403);
}

#[tokio::test]
async fn endpoints_are_told_of_the_certificate_if_that_is_on_and_never_by_clients() {
    let clients = Authority::new("clients");
    let identity = clients.issue(&["spiffe://example/web", "web.example"]);
    let mut spoofed = get();
    spoofed.headers_mut().insert(CLIENT_CERT, "URI=spiffe://example/admin".parse().unwrap());

    let rig = Rig::start_mutual(&clients, &[]).await;
    assert_eq!(rig.ask(rig.ca.client(Some(&identity)), spoofed.clone()).await.unwrap(), served());

    let on = [("SERVER_TLS_FORWARD_CLIENT_CERT", "true"), ("SERVER_TLS_CLIENT_AUTH", "optional")];
    let rig = Rig::start_mutual(&clients, &on).await;
    assert_eq!(rig.ask(rig.ca.client(None), spoofed.clone()).await.unwrap(), served());
    let told = rig.ask(rig.ca.client(Some(&identity)), spoofed).await.unwrap().told.unwrap();
    let hash = ::ring::digest::digest(&::ring::digest::SHA256, &identity.certs()[0]);
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(told, format!("By=spiffe://example/proxy;Hash={hash};URI=spiffe://example/web;DNS=web.example"));
}

#[tokio::test]
async fn half_a_handshake_is_closed_and_holds_up_nobody() {
    let rig = Rig::start(&[("SERVER_TLS_HANDSHAKE_TIMEOUT", "500ms")]).await;
    // The head of a record, and of the client's hello in it.
    let mut halves = Vec::new();
    for _ in 0..20 {
        let mut half = TcpStream::connect(rig.app.proxy).await.unwrap();
        half.write_all(&[22, 3, 1, 1, 0, 1, 0]).await.unwrap();
        halves.push(half);
    }
    assert_eq!(rig.ask(rig.ca.client(None), get()).await.unwrap(), served());
    for mut half in halves {
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, half.read_to_end(&mut rest)).await.expect("it is closed");
    }
    rig.handshakes("timeout", "", 20).await;
    rig.handshakes("ok", "1.3", 1).await;
}

#[tokio::test]
async fn a_thousand_handshakes_at_once() {
    const CLIENTS: usize = 1_000;
    // Here and in the process that is started, which inherits the limit.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let rig = Rig::start(&[("SERVER_TLS_HANDSHAKE_TIMEOUT", "5m"), ("ACCEPT_BACKLOG", "2048")]).await;
    let config = Arc::new(rig.ca.client(None));
    let proxy = rig.app.proxy;
    // All are connected before the first of them says hello.
    let mut streams = Vec::new();
    for _ in 0..CLIENTS {
        streams.push(TcpStream::connect(proxy).await.unwrap());
    }
    let mut clients = JoinSet::new();
    for stream in streams {
        let connecting = TlsConnector::from(Arc::clone(&config)).connect(ServerName::try_from(HOST).unwrap(), stream);
        clients.spawn(async move { ask(&mut open(connecting.await.unwrap()).await.unwrap(), get()).await.unwrap() });
    }
    let answers = timeout(5 * PATIENCE, clients.join_all()).await.expect("all are served");
    assert_eq!(answers.len(), CLIENTS);
    assert!(answers.iter().all(|answer| *answer == served()));
    rig.handshakes("ok", "1.3", CLIENTS as u64).await;
}

#[tokio::test]
async fn plain_text_to_a_listener_with_tls_is_told_and_closed() {
    let rig = Rig::start(&[]).await;
    for text in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut stream = TcpStream::connect(rig.app.proxy).await.unwrap();
        stream.write_all(text).await.unwrap();
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it is closed");
    }
    let line = rig.app.logged(&["client speaks plain text to a listener with TLS"]).await;
    assert!(line.contains("WARN") && line.contains("127.0.0.1"), "{line}");
    rig.handshakes("plaintext", "", 2).await;
    // A check of the port that says nothing is nothing to tell.
    drop(TcpStream::connect(rig.app.proxy).await.unwrap());
    rig.handshakes("closed", "", 1).await;
    assert!(rig.app.log().iter().all(|line| !line.contains("handshake with client failed")));
}

#[tokio::test]
async fn tls_to_a_listener_without_is_told_and_closed() {
    let app = start(endpoint(None).await, &[]);
    let ca = Authority::new("proxies");
    assert!(timeout(PATIENCE, connect(app.proxy, ca.client(None))).await.expect("it is closed").is_err());
    let line = app.logged(&["client speaks TLS to a listener that has no certificate"]).await;
    assert!(line.contains("WARN") && line.contains("127.0.0.1"), "{line}");
    assert_eq!(ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), served());
}

#[tokio::test]
async fn requests_finish_when_the_process_drains() {
    let (ca, files) = (Authority::new("proxies"), Files::new());
    let [cert, key] = files.identity("proxy", &ca.issue(&[HOST]));
    let mut endpoint = Endpoint::start().await;
    let mut app = start(endpoint.addr, &[("SERVER_TLS_CERT", &cert), ("SERVER_TLS_KEY", &key)]);
    let mut client = open(connect(app.proxy, ca.client(None)).await.unwrap()).await.unwrap();
    let (response, _) = client.send_request(get(), true).unwrap();
    endpoint.asked.recv().await.unwrap();
    app.terminate();
    while TcpStream::connect(app.proxy).await.is_ok() {
        tokio::task::yield_now().await;
    }
    endpoint.answer.send_replace(true);
    assert_eq!(crate::support::body(response).await.unwrap(), b"answer");
    drop(client);
    assert!(app.ended().await.success());
}

#[test]
fn demo_has_tls_on_both_sides() {
    let output = command().args(["demo", "--tls", "--once", "--seconds", "1"]).output().unwrap();
    let table = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{table}{}", stderr(&output));
    for traffic in ["GET", "gRPC unary", "64 KiB echo"] {
        let row = table.lines().find_map(|line| line.strip_prefix(traffic)).unwrap();
        assert!(row.split_whitespace().next().unwrap().parse::<u64>().unwrap() > 0, "{table}");
    }
    let note = table.lines().find(|line| line.starts_with("note: ")).unwrap();
    assert!(note.contains("LINKERD2_PROXY_OUTBOUND_CONNECT_HTTP2_ADAPTIVE_FLOW_CONTROL=true"), "{note}");
}

#[tokio::test]
async fn a_certificate_that_expires_ends_the_resumption_of_its_sessions() {
    let clients = Authority::new("clients");
    let rig = Rig::start_mutual(&clients, &[]).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let identity = clients.issue_with(&["web.example"], |params| {
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now + 5);
    });
    let mut config = rig.ca.client(Some(&identity));
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let mut answers = Vec::new();
    let refused = async {
        loop {
            match rig.ask(config.clone(), get()).await {
                // It has expired between handshake and request.
                Ok(Answer { status: 403, .. }) => {}
                Ok(answer) => answers.push(answer),
                Err(_) => return,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, refused).await.expect("it is refused in the end");
    assert!(answers.len() > 1 && answers.iter().all(|answer| *answer == served()), "{answers:?}");
}
