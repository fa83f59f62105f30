//! The form of a line. Values from outside are escaped, so that a line is always one, of printable ASCII.

use super::value::{digits, escaped, timestamp};
use crate::{client_addr::PeerAddr, metrics::reset_code_name};
use app_env::AccessLogFormat as Format;
use http::{HeaderMap, Version, request, uri::Authority};
use proxy_http::stats::RequestEnd;
use std::time::{Duration, SystemTime};

/// A line that is being made.
pub(super) struct Line {
    bytes: Vec<u8>,
    /// The length of `bytes` up to the place of the status in the Common Log Format; other fields of the request follow it.
    status_at: usize,
}

/// Fields of a request's header section.
struct Fields<'a> {
    host: Option<&'a [u8]>,
    agent: Option<&'a [u8]>,
    /// The trace that the request belongs to, or an id of the request alone.
    trace_id: Option<&'a [u8]>,
}

/// The name of a field in each format, with all that is written before the value.
struct Name {
    json: &'static str,
    apache: &'static str,
}

/// Most lines need less.
const CAPACITY: usize = 768;
/// Bytes of a path, and of any other value; longer ones are cut, and end with `...`.
const MAX_PATH: usize = 4_096;
const MAX_VALUE: usize = 512;

/// The name of a field with a number.
macro_rules! number {
    ($name:literal) => {
        Name { json: concat!(",\"", $name, "\":"), apache: concat!(" ", $name, "=") }
    };
}

/// The name of a field with a text, which [`text`] ends with a quotation mark.
macro_rules! text {
    ($name:literal) => {
        Name { json: concat!(",\"", $name, "\":\""), apache: concat!(" ", $name, "=\"") }
    };
}

// === impl Line ===

impl Line {
    /// The start of the lines of one client.
    pub(super) fn client(format: Format, direction: &str, peer: PeerAddr, identity: Option<&str>) -> Vec<u8> {
        let mut line = Vec::new();
        match format {
            Format::Json => {
                line.extend_from_slice(b"{\"direction\":\"");
                escaped(format, &mut line, direction.as_bytes(), MAX_VALUE);
                line.push(b'"');
                text(format, &mut line, text!("client.addr"), peer.to_string().as_bytes());
                if let Some(identity) = identity {
                    text(format, &mut line, text!("client.id"), identity.as_bytes());
                }
                line.extend_from_slice(b",\"timestamp\":\"");
            }
            Format::Apache => {
                line.extend_from_slice(peer.to_string().as_bytes());
                line.push(b' ');
                // A space would end the field.
                let identity = identity.unwrap_or("-").replace(' ', "+");
                escaped(format, &mut line, identity.as_bytes(), MAX_VALUE);
                line.extend_from_slice(b" - [");
            }
        }
        line
    }

    /// The line of a request that has come at `time`. `client`: the start of all lines of its client.
    pub(super) fn start(format: Format, client: &[u8], time: SystemTime, head: &request::Parts) -> Self {
        let mut bytes = Vec::with_capacity(CAPACITY);
        let line = &mut bytes;
        line.extend_from_slice(client);
        timestamp(line, time);
        let (method, version) = (head.method.as_str().as_bytes(), version(head.version));
        let path = head.uri.path_and_query().map_or("", |path| path.as_str()).as_bytes();
        match format {
            Format::Json => {
                line.extend_from_slice(b"\",\"method\":\"");
                escaped(format, line, method, MAX_VALUE);
                line.extend_from_slice(b"\",\"path\":\"");
                escaped(format, line, path, MAX_PATH);
                line.extend_from_slice(b"\",\"version\":\"");
            }
            Format::Apache => {
                line.extend_from_slice(b"] \"");
                escaped(format, line, method, MAX_VALUE);
                line.push(b' ');
                escaped(format, line, if path.is_empty() { b"-" } else { path }, MAX_PATH);
                line.push(b' ');
            }
        }
        line.extend_from_slice(version.as_bytes());
        line.push(b'"');
        let status_at = line.len();
        let Fields { host, agent, trace_id } = Fields::new(&head.headers);
        let authority = head.uri.authority().map(|authority: &Authority| authority.as_str().as_bytes());
        if let Some(host) = authority.or(host) {
            text(format, line, text!("host"), host);
        }
        if let Some(agent) = agent {
            text(format, line, text!("user_agent"), agent);
        }
        if let Some(trace) = trace_id {
            text(format, line, text!("trace_id"), trace);
        }
        Self { bytes, status_at }
    }

