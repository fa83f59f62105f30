//! The field in which a proxy describes its client's certificate. A client's own is not to be trusted.

use http::{HeaderMap, HeaderName, HeaderValue, header::TRAILER};
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

/// Removes the field, in all its spellings. Returns whether there was any.
pub(crate) fn strip(fields: &mut HeaderMap) -> bool {
    let names: SmallVec<[HeaderName; 1]> =
        fields.keys().filter(|name| is_client_cert(name.as_str())).cloned().collect();
    names.iter().for_each(|name| _ = fields.remove(name));
    !names.is_empty()
}

/// Removes the field's name from the `trailer` field of a head, which announces trailers (RFC 9110 section 6.6.2).
pub(crate) fn strip_announced(headers: &mut HeaderMap) {
    let is_announced =
        |name: &&[u8]| str::from_utf8(name).is_ok_and(|name| is_client_cert(&name.trim_ascii().to_ascii_lowercase()));
    let names = |value: &HeaderValue| value.as_bytes().split(|byte| *byte == b',').any(|name| is_announced(&name));
    if !headers.get_all(TRAILER).iter().any(names) {
        return;
    }
    let values = headers.get_all(TRAILER).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let left: Vec<_> = values.filter(|name| !is_announced(name)).map(<[u8]>::trim_ascii).collect();
    match HeaderValue::from_bytes(&left.join(&b", "[..])) {
        Ok(value) if !value.is_empty() => _ = headers.insert(TRAILER, value),
        _ => _ = headers.remove(TRAILER),
    }
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

    #[test]
    fn only_other_names_stay_announced() {
        for (values, left) in [
            (&["x-sum, X-Forwarded-Client-Cert ,x-b", "x_forwarded_client_cert"][..], &["x-sum, x-b"][..]),
            (&["x-forwarded-client-cert"], &[]),
            (&["x-sum", "x-b,x-c"], &["x-sum", "x-b,x-c"]),
        ] {
            let fields = |values: &[&'static str]| -> HeaderMap {
                values.iter().map(|value| (TRAILER, HeaderValue::from_static(value))).collect()
            };
            let mut headers = fields(values);
            strip_announced(&mut headers);
            assert_eq!(headers, fields(left));
        }
    }
}
