//! The metrics page: the workers' counters, summed up, under the names that linkerd2-proxy gives them.

use crate::{
    dns::{NameState, Names},
    tls::{self, Tls},
    worker::{Plan, Worker},
};
use http::StatusCode;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, text::encode},
    metrics::MetricType,
    registry::Registry,
};
use proxy_http::{
    BufferLimit, Endpoints, Stats,
    balance::endpoint::{State, Status},
    proxy::Limits,
    stats::{LATENCY_BUCKETS, Latency, Limit, Peer, ResetCode, StreamLimit, Transport},
};
use std::{collections::BTreeMap, fmt, sync::Arc};

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
    endpoints: Vec<Endpoints>,
    names: Names,
    limits: Arc<Limits>,
    buffers: Arc<BufferLimit>,
    tls: Tls,
}

/// One endpoint, as all workers see it.
#[derive(Debug)]
struct Merged {
    /// Requests go to it from all workers where they go to it from one.
    state: State,
    connections: usize,
    streams: usize,
    /// Workers that leave it alone.
    ejected: usize,
    /// In seconds, on the worker where it is the highest; it fades where nothing is asked, so that a mean would tell of
    /// idle workers. `None`: none was measured.
    latency: Option<f64>,
}

/// The system's figures of this process.
#[derive(Debug)]
struct System;

/// Reads one figure.
type Get<T, N> = fn(&T) -> N;

const NO_EXEMPLAR: Option<&prometheus_client::metrics::exemplar::Exemplar<[(&str, &str); 0], u64>> = None;

const PEERS: [(Peer, &str); 2] = [(Peer::Client, "src"), (Peer::Endpoint, "dst")];

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new(names: &[&'static str], plans: &[Plan], workers: &[Worker]) -> Self {
        let directions = names.iter().zip(plans).enumerate().map(|(index, (name, plan))| Direction {
            name,
            stats: workers.iter().map(|worker| Arc::clone(&worker.stats[index])).collect(),
            endpoints: workers.iter().flat_map(|worker| worker.endpoints[index].clone()).collect(),
            names: plan.names.clone(),
            limits: Arc::clone(&plan.limits),
            buffers: Arc::clone(&plan.buffers),
            tls: plan.tls.clone(),
        });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Directions(directions.collect())));
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
        self.latency(&mut encoder)?;
        self.resets(&mut encoder)?;
        self.go_aways(&mut encoder)?;
        self.overload(&mut encoder)?;
        self.retries(&mut encoder)?;
        self.balancer(&mut encoder)?;
        self.names(&mut encoder)?;
        self.transports(&mut encoder)?;
        self.limits(&mut encoder)?;
        self.stalls(&mut encoder)?;
        self.tls(&mut encoder)
    }
}

