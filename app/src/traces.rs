//! Spans of requests, sent to a collector by OTLP over gRPC.
//!
//! A request that is sampled by its client has two spans: one of kind server, from its head to its end, and below it one of kind
//! client, from its first attempt on, which the endpoint sees as its parent. Others have none, and their fields stay as they are.

mod context;
mod exporter;
mod queue;
mod span;

use self::{
    context::Trace,
    queue::Queue,
    span::{Client, RequestSpans},
};
use crate::{client_addr::PeerAddr, connector::OwnListeners, dns, grpc::Connector};
use http::request;
use proxy_http::stats::{Observe, ObserveEnd, RequestEnd};
use std::{sync::Arc, time::SystemTime};
use tokio::{sync::watch, time::timeout};

pub(crate) use self::queue::Counts;

/// The spans of the process.
#[derive(Debug)]
pub(crate) struct Traces {
    queue: Arc<Queue>,
    /// Turns true when the process ends; the exporter lets go of it when it has ended.
    closing: watch::Sender<bool>,
}

/// One client's connection.
#[derive(Debug)]
struct Connection {
    queue: Arc<Queue>,
    client: Client,
}

/// One request.
struct Request {
    queue: Arc<Queue>,
    spans: Box<RequestSpans>,
}

// === impl Traces ===

impl Traces {
    /// Starts the task that sends spans, in the tokio runtime that this is called in. `None`: there are no spans.
    pub(crate) fn start(
        settings: Option<app_env::Traces>,
        own: OwnListeners,
        dns: app_env::Dns,
        resolver: &dns::Resolver,
    ) -> Option<Arc<Self>> {
        let app_env::Traces { collector, attributes, .. } = settings?;
        let (queue, (closing, closed)) = (Arc::<Queue>::default(), watch::channel(false));
        let channel = Connector::new(collector, own, dns, resolver).channel();
        tokio::spawn(exporter::run(Arc::clone(&queue), channel, span::resource(attributes), closed));
        Some(Arc::new(Self { queue, closing }))
    }

    /// Observes the requests of a client's connection.
    pub(crate) fn connection(&self, direction: &'static str, peer: PeerAddr) -> Arc<dyn Observe> {
        Arc::new(Connection { queue: Arc::clone(&self.queue), client: Client { direction, peer } })
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.queue.counts
    }

    /// Sends the spans that wait, if that is soon done.
    pub(crate) async fn close(&self) {
        self.closing.send_replace(true);
        let _ = timeout(exporter::CLOSE_TIMEOUT, self.closing.closed()).await;
        let spans = self.queue.counts.waiting();
        if spans > 0 {
            tracing::warn!(spans, "spans were not sent before the end");
        }
    }
}

// === impl Connection ===

impl Observe for Connection {
    fn observe(&self, head: &mut request::Parts) -> Option<Box<dyn ObserveEnd>> {
        let trace = Trace::resume(&mut head.headers)?;
        let spans = Box::new(RequestSpans::start(trace, self.client, head, SystemTime::now()));
        Some(Box::new(Request { queue: Arc::clone(&self.queue), spans }))
    }
}

// === impl Request ===

impl ObserveEnd for Request {
    fn end(self: Box<Self>, end: &RequestEnd) {
        let Self { queue, mut spans } = *self;
        spans.end = end.clone();
        queue.push(spans);
    }
}
