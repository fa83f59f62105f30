//! Streams that are opened to be reset at once: by the client (rapid reset, CVE-2023-44487), or by the proxy at the
//! client's instigation (MadeYouReset, CVE-2025-8671).

use crate::{
    frames::{
        CANCEL, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, PING, POST, PRIORITY, Peer, RST_STREAM,
        check_said, frame, get, ids, literal, request, window_update,
    },
    rig::{Rig, factor},
};

/// Streams of one attack.
fn streams() -> usize {
    2_000 * factor()
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

fn pairs() -> impl Iterator<Item = Vec<u8>> {
    ids().take(streams()).map(|id| [get(id, "/hang"), reset(id)].concat())
}

#[tokio::test]
async fn rapid_resets_in_one_write() {
    let rig = Rig::start().await;
    let client = Peer::client(rig.inbound, &[]).await;
    let end = rig.beside(client.flood(pairs().flatten().collect::<Vec<_>>())).await;
    check_said(end.go_away, ENHANCE_YOUR_CALM);
    rig.alone().await;
    assert_eq!(rig.beyond_limits().await, 1);
    rig.costs_at_most(32);
}

#[tokio::test]
async fn rapid_resets_a_pair_a_write() {
    let rig = Rig::start().await;
    let mut client = Peer::client(rig.inbound, &[]).await;
    let attack = async {
        for pair in pairs() {
            // The answer to a PING tells that the pair has been read, before the next one comes.
            client.send([pair, frame(PING, 0, 0, &[0; 8])].concat()).await;
            if let Err(gone) = client.from.until(PING, 0).await {
                return gone.go_away;
            }
        }
        client.from.end().await.go_away
    };
    check_said(rig.beside(attack).await, ENHANCE_YOUR_CALM);
    rig.alone().await;
    assert_eq!(rig.beyond_limits().await, 1);
    rig.costs_at_most(32);
}

#[tokio::test]
async fn resets_after_the_head_of_the_response() {
    let rig = Rig::start().await;
    let mut client = Peer::client(rig.inbound, &[]).await;
    let attack = async {
        for id in ids().take(streams()) {
            client.send(get(id, "/bytes/1000000")).await;
            match client.from.until(HEADERS, id).await {
                Ok(_) => client.send(reset(id)).await,
                Err(gone) => return gone.go_away,
            };
        }
        // The last ones may be answered by now.
        client.from.end().await.go_away
    };
    check_said(rig.beside(attack).await, ENHANCE_YOUR_CALM);
    rig.alone().await;
    assert_eq!(rig.beyond_limits().await, 1);
    rig.costs_at_most(32);
}

/// Clients cancel requests that they need no longer, and a client may be a proxy that many others go through.
#[tokio::test]
async fn a_hundred_cancels_at_once_are_no_attack() {
    let rig = Rig::start().await;
    let mut client = Peer::client(rig.inbound, &[]).await;
    let cancelled: Vec<_> = ids().take(100).collect();
    rig.beside(async {
        client.send(cancelled.iter().flat_map(|id| get(*id, "/hang")).collect::<Vec<_>>()).await;
        rig.endpoint.hangs(100).await;
        client.send(cancelled.iter().flat_map(|id| reset(*id)).collect::<Vec<_>>()).await;
        client.send(get(201, "/bytes/1")).await;
        client.from.until(DATA, 201).await.expect("the connection goes on");
    })
    .await;
}

/// Streams, each with a fault for which the proxy resets it. It must hang up before long.
async fn made_you_reset(trigger: impl Fn(u32) -> Vec<u8>) {
    let rig = Rig::start().await;
    let client = Peer::client(rig.inbound, &[]).await;
    rig.beside(client.drip(ids().take(streams()).map(trigger))).await;
    assert!(rig.endpoint.asked_to_hang() <= 1_100, "{} requests were passed on", rig.endpoint.asked_to_hang());
    rig.alone().await;
    rig.costs_at_most(32);
}

#[tokio::test]
async fn made_you_reset_by_a_window_update_of_zero() {
    made_you_reset(|id| [get(id, "/hang"), window_update(id, 0)].concat()).await;
}

#[tokio::test]
async fn made_you_reset_by_a_window_that_overflows() {
    made_you_reset(|id| [get(id, "/hang"), window_update(id, u32::MAX >> 1)].concat()).await;
}

#[tokio::test]
async fn made_you_reset_by_headers_after_the_end() {
    made_you_reset(|id| [get(id, "/hang"), get(id, "/hang")].concat()).await;
}

#[tokio::test]
async fn made_you_reset_by_data_after_the_end() {
    made_you_reset(|id| [get(id, "/hang"), frame(DATA, 0, id, b"late")].concat()).await;
}

#[tokio::test]
async fn made_you_reset_by_a_priority_of_the_wrong_length() {
    made_you_reset(|id| [get(id, "/hang"), frame(PRIORITY, 0, id, &[0; 4])].concat()).await;
}

#[tokio::test]
async fn made_you_reset_by_a_stream_that_depends_on_itself() {
    made_you_reset(|id| {
        let priority = [&id.to_be_bytes()[..], &[16]].concat();
        [get(id, "/hang"), frame(PRIORITY, 0, id, &priority)].concat()
    })
    .await;
}

#[tokio::test]
async fn made_you_reset_by_more_data_than_the_content_length() {
    made_you_reset(|id| {
        let head = [request(POST, "/hang"), literal("content-length", b"1")].concat();
        [frame(HEADERS, END_HEADERS, id, &head), frame(DATA, END_STREAM, id, b"more")].concat()
    })
    .await;
}
