//! Records of requests: each request that has come has one, at its end, however it ends.

mod http1;

use crate::{
    raw::Raw,
    support::{Endpoint, PROXY, Rig, client, collect, endpoint_params, get, grpc, post},
};
use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use http::{HeaderMap, HeaderValue, Request, Response, Version, request};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{
    Endpoints, Protocol,
    proxy::{self, retry},
    server::Accepted,
    stats::{Observe, ObserveEnd, ProxyError, RequestEnd, Reset, ResetBy, RetryReason},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncWriteExt as _, DuplexStream},
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot,
    },
    time::{sleep, timeout},
};

const SECOND: Duration = Duration::from_secs(1);

/// Sends the path and the end of each request.
#[derive(Debug)]
struct Observer(UnboundedSender<(String, RequestEnd)>);

struct Observed(String, UnboundedSender<(String, RequestEnd)>);

impl Observe for Observer {
    fn observe(&self, head: &mut request::Parts) -> Option<Box<dyn ObserveEnd>> {
        let path = head.uri.path().to_owned();
        if let Some(value) = head.headers.get_mut("x-observed") {
            *value = HeaderValue::from_static("yes");
        }
        (path != "/unseen").then(|| Box::new(Observed(path, self.0.clone())) as Box<dyn ObserveEnd>)
    }

    fn observe_refused(&self, version: Version) -> Option<Box<dyn ObserveEnd>> {
        Some(Box::new(Observed(format!("{version:?}"), self.0.clone())))
    }
}

impl ObserveEnd for Observed {
    fn end(self: Box<Self>, end: &RequestEnd) {
        let _ = self.1.send((self.0, end.clone()));
    }
}

/// The records of a connection's requests.
struct Records {
    ends: UnboundedReceiver<(String, RequestEnd)>,
    /// Drains the connection.
    drain: Option<oneshot::Sender<()>>,
}

/// A connection of a client whose requests are recorded.
fn connect(rig: &Rig) -> (DuplexStream, Records) {
    let (client_io, server_io) = tokio::io::duplex(1 << 20);
    let (server, proxy) = (rig.server.clone(), rig.proxy.clone());
    let (sender, ends) = unbounded_channel();
    let (drain, drained) = oneshot::channel::<()>();
    let accepted = Accepted { observe: Some(Arc::new(Observer(sender))), ..Accepted::default() };
    tokio::spawn(async move {
        let drained = async { drop(drained.await) };
        server.serve_accepted(accepted, server_io, proxy, drained).await
    });
    (client_io, Records { ends, drain: Some(drain) })
}

/// A client of HTTP/2 and the endpoint.
async fn pair(rig: &mut Rig) -> (SendRequest<Bytes>, Endpoint, Records) {
    let (io, records) = connect(rig);
    (client(io).await, rig.endpoint().await, records)
}

impl Records {
    /// The record of the next request that ends. There is no other.
    async fn one(&mut self) -> RequestEnd {
        let (_, end) = timeout(60 * SECOND, self.ends.recv()).await.expect("a request ends").unwrap();
        assert!(self.ends.try_recv().is_err(), "a request has one record");
        end
    }
}

fn reset(by: ResetBy, code: impl Into<Option<Reason>>) -> Option<Reset> {
    Some(Reset { by, code: code.into().map(u32::from) })
}

fn status(end: &RequestEnd) -> Option<u16> {
    end.status.map(|status| status.as_u16())
}

#[tokio::test(start_paused = true)]
async fn a_whole_exchange_has_its_bytes_times_and_endpoint() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint, mut records) = pair(&mut rig).await;
    let (response, mut body) = client.send_request(post(), false).unwrap();
    body.send_data("12345".into(), true).unwrap();
    let mut asked = endpoint.asked().await;
    collect(asked.request.body_mut()).await.unwrap();
    sleep(SECOND).await;
    let mut to = asked.answer();
    let mut response = response.await.unwrap();
    sleep(SECOND).await;
    to.send_data("123".into(), false).unwrap();
    to.send_trailers(HeaderMap::new()).unwrap();
    collect(response.body_mut()).await.unwrap();
    let end = records.one().await;
    assert_eq!((status(&end), end.grpc_status, end.reset, end.proxy_error), (Some(200), None, None, None));
    assert_eq!((end.request_bytes, end.response_bytes, end.attempts), (5, 3, 1));
    assert_eq!(end.endpoint.as_deref(), Some("endpoint"));
    let head = end.time_to_head.unwrap();
    assert!(head >= SECOND && head < 2 * SECOND && end.duration >= 2 * SECOND && end.duration < 3 * SECOND, "{end:?}");
    assert!(!end.is_failure());
}

