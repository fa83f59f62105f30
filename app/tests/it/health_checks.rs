//! Health checks of endpoints, over real sockets.

use crate::support::{App, PATIENCE, admin, connect, endpoint};
use bytes::Bytes;
use h2::{RecvStream, client, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::{sleep, timeout},
};

const CHECK: &str = "LINKERD2_PROXY_OUTBOUND_HEALTH_CHECK";
const FAST: [(&str, &str); 3] = [
    ("LINKERD2_PROXY_OUTBOUND_HEALTH_CHECK_INTERVAL", "20ms"),
    ("LINKERD2_PROXY_OUTBOUND_HEALTH_CHECK_TIMEOUT", "10s"),
    ("LINKERD2_PROXY_OUTBOUND_HTTP_FAILFAST_TIMEOUT", "1ms"),
];

/// How a health service answers.
#[derive(Clone, Copy, Debug)]
enum Health {
    /// With this `ServingStatus`.
    Status(u8),
    /// With trailers alone, and this `grpc-status`.
    Refused(&'static str),
    /// With a message that is none of its own.
    Malformed,
    /// With this status of HTTP.
    Http(u16),
}

/// The head and the message of a check.
type Asked = (Request<()>, Vec<u8>);

/// An endpoint of gRPC with a health service.
#[derive(Clone)]
struct Service {
    health: Arc<Mutex<Health>>,
    checks: Arc<Mutex<Vec<Asked>>>,
    requests: Arc<AtomicUsize>,
}

impl Service {
    async fn start(health: Health) -> (SocketAddr, Self) {
        let service = Self { health: Arc::new(Mutex::new(health)), checks: Arc::default(), requests: Arc::default() };
        let shared = service.clone();
        let addr = endpoint(move |_, req, respond| drop(tokio::spawn(shared.clone().answer(req, respond)))).await;
        (addr, service)
    }

    fn set(&self, health: Health) {
        *self.health.lock().unwrap() = health;
    }

    fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }

    async fn answer(self, req: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let (head, mut body) = req.into_parts();
        if head.uri.path() != "/grpc.health.v1.Health/Check" {
            self.requests.fetch_add(1, Relaxed);
            let _ = respond.send_response(Response::new(()), true);
            return;
        }
        let mut message = Vec::new();
        while let Some(Ok(data)) = body.data().await {
            message.extend_from_slice(&data);
        }
        self.checks.lock().unwrap().push((Request::from_parts(head, ()), message));
        let response = Response::builder().header("content-type", "application/grpc");
        let message = match *self.health.lock().unwrap() {
            Health::Status(0) => Bytes::from_static(b"\0\0\0\0\0"),
            Health::Status(status) => Bytes::from(vec![0, 0, 0, 0, 2, 8, status]),
            Health::Malformed => Bytes::from_static(b"\0\0\0\0\x02\x08"),
            Health::Refused(status) => {
                let _ = respond.send_response(response.header("grpc-status", status).body(()).unwrap(), true);
                return;
            }
            Health::Http(status) => {
                let _ = respond.send_response(Response::builder().status(status).body(()).unwrap(), true);
                return;
            }
        };
        let Ok(mut send) = respond.send_response(response.body(()).unwrap(), false) else { return };
        let _ = send.send_data(message, false);
        let _ = send.send_trailers(HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        )]));
    }
}

fn start(endpoints: &str, check: &str, settings: &[(&str, &str)]) -> App {
    App::start_to(endpoints, &[&[(CHECK, check)], &FAST[..], settings].concat())
}