impl Directions {
    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor("request", "Requests that arrived", None, MetricType::Counter)?;
        for direction in &self.0 {
            let labels = [("direction", direction.name)];
            family.encode_family(&labels)?.encode_counter(&direction.sum(Stats::requests), NO_EXEMPLAR)?;
        }
        Ok(())
    }

    fn responses(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Responses by status, counted at their end";
        let mut family = encoder.encode_descriptor("response", help, None, MetricType::Counter)?;
        for direction in &self.0 {
            let mut counts = BTreeMap::<_, u64>::new();
            for responses in direction.stats.iter().flat_map(|stats| stats.responses()) {
                *counts.entry((responses.status, responses.grpc_status)).or_default() += responses.count;
            }
            for ((status, grpc), count) in counts {
                let grpc_status = match grpc {
                    None => String::new(),
                    Some(u8::MAX) => "other".to_owned(),
                    Some(code) => code.to_string(),
                };
                let labels = [
                    ("direction", direction.name),
                    ("status_code", status.as_str()),
                    ("classification", classify(status, grpc)),
                    ("grpc_status", &grpc_status),
                ];
                family.encode_family(&labels)?.encode_counter(&count, NO_EXEMPLAR)?;
            }
        }
        Ok(())
    }

    fn latency(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Milliseconds from a request's head to its response's end";
        let mut family = encoder.encode_descriptor("response_latency_ms", help, None, MetricType::Histogram)?;
        for direction in &self.0 {
            let labels = [("direction", direction.name)];
            direction.histogram(Stats::latency, 1.0, family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn resets(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Streams that a peer reset, by error code; unknown: its connection was lost";
        let mut family = encoder.encode_descriptor("http2_resets", help, None, MetricType::Counter)?;
        for direction in &self.0 {
            let mut counts = BTreeMap::<_, u64>::new();
            for (stats, peer) in
                direction.stats.iter().flat_map(|stats| [(stats, Peer::Client), (stats, Peer::Endpoint)])
            {
                for (code, count) in stats.transport(peer).resets() {
                    *counts.entry((peer_name(peer), code_name(code))).or_default() += count;
                }
            }
            for ((peer, code), count) in counts.into_iter().filter(|(_, count)| *count > 0) {
                let labels = [("direction", direction.name), ("peer", peer), ("code", code)];
                family.encode_family(&labels)?.encode_counter(&count, NO_EXEMPLAR)?;
            }
        }
        Ok(())
    }

    fn go_aways(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Connections that endpoints ended with GOAWAY, by error code";
        let mut family = encoder.encode_descriptor("http2_go_aways", help, None, MetricType::Counter)?;
        for direction in &self.0 {
            let mut counts = BTreeMap::<_, u64>::new();
            for (code, count) in direction.stats.iter().flat_map(|stats| stats.transport(Peer::Endpoint).go_aways()) {
                *counts.entry(code_name(code)).or_default() += count;
            }
            for (code, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
                let labels = [("direction", direction.name), ("code", code)];
                family.encode_family(&labels)?.encode_counter(&count, NO_EXEMPLAR)?;
            }
        }
        Ok(())
    }

    fn overload(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counters: [(_, _, Get<Stats, u64>); 4] = [
            ("http_denied", "Requests of clients that may not call", Stats::denied),
            ("http_shed", "Requests turned away because too many were in flight or waiting", Stats::shed),
            ("http_failfast", "Requests that found no endpoint ready in the fail-fast time", Stats::failfast),
            ("http_retries_over_budget", "Requests not sent again because too many others were", Stats::over_budget),
        ];
        for (name, help, count) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for direction in &self.0 {
                let labels = [("direction", direction.name)];
                family.encode_family(&labels)?.encode_counter(&direction.sum(count), NO_EXEMPLAR)?;
            }
        }
        let gauges: [(_, _, Get<Limits, usize>); 2] = [
            ("http_in_flight", "Requests in flight", Limits::in_flight),
            ("http_balancer_queue_length", "Requests that wait for an endpoint", Limits::waiting),
        ];
        for (name, help, value) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for direction in &self.0 {
                let labels = [("direction", direction.name)];
                family.encode_family(&labels)?.encode_gauge(&(value(&direction.limits) as u64))?;
            }
        }
        Ok(())
    }

    fn retries(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests that were sent again, by reason";
        let mut family = encoder.encode_descriptor("http_retries", help, None, MetricType::Counter)?;
        for direction in &self.0 {
            let mut counts = BTreeMap::<_, u64>::new();
            for (reason, count) in direction.stats.iter().flat_map(|stats| stats.retries()) {
                *counts.entry(reason.to_string()).or_default() += count;
            }
            for (reason, count) in counts {
                let labels = [("direction", direction.name), ("reason", &reason)];
                family.encode_family(&labels)?.encode_counter(&count, NO_EXEMPLAR)?;
            }
        }
        Ok(())
    }

    fn balancer(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Seconds that requests waited for an endpoint that had to, in vain or not";
        let mut family =
            encoder.encode_descriptor("http_balancer_queue_latency_seconds", help, None, MetricType::Histogram)?;
        for direction in &self.0 {
            let labels = [("direction", direction.name)];
            direction.histogram(Stats::queued, 1e3, family.encode_family(&labels)?)?;
        }
        let merged = |direction: &Direction| merge(direction.endpoints.iter().flat_map(Endpoints::status));
        let directions: Vec<_> = self.0.iter().map(|direction| (direction.name, merged(direction))).collect();
        let help = "Endpoints by state";
        let mut family = encoder.encode_descriptor("http_balancer_endpoints", help, None, MetricType::Gauge)?;
        for (name, endpoints) in &directions {
            for state in [State::Ready, State::Connecting, State::Failed, State::Ejected] {
                let count = endpoints.values().filter(|endpoint| endpoint.state == state).count();
                let labels = [("direction", *name), ("endpoint_state", state_name(state))];
                family.encode_family(&labels)?.encode_gauge(&(count as u64))?;
            }
        }
        let gauges: [(_, _, Get<Merged, Option<f64>>); 4] = [
            ("connections", "Connections that take requests", |endpoint| Some(endpoint.connections as f64)),
            ("streams", "Requests in flight", |endpoint| Some(endpoint.streams as f64)),
            ("ejections", "Workers that leave the endpoint alone", |endpoint| Some(endpoint.ejected as f64)),
            ("latency_seconds", "Moving average of the latency, if there are several endpoints", |endpoint| {
                endpoint.latency
            }),
        ];
        for (name, help, value) in gauges {
            let name = format!("http_balancer_endpoint_{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
            for (direction, endpoints) in &directions {
                for (addr, endpoint) in endpoints {
                    let Some(value) = value(endpoint) else { continue };
                    let labels = [("direction", *direction), ("endpoint", addr)];
                    family.encode_family(&labels)?.encode_gauge(&value)?;
                }
            }
        }
        Ok(())
    }

    fn names(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let directions: Vec<_> = self.0.iter().map(|direction| (direction.name, direction.names.status())).collect();
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
                let labels = [("direction", *name), ("endpoint", &endpoint.to_string())];
                family.encode_family(&labels)?.encode_gauge(&(status.addresses as u64))?;
            }
        }
        Ok(())
    }

    fn transports(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metrics: [(_, _, _, Get<Transport, u64>); 6] = [
            ("tcp_open", "Connections opened", MetricType::Counter, Transport::open_total),
            ("tcp_open_connections", "Connections open now", MetricType::Gauge, Transport::open_connections),
            ("tcp_close", "Connections closed", MetricType::Counter, Transport::close_total),
            ("tcp_read_bytes", "Bytes read from connections", MetricType::Counter, Transport::read_bytes),
            ("tcp_write_bytes", "Bytes written to connections", MetricType::Counter, Transport::written_bytes),
            ("http_malformed", "Messages that HTTP does not allow", MetricType::Counter, Transport::malformed),
        ];
        for (name, help, kind, value) in metrics {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for direction in &self.0 {
                for (peer, peer_name) in PEERS {
                    let labels = [("direction", direction.name), ("peer", peer_name)];
                    let value = direction.sum(|stats| value(stats.transport(peer)));
                    let mut metric = family.encode_family(&labels)?;
                    match kind {
                        MetricType::Gauge => metric.encode_gauge(&value)?,
                        _ => metric.encode_counter(&value, NO_EXEMPLAR)?,
                    }
                }
            }
        }
        Ok(())
    }

    fn limits(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "How often connections of clients, or requests on them, reached a limit";
        let mut family = encoder.encode_descriptor("http2_connection_limit", help, None, MetricType::Counter)?;
        for direction in &self.0 {
            let mut counts = BTreeMap::<_, u64>::new();
            for (limit, count) in direction.stats.iter().flat_map(|stats| stats.transport(Peer::Client).limits()) {
                *counts.entry(limit_name(limit)).or_default() += count;
            }
            for (limit, count) in counts {
                let labels = [("direction", direction.name), ("limit", limit)];
                family.encode_family(&labels)?.encode_counter(&count, NO_EXEMPLAR)?;
            }
        }
        Ok(())
    }

    fn stalls(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Streams that were ended because they stood still for too long";
        let mut family = encoder.encode_descriptor("http2_stream_limit", help, None, MetricType::Counter)?;
        for direction in &self.0 {
            for (peer, peer_name) in PEERS {
                let mut counts = BTreeMap::<_, u64>::new();
                for (limit, count) in direction.stats.iter().flat_map(|stats| stats.transport(peer).stream_limits()) {
                    *counts.entry(stream_limit_name(limit)).or_default() += count;
                }
                for (limit, count) in counts {
                    let labels = [("direction", direction.name), ("peer", peer_name), ("limit", limit)];
                    family.encode_family(&labels)?.encode_counter(&count, NO_EXEMPLAR)?;
                }
            }
        }
        let help = "Bytes that connections may hold for readers that have stopped, beside their windows";
        let mut family = encoder.encode_descriptor("http2_buffered_bytes", help, None, MetricType::Gauge)?;
        for direction in &self.0 {
            let labels = [("direction", direction.name)];
            family.encode_family(&labels)?.encode_gauge(&(direction.buffers.held() as u64))?;
        }
        Ok(())
    }

    fn tls(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let sides: Vec<_> = self.0.iter().flat_map(|direction| direction.tls_sides()).collect();
        let help = "TLS handshakes by result";
        let mut family = encoder.encode_descriptor("tls_handshakes", help, None, MetricType::Counter)?;
        for (direction, peer, stats) in &sides {
            for (result, version, count) in stats.handshakes() {
                let labels = [("direction", *direction), ("peer", *peer), ("result", result), ("version", version)];
                family.encode_family(&labels)?.encode_counter(&count, NO_EXEMPLAR)?;
            }
        }
        let help = "Seconds that TLS handshakes took that were done";
        let mut family = encoder.encode_descriptor("tls_handshake_seconds", help, None, MetricType::Histogram)?;
        for (direction, peer, stats) in &sides {
            let labels = [("direction", *direction), ("peer", *peer)];
            histogram(&[stats.latency()], 1e3, family.encode_family(&labels)?)?;
        }
        let help = "When our certificate expires, in Unix time";
        let name = "tls_certificate_expiration_timestamp_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (direction, peer, stats) in &sides {
            let Some(expires) = stats.expires() else { continue };
            let labels = [("direction", *direction), ("peer", *peer)];
            family.encode_family(&labels)?.encode_gauge(&expires)?;
        }
        let help = "Times that certificates were read again, by result";
        let mut family = encoder.encode_descriptor("tls_reloads", help, None, MetricType::Counter)?;
        for (direction, peer, stats) in &sides {
            for (result, count) in stats.reloads() {
                let labels = [("direction", *direction), ("peer", *peer), ("result", result)];
                family.encode_family(&labels)?.encode_counter(&count, NO_EXEMPLAR)?;
            }
        }
        Ok(())
    }
}

