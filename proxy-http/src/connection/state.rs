//! What happens on one connection, shared by its task, its streams and their bodies.

use crate::connection::{
    frames::engine_counts::Counted,
    ping::{Finding, Pings},
    streams::{MAX_REFUSED, OpenStream, Streams},
    wake,
};
use h2::{PingPong, Reason};
use http_h2::ClientKeepAlive;
use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionState {
    /// Streams that have not ended, as a server counts them.
    streams: AtomicUsize,
    /// Has one more reference for each stream that a client has open, and for each body that a server receives.
    open: Arc<Streams>,
    /// Streams that the peer takes at once.
    max_streams: AtomicUsize,
    /// Bytes of a header list that the peer takes.
    max_header_list: AtomicUsize,
    /// Reads and writes that moved bytes.
    moves: AtomicU64,
    /// How many there may have been until others have their turn.
    turn_ends_at: AtomicU64,
    /// Set once the connection is made, if its params ask for any.
    pings: OnceLock<Mutex<Pings>>,
    /// Whether windows follow what arrives.
    adaptive: bool,
    /// The peer's first SETTINGS have come.
    has_settings: AtomicBool,
    /// The peer's GOAWAY, with its debug data, if it named an error.
    go_away: OnceLock<Box<GoAway>>,
    /// DATA frames of padding alone that have come.
    padding_alone: AtomicUsize,
    /// Streams that were reset with a code that h2 resets with by itself.
    engine_resets: AtomicUsize,
    /// There are few streams left to open.
    last_streams: AtomicBool,
}

/// An endpoint's GOAWAY that names an error.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct GoAway {
    pub(crate) reason: Reason,
    /// Its text, with the code and the debug data.
    pub(crate) text: String,
}

/// Reads and writes of one connection until others have their turn: tokio would allow 128 of them.
const MOVES_A_TURN: u64 = 16;
/// As many as these count for one more: a read may bring a thousand.
const FRAMES_A_MOVE: u64 = 16;
/// DATA frames of padding alone on a connection that takes requests. h2 ends it at 101.
const MAX_PADDING_ALONE: usize = 50;

// === impl ConnectionState ===

impl ConnectionState {
    pub(crate) fn new(adaptive: bool) -> Arc<Self> {
        Arc::new(Self {
            streams: AtomicUsize::new(0),
            open: Arc::default(),
            max_streams: AtomicUsize::new(usize::MAX),
            max_header_list: AtomicUsize::new(usize::MAX),
            moves: AtomicU64::new(0),
            turn_ends_at: AtomicU64::new(u64::MAX),
            pings: OnceLock::new(),
            adaptive,
            has_settings: AtomicBool::new(false),
            go_away: OnceLock::new(),
            padding_alone: AtomicUsize::new(0),
            engine_resets: AtomicUsize::new(0),
            last_streams: AtomicBool::new(false),
        })
    }

    /// Starts to send PINGs, if any are asked for.
    pub(crate) fn ping(&self, ping_pong: Option<PingPong>, keep_alive: Option<ClientKeepAlive>) {
        if let Some(ping_pong) = ping_pong.filter(|_| self.adaptive || keep_alive.is_some()) {
            self.pings.get_or_init(|| Mutex::new(Pings::new(ping_pong, keep_alive, self.adaptive)));
        }
    }

    /// Waits for what PINGs tell.
    pub(crate) fn poll_pings(&self, cx: &mut Context<'_>) -> Poll<Finding> {
        let Some(pings) = self.pings.get() else { return Poll::Pending };
        let mut pings = pings.lock().expect("nothing panics with the lock held");
        pings.poll(self.moves(), self.streams() == 0, cx)
    }

    /// Streams that were reset because what came on them is malformed.
    pub(crate) fn malformed(&self) -> usize {
        self.open.malformed.load(Relaxed)
    }

    /// Whether the peer resets stream after stream before it answers any, so that others are better sent elsewhere.
    pub(crate) fn refuses(&self) -> bool {
        self.open.refused.load(Relaxed) >= MAX_REFUSED
    }

    pub(crate) fn set_settings(&self) {
        self.has_settings.store(true, Relaxed);
    }

    pub(crate) fn has_settings(&self) -> bool {
        self.has_settings.load(Relaxed)
    }

