//! The fields in which a proxy tells endpoints the address of a request's client.

use crate::message::client_cert::{self, is_read_as};
use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};
use std::net::IpAddr;

/// A field in which endpoints are told the address of a request's client.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ForwardedField {
    /// `x-forwarded-for`, with the address alone.
    XForwardedFor,
    /// `forwarded` (RFC 7239), with the address as `for`.
    Forwarded,
}

/// The entry that one proxy adds to the field.
#[derive(Clone, Debug)]
pub(crate) struct ForwardedElement {
    name: HeaderName,
    value: HeaderValue,
}

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

// === impl ForwardedElement ===

impl ForwardedElement {
    /// `None`: the client's address is not known, which an entry says, too. Without one the last entry would be the client's word.
    pub(crate) fn new(field: ForwardedField, client: Option<IpAddr>) -> Self {
        let (name, text) = match (field, client.map(|ip| ip.to_canonical())) {
            // Section 6.2, and for the older field as other proxies write it.
            (ForwardedField::XForwardedFor, None) => (X_FORWARDED_FOR, "unknown".to_owned()),
            (ForwardedField::Forwarded, None) => (FORWARDED, "for=unknown".to_owned()),
            (ForwardedField::XForwardedFor, Some(ip)) => (X_FORWARDED_FOR, ip.to_string()),
            (ForwardedField::Forwarded, Some(ip @ IpAddr::V4(_))) => (FORWARDED, format!("for={ip}")),
            // Section 6.1: in brackets, and quoted for them.
            (ForwardedField::Forwarded, Some(ip @ IpAddr::V6(_))) => (FORWARDED, format!("for=\"[{ip}]\"")),
        };
        let value = HeaderValue::try_from(text).expect("addresses are visible ASCII");
        Self { name, value }
    }

    /// Adds it behind the field's entries. A list in several fields becomes one in one field: some servers read the first field
    /// alone, which a client may have set. Of names that servers may read as this one none stays.
    pub(crate) fn add(&self, headers: &mut HeaderMap) {
        client_cert::remove(headers, |name| self.name != *name && is_read_as(name, self.name.as_str()));
        let mut list = Vec::new();
        // Behind an open quote the address would be the client's text.
        let is_closed =
            headers.get_all(&self.name).iter().all(|value| self.name != FORWARDED || quotes_are_closed(value));
        let before = headers.get_all(&self.name).iter().filter(|_| is_closed);
        for value in before.chain([&self.value]).filter(|value| !value.is_empty()) {
            if !list.is_empty() {
                list.extend_from_slice(b", ");
            }
            list.extend_from_slice(value.as_bytes());
        }
        let value = HeaderValue::from_bytes(&list).expect("valid values stay valid in a list");
        headers.insert(self.name.clone(), value);
    }
}

/// Whether each string in quotes has its end (RFC 9110 section 5.6.4).
fn quotes_are_closed(value: &HeaderValue) -> bool {
    let (mut is_open, mut is_escaped) = (false, false);
    for byte in value.as_bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_open => is_escaped = true,
            b'"' => is_open = !is_open,
            _ => {}
        }
    }
    !is_open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_unknown_is_added_behind_those_before() {
        let (x, f) = (ForwardedField::XForwardedFor, ForwardedField::Forwarded);
        for (field, client, before, after) in [
            (x, "192.0.2.1", &[][..], "192.0.2.1"),
            (x, "::ffff:192.0.2.1", &[""], "192.0.2.1"),
            (x, "2001:db8::1", &["10.0.0.1"], "10.0.0.1, 2001:db8::1"),
            (x, "192.0.2.1", &["10.0.0.1, 10.0.0.2", "unknown"], "10.0.0.1, 10.0.0.2, unknown, 192.0.2.1"),
            (f, "192.0.2.1", &[], "for=192.0.2.1"),
            (f, "192.0.2.1", &["for=6.6.6.6;by=\""], "for=192.0.2.1"),
            (f, "192.0.2.1", &["for=1", "for=\"a\\\""], "for=192.0.2.1"),
            (f, "192.0.2.1", &["for=\"a\\\"\""], "for=\"a\\\"\", for=192.0.2.1"),
            (x, "192.0.2.1", &["\""], "\", 192.0.2.1"),
            (x, "", &["10.0.0.1"], "10.0.0.1, unknown"),
            (f, "", &["for=10.0.0.1"], "for=10.0.0.1, for=unknown"),
            (f, "2001:db8::1", &["for=\"_a;b\";proto=http"], "for=\"_a;b\";proto=http, for=\"[2001:db8::1]\""),
        ] {
            let element = ForwardedElement::new(field, client.parse().ok());
            let mut headers: HeaderMap =
                before.iter().map(|value| (element.name.clone(), HeaderValue::from_static(value))).collect();
            headers.insert("x_forwarded_for", HeaderValue::from_static("alias"));
            element.add(&mut headers);
            let values: Vec<_> = headers.get_all(&element.name).iter().collect();
            assert_eq!(values, [after]);
            assert_eq!(headers.contains_key("x_forwarded_for"), field == f);
        }
    }
}
