//! The ends of a connection over a link, and the link between them.

use super::Direction;
use crate::timer::{Clock, Timer};
use bytes::{Buf as _, Bytes};
use std::{
    collections::VecDeque,
    io, mem,
    ops::RangeInclusive,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// One direction of a link, shared by the connections over it.
#[derive(Debug)]
pub(super) struct Lane {
    params: Direction,
    clock: Clock,
    start: Instant,
    /// When the wire has carried all that was written.
    free_at: Mutex<Instant>,
    carried: AtomicU64,
    /// How late readers woke up of late, on average: they are woken so much earlier.
    wake_ns: AtomicU64,
    /// The delay to and from the link, which counts as a part of its delay.
    hops_ns: AtomicU64,
}

/// One end of a connection over a link. Dropping it closes the connection.
#[derive(Debug)]
pub struct End {
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
    /// Bytes that arrive until then can be read.
    until: Instant,
    waiting: Option<Wait>,
    read_timer: Timer,
    write_timer: Timer,
}

/// A reader's wait for an arrival.
#[derive(Clone, Copy, Debug)]
struct Wait {
    arrival: Instant,
    wake_at: Instant,
}

/// One direction of one connection.
#[derive(Debug)]
struct Pipe {
    lane: Arc<Lane>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    chunks: VecDeque<Chunk>,
    held: usize,
    last_arrival: Instant,
    /// The writer is done, as of this arrival.
    ended: Option<Instant>,
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug)]
struct Chunk {
    data: Bytes,
    arrives: Instant,
}

/// Bytes of one connection on the wire or unread, as a TCP window would bound them.
const WINDOW: usize = 16 << 20;
/// A write is cut into pieces of this time on the wire.
const PIECE: Duration = Duration::from_micros(500);
const PIECE_BYTES: RangeInclusive<usize> = 1_460..=64 << 10;
/// More is not a late timer but a busy machine.
const LATEST: Duration = Duration::from_micros(150);
/// How late tokio's timers are: a read that they wake is in time, or early by less than this.
const TICK: Duration = Duration::from_micros(999);
/// The last lateness goes into the average with one part in this many.
const WAKE_WEIGHT: u64 = 8;

