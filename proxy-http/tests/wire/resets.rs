//! The code that a stream is reset with on one side, and the code on the other side.

use crate::support::{Endpoint, Opens, Others, Rig, codes, collect, get, post, reset};
use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use http_h2::{ClientParams, ServerParams};
use proxy_http::{BoxError, Connect, IncomingBody, Server, StreamError};
use std::future::pending;
use tokio::sync::mpsc;
use tower::{ServiceExt as _, service_fn};

/// The client's code for an endpoint's code.
fn from_endpoint(code: Reason) -> Reason {
    match code {
        Reason::NO_ERROR | Reason::PROTOCOL_ERROR | Reason::HTTP_1_1_REQUIRED => Reason::INTERNAL_ERROR,
        code => code,
    }
}

#[tokio::test]
async fn endpoint_resets_before_headers() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    for code in codes() {
        let others = Others::open(&mut client, &mut endpoint).await;
        let (response, _) = client.send_request(get(), true).unwrap();
        endpoint.asked().await.respond.send_reset(code);
        if code == Reason::REFUSED_STREAM {
            // It is sent again, but not for ever.
            for _ in 0..5 {
                endpoint.asked().await.respond.send_reset(code);
            }
            assert_eq!(response.await.unwrap().status(), 503);
        } else {
            assert_eq!(reset(response.await), from_endpoint(code), "{code:?}");
        }
        others.finish().await;
    }
}

#[tokio::test]
async fn endpoint_resets_mid_body() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    for code in codes() {
        let others = Others::open(&mut client, &mut endpoint).await;
        let (response, _) = client.send_request(get(), true).unwrap();
        let mut asked = endpoint.asked().await;
        let mut body = asked.answer();
        body.send_data("part".into(), false).unwrap();
        let mut rsp = response.await.unwrap();
        assert_eq!(rsp.body_mut().data().await.unwrap().unwrap(), "part");
        body.send_reset(code);
        // CANCEL in the middle of a response is a clean end to node's clients.
        let expected = if code == Reason::CANCEL { Reason::INTERNAL_ERROR } else { from_endpoint(code) };
        assert_eq!(reset(collect(rsp.body_mut()).await), expected, "{code:?}");
        others.finish().await;
    }
}

#[tokio::test]
async fn client_resets_while_it_waits() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    for code in codes() {
        let others = Others::open(&mut client, &mut endpoint).await;
        let (_response, mut stream) = client.send_request(get(), true).unwrap();
        let mut asked = endpoint.asked().await;
        stream.send_reset(code);
        let seen = std::future::poll_fn(|cx| asked.respond.poll_reset(cx)).await.unwrap();
        assert_eq!(seen, Reason::CANCEL, "{code:?}");
        others.finish().await;
    }
}

#[tokio::test]
async fn client_resets_mid_upload() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    for code in codes() {
        let others = Others::open(&mut client, &mut endpoint).await;
        let (_response, mut stream) = client.send_request(post(), false).unwrap();
        stream.send_data("part".into(), false).unwrap();
        let mut asked = endpoint.asked().await;
        assert_eq!(asked.request.body_mut().data().await.unwrap().unwrap(), "part");
        stream.send_reset(code);
        let expected = if code == Reason::NO_ERROR { Reason::CANCEL } else { code };
        assert_eq!(reset(collect(asked.request.body_mut()).await), expected, "{code:?}");
        others.finish().await;
    }
}

#[tokio::test]
async fn client_resets_mid_response() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    for code in codes() {
        let others = Others::open(&mut client, &mut endpoint).await;
        let (response, mut stream) = client.send_request(get(), true).unwrap();
        let mut asked = endpoint.asked().await;
        let mut body = asked.answer();
        body.send_data("part".into(), false).unwrap();
        let mut rsp = response.await.unwrap();
        assert_eq!(rsp.body_mut().data().await.unwrap().unwrap(), "part");
        stream.send_reset(code);
        let seen = std::future::poll_fn(|cx| body.poll_reset(cx)).await.unwrap();
        assert_eq!(seen, Reason::CANCEL, "{code:?}");
        others.finish().await;
    }
}

