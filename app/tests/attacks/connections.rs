//! Connections that are opened for their own sake, or whose client has gone without a word.

use crate::{
    frames::{ACK, DATA, END_HEADERS, GET, HEADERS, PING, PREFACE, Peer, SETTINGS, frame, get, request},
    rig::{Rig, Settings, factor},
};
use std::time::Duration;
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, sleep},
};

/// Timeouts of two seconds, for attacks that wait for them.
const HASTY: &[(&str, &str)] = &[
    ("INBOUND_DETECT_TIMEOUT", "2s"),
    ("INBOUND_SERVER_HTTP2_HANDSHAKE_TIMEOUT", "2s"),
    ("INBOUND_SERVER_HTTP2_HEADER_TIMEOUT", "2s"),
];

/// Clients that send so many bytes of this, one by one, and then nothing.
async fn check_hung_up_on(bytes: &[u8]) {
    let rig = Rig::set(HASTY).await;
    rig.beside(async {
        let started = Instant::now();
        let mut clients = Vec::new();
        for _ in 0..20 * factor() {
            clients.push(Peer::silent(rig.inbound).await);
        }
        for byte in bytes {
            for client in &mut clients {
                client.send([*byte]).await;
            }
        }
        for mut client in clients {
            client.from.end().await;
        }
        let took = started.elapsed();
        assert!((Duration::from_secs(2)..Duration::from_secs(6)).contains(&took), "{took:?}");
    })
    .await;
    rig.alone().await;
    rig.costs_at_most(16);
}

#[tokio::test]
async fn no_preface() {
    check_hung_up_on(&[]).await;
}

#[tokio::test]
async fn half_a_preface() {
    check_hung_up_on(&PREFACE[..12]).await;
}

#[tokio::test]
async fn preface_without_settings() {
    check_hung_up_on(PREFACE).await;
}

#[tokio::test]
async fn header_block_that_does_not_end() {
    let opened = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(SETTINGS, ACK, 0, &[])].concat();
    check_hung_up_on(&[&opened[..], &frame(HEADERS, 0, 1, &request(GET, "/bytes/1"))].concat()).await;
}

#[tokio::test]
async fn frame_that_does_not_end() {
    let opened = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(SETTINGS, ACK, 0, &[])].concat();
    check_hung_up_on(&[&opened[..], &frame(HEADERS, END_HEADERS, 1, &request(GET, "/bytes/1"))[..20]].concat()).await;
}

/// A byte now and then does not buy time.
#[tokio::test]
async fn slow_preface() {
    let rig = Rig::set(HASTY).await;
    rig.beside(async {
        let started = Instant::now();
        let mut client = Peer::silent(rig.inbound).await;
        let dripping = async {
            for byte in PREFACE.iter().cycle().take(PREFACE.len() * 10) {
                if client.to.write_all(&[*byte]).await.is_err() {
                    return;
                }
                sleep(Duration::from_millis(250)).await;
            }
        };
        tokio::join!(dripping, client.from.end());
        let took = started.elapsed();
        assert!((Duration::from_secs(2)..Duration::from_secs(6)).contains(&took), "{took:?}");
    })
    .await;
    rig.alone().await;
}

/// The kernel at the other end still acknowledges, so that only a PING tells.
#[tokio::test]
async fn clients_that_are_gone_without_a_word() {
    let keep_alive =
        [("INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "500ms"), ("INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "500ms")];
    let rig = Rig::set(&keep_alive).await;
    let count = 20 * factor();
    let mut clients = Vec::new();
    rig.beside(async {
        for _ in 0..count {
            let mut client = Peer::client(rig.inbound, &[]).await;
            client.send(get(1, "/hang")).await;
            clients.push(client);
        }
        rig.endpoint.hangs(count).await;
        for client in &mut clients {
            client.from.end().await;
        }
    })
    .await;
    rig.alone().await;
}

/// Clients that have sent their FIN get their responses, and are gone then.
#[tokio::test]
async fn clients_that_send_no_more() {
    let rig = Rig::start().await;
    let before = rig.descriptors();
    rig.beside(async {
        for _ in 0..20 * factor() {
            let mut client = Peer::client(rig.inbound, &[]).await;
            client.send(get(1, "/bytes/1")).await;
            client.from.until(DATA, 1).await.expect("it is answered");
            client.to.shutdown().await.unwrap();
            client.from.end().await;
        }
    })
    .await;
    rig.alone().await;
    rig.descriptors_are_back_at(before).await;
}

/// Connections that end at any point of a request.
#[tokio::test]
async fn clients_that_vanish_leave_nothing_behind() {
    let rig = Rig::start().await;
    let before = rig.descriptors();
    let opened = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(SETTINGS, ACK, 0, &[])].concat();
    let middles = [
        opened[..10].to_vec(),
        opened.clone(),
        [&opened[..], &get(1, "/hang")].concat(),
        [&opened[..], &get(1, "/bytes/10000000")].concat(),
        [&opened[..], &frame(HEADERS, 0, 1, &request(GET, "/bytes/1"))].concat(),
        [&opened[..], &get(1, "/hang"), &frame(PING, 0, 0, &[0; 8])[..10]].concat(),
    ];
    rig.beside(async {
        for middle in middles.iter().cycle().take(120 * factor()) {
            let mut client = Peer::silent(rig.inbound).await;
            client.send(middle).await;
            // Some are read before they end, and some end by a reset.
            tokio::task::yield_now().await;
        }
    })
    .await;
    rig.alone().await;
    rig.descriptors_are_back_at(before).await;
    rig.costs_at_most(32);
}

/// A client that comes then waits, and is served as soon as others go.
#[tokio::test]
async fn connections_up_to_the_descriptor_limit() {
    let rig = Rig::with(Settings { descriptors: Some(256), ..Settings::default() }).await;
    let mut victim = Peer::client(rig.inbound, &[]).await;
    victim.send(get(1, "/bytes/1")).await;
    victim.from.until(DATA, 1).await.unwrap();
    // A victim that is in already; one that comes now cannot be.
    let mut flood = Vec::new();
    for _ in 0..400 {
        flood.push(Peer::silent(rig.inbound).await);
    }
    let (before, started) = (rig.cpu_time(), Instant::now());
    for id in (3..).step_by(2) {
        if started.elapsed() > Duration::from_secs(1) {
            break;
        }
        victim.send(get(id, "/bytes/1")).await;
        victim.from.until(DATA, id).await.expect("the victim is served");
        sleep(Duration::from_millis(10)).await;
    }
    let spent = rig.cpu_time() - before;
    assert!(spent < Duration::from_millis(500), "{spent:?} of CPU in a second: the listener spins");
    drop(flood);
    // With the victim that the rig brings.
    rig.beside(async {}).await;
    rig.connections(1).await;
    drop(victim);
    rig.alone().await;
}

/// Beyond the most connections, one is closed as soon as it is accepted.
#[tokio::test]
async fn connections_beyond_their_limit() {
    let rig = Rig::set(&[("INBOUND_MAX_CONNECTIONS", "10")]).await;
    rig.beside(async {
        let mut clients = Vec::new();
        for _ in 0..9 {
            let mut client = Peer::client(rig.inbound, &[]).await;
            client.send(get(1, "/bytes/1")).await;
            client.from.until(DATA, 1).await.expect("there is room");
            clients.push(client);
        }
        for _ in 0..200 * factor() {
            let end = Peer::silent(rig.inbound).await.from.end().await;
            assert_eq!(end.heads, 0);
        }
    })
    .await;
    rig.alone().await;
    rig.costs_at_most(16);
}
