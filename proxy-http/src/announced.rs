//! What an endpoint says that h2 keeps to itself: what its first SETTINGS announce, and that it sends interim responses.

use crate::{
    activity::Activity,
    interim::{Scan, Scanned},
    overhead::Overhead,
};

/// What has come from an endpoint, as far as it matters.
///
/// The first frame is its SETTINGS (RFC 9113 section 3.4). What it announces later is not seen: endpoints do so once.
#[derive(Debug)]
pub(crate) struct Announced {
    /// What has come of the first frame. `None`: all of it, or it is none.
    first: Option<Vec<u8>>,
    scan: Scan,
    overhead: Overhead,
}

const FRAME_HEAD: usize = 9;
/// The largest frame that an endpoint may send unasked.
const MAX_FRAME: usize = 16_384;
const SETTINGS: u8 = 4;
const MAX_HEADER_LIST_SIZE: u16 = 6;

// === impl Announced ===

impl Announced {
    pub(crate) fn new() -> Self {
        Self { first: Some(Vec::new()), scan: Scan::default(), overhead: Overhead::default() }
    }

    /// Notes on `activity` what was read, and tells how many frames began with it.
    pub(crate) fn read(&mut self, bytes: &[u8], activity: &Activity) -> u32 {
        let streams = activity.open_streams();
        let Scanned { frames, interim, heads } = self.scan.read(bytes, |length| self.overhead.add(length, streams));
        activity.began(frames.into());
        if interim {
            streams.expect_interim();
        }
        if heads {
            activity.set_answered();
        }
        let Some(first) = &mut self.first else { return frames };
        first.extend_from_slice(bytes);
        match settings(first) {
            Settings::More => return frames,
            Settings::None => {}
            Settings::Whole(settings) => {
                // h2 takes them in the same poll.
                activity.set_settings();
                for setting in settings.chunks_exact(6) {
                    let (id, value) = (u16::from_be_bytes([setting[0], setting[1]]), &setting[2..]);
                    if id == MAX_HEADER_LIST_SIZE {
                        let size = u32::from_be_bytes([value[0], value[1], value[2], value[3]]);
                        activity.set_max_header_list(usize::try_from(size).unwrap_or(usize::MAX));
                    }
                }
            }
        }
        self.first = None;
        frames
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
