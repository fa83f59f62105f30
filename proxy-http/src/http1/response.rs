//! Responses of HTTP/1.1 endpoints, as HTTP/2 has them.

use super::{
    fields::{self, Invalid},
    tunnel::Upgrade,
};
use http::{Response, StatusCode, Version, header};
use hyper::upgrade::OnUpgrade;

/// Makes a response one that can be passed on in either version.
///
/// hyper has read it by `transfer-encoding`, or else `content-length`, and leaves both in place. Where they disagree, or
/// say what hyper passes over, others may read the response in another way.
///
/// `upgrades`: the request asked for an upgrade.
pub(super) fn accept<B>(rsp: &mut Response<B>, upgrades: bool) -> Result<(), Invalid> {
    let upgrade = if rsp.status() == StatusCode::SWITCHING_PROTOCOLS {
        let agreed = upgrades.then(|| Upgrade::of(rsp.headers())).flatten();
        Some(agreed.ok_or(Invalid("it switches protocols unasked"))?)
    } else {
        None
    };
    let headers = rsp.headers_mut();
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
    let endpoint = rsp.extensions_mut().remove::<OnUpgrade>();
    rsp.extensions_mut().clear();
    if let (Some(upgrade), Some(endpoint)) = (upgrade, endpoint) {
        upgrade.put(rsp.headers_mut());
        rsp.extensions_mut().insert(endpoint);
    }
    *rsp.version_mut() = Version::HTTP_11;
    Ok(())
}
