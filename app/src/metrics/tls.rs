//! Metrics of TLS.

use super::{Direction, Directions, NO_EXEMPLAR, histogram, peer_name};
use crate::tls::{self, Tls};
use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};
use proxy_http::stats::Peer;
use std::fmt;

impl Directions {
    pub(super) fn tls(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
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
}
