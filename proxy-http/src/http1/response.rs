//! The heads of responses from HTTP/1.1 endpoints, in the form of HTTP/2.

use crate::{
    http1::{request::EndpointRequestKind, websocket::Upgrade},
    message::fields::{self, Invalid},
};
use http::{Response, StatusCode, Version, header};
use hyper::{ext::ReasonPhrase, upgrade::OnUpgrade};

/// Makes a response one that can be forwarded in either version. `Some`: the connection is a tunnel from now on.
///
/// hyper has read the response by `transfer-encoding`, or else `content-length`, and leaves both fields in place. Where they
/// disagree, or have a value that hyper ignores, others may read the response in another way: it is refused.
pub(crate) fn from_endpoint<B>(
    rsp: &mut Response<B>,
    request: &EndpointRequestKind,
) -> Result<Option<OnUpgrade>, Invalid> {
    let is_switch = rsp.status() == StatusCode::SWITCHING_PROTOCOLS;
    let upgrade = if is_switch { Upgrade::of(rsp.headers()) } else { None };
    let is_tunnel = match request {
        EndpointRequestKind::Upgrade | EndpointRequestKind::Websocket(_) => upgrade.is_some(),
        EndpointRequestKind::Connect => rsp.status().is_success(),
        EndpointRequestKind::Plain => false,
    };
    if is_switch && !is_tunnel {
        return Err(Invalid("it switches protocols unasked"));
    }
    let tunnel = rsp.extensions_mut().remove::<OnUpgrade>().filter(|_| is_tunnel);
    if is_tunnel && tunnel.is_none() {
        // hyper makes no tunnel of 204, but the endpoint does.
        return Err(Invalid("it has no content, and is one to CONNECT"));
    }
    match request {
        EndpointRequestKind::Websocket(key) if is_tunnel => {
            key.check(rsp.headers())?;
            rsp.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
            *rsp.status_mut() = StatusCode::OK;
        }
        // A 2xx would accept the extended CONNECT.
        EndpointRequestKind::Websocket(_) if rsp.status().is_success() => {
            return Err(Invalid("it does not switch protocols"));
        }
        _ => {}
    }
    let headers = rsp.headers_mut();
    if is_tunnel {
        // They have no meaning before a tunnel (RFC 9110 section 9.3.6).
        headers.remove(header::TRANSFER_ENCODING);
        headers.remove(header::CONTENT_LENGTH);
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).into_iter();
    if let Some(coding) = codings.next() {
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
            return Err(Invalid("its transfer-encoding is not chunked"));
        }
        if headers.contains_key(header::CONTENT_LENGTH) {
            return Err(Invalid("it has both transfer-encoding and content-length"));
        }
    }
    fields::check_length(headers)?;
    fields::strip(headers);
    headers.remove(header::TE);
    if rsp.status() == StatusCode::NO_CONTENT {
        rsp.headers_mut().remove(header::CONTENT_LENGTH);
    }
    // The phrase of the endpoint's own, if it is not the status's usual one.
    let phrase = rsp.extensions_mut().remove::<ReasonPhrase>();
    rsp.extensions_mut().clear();
    if let Some(phrase) = phrase {
        rsp.extensions_mut().insert(phrase);
    }
    if let (Some(upgrade), EndpointRequestKind::Upgrade) = (upgrade, request) {
        upgrade.put(rsp.headers_mut());
    }
    *rsp.version_mut() = Version::HTTP_11;
    Ok(tunnel)
}
