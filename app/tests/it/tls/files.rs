//! Files of certificates and keys, which may change.

use super::{
    Failed, HOST, Rig, ask, connect, connect_shared, endpoint, open,
    pki::{Authority, Files, Identity},
    served, start, stderr,
};
use crate::support::{PATIENCE, admin, command, connect as connect_plain, get};
use rustls::ClientConfig;
use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time::timeout};

/// Makes new connections, with requests on each, until told to stop; counts failures.
async fn load(proxy: SocketAddr, config: Arc<ClientConfig>, stop: Arc<AtomicBool>, failed: Arc<AtomicUsize>) -> usize {
    let mut requests = 0;
    while !stop.load(Relaxed) {
        let asked = async {
            let mut client = open(connect_shared(proxy, Arc::clone(&config)).await?).await?;
            for _ in 0..3 {
                assert_eq!(ask(&mut client, get()).await?, served());
                requests += 1;
            }
            Ok::<_, Failed>(())
        };
        failed.fetch_add(usize::from(asked.await.is_err()), Relaxed);
    }
    requests
}

/// The certificate that clients are shown.
async fn shown(rig: &Rig) -> Vec<u8> {
    let stream = connect(rig.app.proxy, rig.ca.client(None)).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

async fn until_shown(rig: &Rig, identity: &Identity) {
    let expected = identity.certs()[0].to_vec();
    let until = async {
        while shown(rig).await != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, until).await.expect("the new certificate is shown");
}

#[tokio::test]
async fn new_files_are_taken_over_under_load_and_nothing_fails() {
    let rig = Rig::start(&[]).await;
    let (stop, failed) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let mut loads = JoinSet::new();
    for resumes in [false, false, true, true] {
        let mut config = rig.ca.client(None);
        if resumes {
            config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        }
        loads.spawn(load(rig.app.proxy, Arc::new(config), Arc::clone(&stop), Arc::clone(&failed)));
    }
    let mut long = open(connect(rig.app.proxy, rig.ca.client(None)).await.unwrap()).await.unwrap();

    // One file after the other, as most do; for a moment they do not fit together.
    let by_time = rig.ca.issue(&[HOST]);
    rig.files.identity("proxy", &by_time);
    until_shown(&rig, &by_time).await;
    assert_eq!(ask(&mut long, get()).await.unwrap(), served());

    let by_signal = rig.ca.issue(&[HOST]);
    rig.files.identity("proxy", &by_signal);
    rig.app.signal("-HUP");
    until_shown(&rig, &by_signal).await;
    assert_eq!(ask(&mut long, get()).await.unwrap(), served());

    stop.store(true, Relaxed);
    let requests: usize = loads.join_all().await.into_iter().sum();
    assert!(requests > 0);
    assert_eq!(failed.load(Relaxed), 0, "of {requests}");
}

#[tokio::test]
async fn bad_files_leave_the_old_certificate_and_are_told_and_counted() {
    let rig = Rig::start(&[]).await;
    let old = shown(&rig).await;
    let expiry = "tls_certificate_expiration_timestamp_seconds{direction=\"outbound\",peer=\"src\"}";
    // rcgen's default: the year 4096.
    rig.counted(expiry, 67_090_118_400).await;
    let reloads = |result| format!("tls_reloads_total{{direction=\"outbound\",peer=\"src\",result=\"{result}\"}}");
    let other = rig.ca.issue(&[HOST]);
    for (count, (cert, words)) in
        [("", "has no certificate"), (&*other.cert, "not the one of the certificate in")].into_iter().enumerate()
    {
        rig.files.write("proxy.pem", cert);
        rig.app.signal("-HUP");
        rig.counted(&reloads("failed"), count as u64 + 1).await;
        let line = rig.app.logged(&["new certificates cannot be used, the old ones stay", words]).await;
        assert!(line.contains("ERROR") && line.contains("LINKERD2_PROXY_OUTBOUND_SERVER_TLS_"), "{line}");
        assert_eq!(shown(&rig).await, old);
    }
    let new = rig.ca.issue_with(&[HOST], |params| params.not_after = rcgen::date_time_ymd(2050, 1, 1));
    rig.files.identity("proxy", &new);
    until_shown(&rig, &new).await;
    rig.counted(expiry, 2_524_608_000).await;
    rig.counted(&reloads("ok"), 1).await;
}

#[tokio::test]
async fn a_new_authority_of_clients_is_asked_for_sessions_to_be_resumed_as_well() {
    let (before, after) = (Authority::new("before"), Authority::new("after"));
    let rig = Rig::start_mutual(&before, &[]).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        rig.files.write("clients.pem", &before.pem());
        let identity = before.issue(&["web.example"]);
        let mut config = rig.ca.client_of(&[version], Some(&identity));
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        let served_again = async {
            while rig.ask(config.clone(), get()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, served_again).await.expect("it is known");
        rig.files.write("clients.pem", &after.pem());
        let refused = async {
            while rig.ask(config.clone(), get()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, refused).await.expect("it is not known any more");
        let identity = after.issue(&["web.example"]);
        assert_eq!(rig.ask(rig.ca.client(Some(&identity)), get()).await.unwrap(), served());
    }
}

#[tokio::test]
async fn a_signal_to_reload_does_not_end_a_process_without_tls() {
    let app = start(endpoint(None).await, &[]);
    app.signal("-HUP");
    assert_eq!(ask(&mut connect_plain(app.proxy).await, get()).await.unwrap(), served());
}

#[tokio::test]
async fn keys_are_pkcs8_sec1_or_pkcs1() {
    let (ca, files) = (Authority::new("proxies"), Files::new());
    let p256 = ca.issue(&[HOST]);
    // Keys of RSA cannot be made here.
    let rsa = ca.issue_for(include_str!("rsa.pem"), &[HOST]);
    let (sec1, pkcs1) = (p256.with_inner_key("EC PRIVATE KEY"), rsa.with_inner_key("RSA PRIVATE KEY"));
    // Behind the parameters that openssl writes there.
    let params = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let mixed = Identity { key: format!("{params}{}", sec1.key), cert: sec1.cert.clone() };
    for identity in [p256, sec1, mixed, rsa, pkcs1] {
        let [cert, key] = files.identity("proxy", &identity);
        let app = start(endpoint(None).await, &[("SERVER_TLS_CERT", &cert), ("SERVER_TLS_KEY", &key)]);
        let stream = connect(app.proxy, ca.client(None)).await.unwrap();
        assert_eq!(ask(&mut open(stream).await.unwrap(), get()).await.unwrap(), served());
    }
}

#[test]
fn check_reads_all_files_and_says_what_is_wrong_with_each() {
    let files = Files::new();
    let ca = Authority::new("proxies");
    let [cert, key] = files.identity("proxy", &ca.issue(&[HOST]));
    let [_, other] = files.identity("other", &ca.issue(&[HOST]));
    let (empty, gone) = (files.write("empty", ""), files.path("gone"));
    let secret = fs::read_to_string(&key).unwrap();
    let secret = secret.lines().nth(1).unwrap();
    let broken = files.write("broken", &format!("-----BEGIN PRIVATE KEY-----\n{secret}\n!{secret}\n"));
    let garbage = files.write("garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let version1 = files.write("version1", VERSION_1);
    let encrypted = files.write(
        "encrypted",
        &format!("-----BEGIN ENCRYPTED PRIVATE KEY-----\n{secret}\n-----END ENCRYPTED PRIVATE KEY-----\n"),
    );
    let check = |settings: &[(&str, &str)], expected: &[(&str, &str, &str)]| {
        let mut command = command();
        command.arg("check").env("LINKERD2_PROXY_INBOUND_ENDPOINTS", "a.example:1");
        command.env("LINKERD2_PROXY_INBOUND_CONNECT_TLS", "on");
        // Fewer than the descriptors of any machine, which would be a warning.
        command.env("LINKERD2_PROXY_INBOUND_MAX_CONNECTIONS", "100");
        command.envs(settings.iter().map(|(name, value)| (format!("LINKERD2_PROXY_INBOUND_{name}"), value)));
        let output = command.output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(if expected.is_empty() { 0 } else { 64 }), "{text}");
        for (name, path, words) in expected {
            let start = format!("error: LINKERD2_PROXY_INBOUND_{name}: {path}");
            assert!(
                text.lines().any(|line| line.starts_with(&start) && line.contains(words)),
                "{start} {words}: {text}"
            );
        }
        assert_eq!(text.lines().count(), expected.len(), "{text}");
        assert!(!text.contains(secret), "{text}");
    };
    let (server_cert, server_key, client_ca) = ("SERVER_TLS_CERT", "SERVER_TLS_KEY", "SERVER_TLS_CLIENT_CA");
    let (connect_ca, connect_cert, connect_key) = ("CONNECT_TLS_CA", "CONNECT_TLS_CERT", "CONNECT_TLS_KEY");
    let good = [(server_cert, &*cert), (server_key, &*key), (connect_ca, &*cert)];
    check(&good, &[]);
    check(
        &[
            (server_cert, &gone),
            (server_key, &gone),
            (client_ca, &gone),
            (connect_ca, &gone),
            (connect_cert, &gone),
            (connect_key, &gone),
        ],
        &[
            (server_cert, &gone, "cannot be read: No such file"),
            (server_key, &gone, "cannot be read: No such file"),
            (client_ca, &gone, "cannot be read: No such file"),
            (connect_ca, &gone, "cannot be read: No such file"),
            (connect_cert, &gone, "cannot be read: No such file"),
            (connect_key, &gone, "cannot be read: No such file"),
        ],
    );
    for (name, path, words) in [
        (server_cert, &empty, "has no certificate in PEM"),
        (server_cert, &key, "has no certificate in PEM"),
        (server_cert, &garbage, "has a certificate (number 1) that cannot be used"),
        (server_cert, &version1, "(number 1) that cannot be used: it is not of X.509 version 3"),
        (server_key, &empty, "has no private key in PEM"),
        (server_key, &cert, "has no private key in PEM"),
        (server_key, &encrypted, "not encrypted"),
        (server_key, &broken, "is not PEM"),
        (server_key, &other, "has a key that is not the one of the certificate in"),
        (client_ca, &empty, "has no certificate in PEM"),
        (client_ca, &garbage, "has a certificate (number 1) that cannot be used"),
        (connect_ca, &empty, "has no certificate in PEM"),
    ] {
        let mut settings = Vec::from(good);
        settings.retain(|(other, _)| *other != name);
        settings.push((name, path));
        check(&settings, &[(name, path, words)]);
    }
}

#[tokio::test]
async fn keys_are_nowhere_to_be_seen() {
    let rig = Rig::start(&[]).await;
    rig.app.signal("-HUP");
    assert_eq!(rig.ask(rig.ca.client(None), get()).await.unwrap(), served());
    rig.counted("tls_reloads_total{direction=\"outbound\",peer=\"src\",result=\"ok\"}", 1).await;
    let path = rig.files.path("proxy.key");
    let key = fs::read_to_string(&path).unwrap();
    let secrets: Vec<_> = key.lines().filter(|line| !line.starts_with('-')).collect();
    let (_, config) = admin(rig.app.admin, "GET", "/config", "").await;
    assert!(config.contains(&path), "paths are shown");
    let (_, metrics) = admin(rig.app.admin, "GET", "/metrics", "").await;
    let seen = format!("{config}{metrics}{:?}", rig.app.log());
    assert!(!secrets.is_empty() && secrets.iter().all(|secret| !seen.contains(secret)));
}

#[tokio::test]
async fn a_certificate_of_ours_that_has_expired_is_a_warning() {
    let (ca, files) = (Authority::new("proxies"), Files::new());
    let [cert, key] = files.identity("proxy", &ca.issue_expired(&[HOST]));
    let app = start(endpoint(None).await, &[("SERVER_TLS_CERT", &cert), ("SERVER_TLS_KEY", &key)]);
    app.logged(&["our own certificate has expired", "WARN"]).await;
    assert!(connect(app.proxy, ca.client(None)).await.is_err());
    files.identity("proxy", &ca.issue(&[HOST]));
    app.signal("-HUP");
    let served_again = async {
        while connect(app.proxy, ca.client(None)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, served_again).await.expect("the new one is shown");
}

/// A certificate that `openssl x509 -req` made without extensions; its key was thrown away.
const VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBEzCBuQIUHiGdMO5eyAp18ukzvvwU8E7PVAAwCgYIKoZIzj0EAwIwDDEKMAgG
A1UEAwwBYTAeFw0yNjExMzAyMzM0MzRaFw0yNjEyMDEyMzM0MzRaMAwxCjAIBgNV
BAMMAWEwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQSvvln23/AKD/VDoy6fB62
nIKm69YARBmK6DTcqIxUHDuYW7xTTlMKvTMwnQ2K2oT3HN8/3KXaKkLNYvTMKVjN
MAoGCCqGSM49BAMCA0kAMEYCIQDrXavgQgrHLoliUEjK7R1hjD3KlLtybcj4ks95
a5gvTwIhAIMyl7mD0MGeX+V2jWC6fN66mQX0P3uFZlnHgX3Le4oK
-----END CERTIFICATE-----
";
