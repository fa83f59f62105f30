//! Header blocks that do not end, or are larger than anyone needs.

use crate::{
    frames::{
        CONTINUATION, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, End, GET, HEADERS, Peer, check_said, frame, literal,
        request, string,
    },
    rig::{Rig, factor},
};
use bytes::Bytes;
use h2::{
    RecvStream,
    client::{self, SendRequest},
};
use http::{Request, Response};
use tokio::net::TcpStream;

/// CONTINUATIONs of one attack.
fn frames() -> usize {
    20_000 * factor()
}

/// The head of a request, which does not end with it.
fn open_head(more: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_STREAM, 1, &[&request(GET, "/bytes/1"), more].concat())
}

/// Sends a head and its CONTINUATION frames.
async fn flood(head: Vec<u8>, continuation: &[u8], count: usize) -> End {
    let rig = Rig::start().await;
    let client = Peer::client(rig.inbound, &[]).await;
    let rest = frame(CONTINUATION, 0, 1, continuation).repeat(count);
    let end = rig.beside(client.flood([head, rest].concat())).await;
    assert_eq!(end.heads, 0, "nothing is answered");
    rig.alone().await;
    rig.costs_at_most(32);
    end
}

#[tokio::test]
async fn many_small_continuations() {
    // A name of 100 bytes, one of them in each.
    let end = flood(open_head(&[0, 100]), b"a", frames()).await;
    check_said(end.go_away, ENHANCE_YOUR_CALM);
}

#[tokio::test]
async fn many_empty_continuations() {
    check_said(flood(open_head(&[]), b"", frames()).await.go_away, ENHANCE_YOUR_CALM);
}

#[tokio::test]
async fn continuations_of_a_huge_block() {
    let fields = literal("field", &[b'a'; 100]).repeat(150);
    check_said(flood(open_head(&[]), &fields, frames() / 100).await.go_away, ENHANCE_YOUR_CALM);
}

#[tokio::test]
async fn continuations_of_a_field_that_never_ends() {
    // A value of a gigabyte.
    let value = [&[0, 5][..], b"field", &[0x7f, 0xff, 0xff, 0xff, 0xff, 3]].concat();
    flood(open_head(&value), &[b'a'; 16_000], frames() / 100).await;
}

/// One large field in the table, and a block that refers to it all over: 4 KiB each byte.
#[tokio::test]
async fn hpack_bomb() {
    let rig = Rig::start().await;
    let client = Peer::client(rig.inbound, &[]).await;
    let mut block = request(GET, "/bytes/1");
    block.push(0x40);
    string(b"bomb", &mut block);
    string(&[b'a'; 4_000], &mut block);
    // The newest entry of the dynamic table.
    block.extend([0x80 | 62; 10_000]);
    let end = rig.beside(client.flood(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block))).await;
    check_said(end.go_away, ENHANCE_YOUR_CALM);
    assert_eq!(end.heads, 0);
    rig.alone().await;
    rig.costs_at_most(16);
}

/// The limit is 16 KiB: a larger head is answered, and its connection goes on.
#[tokio::test]
async fn header_lists_of_17_and_60_kib() {
    let rig = Rig::start().await;
    rig.beside(async {
        let client = connect(&rig).await;
        for _ in 0..20 * factor() {
            assert_eq!(ask(&client, 15).await.unwrap().status(), 200);
            assert_eq!(ask(&client, 17).await.unwrap().status(), 431);
            assert_eq!(ask(&client, 60).await.unwrap().status(), 431);
        }
    })
    .await;
    rig.costs_at_most(32);
}

/// A much larger head is not even read to its end.
#[tokio::test]
async fn header_lists_of_300_kib() {
    let rig = Rig::start().await;
    rig.beside(async {
        for _ in 0..20 * factor() {
            let client = connect(&rig).await;
            assert_eq!(ask(&client, 15).await.unwrap().status(), 200);
            let error = ask(&client, 300).await.unwrap_err();
            assert!(error.is_go_away() && error.is_remote() || error.is_io(), "{error:?}");
        }
    })
    .await;
    rig.alone().await;
    rig.costs_at_most(32);
}

async fn connect(rig: &Rig) -> SendRequest<Bytes> {
    let (client, connection) = client::handshake(TcpStream::connect(rig.inbound).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A request with so many fields of a kibibyte.
async fn ask(client: &SendRequest<Bytes>, kib: usize) -> Result<Response<RecvStream>, h2::Error> {
    const OVERHEAD: usize = "field".len() + 32;
    let field = "a".repeat(1024 - OVERHEAD);
    let req = (0..kib).fold(Request::get("http://test.example/bytes/1"), |req, _| req.header("field", &field));
    let mut client = client.clone().ready().await?;
    client.send_request(req.body(()).unwrap(), true)?.0.await
}
