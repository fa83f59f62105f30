//! The metrics page: the workers' counters, summed up, under the names that linkerd2-proxy gives them.

pub(crate) mod balancer;
mod by_destination;
mod control_plane;
mod flow_control;
mod proxy_protocol;
mod requests;
mod system;
mod text;
mod tls;
mod traces;
mod transports;

pub(crate) use self::{text::to_plain_text, transports::reset_code_name};

use self::{
    control_plane::ControlPlane,
    system::{Build, Log, System},
    traces::Spans,
};
use crate::{
    LogLevel,
    destination::Connected,
    dns::Status,
    linkerd::Control,
    observers::Observers,
    proxy_protocol::Receiver,
    routing::Routing,
    tls::Tls,
    worker::{Maxima, Plan, Worker},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, text::encode},
    registry::Registry,
};
use proxy_http::{
    BufferLimit, Endpoints, Stats,
    proxy::Limits,
    stats::{LATENCY_BUCKETS, Latency, Peer},
};
use std::{fmt, sync::Arc};

/// The registry of the process.
#[derive(Debug)]
pub(crate) struct Metrics(Registry);

#[derive(Debug)]
struct Directions(Vec<Direction>);

/// One direction's counters, on all workers.
#[derive(Debug)]
struct Direction {
    name: &'static str,
    stats: Vec<Arc<Stats>>,
    connected: Vec<Connected>,
    routing: Option<Arc<Routing>>,
    limits: Arc<Limits>,
    /// The largest value of each gauge that has a limit, by the gauge's name.
    maxima: Maxima,
    buffers: Arc<BufferLimit>,
    proxy_protocol: Option<Arc<Receiver>>,
    tls: Tls,
}

/// Reads one figure.
type Get<T, N> = fn(&T) -> N;

const NO_EXEMPLAR: Option<&prometheus_client::metrics::exemplar::Exemplar<[(&str, &str); 0], u64>> = None;

pub(crate) const PEERS: [(Peer, &str); 2] = [(Peer::Client, "src"), (Peer::Endpoint, "dst")];

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new(
        names: &[&'static str],
        plans: &[Plan],
        workers: &[Worker],
        log: &LogLevel,
        control: Option<Arc<Control>>,
        observers: Observers,
    ) -> Self {
        let directions = names.iter().zip(plans).enumerate().map(|(index, (name, plan))| Direction {
            name,
            stats: workers.iter().map(|worker| Arc::clone(&worker.stats[index])).collect(),
            routing: plan.destination.routing().cloned(),
            connected: workers.iter().map(|worker| worker.connected[index].clone()).collect(),
            limits: Arc::clone(&plan.limits),
            maxima: plan.maxima,
            buffers: Arc::clone(&plan.buffers),
            proxy_protocol: plan.proxy_protocol.clone(),
            tls: plan.tls.clone(),
        });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Directions(directions.collect())));
        if let Some(control) = control {
            registry.register_collector(Box::new(ControlPlane(control)));
        }
        let Observers { access_log, traces } = observers;
        if let Some(traces) = traces {
            registry.register_collector(Box::new(Spans(traces)));
        }
        registry.register_collector(Box::new(Log { lost: Arc::clone(log.lost()), access_log }));
        registry.register_collector(Box::new(Build));
        registry.register_collector(Box::new(System));
        Self(registry)
    }

    /// All metrics in the OpenMetrics text format.
    pub(crate) fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0)?;
        Ok(text)
    }
}

// === impl Directions ===

impl Collector for Directions {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.requests(&mut encoder)?;
        self.responses(&mut encoder)?;
        self.proxy_errors(&mut encoder)?;
        self.latency(&mut encoder)?;
        self.resets(&mut encoder)?;
        self.go_aways(&mut encoder)?;
        self.overload(&mut encoder)?;
        self.maxima(&mut encoder)?;
        self.retries(&mut encoder)?;
        self.balancer(&mut encoder)?;
        self.names(&mut encoder)?;
        self.destinations(&mut encoder)?;
        self.by_destination(&mut encoder)?;
        self.transports(&mut encoder)?;
        self.durations(&mut encoder)?;
        self.limits(&mut encoder)?;
        self.stalls(&mut encoder)?;
        self.buffers(&mut encoder)?;
        self.blocked(&mut encoder)?;
        self.paths(&mut encoder)?;
        self.proxy_protocol(&mut encoder)?;
        self.tls(&mut encoder)
    }
}

