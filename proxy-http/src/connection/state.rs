//! The state of one connection that its task, its streams and their bodies share.

use crate::{
    connection::{
        detect::OtherProtocol,
        flow::{blocked::BlockedStreams, network_path::NetworkPath, window_limit::LimitedMeasurements},
        now::now,
        streams::{MAX_REFUSED, OpenStream, Streams},
        wake,
    },
    stats::{BlockedReason, BlockedStream, Connection, Describe, FlowStatus, Transport, WindowSizes},
};
use h2::Reason;
use std::{
    cmp::Reverse,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Context,
};
use tokio::time::Instant;

/// The shared state of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionState {
    /// Streams that have not ended, as a server counts them.
    streams: AtomicUsize,
    /// Has one more reference for each open stream of a client, and for each body that a server receives.
    open: Arc<Streams>,
    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS.
    max_streams: AtomicUsize,
    /// The peer's SETTINGS_MAX_HEADER_LIST_SIZE.
    peer_max_header_list: AtomicUsize,
    /// Reads and writes that moved bytes.
    moves: AtomicU64,
    /// The value of `moves` at which the task yields to other tasks.
    turn_ends_at: AtomicU64,
    path: NetworkPath,
    limited: LimitedMeasurements,
    /// `None`: it was not told.
    peer: OnceLock<PeerName>,
    opened: Instant,
    is_http2: AtomicBool,
    /// Whether streams of readers that have stopped hold so much that new streams are better opened elsewhere.
    is_crowded: AtomicBool,
    /// Streams on which DATA waits to be sent.
    sending: BlockedStreams,
    /// Whether the transport took fewer bytes than there were at the last write.
    is_write_blocked: AtomicBool,
    /// Whether the transport has not taken frames that the engine has written.
    has_unwritten: AtomicBool,
    /// Whether the peer's first SETTINGS have come.
    has_settings: AtomicBool,
    /// The protocol of an endpoint's first bytes, if it is another one.
    other_protocol: OnceLock<OtherProtocol>,
    /// The GOAWAY that ended the connection, with its debug data, if it named an error.
    go_away: OnceLock<Box<GoAway>>,
    /// DATA frames received that have only padding.
    padding_alone: AtomicUsize,
    /// Streams reset with a code that h2 itself uses.
    engine_resets: AtomicUsize,
    /// Whether few stream identifiers are left.
    last_streams: AtomicBool,
    /// Bytes of the heads of requests whose responses have not begun. Only the connection's own task stores it.
    heads: AtomicUsize,
}

/// A GOAWAY that names an error, of an endpoint or, for an endpoint that broke the protocol, of h2.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct GoAway {
    pub(crate) reason: Reason,
    /// Whether the endpoint sent it.
    pub(crate) is_remote: bool,
    /// The text of the error, with the code and the debug data.
    pub(crate) text: String,
}

/// Reads and writes of one connection until its task yields: tokio's budget would allow 128.
const MOVES_A_TURN: u64 = 16;
/// A peer as people know it.
#[derive(Clone, Debug)]
pub(crate) enum PeerName {
    Addr(SocketAddr),
    Endpoint(Arc<str>),
}

/// Blocked streams that a description of the connection names.
const MAX_DESCRIBED: usize = 100;
/// Bytes of their paths.
const MAX_DESCRIBED_PATH: usize = 200;
/// The number of frames that count as one more read: one read may bring a thousand frames.
const FRAMES_A_MOVE: u64 = 16;
/// DATA frames with only padding after which a connection accepts no more requests. h2 closes it at 101.
const MAX_PADDING_ALONE: usize = 50;

// === impl ConnectionState ===

