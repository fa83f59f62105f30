//! Numbers at the end of their range, and data that nobody gave window for.

use crate::{
    frames::{
        DATA, FLOW_CONTROL_ERROR, HEADERS, INITIAL_WINDOW_SIZE, PING, PROTOCOL_ERROR, Peer, RST_STREAM, SETTINGS,
        check_said, code, frame, get, ids, post, setting, window_update,
    },
    rig::Rig,
};

const MOST: u32 = u32::MAX >> 1;

#[tokio::test]
async fn window_of_a_connection_that_overflows() {
    let rig = Rig::start().await;
    let client = Peer::client(rig.inbound, &[]).await;
    let end = rig.beside(client.flood([get(1, "/hang"), window_update(0, MOST)].concat())).await;
    check_said(end.go_away, FLOW_CONTROL_ERROR);
    rig.alone().await;
}

#[tokio::test]
async fn window_of_a_stream_that_overflows_ends_the_stream_alone() {
    let rig = Rig::start().await;
    let mut client = Peer::client(rig.inbound, &[]).await;
    rig.beside(async {
        client.send([get(1, "/hang"), window_update(1, MOST), get(3, "/bytes/1")].concat()).await;
        let reset = client.from.until(RST_STREAM, 1).await.unwrap();
        assert_eq!(code(&reset.payload), FLOW_CONTROL_ERROR);
        client.from.until(DATA, 3).await.expect("the connection goes on");
    })
    .await;
}

#[tokio::test]
async fn windows_that_settings_make_overflow() {
    let rig = Rig::start().await;
    let client = Peer::client(rig.inbound, &[]).await;
    let settings = frame(SETTINGS, 0, 0, &setting(INITIAL_WINDOW_SIZE, MOST));
    let bytes = [get(1, "/hang"), window_update(1, 1 << 16), settings].concat();
    check_said(rig.beside(client.flood(bytes)).await.go_away, FLOW_CONTROL_ERROR);
    rig.alone().await;
}

/// A fault of the stream or of the connection, as the engine finds it (RFC 9113 section 6.9).
#[tokio::test]
async fn more_data_than_a_stream_has_window_for() {
    let rig = Rig::start().await;
    let mut client = Peer::client(rig.inbound, &[]).await;
    // The endpoint reads none of it.
    rig.beside(async {
        client.send([post(1, "/hang"), frame(DATA, 0, 1, &[0; 16_384]).repeat(20)].concat()).await;
        let found = match client.from.until(RST_STREAM, 1).await {
            Ok(reset) => Some(code(&reset.payload)),
            Err(gone) => gone.go_away,
        };
        check_said(found, FLOW_CONTROL_ERROR);
    })
    .await;
    drop(client);
    rig.alone().await;
    rig.costs_at_most(16);
}

#[tokio::test]
async fn more_data_than_a_connection_has_window_for() {
    // Windows are not raised for streams that are stuck, or it would be some time until the client is beyond them.
    let rig = Rig::set(&[("INBOUND_MAX_BUFFERED_BYTES", "0")]).await;
    let client = Peer::client(rig.inbound, &[]).await;
    // The endpoint reads none of it, and each stream keeps within its own window, which is a sixteenth.
    let stream = |id| [post(id, "/hang"), frame(DATA, 0, id, &[0; 16_000]).repeat(4)].concat();
    let end = rig.beside(client.flood(ids().take(100).flat_map(stream).collect::<Vec<_>>())).await;
    check_said(end.go_away, FLOW_CONTROL_ERROR);
    rig.alone().await;
    rig.costs_at_most(16);
}

/// A client that has used up its ids may end its streams, and open no more.
#[tokio::test]
async fn the_last_stream_there_is() {
    let rig = Rig::start().await;
    let mut client = Peer::client(rig.inbound, &[]).await;
    rig.beside(async {
        client.send(get(MOST, "/bytes/1")).await;
        client.from.until(DATA, MOST).await.expect("it is answered");
        client.send(frame(PING, 0, 0, &[0; 8])).await;
        client.from.until(PING, 0).await.expect("the connection goes on");
        client.send(get(1, "/bytes/1")).await;
        let gone = client.from.until(HEADERS, 1).await.expect_err("ids only grow");
        assert_eq!(gone.go_away, Some(PROTOCOL_ERROR));
    })
    .await;
    rig.alone().await;
}
