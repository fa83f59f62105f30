//! Metrics of connections: their number, their bytes, and how they and their streams end.

use super::{Directions, Get, NO_EXEMPLAR, PEERS, histogram, peer_name};
use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};
use proxy_http::stats::{Limit, Peer, ResetCode, StreamLimit, Transport};
use std::{collections::BTreeMap, fmt};

impl Directions {
    pub(super) fn resets(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
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

    pub(super) fn go_aways(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
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

    pub(super) fn transports(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
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
                    let labels = [("direction", direction.name), ("peer", peer_name), ("tls", direction.has_tls(peer))];
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

    pub(super) fn durations(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Milliseconds for which connections were open that have closed";
        let name = "tcp_connection_duration_ms";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for direction in &self.0 {
            for (peer, peer_name) in PEERS {
                let labels = [("direction", direction.name), ("peer", peer_name), ("tls", direction.has_tls(peer))];
                let durations: Vec<_> = direction.stats.iter().map(|stats| stats.transport(peer).durations()).collect();
                histogram(&durations, 1.0, family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    pub(super) fn limits(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
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

    pub(super) fn stalls(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
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
        Ok(())
    }
}

/// The end of the name of the variable that sets a limit, and the frames that reached it; for a limit of the file of routes, words like it.
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
        Limit::Hops => "hops",
        Limit::BufferedHeads => "max_buffered_bytes_heads",
        Limit::Rate => "rate_limit",
        Limit::RouteRate => "route_rate_limit",
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
    match code {
        ResetCode::Known(code) => reset_code_name(code.into()).unwrap_or("unknown"),
        ResetCode::Other => "unknown",
    }
}

/// The name of an error code. `None`: RFC 9113 does not define it.
pub(crate) fn reset_code_name(code: u32) -> Option<&'static str> {
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
    NAMES.get(usize::try_from(code).ok()?).copied()
}
