//! Validation of messages from either side (RFC 9113 section 8, RFC 9110).
//!
//! h2 resets most malformed messages itself: unknown, repeated, late or missing pseudo-header fields, names in upper case,
//! control bytes, connection-specific fields, and content-lengths that contradict each other or the data. The functions here
//! check the rest.

use crate::message::{
    authority::{is_authority, is_same},
    head::field_size,
    never_indexed, proxy_fields,
};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_LENGTH, HOST, TRAILER},
    uri::{Authority, PathAndQuery, Scheme},
};
use std::mem;

/// The fields of a head or of trailers that validation depends on.
#[derive(Default)]
struct CheckedFields<'a> {
    /// The first `host`.
    host: Option<&'a HeaderValue>,
    hosts: u32,
    /// The first content-length.
    length: Option<&'a HeaderValue>,
    lengths: u32,
    /// Whether there is a `trailer`, which announces trailers.
    announces_trailers: bool,
    /// Whether there are fields that are [never indexed](never_indexed).
    has_new_values: bool,
    /// Bytes of the header list, without pseudo-header fields.
    size: usize,
}

const STATUS: usize = field_size(":status".len(), 3);

/// Checks a request that is to be forwarded. A `host` without `:authority` becomes the authority; of several equal
/// content-lengths one stays, `trailer` does not announce a trailer that is not passed on, and some fields are
/// [never indexed](never_indexed).
///
/// # Errors
///
/// The rule that the request breaks.
pub(crate) fn request<B>(req: &mut Request<B>) -> Result<(), &'static str> {
    let CheckedFields { host, hosts, lengths, announces_trailers, has_new_values, .. } = check_fields(req.headers())?;
    if !is_path(req.uri(), req.method()) {
        return Err("path is malformed");
    }
    if req.uri().scheme_str() == Some("") {
        return Err("scheme is empty");
    }
    if hosts > 1 {
        return Err("more than one host");
    }
    match (req.uri().authority(), host) {
        (Some(authority), host) => {
            if !is_authority(authority.as_str().as_bytes()) {
                return Err("authority is malformed");
            }
            if host.is_some_and(|host| !is_same(authority.as_str().as_bytes(), host.as_bytes(), req.uri().scheme())) {
                return Err("host is not the authority");
            }
        }
        (None, Some(host)) => {
            let authority =
                Some(host.as_bytes()).filter(|host| is_authority(host)).and_then(|host| host.try_into().ok());
            set_authority(req, authority.ok_or("host is malformed")?)?;
        }
        // `OPTIONS *`, the one request that needs no authority (RFC 9113 section 8.3.1).
        (None, None) if req.uri().path() == "*" => {}
        // HTTP/1.0 has requests without `host`; of HTTP/1.1 they were refused before (RFC 9112 section 3.2).
        (None, None) if req.version() < Version::HTTP_2 => {}
        (None, None) => return Err("neither authority nor host"),
    }
    if lengths > 1 {
        keep_one_length(req.headers_mut())?;
    }
    if announces_trailers {
        proxy_fields::strip_announced(req.headers_mut());
    }
    if has_new_values {
        never_indexed::mark(req.headers_mut());
    }
    Ok(())
}

/// Checks a CONNECT that is to be forwarded: it names a host and a port, and has no content-length (RFC 9110 section 9.3.6,
/// RFC 9113 section 8.5).
///
/// # Errors
///
/// The rule that the request breaks.
pub(crate) fn connect<B>(req: &Request<B>) -> Result<(), &'static str> {
    let CheckedFields { host, hosts, lengths, .. } = check_fields(req.headers())?;
    let Some(authority) = req.uri().authority().filter(|authority| authority.port().is_some()) else {
        return Err("CONNECT without a port");
    };
    if !is_authority(authority.as_str().as_bytes()) {
        return Err("authority is malformed");
    }
    if hosts > 1 || host.is_some_and(|host| !is_same(authority.as_str().as_bytes(), host.as_bytes(), None)) {
        return Err("host is not the authority");
    }
    if lengths > 0 { Err("CONNECT with a body") } else { Ok(()) }
}

