//! Metrics of requests and responses, and of the limits that requests have.

use super::{Directions, Get, NO_EXEMPLAR};
use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};
use proxy_http::{Stats, proxy::Limits};
use std::{collections::BTreeMap, fmt};

impl Directions {
    pub(super) fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor("request", "Requests that arrived", None, MetricType::Counter)?;
        for direction in &self.0 {
            let labels = [("direction", direction.name)];
            family.encode_family(&labels)?.encode_counter(&direction.sum(Stats::requests), NO_EXEMPLAR)?;
        }
        Ok(())
    }

    pub(super) fn responses(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Responses by status, counted at their end";
        let mut family = encoder.encode_descriptor("response", help, None, MetricType::Counter)?;
        for direction in &self.0 {
            let mut counts = BTreeMap::<_, u64>::new();
            for responses in direction.stats.iter().flat_map(|stats| stats.responses()) {
                let key = (responses.status, responses.grpc_status, responses.is_failure());
                *counts.entry(key).or_default() += responses.count;
            }
            for ((status, grpc, is_failure), count) in counts {
                let grpc_status = match grpc {
                    None => String::new(),
                    Some(u8::MAX) => "other".to_owned(),
                    Some(code) => code.to_string(),
                };
                let labels = [
                    ("direction", direction.name),
                    ("status_code", status.as_str()),
                    ("classification", if is_failure { "failure" } else { "success" }),
                    ("grpc_status", &grpc_status),
                ];
                family.encode_family(&labels)?.encode_counter(&count, NO_EXEMPLAR)?;
            }
        }
        Ok(())
    }

    pub(super) fn latency(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Milliseconds from a request's head to its response's end";
        let mut family = encoder.encode_descriptor("response_latency_ms", help, None, MetricType::Histogram)?;
        for direction in &self.0 {
            let labels = [("direction", direction.name)];
            direction.histogram(Stats::latency, 1.0, family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    pub(super) fn overload(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
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

    pub(super) fn retries(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
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
}
