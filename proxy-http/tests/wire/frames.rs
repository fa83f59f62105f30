//! A peer that reads and writes frames.

use crate::support::{PROXY, Rig};
use h2::Reason;
use http_h2::{ClientParams, ServerParams};
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// Heads of requests: `:scheme: http`, `:path: /` and `:authority: a`.
pub(crate) const GET: &[u8] = &[0x82, 0x86, 0x84, 0x01, 1, b'a'];
pub(crate) const POST: &[u8] = &[0x83, 0x86, 0x84, 0x01, 1, b'a'];

/// One end of a connection, frame by frame.
pub(crate) struct Peer(pub(crate) DuplexStream);

pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Peer {
    /// A client of a server with these params, after the prefaces.
    pub(crate) async fn client(params: &ServerParams) -> (Self, BTreeMap<u16, u32>, Rig) {
        let mut rig = Rig::new(params, &ClientParams::DEFAULT, PROXY);
        let (peer, settings) = Self::greet(rig.client_io.take().unwrap()).await;
        (peer, settings, rig)
    }

    /// A client's end of a connection, after the prefaces.
    pub(crate) async fn greet(io: DuplexStream) -> (Self, BTreeMap<u16, u32>) {
        let mut peer = Self(io);
        peer.send_preface().await;
        let settings = peer.settings().await;
        (peer, settings)
    }

    /// A client's preface and SETTINGS.
    pub(crate) async fn send_preface(&mut self) {
        self.0.write_all(PREFACE).await.unwrap();
        self.send(SETTINGS, 0, 0, &[]).await;
    }

    /// A server of a client with these params, after the prefaces.
    pub(crate) async fn server(params: &ClientParams) -> (Self, BTreeMap<u16, u32>, Rig) {
        let mut rig = Rig::new(&ServerParams::DEFAULT, params, PROXY);
        let (peer, settings) = Self::accept(&mut rig).await;
        (peer, settings, rig)
    }

    /// The endpoint's end of the proxy's next connection, after the prefaces.
    pub(crate) async fn accept(rig: &mut Rig) -> (Self, BTreeMap<u16, u32>) {
        let mut peer = Self(rig.endpoint_ios.recv().await.unwrap());
        let settings = peer.greeted().await;
        peer.send(SETTINGS, 0, 0, &[]).await;
        (peer, settings)
    }

    /// The endpoint's end of a connection that the proxy has opened, after the prefaces.
    pub(crate) async fn accepted(io: DuplexStream) -> Self {
        let mut peer = Self(io);
        peer.greeted().await;
        peer.send(SETTINGS, 0, 0, &[]).await;
        peer
    }

    /// The proxy's preface and SETTINGS; the endpoint has not sent its own.
    pub(crate) async fn greeted(&mut self) -> BTreeMap<u16, u32> {
        let mut preface = [0; PREFACE.len()];
        self.0.read_exact(&mut preface).await.unwrap();
        assert_eq!(preface, PREFACE);
        self.settings().await
    }

    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        // A peer that has hung up is found out by reading.
        let _ = self.0.write_all(&frame(kind, flags, stream, payload)).await;
    }

    /// The next frame. `None`: the connection is closed.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The payload of the next frame of a kind that is no acknowledgement.
    pub(crate) async fn until(&mut self, kind: u8) -> Option<Vec<u8>> {
        loop {
            let frame = self.frame().await?;
            let acknowledgement = matches!(frame.kind, SETTINGS | PING) && frame.flags & 1 == 1;
            if frame.kind == kind && !acknowledgement {
                return Some(frame.payload);
            }
        }
    }

    pub(crate) async fn settings(&mut self) -> BTreeMap<u16, u32> {
        let frame = self.frame().await.unwrap();
        assert_eq!(frame.kind, SETTINGS, "the first frame");
        let settings = frame.payload.chunks(6);
        settings.map(|s| (u16::from_be_bytes([s[0], s[1]]), u32::from_be_bytes([s[2], s[3], s[4], s[5]]))).collect()
    }

    /// The size of the connection's window, as the first WINDOW_UPDATE makes it.
    pub(crate) async fn connection_window(&mut self) -> u32 {
        let update = self.until(WINDOW_UPDATE).await.unwrap();
        65_535 + u32::from_be_bytes(update.try_into().unwrap())
    }

    /// The error code of the GOAWAY that ends the connection.
    pub(crate) async fn go_away(&mut self) -> Reason {
        let payload = self.until(GOAWAY).await.expect("the connection ends with a GOAWAY");
        Reason::from(u32::from_be_bytes(payload[4..8].try_into().unwrap()))
    }
}

/// A frame's bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}
