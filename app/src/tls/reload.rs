//! Values that are made of files.

use super::files::{Errors, Stamp};
use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A value that is made of files, and made again when they change.
pub(crate) struct Reloadable<T> {
    files: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, Errors> + Send + Sync>,
    current: Mutex<Arc<T>>,
    /// Of the files when they were read last, be it in vain.
    stamps: Mutex<Vec<Stamp>>,
}

// === impl Reloadable ===

impl<T> Reloadable<T> {
    /// Makes the value by `make` of `files`.
    pub(crate) fn load(
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<T, Errors> + Send + Sync + 'static,
    ) -> Result<Self, Errors> {
        // Before they are read: a file that changes in between is another one next time.
        let stamps = files.iter().map(Stamp::of).collect();
        let current = Mutex::new(Arc::new(make()?));
        Ok(Self { files, make: Box::new(make), current, stamps: Mutex::new(stamps) })
    }

    pub(crate) fn current(&self) -> Arc<T> {
        Arc::clone(&lock(&self.current))
    }

    /// Makes it anew. `None`: there is no need to.
    pub(crate) fn reload(&self, forced: bool) -> Option<Result<(), Errors>> {
        let mut stamps = lock(&self.stamps);
        let now: Vec<_> = self.files.iter().map(Stamp::of).collect();
        if now == *stamps && !forced {
            return None;
        }
        *stamps = now;
        Some((self.make)().map(|made| *lock(&self.current) = Arc::new(made)))
    }
}

impl<T> fmt::Debug for Reloadable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloadable").field("files", &self.files).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