    /// The line of a request that has come at `time`, and of which nothing but the version is known.
    pub(super) fn refused(format: Format, client: &[u8], time: SystemTime, of: Version) -> Self {
        let mut bytes = Vec::with_capacity(CAPACITY);
        bytes.extend_from_slice(client);
        timestamp(&mut bytes, time);
        match format {
            Format::Json => {
                bytes.push(b'"');
                text(format, &mut bytes, text!("version"), version(of).as_bytes());
            }
            Format::Apache => {
                bytes.extend_from_slice(b"] \"- - ");
                bytes.extend_from_slice(version(of).as_bytes());
                bytes.push(b'"');
            }
        }
        let status_at = bytes.len();
        Self { bytes, status_at }
    }

    /// The whole line.
    pub(super) fn end(self, format: Format, end: &RequestEnd) -> Vec<u8> {
        let Self { mut bytes, status_at } = self;
        let line = &mut bytes;
        match (format, end.status) {
            (Format::Json, Some(status)) => {
                number!("status").push(format, line);
                // Three digits.
                line.extend(status.as_str().as_bytes().first_chunk::<3>().into_iter().flatten());
            }
            (Format::Json, None) => {}
            (Format::Apache, status) => {
                let len = line.len();
                line.push(b' ');
                line.extend_from_slice(status.as_ref().map_or("-", |status| status.as_str()).as_bytes());
                line.push(b' ');
                if end.response_bytes == 0 {
                    line.push(b'-')
                } else {
                    digits(line, end.response_bytes)
                }
                let added = line.len() - len;
                line[status_at..].rotate_right(added);
            }
        }
        if let Some(status) = end.grpc_status {
            number(format, line, number!("grpc_status"), status.into());
        }
        number(format, line, number!("request_bytes"), end.request_bytes);
        number(format, line, number!("response_bytes"), end.response_bytes);
        number(format, line, number!("total_ns"), nanos(end.duration));
        if let Some(time) = end.time_to_head {
            number(format, line, number!("head_ns"), nanos(time));
        }
        if let Some(endpoint) = &end.endpoint {
            text(format, line, text!("endpoint"), endpoint.as_bytes());
        }
        if let Some(labels) = &end.labels {
            text(format, line, text!("destination"), labels.destination.as_bytes());
            if let Some(route) = &labels.route {
                text(format, line, text!("route"), route.as_bytes());
            }
        }
        number(format, line, number!("attempts"), end.attempts.into());
        if end.proxy_error.is_some() || end.reset.is_some() || end.proxy_error_detail.is_some() {
            error(format, line, end);
        }
        line.extend_from_slice(if format == Format::Json { b"}\n" } else { b"\n" });
        bytes
    }
}

