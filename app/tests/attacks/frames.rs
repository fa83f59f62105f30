//! A peer that writes any frames, and reads its own.

use crate::rig::PATIENCE;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
/// A type that RFC 9113 does not know.
pub(crate) const UNKNOWN: u8 = 0xfa;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const CANCEL: u32 = 8;
const NO_ERROR: u32 = 0;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// SETTINGS_INITIAL_WINDOW_SIZE.
pub(crate) const INITIAL_WINDOW_SIZE: u8 = 4;

/// One end of a connection.
pub(crate) struct Peer {
    pub(crate) from: Frames,
    pub(crate) to: OwnedWriteHalf,
}

/// The frames that arrive.
pub(crate) struct Frames(BufReader<OwnedReadHalf>);

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// The frames that came until a connection was closed.
#[derive(Debug, Default)]
pub(crate) struct End {
    /// The code of the last GOAWAY. `None`: it was closed without one.
    pub(crate) go_away: Option<u32>,
    /// How many RST_STREAMs.
    pub(crate) resets: usize,
    /// How many heads of responses.
    pub(crate) heads: usize,
}

/// The connection ended before the awaited frame came.
#[derive(Debug)]
pub(crate) struct Gone {
    /// The code of the GOAWAY. `None`: it was closed without one.
    pub(crate) go_away: Option<u32>,
}

// === impl Peer ===

impl Peer {
    /// A connection on which nothing is sent.
    pub(crate) async fn silent(addr: SocketAddr) -> Self {
        Self::new(TcpStream::connect(addr).await.unwrap())
    }

    /// A client's connection with these settings, after its preface.
    pub(crate) async fn client(addr: SocketAddr, settings: &[(u8, u32)]) -> Self {
        let mut peer = Self::silent(addr).await;
        let payload: Vec<_> = settings.iter().flat_map(|(id, value)| setting(*id, *value)).collect();
        assert!(peer.send([PREFACE, &frame(SETTINGS, 0, 0, &payload), &frame(SETTINGS, ACK, 0, &[])].concat()).await);
        peer
    }

    /// A server's connection, after the prefaces. `None`: its client is gone.
    pub(crate) async fn server(stream: TcpStream) -> Option<Self> {
        let mut peer = Self::new(stream);
        peer.from.0.read_exact(&mut [0; PREFACE.len()]).await.ok()?;
        peer.send([frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat()).await.then_some(peer)
    }

    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        let (from, to) = stream.into_split();
        Self { from: Frames(BufReader::new(from)), to }
    }

    /// Whether the other side still takes it. Waits as long as that side does not read.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.to.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Sends all of it, or as much as the other side takes, reads meanwhile, and waits for it to hang up.
    pub(crate) async fn flood(self, bytes: impl AsRef<[u8]>) -> End {
        self.drip([bytes]).await
    }

    /// The same with a write for each part.
    pub(crate) async fn drip<P: AsRef<[u8]>>(self, parts: impl IntoIterator<Item = P>) -> End {
        let Self { mut from, mut to } = self;
        let sending = async {
            for part in parts {
                if to.write_all(part.as_ref()).await.is_err() {
                    break;
                }
                // Or several would be there before the proxy has read the first.
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(sending, from.end()).1
    }
}

// === impl Frames ===

impl Frames {
    /// `None`: the connection is closed.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of a kind on a stream; passes over all others but a GOAWAY.
    pub(crate) async fn until(&mut self, kind: u8, stream: u32) -> Result<Frame, Gone> {
        let found = async {
            loop {
                match self.next().await {
                    None => return Err(Gone { go_away: None }),
                    Some(frame) if frame.kind == kind && frame.stream == stream => return Ok(frame),
                    Some(frame) if frame.kind == GOAWAY => {
                        return Err(Gone { go_away: Some(code(&frame.payload[4..])) });
                    }
                    Some(_) => {}
                }
            }
        };
        timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no {kind} on {stream}"))
    }

    /// All that comes until the other side hangs up.
    pub(crate) async fn end(&mut self) -> End {
        timeout(PATIENCE, self.tally()).await.expect("it hangs up")
    }

    async fn tally(&mut self) -> End {
        let mut end = End::default();
        while let Some(Frame { kind, payload, .. }) = self.next().await {
            match kind {
                HEADERS => end.heads += 1,
                RST_STREAM => end.resets += 1,
                // A drain, as at half of h2's count, may come before the GOAWAY that ends the connection.
                GOAWAY if code(&payload[4..]) == NO_ERROR => {}
                GOAWAY => end.go_away = Some(code(&payload[4..])),
                _ => {}
            }
        }
        end
    }
}

/// Checks what GOAWAY said, if it came: a connection that is closed with bytes unread is reset, and what was sent last is
/// lost then. That it was closed is seen before.
#[track_caller]
pub(crate) fn check_said(go_away: Option<u32>, code: u32) {
    assert!(go_away.is_none_or(|said| said == code), "{go_away:?} instead of {code}");
}

pub(crate) fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

pub(crate) fn setting(id: u8, value: u32) -> Vec<u8> {
    [&[0, id], &value.to_be_bytes()[..]].concat()
}

/// HEADERS of a GET, which is whole.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &request(GET, path))
}

/// HEADERS of a POST, whose body follows.
pub(crate) fn post(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request(POST, path))
}

pub(crate) fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// Ids of streams that a client opens, from the first on.
pub(crate) fn ids() -> impl Iterator<Item = u32> {
    (1..=u32::MAX >> 1).step_by(2)
}

// Fields of HPACK's static table.
pub(crate) const GET: u8 = 0x82;
pub(crate) const POST: u8 = 0x83;
const HTTP: u8 = 0x86;
pub(crate) const STATUS_200: u8 = 0x88;
const AUTHORITY: u8 = 1;
const PATH: u8 = 4;

/// The field block of a request.
pub(crate) fn request(method: u8, path: &str) -> Vec<u8> {
    let mut block = vec![method, HTTP, PATH];
    string(path.as_bytes(), &mut block);
    block.push(AUTHORITY);
    string(b"test.example", &mut block);
    block
}

/// A field without indexing.
pub(crate) fn literal(name: &str, value: &[u8]) -> Vec<u8> {
    let mut field = vec![0];
    string(name.as_bytes(), &mut field);
    string(value, &mut field);
    field
}

/// A string without Huffman coding (RFC 7541 section 5.2).
pub(crate) fn string(text: &[u8], to: &mut Vec<u8>) {
    const MOST: usize = 0x7f;
    let mut rest = text.len();
    if rest < MOST {
        to.push(u8::try_from(rest).unwrap());
    } else {
        to.push(0x7f);
        rest -= MOST;
        while rest >= 0x80 {
            to.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
            rest >>= 7;
        }
        to.push(u8::try_from(rest).unwrap());
    }
    to.extend(text);
}
