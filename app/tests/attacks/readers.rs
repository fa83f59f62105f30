//! Clients that ask for more than they read.

use crate::{
    frames::{DATA, END_STREAM, HEADERS, INITIAL_WINDOW_SIZE, Peer, get, ids, window_update},
    rig::Rig,
};
use std::time::Duration;
use tokio::time::sleep;

const CONNECTIONS: usize = 10;
const STREAMS: usize = 100;
/// How long they read nothing. The victim meets a thousand requests at once in the beginning, and then their responses.
const STALLED: Duration = Duration::from_secs(1);

/// Connections without window, on which a path is asked for by many streams whose heads have come.
async fn stall(rig: &Rig, connections: usize, streams: usize, path: &str) -> Vec<Peer> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        let mut client = Peer::client(rig.inbound, &[(INITIAL_WINDOW_SIZE, 0)]).await;
        client.send(ids().take(streams).flat_map(|id| get(id, path)).collect::<Vec<_>>()).await;
        clients.push(client);
    }
    for client in &mut clients {
        for _ in 0..streams {
            while client.from.next().await.expect("it is open").kind != HEADERS {}
        }
    }
    clients
}

#[tokio::test]
async fn a_thousand_that_read_nothing() {
    let rig = Rig::start().await;
    let path = "/bytes/1000000";
    let attack = async {
        let clients = stall(&rig, CONNECTIONS, STREAMS, path).await;
        sleep(STALLED).await;
        clients
    };
    let mut clients = rig.beside(attack).await;
    // A window for each, and the other costs of a stream.
    rig.costs_at_most((CONNECTIONS * STREAMS) as u64 * 64 / 1024 + 48);
    // One of them goes on as soon as it reads.
    let client = &mut clients[0];
    client.send([window_update(1, 1_000_000), window_update(0, 1_000_000)].concat()).await;
    assert_eq!(body(client, 1).await, 1_000_000);
    drop(clients);
    rig.alone().await;
}

/// A byte of them costs the proxy many. Two thousand that waited would end the connection to the endpoint by h2's default.
#[tokio::test]
async fn tiny_data_to_those_that_read_nothing() {
    let rig = Rig::start().await;
    let count = 1_000;
    let mut clients = rig.beside(stall(&rig, 1, 8, &format!("/tiny/{count}"))).await;
    rig.beside(async {}).await;
    rig.costs_at_most(48);
    let client = &mut clients[0];
    client.send([window_update(1, 1 << 20), window_update(0, 1 << 20)].concat()).await;
    assert_eq!(body(client, 1).await, count);
    drop(clients);
    rig.alone().await;
}

/// The bytes of a stream's body, to its end.
async fn body(client: &mut Peer, stream: u32) -> usize {
    let mut bytes = 0;
    loop {
        let frame = client.from.until(DATA, stream).await.expect("the connection goes on");
        bytes += frame.payload.len();
        if frame.flags & END_STREAM != 0 {
            return bytes;
        }
    }
}