impl ConnectionState {
    pub(crate) fn new(transport: &Arc<Transport>) -> Arc<Self> {
        Arc::new(Self {
            streams: AtomicUsize::new(0),
            open: Arc::new(Streams::new(transport)),
            max_streams: AtomicUsize::new(usize::MAX),
            peer_max_header_list: AtomicUsize::new(usize::MAX),
            moves: AtomicU64::new(0),
            turn_ends_at: AtomicU64::new(u64::MAX),
            path: NetworkPath::new(),
            limited: LimitedMeasurements::default(),
            peer: OnceLock::new(),
            opened: now(),
            is_http2: AtomicBool::new(false),
            is_crowded: AtomicBool::new(false),
            sending: BlockedStreams::new(Arc::clone(transport), BlockedReason::StreamWindow),
            is_write_blocked: AtomicBool::new(false),
            has_unwritten: AtomicBool::new(false),
            has_settings: AtomicBool::new(false),
            other_protocol: OnceLock::new(),
            go_away: OnceLock::new(),
            padding_alone: AtomicUsize::new(0),
            engine_resets: AtomicUsize::new(0),
            last_streams: AtomicBool::new(false),
            heads: AtomicUsize::new(0),
        })
    }

    /// h2 reads on, so it has applied the SETTINGS whose acknowledgement was in the bytes read last.
    #[cold]
    pub(crate) fn settings_applied(&self) {
        self.path.set_acknowledged(false);
        self.open.settings_applied();
    }

    pub(crate) fn set_peer(&self, peer: Option<PeerName>) {
        if let Some(peer) = peer {
            let _ = self.peer.set(peer);
        }
    }

    pub(crate) fn set_http2(&self) {
        self.is_http2.store(true, Relaxed);
    }

    #[inline]
    pub(crate) fn path(&self) -> &NetworkPath {
        &self.path
    }

    /// Notes a round trip in which `received` bytes of DATA came, while the windows are fixed.
    pub(crate) fn measured_fixed(&self, received: u32) {
        let (streams, held) = (self.open_streams_count(), self.open.held());
        self.limited.measured(received, &self.path, streams, held, self.opened.elapsed());
    }

    /// Whether streams of readers that have stopped hold so much that new streams are better opened elsewhere.
    pub(crate) fn is_crowded(&self) -> bool {
        self.is_crowded.load(Relaxed)
    }

    pub(crate) fn set_crowded(&self, is_crowded: bool) {
        self.is_crowded.store(is_crowded, Relaxed);
    }

    /// Streams on which DATA waits to be sent.
    pub(crate) fn sending(&self) -> &BlockedStreams {
        &self.sending
    }

    /// Bytes of the heads of requests whose responses have not begun.
    pub(crate) fn heads(&self) -> usize {
        self.heads.load(Relaxed)
    }

    /// Adds the bytes of a head.
    pub(super) fn add_head(&self, bytes: usize) {
        self.heads.store(self.heads() + bytes, Relaxed);
    }

    /// Removes the bytes of a head.
    pub(super) fn remove_head(&self, bytes: usize) {
        self.heads.store(self.heads() - bytes, Relaxed);
    }

    /// Why a stream with DATA cannot send it now.
    pub(crate) fn blocked_reason(&self) -> BlockedReason {
        if self.is_write_blocked.load(Relaxed) {
            BlockedReason::Socket
        } else if self.path.peer_windows().1 <= 0 {
            BlockedReason::ConnectionWindow
        } else {
            BlockedReason::StreamWindow
        }
    }

    /// Has the streams that wait to send the reason that holds now. To be called after the engine has been polled.
    #[inline]
    pub(crate) fn update_blocked(&self) {
        if self.sending.any() {
            self.sending.set_reason(self.blocked_reason());
        }
    }

    /// Sets whether the transport took fewer bytes than there were.
    #[inline]
    pub(crate) fn set_write_blocked(&self, is_blocked: bool) {
        if is_blocked != self.is_write_blocked.load(Relaxed) {
            self.is_write_blocked.store(is_blocked, Relaxed);
        }
    }

    /// Whether the transport has not taken frames that the engine has written.
    pub(crate) fn has_unwritten(&self) -> bool {
        self.has_unwritten.load(Relaxed)
    }

    pub(super) fn set_unwritten(&self, has_unwritten: bool) {
        self.has_unwritten.store(has_unwritten, Relaxed);
    }

    /// Whether the peer does not read: it grants streams no window, or has left one blocked for long.
    pub(crate) fn has_stopped(&self) -> bool {
        self.path.peer_windows().0 == 0 || self.sending.have_stopped()
    }

