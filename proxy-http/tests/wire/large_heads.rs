//! Header lists that are larger than announced: each costs its own stream, and no other.

use crate::{
    early::PATIENCE,
    frames::{
        DATA, END_HEADERS, END_STREAM, Frame, GET, GOAWAY, HEADERS, POST, Peer, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    },
    support::{Endpoint, Others, PROXY, Rig, collect, get, grpc, reset},
};
use h2::Reason;
use http::{Request, Response};
use http_h2::{ClientParams, ServerParams};
use proxy_http::stats::{Limit, Peer as Side};
use std::collections::BTreeSet;
use tokio::time::timeout;

const CONTINUATION: u8 = 9;
const FRAME: usize = 16 << 10;
const KIB: usize = 1 << 10;

/// A literal of HPACK, of a name that no table has.
fn literal(name: &str, value: usize) -> Vec<u8> {
    let mut field = vec![0, u8::try_from(name.len()).unwrap()];
    field.extend(name.as_bytes());
    field.push(0x7f);
    let mut rest = value - 0x7f;
    while rest > 0x7f {
        field.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    field.push(rest as u8);
    field.resize(field.len() + value, b'v');
    field
}

/// Fields that count for a kibibyte each.
fn fields(count: usize) -> Vec<u8> {
    literal("x-header", KIB - "x-header".len() - 32).repeat(count)
}

impl Peer {
    /// Sends a block of fields in frames of the usual size.
    async fn send_block(&mut self, flags: u8, stream: u32, block: &[u8]) {
        let last = block.len().div_ceil(FRAME) - 1;
        for (index, part) in block.chunks(FRAME).enumerate() {
            let ends = if index == last { END_HEADERS } else { 0 };
            let (kind, flags) = if index == 0 { (HEADERS, flags) } else { (CONTINUATION, 0) };
            self.send(kind, flags | ends, stream, part).await;
        }
    }

    /// The next frame of a stream; there is none of the connection's end.
    async fn of(&mut self, stream: u32) -> Frame {
        loop {
            let frame = timeout(PATIENCE, self.frame()).await.expect("it comes").expect("it is open");
            assert_ne!(frame.kind, GOAWAY, "the connection goes on");
            if frame.stream == stream && frame.kind != WINDOW_UPDATE {
                return frame;
            }
        }
    }
}

fn limit(rig: &Rig) -> u64 {
    rig.stats.transport(Side::Client).limits().find(|(known, _)| *known == Limit::HeadersCount).unwrap().1
}

/// A client with five open requests, on which more may come after SETTINGS are agreed upon.
async fn beside_five(rig: &mut Rig) -> (Peer, Endpoint) {
    let endpoint = rig.endpoint().await;
    let (mut peer, _) = Peer::greet(rig.client_io.take().unwrap()).await;
    peer.send(SETTINGS, 1, 0, &[]).await;
    for stream in [1, 3, 5, 7, 9] {
        peer.send(HEADERS, END_HEADERS | END_STREAM, stream, GET).await;
    }
    (peer, endpoint)
}

async fn five_are_answered(peer: &mut Peer, endpoint: &mut Endpoint) {
    for _ in 0..5 {
        endpoint.asked().await.answer().send_data("answer".into(), true).unwrap();
    }
    let mut open = BTreeSet::from([1, 3, 5, 7, 9]);
    while !open.is_empty() {
        let frame = timeout(PATIENCE, peer.frame()).await.expect("it comes").expect("it is open");
        assert!(!matches!(frame.kind, GOAWAY | RST_STREAM) || frame.stream == 11, "{} {:?}", frame.kind, frame.payload);
        if frame.payload == b"answer" {
            open.remove(&frame.stream);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_requests_are_answered_with_431() {
    let one_of = |kib: usize| literal("x-header", kib * KIB - "x-header".len() - 32);
    // In the last three h2 answers by itself.
    for block in
        [fields(16), fields(20), fields(55), fields(63), one_of(20), one_of(50), fields(64), fields(100), one_of(69)]
    {
        for (head, flags) in [(GET, END_STREAM), (POST, 0)] {
            let mut rig = Rig::defaults();
            let (mut peer, mut endpoint) = beside_five(&mut rig).await;
            peer.send_block(flags, 11, &[head, &block].concat()).await;
            if flags == 0 {
                peer.send(DATA, 0, 11, b"some").await;
                peer.send(DATA, END_STREAM, 11, b"data").await;
            }
            // `:status` and 431 in Huffman's code.
            let head = peer.of(11).await;
            assert_eq!(
                (head.kind, &head.payload[..5]),
                (HEADERS, &[0x48, 0x83, 0x69, 0x90, 0xff][..]),
                "{}",
                block.len()
            );
            five_are_answered(&mut peer, &mut endpoint).await;
            assert_eq!(limit(&rig), 1, "{}", block.len());
            peer.send_block(END_STREAM, 13, &[GET, &block].concat()).await;
            assert_eq!(peer.of(13).await.kind, HEADERS);
            assert_eq!(limit(&rig), 2, "{}", block.len());
            peer.send(HEADERS, END_HEADERS | END_STREAM, 15, GET).await;
            endpoint.asked().await.answer().send_data("more".into(), true).unwrap();
            assert_eq!(peer.of(15).await.kind, HEADERS);
            assert_eq!(limit(&rig), 2, "{}", block.len());
        }
    }
    // Up to the limit they are passed on.
    let mut rig = Rig::defaults();
    let (mut peer, mut endpoint) = beside_five(&mut rig).await;
    five_are_answered(&mut peer, &mut endpoint).await;
    peer.send_block(END_STREAM, 11, &[GET, &fields(15)].concat()).await;
    let mut asked = timeout(PATIENCE, endpoint.asked()).await.expect("it is asked");
    assert_eq!(asked.request.headers().len(), 15);
    asked.answer().send_data("more".into(), true).unwrap();
    assert_eq!(peer.of(11).await.kind, HEADERS);
}

#[tokio::test(start_paused = true)]
async fn of_requests_that_are_far_too_large_end_the_connection() {
    let mut rig = Rig::defaults();
    let (mut peer, _endpoint) = beside_five(&mut rig).await;
    peer.send_block(END_STREAM, 11, &[GET, &fields(300)].concat()).await;
    assert_eq!(timeout(PATIENCE, peer.go_away()).await.expect("it is told"), Reason::ENHANCE_YOUR_CALM);
    let ended = rig.stats.transport(Side::Client).limits().find(|(known, _)| *known == Limit::Engine);
    assert_eq!(ended, Some((Limit::Engine, 1)));
}

#[tokio::test(start_paused = true)]
async fn the_answer_says_why_in_grpc_too() {
    let mut rig = Rig::defaults();
    let mut client = rig.client().await;
    let _endpoint = rig.endpoint().await;
    for (mut request, status, code) in [(get(), 431, None), (grpc(), 200, Some("8"))] {
        for _ in 0..20 {
            request.headers_mut().append("x-header", "v".repeat(1_000).parse().unwrap());
        }
        let response = client.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers().get("grpc-status").map(|code| code.to_str().unwrap()), code);
        assert_eq!(response.headers()["proxy-error"], "header list is too large");
    }
    assert_eq!(limit(&rig), 2);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_set_holds_to_the_byte() {
    for max in [100, 1_000, 30_000, 200_000] {
        let params = ServerParams { max_header_list_size: Some(max), ..ServerParams::DEFAULT };
        let mut rig = Rig::new(&params, &ClientParams::DEFAULT, PROXY);
        let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
        let request = |field: usize| Request::get("http://a/").header("x", "v".repeat(field)).body(()).unwrap();
        let pseudo = 4 * 32 + ":method:scheme:authority:path".len() + "GEThttpa/".len();
        if let Some(field) = (max as usize).checked_sub(pseudo + 32 + 1) {
            let (response, _) = client.send_request(request(field), true).unwrap();
            let mut asked = timeout(PATIENCE, endpoint.asked()).await.expect("it is asked");
            asked.respond.send_response(Response::new(()), true).unwrap();
            assert_eq!(response.await.unwrap().status(), 200, "{max}");
            let (response, _) = client.send_request(request(field + 1), true).unwrap();
            assert_eq!(response.await.unwrap().status(), 431, "{max}");
        } else {
            let (response, _) = client.send_request(request(0), true).unwrap();
            assert_eq!(response.await.unwrap().status(), 431, "{max}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_responses_are_502() {
    for count in [64, 70, 120, 250, 300] {
        let mut rig = Rig::defaults();
        let mut client = rig.client().await;
        let (mut peer, settings) = Peer::accept(&mut rig).await;
        assert_eq!(settings[&6], 64 << 10, "what is announced");
        peer.send(SETTINGS, 1, 0, &[]).await;
        let (first, _) = client.send_request(get(), true).unwrap();
        let (large, _) = client.send_request(get(), true).unwrap();
        for _ in 0..2 {
            assert!(peer.until(HEADERS).await.is_some());
        }
        peer.send_block(END_STREAM, 3, &[&[0x88], &*fields(count)].concat()).await;
        assert_eq!(timeout(PATIENCE, large).await.expect("it is answered").unwrap().status(), 502, "{count}");
        peer.send(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]).await;
        let first = timeout(PATIENCE, first).await.expect("it is answered").unwrap();
        assert_eq!(first.status(), 200, "{count}");
        assert!(rig.endpoint_ios.try_recv().is_err(), "no second connection");
    }
}

#[tokio::test(start_paused = true)]
async fn of_responses_trailers_are_no_end() {
    for (count, whole) in [(63, true), (65, false), (250, false)] {
        let mut rig = Rig::defaults();
        let mut client = rig.client().await;
        let (mut peer, _) = Peer::accept(&mut rig).await;
        peer.send(SETTINGS, 1, 0, &[]).await;
        let (first, _) = client.send_request(get(), true).unwrap();
        let (large, _) = client.send_request(get(), true).unwrap();
        for _ in 0..2 {
            assert!(peer.until(HEADERS).await.is_some());
        }
        peer.send(HEADERS, END_HEADERS, 3, &[0x88]).await;
        let mut large = large.await.unwrap();
        peer.send(DATA, 0, 3, b"some").await;
        peer.send_block(END_STREAM, 3, &fields(count)).await;
        let read = timeout(PATIENCE, collect(large.body_mut())).await.expect("it ends");
        if whole {
            assert_eq!(read.unwrap().1.unwrap().len(), count);
        } else {
            assert_eq!(reset(read), Reason::INTERNAL_ERROR, "{count}");
        }
        peer.send(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]).await;
        assert_eq!(timeout(PATIENCE, first).await.expect("it is answered").unwrap().status(), 200, "{count}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_requests_trailers_are_no_end() {
    for (count, whole) in [(15, true), (17, false), (60, false)] {
        let mut rig = Rig::defaults();
        let (mut peer, mut endpoint) = beside_five(&mut rig).await;
        five_are_answered(&mut peer, &mut endpoint).await;
        peer.send(HEADERS, END_HEADERS, 11, POST).await;
        peer.send(DATA, 0, 11, b"some").await;
        let mut asked = endpoint.asked().await;
        peer.send_block(END_STREAM, 11, &fields(count)).await;
        let read = timeout(PATIENCE, collect(asked.request.body_mut())).await.expect("it ends");
        if whole {
            assert_eq!(read.unwrap().1.unwrap().len(), count);
        } else {
            assert_eq!(reset(read), Reason::CANCEL, "{count}");
            let frame = peer.of(11).await;
            assert_eq!((frame.kind, &*frame.payload), (RST_STREAM, &[0, 0, 0, 1][..]), "{count}");
        }
        peer.send(HEADERS, END_HEADERS | END_STREAM, 13, GET).await;
        endpoint.asked().await.answer().send_data("more".into(), true).unwrap();
        assert_eq!(peer.of(13).await.kind, HEADERS);
    }
}

#[tokio::test(start_paused = true)]
async fn they_do_not_wear_a_connection_out() {
    let params = ServerParams { max_header_list_size: Some(1_000), ..ServerParams::DEFAULT };
    let mut rig = Rig::new(&params, &ClientParams::DEFAULT, PROXY);
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let others = Others::open(&mut client, &mut endpoint).await;
    let large = http::HeaderValue::try_from("v".repeat(1_000)).unwrap();
    // More than streams that h2 may reset by itself.
    for _ in 0..1_100 {
        let mut request = get();
        request.headers_mut().insert("x", large.clone());
        let (response, _) = client.send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().status(), 431);
    }
    others.finish().await;
}
