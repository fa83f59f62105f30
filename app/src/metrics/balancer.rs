//! Metrics of endpoints, and of the names among them.

use super::{Direction, Directions, Get, NO_EXEMPLAR};
use crate::dns::NameState;
use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};
use proxy_http::{
    Endpoints, Stats,
    balance::{
        endpoint::{ResponseCounts, State, Status},
        health_check::{Report, Verdict},
    },
};
use std::{collections::BTreeMap, fmt};

/// One endpoint, as all workers see it.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) weight: u32,
    pub(crate) priority: u16,
    /// Requests go to it from all workers where they go to it from one.
    pub(crate) state: State,
    pub(crate) connections: usize,
    pub(crate) streams: usize,
    /// Workers that leave it alone.
    ejected: usize,
    /// In seconds, on the worker where it is the highest; peaks weigh more in it than in a mean. `None`: none was measured.
    pub(crate) latency: Option<f64>,
    /// Why it was not connected to last, on any worker.
    pub(crate) error: Option<String>,
    /// As discovery has them; they are the same on all workers, or will be soon.
    labels: Vec<(String, String)>,
    /// The report of its health checks, which are the same on all workers. `None`: it is not checked.
    pub(crate) report: Option<Report>,
    /// Of all workers. `None`: there were none, or there is one endpoint.
    responses: Option<ResponseCounts>,
}

