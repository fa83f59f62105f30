//! Metrics of requests by destination, under the names and labels that linkerd2-proxy has for routes.

use super::{Direction, Directions, NO_EXEMPLAR};
use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};
use proxy_http::stats::{DestinationStats, LATENCY_BUCKETS};
use std::fmt;

/// One series of a direction.
struct Series {
    destination: String,
    route: Option<String>,
    stats: DestinationStats,
}

/// The series of destinations that have none of their own.
const OTHER: &str = "other";
/// The upper bounds of the buckets in milliseconds, which are some of [`LATENCY_BUCKETS`]: there may be a thousand destinations.
const BOUNDS: [u32; 9] = [1, 5, 10, 50, 100, 500, 1_000, 5_000, 10_000];

impl Directions {
    pub(super) fn by_destination(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let directions: Vec<_> = self.0.iter().map(|direction| (direction.name, direction.series())).collect();
        let all = || directions.iter().flat_map(|(name, series)| series.iter().map(move |one| (*name, one)));
        let help = "Requests that arrived, by destination and route";
        let mut family = encoder.encode_descriptor("route_request", help, None, MetricType::Counter)?;
        for (direction, series) in all() {
            let labels = series.labels(direction);
            family.encode_family(&labels)?.encode_counter(&series.stats.requests(), NO_EXEMPLAR)?;
        }
        let help = "Responses by destination and route, counted at their end";
        let mut family = encoder.encode_descriptor("route_response", help, None, MetricType::Counter)?;
        for (direction, series) in all() {
            let counts = [("success", series.stats.successes()), ("failure", series.stats.failures())];
            for (classification, count) in counts {
                let mut labels = series.labels(direction);
                labels.push(("classification", classification));
                family.encode_family(&labels)?.encode_counter(&count, NO_EXEMPLAR)?;
            }
        }
        let help = "Milliseconds from a request's head to its response's end, by destination and route";
        let mut family = encoder.encode_descriptor("route_response_latency_ms", help, None, MetricType::Histogram)?;
        for (direction, series) in all() {
            let (sum, buckets) = (series.stats.latency().sum().as_secs_f64() * 1e3, series.buckets());
            let count = buckets.iter().map(|(_, count)| count).sum();
            let labels = series.labels(direction);
            family.encode_family(&labels)?.encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

impl Direction {
    /// All of them, the last of which may be that of the rest. They are the same on all workers.
    fn series(&self) -> Vec<Series> {
        let Some(stats) = self.stats.first() else { return Vec::new() };
        let (series, rest) = stats.destinations().totals();
        let mut series: Vec<_> = series
            .into_iter()
            .map(|(labels, stats)| Series { destination: labels.destination, route: labels.route, stats })
            .collect();
        if rest.requests() > 0 {
            let route = self.routing.as_ref().map(|_| OTHER.to_owned());
            series.push(Series { destination: OTHER.to_owned(), route, stats: rest });
        }
        series
    }
}

impl Series {
    fn labels<'a>(&'a self, direction: &'a str) -> Vec<(&'a str, &'a str)> {
        let mut labels = vec![("direction", direction), ("dst", &self.destination)];
        labels.extend(self.route.as_deref().map(|route| ("rt_name", route)));
        labels
    }

    fn buckets(&self) -> Vec<(f64, u64)> {
        let mut buckets: Vec<_> =
            BOUNDS.map(f64::from).into_iter().chain([f64::INFINITY]).map(|bound| (bound, 0)).collect();
        let bounds = LATENCY_BUCKETS.into_iter().map(Some).chain([None]);
        for (bound, count) in bounds.zip(self.stats.latency().buckets()) {
            let place = bound.map_or(BOUNDS.len(), |bound| BOUNDS.partition_point(|wider| *wider * 1_000 < bound));
            buckets[place].1 += count;
        }
        buckets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn buckets_are_joined_at_their_bounds() {
        assert!(BOUNDS.iter().all(|bound| LATENCY_BUCKETS.contains(&(bound * 1_000))));
        let series = Series { destination: String::new(), route: None, stats: DestinationStats::default() };
        let milliseconds = [1, 2, 5, 6, 10_000, 10_001, 200_000];
        for ms in milliseconds {
            series.stats.latency().record(Duration::from_millis(ms));
        }
        let counts: Vec<_> = series.buckets().into_iter().map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 2, 1, 0, 0, 0, 0, 0, 1, 2]);
    }
}
