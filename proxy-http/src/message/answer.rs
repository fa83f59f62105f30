//! Responses that the proxy generates itself in place of an endpoint.

use crate::{
    message::grpc,
    stats::{ProxyError, Record, Transport},
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

const PROXY_ERROR: HeaderName = HeaderName::from_static("proxy-error");

/// A response of the proxy itself, in the form of HTTP or of gRPC.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    status: StatusCode,
    code: grpc::Code,
    /// `None`: it is no error.
    error: Option<ProxyError>,
    reason: String,
}

impl Answer {
    fn new(status: StatusCode, code: grpc::Code, error: ProxyError, reason: impl Into<String>) -> Self {
        Self { status, code, error: Some(error), reason: reason.into() }
    }

    /// No endpoint could be connected to.
    pub(crate) fn connect_failed(reason: impl Into<String>) -> Self {
        Self::bad_gateway(ProxyError::ConnectFailed, reason)
    }

    /// The connection to the endpoint was lost, or could not be made, or the response is of no use.
    pub(crate) fn bad_gateway(error: ProxyError, reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, grpc::Code::Unavailable, error, reason)
    }

    /// A gRPC response ended without a status. gRPC has this for an HTTP status of 200 without one.
    pub(crate) fn no_grpc_status() -> Self {
        let reason = "endpoint ended the response without a gRPC status";
        Self::new(StatusCode::BAD_GATEWAY, grpc::Code::Unknown, ProxyError::BadResponse, reason)
    }

    /// The request is malformed. gRPC has this for 400.
    pub(crate) fn bad_request(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, grpc::Code::Internal, ProxyError::BadRequest, reason)
    }

    /// The request's head is larger than the endpoint takes. gRPC has this for 431.
    pub(crate) fn head_too_large() -> Self {
        let (status, reason) = (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head is larger than the endpoint takes");
        Self::new(status, grpc::Code::Internal, ProxyError::EndpointHeadLimit, reason)
    }

    /// The request's header list is larger than clients may send.
    pub(crate) fn header_list_too_large() -> Self {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self::new(status, grpc::Code::ResourceExhausted, ProxyError::HeadTooLarge, "header list is too large")
    }

    /// The heads of the client's open requests are larger together than the proxy holds for it.
    pub(crate) fn heads_too_large() -> Self {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let reason = "heads of open requests are too large together";
        Self::new(status, grpc::Code::ResourceExhausted, ProxyError::BufferedHeads, reason)
    }

    /// The heads of other clients' requests leave no room for the request's.
    pub(crate) fn no_room_for_heads() -> Self {
        Self::unavailable(ProxyError::BufferedHeads, "heads of other requests leave no room")
    }

    /// The request cannot be sent now.
    pub(crate) fn unavailable(error: ProxyError, reason: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, grpc::Code::Unavailable, error, reason)
    }

    /// No endpoint is ready, or there is none.
    pub(crate) fn no_endpoint(reason: impl Into<String>) -> Self {
        Self::unavailable(ProxyError::NoEndpoint, reason)
    }

    /// Connecting took too long.
    pub(crate) fn connect_timeout(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, grpc::Code::Unavailable, ProxyError::ConnectTimeout, reason)
    }

    /// No route takes the request.
    pub(crate) fn no_route() -> Self {
        let reason = "no route for the request";
        Self::new(StatusCode::NOT_FOUND, grpc::Code::Unimplemented, ProxyError::NoRoute, reason)
    }

    /// The request's route leads to no back end.
    pub(crate) fn no_backend() -> Self {
        let reason = "the request's route has no back end";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, grpc::Code::Unavailable, ProxyError::NoBackend, reason)
    }

    /// The client is not allowed.
    pub(crate) fn forbidden(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, grpc::Code::PermissionDenied, ProxyError::Forbidden, reason)
    }

    /// The request's own deadline passed.
    pub(crate) fn deadline() -> Self {
        let reason = "request deadline passed";
        Self::new(StatusCode::GATEWAY_TIMEOUT, grpc::Code::DeadlineExceeded, ProxyError::Deadline, reason)
    }

    /// Nothing was received or sent on the request's stream for too long.
    pub(crate) fn idle() -> Self {
        let reason = "nothing moved on the stream for too long";
        Self::new(StatusCode::GATEWAY_TIMEOUT, grpc::Code::DeadlineExceeded, ProxyError::Idle, reason)
    }

    /// The connection is closed before the response is whole.
    pub(crate) fn closing() -> Self {
        Self::unavailable(ProxyError::Closing, "connection is closed before the response is whole")
    }

    /// The endpoint took no more of the request for too long.
    pub(crate) fn stalled() -> Self {
        let reason = "endpoint took no more of the request";
        Self::new(StatusCode::GATEWAY_TIMEOUT, grpc::Code::DeadlineExceeded, ProxyError::EndpointStalled, reason)
    }

    /// The request has more header fields than the limit.
    pub(crate) fn too_many_fields() -> Self {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self::new(status, grpc::Code::ResourceExhausted, ProxyError::HeadTooLarge, "too many header fields")
    }

    /// The request's path and query are longer than the limit.
    pub(crate) fn uri_too_long() -> Self {
        let status = StatusCode::URI_TOO_LONG;
        Self::new(status, grpc::Code::ResourceExhausted, ProxyError::UriTooLong, "URI is too long")
    }

    /// The client has sent too many requests. Rates are a request a second at least, so that another may be sent after a second.
    pub(crate) fn rate_limited() -> Self {
        let (status, reason) = (StatusCode::TOO_MANY_REQUESTS, "the client sends too many requests");
        Self::new(status, grpc::Code::ResourceExhausted, ProxyError::RateLimited, reason)
    }

    /// The request's route has got too many requests. Another may be sent after a second, as for a client.
    pub(crate) fn route_rate_limited() -> Self {
        let (status, reason) = (StatusCode::TOO_MANY_REQUESTS, "the request's route gets too many requests");
        Self::new(status, grpc::Code::ResourceExhausted, ProxyError::RateLimited, reason)
    }

    /// The request has come back to the proxy.
    pub(crate) fn loop_detected() -> Self {
        let reason = "the request has come back too often";
        Self::new(StatusCode::LOOP_DETECTED, grpc::Code::Internal, ProxyError::Loop, reason)
    }

    /// An OPTIONS that goes no further, of which the proxy has nothing to say.
    pub(crate) fn options() -> Self {
        Self { status: StatusCode::OK, code: grpc::Code::Unimplemented, error: None, reason: String::new() }
    }

    /// The proxy does not implement the request's method or protocol.
    pub(crate) fn unimplemented(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, grpc::Code::Unimplemented, ProxyError::Unimplemented, reason)
    }

    /// The endpoint takes no extended CONNECT.
    pub(crate) fn no_extended_connect() -> Self {
        Self::unimplemented("the endpoint does not take WebSocket over HTTP/2")
    }

    /// The reason. `None`: it is no error.
    pub(crate) fn error(&self) -> Option<ProxyError> {
        self.error
    }

    /// The HTTP status and the gRPC status of the response.
    pub(crate) fn statuses(&self, grpc: bool) -> (StatusCode, Option<u8>) {
        if grpc { (StatusCode::OK, Some(self.code as u8)) } else { (self.status, None) }
    }

    /// Counts the answer to a request that does not come to the service.
    pub(crate) fn count_early(&self, grpc: bool, transport: &Transport) {
        if let Some(error) = self.error {
            let (status, grpc_status) = self.statuses(grpc);
            transport.count_early_answer(error, status, grpc_status);
        }
    }

    /// Counts the answer in the place of a service that has the request.
    pub(crate) fn count_late(&self, grpc: bool, transport: &Transport) {
        if let Some(error) = self.error {
            let (status, grpc_status) = self.statuses(grpc);
            transport.count_late_answer(error, status, grpc_status);
        }
    }

    /// Adds the answer to the record of its request.
    pub(crate) fn record(&self, record: &Record, grpc: bool) {
        record.edit(|end| {
            let (status, grpc_status) = self.statuses(grpc);
            (end.status, end.grpc_status) = (Some(status), grpc_status);
            end.proxy_error = self.error;
            end.proxy_error_detail = self.error.map(|_| self.reason.clone());
        });
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
