//! Each parameter's effect on the wire, seen by a peer that reads and writes frames.

use crate::{
    frames::{DATA, Frame, GET, GOAWAY, PING, POST, Peer, RST_STREAM},
    support::{Endpoint, PROXY, Rig, collect, get, post},
};
use bytes::Bytes;
use h2::Reason;
use http::Response;
use http_h2::{ClientKeepAlive, ClientParams, FlowControl, KeepAlive, Protection, ServerParams};
use proxy_http::Buffers;
use std::{future::poll_fn, time::Duration};
use tokio::{io::AsyncWriteExt as _, time::Instant};

// Identifiers of settings, RFC 9113 section 6.5.2.
const HEADER_TABLE_SIZE: u16 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;

const WINDOWS: Option<FlowControl> =
    Some(FlowControl::Fixed { initial_stream_window_size: 70_000, initial_connection_window_size: 200_000 });

#[tokio::test]
async fn server_announces_what_is_set() {
    let params = ServerParams {
        flow_control: WINDOWS,
        max_concurrent_streams: Some(7),
        max_frame_size: Some(20_000),
        header_table_size: Some(1_000),
        max_header_list_size: Some(9_000),
        ..ServerParams::DEFAULT
    };
    let (mut peer, settings, _rig) = Peer::client(&params).await;
    assert_eq!(settings[&INITIAL_WINDOW_SIZE], 70_000);
    assert_eq!(settings[&MAX_CONCURRENT_STREAMS], 7);
    assert_eq!(settings[&MAX_FRAME_SIZE], 20_000);
    assert_eq!(settings[&HEADER_TABLE_SIZE], 1_000);
    assert_eq!(settings[&MAX_HEADER_LIST_SIZE], 9_000);
    assert_eq!(peer.connection_window().await, 200_000);
}

#[tokio::test]
async fn server_without_params_keeps_the_engines_defaults() {
    let (mut peer, settings, _rig) = Peer::client(&ServerParams::DEFAULT).await;
    assert_eq!(settings[&MAX_CONCURRENT_STREAMS], 200, "unset is not unlimited");
    assert_eq!(settings[&INITIAL_WINDOW_SIZE], 1 << 20);
    assert_eq!(settings[&MAX_HEADER_LIST_SIZE], 16 << 10);
    assert_eq!(peer.connection_window().await, 1 << 20);
}

#[tokio::test]
async fn client_announces_what_is_set() {
    let params = ClientParams {
        flow_control: WINDOWS,
        max_frame_size: Some(20_000),
        header_table_size: Some(1_000),
        max_header_list_size: Some(9_000),
        ..ClientParams::DEFAULT
    };
    let (mut peer, settings, _rig) = Peer::server(&params).await;
    assert_eq!(settings[&INITIAL_WINDOW_SIZE], 70_000);
    assert_eq!(settings[&MAX_FRAME_SIZE], 20_000);
    assert_eq!(settings[&HEADER_TABLE_SIZE], 1_000);
    assert_eq!(settings[&MAX_HEADER_LIST_SIZE], 9_000);
    assert_eq!(peer.connection_window().await, 200_000);
}

#[tokio::test]
async fn adaptive_windows_start_at_65535_and_ping_on_data() {
    let server = ServerParams { flow_control: Some(FlowControl::Adaptive), ..ServerParams::DEFAULT };
    let (mut peer, settings, mut rig) = Peer::client(&server).await;
    assert_eq!(settings.get(&INITIAL_WINDOW_SIZE).copied().unwrap_or(65_535), 65_535);
    // HEADERS with END_HEADERS: POST http / of the static table; then DATA.
    peer.send(1, 4, 1, POST).await;
    peer.send(DATA, 0, 1, &[0; 1_000]).await;
    // Data is looked at as it is passed on, so the endpoint has to take it.
    let mut endpoint = rig.endpoint().await;
    let _asked = endpoint.asked().await;
    assert!(peer.until(PING).await.is_some());

    let client = ClientParams { flow_control: Some(FlowControl::Adaptive), ..ClientParams::DEFAULT };
    let (mut peer, settings, mut rig) = Peer::server(&client).await;
    assert_eq!(settings.get(&INITIAL_WINDOW_SIZE).copied().unwrap_or(65_535), 65_535);
    let mut client = rig.client().await;
    let (_response, _) = client.send_request(get(), true).unwrap();
    assert!(peer.until(1).await.is_some());
    // HEADERS with END_HEADERS: 200; then DATA.
    peer.send(1, 4, 1, &[0x88]).await;
    peer.send(DATA, 0, 1, &[0; 1_000]).await;
    assert!(peer.until(PING).await.is_some());
}

