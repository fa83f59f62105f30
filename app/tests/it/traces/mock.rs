//! A collector that a test scripts.

use crate::support::{PATIENCE, accepted, bind};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Instant,
};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tonic::{Request, Response, Status, transport::Server};

/// A server of OTLP, on a thread of its own, so that it can be killed.
pub(super) struct Collector {
    pub(super) addr: SocketAddr,
    /// The attributes of the last message's resource.
    pub(super) resource: Vec<KeyValue>,
    runtime: Option<Runtime>,
    taken: mpsc::UnboundedReceiver<ExportTraceServiceRequest>,
    refused: mpsc::UnboundedReceiver<Instant>,
    answers: Answers,
}

/// Answers to the next messages: how many spans are rejected, or an error. Without one all are taken.
type Answers = Arc<Mutex<VecDeque<Result<i64, Status>>>>;

struct Service {
    taken: mpsc::UnboundedSender<ExportTraceServiceRequest>,
    refused: mpsc::UnboundedSender<Instant>,
    answers: Answers,
}

impl Collector {
    pub(super) async fn start() -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap()).await
    }

    pub(super) async fn start_on(addr: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (taking, taken) = mpsc::unbounded_channel();
        let (refusing, refused) = mpsc::unbounded_channel();
        let answers = Answers::default();
        let (bound, addr_bound) = oneshot::channel();
        let service = Service { taken: taking, refused: refusing, answers: Arc::clone(&answers) };
        runtime.spawn(async move {
            let listener = bind(addr).await;
            bound.send(listener.local_addr().unwrap()).unwrap();
            let incoming = accepted(listener);
            let service = TraceServiceServer::new(service);
            Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        let addr = timeout(PATIENCE, addr_bound).await.expect("the address becomes free").unwrap();
        Self { addr, resource: Vec::new(), runtime: Some(runtime), taken, refused, answers }
    }

    /// The spans of the next message that is taken.
    pub(super) async fn spans(&mut self) -> Vec<Span> {
        let message = timeout(PATIENCE, self.taken.recv()).await.expect("spans come").unwrap();
        let mut spans = Vec::new();
        for of_resource in message.resource_spans {
            self.resource = of_resource.resource.unwrap().attributes;
            spans.extend(of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans));
        }
        spans
    }

    /// When the next message was refused.
    pub(super) async fn refused(&mut self) -> Instant {
        timeout(PATIENCE, self.refused.recv()).await.expect("a message comes").unwrap()
    }

    /// Has the next message that has no answer yet answered so.
    pub(super) fn answer(&self, answer: Result<i64, Status>) {
        self.answers.lock().unwrap().push_back(answer);
    }

    /// Closes all connections at once.
    pub(super) fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let rejected_spans = match self.answers.lock().unwrap().pop_front().unwrap_or(Ok(0)) {
            Ok(rejected) => rejected,
            Err(status) => {
                let _ = self.refused.send(Instant::now());
                return Err(status);
            }
        };
        let _ = self.taken.send(request.into_inner());
        let partial_success = ExportTracePartialSuccess { rejected_spans, error_message: String::new() };
        Ok(Response::new(ExportTraceServiceResponse { partial_success: Some(partial_success) }))
    }
}

/// The text of an attribute, or its number as one.
pub(super) fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == name)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{other:?}"),
    }
}

pub(super) fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
