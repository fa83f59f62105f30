//! Listeners that are Unix domain sockets.

use crate::{
    support::{App, Endpoint, PATIENCE, body, command, endpoint, get},
    tls::{
        HOST,
        pki::{Authority, Files},
    },
};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response};
use serde_json::Value;
use std::{
    fs,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::{SocketAddr, UnixDatagram, UnixListener, UnixStream as StdUnixStream},
        },
    },
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

const LISTEN: &str = "LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR";
const MODE: &str = "LINKERD2_PROXY_OUTBOUND_LISTEN_MODE";
const ADMIN: &str = "LINKERD2_PROXY_ADMIN_LISTEN_ADDR";
const NETWORKS: &str = "LINKERD2_PROXY_OUTBOUND_ACCEPT_PROXY_PROTOCOL_NETWORKS";
const RATE: &str = "LINKERD2_PROXY_OUTBOUND_HTTP_RATE_LIMIT_PER_CLIENT";
const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 56164 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x01\xdb\x64\x01\xbb";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: test.example\r\nconnection: close\r\n\r\n";

/// The outbound direction on a socket, to an endpoint that answers.
async fn start(listen: &str, settings: &[(&str, &str)]) -> App {
    let endpoint = Endpoint::start().await;
    endpoint.answer.send_replace(true);
    App::start(endpoint.addr, &[&[(LISTEN, listen)], settings].concat())
}

