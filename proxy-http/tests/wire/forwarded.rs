//! The client's address, as endpoints are told it.

use crate::support::{PROXY, Rig, get};
use http::{HeaderName, HeaderValue};
use http_h2::{ClientParams, ServerParams};
use proxy_http::proxy::{Client, ForwardedField};
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
async fn a_field_that_is_off_or_an_address_that_is_not_known_changes_nothing() {
    let addr = Some(([192, 0, 2, 1], 7).into());
    for client in [client(addr, None), client(None, Some(ForwardedField::XForwardedFor))] {
        assert_eq!(told(client, "x-forwarded-for", "10.0.0.1").await, [["10.0.0.1"]; 2]);
    }
}
