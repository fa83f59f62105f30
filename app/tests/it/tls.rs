//! TLS on both sides: the certificates that each side accepts, and files that change.

mod clients;
pub(crate) mod pki;

use crate::support::{App, Endpoint, PATIENCE, admin, command, connect as connect_plain, get};
use bytes::Bytes;
use h2::{client::SendRequest, server};
use http::{Request, Response, StatusCode};
use pki::{Authority, Files, Identity};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig, pki_types::ServerName};
use std::{
    fmt, fs, io,
    net::SocketAddr,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

pub(crate) const HOST: &str = "proxy.example";
const CLIENT_CERT: &str = "x-forwarded-client-cert";

/// The binary with a certificate for [`HOST`], before an endpoint that answers at once and says what it was told of the
/// client.
pub(crate) struct Rig {
    pub(crate) ca: Authority,
    files: Files,
    pub(crate) app: App,
}

impl Rig {
    /// `settings`: of the listener, without the first part of their names.
    async fn start(settings: &[(&str, &str)]) -> Self {
        let (ca, files) = (Authority::new("proxies"), Files::new());
        Self::start_with(ca, files, settings).await
    }

    async fn start_with(ca: Authority, files: Files, settings: &[(&str, &str)]) -> Self {
        let [cert, key] = files.identity("proxy", &ca.issue(&[HOST, "spiffe://example/proxy"]));
        let mut all = vec![("SERVER_TLS_CERT", &*cert), ("SERVER_TLS_KEY", &key)];
        all.extend(settings);
        let app = start(endpoint(None).await, &all);
        Self { ca, files, app }
    }

    /// The same, that asks clients for certificates of `clients`.
    pub(crate) async fn start_mutual(clients: &Authority, settings: &[(&str, &str)]) -> Self {
        let (ca, files) = (Authority::new("proxies"), Files::new());
        let client_ca = files.write("clients.pem", &clients.pem());
        let mut all = vec![("SERVER_TLS_CLIENT_CA", &*client_ca)];
        all.extend(settings);
        Self::start_with(ca, files, &all).await
    }

    pub(crate) async fn ask(&self, config: ClientConfig, req: Request<()>) -> Result<Answer, Failed> {
        let stream = connect(self.app.proxy, config).await?;
        ask(&mut open(stream).await?, req).await
    }

    async fn counted(&self, what: &str, count: u64) {
        self.app.counted(&format!("{what} {count}")).await;
    }

    async fn handshakes(&self, result: &str, version: &str, count: u64) {
        let labels = format!("direction=\"outbound\",peer=\"src\",result=\"{result}\",version=\"{version}\"");
        self.counted(&format!("tls_handshakes_total{{{labels}}}"), count).await;
    }
}

pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A response.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The description of the client's certificate at the endpoint.
    pub(crate) told: Option<String>,
    grpc_status: Option<String>,
    error: Option<String>,
}

/// The binary's outbound direction.
pub(crate) fn start(endpoint: impl fmt::Display + Copy, settings: &[(&str, &str)]) -> App {
    let settings: Vec<_> =
        settings.iter().map(|(name, value)| (format!("LINKERD2_PROXY_OUTBOUND_{name}"), *value)).collect();
    let settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    App::start_to(&endpoint.to_string(), &settings)
}

/// An endpoint, with TLS or without.
pub(crate) async fn endpoint(tls: Option<Arc<ServerConfig>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                match tls {
                    None => answer(stream).await,
                    Some(tls) => {
                        if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
                            answer(stream).await;
                        }
                    }
                }
            });
        }
    });
    addr
}

async fn answer<I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(io: I) {
    let Ok(mut connection) = server::handshake(io).await else { return };
    while let Some(Ok((req, mut respond))) = connection.accept().await {
        let mut rsp = Response::new(());
        if let Some(told) = req.headers().get(CLIENT_CERT) {
            rsp.headers_mut().insert("told", told.clone());
        }
        let _ = respond.send_response(rsp, true).map(|_: h2::SendStream<Bytes>| ());
    }
}

pub(crate) async fn connect(addr: SocketAddr, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    connect_shared(addr, Arc::new(config)).await
}

async fn connect_shared(addr: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(addr).await?;
    TlsConnector::from(config).connect(ServerName::try_from(HOST).unwrap(), stream).await
}

