//! An exchange: one request and its response.

use crate::{
    Endpoints, IncomingBody, Replay,
    balance::{balancer::Attempt, breaker::Outcome, priority::Avoid},
    body::{outcome::SendOutcome, response::ResponseBody as Body},
    client::{error::Error as ClientError, send_request::OutgoingRequest},
    connection::now::now,
    http1::tunnel,
    message::{answer::Answer, grpc, stream_error::StreamError},
    proxy::{
        grpc_response::GrpcResponse,
        limits::{AttemptDeadline, Deadline, Params, PendingRequest},
        policy::Policy,
        retry::{self, RetryState},
        shared::{ProxyShared, is_http1},
    },
    stats::{DestinationStats, ExchangeFacts, ProxyError, Record, Side, StreamLimit},
};
use h2::Reason;
use http::{Response, StatusCode, header::CONTENT_LENGTH, request, response};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};
use tokio::time::Instant;

/// A request that ended in a reset of its stream.
#[derive(Debug, thiserror::Error)]
#[error("request was reset")]
pub struct Error {
    /// Has the error code of the reset; the server finds it among the sources.
    source: StreamError,
}

/// One request and its response, counted as in flight from head to end. Boxed, the one box that a request needs, so that
/// moves are cheap.
pub(super) struct Exchange {
    pub(super) shared: Arc<ProxyShared>,
    /// The counters of its destination, if requests have several.
    pub(super) counters: Option<Arc<DestinationStats>>,
    pub(super) record: Record,
    /// For the record. `None`: the request has none. Boxed, since most have none.
    pub(super) facts: Option<Box<ExchangeFacts>>,
    pub(super) started: Instant,
    pub(super) deadline: Deadline,
    attempt_deadline: AttemptDeadline,
    pub(super) grpc: bool,
    /// The client uses HTTP/1.1, which has no RST_STREAM.
    pub(super) http1: bool,
    /// `None`: the request has been answered.
    pub(super) request: Option<OutgoingRequest<Replay>>,
    pub(super) retry_state: RetryState,
    /// The last attempt. `None`: the request was not sent.
    pub(super) attempt: Option<Attempt>,
    pub(super) status: Option<StatusCode>,
    pub(super) grpc_response: GrpcResponse,
    /// The response's body. `None`: there is no response yet, or it is the proxy's own.
    pub(super) body: Option<IncomingBody>,
}

/// The result of an attempt.
pub(super) enum AttemptResult {
    /// The head of the response; its body is in [`Exchange::body`].
    Response(response::Parts),
    /// The request is to be sent again.
    Retry,
    Failed(ClientError),
    /// The proxy's own answer.
    LocalReply(Answer),
}

const UNANSWERED: &str = "the request is kept until it is answered";

// === impl Exchange ===

impl Exchange {
    pub(super) fn start(
        shared: &Arc<ProxyShared>,
        head: request::Parts,
        mut body: IncomingBody,
        strip: bool,
        policy: Policy,
        counters: Option<Arc<DestinationStats>>,
    ) -> Box<Self> {
        let started = now();
        shared.budget.request(shared.stats.count_request(), started);
        if let Some(counters) = &counters {
            counters.count_request();
        }
        shared.limits.in_flight.fetch_add(1, Relaxed);
        let grpc = grpc::is_grpc(&head.headers);
        let record = body.record();
        // Allocated first, so that the exchange is made in the box instead of being moved there.
        let boxed = Box::new_uninit();
        let exchange = Self {
            shared: Arc::clone(shared),
            counters,
            facts: record.is_on().then(Box::default),
            record,
            started,
            deadline: shared.limits.deadline(grpc, &head.headers, policy.request_timeout),
            attempt_deadline: AttemptDeadline::new(policy.backend_request_timeout),
            grpc,
            http1: is_http1(head.version),
            retry_state: RetryState::new(&head.method, grpc, &policy, &shared.limits.params.retry),
            request: None,
            attempt: None,
            status: None,
            grpc_response: GrpcResponse::NONE,
            body: None,
        };
        let mut exchange = Box::write(boxed, exchange);
        let Params { retry: retry::Params { buffer, .. }, .. } = shared.limits.params;
        let request = exchange.request.insert(OutgoingRequest::new(head, Replay::new(body, buffer), strip));
        if grpc {
            // grpcio fails a call on a 1xx response, and gRPC has no use for one.
            request.drop_interim();
        }
        if shared.drop_request_trailers {
            request.body_mut().drop_trailers();
        }
        exchange
    }

    pub(super) fn endpoints(&self) -> &Endpoints {
        self.shared.endpoints(self.http1)
    }

    /// Sends the request if an endpoint has a free stream.
    pub(super) fn send(&mut self, now: Instant, avoid: Option<Avoid>) -> bool {
        let request = self.request.as_mut().expect(UNANSWERED);
        self.attempt = self.shared.endpoints(self.http1).send(request, now, avoid);
        self.attempt_deadline.start();
        self.record_attempt();
        self.attempt.is_some()
    }

