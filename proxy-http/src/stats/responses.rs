//! Responses by their statuses.

use crate::stats::destinations::is_failure;
use http::StatusCode;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The number of responses with one combination of statuses.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Responses {
    /// The HTTP status.
    pub status: StatusCode,
    /// The gRPC status, from the header section or the trailers. `None`: the response had none.
    pub grpc_status: Option<u8>,
    /// The number of responses.
    pub count: u64,
}

/// The numbers of answers with each combination of statuses.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<BTreeMap<(StatusCode, Option<u8>), u64>>);

// === impl Responses ===

impl Responses {
    /// Whether they are failures as linkerd2-proxy sees it: by gRPC status where there is one, else by HTTP status.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        is_failure(self.status, self.grpc_status)
    }
}

// === impl Answers ===

impl Answers {
    pub(super) fn count(&self, status: StatusCode, grpc_status: Option<u8>) {
        *self.lock().entry((status, grpc_status)).or_default() += 1;
    }

    pub(super) fn responses(&self) -> Vec<Responses> {
        let counts = self.lock();
        counts.iter().map(|(&(status, grpc_status), &count)| Responses { status, grpc_status, count }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(StatusCode, Option<u8>), u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