pub(crate) async fn open(stream: TlsStream<TcpStream>) -> Result<SendRequest<Bytes>, h2::Error> {
    let (client, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(async { _ = connection.await });
    Ok(client)
}

pub(crate) async fn ask(client: &mut SendRequest<Bytes>, req: Request<()>) -> Result<Answer, Failed> {
    let (rsp, _) = client.send_request(req, true)?;
    let rsp = timeout(PATIENCE, rsp).await??;
    let text = |name: &str| rsp.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    Ok(Answer {
        status: rsp.status().as_u16(),
        told: text("told"),
        grpc_status: text("grpc-status"),
        error: text("proxy-error"),
    })
}

/// The answer to a request that is passed on.
pub(crate) fn served() -> Answer {
    Answer { status: 200, told: None, grpc_status: None, error: None }
}

fn grpc() -> Request<()> {
    Request::post("http://test.example/pkg.Service/Method").header("content-type", "application/grpc").body(()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

// === Toward clients ===

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
                Ok(answer) => answers.push(answer),
                Err(_) => return,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, refused).await.expect("it is refused in the end");
    assert!(answers.len() > 1 && answers.iter().all(|answer| *answer == served()), "{answers:?}");
}

// === Files ===

/// Makes new connections, with requests on each, until told to stop; counts failures.
async fn load(proxy: SocketAddr, config: Arc<ClientConfig>, stop: Arc<AtomicBool>, failed: Arc<AtomicUsize>) -> usize {
    let mut requests = 0;
    while !stop.load(Relaxed) {
        let asked = async {
            let mut client = open(connect_shared(proxy, Arc::clone(&config)).await?).await?;
            for _ in 0..3 {
                assert_eq!(ask(&mut client, get()).await?, served());
                requests += 1;
            }
            Ok::<_, Failed>(())
        };
        failed.fetch_add(usize::from(asked.await.is_err()), Relaxed);
    }
    requests
}

/// The certificate that clients are shown.
async fn shown(rig: &Rig) -> Vec<u8> {
    let stream = connect(rig.app.proxy, rig.ca.client(None)).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

async fn until_shown(rig: &Rig, identity: &Identity) {
    let expected = identity.certs()[0].to_vec();
    let until = async {
        while shown(rig).await != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, until).await.expect("the new certificate is shown");
}

#[tokio::test]
async fn new_files_are_taken_over_under_load_and_nothing_fails() {
    let rig = Rig::start(&[]).await;
    let (stop, failed) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let mut loads = JoinSet::new();
    for resumes in [false, false, true, true] {
        let mut config = rig.ca.client(None);
        if resumes {
            config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        }
        loads.spawn(load(rig.app.proxy, Arc::new(config), Arc::clone(&stop), Arc::clone(&failed)));
    }
    let mut long = open(connect(rig.app.proxy, rig.ca.client(None)).await.unwrap()).await.unwrap();

    // One file after the other, as most do; for a moment they do not fit together.
    let by_time = rig.ca.issue(&[HOST]);
    rig.files.identity("proxy", &by_time);
    until_shown(&rig, &by_time).await;
    assert_eq!(ask(&mut long, get()).await.unwrap(), served());

    let by_signal = rig.ca.issue(&[HOST]);
    rig.files.identity("proxy", &by_signal);
    rig.app.signal("-HUP");
    until_shown(&rig, &by_signal).await;
    assert_eq!(ask(&mut long, get()).await.unwrap(), served());

    stop.store(true, Relaxed);
    let requests: usize = loads.join_all().await.into_iter().sum();
    assert!(requests > 0);
    assert_eq!(failed.load(Relaxed), 0, "of {requests}");
}

#[tokio::test]
async fn bad_files_leave_the_old_certificate_and_are_told_and_counted() {
    let rig = Rig::start(&[]).await;
    let old = shown(&rig).await;
    let expiry = "tls_certificate_expiration_timestamp_seconds{direction=\"outbound\",peer=\"src\"}";
    // rcgen's default: the year 4096.
    rig.counted(expiry, 67_090_118_400).await;
    let reloads = |result| format!("tls_reloads_total{{direction=\"outbound\",peer=\"src\",result=\"{result}\"}}");
    let other = rig.ca.issue(&[HOST]);
    for (count, (cert, words)) in
        [("", "has no certificate"), (&*other.cert, "not the one of the certificate in")].into_iter().enumerate()
    {
        rig.files.write("proxy.pem", cert);
        rig.app.signal("-HUP");
        rig.counted(&reloads("failed"), count as u64 + 1).await;
        let line = rig.app.logged(&["new certificates cannot be used, the old ones stay", words]).await;
        assert!(line.contains("ERROR") && line.contains("LINKERD2_PROXY_OUTBOUND_SERVER_TLS_"), "{line}");
        assert_eq!(shown(&rig).await, old);
    }
    let new = rig.ca.issue_with(&[HOST], |params| params.not_after = rcgen::date_time_ymd(2050, 1, 1));
    rig.files.identity("proxy", &new);
    until_shown(&rig, &new).await;
    rig.counted(expiry, 2_524_608_000).await;
    rig.counted(&reloads("ok"), 1).await;
}

#[tokio::test]
async fn a_new_authority_of_clients_is_asked_for_sessions_to_be_resumed_as_well() {
    let (before, after) = (Authority::new("before"), Authority::new("after"));
    let rig = Rig::start_mutual(&before, &[]).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        rig.files.write("clients.pem", &before.pem());
        let identity = before.issue(&["web.example"]);
        let mut config = rig.ca.client_of(&[version], Some(&identity));
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        let served_again = async {
            while rig.ask(config.clone(), get()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, served_again).await.expect("it is known");
        rig.files.write("clients.pem", &after.pem());
        let refused = async {
            while rig.ask(config.clone(), get()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, refused).await.expect("it is not known any more");
        let identity = after.issue(&["web.example"]);
        assert_eq!(rig.ask(rig.ca.client(Some(&identity)), get()).await.unwrap(), served());
    }
}

#[tokio::test]
async fn a_signal_to_reload_does_not_end_a_process_without_tls() {
    let app = start(endpoint(None).await, &[]);
    app.signal("-HUP");
    assert_eq!(ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), served());
}

#[tokio::test]
async fn keys_are_pkcs8_sec1_or_pkcs1() {
    let (ca, files) = (Authority::new("proxies"), Files::new());
    let p256 = ca.issue(&[HOST]);
    // Keys of RSA cannot be made here.
    let rsa = ca.issue_for(include_str!("tls/rsa.pem"), &[HOST]);
    let (sec1, pkcs1) = (p256.with_inner_key("EC PRIVATE KEY"), rsa.with_inner_key("RSA PRIVATE KEY"));
    // Behind the parameters that openssl writes there.
    let params = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let mixed = Identity { key: format!("{params}{}", sec1.key), cert: sec1.cert.clone() };
    for identity in [p256, sec1, mixed, rsa, pkcs1] {
        let [cert, key] = files.identity("proxy", &identity);
        let app = start(endpoint(None).await, &[("SERVER_TLS_CERT", &cert), ("SERVER_TLS_KEY", &key)]);
        let stream = connect(app.proxy, ca.client(None)).await.unwrap();
        assert_eq!(ask(&mut open(stream).await.unwrap(), get()).await.unwrap(), served());
    }
}

#[test]
fn check_reads_all_files_and_says_what_is_wrong_with_each() {
    let files = Files::new();
    let ca = Authority::new("proxies");
    let [cert, key] = files.identity("proxy", &ca.issue(&[HOST]));
    let [_, other] = files.identity("other", &ca.issue(&[HOST]));
    let (empty, gone) = (files.write("empty", ""), files.path("gone"));
    let secret = fs::read_to_string(&key).unwrap();
    let secret = secret.lines().nth(1).unwrap();
    let broken = files.write("broken", &format!("-----BEGIN PRIVATE KEY-----\n{secret}\n!{secret}\n"));
    let garbage = files.write("garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let encrypted = files.write(
        "encrypted",
        &format!("-----BEGIN ENCRYPTED PRIVATE KEY-----\n{secret}\n-----END ENCRYPTED PRIVATE KEY-----\n"),
    );
    let check = |settings: &[(&str, &str)], expected: &[(&str, &str, &str)]| {
        let mut command = command();
        command.arg("check").env("LINKERD2_PROXY_INBOUND_ENDPOINTS", "a.example:1");
        command.env("LINKERD2_PROXY_INBOUND_CONNECT_TLS", "on");
        // Fewer than the descriptors of any machine, which would be a warning.
        command.env("LINKERD2_PROXY_INBOUND_MAX_CONNECTIONS", "100");
        command.envs(settings.iter().map(|(name, value)| (format!("LINKERD2_PROXY_INBOUND_{name}"), value)));
        let output = command.output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(if expected.is_empty() { 0 } else { 64 }), "{text}");
        for (name, path, words) in expected {
            let start = format!("error: LINKERD2_PROXY_INBOUND_{name}: {path}");
            assert!(
                text.lines().any(|line| line.starts_with(&start) && line.contains(words)),
                "{start} {words}: {text}"
            );
        }
        assert_eq!(text.lines().count(), expected.len(), "{text}");
        assert!(!text.contains(secret), "{text}");
    };
    let (server_cert, server_key, client_ca) = ("SERVER_TLS_CERT", "SERVER_TLS_KEY", "SERVER_TLS_CLIENT_CA");
    let (connect_ca, connect_cert, connect_key) = ("CONNECT_TLS_CA", "CONNECT_TLS_CERT", "CONNECT_TLS_KEY");
    let good = [(server_cert, &*cert), (server_key, &*key), (connect_ca, &*cert)];
    check(&good, &[]);
    check(
        &[
            (server_cert, &gone),
            (server_key, &gone),
            (client_ca, &gone),
            (connect_ca, &gone),
            (connect_cert, &gone),
            (connect_key, &gone),
        ],
        &[
            (server_cert, &gone, "cannot be read: No such file"),
            (server_key, &gone, "cannot be read: No such file"),
            (client_ca, &gone, "cannot be read: No such file"),
            (connect_ca, &gone, "cannot be read: No such file"),
            (connect_cert, &gone, "cannot be read: No such file"),
            (connect_key, &gone, "cannot be read: No such file"),
        ],
    );
    for (name, path, words) in [
        (server_cert, &empty, "has no certificate in PEM"),
        (server_cert, &key, "has no certificate in PEM"),
        (server_cert, &garbage, "has a certificate (the 1. one) that cannot be used"),
        (server_key, &empty, "has no private key in PEM"),
        (server_key, &cert, "has no private key in PEM"),
        (server_key, &encrypted, "not encrypted"),
        (server_key, &broken, "is not PEM"),
        (server_key, &other, "has a key that is not the one of the certificate in"),
        (client_ca, &empty, "has no certificate in PEM"),
        (client_ca, &garbage, "has a certificate (the 1. one) that cannot be used"),
        (connect_ca, &empty, "has no certificate in PEM"),
    ] {
        let mut settings = Vec::from(good);
        settings.retain(|(other, _)| *other != name);
        settings.push((name, path));
        check(&settings, &[(name, path, words)]);
    }
}

#[tokio::test]
async fn keys_are_nowhere_to_be_seen() {
    let rig = Rig::start(&[]).await;
    rig.app.signal("-HUP");
    assert_eq!(rig.ask(rig.ca.client(None), get()).await.unwrap(), served());
    rig.counted("tls_reloads_total{direction=\"outbound\",peer=\"src\",result=\"ok\"}", 1).await;
    let path = rig.files.path("proxy.key");
    let key = fs::read_to_string(&path).unwrap();
    let secrets: Vec<_> = key.lines().filter(|line| !line.starts_with('-')).collect();
    let (_, config) = admin(rig.app.admin, "GET", "/config", "").await;
    assert!(config.contains(&path), "paths are shown");
    let (_, metrics) = admin(rig.app.admin, "GET", "/metrics", "").await;
    let seen = format!("{config}{metrics}{:?}", rig.app.log());
    assert!(!secrets.is_empty() && secrets.iter().all(|secret| !seen.contains(secret)));
}

#[tokio::test]
async fn a_certificate_of_ours_that_has_expired_is_a_warning() {
    let (ca, files) = (Authority::new("proxies"), Files::new());
    let [cert, key] = files.identity("proxy", &ca.issue_expired(&[HOST]));
    let app = start(endpoint(None).await, &[("SERVER_TLS_CERT", &cert), ("SERVER_TLS_KEY", &key)]);
    app.logged(&["our own certificate has expired", "WARN"]).await;
    assert!(connect(app.proxy, ca.client(None)).await.is_err());
    files.identity("proxy", &ca.issue(&[HOST]));
    app.signal("-HUP");
    let served_again = async {
        while connect(app.proxy, ca.client(None)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, served_again).await.expect("the new one is shown");
}

// === Toward endpoints ===

/// An endpoint at 127.0.0.1 with a certificate, and the binary that connects to it.
async fn start_to(alpn: &[&str], names: &[&str], settings: &[(&str, &str)]) -> (Files, App) {
    let (ca, files) = (Authority::new("endpoints"), Files::new());
    let ca_path = files.write("ca.pem", &ca.pem());
    let addr = endpoint(Some(Authority::server(&ca.issue(names), alpn, None))).await;
    let mut all = vec![("CONNECT_TLS", "on"), ("CONNECT_TLS_CA", &ca_path), ("CONNECT_TIMEOUT", "1m")];
    all.extend(settings);
    (files, start(addr, &all))
}

#[track_caller]
fn says(answer: &Answer, words: &str) {
    let error = answer.error.as_deref().unwrap_or_default();
    assert!(answer.status == StatusCode::BAD_GATEWAY && error.contains(words), "{answer:?}");
}

#[tokio::test]
async fn endpoints_must_have_a_certificate_for_the_host_they_were_found_by() {
    let (_files, app) = start_to(&["h2"], &["127.0.0.1"], &[]).await;
    assert_eq!(ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), served());
    let done = "tls_handshakes_total{direction=\"outbound\",peer=\"dst\",result=\"ok\",version=\"1.3\"}";
    app.counted(&format!("{done} 2")).await;

    let (_files, app) = start_to(&["h2"], &["127.0.0.2", "other.example"], &[]).await;
    let answer = ask(&mut connect_plain(app.proxy).await, get()).await.unwrap();
    says(&answer, "certificate not valid for name \"127.0.0.1\"");
    says(&answer, "TLS handshake failed");
    assert_eq!(admin(app.admin, "GET", "/ready", "").await.0, 503);
    let line = app.logged(&["endpoint cannot be reached", "certificate not valid for name"]).await;
    assert!(line.contains("WARN"), "{line}");

    let (_files, app) = start_to(&["h2"], &["other.example"], &[("CONNECT_TLS_SERVER_NAME", "other.example")]).await;
    assert_eq!(ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), served());
}

