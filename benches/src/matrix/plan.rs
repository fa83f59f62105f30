//! Which cells there are.

use super::{Cell, Side, Windows};
use crate::{link::Profile, load::Workload};

/// Stream windows of the plan. The first is RFC 9113's and the default.
pub const STREAM_WINDOWS: [u32; 3] = [65_535, 256 << 10, 1 << 20];
/// Connection windows of the plan. The first is the default.
pub const CONNECTION_WINDOWS: [u32; 3] = [1 << 20, 4 << 20, 16 << 20];
/// Streams of the plan.
pub const STREAMS: [usize; 4] = [1, 8, 64, 256];
/// Round trips of the plan, in milliseconds; 0 is bare loopback.
pub const RTTS: [u64; 4] = [0, 1, 20, 80];

const SIDES: [Side; 3] = [Side::Endpoint, Side::Client, Side::Both];
/// Requests a second in cells with a fixed rate.
pub const RATE: u32 = 1_000;
/// Default, largest and adaptive, where windows hardly matter.
pub const FEW: [Windows; 3] = [Windows::DEFAULT, Windows::LARGEST, Windows::Adaptive];

/// All windows of the plan. Adaptive is one of them: whatever is fixed means nothing then.
pub fn windows() -> impl Iterator<Item = Windows> + Clone {
    let fixed = |stream| CONNECTION_WINDOWS.map(|connection| Windows::Fixed { stream, connection });
    STREAM_WINDOWS.into_iter().flat_map(fixed).chain([Windows::Adaptive])
}

/// The side that the proxy's own windows govern: toward the client they bound uploads, toward the endpoint
/// downloads.
pub fn telling_side(workload: Workload) -> Side {
    match workload {
        Workload::Bidi => Side::Both,
        _ if workload.is_upward() => Side::Client,
        _ => Side::Endpoint,
    }
}

/// A few cells that show the most.
pub fn quick() -> Vec<Cell> {
    use Workload::{Bidi, ClientStreaming, Download, GrpcUnary, ServerStreaming, SlowReaders, Unary, Upload};
    let mut cells = Vec::new();
    let mut add = |workload, windows: &[Windows], streams, rtt_ms| {
        let side = telling_side(workload);
        cells.extend(windows.iter().map(|windows| Cell::new(workload, *windows, streams, rtt_ms, side)));
    };
    add(Unary, &FEW, 8, 0);
    add(GrpcUnary, &FEW[..1], 64, 1);
    add(Download, &FEW, 1, 20);
    add(Download, &FEW, 64, 20);
    add(Upload, &FEW, 1, 20);
    add(ServerStreaming, &FEW[..1], 8, 20);
    add(ClientStreaming, &FEW[..1], 8, 20);
    add(Bidi, &FEW[..1], 8, 20);
    add(SlowReaders, &[Windows::DEFAULT, Windows::Fixed { stream: 256 << 10, connection: 1 << 20 }], 8, 1);
    cells.push(Cell { rate: Some(RATE), ..Cell::new(GrpcUnary, Windows::DEFAULT, 64, 1, Side::Endpoint) });
    let sine = Profile::named("sine").unwrap_or_default();
    for windows in [Windows::LARGEST, Windows::Adaptive] {
        cells.push(Cell { profile: sine, ..Cell::new(Download, windows, 8, 20, Side::Endpoint) });
    }
    cells
}

/// The plan: every pair that can bind, and enough of the others to show that they do not.
///
/// Bulk workloads have all windows, streams and round trips, with the link where the proxy's windows govern it. Small
/// ones never fill a window. Links on other sides and varying ones have a choice.
pub fn full() -> Vec<Cell> {
    use Workload::{Bidi, ClientStreaming, Download, GrpcUnary, ServerStreaming, SlowReaders, Unary, Upload};
    let mut cells = Vec::new();
    let cell =
        |workload, windows, streams, rtt_ms| Cell::new(workload, windows, streams, rtt_ms, telling_side(workload));
    for streams in STREAMS {
        for rtt_ms in RTTS {
            for workload in [Unary, GrpcUnary] {
                cells.extend(FEW.map(|windows| cell(workload, windows, streams, rtt_ms)));
            }
            for workload in [Download, Upload] {
                cells.extend(windows().map(|windows| cell(workload, windows, streams, rtt_ms)));
            }
            for workload in [ServerStreaming, ClientStreaming, Bidi] {
                if rtt_ms == 20 {
                    cells.extend(windows().map(|windows| cell(workload, windows, streams, rtt_ms)));
                } else if rtt_ms > 0 {
                    cells.extend(FEW.map(|windows| cell(workload, windows, streams, rtt_ms)));
                }
            }
        }
        for rtt_ms in [1, 20] {
            cells.extend(windows().map(|windows| cell(SlowReaders, windows, streams, rtt_ms)));
        }
    }
    for streams in [1, 8, 64] {
        for side in [Side::Client, Side::Both] {
            for rtt_ms in [20, 80] {
                cells.extend(FEW.map(|windows| Cell::new(Download, windows, streams, rtt_ms, side)));
            }
        }
        for name in ["step", "sine", "dip"] {
            let profile = Profile::named(name).unwrap_or_default();
            for windows in FEW.into_iter().chain([Windows::Fixed { stream: 256 << 10, connection: 4 << 20 }]) {
                cells.push(Cell { profile, ..cell(Download, windows, streams, 20) });
            }
        }
    }
    for workload in [GrpcUnary, ServerStreaming, ClientStreaming, Bidi, Upload] {
        for side in SIDES.into_iter().filter(|side| *side != telling_side(workload)) {
            cells.extend(FEW.map(|windows| Cell::new(workload, windows, 8, 20, side)));
        }
    }
    for rtt_ms in [0, 20] {
        let rate = |workload, windows| Cell { rate: Some(RATE), ..cell(workload, windows, 64, rtt_ms) };
        for workload in [Unary, GrpcUnary] {
            cells.extend(FEW.map(|windows| rate(workload, windows)));
        }
    }
    cells
}

/// Everything with everything, on steady links; for hours.
pub fn cross() -> Vec<Cell> {
    let mut cells = Vec::new();
    for workload in Workload::ALL {
        for streams in STREAMS {
            for rtt_ms in RTTS {
                for side in SIDES.into_iter().take(if rtt_ms == 0 { 1 } else { SIDES.len() }) {
                    cells.extend(windows().map(|windows| Cell::new(workload, windows, streams, rtt_ms, side)));
                }
            }
        }
    }
    cells
}
