//! The spans of a request, with the names of OpenTelemetry's semantic conventions.

use super::context::Trace;
use crate::client_addr::PeerAddr;
use http::{
    Method, StatusCode, Version,
    header::{HOST, USER_AGENT},
    request,
    uri::{Authority, PathAndQuery, Scheme},
};
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{
        Span, Status,
        span::{Event, SpanKind},
        status::StatusCode as SpanStatus,
    },
};
use proxy_http::stats::{RequestEnd, ResetBy, Retry};
use std::{
    mem::size_of,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The client of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    pub(super) direction: &'static str,
    pub(super) peer: PeerAddr,
}

/// A request, of which spans are made when they are sent.
#[derive(Debug)]
pub(super) struct RequestSpans {
    trace: Trace,
    client: Client,
    started: SystemTime,
    method: Method,
    scheme: Option<Scheme>,
    path: String,
    authority: Option<String>,
    user_agent: Option<String>,
    version: Version,
    is_grpc: bool,
    pub(super) end: RequestEnd,
}

/// Bytes of a path, and of any other text of a client; longer ones are cut.
const MAX_PATH: usize = 1_024;
const MAX_VALUE: usize = 256;

/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK` and `SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`: whether the parent is of another process.
const LOCAL_PARENT: u32 = 0x100;
const REMOTE_PARENT: u32 = 0x300;

/// The resource that all spans belong to.
pub(super) fn resource(attributes: Vec<(String, String)>) -> Resource {
    let mut attributes: Vec<_> = attributes.into_iter().map(|(name, value)| text(&name, value)).collect();
    if attributes.iter().all(|attribute| attribute.key != "process.pid") {
        attributes.push(number("process.pid", std::process::id()));
    }
    Resource { attributes, ..Resource::default() }
}

pub(super) fn scope() -> InstrumentationScope {
    let (name, version) = (env!("CARGO_PKG_NAME").to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    InstrumentationScope { name, version, ..InstrumentationScope::default() }
}

// === impl RequestSpans ===

impl RequestSpans {
    /// A request that has come at `started`.
    pub(super) fn start(trace: Trace, client: Client, head: &request::Parts, started: SystemTime) -> Self {
        let authority = head.uri.authority().map(Authority::as_str);
        let authority = authority.or_else(|| head.headers.get(HOST)?.to_str().ok());
        Self {
            trace,
            client,
            started,
            method: head.method.clone(),
            scheme: head.uri.scheme().cloned(),
            path: cut(head.uri.path_and_query().map_or("", PathAndQuery::path), MAX_PATH),
            authority: authority.map(|authority| cut(authority, MAX_VALUE)),
            user_agent: head
                .headers
                .get(USER_AGENT)
                .map(|agent| cut(&String::from_utf8_lossy(agent.as_bytes()), MAX_VALUE)),
            version: head.version,
            is_grpc: proxy_http::is_grpc(&head.headers),
            end: RequestEnd::default(),
        }
    }

    /// Spans that the request has.
    pub(super) fn spans(&self) -> u64 {
        1 + u64::from(self.end.time_to_send.is_some())
    }

    /// Bytes of memory, about.
    pub(super) fn size(&self) -> usize {
        let texts = [Some(&self.path), Some(&self.trace.state), self.authority.as_ref(), self.user_agent.as_ref()];
        let texts = texts.into_iter().flatten().chain(&self.end.proxy_error_detail).map(String::len);
        size_of::<Self>() + texts.sum::<usize>() + self.end.retries.len() * size_of::<Retry>()
    }

    pub(super) fn to_spans(&self) -> Vec<Span> {
        [Some(self.server()), self.end.time_to_send.map(|sent| self.client(sent))].into_iter().flatten().collect()
    }

    /// From the request's head to its end.
    fn server(&self) -> Span {
        let Client { direction, peer } = self.client;
        let mut attributes = self.attributes();
        attributes.push(text("proxy.direction", direction));
        match peer {
            PeerAddr::Tcp(peer) => {
                attributes.push(text("client.address", peer.ip().to_string()));
                attributes.push(number("client.port", peer.port()));
            }
            PeerAddr::Unix => attributes.push(text("network.transport", "unix")),
        }
        attributes.push(text("network.protocol.version", version(self.version)));
        attributes.extend(self.user_agent.as_ref().map(|agent| text("user_agent.original", agent.clone())));
        attributes.push(number("http.request.body.size", self.end.request_bytes));
        if let Some(labels) = &self.end.labels {
            attributes.push(text("proxy.destination", &*labels.destination));
            attributes.extend(labels.route.as_ref().map(|route| text("proxy.route", &**route)));
        }
        let (kind, flags) = (SpanKind::Server, REMOTE_PARENT);
        let ids = (self.trace.parent, self.trace.server);
        self.span(kind, ids, flags, Duration::ZERO, attributes)
    }

    /// From the first attempt to the request's end.
    fn client(&self, sent: Duration) -> Span {
        let mut attributes = self.attributes();
        if let Some(endpoint) = &self.end.endpoint {
            let (address, port) = host_and_port(endpoint);
            attributes.push(text("network.peer.address", address));
            attributes.extend(port.map(|port| number("network.peer.port", port)));
        }
        if self.end.attempts > 1 {
            attributes.push(number("http.request.resend_count", self.end.attempts - 1));
        }
        let ids = (self.trace.server, self.trace.client);
        let mut span = self.span(SpanKind::Client, ids, LOCAL_PARENT, sent, attributes);
        for Retry { after, reason, endpoint, .. } in &self.end.retries {
            let mut attributes = vec![text("proxy.retry.reason", reason.to_string())];
            attributes.extend(endpoint.as_ref().map(|endpoint| text("proxy.retry.endpoint", &**endpoint)));
            span.events.push(self.event("retry", *after, attributes));
        }
        if let Some(time) = self.end.time_to_head {
            span.events.push(self.event("first byte", time, Vec::new()));
        }
        span
    }

    /// The attributes of both.
    fn attributes(&self) -> Vec<KeyValue> {
        let (method, original) = known_method(&self.method);
        let mut attributes = vec![
            text("http.request.method", method),
            text("url.path", self.path.clone()),
            text("network.protocol.name", "http"),
            number("http.response.body.size", self.end.response_bytes),
        ];
        attributes.extend(original.map(|original| text("http.request.method_original", cut(original, MAX_VALUE))));
        attributes.extend(self.scheme.as_ref().map(|scheme| text("url.scheme", scheme.as_str())));
        if let Some(authority) = &self.authority {
            let (address, port) = host_and_port(authority);
            attributes.push(text("server.address", address));
            attributes.extend(port.map(|port| number("server.port", port)));
        }
        attributes.extend(self.end.status.map(|status| number("http.response.status_code", status.as_u16())));
        if let Some((service, method)) = self.rpc() {
            attributes.extend([text("rpc.system", "grpc"), text("rpc.service", service), text("rpc.method", method)]);
            attributes.extend(self.end.grpc_status.map(|status| number("rpc.grpc.status_code", status)));
        }
        attributes
    }

    fn span(
        &self,
        kind: SpanKind,
        (parent, id): ([u8; 8], [u8; 8]),
        flags: u32,
        start: Duration,
        mut attributes: Vec<KeyValue>,
    ) -> Span {
        let error = self.error(kind);
        attributes.extend(error.as_ref().map(|error| text("error.type", error.clone())));
        let message = self.end.proxy_error_detail.as_ref().map_or_else(String::new, |detail| cut(detail, MAX_VALUE));
        Span {
            trace_id: self.trace.id.to_vec(),
            span_id: id.to_vec(),
            parent_span_id: parent.to_vec(),
            trace_state: self.trace.state.clone(),
            flags: flags | u32::from(self.trace.flags),
            name: self.rpc().map_or_else(|| self.name().to_owned(), |(service, method)| format!("{service}/{method}")),
            kind: kind.into(),
            start_time_unix_nano: self.nanos(start),
            end_time_unix_nano: self.nanos(self.end.duration.max(start)),
            attributes,
            status: error.map(|_| Status { message, code: SpanStatus::Error.into() }),
            ..Span::default()
        }
    }

    /// The name of a request that is no gRPC: paths are too many.
    fn name(&self) -> &str {
        match known_method(&self.method) {
            (method, None) => method,
            (_, Some(_)) => "HTTP",
        }
    }

    /// The service and the method of a gRPC call.
    fn rpc(&self) -> Option<(&str, &str)> {
        self.path.strip_prefix('/')?.rsplit_once('/').filter(|_| self.is_grpc)
    }

    /// The kind of error. `None`: there is none, or for a span of kind server one that is the client's.
    fn error(&self, kind: SpanKind) -> Option<String> {
        let RequestEnd { status, grpc_status, proxy_error, reset, .. } = &self.end;
        if let Some(error) = proxy_error {
            let is_clients =
                kind == SpanKind::Server && reset.is_none() && status.is_some_and(|status| status.is_client_error());
            return (!is_clients).then(|| error.name().to_owned());
        }
        if let Some(reset) = reset {
            let by = match reset.by {
                ResetBy::Client => "client_reset",
                ResetBy::Endpoint => "endpoint_reset",
                ResetBy::Proxy => "proxy_reset",
            };
            return Some(by.to_owned());
        }
        // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS are the server's.
        let is_error = |code: u8| code > 0 && (kind == SpanKind::Client || [2, 4, 12, 13, 14, 15].contains(&code));
        if let Some(code) = grpc_status.filter(|_| self.is_grpc) {
            return is_error(code).then(|| code.to_string());
        }
        let is_error =
            |status: &StatusCode| status.is_server_error() || (kind == SpanKind::Client && status.is_client_error());
        status.filter(is_error).map(|status| status.as_str().to_owned())
    }

    fn event(&self, name: &str, at: Duration, attributes: Vec<KeyValue>) -> Event {
        Event { name: name.to_owned(), time_unix_nano: self.nanos(at), attributes, ..Event::default() }
    }

    /// A time after the request's head.
    fn nanos(&self, after: Duration) -> u64 {
        let since = self.started.duration_since(UNIX_EPOCH).unwrap_or_default() + after;
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

fn text(name: &str, value: impl Into<String>) -> KeyValue {
    attribute(name, Value::StringValue(value.into()))
}

fn number(name: &str, value: impl TryInto<i64>) -> KeyValue {
    attribute(name, Value::IntValue(value.try_into().unwrap_or(i64::MAX)))
}

fn attribute(name: &str, value: Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// The start of a text.
fn cut(value: &str, max: usize) -> String {
    value[..value.floor_char_boundary(max)].to_owned()
}

/// The two parts of an authority, an IPv6 address without its brackets.
fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (host, None),
    };
    (host.trim_matches(['[', ']']), port)
}

/// The method, or in its place `_OTHER` and the method: names that clients choose are too many.
fn known_method(method: &Method) -> (&str, Option<&str>) {
    const KNOWN: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];
    match method.as_str() {
        method if KNOWN.contains(&method) => (method, None),
        method => ("_OTHER", Some(method)),
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

#[cfg(test)]
pub(super) mod tests;
