//! Timers of a choice of clocks: tokio's rounds up to whole milliseconds, which is too coarse for a link of 1 ms, and the
//! kernel's does not stand still in a test.

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::{
    future::poll_fn,
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, Sleep, sleep_until},
};

/// The source of wake-ups.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Clock {
    /// The kernel; late by some ten microseconds.
    Kernel,
    /// Tokio; late by up to a millisecond. Tests can pause it, and then nothing depends on how busy the machine is.
    Tokio,
}

/// Waits for instants, one at a time.
#[derive(Debug)]
pub struct Timer(Inner);

#[derive(Debug)]
enum Inner {
    Kernel { fd: AsyncFd<OwnedFd>, armed: Option<Instant> },
    Tokio(Pin<Box<Sleep>>),
}

// === impl Timer ===

impl Timer {
    /// A timer of the current runtime.
    ///
    /// # Errors
    ///
    /// When the process is out of descriptors.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(clock: Clock) -> io::Result<Self> {
        if clock == Clock::Tokio {
            return Ok(Self(Inner::Tokio(Box::pin(sleep_until(Instant::now())))));
        }
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(deprecated, reason = "its successor is unsafe, and asks for what an `OwnedFd` guarantees")]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Self(Inner::Kernel { fd, armed: None }))
    }

    /// Waits until `at`.
    ///
    /// # Errors
    ///
    /// When the runtime shuts down.
    pub async fn until(&mut self, at: Instant) -> io::Result<()> {
        poll_fn(|cx| self.poll_until(at, cx)).await
    }

    /// Polls for `at`; asking for another instant forgets the one before.
    ///
    /// # Errors
    ///
    /// When the runtime shuts down.
    pub fn poll_until(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Poll::Ready(Ok(()));
            }
            match &mut self.0 {
                Inner::Kernel { fd, armed } => {
                    if *armed != Some(at) {
                        arm(fd.get_ref(), left)?;
                        *armed = Some(at);
                    }
                    // The timer is never read: arming it again resets it, and its next expiry is a new edge.
                    ready!(fd.poll_read_ready(cx))?.clear_ready();
                }
                Inner::Tokio(sleep) => {
                    if sleep.deadline() != at {
                        sleep.as_mut().reset(at);
                    }
                    ready!(sleep.as_mut().poll(cx));
                }
            }
        }
    }
}

fn arm(fd: &OwnedFd, left: Duration) -> io::Result<()> {
    let value = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
    timerfd_settime(fd, TimerfdTimerFlags::empty(), &once)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn never_fires_early_and_can_be_used_again() {
        for clock in [Clock::Kernel, Clock::Tokio] {
            let mut timer = Timer::new(clock).unwrap();
            for wait in [0, 100, 300, 2_000, 50] {
                let at = Instant::now() + Duration::from_micros(wait);
                timer.until(at).await.unwrap();
                assert!(Instant::now() >= at);
            }
        }
    }

    #[tokio::test]
    async fn another_instant_replaces_the_one_before() {
        for clock in [Clock::Kernel, Clock::Tokio] {
            let mut timer = Timer::new(clock).unwrap();
            let start = Instant::now();
            let late = start + Duration::from_secs(60);
            let first = poll_fn(|cx| Poll::Ready(timer.poll_until(late, cx))).await;
            assert!(first.is_pending());
            timer.until(start + Duration::from_millis(1)).await.unwrap();
            assert!(Instant::now() < late);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tokios_clock_can_be_paused() {
        let start = Instant::now();
        let hour = Duration::from_secs(3_600);
        Timer::new(Clock::Tokio).unwrap().until(start + hour).await.unwrap();
        assert_eq!(start.elapsed(), hour);
    }
}
