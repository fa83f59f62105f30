//! The protocol of connections to endpoints.

use super::{
    Rig, WEB, answered, first,
    mock::{Mock, weighted},
};
use crate::{
    destinations::{endpoint, http1_endpoint},
    support::PATIENCE,
};
use linkerd2_proxy_api::destination::{
    ProtocolHint, WeightedAddr,
    protocol_hint::{H2, Opaque, Protocol},
};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

fn hinted(addr: SocketAddr, protocol: Protocol) -> WeightedAddr {
    let protocol_hint = Some(ProtocolHint { protocol: Some(protocol), opaque_transport: None });
    WeightedAddr { protocol_hint, ..weighted(addr) }
}

/// The response to a request of an HTTP/1.1 client.
async fn ask_http1(rig: &Rig) -> String {
    let mut client = TcpStream::connect(rig.app.proxy).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: other.example\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut rsp = String::new();
    timeout(PATIENCE, client.read_to_string(&mut rsp)).await.expect("it is answered").unwrap();
    rsp
}

#[tokio::test]
async fn endpoints_are_spoken_to_as_each_client_speaks() {
    let mock = Mock::start().await;
    let (http2, http1) = (endpoint("http2").await, http1_endpoint("http1").await);
    let rig = Rig::start(mock.addr, &[]).await;
    // `h2` says that HTTP/1.1 may be upgraded, which is not done: an endpoint of the mesh takes it as it is.
    let (sent, asked) = first(&rig, &mock, WEB).await;
    asked.add([hinted(http2, Protocol::H2(H2 {}))]);
    assert_eq!(sent.await.unwrap(), answered(200, "http2"));
    let (rsp, asked) = tokio::join!(ask_http1(&rig), async {
        let asked = mock.asked().await;
        asked.add([hinted(http1, Protocol::H2(H2 {}))]);
        asked
    });
    assert_eq!(asked.path(), "other.example:80");
    assert!(rsp.starts_with("HTTP/1.1 200") && rsp.contains("back-end: http1\r\n"), "{rsp}");
}

#[tokio::test]
async fn an_opaque_endpoint_gets_no_requests() {
    let mock = Mock::start().await;
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let rig = Rig::start(mock.addr, &[]).await;
    let (sent, asked) = first(&rig, &mock, WEB).await;
    asked.add([hinted(a, Protocol::Opaque(Opaque {}))]);
    let (status, by) = sent.await.unwrap();
    assert!(status == 503 && by.contains("opaque TCP"), "{status} {by}");
    asked.add([weighted(b)]);
    rig.until(WEB, 200, "b").await;
}