/// The fields of a request that did not end as it should.
#[cold]
fn error(format: Format, line: &mut Vec<u8>, end: &RequestEnd) {
    if let Some(error) = end.proxy_error {
        text(format, line, text!("proxy_error"), error.name().as_bytes());
    }
    if let Some(detail) = &end.proxy_error_detail {
        text(format, line, text!("proxy_error_detail"), detail.as_bytes());
    }
    if let Some(reset) = end.reset {
        text(format, line, text!("reset_by"), reset.by.name().as_bytes());
        match reset.code.map(|code| (code, reset_code_name(code))) {
            Some((_, Some(name))) => text(format, line, text!("reset_code"), name.as_bytes()),
            Some((code, None)) => text(format, line, text!("reset_code"), code.to_string().as_bytes()),
            None => {}
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

// === impl Fields ===

impl<'a> Fields<'a> {
    /// Goes through the fields once: a look-up for each name would hash it.
    fn new(headers: &'a HeaderMap) -> Self {
        let (mut host, mut agent) = (None, None);
        let (mut traceparent, mut b3, mut b3_trace_id, mut request_id) = (None, None, None, None);
        for (name, value) in headers {
            let slot = match name.as_str() {
                "host" => &mut host,
                "user-agent" => &mut agent,
                "traceparent" => &mut traceparent,
                "b3" => &mut b3,
                "x-b3-traceid" => &mut b3_trace_id,
                "x-request-id" => &mut request_id,
                _ => continue,
            };
            // The first of a name.
            slot.get_or_insert(value.as_bytes());
        }
        Self { host, agent, trace_id: trace_id(traceparent, b3).or(b3_trace_id).or(request_id) }
    }
}

/// The trace that a request belongs to, as the W3C's `traceparent` has it, or b3.
fn trace_id<'a>(traceparent: Option<&'a [u8]>, b3: Option<&'a [u8]>) -> Option<&'a [u8]> {
    let part = |value: &'a [u8], part| value.split(|byte| *byte == b'-').nth(part);
    // version-traceid-parentid-flags
    let id = traceparent.and_then(|parent| part(parent, 1)).filter(|id| !id.is_empty());
    id.or_else(|| part(b3?, 0))
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

// === impl Name ===

impl Name {
    /// Inlined, so that the name is copied as the constant that it is.
    #[inline(always)]
    fn push(self, format: Format, line: &mut Vec<u8>) {
        line.extend_from_slice(match format {
            Format::Json => self.json.as_bytes(),
            Format::Apache => self.apache.as_bytes(),
        });
    }
}

/// A field with a text.
#[inline(always)]
fn text(format: Format, line: &mut Vec<u8>, name: Name, value: &[u8]) {
    name.push(format, line);
    escaped(format, line, value, MAX_VALUE);
    line.push(b'"');
}

/// A field with a number.
#[inline(always)]
fn number(format: Format, line: &mut Vec<u8>, name: Name, value: u64) {
    name.push(format, line);
    digits(line, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, Request, StatusCode, header};
    use std::time::UNIX_EPOCH;

    /// The line of a request with some fields, as text.
    fn line(format: Format, request: request::Builder, end: &RequestEnd) -> String {
        let client = Line::client(format, "outbound", PeerAddr::Tcp(([127, 0, 0, 1], 9).into()), Some("a \"b\""));
        let (head, ()) = request.body(()).unwrap().into_parts();
        let time = UNIX_EPOCH + Duration::from_micros(951_782_400_000_123);
        String::from_utf8(Line::start(format, &client, time, &head).end(format, end)).unwrap()
    }

    #[test]
    fn any_value_leaves_a_line_one_line_and_json_valid() {
        let foreign = |byte: u8| HeaderValue::from_bytes(&[b'a', byte, b'z']).ok();
        for agent in (0..=u8::MAX).filter_map(foreign) {
            for format in [Format::Json, Format::Apache] {
                let request = Request::get("http://h.example/p?q=%22").header(header::USER_AGENT, &agent);
                let mut end = RequestEnd::default();
                end.proxy_error_detail = Some("no\nsuch\u{2028}thing \u{1f980}".to_owned());
                let line = line(format, request, &end);
                let is_printable = |byte: u8| matches!(byte, b' '..=b'~');
                assert!(line.strip_suffix('\n').unwrap().bytes().all(is_printable), "{line:?}");
                if format == Format::Json {
                    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
                    let lossy = String::from_utf8_lossy(agent.as_bytes()).into_owned();
                    assert_eq!(value["user_agent"], lossy);
                    assert_eq!(value["proxy_error_detail"], "no\nsuch\u{2028}thing \u{1f980}");
                    assert_eq!((&value["client.id"], &value["path"]), (&"a \"b\"".into(), &"/p?q=%22".into()));
                }
            }
        }
    }

    #[test]
    fn the_common_log_format_has_more_fields_behind_it() {
        let mut end = RequestEnd::default();
        (end.status, end.response_bytes) = (Some(StatusCode::OK), 12);
        let line = line(Format::Apache, Request::get("http://h.example/p"), &end);
        assert_eq!(
            line,
            "127.0.0.1:9 a+\\\"b\\\" - [2000-02-29T00:00:00.000123Z] \"GET /p HTTP/1.1\" 200 12 host=\"h.example\" \
             request_bytes=0 response_bytes=12 total_ns=0 attempts=0\n"
        );
    }

    #[test]
    fn long_values_are_cut() {
        let request = Request::get(format!("http://h.example/{}", "p".repeat(9_000)))
            .header(header::USER_AGENT, HeaderValue::from_bytes(&[0xe9; 9_000]).unwrap());
        let line = line(Format::Json, request, &RequestEnd::default());
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["path"].as_str().unwrap(), format!("/{}...", "p".repeat(MAX_PATH - 1)));
        assert!(value["user_agent"].as_str().unwrap().ends_with("\u{fffd}..."));
    }

    #[test]
    fn a_trace_is_found_in_each_of_its_fields() {
        for (fields, expected) in [
            (
                &[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")][..],
                Some("0af7651916cd43dd8448eb211c80319c"),
            ),
            (&[("traceparent", "nothing"), ("b3", "80f198ee56343ba8-e457b5a2e4d86bd1-1")], Some("80f198ee56343ba8")),
            (&[("traceparent", ""), ("x-request-id", "r-1")], Some("r-1")),
            (&[("x-b3-traceid", "463ac35c9f6413ad"), ("x-request-id", "r-1")], Some("463ac35c9f6413ad")),
            (&[("x-request-id", "r-1")], Some("r-1")),
            (&[], None),
        ] {
            let headers = fields
                .iter()
                .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), HeaderValue::from_static(value)));
            let headers: HeaderMap = headers.collect();
            assert_eq!(Fields::new(&headers).trace_id, expected.map(str::as_bytes), "{fields:?}");
        }
    }
}
