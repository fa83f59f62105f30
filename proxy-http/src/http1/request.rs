//! The heads of requests: from HTTP/1.1 clients to the form of HTTP/2, and from any client to HTTP/1.1 endpoints.

use crate::{
    http1::websocket::{self, Key, Upgrade},
    message::{
        authority::{is_authority, is_same},
        connect_protocol::ConnectProtocol,
        fields::{self, Invalid},
    },
};
use http::{
    HeaderMap, HeaderValue, Method, Uri, Version, header,
    request::Parts,
    uri::{self, Authority, PathAndQuery, Scheme},
};
use std::mem;

/// The kind of a request to an endpoint, which decides how its response is read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum EndpointRequestKind {
    Plain,
    /// A WebSocket with the client's own key, to which the client checks the answer.
    Upgrade,
    /// A WebSocket with a key of the proxy's.
    Websocket(Key),
    Connect,
}

/// The properties of a client's request that its response depends on.
#[derive(Debug, Default)]
pub(crate) struct RequestContext {
    /// The client has sent `te: trailers` by HTTP/1.1.
    pub(crate) accepts_trailers: bool,
    /// The client asks for no response after this request's: the connection closes (RFC 9112 section 9.3).
    pub(crate) is_last: bool,
    pub(crate) kind: RequestKind,
}

/// The kind of a client's request.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) enum RequestKind {
    #[default]
    Plain,
    /// With the client's key. `None`: it has sent none that is valid, or more than one.
    Websocket(Option<Key>),
    /// The bytes that follow on the connection are no request, whatever the response is.
    Connect,
}

/// Makes a client's head of HTTP/1.1 one that can be sent in either version: the target has scheme and authority (RFC 9112
/// sections 3.2 and 3.3), the fields of the connection are removed, and a WebSocket handshake is extended CONNECT.
///
/// `scheme`: of a target that has none. `ended`: there is no body.
pub(crate) fn from_client(head: &mut Parts, scheme: &Scheme, ended: bool) -> Result<RequestContext, Invalid> {
    let host = host(&head.headers, head.version)?;
    let is_connect = head.method == Method::CONNECT;
    if is_connect {
        check_connect(&head.uri, &head.headers)?;
    } else {
        head.uri = target(&head.method, mem::take(&mut head.uri), scheme, host)?;
    }
    head.headers.remove(header::HOST);
    fields::check_length(&mut head.headers)?;
    // hyper's own extensions are of no use beyond it.
    head.extensions.clear();
    let is_http11 = head.version == Version::HTTP_11;
    let is_last = closes(&head.headers, is_http11);
    // Only without a body, after which it would be hard to tell where HTTP ends.
    let upgrade = Upgrade::offered(&head.headers).filter(|_| is_http11 && head.method == Method::GET && ended);
    let accepts_trailers = fields::strip(&mut head.headers) && is_http11;
    let kind = match upgrade {
        None if is_connect => RequestKind::Connect,
        None => RequestKind::Plain,
        Some(upgrade) => {
            head.method = Method::CONNECT;
            head.extensions.insert(ConnectProtocol::WEBSOCKET);
            head.extensions.insert(upgrade);
            // It can only be 0, but would then limit the tunnel's bytes.
            head.headers.remove(header::CONTENT_LENGTH);
            RequestKind::Websocket(Key::of(&head.headers))
        }
    };
    Ok(RequestContext { accepts_trailers, is_last, kind })
}

/// Whether a request's connection closes after its response.
fn closes(headers: &HeaderMap, is_http11: bool) -> bool {
    let has = |option| fields::has_token(headers, &header::CONNECTION, option);
    has("close") || (!is_http11 && !has("keep-alive"))
}

/// Checks that CONNECT names an authority and nothing else, and that it has no body, which others could see in the bytes
/// that follow (RFC 9112 section 3.2.3, RFC 9110 section 9.3.6).
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
    if !is_authority(text) {
        return Err(Invalid("bad authority"));
    }
    Authority::try_from(text).map_err(|_| Invalid("bad authority"))
}

