//! The page of destinations, for programs and for people.
//!
//! It is bounded, however many there are: destinations with an endpoint that fails or a name without an address come first, and
//! the ones that requests use before the others.

use super::table::{plain, seconds, table};
use crate::{
    destination::View,
    dns,
    metrics::balancer::{Merged, merge, state_name},
    worker::Worker,
};
use proxy_http::{
    Endpoints,
    balance::health_check::{Report, Verdict},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

/// The destinations that the page shows.
#[derive(Debug)]
pub(super) struct Page {
    destinations: Vec<Row>,
    left_off: usize,
}

/// A destination as all workers see it.
#[derive(Debug)]
struct Row {
    direction: &'static str,
    source: &'static str,
    name: String,
    /// Workers that are connected to it.
    workers: usize,
    /// The shortest time of all workers. `None`: no worker is connected to it, or workers always are.
    unused: Option<Duration>,
    endpoints: Vec<(String, Merged)>,
    endpoints_left_off: usize,
    names: Vec<(String, dns::Status)>,
    names_left_off: usize,
}

/// Destinations on one page.
const MAX_DESTINATIONS: usize = 1_000;
/// Endpoints that one page has, and names.
const MAX_ENDPOINTS: usize = 10_000;
const HEADINGS: [&str; 8] = ["DIRECTION", "SOURCE", "NAME", "WORKERS", "ENDPOINTS", "CONNECTIONS", "STREAMS", "UNUSED"];
/// The first columns have words, the others figures.
const WORDS: usize = 3;

// === impl Page ===

impl Page {
    /// Asks all workers.
    pub(super) fn new(directions: &[&'static str], workers: &[Worker]) -> Self {
        let mut destinations = Vec::new();
        for (index, direction) in directions.iter().enumerate() {
            let mut source = "";
            let mut views = BTreeMap::<_, Vec<View>>::new();
            for connected in workers.iter().map(|worker| &worker.connected[index]) {
                source = connected.source();
                for view in connected.views() {
                    views.entry(view.name.clone()).or_default().push(view);
                }
            }
            destinations.extend(views.into_iter().map(|(name, views)| Row::new(direction, source, name, &views)));
        }
        Self::bounded(destinations)
    }

    /// Keeps as many destinations, endpoints and names as a page may have.
    fn bounded(mut destinations: Vec<Row>) -> Self {
        // Stable, so that destinations are in the order of their names otherwise.
        destinations.sort_by_key(Row::place);
        let left_off = destinations.len().saturating_sub(MAX_DESTINATIONS);
        destinations.truncate(MAX_DESTINATIONS);
        let (mut endpoints, mut names) = (MAX_ENDPOINTS, MAX_ENDPOINTS);
        for row in &mut destinations {
            row.endpoints_left_off = row.endpoints.len().saturating_sub(endpoints);
            row.endpoints.truncate(endpoints);
            endpoints -= row.endpoints.len();
            row.names_left_off = row.names.len().saturating_sub(names);
            row.names.truncate(names);
            names -= row.names.len();
        }
        Self { destinations, left_off }
    }

    pub(super) fn json(&self) -> String {
        let destinations: Vec<_> = self.destinations.iter().map(Row::json).collect();
        format!("{:#}\n", json!({ "destinations": destinations, "left_off": self.left_off }))
    }

    /// A table, with a line for each endpoint and each name under its destination.
    pub(super) fn text(&self) -> String {
        let rows = self.destinations.iter().map(|row| (row.cells(), row.lines()));
        let mut text = table(HEADINGS, WORDS, rows);
        if self.left_off > 0 {
            let _ = writeln!(text, "and {} destinations more", self.left_off);
        }
        text
    }
}

// === impl Row ===

impl Row {
    fn new(direction: &'static str, source: &'static str, name: String, views: &[View]) -> Self {
        let connected = || views.iter().filter(|view| view.is_connected);
        // Names are the same on all workers.
        let names = views.first().map_or_else(Vec::new, |view| view.names.status());
        Self {
            direction,
            source,
            name,
            workers: connected().count(),
            unused: connected().filter_map(|view| view.unused).min(),
            endpoints: merge(views.iter().flat_map(|view| &view.endpoints).flat_map(Endpoints::status))
                .into_iter()
                .collect(),
            endpoints_left_off: 0,
            names,
            names_left_off: 0,
        }
    }

    /// The sort key.
    fn place(&self) -> (bool, bool, Option<Duration>) {
        let is_unhealthy =
            |report: &Option<Report>| report.as_ref().is_some_and(|report| report.verdict == Verdict::Unhealthy);
        let has_problem =
            self.endpoints.iter().any(|(_, endpoint)| endpoint.error.is_some() || is_unhealthy(&endpoint.report))
                || self.workers > 0 && self.names.iter().any(|(_, status)| status.addresses == 0);
        (!has_problem, self.workers == 0, self.unused)
    }

    fn sum(&self, of: fn(&Merged) -> usize) -> usize {
        self.endpoints.iter().map(|(_, endpoint)| of(endpoint)).sum()
    }

    fn json(&self) -> Value {
        let endpoints = self.endpoints.iter().map(|(addr, endpoint)| {
            let Merged { weight, priority, state, connections, streams, latency, error, report, .. } = endpoint;
            let report = report.as_ref().map(|Report { verdict, checks, failures, error }| {
                json!({ "verdict": verdict.to_string(), "checks": checks, "failures": failures, "error": error.as_deref() })
            });
            json!({
                "address": addr,
                "weight": weight,
                "priority": priority,
                "state": state_name(*state),
                "connections": connections,
                "streams": streams,
                "latency_seconds": latency,
                "error": error,
                "health_checks": report,
            })
        });
        let names = self.names.iter().map(
            |(name, status)| json!({ "name": name, "state": status.state.as_str(), "addresses": status.addresses }),
        );
        json!({
            "direction": self.direction,
            "source": self.source,
            "name": self.name,
            "workers": self.workers,
            "unused_seconds": self.unused.map(|time| time.as_secs_f64()),
            "endpoints": endpoints.collect::<Vec<_>>(),
            "endpoints_left_off": self.endpoints_left_off,
            "names": names.collect::<Vec<_>>(),
            "names_left_off": self.names_left_off,
            "error": self.endpoints.iter().find_map(|(_, endpoint)| endpoint.error.as_deref()),
        })
    }

    fn cells(&self) -> [String; HEADINGS.len()] {
        [
            self.direction.to_owned(),
            self.source.to_owned(),
            plain(&self.name),
            self.workers.to_string(),
            (self.endpoints.len() + self.endpoints_left_off).to_string(),
            self.sum(|endpoint| endpoint.connections).to_string(),
            self.sum(|endpoint| endpoint.streams).to_string(),
            self.unused.map_or_else(|| "-".to_owned(), seconds),
        ]
    }

    /// A line for each endpoint and each name.
    fn lines(&self) -> String {
        let mut text = String::new();
        for (addr, Merged { weight, priority, state, connections, streams, latency, error, report, .. }) in
            &self.endpoints
        {
            let state = state_name(*state);
            let _ = write!(text, "    endpoint {addr}  {state}  weight {weight}");
            if *priority > 0 {
                let _ = write!(text, "  priority {priority}");
            }
            let _ = write!(text, "  connections {connections}  streams {streams}");
            let _ = latency.map(|latency| write!(text, "  latency {:.1}ms", latency * 1e3));
            let _ = error.as_ref().map(|error| write!(text, "  {}", plain(error)));
            if let Some(Report { checks, failures, error, .. }) = report {
                let _ = write!(text, "  checks {checks}  failed {failures}");
                let _ = error.as_ref().map(|error| write!(text, "  {}", plain(error)));
            }
            text.push('\n');
        }
        if self.endpoints_left_off > 0 {
            let _ = writeln!(text, "    and {} endpoints more", self.endpoints_left_off);
        }
        for (name, status) in &self.names {
            let _ = writeln!(text, "    name {name}  {}  addresses {}", status.state.as_str(), status.addresses);
        }
        if self.names_left_off > 0 {
            let _ = writeln!(text, "    and {} names more", self.names_left_off);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: String, workers: usize, addresses: usize) -> Row {
        let status = dns::Status { state: dns::NameState::Resolved, addresses };
        Row {
            direction: "outbound",
            source: "authority",
            names: vec![(name.clone(), status); 20],
            name,
            workers,
            unused: Some(Duration::from_secs(1)),
            endpoints: Vec::new(),
            endpoints_left_off: 0,
            names_left_off: 0,
        }
    }

    #[test]
    fn a_page_is_bounded_and_problems_come_first() {
        let mut rows: Vec<_> = (0..1_002).map(|index| row(format!("{index:04}.example"), 1, 1)).collect();
        rows.push(row("idle.example".to_owned(), 0, 0));
        rows.push(row("gone.example".to_owned(), 1, 0));
        let page = Page::bounded(rows);
        assert_eq!((page.destinations.len(), page.left_off), (1_000, 4));
        assert_eq!([&*page.destinations[0].name, &*page.destinations[1].name], ["gone.example", "0000.example"]);
        assert_eq!(page.destinations.iter().map(|row| row.names.len()).sum::<usize>(), MAX_ENDPOINTS);
        let text = page.text();
        assert!(text.contains("    and 20 names more\n"), "{text}");
        assert!(text.ends_with("\nand 4 destinations more\n"), "{text}");
    }
}
