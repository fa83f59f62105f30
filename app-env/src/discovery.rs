//! Where requests may go by their authorities.

use crate::host_port::{InvalidHostPort, dns_name};
use ipnet::IpNet;
use std::{fmt, net::IpAddr, str::FromStr};

/// The destinations that requests may name by their authorities, and where their endpoints are found. There is at least
/// one suffix or network, unless Linkerd's control plane, which knows the destinations, is asked.
///
/// ```
/// use app_env::{Discovery, DiscoverySource};
///
/// let allowed = Discovery {
///     source: DiscoverySource::Dns,
///     suffixes: vec!["svc.cluster.local".parse()?],
///     networks: vec!["10.0.0.0/8".parse()?],
/// };
/// assert!(allowed.allows_name("orders.shop.svc.cluster.local"));
/// assert!(!allowed.allows_name("evil-svc.cluster.local"));
/// assert!(allowed.allows_ip("10.1.2.3".parse()?));
/// assert!(!allowed.allows_ip("127.0.0.1".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Discovery {
    /// Where endpoints are found.
    pub source: DiscoverySource,
    /// Names, which are allowed themselves, and all names below them.
    pub suffixes: Vec<DomainSuffix>,
    /// Networks of authorities that are IP addresses. Addresses that names have need not be in one.
    pub networks: Vec<Network>,
}

/// Where the endpoints of a destination are found.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum DiscoverySource {
    /// The addresses of the authority's host; the default.
    #[default]
    Dns,
    /// The endpoints that the [`ControlPlane`](crate::ControlPlane) has for the authority; the addresses of the host if it has none, and
    /// the host is allowed.
    Linkerd,
}

/// A DNS name that stands for itself and all names below it, in lower case and without a dot at its end.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DomainSuffix(String);

/// A network of IP addresses, as CIDR has it: an address and the length of the prefix. An address alone is a network of one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Network(IpNet);

/// Why a text is not a [`Network`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InvalidNetwork {
    reason: &'static str,
}

// === impl Discovery ===

impl Discovery {
    /// Whether requests may go to a host by its name, in lower case and without a dot at its end.
    #[must_use]
    pub fn allows_name(&self, name: &str) -> bool {
        self.suffixes.iter().any(|suffix| suffix.contains(name))
    }

    /// Whether requests may go to an IP address. One of IPv4 that is written as an IPv6 one is the same.
    #[must_use]
    pub fn allows_ip(&self, ip: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(ip))
    }
}

// === impl DomainSuffix ===

impl DomainSuffix {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a name, in lower case and without a dot at its end, is this one or below it.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        name.strip_suffix(self.0.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

impl FromStr for DomainSuffix {
    type Err = InvalidHostPort;

    fn from_str(text: &str) -> Result<Self, InvalidHostPort> {
        let name = text.trim_matches('.');
        dns_name(name.strip_prefix("*.").unwrap_or(name)).map(Self)
    }
}

impl fmt::Display for DomainSuffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Network ===

impl Network {
    /// Whether an address is in it. One of IPv4 that is written as an IPv6 one is the same.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let refuse = |reason| Err(InvalidNetwork { reason });
        let network = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
            (Ok(network), _) => network,
            (_, Ok(ip)) => ip.into(),
            _ => return refuse("is no network"),
        };
        if matches!(network, IpNet::V6(network) if network.addr().to_ipv4_mapped().is_some()) {
            return refuse("has IPv4 addresses in the form of IPv6, must have them in that of IPv4");
        }
        if network.trunc() != network {
            return refuse("has bits beyond its prefix");
        }
        Ok(Self(network))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl InvalidNetwork ===

impl fmt::Display for InvalidNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason)
    }
}

impl std::error::Error for InvalidNetwork {}