#[tokio::test]
async fn client_that_is_lost_cancels_its_streams() {
    let mut rig = Rig::defaults();
    let (mut client, connection) = h2::client::handshake(rig.client_io.take().unwrap()).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut endpoint = rig.endpoint().await;
    let (_waiting, _) = client.send_request(get(), true).unwrap();
    let (_uploading, mut stream) = client.send_request(post(), false).unwrap();
    stream.send_data(bytes::Bytes::from("part"), false).unwrap();
    let mut waiting = endpoint.asked().await;
    let mut uploading = endpoint.asked().await;
    assert_eq!(uploading.request.body_mut().data().await.unwrap().unwrap(), "part");
    connection.abort();
    let seen = std::future::poll_fn(|cx| waiting.respond.poll_reset(cx)).await.unwrap();
    assert_eq!(seen, Reason::CANCEL);
    assert_eq!(reset(collect(uploading.request.body_mut()).await), Reason::CANCEL);
}

/// An error whose source has the code.
#[derive(Debug, thiserror::Error)]
#[error("failed")]
struct Failed(#[source] BoxError);

/// The error for a path, and the code that it chooses.
fn error_for(path: &str) -> (Failed, Reason) {
    let (source, code): (BoxError, _) = match path {
        "/refused" => (StreamError::REFUSED_STREAM.into(), Reason::REFUSED_STREAM),
        "/unknown" => (StreamError::new(77).into(), 77.into()),
        // A type of the engine has no meaning here.
        "/h2" => (h2::Error::from(Reason::CANCEL).into(), Reason::INTERNAL_ERROR),
        _ => ("other".into(), Reason::INTERNAL_ERROR),
    };
    (Failed(source), code)
}

const PATHS: [&str; 4] = ["/refused", "/unknown", "/h2", "/other"];

#[tokio::test]
async fn errors_of_services_and_of_bodies_choose_the_code() {
    let service = service_fn(|req: Request<IncomingBody>| async move {
        let (error, _) = error_for(req.uri().path());
        // For POST it is the body of the response that fails.
        if req.method() == "GET" {
            return Err(error);
        }
        Ok(Response::new(StreamBody::new(futures_util::stream::iter([Err::<Frame<Bytes>, _>(error)]))))
    });
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = Server::new(&ServerParams::DEFAULT).unwrap();
    tokio::spawn(async move { server.serve(far, service, pending()).await });
    let mut client = crate::support::client(near).await;
    for path in PATHS {
        let (_, code) = error_for(path);
        let uri = format!("http://test.example{path}");
        for method in ["GET", "POST"] {
            let req = Request::builder().method(method).uri(&uri).body(()).unwrap();
            let (response, _) = client.send_request(req, true).unwrap();
            let ended = async { collect(response.await?.body_mut()).await };
            assert_eq!(reset(ended.await), code, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_connection_as_a_service_passes_codes_on() {
    let (opened, mut ios) = mpsc::unbounded_channel();
    let connect = Connect::<_, IncomingBody>::new(Opens(opened), &ClientParams::DEFAULT).unwrap();
    let accepted = async { Endpoint::accept(ios.recv().await.unwrap()).await };
    let (connected, mut endpoint) = tokio::join!(connect.oneshot("endpoint"), accepted);
    let connection = connected.unwrap();
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = Server::new(&ServerParams::DEFAULT).unwrap();
    tokio::spawn(async move { server.serve(far, connection, pending()).await });
    let mut client = crate::support::client(near).await;
    for code in codes() {
        let (response, _) = client.send_request(get(), true).unwrap();
        endpoint.asked().await.respond.send_reset(code);
        assert_eq!(reset(response.await), code);
    }
}
