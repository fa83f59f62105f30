//! Endpoints that are Unix domain sockets.

use crate::{
    support::{App, PATIENCE, admin, command, connect, endpoint, get},
    tls::{
        answer, ask,
        pki::{Authority, Files},
        served,
    },
};
use bytes::Bytes;
use h2::{client::SendRequest, server};
use http::{Request, Response, StatusCode};
use std::{os::linux::net::SocketAddrExt as _, os::unix::net as std_net};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixListener, UnixStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// A request waits for the connection that is made for it, however busy the machine is.
const PATIENT: [(&str, &str); 2] =
    [("LINKERD2_PROXY_OUTBOUND_CONNECT_TIMEOUT", "1m"), ("LINKERD2_PROXY_OUTBOUND_HTTP_FAILFAST_TIMEOUT", "1m")];

/// Answers the requests of HTTP/2 on each connection with their authorities.
fn serve(listener: UnixListener) {
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = server::handshake(stream).await.unwrap();
                while let Some(Ok((req, mut respond))) = connection.accept().await {
                    let authority = req.uri().authority().unwrap().as_str();
                    let rsp = Response::builder().header("asked", authority).body(()).unwrap();
                    let _ = respond.send_response(rsp, true).map(|_: h2::SendStream<Bytes>| ());
                }
            });
        }
    });
}

/// The status of a response, and the authority that the endpoint was asked for.
async fn asked(client: &mut SendRequest<Bytes>, req: Request<()>) -> (StatusCode, Option<String>) {
    let (response, _) = client.send_request(req, true).unwrap();
    let response = timeout(PATIENCE, response).await.expect("it is answered").unwrap();
    let asked = response.headers().get("asked").map(|value| value.to_str().unwrap().to_owned());
    (response.status(), asked)
}

#[tokio::test]
async fn sockets_and_hosts_are_endpoints_of_one_list() {
    let files = Files::new();
    let path = files.path("a.sock");
    serve(UnixListener::bind(&path).unwrap());
    let (asked_tcp, mut tcp) = mpsc::unbounded_channel();
    let addr = endpoint(move |_, _, mut respond| {
        let _ = asked_tcp.send(());
        respond.send_response(Response::new(()), true).unwrap();
    })
    .await;
    let app = App::start_to(&format!("unix://{path},{addr}"), &PATIENT);
    let mut client = connect(app.proxy).await;
    let (mut by_unix, mut by_tcp) = (false, false);
    // Batches of requests go to one endpoint.
    while !(by_unix && by_tcp) {
        let (status, authority) = asked(&mut client, get()).await;
        assert_eq!(status, StatusCode::OK);
        by_unix |= authority.as_deref() == Some("test.example");
        by_tcp |= tcp.try_recv().is_ok();
    }
    app.counted(&format!("http_balancer_endpoint_connections{{direction=\"outbound\",endpoint=\"unix:{path}\"}} 2.0"))
        .await;
    for page in ["/destinations", "/connections"] {
        let (_, text) = admin(app.admin, "GET", page, "").await;
        assert!(text.contains(&format!("\"unix:{path}\"")), "{page}: {text}");
    }
    app.logged(&["listening", &format!("unix:{path},{addr}")]).await;
}

#[tokio::test]
async fn names_of_the_abstract_namespace_are_endpoints() {
    let name = format!("app-test-{}", std::process::id());
    let addr = std_net::SocketAddr::from_abstract_name(&name).unwrap();
    let listener = std_net::UnixListener::bind_addr(&addr).unwrap();
    listener.set_nonblocking(true).unwrap();
    serve(UnixListener::from_std(listener).unwrap());
    let app = App::start_to(&format!("unix:@{name}"), &PATIENT);
    let (status, authority) = asked(&mut connect(app.proxy).await, get()).await;
    assert_eq!((status, authority.as_deref()), (StatusCode::OK, Some("test.example")));
}

#[tokio::test]
async fn an_endpoint_of_http1_is_told_the_authority_of_the_client() {
    let files = Files::new();
    let path = files.path("a.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let settings = [
        ("LINKERD2_PROXY_OUTBOUND_CONNECT_PROTOCOL", "http1"),
        ("LINKERD2_PROXY_OUTBOUND_CONNECT_PROXY_PROTOCOL", "v1"),
    ];
    let app = App::start_to(&format!("unix:{path}"), &[&settings[..], &PATIENT].concat());
    let stream = TcpStream::connect(app.proxy).await.unwrap();
    let own = stream.local_addr().unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let (response, _) = client.send_request(get(), true).unwrap();
    let answered = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut head).await.unwrap() > 0);
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        String::from_utf8(head).unwrap()
    };
    let (head, response) = timeout(PATIENCE, async { tokio::join!(answered, response) }).await.expect("it is answered");
    assert_eq!(response.unwrap().status(), StatusCode::NO_CONTENT);
    let header = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nGET / HTTP/1.1\r\n", own.port(), app.proxy.port());
    assert!(head.starts_with(&header) && head.contains("host: test.example\r\n"), "{head}");
}

