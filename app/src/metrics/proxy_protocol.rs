//! Metrics of the PROXY protocol.

use super::{Directions, NO_EXEMPLAR};
use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};
use std::fmt;

impl Directions {
    pub(super) fn proxy_protocol(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Connections of clients that have to begin with a PROXY protocol header, by result";
        let mut family = encoder.encode_descriptor("proxy_protocol_headers", help, None, MetricType::Counter)?;
        for direction in &self.0 {
            let Some(receiver) = &direction.proxy_protocol else { continue };
            for (result, count) in receiver.outcomes() {
                let labels = [("direction", direction.name), ("result", result)];
                family.encode_family(&labels)?.encode_counter(&count, NO_EXEMPLAR)?;
            }
        }
        Ok(())
    }
}
