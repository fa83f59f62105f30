//! Responses of HTTP/1.1 endpoints, as HTTP/2 has them.

use crate::{
    http1::{request::Asks, websocket::Upgrade},
    message::fields::{self, Invalid},
};
use http::{Response, StatusCode, Version, header};
use hyper::upgrade::OnUpgrade;

/// Makes a response one that can be passed on in either version. Tells how the connection is to be had if it is one of a
/// tunnel from now on.
///
/// hyper has read it by `transfer-encoding`, or else `content-length`, and leaves both in place. Where they disagree, or
/// say what hyper passes over, others may read the response in another way.
pub(crate) fn accept<B>(rsp: &mut Response<B>, asks: &Asks) -> Result<Option<OnUpgrade>, Invalid> {
    let switched = rsp.status() == StatusCode::SWITCHING_PROTOCOLS;
    let upgrade = if switched { Upgrade::of(rsp.headers()) } else { None };
    let agreed = match asks {
        Asks::Upgrade | Asks::Websocket(_) => upgrade.is_some(),
        Asks::Connect => rsp.status().is_success(),
        Asks::Response => false,
    };
    if switched && !agreed {
        return Err(Invalid("it switches protocols unasked"));
    }
    let tunnel = rsp.extensions_mut().remove::<OnUpgrade>().filter(|_| agreed);
    if agreed && tunnel.is_none() {
        // hyper takes 204 for a response like others, but the endpoint does not.
        return Err(Invalid("it has no content, and is one to CONNECT"));
    }
    match asks {
        Asks::Websocket(key) if agreed => {
            key.check(rsp.headers())?;
            rsp.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
            *rsp.status_mut() = StatusCode::OK;
        }
        // It would look as if it had.
        Asks::Websocket(_) if rsp.status().is_success() => return Err(Invalid("it does not switch protocols")),
        _ => {}
    }
    let headers = rsp.headers_mut();
    if agreed {
        // They say nothing there (RFC 9110 section 9.3.6).
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
    rsp.extensions_mut().clear();
    if let (Some(upgrade), Asks::Upgrade) = (upgrade, asks) {
        upgrade.put(rsp.headers_mut());
    }
    *rsp.version_mut() = Version::HTTP_11;
    Ok(tunnel)
}
