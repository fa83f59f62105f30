//! Toward endpoints: their certificates, and ours.

use super::{
    Answer, ask, endpoint,
    pki::{Authority, Files},
    served, start, stderr,
};
use crate::support::{App, PATIENCE, admin, command, connect as connect_plain, get};
use http::StatusCode;
use std::time::Duration;
use tokio::{net::TcpListener, time::timeout};

/// An endpoint at 127.0.0.1 with a certificate, and the binary that connects to it.
async fn start_to(alpn: &[&str], names: &[&str], settings: &[(&str, &str)]) -> (Files, App) {
    let (ca, files) = (Authority::new("endpoints"), Files::new());
    let ca_path = files.write("ca.pem", &ca.pem());
    let addr = endpoint(Some(Authority::server(&ca.issue(names), alpn, None))).await;
    let mut all = vec![("CONNECT_TLS", "on"), ("CONNECT_TLS_CA", &ca_path), ("CONNECT_TIMEOUT", "1m")];
    all.extend(settings);
    (files, start(addr, &all))
}

#[track_caller]
fn says(answer: &Answer, words: &str) {
    let error = answer.error.as_deref().unwrap_or_default();
    assert!(answer.status == StatusCode::BAD_GATEWAY && error.contains(words), "{answer:?}");
}

#[tokio::test]
async fn endpoints_must_have_a_certificate_for_the_host_they_were_found_by() {
    let (_files, app) = start_to(&["h2"], &["127.0.0.1"], &[]).await;
    assert_eq!(ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), served());
    let done = "tls_handshakes_total{direction=\"outbound\",peer=\"dst\",result=\"ok\",version=\"1.3\"}";
    app.counted(&format!("{done} 2")).await;

    let (_files, app) = start_to(&["h2"], &["127.0.0.2", "other.example"], &[]).await;
    let answer = ask(&mut connect_plain(app.proxy).await, get()).await.unwrap();
    says(&answer, "certificate not valid for name \"127.0.0.1\"");
    says(&answer, "TLS handshake failed");
    assert_eq!(admin(app.admin, "GET", "/ready", "").await.0, 503);
    let line = app.logged(&["endpoint cannot be reached", "certificate not valid for name"]).await;
    assert!(line.contains("WARN"), "{line}");

    let (_files, app) = start_to(&["h2"], &["other.example"], &[("CONNECT_TLS_SERVER_NAME", "other.example")]).await;
    assert_eq!(ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), served());
}

#[tokio::test]
async fn names_of_endpoints_are_what_their_certificates_must_be_for() {
    let (ca, files) = (Authority::new("endpoints"), Files::new());
    let ca_path = files.write("ca.pem", &ca.pem());
    for (names, is_served) in [(&["localhost"][..], true), (&["127.0.0.1"], false)] {
        let addr = endpoint(Some(Authority::server(&ca.issue(names), &["h2"], None))).await;
        let settings = [("CONNECT_TLS", "on"), ("CONNECT_TLS_CA", &ca_path), ("CONNECT_TIMEOUT", "1m")];
        let app = start(&*format!("localhost:{}", addr.port()), &settings);
        let answer = ask(&mut connect_plain(app.proxy).await, get()).await.unwrap();
        if is_served {
            assert_eq!(answer, served());
        } else {
            // localhost may be ::1 as well, where nobody listens.
            app.logged(&["endpoint cannot be reached", "certificate not valid for name", "localhost"]).await;
            assert_eq!(answer.status, 502);
        }
    }
}

#[tokio::test]
async fn endpoints_of_another_authority_are_refused_unless_anybody_will_do() {
    let (ca, other, files) = (Authority::new("endpoints"), Authority::new("others"), Files::new());
    let other = files.write("other.pem", &other.pem());
    let addr = endpoint(Some(Authority::server(&ca.issue(&["127.0.0.1"]), &["h2"], None))).await;
    let on = [("CONNECT_TLS", "on"), ("CONNECT_TIMEOUT", "1m")];
    let app = start(addr, &[on[0], on[1], ("CONNECT_TLS_CA", &other)]);
    says(&ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), "UnknownIssuer");
    // The system does not trust it either.
    let app = start(addr, &on);
    says(&ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), "UnknownIssuer");
    let app = start(addr, &[on[0], on[1], ("CONNECT_TLS_INSECURE_SKIP_VERIFY", "true")]);
    assert_eq!(ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), served());
}

