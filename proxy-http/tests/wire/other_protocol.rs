//! Endpoints that speak another protocol than the one that they are spoken to in: the answer names it.

use crate::{
    raw::Opened,
    support::{PROXY, Rig, endpoint_params, get},
};
use http::StatusCode;
use http_h2::{ClientParams, ServerParams};
use proxy_http::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";
/// A fatal alert: unexpected message, record overflow, or protocol version.
const ALERTS: [&[u8]; 2] = [b"\x15\x03\x01\0\x02\x02\x0a", b"\x15\x03\x03\0\x02\x02\x46"];

/// An endpoint that sends bytes on each connection, at once or after the first bytes that come, and closes it.
async fn says(mut opened: Opened, bytes: &'static [u8], at_once: bool) {
    while let Some(mut io) = opened.recv().await {
        if !at_once {
            let _ = io.read_u8().await;
        }
        let _ = io.write_all(bytes).await;
        let _ = io.shutdown().await;
        tokio::spawn(async move { while io.read_u8().await.is_ok() {} });
    }
}

/// The reason of the 502 that a request is answered with.
async fn answered(mut rig: Rig, bytes: &'static [u8], at_once: bool) -> String {
    let endpoint = tokio::spawn(says(rig.endpoint_ios.clone(), bytes, at_once));
    let (response, _) = rig.client().await.send_request(get(), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    endpoint.abort();
    response.headers()["proxy-error"].to_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_of_http_2_that_is_none() {
    let http1 = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    for (bytes, expected) in [
        (&http1[..], "endpoint speaks HTTP/1.1"),
        (b"HTTP/1.0 400 Bad Request\r\n\r\n", "endpoint speaks HTTP/1.1"),
        // As Python's http.server answers.
        (b"<!DOCTYPE HTML>\n<html></html>", "endpoint does not speak HTTP/2"),
        (b"\x16\x03\x01\0\x04\x01\0\0\0", "endpoint speaks TLS"),
        (ALERTS[0], "endpoint speaks TLS"),
        (ALERTS[1], "endpoint speaks TLS"),
        (b"", "the endpoint may speak another protocol"),
    ] {
        for at_once in [true, false] {
            let rig = Rig::new(&ServerParams::DEFAULT, &ClientParams::DEFAULT, PROXY);
            let reason = answered(rig, bytes, at_once).await;
            assert!(reason.ends_with(expected), "{reason} for {bytes:?}, {at_once}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_of_http_1_1_that_is_none() {
    for (bytes, expected) in [(SETTINGS, "HTTP/2"), (ALERTS[0], "TLS"), (ALERTS[1], "TLS")] {
        for at_once in [true, false] {
            let rig = Rig::to(Protocol::Http1, endpoint_params());
            let reason = answered(rig, bytes, at_once).await;
            assert!(reason.ends_with(&format!("endpoint speaks {expected}")), "{reason} for {bytes:?}, {at_once}");
        }
    }
}
