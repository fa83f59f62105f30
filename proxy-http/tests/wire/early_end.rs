//! Responses that end before their requests: the endpoint gets no more of the request (RFC 9113 section 8.1, RFC 9112
//! section 9.3).

use crate::{
    early::{PATIENCE, SECOND},
    frames::{DATA, END_HEADERS, END_STREAM, Frame, HEADERS, PING, Peer, RST_STREAM, SETTINGS, WINDOW_UPDATE},
    raw::Raw,
    support::{PROXY, Rig, collect, endpoint_params, get, post},
};
use bytes::Bytes;
use h2::{Reason, SendStream, client};
use http::{Method, Request};
use http_h2::{ClientParams, FlowControl, ServerParams};
use proxy_http::{
    Protocol,
    proxy::{self, retry},
};
use tokio::time::{sleep, timeout};

/// `:status: 200`, 204 and 503.
const OK: &[u8] = &[0x88];
const NO_CONTENT: &[u8] = &[0x89];
const UNAVAILABLE: &[u8] = &[0x48, 3, b'5', b'0', b'3'];
const TRAILERS: &[u8] = &[0, 1, b'a', 1, b'b'];

type Kind = (u8, u8, &'static [u8]);

/// The frames of whole responses.
const RESPONSES: [&[Kind]; 5] = [
    &[(HEADERS, END_HEADERS | END_STREAM, OK)],
    &[(HEADERS, END_HEADERS | END_STREAM, NO_CONTENT)],
    &[(HEADERS, END_HEADERS, OK), (DATA, END_STREAM, b"hello")],
    &[(HEADERS, END_HEADERS, OK), (DATA, 0, b"hello"), (DATA, END_STREAM, b"")],
    &[(HEADERS, END_HEADERS, OK), (DATA, 0, b"hello"), (HEADERS, END_HEADERS | END_STREAM, TRAILERS)],
];

async fn next(peer: &mut Peer) -> Frame {
    loop {
        let frame = timeout(PATIENCE, peer.frame()).await.expect("a frame comes").expect("the connection is open");
        if !matches!(frame.kind, SETTINGS | WINDOW_UPDATE | PING) {
            return frame;
        }
    }
}

/// The next DATA or HEADERS of a stream, with its flags.
#[track_caller]
fn check(Frame { kind, flags, stream, payload }: Frame, expected: (u8, u8, u32)) -> Vec<u8> {
    assert_eq!((kind, flags & END_STREAM, stream), expected, "{payload:?}");
    payload
}

#[track_caller]
fn check_reset(frame: Frame, stream: u32) {
    let code = check(frame, (RST_STREAM, 0, stream));
    assert_eq!(Reason::from(u32::from_be_bytes(code.try_into().unwrap())), Reason::CANCEL);
}

async fn respond(peer: &mut Peer, stream: u32, frames: &[Kind]) {
    for (kind, flags, payload) in frames {
        peer.send(*kind, *flags, stream, payload).await;
    }
}

/// The endpoint's next frame is of a request that the client makes now.
async fn check_quiet(client: &mut client::SendRequest<Bytes>, endpoint: &mut Peer, stream: u32) {
    let (response, _) = client.send_request(get(), true).unwrap();
    check(next(endpoint).await, (HEADERS, END_STREAM, stream));
    respond(endpoint, stream, RESPONSES[0]).await;
    assert_eq!(response.await.unwrap().status(), 200);
}

/// A rig, whose client has sent a part of an upload, and its endpoint has received it.
async fn uploading(
    req: Request<()>,
) -> (Rig, client::SendRequest<Bytes>, client::ResponseFuture, SendStream<Bytes>, Peer) {
    let mut rig = Rig::defaults();
    let mut client = rig.client().await;
    let (mut endpoint, _) = Peer::accept(&mut rig).await;
    let (response, mut upload) = client.send_request(req, false).unwrap();
    upload.send_data("part".into(), false).unwrap();
    check(next(&mut endpoint).await, (HEADERS, 0, 1));
    check(next(&mut endpoint).await, (DATA, 0, 1));
    (rig, client, response, upload, endpoint)
}

#[tokio::test(start_paused = true)]
async fn an_upload_ends_with_its_response() {
    for frames in RESPONSES {
        let (_rig, mut client, response, mut upload, mut endpoint) = uploading(post()).await;
        respond(&mut endpoint, 1, frames).await;
        let (body, _) = collect(response.await.unwrap().body_mut()).await.expect("the response is whole");
        assert_eq!(body, if frames.len() > 1 { &b"hello"[..] } else { b"" });
        check_reset(next(&mut endpoint).await, 1);
        // The client's side of it is read for a while.
        upload.send_data("more".into(), false).unwrap();
        check_quiet(&mut client, &mut endpoint, 3).await;
        upload.send_data("rest".into(), true).expect("it is not reset yet");
        check_quiet(&mut client, &mut endpoint, 5).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_on_for_a_second_is_reset() {
    let (_rig, mut client, response, mut upload, mut endpoint) = uploading(post()).await;
    respond(&mut endpoint, 1, RESPONSES[2]).await;
    collect(response.await.unwrap().body_mut()).await.unwrap();
    check_reset(next(&mut endpoint).await, 1);
    sleep(2 * SECOND).await;
    let reset = timeout(PATIENCE, std::future::poll_fn(|cx| upload.poll_reset(cx))).await.unwrap();
    assert_eq!(reset.unwrap(), Reason::NO_ERROR);
    check_quiet(&mut client, &mut endpoint, 3).await;
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_waits_for_window_ends_with_its_response() {
    for frames in RESPONSES {
        let (_rig, mut client, response, mut upload, mut endpoint) = uploading(post()).await;
        upload.send_data(vec![0; 300_000].into(), true).unwrap();
        let mut received = 4;
        while received < 65_535 {
            received += check(next(&mut endpoint).await, (DATA, 0, 1)).len();
        }
        respond(&mut endpoint, 1, frames).await;
        collect(response.await.unwrap().body_mut()).await.expect("the response is whole");
        check_reset(next(&mut endpoint).await, 1);
        endpoint.send(WINDOW_UPDATE, 0, 0, &100_000_u32.to_be_bytes()).await;
        endpoint.send(WINDOW_UPDATE, 0, 1, &100_000_u32.to_be_bytes()).await;
        check_quiet(&mut client, &mut endpoint, 3).await;
    }
}

/// All of the request is on its way, but the last of it, less than a frame, waits for window.
#[tokio::test(start_paused = true)]
async fn the_last_piece_that_waits_for_window_is_not_sent_either() {
    for (end, trailers) in [("with it", false), ("behind it", false), ("behind it", true)] {
        for early_head in [false, true] {
            for frames in &RESPONSES[2..] {
                let (_rig, mut client, response, mut upload, mut endpoint) = uploading(post()).await;
                if early_head {
                    respond(&mut endpoint, 1, &frames[..1]).await;
                    // It is with the client, and the upload has a task of its own.
                    endpoint.send(PING, 0, 0, &[0; 8]).await;
                    sleep(SECOND / 100).await;
                }
                upload.send_data(vec![0; 70_000].into(), end == "with it").unwrap();
                let mut received = 4;
                while received < 65_535 {
                    received += check(next(&mut endpoint).await, (DATA, 0, 1)).len();
                }
                sleep(SECOND / 100).await;
                if trailers {
                    upload.send_trailers(http::HeaderMap::new()).unwrap();
                } else if end != "with it" {
                    upload.send_data(Bytes::new(), true).unwrap();
                }
                sleep(SECOND / 100).await;
                respond(&mut endpoint, 1, &frames[usize::from(early_head)..]).await;
                collect(response.await.unwrap().body_mut()).await.expect("the response is whole");
                check_reset(next(&mut endpoint).await, 1);
                endpoint.send(WINDOW_UPDATE, 0, 0, &100_000_u32.to_be_bytes()).await;
                endpoint.send(WINDOW_UPDATE, 0, 1, &100_000_u32.to_be_bytes()).await;
                check_quiet(&mut client, &mut endpoint, 3).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_has_stopped_does_not_keep_the_upload_going() {
    for frames in &RESPONSES[2..] {
        let mut rig = Rig::defaults();
        let client = client::Builder::new().initial_window_size(2).handshake(rig.client_io.take().unwrap()).await;
        let (mut client, connection) = client.unwrap();
        tokio::spawn(connection);
        let (mut endpoint, _) = Peer::accept(&mut rig).await;
        let (response, mut upload) = client.send_request(post(), false).unwrap();
        upload.send_data("part".into(), false).unwrap();
        check(next(&mut endpoint).await, (HEADERS, 0, 1));
        check(next(&mut endpoint).await, (DATA, 0, 1));
        respond(&mut endpoint, 1, frames).await;
        let mut response = response.await.unwrap();
        check_reset(next(&mut endpoint).await, 1);
        // The part that the client has not taken yet is all there.
        let (body, trailers) = collect(response.body_mut()).await.expect("the response is whole");
        assert_eq!((body.as_slice(), trailers.is_some()), (&b"hello"[..], frames[frames.len() - 1].2 == TRAILERS));
        upload.send_data("rest".into(), true).expect("it is not reset yet");
        check_quiet(&mut client, &mut endpoint, 3).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_has_only_begun_leaves_the_upload_alone() {
    let (_rig, mut client, response, mut upload, mut endpoint) = uploading(post()).await;
    respond(&mut endpoint, 1, &[(HEADERS, END_HEADERS, OK), (DATA, 0, b"hello")]).await;
    let mut response = response.await.unwrap();
    assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "hello");
    upload.send_data("more".into(), false).unwrap();
    assert_eq!(check(next(&mut endpoint).await, (DATA, 0, 1)), b"more");
    upload.send_data("rest".into(), true).unwrap();
    assert_eq!(check(next(&mut endpoint).await, (DATA, END_STREAM, 1)), b"rest");
    respond(&mut endpoint, 1, &[(DATA, END_STREAM, b"")]).await;
    assert_eq!(collect(response.body_mut()).await.unwrap().0, b"");
    // The request was whole: there is nothing to be reset.
    check_quiet(&mut client, &mut endpoint, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_tunnels_directions_end_each_by_itself() {
    let connect = Request::connect("test.example:443").body(()).unwrap();
    let (_rig, mut client, response, mut upload, mut endpoint) = uploading(connect).await;
    respond(&mut endpoint, 1, RESPONSES[2]).await;
    assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"hello");
    upload.send_data("more".into(), false).unwrap();
    assert_eq!(check(next(&mut endpoint).await, (DATA, 0, 1)), b"more");
    upload.send_data("rest".into(), true).unwrap();
    assert_eq!(check(next(&mut endpoint).await, (DATA, END_STREAM, 1)), b"rest");
    check_quiet(&mut client, &mut endpoint, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_is_refused_is_a_response_like_others() {
    let connect = Request::connect("test.example:443").body(()).unwrap();
    let (_rig, mut client, response, mut upload, mut endpoint) = uploading(connect).await;
    respond(&mut endpoint, 1, &[(HEADERS, END_HEADERS, UNAVAILABLE), (DATA, END_STREAM, b"no")]).await;
    assert_eq!(response.await.unwrap().status(), 503);
    check_reset(next(&mut endpoint).await, 1);
    upload.send_data("more".into(), true).unwrap();
    check_quiet(&mut client, &mut endpoint, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_to_continue_gets_the_final_response() {
    let mut req = post();
    req.headers_mut().insert("expect", "100-continue".parse().unwrap());
    let mut rig = Rig::defaults();
    let mut client = rig.client().await;
    let (mut endpoint, _) = Peer::accept(&mut rig).await;
    let (response, mut upload) = client.send_request(req, false).unwrap();
    check(next(&mut endpoint).await, (HEADERS, 0, 1));
    respond(&mut endpoint, 1, RESPONSES[2]).await;
    assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"hello");
    check_reset(next(&mut endpoint).await, 1);
    // Nothing of it was sent, and nothing is.
    upload.send_reset(Reason::CANCEL);
    check_quiet(&mut client, &mut endpoint, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_is_sent_again_with_all_of_its_upload() {
    let retry = retry::Params { gateway_errors: true, ..PROXY.retry };
    let params = proxy::Params { retry, ..PROXY };
    let mut rig = Rig::new(&ServerParams::DEFAULT, &ClientParams::DEFAULT, params);
    let mut client = rig.client().await;
    let (mut endpoint, _) = Peer::accept(&mut rig).await;
    let req = Request::builder().method(Method::GET).uri("http://test.example/").body(()).unwrap();
    let (response, mut upload) = client.send_request(req, false).unwrap();
    upload.send_data("part".into(), false).unwrap();
    check(next(&mut endpoint).await, (HEADERS, 0, 1));
    check(next(&mut endpoint).await, (DATA, 0, 1));
    respond(&mut endpoint, 1, &[(HEADERS, END_HEADERS | END_STREAM, UNAVAILABLE)]).await;
    let mut again = Vec::new();
    for _ in 0..3 {
        let frame = next(&mut endpoint).await;
        if frame.stream == 1 {
            check_reset(frame, 1);
        } else {
            again.push(frame);
        }
    }
    let part = again.pop().unwrap();
    check(again.pop().expect("a reset, HEADERS and DATA"), (HEADERS, 0, 3));
    assert_eq!(check(part, (DATA, 0, 3)), b"part");
    upload.send_data("rest".into(), true).unwrap();
    assert_eq!(check(next(&mut endpoint).await, (DATA, END_STREAM, 3)), b"rest");
    respond(&mut endpoint, 3, RESPONSES[2]).await;
    assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"hello");
    check_quiet(&mut client, &mut endpoint, 5).await;
}

#[tokio::test(start_paused = true)]
async fn answered_uploads_leave_no_window_behind() {
    // Nothing of a stream is longer than its window, and the connection's is twice that.
    let windows = FlowControl::Fixed { initial_stream_window_size: 65_535, initial_connection_window_size: 131_070 };
    let params = ServerParams { flow_control: Some(windows), ..ServerParams::DEFAULT };
    let mut rig = Rig::new(&params, &ClientParams::DEFAULT, PROXY);
    let mut client = rig.client().await;
    let (mut endpoint, _) = Peer::accept(&mut rig).await;
    for stream in (1..).step_by(2).take(50) {
        let (response, mut upload) = client.send_request(post(), false).unwrap();
        check(next(&mut endpoint).await, (HEADERS, 0, stream));
        upload.send_data(vec![0; 60_000].into(), false).unwrap();
        let mut received = 0;
        while received < 60_000 {
            received += check(next(&mut endpoint).await, (DATA, 0, stream)).len();
        }
        endpoint.send(WINDOW_UPDATE, 0, 0, &60_000_u32.to_be_bytes()).await;
        respond(&mut endpoint, stream, RESPONSES[2]).await;
        assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"hello");
        check_reset(next(&mut endpoint).await, stream);
        // As much as the stream's window lets it, at least.
        upload.send_data(vec![0; 5_000].into(), false).unwrap();
        sleep(2 * SECOND).await;
    }
    let (response, mut upload) = client.send_request(post(), false).unwrap();
    upload.send_data(vec![0; 60_000].into(), true).unwrap();
    check(next(&mut endpoint).await, (HEADERS, 0, 101));
    let mut received = 0;
    while received < 60_000 {
        let frame = next(&mut endpoint).await;
        assert_eq!((frame.kind, frame.stream), (DATA, 101));
        received += frame.payload.len();
    }
    respond(&mut endpoint, 101, RESPONSES[2]).await;
    assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"hello");
}

#[tokio::test(start_paused = true)]
async fn an_http1_client_is_read_to_the_end_of_its_upload() {
    for (head, part, rest) in
        [("content-length: 8", "part", "rest"), ("transfer-encoding: chunked", "4|part|", "4|rest|0||")]
    {
        for frames in &RESPONSES[1..] {
            let mut rig = Rig::defaults();
            let mut client = Raw::new(rig.client_io.take().unwrap());
            let (mut endpoint, _) = Peer::accept(&mut rig).await;
            client.send(&format!("POST / HTTP/1.1|host: a|{head}||{part}")).await;
            check(next(&mut endpoint).await, (HEADERS, 0, 1));
            check(next(&mut endpoint).await, (DATA, 0, 1));
            respond(&mut endpoint, 1, frames).await;
            if frames.len() > 1 {
                assert_eq!(client.receive().await.body, b"hello");
            } else {
                assert_eq!(client.head().await.status, 204);
            }
            check_reset(next(&mut endpoint).await, 1);
            // Longer than an HTTP/2 client is read, since this one may send all before it looks.
            sleep(20 * SECOND).await;
            client.send(rest).await;
            client.send("GET / HTTP/1.1|host: a||").await;
            check(next(&mut endpoint).await, (HEADERS, END_STREAM, 3));
            respond(&mut endpoint, 3, RESPONSES[2]).await;
            assert_eq!(client.receive().await.body, b"hello");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_http1_client_that_does_not_end_its_upload_is_closed() {
    let mut rig = Rig::defaults();
    let mut client = Raw::new(rig.client_io.take().unwrap());
    let (mut endpoint, _) = Peer::accept(&mut rig).await;
    client.send("POST / HTTP/1.1|host: a|content-length: 100000||part").await;
    check(next(&mut endpoint).await, (HEADERS, 0, 1));
    check(next(&mut endpoint).await, (DATA, 0, 1));
    respond(&mut endpoint, 1, RESPONSES[2]).await;
    assert_eq!(client.receive().await.body, b"hello");
    for _ in 0..29 {
        client.send("more").await;
        sleep(SECOND).await;
    }
    let rest = tokio::time::Instant::now();
    assert_eq!(client.rest().await, "");
    assert!(rest.elapsed() <= 2 * SECOND, "{:?}", rest.elapsed());
}

/// Whole responses in HTTP/1.1, with their bodies.
const HTTP1_RESPONSES: [(&str, &[u8]); 5] = [
    ("HTTP/1.1 200 OK|content-length: 5||hello", b"hello"),
    ("HTTP/1.1 200 OK|transfer-encoding: chunked||5|hello|0||", b"hello"),
    ("HTTP/1.1 200 OK|transfer-encoding: chunked||5|hello|0|a: b||", b"hello"),
    ("HTTP/1.1 204 No Content||", b""),
    ("HTTP/1.1 413 Content Too Large|content-length: 0||", b""),
];

#[tokio::test(start_paused = true)]
async fn an_http1_endpoints_connection_closes_with_the_response() {
    for (rsp, expected) in HTTP1_RESPONSES {
        for length in [None, Some(8)] {
            let mut rig = Rig::to(Protocol::Http1, endpoint_params());
            let mut client = rig.client().await;
            let mut endpoint = Raw::next(&rig.endpoint_ios);
            let mut req = post();
            req.headers_mut().extend(length.map(|length| (http::header::CONTENT_LENGTH, length.into())));
            let (response, mut upload) = client.send_request(req, false).unwrap();
            upload.send_data("part".into(), false).unwrap();
            endpoint.until("part").await;
            endpoint.send(rsp).await;
            assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, expected, "{rsp}");
            let rest = endpoint.rest().await;
            assert!(rest.is_empty() || rest == "\r\n", "{rsp}: {rest:?}");
            upload.send_data("rest".into(), true).expect("the client is read for a while");
            // The next request has another connection.
            let (response, _) = client.send_request(get(), true).unwrap();
            let mut endpoint = Raw::next(&rig.endpoint_ios);
            endpoint.until("\r\n\r\n").await;
            endpoint.send(HTTP1_RESPONSES[0].0).await;
            assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"hello");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn from_http1_to_http1_the_client_stays_and_the_endpoints_connection_closes() {
    for (rsp, expected) in HTTP1_RESPONSES {
        let mut rig = Rig::to(Protocol::Http1, endpoint_params());
        let mut client = Raw::new(rig.client_io.take().unwrap());
        let mut endpoint = Raw::next(&rig.endpoint_ios);
        client.send("POST / HTTP/1.1|host: a|expect: 100-continue|content-length: 8||part").await;
        endpoint.until("part").await;
        endpoint.send(rsp).await;
        client.until("HTTP/1.1 100 Continue\r\n\r\n").await;
        if rsp.contains(" 204 ") {
            assert_eq!(client.head().await.status, 204);
        } else {
            assert_eq!(client.receive().await.body, expected, "{rsp}");
        }
        assert_eq!(endpoint.rest().await, "", "{rsp}");
        client.send("rest").await;
        client.send("GET / HTTP/1.1|host: a||").await;
        let mut endpoint = Raw::next(&rig.endpoint_ios);
        endpoint.until("\r\n\r\n").await;
        endpoint.send(HTTP1_RESPONSES[0].0).await;
        assert_eq!(client.receive().await.body, b"hello", "{rsp}");
    }
}
