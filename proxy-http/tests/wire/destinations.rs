//! Many destinations behind one proxy: which one a request goes to, and how long its connections stay.

use crate::support::{PROXY, client, collect, endpoint_params};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{
    Connect, Endpoints, Proxy, Server, Stats,
    proxy::{
        self, Absence, Action, Backend, BackendEndpoints, Bounds, ByAuthority, ByRoute, NotAllowed, Policy, Rate,
        Resolve, RouteRate, Routes,
    },
    route::Rule,
};
use std::{
    collections::BTreeMap,
    future::{pending, ready},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::{Notify, watch},
    time::{Instant, sleep},
};

const IDLE: Duration = Duration::from_secs(5);

/// The connections and requests that back ends have had.
#[derive(Debug, Default)]
struct Seen {
    /// The name of each in the order in which they were connected to.
    connected: Mutex<Vec<String>>,
    open: AtomicUsize,
    /// Of back ends whose names start with `gone`.
    absence: watch::Sender<Option<Absence>>,
    /// Lets the responses to `/wait` end.
    go: Notify,
}

/// A back end in memory. It answers with its name in `back-end`.
#[derive(Debug)]
struct Memory {
    name: String,
    seen: Arc<Seen>,
}

impl Backend for Memory {
    fn absence(&self) -> Option<watch::Receiver<Option<Absence>>> {
        self.name.starts_with("gone").then(|| self.seen.absence.subscribe())
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn connect(&self, _: &Arc<Stats>) -> BackendEndpoints {
        let (name, seen) = (self.name.clone(), Arc::clone(&self.seen));
        seen.connected.lock().unwrap().push(name.clone());
        let connector = tower::service_fn(move |_: &'static str| {
            let (near, far) = tokio::io::duplex(1 << 20);
            tokio::spawn(serve(name.clone(), Arc::clone(&seen), far));
            ready(Ok::<_, io::Error>(near))
        });
        let connect = Connect::new(connector, &ClientParams::DEFAULT).unwrap();
        let addrs = if self.name.starts_with("gone") { &[][..] } else { &["memory"] };
        let endpoints = Endpoints::fixed(addrs.iter().copied(), &connect, endpoint_params());
        BackendEndpoints { endpoints, http1: None, drop_request_trailers: self.name == "drops" }
    }
}

async fn serve(name: String, seen: Arc<Seen>, io: DuplexStream) {
    seen.open.fetch_add(1, Relaxed);
    let mut connection = h2::server::handshake(io).await.unwrap();
    while let Some(Ok((mut req, mut respond))) = connection.accept().await {
        let (name, seen) = (name.clone(), Arc::clone(&seen));
        tokio::spawn(async move {
            let trailers = collect(req.body_mut()).await.unwrap().1.map_or(0, |trailers| trailers.len());
            let rsp = Response::builder().header("back-end", &name).header("trailers", trailers);
            let rsp = rsp.body(()).unwrap();
            let wait = req.uri().path() == "/wait";
            let mut body = respond.send_response(rsp, !wait).unwrap();
            if wait {
                seen.go.notified().await;
                body.send_data(Bytes::new(), true).unwrap();
            }
        });
    }
    seen.open.fetch_sub(1, Relaxed);
}

/// Resolves each name under `.example`.
#[derive(Debug)]
struct Names(Arc<Seen>);

impl Resolve for Names {
    type Backend = Memory;

    fn resolve(&self, host: &str, port: u16) -> Result<Arc<Memory>, NotAllowed> {
        host.ends_with(".example").then_some(()).ok_or(NotAllowed)?;
        Ok(Arc::new(Memory { name: format!("{host}:{port}"), seen: Arc::clone(&self.0) }))
    }
}

/// A proxy by authority, its client's end, and the connections and requests of its back ends.
async fn by_authority(max: usize) -> (SendRequest<Bytes>, Proxy, Arc<Seen>) {
    by_authority_with(max, PROXY).await
}

