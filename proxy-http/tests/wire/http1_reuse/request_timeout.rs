//! 408 of an endpoint of HTTP/1.1: an answer to the request, or the end of an idle connection (RFC 9110 section 15.5.9).

use super::{OK, Pool, received};
use crate::{
    raw::Raw,
    support::{Opens, PROXY, post},
};
use http::Request;
use http_body_util::Empty;
use http_h2::ClientParams;
use proxy_http::{
    Connect, Protocol,
    proxy::{self, retry},
};
use std::time::Duration;
use tokio::{sync::mpsc, time::sleep};
use tower::{Service as _, ServiceExt as _};

const TIMED_OUT: &str = "HTTP/1.1 408 Request Timeout|connection: close|content-length: 4||slow";

#[tokio::test]
async fn a_408_that_ends_the_wait_for_a_request_is_not_its_answer() {
    for (rsp, buffer, again) in [
        (TIMED_OUT, 4, true),
        ("HTTP/1.1 408 Request Timeout|connection: close||", 4, true),
        ("HTTP/1.0 408 Request Time-out||", 4, true),
        // More than is kept.
        (TIMED_OUT, 3, false),
    ] {
        let mut pool = Pool::with(proxy::Params { retry: retry::Params { buffer, ..PROXY.retry }, ..PROXY }).await;
        let first = pool.next().await;
        let (response, mut upload) = pool.client.send_request(post(), false).unwrap();
        upload.send_data("body".into(), true).unwrap();
        assert_eq!(pool.asked().await.0, first);
        pool.connections[first].until("4\r\nbody\r\n0\r\n\r\n").await;
        pool.connections[first].send(rsp).await;
        if again {
            let (second, head) = pool.asked().await;
            assert_ne!(second, first, "{rsp}");
            assert!(head.starts_with("POST /path "), "{head}");
            pool.connections[second].until("4\r\nbody\r\n0\r\n\r\n").await;
            pool.connections[second].send(OK).await;
            assert_eq!(received(response).await, (200, Some("ok".to_owned())), "{rsp}");
        } else {
            assert_eq!(received(response).await.0, 502, "{rsp}");
        }
        assert_eq!(pool.rig.stats.retries().map(|(_, count)| count).sum::<u64>(), again.into(), "{rsp}");
    }
}

#[tokio::test]
async fn a_408_to_a_connections_first_request_is_its_answer() {
    let mut pool = Pool::with(PROXY).await;
    let response = pool.send(post());
    let (first, _) = pool.asked().await;
    pool.connections[first].send(TIMED_OUT).await;
    assert_eq!(received(response).await, (408, Some("slow".to_owned())));
    assert_ne!(pool.next().await, first);
}

#[tokio::test(start_paused = true)]
async fn a_408_to_a_connection_that_has_waited_for_its_first_request_is_not_its_answer() {
    for (wait, answered) in [(Duration::ZERO, true), (Duration::from_secs(2), false)] {
        let (opened, mut ios) = mpsc::unbounded_channel();
        let mut connect = Connect::<_, Empty<bytes::Bytes>>::new(Opens(opened), &ClientParams::DEFAULT)
            .unwrap()
            .protocol(Protocol::Http1);
        let mut connection = connect.ready().await.unwrap().call("endpoint").await.unwrap();
        let mut endpoint = Raw::new(ios.recv().await.unwrap());
        sleep(wait).await;
        let req = Request::get("http://test.example/").body(Empty::new()).unwrap();
        let response = connection.try_send(req);
        endpoint.until("\r\n\r\n").await;
        endpoint.send(TIMED_OUT).await;
        match response.await {
            Ok(rsp) => assert!(answered && rsp.status() == 408),
            Err(failed) => {
                assert!(!answered && failed.request.is_some(), "{failed:?}");
                assert!(failed.to_string().contains("408"), "{failed}");
            }
        }
    }
}