    /// The head of a response has come, or a GOAWAY that leaves some requests in.
    pub(crate) fn set_answered(&self) {
        if !self.has_answered() {
            self.open.has_answered.store(true, Relaxed);
        }
    }

    pub(crate) fn has_answered(&self) -> bool {
        self.open.has_answered.load(Relaxed)
    }

    /// The peer has ended the connection by GOAWAY with an error.
    pub(crate) fn set_go_away(&self, go_away: GoAway) {
        self.open.ended_by_error.store(true, Relaxed);
        let _ = self.go_away.set(Box::new(go_away));
    }

    pub(crate) fn go_away(&self) -> Option<&GoAway> {
        self.go_away.get().map(|go_away| &**go_away)
    }

    /// A DATA frame of padding alone has come.
    pub(crate) fn padding_alone(&self) {
        self.padding_alone.fetch_add(1, Relaxed);
    }

    /// Something was written.
    pub(crate) fn engine_counted(&self, Counted { resets, last_streams }: Counted) {
        if resets > 0 {
            self.engine_resets.fetch_add(resets, Relaxed);
        }
        if last_streams {
            self.last_streams.store(true, Relaxed);
        }
    }

    /// Whether the connection has had about half of what h2 bears in its life, before it ends it with all that is open on
    /// it: of streams that h2 resets, where `max_resets` are half, of small DATA that nobody reads, where `max_owed` bytes
    /// are, and of DATA that is padding alone.
    pub(crate) fn nears_engine_limit(&self, max_resets: usize, max_owed: u64) -> bool {
        self.engine_resets.load(Relaxed) > max_resets
            || self.open.owed() > max_owed
            || self.padding_alone.load(Relaxed) > MAX_PADDING_ALONE
    }

    /// Whether there are few streams left to open.
    pub(crate) fn has_few_streams_left(&self) -> bool {
        self.last_streams.load(Relaxed)
    }

    pub(crate) fn open_stream(&self) -> OpenStream {
        OpenStream::new(&self.open)
    }

    pub(crate) fn open_streams(&self) -> &Streams {
        &self.open
    }

    /// For those who take data, if anyone wants to know of it.
    pub(crate) fn if_adaptive(self: &Arc<Self>) -> Option<Arc<Self>> {
        self.adaptive.then(|| Arc::clone(self))
    }

    /// A body took `bytes` of DATA.
    pub(crate) fn data(&self, bytes: usize) {
        if let Some(pings) = self.pings.get() {
            pings.lock().expect("nothing panics with the lock held").data(bytes);
        }
    }

    /// For who counts streams by another way.
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

    /// Has no header list passed on that is larger than `max` bytes.
    pub(crate) fn limit_lists(&self, max: usize) {
        self.open.max_list.get_or_init(|| max);
    }

    pub(crate) fn max_header_list(&self) -> usize {
        self.max_header_list.load(Relaxed)
    }

    pub(crate) fn set_max_header_list(&self, max: usize) {
        self.max_header_list.store(max, Relaxed);
    }

    pub(crate) fn moves(&self) -> u64 {
        self.moves.load(Relaxed)
    }

    /// The connection's task has its turn. Without this, all turns are as long as they like.
    pub(crate) fn start_turn(&self) {
        self.turn_ends_at.store(self.moves().wrapping_add(MOVES_A_TURN), Relaxed);
    }

    /// Whether more may be read in this turn; if not, `cx` is woken for the next one.
    pub(crate) fn has_turn(&self, cx: &mut Context<'_>) -> bool {
        let has_turn = self.moves() < self.turn_ends_at.load(Relaxed);
        if !has_turn {
            wake::after_others(cx);
        }
        has_turn
    }

    /// So many frames began with what was read.
    pub(crate) fn began(&self, frames: u64) {
        if frames >= FRAMES_A_MOVE {
            self.turn_ends_at.store(self.turn_ends_at.load(Relaxed).saturating_sub(frames / FRAMES_A_MOVE), Relaxed);
        }
    }

    /// Bytes moved.
    pub(crate) fn moved(&self) {
        // Only the connection's own task writes it, so no read-modify-write is needed.
        self.moves.store(self.moves().wrapping_add(1), Relaxed);
    }
}
