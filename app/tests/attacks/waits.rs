//! How long threads have waited for a CPU, which is the machine's doing and not the proxy's.

use std::{fs::File, os::unix::fs::FileExt as _, path::Path, sync::Arc, time::Duration};

/// Those of some threads. Empty where the kernel does not count them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waits(Vec<Arc<File>>);

// === impl Waits ===

impl Waits {
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

    /// Whether there are any, so that what is left of a time without them is not the machine's doing.
    pub(crate) fn are_known(&self) -> bool {
        !self.0.is_empty()
    }

    /// The sum of them until now.
    pub(crate) fn total(&self) -> Duration {
        self.0.iter().map(|file| waited(file).unwrap_or_default()).sum()
    }
}

/// The second number, in nanoseconds.
fn waited(file: &File) -> Option<Duration> {
    let mut line = [0; 64];
    let read = file.read_at(&mut line, 0).ok()?;
    str::from_utf8(&line[..read]).ok()?.split(' ').nth(1)?.parse().ok().map(Duration::from_nanos)
}
