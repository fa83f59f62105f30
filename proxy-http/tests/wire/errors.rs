//! The questions that errors answer.

use crate::{
    raw::Raw,
    support::{Opens, PROXY, Rig, get},
};
use bytes::Bytes;
use h2::server;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{
    BoxError, Connect, IncomingBody, Protocol, Server, body,
    client::{ConnectError, Error},
    hyper as by_hyper, proxy,
    server::Accepted,
};
use std::{future::pending, io, time::Duration};
use tokio::{io::DuplexStream, sync::mpsc, time::sleep};
use tower::{Service as _, ServiceExt as _, service_fn};

const SECOND: Duration = Duration::from_secs(1);

/// Which of the questions to an error are answered with yes.
fn answers(error: &Error) -> Vec<&'static str> {
    let all = [
        ("connection_lost", error.is_connection_lost()),
        ("request_broken", error.is_request_broken()),
        ("request_too_large", error.is_request_too_large()),
        ("response_malformed", error.is_response_malformed()),
        ("stalled", error.is_stalled()),
        ("unprocessed", error.is_unprocessed()),
    ];
    all.into_iter().filter_map(|(name, yes)| yes.then_some(name)).collect()
}

fn body_answers(error: &body::Error) -> Vec<&'static str> {
    let all = [
        ("connection_lost", error.is_connection_lost()),
        ("given_up", error.is_given_up()),
        ("malformed", error.is_malformed()),
        ("timeout", error.is_timeout()),
    ];
    all.into_iter().filter_map(|(name, yes)| yes.then_some(name)).collect()
}

fn connect_answers(error: &ConnectError) -> Vec<&'static str> {
    let all =
        [("handshake", error.is_handshake()), ("timeout", error.is_timeout()), ("transport", error.is_transport())];
    all.into_iter().filter_map(|(name, yes)| yes.then_some(name)).collect()
}

type Endpoint = server::Connection<DuplexStream, Bytes>;

/// A connection to an endpoint, and the endpoint's end.
async fn connect<B>(params: &ClientParams, builder: &server::Builder) -> (proxy_http::SendRequest<B>, Endpoint)
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (opened, mut ios) = mpsc::unbounded_channel();
    let connect = Connect::new(Opens(opened), params).unwrap();
    let accepted = async { builder.handshake(ios.recv().await.unwrap()).await };
    let (connected, accepted) = tokio::join!(connect.oneshot("endpoint"), accepted);
    (connected.unwrap(), accepted.unwrap())
}

/// Accepts requests and answers none.
fn accept(mut endpoint: Endpoint) {
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Some(Ok(request)) = endpoint.accept().await {
            open.push(request);
        }
    });
}

fn request<B>(body: B) -> Request<B> {
    Request::post("http://test.example/").body(body).unwrap()
}

/// A body of one chunk that ends with an error after a second.
fn broken() -> impl Body<Data = Bytes, Error = io::Error> + Send + Unpin + 'static {
    let frames = futures_util::stream::unfold(0, |sent| async move {
        if sent == 1 {
            sleep(SECOND).await;
        }
        let frame = if sent == 0 { Ok(Frame::data("part".into())) } else { Err(io::Error::other("broken")) };
        (sent < 2).then_some((frame, sent + 1))
    });
    StreamBody::new(Box::pin(frames))
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_response() {
    let params = ClientParams { write_stall_timeout: Some(SECOND), ..ClientParams::DEFAULT };

    let (mut client, mut endpoint) = connect(&params, &server::Builder::new()).await;
    let lost = async {
        let _request = endpoint.accept().await.unwrap().unwrap();
        drop(endpoint);
    };
    let (failed, ()) = tokio::join!(client.call(request(Empty::new())), lost);
    assert_eq!(answers(&failed.unwrap_err()), ["connection_lost"]);

    let (mut client, endpoint) = connect(&params, &server::Builder::new()).await;
    accept(endpoint);
    assert_eq!(answers(&client.call(request(broken())).await.unwrap_err()), ["request_broken"]);

    let (mut client, endpoint) = connect(&params, &server::Builder::new()).await;
    accept(endpoint);
    let large = Full::new(Bytes::from(vec![0; 1 << 20]));
    assert_eq!(answers(&client.call(request(large)).await.unwrap_err()), ["stalled"]);

    let (mut client, endpoint) = connect(&params, server::Builder::new().max_header_list_size(100)).await;
    accept(endpoint);
    let mut req = request(Empty::new());
    req.headers_mut().insert("x", "y".repeat(100).parse().unwrap());
    assert_eq!(answers(&client.call(req).await.unwrap_err()), ["request_too_large", "unprocessed"]);
}

