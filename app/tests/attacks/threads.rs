//! The time that the proxy has run, and the time that it, the victim and the endpoint have waited for a CPU. Waits are no fault of
//! the proxy: another process ran meanwhile, or the proxy itself, whose time counts as run.

use nix::{time::ClockId, unistd::Pid};
use std::{fs::File, ops, os::unix::fs::FileExt as _, sync::Arc, time::Duration};

/// The threads of a process, as the kernel sees them, and threads of which only the waits count.
#[derive(Clone, Debug)]
pub(crate) struct Threads {
    clock: ClockId,
    /// None where the kernel does not tell.
    schedstats: Vec<Arc<File>>,
    /// Of the threads of which only the waits count.
    others: Vec<Arc<File>>,
}

/// A thread of this process.
#[derive(Debug)]
pub(crate) struct Thread {
    /// `None`: the kernel does not tell.
    schedstat: Option<Arc<File>>,
}

/// The time that the process's threads have run until now, and the times that they and the other threads waited for a CPU.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) ran: Duration,
    pub(crate) waited: Duration,
    pub(crate) others_waited: Duration,
}

// === impl Threads ===

impl Threads {
    /// The threads that a process has now.
    pub(crate) fn of(process: u32) -> Self {
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(process.try_into().unwrap())).unwrap();
        let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let schedstats = threads.filter_map(|thread| File::open(thread.unwrap().path().join("schedstat")).ok());
        Self { clock, schedstats: schedstats.map(Arc::new).collect(), others: Vec::new() }
    }

    /// The same with another thread, whose waits count.
    pub(crate) fn with(mut self, thread: &Thread) -> Self {
        self.others.extend(thread.schedstat.clone());
        self
    }

    /// Whether it is known how long they have waited.
    pub(crate) fn are_known(&self) -> bool {
        !self.schedstats.is_empty()
    }

    pub(crate) fn spent(&self) -> Spent {
        // The process may have ended.
        let ran = self.clock.now().map_or(Duration::ZERO, Duration::from);
        let sum = |files: &[Arc<File>]| files.iter().filter_map(|file| waited(file)).sum();
        Spent { ran, waited: sum(&self.schedstats), others_waited: sum(&self.others) }
    }
}

// === impl Thread ===

impl Thread {
    /// The thread that this is called on.
    pub(crate) fn current() -> Self {
        Self { schedstat: File::open("/proc/thread-self/schedstat").ok().map(Arc::new) }
    }
}

/// The second number, in nanoseconds.
fn waited(schedstat: &File) -> Option<Duration> {
    let mut line = [0; 64];
    let read = schedstat.read_at(&mut line, 0).ok()?;
    let waited = str::from_utf8(&line[..read]).ok()?.split(' ').nth(1)?;
    Some(Duration::from_nanos(waited.parse().ok()?))
}

// === impl Spent ===

impl ops::Sub for Spent {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        // A thread may have ended since.
        Self {
            ran: self.ran.saturating_sub(other.ran),
            waited: self.waited.saturating_sub(other.waited),
            others_waited: self.others_waited.saturating_sub(other.others_waited),
        }
    }
}