async fn ready(app: &App, status: u16) {
    let ready = async {
        while admin(app.admin, "GET", "/ready", "").await.0 != status {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, ready).await.unwrap_or_else(|_| panic!("not {status}: {:?}", app.log()));
}

async fn ask(client: &mut client::SendRequest<Bytes>) -> u16 {
    poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
    let request = Request::get("http://test.example/").body(()).unwrap();
    client.send_request(request, true).unwrap().0.await.unwrap().status().as_u16()
}

#[tokio::test]
async fn all_but_serving_is_unhealthy_and_the_log_says_why() {
    let (addr, service) = Service::start(Health::Status(1)).await;
    let thresholds = [
        ("LINKERD2_PROXY_OUTBOUND_HEALTH_CHECK_UNHEALTHY_THRESHOLD", "1"),
        ("LINKERD2_PROXY_OUTBOUND_HEALTH_CHECK_HEALTHY_THRESHOLD", "1"),
    ];
    let app = start(&addr.to_string(), "grpc:shop.Cart", &thresholds);
    ready(&app, 200).await;
    let mut client = connect(app.proxy).await;
    for (health, text) in [
        (Health::Status(2), "the service is NOT_SERVING"),
        (Health::Status(0), "the service is UNKNOWN"),
        (Health::Status(3), "the service is SERVICE_UNKNOWN"),
        (Health::Status(9), "the service has the unknown status 9"),
        (Health::Refused("12"), "does not implement grpc.health.v1.Health (grpc-status 12): register the service"),
        (Health::Refused("5"), "the endpoint does not know the service (grpc-status 5)"),
        (Health::Refused("14"), "the response has grpc-status 14"),
        (Health::Malformed, "the response is no HealthCheckResponse"),
        (Health::Http(404), "the response has status 404 Not Found"),
    ] {
        service.set(health);
        let line = app.logged(&["endpoint is unhealthy", &addr.to_string(), text]).await;
        assert!(line.contains("WARN"), "{line}");
        // An endpoint is ready as long as one worker has not heard of it.
        app.counted("http_balancer_endpoints{direction=\"outbound\",endpoint_state=\"unhealthy\"} 1").await;
        ready(&app, 503).await;
        let before = service.requests();
        assert_eq!((ask(&mut client).await, service.requests()), (503, before), "{health:?}");
        let (_, page) = admin(app.admin, "GET", "/destinations", "").await;
        assert!(page.contains(text) && page.contains("\"state\": \"unhealthy\""), "{page}");
        let (_, page) = admin(app.admin, "GET", "/destinations?format=text", "").await;
        assert!(page.contains(text) && page.contains("  unhealthy  "), "{page}");
        service.set(Health::Status(1));
        ready(&app, 200).await;
        assert_eq!(ask(&mut client).await, 200);
    }
    // One line for each change.
    let unhealthy = app.log().iter().filter(|line| line.contains("endpoint is unhealthy")).count();
    assert_eq!(unhealthy, 9);
    let (head, message) = service.checks.lock().unwrap()[0].clone();
    assert_eq!((head.method().as_str(), head.uri().authority().unwrap().as_str()), ("POST", &*addr.to_string()));
    assert_eq!(head.headers()["content-type"], "application/grpc");
    assert_eq!(
        (&head.headers()["te"], &head.headers()["grpc-timeout"]),
        (&"trailers".parse().unwrap(), &"10000m".parse().unwrap())
    );
    assert_eq!(message, b"\0\0\0\0\x0b\x0a\x09shop.Cart");
}

#[tokio::test]
async fn the_others_get_the_requests_of_an_unhealthy_endpoint() {
    let ((first, service), (second, other)) =
        (Service::start(Health::Status(1)).await, Service::start(Health::Status(1)).await);
    let app = start(&format!("{first},{second}"), "grpc", &[]);
    let state =
        |addr, healthy| format!("http_health_check_healthy{{direction=\"outbound\",endpoint=\"{addr}\"}} {healthy}");
    for addr in [first, second] {
        app.counted(&state(addr, 1)).await;
    }
    ready(&app, 200).await;
    let mut client = connect(app.proxy).await;
    service.set(Health::Status(2));
    app.counted(&state(first, 0)).await;
    app.counted("http_balancer_endpoints{direction=\"outbound\",endpoint_state=\"unhealthy\"} 1").await;
    let (before, others) = (service.requests(), other.requests());
    for _ in 0..100 {
        assert_eq!(ask(&mut client).await, 200);
    }
    assert_eq!((service.requests(), other.requests()), (before, others + 100));
    service.set(Health::Status(1));
    app.counted(&state(first, 1)).await;
    let (_, metrics) = admin(app.admin, "GET", "/metrics", "").await;
    let value = |addr: SocketAddr, result: &str| -> usize {
        let labels = format!("direction=\"outbound\",endpoint=\"{addr}\",result=\"{result}\"");
        let line = format!("http_health_checks_total{{{labels}}} ");
        metrics
            .lines()
            .find_map(|found| found.strip_prefix(&line))
            .unwrap_or_else(|| panic!("{metrics}"))
            .parse()
            .unwrap()
    };
    assert!(value(first, "failure") >= 3 && value(second, "failure") == 0 && value(second, "success") > 0);
    // Each endpoint is checked once, not once by each worker: its checks are some of 20 ms apart.
    assert!(service.checks.lock().unwrap().len() >= value(first, "failure") + value(first, "success"));
}

/// An endpoint of HTTP/1.1 that answers each connection's first request with `status`, and its PROXY protocol header if any.
async fn http1_endpoint(status: Arc<AtomicUsize>, heads: Arc<Mutex<Vec<String>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (status, heads) = (Arc::clone(&status), Arc::clone(&heads));
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                heads.lock().unwrap().push(String::from_utf8(head).unwrap());
                let response = format!("HTTP/1.1 {} Status\r\ncontent-length: 2\r\n\r\nok", status.load(Relaxed));
                let _ = stream.write_all(response.as_bytes()).await;
                let _ = stream.read_u8().await;
            });
        }
    });
    addr
}

