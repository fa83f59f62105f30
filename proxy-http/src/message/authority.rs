//! Authorities: the one grammar for `:authority`, `host` and targets, of either version (RFC 3986 section 3.2).

use crate::message::connect_protocol::ConnectProtocol;
use http::{
    Method, Uri, header,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use std::{mem, net::Ipv6Addr};

/// The host and the port of an authority, as they are written.
#[derive(Clone, Copy, Debug)]
struct HostPort<'a> {
    host: &'a [u8],
    /// Digits. Empty: there is no port, or an empty one, which is the same (RFC 3986 section 6.2.3).
    port: &'a [u8],
}

/// The class of each byte, a bit. A text has the union of its bytes' classes; bytes of names add none.
static CLASSES: [u8; 256] = {
    let mut classes = [OTHER; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        // Unreserved characters and sub-delims (RFC 3986 section 2), but the comma: a field value with one may be read as a list.
        if byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'='
            )
        {
            classes[byte as usize] = NAME;
        }
        byte += 1;
    }
    classes[b':' as usize] = COLON;
    classes[b'%' as usize] = PERCENT;
    classes[b'[' as usize] = BRACKET;
    classes[b']' as usize] = BRACKET;
    classes
};
const NAME: u8 = 0;
const COLON: u8 = 1;
const PERCENT: u8 = 2;
const BRACKET: u8 = 4;
const OTHER: u8 = 8;

/// Whether this is one host, with or without a port, and without userinfo, which is not allowed in messages (RFC 9110 section
/// 4.2.4).
#[inline]
pub(crate) fn is_authority(authority: &[u8]) -> bool {
    // Most are a name alone, or with a port, in which there is no other colon.
    match classes(authority) {
        NAME => !authority.is_empty(),
        COLON => authority
            .iter()
            .position(|byte| *byte == b':')
            .is_some_and(|colon| colon > 0 && is_port(&authority[colon + 1..])),
        all => parse(authority, all).is_some(),
    }
}

/// The host as it is written, an IPv6 address with its brackets. `None`: the authority is malformed.
pub(crate) fn host(authority: &[u8]) -> Option<&[u8]> {
    Some(parse(authority, classes(authority))?.host)
}

/// Whether two authorities are the same under `scheme`: case makes no difference, nor does the scheme's default port, or an
/// empty one (RFC 3986 section 6.2.3). A malformed authority is not the same as any, itself included.
pub(crate) fn is_same(one: &[u8], other: &[u8], scheme: Option<&Scheme>) -> bool {
    let default = match scheme.map(Scheme::as_str) {
        Some("http") => 80,
        Some("https") => 443,
        _ => 0,
    };
    let parts = |authority| {
        let HostPort { host, port } = parse(authority, classes(authority))?;
        Some((host, if port.is_empty() { default } else { number(port) }))
    };
    match (parts(one), parts(other)) {
        (Some((host, port)), Some((other_host, other_port))) => {
            port == other_port && host.eq_ignore_ascii_case(other_host)
        }
        _ => false,
    }
}

/// The host, and the port if there is one. `None`: the authority is malformed, or its port is none of TCP.
pub(crate) fn split(authority: &str) -> Option<(&str, Option<u16>)> {
    let HostPort { host, port } = parse(authority.as_bytes(), classes(authority.as_bytes()))?;
    let port = match port {
        [] => None,
        port => Some(u16::try_from(number(port)).ok().filter(|port| *port > 0)?),
    };
    Some((&authority[..host.len()], port))
}

fn classes(authority: &[u8]) -> u8 {
    authority.iter().fold(0, |all, byte| all | CLASSES[usize::from(*byte)])
}

/// The parts of an authority, whose bytes have the classes of `all`. `None`: it is malformed.
fn parse(authority: &[u8], all: u8) -> Option<HostPort<'_>> {
    if all & OTHER != 0 {
        return None;
    }
    let (host, port) = match authority.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !authority.ends_with(b"]") => (&authority[..colon], &authority[colon + 1..]),
        _ => (authority, &authority[authority.len()..]),
    };
    let is_host = match host {
        [b'[', ip @ .., b']'] => is_literal(ip),
        _ => !host.is_empty() && is_name(host),
    };
    (is_host && is_port(port)).then_some(HostPort { host, port })
}

/// Whether this is a registered name or an IPv4 address.
fn is_name(mut host: &[u8]) -> bool {
    loop {
        host = match host {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            [byte, rest @ ..] if CLASSES[usize::from(*byte)] == NAME => rest,
            _ => return false,
        };
    }
}

