//! Malformed responses: the client's answer to each, and that the streams beside it go on, or are told at once.

use crate::{
    frames::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Peer},
    support::{PROXY, Rig, get, post},
    validate::{block, line, run, whole},
};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{Method, Request};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{
    proxy::{self, retry},
    stats::Peer as Side,
};

const CONTINUATION: u8 = 9;

/// A frame's type, its flags and its payload.
type Part = (u8, u8, Vec<u8>);

/// A head with more to come.
fn head(fields: &[u8]) -> Part {
    (HEADERS, END_HEADERS, block(fields))
}

/// A head or trailers that end the stream.
fn ends(fields: &[u8]) -> Part {
    (HEADERS, END_HEADERS | END_STREAM, block(fields))
}

fn data(bytes: &[u8]) -> Part {
    (DATA, 0, bytes.to_vec())
}

fn last(bytes: &[u8]) -> Part {
    (DATA, END_STREAM, bytes.to_vec())
}

/// A response as the client sees it.
async fn seen(response: ResponseFuture) -> String {
    match response.await {
        Ok(mut rsp) => {
            let mut fields = rsp.headers().clone();
            fields.remove("proxy-error");
            whole(line(rsp.status().as_str().to_owned(), &fields), rsp.body_mut()).await
        }
        Err(error) => format!("RST {:?}", error.reason().unwrap()),
    }
}

/// Sends a request, and waits until it is at the endpoint.
async fn ask(client: &mut SendRequest<Bytes>, peer: &mut Peer, request: Request<()>) -> ResponseFuture {
    let (response, _) = client.send_request(request, true).unwrap();
    peer.until(HEADERS).await.unwrap();
    response
}

/// What the client gets where an endpoint answers with `parts`, and if that takes others with it, what they get: the one
/// that has its head, and the one that waits for it.
async fn outcome(method: Method, parts: &[Part]) -> String {
    let (mut peer, _, mut rig) = Peer::server(&ClientParams::DEFAULT).await;
    let mut client = rig.client().await;
    let begun = ask(&mut client, &mut peer, get()).await;
    let waiting = ask(&mut client, &mut peer, get()).await;
    peer.send(HEADERS, END_HEADERS, 1, &block(b":status=200")).await;
    let request = Request::builder().method(method).uri("http://test.example/").body(()).unwrap();
    let response = ask(&mut client, &mut peer, request).await;
    for (kind, flags, payload) in parts {
        peer.send(*kind, *flags, 5, payload).await;
    }
    let got = seen(response).await;
    peer.send(DATA, END_STREAM, 1, b"ab").await;
    peer.send(HEADERS, END_HEADERS | END_STREAM, 3, &block(b":status=203")).await;
    match (&*seen(begun).await, &*seen(waiting).await) {
        ("200 [ab]", "203") => {
            let malformed = rig.stats.transport(Side::Endpoint).malformed();
            assert_eq!(malformed, [MALFORMED, CUT].contains(&&*got).into(), "{got}");
            got
        }
        (begun, waiting) => format!("{got} | {begun} | {waiting}"),
    }
}

#[track_caller]
fn check_for(method: Method, parts: &[Part], expect: &str) {
    let shown = parts.iter().map(|(kind, flags, payload)| format!("{kind} {flags} {}; ", payload.escape_ascii()));
    assert_eq!(run(outcome(method, parts)), expect, "{}", shown.collect::<String>());
}

#[track_caller]
fn check(parts: &[Part], expect: &str) {
    check_for(Method::GET, parts, expect);
}

/// One that ends with its head, 200 and these fields.
#[track_caller]
fn ok(fields: &[u8], expect: &str) {
    check(&[ends(&[b":status=200|", fields].concat())], expect);
}

/// Before the head has gone on.
const MALFORMED: &str = "502 content-length=0";
/// After it.
const CUT: &str = "RST INTERNAL_ERROR";
/// What h2 takes for a fault of the connection, where RFC 9113 section 8.1.1 has a fault of the stream in nearly all of these.
const LOST: &str = "502 content-length=0 | 200 RST INTERNAL_ERROR | 502 content-length=0";
const LOST_LATE: &str = "RST INTERNAL_ERROR | 200 RST INTERNAL_ERROR | 502 content-length=0";

