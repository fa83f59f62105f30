//! A request and its response, whose ends do one thing after the other in any order: what either side sees is what the
//! other sent, from its start, and it ends cleanly only if the other ended it so. Readers stop and go on, so that adaptive
//! windows shrink and grow meanwhile.
#![no_main]

use bytes::Bytes;
use fuzz::{Rig, run, settle};
use h2::{Reason, RecvStream, SendStream, client, server};
use http::{HeaderMap, Request, Response, header::CONTENT_LENGTH};
use http_h2::FlowControl;
use libfuzzer_sys::fuzz_target;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::DuplexStream,
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
};

/// What a request may have sent and still be sent again.
const BUFFER: usize = 200;
/// What connections may hold beyond their windows for readers that have stopped: less than a few steps send.
const HELD: usize = 4 << 20;
const MOST_STEPS: usize = 64;

/// What one side has sent.
#[derive(Default)]
struct Sent {
    bytes: Vec<u8>,
    /// What its head says that it has.
    length: Option<usize>,
    /// With trailers, or without.
    ended: Option<bool>,
}

/// What the other side has seen of it.
#[derive(Clone, Default)]
struct Seen {
    state: Arc<Mutex<State>>,
    /// Whether its reader has stopped.
    stopped: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    /// `Ok`: cleanly, with trailers or without.
    ended: Option<Result<bool, ()>>,
}

/// The request, each time that it comes to the endpoint.
struct Attempt {
    seen: Seen,
    respond: server::SendResponse<Bytes>,
    body: Option<SendStream<Bytes>>,
    sent: Sent,
    connection: AbortHandle,
}

// Each byte is a step: what is done in its low bits, how much of it in its high ones.
fuzz_target!(|steps: &[u8]| {
    if steps.len() <= MOST_STEPS {
        run(play(steps));
    }
});

async fn play(steps: &[u8]) {
    let (first, steps) = steps.split_first().map_or((0, steps), |(first, rest)| (*first, rest));
    let is_adaptive = first & 8 != 0;
    let mut rig = Rig::with_windows(BUFFER, is_adaptive.then_some(FlowControl::Adaptive), HELD);
    // Small ones of theirs, so that data wait for them.
    let window = if is_adaptive { 65_535 } else { 100 };
    let (tx, mut attempts) = mpsc::unbounded_channel();
    let endpoints = async move {
        let mut connections = JoinSet::new();
        while let Some(io) = rig.endpoints.recv().await {
            connections.spawn(serve(io, window, tx.clone()));
        }
    };
    tokio::spawn(endpoints);
    let handshake = client::Builder::new().initial_window_size(window).handshake(rig.client).await;
    let (mut client, connection) = handshake.unwrap();
    tokio::spawn(connection);

    let ends = first % 2 == 1;
    let length = (!ends && first % 4 == 2).then_some(much(first));
    let mut request = Request::post("http://a.test/").body(()).unwrap();
    request.headers_mut().extend(length.map(|length| (CONTENT_LENGTH, length.into())));
    let (response, upload) = client.send_request(request, ends).unwrap();
    let mut uploading = (!ends).then_some(upload);
    let mut up = Sent { length, ended: ends.then_some(false), ..Sent::default() };
    let down = Seen::default();
    tokio::spawn({
        let down = down.clone();
        async move {
            match response.await {
                Ok(rsp) if !rsp.headers().contains_key("proxy-error") => down.read(rsp.into_body()).await,
                Ok(_) => down.end(Err(())),
                Err(_) => down.end(Err(())),
            }
        }
    });

    let mut all = Vec::<Attempt>::new();
    for step in steps {
        settle().await;
        while let Ok(attempt) = attempts.try_recv() {
            all.push(attempt);
        }
        let much = much(*step);
        let current = all.last_mut();
        match (step & 15, current) {
            (0, _) => up.send(&mut uploading, much),
            (1, _) => up.send(&mut uploading, much << 12),
            (2, _) => up.end(&mut uploading, false),
            (3, _) => up.end(&mut uploading, true),
            (4, _) => {
                if let Some(mut uploading) = uploading.take() {
                    uploading.send_reset(Reason::from(u32::from(step >> 4)));
                }
            }
            (5, Some(attempt)) => attempt.answer(None),
            (6, Some(attempt)) => attempt.answer(Some(much)),
            (7, Some(attempt)) => attempt.sent.send(&mut attempt.body, much),
            (8, Some(attempt)) => attempt.sent.send(&mut attempt.body, much << 12),
            (9, Some(attempt)) => attempt.sent.end(&mut attempt.body, false),
            (10, Some(attempt)) => attempt.sent.end(&mut attempt.body, true),
            (11, Some(attempt)) => attempt.respond.send_reset(Reason::from(u32::from(step >> 4))),
            (12, Some(attempt)) => attempt.respond.send_reset(Reason::REFUSED_STREAM),
            (13, Some(attempt)) if step >> 4 & 1 == 1 => attempt.seen.stop_or_go_on(),
            (13, _) => down.stop_or_go_on(),
            (14, Some(attempt)) => attempt.connection.abort(),
            _ => tokio::time::sleep(Duration::from_millis(much as u64 * 10)).await,
        }
    }

    // All that is still open ends, and all is read.
    up.end(&mut uploading, false);
    down.stopped.send_replace(false);
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        while let Ok(attempt) = attempts.try_recv() {
            all.push(attempt);
        }
        if let Some(attempt) = all.last_mut() {
            attempt.answer(None);
            attempt.sent.end(&mut attempt.body, false);
        }
        for attempt in &all {
            attempt.seen.stopped.send_replace(false);
        }
    }
    for attempt in &all {
        attempt.seen.check(&up);
    }
    assert!(down.state.lock().unwrap().ended.is_some(), "the response ends");
    match all.last() {
        Some(last) => down.check(&last.sent),
        None => assert_eq!(down.state.lock().unwrap().ended, Some(Err(()))),
    }
}