#[tokio::test]
async fn tls_over_a_socket_needs_a_name() {
    let (ca, files) = (Authority::new("endpoints"), Files::new());
    let (path, ca_path) = (files.path("a.sock"), files.write("ca.pem", &ca.pem()));
    let listener = UnixListener::bind(&path).unwrap();
    let acceptor = TlsAcceptor::from(Authority::server(&ca.issue(&["a.example"]), &["h2"], None));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move { answer(acceptor.accept(stream).await.unwrap()).await });
        }
    });
    let tls =
        [("LINKERD2_PROXY_OUTBOUND_CONNECT_TLS", "on"), ("LINKERD2_PROXY_OUTBOUND_CONNECT_TLS_CA", ca_path.as_str())];
    let named = [("LINKERD2_PROXY_OUTBOUND_CONNECT_TLS_SERVER_NAME", "a.example")];
    let app = App::start_to(&format!("unix:{path}"), &[&tls[..], &named, &PATIENT].concat());
    assert_eq!(ask(&mut connect(app.proxy).await, get()).await.unwrap(), served());

    let mut check = command();
    check.arg("check").env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", format!("unix:{path}")).envs(tls);
    let output = check.output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let expect =
        format!("OUTBOUND_CONNECT_TLS_SERVER_NAME: is not set, must be, since the endpoint unix:{path} has no host");
    assert!(stderr.contains(&expect), "{stderr}");
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_tried_again() {
    let files = Files::new();
    let path = files.path("a.sock");
    let app = App::start_to(&format!("unix:{path}"), &[("LINKERD2_PROXY_OUTBOUND_HTTP_FAILFAST_TIMEOUT", "1ms")]);
    app.logged(&["endpoint cannot be reached", &format!("unix:{path}"), "No such file"]).await;
    let mut client = connect(app.proxy).await;
    assert_eq!(asked(&mut client, get()).await.0, StatusCode::BAD_GATEWAY);
    serve(UnixListener::bind(&path).unwrap());
    let served = async { while asked(&mut client, get()).await.0 != StatusCode::OK {} };
    timeout(PATIENCE, served).await.expect("it is found");
}

#[tokio::test]
async fn a_full_queue_is_waited_out() {
    let files = Files::new();
    let path = files.path("a.sock");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    // The queue has room for one connection.
    socket.listen(0).unwrap();
    socket.set_nonblocking(true).unwrap();
    let held = UnixStream::connect(&path).await.unwrap();
    let app = App::start_to(&format!("unix:{path}"), &PATIENT);
    let mut client = connect(app.proxy).await;
    let (response, _) = client.send_request(get(), true).unwrap();
    app.counted("http_balancer_queue_length{direction=\"outbound\"} 1").await;
    let listener = UnixListener::from_std(socket.into()).unwrap();
    drop(held);
    listener.accept().await.unwrap();
    serve(listener);
    assert_eq!(timeout(PATIENCE, response).await.expect("it is answered").unwrap().status(), StatusCode::OK);
    assert!(!app.log().iter().any(|line| line.contains("cannot be reached")), "{:?}", app.log());
}

#[tokio::test]
async fn back_ends_of_routes_may_be_sockets() {
    let files = Files::new();
    let path = files.path("a.sock");
    serve(UnixListener::bind(&path).unwrap());
    let text = format!(
        "backends:\n  a:\n    endpoints:\n    - unix:{path}\nroutes:\n- rules:\n  - backendRefs:\n    - name: a\n"
    );
    let routes = files.write("routes.yaml", &text);
    let app = App::start_to("", &[&[("LINKERD2_PROXY_OUTBOUND_ROUTES", &*routes)][..], &PATIENT].concat());
    let (status, authority) = asked(&mut connect(app.proxy).await, get()).await;
    assert_eq!((status, authority.as_deref()), (StatusCode::OK, Some("test.example")));
    let (_, text) = admin(app.admin, "GET", "/destinations", "").await;
    assert!(text.contains(&format!("\"unix:{path}\"")), "{text}");
}
