//! Records of the requests of HTTP/1.1 clients.

use super::{SECOND, connect, reset, status};
use crate::{
    raw::Raw,
    support::{PROXY, Rig, collect},
};
use h2::Reason;
use http_h2::{ClientParams, MaxConnectionAge, ServerParams};
use proxy_http::stats::{ProxyError, ResetBy};
use tokio::time::{sleep, timeout};

#[tokio::test(start_paused = true)]
async fn requests_of_http1_have_records_too() {
    let mut rig = Rig::defaults();
    let (io, mut records) = connect(&rig);
    let (mut client, mut endpoint) = (Raw::new(io), rig.endpoint().await);
    client.send("POST / HTTP/1.1|host: a|content-length: 3||one").await;
    let mut asked = endpoint.asked().await;
    collect(asked.request.body_mut()).await.unwrap();
    asked.answer().send_data("four".into(), true).unwrap();
    assert_eq!(client.receive().await.body, b"four");
    let end = records.one().await;
    assert_eq!((status(&end), end.request_bytes, end.response_bytes, end.reset), (Some(200), 3, 4, None));

    // An endpoint's reset, before the head: 502.
    client.send("POST / HTTP/1.1|host: a|content-length: 0||").await;
    endpoint.asked().await.respond.send_reset(Reason::INTERNAL_ERROR);
    assert_eq!(client.receive().await.status, 502);
    let end = records.one().await;
    assert_eq!((status(&end), end.proxy_error, end.reset), (Some(502), Some(ProxyError::ConnectionLost), None));

    // A request that goes no further.
    client.send("GET / HTTP/1.1|host: a|host: b||").await;
    assert_eq!(client.head().await.status, 400);
    let end = records.one().await;
    assert_eq!((status(&end), end.proxy_error, end.attempts), (Some(400), Some(ProxyError::BadRequest), 0));
}

#[tokio::test(start_paused = true)]
async fn the_one_that_closes_a_connection_of_http1_is_named() {
    let age = Some(MaxConnectionAge { age: 10 * SECOND, grace: SECOND });
    for has_head in [false, true] {
        for closes in [ResetBy::Client, ResetBy::Proxy] {
            let server = ServerParams { max_connection_age: age, ..ServerParams::DEFAULT };
            let mut rig = Rig::new(&server, &ClientParams::DEFAULT, PROXY);
            let (io, mut records) = connect(&rig);
            let (mut client, mut endpoint) = (Raw::new(io), rig.endpoint().await);
            client.send("GET / HTTP/1.1|host: a||").await;
            let mut asked = endpoint.asked().await;
            let _to = has_head.then(|| asked.answer());
            if has_head {
                client.head().await;
            }
            if closes == ResetBy::Client {
                drop(client);
            } else {
                sleep(20 * SECOND).await;
            }
            let end = records.one().await;
            assert_eq!((status(&end), end.reset), (has_head.then_some(200), reset(closes, None)), "{end:?}");
            let is_proxys = closes == ResetBy::Proxy;
            assert_eq!(end.proxy_error, is_proxys.then_some(ProxyError::Closing));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn requests_of_http1_that_cannot_be_parsed_have_records() {
    let large = format!("GET / HTTP/1.1|host: a|x: {}||", "x".repeat(100_000));
    for (request, answered, error) in [
        ("GET / HTTP/1.1|host a||", 400, ProxyError::BadRequest),
        ("POST / HTTP/1.1|host: a|content-length: 1|transfer-encoding: chunked||", 400, ProxyError::BadRequest),
        (&large, 431, ProxyError::HeadTooLarge),
    ] {
        let rig = Rig::defaults();
        let (io, mut records) = connect(&rig);
        let mut client = Raw::new(io);
        client.send(request).await;
        assert_eq!(client.head().await.status, answered);
        let (version, end) = timeout(60 * SECOND, records.ends.recv()).await.expect("it ends").unwrap();
        assert_eq!((status(&end), end.proxy_error, end.attempts), (Some(answered), Some(error), 0), "{request:.60}");
        assert_eq!(version, "HTTP/1.1");
        assert!(end.is_failure() && records.ends.try_recv().is_err());
    }
}
