//! The proxy's answers when endpoints give none, and the messages that pass through untouched.

use crate::support::{Endpoint, PROXY, Rig, collect, endpoint_params, get, grpc, post, reset};
use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response, StatusCode};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{
    Connect, Endpoints, IncomingBody, Proxy, SendRequest, Server, Stats,
    balance::endpoint::State,
    client::ConnectError,
    proxy::{self, Limits},
    stats::{Peer, ResetCode},
};
use std::{
    future::{pending, poll_fn, ready},
    io,
    sync::Arc,
    time::Duration,
};
use tokio::{io::DuplexStream, time::Instant};
use tower::{MakeService, Service};

/// A plain answer of the proxy's own.
#[track_caller]
pub(crate) fn is_answer(rsp: &Response<h2::RecvStream>, status: u16) {
    assert_eq!(rsp.status(), status);
    assert_eq!(rsp.headers()["content-length"], "0");
    assert!(rsp.headers().contains_key("proxy-error"));
    assert!(rsp.body().is_end_stream());
}

/// An answer of the proxy's own to a gRPC request: trailers-only.
#[track_caller]
pub(crate) fn is_grpc_answer(rsp: &Response<h2::RecvStream>, code: &str) {
    assert_eq!(rsp.status(), 200);
    assert_eq!(rsp.headers()["content-type"], "application/grpc");
    assert_eq!(rsp.headers()["grpc-status"], code);
    assert!(rsp.headers().contains_key("grpc-message") && rsp.headers().contains_key("proxy-error"));
    assert!(rsp.body().is_end_stream());
}

