//! What a message must not hold, whoever sends it (RFC 9113 section 8, RFC 9110).
//!
//! h2 has seen to most of it: pseudo-fields that are unknown, repeated, late or missing, names in upper case, control
//! bytes, fields that speak of one connection, content-lengths that contradict each other or the data. This is the rest.

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_LENGTH, HOST},
    uri::{Authority, PathAndQuery, Scheme},
};
use std::mem;

/// What stands in a head or in trailers.
#[derive(Default)]
struct Seen<'a> {
    /// The first one.
    host: Option<&'a HeaderValue>,
    hosts: u32,
    /// The first one.
    length: Option<&'a HeaderValue>,
    lengths: u32,
    /// What the fields add to the size of a header list.
    size: usize,
}

/// What each field adds to the size of a header list beside its name and value (RFC 9113 section 6.5.2).
const FIELD_OVERHEAD: usize = 32;
const STATUS: usize = ":status".len() + 3 + FIELD_OVERHEAD;

/// Checks a request that is to be forwarded. Where there is only a `Host`, it becomes the authority; of several equal
/// content-lengths one stays.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn request<B>(req: &mut Request<B>) -> Result<(), &'static str> {
    let Seen { host, hosts, lengths, .. } = look(req.headers())?;
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
            if !is_authority(authority.as_str()) {
                return Err("authority is malformed");
            }
            if host.is_some_and(|host| !is_same(authority.as_str(), host.as_bytes(), req.uri().scheme())) {
                return Err("host is not the authority");
            }
        }
        (None, Some(host)) => {
            let authority = Authority::try_from(host.as_bytes()).ok().filter(|host| is_authority(host.as_str()));
            adopt(req, authority.ok_or("host is malformed")?)?;
        }
        // The one request that is about no authority (RFC 9113 section 8.3.1).
        (None, None) if req.uri().path() == "*" => {}
        // HTTP/1.0 has requests without (RFC 9112 section 3.2), and whether HTTP/1.1 may has been seen to.
        (None, None) if req.version() < Version::HTTP_2 => {}
        (None, None) => return Err("neither authority nor host"),
    }
    if lengths > 1 {
        keep_one_length(req.headers_mut())?;
    }
    Ok(())
}

/// Checks a CONNECT that is to be forwarded: it names a host and a port, and has no body (RFC 9110 section 9.3.6, RFC 9113
/// section 8.5).
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn connect<B>(req: &Request<B>) -> Result<(), &'static str> {
    let Seen { host, hosts, lengths, .. } = look(req.headers())?;
    let Some(authority) = req.uri().authority().filter(|authority| authority.port().is_some()) else {
        return Err("CONNECT without a port");
    };
    if !is_authority(authority.as_str()) {
        return Err("authority is malformed");
    }
    if hosts > 1 || host.is_some_and(|host| !is_same(authority.as_str(), host.as_bytes(), None)) {
        return Err("host is not the authority");
    }
    if lengths > 0 { Err("CONNECT with a body") } else { Ok(()) }
}

/// Checks a response that is to be passed on if its header list has `max_list` bytes at most, and tells its content-length. Of several equal ones one stays, and none
/// where there can be no content (RFC 9110 section 8.6).
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn response<B>(rsp: &mut Response<B>, max_list: usize) -> Result<Option<u64>, &'static str> {
    let Seen { length, lengths, size, .. } = look(rsp.headers())?;
    if size + STATUS > max_list {
        return Err("header list is too large");
    }
    let length = length.and_then(parse);
    if lengths > 1 {
        keep_one_length(rsp.headers_mut())?;
    }
    if lengths > 0 && rsp.status() == StatusCode::NO_CONTENT {
        rsp.headers_mut().remove(CONTENT_LENGTH);
    }
    Ok(length)
}

/// The first content-length of a head, if it is one.
pub(crate) fn content_length(fields: &HeaderMap) -> Option<u64> {
    fields.get(CONTENT_LENGTH).and_then(parse)
}

fn parse(length: &HeaderValue) -> Option<u64> {
    length.to_str().ok()?.parse().ok()
}

/// Checks trailers of either side: what frames or routes a message comes too late there (RFC 9110 section 6.5.1), and there
/// may be `max_list` bytes of them.
///
/// # Errors
///
/// What is wrong with them.
pub(crate) fn trailers(trailers: &HeaderMap, max_list: usize) -> Result<(), &'static str> {
    let Seen { hosts, lengths, size, .. } = look(trailers)?;
    if size > max_list {
        return Err("header list is too large");
    }
    if hosts + lengths > 0 { Err("a field of heads among the trailers") } else { Ok(()) }
}

