//! The path to a peer: windows in force, DATA that has come, and measurements by PING.

use std::{
    sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The path of one connection. Only the connection's task stores it.
#[derive(Debug)]
pub(crate) struct NetworkPath {
    read: AtomicU64,
    written: AtomicU64,
    /// Bytes of DATA that have begun to come, with their padding.
    received: AtomicU64,
    /// The windows granted to the peer: a stream's and the connection's, raised by the DATA that is held.
    stream_window: AtomicU32,
    connection_window: AtomicU32,
    /// Whether the peer has acknowledged SETTINGS in the bytes that were read last.
    acknowledged: AtomicBool,
    /// The windows that the peer grants: a new stream's, and the rest of the connection's.
    peer_stream_window: AtomicU32,
    peer_connection_window: AtomicI64,
    /// The largest payload of a frame that the peer takes.
    peer_max_frame: AtomicU32,
    /// In microseconds. Zero: not measured.
    rtt: AtomicU32,
    /// The highest that was measured, in bytes a second.
    bandwidth: AtomicU64,
}

/// The windows before SETTINGS and WINDOW_UPDATE (RFC 9113 section 6.9.2).
const INITIAL_WINDOW: u32 = 65_535;
/// The largest payload of a frame before SETTINGS (RFC 9113 section 6.5.2).
const INITIAL_MAX_FRAME: u32 = 16_384;

// === impl NetworkPath ===

impl NetworkPath {
    pub(crate) fn new() -> Self {
        Self {
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            received: AtomicU64::new(0),
            stream_window: AtomicU32::new(0),
            connection_window: AtomicU32::new(0),
            acknowledged: AtomicBool::new(false),
            peer_stream_window: AtomicU32::new(INITIAL_WINDOW),
            peer_connection_window: AtomicI64::new(INITIAL_WINDOW.into()),
            peer_max_frame: AtomicU32::new(INITIAL_MAX_FRAME),
            rtt: AtomicU32::new(0),
            bandwidth: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(crate) fn read(&self, bytes: usize) {
        self.read.store(self.read.load(Relaxed) + bytes as u64, Relaxed);
    }

    #[inline]
    pub(crate) fn wrote(&self, bytes: usize) {
        self.written.store(self.written.load(Relaxed) + bytes as u64, Relaxed);
    }

    /// Bytes read and written so far.
    pub(crate) fn moved_bytes(&self) -> (u64, u64) {
        (self.read.load(Relaxed), self.written.load(Relaxed))
    }

    /// Counts a DATA frame that begins to come.
    #[inline]
    pub(crate) fn received(&self, bytes: usize) {
        self.received.store(self.received.load(Relaxed).wrapping_add(bytes as u64), Relaxed);
    }

    /// Bytes of DATA that have come so far.
    #[inline]
    pub(crate) fn received_bytes(&self) -> u64 {
        self.received.load(Relaxed)
    }

    pub(crate) fn set_windows(&self, stream: u32, connection: u32) {
        self.stream_window.store(stream, Relaxed);
        self.connection_window.store(connection, Relaxed);
    }

    /// The windows of a stream and of the connection that the peer is granted, in bytes.
    pub(crate) fn windows(&self) -> (u32, u32) {
        (self.stream_window.load(Relaxed), self.connection_window.load(Relaxed))
    }

    pub(crate) fn set_acknowledged(&self, acknowledged: bool) {
        self.acknowledged.store(acknowledged, Relaxed);
    }

    /// Whether the peer has acknowledged SETTINGS in the bytes that were read last.
    #[inline]
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.acknowledged.load(Relaxed)
    }

    pub(crate) fn set_peer_stream_window(&self, bytes: u32) {
        self.peer_stream_window.store(bytes, Relaxed);
    }

    /// Adds to the window of the connection that the peer grants: positive for WINDOW_UPDATE, negative for DATA.
    #[inline]
    pub(crate) fn add_peer_connection_window(&self, bytes: i64) {
        let window = self.peer_connection_window.load(Relaxed).saturating_add(bytes);
        self.peer_connection_window.store(window, Relaxed);
    }

    /// The window of a new stream, and the rest of the connection's, that the peer grants, in bytes.
    pub(crate) fn peer_windows(&self) -> (u32, i64) {
        (self.peer_stream_window.load(Relaxed), self.peer_connection_window.load(Relaxed))
    }

    pub(crate) fn set_peer_max_frame(&self, bytes: u32) {
        self.peer_max_frame.store(bytes, Relaxed);
    }

    /// The largest payload of a frame that the peer takes, in bytes, as it says: h2 refuses SETTINGS out of range.
    #[inline]
    pub(crate) fn peer_max_frame(&self) -> u32 {
        self.peer_max_frame.load(Relaxed)
    }

    pub(crate) fn set_measured(&self, rtt: Duration, bandwidth: u64) {
        self.rtt.store(u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1), Relaxed);
        self.bandwidth.store(bandwidth, Relaxed);
    }

    /// The round-trip time and the bandwidth, in bytes a second. `None`: not measured yet.
    pub(crate) fn measured(&self) -> Option<(Duration, u64)> {
        let rtt = self.rtt.load(Relaxed);
        (rtt > 0).then(|| (Duration::from_micros(rtt.into()), self.bandwidth.load(Relaxed)))
    }
}