#[tokio::test(start_paused = true)]
async fn bodies_that_break_off() {
    let respond = || Response::builder().header("content-length", "4").body(()).unwrap();

    let (mut client, mut endpoint) = connect(&ClientParams::DEFAULT, &server::Builder::new()).await;
    let lost = async {
        let (_, mut respond_to) = endpoint.accept().await.unwrap().unwrap();
        let _body = respond_to.send_response(respond(), false).unwrap();
        tokio::select! {
            _ = endpoint.accept() => panic!("one request"),
            () = sleep(SECOND) => {}
        }
        drop(endpoint);
    };
    let read = async { client.call(request(Empty::<Bytes>::new())).await.unwrap().into_body().collect().await };
    let (failed, ()) = tokio::join!(read, lost);
    assert_eq!(body_answers(&failed.unwrap_err()), ["connection_lost"]);

    let (mut client, mut endpoint) = connect(&ClientParams::DEFAULT, &server::Builder::new()).await;
    let serve = async move {
        while let Some(Ok((_, mut respond_to))) = endpoint.accept().await {
            let mut body = respond_to.send_response(respond(), false).unwrap();
            body.send_data("12345".into(), true).unwrap();
        }
    };
    tokio::spawn(serve);
    let rsp = client.call(request(Empty::<Bytes>::new())).await.unwrap();
    assert_eq!(body_answers(&rsp.into_body().collect().await.unwrap_err()), ["malformed"]);

    let (mut client, mut endpoint) = connect(&ClientParams::DEFAULT, &server::Builder::new()).await;
    let serve = async move {
        let mut open = Vec::new();
        while let Some(Ok((req, mut respond_to))) = endpoint.accept().await {
            open.push((req, respond_to.send_response(respond(), false).unwrap()));
        }
    };
    tokio::spawn(serve);
    let rsp = client.call(request(broken())).await.unwrap();
    assert_eq!(body_answers(&rsp.into_body().collect().await.unwrap_err()), ["given_up"]);
}

#[tokio::test(start_paused = true)]
async fn a_body_whose_request_has_a_deadline() {
    let params = proxy::Params { request_timeout: Some(SECOND), ..PROXY };
    let mut rig = Rig::new(&ServerParams::DEFAULT, &ClientParams::DEFAULT, params);
    let (failed, mut failures) = mpsc::unbounded_channel();
    let proxy = rig.proxy.clone();
    let service = service_fn(move |req: Request<IncomingBody>| {
        let (response, failed) = (proxy.clone().call(req), failed.clone());
        async move {
            let error = response.await?.into_body().collect().await.unwrap_err();
            failed.send(body_answers(&error)).unwrap();
            Ok::<_, proxy::Error>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = Server::new(&ServerParams::DEFAULT).unwrap();
    tokio::spawn(async move { server.serve(far, service, pending()).await });
    let mut client = crate::support::client(near).await;
    let mut endpoint = rig.endpoint().await;
    let _response = client.send_request(get(), true).unwrap();
    let mut asked = endpoint.asked().await;
    let _body = asked.answer();
    assert_eq!(failures.recv().await.unwrap(), ["timeout"]);
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_not_made() {
    let refuse =
        service_fn(|_: &str| async { Err::<DuplexStream, _>(io::Error::from(io::ErrorKind::ConnectionRefused)) });
    let hang = service_fn(|_: &str| pending::<io::Result<DuplexStream>>());
    // The far end is closed.
    let close = service_fn(|_: &str| async { Ok::<_, io::Error>(tokio::io::duplex(1 << 10).0) });
    let (opened, _open) = mpsc::unbounded_channel();

    let connect = Connect::<_, Empty<Bytes>>::new(refuse, &ClientParams::DEFAULT).unwrap();
    assert_eq!(connect_answers(&connect.oneshot("endpoint").await.unwrap_err()), ["transport"]);
    let connect = Connect::<_, Empty<Bytes>>::new(hang, &ClientParams::DEFAULT).unwrap().timeout(SECOND);
    assert_eq!(connect_answers(&connect.oneshot("endpoint").await.unwrap_err()), ["timeout"]);
    let connect = Connect::<_, Empty<Bytes>>::new(close, &ClientParams::DEFAULT).unwrap();
    assert_eq!(connect_answers(&connect.oneshot("endpoint").await.unwrap_err()), ["handshake"]);
    let connect = Connect::<_, Empty<Bytes>>::new(Opens(opened), &ClientParams::DEFAULT).unwrap();
    let connect = connect.handshake_timeout(SECOND);
    assert_eq!(connect_answers(&connect.oneshot("endpoint").await.unwrap_err()), ["handshake", "timeout"]);

    let connect = by_hyper::Connect::<_, Empty<Bytes>>::new(refuse, &ClientParams::DEFAULT).unwrap();
    let error = connect.oneshot("endpoint").await.unwrap_err();
    assert!(error.is_transport() && !error.is_handshake());
    let connect = by_hyper::Connect::<_, Empty<Bytes>>::new(close, &ClientParams::DEFAULT).unwrap();
    let error = connect.oneshot("endpoint").await.unwrap_err();
    assert!(!error.is_transport() && error.is_handshake());
}

#[tokio::test]
async fn clients_that_go_are_told_from_clients_that_break_the_protocol() {
    let echo = service_fn(|req: Request<IncomingBody>| async { Ok::<_, io::Error>(Response::new(req.into_body())) });
    for (protocol, sent, disconnect) in [
        (Protocol::Http2, "PRI * HTTP/2.0||SM||", true),
        (Protocol::Http2, "GET / HTTP/1.1||", false),
        (Protocol::Http1, "GET / HTTP/1.1|host", true),
    ] {
        let (near, far) = tokio::io::duplex(1 << 16);
        let server = Server::new(&ServerParams::DEFAULT).unwrap();
        let accepted = Accepted { protocol: Some(protocol), ..Accepted::default() };
        let served = tokio::spawn(async move { server.serve_accepted(accepted, far, echo, pending()).await });
        let mut client = Raw::new(near);
        client.send(sent).await;
        // A client that has gone cannot be told of its error.
        let client = (!disconnect).then_some(client);
        let error = served.await.unwrap().unwrap_err();
        drop(client);
        assert_eq!(error.is_disconnect(), disconnect, "{sent}: {error:?}");
    }
}
