//! Metrics of flow control: windows, the paths that they are for, and the streams that wait for them.

use super::{Direction, Directions, Get, NO_EXEMPLAR, PEERS};
use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};
use proxy_http::{
    BufferLimit,
    stats::{BlockedReason, Connection, FlowStatus, Peer, WindowSizes},
};
use std::{collections::BTreeMap, fmt, time::Duration};

/// The connections to one endpoint, or from all clients.
#[derive(Debug, Default, PartialEq)]
struct Paths {
    /// The longest, and the highest. `None`: no connection was measured.
    round_trip: Option<Duration>,
    bandwidth: Option<u64>,
    /// The smallest: that of a stream, and of a connection. `None`: no connection is of HTTP/2.
    granted: Option<(u32, i64)>,
    granted_by_peer: Option<(u32, i64)>,
}

impl Directions {
    pub(super) fn blocked(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut sums = Vec::new();
        for direction in &self.0 {
            for (peer, peer_name) in PEERS {
                let mut all = BlockedReason::ALL.map(|reason| (reason, Duration::ZERO, 0));
                for blocked in direction.stats.iter().flat_map(|stats| stats.transport(peer).blocked()) {
                    for (_, time, streams) in all.iter_mut().filter(|(reason, ..)| *reason == blocked.reason) {
                        *time += blocked.time;
                        *streams += blocked.streams;
                    }
                }
                sums.extend(all.map(|(reason, time, streams)| {
                    let labels = [("direction", direction.name), ("peer", peer_name), ("reason", reason.name())];
                    (labels, time, streams)
                }));
            }
        }
        let help = "Seconds for which flow control or the socket blocked streams that have DATA, summed over streams";
        let name = "http2_flow_control_blocked_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, time, _) in &sums {
            family.encode_family(labels)?.encode_counter(&time.as_secs_f64(), NO_EXEMPLAR)?;
        }
        let help = "Streams that are blocked now";
        let name = "http2_flow_control_blocked_streams";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, _, streams) in &sums {
            family.encode_family(labels)?.encode_gauge(streams)?;
        }
        Ok(())
    }

    pub(super) fn buffers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let gauges: [(_, _, Get<BufferLimit, usize>); 2] = [
            (
                "http2_buffered_bytes",
                "Bytes that connections may hold for readers that have stopped, beside their windows",
                BufferLimit::held,
            ),
            (
                "http2_reserved_window_bytes",
                "Bytes of adaptive windows that are reserved from MAX_BUFFERED_BYTES",
                BufferLimit::reserved,
            ),
        ];
        for (name, help, value) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for direction in &self.0 {
                let labels = [("direction", direction.name)];
                family.encode_family(&labels)?.encode_gauge(&(value(&direction.buffers) as u64))?;
            }
        }
        Ok(())
    }

    pub(super) fn paths(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut all = Vec::new();
        for direction in &self.0 {
            for (peer, peer_name) in PEERS {
                let paths = direction.paths(peer).into_iter();
                all.extend(paths.map(|(endpoint, paths)| (direction.name, peer_name, endpoint, paths)));
            }
        }
        let gauges: [(_, _, Get<Paths, Option<f64>>); 2] = [
            (
                "http2_round_trip_seconds",
                "Round-trip time measured by PING, of the connection where it is longest",
                |paths| paths.round_trip.map(|time| time.as_secs_f64()),
            ),
            (
                "http2_bandwidth_bytes_per_second",
                "Bandwidth of DATA received, of the connection where it is highest",
                |paths| paths.bandwidth.map(|bandwidth| bandwidth as f64),
            ),
        ];
        for (name, help, value) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (direction, peer, endpoint, paths) in &all {
                let Some(value) = value(paths) else { continue };
                let labels = [("direction", *direction), ("peer", *peer), ("endpoint", endpoint)];
                family.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        let help =
            "Windows, of the connection where they are smallest; of a connection that the peer grants, what is left";
        let mut family = encoder.encode_descriptor("http2_window_bytes", help, None, MetricType::Gauge)?;
        for (direction, peer, endpoint, paths) in &all {
            for (granted_by, windows) in [("us", paths.granted), ("peer", paths.granted_by_peer)] {
                let Some((stream, connection)) = windows else { continue };
                for (window, bytes) in [("stream", stream.into()), ("connection", connection)] {
                    let labels = [
                        ("direction", *direction),
                        ("peer", *peer),
                        ("endpoint", endpoint),
                        ("window", window),
                        ("granted_by", granted_by),
                    ];
                    family.encode_family(&labels)?.encode_gauge(&bytes)?;
                }
            }
        }
        Ok(())
    }
}

impl Direction {
    /// The open connections of one side by endpoint. Clients' connections are one entry without a name, however many they are.
    fn paths(&self, peer: Peer) -> BTreeMap<String, Paths> {
        let mut all = BTreeMap::<_, Paths>::new();
        for stats in &self.stats {
            stats.transport(peer).each_connection(|Connection { peer: address, http2, .. }| {
                let Some(flow) = http2 else { return };
                let endpoint = match peer {
                    Peer::Client => String::new(),
                    Peer::Endpoint => address.unwrap_or_default(),
                };
                all.entry(endpoint).or_default().add(&flow);
            });
        }
        all
    }
}

impl Paths {
    fn add(&mut self, flow: &FlowStatus) {
        self.round_trip = self.round_trip.max(flow.round_trip);
        self.bandwidth = self.bandwidth.max(flow.bandwidth);
        for (smallest, windows) in
            [(&mut self.granted, flow.granted), (&mut self.granted_by_peer, flow.granted_by_peer)]
        {
            let WindowSizes { stream, connection, .. } = windows;
            let (least_stream, least_connection) = smallest.unwrap_or((stream, connection));
            *smallest = Some((least_stream.min(stream), least_connection.min(connection)));
        }
    }
}
