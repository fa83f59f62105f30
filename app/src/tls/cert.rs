//! The names in a certificate, and its expiry.

use app_env::ClientName;
use http::HeaderValue;
use rustls::{CertificateError, pki_types::CertificateDer};
use std::{
    fmt::Write as _,
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use webpki::EndEntityCert;

/// A certificate's names, and its fingerprint.
pub(crate) struct Names<'a> {
    cert: &'a CertificateDer<'a>,
    parsed: EndEntityCert<'a>,
}

// Tags of DER (X.690).
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// The version of a certificate, `[0]`.
const VERSION: u8 = 0xa0;

/// The text for a certificate that is an authority's own: its fault, and the remedy.
pub(crate) const SELF_SIGNED: &str = "is one of an authority (CA:TRUE), which is no peer's: have the authority issue one, or \
                                      sign one itself with basicConstraints CA:FALSE";

/// Whether a handshake failed because a peer has an authority's certificate, as `openssl req -x509` makes it by default.
pub(crate) fn is_self_signed(error: &io::Error) -> bool {
    let reason = error.get_ref().and_then(|error| error.downcast_ref());
    let Some(rustls::Error::InvalidCertificate(CertificateError::Other(reason))) = reason else { return false };
    reason.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
}

/// When a certificate expires, in Unix time. `None`: it is none.
pub(crate) fn expires(cert: &CertificateDer<'_>) -> Option<u64> {
    // Certificate, TBSCertificate, and in it (RFC 5280 section 4.1): version, serialNumber, signature, issuer, validity.
    let (cert, _) = expect(SEQUENCE, cert)?;
    let (tbs, _) = expect(SEQUENCE, cert)?;
    let tbs = expect(VERSION, tbs).map_or(tbs, |(_, rest)| rest);
    let (_, tbs) = expect(INTEGER, tbs)?;
    let (_, tbs) = expect(SEQUENCE, tbs)?;
    let (_, tbs) = expect(SEQUENCE, tbs)?;
    let (validity, _) = expect(SEQUENCE, tbs)?;
    let (_, _, not_after) = element(validity)?;
    let (tag, time, _) = element(not_after)?;
    match (tag, time) {
        (UTC_TIME, [y, z, rest @ ..]) => {
            let year = digits(&[*y, *z])?;
            in_unix_time(if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        (GENERALIZED_TIME, [a, b, c, d, rest @ ..]) => in_unix_time(digits(&[*a, *b, *c, *d])?, rest),
        _ => None,
    }
}

/// Now.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// The time just after the last second in which a certificate is valid (RFC 5280 section 4.1.2.5).
pub(crate) fn system_time(not_after: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(not_after.saturating_add(1))
}

/// The content of an element with a tag, and the bytes after it.
fn expect(expected: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    element(der).filter(|(tag, ..)| *tag == expected).map(|(_, content, rest)| (content, rest))
}

/// An element's tag and content, and the bytes after it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*length) {
        short @ ..0x80 => (short, rest),
        long => {
            let (bytes, rest) =
                rest.split_at_checked(long - 0x80).filter(|(bytes, _)| (1..=4).contains(&bytes.len()))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// A time of `MMDDHHMMSSZ`, which is all that certificates may have.
fn in_unix_time(year: u64, rest: &[u8]) -> Option<u64> {
    let (time, b"Z") = rest.split_at_checked(10)? else { return None };
    let mut pairs = time.chunks(2).map(digits);
    let mut pair = || pairs.next().flatten();
    let (month, day, hour, minute, second) = (pair()?, pair()?, pair()?, pair()?, pair()?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days since 1970; years start in March, so that the leap day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    Some((days.checked_sub(719_469)? * 24 + hour) * 3_600 + minute * 60 + second)
}

fn digits(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0')))
}

// === impl Names ===

impl<'a> Names<'a> {
    /// `None`: it is no certificate.
    pub(crate) fn of(cert: &'a CertificateDer<'a>) -> Option<Self> {
        Some(Self { cert, parsed: EndEntityCert::try_from(cert).ok()? })
    }

    pub(crate) fn is_one_of(&self, allowed: &[ClientName]) -> bool {
        self.parsed.valid_dns_names().any(|dns| allowed.iter().any(|name| name.matches_dns(dns)))
            || self.parsed.valid_uri_names().any(|uri| allowed.iter().any(|name| name.matches_uri(uri)))
    }

    /// The first names in one line, for people: a certificate has any number of them.
    pub(crate) fn list(&self) -> String {
        const MOST: usize = 8;
        let all = || self.parsed.valid_uri_names().chain(self.parsed.valid_dns_names());
        let mut list = all().take(MOST).collect::<Vec<_>>().join(",");
        let more = all().skip(MOST).count();
        if more > 0 {
            list.push_str(&format!(" and {more} more"));
        }
        list
    }

    pub(crate) fn uri(&self) -> Option<&'a str> {
        self.parsed.valid_uri_names().next()
    }

    /// The value of `x-forwarded-client-cert`, as Envoy writes it: the URI of the server that took the connection, the
    /// certificate's SHA-256 and its names. `None`: there is a name that no field can hold.
    pub(crate) fn forwarded(&self, by: Option<&str>) -> Option<HeaderValue> {
        let mut value = String::new();
        if let Some(by) = by {
            push(&mut value, "By", by);
        }
        let mut hash = String::with_capacity(64);
        for byte in ring::digest::digest(&ring::digest::SHA256, self.cert).as_ref() {
            write!(hash, "{byte:02x}").ok()?;
        }
        push(&mut value, "Hash", &hash);
        self.parsed.valid_uri_names().for_each(|uri| push(&mut value, "URI", uri));
        self.parsed.valid_dns_names().for_each(|dns| push(&mut value, "DNS", dns));
        HeaderValue::try_from(value).ok()
    }
}

/// Adds a pair, with quotes where the value has something that ends it.
fn push(to: &mut String, key: &str, value: &str) {
    if !to.is_empty() {
        to.push(';');
    }
    to.push_str(key);
    to.push('=');
    if value.contains([',', ';', '=', '"', '\\']) {
        to.push('"');
        to.push_str(&value.replace('\\', "\\\\").replace('"', "\\\""));
        to.push('"');
    } else {
        to.push_str(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType, date_time_ymd};

    fn cert(names: Vec<SanType>, until: (i32, u8, u8)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        params.subject_alt_names = names;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn uri(uri: &str) -> SanType {
        SanType::URI(uri.try_into().unwrap())
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    #[test]
    fn expiry_is_in_unix_time_in_both_forms() {
        for (until, expected) in [
            ((1999, 12, 31), 946_598_400),
            ((2000, 2, 29), 951_782_400),
            ((2000, 3, 1), 951_868_800),
            ((2024, 2, 29), 1_709_164_800),
            ((2049, 12, 31), 2_524_521_600),
            // From 2050 on certificates have four digits.
            ((2050, 1, 1), 2_524_608_000),
            ((2100, 3, 1), 4_107_542_400),
            ((4096, 1, 1), 67_090_118_400),
        ] {
            assert_eq!(expires(&cert(Vec::new(), until)), Some(expected), "{until:?}");
        }
    }

    #[test]
    fn what_is_no_certificate_does_not_expire() {
        let whole = cert(vec![dns("a.example")], (2030, 1, 1));
        assert!(expires(&whole).is_some());
        for end in 0..200 {
            assert_eq!(expires(&whole[..end].into()), None, "{end}");
        }
        for place in 0..whole.len() {
            for byte in [0, 1, 0x30, 0x7f, 0x80, 0x82, 0x84, 0xff] {
                let mut changed = whole.to_vec();
                changed[place] = byte;
                // Whatever it says now.
                let _ = expires(&changed.into());
            }
        }
        for wrong in [&[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff][..], &[SEQUENCE, 0x80], &[SEQUENCE, 0xff, 1, 2]] {
            assert_eq!(expires(&wrong.into()), None);
        }
        for time in ["0001010000Z", "1301010000Z", "01320000000Z", "0101240000Z", "0101000000", "010100000zZ"] {
            assert_eq!(in_unix_time(2_000, time.as_bytes()), None, "{time}");
        }
        assert_eq!(in_unix_time(1_969, b"1231235959Z"), None);
        assert_eq!(in_unix_time(1_970, b"0101000001Z"), Some(1));
    }

    #[test]
    fn names_are_those_of_the_san_and_no_others() {
        let cert = cert(vec![uri("spiffe://example/web"), dns("web.example"), dns("*.b.example")], (2030, 1, 1));
        let names = Names::of(&cert).unwrap();
        assert_eq!(names.list(), "spiffe://example/web,web.example,*.b.example");
        assert_eq!(names.uri(), Some("spiffe://example/web"));
        let is = |name: &str| names.is_one_of(&["other.example".parse().unwrap(), name.parse().unwrap()]);
        assert!(is("spiffe://example/web") && is("web.example") && is("*.example"));
        // rcgen's default subject.
        assert!(
            !is("rcgen-self-signed-cert") && !is("spiffe://example/we") && !is("a.b.example") && !is("*.b.example")
        );
        assert!(!names.is_one_of(&[]));
    }

    #[test]
    fn forwarded_is_as_envoy_has_it() {
        let cert = cert(vec![uri("spiffe://example/a"), dns("a.example"), dns("b.example")], (2030, 1, 1));
        let value = Names::of(&cert).unwrap().forwarded(Some("spiffe://example/proxy")).unwrap();
        let (hash, rest) =
            value.to_str().unwrap().strip_prefix("By=spiffe://example/proxy;Hash=").unwrap().split_at(64);
        assert!(hash.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)), "{hash}");
        assert_eq!(rest, ";URI=spiffe://example/a;DNS=a.example;DNS=b.example");
    }

    #[test]
    fn names_cannot_end_their_value() {
        let cert = cert(vec![uri(r#"x:a,By=b;"c\d"#)], (2030, 1, 1));
        let value = Names::of(&cert).unwrap().forwarded(None).unwrap();
        assert!(value.to_str().unwrap().ends_with(r#";URI="x:a,By=b;\"c\\d""#), "{value:?}");
        let cert = self::cert(vec![uri("x:a\r\nhost: b")], (2030, 1, 1));
        assert_eq!(Names::of(&cert).unwrap().forwarded(None), None);
    }
}
