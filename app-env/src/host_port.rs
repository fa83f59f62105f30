//! The address of an endpoint, by name or by number.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// A host, which is an IP address or a DNS name, and a port.
///
/// ```
/// use app_env::HostPort;
///
/// let endpoint: HostPort = "[::1]:8080".parse()?;
/// assert_eq!((endpoint.host(), endpoint.port()), ("::1", 8080));
/// assert_eq!(endpoint.to_string(), "[::1]:8080");
/// # Ok::<(), app_env::InvalidHostPort>(())
/// ```
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HostPort {
    /// The shortest form of an IP address, without brackets, or a DNS name in lower case.
    host: String,
    port: u16,
}

/// Why a text is not a [`HostPort`], an [`EndpointAddr`](crate::EndpointAddr) or a [`DomainSuffix`](crate::DomainSuffix).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InvalidHostPort {
    reason: &'static str,
}

// === impl HostPort ===

impl HostPort {
    /// The IP address, an IPv6 one without its brackets, or the DNS name in lower case.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, 1..=65535.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The host as an IP address. `None`: it is a DNS name.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether a connection to it comes to a listener of this host, as far as both show without asking the system.
    #[must_use]
    pub fn is_at(&self, listener: SocketAddr) -> bool {
        let ip = if self.host == "localhost" { Some(Ipv4Addr::LOCALHOST.into()) } else { self.ip() };
        let own = listener.ip().to_canonical();
        let reaches = |ip: IpAddr| {
            let ip = ip.to_canonical();
            // To connect to no address is to connect to loopback.
            let local = ip.is_loopback() || ip.is_unspecified();
            ip == own || local && (own.is_unspecified() || ip.is_unspecified() && own.is_loopback())
        };
        listener.port() != 0 && self.port == listener.port() && ip.is_some_and(reaches)
    }
}

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    fn from_str(text: &str) -> Result<Self, InvalidHostPort> {
        if text.contains("://") {
            return Err(InvalidHostPort::new("has a scheme, which is no part of an endpoint"));
        }
        if text.contains(char::is_whitespace) {
            return Err(InvalidHostPort::new("has white space in it; commas are between endpoints"));
        }
        let (host, port) = text.rsplit_once(':').ok_or(InvalidHostPort::new("has no port"))?;
        Ok(Self { host: parse_host(host)?, port: parse_port(port)? })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

pub(crate) fn parse_host(text: &str) -> Result<String, InvalidHostPort> {
    match text.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(ip) => {
            let ip: Ipv6Addr = ip.parse().map_err(|_| InvalidHostPort::new("has no IPv6 address in brackets"))?;
            Ok(ip.to_string())
        }
        None if text.contains(':') => Err(InvalidHostPort::new("needs brackets around an IPv6 address")),
        None if text.parse::<Ipv4Addr>().is_ok() => Ok(text.to_owned()),
        None => dns_name(text),
    }
}

fn parse_port(text: &str) -> Result<u16, InvalidHostPort> {
    let port = if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None };
    port.filter(|port| *port != 0).ok_or(InvalidHostPort::new("has no port in 1..=65535"))
}

pub(crate) fn dns_name(name: &str) -> Result<String, InvalidHostPort> {
    let relative = name.strip_suffix('.').unwrap_or(name);
    if relative.is_empty() {
        return Err(InvalidHostPort::new("has no host"));
    }
    // 255 bytes on the wire (RFC 1035 section 2.3.4) are 253 of text.
    if relative.len() > 253 {
        return Err(InvalidHostPort::new("has a host name of more than 253 characters"));
    }
    for label in relative.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err(InvalidHostPort::new("has a host name with a part that is not of 1..=63 characters"));
        }
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return Err(InvalidHostPort::new("has a host name with something else than letters, digits, - _ and dots"));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(InvalidHostPort::new("has a host name with a part that starts or ends with -"));
        }
    }
    // Resolvers take a name like this for an IPv4 address: "10.1" is 10.0.0.1 to getaddrinfo.
    if relative.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(InvalidHostPort::new("has a host that is neither an IPv4 address nor a DNS name"));
    }
    Ok(name.to_ascii_lowercase())
}

// === impl InvalidHostPort ===

impl InvalidHostPort {
    pub(crate) const fn new(reason: &'static str) -> Self {
        Self { reason }
    }
}

impl fmt::Display for InvalidHostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason)
    }
}

impl std::error::Error for InvalidHostPort {}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn accepts(text: &str, host: &str, port: u16) {
        let parsed: HostPort = text.parse().unwrap_or_else(|error| panic!("{text:?} {error}"));
        assert_eq!((parsed.host(), parsed.port()), (host, port), "text: {text:?}");
        assert_eq!(parsed.to_string().parse(), Ok(parsed), "text: {text:?}");
    }

    #[track_caller]
    fn refuses(text: &str, reason: &str) {
        let error = text.parse::<HostPort>().unwrap_err().to_string();
        assert!(error.contains(reason), "{text:?} {error}");
    }

    #[test]
    fn hosts_are_addresses_or_names() {
        accepts("127.0.0.1:1", "127.0.0.1", 1);
        accepts("[::1]:65535", "::1", 65_535);
        accepts("[2001:DB8:0::1]:80", "2001:db8::1", 80);
        accepts("localhost:80", "localhost", 80);
        accepts("API.example.:80", "api.example.", 80);
        accepts("_grpc._tcp.my-svc.2nd:80", "_grpc._tcp.my-svc.2nd", 80);
        accepts(&format!("{}:80", "a".repeat(63)), &"a".repeat(63), 80);
        let longest = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
        accepts(&format!("{longest}.:80"), &format!("{longest}."), 80);
    }

    #[test]
    fn only_ip_addresses_are_ips() {
        let ip = |text: &str| text.parse::<HostPort>().unwrap().ip();
        assert_eq!(ip("10.0.0.1:80"), Some([10, 0, 0, 1].into()));
        assert_eq!(ip("[::1]:80"), Some(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        assert_eq!(ip("localhost:80"), None);
    }

    #[test]
    fn each_refusal_says_why() {
        refuses("", "has no port");
        refuses("localhost", "has no port");
        refuses("localhost:", "has no port in");
        refuses("localhost:0", "has no port in");
        refuses("localhost:65536", "has no port in");
        refuses("localhost:+80", "has no port in");
        refuses("localhost:http", "has no port in");
        refuses(":80", "has no host");
        refuses(".:80", "has no host");
        refuses("::1:80", "brackets around");
        refuses("[::1:80", "brackets around");
        refuses("[::g]:80", "no IPv6 address in brackets");
        refuses("[127.0.0.1]:80", "no IPv6 address in brackets");
        refuses("[]:80", "no IPv6 address in brackets");
        refuses("a..b:80", "1..=63");
        refuses("a...:80", "1..=63");
        refuses(&format!("{}:80", "a".repeat(64)), "1..=63");
        refuses(&format!("{}b:80", "a.".repeat(127)), "253");
        refuses("http://a:80", "has a scheme");
        refuses("https://a", "has a scheme");
        refuses("a:80 b:80", "commas are between");
        refuses("a b:80", "white space");
        refuses("a*b:80", "something else");
        refuses("é:80", "something else");
        refuses("-a:80", "starts or ends");
        refuses("a-.b:80", "starts or ends");
        refuses("256.0.0.1:80", "neither an IPv4");
        refuses("10.1:80", "neither an IPv4");
    }
}