async fn by_authority_with(max: usize, params: proxy::Params) -> (SendRequest<Bytes>, Proxy, Arc<Seen>) {
    let seen = Arc::<Seen>::default();
    let limits = Arc::new(proxy::Limits::new(params));
    let bounds = Bounds { max, idle: IDLE };
    let destinations = ByAuthority::spawn(Names(Arc::clone(&seen)), 80, limits, Arc::<Stats>::default(), bounds);
    let proxy = Proxy::by_authority(destinations);
    (client(connect(&proxy)).await, proxy, seen)
}

fn connect(proxy: &Proxy) -> DuplexStream {
    let (client_io, server_io) = tokio::io::duplex(1 << 20);
    let (server, proxy) = (Server::new(&ServerParams::DEFAULT).unwrap(), proxy.clone());
    tokio::spawn(async move { server.serve(server_io, proxy, pending()).await });
    client_io
}

fn request(uri: &str) -> Request<()> {
    Request::get(uri).body(()).unwrap()
}

async fn ask(client: &mut SendRequest<Bytes>, req: Request<()>) -> Response<h2::RecvStream> {
    client.send_request(req, true).unwrap().0.await.unwrap()
}

fn field<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

/// A client of a proxy by routes, and where new routes go.
async fn by_route(routes: Routes<Memory>) -> (SendRequest<Bytes>, watch::Sender<Arc<Routes<Memory>>>) {
    let (sender, routes) = watch::channel(Arc::new(routes));
    let limits = Arc::new(proxy::Limits::new(PROXY));
    let bounds = Bounds { max: 10, idle: IDLE };
    let proxy = Proxy::by_route(ByRoute::spawn(routes, limits, Arc::<Stats>::default(), bounds));
    (client(connect(&proxy)).await, sender)
}

fn memory(name: &str, seen: &Arc<Seen>) -> Arc<Memory> {
    Arc::new(Memory { name: name.to_owned(), seen: Arc::clone(seen) })
}

/// A rule for all requests.
fn all(backends: &[(&Arc<Memory>, u32)], policy: Policy) -> (Rule, Action<Memory>) {
    let backends = backends.iter().map(|(backend, weight)| (Arc::clone(backend), *weight)).collect();
    (Rule::default(), Action { name: "all".to_owned(), backends, policy, rate: None })
}

