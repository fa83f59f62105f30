//! Destinations by Linkerd's control plane, of which a mock sends each message of the API.

mod control;
mod mock;
mod profile;
mod protocol;

use self::mock::{Asked, Mock, weighted};
use crate::{
    destinations::{ask, call, endpoint, endpoint_on, get},
    support::{self, App, PATIENCE, admin, connect},
};
use bytes::Bytes;
use h2::client::SendRequest;
use linkerd2_proxy_api::destination::{
    AuthorityOverride, Http2ClientParams, TlsIdentity, Update, WeightedAddr,
    http2_client_params::{FlowControl, Internals},
    tls_identity::{DnsLikeIdentity, Strategy},
};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tonic::Status;

const NETWORKS: &str = "LINKERD2_PROXY_OUTBOUND_DISCOVERY_NETWORKS";
const SUFFIXES: &str = "LINKERD2_PROXY_OUTBOUND_DISCOVERY_SUFFIXES";
const IDLE: &str = "LINKERD2_PROXY_OUTBOUND_DISCOVERY_IDLE_TIMEOUT";
const PLAINTEXT: &str = "LINKERD2_PROXY_DESTINATION_ALLOW_PLAINTEXT";
const INITIAL_TIMEOUT: &str = "LINKERD2_PROXY_CONTROL_STREAM_INITIAL_TIMEOUT";
const IDLE_TIMEOUT: &str = "LINKERD2_PROXY_CONTROL_STREAM_IDLE_TIMEOUT";

/// A proxy that asks a control plane, and a client of it.
struct Rig {
    app: App,
    client: SendRequest<Bytes>,
}