/// A client of a proxy whose connector is given.
async fn client_of<C>(connector: C, timeout: Duration, params: proxy::Params) -> h2::client::SendRequest<Bytes>
where
    C: Service<&'static str, Response = DuplexStream, Error = io::Error> + Clone + Send + 'static,
    C::Future: Send + 'static,
{
    let connect = Connect::new(connector, &ClientParams::DEFAULT).unwrap().timeout(timeout);
    let endpoints = Endpoints::fixed(["endpoint"], &connect, endpoint_params());
    let proxy = Proxy::new(endpoints, Arc::new(Limits::new(params)), Arc::<Stats>::default());
    let (near, far) = tokio::io::duplex(1 << 20);
    tokio::spawn(async move { Server::new(&ServerParams::DEFAULT).unwrap().serve(far, proxy, pending()).await });
    let (client, connection) = h2::client::Builder::new().handshake::<_, Bytes>(near).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn connection_lost_before_the_head_is_502_or_14() {
    for (req, is_grpc) in [(get(), false), (grpc(), true)] {
        let mut rig = Rig::defaults();
        let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
        let (response, _) = client.send_request(req, true).unwrap();
        let _asked = endpoint.asked().await;
        endpoint.kill();
        let rsp = response.await.unwrap();
        if is_grpc { is_grpc_answer(&rsp, "14") } else { is_answer(&rsp, 502) }
    }
}

#[tokio::test]
async fn requests_that_a_goaway_leaves_out_go_to_another_connection() {
    let mut rig = Rig::defaults();
    let mut client = rig.client().await;
    let mut io = rig.endpoint_ios.recv().await.unwrap();
    let (response, _) = client.send_request(get(), true).unwrap();
    // SETTINGS, and then GOAWAY with last stream 0 and NO_ERROR, without reading anything.
    tokio::io::AsyncWriteExt::write_all(&mut io, &[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // The request has to be on its way first, or else it would go to the next connection.
    let mut seen = vec![0; 1 << 16];
    let mut total = 0;
    while !has_headers(&seen[..total]) {
        total += tokio::io::AsyncReadExt::read(&mut io, &mut seen[total..]).await.unwrap();
    }
    tokio::io::AsyncWriteExt::write_all(&mut io, &goaway).await.unwrap();
    rig.endpoint().await.asked().await.answer().send_data("again".into(), true).unwrap();
    assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"again");
}

/// Whether there is a HEADERS frame behind the client preface.
fn has_headers(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(24..).unwrap_or_default();
    while let [a, b, c, kind, ..] = *rest {
        if kind == 1 {
            return true;
        }
        rest = rest.get(9 + u32::from_be_bytes([0, a, b, c]) as usize..).unwrap_or_default();
    }
    false
}

#[tokio::test]
async fn goaway_lets_streams_finish_and_new_ones_go_to_another_connection() {
    let mut rig = Rig::defaults();
    let (mut client, mut first) = (rig.client().await, rig.endpoint().await);
    let (open, _) = client.send_request(get(), true).unwrap();
    let mut asked = first.asked().await;
    first.go_away();
    // The next request finds the connection closed to it, and is not lost.
    let (next, _) = client.send_request(get(), true).unwrap();
    let mut second = rig.endpoint().await;
    tokio::select! {
        mut asked = second.asked() => { asked.answer().send_data("second".into(), true).unwrap(); }
        // It may still have gone out before the GOAWAY came in.
        mut asked = first.asked() => { asked.answer().send_data("second".into(), true).unwrap(); }
    }
    assert_eq!(collect(next.await.unwrap().body_mut()).await.unwrap().0, b"second");
    asked.answer().send_data("first".into(), true).unwrap();
    assert_eq!(collect(open.await.unwrap().body_mut()).await.unwrap().0, b"first");
}

#[tokio::test(start_paused = true)]
async fn no_endpoint_in_the_failfast_time_is_503_502_or_504() {
    let long = Duration::from_secs(1_000);
    let hangs = tower::service_fn(|_: &'static str| pending::<io::Result<DuplexStream>>());
    let refuses = tower::service_fn(|_: &'static str| ready(Err(io::Error::from(io::ErrorKind::ConnectionRefused))));

    let mut still_connecting = client_of(hangs, long, PROXY).await;
    let started = Instant::now();
    let (response, _) = still_connecting.send_request(get(), true).unwrap();
    is_answer(&response.await.unwrap(), 503);
    assert_eq!(started.elapsed().as_secs(), PROXY.failfast_timeout.as_secs());
    // From then on requests fail at once.
    let started = Instant::now();
    let (response, _) = still_connecting.send_request(grpc(), true).unwrap();
    is_grpc_answer(&response.await.unwrap(), "14");
    assert!(started.elapsed() < Duration::from_millis(10));

    let mut refused = client_of(refuses, long, PROXY).await;
    let (response, _) = refused.send_request(get(), true).unwrap();
    is_answer(&response.await.unwrap(), 502);

    // Longer than fail-fast, so that the request's end falls between two attempts.
    let params = proxy::Params { failfast_timeout: Duration::from_millis(405), ..PROXY };
    let mut timed_out = client_of(hangs, Duration::from_millis(400), params).await;
    let (response, _) = timed_out.send_request(get(), true).unwrap();
    is_answer(&response.await.unwrap(), 504);
}

#[tokio::test(start_paused = true)]
async fn full_queue_and_too_many_in_flight_are_503() {
    let hangs = tower::service_fn(|_: &'static str| pending::<io::Result<DuplexStream>>());
    for params in [proxy::Params { queue_capacity: 2, ..PROXY }, proxy::Params { max_in_flight: 2, ..PROXY }] {
        let mut client = client_of(hangs, Duration::from_secs(1_000), params).await;
        let (_first, _) = client.send_request(get(), true).unwrap();
        let (_second, _) = client.send_request(get(), true).unwrap();
        let started = Instant::now();
        let (third, _) = client.send_request(get(), true).unwrap();
        is_answer(&third.await.unwrap(), 503);
        assert!(started.elapsed() < Duration::from_millis(10), "it did not wait");
    }
}

#[tokio::test(start_paused = true)]
async fn deadline_before_the_head_is_504_or_4_and_cancels() {
    for (header, params, is_grpc) in [
        (Some("100m"), PROXY, true),
        (None, proxy::Params { request_timeout: Some(Duration::from_millis(100)), ..PROXY }, false),
        // The shorter one counts.
        (Some("1H"), proxy::Params { request_timeout: Some(Duration::from_millis(100)), ..PROXY }, true),
    ] {
        let mut rig = Rig::new(&ServerParams::DEFAULT, &ClientParams::DEFAULT, params);
        let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
        let mut req = if is_grpc { grpc() } else { get() };
        if let Some(timeout) = header {
            req.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
        }
        let started = Instant::now();
        let (response, _) = client.send_request(req, true).unwrap();
        let mut asked = endpoint.asked().await;
        assert_eq!(asked.request.headers().contains_key("grpc-timeout"), is_grpc, "it is passed on");
        let rsp = response.await.unwrap();
        if is_grpc {
            is_grpc_answer(&rsp, "4")
        } else {
            is_answer(&rsp, 504)
        }
        assert_eq!(started.elapsed().as_millis() / 10, 10);
        let seen = std::future::poll_fn(|cx| asked.respond.poll_reset(cx)).await.unwrap();
        assert_eq!(seen, Reason::CANCEL);
    }
}

#[tokio::test(start_paused = true)]
async fn deadline_after_the_head_resets_both_sides() {
    let params = proxy::Params { request_timeout: Some(Duration::from_millis(100)), ..PROXY };
    let mut rig = Rig::new(&ServerParams::DEFAULT, &ClientParams::DEFAULT, params);
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let (response, _) = client.send_request(get(), true).unwrap();
    let mut body = endpoint.asked().await.answer();
    assert_eq!(reset(collect(response.await.unwrap().body_mut()).await), Reason::INTERNAL_ERROR);
    assert_eq!(std::future::poll_fn(|cx| body.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
}

#[tokio::test]
async fn messages_pass_as_they_came() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);

    let (response, _) = client.send_request(grpc(), true).unwrap();
    let mut asked = endpoint.asked().await;
    let expected = HeaderMap::from_iter([
        ("content-type".parse().unwrap(), "application/grpc".parse().unwrap()),
        ("te".parse().unwrap(), "trailers".parse().unwrap()),
    ]);
    assert_eq!(asked.request.headers(), &expected, "nothing is added: no content-length, via or the like");
    assert_eq!(asked.request.uri(), "http://test.example/pkg.Service/Method");
    assert!(asked.request.body().is_end_stream());
    asked.respond.send_response(Response::builder().status(204).header("x", "1").body(()).unwrap(), true).unwrap();
    let rsp = response.await.unwrap();
    assert_eq!(rsp.status(), StatusCode::NO_CONTENT);
    assert_eq!(rsp.headers(), &HeaderMap::from_iter([("x".parse().unwrap(), "1".parse().unwrap())]), "no date either");

    // The endpoint answers first, and ends its response when the client has ended the request.
    let (response, mut upload) = client.send_request(post(), false).unwrap();
    let mut asked = endpoint.asked().await;
    let mut download = asked.answer();
    download.send_data("early".into(), false).unwrap();
    let mut response = response.await.unwrap();
    assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "early");
    upload.send_data("late".into(), true).unwrap();
    assert_eq!(collect(asked.request.body_mut()).await.unwrap().0, b"late");
    download.send_data("end".into(), true).unwrap();
    assert_eq!(collect(response.body_mut()).await.unwrap().0, b"end");
}

#[tokio::test]
async fn requests_go_to_a_new_connection_when_the_old_one_is_lost() {
    let mut rig = Rig::defaults();
    let (mut client, first) = (rig.client().await, rig.endpoint().await);
    first.kill();
    let (response, _) = client.send_request(get(), true).unwrap();
    let mut second = rig.endpoint().await;
    second.asked().await.answer().send_data("second".into(), true).unwrap();
    assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"second");
}

#[tokio::test(start_paused = true)]
async fn requests_go_to_the_endpoint_with_fewer() {
    let (opened, mut ios) = tokio::sync::mpsc::unbounded_channel();
    let connector = tower::service_fn(move |name: &'static str| {
        let (near, far) = tokio::io::duplex(1 << 20);
        opened.send((name, far)).unwrap();
        ready(Ok::<_, io::Error>(near))
    });
    let connect = Connect::new(connector, &ClientParams::DEFAULT).unwrap();
    let endpoints = Endpoints::fixed(["a", "b"], &connect, endpoint_params());
    let mut names = Vec::new();
    for _ in 0..2 {
        let (name, io) = ios.recv().await.unwrap();
        names.push((name, Endpoint::accept(io).await));
    }
    while endpoints.status().iter().any(|endpoint| endpoint.state != State::Ready) {
        tokio::task::yield_now().await;
    }
    assert!(endpoints.is_ready());
    let limits = Arc::new(Limits::new(PROXY));
    let proxy = Proxy::new(endpoints, Arc::clone(&limits), Arc::<Stats>::default());
    let (near, far) = tokio::io::duplex(1 << 20);
    tokio::spawn(async move { Server::new(&ServerParams::DEFAULT).unwrap().serve(far, proxy, pending()).await });
    let (mut client, connection) = h2::client::Builder::new().handshake::<_, Bytes>(near).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..10 {
        let (first, _) = client.send_request(get(), true).unwrap();
        in_flight(&limits, 1).await;
        // Requests that come in one read, or while others are in flight, go together.
        tokio::time::advance(Duration::from_millis(1)).await;
        let (second, _) = client.send_request(get(), true).unwrap();
        in_flight(&limits, 2).await;
        // Both latencies are about the same.
        tokio::time::advance(Duration::from_millis(2)).await;
        for (_, endpoint) in &mut names {
            endpoint.asked().await.answer().send_data("".into(), true).unwrap();
        }
        let (first, second) = tokio::join!(first, second);
        assert!(first.is_ok() && second.is_ok());
        in_flight(&limits, 0).await;
    }
}

#[tokio::test]
async fn resets_and_responses_are_counted() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let (response, _) = client.send_request(grpc(), true).unwrap();
    let head = Response::builder().header("grpc-status", "5").body(()).unwrap();
    endpoint.asked().await.respond.send_response(head, true).unwrap();
    response.await.unwrap();
    let (response, _) = client.send_request(get(), true).unwrap();
    endpoint.asked().await.respond.send_reset(Reason::INADEQUATE_SECURITY);
    reset(response.await);
    let (_response, mut stream) = client.send_request(post(), false).unwrap();
    let mut asked = endpoint.asked().await;
    stream.send_reset(Reason::ENHANCE_YOUR_CALM);
    poll_fn(|cx| asked.respond.poll_reset(cx)).await.unwrap();
    assert_eq!(rig.stats.requests(), 3);
    let responses: Vec<_> = rig.stats.responses().map(|r| (r.status.as_u16(), r.grpc_status, r.count)).collect();
    assert_eq!(responses, [(200, Some(5), 1)]);
    for (peer, code) in [(Peer::Endpoint, 12), (Peer::Client, 11)] {
        let resets: Vec<_> = rig.stats.transport(peer).resets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(resets, [(ResetCode::Known(code), 1)], "{peer:?}");
    }
    assert_eq!(rig.stats.transport(Peer::Client).open_connections(), 1);
    assert!(rig.stats.transport(Peer::Endpoint).written_bytes() > 24);
}

#[test]
fn connect_is_a_make_service_and_public_types_are_send() {
    fn makes_services<M: MakeService<&'static str, Request<IncomingBody>>>() {}
    fn send_sync<T: Send + Sync>() {}
    type Connector = tower::util::ServiceFn<fn(&'static str) -> std::future::Ready<io::Result<DuplexStream>>>;
    makes_services::<Connect<Connector, IncomingBody>>();
    send_sync::<Connect<Connector, IncomingBody>>();
    send_sync::<SendRequest<IncomingBody>>();
    send_sync::<Endpoints>();
    send_sync::<Proxy>();
    send_sync::<Server>();
    send_sync::<Stats>();
    send_sync::<ConnectError>();
    send_sync::<proxy_http::body::Error>();
}

async fn in_flight(limits: &Limits, requests: usize) {
    while limits.in_flight() != requests {
        tokio::task::yield_now().await;
    }
}
