//! WebSockets from end to end of HTTP/1.1.

use super::{endpoint, http1};
use crate::{
    raw::Raw,
    support::{PROXY, Rig, endpoint_params},
};
use http_h2::{ClientParams, MaxConnectionAge, ServerParams};
use proxy_http::{Endpoints, Protocol, stats::Peer as Side};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const UPGRADE: &str = "GET /chat HTTP/1.1|host: test.example|connection: keep-alive, Upgrade|upgrade: WebSocket|\
                       sec-websocket-key: x3JJHMbDL1EzLkh9GBhXDw==|sec-websocket-version: 13||";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols|connection: Upgrade|upgrade: websocket|\
                        sec-websocket-accept: HSmrc0sMlYUkAGmm5OPpG2HaGWk=||";

#[tokio::test]
async fn websockets_pass_from_end_to_end() {
    let mut rig = http1();
    let mut client = Raw::new(rig.client_io.take().unwrap());
    let mut endpoint = endpoint(&mut rig).await;
    client.send(UPGRADE).await;
    let head = endpoint.until("\r\n\r\n").await;
    for field in
        ["connection: upgrade\r\n", "upgrade: WebSocket\r\n", "sec-websocket-key: x3JJ", "host: test.example\r\n"]
    {
        assert!(head.contains(field), "{head}");
    }
    // Bytes that no head may have; the first of them come with the head.
    let bytes = "\n\0content-length: 5\r\ncontent-length: 6\n\r\n\r\n";
    endpoint.send(&format!("{SWITCHED}{bytes}")).await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    for field in ["connection: upgrade\r\n", "upgrade: websocket\r\n", "sec-websocket-accept: HSmr"] {
        assert!(head.contains(field), "{head}");
    }
    assert_eq!(client.exactly(bytes.len()).await, bytes.as_bytes());
    for _ in 0..3 {
        client.send(bytes).await;
        assert_eq!(endpoint.exactly(bytes.len()).await, bytes.as_bytes());
        endpoint.send(bytes).await;
        assert_eq!(client.exactly(bytes.len()).await, bytes.as_bytes());
    }
    assert_eq!(rig.stats.responses().count(), 0, "it is counted at its end");
    drop(client);
    assert_eq!(endpoint.rest().await, "");
    let transport = rig.stats.transport(Side::Client);
    while transport.open_connections() > 0 {
        tokio::task::yield_now().await;
    }
    let statuses: Vec<_> = rig.stats.responses().map(|responses| responses.status.as_u16()).collect();
    assert_eq!(statuses, [101]);
}

#[tokio::test]
async fn an_endpoint_ends_a_websocket() {
    let mut rig = http1();
    let mut client = Raw::new(rig.client_io.take().unwrap());
    let mut endpoint = endpoint(&mut rig).await;
    client.send(UPGRADE).await;
    endpoint.until("\r\n\r\n").await;
    endpoint.send(SWITCHED).await;
    client.until("\r\n\r\n").await;
    endpoint.send("bye").await;
    drop(endpoint);
    assert_eq!(client.until("bye").await, "bye");
    client.shut_down().await;
    assert_eq!(client.rest().await, "");
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_that_is_refused_leaves_the_connection_as_it_was() {
    let mut rig = http1();
    let mut client = Raw::new(rig.client_io.take().unwrap());
    let mut endpoint = endpoint(&mut rig).await;
    client.send(UPGRADE).await;
    endpoint.until("\r\n\r\n").await;
    endpoint.send("HTTP/1.1 426 Upgrade Required|upgrade: other|connection: upgrade|content-length: 2||no").await;
    assert_eq!(client.until("no").await, "HTTP/1.1 426 Upgrade Required\r\ncontent-length: 2\r\n\r\nno");
    client.send("GET / HTTP/1.1|host: a||").await;
    endpoint.until("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    endpoint.send("HTTP/1.1 200 OK|content-length: 2||ok").await;
    client.until("ok").await;
    client.send("GET / HTTP/1.1\nhost: a||").await;
    assert!(client.rest().await.starts_with("HTTP/1.1 400 "), "the guard still stands");
}

#[tokio::test]
async fn other_upgrades_are_not_passed_on() {
    for (connection, upgrade, method) in
        [("upgrade", "h2c", "GET"), ("keep-alive", "websocket", "GET"), ("upgrade", "websocket", "POST")]
    {
        let mut rig = http1();
        let mut client = Raw::new(rig.client_io.take().unwrap());
        let mut endpoint = endpoint(&mut rig).await;
        client.send(&format!("{method} / HTTP/1.1|host: a|connection: {connection}|upgrade: {upgrade}||")).await;
        let head = endpoint.until("\r\n\r\n").await;
        assert!(!head.contains("upgrade"), "{head}");
        // And so an endpoint that goes on all the same is not believed.
        endpoint.send(SWITCHED).await;
        assert!(client.receive().await.status == 502);
    }
}

#[tokio::test(start_paused = true)]
async fn websockets_outlive_a_drain_but_not_the_grace_of_their_age() {
    let age = MaxConnectionAge { age: Duration::from_secs(100), grace: Duration::from_secs(30) };
    let aged = ServerParams { max_connection_age: Some(age), ..ServerParams::DEFAULT };
    let mut rig = Rig::of(&aged, &ClientParams::DEFAULT, PROXY, |connect| {
        Endpoints::fixed(["endpoint"], &connect.protocol(Protocol::Http1), endpoint_params())
    });
    let mut client = Raw::new(rig.client_io.take().unwrap());
    let mut endpoint = endpoint(&mut rig).await;
    let started = Instant::now();
    client.send(UPGRADE).await;
    endpoint.until("\r\n\r\n").await;
    endpoint.send(SWITCHED).await;
    client.until("\r\n\r\n").await;
    sleep(Duration::from_secs(115)).await;
    client.send("ping").await;
    assert_eq!(endpoint.exactly(4).await, b"ping");
    assert_eq!(client.rest().await, "");
    assert!((120..=140).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}
