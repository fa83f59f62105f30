//! What the log says to operators.

use crate::{
    support::{App, Endpoint},
    tls::{
        self,
        pki::{Authority, Files, Identity},
    },
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType};

/// A certificate as `openssl req -x509` makes it by default: its own authority.
fn self_signed() -> Identity {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    let key = KeyPair::generate().unwrap();
    Identity { cert: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

#[tokio::test]
async fn the_start_says_what_runs_and_where_requests_go() {
    let endpoint = Endpoint::start().await;
    let app = App::start(endpoint.addr, &[]);
    app.logged(&["\"starting\"", "\"version\":\"0.1.0\"", "\"workers\":2"]).await;
    let addr = format!("\"addr\":\"{}\"", app.proxy);
    app.logged(&["\"listening\"", &addr, &format!("\"endpoints\":\"{}\"", endpoint.addr)]).await;
    app.logged(&["\"admin server listening\"", &format!("\"addr\":\"{}\"", app.admin)]).await;
    assert!(app.log().iter().all(|line| !line.contains("Some(")), "{:?}", app.log());
}

#[tokio::test]
async fn an_authority_that_is_an_endpoint_is_told_what_to_do() {
    let (files, identity) = (Files::new(), self_signed());
    let ca = files.write("ca.pem", &identity.cert);
    let addr = tls::endpoint(Some(Authority::server(&identity, &["h2"], None))).await;
    let app = tls::start(addr, &[("CONNECT_TLS", "on"), ("CONNECT_TLS_CA", &ca)]);
    let line = app.logged(&["endpoint cannot be reached", "CA:TRUE", "CA:FALSE"]).await;
    assert!(!line.contains("OtherError"), "{line}");
}
