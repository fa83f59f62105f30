//! Responses that the proxy generates itself in place of an endpoint.

use crate::message::grpc;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

const PROXY_ERROR: HeaderName = HeaderName::from_static("proxy-error");

/// A response of the proxy itself, in the form of HTTP or of gRPC.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    status: StatusCode,
    code: grpc::Code,
    reason: String,
}

impl Answer {
    /// The connection to the endpoint was lost, or could not be made.
    pub(crate) fn bad_gateway(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_GATEWAY, code: grpc::Code::Unavailable, reason: reason.into() }
    }

    /// The request is malformed. gRPC has this for 400.
    pub(crate) fn bad_request(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: grpc::Code::Internal, reason: reason.into() }
    }

    /// The request's head is larger than the endpoint takes. gRPC has this for 431.
    pub(crate) fn head_too_large() -> Self {
        let (status, reason) = (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head is larger than the endpoint takes");
        Self { status, code: grpc::Code::Internal, reason: reason.to_owned() }
    }

    /// The request's header list is larger than clients may send.
    pub(crate) fn header_list_too_large() -> Self {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self { status, code: grpc::Code::ResourceExhausted, reason: "header list is too large".to_owned() }
    }

    /// The heads of the client's open requests are larger together than the proxy holds for it.
    pub(crate) fn heads_too_large() -> Self {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let reason = "heads of open requests are too large together".to_owned();
        Self { status, code: grpc::Code::ResourceExhausted, reason }
    }

    /// The heads of other clients' requests leave no room for the request's.
    pub(crate) fn no_room_for_heads() -> Self {
        Self::unavailable("heads of other requests leave no room")
    }

    /// No endpoint is available for the request.
    pub(crate) fn unavailable(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code: grpc::Code::Unavailable, reason: reason.into() }
    }

    /// Connecting took too long.
    pub(crate) fn connect_timeout(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::GATEWAY_TIMEOUT, code: grpc::Code::Unavailable, reason: reason.into() }
    }

    /// No route takes the request.
    pub(crate) fn no_route() -> Self {
        let reason = "no route for the request".to_owned();
        Self { status: StatusCode::NOT_FOUND, code: grpc::Code::Unimplemented, reason }
    }

    /// The request's route leads to no back end.
    pub(crate) fn no_backend() -> Self {
        let reason = "the request's route has no back end".to_owned();
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, code: grpc::Code::Unavailable, reason }
    }

    /// The client is not allowed.
    pub(crate) fn forbidden(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::FORBIDDEN, code: grpc::Code::PermissionDenied, reason: reason.into() }
    }

    /// The request's own deadline passed.
    pub(crate) fn deadline() -> Self {
        let reason = "request deadline passed".to_owned();
        Self { status: StatusCode::GATEWAY_TIMEOUT, code: grpc::Code::DeadlineExceeded, reason }
    }

    /// Nothing was received or sent on the request's stream for too long.
    pub(crate) fn idle() -> Self {
        let reason = "nothing moved on the stream for too long".to_owned();
        Self { status: StatusCode::GATEWAY_TIMEOUT, code: grpc::Code::DeadlineExceeded, reason }
    }

    /// The connection is closed before the response is whole.
    pub(crate) fn closing() -> Self {
        Self::unavailable("connection is closed before the response is whole")
    }

    /// The endpoint took no more of the request for too long.
    pub(crate) fn stalled() -> Self {
        let reason = "endpoint took no more of the request".to_owned();
        Self { status: StatusCode::GATEWAY_TIMEOUT, code: grpc::Code::DeadlineExceeded, reason }
    }

    /// The request has more header fields than the limit.
    pub(crate) fn too_many_fields() -> Self {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self { status, code: grpc::Code::ResourceExhausted, reason: "too many header fields".to_owned() }
    }

    /// The request's path and query are longer than the limit.
    pub(crate) fn uri_too_long() -> Self {
        let status = StatusCode::URI_TOO_LONG;
        Self { status, code: grpc::Code::ResourceExhausted, reason: "URI is too long".to_owned() }
    }

    /// The client has sent too many requests. Rates are a request a second at least, so that another may be sent after a second.
    pub(crate) fn rate_limited() -> Self {
        let reason = "the client sends too many requests".to_owned();
        Self { status: StatusCode::TOO_MANY_REQUESTS, code: grpc::Code::ResourceExhausted, reason }
    }

    /// The request has come back to the proxy.
    pub(crate) fn loop_detected() -> Self {
        let reason = "the request has come back too often".to_owned();
        Self { status: StatusCode::LOOP_DETECTED, code: grpc::Code::Internal, reason }
    }

    /// An OPTIONS that goes no further, of which the proxy has nothing to say.
    pub(crate) fn options() -> Self {
        Self { status: StatusCode::OK, code: grpc::Code::Unimplemented, reason: String::new() }
    }

    /// The proxy does not implement the request's method or protocol.
    pub(crate) fn unimplemented(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_IMPLEMENTED, code: grpc::Code::Unimplemented, reason: reason.into() }
    }

    /// The endpoint takes no extended CONNECT.
    pub(crate) fn no_extended_connect() -> Self {
        Self::unimplemented("the endpoint does not take WebSocket over HTTP/2")
    }

    /// The gRPC status.
    pub(crate) fn code(&self) -> grpc::Code {
        self.code
    }

    /// Trailers that end a gRPC response of which a part has been sent.
    pub(crate) fn to_trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(2);
        trailers.insert(&grpc::STATUS, HeaderValue::from(self.code as u16));
        trailers.insert(&grpc::MESSAGE, grpc::encode_message(&self.reason));
        trailers
    }

    /// The response's head, to go with an empty body: for gRPC one without messages ("trailers-only").
    pub(crate) fn into_response(self, grpc: bool) -> Response<()> {
        let mut rsp = Response::new(());
        let headers = rsp.headers_mut();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        if grpc {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(&grpc::STATUS, HeaderValue::from(self.code as u16));
            headers.insert(&grpc::MESSAGE, grpc::encode_message(&self.reason));
        }
        // Reasons are texts of the proxy and of the operating system. One that is no valid field value is left out.
        match HeaderValue::try_from(self.reason) {
            Ok(reason) if !reason.is_empty() => _ = headers.insert(PROXY_ERROR, reason),
            _ => {}
        }
        if !grpc {
            if self.status == StatusCode::TOO_MANY_REQUESTS {
                rsp.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            *rsp.status_mut() = self.status;
        }
        rsp
    }
}
