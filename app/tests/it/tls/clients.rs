//! Clients whose certificates cannot be described, or expire.

use super::{Authority, Rig, ask, connect, open, served};
use crate::support::{PATIENCE, get};
use std::time::{Duration, SystemTime};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

#[tokio::test]
async fn a_name_that_no_field_can_hold_is_refused_where_endpoints_are_to_know_it() {
    let clients = Authority::new("clients");
    let identity = clients.issue(&["x:a\u{1}b", "web.example"]);
    let rig = Rig::start_mutual(&clients, &[]).await;
    assert_eq!(rig.ask(rig.ca.client(Some(&identity)), get()).await.unwrap(), served());
    for allowed in [&[][..], &[("SERVER_TLS_ALLOWED_CLIENTS", "web.example")]] {
        let settings = [&[("SERVER_TLS_FORWARD_CLIENT_CERT", "true")], allowed].concat();
        let rig = Rig::start_mutual(&clients, &settings).await;
        let answer = rig.ask(rig.ca.client(Some(&identity)), get()).await.unwrap();
        assert_eq!((answer.status, answer.told), (403, None));
        rig.app.logged(&["a name that no field can hold", "WARN"]).await;
    }
}

#[tokio::test]
async fn connections_are_drained_when_the_certificate_expires() {
    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: test.example\r\n\r\n";
    let clients = Authority::new("clients");
    let rig = Rig::start_mutual(&clients, &[]).await;
    let identity = clients.issue_with(&["web.example"], |params| {
        params.not_after = (SystemTime::now() + Duration::from_secs(3)).into();
    });
    let mut client = open(connect(rig.app.proxy, rig.ca.client(Some(&identity))).await.unwrap()).await.unwrap();
    assert_eq!(ask(&mut client, get()).await.unwrap(), served());
    let mut config = rig.ca.client(Some(&identity));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut http1 = connect(rig.app.proxy, config).await.unwrap();
    http1.write_all(GET).await.unwrap();
    // Either connection is closed without a word more, and so does not take another request.
    let mut rsp = String::new();
    let _ = timeout(PATIENCE, http1.read_to_string(&mut rsp)).await.expect("it is closed");
    assert!(rsp.starts_with("HTTP/1.1 200 OK\r\n") && rsp.matches("HTTP/1.1").count() == 1, "{rsp}");
    let drained = async {
        while client.clone().ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, drained).await.expect("it is drained");
    assert!(rig.ask(rig.ca.client(Some(&identity)), get()).await.is_err());
}