#[tokio::test]
async fn names_of_endpoints_are_what_their_certificates_must_be_for() {
    let (ca, files) = (Authority::new("endpoints"), Files::new());
    let ca_path = files.write("ca.pem", &ca.pem());
    for (names, is_served) in [(&["localhost"][..], true), (&["127.0.0.1"], false)] {
        let addr = endpoint(Some(Authority::server(&ca.issue(names), &["h2"], None))).await;
        let settings = [("CONNECT_TLS", "on"), ("CONNECT_TLS_CA", &ca_path), ("CONNECT_TIMEOUT", "1m")];
        let app = start(&*format!("localhost:{}", addr.port()), &settings);
        let answer = ask(&mut connect_plain(app.proxy).await, get()).await.unwrap();
        if is_served {
            assert_eq!(answer, served());
        } else {
            // localhost may be ::1 as well, where nobody listens.
            app.logged(&["endpoint cannot be reached", "certificate not valid for name", "localhost"]).await;
            assert_eq!(answer.status, 502);
        }
    }
}

#[tokio::test]
async fn endpoints_of_another_authority_are_refused_unless_anybody_will_do() {
    let (ca, other, files) = (Authority::new("endpoints"), Authority::new("others"), Files::new());
    let other = files.write("other.pem", &other.pem());
    let addr = endpoint(Some(Authority::server(&ca.issue(&["127.0.0.1"]), &["h2"], None))).await;
    let on = [("CONNECT_TLS", "on"), ("CONNECT_TIMEOUT", "1m")];
    let app = start(addr, &[on[0], on[1], ("CONNECT_TLS_CA", &other)]);
    says(&ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), "UnknownIssuer");
    // The system does not trust it either.
    let app = start(addr, &on);
    says(&ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), "UnknownIssuer");
    let app = start(addr, &[on[0], on[1], ("CONNECT_TLS_INSECURE_SKIP_VERIFY", "true")]);
    assert_eq!(ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), served());
}

