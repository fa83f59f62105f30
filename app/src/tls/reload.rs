//! Files that change while the process runs.

use super::files::{Errors, Stamp};
use crate::systemd;
use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, task::spawn_blocking};

/// A value that is made of files, and made again when they change.
pub(crate) struct Reloadable<T> {
    files: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, Errors> + Send + Sync>,
    current: Mutex<Arc<T>>,
    /// Of the files when they were read last, be it in vain.
    stamps: Mutex<Vec<Stamp>>,
}

/// Something that is made of files.
pub(crate) trait Reload: fmt::Debug + Send + Sync {
    /// Looks at the files, and takes them over if they have changed or if it is `forced`. If they are wrong, all stays as
    /// it is.
    fn reload(&self, forced: bool);
}

/// How often files are looked at. To look costs a system call a file.
const PERIOD: Duration = Duration::from_secs(2);

/// Looks at files from time to time, and at once when told to. Never returns.
pub(crate) async fn watch(sources: Vec<Arc<dyn Reload>>, told: Arc<Notify>) {
    let sources: Arc<[_]> = sources.into();
    loop {
        let forced = tokio::time::timeout(PERIOD, told.notified()).await.is_ok();
        if forced {
            systemd::notify_reloading();
        }
        let sources = Arc::clone(&sources);
        // This thread accepts connections, which a large file of routes, or a file system that is slow, would hold up.
        let looked = spawn_blocking(move || sources.iter().for_each(|source| source.reload(forced)));
        if let Err(error) = looked.await {
            tracing::error!(%error, "files could not be looked at");
        }
        if forced {
            systemd::notify(systemd::READY);
        }
    }
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
