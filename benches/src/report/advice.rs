//! "For your round trip and streams, set these": the smallest windows that are nearly as fast as any.

use super::Data;
use crate::{
    load::Workload,
    matrix::{Cell, Side, Windows, plan},
};
use std::cmp::Reverse;

/// The windows to set for one round trip and number of streams.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Advice {
    /// In milliseconds.
    pub rtt_ms: u64,
    /// Open at once on one connection.
    pub streams: usize,
    /// The smallest fixed windows that are nearly as fast as any.
    pub stream: u32,
    /// Likewise.
    pub connection: u32,
    /// Mbit/s with them.
    pub mbits: f64,
    /// Mbit/s with the default windows.
    pub default_mbits: f64,
    /// Mbit/s with adaptive windows. `None`: not measured.
    pub adaptive_mbits: Option<f64>,
}

/// This share of the most counts as fast.
const NEARLY: f64 = 0.9;

// === impl Advice ===

impl Advice {
    /// For all round trips and streams of the plan that were measured with every pair of windows.
    pub fn all(data: &Data) -> Vec<Self> {
        let each = |rtt_ms| plan::STREAMS.map(|streams| Self::of(data, rtt_ms, streams));
        plan::RTTS.into_iter().flat_map(each).flatten().collect()
    }

    fn of(data: &Data, rtt_ms: u64, streams: usize) -> Option<Self> {
        let mbits = |windows| {
            let cell = Cell::new(Workload::Download, windows, streams, rtt_ms, Side::Endpoint);
            Some(data.get(&cell)?.median(|sample| sample.down_mbits))
        };
        let mut fixed = Vec::new();
        for windows in plan::windows() {
            if let Windows::Fixed { stream, connection } = windows {
                fixed.push((connection, stream, mbits(windows)?));
            }
        }
        let most = fixed.iter().map(|(.., mbits)| *mbits).fold(0.0, f64::max);
        // The connection window bounds the memory; of equal ones, small streams tolerate more slow readers.
        fixed.sort_by_key(|(connection, stream, _)| Reverse((*connection, *stream)));
        let (connection, stream, reached) = fixed.into_iter().rfind(|(.., mbits)| *mbits >= most * NEARLY)?;
        Some(Self {
            rtt_ms,
            streams,
            stream,
            connection,
            mbits: reached,
            default_mbits: mbits(Windows::DEFAULT)?,
            adaptive_mbits: mbits(Windows::Adaptive),
        })
    }

    /// The most bytes that the proxy can hold for stopped readers of one connection.
    pub fn memory(&self) -> u64 {
        (self.streams as u64 * u64::from(self.stream)).min(self.connection.into())
    }

    /// How many readers may stop before their connection needs more window than is set.
    pub fn slow_readers(&self) -> u32 {
        (self.connection / self.stream).saturating_sub(1)
    }
}