/// Whether a response with this status has no content, whatever its request was (RFC 9110 section 6.4.1).
pub(crate) fn has_no_content(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Looks at each field once.
fn look(fields: &HeaderMap) -> Result<Seen<'_>, &'static str> {
    let mut seen = Seen::default();
    for (name, value) in fields {
        if is_padded(value.as_bytes()) {
            return Err("a field begins or ends with white space");
        }
        seen.size += name.as_str().len() + value.len() + FIELD_OVERHEAD;
        // Most names are done with by their length.
        match name.as_str().len() {
            4 if *name == HOST => {
                seen.hosts += 1;
                seen.host.get_or_insert(value);
            }
            14 if *name == CONTENT_LENGTH => {
                seen.length.get_or_insert(value);
                seen.lengths += 1;
                if value.is_empty() || !value.as_bytes().iter().all(u8::is_ascii_digit) {
                    return Err("content-length is malformed");
                }
            }
            14 if name == "http2-settings" => return Err("a field of one connection"),
            _ => {}
        }
    }
    Ok(seen)
}

/// RFC 9113 section 8.2.1: values must not, and nobody may pass on those that do. Of what is not above a space, tabs alone
/// can be in a value.
fn is_padded(value: &[u8]) -> bool {
    let [first, ..] = *value else { return false };
    (first <= b' ') | (value[value.len() - 1] <= b' ')
}

/// Whether a path begins at the root and is ASCII, or is the asterisk that OPTIONS may have (RFC 9113 section 8.3.1).
fn is_path(uri: &Uri, method: &Method) -> bool {
    let path = uri.path_and_query().map_or("", PathAndQuery::as_str);
    match path.as_bytes() {
        // A missing one looks like `/` there, but not here.
        [b'/', ..] => path.is_ascii() && !uri.path().is_empty(),
        b"*" => method == Method::OPTIONS,
        _ => false,
    }
}

/// Whether this is one host, with a port perhaps. `http` has checked that it is made of what URIs are made of, and has one
/// colon outside of brackets at most.
fn is_authority(authority: &str) -> bool {
    let authority = authority.as_bytes();
    let odd = authority.iter().fold(0, |odd, byte| odd | ODD[usize::from(*byte)]);
    if odd == 0 {
        return !authority.is_empty();
    }
    let (host, port) = match authority.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !authority.ends_with(b"]") => (&authority[..colon], Some(&authority[colon + 1..])),
        _ => (authority, None),
    };
    let is_host = match host {
        [b'[', ip @ .., b']'] => !ip.is_empty() && ip.iter().all(|byte| matches!(ODD[usize::from(*byte)], 0 | COLON)),
        host => !host.is_empty() && odd == COLON,
    };
    is_host && port.is_none_or(is_port)
}

/// 1 to 65535, in five digits at most.
fn is_port(port: &[u8]) -> bool {
    if port.len() > 5 || !port.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let value = port.iter().fold(0, |value, byte| value * 10 + u32::from(byte - b'0'));
    (1..=65_535).contains(&value)
}

/// What in an authority is not simply its host.
static ODD: [u8; 256] = {
    let mut odd = [0; 256];
    odd[b':' as usize] = COLON;
    odd[b'@' as usize] = 2;
    odd[b',' as usize] = 2;
    odd[b'[' as usize] = 2;
    odd[b']' as usize] = 2;
    odd
};
const COLON: u8 = 1;

/// Whether a `Host` names the authority: the case of letters and the scheme's own port make no difference (RFC 9113
/// section 8.3.1, RFC 3986 section 6.2.3).
fn is_same(authority: &str, host: &[u8], scheme: Option<&Scheme>) -> bool {
    let port: &[u8] = match scheme.map(Scheme::as_str) {
        Some("http") => b":80",
        Some("https") => b":443",
        _ => b"",
    };
    let (authority, host) = [authority.as_bytes(), host].map(|it| it.strip_suffix(port).unwrap_or(it)).into();
    authority.eq_ignore_ascii_case(host)
}

/// Moves the host to where HTTP/2 has it. h2 forgets the scheme of a request without authority.
fn adopt<B>(req: &mut Request<B>, authority: Authority) -> Result<(), &'static str> {
    let mut parts = mem::take(req.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    *req.uri_mut() = Uri::from_parts(parts).map_err(|_| "path is malformed")?;
    req.headers_mut().remove(HOST);
    Ok(())
}

/// Makes one content-length of several (RFC 9110 section 8.6).
fn keep_one_length(headers: &mut HeaderMap) -> Result<(), &'static str> {
    let mut all = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = all.next().cloned() else { return Ok(()) };
    if !all.all(|other| *other == first) {
        return Err("content-lengths differ");
    }
    headers.insert(CONTENT_LENGTH, first);
    Ok(())
}
