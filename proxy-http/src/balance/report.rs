//! The reports of an endpoint's health checks, as they are handed to balancers.

use std::{fmt, future::pending, sync::Arc};
use tokio::sync::watch;

/// The results of an endpoint's checks so far.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// Whether the endpoint gets new requests.
    pub verdict: Verdict,
    /// Checks that have ended.
    pub checks: u64,
    /// Checks that have failed.
    pub failures: u64,
    /// Why the last check failed. `None`: it passed, or none has ended.
    pub error: Option<Arc<str>>,
}

/// Whether an endpoint gets new requests. Requests that it has already go on in any case.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Verdict {
    /// No check has ended yet; the first one decides. The endpoint gets no requests before.
    #[default]
    Unchecked,
    /// The endpoint gets requests.
    Healthy,
    /// The endpoint gets no new requests.
    Unhealthy,
}

/// The report of an endpoint's checks as it changes. Clones share it; only reports of the same checks are equal.
#[derive(Clone)]
pub struct Reports(pub(super) watch::Receiver<Report>);

// === impl Reports ===

impl Reports {
    /// The report as it is now.
    #[must_use]
    pub fn latest(&self) -> Report {
        self.0.borrow().clone()
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.0.borrow().verdict
    }

    /// Waits for the verdict to change. It never does once the checks have ended.
    pub(super) async fn changed(&mut self) -> Verdict {
        if self.0.changed().await.is_err() {
            pending::<()>().await;
        }
        self.0.borrow_and_update().verdict
    }
}

impl PartialEq for Reports {
    fn eq(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }
}

impl Eq for Reports {}

impl fmt::Debug for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.borrow().fmt(f)
    }
}

// === impl Verdict ===

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unchecked => "unchecked",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}
