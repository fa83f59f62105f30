//! Frames that are written together.
//!
//! h2 writes and flushes each DATA frame of 256 bytes and more by itself, which is a call of the system for each, and often a
//! packet. So frames are kept until h2 has no more of them. Large payloads are not copied: that costs more than the calls that
//! it saves.

use bytes::{Buf, Bytes};
use std::{
    cell::Cell,
    collections::VecDeque,
    io::{self, IoSlice},
    mem,
};

/// A piece of a body, as h2 gets it.
#[derive(Debug)]
pub(crate) struct Chunk(Bytes);

/// Bytes that h2 has written, and that the transport has not taken yet.
#[derive(Debug, Default)]
pub(super) struct WriteBatch {
    /// `None`: the batch is empty.
    parts: Option<Box<Parts>>,
    /// Whether h2 goes on to write, and flushes again.
    goes_on: bool,
}

#[derive(Debug, Default)]
struct Parts {
    /// In the order in which they are written.
    parts: VecDeque<Part>,
    copied: Vec<u8>,
    /// Bytes of `copied` that are written.
    start: usize,
    /// The length of all parts.
    len: usize,
}

#[derive(Debug)]
enum Part {
    /// The number of bytes that are next in [`Parts::copied`].
    Copied(usize),
    Shared(Bytes),
}

thread_local! {
    /// The chunk whose bytes h2 has asked for last. h2 writes them next, but hands on a slice, which the transport cannot keep;
    /// so a batch that gets the same slice takes the chunk from here. If h2 should do anything else between, the slice is
    /// another one, and is copied.
    static CHUNK: Cell<Option<Bytes>> = const { Cell::new(None) };
    /// An empty one, for the worker's next batch.
    static SPARE: Cell<Option<Box<Parts>>> = const { Cell::new(None) };
}

/// Bytes after which a batch is written though h2 goes on. A frame more may be in it.
const MAX_BYTES: usize = 128 << 10;
/// Bytes that an empty batch may have room for and be kept.
const MAX_SPARE: usize = 4 * MAX_BYTES;
/// Parts that are written at once.
const MAX_PARTS: usize = 32;
/// A shorter payload is copied.
const MIN_SHARED: usize = 2 << 10;

// === impl Chunk ===

impl From<Bytes> for Chunk {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.0.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.0
    }

    fn chunks_vectored<'a>(&'a self, dst: &mut [IoSlice<'a>]) -> usize {
        if self.0.len() >= MIN_SHARED {
            CHUNK.set(Some(self.0.clone()));
        }
        self.0.chunks_vectored(dst)
    }

    fn advance(&mut self, count: usize) {
        self.0.advance(count);
    }
}

// === impl WriteBatch ===

impl WriteBatch {
    /// Whether `bufs` are to be [added](Self::add). If not, they are written at once.
    ///
    /// A large DATA frame is the only thing that h2 writes from two places. It is flushed before h2 looks for the next frame,
    /// and when there is none, h2 flushes once more.
    pub(super) fn takes(&mut self, bufs: &[IoSlice<'_>]) -> bool {
        self.goes_on = bufs.len() > 1;
        self.goes_on || self.parts.is_some()
    }

    /// Whether more may be added before the batch is written.
    pub(super) fn has_room(&self) -> bool {
        // A frame has two parts at most.
        self.parts.as_ref().is_none_or(|parts| parts.len < MAX_BYTES && parts.parts.len() + 2 <= MAX_PARTS)
    }

    /// Adds `bufs`. Returns their length.
    pub(super) fn add(&mut self, bufs: &[IoSlice<'_>]) -> usize {
        let parts = self.parts.get_or_insert_with(|| SPARE.take().unwrap_or_default());
        let chunk = CHUNK.take();
        let before = parts.len;
        for buf in bufs {
            parts.add(buf, chunk.as_ref());
        }
        parts.len - before
    }

    /// Whether a flush may wait, since h2 flushes again.
    pub(super) fn flushes_later(&mut self) -> bool {
        mem::take(&mut self.goes_on)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_none()
    }

    /// Calls `write` with the bytes that are to be written next.
    pub(super) fn with_slices<T>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let mut slices = [IoSlice::new(&[]); MAX_PARTS];
        let count = self.parts.as_ref().map_or(0, |parts| parts.slices(&mut slices));
        write(&slices[..count])
    }

    /// Removes the first `count` bytes, which were written.
    pub(super) fn wrote(&mut self, count: usize) -> io::Result<()> {
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let Some(mut parts) = self.parts.take() else { return Ok(()) };
        parts.remove(count);
        if parts.len > 0 {
            self.parts = Some(parts);
        } else {
            parts.copied.clear();
            parts.start = 0;
            if parts.copied.capacity() <= MAX_SPARE {
                SPARE.set(Some(parts));
            }
        }
        Ok(())
    }
}

// === impl Parts ===

impl Parts {
    /// Adds `buf`, which is the start of `chunk`, or else is copied.
    fn add(&mut self, buf: &[u8], chunk: Option<&Bytes>) {
        self.len += buf.len();
        // Bytes do not change while they are shared, so the same place has the same bytes.
        if let Some(chunk) = chunk.filter(|chunk| chunk.as_ptr() == buf.as_ptr() && chunk.len() >= buf.len()) {
            self.parts.push_back(Part::Shared(chunk.slice(..buf.len())));
            return;
        }
        self.copied.extend_from_slice(buf);
        match self.parts.back_mut() {
            Some(Part::Copied(len)) => *len += buf.len(),
            _ => self.parts.push_back(Part::Copied(buf.len())),
        }
    }

    /// Puts the first parts into `slices`. Returns their number.
    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_PARTS]) -> usize {
        let mut copied = &self.copied[self.start..];
        for (slice, part) in slices.iter_mut().zip(&self.parts) {
            *slice = IoSlice::new(match part {
                Part::Copied(len) => copied.split_off(..*len).unwrap_or_default(),
                Part::Shared(bytes) => bytes,
            });
        }
        self.parts.len().min(MAX_PARTS)
    }

    /// Removes the first `count` bytes.
    fn remove(&mut self, mut count: usize) {
        self.len -= count;
        while count > 0 {
            let Some(first) = self.parts.front_mut() else { return };
            let len = match first {
                Part::Copied(len) => *len,
                Part::Shared(bytes) => bytes.len(),
            };
            let removed = len.min(count);
            count -= removed;
            match first {
                Part::Copied(len) => {
                    *len -= removed;
                    self.start += removed;
                }
                Part::Shared(bytes) => bytes.advance(removed),
            }
            if removed == len {
                self.parts.pop_front();
            }
        }
        // A batch that never runs empty must not keep written bytes.
        if self.start >= MAX_BYTES {
            self.copied.drain(..self.start);
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_never_runs_empty_does_not_grow() {
        let mut batch = WriteBatch::default();
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(1_000).collect();
        let (mut added, mut written) = (0_usize, 0_usize);
        while written < 100 << 20 {
            while added < written + 50_000 {
                added += batch.add(&[IoSlice::new(&bytes)]);
            }
            let next = batch.with_slices(|slices| slices[0][0]);
            assert_eq!(next, bytes[written % bytes.len()], "at {written}");
            // The transport takes less than there is.
            batch.wrote(1_234).unwrap();
            written += 1_234;
            let capacity = batch.parts.as_ref().unwrap().copied.capacity();
            assert!(capacity <= MAX_SPARE, "{capacity} at {written}");
        }
    }
}