    /// Polls for the result of an attempt, or for the deadline.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<AttemptResult> {
        match self.request.as_mut().expect(UNANSWERED).poll_response(cx) {
            Poll::Ready(responded) => Poll::Ready(self.evaluate(responded)),
            Poll::Pending if self.is_timed_out(cx) => Poll::Ready(AttemptResult::LocalReply(Answer::deadline())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Sends the request as soon as there is a free stream, and again as long as it may be retried.
    pub(super) async fn send_later(mut self: Box<Self>) -> Result<Response<Body>, Error> {
        let mut deadline = self.deadline.take();
        let (result, timed_out) = {
            let mut sending = pin!(async {
                loop {
                    if let Err(answer) = self.send_when_ready().await {
                        return AttemptResult::LocalReply(answer);
                    }
                    match poll_fn(|cx| self.poll(cx)).await {
                        AttemptResult::Retry => {}
                        result => return result,
                    }
                }
            });
            poll_fn(|cx| match sending.as_mut().poll(cx) {
                Poll::Pending if is_expired(&mut deadline, cx) => {
                    Poll::Ready((AttemptResult::LocalReply(Answer::deadline()), true))
                }
                polled => polled.map(|result| (result, false)),
            })
            .await
        };
        self.deadline = deadline;
        if timed_out {
            self.set_timed_out();
        }
        self.end(result)
    }

    async fn send_when_ready(&mut self) -> Result<(), Answer> {
        let shared = Arc::clone(&self.shared);
        let ProxyShared { limits, stats, .. } = &*shared;
        let endpoints = shared.endpoints(self.http1);
        let last = self.attempt.take();
        let avoid = last.as_ref().map(|last| last.avoid(self.retry_state.endpoint_may_have_failed));
        endpoints.finish(last, None);
        let _pending = PendingRequest::start(limits, stats).ok_or_else(|| {
            stats.count_shed();
            Answer::unavailable(ProxyError::QueueFull, "too many requests waiting for an endpoint")
        })?;
        let request = self.request.as_mut().expect(UNANSWERED);
        self.attempt = shared.send_when_ready(self.http1, request, avoid, &mut self.retry_state.queue_number).await?;
        self.attempt_deadline.start();
        self.record_attempt();
        if self.attempt.is_none() { Err(Answer::no_extended_connect()) } else { Ok(()) }
    }

    /// Whether the request's deadline or the attempt's has passed; if not, wakes `cx` when one does.
    pub(super) fn is_expired(&mut self, cx: &mut Context<'_>) -> bool {
        is_expired(&mut self.deadline, cx) || self.attempt_deadline.is_expired(cx)
    }

    /// As [`is_expired`](Self::is_expired), while the endpoint is waited for.
    pub(super) fn is_timed_out(&mut self, cx: &mut Context<'_>) -> bool {
        let is_expired = self.is_expired(cx);
        if is_expired {
            self.set_timed_out();
        }
        is_expired
    }

    fn set_timed_out(&mut self) {
        if let Some(attempt) = &mut self.attempt {
            attempt.set_timed_out();
        }
    }

    /// Decides whether the response is passed on, or the request is sent again.
    fn evaluate(&mut self, responded: Result<Response<IncomingBody>, ClientError>) -> AttemptResult {
        let Self { shared, record, facts, started, request, attempt, retry_state, http1, .. } = self;
        let (policy, attempt) = (&shared.limits.params.retry, attempt.as_mut().expect("it was sent"));
        let reason = match &responded {
            Ok(rsp) => {
                shared.endpoints(*http1).record_response(attempt);
                policy.evaluate_response(rsp, retry_state)
            }
            Err(error) => {
                if error.is_response_malformed() {
                    shared.stats.transport(Side::Endpoint).count_malformed();
                }
                if error.is_connection_lost() || error.is_response_malformed() {
                    attempt.set_outcome(Outcome::Failure);
                } else if error.remote_reset().is_some() || error.is_stalled() {
                    attempt.set_no_response();
                }
                policy.evaluate_error(error, attempt.endpoint(), retry_state)
            }
        };
        let request = request.as_mut().expect(UNANSWERED);
        if let Some(reason) = reason
            && shared.prepare_retry(request.body_mut(), reason, retry_state)
        {
            if responded.is_ok() {
                attempt.set_outcome(Outcome::Failure);
            }
            let endpoint = facts.as_ref().and_then(|facts| facts.endpoint.as_ref());
            record.retry(now() - *started, reason, endpoint);
            request.stop();
            return AttemptResult::Retry;
        }
        match responded {
            Ok(rsp) => {
                let (head, body) = rsp.into_parts();
                self.body = Some(body);
                AttemptResult::Response(head)
            }
            Err(error) => AttemptResult::Failed(error),
        }
    }

    /// Answers the request with a response, or with a reset of its stream.
    pub(super) fn end(self: Box<Self>, result: AttemptResult) -> Result<Response<Body>, Error> {
        match result {
            AttemptResult::Response(head) => Ok(self.forward(head)),
            AttemptResult::LocalReply(answer) => Ok(self.answer(answer)),
            AttemptResult::Failed(error) => self.fail(&error),
            AttemptResult::Retry => unreachable!("a retry does not end the request"),
        }
    }

    fn forward(mut self: Box<Self>, mut head: response::Parts) -> Response<Body> {
        self.record_head();
        let outcome = match retry::is_gateway_error(head.status) {
            // A gateway error to CONNECT concerns the host that it names, not the endpoint.
            true if self.is_plain_connect() => Outcome::Unknown,
            true => Outcome::Failure,
            false => Outcome::Success,
        };
        // gRPC's method is POST.
        let may_be_call = !self.retry_state.idempotent && self.request.as_ref().is_some_and(|it| !it.is_connect());
        if let Some(mut request) = self.request.take_if(|request| !request.is_done()) {
            // A tunnel lasts as long as both sides want, and has no length.
            if request.is_connect() && tunnel::is_accepted_by(head.status) {
                self.deadline = None;
                head.headers.remove(CONTENT_LENGTH);
            }
            request.body_mut().forget();
            let endpoint = Arc::clone(self.shared.stats.transport(Side::Endpoint));
            request.spawn_rest(move |ended| {
                if ended == SendOutcome::Stalled {
                    endpoint.count_stream_limit(StreamLimit::WriteStall);
                }
            });
        }
        self.request = None;
        self.status = Some(head.status);
        if self.grpc {
            // HTTP/1.1 may not have trailers.
            self.grpc_response.start(&head, may_be_call, !self.http1);
        }
        self.set_outcome(if self.grpc_response.is_unavailable() { Outcome::Failure } else { outcome });
        Response::from_parts(head, Body::new(self))
    }

    fn is_plain_connect(&self) -> bool {
        self.request.as_ref().is_some_and(|request| request.is_connect() && !request.is_extended_connect())
    }

    /// Sets the attempt's outcome, if there is an attempt.
    pub(super) fn set_outcome(&mut self, outcome: Outcome) {
        if let Some(attempt) = &mut self.attempt {
            attempt.set_outcome(outcome);
        }
    }

    fn fail(mut self: Box<Self>, error: &ClientError) -> Result<Response<Body>, Error> {
        let endpoint = self.shared.stats.transport(Side::Endpoint);
        if let Some(reason) = error.remote_reset() {
            endpoint.count_reset(Some(reason));
        }
        if error.is_unrepresentable() {
            Ok(self.answer(Answer::bad_request(error.to_string())))
        } else if error.is_request_too_large() {
            Ok(self.answer(Answer::head_too_large()))
        } else if error.is_stalled() {
            endpoint.count_stream_limit(StreamLimit::WriteStall);
            Ok(self.answer(Answer::stalled()))
        } else if error.is_response_malformed() {
            Ok(self.answer(Answer::bad_gateway(ProxyError::BadResponse, error.to_string())))
        } else if error.is_refused() || (self.http1 && error.is_unprocessed()) {
            // A client that gets RST_STREAM(REFUSED_STREAM) may send the request again, which was done here in vain.
            Ok(self.answer(Answer::unavailable(ProxyError::Refused, "endpoint refused the request")))
        } else if self.http1 && error.is_request_broken() {
            // The client has broken it off, or its framing is malformed.
            Ok(self.answer(Answer::bad_request(error.to_string())))
        } else if self.http1 {
            Ok(self.answer(Answer::bad_gateway(ProxyError::ConnectionLost, error.to_string())))
        } else if let Some(reason) = error.remote_reset() {
            self.record.reset_by_endpoint(Some(reason.into()));
            Err(Error { source: StreamError::of(Side::Endpoint.passed_on(reason)) })
        } else if error.is_request_broken() {
            let source = if self.request.as_mut().expect(UNANSWERED).body_mut().is_malformed() {
                self.shared.stats.transport(Side::Client).count_malformed();
                self.record.cut(ProxyError::BadRequest, Some(Reason::PROTOCOL_ERROR.into()));
                StreamError::PROTOCOL_ERROR
            } else {
                // The client has reset the stream or closed the connection, so it does not see the code.
                StreamError::CANCEL
            };
            Err(Error { source })
        } else {
            Ok(self.answer(Answer::bad_gateway(ProxyError::ConnectionLost, "connection to endpoint was lost")))
        }
    }

    pub(super) fn answer(mut self: Box<Self>, answer: Answer) -> Response<Body> {
        self.request = None;
        answer.record(&self.record, self.grpc);
        if let Some(error) = answer.error() {
            self.shared.stats.transport(Side::Client).count_proxy_error(error);
        }
        let rsp = answer.into_response(self.grpc);
        self.status = Some(rsp.status());
        self.grpc_response.status = grpc::status(rsp.headers());
        rsp.map(|()| Body::new(self))
    }
}

/// Whether there is a deadline and it has passed; if not, wakes `cx` when it passes.
fn is_expired(deadline: &mut Deadline, cx: &mut Context<'_>) -> bool {
    deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mimalloc has a short path to blocks of up to 1,024 bytes; the long one is some 200 instructions for each request.
    #[test]
    fn an_exchange_is_allocated_by_the_short_path() {
        assert!(size_of::<Exchange>() <= 1_024, "it has {} bytes", size_of::<Exchange>());
    }
}