#[tokio::test]
async fn requests_that_are_not_observed_have_none() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint, mut records) = pair(&mut rig).await;
    for path in ["/unseen", "/seen"] {
        let request = Request::get(format!("http://a{path}")).body(()).unwrap();
        let response = client.send_request(request, true).unwrap().0;
        endpoint.asked().await.respond.send_response(Response::new(()), true).unwrap();
        response.await.unwrap();
    }
    assert_eq!(records.ends.recv().await.unwrap().0, "/seen");
}

#[tokio::test]
async fn a_status_of_grpc_is_that_of_the_trailers() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint, mut records) = pair(&mut rig).await;
    let response = client.send_request(grpc(), true).unwrap().0;
    let mut to = endpoint.asked().await.answer();
    to.send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "13".parse().unwrap())])).unwrap();
    collect(response.await.unwrap().body_mut()).await.unwrap();
    let end = records.one().await;
    assert_eq!((status(&end), end.grpc_status, end.reset), (Some(200), Some(13), None));
    assert!(end.is_failure());
}

#[tokio::test(start_paused = true)]
async fn answers_of_the_proxy_say_why() {
    let long = format!("http://a/{}", "p".repeat(9_000));
    let large = Request::get("http://a/").header("x-large", "v".repeat(20_000));
    let malformed = Request::get("http://a/").header("host", "b");
    for (request, is_there, error, expected) in [
        (Request::get(&*long), true, ProxyError::UriTooLong, 414),
        (large, true, ProxyError::HeadTooLarge, 431),
        (malformed, true, ProxyError::BadRequest, 400),
        (Request::get("http://a/"), false, ProxyError::NoEndpoint, 503),
    ] {
        let mut rig = Rig::of(&ServerParams::DEFAULT, &ClientParams::DEFAULT, PROXY, |connect| {
            Endpoints::fixed(is_there.then_some("endpoint"), &connect, endpoint_params())
        });
        let (io, mut records) = connect(&rig);
        let (mut client, _endpoint) = (client(io).await, if is_there { Some(rig.endpoint().await) } else { None });
        let response = client.send_request(request.body(()).unwrap(), true).unwrap().0.await.unwrap();
        assert_eq!(response.status(), expected);
        let end = records.one().await;
        assert_eq!((status(&end), end.proxy_error, end.reset), (Some(expected), Some(error), None));
        assert_eq!((end.attempts, end.endpoint.as_deref()), (0, None));
        let detail = response.headers()["proxy-error"].to_str().unwrap();
        assert_eq!(end.proxy_error_detail.as_deref(), Some(detail));
        assert!(end.is_failure());
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_the_proxys_answer_or_its_reset() {
    let params = proxy::Params { request_timeout: Some(10 * SECOND), ..PROXY };
    let mut rig = Rig::new(&ServerParams::DEFAULT, &ClientParams::DEFAULT, params);
    let (mut client, mut endpoint, mut records) = pair(&mut rig).await;
    let response = client.send_request(get(), true).unwrap().0;
    let _asked = endpoint.asked().await;
    assert_eq!(response.await.unwrap().status(), 504);
    let end = records.one().await;
    assert_eq!((status(&end), end.proxy_error, end.reset), (Some(504), Some(ProxyError::Deadline), None));
    assert_eq!((end.attempts, end.endpoint.as_deref()), (1, Some("endpoint")));
    assert!(end.duration >= 10 * SECOND);

    let response = client.send_request(get(), true).unwrap().0;
    let mut asked = endpoint.asked().await;
    let _to = asked.answer();
    assert!(collect(response.await.unwrap().body_mut()).await.is_err());
    let end = records.one().await;
    let expected = reset(ResetBy::Proxy, Reason::INTERNAL_ERROR);
    assert_eq!((status(&end), end.proxy_error, end.reset), (Some(200), Some(ProxyError::Deadline), expected));
}

#[tokio::test]
async fn a_client_that_resets_its_stream_is_named_with_its_code() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint, mut records) = pair(&mut rig).await;
    // Before the head, and after it.
    let (response, mut body) = client.send_request(post(), false).unwrap();
    let _asked = endpoint.asked().await;
    body.send_reset(Reason::from(0x55));
    drop(response);
    let end = records.one().await;
    assert_eq!((status(&end), end.reset), (None, reset(ResetBy::Client, Reason::from(0x55))));

    let (response, mut body) = client.send_request(post(), false).unwrap();
    let mut asked = endpoint.asked().await;
    let _to = asked.answer();
    let _response = response.await.unwrap();
    body.send_reset(Reason::CANCEL);
    let end = records.one().await;
    assert_eq!((status(&end), end.reset), (Some(200), reset(ResetBy::Client, Reason::CANCEL)));
    assert_eq!(end.proxy_error, None);
}