    /// The number of streams reset because a message on them is malformed.
    pub(crate) fn malformed(&self) -> usize {
        self.open.malformed.load(Relaxed)
    }

    /// Whether the peer resets stream after stream before any response, so that requests are better sent elsewhere.
    pub(crate) fn is_refusing(&self) -> bool {
        self.open.refused.load(Relaxed) >= MAX_REFUSED
    }

    pub(crate) fn set_settings(&self) {
        self.has_settings.store(true, Relaxed);
    }

    pub(crate) fn set_other_protocol(&self, other: OtherProtocol) {
        let _ = self.other_protocol.set(other);
    }

    pub(crate) fn other_protocol(&self) -> Option<OtherProtocol> {
        self.other_protocol.get().copied()
    }

    pub(crate) fn has_settings(&self) -> bool {
        self.has_settings.load(Relaxed)
    }

    /// Records that the head of a response has come, or a GOAWAY whose last stream identifier includes some requests.
    pub(crate) fn set_answered(&self) {
        if !self.has_answered() {
            self.open.has_answered.store(true, Relaxed);
        }
    }

    pub(crate) fn has_answered(&self) -> bool {
        self.open.has_answered.load(Relaxed)
    }

    /// Records that a GOAWAY with an error has ended the connection.
    pub(crate) fn set_go_away(&self, go_away: GoAway) {
        if go_away.is_remote {
            self.open.ended_by_error.store(true, Relaxed);
        }
        let _ = self.go_away.set(Box::new(go_away));
    }

    pub(crate) fn go_away(&self) -> Option<&GoAway> {
        self.go_away.get().map(|go_away| &**go_away)
    }

    /// Counts a request whose head h2 has refused.
    pub(crate) fn count_head_too_large(&self) {
        self.sending.transport().count_head_too_large();
    }

    /// Counts a DATA frame that has only padding.
    pub(crate) fn padding_alone(&self) {
        self.padding_alone.fetch_add(1, Relaxed);
    }

    /// Counts a stream that was reset with a code that h2 resets with by itself. It may be passed on from the other side.
    pub(crate) fn engine_reset(&self) {
        self.engine_resets.fetch_add(1, Relaxed);
    }

    /// Records that there are few streams left to open.
    pub(crate) fn set_last_streams(&self) {
        self.last_streams.store(true, Relaxed);
    }

    /// Whether the connection has reached about half of a limit that h2 has for a connection's whole life, and at which h2
    /// closes it with all its streams: `max_resets` streams that h2 resets, `max_owed` bytes charged for small DATA that is
    /// never read, or half the DATA frames with only padding.
    pub(crate) fn nears_engine_limit(&self, max_resets: usize, max_owed: u64) -> bool {
        self.engine_resets.load(Relaxed) > max_resets
            || self.open.owed() > max_owed
            || self.padding_alone.load(Relaxed) > MAX_PADDING_ALONE
    }

    /// Whether few stream identifiers are left.
    pub(crate) fn has_few_streams_left(&self) -> bool {
        self.last_streams.load(Relaxed)
    }

    pub(crate) fn open_stream(&self) -> OpenStream {
        OpenStream::new(&self.open)
    }

    pub(crate) fn open_streams(&self) -> &Streams {
        &self.open
    }

