//! The metrics of endpoints.

use crate::support::{App, Endpoint, PATIENCE, admin, body, connect, endpoint, get, serve};
use bytes::Bytes;
use h2::{Reason, RecvStream, client::SendRequest, server::SendResponse};
use http::{Request, Response};
use std::{
    future::poll_fn,
    net::SocketAddr,
    task::Poll,
    time::{Duration, Instant},
};
use tokio::net::{TcpListener, TcpSocket};

const ENDPOINTS: &str = "LINKERD2_PROXY_OUTBOUND_ENDPOINTS";

/// Waits until a line of the metrics has a value that will do.
async fn until(app: &App, line: &str, will_do: impl Fn(f64) -> bool) {
    let started = Instant::now();
    loop {
        let (_, metrics) = admin(app.admin, "GET", "/metrics", "").await;
        let value = metrics.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
        if value.is_some_and(&will_do) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{line}: {value:?} in\n{metrics}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn answer_with(status: u16) -> impl Fn(usize, Request<RecvStream>, SendResponse<Bytes>) + Clone {
    move |_, _, mut respond| {
        let _ = respond.send_response(Response::builder().status(status).body(()).unwrap(), true);
    }
}

/// An address where nobody listens, yet.
fn nobody() -> (SocketAddr, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    (socket.local_addr().unwrap(), socket)
}

async fn ask(client: &mut SendRequest<Bytes>) -> Result<u16, h2::Error> {
    poll_fn(|cx| client.poll_ready(cx)).await?;
    Ok(client.send_request(get(), true)?.0.await?.status().as_u16())
}

#[tokio::test]
async fn endpoints_are_counted_by_state_and_by_what_is_on_them() {
    let (fast, held, (down, _socket)) = (endpoint(answer_with(200)).await, Endpoint::start().await, nobody());
    let endpoints = format!("{fast},{},{down}", held.addr);
    let app = App::start(fast, &[(ENDPOINTS, &endpoints), ("LINKERD2_PROXY_OUTBOUND_SLOW_START", "0")]);
    until(&app, "http_balancer_endpoints{direction=\"outbound\",endpoint_state=\"ready\"}", |n| n == 2.0).await;
    until(&app, "http_balancer_endpoints{direction=\"outbound\",endpoint_state=\"failed\"}", |n| n == 1.0).await;
    // One on each worker.
    for addr in [fast, held.addr] {
        let line = format!("http_balancer_endpoint_connections{{direction=\"outbound\",endpoint=\"{addr}\"}}");
        until(&app, &line, |n| n == 2.0).await;
    }
    let line = format!("http_balancer_endpoint_connections{{direction=\"outbound\",endpoint=\"{down}\"}}");
    until(&app, &line, |n| n == 0.0).await;

    let mut client = connect(app.proxy).await;
    let line = format!("http_balancer_endpoint_streams{{direction=\"outbound\",endpoint=\"{}\"}}", held.addr);
    let open: Vec<_> = (0..20)
        .map(|_| {
            let response = client.send_request(get(), true).unwrap().0;
            tokio::spawn(body(response))
        })
        .collect();
    until(&app, &line, |n| n > 0.0).await;
    held.answer.send_replace(true);
    for response in open {
        response.await.unwrap().unwrap();
    }
    until(&app, &line, |n| n == 0.0).await;
    let line = format!("http_balancer_endpoint_latency_seconds{{direction=\"outbound\",endpoint=\"{fast}\"}}");
    until(&app, &line, |seconds| seconds > 0.0 && seconds < 10.0).await;
}

#[tokio::test]
async fn responses_are_counted_by_endpoint_and_classification() {
    let (well, ill) = (endpoint(answer_with(200)).await, endpoint(answer_with(500)).await);
    let endpoints = format!("{well},{ill}");
    let app = App::start(well, &[(ENDPOINTS, &endpoints), ("LINKERD2_PROXY_CORES", "1")]);
    until(&app, "http_balancer_endpoints{direction=\"outbound\",endpoint_state=\"ready\"}", |n| n == 2.0).await;
    let mut client = connect(app.proxy).await;
    let mut counts = [0, 0];
    while counts.iter().any(|count| *count < 5) {
        counts[usize::from(ask(&mut client).await.unwrap() == 500)] += 1;
    }
    for (addr, [successes, failures]) in [(well, [counts[0], 0]), (ill, [0, counts[1]])] {
        for (classification, count) in [("success", successes), ("failure", failures)] {
            let labels = format!("direction=\"outbound\",endpoint=\"{addr}\",classification=\"{classification}\"");
            let line = format!("http_balancer_endpoint_responses_total{{{labels}}}");
            until(&app, &line, |n| n == f64::from(count)).await;
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_has_never_been_connected_is_pending_until_it_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let settings = [("LINKERD2_PROXY_CORES", "1"), ("LINKERD2_PROXY_OUTBOUND_CONNECT_TIMEOUT", "1h")];
    let app = App::start(addr, &settings);
    // The kernel has taken the connection by then; HTTP/2 has not been spoken on it.
    let (stream, _) = listener.accept().await.unwrap();
    let connections = format!("http_balancer_endpoint_connections{{direction=\"outbound\",endpoint=\"{addr}\"}}");
    for (state, count) in [("pending", 1.0), ("ready", 0.0), ("failed", 0.0), ("ejected", 0.0)] {
        let line = format!("http_balancer_endpoints{{direction=\"outbound\",endpoint_state=\"{state}\"}}");
        until(&app, &line, |n| n == count).await;
    }
    until(&app, &connections, |n| n == 0.0).await;
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        connection.accept().await
    });
    for (state, count) in [("pending", 0.0), ("ready", 1.0)] {
        let line = format!("http_balancer_endpoints{{direction=\"outbound\",endpoint_state=\"{state}\"}}");
        until(&app, &line, |n| n == count).await;
    }
    until(&app, &connections, |n| n == 1.0).await;
}

#[tokio::test]
async fn retries_are_counted_by_reason_and_beyond_their_budget() {
    let every_other = |count: usize, _, mut respond: SendResponse<Bytes>| match count % 2 {
        0 => respond.send_reset(Reason::REFUSED_STREAM),
        _ => _ = respond.send_response(Response::new(()), true),
    };
    let addr = endpoint(every_other).await;
    let app = App::start(addr, &[("LINKERD2_PROXY_CORES", "1")]);
    let mut client = connect(app.proxy).await;
    for _ in 0..5 {
        assert_eq!(ask(&mut client).await.unwrap(), 200);
    }
    until(&app, "http_retries_total{direction=\"outbound\",reason=\"refused_stream\"}", |n| n == 5.0).await;
    until(&app, "http_retries_over_budget_total{direction=\"outbound\"}", |n| n == 0.0).await;

    let none = [
        ("LINKERD2_PROXY_CORES", "1"),
        ("LINKERD2_PROXY_OUTBOUND_HTTP_RETRY_BUDGET_RATIO", "0"),
        ("LINKERD2_PROXY_OUTBOUND_HTTP_RETRY_BUDGET_MIN_PER_SECOND", "0"),
    ];
    let app = App::start(addr, &none);
    let mut client = connect(app.proxy).await;
    assert_eq!(ask(&mut client).await.unwrap(), 503);
    until(&app, "http_retries_over_budget_total{direction=\"outbound\"}", |n| n == 1.0).await;
}

#[tokio::test]
async fn endpoints_that_keep_failing_are_seen_to_be_ejected() {
    let (well, ill) = (endpoint(answer_with(200)).await, endpoint(answer_with(503)).await);
    let endpoints = format!("{well},{ill}");
    let settings = [
        (ENDPOINTS, endpoints.as_str()),
        ("LINKERD2_PROXY_CORES", "1"),
        ("LINKERD2_PROXY_OUTBOUND_SLOW_START", "0"),
        ("LINKERD2_PROXY_OUTBOUND_BREAKER_MIN_EJECTION", "1h"),
        ("LINKERD2_PROXY_OUTBOUND_BREAKER_MAX_EJECTION", "1h"),
    ];
    let app = App::start(well, &settings);
    until(&app, "http_balancer_endpoints{direction=\"outbound\",endpoint_state=\"ready\"}", |n| n == 2.0).await;
    let mut client = connect(app.proxy).await;
    let mut failures = 0;
    while failures < 7 {
        failures += u32::from(ask(&mut client).await.unwrap() == 503);
    }
    until(&app, "http_balancer_endpoints{direction=\"outbound\",endpoint_state=\"ejected\"}", |n| n == 1.0).await;
    let line = format!("http_balancer_endpoint_ejections{{direction=\"outbound\",endpoint=\"{ill}\"}}");
    until(&app, &line, |n| n == 1.0).await;
    for _ in 0..50 {
        assert_eq!(ask(&mut client).await.unwrap(), 200);
    }
}

#[tokio::test]
async fn waiting_and_failing_fast_are_counted() {
    let (addr, socket) = nobody();
    let settings = [
        ("LINKERD2_PROXY_CORES", "1"),
        ("LINKERD2_PROXY_OUTBOUND_HTTP_FAILFAST_TIMEOUT", "1h"),
        ("LINKERD2_PROXY_OUTBOUND_CONNECT_EXP_BACKOFF_MAX", "100ms"),
    ];
    let app = App::start(addr, &settings);
    let mut client = connect(app.proxy).await;
    let response = client.send_request(get(), true).unwrap().0;
    until(&app, "http_balancer_queue_length{direction=\"outbound\"}", |n| n == 1.0).await;
    serve(socket.listen(1).unwrap(), answer_with(200)).await;
    assert_eq!(response.await.unwrap().status(), 200);
    until(&app, "http_balancer_queue_length{direction=\"outbound\"}", |n| n == 0.0).await;
    until(&app, "http_balancer_queue_latency_seconds_count{direction=\"outbound\"}", |n| n == 1.0).await;
    until(&app, "http_balancer_queue_latency_seconds_sum{direction=\"outbound\"}", |n| n > 0.0).await;

    let settings = [("LINKERD2_PROXY_OUTBOUND_HTTP_FAILFAST_TIMEOUT", "1ms")];
    let (addr, _socket) = nobody();
    let app = App::start(addr, &settings);
    let mut client = connect(app.proxy).await;
    // 502 once it was tried in vain.
    assert!(matches!(ask(&mut client).await.unwrap(), 502 | 503));
    until(&app, "http_failfast_total{direction=\"outbound\"}", |n| n == 1.0).await;
    until(&app, "http_balancer_queue_latency_seconds_count{direction=\"outbound\"}", |n| n == 1.0).await;
}

#[tokio::test]
async fn requests_beyond_what_the_endpoint_takes_are_seen_to_wait_and_more_to_be_shed() {
    let endpoint = Endpoint::start().await;
    let settings = [
        ("LINKERD2_PROXY_CORES", "1"),
        ("LINKERD2_PROXY_OUTBOUND_MAX_CONNECTIONS_PER_ENDPOINT", "1"),
        ("LINKERD2_PROXY_OUTBOUND_CONNECT_HTTP2_MAX_STREAMS_PER_CONNECTION", "1"),
        ("LINKERD2_PROXY_OUTBOUND_MAX_IN_FLIGHT", "4"),
    ];
    let app = App::start(endpoint.addr, &settings);
    until(&app, "http_balancer_endpoints{direction=\"outbound\",endpoint_state=\"ready\"}", |n| n == 1.0).await;
    let mut client = connect(app.proxy).await;
    let held: Vec<_> = (0..4).map(|_| client.send_request(get(), true).unwrap().0).collect();
    until(&app, "http_balancer_queue_length{direction=\"outbound\"}", |n| n == 3.0).await;
    assert_eq!(ask(&mut client).await.unwrap(), 503);
    until(&app, "http_shed_total{direction=\"outbound\"}", |n| n == 1.0).await;
    endpoint.answer.send_replace(true);
    for response in held {
        assert_eq!(body(response).await.unwrap(), b"answer");
    }
    until(&app, "http_balancer_queue_length{direction=\"outbound\"}", |n| n == 0.0).await;
    until(&app, "http_balancer_queue_latency_seconds_count{direction=\"outbound\"}", |n| n == 3.0).await;
    let all = "http_balancer_queue_latency_seconds_bucket{le=\"100.0\",direction=\"outbound\"}";
    until(&app, all, |n| n == 3.0).await;
}

#[tokio::test]
async fn go_aways_of_endpoints_are_counted_by_code() {
    const CODES: [(Reason, &str); 3] = [
        (Reason::NO_ERROR, "NO_ERROR"),
        (Reason::ENHANCE_YOUR_CALM, "ENHANCE_YOUR_CALM"),
        (Reason::INTERNAL_ERROR, "INTERNAL_ERROR"),
    ];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = App::start(listener.local_addr().unwrap(), &[("LINKERD2_PROXY_CORES", "1")]);
    // Answers one request on each connection, and ends it with the next code.
    tokio::spawn(async move {
        for (code, _) in CODES {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (_, mut answer) = connection.accept().await.unwrap().unwrap();
            answer.send_response(Response::new(()), true).unwrap();
            // Sends the response, which an abrupt end would drop.
            let _ = poll_fn(|cx| Poll::Ready(connection.poll_closed(cx))).await;
            connection.abrupt_shutdown(code);
            let _ = poll_fn(|cx| connection.poll_closed(cx)).await;
        }
    });
    let mut client = connect(app.proxy).await;
    for (_, name) in CODES {
        assert_eq!(ask(&mut client).await.unwrap(), 200);
        app.counted(&format!("http2_go_aways_total{{direction=\"outbound\",code=\"{name}\"}} 1")).await;
    }
}
