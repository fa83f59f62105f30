//! A connection with much to read lets others have their turn.

use crate::frames::{PING, Peer};
use http_h2::ClientParams;
use proxy_http::stats::Peer as Side;
use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
};
use tokio::io::AsyncWriteExt as _;

/// Of a type that nobody knows, and empty.
const FRAME: [u8; 9] = [0, 0, 0, 0xfa, 0, 0, 0, 0, 0];

#[tokio::test]
async fn an_endpoint_that_sends_many_frames_does_not_hold_up_the_worker() {
    let (mut endpoint, _, rig) = Peer::server(&ClientParams::DEFAULT).await;
    let largest = Arc::<AtomicU64>::default();
    let (seen, stats) = (Arc::clone(&largest), Arc::clone(&rig.stats));
    let mut before = 0;
    let other = tokio::spawn(poll_fn(move |cx| {
        let read = stats.transport(Side::Endpoint).read_bytes();
        seen.fetch_max(read - before, Relaxed);
        before = read;
        // Behind all that may run now.
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    }));
    // All of it fits into the pipe, so that it is there at once.
    endpoint.0.write_all(&FRAME.repeat(100_000)).await.unwrap();
    endpoint.send(PING, 0, 0, &[0; 8]).await;
    while endpoint.frame().await.unwrap().kind != PING {}
    let largest = largest.load(Relaxed);
    assert!((1_000..=150_000).contains(&largest), "{largest} bytes in a turn");
    other.abort();
}
