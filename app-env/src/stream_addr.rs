//! Addresses of endpoints and listeners: of TCP, or of a Unix domain socket.

use crate::{HostPort, InvalidHostPort};
use std::{
    borrow::Cow,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

/// The address of a Unix domain socket: the absolute path of its file, or a name in Linux's abstract namespace.
///
/// ```
/// use app_env::EndpointAddr;
///
/// let endpoint: EndpointAddr = "unix:///run/greeter.sock".parse()?;
/// assert_eq!(endpoint.to_string(), "unix:/run/greeter.sock");
/// # Ok::<(), app_env::InvalidHostPort>(())
/// ```
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UnixAddr {
    /// A path, which starts with `/`, or `@` and a name.
    text: Arc<str>,
}

/// The address of an endpoint: a host and a port, or a Unix domain socket.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum EndpointAddr {
    /// `host:port`.
    HostPort(HostPort),
    /// `unix:/path`, `unix:///path` or `unix:@name`.
    Unix(UnixAddr),
}

/// An address that can be connected to without a look-up, or listened on.
///
/// ```
/// use app_env::StreamAddr;
///
/// assert!("127.0.0.1:80".parse::<StreamAddr>()?.tcp().is_some());
/// assert!("unix:/run/proxy.sock".parse::<StreamAddr>()?.unix().is_some());
/// # Ok::<(), app_env::InvalidHostPort>(())
/// ```
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum StreamAddr {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// A Unix domain socket.
    Unix(UnixAddr),
}

/// Bytes of the longest path or abstract name: the system has 108, one of which is a zero.
const MAX: usize = 107;
const PREFIX: &str = "unix:";
/// The prefix of abstract names in gRPC's URIs.
const UNIX_ABSTRACT: &str = "unix-abstract:";
const ABSTRACT_FORM: InvalidHostPort = InvalidHostPort::new("has unix-abstract:, must be unix:@name");

// === impl UnixAddr ===

impl UnixAddr {
    /// The path of the socket's file. `None`: it has a name in the abstract namespace.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.text.starts_with('/').then(|| Path::new(&*self.text))
    }

    /// The address as system calls take it: a path, or a zero byte and the abstract name.
    #[must_use]
    pub fn to_system(&self) -> Cow<'_, Path> {
        match self.text.strip_prefix('@') {
            Some(name) => PathBuf::from(format!("\0{name}")).into(),
            None => Path::new(&*self.text).into(),
        }
    }

    /// Reads the text behind `unix:`.
    fn parse(text: &str) -> Result<Self, InvalidHostPort> {
        // The form of a URL with an empty authority.
        let text = if text.starts_with("///") { &text[2..] } else { text };
        let len = match text.as_bytes() {
            [b'/', b'/', ..] => return Err(InvalidHostPort::new("has a host in unix://, must be unix:/path")),
            [b'/', .., b'/'] | [b'/'] => return Err(InvalidHostPort::new("has the path of a folder, not of a socket")),
            [b'/', ..] => text.len(),
            [b'@', name @ ..] if !name.is_empty() => name.len(),
            _ => return Err(InvalidHostPort::new("has neither an absolute path nor @ and a name after unix:")),
        };
        if text.contains(|char: char| char.is_whitespace() || char.is_control()) {
            return Err(InvalidHostPort::new("has white space or a control character in the path of a socket"));
        }
        if len > MAX {
            return Err(InvalidHostPort::new(
                "has the path of a socket with more than 107 bytes, all that the system takes",
            ));
        }
        Ok(Self { text: text.into() })
    }
}

impl fmt::Display for UnixAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.text)
    }
}

// === impl EndpointAddr ===

impl EndpointAddr {
    /// The host and the port. `None`: it is a Unix domain socket.
    #[must_use]
    pub fn host_port(&self) -> Option<&HostPort> {
        match self {
            Self::HostPort(host_port) => Some(host_port),
            Self::Unix(_) => None,
        }
    }

    /// Whether a connection to it comes to a listener of this host, as far as both show without asking the system.
    #[must_use]
    pub fn is_at(&self, listener: &StreamAddr) -> bool {
        match (self, listener) {
            (Self::HostPort(host_port), StreamAddr::Tcp(listener)) => host_port.is_at(*listener),
            (Self::Unix(unix), StreamAddr::Unix(listener)) => unix == listener,
            _ => false,
        }
    }
}

impl From<HostPort> for EndpointAddr {
    fn from(host_port: HostPort) -> Self {
        Self::HostPort(host_port)
    }
}

impl FromStr for EndpointAddr {
    type Err = InvalidHostPort;

    fn from_str(text: &str) -> Result<Self, InvalidHostPort> {
        if text.starts_with(UNIX_ABSTRACT) {
            return Err(ABSTRACT_FORM);
        }
        match text.strip_prefix(PREFIX) {
            // A port makes it the host of this name.
            Some(path) if !path.bytes().all(|byte| byte.is_ascii_digit()) => UnixAddr::parse(path).map(Self::Unix),
            _ => text.parse().map(Self::HostPort),
        }
    }
}

impl fmt::Display for EndpointAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostPort(host_port) => host_port.fmt(f),
            Self::Unix(unix) => unix.fmt(f),
        }
    }
}

