//! What the targets share: a proxy between two in-memory pipes, and frames by hand.

use http_h2::{ClientParams, FlowControl, ServerParams};
use proxy_http::{
    BufferLimit, Connect, Endpoints, Proxy, Server, Stats, balance,
    proxy::{self, retry},
};
use std::{
    future::{Future, pending, ready},
    io,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::mpsc,
};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A proxy: the client's end of its connection, and the ends of those that it opens to its endpoint.
pub struct Rig {
    pub client: DuplexStream,
    pub endpoints: mpsc::UnboundedReceiver<DuplexStream>,
}

/// One end of a connection, frame by frame.
pub struct Peer(DuplexStream);

pub struct Frame {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// Runs with paused time, and fails if nothing moves any more.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(600), test).await.expect("nothing hangs") })
}

/// Waits until all has happened that can happen without time.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

impl Rig {
    /// A proxy that keeps so many bytes of a request to send it again, with default windows.
    pub fn new(buffer: usize) -> Self {
        Self::with_windows(buffer, None, usize::MAX)
    }

    /// One with these windows on both sides (`None`: the default), whose connections together hold at most `held` bytes beyond
    /// them for readers that have stopped.
    pub fn with_windows(buffer: usize, flow_control: Option<FlowControl>, held: usize) -> Self {
        let (opened, endpoints) = mpsc::unbounded_channel();
        let connector = tower::service_fn(move |_: &str| {
            let (near, far) = tokio::io::duplex(1 << 16);
            ready(opened.send(far).map(|()| near).map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused)))
        });
        let buffers = Arc::new(BufferLimit::new(held));
        let client = ClientParams { flow_control, ..ClientParams::DEFAULT };
        let connect = Connect::new(connector, &client).unwrap().buffer_in(Arc::clone(&buffers));
        let params =
            proxy::Params { retry: retry::Params { buffer, ..retry::Params::default() }, ..proxy::Params::default() };
        let targets = Endpoints::fixed(["endpoint"], &connect, balance::Params::default());
        let proxy = Proxy::new(targets, Arc::new(proxy::Limits::new(params)), Arc::<Stats>::default());
        let (client, server) = tokio::io::duplex(1 << 16);
        let params = ServerParams { flow_control, ..ServerParams::DEFAULT };
        tokio::spawn(
            async move { Server::new(&params).unwrap().buffer_in(buffers).serve(server, proxy, pending()).await },
        );
        Self { client, endpoints }
    }
}

impl Peer {
    /// A client, after its preface.
    pub async fn client(mut io: DuplexStream) -> Self {
        io.write_all(PREFACE).await.unwrap();
        Self::start(io).await
    }

    /// An endpoint, after the proxy's preface.
    pub async fn endpoint(mut io: DuplexStream) -> Self {
        io.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
        Self::start(io).await
    }

    async fn start(io: DuplexStream) -> Self {
        let mut peer = Self(io);
        peer.send(SETTINGS, 0, 0, &[]).await;
        peer
    }

    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        // Whoever has hung up is found out by reading.
        let _ = self.0.write_all(&frame).await;
    }

    /// The next frame. `None`: the connection is closed.
    pub async fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind: head[3], stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload })
    }
}

/// Fields as literals without indexing and without Huffman codes. They are `name=value`, with a bar between them.
pub fn block(fields: &[u8]) -> Vec<u8> {
    let fields = fields.split(|byte| *byte == b'|').filter(|field| !field.is_empty());
    fields.fold(Vec::new(), |mut block, field| {
        let equals = field.iter().position(|byte| *byte == b'=').unwrap_or(field.len());
        block.push(0);
        literal(&mut block, &field[..equals]);
        literal(&mut block, field.get(equals + 1..).unwrap_or_default());
        block
    })
}

/// RFC 7541 section 5.2, with a length of 7 bits and what follows them.
fn literal(block: &mut Vec<u8>, bytes: &[u8]) {
    let mut length = bytes.len();
    if length < 127 {
        block.push(length as u8);
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push((length % 128 + 128) as u8);
            length /= 128;
        }
        block.push(length as u8);
    }
    block.extend(bytes);
}
