//! The windows of connections against a peer that follows RFC 9113.

use super::*;
use crate::connection::streams::OpenStream;
use proptest::{collection::vec, prelude::*, sample::Index};
use std::task::Waker;

/// An engine and its peer, which follow RFC 9113 as h2 does: the bytes that the peer may still send, of the connection and of each
/// stream, and the bytes that are not read yet.
#[derive(Debug)]
struct Peer {
    /// The window that the engine was told to have, with the bytes that are not read yet.
    target: i64,
    window: i64,
    stream_window: i64,
    /// SETTINGS on their way to the peer, which has not applied them.
    unacknowledged: Option<i64>,
    streams: Vec<Stream>,
}

#[derive(Debug)]
struct Stream {
    open: OpenStream,
    window: i64,
    unread: i64,
    stops: bool,
}

impl Engine for Peer {
    fn set_connection_window(&mut self, bytes: u32) {
        self.target = bytes.into();
    }

    fn set_stream_window(&mut self, bytes: u32) -> bool {
        if self.unacknowledged.is_some() {
            return false;
        }
        self.unacknowledged = Some(bytes.into());
        true
    }

    fn ping_pong(&mut self) -> Option<PingPong> {
        None
    }
}

impl Peer {
    fn held(&self) -> i64 {
        self.streams.iter().map(|stream| stream.unread).sum()
    }

    /// Sends WINDOW_UPDATE for the connection, as the engine does when it is polled. Granted window is not taken back.
    fn grant(&mut self) {
        self.window = self.window.max(self.target - self.held());
    }

    fn acknowledge(&mut self) {
        if let Some(window) = self.unacknowledged.take() {
            self.streams.iter_mut().for_each(|stream| stream.window += window - self.stream_window);
            self.stream_window = window;
        }
    }

    fn open(&mut self, state: &ConnectionState) {
        let window = self.stream_window;
        self.streams.push(Stream { open: state.open_stream(), window, unread: 0, stops: false });
    }

    /// Sends as much as it may, at most `bytes`.
    fn send(&mut self, index: usize, bytes: i64) -> i64 {
        let stream = &mut self.streams[index];
        let sent = bytes.min(self.window).min(stream.window).max(0);
        self.window -= sent;
        stream.window -= sent;
        stream.unread += sent;
        self.report(index);
        sent
    }

    fn read(&mut self, index: usize, bytes: i64) {
        let stream = &mut self.streams[index];
        let read = bytes.min(stream.unread);
        stream.unread -= read;
        stream.window += read;
        self.report(index);
    }

    fn report(&mut self, index: usize) {
        let Stream { open, unread, stops, .. } = &mut self.streams[index];
        open.set_held(if *stops { usize::try_from(*unread).unwrap() } else { 0 });
    }
}

const MIB: usize = 1 << 20;
const SIDES: [(FlowControl, Side); 4] = [
    (FlowControl::Adaptive, Side::Client),
    (FlowControl::Adaptive, Side::Endpoint),
    (
        FlowControl::Fixed { initial_stream_window_size: 65_535, initial_connection_window_size: MIB as u32 },
        Side::Client,
    ),
    (
        FlowControl::Fixed { initial_stream_window_size: 16 << 20, initial_connection_window_size: 24 << 20 },
        Side::Endpoint,
    ),
];

/// An event on one of the connections. Bytes and indices are taken as far as there are any.
#[derive(Clone, Debug)]
enum Step {
    Open,
    Send(Index, i64),
    Read(Index, i64),
    StopOrGoOn(Index),
    Reset(Index),
    Acknowledge,
    Wait(Duration),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || 1..16_i64 << 20;
    prop_oneof![
        2 => Just(Step::Open),
        3 => (any::<Index>(), bytes()).prop_map(|(stream, bytes)| Step::Send(stream, bytes)),
        2 => (any::<Index>(), bytes()).prop_map(|(stream, bytes)| Step::Read(stream, bytes)),
        1 => any::<Index>().prop_map(Step::StopOrGoOn),
        1 => any::<Index>().prop_map(Step::Reset),
        1 => Just(Step::Acknowledge),
        1 => (1..2_000_u64).prop_map(|millis| Step::Wait(Duration::from_millis(millis))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Connections that share a limit: DATA, reads, readers that stop and go on, SETTINGS and their acknowledgement, resets, and
    /// time, in any order.
    #[test]
    fn what_is_promised_has_its_bound_and_readers_that_read_are_never_blocked(
        max in prop::sample::select(vec![0, MIB, 16 * MIB, 256 * MIB]),
        sides in vec(prop::sample::select(&SIDES[..]), 1..6),
        steps in vec((any::<Index>(), step()), 0..400),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let buffers = Arc::new(BufferLimit::new(max));
            let mut connections: Vec<_> = sides.into_iter().map(|side| connect(&buffers, side)).collect();
            for (connection, step) in steps {
                let connection = connection.index(connections.len());
                take(&mut connections[connection], step).await;
                check(&connections, &buffers, max);
            }
            finish(&mut connections).await;
            assert_eq!(buffers.held(), 0);
            drop(connections);
            assert_eq!((buffers.held(), buffers.reserved(), buffers.holding()), (0, 0, 0));
        });
    }
}

