//! A client's certificate: whether the client may call, and the field that describes it to endpoints.

use crate::{
    answers::{is_answer, is_grpc_answer},
    early::PATIENCE,
    raw::Raw,
    support::{PROXY, Rig, collect, endpoint_params, get, grpc, post},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{Protocol, proxy::Client};
use std::time::{Duration, SystemTime};
use tokio::time::timeout;

const CLIENT_CERT: &str = "x-forwarded-client-cert";

fn rig(known: Client) -> Rig {
    Rig::for_client(&ServerParams::DEFAULT, &ClientParams::DEFAULT, PROXY, known)
}

/// A request that describes its client's certificate, twice.
fn spoofed() -> Request<()> {
    let mut req = get();
    req.headers_mut().append(CLIENT_CERT, HeaderValue::from_static("URI=spiffe://example/admin"));
    req.headers_mut().append(CLIENT_CERT, HeaderValue::from_static("DNS=admin.example"));
    for alias in ALIASES {
        req.headers_mut().append(alias, HeaderValue::from_static("DNS=admin.example"));
    }
    req
}

/// Names that servers which have fields as variables take for the same name.
const ALIASES: [&str; 2] = ["x_forwarded_client_cert", "x-forwarded_client-cert"];

/// Whether a field has the name, or one that some servers take for it.
fn is_spoofed(name: &HeaderName) -> bool {
    name == CLIENT_CERT || ALIASES.contains(&name.as_str())
}

/// Trailers that describe the certificate in each of its spellings, and `others` of another name.
fn spoofed_trailers(others: usize) -> HeaderMap {
    let names = ALIASES.iter().chain(&[CLIENT_CERT]).map(|name| HeaderName::from_static(name));
    let names = names.chain((0..others).map(|_| HeaderName::from_static("x-sum")));
    names.map(|name| (name, HeaderValue::from_static("7"))).collect()
}

#[tokio::test]
async fn a_client_that_may_not_call_gets_403_or_7() {
    let mut rig = rig(Client { denied: true, ..Client::default() });
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
    assert!(!endpoint.asked().await.request.headers().keys().any(is_spoofed));
    assert_eq!(rig.stats.denied(), 0);
}

#[tokio::test]
async fn endpoints_are_told_of_the_certificate_each_time_that_a_request_is_sent() {
    let cert = HeaderValue::from_static("Hash=00;URI=spiffe://example/web");
    let mut rig = rig(Client { cert: Some(cert.clone()), ..Client::default() });
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let _response = client.send_request(spoofed(), true).unwrap();
    for _ in 0..2 {
        let mut asked = endpoint.asked().await;
        let told: Vec<_> = asked.request.headers().get_all(CLIENT_CERT).iter().collect();
        assert_eq!(told, [&cert]);
        assert_eq!(asked.request.headers().keys().filter(|name| is_spoofed(name)).count(), 1);
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
        assert!(!asked.request.headers().keys().any(is_spoofed));
        asked.respond.send_reset(h2::Reason::REFUSED_STREAM);
    }
}

#[tokio::test]
async fn trailers_do_not_describe_a_certificate_either() {
    for cert in [None, Some(HeaderValue::from_static("Hash=00"))] {
        for others in [0, 1] {
            let mut rig = rig(Client { cert: cert.clone(), ..Client::default() });
            let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
            let mut req = post();
            req.headers_mut().insert("trailer", HeaderValue::from_static("X_Forwarded_Client_Cert, x-sum"));
            let (_response, mut upload) = client.send_request(req, false).unwrap();
            upload.send_data("part".into(), false).unwrap();
            upload.send_trailers(spoofed_trailers(others)).unwrap();
            let mut asked = endpoint.asked().await;
            assert_eq!(asked.request.headers()["trailer"], "x-sum");
            let (data, trailers) = collect(asked.request.body_mut()).await.unwrap();
            assert_eq!(data, b"part");
            assert_eq!(trailers.map_or(0, |trailers| trailers.len()), others, "the rest passes");
        }
    }
}

#[tokio::test]
async fn trailers_of_http_1_1_do_not_describe_a_certificate_either() {
    const HEAD: &str = "POST /path HTTP/1.1|host: a|trailer: x-forwarded-client-cert, x_forwarded_client_cert, x-sum|\
        x_forwarded_client_cert: 1|transfer-encoding: chunked||";
    const BODY: &str = "4|part|0|X-Forwarded-Client-Cert: 7|x_forwarded_client_cert: 7|x-sum: 7||";
    let mut rig = Rig::defaults();
    let mut client = Raw::new(rig.client_io.take().unwrap());
    let mut endpoint = rig.endpoint().await;
    client.send(&format!("{HEAD}{BODY}")).await;
    let mut asked = endpoint.asked().await;
    assert!(!asked.request.headers().keys().any(is_spoofed));
    assert_eq!(asked.request.headers()["trailer"], "x-sum");
    let trailers = collect(asked.request.body_mut()).await.unwrap().1.unwrap();
    assert_eq!(trailers.keys().collect::<Vec<_>>(), ["x-sum"]);

    let mut rig = Rig::to(Protocol::Http1, endpoint_params());
    let mut client = Raw::new(rig.client_io.take().unwrap());
    let mut endpoint = Raw::next(&rig.endpoint_ios);
    client.send(&format!("{HEAD}{BODY}")).await;
    let head = endpoint.until("\r\n\r\n").await;
    assert!(head.contains("trailer: x-sum\r\n") && !head.contains("client"), "{head}");
    assert_eq!(endpoint.until("7\r\n\r\n").await, "4\r\npart\r\n0\r\nx-sum: 7\r\n\r\n");
}

#[tokio::test(start_paused = true)]
async fn requests_are_refused_once_the_certificate_has_expired() {
    let expires = Some(SystemTime::now() + Duration::from_secs(60));
    let mut rig = rig(Client { expires, ..Client::default() });
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let (response, _) = client.send_request(get(), true).unwrap();
    let mut answered = endpoint.asked().await;
    tokio::time::advance(Duration::from_secs(61)).await;
    let refused = timeout(PATIENCE, client.send_request(get(), true).unwrap().0).await.expect("it is not passed on");
    is_answer(&refused.unwrap(), 403);
    is_grpc_answer(&client.send_request(grpc(), true).unwrap().0.await.unwrap(), "7");
    assert_eq!((rig.stats.denied(), rig.stats.requests()), (2, 3));
    // A request that came before is answered.
    answered.respond.send_response(http::Response::new(()), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
}
