//! Fields on the wire: in the table of HPACK, or as literals that are never indexed.

use crate::{
    frames::{END_HEADERS, END_STREAM, GET, HEADERS, Peer},
    support::get,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_h2::{ClientParams, ServerParams};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

/// A field that the table has after the first head, and one behind it.
fn fields(name: &'static str) -> HeaderMap {
    let fields = [("x-tenant", "a tenant of some sixty bytes, as there are more in one's test"), (name, TRACE)];
    fields.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).into_iter().collect()
}

/// Checks the second of two equal heads: all but the last field comes from the table, and the last one if `is_indexed`.
fn check(name: &str, first: &[u8], second: &[u8], is_indexed: bool) {
    // A literal with a name of its own (RFC 7541 section 6.2.3).
    let literal = second.iter().position(|byte| *byte == 0x10);
    assert_eq!(literal.is_none(), is_indexed, "{name}: {second:x?}");
    let (indexed, literal) = second.split_at(literal.unwrap_or(second.len()));
    assert!(indexed.len() < 12, "{name}: {indexed:x?}");
    assert!(literal.is_empty() || literal.len() > TRACE.len() / 2 && first.ends_with(literal), "{name}: {literal:x?}");
}

#[tokio::test(start_paused = true)]
async fn fields_of_one_request_are_not_put_into_the_endpoints_table() {
    for (name, is_indexed) in [("traceparent", false), ("b3", false), ("grpc-trace-bin", false), ("x-trace", true)] {
        let (mut endpoint, _, mut rig) = Peer::server(&ClientParams::DEFAULT).await;
        let mut client = rig.client().await;
        let mut heads = Vec::new();
        let mut responses = Vec::new();
        for _ in 0..2 {
            let mut request = get();
            *request.headers_mut() = fields(name);
            responses.push(client.send_request(request, true).unwrap());
            heads.push(endpoint.until(HEADERS).await.unwrap());
        }
        check(name, &heads[0], &heads[1], is_indexed);
    }
}

#[tokio::test(start_paused = true)]
async fn fields_of_one_response_are_not_put_into_the_clients_table() {
    for (name, is_indexed) in [("x-request-id", false), ("traceparent", false), ("x-trace", true)] {
        let (mut client, _, mut rig) = Peer::client(&ServerParams::DEFAULT).await;
        let mut endpoint = None;
        let mut heads = Vec::new();
        for stream in [1, 3] {
            client.send(HEADERS, END_HEADERS | END_STREAM, stream, GET).await;
            if endpoint.is_none() {
                endpoint = Some(rig.endpoint().await);
            }
            let mut response = Response::new(());
            *response.headers_mut() = fields(name);
            endpoint.as_mut().unwrap().asked().await.respond.send_response(response, true).unwrap();
            heads.push(client.until(HEADERS).await.unwrap());
        }
        check(name, &heads[0], &heads[1], is_indexed);
    }
}
