//! The deployments of the manual, run as they stand there but for addresses and paths.

use crate::{
    docs,
    support::{connect as connect_plain, get},
    tls::{
        Answer, HOST, ask, connect, endpoint, open,
        pki::{Authority, Files},
        served,
    },
};
use app::{LogLevel, Process};
use std::{collections::BTreeMap, net::SocketAddr};
use tokio::sync::oneshot;

/// A process of one of the deployments.
struct Deployed {
    inbound: Option<SocketAddr>,
    outbound: Option<SocketAddr>,
    _stop: oneshot::Sender<&'static str>,
}

/// The variables of a deployment, with other addresses and with files of `files`.
fn variables(name: &str, files: &Files, endpoints: &[(&str, SocketAddr)]) -> BTreeMap<String, String> {
    let chapter = docs::chapter("tls.md");
    let (_, block) = chapter.split_once(&format!("<!-- deployment: {name} -->\n```sh\n")).unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let mut variables: BTreeMap<_, _> = block
        .lines()
        .map(|line| line.split_once('=').unwrap())
        .map(|(name, value)| {
            let value = value.strip_prefix("/etc/tls/").map_or_else(|| value.to_owned(), |file| files.path(file));
            (name.to_owned(), value)
        })
        .collect();
    for (direction, endpoint) in endpoints {
        let known = variables.insert(format!("LINKERD2_PROXY_{direction}_ENDPOINTS"), endpoint.to_string());
        assert!(known.is_some(), "{direction} is part of the deployment");
        variables.insert(format!("LINKERD2_PROXY_{direction}_LISTEN_ADDR"), "127.0.0.1:0".to_owned());
    }
    variables.insert("LINKERD2_PROXY_ADMIN_LISTEN_ADDR".to_owned(), "127.0.0.1:0".to_owned());
    variables.insert("LINKERD2_PROXY_CORES".to_owned(), "1".to_owned());
    variables
}

fn deploy(variables: &BTreeMap<String, String>) -> Deployed {
    let loaded = app_env::load(variables).unwrap();
    assert_eq!(loaded.warnings, []);
    let process = Process::start(loaded, LogLevel::fixed()).unwrap();
    let (inbound, outbound) = (process.inbound_addr(), process.outbound_addr());
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(process.run(async { stopped.await.unwrap_or("the test is over") }));
    Deployed { inbound, outbound, _stop: stop }
}

async fn ask_plain(addr: Option<SocketAddr>) -> Answer {
    ask(&mut connect_plain(addr.unwrap()).await, get()).await.unwrap()
}

#[tokio::test]
async fn a_sidecar_without_tls() {
    let (files, application) = (Files::new(), endpoint(None).await);
    let there = deploy(&variables("plain", &files, &[("INBOUND", application), ("OUTBOUND", application)]));
    let here = [("INBOUND", application), ("OUTBOUND", there.inbound.unwrap())];
    let here = deploy(&variables("plain", &files, &here));
    assert_eq!(ask_plain(here.outbound).await, served());
}

#[tokio::test]
async fn tls_at_the_edge() {
    let (ca, files) = (Authority::new("proxies"), Files::new());
    let identity = ca.issue(&[HOST]);
    files.write("tls.crt", &identity.cert);
    files.write("tls.key", &identity.key);
    let edge = deploy(&variables("edge", &files, &[("INBOUND", endpoint(None).await)]));
    let stream = connect(edge.inbound.unwrap(), ca.client(None)).await.unwrap();
    assert_eq!(ask(&mut open(stream).await.unwrap(), get()).await.unwrap(), served());
}

#[tokio::test]
async fn mutual_tls_both_ways() {
    let (ca, application) = (Authority::new("cluster"), endpoint(None).await);
    let sidecar_files = |names: &[&str]| {
        let (files, identity) = (Files::new(), ca.issue(names));
        files.write("ca.crt", &ca.pem());
        files.write("tls.crt", &identity.cert);
        files.write("tls.key", &identity.key);
        files
    };
    let there_files = sidecar_files(&["127.0.0.1"]);
    let there = deploy(&variables("mutual", &there_files, &[("INBOUND", application), ("OUTBOUND", application)]));
    for (names, status) in [
        (&["web.prod.svc.cluster.local"][..], 200),
        (&["spiffe://cluster.local/ns/prod/sa/batch"], 200),
        (&["other.prod.svc.cluster.local"], 403),
    ] {
        let here_files = sidecar_files(names);
        let here = [("INBOUND", application), ("OUTBOUND", there.inbound.unwrap())];
        let here = deploy(&variables("mutual", &here_files, &here));
        let answer = ask_plain(here.outbound).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.told.is_some_and(|told| told.contains(names[0])), status == 200);
    }
    // A client without a certificate does not get in, whether that is seen in the handshake or after it.
    let asked = async {
        let stream = connect(there.inbound.unwrap(), ca.client(None)).await?;
        ask(&mut open(stream).await?, get()).await
    };
    assert!(asked.await.is_err());
}
