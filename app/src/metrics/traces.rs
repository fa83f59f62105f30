//! Metrics of spans.

use super::NO_EXEMPLAR;
use crate::traces::Traces;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::MetricType};
use std::{fmt, sync::Arc};

#[derive(Debug)]
pub(super) struct Spans(pub(super) Arc<Traces>);

impl Collector for Spans {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = self.0.counts();
        for (name, help, count) in [
            ("trace_spans_exported", "Spans that the collector has taken", counts.exported()),
            ("trace_export_retries", "Messages with spans that were to be sent again, each time", counts.retries()),
        ] {
            encoder.encode_descriptor(name, help, None, MetricType::Counter)?.encode_counter(&count, NO_EXEMPLAR)?;
        }
        let help = "Spans that were not sent, since too many waited, or that the collector has rejected";
        let mut family = encoder.encode_descriptor("trace_spans_lost", help, None, MetricType::Counter)?;
        for (reason, spans) in counts.lost() {
            family.encode_family(&[("reason", reason)])?.encode_counter(&spans, NO_EXEMPLAR)?;
        }
        let help = "Spans that wait for the collector";
        let mut gauge = encoder.encode_descriptor("trace_spans_waiting", help, None, MetricType::Gauge)?;
        gauge.encode_gauge(&counts.waiting())
    }
}