#[tokio::test]
async fn a_get_in_http1_is_expected_to_succeed() {
    let (status, heads) = (Arc::new(AtomicUsize::new(200)), Arc::<Mutex<Vec<String>>>::default());
    let addr = http1_endpoint(Arc::clone(&status), Arc::clone(&heads)).await;
    let protocol = ("LINKERD2_PROXY_OUTBOUND_CONNECT_PROTOCOL", "http1");
    let app = start(&format!("localhost:{}", addr.port()), "http:/healthz?deep=1", &[protocol]);
    ready(&app, 200).await;
    assert_eq!(ask(&mut connect(app.proxy).await).await, 200);
    let head = heads.lock().unwrap()[0].to_ascii_lowercase();
    assert!(head.starts_with("get /healthz?deep=1 http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nhost: localhost:{}\r\n", addr.port())), "{head}");
    for code in [503, 302] {
        status.store(code, Relaxed);
        ready(&app, 503).await;
        app.logged(&["endpoint is unhealthy", &format!("the response has status {code}")]).await;
        status.store(299, Relaxed);
        ready(&app, 200).await;
    }
}

#[tokio::test]
async fn a_check_begins_with_the_header_of_no_client() {
    let (status, heads) = (Arc::new(AtomicUsize::new(200)), Arc::<Mutex<Vec<String>>>::default());
    let addr = http1_endpoint(status, Arc::clone(&heads)).await;
    let settings = [
        ("LINKERD2_PROXY_OUTBOUND_CONNECT_PROTOCOL", "http1"),
        ("LINKERD2_PROXY_OUTBOUND_CONNECT_PROXY_PROTOCOL", "v1"),
    ];
    let app = start(&addr.to_string(), "http:/healthz", &settings);
    ready(&app, 200).await;
    let mut client = connect(app.proxy).await;
    assert_eq!(ask(&mut client).await, 200);
    let heads = heads.lock().unwrap().clone();
    assert!(heads[0].starts_with("PROXY UNKNOWN\r\nGET /healthz HTTP/1.1\r\n"), "{heads:?}");
    assert!(heads.iter().any(|head| head.starts_with("PROXY TCP4 127.0.0.1 ")), "{heads:?}");
}