#[tokio::test]
async fn a_client_that_is_lost_has_no_code() {
    let mut rig = Rig::defaults();
    let (io, mut records) = connect(&rig);
    let mut endpoint = rig.endpoint().await;
    let (mut client, connection) = h2::client::handshake(io).await.unwrap();
    let driver = tokio::spawn(connection);
    let responses = [(); 2].map(|()| client.send_request(get(), true).unwrap().0);
    let mut asked = [endpoint.asked().await, endpoint.asked().await];
    let _to = asked[0].answer();
    driver.abort();
    drop(responses);
    for _ in 0..2 {
        let (_, end) = records.ends.recv().await.unwrap();
        assert_eq!((end.reset, end.proxy_error), (reset(ResetBy::Client, None), None));
    }
}

#[tokio::test]
async fn an_endpoint_that_resets_its_stream_is_named_with_its_code() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint, mut records) = pair(&mut rig).await;
    let response = client.send_request(get(), true).unwrap().0;
    endpoint.asked().await.respond.send_reset(Reason::ENHANCE_YOUR_CALM);
    assert!(response.await.is_err());
    let end = records.one().await;
    assert_eq!((status(&end), end.reset), (None, reset(ResetBy::Endpoint, Reason::ENHANCE_YOUR_CALM)));

    let response = client.send_request(get(), true).unwrap().0;
    let mut to = endpoint.asked().await.answer();
    let mut response = response.await.unwrap();
    to.send_reset(Reason::CANCEL);
    assert!(collect(response.body_mut()).await.is_err());
    let end = records.one().await;
    assert_eq!((status(&end), end.reset), (Some(200), reset(ResetBy::Endpoint, Reason::CANCEL)));
}

#[tokio::test]
async fn an_endpoint_that_is_lost_is_answered_for_or_named() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint, mut records) = pair(&mut rig).await;
    let response = client.send_request(post(), true).unwrap().0;
    let _asked = endpoint.asked().await;
    endpoint.kill();
    assert_eq!(response.await.unwrap().status(), 502);
    let end = records.one().await;
    assert_eq!((status(&end), end.proxy_error, end.reset), (Some(502), Some(ProxyError::ConnectionLost), None));

    let mut endpoint = rig.endpoint().await;
    let response = client.send_request(post(), true).unwrap().0;
    let _to = endpoint.asked().await.answer();
    let mut response = response.await.unwrap();
    endpoint.kill();
    assert!(collect(response.body_mut()).await.is_err());
    let end = records.one().await;
    assert_eq!((status(&end), end.proxy_error, end.reset), (Some(200), None, reset(ResetBy::Endpoint, None)));
}

#[tokio::test]
async fn a_field_that_the_observer_changes_goes_on_changed() {
    for is_http1 in [false, true] {
        let mut rig = Rig::defaults();
        let (mut io, _records) = connect(&rig);
        let request = Request::get("http://test.example/unseen").header("x-observed", "no").body(()).unwrap();
        let sent = if is_http1 {
            let request = b"GET /unseen HTTP/1.1\r\nhost: test.example\r\nX-Observed: no\r\n\r\n";
            io.write_all(request).await.unwrap();
            (None, Some(io))
        } else {
            (Some(client(io).await.send_request(request, true).unwrap()), None)
        };
        let asked = rig.endpoint().await.asked().await;
        assert_eq!(asked.request.headers()["x-observed"], "yes");
        drop(sent);
    }
}

#[tokio::test(start_paused = true)]
async fn each_attempt_counts() {
    let params = proxy::Params { retry: retry::Params { gateway_errors: true, ..PROXY.retry }, ..PROXY };
    let mut rig = Rig::new(&ServerParams::DEFAULT, &ClientParams::DEFAULT, params);
    let (mut client, mut endpoint, mut records) = pair(&mut rig).await;
    let response = client.send_request(get(), true).unwrap().0;
    for status in [503, 502, 200] {
        let rsp = Response::builder().status(status).body(()).unwrap();
        let mut asked = endpoint.asked().await;
        sleep(SECOND).await;
        asked.respond.send_response(rsp, true).unwrap();
    }
    assert_eq!(response.await.unwrap().status(), 200);
    let end = records.one().await;
    assert_eq!((status(&end), end.attempts, end.proxy_error), (Some(200), 3, None));
    assert_eq!((end.time_to_send, end.time_to_head), (Some(Duration::ZERO), Some(3 * SECOND)));
    let retries: Vec<_> = end.retries.iter().map(|retry| (retry.after, retry.reason)).collect();
    assert_eq!(retries, [SECOND, 2 * SECOND].map(|after| (after, RetryReason::GatewayError)));
    assert!(end.retries.iter().all(|retry| retry.endpoint.is_some() && retry.endpoint == end.endpoint));
}

