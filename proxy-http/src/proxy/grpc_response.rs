//! The response to a call of gRPC: its status, and where its messages end.

use crate::message::{
    answer::Answer,
    grpc::{self, MessageFraming},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header::CONTENT_LENGTH, response};

/// The part of a response that only gRPC has.
#[derive(Debug)]
pub(super) struct GrpcResponse {
    /// The status, as far as it has come.
    pub(super) status: Option<u8>,
    /// Where the response's data is between messages.
    framing: MessageFraming,
    /// Whether the response is one of gRPC, and not a page, say.
    is_grpc: bool,
    /// Whether the response must end with a status.
    needs_status: bool,
}

// === impl GrpcResponse ===

impl GrpcResponse {
    /// No response, or one that is none of gRPC.
    pub(super) const NONE: Self =
        Self { status: None, framing: MessageFraming::BROKEN, is_grpc: false, needs_status: false };

    /// Starts with the head of the response to a call. `may_be_call`: the request's method may be gRPC's. `has_trailers`: the response's
    /// version of HTTP always takes trailers.
    pub(super) fn start(&mut self, head: &response::Parts, may_be_call: bool, has_trailers: bool) {
        self.status = grpc::status(&head.headers);
        self.is_grpc = grpc::is_grpc(&head.headers);
        if head.status == StatusCode::OK && has_trailers && self.is_grpc {
            self.needs_status = may_be_call;
            // A response that ends before its length is malformed.
            if !head.headers.contains_key(CONTENT_LENGTH) {
                self.framing = MessageFraming::default();
            }
        }
    }

    #[inline]
    pub(super) fn advance(&mut self, data: &Bytes) {
        self.framing.advance(data);
    }

    /// Takes the status of the trailers. False: there is none, nor was one in the head, so that the call has no result.
    pub(super) fn end(&mut self, trailers: &HeaderMap) -> bool {
        let status = trailers.get(&grpc::STATUS);
        self.needs_status = false;
        // h2 drops fields beyond the header list size without an error.
        if status.is_none() && self.status.is_none() && self.is_grpc {
            return false;
        }
        self.status = status.and_then(grpc::parse_status);
        true
    }

    /// Ends the response in the endpoint's place. Returns trailers, if it stands between two messages: within a message they would
    /// make the part look whole.
    pub(super) fn cut(&mut self, cause: &Answer) -> Option<HeaderMap> {
        self.needs_status = false;
        self.framing.is_between_messages().then(|| {
            self.status = Some(cause.code() as u8);
            cause.to_trailers()
        })
    }

    /// Whether a status has to come yet.
    #[inline]
    pub(super) fn lacks_status(&self) -> bool {
        self.needs_status && self.status.is_none()
    }

    pub(super) fn is_unavailable(&self) -> bool {
        self.status == Some(grpc::Code::Unavailable as u8)
    }
}