    /// Sets the number of open streams, on a server.
    pub(crate) fn set_streams(&self, streams: usize) {
        self.streams.store(streams, Relaxed);
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Relaxed) + self.open_streams_count()
    }

    pub(crate) fn open_streams_count(&self) -> usize {
        Arc::strong_count(&self.open) - 1
    }

    pub(crate) fn max_streams(&self) -> usize {
        self.max_streams.load(Relaxed)
    }

    pub(crate) fn set_max_streams(&self, max: usize) {
        self.max_streams.store(max, Relaxed);
    }

    /// Sets the largest header list that is forwarded from the connection, in bytes.
    pub(crate) fn set_local_max_header_list(&self, max: usize) {
        self.open.local_max_header_list.get_or_init(|| max);
    }

    pub(crate) fn peer_max_header_list(&self) -> usize {
        self.peer_max_header_list.load(Relaxed)
    }

    pub(crate) fn set_peer_max_header_list(&self, max: usize) {
        self.peer_max_header_list.store(max, Relaxed);
    }

    pub(crate) fn moves(&self) -> u64 {
        self.moves.load(Relaxed)
    }

    /// Starts a turn of the connection's task. A connection that never calls this has no limit of its turns.
    pub(crate) fn start_turn(&self) {
        self.turn_ends_at.store(self.moves().wrapping_add(MOVES_A_TURN), Relaxed);
    }

    /// Whether more may be read in this turn; if not, wakes `cx` for the next one.
    pub(crate) fn has_turn(&self, cx: &mut Context<'_>) -> bool {
        let has_turn = self.moves() < self.turn_ends_at.load(Relaxed);
        if !has_turn {
            wake::after_others(cx);
        }
        has_turn
    }

    /// Counts frames whose heads were in the bytes read.
    pub(crate) fn began(&self, frames: u64) {
        if frames >= FRAMES_A_MOVE {
            self.turn_ends_at.store(self.turn_ends_at.load(Relaxed).saturating_sub(frames / FRAMES_A_MOVE), Relaxed);
        }
    }

    /// Counts a read or write that moved bytes.
    pub(crate) fn moved(&self) {
        // Only the connection's own task stores it, so no read-modify-write is needed.
        self.moves.store(self.moves().wrapping_add(1), Relaxed);
    }
}

impl Describe for ConnectionState {
    fn describe(&self, max_blocked: usize) -> Connection {
        let (read_bytes, written_bytes) = self.path.moved_bytes();
        Connection {
            peer: self.peer.get().map(|peer| match peer {
                PeerName::Addr(addr) => addr.to_string(),
                PeerName::Endpoint(addr) => addr.to_string(),
            }),
            age: self.opened.elapsed(),
            // A server counts a stream whose body it receives twice.
            streams: self.streams.load(Relaxed).max(self.open_streams_count()),
            read_bytes,
            written_bytes,
            http2: self.is_http2.load(Relaxed).then(|| self.describe_flow(max_blocked)),
        }
    }

    fn is_blocked(&self) -> bool {
        self.sending.any() || self.open.receiving().any()
    }

    fn is_limited_by_window(&self) -> bool {
        self.limited.limit(self.opened.elapsed()).is_some()
    }
}

impl ConnectionState {
    fn describe_flow(&self, max_blocked: usize) -> FlowStatus {
        let now = Instant::now();
        let max_blocked = max_blocked.min(MAX_DESCRIBED);
        let sides = [&self.sending, self.open.receiving()];
        let mut blocked: Vec<_> = sides
            .into_iter()
            .filter(|streams| max_blocked > 0 && streams.any())
            .map(|streams| streams.oldest(max_blocked))
            .flat_map(|(reason, streams)| streams.into_iter().map(move |stream| (reason, stream)))
            .map(|(reason, stream)| BlockedStream {
                id: stream.id,
                path: stream.path.map(|path| cut(path.path()).to_owned()),
                reason,
                time: now.saturating_duration_since(stream.since),
            })
            .collect();
        blocked.sort_by_key(|stream| Reverse(stream.time));
        blocked.truncate(max_blocked);
        let (stream, connection) = self.path.windows();
        let (peer_stream, peer_connection) = self.path.peer_windows();
        let measured = self.path.measured();
        FlowStatus {
            granted: WindowSizes { stream, connection: connection.into() },
            granted_by_peer: WindowSizes { stream: peer_stream, connection: peer_connection },
            held_bytes: self.open.held(),
            is_crowded: self.is_crowded(),
            round_trip: measured.map(|(rtt, _)| rtt),
            bandwidth: measured.map(|(_, bandwidth)| bandwidth),
            blocked_count: self.sending.count() + self.open.receiving().count(),
            blocked,
            limited_by_window: self.limited.limit(self.opened.elapsed()),
        }
    }
}

/// The first [`MAX_DESCRIBED_PATH`] bytes of a path, or a few less: it may have characters of several bytes.
fn cut(path: &str) -> &str {
    &path[..path.floor_char_boundary(MAX_DESCRIBED_PATH)]
}