impl Direction {
    /// The sides that have TLS.
    fn tls_sides(&self) -> impl Iterator<Item = (&'static str, &'static str, &tls::Stats)> {
        let Tls { server, client } = &self.tls;
        let server = server.as_ref().map(|server| (self.name, peer_name(Peer::Client), &**server.stats()));
        server
            .into_iter()
            .chain(client.as_ref().map(|client| (self.name, peer_name(Peer::Endpoint), &**client.stats())))
    }

    fn sum(&self, count: impl Fn(&Stats) -> u64) -> u64 {
        self.stats.iter().map(|stats| count(stats)).sum()
    }

    /// Encodes durations of all workers.
    fn histogram(&self, latency: fn(&Stats) -> &Latency, unit_ms: f64, metric: MetricEncoder<'_>) -> fmt::Result {
        let latencies: Vec<_> = self.stats.iter().map(|stats| latency(stats)).collect();
        histogram(&latencies, unit_ms, metric)
    }
}

/// Encodes the sum of histograms in a unit of `unit_ms` milliseconds.
fn histogram(latencies: &[&Latency], unit_ms: f64, mut metric: MetricEncoder<'_>) -> fmt::Result {
    let bounds = LATENCY_BUCKETS.iter().map(|bound| f64::from(*bound) / unit_ms).chain([f64::INFINITY]);
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

/// The endpoints of all workers by address.
fn merge(statuses: impl Iterator<Item = Status>) -> BTreeMap<String, Merged> {
    let mut endpoints = BTreeMap::<_, Merged>::new();
    for Status { addr, state, connections, streams, latency, .. } in statuses {
        let endpoint =
            endpoints.entry(addr).or_insert(Merged { state, connections: 0, streams: 0, ejected: 0, latency: None });
        if state == State::Ready {
            endpoint.state = state;
        }
        endpoint.connections += connections;
        endpoint.streams += streams;
        endpoint.ejected += usize::from(state == State::Ejected);
        endpoint.latency = endpoint.latency.into_iter().chain(latency).reduce(f64::max);
    }
    endpoints
}

/// linkerd2-proxy's names, and two for states that it does not tell apart.
fn state_name(state: State) -> &'static str {
    match state {
        State::Ready => "ready",
        State::Connecting => "pending",
        State::Failed => "failed",
        State::Ejected => "ejected",
    }
}

