//! Requests of HTTP/1.1 clients as HTTP/2 has them, and requests of any clients as HTTP/1.1 has them.

use crate::{
    http1::websocket::{self, Key, Upgrade},
    message::fields::{self, Invalid},
};
use h2::ext::Protocol;
use http::{
    HeaderMap, HeaderValue, Method, Uri, Version, header,
    request::Parts,
    uri::{self, Authority, PathAndQuery, Scheme},
};
use std::mem;

/// What a request asks its endpoint for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Asks {
    Response,
    /// With the client's own key, which the client checks the answer to.
    Upgrade,
    /// With a key of the proxy's.
    Websocket(Key),
    Connect,
}

/// What the response to a request depends on.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// The client takes trailers.
    pub(crate) trailers: bool,
    pub(crate) wants: Wanted,
}

/// What a client asks for.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) enum Wanted {
    #[default]
    Response,
    /// With its key. `None`: it has sent none, or more than one.
    Websocket(Option<Key>),
    /// CONNECT: what comes next on the connection is no request, whatever the response is.
    Tunnel,
}

/// Makes a head of HTTP/1.1 one that can be sent in either version: the target has scheme and authority, what concerned
/// the connection is gone (RFC 9112 sections 3.2 and 3.3), and what asks for a WebSocket is extended CONNECT.
///
/// `scheme`: of a target that has none. `ended`: there is no body.
pub(crate) fn accept(head: &mut Parts, scheme: &Scheme, ended: bool) -> Result<Asked, Invalid> {
    let host = host(&head.headers, head.version)?;
    let is_connect = head.method == Method::CONNECT;
    if is_connect {
        check_connect(&head.uri, &head.headers)?;
    } else {
        head.uri = target(&head.method, mem::take(&mut head.uri), scheme, host)?;
    }
    head.headers.remove(header::HOST);
    fields::check_length(&mut head.headers)?;
    // What hyper keeps there is of use to hyper alone.
    head.extensions.clear();
    let is_http11 = head.version == Version::HTTP_11;
    // Without a body, behind which it would be hard to tell where HTTP ends.
    let upgrade = Upgrade::of(&head.headers).filter(|_| is_http11 && head.method == Method::GET && ended);
    let trailers = fields::strip(&mut head.headers) && is_http11;
    let wants = match upgrade {
        None if is_connect => Wanted::Tunnel,
        None => Wanted::Response,
        Some(upgrade) => {
            head.method = Method::CONNECT;
            head.extensions.insert(Upgrade::PROTOCOL);
            head.extensions.insert(upgrade);
            // The least that it can be, but of a tunnel it would be the most.
            head.headers.remove(header::CONTENT_LENGTH);
            Wanted::Websocket(Key::of(&head.headers))
        }
    };
    Ok(Asked { trailers, wants })
}

/// CONNECT names an authority and nothing else, and has no body that others could see in what follows (RFC 9112 section
/// 3.2.3, RFC 9110 section 9.3.6).
fn check_connect(target: &Uri, headers: &HeaderMap) -> Result<(), Invalid> {
    if target.scheme().is_some() || target.path_and_query().is_some() {
        return Err(Invalid("bad target"));
    }
    authority(target.authority().map_or("", Authority::as_str).as_bytes())?;
    if headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Invalid("CONNECT with a body"));
    }
    Ok(())
}

/// The one `host`. `None`: it is empty, or a client of HTTP/1.0 has sent none.
fn host(headers: &HeaderMap, version: Version) -> Result<Option<Authority>, Invalid> {
    let mut hosts = headers.get_all(header::HOST).into_iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.as_bytes(),
        (None, _) if version == Version::HTTP_10 => return Ok(None),
        (None, _) => return Err(Invalid("no host")),
        (Some(_), Some(_)) => return Err(Invalid("several hosts")),
    };
    if host.is_empty() { Ok(None) } else { authority(host).map(Some) }
}

fn authority(text: &[u8]) -> Result<Authority, Invalid> {
    // `http` would have been a user's name and password, which have no place here (RFC 9110 section 4.2.4).
    if text.contains(&b'@') {
        return Err(Invalid("userinfo in the authority"));
    }
    Authority::try_from(text).map_err(|_| Invalid("bad host"))
}

/// The target with its scheme and authority, where it has one.
fn target(method: &Method, target: Uri, default: &Scheme, host: Option<Authority>) -> Result<Uri, Invalid> {
    let uri::Parts { scheme, authority: named, path_and_query, .. } = target.into_parts();
    let path = path_and_query.ok_or(Invalid("no path"))?;
    let mut parts = uri::Parts::default();
    match (scheme, named) {
        // The absolute form, whose authority wins.
        (Some(scheme), Some(named)) => {
            if ![Scheme::HTTP, Scheme::HTTPS].contains(&scheme) {
                return Err(Invalid("scheme is neither http nor https"));
            }
            parts.authority = Some(authority(named.as_str().as_bytes())?);
            parts.scheme = Some(scheme);
        }
        (None, None) => {
            if !is_path(method, &path) {
                return Err(Invalid("bad target"));
            }
            parts.scheme = host.is_some().then(|| default.clone());
            parts.authority = host;
        }
        _ => return Err(Invalid("bad target")),
    }
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|_| Invalid("bad target"))
}