/// Whether brackets may have this: an IPv6 address, without a zone, or an address of a future version.
fn is_literal(ip: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(ip) else { return false };
    if let Some(future) = text.strip_prefix(['v', 'V']) {
        return future.split_once('.').is_some_and(|(version, address)| {
            // A byte of a name, or a colon.
            let is_address = |byte: u8| CLASSES[usize::from(byte)] <= COLON;
            !version.is_empty()
                && version.bytes().all(|byte| byte.is_ascii_hexdigit())
                && !address.is_empty()
                && address.bytes().all(is_address)
        });
    }
    text.parse::<Ipv6Addr>().is_ok()
}

/// Empty, or 1 to 65535 in five digits at most: no connection has another port.
fn is_port(port: &[u8]) -> bool {
    port.is_empty() || (port.len() <= 5 && port.iter().all(u8::is_ascii_digit) && (1..=65_535).contains(&number(port)))
}

fn number(digits: &[u8]) -> u32 {
    digits.iter().fold(0, |value, byte| value * 10 + u32::from(byte - b'0'))
}

/// Replaces a request's authority, in `:authority` and `host` alike. The one of CONNECT stays, since it is where the tunnel leads; that
/// of extended CONNECT (RFC 8441) is like others.
pub(crate) fn replace(head: &mut Parts, authority: &Authority) {
    if head.method == Method::CONNECT && head.extensions.get::<ConnectProtocol>().is_none() {
        return;
    }
    let mut uri = mem::take(&mut head.uri).into_parts();
    uri.authority = Some(authority.clone());
    // `http::Uri` takes an authority only with a scheme and a path.
    uri.scheme.get_or_insert(Scheme::HTTP);
    uri.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    head.uri = Uri::from_parts(uri).expect("scheme, authority and path are set");
    head.headers.remove(header::HOST);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Apart by blanks.
    const VALID: &str = "example.com example.com: example.com:80 example.com:00080 example.com:65535 EXAMPLE.com. a a_b \
        1.2.3.4:80 1.2.3.4.5 !$&'()*+;=~ %2Frun%2Fapp.sock %2frun:80 [::1] [::1]: [::1]:443 [::ffff:1.2.3.4]:1 [v1.a:b] [vF.~]";
    const INVALID: &str = "[ ] [] []:80 [::1 ::1 ::1] [::1]80 [::1]:80: [::1]] [[::1] a[::1] [a] [1.2.3.4] [::1%25eth0] [v1.] \
        [v.a] [vg.a] [::g] : :80 a:b a:80: a:80:80 a:0 a:65536 a:000080 a:+80 a@b user:pw@a a,b a/b a?b a#b a\\b a\"b a<b a{b \
        a|b a^b a`b % %2 %2g a% \u{e9}";

    #[test]
    fn one_host_and_a_port_are_an_authority() {
        for valid in VALID.split_ascii_whitespace() {
            assert!(is_authority(valid.as_bytes()), "{valid}");
        }
        for invalid in INVALID.split_ascii_whitespace().chain(["", "a b", "a: 80", " a", "a\t"]) {
            assert!(!is_authority(invalid.as_bytes()), "{invalid}");
        }
    }

    #[test]
    fn case_and_the_default_port_make_no_difference() {
        let (http, https) = (Some(&Scheme::HTTP), Some(&Scheme::HTTPS));
        for (one, other, scheme, expect) in [
            ("a.example", "A.Example", None, true),
            ("a.example", "a.example:80", http, true),
            ("a.example:", "a.example:080", http, true),
            ("a.example:", "a.example", None, true),
            ("a.example:443", "a.example", https, true),
            ("[::1]", "[::1]:80", http, true),
            ("%2Fa", "%2fA", http, true),
            ("a.example", "a.example:80", https, false),
            ("a.example", "a.example:80", None, false),
            ("a.example:8080", "a.example:80", http, false),
            ("a.example", "b.example", http, false),
            ("a.example:80", "a.example:", https, false),
            ("a.example", "a.example.", http, false),
            ("[::1]", "::1", http, false),
            ("a@b", "a@b", http, false),
            ("", "", http, false),
        ] {
            for (one, other) in [(one, other), (other, one)] {
                assert_eq!(is_same(one.as_bytes(), other.as_bytes(), scheme), expect, "{one} {other} {scheme:?}");
            }
        }
    }
}