#[test]
fn not_to_verify_endpoints_is_a_warning_at_start() {
    let mut command = command();
    command.arg("check").envs([
        ("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1"),
        ("LINKERD2_PROXY_OUTBOUND_CONNECT_TLS", "on"),
        ("LINKERD2_PROXY_OUTBOUND_CONNECT_TLS_INSECURE_SKIP_VERIFY", "true"),
    ]);
    let output = command.output().unwrap();
    assert!(output.status.success());
    let expected = "warning: LINKERD2_PROXY_OUTBOUND_CONNECT_TLS_INSECURE_SKIP_VERIFY: is true";
    assert!(stderr(&output).starts_with(expected), "{}", stderr(&output));
}

#[tokio::test]
async fn endpoints_that_ask_for_a_certificate_are_shown_ours() {
    let (ca, clients, files) = (Authority::new("endpoints"), Authority::new("clients"), Files::new());
    let ca_path = files.write("ca.pem", &ca.pem());
    let [cert, key] = files.identity("proxy", &clients.issue(&["proxy.example"]));
    let addr = endpoint(Some(Authority::server(&ca.issue(&["127.0.0.1"]), &["h2"], Some(&clients)))).await;
    let on = [("CONNECT_TLS", "on"), ("CONNECT_TLS_CA", &*ca_path), ("CONNECT_TIMEOUT", "1m")];
    let app = start(addr, &[on[0], on[1], on[2], ("CONNECT_TLS_CERT", &cert), ("CONNECT_TLS_KEY", &key)]);
    assert_eq!(ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), served());
    app.counted("tls_certificate_expiration_timestamp_seconds{direction=\"outbound\",peer=\"dst\"} 67090118400").await;
    let app = start(addr, &on);
    let answer = ask(&mut connect_plain(app.proxy).await, get()).await.unwrap();
    assert_eq!(answer.status, 502, "{answer:?}");
}

