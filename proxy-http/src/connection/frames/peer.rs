//! What an endpoint says that h2 keeps to itself: what its first SETTINGS announce, and that it sends interim responses.

use crate::connection::{
    frames::{
        empty_data::EmptyData,
        scan::{Scan, Scanned},
        small_data::SmallDataBudget,
    },
    now::now,
    state::ConnectionState,
};
use std::time::Duration;
use tokio::time::Instant;

/// What has come from an endpoint, as far as it matters.
///
/// The first frame is its SETTINGS (RFC 9113 section 3.4). What it announces later is not seen: endpoints do so once.
#[derive(Debug)]
pub(crate) struct PeerSettings {
    /// What has come of the first frame. `None`: all of it, or it is none.
    first: Option<Vec<u8>>,
    scan: Scan,
    small_data: SmallDataBudget,
    empty: EmptyRate,
}

/// Empty DATA frames, which h2 does not see as long as they are not too many.
#[derive(Debug)]
struct EmptyRate {
    since: Instant,
    count: u64,
    /// Frames of all kinds.
    frames: u64,
}

/// Empty DATA frames in a second beside one for each other frame; h2 sees what is beyond, and ends the connection for a
/// hundred of them.
const MAX_EMPTY: u64 = 10_000;
const SECOND: Duration = Duration::from_secs(1);
const FRAME_HEAD: usize = 9;
/// The largest frame that an endpoint may send unasked.
const MAX_FRAME: usize = 16_384;
const SETTINGS: u8 = 4;
const MAX_HEADER_LIST_SIZE: u16 = 6;

// === impl PeerSettings ===

impl PeerSettings {
    pub(crate) fn new() -> Self {
        let empty = EmptyRate { since: Instant::now(), count: 0, frames: 0 };
        Self { first: Some(Vec::new()), scan: Scan::default(), small_data: SmallDataBudget::default(), empty }
    }

    /// Notes on `connection_state` what was read, and tells how many frames began with it.
    pub(crate) fn read(&mut self, bytes: &[u8], connection_state: &ConnectionState) -> u32 {
        let streams = connection_state.open_streams();
        let scanned = self.scan.read(bytes, |length| self.small_data.add(length, streams));
        let Scanned { frames, interim, heads, padding_alone, empty } = scanned;
        connection_state.began(frames.into());
        self.empty.frames += u64::from(frames);
        if empty > 0 && self.empty.are_too_many(empty.into()) {
            self.scan.empty_data().clear();
        }
        for _ in 0..padding_alone {
            connection_state.padding_alone();
        }
        if interim {
            streams.expect_interim();
        }
        if heads {
            connection_state.set_answered();
        }
        let Some(first) = &mut self.first else { return frames };
        first.extend_from_slice(bytes);
        match settings(first) {
            Settings::More => return frames,
            Settings::None => {}
            Settings::Whole(settings) => {
                // h2 takes them in the same poll.
                connection_state.set_settings();
                for setting in settings.chunks_exact(6) {
                    let (id, value) = (u16::from_be_bytes([setting[0], setting[1]]), &setting[2..]);
                    if id == MAX_HEADER_LIST_SIZE {
                        let size = u32::from_be_bytes([value[0], value[1], value[2], value[3]]);
                        connection_state.set_max_header_list(usize::try_from(size).unwrap_or(usize::MAX));
                    }
                }
            }
        }
        self.first = None;
        frames
    }

    /// The empty DATA frames in what was read last.
    pub(crate) fn empty_data(&mut self) -> &mut EmptyData {
        self.scan.empty_data()
    }

    /// How many bytes at the end of what was read last begin what may be an empty DATA frame.
    pub(crate) fn may_begin_empty(&self) -> usize {
        self.scan.may_begin_empty()
    }
}

// === impl EmptyRate ===

impl EmptyRate {
    fn are_too_many(&mut self, more: u64) -> bool {
        self.count += more;
        if self.count <= MAX_EMPTY {
            return false;
        }
        let now = now();
        if now - self.since >= SECOND {
            *self = Self { since: now, count: more, frames: more };
            return false;
        }
        // Of the frames, half may be empty.
        self.count > MAX_EMPTY + (self.frames - self.count)
    }
}

enum Settings<'a> {
    More,
    /// Something else, which h2 will refuse.
    None,
    Whole(&'a [u8]),
}

fn settings(first: &[u8]) -> Settings<'_> {
    let Some((head, payload)) = first.split_at_checked(FRAME_HEAD) else { return Settings::More };
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    match payload.get(..length) {
        _ if head[3] != SETTINGS || length > MAX_FRAME => Settings::None,
        None => Settings::More,
        Some(settings) => Settings::Whole(settings),
    }
}