/// Whether this is a target in the origin form, or the asterisk form.
fn is_path(method: &Method, path: &PathAndQuery) -> bool {
    path.as_str().starts_with('/') || (path == "*" && *method == Method::OPTIONS)
}

/// Makes a head one that can be sent as HTTP/1.1 and read there in one way only (RFC 9113 section 8.3.1, RFC 9112
/// section 3.2.1). Tells what it asks for. `ended`: there is no body.
pub(crate) fn send(head: &mut Parts, ended: bool) -> Result<Asks, Invalid> {
    let uri::Parts { authority: named, path_and_query, .. } = mem::take(&mut head.uri).into_parts();
    let is_tunnel = head.method == Method::CONNECT;
    let is_connect = is_tunnel && head.extensions.get::<Protocol>().is_none();
    if is_tunnel && !is_connect {
        head.method = Method::GET;
    }
    let uri = if is_connect {
        Uri::from(named.clone().ok_or(Invalid("no authority"))?)
    } else {
        Uri::from(path_and_query.filter(|path| is_path(&head.method, path)).ok_or(Invalid("bad path"))?)
    };
    let mut headers = mem::take(&mut head.headers);
    let host = send_host(named, &headers)?;
    headers.remove(header::HOST);
    fields::check_length(&mut headers)?;
    join_cookies(&mut headers)?;
    let trailers = fields::strip(&mut headers);
    // It comes first (RFC 9110 section 7.2).
    head.headers.reserve(headers.len() + 2);
    head.headers.insert(header::HOST, host);
    head.headers.extend(headers);
    if trailers {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    let asks = if is_tunnel {
        tunnel(head, is_connect)
    } else {
        let has_length = head.headers.contains_key(header::CONTENT_LENGTH);
        match head.method {
            Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE | Method::TRACE if ended => {}
            _ if has_length => {}
            // Or some servers would ask for it, with 411.
            _ if ended => _ = head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0")),
            // hyper would leave the body of a GET out.
            _ => _ = head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
        }
        Asks::Response
    };
    head.extensions.clear();
    head.version = Version::HTTP_11;
    head.uri = uri;
    Ok(asks)
}

/// Has a head ask for a tunnel. What it has of a length would be one of a body, behind which others may see a request.
fn tunnel(head: &mut Parts, is_connect: bool) -> Asks {
    head.headers.remove(header::CONTENT_LENGTH);
    if is_connect {
        return Asks::Connect;
    }
    match head.extensions.remove::<Upgrade>() {
        Some(upgrade) => {
            upgrade.put(&mut head.headers);
            Asks::Upgrade
        }
        None => Asks::Websocket(websocket::to_http1(&mut head.headers)),
    }
}

/// The host, which is the authority where there is one, and then no other.
fn send_host(named: Option<Authority>, headers: &HeaderMap) -> Result<HeaderValue, Invalid> {
    let mut hosts = headers.get_all(header::HOST).into_iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Invalid("several hosts")),
        (host, None) => host,
    };
    let Some(named) = named else {
        let host = host.map_or(&b""[..], HeaderValue::as_bytes);
        if !host.is_empty() {
            authority(host)?;
        }
        return HeaderValue::from_bytes(host).map_err(|_| Invalid("bad host"));
    };
    if host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(named.as_str().as_bytes())) {
        return Err(Invalid("host is not the authority"));
    }
    authority(named.as_str().as_bytes())?;
    HeaderValue::from_str(named.as_str()).map_err(|_| Invalid("bad authority"))
}

/// HTTP/2 may have a field for each cookie, HTTP/1.1 has one for all (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) -> Result<(), Invalid> {
    let cookies: Vec<_> = headers.get_all(header::COOKIE).into_iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1 {
        let mut joined = HeaderValue::from_bytes(&cookies.join(&b"; "[..])).map_err(|_| Invalid("bad cookie"))?;
        joined.set_sensitive(headers.get(header::COOKIE).is_some_and(HeaderValue::is_sensitive));
        headers.insert(header::COOKIE, joined);
    }
    Ok(())
}

// === impl Asks ===

impl Asks {
    /// Whether the request is a GET, though the proxy has it as CONNECT.
    pub(crate) fn is_get(&self) -> bool {
        matches!(self, Self::Upgrade | Self::Websocket(_))
    }
}