impl Directions {
    pub(super) fn balancer(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Seconds that requests waited for an endpoint that had to, in vain or not";
        let mut family =
            encoder.encode_descriptor("http_balancer_queue_latency_seconds", help, None, MetricType::Histogram)?;
        for direction in &self.0 {
            let labels = [("direction", direction.name)];
            direction.histogram(Stats::queued, 1e3, family.encode_family(&labels)?)?;
        }
        let merged = |direction: &Direction| merge(direction.endpoints().iter().flat_map(Endpoints::status));
        let directions: Vec<_> = self.0.iter().map(|direction| (direction.name, merged(direction))).collect();
        let help = "Endpoints by state";
        let mut family = encoder.encode_descriptor("http_balancer_endpoints", help, None, MetricType::Gauge)?;
        for (name, endpoints) in &directions {
            for state in State::ALL {
                let count = endpoints.values().filter(|endpoint| endpoint.state == state).count();
                let labels = [("direction", *name), ("endpoint_state", state_name(state))];
                family.encode_family(&labels)?.encode_gauge(&(count as u64))?;
            }
        }
        let gauges: [(_, _, Get<Merged, Option<f64>>); 4] = [
            ("connections", "Connections that take requests", |endpoint| Some(endpoint.connections as f64)),
            ("streams", "Requests in flight", |endpoint| Some(endpoint.streams as f64)),
            ("ejections", "Workers that leave the endpoint alone", |endpoint| Some(endpoint.ejected as f64)),
            ("latency_seconds", "Last moving average of the latency, if there are several endpoints", |endpoint| {
                endpoint.latency
            }),
        ];
        for (name, help, value) in gauges {
            let name = format!("http_balancer_endpoint_{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
            for (direction, endpoints) in &directions {
                for (addr, endpoint) in endpoints {
                    let Some(value) = value(endpoint) else { continue };
                    family.encode_family(&endpoint.labels(direction, addr))?.encode_gauge(&value)?;
                }
            }
        }
        responses(encoder, &directions)?;
        health_checks(encoder, &directions)
    }

    pub(super) fn destinations(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Destinations by route or authority that workers are connected to, each once for each worker";
        let mut family = encoder.encode_descriptor("http_destinations", help, None, MetricType::Gauge)?;
        for direction in &self.0 {
            let count: usize = direction.connected.iter().map(|worker| worker.destinations().len()).sum();
            family.encode_family(&[("direction", direction.name)])?.encode_gauge(&(count as u64))?;
        }
        let help = "Times that the file of routes was read again, by result";
        let mut family = encoder.encode_descriptor("http_routes_reloads", help, None, MetricType::Counter)?;
        for direction in &self.0 {
            let Some(routing) = &direction.routing else { continue };
            for (result, count) in routing.reloads().counts() {
                let labels = [("direction", direction.name), ("result", result)];
                family.encode_family(&labels)?.encode_counter(&count, NO_EXEMPLAR)?;
            }
        }
        Ok(())
    }

    pub(super) fn names(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let directions: Vec<_> = self.0.iter().map(|direction| (direction.name, direction.names())).collect();
        let help = "Endpoints that are names, by what name servers say of them";
        let mut family = encoder.encode_descriptor("dns_names", help, None, MetricType::Gauge)?;
        for (name, names) in directions.iter().filter(|(_, names)| !names.is_empty()) {
            for state in NameState::ALL {
                let count = names.iter().filter(|(_, status)| status.state == state).count();
                let labels = [("direction", *name), ("name_state", state.as_str())];
                family.encode_family(&labels)?.encode_gauge(&(count as u64))?;
            }
        }
        let help = "Addresses of a name that are in use";
        let mut family = encoder.encode_descriptor("dns_name_addresses", help, None, MetricType::Gauge)?;
        for (name, names) in &directions {
            for (endpoint, status) in names {
                let labels = [("direction", *name), ("endpoint", endpoint)];
                family.encode_family(&labels)?.encode_gauge(&(status.addresses as u64))?;
            }
        }
        Ok(())
    }
}

/// Nothing, where there is one endpoint.
fn responses(
    encoder: &mut DescriptorEncoder<'_>,
    directions: &[(&'static str, BTreeMap<String, Merged>)],
) -> fmt::Result {
    let help = "Responses of the endpoint that have ended, if there are several endpoints; connections lost before one and requests past their deadline are failures";
    let mut family = encoder.encode_descriptor("http_balancer_endpoint_responses", help, None, MetricType::Counter)?;
    for (direction, endpoints) in directions {
        for (addr, endpoint) in endpoints {
            let Some(ResponseCounts { successes, failures }) = endpoint.responses else { continue };
            for (classification, count) in [("success", successes), ("failure", failures)] {
                let mut labels = endpoint.labels(direction, addr);
                labels.push(("classification".to_owned(), classification.to_owned()));
                family.encode_family(&labels)?.encode_counter(&count, NO_EXEMPLAR)?;
            }
        }
    }
    Ok(())
}

/// Nothing, where endpoints are not checked.
fn health_checks(
    encoder: &mut DescriptorEncoder<'_>,
    directions: &[(&'static str, BTreeMap<String, Merged>)],
) -> fmt::Result {
    let reports: Vec<_> = directions
        .iter()
        .flat_map(|(direction, endpoints)| {
            endpoints.iter().filter_map(|(addr, endpoint)| {
                endpoint.report.as_ref().map(|report| (report, endpoint.labels(direction, addr)))
            })
        })
        .collect();
    let help = "Whether the endpoint's health checks allow requests to it, 1 or 0";
    let mut family = encoder.encode_descriptor("http_health_check_healthy", help, None, MetricType::Gauge)?;
    for (report, labels) in &reports {
        family.encode_family(labels)?.encode_gauge(&u64::from(report.verdict == Verdict::Healthy))?;
    }
    let help = "Health checks of the endpoint that have ended, by result";
    let mut family = encoder.encode_descriptor("http_health_checks", help, None, MetricType::Counter)?;
    for (report, labels) in &reports {
        for (result, count) in [("success", report.checks - report.failures), ("failure", report.failures)] {
            let labels: Vec<_> = labels.iter().cloned().chain([("result".to_owned(), result.to_owned())]).collect();
            family.encode_family(&labels)?.encode_counter(&count, NO_EXEMPLAR)?;
        }
    }
    Ok(())
}

/// The endpoints of all workers by address.
pub(crate) fn merge(statuses: impl Iterator<Item = Status>) -> BTreeMap<String, Merged> {
    let mut endpoints = BTreeMap::<_, Merged>::new();
    for Status { addr, labels, weight, priority, state, connections, streams, latency, error, report, responses } in
        statuses
    {
        let new = || Merged {
            weight,
            priority,
            state,
            connections: 0,
            streams: 0,
            ejected: 0,
            latency: None,
            error: None,
            labels,
            report,
            responses: None,
        };
        let endpoint = endpoints.entry(addr).or_insert_with(new);
        if state == State::Ready {
            endpoint.state = state;
        }
        endpoint.connections += connections;
        endpoint.streams += streams;
        endpoint.ejected += usize::from(state == State::Ejected);
        endpoint.latency = endpoint.latency.into_iter().chain(latency).reduce(f64::max);
        endpoint.error = endpoint.error.take().or(error);
        if let Some(ResponseCounts { successes, failures }) = responses {
            let sum = endpoint.responses.get_or_insert_default();
            (sum.successes, sum.failures) = (sum.successes + successes, sum.failures + failures);
        }
    }
    endpoints
}

impl Merged {
    /// `direction` and `endpoint`, and then the labels of service discovery, as linkerd2-proxy names them.
    fn labels(&self, direction: &str, addr: &str) -> Vec<(String, String)> {
        let of_endpoint = [("direction".to_owned(), direction.to_owned()), ("endpoint".to_owned(), addr.to_owned())];
        // Of two names that are the same in the metrics' alphabet, one is left.
        let mut discovered = BTreeMap::new();
        for (name, value) in &self.labels {
            let name = name.replace(|char: char| !char.is_ascii_alphanumeric(), "_");
            discovered.insert(format!("dst_{name}"), value.clone());
        }
        of_endpoint.into_iter().chain(discovered).collect()
    }
}

/// linkerd2-proxy's names, and three for states that it does not tell apart.
pub(crate) fn state_name(state: State) -> &'static str {
    match state {
        State::Ready => "ready",
        State::Connecting => "pending",
        State::Failed => "failed",
        State::Ejected => "ejected",
        State::Unhealthy => "unhealthy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_workers_do_not_make_an_endpoint_look_fast() {
        let status = |state, latency| Status {
            addr: "127.0.0.1:80".to_owned(),
            labels: Vec::new(),
            weight: 1,
            priority: 0,
            state,
            connections: 1,
            streams: 2,
            latency,
            error: None,
            report: None,
            responses: Some(ResponseCounts { successes: 2, failures: 1 }),
        };
        let statuses = [(State::Ejected, None), (State::Ready, Some(0.1)), (State::Ready, Some(0.0001))];
        let endpoints = merge(statuses.into_iter().map(|(state, latency)| status(state, latency)));
        let Merged { state, connections, streams, ejected, latency, .. } = &endpoints["127.0.0.1:80"];
        assert_eq!((*state, *connections, *streams, *ejected), (State::Ready, 3, 6, 1));
        assert_eq!(*latency, Some(0.1));
        assert_eq!(endpoints["127.0.0.1:80"].responses, Some(ResponseCounts { successes: 6, failures: 3 }));
        assert_eq!(merge([status(State::Failed, None)].into_iter())["127.0.0.1:80"].latency, None);
    }

    #[test]
    fn labels_of_discovery_are_in_the_metrics_alphabet() {
        let labels = [("pod", "a-1"), ("k8s.io/zone", "é \"1\""), ("k8s_io_zone", "2")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let endpoint = Merged {
            weight: 1,
            priority: 0,
            state: State::Ready,
            connections: 0,
            streams: 0,
            ejected: 0,
            latency: None,
            error: None,
            labels,
            report: None,
            responses: None,
        };
        let labels = endpoint.labels("outbound", "127.0.0.1:80");
        let names: Vec<_> = labels.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["direction", "endpoint", "dst_k8s_io_zone", "dst_pod"]);
    }
}
