//! The open connections of one side, and what each is doing.

use crate::stats::blocked::BlockedReason;
use std::{
    fmt,
    sync::{Mutex, MutexGuard, Weak},
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
    /// What HTTP/2 has beside that. `None`: it is of HTTP/1.1, or its protocol is not known yet.
    pub http2: Option<FlowStatus>,
}

/// The flow control of an open connection of HTTP/2.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct FlowStatus {
    /// The windows that the peer is granted.
    pub granted: WindowSizes,
    /// The windows that the peer grants: a new stream's, and what is left of the connection's.
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
    /// The path of its request, without a query. `None`: this side receives, or the request has no path.
    pub path: Option<String>,
    /// Why.
    pub reason: BlockedReason,
    /// For how long.
    pub time: Duration,
}

/// A connection that can describe itself.
pub(crate) trait Describe: fmt::Debug + Send + Sync {
    fn describe(&self) -> Connection;
}

/// The open connections.
#[derive(Debug, Default)]
pub(crate) struct OpenConnections(Mutex<Slots>);

#[derive(Debug, Default)]
struct Slots {
    connections: Vec<Option<Weak<dyn Describe>>>,
    free: Vec<usize>,
}

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
        let connections: Vec<_> = self.lock().connections.iter().flatten().take(max).cloned().collect();
        connections.iter().filter_map(Weak::upgrade).map(|connection| connection.describe()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().expect("nothing panics with the lock held")
    }
}
