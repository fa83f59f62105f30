//! The observers of clients' requests: the access log and the spans.

use crate::{access_log::AccessLog, client_addr::PeerAddr, traces::Traces};
use http::{Version, request};
use proxy_http::stats::{Observe, ObserveEnd, RequestEnd};
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// The observers of the process; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observers {
    /// `None`: requests have no lines.
    pub(crate) access_log: Option<Arc<AccessLog>>,
    /// `None`: requests have no spans.
    pub(crate) traces: Option<Arc<Traces>>,
}

/// Two observers of one connection.
#[derive(Debug)]
struct Pair(Arc<dyn Observe>, Arc<dyn Observe>);

/// Two observers of one request.
struct EndPair(Box<dyn ObserveEnd>, Box<dyn ObserveEnd>);

// === impl Observers ===

impl Observers {
    /// Writes the lines and sends the spans that wait, if that is soon done.
    pub(crate) async fn close(self) {
        let Self { access_log, traces } = self;
        let log = async {
            if let Some(log) = access_log {
                // An error: it panicked. The process ends all the same.
                let _ = spawn_blocking(move || log.close()).await;
            }
        };
        let traces = async {
            if let Some(traces) = traces {
                traces.close().await;
            }
        };
        tokio::join!(log, traces);
    }

    /// Observes the requests of a client's connection. `identity`: the name in the client's certificate. `None`: nothing does.
    pub(crate) fn connection(
        &self,
        direction: &'static str,
        peer: PeerAddr,
        identity: Option<&str>,
    ) -> Option<Arc<dyn Observe>> {
        let log = self.access_log.as_ref().map(|log| log.connection(direction, peer, identity));
        let traces = self.traces.as_ref().map(|traces| traces.connection(direction, peer));
        match (log, traces) {
            // Lines have the fields as they came.
            (Some(log), Some(traces)) => Some(Arc::new(Pair(log, traces))),
            (log, traces) => log.or(traces),
        }
    }
}

// === impl Pair ===

impl Observe for Pair {
    fn observe(&self, head: &mut request::Parts) -> Option<Box<dyn ObserveEnd>> {
        match (self.0.observe(head), self.1.observe(head)) {
            (Some(first), Some(second)) => Some(Box::new(EndPair(first, second))),
            (first, second) => first.or(second),
        }
    }

    fn observe_refused(&self, version: Version) -> Option<Box<dyn ObserveEnd>> {
        match (self.0.observe_refused(version), self.1.observe_refused(version)) {
            (Some(first), Some(second)) => Some(Box::new(EndPair(first, second))),
            (first, second) => first.or(second),
        }
    }
}

// === impl EndPair ===

impl ObserveEnd for EndPair {
    fn end(self: Box<Self>, end: &RequestEnd) {
        let Self(first, second) = *self;
        first.end(end);
        second.end(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    /// Counts the requests that were refused.
    #[derive(Debug, Default)]
    struct Counter(Arc<AtomicU32>);

    struct End(Arc<AtomicU32>);

    impl Observe for Counter {
        fn observe(&self, _: &mut request::Parts) -> Option<Box<dyn ObserveEnd>> {
            None
        }

        fn observe_refused(&self, _: Version) -> Option<Box<dyn ObserveEnd>> {
            Some(Box::new(End(Arc::clone(&self.0))))
        }
    }

    impl ObserveEnd for End {
        fn end(self: Box<Self>, _: &RequestEnd) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn either_of_two_is_told_of_a_refused_request() {
        let counts = [Arc::<AtomicU32>::default(), Arc::default()];
        let [first, second] = counts.clone().map(|count| Arc::new(Counter(count)));
        Pair(first, second).observe_refused(Version::HTTP_11).unwrap().end(&RequestEnd::default());
        assert_eq!(counts.map(|count| count.load(Relaxed)), [1, 1]);
    }
}
