//! Connections of HTTP/1.1 of which one half is closed: a client that has said all, and a proxy that has.

use crate::{
    raw::Raw,
    support::{Asked, Endpoint, Rig},
};
use h2::Reason;
use http::Response;
use std::{future::poll_fn, time::Duration};
use tokio::{io::AsyncWriteExt as _, time::sleep};

/// A client that has sent a request and closed its half, and the request at the endpoint.
struct HalfClosed {
    client: Raw,
    asked: Asked,
    _endpoint: Endpoint,
    _rig: Rig,
}

async fn half_closed(request: &str) -> HalfClosed {
    let mut rig = Rig::defaults();
    let mut client = Raw::new(rig.client_io.take().unwrap());
    let mut endpoint = rig.endpoint().await;
    client.send(request).await;
    client.shut_down().await;
    HalfClosed { client, asked: endpoint.asked().await, _endpoint: endpoint, _rig: rig }
}

fn respond(asked: &mut Asked, status: u16) {
    let rsp = Response::builder().status(status).header("content-length", "4").body(()).unwrap();
    asked.respond.send_response(rsp, false).unwrap().send_data("done".into(), true).unwrap();
}

#[tokio::test]
async fn a_client_that_has_sent_its_last_request_whole_is_answered() {
    for request in [
        "GET / HTTP/1.1|host: a|connection: close||",
        "GET / HTTP/1.1|host: a|connection: x, Close||",
        "GET / HTTP/1.0|host: a||",
        "POST / HTTP/1.1|host: a|connection: close|content-length: 4||body",
        "POST / HTTP/1.1|host: a|connection: close|transfer-encoding: chunked||4|body|0||",
    ] {
        let HalfClosed { client, mut asked, _endpoint, _rig } = half_closed(request).await;
        tokio::task::yield_now().await;
        respond(&mut asked, 200);
        let rest = client.rest().await;
        assert!(rest.starts_with("HTTP/1.") && rest.ends_with("done"), "{request} {rest}");
    }
}

#[tokio::test]
async fn other_clients_that_go_cancel_their_requests() {
    for request in [
        "GET / HTTP/1.1|host: a||",
        "GET / HTTP/1.0|host: a|connection: keep-alive||",
        "POST / HTTP/1.1|host: a|connection: close|content-length: 5||body",
        "POST / HTTP/1.1|host: a|connection: close|transfer-encoding: chunked||4|body|",
    ] {
        let HalfClosed { client: _client, mut asked, _endpoint, _rig } = half_closed(request).await;
        assert_eq!(poll_fn(|cx| asked.respond.poll_reset(cx)).await.unwrap(), Reason::CANCEL, "{request}");
    }
}

/// Whether the proxy has given the connection up, so that a byte sent to it is answered with a reset.
async fn is_closed(client: &mut Raw) -> bool {
    client.io.write_all(b"x").await.is_err()
}

/// Reads to the end of the proxy's half.
async fn read_to_end(client: &mut Raw) {
    while client.more().await {}
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_is_not_lost_to_a_client_that_sends_on() {
    // It stops after a while, or never does.
    for (sends, closes_after) in [(5, 2), (20, 0)] {
        let mut rig = Rig::defaults();
        let mut client = Raw::new(rig.client_io.take().unwrap());
        let mut endpoint = rig.endpoint().await;
        client.send("POST / HTTP/1.1|host: a|content-length: 1000000||some").await;
        let mut asked = endpoint.asked().await;
        respond(&mut asked, 413);
        drop(asked);
        let rsp = client.receive().await;
        assert_eq!((rsp.status, &*rsp.body), (413, &b"done"[..]));
        read_to_end(&mut client).await;
        let mut seconds = 0;
        while seconds < sends && !is_closed(&mut client).await {
            sleep(Duration::from_secs(1)).await;
            seconds += 1;
        }
        if closes_after > 0 {
            assert_eq!(seconds, sends);
            sleep(Duration::from_secs(closes_after)).await;
            assert!(is_closed(&mut client).await, "it has said nothing for two seconds");
        } else {
            assert!((9..=11).contains(&seconds), "{seconds}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn answers_of_the_proxy_itself_are_not_lost_either() {
    for (request, status) in [
        ("GET / HTTP/1.1|host: a|y: ~||", 431),
        ("GET / HTTP/1.1|x y||", 400),
        ("GET / HTTP/1.1|host: a@b||", 400),
        ("GET / HTTP/1.1|host: a|content-length: +1||", 400),
    ] {
        let mut rig = Rig::defaults();
        let mut client = Raw::new(rig.client_io.take().unwrap());
        client.send(&request.replace('~', &"v".repeat(20 << 10))).await;
        assert_eq!(client.head().await.status, status);
        read_to_end(&mut client).await;
        assert!(!is_closed(&mut client).await, "{status}");
        sleep(Duration::from_secs(3)).await;
        assert!(is_closed(&mut client).await);
    }
}