/// The target with scheme and authority, where an authority is known.
fn target(method: &Method, target: Uri, default: &Scheme, host: Option<Authority>) -> Result<Uri, Invalid> {
    let uri::Parts { scheme, authority: uri_authority, path_and_query, .. } = target.into_parts();
    let mut path = path_and_query.ok_or(Invalid("no path"))?;
    let mut parts = uri::Parts::default();
    match (scheme, uri_authority) {
        // The absolute form, whose authority replaces that of `host` (RFC 9112 section 3.2.2).
        (Some(scheme), Some(uri_authority)) => {
            if ![Scheme::HTTP, Scheme::HTTPS].contains(&scheme) {
                return Err(Invalid("scheme is neither http nor https"));
            }
            parts.authority = Some(authority(uri_authority.as_str().as_bytes())?);
            parts.scheme = Some(scheme);
            // An empty path is the root (RFC 9110 section 4.2.3), also before a query.
            if path.as_str().starts_with('?') {
                path = format!("/{path}", path = path.as_str()).try_into().map_err(|_| Invalid("bad target"))?;
            }
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

/// Whether a target is in origin form or asterisk form (RFC 9112 section 3.2).
fn is_path(method: &Method, path: &PathAndQuery) -> bool {
    path.as_str().starts_with('/') || (path == "*" && *method == Method::OPTIONS)
}

/// Makes a head one of HTTP/1.1 that endpoints can read in one way only (RFC 9113 section 8.3.1, RFC 9112 section 3.2.1).
/// `ended`: there is no body.
pub(crate) fn to_endpoint(head: &mut Parts, ended: bool) -> Result<EndpointRequestKind, Invalid> {
    let uri::Parts { scheme, authority: uri_authority, path_and_query, .. } = mem::take(&mut head.uri).into_parts();
    let is_tunnel = head.method == Method::CONNECT;
    let is_connect = is_tunnel && head.extensions.get::<ConnectProtocol>().is_none();
    if is_tunnel && !is_connect {
        head.method = Method::GET;
    }
    let uri = if is_connect {
        Uri::from(uri_authority.clone().ok_or(Invalid("no authority"))?)
    } else {
        Uri::from(path_and_query.filter(|path| is_path(&head.method, path)).ok_or(Invalid("bad path"))?)
    };
    let mut headers = mem::take(&mut head.headers);
    let host = endpoint_host(uri_authority, scheme.as_ref(), &headers)?;
    headers.remove(header::HOST);
    fields::check_length(&mut headers)?;
    join_cookies(&mut headers)?;
    let trailers = fields::strip(&mut headers);
    // `host` comes first (RFC 9110 section 7.2).
    head.headers.reserve(headers.len() + 2);
    head.headers.insert(header::HOST, host);
    head.headers.extend(headers);
    if trailers {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    let kind = if is_tunnel {
        ask_for_tunnel(head, is_connect)
    } else {
        let has_length = head.headers.contains_key(header::CONTENT_LENGTH);
        match head.method {
            Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE | Method::TRACE if ended => {}
            _ if has_length => {}
            // Without it some servers answer with 411.
            _ if ended => _ = head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0")),
            // Without it hyper would drop the body of a GET.
            _ => _ = head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
        }
        EndpointRequestKind::Plain
    };
    head.extensions.clear();
    head.version = Version::HTTP_11;
    head.uri = uri;
    Ok(kind)
}

/// Makes a head one that asks for a tunnel. A length would be that of a body, after which others may see a request.
fn ask_for_tunnel(head: &mut Parts, is_connect: bool) -> EndpointRequestKind {
    head.headers.remove(header::CONTENT_LENGTH);
    if is_connect {
        return EndpointRequestKind::Connect;
    }
    match head.extensions.remove::<Upgrade>() {
        Some(upgrade) => {
            upgrade.put(&mut head.headers);
            EndpointRequestKind::Upgrade
        }
        None => EndpointRequestKind::Websocket(websocket::to_http1(&mut head.headers)),
    }
}

/// The value of `host`: the authority, from which a `host` that was sent beside it must not differ.
fn endpoint_host(
    uri_authority: Option<Authority>,
    scheme: Option<&Scheme>,
    headers: &HeaderMap,
) -> Result<HeaderValue, Invalid> {
    let mut hosts = headers.get_all(header::HOST).into_iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Invalid("several hosts")),
        (host, None) => host,
    };
    let Some(uri_authority) = uri_authority else {
        let host = host.map_or(&b""[..], HeaderValue::as_bytes);
        if !host.is_empty() {
            authority(host)?;
        }
        return HeaderValue::from_bytes(host).map_err(|_| Invalid("bad host"));
    };
    if host.is_some_and(|host| !is_same(uri_authority.as_str().as_bytes(), host.as_bytes(), scheme)) {
        return Err(Invalid("host is not the authority"));
    }
    authority(uri_authority.as_str().as_bytes())?;
    HeaderValue::from_str(uri_authority.as_str()).map_err(|_| Invalid("bad authority"))
}

/// HTTP/2 may have several cookie fields, HTTP/1.1 has one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) -> Result<(), Invalid> {
    let cookies: Vec<_> = headers.get_all(header::COOKIE).into_iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1 {
        let mut joined = HeaderValue::from_bytes(&cookies.join(&b"; "[..])).map_err(|_| Invalid("bad cookie"))?;
        joined.set_sensitive(headers.get(header::COOKIE).is_some_and(HeaderValue::is_sensitive));
        headers.insert(header::COOKIE, joined);
    }
    Ok(())
}

// === impl EndpointRequestKind ===

impl EndpointRequestKind {
    /// Whether the request is sent as GET, though the proxy has it as extended CONNECT.
    pub(crate) fn is_get(&self) -> bool {
        matches!(self, Self::Upgrade | Self::Websocket(_))
    }
}
