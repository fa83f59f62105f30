//! The fields that HTTP/1.1 frames messages and manages connections by (RFC 9112 sections 6 and 9, RFC 9110 section 7.6.1).

use http::{HeaderMap, HeaderName, HeaderValue, header};
use smallvec::SmallVec;

/// Why a message cannot be passed on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Invalid(pub(crate) &'static str);

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Hop-by-hop fields: they concern one connection, whether `connection` names them or not.
static HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    HTTP2_SETTINGS,
];
/// Fields that frame or route a message, which trailers must not have (RFC 9110 section 6.5.1).
const NOT_IN_TRAILERS: [HeaderName; 3] = [header::CONTENT_LENGTH, header::HOST, header::TRAILER];
/// Digits of which every number fits into an unsigned 64-bit integer.
const MAX_LENGTH_DIGITS: usize = 19;

/// Removes the hop-by-hop fields, and the fields that `connection` names. Returns whether the sender accepts trailers;
/// `te: trailers` stays.
pub(crate) fn strip(headers: &mut HeaderMap) -> bool {
    // Most messages have none, and one pass over the fields costs less than a lookup for each name.
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return false;
    }
    let trailers = has_token(headers, &header::TE, "trailers");
    let named: SmallVec<[HeaderName; 4]> = tokens(headers, &header::CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    trailers
}

/// Removes hop-by-hop fields, and fields that frame or route a message, from trailers.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    for name in HOP_BY_HOP.iter().chain(&NOT_IN_TRAILERS) {
        trailers.remove(name);
    }
}

/// The number of fields. Several of `cookie`, which HTTP/2 may split, are one (RFC 9113 section 8.2.3).
pub(crate) fn count(headers: &HeaderMap) -> usize {
    let crumbs = headers.get_all(header::COOKIE).iter().count();
    headers.len() - crumbs.saturating_sub(1)
}

/// Counts down the `max-forwards` of a request of OPTIONS or TRACE. Returns whether the request goes no further (RFC 9110 section
/// 7.6.2).
pub(crate) fn count_forward(headers: &mut HeaderMap) -> bool {
    let Some(value) = headers.get(header::MAX_FORWARDS).filter(|value| is_length(value.as_bytes())) else {
        return false;
    };
    let left = value.to_str().ok().and_then(|digits| digits.parse::<u64>().ok()).unwrap_or_default();
    if left > 0 {
        headers.insert(header::MAX_FORWARDS, HeaderValue::from(left - 1));
    }
    left == 0
}

/// Checks the content-length. Of several equal ones the first stays.
pub(crate) fn check_length(headers: &mut HeaderMap) -> Result<(), Invalid> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).into_iter();
    let Some(first) = lengths.next() else { return Ok(()) };
    if !is_length(first.as_bytes()) {
        return Err(Invalid("content-length is not a number"));
    }
    let mut several = false;
    for other in lengths {
        several = true;
        if other != first {
            return Err(Invalid("several content-lengths"));
        }
    }
    if several {
        let first = first.clone();
        headers.insert(header::CONTENT_LENGTH, first);
    }
    Ok(())
}

/// Whether this is a content-length of RFC 9110 section 8.6: digits only, no sign and no list.
pub(crate) fn is_length(value: &[u8]) -> bool {
    (1..=MAX_LENGTH_DIGITS).contains(&value.len()) && value.iter().all(u8::is_ascii_digit)
}

/// Whether a list of connection options has this one; case does not matter.
pub(crate) fn has_option(list: &[u8], option: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|other| other.trim_ascii().eq_ignore_ascii_case(option))
}

/// Whether a field that is a list has this token; case does not matter.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|other| other.eq_ignore_ascii_case(token))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter();
        fields.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[track_caller]
    fn check(fields: &[(&'static str, &'static str)], left: &[(&'static str, &'static str)]) {
        let mut stripped = headers(fields);
        let trailers = strip(&mut stripped);
        assert_eq!(stripped, headers(left));
        assert_eq!(trailers, left.contains(&("te", "trailers")));
    }

    #[test]
    fn hop_by_hop_fields_are_removed() {
        let mut all: Vec<_> = HOP_BY_HOP.iter().map(|name| (name.clone(), HeaderValue::from_static("x"))).collect();
        all.push((header::ACCEPT, HeaderValue::from_static("*/*")));
        let mut stripped = HeaderMap::from_iter(all);
        strip(&mut stripped);
        assert_eq!(stripped, headers(&[("accept", "*/*")]));
        check(
            &[("connection", "close, X-A"), ("connection", "x-b ,, ()"), ("x-a", "1"), ("x-b", "2"), ("x-c", "3")],
            &[("x-c", "3")],
        );
    }

    #[test]
    fn trailers_is_the_only_te_that_stays() {
        check(&[("te", "trailers"), ("connection", "te")], &[("te", "trailers")]);
        check(&[("te", "gzip;q=0.5 , TRAILERS")], &[("te", "trailers")]);
        check(&[("te", "gzip")], &[]);
    }

    #[track_caller]
    fn check_lengths(values: &[&'static str], expect: Option<&str>) {
        let mut fields: HeaderMap =
            values.iter().map(|value| (header::CONTENT_LENGTH, HeaderValue::from_static(value))).collect();
        let checked = check_length(&mut fields);
        let left: Vec<_> = fields.get_all(header::CONTENT_LENGTH).iter().collect();
        match expect {
            Some(length) => assert!(checked.is_ok() && left == [length], "{values:?}: {checked:?}, {left:?}"),
            None => assert!(checked.is_err(), "{values:?}: {left:?}"),
        }
    }

    #[test]
    fn lengths_are_one_number() {
        assert_eq!(check_length(&mut HeaderMap::new()), Ok(()));
        check_lengths(&["5"], Some("5"));
        check_lengths(&["5", "5"], Some("5"));
        check_lengths(&["9999999999999999999"], Some("9999999999999999999"));
        for bad in [&["5", "6"][..], &["5", "05"], &["5, 5"], &["+5"], &["-5"], &["0x5"], &[""], &["5 5"], &["1.0"]] {
            check_lengths(bad, None);
        }
        check_lengths(&["10000000000000000000"], None);
    }
}