#[tokio::test(start_paused = true)]
async fn streams_that_a_drain_cuts_are_the_proxys() {
    let mut rig = Rig::defaults();
    rig.server = rig.server.clone().drain_timeout(SECOND);
    let (mut client, mut endpoint, mut records) = pair(&mut rig).await;
    let responses = [(); 2].map(|()| client.send_request(get(), true).unwrap().0);
    let mut asked = [endpoint.asked().await, endpoint.asked().await];
    let _to = asked[0].answer();
    drop(records.drain.take());
    for _ in 0..2 {
        let (_, end) = timeout(60 * SECOND, records.ends.recv()).await.unwrap().unwrap();
        assert_eq!(end.reset, reset(ResetBy::Proxy, Reason::INTERNAL_ERROR));
        assert_eq!(end.proxy_error, Some(ProxyError::Closing));
    }
    drop(responses);
}

#[tokio::test(start_paused = true)]
async fn streams_that_stand_still_are_the_proxys() {
    let server = ServerParams { stream_idle_timeout: Some(10 * SECOND), ..ServerParams::DEFAULT };
    let mut rig = Rig::new(&server, &ClientParams::DEFAULT, PROXY);
    let (mut client, mut endpoint, mut records) = pair(&mut rig).await;
    let response = client.send_request(get(), true).unwrap().0;
    let _asked = endpoint.asked().await;
    assert_eq!(response.await.unwrap().status(), 504);
    let end = records.one().await;
    assert_eq!((status(&end), end.proxy_error, end.reset), (Some(504), Some(ProxyError::Idle), None));
    let response = client.send_request(get(), true).unwrap().0;
    let mut asked = endpoint.asked().await;
    let _to = asked.answer();
    assert!(collect(response.await.unwrap().body_mut()).await.is_err());
    let end = records.one().await;
    assert_eq!((status(&end), end.proxy_error), (Some(200), Some(ProxyError::Idle)));
    assert_eq!(end.reset, reset(ResetBy::Proxy, Reason::INTERNAL_ERROR));
}

/// A tunnel's record comes at its end, with the bytes of both directions.
#[tokio::test]
async fn a_tunnel_ends_late() {
    for is_http1 in [false, true] {
        let rig = Rig::to(Protocol::Http1, endpoint_params());
        let (io, mut records) = connect(&rig);
        let mut endpoint = Raw::next(&rig.endpoint_ios);
        let accept = "HTTP/1.1 200 OK||";
        if is_http1 {
            let mut client = Raw::new(io);
            client.send("CONNECT a:1 HTTP/1.1|host: a:1||").await;
            endpoint.until("\r\n\r\n").await;
            endpoint.send(accept).await;
            assert_eq!(client.head().await.status, 200);
            client.send("1234").await;
            endpoint.until("1234").await;
            endpoint.send("12").await;
            client.until("12").await;
            assert!(records.ends.try_recv().is_err());
            drop((client, endpoint));
        } else {
            let mut client = client(io).await;
            let request = Request::connect("a:1").body(()).unwrap();
            let (response, mut to) = client.send_request(request, false).unwrap();
            endpoint.until("\r\n\r\n").await;
            endpoint.send(accept).await;
            let mut response = response.await.unwrap();
            to.send_data("1234".into(), false).unwrap();
            endpoint.until("1234").await;
            endpoint.send("12").await;
            assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "12");
            assert!(records.ends.try_recv().is_err());
            to.send_data(Bytes::new(), true).unwrap();
            drop(endpoint);
            collect(response.body_mut()).await.unwrap();
        }
        let end = records.one().await;
        assert_eq!((status(&end), end.request_bytes, end.response_bytes), (Some(200), 4, 2), "{is_http1}: {end:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_whose_heads_are_far_too_large_have_records() {
    let rig = Rig::defaults();
    let (io, mut records) = connect(&rig);
    let mut client = client(io).await;
    // The second has the status by HPACK's table.
    for _ in 0..3 {
        let mut request = get();
        for _ in 0..80 {
            request.headers_mut().append("x-large", HeaderValue::try_from("x".repeat(1_000)).unwrap());
        }
        assert_eq!(client.send_request(request, true).unwrap().0.await.unwrap().status(), 431);
        let (version, end) = timeout(60 * SECOND, records.ends.recv()).await.expect("it ends").unwrap();
        assert_eq!((status(&end), end.proxy_error), (Some(431), Some(ProxyError::HeadTooLarge)));
        assert_eq!(version, "HTTP/2.0");
        assert!(records.ends.try_recv().is_err());
    }
}
