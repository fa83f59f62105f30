//! Metrics of flow control.

use super::Directions;
use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};
use std::fmt;

impl Directions {
    pub(super) fn buffers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Bytes that connections may hold for readers that have stopped, beside their windows";
        let mut family = encoder.encode_descriptor("http2_buffered_bytes", help, None, MetricType::Gauge)?;
        for direction in &self.0 {
            let labels = [("direction", direction.name)];
            family.encode_family(&labels)?.encode_gauge(&(direction.buffers.held() as u64))?;
        }
        Ok(())
    }
}
