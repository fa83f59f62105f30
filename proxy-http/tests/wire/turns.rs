//! A connection with much to read lets others have their turn, and has the system asked for events.

use crate::{
    frames::{PING, Peer},
    support::Rig,
};
use http_h2::{ClientParams, ServerParams};
use proxy_http::stats::Peer as Side;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use tokio::{io::AsyncWriteExt as _, task::yield_now};

/// Frames that nobody needs, which are there at once, must be read in turns.
async fn check(mut peer: Peer, rig: &Rig, side: Side, frames: &[u8]) {
    let largest = Arc::<AtomicU64>::default();
    let (seen, stats) = (Arc::clone(&largest), Arc::clone(&rig.stats));
    let mut before = 0;
    let other = tokio::spawn(async move {
        loop {
            let read = stats.transport(side).read_bytes();
            seen.fetch_max(read - before, Relaxed);
            before = read;
            // Behind all tasks that may run now, and the system's events.
            yield_now().await;
        }
    });
    // All of it fits into the pipe.
    peer.0.write_all(frames).await.unwrap();
    peer.send(PING, 0, 0, &[0; 8]).await;
    while peer.frame().await.unwrap().kind != PING {}
    let largest = largest.load(Relaxed);
    // The first read of 8 KiB, and a short one or two, as tasks that let others go first come to be in a row.
    assert!((1_000..=13_000).contains(&largest), "{largest} bytes in a turn");
    other.abort();
}

#[tokio::test]
async fn an_endpoint_that_sends_many_frames_does_not_hold_up_the_worker() {
    let (endpoint, _, rig) = Peer::server(&ClientParams::DEFAULT).await;
    // Of a type that nobody knows, and empty.
    check(endpoint, &rig, Side::Endpoint, &[0, 0, 0, 0xfa, 0, 0, 0, 0, 0].repeat(100_000)).await;
}

#[tokio::test]
async fn a_client_that_sends_many_frames_does_not_hold_up_the_worker() {
    let (client, _, rig) = Peer::client(&ServerParams::DEFAULT).await;
    // PRIORITY, of which 10,000 may come in a second.
    check(client, &rig, Side::Client, &[0, 0, 5, 2, 0, 0, 0, 0, 1, 0, 0, 0, 3, 16].repeat(9_000)).await;
}
