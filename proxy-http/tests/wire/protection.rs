//! Clients that attack: each is bounded, and others on the same proxy do not notice.

mod floods;
mod resets;

use crate::{
    frames::{
        DATA, END_HEADERS, END_STREAM, GET, GOAWAY, HEADERS, PING, POST, PREFACE, Peer, RST_STREAM, SETTINGS, frame,
    },
    support::{Asked, Endpoint, Others, PROXY, Rig, collect, get, grpc, reset},
};
use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use http::Request;
use http_h2::{ClientParams, Protection, ServerParams};
use proxy_http::{
    proxy,
    server::Error,
    stats::{Limit, Peer as Side, ResetCode},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

const SECOND: Duration = Duration::from_secs(1);
/// How long anything may take before it counts as hung; longer than any deadline here.
const PATIENCE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const PRIORITY: u8 = 2;
const CONTINUATION: u8 = 9;
const PIPE: usize = 1 << 20;

/// A proxy whose endpoint and nine streams of another client are there before an attack, and after it.
struct Scene {
    rig: Rig,
    endpoint: Endpoint,
    bystander: SendRequest<Bytes>,
    others: Others,
    tasks: usize,
    references: usize,
}

/// An attacker's end of its connection, and how the proxy's ends.
struct Attacker {
    peer: Peer,
    served: JoinHandle<Result<(), Error>>,
    /// PINGs that ask whether it is alive.
    asked: u64,
}

impl Scene {
    async fn new(params: &ServerParams) -> Self {
        Self::with(params, PROXY).await
    }

    async fn with(params: &ServerParams, proxy: proxy::Params) -> Self {
        let mut rig = Rig::new(params, &ClientParams::DEFAULT, proxy);
        let (mut bystander, mut endpoint) = (rig.client().await, rig.endpoint().await);
        let others = Others::open(&mut bystander, &mut endpoint).await;
        let references = references(&rig);
        Self { rig, endpoint, bystander, others, tasks: alive_tasks(), references }
    }

    async fn attacker(&self) -> Attacker {
        let (io, served) = self.rig.connect(PIPE);
        Attacker::new(Peer::greet(io).await.0, served)
    }

    fn limit(&self, limit: Limit) -> u64 {
        self.rig.stats.transport(Side::Client).limits().find(|(known, _)| *known == limit).unwrap().1
    }

    /// A client was closed that has not shown its protocol.
    async fn undetected(self, served: JoinHandle<Result<(), Error>>) {
        timeout(PATIENCE, served).await.expect("it is closed").unwrap().unwrap();
        assert_eq!(self.limit(Limit::Detect), 1);
        self.others.finish().await;
    }

    /// An attacker was closed for one limit; of it nothing is left, and the others go on.
    async fn closed_for(mut self, served: JoinHandle<Result<(), Error>>, limit: Limit) {
        let error = timeout(PATIENCE, served).await.expect("it is closed").unwrap().unwrap_err();
        // A connection that h2 closes has no limit in its error.
        assert_eq!(error.limit(), Some(limit).filter(|limit| *limit != Limit::Engine), "{error:?}");
        assert_eq!(self.limit(limit), 1, "{limit:?}");
        if limit != Limit::Engine {
            let lost = self.rig.stats.transport(Side::Client).resets().find(|(code, _)| *code == ResetCode::Other);
            assert_eq!(lost, Some((ResetCode::Other, 0)), "the client has lost nothing");
        }
        self.others.finish().await;
        // The attacker's requests are still on their way out of the queue.
        let (response, _) = self.bystander.send_request(mark(), true).unwrap();
        let mut asked = self.endpoint.asked().await;
        while asked.request.uri().path() != "/mark" {
            asked = self.endpoint.asked().await;
        }
        asked.answer().send_data("answer".into(), true).unwrap();
        assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"answer");
        until(|| alive_tasks() == self.tasks).await;
        assert_eq!(references(&self.rig), self.references);
        assert_eq!(self.rig.stats.transport(Side::Client).open_connections(), 1);
        until(|| self.rig.limits.in_flight() == 0).await;
        assert!(self.rig.endpoint_ios.try_recv().is_err(), "no second connection to the endpoint");
    }
}

impl Attacker {
    fn new(peer: Peer, served: JoinHandle<Result<(), Error>>) -> Self {
        Self { peer, served, asked: 0 }
    }

    /// Whether the connection is still served; if not, the code of its GOAWAY.
    async fn alive(&mut self) -> Result<(), Reason> {
        self.asked += 1;
        let ping = self.asked.to_be_bytes();
        self.peer.send(PING, 0, 0, &ping).await;
        while let Some(frame) = timeout(PATIENCE, self.peer.frame()).await.expect("it is served or closed") {
            match frame.kind {
                PING if frame.payload == ping => return Ok(()),
                GOAWAY => return Err(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()).into()),
                _ => {}
            }
        }
        panic!("closed without GOAWAY");
    }

    /// The same, when all that was sent before has had its effect: the first PING may be answered before that.
    async fn settled(&mut self) -> Result<(), Reason> {
        self.alive().await?;
        self.alive().await
    }

    /// The code of the GOAWAY that it is closed with.
    async fn closed(&mut self) -> Reason {
        timeout(PATIENCE, self.peer.go_away()).await.expect("it is closed")
    }

    /// The payload of a frame that comes next among others.
    async fn until(&mut self, kind: u8) -> Vec<u8> {
        timeout(PATIENCE, self.peer.until(kind)).await.expect("it comes").expect("it is open")
    }
}

