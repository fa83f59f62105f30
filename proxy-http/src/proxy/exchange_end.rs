//! The end of an exchange: its counters, and the record for an observer.

use crate::{
    body,
    connection::now::now,
    message::answer::Answer,
    proxy::{exchange::Exchange, shared::ProxyShared},
    stats::{ExchangeFacts, ProxyError, Reset, ResetBy, is_failure},
};
use bytes::Bytes;
use h2::Reason;
use http_body::{Body, Frame};
use std::{fmt, sync::atomic::Ordering::Relaxed, task::Poll};

impl Exchange {
    /// Records an attempt, if one was made.
    pub(super) fn record_attempt(&mut self) {
        if let (Some(facts), Some(attempt)) = (&mut self.facts, &self.attempt) {
            facts.time_to_send.get_or_insert_with(|| now() - self.started);
            facts.endpoint = self.shared.endpoints(self.http1).addr(attempt);
            facts.attempts = facts.attempts.saturating_add(1);
        }
    }

    /// Records that the response's head has come.
    pub(super) fn record_head(&mut self) {
        if let Some(facts) = &mut self.facts {
            facts.time_to_head = Some(now() - self.started);
        }
    }

    /// Records a frame of the response, or the error that it ends with.
    pub(super) fn record_frame(&mut self, polled: &Poll<Option<Result<Frame<Bytes>, body::Error>>>) {
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(facts) = &mut self.facts {
                    facts.response_bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
                }
            }
            Poll::Ready(Some(Err(error))) if error.is_malformed() || error.is_cut_off() => {
                self.record.cut(ProxyError::BadResponse, self.reset_code());
            }
            Poll::Ready(Some(Err(error))) if !error.is_timeout() && !error.is_given_up() => {
                self.record.reset_by_endpoint(error.reset());
            }
            _ => {}
        }
    }

    /// Records that the proxy ends the response before it is whole. `has_trailers`: by trailers that say so.
    pub(super) fn record_cut(&self, cause: &Answer, has_trailers: bool) {
        if let Some(error) = cause.error() {
            self.record.cut(error, self.reset_code().filter(|_| !has_trailers));
        }
    }

    /// The code of the RST_STREAM that ends a response which is not whole. `None`: the client uses HTTP/1.1, which has none.
    fn reset_code(&self) -> Option<u32> {
        (!self.http1).then_some(Reason::INTERNAL_ERROR.into())
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("started", &self.started).field("status", &self.status).finish_non_exhaustive()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let ProxyShared { limits, stats, .. } = &*self.shared;
        limits.in_flight.fetch_sub(1, Relaxed);
        // Without a body there is no response, or one of the proxy itself. To ask a body takes h2's lock, so it is asked for the
        // record alone.
        let is_cut = self.record.is_on() && !self.body.as_ref().map_or(self.status.is_some(), Body::is_end_stream);
        // First, because the response's body counts as the connection's stream as long as it lives.
        self.body = None;
        let is_failure = self.status.map(|status| is_failure(status, self.grpc_response.status));
        self.shared.endpoints(self.http1).finish(self.attempt.take(), is_failure);
        let duration = now() - self.started;
        if let Some(status) = self.status {
            stats.count_response(status, self.grpc_response.status, duration);
            if let Some(counters) = &self.counters {
                counters.count_response(status, self.grpc_response.status, duration);
            }
        }
        self.record.edit(|end| {
            let ExchangeFacts { attempts, endpoint, time_to_send, time_to_head, response_bytes } =
                self.facts.take().map_or_else(ExchangeFacts::default, |facts| *facts);
            (end.attempts, end.endpoint, end.time_to_head) = (attempts, endpoint, time_to_head);
            (end.time_to_send, end.response_bytes) = (time_to_send, response_bytes);
            end.status = end.status.or(self.status);
            end.grpc_status = self.grpc_response.status.or(end.grpc_status);
            end.duration = duration;
            end.labels = self.counters.as_ref().and_then(|counters| counters.labels().cloned());
            if is_cut && end.proxy_error.is_none() {
                // Nobody else drops a response that goes on.
                end.reset.get_or_insert(Reset { by: ResetBy::Client, code: None });
            }
        });
    }
}