pub(super) fn pair(up: &Arc<Lane>, down: &Arc<Lane>) -> io::Result<(End, End)> {
    let up = Arc::new(Pipe::new(Arc::clone(up)));
    let down = Arc::new(Pipe::new(Arc::clone(down)));
    Ok((End::new(Arc::clone(&down), Arc::clone(&up))?, End::new(up, down)?))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Lane ===

impl Lane {
    pub(super) fn new(params: Direction, clock: Clock) -> Self {
        let now = Instant::now();
        Self {
            params,
            clock,
            start: now,
            free_at: Mutex::new(now),
            carried: 0.into(),
            wake_ns: 0.into(),
            hops_ns: 0.into(),
        }
    }

    /// Counts `hops`, the way to and from the link, as a part of its delay.
    pub(super) fn count_hops(&self, hops: Duration) {
        self.hops_ns.store(hops.as_nanos() as u64, Relaxed);
    }

    fn wake_ahead(&self) -> Duration {
        match self.clock {
            Clock::Kernel => Duration::from_nanos(self.wake_ns.load(Relaxed)),
            Clock::Tokio => TICK,
        }
    }

    /// A reader that was to wake up `at` does so now.
    fn woke(&self, at: Instant) {
        let late = at.elapsed().min(LATEST).as_nanos() as u64;
        let average = self.wake_ns.load(Relaxed);
        let next = if average == 0 { late } else { average - average / WAKE_WEIGHT + late / WAKE_WEIGHT };
        self.wake_ns.store(next, Relaxed);
    }

    pub(super) fn carried(&self) -> u64 {
        self.carried.load(Relaxed)
    }

    /// Puts up to `len` bytes on the wire, and says how many and when they arrive.
    /// `Err`: the queue is full, until then.
    pub(super) fn send(&self, len: usize, now: Instant) -> Result<(usize, Instant), Instant> {
        let factors = self.params.profile.at(now - self.start);
        let extra = self.params.jitter.mul_f64(fastrand::f64());
        let delay = self.params.delay.mul_f64(factors.delay) + extra;
        let delay = delay.saturating_sub(Duration::from_nanos(self.hops_ns.load(Relaxed)));
        let Some(bandwidth) = self.params.bandwidth else {
            return Ok((len.min(*PIECE_BYTES.end()), now + delay));
        };
        let bytes_a_second = bandwidth as f64 / 8.0 * factors.bandwidth;
        let mut free_at = lock(&self.free_at);
        let full_queue = Duration::from_secs_f64(self.params.queue as f64 / bytes_a_second);
        if *free_at > now + full_queue {
            return Err(*free_at - full_queue);
        }
        let piece = ((bytes_a_second * PIECE.as_secs_f64()) as usize).clamp(*PIECE_BYTES.start(), *PIECE_BYTES.end());
        let len = len.min(piece);
        *free_at = now.max(*free_at) + Duration::from_secs_f64(len as f64 / bytes_a_second);
        Ok((len, *free_at + delay))
    }
}

// === impl End ===

impl End {
    fn new(incoming: Arc<Pipe>, outgoing: Arc<Pipe>) -> io::Result<Self> {
        let (read_timer, write_timer) = (Timer::new(incoming.lane.clock)?, Timer::new(outgoing.lane.clock)?);
        Ok(Self { incoming, outgoing, until: Instant::now(), waiting: None, read_timer, write_timer })
    }
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let lane = &this.incoming.lane;
        loop {
            if let Some(Wait { arrival, wake_at }) = this.waiting {
                ready!(this.read_timer.poll_until(wake_at, cx))?;
                lane.woke(wake_at);
                this.waiting = None;
                this.until = arrival;
            }
            let ahead = lane.wake_ahead();
            this.until = this.until.max(Instant::now() + ahead);
            match this.incoming.take(this.until, buf, cx) {
                Taken::Some => return Poll::Ready(Ok(())),
                Taken::Later(arrival) => this.waiting = Some(Wait { arrival, wake_at: arrival - ahead }),
                Taken::Nothing => return Poll::Pending,
            }
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            match ready!(this.outgoing.put(buf, cx))? {
                Ok(len) => return Poll::Ready(Ok(len)),
                Err(full_until) => ready!(this.write_timer.poll_until(full_until, cx))?,
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.end();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.outgoing.end();
        self.incoming.abandon();
    }
}

// === impl Pipe ===

/// The result of a read.
enum Taken {
    /// Bytes, or the end.
    Some,
    /// There will be some then.
    Later(Instant),
    /// Nothing was written; the reader is woken when something is.
    Nothing,
}

impl Pipe {
    fn new(lane: Arc<Lane>) -> Self {
        let state = State {
            chunks: VecDeque::new(),
            held: 0,
            last_arrival: Instant::now(),
            ended: None,
            reader_gone: false,
            reader: None,
            writer: None,
        };
        Self { lane, state: Mutex::new(state) }
    }

    /// Reads the bytes that arrive `until` then.
    fn take(&self, until: Instant, buf: &mut ReadBuf<'_>, cx: &Context<'_>) -> Taken {
        let state = &mut *lock(&self.state);
        let before = buf.remaining();
        while let Some(chunk) = state.chunks.front_mut()
            && chunk.arrives <= until
            && buf.remaining() > 0
        {
            let len = chunk.data.len().min(buf.remaining());
            buf.put_slice(&chunk.data[..len]);
            chunk.data.advance(len);
            if chunk.data.is_empty() {
                state.chunks.pop_front();
            }
        }
        let taken = before - buf.remaining();
        if taken > 0 {
            state.held -= taken;
            wake(&mut state.writer);
            self.lane.carried.fetch_add(taken as u64, Relaxed);
            return Taken::Some;
        }
        match (state.chunks.front(), state.ended) {
            (Some(chunk), _) => Taken::Later(chunk.arrives),
            (None, Some(at)) if at <= until => Taken::Some,
            (None, Some(at)) => Taken::Later(at),
            (None, None) => {
                state.reader = Some(cx.waker().clone());
                Taken::Nothing
            }
        }
    }

    /// `Ok(Err)`: the queue is full, until then.
    fn put(&self, buf: &[u8], cx: &Context<'_>) -> Poll<io::Result<Result<usize, Instant>>> {
        let state = &mut *lock(&self.state);
        if state.reader_gone || state.ended.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW - state.held;
        if room == 0 {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let sent = self.lane.send(buf.len().min(room), Instant::now());
        if let Ok((len, arrives)) = sent {
            state.last_arrival = state.last_arrival.max(arrives);
            state.held += len;
            let arrives = state.last_arrival;
            state.chunks.push_back(Chunk { data: Bytes::copy_from_slice(&buf[..len]), arrives });
            wake(&mut state.reader);
        }
        Poll::Ready(Ok(sent.map(|(len, _)| len)))
    }

    /// The writer is done. Its reader learns of it after all bytes, and a delay.
    fn end(&self) {
        let state = &mut *lock(&self.state);
        if state.ended.is_none() {
            state.ended = Some(state.last_arrival.max(Instant::now() + self.lane.params.delay));
            wake(&mut state.reader);
        }
    }

    /// The reader is gone.
    fn abandon(&self) {
        let state = &mut *lock(&self.state);
        state.reader_gone = true;
        drop(mem::take(&mut state.chunks));
        wake(&mut state.writer);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