impl Rig {
    async fn start(control: SocketAddr, settings: &[(&str, &str)]) -> Self {
        let control = control.to_string();
        let mut all = vec![
            ("LINKERD2_PROXY_OUTBOUND_DISCOVERY", "linkerd"),
            ("LINKERD2_PROXY_DESTINATION_SVC_ADDR", &*control),
            ("LINKERD2_PROXY_DESTINATION_CONTEXT", r#"{"ns":"shop"}"#),
            ("LINKERD2_PROXY_OUTBOUND_CONNECT_EXP_BACKOFF_MIN", "10ms"),
            ("LINKERD2_PROXY_OUTBOUND_CONNECT_EXP_BACKOFF_MAX", "20ms"),
            ("LINKERD2_PROXY_OUTBOUND_SLOW_START", "0"),
            // Requests wait for answers of the control plane, not the other way round.
            ("LINKERD2_PROXY_OUTBOUND_HTTP_FAILFAST_TIMEOUT", "30s"),
            // Of several workers each has connections of its own.
            ("LINKERD2_PROXY_CORES", "1"),
            (IDLE, "1h"),
        ];
        all.extend(settings);
        let app = App::start_to("", &all);
        let client = connect(app.proxy).await;
        Self { app, client }
    }

    /// Sends a request, whose answer may have to wait.
    fn send(&self, uri: &str) -> JoinHandle<(u16, String)> {
        let (mut client, req) = (self.client.clone(), get(uri));
        tokio::spawn(async move { ask(&mut client, req).await })
    }

    async fn ask(&self, uri: &str) -> (u16, String) {
        timeout(PATIENCE, self.send(uri)).await.expect("it is answered").unwrap()
    }

    /// Asks until the answer is this one: updates take a moment.
    async fn until(&self, uri: &str, status: u16, by: &str) {
        let mut last = Default::default();
        let found = async {
            loop {
                last = self.ask(uri).await;
                if last.0 == status && last.1.contains(by) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        assert!(timeout(PATIENCE, found).await.is_ok(), "{last:?}, not {status} {by}");
    }

    /// Asks until ten answers in a row are of one endpoint.
    async fn only(&self, uri: &str, by: &str) {
        let expected = answered(200, by);
        let found = async {
            let mut in_a_row = 0;
            while in_a_row < 10 {
                in_a_row = if self.ask(uri).await == expected { in_a_row + 1 } else { 0 };
            }
        };
        assert!(timeout(PATIENCE, found).await.is_ok(), "not only {by}");
    }

    /// Waits until this many updates have come.
    async fn updated(&self, count: u64) {
        self.app.counted(&format!("control_destination_updates_total {count}")).await;
    }

    /// Waits until a destination has so many streams.
    async fn streams(&self, destination: &str, count: u64) {
        let labels = format!("direction=\"outbound\",destination=\"{destination}\"");
        self.app.counted(&format!("control_destination_streams{{{labels}}} {count}")).await;
    }

    async fn connections(&self) -> u64 {
        let page = admin(self.app.admin, "GET", "/metrics", "").await.1;
        let line = page.lines().find(|line| line.starts_with("tcp_open_total{") && line.contains("peer=\"dst\""));
        line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
    }
}

fn answered(status: u16, by: &str) -> (u16, String) {
    (status, by.to_owned())
}

fn identified(addr: SocketAddr) -> WeightedAddr {
    let name = "web.shop.serviceaccount.identity.linkerd.cluster.local".to_owned();
    let strategy = Some(Strategy::DnsLikeIdentity(DnsLikeIdentity { name }));
    WeightedAddr { tls_identity: Some(TlsIdentity { strategy, server_name: None }), ..weighted(addr) }
}

const WEB: &str = "http://web.example:8080/";

/// The first request to a destination, and the control plane's question for it.
async fn first(rig: &Rig, mock: &Mock, uri: &str) -> (JoinHandle<(u16, String)>, Asked<Update>) {
    let sent = rig.send(uri);
    (sent, mock.asked().await)
}

#[tokio::test]
async fn endpoints_are_added_and_removed_as_the_control_plane_says() {
    let mock = Mock::start().await;
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let rig = Rig::start(mock.addr, &[]).await;
    let (sent, asked) = first(&rig, &mock, WEB).await;
    assert_eq!((asked.path(), &*asked.question.scheme), ("web.example:8080", ""));
    assert_eq!(asked.question.context_token, r#"{"ns":"shop"}"#);
    // It has been waiting for the answer.
    asked.add([weighted(a)]);
    assert_eq!(sent.await.unwrap(), answered(200, "a"));
    rig.streams("web.example:8080", 1).await;
    // An endpoint that is added twice, or removed while absent, does no harm.
    asked.add([weighted(a)]);
    asked.remove(&[b]);
    asked.add([weighted(b), weighted(a), weighted(b)]);
    asked.remove(&[a]);
    asked.remove(&[a]);
    rig.only(WEB, "b").await;
    rig.updated(6).await;
    let none = "the control plane has no endpoints of web.example:8080";
    asked.remove(&[b]);
    rig.until(WEB, 503, none).await;
    asked.add([weighted(a)]);
    rig.until(WEB, 200, "a").await;
    asked.no_endpoints(true);
    rig.until(WEB, 503, none).await;
    asked.add([weighted(b)]);
    rig.until(WEB, 200, "b").await;
    // All of it on one stream, the same for a name that is written in another way.
    assert_eq!(rig.ask("http://WEB.example.:8080/").await, answered(200, "b"));
    assert!(mock.was_asked().await.is_none());
}

#[tokio::test]
async fn labels_and_weights_change_on_the_connections_that_are_there() {
    let mock = Mock::start().await;
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let rig = Rig::start(mock.addr, &[]).await;
    let (sent, asked) = first(&rig, &mock, WEB).await;
    let weight = |addr, weight| WeightedAddr { weight, ..weighted(addr) };
    asked.add_labelled([weight(a, 1), weight(b, 1)], &[("service", "web")]);
    assert_eq!(sent.await.unwrap().0, 200);
    for by in ["a", "b"] {
        rig.until(WEB, 200, by).await;
    }
    let connections = rig.connections().await;
    let mut of_a = weight(a, 3);
    of_a.metric_labels.insert("pod".to_owned(), "a-1".to_owned());
    asked.add_labelled([of_a, weight(b, 1)], &[("service", "web2")]);
    rig.updated(2).await;
    // A half before.
    let mut by_a = 0;
    for _ in 0..400 {
        by_a += u32::from(rig.ask(WEB).await == answered(200, "a"));
    }
    assert!((230..=370).contains(&by_a), "{by_a}");
    assert_eq!(rig.connections().await, connections);
    // The address's labels stand beside the set's.
    let labels = format!("direction=\"outbound\",endpoint=\"{a}\",dst_pod=\"a-1\",dst_service=\"web2\"");
    rig.app.counted(&format!("http_balancer_endpoint_streams{{{labels}}} 0.0")).await;
}

#[tokio::test]
async fn an_endpoint_of_weight_zero_gets_nothing_unless_all_have_it() {
    let mock = Mock::start().await;
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let rig = Rig::start(mock.addr, &[]).await;
    let (sent, asked) = first(&rig, &mock, WEB).await;
    asked.add([WeightedAddr { weight: 0, ..weighted(a) }, WeightedAddr { weight: 10_000, ..weighted(b) }]);
    assert_eq!(sent.await.unwrap(), answered(200, "b"));
    for _ in 0..20 {
        assert_eq!(rig.ask(WEB).await, answered(200, "b"));
    }
    asked.add([WeightedAddr { weight: 0, ..weighted(b) }]);
    for by in ["a", "b"] {
        rig.until(WEB, 200, by).await;
    }
}

#[tokio::test]
async fn a_destination_that_does_not_exist_is_looked_up_where_that_is_allowed() {
    let mock = Mock::start().await;
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let rig = Rig::start(mock.addr, &[(SUFFIXES, "localhost")]).await;
    let uri = format!("http://localhost:{}/", a.port());
    let (sent, asked) = first(&rig, &mock, &uri).await;
    asked.no_endpoints(false);
    assert_eq!(sent.await.unwrap(), answered(200, "a"));
    // It exists from now on, and then it does not again.
    asked.add([weighted(b)]);
    rig.until(&uri, 200, "b").await;
    asked.no_endpoints(false);
    rig.until(&uri, 200, "a").await;
    // Other hosts are reached only if the control plane knows them.
    let (sent, asked) = first(&rig, &mock, WEB).await;
    asked.no_endpoints(false);
    assert_eq!(sent.await.unwrap(), answered(403, "the destination is not allowed"));
    let mut client = rig.client.clone();
    assert_eq!(ask(&mut client, call("http://web.example:8080/a.B/C")).await, answered(200, "grpc-status 7"));
    asked.add([weighted(b)]);
    rig.until(WEB, 200, "b").await;
}

#[tokio::test]
async fn what_the_control_plane_rejects_is_not_asked_again() {
    let mock = Mock::start().await;
    let a = endpoint("a").await;
    let rig = Rig::start(mock.addr, &[(NETWORKS, "127.0.0.0/8")]).await;
    for (uri, status, expected) in [
        (format!("http://{a}/"), Status::invalid_argument("IP queries not supported"), answered(200, "a")),
        ("http://10.0.0.1/".to_owned(), Status::invalid_argument(""), answered(403, "the destination is not allowed")),
        (WEB.to_owned(), Status::failed_precondition(""), answered(403, "the destination is not allowed")),
    ] {
        let (sent, asked) = first(&rig, &mock, &uri).await;
        asked.reject(status);
        assert_eq!(sent.await.unwrap(), expected, "{uri}");
        assert_eq!(rig.ask(&uri).await, expected, "{uri}");
    }
    rig.app.counted("control_destination_stream_ends_total{grpc_status=\"INVALID_ARGUMENT\"} 2").await;
    assert!(mock.was_asked().await.is_none());
}

#[tokio::test]
async fn other_errors_are_asked_again() {
    let mock = Mock::start().await;
    let a = endpoint("a").await;
    let rig = Rig::start(mock.addr, &[]).await;
    let (sent, mut asked) = first(&rig, &mock, WEB).await;
    for status in [Status::not_found(""), Status::unavailable(""), Status::internal(""), Status::ok("")] {
        asked.reject(status);
        asked = mock.asked().await;
        assert_eq!(asked.path(), "web.example:8080");
    }
    asked.add([weighted(a)]);
    assert_eq!(sent.await.unwrap(), answered(200, "a"));
    // With endpoints that are known it is the same, and they stay.
    asked.reject(Status::not_found(""));
    asked = mock.asked().await;
    assert_eq!(rig.ask(WEB).await, answered(200, "a"));
    asked.no_endpoints(true);
    rig.until(WEB, 503, "no endpoints").await;
}

#[tokio::test]
async fn identities_that_cannot_be_verified_get_no_requests_unless_plain_text_is_allowed() {
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    for allowed in ["false", "true"] {
        let mock = Mock::start().await;
        let rig = Rig::start(mock.addr, &[(PLAINTEXT, allowed)]).await;
        let (sent, asked) = first(&rig, &mock, WEB).await;
        asked.add([identified(a)]);
        let (status, by) = sent.await.unwrap();
        if allowed == "true" {
            assert_eq!((status, &*by), (200, "a"));
            continue;
        }
        assert!(status == 503 && by.contains("TLS identity") && by.contains("DESTINATION_ALLOW_PLAINTEXT"), "{by}");
        rig.app.logged(&["TLS identity", "web.example:8080"]).await;
        asked.add([weighted(b)]);
        for _ in 0..10 {
            rig.until(WEB, 200, "b").await;
        }
    }
}

#[tokio::test]
async fn endpoints_have_ipv6_addresses_as_well() {
    let mock = Mock::start().await;
    let a = endpoint_on("[::1]:0", "a").await;
    let rig = Rig::start(mock.addr, &[]).await;
    let (sent, asked) = first(&rig, &mock, WEB).await;
    asked.add([weighted(a)]);
    assert_eq!(sent.await.unwrap(), answered(200, "a"));
}

/// Accepts connections until one has SETTINGS that are as they should be: others may have been made before.
async fn accept_with(listener: &TcpListener, expected: impl Fn(&[(u16, u32)]) -> bool) {
    let mut seen = Vec::new();
    let accepted = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // The preface and a frame's head (RFC 9113 section 3.4).
            let mut head = [0; 24 + 9];
            if stream.read_exact(&mut head).await.is_err() {
                continue;
            }
            let mut payload = vec![0; usize::from(head[26])];
            if stream.read_exact(&mut payload).await.is_err() {
                continue;
            }
            let setting = |bytes: &[u8]| {
                let value = u32::from_be_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
                (u16::from_be_bytes([bytes[0], bytes[1]]), value)
            };
            let settings: Vec<_> = payload.chunks(6).map(setting).collect();
            if expected(&settings) {
                return;
            }
            seen.push(settings);
        }
    };
    assert!(timeout(PATIENCE, accepted).await.is_ok(), "{seen:?}");
}

#[tokio::test]
async fn parameters_of_http2_are_those_of_the_endpoints_connections() {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    const MAX_FRAME_SIZE: u16 = 5;
    let mock = Mock::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let rig = Rig::start(mock.addr, &[]).await;
    let (_sent, asked) = first(&rig, &mock, WEB).await;
    let with = |window: u32, max_frame_size: u32| {
        let flow_control = Some(FlowControl {
            initial_stream_window_size: window,
            initial_connection_window_size: 2 * window,
            adaptive_flow_control: false,
        });
        let internals = Some(Internals { max_frame_size, ..Internals::default() });
        let http2 = Some(Http2ClientParams { flow_control, keep_alive: None, internals });
        WeightedAddr { http2, ..weighted(addr) }
    };
    for (window, max_frame_size) in [(123_456, 20_000), (234_567, 30_000)] {
        asked.add([with(window, max_frame_size)]);
        let expected = [(INITIAL_WINDOW_SIZE, window), (MAX_FRAME_SIZE, max_frame_size)];
        accept_with(&listener, |settings| expected.iter().all(|setting| settings.contains(setting))).await;
    }
    // HTTP/2 has no frames of this size, so it is as without parameters.
    asked.add([with(345_678, 4)]);
    let expected = (INITIAL_WINDOW_SIZE, 65_535);
    accept_with(&listener, |settings| settings.contains(&expected) || settings.iter().all(|one| one.0 != expected.0))
        .await;
    rig.app.logged(&["HTTP/2 params of an endpoint are wrong", &addr.to_string()]).await;
}

/// An endpoint of HTTP/2 that answers with the authority that it was sent.
async fn authority_endpoint() -> SocketAddr {
    support::endpoint(|_, req, mut respond| {
        let sent = format!("{} {:?}", req.uri().authority().unwrap(), req.headers().get("host"));
        let rsp = http::Response::builder().header("back-end", sent).body(()).unwrap();
        respond.send_response(rsp, true).unwrap();
    })
    .await
}

#[tokio::test]
async fn requests_have_the_authority_that_their_endpoint_is_to_see() {
    let mock = Mock::start().await;
    let a = authority_endpoint().await;
    let rig = Rig::start(mock.addr, &[]).await;
    let (sent, asked) = first(&rig, &mock, WEB).await;
    let with = |addr, authority: &str| {
        let authority_override = Some(AuthorityOverride { authority_override: authority.to_owned() });
        WeightedAddr { authority_override, ..weighted(addr) }
    };
    asked.add([with(a, "web.west.example:8080")]);
    assert_eq!(sent.await.unwrap(), answered(200, "web.west.example:8080 None"));
    for wrong in ["a b", "user@web.west.example", ""] {
        asked.add([with(a, "web.east.example")]);
        rig.until(WEB, 200, "web.east.example None").await;
        asked.add([with(a, wrong)]);
        rig.until(WEB, 200, "web.example:8080 None").await;
    }
    // HTTP/1.1 has it in `host`.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut http1 = TcpStream::connect(rig.app.proxy).await.unwrap();
    http1.write_all(b"GET /path HTTP/1.1\r\nhost: other.example:8080\r\n\r\n").await.unwrap();
    let asked = mock.asked().await;
    asked.add([with(listener.local_addr().unwrap(), "web.east.example")]);
    let head = timeout(PATIENCE, async {
        loop {
            // Connections of HTTP/2 are made as well.
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n")
                && !head.starts_with(b"PRI")
                && stream.read_buf(&mut head).await.unwrap() > 0
            {}
            let head = String::from_utf8_lossy(&head).into_owned();
            if head.starts_with("GET") {
                return head;
            }
        }
    });
    let head = head.await.unwrap();
    assert!(head.starts_with("GET /path HTTP/1.1\r\n") && head.contains("host: web.east.example\r\n"), "{head}");
}

#[tokio::test]
async fn the_proxys_own_listeners_are_no_endpoints() {
    let mock = Mock::start().await;
    let rig = Rig::start(mock.addr, &[("LINKERD2_PROXY_OUTBOUND_HTTP_FAILFAST_TIMEOUT", "100ms")]).await;
    let (sent, asked) = first(&rig, &mock, WEB).await;
    asked.add([weighted(rig.app.admin), weighted(rig.app.proxy)]);
    let (status, by) = sent.await.unwrap();
    assert!(status == 502 && by.contains("listener of this proxy"), "{status} {by}");
}