#[tokio::test(start_paused = true)]
async fn a_share_of_the_requests_is_the_weight_of_a_back_end() {
    let seen = Arc::<Seen>::default();
    let (a, b, c) = (memory("a", &seen), memory("b", &seen), memory("c", &seen));
    let (mut client, _routes) = by_route(Routes::new([all(&[(&a, 90), (&b, 10), (&c, 0)], Policy::default())])).await;
    let mut answers = BTreeMap::<String, u32>::new();
    for _ in 0..3_000 {
        let rsp = ask(&mut client, request("http://x.example/")).await;
        *answers.entry(field(rsp.headers(), "back-end").to_owned()).or_default() += 1;
    }
    // Six times the standard deviation.
    assert!(answers["a"].abs_diff(2_700) <= 100, "{answers:?}");
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn new_routes_keep_the_connections_of_the_back_ends_that_stay() {
    let seen = Arc::<Seen>::default();
    let (a, b) = (memory("a", &seen), memory("b", &seen));
    let (mut client, routes) = by_route(Routes::new([all(&[(&a, 1)], Policy::default())])).await;
    let waiting = ask(&mut client, request("http://x.example/wait")).await;
    routes.send_replace(Arc::new(Routes::new([all(&[(&b, 1), (&a, 0)], Policy::default())])));
    assert_eq!(field(ask(&mut client, request("http://x.example/")).await.headers(), "back-end"), "b");
    routes.send_replace(Arc::new(Routes::new([all(&[(&a, 1)], Policy::default())])));
    assert_eq!(field(ask(&mut client, request("http://x.example/")).await.headers(), "back-end"), "a");
    assert_eq!(*seen.connected.lock().unwrap(), ["a", "b"]);
    // Without a it has one request left, which ends well.
    routes.send_replace(Arc::new(Routes::new([all(&[(&b, 1)], Policy::default())])));
    assert_eq!(field(ask(&mut client, request("http://x.example/")).await.headers(), "back-end"), "b");
    seen.go.notify_one();
    assert!(waiting.into_body().data().await.is_none_or(|data| data.unwrap().is_empty()));
    assert_eq!(*seen.connected.lock().unwrap(), ["a", "b", "b"]);
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_back_end_are_answered() {
    let seen = Arc::<Seen>::default();
    let a = memory("a", &seen);
    let (_, nothing) = all(&[(&a, 0)], Policy::default());
    let rule = Rule { hostnames: vec!["x.example".parse().unwrap()], matches: Vec::new() };
    let (mut client, _routes) = by_route(Routes::new([(rule, nothing)])).await;
    assert_eq!(ask(&mut client, request("http://x.example/")).await.status(), 500);
    assert_eq!(ask(&mut client, request("http://y.example/")).await.status(), 404);
    let call = |uri| Request::post(uri).header("content-type", "application/grpc").body(()).unwrap();
    for (uri, status) in [("http://x.example/a.B/C", "14"), ("http://y.example/a.B/C", "12")] {
        let rsp = ask(&mut client, call(uri)).await;
        assert_eq!((rsp.status().as_u16(), field(rsp.headers(), "grpc-status")), (200, status), "{uri}");
    }
    assert!(seen.connected.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_route_has_timeouts_of_its_own() {
    let seen = Arc::<Seen>::default();
    let a = memory("a", &seen);
    let some = Some(Duration::from_secs(1));
    for policy in [
        Policy { request_timeout: some, ..Policy::default() },
        Policy { backend_request_timeout: some, ..Policy::default() },
    ] {
        let (mut client, _routes) = by_route(Routes::new([all(&[(&a, 1)], policy)])).await;
        let started = Instant::now();
        let mut body = ask(&mut client, request("http://x.example/wait")).await.into_body();
        let error = body.data().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR), "{policy:?}");
        assert!((1_000..1_100).contains(&started.elapsed().as_millis()), "{policy:?}");
    }
}

/// A rule for the requests of a host, with a rate limit.
fn limited(host: &str, backend: &Arc<Memory>, rate: &Arc<RouteRate>) -> (Rule, Action<Memory>) {
    let (rule, action) = all(&[(backend, 1)], Policy::default());
    (Rule { hostnames: vec![host.parse().unwrap()], ..rule }, Action { rate: Some(Arc::clone(rate)), ..action })
}

#[tokio::test(start_paused = true)]
async fn requests_of_a_route_beyond_its_rate_get_429_or_8() {
    let seen = Arc::<Seen>::default();
    let a = memory("a", &seen);
    let rate = || Arc::new(RouteRate::new(Rate { per_second: 2.try_into().unwrap(), burst: 3.try_into().unwrap() }));
    let (x, y) = (rate(), rate());
    let routes = || {
        Routes::new([limited("x.example", &a, &x), limited("y.example", &a, &y), all(&[(&a, 1)], Policy::default())])
    };
    // Two workers, which share a rate.
    let ((mut one, _routes), (mut other, changes)) = (by_route(routes()).await, by_route(routes()).await);
    let call = || Request::post("http://x.example/a.B/C").header("content-type", "application/grpc").body(()).unwrap();
    assert_eq!(ask(&mut one, request("http://x.example/")).await.status(), 200);
    for client in [&mut one, &mut other] {
        assert_eq!(ask(client, request("http://x.example/")).await.status(), 200);
    }
    for client in [&mut one, &mut other] {
        let rsp = ask(client, request("http://x.example/")).await;
        assert_eq!((rsp.status().as_u16(), field(rsp.headers(), "retry-after")), (429, "1"));
        assert_eq!(field(rsp.headers(), "proxy-error"), "the request's route gets too many requests");
        let rsp = ask(client, call()).await;
        assert_eq!((rsp.status().as_u16(), field(rsp.headers(), "grpc-status")), (200, "8"));
        assert!(!rsp.headers().contains_key("retry-after"));
        for uri in ["http://y.example/", "http://z.example/"] {
            assert_eq!(ask(client, request(uri)).await.status(), 200, "{uri}");
        }
    }
    // Half a second is a request, and routes that have the same limits keep its count.
    tokio::time::advance(Duration::from_millis(499)).await;
    assert_eq!(ask(&mut one, request("http://x.example/")).await.status(), 429);
    tokio::time::advance(Duration::from_millis(1)).await;
    changes.send_replace(Arc::new(routes()));
    assert_eq!(ask(&mut other, request("http://x.example/")).await.status(), 200);
    assert_eq!(ask(&mut one, request("http://x.example/")).await.status(), 429);
    assert_eq!(ask(&mut other, request("http://x.example/")).await.status(), 429);
}

#[tokio::test(start_paused = true)]
async fn a_request_beyond_the_rate_of_its_route_has_nothing_connected_to() {
    let seen = Arc::<Seen>::default();
    let (a, b) = (memory("a", &seen), memory("b", &seen));
    let rate = RouteRate::new(Rate { per_second: 1.try_into().unwrap(), burst: 1.try_into().unwrap() });
    let rate = Arc::new(rate);
    let routes = Routes::new([limited("a.example", &a, &rate), limited("b.example", &b, &rate)]);
    let (mut client, _routes) = by_route(routes).await;
    assert_eq!(ask(&mut client, request("http://a.example/")).await.status(), 200);
    assert_eq!(ask(&mut client, request("http://b.example/")).await.status(), 429);
    assert_eq!(*seen.connected.lock().unwrap(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_back_end_may_get_no_trailers() {
    let seen = Arc::<Seen>::default();
    for (name, trailers) in [("drops", "0"), ("takes", "1")] {
        let (mut client, _routes) = by_route(Routes::new([all(&[(&memory(name, &seen), 1)], Policy::default())])).await;
        let (rsp, mut body) = client.send_request(request("http://x.example/"), false).unwrap();
        body.send_trailers(
            [("x-end", "1")].into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect(),
        )
        .unwrap();
        assert_eq!(field(rsp.await.unwrap().headers(), "trailers"), trailers, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_authority_names_its_back_end_in_any_form() {
    let (mut client, proxy, seen) = by_authority(10).await;
    for (uri, back_end) in [
        ("http://a.example/", "a.example:80"),
        ("http://A.Example/", "a.example:80"),
        ("http://a.example.:80/", "a.example:80"),
        ("http://a.example:81/", "a.example:81"),
        ("http://b.example/", "b.example:80"),
    ] {
        let rsp = ask(&mut client, request(uri)).await;
        assert_eq!((rsp.status().as_u16(), field(rsp.headers(), "back-end")), (200, back_end), "{uri}");
    }
    let mut http1 = connect(&proxy);
    http1.write_all(b"GET / HTTP/1.1\r\nhost: B.example\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    http1.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("back-end: b.example:80\r\n"), "{answer}");
    assert_eq!(*seen.connected.lock().unwrap(), ["a.example:80", "a.example:81", "b.example:80"]);
}

#[tokio::test(start_paused = true)]
async fn host_names_the_destination_where_there_is_no_authority() {
    let host = |host| Request::get("/").header("host", host).body(()).unwrap();
    let (mut client, _, _) = by_authority(10).await;
    assert_eq!(field(ask(&mut client, host("a.example:81")).await.headers(), "back-end"), "a.example:81");
    assert_eq!(ask(&mut client, host("a.test")).await.status(), 403);
    let seen = Arc::<Seen>::default();
    let (a, b) = (memory("a", &seen), memory("b", &seen));
    let (mut rule, to_a) = all(&[(&a, 1)], Policy::default());
    rule.hostnames = vec!["a.example".parse().unwrap()];
    let routes = Routes::new([(rule, to_a), all(&[(&b, 1)], Policy::default())]);
    let (mut client, _routes) = by_route(routes).await;
    for (name, back_end) in [("a.example", "a"), ("b.example", "b")] {
        assert_eq!(field(ask(&mut client, host(name)).await.headers(), "back-end"), back_end);
    }
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_not_allowed_gets_nothing() {
    let (mut client, _, seen) = by_authority(10).await;
    let rsp = ask(&mut client, request("http://a.test/")).await;
    assert_eq!(rsp.status(), 403);
    let call = Request::post("http://a.test/pkg.Service/Method").header("content-type", "application/grpc");
    let rsp = ask(&mut client, call.body(()).unwrap()).await;
    assert_eq!((rsp.status().as_u16(), field(rsp.headers(), "grpc-status")), (200, "7"));
    let connect = Request::connect("a.test:443").body(()).unwrap();
    assert_eq!(ask(&mut client, connect).await.status(), 403);
    assert!(seen.connected.lock().unwrap().is_empty());
    assert_eq!(ask(&mut client, request("http://a.example/")).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_denied_has_nothing_connected_to() {
    let (_, proxy, seen) = by_authority(10).await;
    let denied = proxy.for_client(proxy::Client { denied: true, ..proxy::Client::default() });
    let mut client = client(connect(&denied)).await;
    for uri in ["http://a.example/", "http://a.test/"] {
        let rsp = ask(&mut client, request(uri)).await;
        assert_eq!(
            (rsp.status().as_u16(), field(rsp.headers(), "proxy-error")),
            (403, "client is not allowed"),
            "{uri}"
        );
    }
    assert!(seen.connected.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_destination_is_left_once_it_is_idle() {
    let (mut client, _, seen) = by_authority(10).await;
    let waiting = ask(&mut client, request("http://a.example/wait")).await;
    ask(&mut client, request("http://b.example/")).await;
    assert_eq!(seen.open.load(Relaxed), 2);
    sleep(IDLE * 2).await;
    assert_eq!(seen.open.load(Relaxed), 1, "a response is not whole yet");
    seen.go.notify_one();
    assert!(waiting.into_body().data().await.is_none_or(|data| data.unwrap().is_empty()));
    sleep(IDLE * 2).await;
    assert_eq!(seen.open.load(Relaxed), 0);
    let rsp = ask(&mut client, request("http://a.example/")).await;
    assert_eq!(field(rsp.headers(), "back-end"), "a.example:80");
    assert_eq!(seen.connected.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_destination_that_was_used_least_recently_makes_room() {
    let (mut client, _, seen) = by_authority(2).await;
    for name in ["a", "b", "a", "c", "a"] {
        sleep(Duration::from_millis(10)).await;
        ask(&mut client, request(&format!("http://{name}.example/"))).await;
    }
    assert_eq!(*seen.connected.lock().unwrap(), ["a.example:80", "b.example:80", "c.example:80"]);
    let _waiting = [
        ask(&mut client, request("http://a.example/wait")).await,
        ask(&mut client, request("http://c.example/wait")).await,
    ];
    let rsp = ask(&mut client, request("http://d.example/")).await;
    assert_eq!(rsp.status(), 503);
    assert_eq!(field(rsp.headers(), "proxy-error"), "too many destinations have requests in flight");
    assert_eq!(ask(&mut client, request("http://c.example/")).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_known_to_have_no_endpoints_is_answered_at_once() {
    let (mut client, _, seen) = by_authority(10).await;
    // It waits first, as long as a name is looked up.
    let waiting = client.send_request(request("http://gone.example/"), true).unwrap().0;
    let started = Instant::now();
    sleep(Duration::from_millis(100)).await;
    seen.absence.send_replace(Some(Absence::Unavailable("gone.example has no address".into())));
    let rsp = waiting.await.unwrap();
    assert_eq!((rsp.status().as_u16(), field(rsp.headers(), "proxy-error")), (503, "gone.example has no address"));
    let call = Request::post("http://gone.example/a.B/C").header("content-type", "application/grpc").body(()).unwrap();
    let rsp = ask(&mut client, call).await;
    assert_eq!((rsp.status().as_u16(), field(rsp.headers(), "grpc-status")), (200, "14"));
    assert!(started.elapsed() < Duration::from_millis(200), "{:?}", started.elapsed());
    // A client that may not go there has its answer at once, too, though it waits already.
    seen.absence.send_replace(None);
    let waiting = client.send_request(request("http://gone.example/"), true).unwrap().0;
    sleep(Duration::from_millis(1)).await;
    seen.absence.send_replace(Some(Absence::Forbidden("not you".into())));
    let rsp = waiting.await.unwrap();
    assert_eq!((rsp.status().as_u16(), field(rsp.headers(), "proxy-error")), (403, "not you"));
    assert!(started.elapsed() < Duration::from_millis(200), "{:?}", started.elapsed());
    // Where it may have endpoints, requests wait for them until it has had none for the fail-fast time.
    for (absence, expected) in
        [(None, "no endpoints"), (Some(Absence::Unknown("not known yet".into())), "not known yet")]
    {
        seen.absence.send_replace(absence);
        let rsp = ask(&mut client, request("http://gone.example/")).await;
        assert_eq!((rsp.status().as_u16(), field(rsp.headers(), "proxy-error")), (503, expected));
        assert!(started.elapsed() >= PROXY.failfast_timeout, "{:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn destinations_without_endpoints_make_room_before_others_do() {
    let (mut client, _, seen) = by_authority(2).await;
    seen.absence.send_replace(Some(Absence::Unavailable("there is no such name".into())));
    for name in ["a", "gone1", "gone2", "gone3", "b", "a"] {
        sleep(Duration::from_millis(10)).await;
        ask(&mut client, request(&format!("http://{name}.example/"))).await;
    }
    let connected = ["a", "gone1", "gone2", "gone3", "b"].map(|name| format!("{name}.example:80"));
    assert_eq!(*seen.connected.lock().unwrap(), connected);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_goes_no_further_has_nothing_connected_to() {
    for (params, status) in [
        (PROXY, 400),
        (proxy::Params { max_in_flight: 0, ..PROXY }, 503),
        (proxy::Params { max_headers_count: 0, ..PROXY }, 431),
        (proxy::Params { max_uri_length: 0, ..PROXY }, 414),
    ] {
        let (mut client, proxy, seen) = by_authority_with(10, params).await;
        // The host is not the authority.
        let req = Request::get("http://a.example/").header("host", "b.example").body(()).unwrap();
        assert_eq!(ask(&mut client, req).await.status(), status);
        let mut http1 = connect(&proxy);
        let req = b"GET http://a.example/ HTTP/1.1\r\nhost: b..example:99999\r\nconnection: close\r\n\r\n";
        http1.write_all(req).await.unwrap();
        let mut answer = String::new();
        http1.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 503"), "{answer}");
        let connect = Request::connect("a.example").body(()).unwrap();
        if status == 400 {
            assert_eq!(ask(&mut client, connect).await.status(), status);
        }
        assert!(seen.connected.lock().unwrap().is_empty(), "{status}");
    }
    let (mut client, _, seen) = by_authority(10).await;
    let req = Request::options("http://a.example/").header("max-forwards", "0").body(()).unwrap();
    assert_eq!(ask(&mut client, req).await.status(), 200);
    assert!(seen.connected.lock().unwrap().is_empty());
}