/// Success or failure as linkerd2-proxy sees it: by gRPC status where there is one, else by HTTP status.
fn classify(status: StatusCode, grpc: Option<u8>) -> &'static str {
    // UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED, INTERNAL, UNAVAILABLE, DATA_LOSS.
    const FAILURES: [u8; 6] = [2, 4, 7, 13, 14, 15];
    let failure = grpc.map_or(status.is_server_error(), |code| FAILURES.contains(&code));
    if failure { "failure" } else { "success" }
}

fn peer_name(peer: Peer) -> &'static str {
    match peer {
        Peer::Client => "src",
        Peer::Endpoint => "dst",
    }
}

/// The end of the name of the variable that sets a limit, and the frames that reached it.
fn limit_name(limit: Limit) -> &'static str {
    match limit {
        Limit::Age => "max_connection_age",
        Limit::AgeGrace => "max_connection_age_grace",
        Limit::Idle => "max_connection_idle",
        Limit::Connections => "max_connections",
        Limit::Handshake => "handshake_timeout",
        Limit::HeaderBlock => "header_timeout",
        Limit::PrematureResets => "max_premature_resets",
        Limit::PriorityFrames => "max_control_frames_priority",
        Limit::ResetFrames => "max_control_frames_rst_stream",
        Limit::SettingsFrames => "max_control_frames_settings",
        Limit::PingFrames => "max_control_frames_ping",
        Limit::WindowUpdateFrames => "max_control_frames_window_update",
        Limit::OtherFrames => "max_control_frames_other",
        Limit::Engine => "engine",
        Limit::HeadersCount => "max_headers_count",
        Limit::UriLength => "max_uri_length",
        Limit::Detect => "detect_timeout",
        Limit::HeaderRead => "header_read_timeout",
        Limit::EmptyDataFrames => "max_control_frames_empty_data",
        Limit::EngineLifetime => "engine_lifetime",
    }
}

