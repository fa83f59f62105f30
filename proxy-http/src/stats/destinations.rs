//! Counters of requests by destination and route.
//!
//! Clients may name the destinations, so the number of series is bounded: the counts of a destination that was left long ago
//! become a part of the rest's.

use crate::stats::latency::Latency;
use http::StatusCode;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Counters of requests by destination and route, for all threads that send requests there.
#[derive(Debug, Default)]
pub struct ByDestination(Mutex<Table>);

/// The counters of the requests to one destination by one route.
#[derive(Debug, Default)]
pub struct DestinationStats {
    /// `None`: of the rest, or a sum.
    labels: Option<Arc<DestinationLabels>>,
    requests: AtomicU64,
    failures: AtomicU64,
    latency: Latency,
}

/// The names of a destination and of the route to it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DestinationLabels {
    /// The name of the back end.
    pub destination: String,
    /// The name of the rule. `None`: the destination was not found by a rule.
    pub route: Option<String>,
}

#[derive(Debug, Default)]
struct Table {
    series: HashMap<DestinationLabels, Series>,
    /// Of destinations that are not in `series`, for lack of room, or not any more.
    rest: Series,
    /// The number of uses so far.
    uses: u64,
}

/// One set of counters for each thread, which no other thread writes to.
#[derive(Debug, Default)]
struct Series {
    sets: Vec<Arc<DestinationStats>>,
    /// The number of the last use.
    used: u64,
}

// === impl ByDestination ===

impl ByDestination {
    /// All series, and that of the rest, which has no labels.
    #[must_use]
    pub fn totals(&self) -> (Vec<(DestinationLabels, DestinationStats)>, DestinationStats) {
        let table = self.lock();
        let mut series: Vec<_> = table.series.iter().map(|(labels, series)| (labels.clone(), series.total())).collect();
        series.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        (series, table.rest.total())
    }

    /// A set of counters for a destination that is connected to, or for a route. It counts for the labels as long as it is held.
    ///
    /// With `max` series, the one that was used least recently makes room if nobody holds it, and becomes a part of the rest's;
    /// otherwise the set is one of the rest's.
    pub(crate) fn counters(&self, labels: DestinationLabels, max: usize) -> Arc<DestinationStats> {
        let mut table = self.lock();
        let Table { series, rest, uses } = &mut *table;
        *uses += 1;
        if series.len() >= max && !series.contains_key(&labels) {
            let unused =
                series.iter_mut().filter_map(|(labels, series)| series.is_unused().then_some((labels, series.used)));
            let Some((oldest, _)) = unused.min_by_key(|(_, used)| *used) else { return rest.set(None) };
            let oldest = oldest.clone();
            if let Some(left) = series.remove(&oldest) {
                rest.set(None).add(&left.total());
            }
        }
        let series = series.entry(labels.clone()).or_default();
        series.used = *uses;
        series.set(Some(labels))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl DestinationStats ===

impl DestinationStats {
    /// The names that requests are counted by. `None`: several destinations share the set.
    pub(crate) fn labels(&self) -> Option<&Arc<DestinationLabels>> {
        self.labels.as_ref()
    }

    /// Requests received.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Responses that count as failures, as [`Responses::is_failure`](crate::stats::Responses::is_failure) has it.
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// Responses that are not failures.
    pub fn successes(&self) -> u64 {
        self.latency.buckets().sum::<u64>().saturating_sub(self.failures())
    }

    /// Durations of exchanges, from the request's header section to the response's end.
    pub fn latency(&self) -> &Latency {
        &self.latency
    }

    pub(crate) fn count_request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_response(&self, status: StatusCode, grpc_status: Option<u8>, latency: Duration) {
        if is_failure(status, grpc_status) {
            self.failures.fetch_add(1, Relaxed);
        }
        self.latency.record(latency);
    }

    fn add(&self, other: &Self) {
        self.requests.fetch_add(other.requests(), Relaxed);
        self.failures.fetch_add(other.failures(), Relaxed);
        self.latency.add(&other.latency);
    }
}

// === impl Series ===

impl Series {
    fn total(&self) -> DestinationStats {
        let total = DestinationStats::default();
        self.sets.iter().for_each(|set| total.add(set));
        total
    }

    /// A set that nobody else holds, so that their number is that of its users at once. `labels`: the series' own.
    fn set(&mut self, labels: Option<DestinationLabels>) -> Arc<DestinationStats> {
        // Exclusive access shows as well that all counts of the last holder are seen.
        if let Some(unused) = self.sets.iter_mut().position(|set| Arc::get_mut(set).is_some()) {
            return Arc::clone(&self.sets[unused]);
        }
        let set = Arc::new(DestinationStats { labels: labels.map(Arc::new), ..DestinationStats::default() });
        self.sets.push(Arc::clone(&set));
        set
    }

    fn is_unused(&mut self) -> bool {
        self.sets.iter_mut().all(|set| Arc::get_mut(set).is_some())
    }
}

/// Whether a response is a failure; its gRPC status decides where it has one.
pub(crate) fn is_failure(status: StatusCode, grpc_status: Option<u8>) -> bool {
    // UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
    grpc_status.map_or(status.is_server_error(), |code| matches!(code, 2 | 4 | 7 | 12..=15))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(destination: &str) -> DestinationLabels {
        DestinationLabels { destination: destination.to_owned(), route: None }
    }

    /// Counts a request, its response, and no other.
    fn ask(table: &ByDestination, destination: &str) {
        let set = table.counters(labels(destination), 2);
        set.count_request();
        set.count_response(StatusCode::OK, Some(14), Duration::from_millis(3));
    }

    fn requests(table: &ByDestination) -> (Vec<(String, u64)>, u64) {
        let (series, rest) = table.totals();
        (series.into_iter().map(|(labels, stats)| (labels.destination, stats.requests())).collect(), rest.requests())
    }

    #[test]
    fn series_that_were_used_long_ago_become_a_part_of_the_rest() {
        let table = ByDestination::default();
        for destination in ["a", "b", "a", "a", "c", "d", "a", "e"] {
            ask(&table, destination);
        }
        assert_eq!(requests(&table), (vec![("a".to_owned(), 1), ("e".to_owned(), 1)], 6));
        let rest = table.totals().1;
        assert_eq!((rest.failures(), rest.successes()), (6, 0));
        assert_eq!(rest.latency().sum(), Duration::from_millis(18));
        assert_eq!(table.lock().rest.sets.len(), 1);
    }

    #[test]
    fn series_that_are_held_stay() {
        let table = ByDestination::default();
        let held = [table.counters(labels("a"), 2), table.counters(labels("b"), 2)];
        held[0].count_request();
        ask(&table, "c");
        assert_eq!(requests(&table), (vec![("a".to_owned(), 1), ("b".to_owned(), 0)], 1));
        drop(held);
        ask(&table, "c");
        assert_eq!(requests(&table), (vec![("b".to_owned(), 0), ("c".to_owned(), 1)], 2));
    }

    #[test]
    fn threads_have_sets_of_their_own_which_are_used_again() {
        let table = ByDestination::default();
        for _ in 0..3 {
            let sets = [(); 2].map(|()| table.counters(labels("a"), 2));
            assert!(!Arc::ptr_eq(&sets[0], &sets[1]));
            sets.iter().for_each(|set| set.count_request());
        }
        assert_eq!(requests(&table), (vec![("a".to_owned(), 6)], 0));
        assert_eq!(table.lock().series[&labels("a")].sets.len(), 2);
    }
}
