//! The fields by which proxies tell endpoints of a request's client. They belong to the head, where a proxy removes or completes the
//! client's own; an endpoint that merges trailers into the head would take the client's for a proxy's.

use crate::message::{
    client_cert::{self, CLIENT_CERT, is_read_as},
    forwarded::X_FORWARDED_FOR,
};
use http::{
    HeaderMap, HeaderValue,
    header::{FORWARDED, TRAILER},
};

/// Whether an endpoint may read a field of this name, which is in lower case, as one of proxies.
fn is_of_proxies(name: &str) -> bool {
    [CLIENT_CERT, X_FORWARDED_FOR.as_str(), FORWARDED.as_str()].iter().any(|field| is_read_as(name, field))
}

/// Removes the fields, in all their spellings, from the trailers of a request. Returns whether there was any.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) -> bool {
    client_cert::remove(trailers, is_of_proxies)
}

/// Removes their names from the `trailer` field of a head, which announces trailers (RFC 9110 section 6.6.2).
pub(crate) fn strip_announced(headers: &mut HeaderMap) {
    let is_announced =
        |name: &&[u8]| str::from_utf8(name).is_ok_and(|name| is_of_proxies(&name.trim_ascii().to_ascii_lowercase()));
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
    fn only_other_names_stay_announced() {
        for (values, left) in [
            (&["x-sum, X-Forwarded-Client-Cert ,x-b", "x_forwarded_client_cert"][..], &["x-sum, x-b"][..]),
            (&["Forwarded,x-sum,X-Forwarded-For", "x_forwarded-for"], &["x-sum"]),
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