/// How much of something a step does.
fn much(step: u8) -> usize {
    usize::from(step >> 4) * 16
}

async fn serve(io: DuplexStream, window: u32, attempts: mpsc::UnboundedSender<Attempt>) {
    let (tx, mut accepted) = mpsc::unbounded_channel();
    let connection = tokio::spawn(async move {
        let Ok(mut connection) = server::Builder::new().initial_window_size(window).handshake(io).await else { return };
        while let Some(Ok(stream)) = connection.accept().await {
            let _ = tx.send(stream);
        }
    });
    while let Some((request, respond)) = accepted.recv().await {
        let seen = Seen::default();
        let attempt = Attempt {
            seen: seen.clone(),
            respond,
            body: None,
            sent: Sent::default(),
            connection: connection.abort_handle(),
        };
        let _ = attempts.send(attempt);
        tokio::spawn(async move { seen.read(request.into_body()).await });
    }
}

impl Attempt {
    fn answer(&mut self, length: Option<usize>) {
        if self.body.is_none() && self.sent.ended.is_none() {
            let mut rsp = Response::new(());
            rsp.headers_mut().extend(length.map(|length| (CONTENT_LENGTH, length.into())));
            self.body = self.respond.send_response(rsp, false).ok();
            if self.body.is_some() {
                self.sent.length = length;
            }
        }
    }
}

impl Sent {
    /// Sends bytes that tell where in the body they are.
    fn send(&mut self, to: &mut Option<SendStream<Bytes>>, much: usize) {
        let Some(stream) = to else { return };
        let data: Vec<u8> = (self.bytes.len()..self.bytes.len() + much).map(|at| (at >> 8) as u8 ^ at as u8).collect();
        match stream.send_data(data.clone().into(), false) {
            Ok(()) => self.bytes.extend(data),
            Err(_) => *to = None,
        }
    }

    fn end(&mut self, to: &mut Option<SendStream<Bytes>>, trailers: bool) {
        let Some(mut stream) = to.take() else { return };
        let sent = if trailers {
            let fields = HeaderMap::from_iter([("x".parse().unwrap(), "1".parse().unwrap())]);
            stream.send_trailers(fields)
        } else {
            stream.send_data(Bytes::new(), true)
        };
        if sent.is_ok() {
            self.ended = Some(trailers);
        }
    }
}

impl Seen {
    fn stop_or_go_on(&self) {
        self.stopped.send_modify(|stopped| *stopped ^= true);
    }

    async fn read(&self, mut body: RecvStream) {
        let mut stopped = self.stopped.subscribe();
        loop {
            let _ = stopped.wait_for(|stopped| !stopped).await;
            match body.data().await {
                Some(Ok(data)) => {
                    let _ = body.flow_control().release_capacity(data.len());
                    self.state.lock().unwrap().bytes.extend(&data);
                }
                Some(Err(_)) => return self.end(Err(())),
                None => break,
            }
        }
        self.end(body.trailers().await.map(|trailers| trailers.is_some()).map_err(|_| ()));
    }

    fn end(&self, how: Result<bool, ()>) {
        self.state.lock().unwrap().ended = Some(how);
    }

    fn check(&self, sent: &Sent) {
        let seen = self.state.lock().unwrap();
        assert!(sent.bytes.starts_with(&seen.bytes), "what is seen is what was sent");
        if let Some(Ok(trailers)) = seen.ended {
            // A reset with NO_ERROR does not take back what its head promised and its data brought.
            let kept = sent.length == Some(sent.bytes.len());
            assert!(sent.ended == Some(trailers) || (kept && !trailers), "it looks whole, and so it is");
            assert!(kept || sent.length.is_none(), "it is as long as its head says");
            assert_eq!(seen.bytes, sent.bytes);
        }
    }
}