// === impl StreamAddr ===

impl StreamAddr {
    /// The IP address and the port. `None`: it is a Unix domain socket.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(addr) => Some(*addr),
            Self::Unix(_) => None,
        }
    }

    /// The Unix domain socket. `None`: it is an IP address and a port.
    #[must_use]
    pub fn unix(&self) -> Option<&UnixAddr> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(unix) => Some(unix),
        }
    }
}

impl FromStr for StreamAddr {
    type Err = InvalidHostPort;

    /// Reads `ip:port`, of which the port may be 0, or a Unix domain socket.
    fn from_str(text: &str) -> Result<Self, InvalidHostPort> {
        if text.starts_with(UNIX_ABSTRACT) {
            return Err(ABSTRACT_FORM);
        }
        match text.strip_prefix(PREFIX) {
            Some(path) => UnixAddr::parse(path).map(Self::Unix),
            None => text.parse().map(Self::Tcp).map_err(|_| InvalidHostPort::new("has no IP address and port")),
        }
    }
}

impl From<SocketAddr> for StreamAddr {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

impl fmt::Display for StreamAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(unix) => unix.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn accepts(text: &str, shown: &str) {
        let parsed: EndpointAddr = text.parse().unwrap_or_else(|error| panic!("{text:?} {error}"));
        assert_eq!(parsed.to_string(), shown, "text: {text:?}");
        assert_eq!(shown.parse(), Ok(parsed), "text: {text:?}");
    }

    #[track_caller]
    fn refuses(text: &str, reason: &str) {
        let error = text.parse::<EndpointAddr>().unwrap_err().to_string();
        assert!(error.contains(reason), "{text:?} {error}");
    }

    #[test]
    fn a_path_has_one_form_and_a_name_another() {
        accepts("unix:/run/a.sock", "unix:/run/a.sock");
        accepts("unix:///run/a.sock", "unix:/run/a.sock");
        accepts("unix:/run/a:80", "unix:/run/a:80");
        accepts("unix:@name", "unix:@name");
        accepts("unix:@/run/a", "unix:@/run/a");
        accepts(&format!("unix:/{}", "a".repeat(106)), &format!("unix:/{}", "a".repeat(106)));
        accepts(&format!("unix:@{}", "a".repeat(107)), &format!("unix:@{}", "a".repeat(107)));
    }

    #[test]
    fn a_host_may_be_called_unix() {
        accepts("unix:80", "unix:80");
        accepts("unix.example:80", "unix.example:80");
        accepts("127.0.0.1:80", "127.0.0.1:80");
    }

    #[test]
    fn each_refusal_says_why() {
        refuses("unix:", "has no port");
        refuses("unix:run/a", "neither an absolute path");
        refuses("unix:@", "neither an absolute path");
        refuses("unix://host/a", "has a host in unix://");
        refuses("unix:/", "a folder");
        refuses("unix:///", "a folder");
        refuses("unix:/run/", "a folder");
        refuses("unix:/run/a b", "white space");
        refuses("unix:@a\0", "control character");
        refuses("unix-abstract:a", "must be unix:@name");
        refuses(&format!("unix:/{}", "a".repeat(107)), "107 bytes");
        refuses(&format!("unix:@{}", "a".repeat(108)), "107 bytes");
        refuses("/run/a", "has no port");
    }

    #[test]
    fn a_listener_has_an_ip_address_and_a_port_or_a_socket() {
        for text in ["127.0.0.1:0", "[::1]:80", "unix:/run/a.sock", "unix:@name"] {
            assert_eq!(text.parse::<StreamAddr>().unwrap().to_string(), text);
        }
        assert_eq!("unix:///run/a.sock".parse::<StreamAddr>().unwrap().to_string(), "unix:/run/a.sock");
        for (text, reason) in [
            ("localhost:80", "no IP address and port"),
            ("unix:80", "neither an absolute path"),
            ("unix-abstract:a", "must be unix:@name"),
            (&format!("unix:/{}", "a".repeat(107)), "107 bytes"),
        ] {
            let error = text.parse::<StreamAddr>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?} {error}");
        }
    }

    #[test]
    fn an_endpoint_is_at_the_listener_of_its_path() {
        let is_at = |endpoint: &str, listener: &str| {
            endpoint.parse::<EndpointAddr>().unwrap().is_at(&listener.parse().unwrap())
        };
        assert!(is_at("unix:///run/a.sock", "unix:/run/a.sock") && is_at("unix:@a", "unix:@a"));
        assert!(is_at("127.0.0.1:80", "0.0.0.0:80"));
        assert!(!is_at("unix:/run/a.sock", "unix:@/run/a.sock") && !is_at("unix:/run/a", "unix:/run/b"));
        assert!(!is_at("unix:80", "127.0.0.1:80") && !is_at("unix:/a", "127.0.0.1:80"));
    }

    #[test]
    fn system_calls_take_a_zero_byte_for_an_abstract_name() {
        let system = |text: &str| match text.parse() {
            Ok(EndpointAddr::Unix(unix)) => unix.to_system().into_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(system("unix:/a"), Path::new("/a"));
        assert_eq!(system("unix:@a"), Path::new("\0a"));
    }
}