/// Sends without reading: how much of `size` a receiver takes that gives no window back.
async fn taken(stream: &mut h2::SendStream<Bytes>, size: usize) -> usize {
    stream.reserve_capacity(size);
    let mut taken = 0;
    // What is to come has come when nothing has for this long, in paused time.
    while let Ok(Some(Ok(_))) =
        tokio::time::timeout(Duration::from_secs(1), poll_fn(|cx| stream.poll_capacity(cx))).await
    {
        let n = stream.capacity();
        stream.send_data(vec![0; n].into(), false).unwrap();
        taken += n;
        stream.reserve_capacity(size - taken);
    }
    taken
}

#[tokio::test(start_paused = true)]
async fn servers_stream_window_holds_a_client_up() {
    let server = ServerParams { flow_control: WINDOWS, ..ServerParams::DEFAULT };
    let client = ClientParams { max_send_buf_size: Some(1), ..ClientParams::DEFAULT };
    let mut rig = Rig::new(&server, &client, PROXY);
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let (_response, mut stream) = client.send_request(post(), false).unwrap();
    let asked = endpoint.asked().await;
    // The endpoint does not read: its own window, a chunk between the two, and the window toward the client fill.
    let taken = taken(&mut stream, 1 << 20).await;
    assert!((70_000..=70_000 + 65_535 + 3 * 16_384).contains(&taken), "{taken}");
    drop(asked);
}

#[tokio::test(start_paused = true)]
async fn servers_connection_window_holds_all_streams_up() {
    let server = ServerParams { flow_control: WINDOWS, ..ServerParams::DEFAULT };
    let client = ClientParams { max_send_buf_size: Some(1), ..ClientParams::DEFAULT };
    // Where there is no room for streams that stall beside the window.
    let mut rig = Rig::buffering(&server, &client, PROXY, Buffers::new(0));
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

#[tokio::test(start_paused = true)]
async fn clients_stream_window_holds_an_endpoint_up() {
    let client = ClientParams { flow_control: WINDOWS, ..ClientParams::DEFAULT };
    let server = ServerParams { max_send_buf_size: Some(1), ..ServerParams::DEFAULT };
    let mut rig = Rig::new(&server, &client, PROXY);
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    let (response, _) = client.send_request(get(), true).unwrap();
    let mut body = endpoint.asked().await.answer();
    let taken = taken(&mut body, 1 << 20).await;
    assert!((70_000..=70_000 + 65_535 + 3 * 16_384).contains(&taken), "{taken}");
    drop(response);
}

#[tokio::test(start_paused = true)]
async fn max_send_buf_size_bounds_what_waits_for_a_reader() {
    let mut totals = Vec::new();
    for size in [1, 600_000] {
        let server = ServerParams { max_send_buf_size: Some(size), ..ServerParams::DEFAULT };
        let mut rig = Rig::new(&server, &ClientParams::DEFAULT, PROXY);
        // A client with the largest windows that never reads from its socket: only buffers hold data back.
        let (mut client, connection) = h2::client::Builder::new()
            .initial_window_size((1 << 31) - 1)
            .initial_connection_window_size((1 << 31) - 1)
            .handshake::<_, Bytes>(rig.client_io.take().unwrap())
            .await
            .unwrap();
        let (response, _) = client.send_request(get(), true).unwrap();
        let mut connection = Box::pin(connection);
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut connection).await.is_err());
        let mut endpoint = rig.endpoint().await;
        let mut body = endpoint.asked().await.answer();
        totals.push(taken(&mut body, 8 << 20).await);
        drop((response, connection));
    }
    // Pipes and windows hold the same in both cases; the window that reading gives back comes in steps of half of it.
    let more = totals[1] - totals[0];
    assert!((600_000 - 16_384..3 * 600_000).contains(&more), "{totals:?}");
}

#[tokio::test(start_paused = true)]
async fn server_keep_alive_pings_and_closes() {
    let keep_alive = Some(KeepAlive { interval: Duration::from_secs(10), timeout: Duration::from_secs(3) });
    let (mut peer, ..) = Peer::client(&ServerParams { keep_alive, ..ServerParams::DEFAULT }).await;
    let started = Instant::now();
    assert!(peer.until(PING).await.is_some(), "also without a stream");
    assert_eq!(started.elapsed().as_secs(), 10);
    while peer.frame().await.is_some() {}
    assert_eq!(started.elapsed().as_secs(), 13);
}

