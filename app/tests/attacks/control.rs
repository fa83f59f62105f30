//! Frames that cost their sender nothing and ask for work: read or not, they must end the connection.

use crate::{
    frames::{
        CANCEL, DATA, ENHANCE_YOUR_CALM, INITIAL_WINDOW_SIZE, PING, PRIORITY, Peer, RST_STREAM, SETTINGS, UNKNOWN,
        check_said, frame, get, ids, post, setting, window_update,
    },
    rig::{PATIENCE, Rig, factor},
};
use tokio::time::timeout;

/// Frames of one attack. A tenth as many as usual may come in a second, too.
fn frames() -> usize {
    20_000 * factor()
}

fn limit() -> String {
    (1_000 * factor()).to_string()
}

/// Sends many of one frame, after the frames that open a stream for it. The answers are read, and then, by another client, not.
async fn flood(opening: &[u8], frame: &[u8]) {
    let rig = Rig::set(&[("INBOUND_SERVER_HTTP2_MAX_CONTROL_FRAMES", &limit())]).await;
    let bytes = [opening, &frame.repeat(frames())].concat();
    let client = Peer::client(rig.inbound, &[]).await;
    let end = rig.beside(client.flood(&bytes)).await;
    check_said(end.go_away, ENHANCE_YOUR_CALM);
    rig.alone().await;

    let mut client = Peer::client(rig.inbound, &[]).await;
    let unread = async {
        // Until the proxy hangs up, or takes no more.
        let _ = timeout(PATIENCE, client.send(&bytes)).await;
    };
    rig.beside(unread).await;
    // It does not wait for the client to read that it has hung up.
    rig.alone().await;
    rig.costs_at_most(32);
    assert_eq!(rig.beyond_limits().await, 2);
    drop(client);
}

#[tokio::test]
async fn ping() {
    flood(&[], &frame(PING, 0, 0, &[0; 8])).await;
}

#[tokio::test]
async fn settings() {
    flood(&[], &frame(SETTINGS, 0, 0, &[])).await;
}

/// Each of them is applied to all streams.
#[tokio::test]
async fn settings_that_move_the_windows_of_many_streams() {
    let opening: Vec<_> = ids().take(100).flat_map(|id| get(id, "/hang")).collect();
    let settings = [1, 0].map(|window| frame(SETTINGS, 0, 0, &setting(INITIAL_WINDOW_SIZE, window))).concat();
    flood(&opening, &settings).await;
}

#[tokio::test]
async fn priority() {
    flood(&[], &frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 16])).await;
}

#[tokio::test]
async fn window_updates_of_a_stream() {
    flood(&get(1, "/hang"), &window_update(1, 1)).await;
}

#[tokio::test]
async fn window_updates_of_a_connection() {
    flood(&[], &window_update(0, 1)).await;
}

#[tokio::test]
async fn unknown_frames() {
    flood(&[], &frame(UNKNOWN, 0, 0, &[0; 8])).await;
}

#[tokio::test]
async fn resets_of_a_stream_that_has_ended() {
    let reset = frame(RST_STREAM, 0, 1, &CANCEL.to_be_bytes());
    flood(&get(1, "/hang"), &reset).await;
}

#[tokio::test]
async fn empty_data() {
    flood(&post(1, "/hang"), &frame(DATA, 0, 1, &[])).await;
}

#[tokio::test]
async fn padding_alone() {
    const PADDED: u8 = 8;
    flood(&post(1, "/hang"), &frame(DATA, PADDED, 1, &[&[20][..], &[0; 20]].concat())).await;
}
