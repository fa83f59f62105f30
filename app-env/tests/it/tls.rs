//! TLS: variables that need others, and warnings.

use crate::support::{config, effective, errors, on, vars, warnings};
use app_env::{ClientAuth, Origin};
use std::{path::Path, time::Duration};

const CERT: (&str, &str) = ("INBOUND_SERVER_TLS_CERT", "/cert");
const KEY: (&str, &str) = ("INBOUND_SERVER_TLS_KEY", "/key");
const CA: (&str, &str) = ("INBOUND_SERVER_TLS_CLIENT_CA", "/ca");
const ON: (&str, &str) = ("INBOUND_CONNECT_TLS", "on");

#[test]
fn certificate_and_key_turn_it_on_with_its_defaults() {
    let config = config(&on([CERT, KEY]));
    assert_eq!(config.outbound.unwrap().server_tls, None);
    let tls = config.inbound.unwrap().server_tls.unwrap();
    assert_eq!((tls.identity.cert.as_path(), tls.identity.key.as_path()), (Path::new("/cert"), Path::new("/key")));
    assert_eq!((tls.handshake_timeout, tls.client), (Duration::from_secs(10), None));
}

#[test]
fn half_an_identity_is_an_error_of_the_other_half() {
    for (set, other) in [
        ("INBOUND_SERVER_TLS_CERT", "INBOUND_SERVER_TLS_KEY"),
        ("INBOUND_SERVER_TLS_KEY", "INBOUND_SERVER_TLS_CERT"),
        ("INBOUND_CONNECT_TLS_CERT", "INBOUND_CONNECT_TLS_KEY"),
        ("INBOUND_CONNECT_TLS_KEY", "INBOUND_CONNECT_TLS_CERT"),
    ] {
        let expect = format!("{other}: is not set, must be the path of a PEM file, since {set} is set");
        assert_eq!(errors(&on([ON, (set, "/x")])), [expect]);
    }
}

#[test]
fn what_needs_a_certificate_is_an_error_without_one() {
    let timeout = ("INBOUND_SERVER_TLS_HANDSHAKE_TIMEOUT", "1s");
    let expect = "INBOUND_SERVER_TLS_CERT: is not set, must be the path of a PEM file, since \
                  INBOUND_SERVER_TLS_HANDSHAKE_TIMEOUT is set and INBOUND_SERVER_TLS_CLIENT_CA is set";
    assert_eq!(errors(&on([timeout, CA])), [expect]);
    let expect = format!("{expect} and INBOUND_SERVER_TLS_KEY is set");
    assert_eq!(errors(&on([timeout, CA, KEY])), [expect]);
}

#[test]
fn what_needs_the_clients_ca_is_an_error_without_it() {
    let expect = "INBOUND_SERVER_TLS_CLIENT_CA: is not set, must be the path of a PEM file, since ";
    for (name, value, since) in [
        ("INBOUND_SERVER_TLS_CLIENT_AUTH", "optional", "is set"),
        ("INBOUND_SERVER_TLS_ALLOWED_CLIENTS", "a.example", "is set"),
        ("INBOUND_SERVER_TLS_FORWARD_CLIENT_CERT", "true", "is true"),
    ] {
        assert_eq!(errors(&on([CERT, KEY, (name, value)])), [format!("{expect}{name} {since}")]);
    }
    config(&on([CERT, KEY, ("INBOUND_SERVER_TLS_FORWARD_CLIENT_CERT", "false")]));
}

#[test]
fn clients_must_have_a_certificate_unless_it_is_optional() {
    let client = |vars| config(&vars).inbound.unwrap().server_tls.unwrap().client.unwrap();
    let default = client(on([CERT, KEY, CA]));
    assert_eq!((default.auth, default.allowed, default.forward), (ClientAuth::Required, None, false));
    let auth = "INBOUND_SERVER_TLS_CLIENT_AUTH";
    assert_eq!(client(on([CERT, KEY, CA, (auth, "optional")])).auth, ClientAuth::Optional);
    assert_eq!(client(on([CERT, KEY, CA, (auth, "required")])).auth, ClientAuth::Required);

    assert_eq!(effective(&on([CERT, KEY]), auth).value, None);
    let setting = effective(&on([CERT, KEY, CA]), auth);
    assert_eq!((setting.value.as_deref(), setting.origin), (Some("required"), Origin::Default));
}

