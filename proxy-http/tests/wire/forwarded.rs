//! The client's address, as endpoints are told it.

use crate::{
    raw::Raw,
    support::{PROXY, Rig, collect, endpoint_params, get, post},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{
    Protocol,
    proxy::{Client, ForwardedField},
};
use std::net::SocketAddr;

/// The values of a field at the endpoint, of a request that had `said` in it and was sent twice.
async fn told(client: Client, name: &'static str, said: &'static str) -> Vec<Vec<String>> {
    let mut rig = Rig::for_client(&ServerParams::DEFAULT, &ClientParams::DEFAULT, PROXY, client);
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let mut req = get();
    req.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(said));
    let _response = client.send_request(req, true).unwrap();
    let mut told = Vec::new();
    for _ in 0..2 {
        let mut asked = endpoint.asked().await;
        let values = asked.request.headers().get_all(name).iter();
        told.push(values.map(|value| value.to_str().unwrap().to_owned()).collect());
        asked.respond.send_reset(h2::Reason::REFUSED_STREAM);
    }
    told
}

fn client(addr: Option<SocketAddr>, forwarded: Option<ForwardedField>) -> Client {
    Client { addr, forwarded, ..Client::default() }
}

#[tokio::test]
async fn the_address_is_added_once_however_often_a_request_is_sent() {
    let addr = Some(([192, 0, 2, 1], 7).into());
    let x = client(addr, Some(ForwardedField::XForwardedFor));
    assert_eq!(told(x, "x-forwarded-for", "10.0.0.1").await, [["10.0.0.1, 192.0.2.1"]; 2]);
    let f = client(addr, Some(ForwardedField::Forwarded));
    assert_eq!(told(f, "forwarded", "for=10.0.0.1").await, [["for=10.0.0.1, for=192.0.2.1"]; 2]);
}

#[tokio::test]
async fn a_field_that_is_off_is_left_as_it_is() {
    let addr = Some(([192, 0, 2, 1], 7).into());
    assert_eq!(told(client(addr, None), "x-forwarded-for", "10.0.0.1").await, [["10.0.0.1"]; 2]);
}

#[tokio::test]
async fn an_address_that_is_not_known_leaves_the_clients_word_not_the_last() {
    let x = client(None, Some(ForwardedField::XForwardedFor));
    assert_eq!(told(x, "x-forwarded-for", "10.0.0.1").await, [["10.0.0.1, unknown"]; 2]);
    let f = client(None, Some(ForwardedField::Forwarded));
    assert_eq!(told(f, "forwarded", "for=10.0.0.1").await, [["for=10.0.0.1, for=unknown"]; 2]);
}

/// Names of fields of proxies, and names that some servers read as these.
const OF_PROXIES: [&str; 4] = ["x-forwarded-for", "x_forwarded_for", "x-forwarded_for", "forwarded"];

/// An endpoint that merges trailers into the head would take the client's word for that of a proxy.
#[tokio::test]
async fn no_address_is_told_in_trailers() {
    let addr = Some(([192, 0, 2, 1], 7).into());
    for field in [None, Some(ForwardedField::XForwardedFor), Some(ForwardedField::Forwarded)] {
        for others in [0, 1] {
            let mut rig = Rig::for_client(&ServerParams::DEFAULT, &ClientParams::DEFAULT, PROXY, client(addr, field));
            let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
            let mut req = post();
            req.headers_mut().insert("trailer", HeaderValue::from_static("X-Forwarded-For, x-sum, forwarded"));
            let (_response, mut upload) = client.send_request(req, false).unwrap();
            upload.send_data("part".into(), false).unwrap();
            let names = OF_PROXIES.iter().copied().chain((0..others).map(|_| "x-sum"));
            let trailers = names.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("6.6.6.6")));
            upload.send_trailers(trailers.collect::<HeaderMap>()).unwrap();
            let mut asked = endpoint.asked().await;
            assert_eq!(asked.request.headers()["trailer"], "x-sum");
            let (data, trailers) = collect(asked.request.body_mut()).await.unwrap();
            assert_eq!(data, b"part");
            assert_eq!(trailers.map_or(0, |trailers| trailers.len()), others, "the rest passes");
        }
    }
}

#[tokio::test]
async fn no_address_is_told_in_trailers_of_http_1_1() {
    const REQUEST: &str = "POST /path HTTP/1.1|host: a|trailer: x-forwarded-for, Forwarded, x_forwarded_for, x-sum|\
        transfer-encoding: chunked||4|part|0|X-Forwarded-For: 6|x_forwarded_for: 6|Forwarded: for=6|x-sum: 7||";
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (Raw::new(rig.client_io.take().unwrap()), rig.endpoint().await);
    client.send(REQUEST).await;
    let mut asked = endpoint.asked().await;
    assert_eq!(asked.request.headers()["trailer"], "x-sum");
    let trailers = collect(asked.request.body_mut()).await.unwrap().1.unwrap();
    assert_eq!(trailers.keys().collect::<Vec<_>>(), ["x-sum"]);

    let mut rig = Rig::to(Protocol::Http1, endpoint_params());
    let (mut client, mut endpoint) = (Raw::new(rig.client_io.take().unwrap()), Raw::next(&rig.endpoint_ios));
    client.send(REQUEST).await;
    let head = endpoint.until("\r\n\r\n").await;
    assert!(head.contains("trailer: x-sum\r\n") && !head.to_lowercase().contains("forwarded"), "{head}");
    assert_eq!(endpoint.until("7\r\n\r\n").await, "4\r\npart\r\n0\r\nx-sum: 7\r\n\r\n");
}