#[test]
fn not_to_verify_endpoints_is_a_warning_at_start() {
    let mut command = command();
    command.arg("check").envs([
        ("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1"),
        ("LINKERD2_PROXY_OUTBOUND_CONNECT_TLS", "on"),
        ("LINKERD2_PROXY_OUTBOUND_CONNECT_TLS_INSECURE_SKIP_VERIFY", "true"),
    ]);
    let output = command.output().unwrap();
    assert!(output.status.success());
    let expected = "warning: LINKERD2_PROXY_OUTBOUND_CONNECT_TLS_INSECURE_SKIP_VERIFY: is true";
    assert!(stderr(&output).starts_with(expected), "{}", stderr(&output));
}

#[tokio::test]
async fn endpoints_that_ask_for_a_certificate_are_shown_ours() {
    let (ca, clients, files) = (Authority::new("endpoints"), Authority::new("clients"), Files::new());
    let ca_path = files.write("ca.pem", &ca.pem());
    let [cert, key] = files.identity("proxy", &clients.issue(&["proxy.example"]));
    let addr = endpoint(Some(Authority::server(&ca.issue(&["127.0.0.1"]), &["h2"], Some(&clients)))).await;
    let on = [("CONNECT_TLS", "on"), ("CONNECT_TLS_CA", &*ca_path), ("CONNECT_TIMEOUT", "1m")];
    let app = start(addr, &[on[0], on[1], on[2], ("CONNECT_TLS_CERT", &cert), ("CONNECT_TLS_KEY", &key)]);
    assert_eq!(ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), served());
    app.counted("tls_certificate_expiration_timestamp_seconds{direction=\"outbound\",peer=\"dst\"} 67090118400").await;
    let app = start(addr, &on);
    let answer = ask(&mut connect_plain(app.proxy).await, get()).await.unwrap();
    assert_eq!(answer.status, 502, "{answer:?}");
}

#[tokio::test]
async fn endpoints_without_http2_are_refused_with_a_word() {
    for (alpn, words) in [
        (&["http/1.1"][..], "endpoint does not speak HTTP/2: it takes none of the protocols offered by ALPN"),
        (&[], "endpoint does not speak HTTP/2: by ALPN it chose nothing, must be h2"),
    ] {
        let (_files, app) = start_to(alpn, &["127.0.0.1"], &[]).await;
        says(&ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), words);
        let start = "tls_handshakes_total{direction=\"outbound\",peer=\"dst\",result=\"alpn\",version=\"\"} ";
        let (_, metrics) = admin(app.admin, "GET", "/metrics", "").await;
        let count = metrics.lines().find_map(|line| line.strip_prefix(start)).unwrap();
        assert!(count.parse::<u64>().unwrap() > 0);
    }
    let app = start(endpoint(None).await, &[("CONNECT_TLS", "on"), ("CONNECT_TIMEOUT", "1m")]);
    says(&ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), "endpoint speaks plain text");
}

#[tokio::test]
async fn an_endpoint_that_never_shakes_hands_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let on = [
        ("CONNECT_TLS", "on"),
        ("CONNECT_TIMEOUT", "200ms"),
        ("CONNECT_EXP_BACKOFF_MAX", "1m"),
        ("CONNECT_EXP_BACKOFF_MIN", "1m"),
    ];
    let app = start(silent.local_addr().unwrap(), &on);
    let answer = ask(&mut connect_plain(app.proxy).await, get()).await.unwrap();
    assert_eq!(answer.status, 504, "{answer:?}");
    // Each of two workers has tried by itself, and again for the request that waited.
    let counts = "tls_handshakes_total{direction=\"outbound\",peer=\"dst\",result=\"timeout\",version=\"\"} ";
    let (_, page) = admin(app.admin, "GET", "/metrics", "").await;
    let line = page.lines().find_map(|line| line.strip_prefix(counts));
    assert!(line.is_some_and(|count| count.parse::<u32>().unwrap() >= 2), "{page}");
}

#[tokio::test]
async fn certificates_toward_endpoints_are_read_again_as_well() {
    let (ca, other, files) = (Authority::new("endpoints"), Authority::new("others"), Files::new());
    let ca_path = files.write("ca.pem", &other.pem());
    let addr = endpoint(Some(Authority::server(&ca.issue(&["127.0.0.1"]), &["h2"], None))).await;
    let settings = [
        ("CONNECT_TLS", "on"),
        ("CONNECT_TLS_CA", &*ca_path),
        ("CONNECT_TIMEOUT", "1m"),
        ("CONNECT_EXP_BACKOFF_MAX", "100ms"),
    ];
    let app = start(addr, &settings);
    says(&ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), "UnknownIssuer");
    files.write("ca.pem", &ca.pem());
    let until = async {
        while ask(&mut connect_plain(app.proxy).await, get()).await.unwrap() != served() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, until).await.expect("the endpoint is believed");
    app.counted("tls_reloads_total{direction=\"outbound\",peer=\"dst\",result=\"ok\"} 1").await;
}
