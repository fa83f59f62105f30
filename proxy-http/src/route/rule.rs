//! Rules: the conditions on which requests are taken.

use http::{HeaderName, HeaderValue, Method};
use std::{fmt, str::FromStr};

/// Requests of some hosts that one of some matches takes.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// The hosts. None: all, and requests without one, too.
    pub hostnames: Vec<Hostname>,
    /// Conditions, one of which must hold. None: all requests are taken.
    pub matches: Vec<Match>,
}

/// Conditions on a request, all of which must hold. By default there is none.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// The path, without the query.
    pub path: PathMatch,
    /// The method. `None`: any. A call of gRPC has POST, also if another one stands here.
    pub method: Option<Method>,
    /// Fields with one value each: one line of the field must have it.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// The path of a request, which is compared as it is written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PathMatch {
    /// This path.
    Exact(String),
    /// This path and all paths below it, by segments: `/a` and `/a/` have `/a` and `/a/b`, and not `/ab`. `/` has all.
    Prefix(String),
    /// A call of gRPC: POST to `/service/method`.
    GrpcMethod {
        /// The full name of the service. `None`: any.
        service: Option<String>,
        /// The method. `None`: any.
        method: Option<String>,
    },
}

/// A host, or `*.` before one: that stands for all names below it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Hostname {
    /// In lower case, without a dot at its end.
    pub(super) name: Box<str>,
    pub(super) is_wildcard: bool,
}

/// A text that is not a [`Hostname`]: it is empty, longer than 255 bytes, not ASCII, or has a `*` elsewhere than before the
/// first dot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InvalidHostname(());

/// The longest name, in bytes: DNS has none longer.
pub(super) const MAX_HOST: usize = 255;

// === impl PathMatch ===

impl Default for PathMatch {
    /// All paths.
    fn default() -> Self {
        Self::Prefix("/".to_owned())
    }
}

// === impl Hostname ===

impl FromStr for Hostname {
    type Err = InvalidHostname;

    fn from_str(text: &str) -> Result<Self, InvalidHostname> {
        let (name, is_wildcard) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() || name.len() > MAX_HOST || !name.is_ascii() || name.contains('*') {
            return Err(InvalidHostname(()));
        }
        Ok(Self { name: name.to_ascii_lowercase().into(), is_wildcard })
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.is_wildcard { "*." } else { "" }, self.name)
    }
}

// === impl InvalidHostname ===

impl fmt::Display for InvalidHostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither a host nor *. before one")
    }
}

impl std::error::Error for InvalidHostname {}
