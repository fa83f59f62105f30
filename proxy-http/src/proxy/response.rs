//! The response of an exchange as the body that its client gets.

use crate::{
    balance::breaker::Outcome,
    body::{self, outcome::Backpressure, source::Source},
    message::answer::Answer,
    proxy::exchange::Exchange,
    stats::{ProxyError, Side},
};
use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
};

impl Exchange {
    /// The trailers that end a gRPC response which its endpoint has left between two messages, so that the client learns that
    /// the call may be repeated. `None`: it is reset, because a part of a message would look whole, or because the endpoint's
    /// code has a meaning for the client.
    fn end_without_endpoint(&mut self, error: &body::Error) -> Option<HeaderMap> {
        let reason = match error.reset().map(Reason::from) {
            None => "connection to endpoint was lost",
            Some(Reason::CANCEL | Reason::NO_ERROR) => "endpoint cancelled the response",
            Some(_) => return None,
        };
        self.grpc_response.cut(&Answer::bad_gateway(ProxyError::ConnectionLost, reason))
    }
}

impl Source for Exchange {
    fn buffer(&mut self, cx: &mut Context<'_>) -> Backpressure {
        let pressure = self.body.as_mut().map_or(Backpressure::End, |body| body.buffer(cx));
        // The client is waited for, not the endpoint.
        if !self.is_expired(cx) {
            return pressure;
        }
        self.record_cut(&Answer::deadline(), false);
        Backpressure::Expired
    }

    /// gRPC has a status in trailers, which follow a whole message.
    fn cut(&mut self, cause: &Answer) -> Option<HeaderMap> {
        let trailers = self.grpc_response.cut(cause);
        self.record_cut(cause, trailers.is_some());
        trailers
    }
}

impl http_body::Body for Exchange {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        let exchange = &mut *self;
        // The only value that is returned, so that no frame is moved.
        let mut polled = match &mut exchange.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        };
        match &polled {
            // Some clients wait for the status for ever.
            Poll::Ready(None) if exchange.grpc_response.lacks_status() => {
                let cut = exchange.cut(&Answer::no_grpc_status()).map(Frame::trailers);
                polled = Poll::Ready(Some(cut.ok_or_else(body::Error::cut_off)));
            }
            Poll::Pending if exchange.is_timed_out(cx) => {
                let cut = exchange.cut(&Answer::deadline()).map(Frame::trailers);
                polled = Poll::Ready(Some(cut.ok_or_else(body::Error::timed_out)));
            }
            Poll::Ready(Some(Ok(frame))) if exchange.grpc => {
                if let Some(data) = frame.data_ref() {
                    exchange.grpc_response.advance(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    if !exchange.grpc_response.end(trailers) {
                        polled = Poll::Ready(Some(Err(body::Error::cut_off())));
                    } else if exchange.grpc_response.is_unavailable() {
                        exchange.set_outcome(Outcome::Failure);
                    }
                }
            }
            Poll::Ready(Some(Err(error))) if error.is_malformed() => {
                exchange.shared.stats.transport(Side::Endpoint).count_malformed();
                exchange.set_outcome(Outcome::Failure);
            }
            Poll::Ready(Some(Err(error))) if !error.is_timeout() && !error.is_given_up() => {
                exchange.shared.stats.transport(Side::Endpoint).count_reset(error.reset().map(Reason::from));
                if error.is_connection_lost() {
                    exchange.set_outcome(Outcome::Failure);
                }
                exchange.record_frame(&polled);
                if let Some(trailers) = exchange.end_without_endpoint(error) {
                    polled = Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                return polled;
            }
            _ => {}
        }
        if exchange.record.is_on() {
            exchange.record_frame(&polled);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        !self.grpc_response.lacks_status() && self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, http_body::Body::size_hint)
    }
}
