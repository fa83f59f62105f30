//! Files that change while the process runs.

use crate::systemd;
use std::{fmt, sync::Arc, time::Duration};
use tokio::{sync::Notify, task::spawn_blocking};

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