/// Each connection of a client has some, as long as anything is left of it.
fn references(rig: &Rig) -> usize {
    Arc::strong_count(rig.stats.transport(Side::Client))
}

fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

async fn until(done: impl Fn() -> bool) {
    let done = async {
        while !done() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, done).await.expect("it happens");
}

fn mark() -> Request<()> {
    Request::get("http://test.example/mark").body(()).unwrap()
}

fn with(protection: Protection) -> ServerParams {
    ServerParams { protection, ..ServerParams::DEFAULT }
}

fn streams() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

fn update(increment: u32) -> [u8; 4] {
    increment.to_be_bytes()
}

// === deadlines ===

#[tokio::test(start_paused = true)]
async fn a_client_has_ten_seconds_to_greet() {
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
    let greeting = [PREFACE, &settings].concat();
    for sent in [0, 10, PREFACE.len(), PREFACE.len() + 5, greeting.len() - 1] {
        let scene = Scene::new(&ServerParams::DEFAULT).await;
        let (mut io, served) = scene.rig.connect(PIPE);
        let started = Instant::now();
        io.write_all(&greeting[..sent]).await.unwrap();
        let mut rest = Vec::new();
        timeout(PATIENCE, io.read_to_end(&mut rest)).await.expect("it is closed").unwrap();
        assert_eq!(started.elapsed().as_secs(), 10, "{sent}");
        // With HTTP/2 up it is told why.
        let told = rest.windows(4).any(|code| code == u32::from(Reason::SETTINGS_TIMEOUT).to_be_bytes());
        assert_eq!(told, sent >= PREFACE.len(), "{sent}");
        if told {
            scene.closed_for(served, Limit::Handshake).await;
        } else {
            scene.undetected(served).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn trickling_gains_no_time() {
    let scene = Scene::new(&ServerParams::DEFAULT).await;
    let (mut io, served) = scene.rig.connect(PIPE);
    let started = Instant::now();
    for byte in PREFACE {
        if io.write_all(&[*byte]).await.is_err() {
            break;
        }
        sleep(SECOND).await;
    }
    assert_eq!(started.elapsed().as_secs(), 11, "the first write that fails comes a second later");
    scene.undetected(served).await;
}

#[tokio::test(start_paused = true)]
async fn the_time_to_greet_starts_with_the_connection() {
    let scene = Scene::new(&ServerParams::DEFAULT).await;
    let (mut io, served) = scene.rig.connect(PIPE);
    let started = Instant::now();
    sleep(9 * SECOND).await;
    io.write_all(PREFACE).await.unwrap();
    io.read_to_end(&mut Vec::new()).await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 10);
    scene.closed_for(served, Limit::Handshake).await;
}

#[tokio::test(start_paused = true)]
async fn who_has_greeted_in_time_may_be_silent() {
    let scene = Scene::new(&ServerParams::DEFAULT).await;
    let (mut io, served) = scene.rig.connect(PIPE);
    sleep(10 * SECOND - Duration::from_millis(1)).await;
    io.write_all(PREFACE).await.unwrap();
    io.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    sleep(DAY).await;
    let mut late = Attacker::new(Peer(io), served);
    assert_eq!(late.alive().await, Ok(()));
    late.peer.send(HEADERS, END_STREAM | END_HEADERS, 1, GET).await;
    let Scene { mut endpoint, .. } = scene;
    endpoint.asked().await.answer().send_data("answer".into(), true).unwrap();
    assert_eq!(late.until(DATA).await, b"answer");
}

#[tokio::test(start_paused = true)]
async fn a_header_block_has_ten_seconds() {
    let headers = frame(HEADERS, END_STREAM, 3, GET);
    // When a frame comes, and its size; no frame ends the block.
    let trickle = (0..5).map(|n| (2 * n * SECOND, frame(CONTINUATION, 0, 3, &[])));
    let shapes = [
        vec![(Duration::ZERO, headers.clone())],
        vec![(Duration::ZERO, headers[..9].to_vec())],
        vec![(Duration::ZERO, headers[..11].to_vec()), (9 * SECOND, headers[11..].to_vec())],
        [(Duration::ZERO, headers.clone())].into_iter().chain(trickle).collect(),
        vec![(Duration::ZERO, headers), (9 * SECOND, frame(CONTINUATION, END_HEADERS, 3, b"x")[..9].to_vec())],
    ];
    for (index, shape) in shapes.into_iter().enumerate() {
        let mut scene = Scene::new(&ServerParams::DEFAULT).await;
        let mut attacker = scene.attacker().await;
        // One that is open ends, too.
        attacker.peer.send(HEADERS, END_HEADERS, 1, POST).await;
        let mut open = scene.endpoint.asked().await;
        // Once it is answered, the upload has a task of its own.
        let _download = (index % 2 == 1).then(|| open.answer());
        // Past all that was to happen at its beginning.
        sleep(30 * SECOND).await;
        let started = Instant::now();
        for (at, bytes) in shape {
            sleep_until(started + at).await;
            attacker.peer.0.write_all(&bytes).await.unwrap();
        }
        assert_eq!(attacker.closed().await, Reason::ENHANCE_YOUR_CALM, "{index}");
        assert_eq!(started.elapsed().as_secs(), 10, "{index}");
        assert_eq!(reset(collect(open.request.body_mut()).await), Reason::CANCEL, "{index}");
        scene.closed_for(attacker.served, Limit::HeaderBlock).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_header_block_has_ten_seconds_too() {
    let mut scene = Scene::new(&ServerParams::DEFAULT).await;
    let mut attacker = scene.attacker().await;
    let started = Instant::now();
    attacker.peer.send(HEADERS, END_STREAM, 1, GET).await;
    sleep(9 * SECOND).await;
    attacker.peer.send(CONTINUATION, END_HEADERS, 1, &[]).await;
    let _asked = scene.endpoint.asked().await;
    attacker.peer.send(HEADERS, END_STREAM, 3, GET).await;
    assert_eq!(attacker.closed().await, Reason::ENHANCE_YOUR_CALM);
    // It is looked at when the time of the first would be up.
    assert_eq!(started.elapsed().as_secs(), 20);
    scene.closed_for(attacker.served, Limit::HeaderBlock).await;
}

#[tokio::test(start_paused = true)]
async fn slow_header_blocks_are_served_if_each_is_in_time() {
    let mut scene = Scene::new(&ServerParams::DEFAULT).await;
    let mut slow = scene.attacker().await;
    for stream in streams().take(5) {
        slow.peer.send(HEADERS, END_STREAM, stream, GET).await;
        sleep(9 * SECOND).await;
        slow.peer.send(CONTINUATION, END_HEADERS, stream, &[]).await;
        scene.endpoint.asked().await.answer().send_data("answer".into(), true).unwrap();
        assert_eq!(slow.until(DATA).await, b"answer");
    }
    assert_eq!(scene.limit(Limit::HeaderBlock), 0);
}

// === requests ===

#[tokio::test(start_paused = true)]
async fn streams_above_200_are_refused_and_nothing_else() {
    let mut scene = Scene::new(&ServerParams::DEFAULT).await;
    let mut greedy = scene.attacker().await;
    let mut open: Vec<Asked> = Vec::new();
    for stream in streams().take(200) {
        greedy.peer.send(HEADERS, END_STREAM | END_HEADERS, stream, GET).await;
        open.push(scene.endpoint.asked().await);
    }
    greedy.peer.send(HEADERS, END_STREAM | END_HEADERS, 401, GET).await;
    assert_eq!(greedy.until(RST_STREAM).await, u32::from(Reason::REFUSED_STREAM).to_be_bytes());
    for mut asked in open {
        asked.answer().send_data("answer".into(), true).unwrap();
        assert_eq!(greedy.until(DATA).await, b"answer");
    }
    greedy.peer.send(HEADERS, END_STREAM | END_HEADERS, 403, GET).await;
    scene.endpoint.asked().await.answer().send_data("another".into(), true).unwrap();
    assert_eq!(greedy.until(DATA).await, b"another");
    scene.others.finish().await;
}

#[tokio::test(start_paused = true)]
async fn heads_with_too_much_are_refused() {
    let fields = |count: usize, mut req: Request<()>| {
        for index in req.headers().len()..count {
            req.headers_mut().append("field", index.into());
        }
        req
    };
    let path = |length: usize| {
        let path = format!("/{}?{}", "p".repeat(1_000), "q".repeat(length - 1_002));
        Request::get(format!("http://test.example{path}")).body(()).unwrap()
    };
    let mut scene = Scene::new(&ServerParams::DEFAULT).await;
    for (req, expect) in [
        (fields(100, get()), None),
        (fields(101, get()), Some((431, None, "too many header fields"))),
        (fields(100, grpc()), None),
        (fields(101, grpc()), Some((200, Some("8"), "too many header fields"))),
        (path(8 << 10), None),
        (path((8 << 10) + 1), Some((414, None, "URI is too long"))),
    ] {
        let (response, _) = scene.bystander.send_request(req, true).unwrap();
        let response = timeout(PATIENCE, response);
        let Some((status, grpc, why)) = expect else {
            let mut asked = timeout(PATIENCE, scene.endpoint.asked()).await.expect("it is not refused");
            asked.answer().send_data("answer".into(), true).unwrap();
            assert_eq!(response.await.unwrap().unwrap().status(), 200);
            continue;
        };
        let rsp = response.await.expect("it is answered").unwrap();
        let field = |name| rsp.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!((rsp.status().as_u16(), field("grpc-status"), field("proxy-error")), (status, grpc, Some(why)));
        assert!(rsp.body().is_end_stream());
    }
    assert_eq!((scene.limit(Limit::HeadersCount), scene.limit(Limit::UriLength)), (2, 1));
    scene.others.finish().await;
}
