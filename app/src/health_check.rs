//! The request of a health check, and the judgement of its response: `grpc.health.v1.Health/Check`, or a GET.

use crate::dns::Target;
use app_env::{HealthCheckRequest, StreamAddr};
use bytes::{BufMut as _, Bytes};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use proxy_http::{IncomingBody, SendRequest, balance::health_check::Failure};
use std::{future::Future, sync::Arc, time::Duration};
use tower_service::Service as _;

/// A check of any endpoint. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Check(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    request: HealthCheckRequest,
    scheme: &'static str,
    timeout: Duration,
}

/// Bytes of a response's body that are read. A health service has no reason for more.
const MAX_BODY: usize = 64 << 10;
/// The largest value of `grpc-timeout`, in milliseconds: eight digits.
const MAX_GRPC_TIMEOUT: u128 = 99_999_999;
const CHECK: &str = "/grpc.health.v1.Health/Check";
const UNIMPLEMENTED: &str = "12";
const SERVING: u64 = 1;
/// The field of `HealthCheckRequest` with the service, which is a string, and the one of `HealthCheckResponse` with the
/// status, which is an enum: number 1 both.
const FIELD: u8 = 1;
const VARINT: u8 = 0;
const LENGTH_DELIMITED: u8 = 2;

// === impl Check ===

impl Check {
    /// `timeout`: the deadline that an endpoint of gRPC is told; the check ends then as well.
    pub(crate) fn new(request: HealthCheckRequest, has_tls: bool, timeout: Duration) -> Self {
        let scheme = if has_tls { "https" } else { "http" };
        Self(Arc::new(Inner { request, scheme, timeout }))
    }

    /// Sends the request on a connection to `target`.
    pub(crate) fn run(
        &self,
        target: &Target,
        mut connection: SendRequest<Full<Bytes>>,
    ) -> impl Future<Output = Result<(), Failure>> + Send + use<> {
        let (request, is_grpc) = (self.0.request(target), matches!(self.0.request, HealthCheckRequest::Grpc(_)));
        async move {
            let request = request.map_err(|error| Failure::Response(format!("it cannot be sent: {error}")))?;
            let response = connection.call(request).await.map_err(Failure::NoResponse)?;
            let judged = if is_grpc { judge_grpc(response).await } else { judge_http(response).await };
            judged.map_err(Failure::Response)
        }
    }
}

// === impl Inner ===

impl Inner {
    fn request(&self, target: &Target) -> Result<Request<Full<Bytes>>, http::Error> {
        let authority = authority(target);
        let uri = |path: &str| format!("{}://{authority}{path}", self.scheme);
        let request = Request::builder().header(header::USER_AGENT, "health-check");
        match &self.request {
            HealthCheckRequest::Http(path) => request.method(Method::GET).uri(uri(path)).body(Full::default()),
            HealthCheckRequest::Grpc(service) => request
                .method(Method::POST)
                .uri(uri(CHECK))
                .header(header::CONTENT_TYPE, "application/grpc")
                .header(header::TE, "trailers")
                .header("grpc-timeout", format!("{}m", self.timeout.as_millis().clamp(1, MAX_GRPC_TIMEOUT)))
                .body(Full::new(grpc_message(service))),
        }
    }
}

/// The host that the endpoint was found by, or its address. A Unix domain socket has `localhost`, as clients of gRPC and curl have it.
fn authority(target: &Target) -> String {
    match (&target.addr, target.host.as_deref()) {
        (StreamAddr::Unix(_), _) => "localhost".to_owned(),
        (StreamAddr::Tcp(addr), None) => addr.to_string(),
        (StreamAddr::Tcp(addr), Some(host)) if host.contains(':') => format!("[{host}]:{}", addr.port()),
        (StreamAddr::Tcp(addr), Some(host)) => format!("{host}:{}", addr.port()),
    }
}

/// A `HealthCheckRequest` with the five bytes of gRPC before it.
fn grpc_message(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(FIELD << 3 | LENGTH_DELIMITED);
        put_varint(&mut message, service.len());
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = Vec::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("an environment variable is shorter than 4 GiB"));
    framed.extend_from_slice(&message);
    framed.into()
}

fn put_varint(to: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        to.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

async fn judge_http(response: Response<IncomingBody>) -> Result<(), String> {
    let status = response.status();
    if !status.is_success() {
        return Err(format!("the response has status {status}"));
    }
    read(response.into_body()).await.map(|_| ())
}

async fn judge_grpc(response: Response<IncomingBody>) -> Result<(), String> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("the response has status {}", head.status));
    }
    // A response without a message may have its status in the head.
    if head.headers.contains_key("grpc-status") {
        grpc_status(&head.headers)?;
    }
    let (message, trailers) = read(body).await?;
    grpc_status(trailers.as_ref().unwrap_or(&head.headers))?;
    match serving_status(&message) {
        Some(SERVING) => Ok(()),
        Some(0) => Err("the service is UNKNOWN".to_owned()),
        Some(2) => Err("the service is NOT_SERVING".to_owned()),
        Some(3) => Err("the service is SERVICE_UNKNOWN".to_owned()),
        Some(other) => Err(format!("the service has the unknown status {other}")),
        None => Err("the response is no HealthCheckResponse".to_owned()),
    }
}

