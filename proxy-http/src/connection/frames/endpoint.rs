//! The frames of an endpoint, of which h2 keeps to itself the first SETTINGS, interim responses, and GOAWAY in part.

use crate::connection::{
    detect::OtherProtocol,
    frames::{
        empty_data::{EmptyDataFilter, FramesRead},
        head::{
            CONTINUATION, DATA, FrameHead, GOAWAY, HEADERS, SETTINGS, SETTINGS_MAX_HEADER_LIST_SIZE, WINDOW_UPDATE,
        },
        interim,
        local_settings::FieldBlock,
        peer_windows,
        reader::{FrameObserver, FrameReader},
        small_data::SmallDataBudget,
    },
    now::now,
    state::ConnectionState,
};
use std::{convert::Infallible, mem, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Notes the frames of an endpoint on the state of its connection.
#[derive(Debug)]
pub(crate) struct EndpointFrames {
    connection_state: Arc<ConnectionState>,
    settings: FirstSettings,
    small_data: SmallDataBudget,
    empty_data: EmptyDataFilter,
    block: FieldBlock,
    empty_rate: EmptyRate,
    /// Frames that began in the last read.
    frames: u32,
    /// Empty DATA frames among them that h2 need not see.
    empty: u32,
}

/// The first frame, which is SETTINGS (RFC 9113 section 3.4). Later ones are not read for a header list size, which endpoints
/// announce once.
#[derive(Clone, Copy, Debug)]
enum FirstSettings {
    Awaited,
    /// With the header list size, if it has come.
    Reading(Option<u32>),
    /// They have come, or another frame has, which h2 refuses.
    Over,
}

/// Empty DATA frames, which h2 does not see as long as they are not too many.
#[derive(Debug)]
struct EmptyRate {
    since: Instant,
    count: u64,
    /// Frames of all kinds.
    frames: u64,
}

/// Empty DATA frames in a second beside one for each other frame; h2 sees the ones beyond, and ends the connection for a
/// hundred of them.
const MAX_EMPTY: u64 = 10_000;
const SECOND: Duration = Duration::from_secs(1);
/// The largest frame that an endpoint may send unasked (RFC 9113 section 4.2).
const MAX_FRAME: usize = 16_384;
/// The last stream and the error code of a GOAWAY (RFC 9113 section 6.8).
const GOAWAY_FIELDS: usize = 8;

// === impl EndpointFrames ===

impl EndpointFrames {
    /// A reader for a connection that starts now, which is noted on `connection_state`.
    pub(crate) fn reader(connection_state: &Arc<ConnectionState>) -> FrameReader<Self> {
        let empty_rate = EmptyRate { since: Instant::now(), count: 0, frames: 0 };
        let frames = Self {
            connection_state: Arc::clone(connection_state),
            settings: FirstSettings::Awaited,
            small_data: SmallDataBudget::default(),
            empty_data: EmptyDataFilter::default(),
            block: FieldBlock::default(),
            empty_rate,
            frames: 0,
            empty: 0,
        };
        FrameReader::new(0, frames)
    }

    /// The empty DATA frames of the last read.
    pub(crate) fn empty_data(&mut self) -> &mut EmptyDataFilter {
        &mut self.empty_data
    }

    /// The first frame is whole. h2 takes the settings in the same poll.
    #[cold]
    fn end_settings(&mut self, peer_max_header_list: Option<u32>) {
        self.settings = FirstSettings::Over;
        self.connection_state.set_settings();
        if let Some(size) = peer_max_header_list {
            self.connection_state.set_peer_max_header_list(usize::try_from(size).unwrap_or(usize::MAX));
        }
    }
}

impl FrameReader<EndpointFrames> {
    /// Goes on with `bytes`, which were read.
    #[inline]
    pub(crate) fn read(&mut self, bytes: &[u8]) -> FramesRead {
        if self.pass_over(bytes.len()) { FramesRead::default() } else { self.read_frames(bytes) }
    }

    #[inline(never)]
    fn read_frames(&mut self, bytes: &[u8]) -> FramesRead {
        self.observer.empty_data.clear();
        if let FirstSettings::Awaited = self.observer.settings
            && let Some(other) = OtherProtocol::of(bytes).filter(|other| *other != OtherProtocol::Http2)
        {
            self.observer.connection_state.set_other_protocol(other);
        }
        let Ok(()) = self.follow(bytes);
        let observer = &mut self.observer;
        let frames = mem::take(&mut observer.frames);
        if frames > 0 {
            observer.connection_state.began(frames.into());
            observer.empty_rate.frames += u64::from(frames);
            let empty = mem::take(&mut observer.empty);
            if empty > 0 && observer.empty_rate.are_too_many(empty.into()) {
                observer.empty_data.clear();
            }
        }
        self.observer.empty_data.frames_read(frames, self.head_part())
    }
}

impl FrameObserver for EndpointFrames {
    type Error = Infallible;

    #[inline(always)]
    fn head(&mut self, head: FrameHead, end: usize) -> Result<usize, Infallible> {
        self.frames += 1;
        if let FirstSettings::Awaited = self.settings {
            let is_first = head.kind == SETTINGS && head.length <= MAX_FRAME;
            self.settings = if is_first { FirstSettings::Reading(None) } else { FirstSettings::Over };
        }
        Ok(match head.kind {
            DATA => {
                if head.length == 0 && self.empty_data.removes(head, end) {
                    self.empty += 1;
                    return Ok(0);
                }
                self.small_data.data(head, &self.connection_state)
            }
            HEADERS => {
                self.empty_data.headers(head);
                self.block.frame(head, &self.connection_state);
                let wanted = interim::wanted(head);
                if wanted == 0 {
                    self.connection_state.set_answered();
                }
                wanted
            }
            CONTINUATION => {
                self.empty_data.continuation(head);
                self.block.frame(head, &self.connection_state);
                0
            }
            GOAWAY if head.length >= GOAWAY_FIELDS => GOAWAY_FIELDS,
            _ => peer_windows::wanted(head, self.connection_state.path()),
        })
    }

    #[inline(always)]
    fn payload(&mut self, head: FrameHead, bytes: &[u8]) -> usize {
        match head.kind {
            DATA => SmallDataBudget::padding(head, bytes[0], &self.connection_state),
            HEADERS => {
                self.connection_state.set_answered();
                if interim::may_be_interim(head, bytes) {
                    self.connection_state.open_streams().expect_interim();
                }
            }
            SETTINGS | WINDOW_UPDATE => {
                if let FirstSettings::Reading(peer_max_header_list) = &mut self.settings
                    && let [a, b, value @ ..] = bytes
                    && [*a, *b] == SETTINGS_MAX_HEADER_LIST_SIZE
                    && let Ok(value) = value.try_into()
                {
                    *peer_max_header_list = Some(u32::from_be_bytes(value));
                }
                return peer_windows::note(head, bytes, self.connection_state.path());
            }
            // The last stream that it leaves in. 0: none.
            GOAWAY if bytes[..4] != [0; 4] => self.connection_state.set_answered(),
            _ => {}
        }
        0
    }

    #[inline(always)]
    fn end(&mut self) {
        if let FirstSettings::Reading(peer_max_header_list) = self.settings {
            self.end_settings(peer_max_header_list);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::frames::head::SETTING;

    #[test]
    fn the_largest_data_frame_is_noted() {
        let connection_state = ConnectionState::new(&Arc::default());
        let stream = connection_state.open_stream();
        let mut frames = EndpointFrames::reader(&connection_state);
        for (length, largest) in [([0, 0, 0x10], 0x10), ([0, 0x80, 0], 0x8000), ([0, 0, 1], 0x8000)] {
            frames.read(
                &[
                    &length[..],
                    &[DATA, 0, 0, 0, 0, 1],
                    &vec![0; u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize],
                ]
                .concat(),
            );
            assert_eq!(stream.largest_frame(), largest);
        }
    }

    #[test]
    fn the_first_settings_are_noted_once_they_are_whole() {
        const SIZE: [u8; SETTING] = [0, 6, 0, 0, 1, 0];
        let frame =
            |kind: u8, payload: &[u8]| [&[0, 0, payload.len() as u8, kind, 0, 0, 0, 0, 0][..], payload].concat();
        for (first, settings, size) in [
            (frame(SETTINGS, &[&SIZE[..], &[0, 4, 0, 0, 0, 1]].concat()), true, 256),
            (frame(SETTINGS, &[0, 3, 0, 0, 0, 6]), true, usize::MAX),
            (frame(SETTINGS, &[]), true, usize::MAX),
            (frame(GOAWAY, &SIZE), false, usize::MAX),
        ] {
            let all = [first.clone(), frame(SETTINGS, &[0, 6, 0, 0, 0, 1])].concat();
            for piece in 1..=all.len() {
                let connection_state = ConnectionState::new(&Arc::default());
                let mut frames = EndpointFrames::reader(&connection_state);
                let mut read = 0;
                for bytes in all.chunks(piece) {
                    frames.read(bytes);
                    read += bytes.len();
                    let is_noted = settings && read >= first.len();
                    assert_eq!(connection_state.has_settings(), is_noted, "{first:?} by {piece}");
                    let expected = if is_noted { size } else { usize::MAX };
                    assert_eq!(connection_state.peer_max_header_list(), expected, "{first:?} by {piece}");
                }
            }
        }
    }
}
