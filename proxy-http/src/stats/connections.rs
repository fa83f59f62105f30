//! The open connections of one side, with their streams, bytes and windows.

use crate::stats::blocked::BlockedReason;
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

/// An open connection.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Connection {
    /// The peer's address, or an endpoint's as its list has it. `None`: it was not told.
    pub peer: Option<String>,
    /// How long it has been open.
    pub age: Duration,
    /// Streams open now; of HTTP/1.1, requests.
    pub streams: usize,
    /// Bytes read so far.
    pub read_bytes: u64,
    /// Bytes written so far.
    pub written_bytes: u64,
    /// Flow control, which only HTTP/2 has. `None`: it is of HTTP/1.1, or its protocol is not known yet.
    pub http2: Option<FlowStatus>,
}

/// The flow control of an open connection of HTTP/2.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct FlowStatus {
    /// The windows that the peer is granted.
    pub granted: WindowSizes,
    /// The windows that the peer grants: a new stream's, and the rest of the connection's.
    pub granted_by_peer: WindowSizes,
    /// Bytes that streams hold because their readers have stopped.
    pub held_bytes: usize,
    /// Whether they hold so much that new streams are opened elsewhere, if they can be.
    pub is_crowded: bool,
    /// The smoothed round-trip time, measured by PING. `None`: little DATA has come, so it has not been measured.
    pub round_trip: Option<Duration>,
    /// The highest bandwidth measured lately, in bytes a second. `None`: as of `round_trip`.
    pub bandwidth: Option<u64>,
    /// The number of blocked streams.
    pub blocked_count: usize,
    /// The streams blocked for the longest time, 100 at most.
    pub blocked: Vec<BlockedStream>,
    /// The window that limits the peer's sending, although readers keep up, where windows are fixed. `None`: none does, or
    /// not for ten seconds yet.
    pub limited_by_window: Option<WindowLimit>,
}

/// A window granted to the peer that is smaller than the bandwidth times the round-trip time of its path.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WindowLimit {
    /// Which window.
    pub window: LimitingWindow,
    /// For how long all measurements have found it so.
    pub time: Duration,
}

/// A window of [`WindowSizes`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum LimitingWindow {
    /// That of each stream.
    Stream,
    /// The connection's.
    Connection,
}

/// The windows of a stream and of a connection, in bytes.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WindowSizes {
    /// A stream's.
    pub stream: u32,
    /// The connection's. Below zero after a peer has sent more than it may.
    pub connection: i64,
}

/// A stream that flow control blocks.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct BlockedStream {
    /// The stream's identifier.
    pub id: u32,
    /// The first 200 bytes of the path of its request, without a query. `None`: this side receives, or the request has no path.
    pub path: Option<String>,
    /// Why.
    pub reason: BlockedReason,
    /// For how long.
    pub time: Duration,
}

/// A connection that can describe itself.
pub(crate) trait Describe: fmt::Debug + Send + Sync {
    /// With the names of `max_blocked` blocked streams at most.
    fn describe(&self, max_blocked: usize) -> Connection;

    /// Whether any of its streams is blocked.
    fn is_blocked(&self) -> bool;

    /// Whether [`FlowStatus::limited_by_window`] is set.
    fn is_limited_by_window(&self) -> bool;
}

/// The open connections.
#[derive(Debug, Default)]
pub(crate) struct OpenConnections(Mutex<Slots>);

#[derive(Debug, Default)]
struct Slots {
    connections: Vec<Option<Weak<dyn Describe>>>,
    free: Vec<usize>,
}

/// Blocked streams that one list of connections names.
const MAX_BLOCKED: usize = 10_000;

// === impl OpenConnections ===

impl OpenConnections {
    /// Adds a connection, and returns its place.
    pub(crate) fn add(&self, connection: Weak<dyn Describe>) -> usize {
        let mut slots = self.lock();
        if let Some(place) = slots.free.pop() {
            slots.connections[place] = Some(connection);
            return place;
        }
        slots.connections.push(Some(connection));
        slots.connections.len() - 1
    }

    /// Removes the connection at `place`.
    pub(crate) fn remove(&self, place: usize) {
        let mut slots = self.lock();
        slots.connections[place] = None;
        if slots.free.len() + 1 == slots.connections.len() {
            // A burst of connections leaves nothing behind.
            *slots = Slots::default();
        } else {
            slots.free.push(place);
        }
    }

    pub(super) fn describe(&self, max: usize) -> Vec<Connection> {
        let (mut connections, others): (Vec<_>, Vec<_>) = self.all().partition(|connection| connection.is_blocked());
        connections.extend(others);
        let mut left = MAX_BLOCKED;
        let describe = |connection: Arc<dyn Describe>| {
            let connection = connection.describe(left);
            left -= connection.http2.as_ref().map_or(0, |http2| http2.blocked.len());
            connection
        };
        connections.into_iter().take(max).map(describe).collect()
    }

    pub(super) fn describe_limited(&self, max: usize) -> Vec<Connection> {
        let limited = self.all().filter(|connection| connection.is_limited_by_window());
        limited.take(max).map(|connection| connection.describe(0)).collect()
    }

    pub(super) fn each(&self, visit: impl FnMut(Connection)) {
        self.all().map(|connection| connection.describe(0)).for_each(visit);
    }

    /// All of them. Connections may open and close meanwhile.
    fn all(&self) -> impl Iterator<Item = Arc<dyn Describe>> + use<> {
        let connections: Vec<_> = self.lock().connections.iter().flatten().cloned().collect();
        connections.into_iter().filter_map(|connection| connection.upgrade())
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().expect("nothing panics with the lock held")
    }
}
