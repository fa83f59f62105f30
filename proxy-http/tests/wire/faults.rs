//! Faults of peers that concern flow control, and the name of an endpoint that breaks HTTP/2.

use crate::{
    frames::{GET, GOAWAY, HEADERS, Peer, RST_STREAM, WINDOW_UPDATE},
    support::{Rig, get},
};
use h2::Reason;
use http_h2::{ClientParams, ServerParams};
use std::{
    fmt::{Debug, Write as _},
    sync::{Arc, LazyLock, Mutex},
};
use tracing::{
    Dispatch, Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::NoSubscriber,
};

/// With a single subscriber tracing asks only the thread that comes to a callsite first whether its lines are of interest, and that may be
/// another test's, which has none: then no thread's lines are. These two, which take no lines, have it ask all subscribers.
static SUBSCRIBERS: LazyLock<[Dispatch; 2]> = LazyLock::new(|| [(); 2].map(|()| Dispatch::new(NoSubscriber::new())));

/// The log lines of one thread, from WARN on.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_breaks_http2_is_named_in_the_log() {
    LazyLock::force(&SUBSCRIBERS);
    let lines = Lines::default();
    let _logged = tracing::subscriber::set_default(lines.clone());
    let mut rig = Rig::defaults();
    let mut client = rig.client().await;
    for _ in 0..2 {
        let (response, _) = client.send_request(get(), true).unwrap();
        let (mut peer, _) = Peer::accept(&mut rig).await;
        peer.until(HEADERS).await.unwrap();
        // `:status: 200` and a value with a control byte.
        peer.send(HEADERS, 5, 1, &[0x88, 0, 1, b'x', 1, 1]).await;
        assert_eq!(response.await.unwrap().status(), 502);
    }
    let lines: Vec<_> = lines.0.lock().unwrap().iter().filter(|line| line.contains("broke HTTP/2")).cloned().collect();
    let [line] = &lines[..] else { panic!("one line in a minute: {lines:?}") };
    assert!(line.contains("endpoint=endpoint ") && line.contains("code=PROTOCOL_ERROR "), "{line}");
}

/// The code of the next frame of this type.
async fn code(peer: &mut Peer, kind: u8) -> Reason {
    let payload = peer.until(kind).await.expect("it comes");
    let code = if kind == GOAWAY { &payload[4..8] } else { &payload[..] };
    u32::from_be_bytes(code.try_into().unwrap()).into()
}

const MOST: [u8; 4] = 0x7fff_ffff_u32.to_be_bytes();

#[tokio::test(start_paused = true)]
async fn a_window_that_overflows_on_a_half_closed_stream_resets_that_stream() {
    let (mut peer, _, mut rig) = Peer::client(&ServerParams::DEFAULT).await;
    let mut endpoint = rig.endpoint().await;
    for stream in [1, 3] {
        peer.send(HEADERS, 5, stream, GET).await;
    }
    let (_asked, mut other) = (endpoint.asked().await, endpoint.asked().await);
    peer.send(WINDOW_UPDATE, 0, 1, &MOST).await;
    assert_eq!(code(&mut peer, RST_STREAM).await, Reason::FLOW_CONTROL_ERROR);
    other.answer().send_data("other".into(), true).unwrap();
    assert!(peer.until(HEADERS).await.is_some(), "the other goes on");
}

#[tokio::test(start_paused = true)]
async fn a_window_of_the_connection_that_overflows_ends_it() {
    let (mut client, _, _rig) = Peer::client(&ServerParams::DEFAULT).await;
    let (mut endpoint, _, _rig) = Peer::server(&ClientParams::DEFAULT).await;
    for peer in [&mut client, &mut endpoint] {
        peer.send(WINDOW_UPDATE, 0, 0, &MOST).await;
        assert_eq!(code(peer, GOAWAY).await, Reason::FLOW_CONTROL_ERROR);
    }
}
