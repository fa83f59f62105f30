//! Sends batches of spans to the collector, each until it is taken or rejected.

use super::{
    queue::{Queue, is_closing},
    span::{RequestSpans, scope},
};
use crate::{
    grpc::{code_name, describe},
    log::Throttle,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans},
};
use std::{error::Error as _, sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

/// How long a process that ends waits until its spans are sent.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_millis(1_500);

/// How long the collector may take for one message.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The waits between attempts to send a message, which double, and of which up to half is left out at random.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// The longest wait that a collector may ask for.
const MAX_DELAY: Duration = Duration::from_secs(300);

/// Sends spans until `closing` turns true and all are sent, or an attempt has failed since.
pub(super) async fn run(queue: Arc<Queue>, channel: Channel, resource: Resource, mut closing: watch::Receiver<bool>) {
    let mut exporter = Exporter { client: TraceServiceClient::new(channel), resource, log: Throttle::default() };
    loop {
        let batch = queue.next(&mut closing).await;
        if batch.is_empty() || !exporter.export(&batch, &queue, &mut closing).await {
            return;
        }
    }
}

struct Exporter {
    client: TraceServiceClient<Channel>,
    resource: Resource,
    log: Throttle,
}

/// The action after a failed attempt.
#[derive(Debug, Eq, PartialEq)]
enum Next {
    /// Another attempt, after the backoff or a time that the collector has named.
    Retry(Option<Duration>),
    Reject,
}

impl Exporter {
    /// Returns whether there may be another batch.
    async fn export(
        &mut self,
        batch: &[Box<RequestSpans>],
        queue: &Queue,
        closing: &mut watch::Receiver<bool>,
    ) -> bool {
        let count = batch.iter().map(|request| request.spans()).sum();
        let mut backoff = MIN_BACKOFF;
        loop {
            let was_closing = is_closing(closing);
            // Nearly all are sent once, so a message is made for each attempt rather than kept and copied.
            let message = self.message(batch);
            let status = match timeout(TIMEOUT, self.client.export(message)).await {
                Ok(Ok(response)) => {
                    let partial = response.into_inner().partial_success.unwrap_or_default();
                    let rejected = u64::try_from(partial.rejected_spans).unwrap_or(0);
                    if !partial.error_message.is_empty() || rejected > 0 {
                        self.warn("the collector has rejected some spans", "OK", rejected, &partial.error_message);
                    }
                    queue.counts.exported_but(count, rejected);
                    return true;
                }
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("the collector has not answered in time"),
            };
            let code = code_name(status.code());
            let Next::Retry(delay) = after(&status) else {
                self.warn("the collector has rejected all spans of a message", code, count, &describe(&status));
                queue.counts.reject(count);
                return true;
            };
            if was_closing {
                return false;
            }
            self.warn("spans cannot be sent; they wait", code, count, &describe(&status));
            queue.counts.retry();
            let wait = delay.unwrap_or_else(|| backoff.mul_f64(0.5 + fastrand::f64() / 2.0));
            backoff = (2 * backoff).min(MAX_BACKOFF);
            // One more attempt follows at once when the process ends. An error: `is_closing` says so.
            let _ = timeout(wait, closing.wait_for(|closing| *closing)).await;
        }
    }

    fn message(&self, batch: &[Box<RequestSpans>]) -> ExportTraceServiceRequest {
        let spans = batch.iter().flat_map(|request| request.to_spans()).collect();
        let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans, schema_url: String::new() }];
        let resource = Some(self.resource.clone());
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans { resource, scope_spans, schema_url: String::new() }],
        }
    }

    fn warn(&self, message: &str, code: &str, spans: u64, error: &str) {
        if let Some(left_out) = self.log.admits() {
            tracing::warn!(code, spans, error, left_out, "{message}");
        }
    }
}

/// OTLP's rules for retries. A status that has a source is tonic's own, for a connection that was lost or could not be made.
fn after(status: &Status) -> Next {
    let retry_info = status.get_details_retry_info();
    let has_info = retry_info.is_some();
    let delay = retry_info.and_then(|info| info.retry_delay).map(|delay| delay.min(MAX_DELAY));
    match status.code() {
        _ if status.source().is_some() => Next::Retry(None),
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Next::Retry(delay.filter(|delay| !delay.is_zero())),
        Code::ResourceExhausted if has_info => Next::Retry(delay.filter(|delay| !delay.is_zero())),
        _ => Next::Reject,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn retries_follow_the_rules_of_otlp() {
        let with = |code, delay| {
            Status::with_error_details(code, "", ErrorDetails::with_retry_info(Some(Duration::from_secs(delay))))
        };
        for (status, expected) in [
            (Status::unavailable(""), Next::Retry(None)),
            (Status::deadline_exceeded(""), Next::Retry(None)),
            (Status::data_loss(""), Next::Retry(None)),
            (with(Code::Unavailable, 7), Next::Retry(Some(Duration::from_secs(7)))),
            (with(Code::Unavailable, 0), Next::Retry(None)),
            (with(Code::ResourceExhausted, 3), Next::Retry(Some(Duration::from_secs(3)))),
            (with(Code::ResourceExhausted, 86_400), Next::Retry(Some(MAX_DELAY))),
            (Status::resource_exhausted(""), Next::Reject),
            (Status::invalid_argument(""), Next::Reject),
            (with(Code::InvalidArgument, 1), Next::Reject),
            (Status::unimplemented(""), Next::Reject),
            (Status::internal(""), Next::Reject),
            (Status::from_error(Box::new(std::io::Error::other("lost"))), Next::Retry(None)),
        ] {
            assert_eq!(after(&status), expected, "{status:?}");
        }
    }
}
