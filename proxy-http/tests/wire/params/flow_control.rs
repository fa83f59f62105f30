//! Windows, and the send buffer.

use super::{Engine, INITIAL_WINDOW_SIZE, WINDOWS};
use crate::{
    frames::{DATA, PING, POST},
    support::{get, post},
};
use bytes::Bytes;
use http_h2::{ClientParams, FlowControl, ServerParams};
use proxy_http::BufferLimit;
use std::{future::poll_fn, time::Duration};
use tokio::time::timeout;

pub(super) async fn adaptive_windows_start_full_and_ping_on_data(engine: Engine) {
    // hyper's grow, ours shrink.
    let window = if engine == Engine::Hyper { 65_535 } else { 16 << 20 };
    let server = ServerParams { flow_control: Some(FlowControl::Adaptive), ..ServerParams::DEFAULT };
    let (mut peer, settings, mut rig) = engine.client(&server).await;
    assert_eq!(settings.get(&INITIAL_WINDOW_SIZE).copied().unwrap_or(65_535), window);
    // HEADERS with END_HEADERS: POST http / of the static table; then DATA.
    peer.send(1, 4, 1, POST).await;
    for _ in 0..3 {
        peer.send(DATA, 0, 1, &[0; 16_000]).await;
    }
    // Data is looked at as it is passed on, so the endpoint has to take it.
    let mut endpoint = rig.endpoint().await;
    let _asked = endpoint.asked().await;
    assert!(peer.until(PING).await.is_some());

    let client = ClientParams { flow_control: Some(FlowControl::Adaptive), ..ClientParams::DEFAULT };
    let (mut peer, settings, mut rig) = engine.server(&client).await;
    assert_eq!(settings.get(&INITIAL_WINDOW_SIZE).copied().unwrap_or(65_535), window);
    let mut client = rig.client().await;
    let (_response, _) = client.send_request(get(), true).unwrap();
    assert!(peer.until(1).await.is_some());
    // HEADERS with END_HEADERS: 200; then DATA.
    peer.send(1, 4, 1, &[0x88]).await;
    for _ in 0..3 {
        peer.send(DATA, 0, 1, &[0; 16_000]).await;
    }
    assert!(peer.until(PING).await.is_some());
}

/// Sends without reading: how much of `size` a receiver takes that gives no window back.
async fn taken(stream: &mut h2::SendStream<Bytes>, size: usize) -> usize {
    stream.reserve_capacity(size);
    let mut taken = 0;
    // All frames have come when none has for this long, in paused time.
    while let Ok(Some(Ok(_))) = timeout(Duration::from_secs(1), poll_fn(|cx| stream.poll_capacity(cx))).await {
        let n = stream.capacity();
        stream.send_data(vec![0; n].into(), false).unwrap();
        taken += n;
        stream.reserve_capacity(size - taken);
    }
    taken
}

pub(super) async fn servers_stream_window_holds_a_client_up(engine: Engine) {
    let server = ServerParams { flow_control: WINDOWS, ..ServerParams::DEFAULT };
    let client = ClientParams { max_send_buf_size: Some(1), ..ClientParams::DEFAULT };
    let mut rig = engine.between(&server, &client);
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let (_response, mut stream) = client.send_request(post(), false).unwrap();
    let asked = endpoint.asked().await;
    // The endpoint does not read: its own window, a chunk between the two, and the window toward the client fill.
    let taken = taken(&mut stream, 1 << 20).await;
    assert!((70_000..=70_000 + 65_535 + 3 * 16_384).contains(&taken), "{taken}");
    drop(asked);
}

pub(super) async fn servers_connection_window_holds_all_streams_up(engine: Engine) {
    let server = ServerParams { flow_control: WINDOWS, ..ServerParams::DEFAULT };
    let client = ClientParams { max_send_buf_size: Some(1), ..ClientParams::DEFAULT };
    // Where there is no room for streams that stall beside the window.
    let mut rig = engine.buffering(&server, &client, BufferLimit::new(0));
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let mut total = 0;
    let mut open = Vec::new();
    for _ in 0..8 {
        let (response, mut stream) = client.send_request(post(), false).unwrap();
        let asked = endpoint.asked().await;
        total += taken(&mut stream, 1 << 20).await;
        open.push((response, stream, asked));
    }
    // Eight streams could take 560,000. Beside the window, the endpoint's own and a chunk of each stream are on the way.
    assert!((200_000..=200_000 + 65_535 + 9 * 16_384).contains(&total), "{total}");
}

pub(super) async fn clients_stream_window_holds_an_endpoint_up(engine: Engine) {
    let client = ClientParams { flow_control: WINDOWS, ..ClientParams::DEFAULT };
    let server = ServerParams { max_send_buf_size: Some(1), ..ServerParams::DEFAULT };
    let mut rig = engine.between(&server, &client);
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let (response, _) = client.send_request(get(), true).unwrap();
    let mut body = endpoint.asked().await.answer();
    let taken = taken(&mut body, 1 << 20).await;
    assert!((70_000..=70_000 + 65_535 + 3 * 16_384).contains(&taken), "{taken}");
    drop(response);
}

pub(super) async fn max_send_buf_size_bounds_what_waits_for_a_reader(engine: Engine) {
    let mut totals = Vec::new();
    for size in [1, 600_000] {
        let server = ServerParams { max_send_buf_size: Some(size), ..ServerParams::DEFAULT };
        let mut rig = engine.between(&server, &ClientParams::DEFAULT);
        // A client with the largest windows that never reads from its socket: only buffers hold data back.
        let (mut client, connection) = h2::client::Builder::new()
            .initial_window_size((1 << 31) - 1)
            .initial_connection_window_size((1 << 31) - 1)
            .handshake::<_, Bytes>(rig.client_io.take().unwrap())
            .await
            .unwrap();
        let (response, _) = client.send_request(get(), true).unwrap();
        let mut connection = Box::pin(connection);
        assert!(timeout(Duration::from_millis(1), &mut connection).await.is_err());
        let mut endpoint = rig.endpoint().await;
        let mut body = endpoint.asked().await.answer();
        totals.push(taken(&mut body, 8 << 20).await);
        drop((response, connection));
    }
    // Pipes and windows hold the same in both cases; the window that reading gives back comes in steps of half of it.
    let more = totals[1] - totals[0];
    assert!((600_000 - 16_384..3 * 600_000).contains(&more), "{totals:?}");
}