type Connection = (Windows, Peer, Arc<ConnectionState>);

fn connect(buffers: &Arc<BufferLimit>, (flow_control, side): (FlowControl, Side)) -> Connection {
    let state = ConnectionState::new(&Arc::default());
    let mut windows = Windows::new(Arc::clone(buffers), flow_control, side);
    let (stream, connection) = (windows.stream.into(), windows.connection.into());
    let mut peer = Peer {
        target: connection,
        window: connection,
        stream_window: stream,
        unacknowledged: None,
        streams: Vec::new(),
    };
    windows.start(&mut peer, &state);
    (windows, peer, state)
}

async fn take((windows, peer, state): &mut Connection, step: Step) {
    let count = peer.streams.len();
    match step {
        Step::Open => peer.open(state),
        Step::Acknowledge => peer.acknowledge(),
        Step::Wait(time) => tokio::time::advance(time).await,
        _ if count == 0 => {}
        Step::Send(stream, bytes) => _ = peer.send(stream.index(count), bytes),
        Step::Read(stream, bytes) => peer.read(stream.index(count), bytes),
        Step::StopOrGoOn(stream) => {
            peer.streams[stream.index(count)].stops ^= true;
            peer.report(stream.index(count));
        }
        Step::Reset(stream) => drop(peer.streams.swap_remove(stream.index(count))),
    }
    poll(windows, peer, state);
}

fn check(connections: &[Connection], buffers: &BufferLimit, max: usize) {
    let given: i64 = connections.iter().map(|(windows, ..)| i64::from(windows.given)).sum();
    assert!(given as usize <= max && buffers.held() == given as usize);
    assert!(buffers.reserved() <= max - max / 4);
    for (windows, peer, _) in connections {
        let promised = peer.window + peer.held();
        let most = i64::from(windows.connection) + peer.held().min(max as i64) + i64::from(windows.slack());
        assert!(promised <= most, "{promised} of {most}");
    }
}

fn poll(windows: &mut Windows, peer: &mut Peer, state: &ConnectionState) {
    windows.poll(peer, state, &mut Context::from_waker(Waker::noop()));
    peer.grant();
}

/// All readers go on: each stream gets any number of bytes, and windows become full again.
async fn finish(connections: &mut [Connection]) {
    for (windows, peer, state) in &mut *connections {
        for index in 0..peer.streams.len() {
            peer.streams[index].stops = false;
            peer.read(index, i64::MAX);
        }
        poll(windows, peer, state);
    }
    for _ in 0..4 {
        tokio::time::advance(Duration::from_secs(2)).await;
        for (windows, peer, state) in &mut *connections {
            peer.acknowledge();
            poll(windows, peer, state);
            for index in 0..peer.streams.len() {
                assert!(peer.send(index, 1_000_000) > 0, "a stream is blocked for good");
                peer.read(index, i64::MAX);
                poll(windows, peer, state);
            }
        }
    }
    assert!(connections.iter().all(|(windows, _, state)| !windows.is_small() && !state.is_crowded()));
}

#[tokio::test]
async fn clients_get_less_the_more_they_are() {
    let buffers = Arc::new(BufferLimit::new(256 * MIB));
    let client = || Windows::new(Arc::clone(&buffers), FlowControl::Adaptive, Side::Client);
    let first = client();
    assert_eq!((first.stream, first.connection), (16 << 20, 24 << 20));
    let others: Vec<_> = (0..100).map(|_| client()).collect();
    let last = others.last().unwrap();
    assert_eq!((last.stream, last.connection >> 20), (MIN_STREAM_WINDOW, 1));
    let endpoint = Windows::new(Arc::clone(&buffers), FlowControl::Adaptive, Side::Endpoint);
    assert_eq!((endpoint.stream, endpoint.connection), (STREAM_WINDOW, CONNECTION_WINDOW));
}
