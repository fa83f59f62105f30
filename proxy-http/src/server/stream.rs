//! One stream of an HTTP/2 connection from a client.

use crate::{
    BoxError, IncomingBody,
    body::{outcome::SendOutcome, send::Pipe},
    connection::{flow::sending::SendingStream, timeouts::idle::Progress, write_batch::Chunk},
    message::{answer::Answer, interim, reset_code},
    stats::{ProxyError, Record, StreamLimit, Transport},
};
use bytes::Bytes;
use h2::{Reason, server::SendResponse};
use http::{Request, Response, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::time::Instant;
use tower_service::Service;

pin_project! {
    /// A stream from the call of the service to the last frame of the response.
    pub(super) struct StreamTask<S, F, B> {
        pub(super) started: Instant,
        pub(super) respond: SendResponse<Chunk>,
        // `None`: the response is being sent.
        pub(super) sending: Option<SendingStream>,
        pub(super) write_stall: Duration,
        pub(super) is_grpc: bool,
        // `None`: there is no stream idle timeout.
        pub(super) progress: Option<Arc<Progress>>,
        pub(super) record: Record,
        #[pin]
        pub(super) state: StreamState<S, F, B>,
    }
}

pin_project! {
    #[project = StreamStateProj]
    #[project_replace = StreamStateReplace]
    pub(super) enum StreamState<S, F, B> {
        Unready { waiting: Option<Box<(S, Request<IncomingBody>)>> },
        Called { #[pin] response: F },
        Sending { pipe: Pipe<B> },
    }
}

// === impl StreamTask ===

impl<S, B> Future for StreamTask<S, S::Future, B>
where
    S: Service<Request<IncomingBody>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// How the stream ended, and when it had started.
    type Output = (SendOutcome, Instant);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = ready!(self.as_mut().poll_outcome(cx));
        if self.record.is_on() {
            record_outcome(&self.record, ended);
        }
        Poll::Ready((ended, self.started))
    }
}

impl<S, B> StreamTask<S, S::Future, B>
where
    S: Service<Request<IncomingBody>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Ends the stream for `cause`, so that its client sees that the response is not whole. A stream without a response is
    /// counted on `transport`, if there is one.
    pub(super) fn cut(self: Pin<&mut Self>, cause: &Answer, transport: Option<&Transport>) {
        let this = self.project();
        match this.state.project() {
            StreamStateProj::Sending { pipe } => pipe.cut(cause),
            // gRPC's clients take a reset for INTERNAL.
            _ if *this.is_grpc => {
                transport.inspect(|transport| cause.count_late(true, transport));
                return answer_early(this.respond, cause.clone(), true, this.record);
            }
            _ => {
                transport.zip(cause.error()).inspect(|(transport, error)| transport.count_proxy_error(*error));
                this.respond.send_reset(Reason::INTERNAL_ERROR);
            }
        }
        if let Some(error) = cause.error() {
            this.record.cut(error, Some(Reason::INTERNAL_ERROR.into()));
        }
    }

    fn poll_outcome(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<SendOutcome> {
        let mut this = self.project();
        if let Some(progress) = this.progress {
            if progress.is_timed_out(cx) {
                return Poll::Ready(match this.state.project() {
                    StreamStateProj::Sending { pipe } => {
                        pipe.cut(&Answer::idle());
                        this.record.cut(ProxyError::Idle, Some(Reason::INTERNAL_ERROR.into()));
                        SendOutcome::Idle
                    }
                    _ => {
                        answer_early(this.respond, Answer::idle(), *this.is_grpc, this.record);
                        SendOutcome::IdleBeforeHead { grpc: *this.is_grpc }
                    }
                });
            }
            progress.mark();
        }
        loop {
            let polled = match this.state.as_mut().project() {
                StreamStateProj::Sending { pipe } => return pipe.poll(cx),
                StreamStateProj::Called { response } => {
                    interim::open();
                    response.poll(cx)
                }
                StreamStateProj::Unready { waiting } => {
                    let (service, _) = &mut **waiting.as_mut().expect("a service is called once");
                    match service.poll_ready(cx) {
                        Poll::Ready(Ok(())) => {
                            let (mut service, req) = *waiting.take().expect("the service was polled with it");
                            let response = service.call(req);
                            this.state.as_mut().project_replace(StreamState::Called { response });
                            continue;
                        }
                        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                        Poll::Pending => Poll::Pending,
                    }
                }
            };
            if interim::close() {
                send_interim(this.respond, cx);
            }
            let sent = match polled {
                Poll::Pending => {
                    let reset = ready!(this.respond.poll_reset(cx));
                    return Poll::Ready(reset.map_or(SendOutcome::Lost, SendOutcome::Reset));
                }
                Poll::Ready(Ok(rsp)) => {
                    respond(this.respond, this.sending, rsp, *this.write_stall).map_err(|error| error.reason())
                }
                Poll::Ready(Err(error)) => {
                    // The service may have failed because the client has reset the stream.
                    if let Poll::Ready(Ok(reason)) = this.respond.poll_reset(cx) {
                        return Poll::Ready(SendOutcome::Reset(reason));
                    }
                    Err(reset_code::first(&*error.into()))
                }
            };
            match sent {
                Ok(Some(pipe)) => this.state.as_mut().project_replace(StreamState::Sending { pipe }),
                Ok(None) => return Poll::Ready(SendOutcome::Done),
                Err(reason) => {
                    this.respond.send_reset(reason.unwrap_or(Reason::INTERNAL_ERROR));
                    return Poll::Ready(SendOutcome::Done);
                }
            };
        }
    }
}

