//! The form of a line. Values from outside are escaped, so that a line is always one, of printable ASCII.

use crate::metrics::reset_code_name;
use app_env::AccessLogFormat as Format;
use http::{HeaderMap, HeaderName, HeaderValue, Version, header, request, uri::Authority};
use proxy_http::stats::RequestEnd;
use std::{
    io::Write as _,
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

/// A line that is being made.
pub(super) struct Line {
    format: Format,
    bytes: Vec<u8>,
    /// Fields of the request; in the Common Log Format they follow the response's.
    after: Vec<u8>,
}

/// Most lines need less.
const CAPACITY: usize = 768;
/// Bytes of a path, and of any other value; longer ones are cut, and end with `...`.
const MAX_PATH: usize = 4_096;
const MAX_VALUE: usize = 512;

// Names that are not parsed for each request.
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static B3: HeaderName = HeaderName::from_static("b3");
static B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

// === impl Line ===

impl Line {
    /// The start of the lines of one client.
    pub(super) fn client(format: Format, direction: &str, peer: SocketAddr, identity: Option<&str>) -> Vec<u8> {
        let mut line = Vec::new();
        match format {
            Format::Json => {
                line.extend_from_slice(b"{\"direction\":");
                quoted(format, &mut line, direction.as_bytes(), MAX_VALUE);
                text(format, &mut line, "client.addr", peer.to_string().as_bytes());
                if let Some(identity) = identity {
                    text(format, &mut line, "client.id", identity.as_bytes());
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
        bytes.extend_from_slice(client);
        timestamp(&mut bytes, time);
        let (method, version) = (head.method.as_str().as_bytes(), version(head.version));
        let path = head.uri.path_and_query().map_or("", |path| path.as_str()).as_bytes();
        let mut after = Vec::new();
        let fields = match format {
            Format::Json => {
                bytes.push(b'"');
                text(format, &mut bytes, "method", method);
                bytes.extend_from_slice(b",\"path\":");
                quoted(format, &mut bytes, path, MAX_PATH);
                text(format, &mut bytes, "version", version.as_bytes());
                &mut bytes
            }
            Format::Apache => {
                bytes.extend_from_slice(b"] \"");
                escaped(format, &mut bytes, method, MAX_VALUE);
                bytes.push(b' ');
                escaped(format, &mut bytes, if path.is_empty() { b"-" } else { path }, MAX_PATH);
                bytes.push(b' ');
                bytes.extend_from_slice(version.as_bytes());
                bytes.push(b'"');
                &mut after
            }
        };
        let authority = head.uri.authority().map(|authority: &Authority| authority.as_str().as_bytes());
        if let Some(host) = authority.or_else(|| head.headers.get(header::HOST).map(HeaderValue::as_bytes)) {
            text(format, fields, "host", host);
        }
        if let Some(agent) = head.headers.get(header::USER_AGENT) {
            text(format, fields, "user_agent", agent.as_bytes());
        }
        if let Some(trace) = trace_id(&head.headers) {
            text(format, fields, "trace_id", trace);
        }
        Self { format, bytes, after }
    }

    /// The line of a request that has come at `time`, and of which nothing but the version is known.
    pub(super) fn refused(format: Format, client: &[u8], time: SystemTime, of: Version) -> Self {
        let mut bytes = Vec::with_capacity(CAPACITY);
        bytes.extend_from_slice(client);
        timestamp(&mut bytes, time);
        match format {
            Format::Json => {
                bytes.push(b'"');
                text(format, &mut bytes, "version", version(of).as_bytes());
            }
            Format::Apache => {
                bytes.extend_from_slice(b"] \"- - ");
                bytes.extend_from_slice(version(of).as_bytes());
                bytes.push(b'"');
            }
        }
        Self { format, bytes, after: Vec::new() }
    }

    /// The whole line.
    pub(super) fn end(mut self, end: &RequestEnd) -> Vec<u8> {
        let (format, line) = (self.format, &mut self.bytes);
        match (format, end.status) {
            (Format::Json, Some(status)) => number(format, line, "status", status.as_u16().into()),
            (Format::Json, None) => {}
            (Format::Apache, status) => {
                line.push(b' ');
                line.extend_from_slice(status.as_ref().map_or("-", |status| status.as_str()).as_bytes());
                line.push(b' ');
                if end.response_bytes == 0 {
                    line.push(b'-')
                } else {
                    digits(line, end.response_bytes)
                }
                line.extend_from_slice(&self.after);
            }
        }
        if let Some(status) = end.grpc_status {
            number(format, line, "grpc_status", status.into());
        }
        number(format, line, "request_bytes", end.request_bytes);
        number(format, line, "response_bytes", end.response_bytes);
        let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        number(format, line, "total_ns", nanos(end.duration));
        if let Some(time) = end.time_to_head {
            number(format, line, "head_ns", nanos(time));
        }
        if let Some(endpoint) = &end.endpoint {
            text(format, line, "endpoint", endpoint.as_bytes());
        }
        if let Some(labels) = &end.labels {
            text(format, line, "destination", labels.destination.as_bytes());
            if let Some(route) = &labels.route {
                text(format, line, "route", route.as_bytes());
            }
        }
        number(format, line, "attempts", end.attempts.into());
        if let Some(error) = end.proxy_error {
            text(format, line, "proxy_error", error.name().as_bytes());
        }
        if let Some(detail) = &end.proxy_error_detail {
            text(format, line, "proxy_error_detail", detail.as_bytes());
        }
        if let Some(reset) = end.reset {
            text(format, line, "reset_by", reset.by.name().as_bytes());
            match reset.code.map(|code| (code, reset_code_name(code))) {
                Some((_, Some(name))) => text(format, line, "reset_code", name.as_bytes()),
                Some((code, None)) => text(format, line, "reset_code", code.to_string().as_bytes()),
                None => {}
            }
        }
        line.extend_from_slice(if format == Format::Json { b"}\n" } else { b"\n" });
        self.bytes
    }
}

/// The trace that a request belongs to, as the W3C's `traceparent` has it, or b3, or an id of the request alone.
fn trace_id(headers: &HeaderMap) -> Option<&[u8]> {
    let field = |name: &HeaderName| headers.get(name).map(HeaderValue::as_bytes);
    let part = |value: &'_ [u8], part| value.split(|byte| *byte == b'-').nth(part).map(<[u8]>::len);
    if let Some(parent) = field(&TRACEPARENT) {
        // version-traceid-parentid-flags
        let (version, id) = (part(parent, 0)?, part(parent, 1).unwrap_or(0));
        if id > 0 {
            return parent.get(version + 1..version + 1 + id);
        }
    }
    if let Some(b3) = field(&B3) {
        return b3.split(|byte| *byte == b'-').next();
    }
    field(&B3_TRACE_ID).or_else(|| field(&REQUEST_ID))
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// A field with a text.
fn text(format: Format, line: &mut Vec<u8>, name: &str, value: &[u8]) {
    field(format, line, name);
    quoted(format, line, value, MAX_VALUE);
}

/// A field with a number.
fn number(format: Format, line: &mut Vec<u8>, name: &str, value: u64) {
    field(format, line, name);
    digits(line, value);
}

fn field(format: Format, line: &mut Vec<u8>, name: &str) {
    match format {
        Format::Json => {
            line.extend_from_slice(b",\"");
            line.extend_from_slice(name.as_bytes());
            line.extend_from_slice(b"\":");
        }
        Format::Apache => {
            line.push(b' ');
            line.extend_from_slice(name.as_bytes());
            line.push(b'=');
        }
    }
}

fn quoted(format: Format, line: &mut Vec<u8>, value: &[u8], max: usize) {
    line.push(b'"');
    escaped(format, line, value, max);
    line.push(b'"');
}

/// A value, at most `max` bytes of it, with escapes for all but printable ASCII.
fn escaped(format: Format, line: &mut Vec<u8>, value: &[u8], max: usize) {
    let (value, is_cut) = value.split_at_checked(max).map_or((value, false), |(start, rest)| (start, !rest.is_empty()));
    let is_plain = |byte: &u8| (b' '..=b'~').contains(byte) & (*byte != b'"') & (*byte != b'\\');
    // Without an early end the compiler looks at many bytes at once.
    if value.iter().fold(true, |are_plain, byte| are_plain & is_plain(byte)) {
        line.extend_from_slice(value);
    } else if format == Format::Json {
        for chunk in value.utf8_chunks() {
            for char in chunk.valid().chars() {
                match u8::try_from(char) {
                    Ok(byte) if is_plain(&byte) => line.push(byte),
                    Ok(byte @ (b'"' | b'\\')) => line.extend_from_slice(&[b'\\', byte]),
                    _ => {
                        char.encode_utf16(&mut [0; 2]).iter().for_each(|unit| push(line, format_args!("\\u{unit:04x}")))
                    }
                }
            }
            if !chunk.invalid().is_empty() {
                line.extend_from_slice(b"\\ufffd");
            }
        }
    } else {
        for byte in value {
            match byte {
                b'"' | b'\\' => line.extend_from_slice(&[b'\\', *byte]),
                byte if is_plain(byte) => line.push(*byte),
                byte => push(line, format_args!("\\x{byte:02x}")),
            }
        }
    }
    if is_cut {
        line.extend_from_slice(b"...");
    }
}

fn push(line: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A vector takes all.
    let _ = line.write_fmt(text);
}

fn digits(line: &mut Vec<u8>, mut value: u64) {
    let (mut buf, mut at) = ([0; 20], 20);
    loop {
        at -= 1;
        buf[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    line.extend_from_slice(&buf[at..]);
}

/// A time in UTC to the microsecond, as RFC 3339 has it.
fn timestamp(line: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Years start in March, so that the leap day is the last one; 400 of them have 146,097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year + u64::from(month >= 10), if month < 10 { month + 3 } else { month - 9 });
    let micros = u64::from(since.subsec_micros());
    let parts = [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (date, 2, b'T'),
        (second / 3_600, 2, b':'),
        (second / 60 % 60, 2, b':'),
        (second % 60, 2, b'.'),
        (micros, 6, b'Z'),
    ];
    for (value, width, end) in parts {
        let start = line.len();
        line.resize(start + width, b'0');
        let mut rest = value;
        for digit in line[start..].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        line.push(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, StatusCode};
    use std::time::Duration;

    /// The line of a request with some fields, as text.
    fn line(format: Format, request: request::Builder, end: &RequestEnd) -> String {
        let client = Line::client(format, "outbound", ([127, 0, 0, 1], 9).into(), Some("a \"b\""));
        let (head, ()) = request.body(()).unwrap().into_parts();
        let time = UNIX_EPOCH + Duration::from_micros(951_782_400_000_123);
        String::from_utf8(Line::start(format, &client, time, &head).end(end)).unwrap()
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
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (68_169_599, "1972-02-28T23:59:59.000000Z"),
            (68_169_600, "1972-02-29T00:00:00.000000Z"),
            (951_868_799, "2000-02-29T23:59:59.000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000Z"),
            (1_798_761_599, "2026-12-31T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            let mut line = Vec::new();
            timestamp(&mut line, UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(String::from_utf8(line).unwrap(), text);
        }
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
            assert_eq!(trace_id(&headers), expected.map(str::as_bytes), "{fields:?}");
        }
    }
}
