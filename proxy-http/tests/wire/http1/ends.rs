//! Limits of time, and how connections end.

use super::{SECOND, connect, ok, respond};
use crate::{
    raw::Raw,
    support::{PROXY, Rig},
};
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use http_h2::{ClientParams, MaxConnectionAge, ServerParams};
use proxy_http::{
    Server,
    stats::{Limit, Peer},
};
use std::collections::HashMap;
use tokio::time::{Instant, sleep};

/// How often each of the last two limits was reached.
fn limits(rig: &Rig) -> [u64; 2] {
    let limits: HashMap<_, _> = rig.stats.transport(Peer::Client).limits().collect();
    [limits[&Limit::Detect], limits[&Limit::HeaderRead]]
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_say_what_it_speaks_is_closed() {
    for sent in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
        let mut rig = Rig::defaults();
        let (mut client, _endpoint) = connect(&mut rig).await;
        let started = Instant::now();
        client.send(sent).await;
        assert_eq!(client.rest().await, "");
        assert_eq!(started.elapsed().as_secs(), 10);
        assert_eq!(limits(&rig), [1, 0]);
        let transport = rig.stats.transport(Peer::Client);
        assert_eq!((transport.open_total(), transport.close_total()), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_end_closes_the_connection() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = connect(&mut rig).await;
    client.send("GET / HTTP/1.1|host: a||").await;
    // It takes as long as it takes to be answered, and to be followed by another request.
    let mut asked = endpoint.asked().await;
    sleep(3_600 * SECOND).await;
    respond(&mut asked, ok(), "body");
    assert_eq!(client.receive().await.body, b"body");
    sleep(3_600 * SECOND).await;
    assert_eq!(limits(&rig), [0, 0]);
    let started = Instant::now();
    client.send("GET / HTTP/1.1|").await;
    sleep(20 * SECOND).await;
    client.send("host: a|").await;
    assert_eq!(client.rest().await, "");
    assert_eq!(started.elapsed().as_secs(), 30);
    assert_eq!(limits(&rig), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn half_a_head_behind_a_request_waits_for_its_turn() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = connect(&mut rig).await;
    client.send("GET /1 HTTP/1.1|host: a||GET /2 HTT").await;
    let mut asked = endpoint.asked().await;
    sleep(3_600 * SECOND).await;
    respond(&mut asked, ok(), "body");
    assert_eq!(client.receive().await.body, b"body");
    client.send("P/1.1|host: a||").await;
    respond(&mut endpoint.asked().await, ok(), "body");
    assert_eq!(client.receive().await.body, b"body");
    assert_eq!(limits(&rig), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn age_and_idle_time_end_connections() {
    let age = MaxConnectionAge { age: 100 * SECOND, grace: 30 * SECOND };
    let aged = ServerParams { max_connection_age: Some(age), ..ServerParams::DEFAULT };
    let mut rig = Rig::new(&aged, &ClientParams::DEFAULT, PROXY);
    let (mut client, mut endpoint) = connect(&mut rig).await;
    client.send("GET / HTTP/1.1|host: a||").await;
    let mut asked = endpoint.asked().await;
    sleep(115 * SECOND).await;
    respond(&mut asked, ok(), "body");
    let rsp = client.receive().await;
    assert_eq!((rsp.fields["connection"].as_str(), rsp.body.as_slice()), ("close", &b"body"[..]));
    assert_eq!(client.rest().await, "");

    // A response that does not end is cut off.
    let mut rig = Rig::new(&aged, &ClientParams::DEFAULT, PROXY);
    let (mut client, mut endpoint) = connect(&mut rig).await;
    let started = Instant::now();
    client.send("GET / HTTP/1.1|host: a||").await;
    let mut sending = endpoint.asked().await.answer();
    sending.send_data("part".into(), false).unwrap();
    client.until("part").await;
    assert_eq!(client.rest().await, "\r\n");
    assert!((120..=140).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());

    let idling = ServerParams { max_connection_idle: Some(60 * SECOND), ..ServerParams::DEFAULT };
    let mut rig = Rig::new(&idling, &ClientParams::DEFAULT, PROXY);
    let (mut client, mut endpoint) = connect(&mut rig).await;
    client.send("GET / HTTP/1.1|host: a||").await;
    sleep(100 * SECOND).await;
    respond(&mut endpoint.asked().await, ok(), "body");
    client.receive().await;
    let started = Instant::now();
    assert_eq!(client.rest().await, "");
    assert_eq!(started.elapsed().as_secs(), 60);
}

#[tokio::test]
async fn drained_connections_close_after_the_request_that_is_answered() {
    let echo = || {
        tower::service_fn(|req: http::Request<_>| async {
            Ok::<_, std::convert::Infallible>(Response::new(req.into_body()))
        })
    };
    let server = Server::new(&ServerParams::DEFAULT).unwrap();
    // Drained before the first byte, in the middle of a request, and between two.
    for sent_before in
        ["", "POST / HTTP/1.1|host: a|content-length: 4||bo", "POST / HTTP/1.1|host: a|content-length: 4||body"]
    {
        let (near, far) = tokio::io::duplex(1 << 16);
        let mut client = Raw::new(near);
        let (drain, drained) = tokio::sync::oneshot::channel::<()>();
        let served = tokio::spawn({
            let (server, echo) = (server.clone(), echo());
            async move { server.serve(far, echo, async { _ = drained.await }).await }
        });
        client.send(sent_before).await;
        let whole = "POST / HTTP/1.1|host: a|content-length: 4||body";
        if sent_before == whole {
            assert_eq!(client.receive().await.body, b"body");
        } else if !sent_before.is_empty() {
            client.head().await;
        }
        drain.send(()).unwrap();
        tokio::task::yield_now().await;
        if sent_before.is_empty() {
            client.send(whole).await;
            let rsp = client.receive().await;
            assert_eq!((rsp.fields["connection"].as_str(), rsp.body.as_slice()), ("close", &b"body"[..]));
        } else if sent_before != whole {
            client.send("dy").await;
            client.until("body").await;
        }
        assert_eq!(client.rest().await, "", "{sent_before:?}");
        served.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_request_that_waits_when_a_drained_connection_is_first_read_is_answered() {
    let echo = tower::service_fn(|req: http::Request<_>| async {
        Ok::<_, std::convert::Infallible>(Response::new(req.into_body()))
    });
    let server = Server::new(&ServerParams::DEFAULT).unwrap();
    let (near, far) = tokio::io::duplex(1 << 16);
    let mut client = Raw::new(near);
    client.send("POST / HTTP/1.1|host: a|content-length: 4||body").await;
    let served = tokio::spawn(async move { server.serve(far, echo, std::future::ready(())).await });
    let rsp = client.receive().await;
    assert_eq!((rsp.fields["connection"].as_str(), rsp.body.as_slice()), ("close", &b"body"[..]));
    assert_eq!(client.rest().await, "");
    served.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_response_that_waits_for_its_reader_is_not_cut_off_by_a_drain() {
    let service = tower::service_fn(|_: http::Request<proxy_http::IncomingBody>| async {
        Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(vec![b'x'; 20_000]))))
    });
    let (near, far) = tokio::io::duplex(1_000);
    let mut client = Raw::new(near);
    let server = Server::new(&ServerParams::DEFAULT).unwrap();
    let served = tokio::spawn(async move { server.serve(far, service, sleep(SECOND)).await });
    client.send("GET / HTTP/1.1|host: a||").await;
    sleep(60 * SECOND).await;
    assert_eq!(client.receive().await.body, vec![b'x'; 20_000]);
    assert_eq!(client.rest().await, "");
    served.await.unwrap().unwrap();
}