#[tokio::test(start_paused = true)]
async fn client_keep_alive_pings_and_closes() {
    let keep_alive = |while_idle| {
        let (interval, timeout) = (Duration::from_secs(10), Duration::from_secs(3));
        ClientParams { keep_alive: Some(ClientKeepAlive { interval, timeout, while_idle }), ..ClientParams::DEFAULT }
    };
    let (mut peer, _, mut rig) = Peer::server(&keep_alive(true)).await;
    let _client = rig.client().await;
    let started = Instant::now();
    assert!(peer.until(PING).await.is_some());
    assert_eq!(started.elapsed().as_secs(), 10);
    while peer.frame().await.is_some() {}
    assert_eq!(started.elapsed().as_secs(), 13);

    let (mut peer, _, mut rig) = Peer::server(&keep_alive(false)).await;
    let mut client = rig.client().await;
    let hour = Duration::from_secs(3_600);
    assert!(tokio::time::timeout(hour, peer.until(PING)).await.is_err(), "idle connections are left alone");
    let (_response, _) = client.send_request(get(), true).unwrap();
    assert!(tokio::time::timeout(hour, peer.until(PING)).await.unwrap().is_some());
}

#[tokio::test]
async fn header_list_above_the_servers_limit_is_431() {
    let server = ServerParams { max_header_list_size: Some(1_000), ..ServerParams::DEFAULT };
    let mut rig = Rig::new(&server, &ClientParams::DEFAULT, PROXY);
    let mut client = rig.client().await;
    let mut req = get();
    req.headers_mut().insert("large", "x".repeat(2_000).parse().unwrap());
    let (response, _) = client.send_request(req, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 431);
}

#[tokio::test]
async fn header_list_above_the_clients_limit_is_502() {
    for (limit, status) in [(1_000, 502), (10_000, 200)] {
        let client = ClientParams { max_header_list_size: Some(limit), ..ClientParams::DEFAULT };
        let mut rig = Rig::new(&ServerParams::DEFAULT, &client, PROXY);
        let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
        let (response, _) = client.send_request(get(), true).unwrap();
        let head = Response::builder().header("large", "x".repeat(2_000)).body(()).unwrap();
        endpoint.asked().await.respond.send_response(head, true).unwrap();
        assert_eq!(response.await.unwrap().status(), status);
    }
}

#[tokio::test]
async fn resets_before_they_are_accepted_end_the_connection_at_the_limit() {
    for (limit, ends) in [(3, true), (20, false)] {
        let params = ServerParams { max_pending_accept_reset_streams: Some(limit), ..ServerParams::DEFAULT };
        let (mut peer, _, mut rig) = Peer::client(&params).await;
        let mut frames = Vec::new();
        for stream in (1_u32..).step_by(2).take(10) {
            frames.extend([0, 0, 3, 1, 5]);
            frames.extend(stream.to_be_bytes());
            frames.extend([0x82, 0x86, 0x84]);
            frames.extend([0, 0, 4, RST_STREAM, 0]);
            frames.extend(stream.to_be_bytes());
            frames.extend(8_u32.to_be_bytes());
        }
        // In one write, so that the server reads them before it accepts any.
        peer.0.write_all(&frames).await.unwrap();
        if ends {
            assert_eq!(peer.go_away().await, Reason::ENHANCE_YOUR_CALM);
        } else {
            peer.send(PING, 0, 0, &[1; 8]).await;
            while !matches!(peer.frame().await.unwrap(), Frame { kind: PING, flags: 1, .. }) {}
        }
        rig.endpoint_ios.close();
    }
}

#[tokio::test]
async fn protocol_errors_of_a_client_end_the_connection_at_the_limit() {
    let params = ServerParams { max_local_error_reset_streams: Some(3), ..ServerParams::DEFAULT };
    let (mut peer, ..) = Peer::client(&params).await;
    for stream in (1..).step_by(2).take(10) {
        // HEADERS with END_STREAM: POST http / with content-length: 5, but there is no body.
        peer.send(1, 5, stream, &[0x83, 0x86, 0x84, 0x0f, 0x0d, 1, b'5']).await;
    }
    assert_eq!(peer.go_away().await, Reason::ENHANCE_YOUR_CALM);
}

#[tokio::test]
async fn protocol_errors_of_an_endpoint_end_the_connection_at_the_limit() {
    let params = ClientParams { max_local_error_reset_streams: Some(3), ..ClientParams::DEFAULT };
    let (mut peer, _, mut rig) = Peer::server(&params).await;
    let mut client = rig.client().await;
    let mut responses = Vec::new();
    // All before the first answer, or else another connection takes the later ones.
    for _ in 0..4 {
        responses.push(client.send_request(get(), true).unwrap().0);
        assert!(peer.until(1).await.is_some());
    }
    for stream in [1, 3, 5, 7] {
        // HEADERS with END_STREAM: 200 with content-length: 5, but there is no body.
        peer.send(1, 5, stream, &[0x88, 0x0f, 0x0d, 1, b'5']).await;
    }
    assert_eq!(peer.go_away().await, Reason::ENHANCE_YOUR_CALM);
}