async fn connect_after(path: &str, header: &[u8]) -> SendRequest<Bytes> {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(header).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn connect(path: &str) -> SendRequest<Bytes> {
    connect_after(path, &[]).await
}

async fn answer(client: &mut SendRequest<Bytes>) -> Vec<u8> {
    timeout(PATIENCE, body(client.send_request(get(), true).unwrap().0)).await.expect("an answer").unwrap()
}

/// Sends bytes and returns all that is answered.
async fn sent(path: &str, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut rsp = Vec::new();
    // A connection that is closed with bytes unread is reset.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rsp)).await.expect("it closes");
    String::from_utf8(rsp).unwrap()
}

/// The addresses of clients on the page of connections.
async fn listed(app: &App) -> Vec<Value> {
    let (_, page) = crate::support::admin(app.admin, "GET", "/connections", "").await;
    let page: Value = serde_json::from_str(&page).unwrap();
    let connections = page["connections"].as_array().unwrap().iter();
    connections.filter(|connection| connection["peer"] == "src").map(|client| client["address"].clone()).collect()
}

/// The output of a process that does not start.
fn refused(settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = command();
    command.env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1").env(ADMIN, "127.0.0.1:0");
    let output = command.envs(settings.iter().copied()).stdout(Stdio::piped()).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

fn inode(path: &str) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

#[tokio::test]
async fn requests_come_by_a_path_whose_file_is_removed_at_the_end() {
    let files = Files::new();
    let path = files.path("proxy.sock");
    let log = files.path("access.log");
    let settings = [("LINKERD2_PROXY_ACCESS_LOG", "apache"), ("LINKERD2_PROXY_ACCESS_LOG_FILE", &*log)];
    let mut app = start(&format!("unix://{path}"), &settings).await;
    app.logged(&["\"listening\"", &format!("\"addr\":\"unix:{path}\"")]).await;
    let mut client = connect(&path).await;
    assert_eq!(answer(&mut client).await, b"answer");
    // A client has no address there.
    assert_eq!(listed(&app).await, [Value::Null]);
    let rsp = sent(&path, REQUEST).await;
    assert!(rsp.starts_with("HTTP/1.1 200 OK\r\n") && rsp.contains("answer"), "{rsp}");
    app.terminate();
    assert!(app.ended().await.success());
    assert!(!Path::new(&path).exists());
    let lines = fs::read_to_string(log).unwrap();
    assert_eq!(lines.lines().filter(|line| line.starts_with("unix: - - [")).count(), 2, "{lines}");
}

#[tokio::test]
async fn requests_come_by_an_abstract_name() {
    let name = format!("app-test-listener-{}", std::process::id());
    let mut app = start(&format!("unix:@{name}"), &[]).await;
    let stream = StdUnixStream::connect_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    stream.set_nonblocking(true).unwrap();
    let (mut client, connection) = h2::client::handshake(UnixStream::from_std(stream).unwrap()).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(answer(&mut client).await, b"answer");
    app.terminate();
    assert!(app.ended().await.success());
    let (code, output) = {
        let _held = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        refused(&[(LISTEN, &format!("unix:@{name}"))])
    };
    assert!(code == Some(1) && output.contains(&format!("cannot listen on unix:@{name}")), "{code:?} {output}");
}

#[tokio::test]
async fn the_mode_is_the_variables_or_as_the_umask_leaves_it() {
    let files = Files::new();
    let path = files.path("proxy.sock");
    for (umask, mode, expected) in [("027", None, 0o750), ("077", Some("666"), 0o666), ("000", Some("600"), 0o600)] {
        let mut shell = Command::new("/bin/sh");
        shell.env_clear().args(["-c", &format!("umask {umask} && exec \"$0\""), env!("CARGO_BIN_EXE_app")]);
        let listen = format!("unix:{path}");
        let mode = mode.map(|mode| (MODE, mode));
        let settings: Vec<_> = [(LISTEN, &*listen)].into_iter().chain(mode).collect();
        let endpoint = Endpoint::start().await;
        let mut app = App::start_by(shell, endpoint.addr, &settings);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, expected, "{umask} {mode:?}");
        app.terminate();
        assert!(app.ended().await.success());
    }
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_nothing_of_others_is() {
    let files = Files::new();
    let [stale, used, file, link, datagrams, full] =
        ["stale", "used", "file", "link", "datagrams", "full"].map(|name| files.path(name));
    drop(UnixListener::bind(&stale).unwrap());
    let app = start(&format!("unix:{stale}"), &[]).await;
    assert_eq!(answer(&mut connect(&stale).await).await, b"answer");
    drop(app);

    let _used = UnixListener::bind(&used).unwrap();
    fs::write(&file, "text").unwrap();
    std::os::unix::fs::symlink(&stale, &link).unwrap();
    let _datagrams = UnixDatagram::bind(&datagrams).unwrap();
    let busy = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    busy.bind(&socket2::SockAddr::unix(&full).unwrap()).unwrap();
    busy.listen(0).unwrap();
    let _queued = StdUnixStream::connect(&full).unwrap();
    for (path, reason) in [
        (&used, "a process listens on it"),
        (&file, "a file that is no socket is there"),
        (&link, "a file that is no socket is there"),
        (&datagrams, "a socket that is not of streams is there"),
        (&full, "a process listens on it"),
    ] {
        let before = inode(path);
        let (code, output) = refused(&[(LISTEN, &format!("unix:{path}"))]);
        let expected = format!("{LISTEN}: cannot listen on unix:{path}: {reason}");
        assert!(code == Some(1) && output.contains(&expected), "{path}: {code:?} {output}");
        assert_eq!(inode(path), before);
    }
    assert_eq!(fs::read_to_string(file).unwrap(), "text");
    let (code, output) = refused(&[(LISTEN, &format!("unix:{}/none/a.sock", files.path("")))]);
    assert!(code == Some(1) && output.contains("No such file"), "{code:?} {output}");
}

#[tokio::test]
async fn a_file_that_has_taken_the_path_is_not_removed() {
    let files = Files::new();
    let path = files.path("proxy.sock");
    let mut app = start(&format!("unix:{path}"), &[]).await;
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    app.terminate();
    assert!(app.ended().await.success());
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
}

#[test]
fn a_start_that_fails_leaves_no_file() {
    let files = Files::new();
    let path = files.path("proxy.sock");
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    let (code, output) = refused(&[(LISTEN, &format!("unix:{path}")), (ADMIN, &taken)]);
    assert!(code == Some(1) && output.contains("ADMIN_LISTEN_ADDR: cannot listen"), "{code:?} {output}");
    assert!(!Path::new(&path).exists());
}

/// The processes that took over, as the log tells.
fn successors(app: &App) -> Vec<u64> {
    let lines = app.log().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    let told = lines.filter(|line| line["fields"]["message"] == "took over, accepting connections");
    told.map(|line| line["fields"]["pid"].as_u64().unwrap()).collect()
}

/// Upgrades a process, and returns the id of the one that has taken over once the old one has ended.
async fn upgraded(app: &mut App) -> u64 {
    app.signal("-USR2");
    app.logged(&["took over"]).await;
    assert!(app.ended().await.success());
    successors(app)[0]
}

/// Ends a process that is not this one's child.
async fn end(pid: u64) {
    assert!(Command::new("kill").arg(pid.to_string()).status().unwrap().success());
    let ended = async {
        while fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, ended).await.expect("it ends");
}

#[tokio::test]
async fn an_upgrade_leaves_the_file_to_the_new_process() {
    let files = Files::new();
    let path = files.path("proxy.sock");
    let mut app = start(&format!("unix:{path}"), &[]).await;
    let before = inode(&path);
    let successor = upgraded(&mut app).await;
    assert_eq!(inode(&path), before);
    assert_eq!(answer(&mut connect(&path).await).await, b"answer");
    end(successor).await;
    assert!(!Path::new(&path).exists());
}

#[tokio::test]
async fn an_upgrade_that_fails_leaves_the_file_to_the_old_process() {
    let (files, endpoint) = (Files::new(), Endpoint::start().await);
    endpoint.answer.send_replace(true);
    let path = files.path("proxy.sock");
    let (routes, listen) = (files.path("routes.yaml"), format!("unix:{path}"));
    let text = format!(
        "backends:\n  a:\n    endpoints:\n    - {}\nroutes:\n- rules:\n  - backendRefs:\n    - name: a\n",
        endpoint.addr
    );
    fs::write(&routes, text).unwrap();
    let app = App::start_to("", &[(LISTEN, &*listen), ("LINKERD2_PROXY_OUTBOUND_ROUTES", &routes)]);
    let before = inode(&path);
    fs::write(&routes, "backends: {").unwrap();
    app.signal("-USR2");
    app.logged(&["upgrade failed"]).await;
    assert_eq!(inode(&path), before);
    assert_eq!(answer(&mut connect(&path).await).await, b"answer");
}

/// The binary with a socket as systemd passes it.
fn activated(listener: UnixListener, names: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    let script = format!("exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 {names} exec \"$0\"");
    shell.env_clear().args(["-c", &script, env!("CARGO_BIN_EXE_app")]);
    shell.stdin(std::os::fd::OwnedFd::from(listener));
    shell
}

#[tokio::test]
async fn the_file_of_a_socket_of_systemd_stays() {
    let files = Files::new();
    let path = files.path("proxy.sock");
    for (names, listen) in [("LISTEN_FDNAMES=outbound", "127.0.0.1:0".to_owned()), ("", format!("unix:{path}"))] {
        let endpoint = Endpoint::start().await;
        endpoint.answer.send_replace(true);
        let listener = UnixListener::bind(&path).unwrap();
        let mut app = App::start_by(activated(listener, names), endpoint.addr, &[(LISTEN, &*listen)]);
        assert_eq!(answer(&mut connect(&path).await).await, b"answer");
        // Nor does the next process remove it.
        let successor = upgraded(&mut app).await;
        assert_eq!(answer(&mut connect(&path).await).await, b"answer");
        end(successor).await;
        fs::remove_file(&path).unwrap();
    }
}

#[tokio::test]
async fn a_header_of_the_proxy_protocol_tells_of_the_client() {
    let files = Files::new();
    let path = files.path("proxy.sock");
    let app = start(&format!("unix:{path}"), &[(NETWORKS, "10.0.0.0/8")]).await;
    for header in [V1, V2] {
        let mut client = connect_after(&path, header).await;
        assert_eq!(answer(&mut client).await, b"answer");
        assert_eq!(listed(&app).await, ["192.0.2.1:56164"]);
        drop(client);
        // In pieces, and in one write with the request.
        let mut stream = UnixStream::connect(&path).await.unwrap();
        for byte in [header, REQUEST].concat() {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut rsp = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut rsp)).await.expect("it closes").unwrap();
        assert!(rsp.starts_with("HTTP/1.1 200 OK\r\n"), "{rsp}");
        let rsp = sent(&path, &[header, REQUEST].concat()).await;
        assert!(rsp.starts_with("HTTP/1.1 200 OK\r\n"), "{rsp}");
        app.counted("tcp_open_connections{direction=\"outbound\",peer=\"src\",tls=\"false\"} 0").await;
    }
    let mut client = connect_after(&path, b"PROXY UNKNOWN\r\n").await;
    assert_eq!(answer(&mut client).await, b"answer");
    assert_eq!(listed(&app).await, [Value::Null]);
    // All connections must have one.
    assert_eq!(sent(&path, REQUEST).await, "");
    app.logged(&["no valid PROXY protocol header", "there is none", "\"peer\":\"unix:\""]).await;
    // A health check.
    drop(UnixStream::connect(&path).await.unwrap());
    app.counted("proxy_protocol_headers_total{direction=\"outbound\",result=\"closed\"} 1").await;
}

#[tokio::test]
async fn the_proxy_protocol_comes_before_tls() {
    let (ca, files) = (Authority::new("proxies"), Files::new());
    let [cert, key] = files.identity("proxy", &ca.issue(&[HOST]));
    let path = files.path("proxy.sock");
    let tls = [("LINKERD2_PROXY_OUTBOUND_SERVER_TLS_CERT", &*cert), ("LINKERD2_PROXY_OUTBOUND_SERVER_TLS_KEY", &key)];
    for (networks, header, peer) in [(None, &[][..], "unix:"), (Some((NETWORKS, "10.0.0.0/8")), V2, "192.0.2.1:56164")]
    {
        let settings: Vec<_> = tls.into_iter().chain(networks).collect();
        let app = start(&format!("unix:{path}"), &settings).await;
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(header).await.unwrap();
        let connector = TlsConnector::from(Arc::new(ca.client(None)));
        let stream = connector.connect(HOST.try_into().unwrap(), stream).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        assert_eq!(answer(&mut client).await, b"answer");
        assert!(!sent(&path, &[header, REQUEST].concat()).await.contains("200 OK"));
        app.logged(&["client speaks plain text", &format!("\"peer\":\"{peer}\"")]).await;
    }
}

#[tokio::test]
async fn endpoints_are_told_that_the_client_is_unknown() {
    let addr = endpoint(|_, req, mut respond| {
        let told = ["x-forwarded-for", "forwarded"].map(|name| req.headers().get(name).cloned());
        let rsp = told.into_iter().flatten().fold(Response::builder(), |rsp, value| rsp.header("told", value));
        respond.send_response(rsp.body(()).unwrap(), true).unwrap();
    })
    .await;
    let files = Files::new();
    let path = files.path("proxy.sock");
    for (field, said, expected) in [
        ("x-forwarded-for", "10.0.0.1", "10.0.0.1, unknown"),
        ("forwarded", "for=10.0.0.1", "for=10.0.0.1, for=unknown"),
    ] {
        let listen = format!("unix:{path}");
        let _app = App::start(addr, &[(LISTEN, &*listen), ("LINKERD2_PROXY_OUTBOUND_HTTP_FORWARDED", field)]);
        let req = Request::get("http://test.example/").header(field, said).body(()).unwrap();
        let mut client = connect(&path).await;
        let rsp = timeout(PATIENCE, client.send_request(req, true).unwrap().0).await.expect("an answer").unwrap();
        assert_eq!(rsp.headers()["told"], expected);
    }
}

#[tokio::test]
async fn endpoints_get_headers_without_an_address() {
    let files = Files::new();
    let path = files.path("proxy.sock");
    for (version, expected) in
        [("v1", &b"PROXY UNKNOWN\r\nGET / "[..]), ("v2", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0GET / ")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listen = format!("unix:{path}");
        let settings = [
            (LISTEN, &*listen),
            ("LINKERD2_PROXY_OUTBOUND_CONNECT_PROXY_PROTOCOL", version),
            ("LINKERD2_PROXY_OUTBOUND_CONNECT_PROTOCOL", "http1"),
            ("LINKERD2_PROXY_OUTBOUND_CONNECT_TIMEOUT", "1m"),
        ];
        let _app = App::start(listener.local_addr().unwrap(), &settings);
        let mut client = connect(&path).await;
        let (response, _) = client.send_request(get(), true).unwrap();
        let answered = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") || head.len() < expected.len() {
                assert!(stream.read_buf(&mut head).await.unwrap() > 0);
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            head
        };
        let (head, response) = timeout(PATIENCE, async { tokio::join!(answered, response) }).await.expect("an answer");
        assert_eq!(response.unwrap().status(), 204);
        assert!(head.starts_with(expected), "{}", head.escape_ascii());
    }
}

#[tokio::test]
async fn rates_are_of_clients_that_a_header_tells_of() {
    const REQUESTS: usize = 20;
    let files = Files::new();
    let path = files.path("proxy.sock");
    for (networks, header) in [(None, &[][..]), (Some((NETWORKS, "10.0.0.0/8")), V1)] {
        let settings: Vec<_> = [(RATE, "1")].into_iter().chain(networks).collect();
        let _app = start(&format!("unix:{path}"), &settings).await;
        let mut client = connect_after(&path, header).await;
        let responses: Vec<_> = (0..REQUESTS).map(|_| client.send_request(get(), true).unwrap().0).collect();
        let mut too_many = 0;
        for response in responses {
            let status = timeout(PATIENCE, response).await.expect("an answer").unwrap().status();
            too_many += usize::from(status == 429);
        }
        assert_eq!(too_many > 0, networks.is_some(), "{too_many}");
    }
}

#[tokio::test]
async fn connections_above_the_limit_are_closed() {
    let files = Files::new();
    let path = files.path("proxy.sock");
    let app = start(&format!("unix:{path}"), &[("LINKERD2_PROXY_OUTBOUND_MAX_CONNECTIONS", "1")]).await;
    let mut client = connect(&path).await;
    assert_eq!(answer(&mut client).await, b"answer");
    assert_eq!(sent(&path, &[]).await, "");
    app.counted("http2_connection_limit_total{direction=\"outbound\",limit=\"max_connections\"} 1").await;
}

#[tokio::test]
async fn a_listener_of_the_process_is_no_endpoint_by_another_path() {
    let files = Files::new();
    let (path, link) = (files.path("proxy.sock"), files.path("link"));
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let listen = format!("unix:{path}");
    let app = App::start_to(&format!("unix:{link}"), &[(LISTEN, &*listen)]);
    app.logged(&["endpoint cannot be reached", "it is a listener of this proxy"]).await;

    let mut check = command();
    let output = check.arg("check").env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", &listen).env(LISTEN, &listen).output();
    let stderr = String::from_utf8(output.unwrap().stderr).unwrap();
    let expected = format!("OUTBOUND_ENDPOINTS: has {listen}, the proxy's own listener");
    assert!(stderr.contains(&expected), "{stderr}");
}

#[tokio::test]
async fn the_admin_server_on_a_socket_takes_commands() {
    let files = Files::new();
    let [path, admin] = ["proxy.sock", "admin.sock"].map(|name| files.path(name));
    let mut app = start(&format!("unix:{path}"), &[(ADMIN, &format!("unix:{admin}"))]).await;
    let asked = |line: &str| format!("{line} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").into_bytes();
    assert!(sent(&admin, &asked("GET /live")).await.ends_with("live\n"));
    assert!(sent(&admin, &asked("POST /shutdown")).await.ends_with("draining\n"));
    assert!(app.ended().await.success());
    assert!(!Path::new(&path).exists() && !Path::new(&admin).exists());
}