fn grpc_status(headers: &HeaderMap) -> Result<(), String> {
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    match text("grpc-status").as_deref() {
        Some("0") => Ok(()),
        Some(UNIMPLEMENTED) => {
            Err("the endpoint does not implement grpc.health.v1.Health (grpc-status 12): register the \
                                    service there, or set HEALTH_CHECK to http:/PATH or off"
                .to_owned())
        }
        // gRPC's protocol for health checks: the service is not known there.
        Some("5") => Err("the endpoint does not know the service (grpc-status 5)".to_owned()),
        Some(status) => {
            let message = text("grpc-message").unwrap_or_default();
            Err(format!("the response has grpc-status {status} {message}").trim_end().to_owned())
        }
        None => Err("the response has no grpc-status".to_owned()),
    }
}

/// Reads a body, or the first [`MAX_BODY`] bytes of it, and its trailers.
async fn read(mut body: IncomingBody) -> Result<(Vec<u8>, Option<HeaderMap>), String> {
    let (mut bytes, mut trailers) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("the response was cut: {error}"))?;
        match frame.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        if bytes.len() > MAX_BODY {
            break;
        }
    }
    Ok((bytes, trailers))
}

/// The status in a `HealthCheckResponse` with the five bytes of gRPC before it. `None`: it is malformed.
fn serving_status(framed: &[u8]) -> Option<u64> {
    let (prefix, mut message) = framed.split_at_checked(5)?;
    let (flags, length) = prefix.split_first()?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    if *flags != 0 || u32::try_from(message.len()) != Ok(length) {
        return None;
    }
    // Without the field it has its default, 0.
    let mut status = 0;
    while !message.is_empty() {
        let key = take_varint(&mut message)?;
        let kind = (key & 7) as u8;
        let value = match kind {
            VARINT => take_varint(&mut message)?,
            LENGTH_DELIMITED => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
                continue;
            }
            1 => {
                message = message.get(8..)?;
                continue;
            }
            5 => {
                message = message.get(4..)?;
                continue;
            }
            _ => return None,
        };
        if key >> 3 == u64::from(FIELD) {
            status = value;
        }
    }
    Some(status)
}

fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use app_env::EndpointAddr;

    #[test]
    fn a_request_names_its_service() {
        assert_eq!(grpc_message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(grpc_message("a.B")[..], *b"\0\0\0\0\x05\x0a\x03a.B");
        let long = grpc_message(&"a".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn only_a_whole_response_has_a_status() {
        let check = |bytes: &[u8], expect: Option<u64>| assert_eq!(serving_status(bytes), expect, "{bytes:?}");
        check(&[0, 0, 0, 0, 2, 0x08, 1], Some(1));
        check(&[0, 0, 0, 0, 2, 0x08, 2], Some(2));
        check(&[0, 0, 0, 0, 0], Some(0));
        // Fields of later versions are skipped.
        check(&[0, 0, 0, 0, 16, 0x12, 2, 9, 9, 0x1d, 0, 0, 0, 0, 0x08, 3, 0x20, 0x80, 1, 0x12, 0], Some(3));
        check(&[0, 0, 0, 0, 11, 0x08, 1, 0x11, 0, 0, 0, 0, 0, 0, 0, 0], Some(1));
        for malformed in [
            &[][..],
            &[0, 0, 0, 0],
            &[1, 0, 0, 0, 2, 0x08, 1],
            &[0, 0, 0, 0, 3, 0x08, 1],
            &[0, 0, 0, 0, 1, 0x08],
            &[0, 0, 0, 0, 3, 0x12, 9, 0],
            &[0, 0, 0, 0, 1, 0x0b],
            &[0, 0, 0, 0, 11, 0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255],
        ] {
            check(malformed, None);
        }
    }

    #[test]
    fn a_check_is_sent_to_the_host_that_the_endpoint_was_found_by() {
        let target = |addr: &str, host: Option<&str>| Target {
            addr: StreamAddr::Tcp(addr.parse().unwrap()),
            host: host.map(Into::into),
        };
        assert_eq!(authority(&target("127.0.0.1:80", None)), "127.0.0.1:80");
        assert_eq!(authority(&target("127.0.0.1:80", Some("a.example"))), "a.example:80");
        assert_eq!(authority(&target("[::1]:80", Some("::1"))), "[::1]:80");
        let Ok(EndpointAddr::Unix(unix)) = "unix:/run/a.sock".parse() else { panic!("it is a path") };
        assert_eq!(authority(&Target { addr: StreamAddr::Unix(unix), host: None }), "localhost");
    }
}