#[tokio::test]
async fn cancelled_requests_with_late_answers_do_not_end_the_shared_connection() {
    // This client alone would not be let.
    let protection = Protection { max_premature_resets: 2_000, ..Protection::DEFAULT };
    let server = ServerParams { protection, ..ServerParams::DEFAULT };
    let mut rig = Rig::new(&server, &ClientParams::DEFAULT, PROXY);
    let mut client = rig.client().await;
    let mut endpoint = Endpoint::accept(rig.endpoint_ios.recv().await.unwrap()).await;
    let mut late = Vec::new();
    // More than the 1,024 local errors that a connection survives, and than the 50 resets that h2 remembers itself.
    for _ in 0..1_500 {
        let (response, mut stream) = client.send_request(get(), true).unwrap();
        let mut asked = endpoint.asked().await;
        stream.send_reset(Reason::CANCEL);
        drop(response);
        let mut body = asked.answer();
        let _ = body.send_data("late".into(), true);
        late.push((asked, body));
    }
    let (response, _) = client.send_request(get(), true).unwrap();
    endpoint.asked().await.answer().send_data("alive".into(), true).unwrap();
    assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"alive");
    assert!(rig.endpoint_ios.try_recv().is_err(), "no second connection");
}

#[tokio::test]
async fn few_remembered_resets_end_the_connection_that_many_survive() {
    for (remembered, survives) in [(0, false), (100, true)] {
        let params = ClientParams {
            max_concurrent_reset_streams: Some(remembered),
            max_local_error_reset_streams: Some(5),
            ..ClientParams::DEFAULT
        };
        let (mut peer, _, mut rig) = Peer::server(&params).await;
        let mut client = rig.client().await;
        for stream in (1..).step_by(2).take(20) {
            let (response, mut body) = client.send_request(get(), true).unwrap();
            if peer.until(1).await.is_none() {
                break;
            }
            body.send_reset(Reason::CANCEL);
            drop(response);
            if peer.until(RST_STREAM).await.is_none() {
                break;
            }
            // HEADERS of the answer, too late.
            peer.send(1, 5, stream, &[0x88]).await;
        }
        peer.send(PING, 0, 0, &[1; 8]).await;
        let mut alive = false;
        while let Some(frame) = peer.frame().await {
            if frame.kind == GOAWAY {
                break;
            }
            if frame.kind == PING {
                alive = true;
                break;
            }
        }
        assert_eq!(alive, survives, "{remembered} remembered");
    }
}

#[tokio::test]
async fn frames_above_the_limit_are_refused() {
    for (limit, ends) in [(None, true), (Some(20_000), false)] {
        let (mut peer, _, mut rig) =
            Peer::client(&ServerParams { max_frame_size: limit, ..ServerParams::DEFAULT }).await;
        peer.send(1, 4, 1, POST).await;
        peer.send(DATA, 1, 1, &[0; 16_385]).await;
        if ends {
            assert_eq!(peer.go_away().await, Reason::FRAME_SIZE_ERROR);
        } else {
            let mut endpoint = rig.endpoint().await;
            let (bytes, _) = collect(endpoint.asked().await.request.body_mut()).await.unwrap();
            assert_eq!(bytes.len(), 16_385);
        }
    }
}

#[tokio::test]
async fn streams_above_the_limit_are_refused() {
    let params = ServerParams { max_concurrent_streams: Some(1), ..ServerParams::DEFAULT };
    let (mut peer, ..) = Peer::client(&params).await;
    peer.send(1, 5, 1, GET).await;
    peer.send(1, 5, 3, GET).await;
    let code = peer.until(RST_STREAM).await.unwrap();
    assert_eq!(Reason::from(u32::from_be_bytes(code.try_into().unwrap())), Reason::REFUSED_STREAM);
}

#[test]
fn params_out_of_range_are_refused() {
    use proxy_http::{Connect, IncomingBody, Server};
    assert!(Server::new(&ServerParams { max_frame_size: Some(4), ..ServerParams::DEFAULT }).is_err());
    let bad = ClientParams { max_frame_size: Some(4), ..ClientParams::DEFAULT };
    assert!(Connect::<_, IncomingBody>::new((), &bad).is_err());
}