#[test]
fn statuses_and_pseudo_fields() {
    ok(b"x=1", "200 x=1");
    check(&[ends(b":status=600")], "600");
    check(&[ends(b":status=999")], "999");
    check(&[head(b":status=100"), ends(b":status=200")], "200");
    check(&[head(b":status=103|link=x"), ends(b":status=200")], "200");
    check(&[head(b":status=101|x=y"), ends(b":status=200")], "200");
    check(&[ends(b":status=100")], MALFORMED);
    check(&[ends(b":status=101")], MALFORMED);
    check(&[head(b":status=100"), last(b"")], LOST);
    check(&[ends(b"x=1")], MALFORMED);
    check(&[ends(b"")], MALFORMED);
    check(&[ends(b":status=99")], LOST);
    check(&[ends(b":status=1000")], LOST);
    check(&[ends(b":status=abc")], LOST);
    check(&[ends(b":status=")], LOST);
    ok(b":status=200", MALFORMED);
    check(&[ends(b"x=1|:status=200")], MALFORMED);
    // h2 leaves it out.
    ok(b":path=/", "200");
    ok(b":unknown=1", LOST);
}

#[test]
fn fields() {
    ok(b"x=\xff", "200 x=\\xff");
    ok(b"x= 1", MALFORMED);
    ok(b"x=1\t", MALFORMED);
    ok(b"X=1", LOST);
    ok(b"=1", LOST);
    ok(b"x=a\x00", LOST);
    ok(b"x=a\r\n", LOST);
    ok(b"connection=close", MALFORMED);
    ok(b"keep-alive=timeout=5", MALFORMED);
    ok(b"proxy-connection=close", MALFORMED);
    ok(b"transfer-encoding=chunked", MALFORMED);
    ok(b"upgrade=h2c", MALFORMED);
    ok(b"http2-settings=AA", MALFORMED);
    ok(b"te=gzip", MALFORMED);
    check(
        &[(HEADERS, END_STREAM, block(b":status=200|connection=close")), (CONTINUATION, END_HEADERS, block(b"x=1"))],
        LOST,
    );
    check(&[(HEADERS, END_HEADERS, vec![0xff, 0xff, 0xff])], LOST);
}

#[test]
fn lengths() {
    check(&[head(b":status=200|content-length=2"), last(b"ab")], "200 content-length=2 [ab]");
    check(&[head(b":status=200|content-length=2|content-length=2"), last(b"ab")], "200 content-length=2 [ab]");
    check(&[head(b":status=200|content-length=2|content-length=3"), last(b"ab")], MALFORMED);
    check(&[head(b":status=200|content-length=2, 2"), last(b"ab")], MALFORMED);
    check(&[head(b":status=200|content-length=+2"), last(b"ab")], MALFORMED);
    ok(b"content-length=", MALFORMED);
    ok(b"content-length=2", MALFORMED);
    check(&[head(b":status=200|content-length=1"), last(b"ab")], CUT);
    check(&[head(b":status=200|content-length=3"), last(b"ab")], CUT);
    check(&[head(b":status=200|content-length=3"), data(b"ab"), ends(b"x=1")], CUT);
    check_for(Method::HEAD, &[ends(b":status=200|content-length=2")], "200 content-length=2");
    check_for(Method::HEAD, &[head(b":status=200|content-length=2"), last(b"")], "200 content-length=2");
    check_for(Method::HEAD, &[head(b":status=200|content-length=2"), last(b"ab")], CUT);
    check(&[ends(b":status=204|content-length=0")], "204");
    check(&[ends(b":status=204|content-length=2")], "204");
    check(&[head(b":status=204"), last(b"")], "204");
    check(&[head(b":status=204"), last(b"ab")], CUT);
    check(&[head(b":status=204|content-length=2"), last(b"ab")], CUT);
    check(&[ends(b":status=304|content-length=2")], "304 content-length=2");
    check(&[head(b":status=304"), last(b"")], "304");
    check(&[head(b":status=304"), last(b"ab")], CUT);
    check(&[head(b":status=304|content-length=2"), last(b"ab")], CUT);
    check(&[head(b":status=304|content-length=2"), last(b"")], CUT);
}

#[test]
fn order() {
    check(&[head(b":status=200"), data(b"ab"), ends(b"x=1")], "200 [ab] + x=1");
    check(&[head(b":status=200"), data(b"ab"), ends(b"x= 1")], CUT);
    check(&[head(b":status=200"), data(b"ab"), ends(b"content-length=2")], CUT);
    check(&[head(b":status=200"), data(b"ab"), ends(b"connection=close")], CUT);
    check(&[head(b":status=200"), data(b"ab"), ends(b":status=200|x=1")], "200 [ab] + x=1");
    check(&[head(b":status=200"), data(b"ab"), ends(b"X=1")], LOST_LATE);
    check(&[head(b":status=200"), data(b"ab"), head(b"x=1")], CUT);
    check(&[head(b":status=200"), head(b":status=200")], CUT);
    check(&[last(b"ab")], LOST);
    check(&[data(b"ab"), ends(b":status=200")], LOST);
    check(&[ends(b":status=200"), data(b"ab")], "200");
    check(&[ends(b":status=200"), ends(b":status=200")], "200");
    check(&[head(b":status=200"), data(b"ab"), ends(b"x=1"), last(b"ab")], "200 [ab] + x=1");
}

