//! A client's certificate: whether the client may call, and the field that describes it to endpoints.

use crate::{
    answers::{is_answer, is_grpc_answer},
    support::{PROXY, Rig, get, grpc},
};
use http::{HeaderValue, Request};
use http_h2::{ClientParams, ServerParams};
use proxy_http::proxy::Client;

const CLIENT_CERT: &str = "x-forwarded-client-cert";

fn rig(known: Client) -> Rig {
    Rig::for_client(&ServerParams::DEFAULT, &ClientParams::DEFAULT, PROXY, known)
}

/// A request that describes its client's certificate, twice.
fn spoofed() -> Request<()> {
    let mut req = get();
    req.headers_mut().append(CLIENT_CERT, HeaderValue::from_static("URI=spiffe://example/admin"));
    req.headers_mut().append(CLIENT_CERT, HeaderValue::from_static("DNS=admin.example"));
    req
}

#[tokio::test]
async fn a_client_that_may_not_call_gets_403_or_7() {
    let mut rig = rig(Client { denied: true, cert: None });
    let mut client = rig.client().await;
    is_answer(&client.send_request(get(), true).unwrap().0.await.unwrap(), 403);
    is_grpc_answer(&client.send_request(grpc(), true).unwrap().0.await.unwrap(), "7");
    assert_eq!((rig.stats.denied(), rig.stats.requests()), (2, 2));
}

#[tokio::test]
async fn endpoints_are_not_told_what_a_client_says_of_its_certificate() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let _response = client.send_request(spoofed(), true).unwrap();
    assert!(!endpoint.asked().await.request.headers().contains_key(CLIENT_CERT));
    assert_eq!(rig.stats.denied(), 0);
}

#[tokio::test]
async fn endpoints_are_told_of_the_certificate_each_time_that_a_request_is_sent() {
    let cert = HeaderValue::from_static("Hash=00;URI=spiffe://example/web");
    let mut rig = rig(Client { denied: false, cert: Some(cert.clone()) });
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let _response = client.send_request(spoofed(), true).unwrap();
    for _ in 0..2 {
        let mut asked = endpoint.asked().await;
        let told: Vec<_> = asked.request.headers().get_all(CLIENT_CERT).iter().collect();
        assert_eq!(told, [&cert]);
        // It is sent again.
        asked.respond.send_reset(h2::Reason::REFUSED_STREAM);
    }
}

#[tokio::test]
async fn what_a_client_says_is_left_out_again_when_its_request_is_sent_again() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let _response = client.send_request(spoofed(), true).unwrap();
    for _ in 0..2 {
        let mut asked = endpoint.asked().await;
        assert!(!asked.request.headers().contains_key(CLIENT_CERT));
        asked.respond.send_reset(h2::Reason::REFUSED_STREAM);
    }
}