impl Direction {
    fn sum(&self, count: impl Fn(&Stats) -> u64) -> u64 {
        self.stats.iter().map(|stats| count(stats)).sum()
    }

    /// Whether connections of a side have TLS.
    fn has_tls(&self, peer: Peer) -> &'static str {
        let has_tls = match peer {
            Peer::Client => self.tls.server.is_some(),
            Peer::Endpoint => self.tls.client.is_some(),
        };
        if has_tls { "true" } else { "false" }
    }

    /// The endpoints that workers are connected to.
    fn endpoints(&self) -> Vec<Endpoints> {
        self.connected.iter().flat_map(Connected::endpoints).collect()
    }

    /// The endpoints that are names, which are the same on all workers.
    fn names(&self) -> Vec<(String, Status)> {
        self.connected.first().map_or_else(Vec::new, Connected::names)
    }

    /// Encodes durations of all workers.
    fn histogram(&self, latency: fn(&Stats) -> &Latency, unit_ms: f64, metric: MetricEncoder<'_>) -> fmt::Result {
        let latencies: Vec<_> = self.stats.iter().map(|stats| latency(stats)).collect();
        histogram(&latencies, unit_ms, metric)
    }
}

/// Encodes the sum of histograms in a unit of `unit_ms` milliseconds.
fn histogram(latencies: &[&Latency], unit_ms: f64, mut metric: MetricEncoder<'_>) -> fmt::Result {
    let bounds = LATENCY_BUCKETS.iter().map(|bound| f64::from(*bound) / 1e3 / unit_ms).chain([f64::INFINITY]);
    let mut buckets: Vec<_> = bounds.map(|bound| (bound, 0)).collect();
    let mut sum = 0.0;
    for latency in latencies {
        sum += latency.sum().as_secs_f64() * 1e3 / unit_ms;
        for ((_, total), count) in buckets.iter_mut().zip(latency.buckets()) {
            *total += count;
        }
    }
    let count = buckets.iter().map(|(_, count)| count).sum();
    metric.encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)
}

fn peer_name(peer: Peer) -> &'static str {
    match peer {
        Peer::Client => "src",
        Peer::Endpoint => "dst",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connector::{Connector, OwnListeners},
        dns::{Names, Target},
    };
    use app_env::TcpParams;
    use http_h2::ClientParams;
    use proxy_http::{
        Connect, Endpoint, balance,
        proxy::{self, BackendEndpoints},
    };
    use std::time::Duration;
    use tokio::{sync::watch, task::yield_now, time::timeout};

    #[tokio::test]
    async fn an_endpoint_that_is_gone_has_no_series() {
        let addrs =
            [1, 2].map(|host| Target { addr: std::net::SocketAddr::from(([127, 0, 0, host], 1)).into(), host: None });
        let connect = Connector::new(TcpParams::default(), OwnListeners::default(), None);
        let connect = Connect::new(connect, &ClientParams::DEFAULT).unwrap();
        let (discovered, list) = watch::channel(addrs.clone().map(Endpoint::new).to_vec());
        let connected = || {
            let endpoints = Endpoints::spawn(list.clone(), &connect, balance::Params::default());
            Connected::One {
                name: "it".into(),
                endpoints: BackendEndpoints { endpoints, http1: None, drop_request_trailers: false },
                names: Names::default(),
            }
        };
        let direction = Direction {
            name: "outbound",
            stats: vec![Arc::default(), Arc::default()],
            connected: vec![connected(), connected()],
            routing: None,
            limits: Arc::new(proxy::Limits::new(proxy::Params::default())),
            maxima: Maxima::default(),
            buffers: Arc::default(),
            proxy_protocol: None,
            tls: Tls::default(),
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Directions(vec![direction])));
        let metrics = Metrics(registry);
        // Of each endpoint; latencies are not known yet.
        let series = |addr: &Target| metrics.encode().unwrap().matches(&format!("endpoint=\"{addr}\"")).count();
        assert_eq!(addrs.each_ref().map(series), [3, 3]);
        discovered.send_replace(vec![Endpoint::new(addrs[1].clone())]);
        let gone = async {
            while series(&addrs[0]) > 0 {
                yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), gone).await.expect("its series vanish");
        assert_eq!(series(&addrs[1]), 3);
    }
}
