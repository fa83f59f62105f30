//! One proxy for many services: by the routes of a file, and by the authorities of requests.

use crate::support::{App, PATIENCE, admin, connect, serve};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response};
use std::{
    collections::BTreeMap,
    env, fs,
    future::poll_fn,
    net::SocketAddr,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

mod labels;
mod page;
mod rates;

const ROUTES: &str = "LINKERD2_PROXY_OUTBOUND_ROUTES";
const DISCOVERY: &str = "LINKERD2_PROXY_OUTBOUND_DISCOVERY";
const IDLE: &str = "LINKERD2_PROXY_OUTBOUND_DISCOVERY_IDLE_TIMEOUT";
const NETWORKS: &str = "LINKERD2_PROXY_OUTBOUND_DISCOVERY_NETWORKS";
const SUFFIXES: &str = "LINKERD2_PROXY_OUTBOUND_DISCOVERY_SUFFIXES";

/// A file of routes, removed with the value.
struct File(PathBuf);

impl File {
    fn new(text: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("app-routes-{}-{}.yaml", process::id(), NUMBER.fetch_add(1, Relaxed));
        let file = Self(env::temp_dir().join(name));
        file.write(text);
        file
    }

    /// Replaces the file, of which a reader never sees a part.
    fn write(&self, text: &str) {
        let new = self.0.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &self.0).unwrap();
    }

    fn start(&self) -> App {
        App::start_to("", &[(ROUTES, self.path().to_str().unwrap())])
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// An endpoint of HTTP/2 that answers with its name.
pub(crate) async fn endpoint(name: &'static str) -> SocketAddr {
    endpoint_on("127.0.0.1:0", name).await
}

pub(crate) async fn endpoint_on(addr: &str, name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(addr).await.unwrap();
    serve(listener, move |_, req, mut respond| {
        // Never answered.
        if req.uri().path() == "/wait" {
            tokio::spawn(async move { poll_fn(|cx| respond.poll_reset(cx)).await });
        } else {
            let rsp = Response::builder().header("back-end", name).body(()).unwrap();
            respond.send_response(rsp, true).unwrap();
        }
    })
    .await
}

/// The same of HTTP/1.1.
pub(crate) async fn http1_endpoint(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        let rsp = format!("HTTP/1.1 200 OK\r\nback-end: {name}\r\ncontent-length: 0\r\n\r\n");
                        stream.write_all(rsp.as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    addr
}

/// The status of a response, and the name of the back end that it is from.
pub(crate) async fn ask(client: &mut SendRequest<Bytes>, req: Request<()>) -> (u16, String) {
    poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
    let rsp = client.send_request(req, true).unwrap().0.await.unwrap();
    let field = |name| rsp.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let grpc = field("grpc-status").map(|status| format!("grpc-status {status}"));
    (rsp.status().as_u16(), field("back-end").or(grpc).or(field("proxy-error")).unwrap_or_default())
}

pub(crate) fn get(uri: &str) -> Request<()> {
    Request::get(uri).body(()).unwrap()
}

pub(crate) fn call(uri: &str) -> Request<()> {
    Request::post(uri).header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

#[tokio::test]
async fn three_services_are_reached_by_their_routes() {
    let (shop, orders, prices) = (http1_endpoint("shop").await, endpoint("orders").await, endpoint("prices").await);
    let file = File::new(&format!(
        "
         backends:
           shop: {{endpoints: ['{shop}'], protocol: http1}}
           orders: {{endpoints: ['{orders}']}}
           prices: {{endpoints: ['{prices}']}}
         routes:
           - hostnames: [shop.example]
             rules:
               - backendRefs: [{{name: shop}}]
               - matches: [{{path: {{type: PathPrefix, value: /prices}}}}]
                 backendRefs: [{{name: prices}}]
               - matches: [{{path: {{type: Exact, value: /wait}}}}]
                 timeouts: {{request: 50ms}}
                 backendRefs: [{{name: prices}}]
               - matches: [{{path: {{type: Exact, value: /none}}}}]
                 backendRefs: [{{name: prices, weight: 0}}]
           - rules:
               - matches: [{{method: {{service: shop.Orders}}}}]
                 backendRefs: [{{name: orders}}]"
    ));
    let app = file.start();
    let mut client = connect(app.proxy).await;
    let answered = |status: u16, by: &str| (status, by.to_owned());
    assert_eq!(ask(&mut client, get("http://shop.example/")).await, answered(200, "shop"));
    assert_eq!(ask(&mut client, get("http://shop.example:8080/prices/1")).await, answered(200, "prices"));
    assert_eq!(ask(&mut client, call("http://any.example/shop.Orders/List")).await, answered(200, "orders"));
    assert_eq!(ask(&mut client, get("http://other.example/")).await, answered(404, "no route for the request"));
    assert_eq!(ask(&mut client, call("http://other.example/a.B/C")).await, answered(200, "grpc-status 12"));
    assert_eq!(ask(&mut client, get("http://shop.example/wait")).await, answered(504, "request deadline passed"));
    assert_eq!(
        ask(&mut client, get("http://shop.example/none")).await,
        answered(500, "the request's route has no back end")
    );
    // `/ready` depends on none of them.
    assert_eq!(admin(app.admin, "GET", "/ready", "").await.0, 200);
    let mut http1 = tokio::net::TcpStream::connect(app.proxy).await.unwrap();
    http1.write_all(b"GET /prices HTTP/1.1\r\nhost: SHOP.example\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut rsp = String::new();
    http1.read_to_string(&mut rsp).await.unwrap();
    assert!(rsp.starts_with("HTTP/1.1 200 ") && rsp.contains("back-end: prices\r\n"), "{rsp}");
}

/// Two back ends for all requests.
fn shares(a: SocketAddr, weight_a: u32, b: SocketAddr, weight_b: u32) -> String {
    format!(
        "backends: {{a: {{endpoints: ['{a}']}}, b: {{endpoints: ['{b}']}}}}
routes: [{{rules: [{{backendRefs: [{{name: a, weight: {weight_a}}}, {{name: b, weight: {weight_b}}}]}}]}}]"
    )
}

#[tokio::test]
async fn a_file_that_changes_counts_and_a_bad_one_does_not() {
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let file = File::new(&shares(a, 1, b, 0));
    let app = file.start();
    let mut client = connect(app.proxy).await;
    assert_eq!(ask(&mut client, get("http://x.example/")).await.1, "a");
    file.write(&shares(a, 0, b, 1));
    app.signal("-HUP");
    app.counted("http_routes_reloads_total{direction=\"outbound\",result=\"success\"} 1").await;
    assert_eq!(ask(&mut client, get("http://x.example/")).await.1, "b");
    file.write("backends: {a: {endpoints: []}}\nrutes: []");
    app.signal("-HUP");
    app.counted("http_routes_reloads_total{direction=\"outbound\",result=\"failure\"} 1").await;
    let path = file.path().display();
    app.logged(&[&format!("{path}:1:")]).await;
    app.logged(&[&format!("{path}:2:1: ")]).await;
    assert_eq!(ask(&mut client, get("http://x.example/")).await.1, "b");
    // Without a signal it is looked at now and then.
    file.write(&shares(a, 1, b, 0));
    app.counted("http_routes_reloads_total{direction=\"outbound\",result=\"success\"} 2").await;
    assert_eq!(ask(&mut client, get("http://x.example/")).await.1, "a");
}

/// For as many seconds as the variable says; `RELOADS_SECONDS=30` is the measure that counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_the_file_changes() {
    let seconds = env::var("RELOADS_SECONDS").map_or(1, |seconds| seconds.parse().unwrap());
    let ends = [endpoint("a").await, endpoint("b").await, endpoint("c").await];
    let text = |round: u32| {
        let (one, other) = (ends[round as usize % 3], ends[(round as usize + 1) % 3]);
        shares(one, 1 + round % 5, other, round % 3)
    };
    let file = File::new(&text(0));
    let app = file.start();
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut clients = JoinSet::new();
    for _ in 0..64 {
        let mut client = connect(app.proxy).await;
        clients.spawn(async move {
            let mut answers = BTreeMap::<_, usize>::new();
            while Instant::now() < until {
                *answers.entry(ask(&mut client, get("http://x.example/")).await).or_default() += 1;
            }
            answers
        });
    }
    let mut rounds = 0;
    while Instant::now() < until {
        rounds += 1;
        file.write(&text(rounds));
        app.signal("-HUP");
        let line = format!("http_routes_reloads_total{{direction=\"outbound\",result=\"success\"}} {rounds}");
        app.counted(&line).await;
    }
    assert!(rounds > 1);
    for answers in clients.join_all().await {
        assert!(answers.keys().all(|(status, _)| *status == 200), "{answers:?}");
    }
}

#[tokio::test]
async fn authorities_name_the_destinations_that_are_allowed() {
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let app = App::start_to("", &[(DISCOVERY, "authority"), (NETWORKS, "127.0.0.0/8"), (IDLE, "500ms")]);
    let mut client = connect(app.proxy).await;
    for (addr, name) in [(a, "a"), (b, "b"), (a, "a")] {
        assert_eq!(ask(&mut client, get(&format!("http://{addr}/"))).await, (200, name.to_owned()));
    }
    let forbidden = (403, "the destination is not allowed".to_owned());
    for uri in ["http://10.0.0.1/", "http://[::1]:80/", "http://x.example/", "http://localhost/"] {
        assert_eq!(ask(&mut client, get(uri)).await, forbidden, "{uri}");
    }
    assert_eq!(ask(&mut client, call("http://10.0.0.1/a.B/C")).await, (200, "grpc-status 7".to_owned()));
    // Idle ones are left.
    app.counted("http_destinations{direction=\"outbound\"} 0").await;
}

/// Asks each of so many destinations 20 times, one after another and 16 destinations at a time.
async fn ask_all(proxy: SocketAddr, port: u16, count: u32) {
    let mut clients = JoinSet::new();
    for part in 0..16 {
        let mut client = connect(proxy).await;
        clients.spawn(async move {
            for index in (part..count).step_by(16) {
                // All of 127.0.0.0/8 is this host.
                let addr = SocketAddr::new((0x7f01_0000 + index).to_be_bytes().into(), port);
                for _ in 0..20 {
                    assert_eq!(ask(&mut client, get(&format!("http://{addr}/"))).await.0, 200, "{addr}");
                }
            }
        });
    }
    clients.join_all().await;
}

/// To as many destinations as the variable says; `DESTINATIONS=1000` is the measure that counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destinations_that_were_left_cost_nothing() {
    let count = env::var("DESTINATIONS").map_or(100, |count| count.parse().unwrap());
    let everywhere = endpoint_on("0.0.0.0:0", "any").await;
    let app = App::start_to("", &[(DISCOVERY, "authority"), (NETWORKS, "127.0.0.0/8"), (IDLE, "2s")]);
    let idle = "http_destinations{direction=\"outbound\"} 0";
    ask_all(app.proxy, everywhere.port(), count).await;
    app.counted(idle).await;
    let once = app.resident_bytes();
    ask_all(app.proxy, everywhere.port(), count).await;
    let connected = app.resident_bytes();
    app.counted(idle).await;
    let started = Instant::now();
    while app.resident_bytes() > once + once / 10 {
        assert!(
            started.elapsed() < PATIENCE,
            "{once} bytes after the first time, {} after the second",
            app.resident_bytes()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("resident: {once} bytes, and {connected} with {count} destinations");
}

#[tokio::test]
async fn a_certificate_that_comes_after_the_file_is_taken_up() {
    let a = endpoint("a").await;
    let file = File::new(&shares(a, 1, a, 0));
    let ca = file.path().with_extension("pem");
    let app = file.start();
    let text = shares(a, 1, a, 0).replacen("}, b:", &format!(", tls: {{ca: {}}}}}, b:", ca.display()), 1);
    file.write(&text);
    app.counted("http_routes_reloads_total{direction=\"outbound\",result=\"failure\"} 1").await;
    let authority = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    fs::write(&ca, authority.cert.pem()).unwrap();
    app.counted("http_routes_reloads_total{direction=\"outbound\",result=\"success\"} 1").await;
    app.counted("http_routes_reloads_total{direction=\"outbound\",result=\"failure\"} 1").await;
    fs::remove_file(ca).unwrap();
}
