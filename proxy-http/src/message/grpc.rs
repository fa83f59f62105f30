//! The parts of gRPC over HTTP/2 that a proxy needs: content-type, status, message and timeout.

use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use std::time::Duration;

pub(crate) static STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(crate) static MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
static TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Bytes that `grpc-message` escapes: all but printable ASCII, and the per cent sign.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// The gRPC status codes that a proxy answers with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Code {
    Unknown = 2,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

/// Where the data of a gRPC message's body stands between the messages of gRPC, each of which has a prefix of five bytes: a
/// flag, and the length.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MessageFraming {
    /// Bytes of the message that have not come.
    left: u32,
    /// The bytes of the prefix that have come.
    prefix: [u8; PREFIX],
    prefix_len: u8,
    /// Whether the data is not gRPC's.
    is_broken: bool,
}

const PREFIX: usize = 5;

/// Whether a message with these headers is gRPC: its `content-type` is `application/grpc`, also with `+proto`, `;charset` and the
/// like. `application/grpc-web` is another protocol.
///
/// # Examples
///
/// ```
/// use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
///
/// let of = |kind| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
/// assert!(proxy_http::is_grpc(&of("application/grpc+proto")));
/// assert!(!proxy_http::is_grpc(&of("application/grpc-web")));
/// ```
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    let Some(rest) = value.as_bytes().strip_prefix(b"application/grpc") else { return false };
    matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

// === impl MessageFraming ===

impl MessageFraming {
    /// The framing of data that is not gRPC's: it never stands between two messages.
    pub(crate) const BROKEN: Self = Self { left: u32::MAX, prefix: [0; PREFIX], prefix_len: 0, is_broken: true };

    /// Goes on behind `data`.
    #[inline]
    pub(crate) fn advance(&mut self, data: &[u8]) {
        match u32::try_from(data.len()) {
            Ok(len) if len <= self.left => self.left -= len,
            // Most messages have a frame of their own.
            _ if self.is_between_messages() && is_message(data) => {}
            _ => self.follow(data),
        }
    }

    fn follow(&mut self, mut data: &[u8]) {
        while !self.is_broken {
            let skipped = data.len().min(self.left as usize);
            self.left -= skipped as u32;
            data = &data[skipped..];
            let Some((byte, rest)) = data.split_first() else { return };
            self.prefix[usize::from(self.prefix_len)] = *byte;
            self.prefix_len += 1;
            data = rest;
            let [flag, length @ ..] = self.prefix;
            // 0, or 1 for a message that is compressed.
            self.is_broken = flag > 1;
            if usize::from(self.prefix_len) == PREFIX {
                (self.left, self.prefix_len) = (u32::from_be_bytes(length), 0);
            }
        }
    }

    /// Whether all messages that have begun are whole.
    #[inline]
    pub(crate) fn is_between_messages(&self) -> bool {
        self.left == 0 && self.prefix_len == 0 && !self.is_broken
    }
}

/// Whether this is one whole message with its prefix.
#[inline]
fn is_message(data: &[u8]) -> bool {
    matches!(data, [0 | 1, a, b, c, d, message @ ..] if message.len() == u32::from_be_bytes([*a, *b, *c, *d]) as usize)
}

/// The timeout of a gRPC call: `grpc-timeout`, 1 to 8 digits and a unit. Some clients send a fraction, or more digits, which
/// are taken as the time that they mean. A malformed one is ignored here; each is forwarded unchanged.
pub(crate) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(&TIMEOUT)?.as_bytes();
    let (unit, digits) = value.split_last()?;
    let nanos_of_unit: u64 = match unit {
        b'H' => 3_600_000_000_000,
        b'M' => 60_000_000_000,
        b'S' => 1_000_000_000,
        b'm' => 1_000_000,
        b'u' => 1_000,
        b'n' => 1,
        _ => return None,
    };
    let (whole, fraction) = match digits.iter().position(|byte| *byte == b'.') {
        Some(point) => (&digits[..point], Some(&digits[point + 1..])),
        None => (digits, None),
    };
    let is_number = |digits: &[u8]| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if !is_number(whole) || fraction.is_some_and(|fraction| !is_number(fraction)) {
        return None;
    }
    let number = |digits: &[u8]| {
        digits.iter().fold(0, |n: u64, digit| n.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
    };
    let mut nanos = u128::from(number(whole)) * u128::from(nanos_of_unit);
    if let Some(fraction) = fraction {
        let fraction = &fraction[..fraction.len().min(MAX_FRACTION)];
        nanos += u128::from(number(fraction)) * u128::from(nanos_of_unit) / 10_u128.pow(fraction.len() as u32);
    }
    let secs = u64::try_from(nanos / NANOS_OF_SECOND).unwrap_or(u64::MAX);
    Some(Duration::new(secs, (nanos % NANOS_OF_SECOND) as u32).min(MAX_TIMEOUT))
}

