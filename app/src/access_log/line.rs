//! The form of a line. Values from outside are escaped, so that a line is always one, of printable ASCII.

use crate::metrics::reset_code_name;
use app_env::AccessLogFormat as Format;
use http::{HeaderMap, Version, request, uri::Authority};
use proxy_http::stats::RequestEnd;
use std::{
    cell::Cell,
    io::Write as _,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

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

/// All two-digit numbers.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut value = 0;
    while value < 100 {
        pairs[value as usize] = [b'0' + value / 10, b'0' + value % 10];
        value += 1;
    }
    pairs
};

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
    pub(super) fn client(format: Format, direction: &str, peer: SocketAddr, identity: Option<&str>) -> Vec<u8> {
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
            (Format::Json, Some(status)) => number(format, line, number!("status"), status.as_u16().into()),
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

/// A value, at most `max` bytes of it, with escapes for all but printable ASCII.
fn escaped(format: Format, line: &mut Vec<u8>, value: &[u8], max: usize) {
    if value.len() <= max && are_plain(value) {
        line.extend_from_slice(value);
    } else {
        escape(format, line, value, max);
    }
}

#[cold]
fn escape(format: Format, line: &mut Vec<u8>, value: &[u8], max: usize) {
    let (value, is_cut) = value.split_at_checked(max).map_or((value, false), |(start, rest)| (start, !rest.is_empty()));
    if format == Format::Json {
        for chunk in value.utf8_chunks() {
            for char in chunk.valid().chars() {
                match u8::try_from(char) {
                    Ok(byte) if is_plain(byte) => line.push(byte),
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
            match *byte {
                b'"' | b'\\' => line.extend_from_slice(&[b'\\', *byte]),
                byte if is_plain(byte) => line.push(byte),
                byte => push(line, format_args!("\\x{byte:02x}")),
            }
        }
    }
    if is_cut {
        line.extend_from_slice(b"...");
    }
}

/// Whether a byte needs no escape.
fn is_plain(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\'
}

/// [`is_plain`] for all bytes, eight at a time.
fn are_plain(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // Sets the high bit of each ASCII byte below `limit`, and maybe of the bytes that follow one: of none if no byte is below.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let is = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let special = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        word | below(word, b' '.into()) | is(word, b'"') | is(word, b'\\') | is(word, 0x7f)
    };
    // The last word overlaps the one before.
    let Some(last) = bytes.last_chunk() else { return bytes.iter().all(|byte| is_plain(*byte)) };
    bytes.as_chunks().0.iter().fold(special(last), |found, word| found | special(word)) & HIGH == 0
}

fn push(line: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A vector takes all.
    let _ = line.write_fmt(text);
}

fn digits(line: &mut Vec<u8>, mut value: u64) {
    let (mut buf, mut at) = ([0; 20], 20);
    while value >= 10 {
        at -= 2;
        buf[at..at + 2].copy_from_slice(&PAIRS[(value % 100) as usize]);
        value /= 100;
    }
    if value > 0 || at == 20 {
        at -= 1;
        buf[at] = b'0' + value as u8;
    }
    line.extend_from_slice(&buf[at..]);
}

/// A time in UTC to the microsecond, as RFC 3339 has it.
fn timestamp(line: &mut Vec<u8>, time: SystemTime) {
    thread_local! {
        /// The last second that was written, since 1970, and its text.
        static SECOND: Cell<(u64, [u8; 20])> = const { Cell::new((0, *b"1970-01-01T00:00:00.")) };
    }
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (mut second, mut text) = SECOND.get();
    if second != since.as_secs() {
        second = since.as_secs();
        text = date_and_time(second);
        SECOND.set((second, text));
    }
    line.extend_from_slice(&text);
    let micros = since.subsec_micros();
    let mut fraction = *b"000000Z";
    for (pair, value) in fraction.chunks_exact_mut(2).zip([micros / 10_000, micros / 100 % 100, micros % 100]) {
        pair.copy_from_slice(&PAIRS[value as usize]);
    }
    line.extend_from_slice(&fraction);
}

/// A second since 1970, up to the point before its fraction.
fn date_and_time(second: u64) -> [u8; 20] {
    let (days, second) = (second / 86_400, second % 86_400);
    // Years start in March, so that the leap day is the last one; 400 of them have 146,097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year + u64::from(month >= 10), if month < 10 { month + 3 } else { month - 9 });
    let mut text = *b"0000-00-00T00:00:00.";
    let parts = [
        (0, year / 100),
        (2, year),
        (5, month),
        (8, date),
        (11, second / 3_600),
        (14, second / 60 % 60),
        (17, second % 60),
    ];
    for (at, value) in parts {
        text[at..at + 2].copy_from_slice(&PAIRS[(value % 100) as usize]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, Request, StatusCode, header};

    /// The line of a request with some fields, as text.
    fn line(format: Format, request: request::Builder, end: &RequestEnd) -> String {
        let client = Line::client(format, "outbound", ([127, 0, 0, 1], 9).into(), Some("a \"b\""));
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
    fn bytes_that_need_an_escape_are_found_at_any_place() {
        for byte in 0..=u8::MAX {
            for (len, around) in (0..20).flat_map(|len| b" !#a[]~".map(|around| (len, around))) {
                for at in 0..len {
                    let mut value = vec![around; len];
                    value[at] = byte;
                    assert_eq!(are_plain(&value), is_plain(byte), "{value:?}");
                }
            }
        }
    }

    #[test]
    fn numbers_are_decimal() {
        let powers = (0..20).map(|power| 10_u64.pow(power)).flat_map(|power| [power - 1, power, power + 1]);
        for value in powers.chain([u64::MAX, 1_234_567_890]) {
            let mut line = Vec::new();
            digits(&mut line, value);
            assert_eq!(String::from_utf8(line).unwrap(), value.to_string());
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
            assert_eq!(Fields::new(&headers).trace_id, expected.map(str::as_bytes), "{fields:?}");
        }
    }
}
