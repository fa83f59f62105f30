//! Extended CONNECT (RFC 8441), as for WebSocket over HTTP/2, between raw h2 peers.

use crate::{
    frames::{PREFACE, Peer},
    support::{Opens, PROXY, endpoint_params, reset},
};
use bytes::Bytes;
use h2::{Reason, client, ext::Protocol, server};
use http::{Method, Request, Response};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{Connect, ConnectProtocol, Endpoints, IncomingBody, Proxy, Server, Stats, proxy::Limits};
use std::{
    future::{pending, poll_fn},
    sync::Arc,
};
use tokio::{
    io::{AsyncWriteExt as _, DuplexStream},
    sync::mpsc,
    task::yield_now,
};
use tower::{Service as _, ServiceExt as _};

/// A proxy that has been connected to its endpoint, both ends of its pipes.
async fn proxy(endpoint_takes_it: bool) -> (DuplexStream, server::Connection<DuplexStream, Bytes>) {
    let (opened, mut ios) = mpsc::unbounded_channel();
    let connect = Connect::new(Opens(opened), &ClientParams::DEFAULT).unwrap();
    let endpoints = Endpoints::fixed(["endpoint"], &connect, endpoint_params());
    let mut builder = server::Builder::new();
    if endpoint_takes_it {
        builder.enable_connect_protocol();
    }
    let endpoint = builder.handshake(ios.recv().await.unwrap()).await.unwrap();
    while !endpoints.is_ready() {
        yield_now().await;
    }
    let asked = endpoints.clone();
    let server =
        Server::new(&ServerParams::DEFAULT).unwrap().extended_connect(move || asked.is_extended_connect_enabled());
    let proxy = Proxy::new(endpoints, Arc::new(Limits::new(PROXY)), Arc::<Stats>::default());
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move { server.serve(far, proxy, pending()).await });
    (near, endpoint)
}

fn websocket() -> Request<()> {
    let req = Request::builder().method(Method::CONNECT).uri("https://test.example/chat");
    req.extension(Protocol::from_static("websocket")).header("sec-websocket-version", "13").body(()).unwrap()
}

#[tokio::test]
async fn it_is_announced_if_the_endpoint_takes_it() {
    for takes_it in [false, true] {
        let (io, _endpoint) = proxy(takes_it).await;
        let mut peer = Peer(io);
        peer.0.write_all(PREFACE).await.unwrap();
        // SETTINGS_ENABLE_CONNECT_PROTOCOL.
        assert_eq!(peer.settings().await.get(&8), takes_it.then_some(&1));
    }
}

#[tokio::test]
async fn websockets_pass_from_end_to_end() {
    let (io, mut endpoint) = proxy(true).await;
    let (mut client, connection) = client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    while !client.is_extended_connect_protocol_enabled() {
        yield_now().await;
    }
    let (response, mut upload) = client.send_request(websocket(), false).unwrap();
    let (request, mut respond) = endpoint.accept().await.unwrap().unwrap();
    tokio::spawn(async move { while endpoint.accept().await.is_some() {} });
    assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::CONNECT, "https://test.example/chat"));
    assert_eq!(request.extensions().get::<Protocol>(), Some(&Protocol::from_static("websocket")));
    assert_eq!(request.headers()["sec-websocket-version"], "13");
    let mut download = respond.send_response(Response::new(()), false).unwrap();
    let mut rsp = response.await.unwrap();
    let mut uploaded = request.into_body();
    for text in ["ping", "pong"] {
        upload.send_data(text.into(), false).unwrap();
        assert_eq!(uploaded.data().await.unwrap().unwrap(), text);
        download.send_data(text.into(), false).unwrap();
        assert_eq!(rsp.body_mut().data().await.unwrap().unwrap(), text);
    }
    upload.send_reset(Reason::CANCEL);
    assert_eq!(poll_fn(|cx| download.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
}

#[tokio::test]
async fn it_is_refused_where_it_is_not_announced() {
    let (io, _endpoint) = proxy(false).await;
    let (mut client, connection) = client::handshake::<_>(io).await.unwrap();
    tokio::spawn(connection);
    let (response, _) = client.send_request(websocket(), true).unwrap();
    assert_eq!(reset(response.await), Reason::PROTOCOL_ERROR);
}

#[tokio::test]
async fn services_see_and_send_the_protocol_as_a_type_of_this_crate() {
    let (opened, mut ios) = mpsc::unbounded_channel();
    let connect = Connect::<_, IncomingBody>::new(Opens(opened), &ClientParams::DEFAULT).unwrap();
    let mut builder = server::Builder::new();
    builder.enable_connect_protocol();
    let accepted = async { builder.handshake::<_, Bytes>(ios.recv().await.unwrap()).await };
    let (connected, accepted) = tokio::join!(connect.oneshot("endpoint"), accepted);
    let (connection, mut endpoint) = (connected.unwrap(), accepted.unwrap());
    let service = tower::service_fn(move |mut req: Request<IncomingBody>| {
        let extensions = req.extensions_mut();
        assert_eq!(extensions.get(), Some(&ConnectProtocol::WEBSOCKET));
        assert!(extensions.get::<Protocol>().is_none(), "a type of h2");
        extensions.insert(ConnectProtocol::from("echo"));
        connection.clone().call(req)
    });
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = Server::new(&ServerParams::DEFAULT).unwrap().extended_connect(|| true);
    tokio::spawn(async move { server.serve(far, service, pending()).await });
    let (mut client, connection) = client::handshake::<_>(near).await.unwrap();
    tokio::spawn(connection);
    while !client.is_extended_connect_protocol_enabled() {
        yield_now().await;
    }
    let (response, _) = client.send_request(websocket(), true).unwrap();
    let (request, mut respond) = endpoint.accept().await.unwrap().unwrap();
    tokio::spawn(async move { while endpoint.accept().await.is_some() {} });
    assert_eq!(request.extensions().get::<Protocol>().map(Protocol::as_str), Some("echo"));
    respond.send_response(Response::new(()), true).unwrap();
    assert!(response.await.unwrap().status().is_success());
}
