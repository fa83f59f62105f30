//! How long the proxy has run, and how long it has waited for a CPU, which is not its doing.

use nix::{time::ClockId, unistd::Pid};
use std::{fs::File, ops, os::unix::fs::FileExt as _, sync::Arc, time::Duration};

/// The threads of a process, as the kernel sees them.
#[derive(Clone, Debug)]
pub(crate) struct Threads {
    clock: ClockId,
    /// None where the kernel does not tell.
    schedstats: Vec<Arc<File>>,
}

/// The time that threads have run until now, and the time that they waited for a CPU.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) ran: Duration,
    pub(crate) waited: Duration,
}

// === impl Threads ===

impl Threads {
    /// The threads that a process has now.
    pub(crate) fn of(process: u32) -> Self {
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(process.try_into().unwrap())).unwrap();
        let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let schedstats = threads.filter_map(|thread| File::open(thread.unwrap().path().join("schedstat")).ok());
        Self { clock, schedstats: schedstats.map(Arc::new).collect() }
    }

    /// Whether it is known how long they have waited.
    pub(crate) fn are_known(&self) -> bool {
        !self.schedstats.is_empty()
    }

    pub(crate) fn spent(&self) -> Spent {
        // The process may have ended.
        let ran = self.clock.now().map_or(Duration::ZERO, Duration::from);
        Spent { ran, waited: self.schedstats.iter().filter_map(|file| waited(file)).sum() }
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
        Self { ran: self.ran.saturating_sub(other.ran), waited: self.waited.saturating_sub(other.waited) }
    }
}
