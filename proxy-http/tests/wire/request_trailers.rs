//! Trailers of requests, which are left out toward endpoints where that is asked for.

use crate::{
    early::PATIENCE,
    frames::{DATA, END_HEADERS, END_STREAM, Frame, HEADERS, PING, Peer, RST_STREAM, SETTINGS, WINDOW_UPDATE},
    raw::Raw,
    support::{PROXY, Rig, collect, endpoint_params, grpc, post},
};
use bytes::Bytes;
use h2::{Reason, SendStream, client};
use http::{HeaderMap, HeaderValue, Request};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{
    Endpoints, Protocol,
    proxy::{self, retry},
};
use tokio::time::timeout;

const DROPPING: proxy::Params = proxy::Params { drop_request_trailers: true, ..PROXY };

fn rig(protocol: Protocol, params: proxy::Params) -> Rig {
    Rig::of(&ServerParams::DEFAULT, &ClientParams::DEFAULT, params, |connect| {
        Endpoints::fixed(["endpoint"], &connect.protocol(protocol), endpoint_params())
    })
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("7"))])
}

async fn send(
    client: &mut client::SendRequest<Bytes>,
    req: Request<()>,
    data: &[&'static str],
) -> (client::ResponseFuture, SendStream<Bytes>) {
    let (response, mut upload) = client.send_request(req, false).unwrap();
    for data in data {
        upload.send_data((*data).into(), false).unwrap();
    }
    upload.send_trailers(trailers()).unwrap();
    (response, upload)
}

/// The frames of a request, through END_STREAM: kinds and payloads.
async fn request(endpoint: &mut Peer) -> (u32, Vec<(u8, Vec<u8>)>) {
    let mut frames = Vec::new();
    loop {
        let Frame { kind, flags, stream, payload } =
            timeout(PATIENCE, endpoint.frame()).await.expect("it is sent").expect("the connection is open");
        if matches!(kind, SETTINGS | WINDOW_UPDATE | PING) {
            continue;
        }
        assert_ne!(kind, RST_STREAM);
        frames.push((kind, payload));
        if flags & END_STREAM != 0 {
            return (stream, frames);
        }
    }
}

fn data_of(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
    frames.iter().filter(|(kind, _)| *kind == DATA).flat_map(|(_, payload)| payload.clone()).collect()
}

async fn answer(endpoint: &mut Peer, stream: u32) {
    endpoint.send(HEADERS, END_HEADERS, stream, &[0x88]).await;
    endpoint.send(DATA, END_STREAM, stream, b"hello").await;
}

#[tokio::test(start_paused = true)]
async fn data_ends_the_stream_in_the_place_of_trailers() {
    for (params, last) in [(PROXY, HEADERS), (DROPPING, DATA)] {
        for req in [post, grpc] {
            for data in [&[][..], &["part"], &["part", "rest"]] {
                let mut rig = rig(Protocol::Http2, params);
                let mut client = rig.client().await;
                let (mut endpoint, _) = Peer::accept(&mut rig).await;
                let (response, _upload) = send(&mut client, req(), data).await;
                let (stream, frames) = request(&mut endpoint).await;
                assert_eq!(frames.last().unwrap().0, last, "{data:?}");
                assert_eq!(data_of(&frames), data.concat().as_bytes());
                let headers = frames.iter().filter(|(kind, _)| *kind == HEADERS).count();
                assert_eq!(headers, if last == HEADERS { 2 } else { 1 });
                answer(&mut endpoint, stream).await;
                assert_eq!(collect(response.await.unwrap().body_mut()).await.map(|(data, _)| data).ok(), {
                    // gRPC's own trailers are not the request's.
                    Some(b"hello".to_vec())
                });
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn chunks_end_without_trailers() {
    for (params, end) in [(PROXY, "0\r\nx-sum: 7\r\n\r\n"), (DROPPING, "0\r\n\r\n")] {
        for from_http1 in [false, true] {
            let mut rig = rig(Protocol::Http1, params);
            let mut endpoint;
            if from_http1 {
                let mut client = Raw::new(rig.client_io.take().unwrap());
                endpoint = Raw::next(&rig.endpoint_ios);
                let head = "POST /path HTTP/1.1|host: a|trailer: x-sum|transfer-encoding: chunked||";
                client.send(&format!("{head}4|part|0|x-sum: 7||")).await;
                endpoint.until("\r\n\r\n").await;
                assert_eq!(endpoint.until(&format!("part\r\n{end}")).await, format!("4\r\npart\r\n{end}"));
                endpoint.send("HTTP/1.1 200 OK|content-length: 5||hello").await;
                assert_eq!(client.receive().await.body, b"hello");
            } else {
                let mut client = rig.client().await;
                endpoint = Raw::next(&rig.endpoint_ios);
                let mut req = post();
                req.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
                let (response, _upload) = send(&mut client, req, &["part"]).await;
                endpoint.until("\r\n\r\n").await;
                assert_eq!(endpoint.until(&format!("part\r\n{end}")).await, format!("4\r\npart\r\n{end}"));
                endpoint.send("HTTP/1.1 200 OK|content-length: 5||hello").await;
                assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"hello");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_sent_again_has_none_either() {
    let retry = retry::Params { gateway_errors: true, ..PROXY.retry };
    let mut rig = rig(Protocol::Http2, proxy::Params { retry, ..DROPPING });
    let mut client = rig.client().await;
    let (mut endpoint, _) = Peer::accept(&mut rig).await;
    let req = Request::get("http://test.example/").body(()).unwrap();
    let (response, _upload) = send(&mut client, req, &["part"]).await;
    let (stream, first) = request(&mut endpoint).await;
    // `:status: 503`.
    endpoint.send(HEADERS, END_HEADERS | END_STREAM, stream, &[0x48, 3, b'5', b'0', b'3']).await;
    let (stream, second) = request(&mut endpoint).await;
    for frames in [first, second] {
        assert_eq!((frames.last().unwrap().0, data_of(&frames)), (DATA, b"part".to_vec()));
    }
    answer(&mut endpoint, stream).await;
    assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"hello");
}

#[tokio::test(start_paused = true)]
async fn malformed_ones_are_refused_all_the_same() {
    let mut rig = rig(Protocol::Http2, DROPPING);
    let mut client = rig.client().await;
    let (mut endpoint, _) = Peer::accept(&mut rig).await;
    let (response, mut upload) = client.send_request(post(), false).unwrap();
    upload.send_trailers(HeaderMap::from_iter([("host".parse().unwrap(), HeaderValue::from_static("a"))])).unwrap();
    assert_eq!(crate::support::reset(response.await), Reason::PROTOCOL_ERROR);
    loop {
        let frame = timeout(PATIENCE, endpoint.frame()).await.expect("it is reset").unwrap();
        assert_eq!(frame.flags & END_STREAM & u8::from(frame.kind <= HEADERS), 0, "it never looks whole");
        if frame.kind == RST_STREAM {
            return;
        }
    }
}
