//! Names of clients, as their certificates have them.

use crate::host_port::dns_name;
use std::{fmt, str::FromStr};

/// Clients that may call, by the subject alternative names of their certificates: a DNS name, all DNS names of
/// one label more (`*.`), or a SPIFFE ID.
///
/// ```
/// use app_env::ClientName;
///
/// let prod: ClientName = "*.prod.example".parse()?;
/// assert!(prod.matches_dns("web.prod.example") && !prod.matches_dns("prod.example"));
/// # Ok::<(), app_env::InvalidClientName>(())
/// ```
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClientName(Kind);

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Kind {
    /// In lower case.
    Dns(String),
    /// The part after the first label and its dot; in lower case.
    Wildcard(String),
    Spiffe(String),
}

/// Why a text is not a [`ClientName`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InvalidClientName {
    reason: String,
}

const SPIFFE: &str = "spiffe://";

// === impl ClientName ===

impl ClientName {
    /// Whether a certificate's DNS name is meant. A wildcard in a certificate matches no client.
    #[must_use]
    pub fn matches_dns(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        match &self.0 {
            Kind::Dns(dns) => name.eq_ignore_ascii_case(dns),
            Kind::Wildcard(parent) => name
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && label != "*" && rest.eq_ignore_ascii_case(parent)),
            Kind::Spiffe(_) => false,
        }
    }

    /// Whether a certificate's URI is meant.
    #[must_use]
    pub fn matches_uri(&self, uri: &str) -> bool {
        matches!(&self.0, Kind::Spiffe(id) if id == uri)
    }
}

impl FromStr for ClientName {
    type Err = InvalidClientName;

    fn from_str(text: &str) -> Result<Self, InvalidClientName> {
        if let Some(id) = text.strip_prefix(SPIFFE) {
            check_spiffe(id).map_err(InvalidClientName::new)?;
            return Ok(Self(Kind::Spiffe(text.to_owned())));
        }
        if text.contains("://") {
            return Err(InvalidClientName::new("is a URI that does not start with spiffe://"));
        }
        let (name, kind): (_, fn(String) -> Kind) = match text.strip_prefix("*.") {
            Some(parent) => (parent, Kind::Wildcard),
            None => (text, Kind::Dns),
        };
        // Certificates have names without the last dot.
        let name = name.strip_suffix('.').unwrap_or(name);
        dns_name(name).map(|name| Self(kind(name))).map_err(|error| InvalidClientName::new(error.to_string()))
    }
}

/// Checks the part after the scheme (SPIFFE-ID section 2): a trust domain and a path.
fn check_spiffe(id: &str) -> Result<(), &'static str> {
    let (domain, path) = id.split_once('/').map_or((id, None), |(domain, path)| (domain, Some(path)));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if domain.is_empty() || !domain.bytes().all(|byte| is_plain(byte) && !byte.is_ascii_uppercase()) {
        return Err("has a trust domain with something else than lower-case letters, digits, - . and _");
    }
    let mut segments = path.into_iter().flat_map(|path| path.split('/'));
    if segments.any(|segment| matches!(segment, "" | "." | "..") || !segment.bytes().all(is_plain)) {
        return Err("has a path with something else than letters, digits, - . and _ between its slashes");
    }
    Ok(())
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Dns(name) | Kind::Spiffe(name) => f.write_str(name),
            Kind::Wildcard(parent) => write!(f, "*.{parent}"),
        }
    }
}

// === impl InvalidClientName ===

impl InvalidClientName {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

impl fmt::Display for InvalidClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for InvalidClientName {}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ClientName {
        text.parse().unwrap_or_else(|error| panic!("{text:?} {error}"))
    }

    #[track_caller]
    fn refuses(text: &str, reason: &str) {
        let error = text.parse::<ClientName>().unwrap_err().to_string();
        assert!(error.contains(reason), "{text:?} {error}");
    }

    #[test]
    fn dns_names_match_in_any_case_and_as_a_whole() {
        let web = name("Web.example.");
        assert_eq!(web.to_string(), "web.example");
        for same in ["web.example", "WEB.example", "web.example."] {
            assert!(web.matches_dns(same), "{same}");
        }
        for other in ["", "example", "a.web.example", "web.example.org", "webexample", "*.example"] {
            assert!(!web.matches_dns(other), "{other}");
        }
        assert!(!web.matches_uri("web.example"));
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let any = name("*.prod.example");
        assert_eq!(any.to_string(), "*.prod.example");
        assert!(any.matches_dns("web.prod.example") && any.matches_dns("WEB.PROD.EXAMPLE"));
        for other in ["prod.example", ".prod.example", "a.b.prod.example", "web.example", "*.prod.example"] {
            assert!(!any.matches_dns(other), "{other}");
        }
    }

    #[test]
    fn spiffe_ids_match_as_they_are() {
        let web = name("spiffe://prod.example/ns/Web_1");
        assert_eq!(web.to_string(), "spiffe://prod.example/ns/Web_1");
        assert!(web.matches_uri("spiffe://prod.example/ns/Web_1"));
        for other in ["spiffe://prod.example/ns/web_1", "spiffe://prod.example/ns/Web_1/", "spiffe://prod.example"] {
            assert!(!web.matches_uri(other), "{other}");
        }
        assert!(!web.matches_dns("spiffe://prod.example/ns/Web_1"));
        assert!(name("spiffe://example").matches_uri("spiffe://example"));
    }

    #[test]
    fn each_refusal_says_why() {
        refuses("", "has no host");
        refuses("*", "something else");
        refuses("*.", "has no host");
        refuses("a.*.example", "something else");
        refuses("*.*.example", "something else");
        refuses("10.0.0.1", "neither an IPv4");
        refuses("https://a.example", "does not start with spiffe://");
        refuses("spiffe://", "trust domain");
        refuses("spiffe://Prod/web", "trust domain");
        refuses("spiffe://prod:80/web", "trust domain");
        refuses("spiffe://prod/", "path");
        refuses("spiffe://prod/*", "path");
        refuses("spiffe://prod/a/../b", "path");
        refuses("spiffe://prod/a?b", "path");
    }
}