/// Answers a request that does not come to the service.
pub(super) fn refuse(
    respond: &mut SendResponse<Chunk>,
    answer: Answer,
    grpc: bool,
    record: &Record,
    transport: &Transport,
) {
    answer.count_early(grpc, transport);
    answer_early(respond, answer, grpc, record);
}

/// Answers a request before the service does.
fn answer_early(respond: &mut SendResponse<Chunk>, answer: Answer, grpc: bool, record: &Record) {
    answer.record(record, grpc);
    // Fails only if the client has reset the stream.
    let _ = respond.send_response(answer.into_response(grpc), true);
}

/// Counts how a stream ended.
pub(super) fn count_outcome(outcome: SendOutcome, transport: &Transport) {
    match outcome {
        SendOutcome::Done | SendOutcome::Broken | SendOutcome::Answered => {}
        SendOutcome::Stalled => transport.count_stream_limit(StreamLimit::WriteStall),
        SendOutcome::Idle => transport.count_stream_limit(StreamLimit::Idle),
        SendOutcome::IdleBeforeHead { grpc } => {
            transport.count_stream_limit(StreamLimit::Idle);
            Answer::idle().count_late(grpc, transport);
        }
        SendOutcome::Reset(code) => transport.count_reset(Some(code)),
        SendOutcome::Lost => transport.count_reset(None),
    }
}

/// Records how a stream ended, unless that is known already.
fn record_outcome(record: &Record, outcome: SendOutcome) {
    match outcome {
        SendOutcome::Done | SendOutcome::Broken | SendOutcome::Answered => {}
        SendOutcome::Idle | SendOutcome::IdleBeforeHead { .. } => {}
        SendOutcome::Stalled => record.cut(ProxyError::ClientStalled, Some(Reason::INTERNAL_ERROR.into())),
        SendOutcome::Reset(code) => record.reset_by_client(Some(code.into())),
        SendOutcome::Lost => record.reset_by_client(None),
    }
}

/// Sends the head of a response. `None`: it has no body.
fn respond<B>(
    to: &mut SendResponse<Chunk>,
    sending: &mut Option<SendingStream>,
    rsp: Response<B>,
    write_stall: Duration,
) -> Result<Option<Pipe<B>>, h2::Error>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    sending.iter_mut().for_each(SendingStream::drop_head);
    let (head, body) = rsp.into_parts();
    let ended = body.is_end_stream();
    let to = to.send_response(Response::from_parts(head, ()), ended)?;
    Ok((!ended).then(|| {
        let mut pipe = Pipe::new(body, Reason::INTERNAL_ERROR);
        pipe.send_to(to, sending.take().expect("a response is sent once"), write_stall);
        pipe
    }))
}

/// Sends the interim responses that came before a response.
#[cold]
fn send_interim(respond: &mut SendResponse<Chunk>, cx: &mut Context<'_>) {
    for head in interim::take() {
        // h2 would also send it on a stream that is reset.
        if respond.poll_reset(cx).is_pending() {
            let _ = respond.send_informational(head);
        }
    }
}

// === impl StreamState ===

impl<S, B> StreamState<S, S::Future, B>
where
    S: Service<Request<IncomingBody>, Response = Response<B>> + Clone,
{
    pub(super) fn call(service: &mut S, head: Parts, body: IncomingBody) -> Self {
        // A service is nearly always ready; if not, the request waits in its stream's own task slot.
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Self::Called { response: service.call(Request::from_parts(head, body)) },
            Poll::Ready(Err(_)) | Poll::Pending => {
                let clone = service.clone();
                let req = Request::from_parts(head, body);
                Self::Unready { waiting: Some(Box::new((mem::replace(service, clone), req))) }
            }
        }
    }
}