#[tokio::test]
async fn endpoints_without_http2_are_refused_with_a_word() {
    for (alpn, words) in [
        (&["http/1.1"][..], "endpoint does not speak HTTP/2: it takes none of the protocols offered by ALPN"),
        (&[], "endpoint does not speak HTTP/2: by ALPN it chose nothing, must be h2"),
    ] {
        let (_files, app) = start_to(alpn, &["127.0.0.1"], &[]).await;
        says(&ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), words);
        let start = "tls_handshakes_total{direction=\"outbound\",peer=\"dst\",result=\"alpn\",version=\"\"} ";
        let (_, metrics) = admin(app.admin, "GET", "/metrics", "").await;
        let count = metrics.lines().find_map(|line| line.strip_prefix(start)).unwrap();
        assert!(count.parse::<u64>().unwrap() > 0);
    }
    let app = start(endpoint(None).await, &[("CONNECT_TLS", "on"), ("CONNECT_TIMEOUT", "1m")]);
    says(&ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), "endpoint speaks plain text");
}

#[tokio::test]
async fn an_endpoint_that_never_shakes_hands_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let on = [
        ("CONNECT_TLS", "on"),
        ("CONNECT_TIMEOUT", "200ms"),
        ("CONNECT_EXP_BACKOFF_MAX", "1m"),
        ("CONNECT_EXP_BACKOFF_MIN", "1m"),
    ];
    let app = start(silent.local_addr().unwrap(), &on);
    let answer = ask(&mut connect_plain(app.proxy).await, get()).await.unwrap();
    assert_eq!(answer.status, 504, "{answer:?}");
    // Each of two workers has tried by itself, and again for the request that waited.
    let counts = "tls_handshakes_total{direction=\"outbound\",peer=\"dst\",result=\"timeout\",version=\"\"} ";
    let (_, page) = admin(app.admin, "GET", "/metrics", "").await;
    let line = page.lines().find_map(|line| line.strip_prefix(counts));
    assert!(line.is_some_and(|count| count.parse::<u32>().unwrap() >= 2), "{page}");
}

#[tokio::test]
async fn certificates_toward_endpoints_are_read_again_as_well() {
    let (ca, other, files) = (Authority::new("endpoints"), Authority::new("others"), Files::new());
    let ca_path = files.write("ca.pem", &other.pem());
    let addr = endpoint(Some(Authority::server(&ca.issue(&["127.0.0.1"]), &["h2"], None))).await;
    let settings = [
        ("CONNECT_TLS", "on"),
        ("CONNECT_TLS_CA", &*ca_path),
        ("CONNECT_TIMEOUT", "1m"),
        ("CONNECT_EXP_BACKOFF_MAX", "100ms"),
    ];
    let app = start(addr, &settings);
    says(&ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), "UnknownIssuer");
    files.write("ca.pem", &ca.pem());
    let until = async {
        while ask(&mut connect_plain(app.proxy).await, get()).await.unwrap() != served() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, until).await.expect("the endpoint is believed");
    app.counted("tls_reloads_total{direction=\"outbound\",peer=\"dst\",result=\"ok\"} 1").await;
}