/// Checks a response that is to be forwarded, whose header list may have `max_header_list` bytes, and returns its content-length.
/// Of several equal ones one stays; of a 204 response all are removed (RFC 9110 section 8.6).
///
/// # Errors
///
/// The rule that the response breaks.
pub(crate) fn response<B>(rsp: &mut Response<B>, max_header_list: usize) -> Result<Option<u64>, &'static str> {
    let CheckedFields { length, lengths, has_new_values, size, .. } = check_fields(rsp.headers())?;
    if size + STATUS > max_header_list {
        return Err("header list is too large");
    }
    let length = length.and_then(parse_length);
    if lengths > 1 {
        keep_one_length(rsp.headers_mut())?;
    }
    if lengths > 0 && rsp.status() == StatusCode::NO_CONTENT {
        rsp.headers_mut().remove(CONTENT_LENGTH);
    }
    if has_new_values {
        never_indexed::mark(rsp.headers_mut());
    }
    Ok(length)
}

/// The first content-length of a head, if it is a number.
pub(crate) fn content_length(fields: &HeaderMap) -> Option<u64> {
    fields.get(CONTENT_LENGTH).and_then(parse_length)
}

fn parse_length(length: &HeaderValue) -> Option<u64> {
    let digits = Some(length.as_bytes()).filter(|digits| !digits.is_empty())?;
    digits
        .iter()
        .try_fold(0_u64, |value, digit| value.checked_mul(10)?.checked_add(char::from(*digit).to_digit(10)?.into()))
}

/// Checks trailers of either side: they must not have fields that frame or route a message (RFC 9110 section 6.5.1), and may
/// have `max_header_list` bytes.
///
/// # Errors
///
/// The rule that the trailers break.
pub(crate) fn trailers(trailers: &HeaderMap, max_header_list: usize) -> Result<(), &'static str> {
    let CheckedFields { hosts, lengths, size, .. } = check_fields(trailers)?;
    if size > max_header_list {
        return Err("header list is too large");
    }
    if hosts + lengths > 0 { Err("a field of heads among the trailers") } else { Ok(()) }
}

/// Whether a response with this status has no content, regardless of the request's method (RFC 9110 section 6.4.1).
pub(crate) fn has_no_content(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Checks each field, in one pass.
fn check_fields(fields: &HeaderMap) -> Result<CheckedFields<'_>, &'static str> {
    let mut checked = CheckedFields::default();
    for (name, value) in fields {
        if is_padded(value.as_bytes()) {
            return Err("a field begins or ends with white space");
        }
        let name_length = name.as_str().len();
        checked.size += field_size(name_length, value.len());
        // The length alone rules out most names.
        match name_length {
            4 if *name == HOST => {
                checked.hosts += 1;
                checked.host.get_or_insert(value);
            }
            7 if *name == TRAILER => checked.announces_trailers = true,
            14 if *name == CONTENT_LENGTH => {
                checked.length.get_or_insert(value);
                checked.lengths += 1;
                if value.is_empty() || !value.as_bytes().iter().all(u8::is_ascii_digit) {
                    return Err("content-length is malformed");
                }
            }
            14 if name == "http2-settings" => return Err("a field of one connection"),
            2 | 10..=17 | 21 => checked.has_new_values |= never_indexed::has_new_values(name),
            _ => {}
        }
    }
    Ok(checked)
}

/// Whether a value begins or ends with white space, which makes a message malformed that must not be forwarded (RFC 9113
/// section 8.2.1). The only byte below a space that `HeaderValue` allows is the tab.
fn is_padded(value: &[u8]) -> bool {
    let [first, ..] = *value else { return false };
    (first <= b' ') | (value[value.len() - 1] <= b' ')
}

/// Whether a path begins at the root and is ASCII, or is the asterisk that OPTIONS may have (RFC 9113 section 8.3.1).
fn is_path(uri: &Uri, method: &Method) -> bool {
    let path = uri.path_and_query().map_or("", PathAndQuery::as_str);
    match path.as_bytes() {
        // `path_and_query` shows a missing path as `/`, `path` as empty.
        [b'/', ..] => path.is_ascii() && !uri.path().is_empty(),
        b"*" => method == Method::OPTIONS,
        _ => false,
    }
}

/// Moves `host` to `:authority`. h2 drops the scheme of a request without authority, so it is set anew.
fn set_authority<B>(req: &mut Request<B>, authority: Authority) -> Result<(), &'static str> {
    let mut parts = mem::take(req.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    *req.uri_mut() = Uri::from_parts(parts).map_err(|_| "path is malformed")?;
    req.headers_mut().remove(HOST);
    Ok(())
}

/// Reduces several equal content-lengths to one (RFC 9110 section 8.6).
fn keep_one_length(headers: &mut HeaderMap) -> Result<(), &'static str> {
    let mut all = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = all.next().cloned() else { return Ok(()) };
    if !all.all(|other| *other == first) {
        return Err("content-lengths differ");
    }
    headers.insert(CONTENT_LENGTH, first);
    Ok(())
}