/// Digits of a fraction that make a difference: an hour has fewer nanoseconds than that.
const MAX_FRACTION: usize = 15;
const NANOS_OF_SECOND: u128 = 1_000_000_000;
/// The longest timeout of eight digits, and one that can be added to any `Instant`.
const MAX_TIMEOUT: Duration = Duration::from_secs(99_999_999 * 3_600);

/// The gRPC status in headers or trailers. `None`: there is none, or it is not a number up to 255.
pub(crate) fn status(headers: &HeaderMap) -> Option<u8> {
    headers.get(&STATUS).and_then(parse_status)
}

/// The value of `grpc-status`. `None`: it is not a number up to 255.
pub(crate) fn parse_status(status: &HeaderValue) -> Option<u8> {
    status.to_str().ok()?.parse().ok()
}

/// Percent-encodes a message for `grpc-message`.
pub(crate) fn encode_message(message: &str) -> HeaderValue {
    HeaderValue::try_from(utf8_percent_encode(message, ESCAPED).to_string())
        .expect("all but printable ASCII is escaped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_timeout(value: &'static str, expect: Option<Duration>) {
        let headers = HeaderMap::from_iter([(TIMEOUT.clone(), HeaderValue::from_static(value))]);
        assert_eq!(timeout(&headers), expect, "{value:?}");
    }

    #[test]
    fn timeout_is_digits_and_a_unit() {
        check_timeout("1H", Some(Duration::from_secs(3600)));
        check_timeout("2M", Some(Duration::from_secs(120)));
        check_timeout("3S", Some(Duration::from_secs(3)));
        check_timeout("4m", Some(Duration::from_millis(4)));
        check_timeout("5u", Some(Duration::from_micros(5)));
        check_timeout("6n", Some(Duration::from_nanos(6)));
        check_timeout("99999999H", Some(Duration::from_secs(99_999_999 * 3600)));
        check_timeout("1500.5m", Some(Duration::from_micros(1_500_500)));
        check_timeout("0.000001S", Some(Duration::from_micros(1)));
        check_timeout("1.5H", Some(Duration::from_secs(5_400)));
        check_timeout("0.33333333333333333333333S", Some(Duration::from_nanos(333_333_333)));
        check_timeout("2147483648m", Some(Duration::from_millis(2_147_483_648)));
        check_timeout("123456789S", Some(Duration::from_secs(123_456_789)));
        check_timeout("000000001S", Some(Duration::from_secs(1)));
        let longest = Some(Duration::from_secs(99_999_999 * 3600));
        check_timeout("100000000H", longest);
        check_timeout("99999999999999999999999999999999H", longest);
        for bad in ["", "S", "1", "-1S", "1.S", ".5S", ".S", "1.5.5S", "1,5S", "1e3S", "1s", " 1S", "1SS"] {
            check_timeout(bad, None);
        }
    }

    #[track_caller]
    fn check_grpc(value: &'static str, expect: bool) {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
        assert_eq!(is_grpc(&headers), expect, "{value:?}");
    }

    #[test]
    fn grpc_is_a_content_type() {
        for yes in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
            check_grpc(yes, true);
        }
        for no in ["application/grpc-web", "application/grpc-web+proto", "application/json", "text/plain"] {
            check_grpc(no, false);
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(encode_message("100% of \"a b\"\n\u{e9}"), "100%25 of \"a b\"%0A%C3%A9");
    }
}
