//! How long threads have run, and how long they have waited for a CPU. That is the machine's doing, and not the proxy's.

use std::{fs::File, ops, os::unix::fs::FileExt as _, path::Path, sync::Arc, time::Duration};

/// Some threads, as the kernel sees them. None where it does not tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Threads(Vec<Arc<File>>);

/// What came of them until now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) ran: Duration,
    pub(crate) waited: Duration,
}

// === impl Threads ===

impl Threads {
    /// Those of the thread that asks.
    pub(crate) fn here() -> Self {
        Self::at(Path::new("/proc/thread-self"))
    }

    /// Those of all threads that a process has now.
    pub(crate) fn of(process: u32) -> Self {
        let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
        threads.fold(Self::default(), |waits, thread| waits.and(&Self::at(&thread.unwrap().path())))
    }

    fn at(thread: &Path) -> Self {
        Self(File::open(thread.join("schedstat")).ok().map(Arc::new).into_iter().collect())
    }

    pub(crate) fn and(mut self, others: &Self) -> Self {
        self.0.extend(others.0.iter().cloned());
        self
    }

    /// Whether there are any.
    pub(crate) fn are_known(&self) -> bool {
        !self.0.is_empty()
    }

    pub(crate) fn spent(&self) -> Spent {
        self.0.iter().filter_map(|file| spent(file)).fold(Spent::default(), ops::Add::add)
    }
}

/// The first two numbers, in nanoseconds.
fn spent(schedstat: &File) -> Option<Spent> {
    let mut line = [0; 64];
    let read = schedstat.read_at(&mut line, 0).ok()?;
    let mut numbers =
        str::from_utf8(&line[..read]).ok()?.split(' ').map(|number| number.parse().map(Duration::from_nanos));
    Some(Spent { ran: numbers.next()?.ok()?, waited: numbers.next()?.ok()? })
}

// === impl Spent ===

impl ops::Add for Spent {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { ran: self.ran + other.ran, waited: self.waited + other.waited }
    }
}

impl ops::Sub for Spent {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        // A thread may have ended since.
        Self { ran: self.ran.saturating_sub(other.ran), waited: self.waited.saturating_sub(other.waited) }
    }
}
