//! Connections that live long: h2's counts over a connection's life end none that peers use as they may.

use crate::{
    early::{PATIENCE, ids},
    frames::{
        DATA, END_HEADERS, END_STREAM, Frame, GET, GOAWAY, HEADERS, PING, POST, Peer, RST_STREAM, SETTINGS,
        WINDOW_UPDATE, frame,
    },
    support::{PROXY, Rig, get, post},
};
use h2::Reason;
use http_h2::{ClientParams, Protection, ServerParams};
use proxy_http::stats::{Limit, Peer as Side};
use std::{env, mem, time::Duration};
use tokio::{
    io::AsyncWriteExt as _,
    time::{sleep, timeout},
};

const ACK: u8 = 1;
/// A head with status 200, one with 103, and trailers.
const OK: &[u8] = &[0x88];
const EARLY_HINTS: &[u8] = &[0x08, 3, b'1', b'0', b'3'];
const TRAILERS: &[u8] = &[0, 1, b'a', 1, b'b'];
/// More than any count of h2, in streams.
const REQUESTS: u32 = 4_000;

/// DATA that comes late. Smaller pieces on streams that were reset cost some of a budget for life, which has tests of its own.
const LATE: &[u8] = &[b'x'; 256];

/// How many requests one connection has. To run with a million takes some minutes.
fn requests() -> u32 {
    env::var("LONG_LIFE_REQUESTS").map_or(REQUESTS, |requests| requests.parse().expect("a number"))
}

impl Peer {
    /// The next frame that is of a stream. Its part of the connection's window is given back.
    async fn of_any(&mut self) -> Frame {
        loop {
            let frame = timeout(PATIENCE, self.frame()).await.expect("it comes").expect("it is open");
            match frame.kind {
                PING if frame.flags & ACK == 0 => self.send(PING, ACK, 0, &frame.payload).await,
                GOAWAY => panic!("it is told to go: {:?}", frame.payload),
                WINDOW_UPDATE => {}
                DATA if !frame.payload.is_empty() => {
                    let taken = u32::try_from(frame.payload.len()).unwrap();
                    self.send(WINDOW_UPDATE, 0, 0, &taken.to_be_bytes()).await;
                    return frame;
                }
                _ if frame.stream > 0 => return frame,
                _ => {}
            }
        }
    }

    /// Reads a stream to its end, and tells with which code it was reset.
    async fn ends(&mut self, stream: u32) -> Option<Reason> {
        loop {
            let frame = self.of_any().await;
            if frame.stream != stream {
                continue;
            }
            if frame.kind == RST_STREAM {
                return Some(Reason::from(u32::from_be_bytes(frame.payload.try_into().unwrap())));
            }
            if frame.flags & END_STREAM != 0 {
                return None;
            }
        }
    }