#[test]
fn many_on_one_connection_move_what_follows_to_another() {
    run(async {
        // As many as h2 bears, and then it ends the connection.
        let params = ClientParams { max_local_error_reset_streams: Some(8), ..ClientParams::DEFAULT };
        let (mut first, _, mut rig) = Peer::server(&params).await;
        let mut client = rig.client().await;
        let waiting = ask(&mut client, &mut first, get()).await;
        for stream in [3, 5, 7, 9, 11] {
            let response = ask(&mut client, &mut first, get()).await;
            first.send(HEADERS, END_HEADERS | END_STREAM, stream, &block(b":status=200|te=gzip")).await;
            assert_eq!(seen(response).await, MALFORMED);
        }
        // The connection finds out when it is polled next.
        first.send(HEADERS, END_HEADERS, 1, &block(b":status=100")).await;
        let (mut second, _) = Peer::accept(&mut rig).await;
        for stream in [1, 3, 5] {
            let response = ask(&mut client, &mut second, get()).await;
            second.send(HEADERS, END_HEADERS | END_STREAM, stream, &block(b":status=203")).await;
            assert_eq!(seen(response).await, "203");
        }
        first.send(HEADERS, END_HEADERS | END_STREAM, 1, &block(b":status=200")).await;
        assert_eq!(seen(waiting).await, "200");
    });
}

/// GOAWAY with this last stream and code.
fn go_away(last: u32, code: u32) -> Vec<u8> {
    [last.to_be_bytes(), code.to_be_bytes()].concat()
}

#[test]
fn what_a_goaway_leaves_out_is_sent_again_however_the_connection_ends() {
    run(async {
        const MAX: u32 = (1 << 31) - 1;
        let unknown_field = block(b":status=200|X=1");
        let cases = [
            ("an error, and closed", vec![(GOAWAY, 0, 0, go_away(1, 1))]),
            ("in two steps, and closed", vec![(GOAWAY, 0, 0, go_away(MAX, 0)), (GOAWAY, 0, 0, go_away(1, 0))]),
            ("then nonsense", vec![(GOAWAY, 0, 0, go_away(1, 0)), (DATA, 0, 0, vec![0])]),
            ("then a malformed answer", vec![(GOAWAY, 0, 0, go_away(1, 0)), (HEADERS, 5, 1, unknown_field)]),
            (
                "then answers to what it leaves out",
                vec![(GOAWAY, 0, 0, go_away(1, 0)), (HEADERS, 5, 3, block(b":status=200"))],
            ),
        ];
        for (case, frames) in cases {
            let (mut first, _, mut rig) = Peer::server(&ClientParams::DEFAULT).await;
            let mut client = rig.client().await;
            let lost = ask(&mut client, &mut first, post()).await;
            let left_out = [ask(&mut client, &mut first, post()).await, ask(&mut client, &mut first, get()).await];
            for (kind, flags, stream, payload) in frames {
                first.send(kind, flags, stream, &payload).await;
            }
            drop(first);
            let (mut second, _) = Peer::accept(&mut rig).await;
            for stream in [1, 3] {
                second.until(HEADERS).await.unwrap();
                second.send(HEADERS, END_HEADERS | END_STREAM, stream, &block(b":status=203")).await;
            }
            for response in left_out {
                assert_eq!(seen(response).await, "203", "{case}");
            }
            assert_eq!(seen(lost).await, MALFORMED, "{case}: it may have been processed");
        }
    });
}

#[test]
fn what_a_malformed_response_loses_beside_it_is_sent_again_where_the_policy_says_so() {
    run(async {
        let policy = retry::Params { gateway_errors: true, ..PROXY.retry };
        let params = proxy::Params { retry: policy, ..PROXY };
        let mut rig = Rig::new(&ServerParams::DEFAULT, &ClientParams::DEFAULT, params);
        let mut client = rig.client().await;
        let (mut first, _) = Peer::accept(&mut rig).await;
        let bad = ask(&mut client, &mut first, get()).await;
        let (again, lost) = (ask(&mut client, &mut first, get()).await, ask(&mut client, &mut first, post()).await);
        first.send(HEADERS, END_HEADERS | END_STREAM, 1, &block(b":status=200|X=1")).await;
        let (mut second, _) = Peer::accept(&mut rig).await;
        // h2 does not say whose fault it was.
        for stream in [1, 3] {
            second.until(HEADERS).await.unwrap();
            second.send(HEADERS, END_HEADERS | END_STREAM, stream, &block(b":status=203")).await;
        }
        assert_eq!([seen(bad).await, seen(again).await, seen(lost).await], ["203", "203", MALFORMED]);
    });
}
