//! The field in which a proxy describes its client's certificate. A client's own is not to be trusted.

use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

/// The field's name.
pub(crate) const CLIENT_CERT: &str = "x-forwarded-client-cert";

/// Whether an endpoint may read a field of this name, which is in lower case, as [`CLIENT_CERT`].
pub(crate) fn is_client_cert(name: &str) -> bool {
    is_read_as(name, CLIENT_CERT)
}

/// Whether an endpoint may read a field of this name as `field`; both are in lower case.
///
/// CGI and its successors name fields by variables, in which `-` is `_` (RFC 3875 section 4.1.18); some servers have `_` for
/// any byte that is no letter and no digit.
pub(crate) fn is_read_as(name: &str, field: &str) -> bool {
    let same = |(byte, expected): (u8, u8)| byte == expected || (expected == b'-' && !byte.is_ascii_alphanumeric());
    name.len() == field.len() && name.bytes().zip(field.bytes()).all(same)
}

/// Removes the field, in all its spellings.
pub(crate) fn strip(headers: &mut HeaderMap) {
    remove(headers, is_client_cert);
}

/// Removes the fields of whose names this is true. Returns whether there was any.
pub(crate) fn remove(fields: &mut HeaderMap, is_removed: impl Fn(&str) -> bool) -> bool {
    let names: SmallVec<[HeaderName; 1]> = fields.keys().filter(|name| is_removed(name.as_str())).cloned().collect();
    names.iter().for_each(|name| _ = fields.remove(name));
    !names.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_that_become_the_same_variable_are_the_same_field() {
        for name in [CLIENT_CERT, "x_forwarded_client_cert", "x-forwarded_client-cert", "x.forwarded~client'cert"] {
            assert!(is_client_cert(name), "{name}");
        }
        for name in
            ["x-forwarded-client-certs", "x-forwarded-client-ce-t", "xxforwarded-client-cert", "x-forwarded-for"]
        {
            assert!(!is_client_cert(name), "{name}");
        }
    }
}