    /// The next request's stream.
    async fn asked(&mut self) -> u32 {
        loop {
            let frame = self.of_any().await;
            // Trailers end theirs, and have no pseudo-field at their start.
            if frame.kind == HEADERS && frame.payload[0] & 0x80 != 0 {
                return frame.stream;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn requests_of_all_kinds() {
    let protection = Protection { max_control_frames: u32::MAX, ..Protection::DEFAULT };
    let params = ServerParams { protection, ..ServerParams::DEFAULT };
    let (mut client, _, mut rig) = Peer::client(&params).await;
    let (mut endpoint, _) = Peer::accept(&mut rig).await;
    for (index, id) in ids().take(requests() as usize).enumerate() {
        let (head, flags) = if index % 8 == 0 { (GET, END_STREAM) } else { (POST, 0) };
        client.send(HEADERS, END_HEADERS | flags, id, head).await;
        let at = endpoint.asked().await;
        match index % 8 {
            0 => endpoint.send(HEADERS, END_HEADERS | END_STREAM, at, OK).await,
            1 => {
                // Empty chunks in both directions.
                client.0.write_all(&[frame(DATA, 0, id, b"some"), frame(DATA, 0, id, &[])].concat()).await.unwrap();
                client.send(DATA, END_STREAM, id, b"data").await;
                endpoint.ends(at).await;
                endpoint.send(HEADERS, END_HEADERS, at, OK).await;
                endpoint.0.write_all(&[frame(DATA, 0, at, &[]), frame(DATA, 0, at, b"some")].concat()).await.unwrap();
                endpoint.send(DATA, END_STREAM, at, &[]).await;
            }
            2 => {
                // Trailers in both.
                client.send(HEADERS, END_HEADERS | END_STREAM, id, TRAILERS).await;
                endpoint.ends(at).await;
                endpoint.send(HEADERS, END_HEADERS, at, OK).await;
                endpoint.send(DATA, 0, at, b"some").await;
                endpoint.send(HEADERS, END_HEADERS | END_STREAM, at, TRAILERS).await;
            }
            3 => {
                // A client that cancels, and an answer that comes late.
                client.send(RST_STREAM, 0, id, &[0, 0, 0, 8]).await;
                assert_eq!(endpoint.ends(at).await, Some(Reason::CANCEL));
                endpoint.send(HEADERS, END_HEADERS, at, OK).await;
                endpoint.send(DATA, END_STREAM, at, LATE).await;
                continue;
            }
            4 => {
                // An endpoint that resets, and an upload that goes on.
                endpoint.send(RST_STREAM, 0, at, &[0, 0, 0, 8]).await;
                assert_eq!(client.ends(id).await, Some(Reason::CANCEL));
                client.send(DATA, 0, id, LATE).await;
                client.send(DATA, END_STREAM, id, LATE).await;
                continue;
            }
            5 => {
                // An answer before the request's end.
                endpoint.send(HEADERS, END_HEADERS, at, OK).await;
                endpoint.send(DATA, END_STREAM, at, b"early").await;
                assert_eq!(client.ends(id).await, None);
                client.send(DATA, 0, id, LATE).await;
                client.send(DATA, END_STREAM, id, LATE).await;
                continue;
            }
            6 => {
                endpoint.send(HEADERS, END_HEADERS, at, EARLY_HINTS).await;
                client.send(DATA, END_STREAM, id, b"data").await;
                endpoint.ends(at).await;
                endpoint.send(HEADERS, END_HEADERS | END_STREAM, at, OK).await;
            }
            _ => {
                // Nothing but ends.
                client.send(DATA, END_STREAM, id, &[]).await;
                endpoint.ends(at).await;
                endpoint.send(HEADERS, END_HEADERS, at, OK).await;
                endpoint.send(DATA, END_STREAM, at, &[]).await;
            }
        }
        assert_eq!(client.ends(id).await, None, "{index}");
    }
    assert!(rig.endpoint_ios.try_recv().is_err(), "no second connection");
    assert_eq!(drained(&rig), 0);
}

/// Connections of clients that were drained for h2's counts.
fn drained(rig: &Rig) -> u64 {
    rig.stats.transport(Side::Client).limits().find(|(known, _)| *known == Limit::EngineLifetime).unwrap().1
}

/// A client that opens a connection when it is told to go, and an endpoint.
struct Clients {
    rig: Rig,
    endpoint: Peer,
    peer: Peer,
    next: u32,
    told: bool,
    connections: u32,
    /// The first connection, once it is left, with an upload that is open on it.
    first: Option<Peer>,
    long: u32,
}

impl Clients {
    async fn new(params: &ServerParams) -> Self {
        let (mut peer, _, mut rig) = Peer::client(params).await;
        let (mut endpoint, _) = Peer::accept(&mut rig).await;
        peer.send(SETTINGS, ACK, 0, &[]).await;
        peer.send(HEADERS, END_HEADERS, 1, POST).await;
        let long = endpoint.asked().await;
        Self { rig, endpoint, peer, next: 3, told: false, connections: 1, first: None, long }
    }

    /// A new stream, on a new connection if the last one is not to have more.
    async fn stream(&mut self) -> u32 {
        if self.told {
            let (io, _) = self.rig.connect(1 << 20);
            let left = mem::replace(&mut self.peer, Peer::greet(io).await.0);
            self.first.get_or_insert(left);
            (self.next, self.told) = (1, false);
            self.connections += 1;
        }
        self.next += 2;
        self.next - 2
    }

    /// The code that a stream is reset with.
    async fn reset(&mut self, stream: u32) -> Reason {
        loop {
            let frame = timeout(PATIENCE, self.peer.frame()).await.expect("it comes").expect("it is open");
            match frame.kind {
                PING if frame.flags & ACK == 0 => self.peer.send(PING, ACK, 0, &frame.payload).await,
                GOAWAY => {
                    assert_eq!(frame.payload[4..8], [0; 4], "it is drained, and nothing worse");
                    self.told = true;
                }
                RST_STREAM if frame.stream == stream => {
                    return Reason::from(u32::from_be_bytes(frame.payload.try_into().unwrap()));
                }
                _ => {}
            }
        }
    }

    /// The stream that was open all the time ends well.
    async fn finish(mut self, connections: u32) {
        assert_eq!(self.connections, connections);
        assert_eq!(drained(&self.rig), u64::from(connections) - 1);
        let mut first = self.first.unwrap();
        first.send(DATA, END_STREAM, 1, b"the end").await;
        assert_eq!(self.endpoint.ends(self.long).await, None);
        self.endpoint.send(HEADERS, END_HEADERS, self.long, OK).await;
        self.endpoint.send(DATA, END_STREAM, self.long, b"answer").await;
        assert_eq!(timeout(PATIENCE, first.until(DATA)).await.expect("it is answered").unwrap(), b"answer");
    }
}

#[tokio::test(start_paused = true)]
async fn malformed_requests_drain_their_connection() {
    let mut clients = Clients::new(&ServerParams::DEFAULT).await;
    // `connection`, with an empty value.
    let malformed = [GET, &[0, 10], b"connection", &[0]].concat();
    for _ in 0..2_000 {
        let stream = clients.stream().await;
        clients.peer.send(HEADERS, END_HEADERS | END_STREAM, stream, &malformed).await;
        assert_eq!(clients.reset(stream).await, Reason::PROTOCOL_ERROR);
    }
    // After 513 each, or one more that is on its way.
    clients.finish(4).await;
}

#[tokio::test(start_paused = true)]
async fn what_clients_send_late_on_forgotten_streams_drains_their_connection() {
    let params = ServerParams { max_concurrent_reset_streams: Some(1), ..ServerParams::DEFAULT };
    let mut clients = Clients::new(&params).await;
    for _ in 0..2_000 {
        let stream = clients.stream().await;
        clients.peer.send(HEADERS, END_HEADERS, stream, POST).await;
        let at = clients.endpoint.asked().await;
        clients.endpoint.send(RST_STREAM, 0, at, &[0, 0, 0, 8]).await;
        assert_eq!(clients.reset(stream).await, Reason::CANCEL);
        // The first one is remembered, and a connection that is drained may be closed by now.
        if stream > 5 && !clients.told {
            clients.peer.send(DATA, 0, stream - 2, b"late").await;
            assert_eq!(clients.reset(stream - 2).await, Reason::STREAM_CLOSED);
        }
    }
    clients.finish(4).await;
}

#[tokio::test(start_paused = true)]
async fn small_data_that_clients_send_late_drains_their_connection() {
    let mut clients = Clients::new(&ServerParams::DEFAULT).await;
    let late = 400;
    for _ in 0..200 {
        let stream = clients.stream().await;
        clients.peer.send(HEADERS, END_HEADERS, stream, POST).await;
        let at = clients.endpoint.asked().await;
        clients.endpoint.send(RST_STREAM, 0, at, &[0, 0, 0, 8]).await;
        assert_eq!(clients.reset(stream).await, Reason::CANCEL);
        // Fails where the connection is drained and has nothing else.
        let _ = clients.peer.0.write_all(&frame(DATA, 0, stream, b"x").repeat(late)).await;
    }
    // 80,000 frames of a byte, of which h2 takes 16,448 on a connection.
    let connections = clients.connections;
    assert!((8..=10).contains(&connections), "{connections}");
    clients.finish(connections).await;
}

#[tokio::test(start_paused = true)]
async fn what_endpoints_send_late_on_forgotten_streams_replaces_their_connection() {
    let protection = Protection { max_premature_resets: 10_000, ..Protection::DEFAULT };
    let server = ServerParams { protection, ..ServerParams::DEFAULT };
    let params = ClientParams { max_concurrent_reset_streams: Some(1), ..ClientParams::DEFAULT };
    let mut rig = Rig::new(&server, &params, PROXY);
    let mut client = rig.client().await;
    let mut left = Vec::new();
    let (mut endpoint, _) = Peer::accept(&mut rig).await;
    let mut open = Vec::new();
    for _ in 0..2_000 {
        let (response, mut body) = client.send_request(get(), true).unwrap();
        let stream = loop {
            if !rig.endpoint_ios.is_empty() {
                left.push(mem::replace(&mut endpoint, Peer::accept(&mut rig).await.0));
            }
            tokio::select! {
                biased;
                stream = endpoint.asked() => break stream,
                () = sleep(Duration::from_millis(10)) => {}
            }
        };
        if stream == 1 {
            // One on each connection is open all the time.
            open.push(response);
            continue;
        }
        body.send_reset(Reason::CANCEL);
        drop(response);
        assert_eq!(endpoint.ends(stream).await, Some(Reason::CANCEL));
        // The first one is remembered.
        if stream > 5 {
            endpoint.send(HEADERS, END_HEADERS | END_STREAM, stream - 2, OK).await;
            assert_eq!(endpoint.ends(stream - 2).await, Some(Reason::STREAM_CLOSED));
        }
    }
    assert_eq!(left.len(), 3);
    left.push(endpoint);
    for (endpoint, response) in left.iter_mut().zip(open) {
        endpoint.send(HEADERS, END_HEADERS | END_STREAM, 1, OK).await;
        assert_eq!(timeout(PATIENCE, response).await.expect("it is answered").unwrap().status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_streams_are_used_up_is_replaced() {
    let mut rig = Rig::defaults();
    let mut client = rig.client().await;
    let (mut first, _) = Peer::accept(&mut rig).await;
    // h2 resets a stream that it never opened, and then goes on behind it: as after 15 hours of 20,000 requests a second.
    let used = (1 << 31) - (1 << 20) - 9;
    first.send(HEADERS, END_HEADERS | END_STREAM, used, &[OK, &[0, 10], b"connection", &[0]].concat()).await;
    assert_eq!(first.ends(used).await, Some(Reason::PROTOCOL_ERROR));
    // All at once: requests behind the first, with which the last streams begin, have some left.
    let responses: Vec<_> = (0..20).map(|_| client.send_request(post(), true).unwrap().0).collect();
    for index in 1..=20 {
        assert_eq!(first.asked().await, used + 2 * index);
    }
    let (mut second, _) = timeout(PATIENCE, Peer::accept(&mut rig)).await.expect("it is replaced");
    for stream in ids().take(5) {
        let (response, _) = client.send_request(post(), true).unwrap();
        assert_eq!(second.asked().await, stream);
        second.send(HEADERS, END_HEADERS | END_STREAM, stream, OK).await;
        assert_eq!(response.await.unwrap().status(), 200);
    }
    for (index, response) in (1..).zip(responses) {
        first.send(HEADERS, END_HEADERS | END_STREAM, used + 2 * index, OK).await;
        assert_eq!(timeout(PATIENCE, response).await.expect("it is answered").unwrap().status(), 200);
    }
}