/// The end of the name of the variable that sets a limit.
fn stream_limit_name(limit: StreamLimit) -> &'static str {
    match limit {
        StreamLimit::WriteStall => "write_stall_timeout",
        StreamLimit::Idle => "stream_idle_timeout",
    }
}

/// A code's name in RFC 9113 section 7.
fn code_name(code: ResetCode) -> &'static str {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    match code {
        ResetCode::Known(code) => NAMES.get(usize::from(code)).copied().unwrap_or("unknown"),
        ResetCode::Other => "unknown",
    }
}

// === impl System ===

impl Collector for System {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Without /proc there is nothing to say.
        let Ok(process) = procfs::process::Process::myself() else { return Ok(()) };
        let Ok(stat) = process.stat() else { return Ok(()) };
        let ticks = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        encoder
            .encode_descriptor("process_cpu_seconds", "CPU time spent, user and system", None, MetricType::Counter)?
            .encode_counter(&ticks, NO_EXEMPLAR)?;
        let started = procfs::boot_time_secs().ok().map(|boot| boot + stat.starttime / procfs::ticks_per_second());
        let open = process.fd_count().unwrap_or(0) as u64;
        let most = process.limits().ok().and_then(|limits| match limits.max_open_files.soft_limit {
            procfs::process::LimitValue::Value(most) => Some(most),
            procfs::process::LimitValue::Unlimited => None,
        });
        let gauges = [
            ("process_start_time_seconds", "When the process started, in Unix time", started),
            ("process_resident_memory_bytes", "Resident memory", Some(stat.rss * procfs::page_size())),
            ("process_virtual_memory_bytes", "Virtual memory", Some(stat.vsize)),
            ("process_open_fds", "Open file descriptors", Some(open)),
            ("process_max_fds", "Most file descriptors that may be open", most),
            ("process_threads", "Threads", u64::try_from(stat.num_threads).ok()),
        ];
        for (name, help, value) in gauges {
            let Some(value) = value else { continue };
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::TcpConnector;
    use app_env::TcpParams;
    use http_h2::ClientParams;
    use proxy_http::{Connect, Endpoint, balance, proxy};
    use std::{net::SocketAddr, time::Duration};
    use tokio::{sync::watch, task::yield_now, time::timeout};

    #[test]
    fn idle_workers_do_not_make_an_endpoint_look_fast() {
        let status = |state, latency| Status {
            addr: "127.0.0.1:80".to_owned(),
            labels: Vec::new(),
            state,
            connections: 1,
            streams: 2,
            latency,
        };
        let statuses = [(State::Ejected, None), (State::Ready, Some(0.1)), (State::Ready, Some(0.0001))];
        let endpoints = merge(statuses.into_iter().map(|(state, latency)| status(state, latency)));
        let Merged { state, connections, streams, ejected, latency } = &endpoints["127.0.0.1:80"];
        assert_eq!((*state, *connections, *streams, *ejected), (State::Ready, 3, 6, 1));
        assert_eq!(*latency, Some(0.1));
        assert_eq!(merge([status(State::Failed, None)].into_iter())["127.0.0.1:80"].latency, None);
    }

    #[tokio::test]
    async fn an_endpoint_that_is_gone_has_no_series() {
        let addrs: [SocketAddr; 2] = [([127, 0, 0, 1], 1).into(), ([127, 0, 0, 2], 1).into()];
        let connect = Connect::new(TcpConnector::new(TcpParams::default()), &ClientParams::DEFAULT).unwrap();
        let (discovered, list) = watch::channel(addrs.map(Endpoint::new).to_vec());
        let direction = Direction {
            name: "outbound",
            stats: vec![Arc::default(), Arc::default()],
            endpoints: (0..2).map(|_| Endpoints::spawn(list.clone(), &connect, balance::Params::default())).collect(),
            names: Names::default(),
            limits: Arc::new(proxy::Limits::new(proxy::Params::default())),
            buffers: Arc::default(),
            tls: Tls::default(),
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Directions(vec![direction])));
        let metrics = Metrics(registry);
        // Of each endpoint; latencies are not known yet.
        let series = |addr| metrics.encode().unwrap().matches(&format!("endpoint=\"{addr}\"")).count();
        assert_eq!(addrs.map(series), [3, 3]);
        discovered.send_replace(vec![Endpoint::new(addrs[1])]);
        let gone = async {
            while series(addrs[0]) > 0 {
                yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), gone).await.expect("its series vanish");
        assert_eq!(series(addrs[1]), 3);
    }
}