#[test]
fn names_of_clients_that_are_wrong_are_told_one_by_one() {
    let name = "INBOUND_SERVER_TLS_ALLOWED_CLIENTS";
    let lines = errors(&on([CERT, KEY, CA, (name, "a.example, ,spiffe://X,*.b.example")]));
    let expect = format!(
        "{name}: is \"a.example, ,spiffe://X,*.b.example\" (item 2 is empty; item 3 has a trust domain with something \
         else than lower-case letters, digits, - . and _), must be a comma-separated list of DNS names and SPIFFE IDs \
         (as web.example,*.prod.example,spiffe://example/web)"
    );
    assert_eq!(lines, [expect]);
}

#[test]
fn tls_toward_endpoints_is_off_until_it_is_on() {
    assert_eq!(config(&on([("INBOUND_CONNECT_TLS", "off")])), config(&on([])));
    let config = config(&on([ON]));
    assert_eq!(config.inbound.unwrap().connect.tls, Some(app_env::ConnectTls::default()));
    assert_eq!(config.outbound.unwrap().connect.tls, None);
}

#[test]
fn what_needs_tls_toward_endpoints_is_an_error_while_that_is_off() {
    for (name, value, since) in [
        ("INBOUND_CONNECT_TLS_CA", "/ca", "is set"),
        ("INBOUND_CONNECT_TLS_SERVER_NAME", "a.example", "is set"),
        ("INBOUND_CONNECT_TLS_INSECURE_SKIP_VERIFY", "true", "is true"),
    ] {
        let expect = format!("INBOUND_CONNECT_TLS: is off, must be on, since {name} {since}");
        assert_eq!(errors(&on([(name, value)])), [expect]);
    }
    let (cert, key) = ("INBOUND_CONNECT_TLS_CERT", "INBOUND_CONNECT_TLS_KEY");
    let expect = format!("INBOUND_CONNECT_TLS: is off, must be on, since {cert} is set and {key} is set");
    assert_eq!(errors(&on([(cert, "/cert"), (key, "/key")])), [expect]);
    config(&on([("INBOUND_CONNECT_TLS_INSECURE_SKIP_VERIFY", "false")]));
}

#[test]
fn endpoints_that_are_not_verified_are_a_warning() {
    let (name, ca) = ("INBOUND_CONNECT_TLS_INSECURE_SKIP_VERIFY", "INBOUND_CONNECT_TLS_CA");
    let insecure = on([ON, (name, "true"), (ca, "/ca")]);
    assert_eq!(
        warnings(&insecure),
        [
            format!("{ca}: has no effect, {name} is true"),
            format!("{name}: is true, anybody on the way can pass for an endpoint"),
        ]
    );
    let tls = app_env::load(&insecure).unwrap().config.inbound.unwrap().connect.tls.unwrap();
    assert!(tls.insecure_skip_verify && tls.ca.is_none());
    assert_eq!(warnings(&on([ON, (name, "false"), (ca, "/ca")])), [""; 0]);
}

#[test]
fn server_names_are_hosts() {
    let name = "INBOUND_CONNECT_TLS_SERVER_NAME";
    let host = |text| config(&on([ON, (name, text)])).inbound.unwrap().connect.tls.unwrap().server_name.unwrap();
    assert_eq!(host("API.example"), "api.example");
    assert_eq!(host("10.0.0.1"), "10.0.0.1");
    assert_eq!(host("[::1]"), "::1");
    assert_eq!(effective(&on([ON, (name, "[0::1]")]), name).value.as_deref(), Some("[::1]"));
    for wrong in ["a b", "a:80", "::1", "https://a"] {
        assert_eq!(errors(&on([ON, (name, wrong)])).len(), 1, "{wrong}");
    }
}

#[test]
fn a_direction_that_is_off_has_no_effect() {
    let lines = warnings(&vars([CERT, KEY, ON]));
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(
        lines.iter().all(|line| line
            .ends_with("has no effect, none of INBOUND_ENDPOINTS, INBOUND_ROUTES and INBOUND_DISCOVERY is set")),
        "{lines:?}"
    );
}
