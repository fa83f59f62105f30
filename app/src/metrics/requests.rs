//! Metrics of requests and responses, and of the limits that requests have.

use super::{Direction, Directions, Get, NO_EXEMPLAR};
use crate::worker::Maxima;
use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};
use proxy_http::{
    Stats,
    proxy::Limits,
    stats::{Peer, Responses},
};
use std::{collections::BTreeMap, fmt};

impl Directions {
    pub(super) fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor("request", "Requests that arrived", None, MetricType::Counter)?;
        for direction in &self.0 {
            let labels = [("direction", direction.name)];
            let early: u64 = direction.early_answers().iter().map(|answers| answers.count).sum();
            let requests = direction.sum(Stats::requests) + early;
            family.encode_family(&labels)?.encode_counter(&requests, NO_EXEMPLAR)?;
        }
        Ok(())
    }

    pub(super) fn responses(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Responses by status, counted at their end";
        let mut family = encoder.encode_descriptor("response", help, None, MetricType::Counter)?;
        for direction in &self.0 {
            let mut counts = BTreeMap::<_, u64>::new();
            let all = direction.stats.iter().flat_map(|stats| stats.responses());
            for responses in all.chain(direction.early_answers()).chain(direction.late_answers()) {
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

    pub(super) fn proxy_errors(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests that the proxy answered itself, or ended without a response, by reason";
        let mut family = encoder.encode_descriptor("http_proxy_errors", help, None, MetricType::Counter)?;
        for direction in &self.0 {
            let mut counts = BTreeMap::<_, u64>::new();
            for (error, count) in direction.stats.iter().flat_map(|stats| stats.transport(Peer::Client).proxy_errors())
            {
                *counts.entry(error.name()).or_default() += count;
            }
            for (error, count) in counts {
                let labels = [("direction", direction.name), ("proxy_error", error)];
                family.encode_family(&labels)?.encode_counter(&count, NO_EXEMPLAR)?;
            }
        }
        Ok(())
    }

    /// The limits of other gauges.
    pub(super) fn maxima(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let gauges: [(_, _, Get<Maxima, usize>); 5] = [
            ("http_in_flight_limit", "Requests that may be in flight", |maxima| maxima.in_flight),
            ("http_balancer_queue_limit", "Requests that may wait for an endpoint", |maxima| maxima.waiting),
            ("tcp_open_connections_limit", "Connections that clients may have open", |maxima| maxima.connections),
            ("http2_buffered_bytes_limit", "Bytes that http2_buffered_bytes may be", |maxima| maxima.buffered_bytes),
            ("http_destinations_limit", "Destinations that each worker may be connected to", |maxima| {
                maxima.destinations
            }),
        ];
        for (name, help, value) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for direction in &self.0 {
                let labels = [("direction", direction.name)];
                family.encode_family(&labels)?.encode_gauge(&(value(&direction.maxima) as u64))?;
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

impl Direction {
    /// Answers to requests that were refused before anything else was done with them.
    fn early_answers(&self) -> Vec<Responses> {
        self.stats.iter().flat_map(|stats| stats.transport(Peer::Client).early_answers()).collect()
    }

    /// Answers to requests that were ended before they had a response.
    fn late_answers(&self) -> Vec<Responses> {
        self.stats.iter().flat_map(|stats| stats.transport(Peer::Client).late_answers()).collect()
    }
}
