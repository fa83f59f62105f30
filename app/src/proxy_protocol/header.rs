//! The header of the PROXY protocol, in its versions 1 and 2.

use app_env::ProxyProtocol;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A header as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Partial(Vec<u8>);

/// The addresses that a header carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Addresses {
    /// The client's.
    pub(crate) source: SocketAddr,
    /// The one that the client has connected to.
    pub(crate) destination: SocketAddr,
}

/// Why a connection's first bytes are no header.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Invalid {
    /// They begin neither version's header.
    #[error("there is none")]
    Missing,
    #[error("{0}")]
    Malformed(&'static str),
}

/// Bytes of the longest header that is taken; version 2 could have 64 KiB.
pub(super) const MAX: usize = 16 << 10;
/// The begin of each header of version 1.
const V1: &[u8] = b"PROXY ";
/// Bytes of the longest header of version 1, its CRLF included.
const V1_MAX: usize = 107;
/// The begin of each header of version 2.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of the fixed part of version 2, which ends in the length of the rest.
const V2_FIXED: usize = 16;

// === impl Partial ===

impl Partial {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the header's part of `next`, the bytes that follow, and returns its length.
    pub(super) fn push(&mut self, next: &[u8]) -> Result<usize, Invalid> {
        let mut taken = 0;
        while taken < next.len() {
            let more = self.missing().min(next.len() - taken);
            if more == 0 {
                break;
            }
            self.0.extend_from_slice(&next[taken..taken + more]);
            taken += more;
            self.check()?;
        }
        Ok(taken)
    }

    /// The addresses of the header. `Ok(None)`: it is whole, and says that the connection's own are to be used. `None`: it is not
    /// whole.
    pub(super) fn parse(&self) -> Option<Result<Option<Addresses>, Invalid>> {
        if self.is_empty() || self.missing() > 0 {
            return None;
        }
        Some(if self.0.starts_with(V2) { parse_v2(&self.0) } else { parse_v1(&self.0) })
    }

    /// Bytes that are certainly still missing of the header. 0: it is whole.
    fn missing(&self) -> usize {
        let len = self.0.len();
        match self.0.first() {
            Some(first) if *first == V2[0] => match rest_len(&self.0) {
                Some(rest) => V2_FIXED + rest - len,
                None => V2_FIXED - len,
            },
            _ => usize::from(self.0.last() != Some(&b'\n')),
        }
    }

    fn check(&self) -> Result<(), Invalid> {
        let is_begin_of = |begin: &[u8]| self.0.iter().zip(begin).all(|(byte, expected)| byte == expected);
        if !is_begin_of(V1) && !is_begin_of(V2) {
            return Err(Invalid::Missing);
        }
        if self.0[0] == V1[0] {
            let is_too_long = self.0.len() == V1_MAX && self.0.last() != Some(&b'\n');
            return if is_too_long { Err(Invalid::Malformed("its line does not end in 107 bytes")) } else { Ok(()) };
        }
        if self.0.get(V2.len()).is_some_and(|version| version >> 4 != 2) {
            return Err(Invalid::Malformed("its version is neither 1 nor 2"));
        }
        match rest_len(&self.0) {
            Some(rest) if V2_FIXED + rest > MAX => Err(Invalid::Malformed("it has more than 16 KiB")),
            _ => Ok(()),
        }
    }
}

/// The length of the variable part of version 2. `None`: it has not come yet.
fn rest_len(header: &[u8]) -> Option<usize> {
    Some(u16::from_be_bytes(header.get(V2_FIXED - 2..V2_FIXED)?.try_into().ok()?).into())
}

fn parse_v1(line: &[u8]) -> Result<Option<Addresses>, Invalid> {
    let malformed = |reason| Err(Invalid::Malformed(reason));
    let Some(line) = str::from_utf8(line).ok().and_then(|line| line.strip_suffix("\r\n")) else {
        return malformed("its line is not text that ends in CRLF");
    };
    let mut words = line.split(' ').skip(1);
    let is_ipv4 = match words.next() {
        // Whatever follows is to be ignored.
        Some("UNKNOWN") => return Ok(None),
        Some("TCP4") => true,
        Some("TCP6") => false,
        _ => return malformed("its protocol is not TCP4, TCP6 or UNKNOWN"),
    };
    let (Some(source), Some(destination), Some(source_port), Some(destination_port), None) =
        (words.next(), words.next(), words.next(), words.next(), words.next())
    else {
        return malformed("it does not have two addresses and two ports");
    };
    let ip = |text: &str| text.parse().ok().filter(|ip: &IpAddr| ip.is_ipv4() == is_ipv4);
    let (Some(source), Some(destination)) = (ip(source), ip(destination)) else {
        return malformed("an address is none of its protocol");
    };
    // The parser of numbers takes a sign.
    let port = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (Some(source_port), Some(destination_port)) = (port(source_port), port(destination_port)) else {
        return malformed("a port is no number up to 65535");
    };
    Ok(Some(Addresses::new((source, source_port), (destination, destination_port))))
}

fn parse_v2(header: &[u8]) -> Result<Option<Addresses>, Invalid> {
    let (fixed, rest) = header.split_at(V2_FIXED);
    match fixed[V2.len()] & 0x0f {
        // LOCAL, of which the rest is to be ignored.
        0 => return Ok(None),
        1 => {}
        _ => return Err(Invalid::Malformed("its command is neither LOCAL nor PROXY")),
    }
    let addresses = match fixed[V2.len() + 1] {
        // TCP over IPv4.
        0x11 => rest.first_chunk().map(|addresses: &[u8; 12]| {
            let ip = |at: usize| Ipv4Addr::from([0, 1, 2, 3].map(|byte| addresses[at + byte])).into();
            Addresses::new((ip(0), port(addresses, 8)), (ip(4), port(addresses, 10)))
        }),
        // TCP over IPv6.
        0x21 => rest.first_chunk().map(|addresses: &[u8; 36]| {
            let ip = |at: usize| Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|byte| addresses[at + byte])).into();
            Addresses::new((ip(0), port(addresses, 32)), (ip(16), port(addresses, 34)))
        }),
        // UNSPEC, UNIX and datagrams: nothing that a TCP connection could have.
        _ => return Ok(None),
    };
    // TLVs follow the addresses; none is needed.
    addresses.map(Some).ok_or(Invalid::Malformed("it is too short for its addresses"))
}

fn port(addresses: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([addresses[at], addresses[at + 1]])
}

/// A header. `None`: the connection is of no client, which is LOCAL in version 2 and UNKNOWN in version 1.
pub(crate) fn encode(version: ProxyProtocol, addresses: Option<Addresses>) -> Vec<u8> {
    let addresses = addresses.map(Addresses::of_one_family);
    match version {
        ProxyProtocol::V1 => encode_v1(addresses).into_bytes(),
        ProxyProtocol::V2 => encode_v2(addresses),
    }
}

fn encode_v1(addresses: Option<Addresses>) -> String {
    let Some(Addresses { source, destination }) = addresses else { return "PROXY UNKNOWN\r\n".to_owned() };
    let protocol = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (source_port, destination_port) = (source.port(), destination.port());
    format!("PROXY {protocol} {} {} {source_port} {destination_port}\r\n", source.ip(), destination.ip())
}

fn encode_v2(addresses: Option<Addresses>) -> Vec<u8> {
    let (command, family, rest) = match addresses {
        None => (0x20, 0x00, Vec::new()),
        Some(Addresses { source, destination }) => {
            let (family, mut rest) = match (source.ip(), destination.ip()) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    (0x11, [source.octets(), destination.octets()].concat())
                }
                (source, destination) => (0x21, [mapped(source).octets(), mapped(destination).octets()].concat()),
            };
            rest.extend([source.port().to_be_bytes(), destination.port().to_be_bytes()].concat());
            (0x21, family, rest)
        }
    };
    let len = u16::try_from(rest.len()).expect("addresses have 36 bytes at most");
    [V2, &[command, family], &len.to_be_bytes(), &rest].concat()
}

/// An address as one of IPv6.
fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

// === impl Addresses ===

impl Addresses {
    /// An address of IPv4 that is written as one of IPv6 is the same.
    fn new(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        let canonical = |(ip, port): (IpAddr, u16)| SocketAddr::new(ip.to_canonical(), port);
        Self { source: canonical(source), destination: canonical(destination) }
    }

    /// The same, of which neither or both are of IPv6.
    fn of_one_family(self) -> Self {
        let Self { source, destination } = self;
        if source.is_ipv4() == destination.is_ipv4() {
            return self;
        }
        let of_ipv6 = |addr: SocketAddr| SocketAddr::new(mapped(addr.ip()).into(), addr.port());
        Self { source: of_ipv6(source), destination: of_ipv6(destination) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header that is read of `sent`, in pieces of each size, and its bytes.
    #[track_caller]
    fn check(sent: &[u8], expect: Result<Option<&str>, Invalid>) {
        for size in [1, 2, 7, 100, sent.len()] {
            let mut partial = Partial::default();
            let mut left = [sent, b"GET"].concat();
            let mut read = Ok(None);
            while read == Ok(None) {
                let piece = &left[..size.min(left.len())];
                assert!(!piece.is_empty(), "{sent:?} is not whole");
                read = partial.push(piece).map(|taken| {
                    left.drain(..taken);
                    partial.parse()
                });
            }
            let read = read.and_then(|parsed| parsed.unwrap());
            let expect = expect.map(|addresses| addresses.map(str::to_owned));
            let shown = read.map(|read| read.map(|it| format!("{} {}", it.source, it.destination)));
            assert_eq!(shown, expect, "{} in pieces of {size}", sent.escape_ascii());
            if read.is_ok() {
                assert_eq!(left, b"GET", "{}", sent.escape_ascii());
            }
        }
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2, &[command, family], &len, rest].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0xdb, 0x64, 1, 0xbb];

    #[test]
    fn version_1() {
        check(b"PROXY TCP4 192.0.2.1 10.0.0.1 56164 443\r\n", Ok(Some("192.0.2.1:56164 10.0.0.1:443")));
        check(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", Ok(Some("[2001:db8::1]:1 [::1]:65535")));
        check(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", Ok(Some("192.0.2.1:1 [::1]:2")));
        check(b"PROXY UNKNOWN\r\n", Ok(None));
        check(b"PROXY UNKNOWN ffff::1 ::1 65535 1\r\n", Ok(None));
        let malformed = |reason| Err(Invalid::Malformed(reason));
        let protocol = "its protocol is not TCP4, TCP6 or UNKNOWN";
        let number = "it does not have two addresses and two ports";
        let address = "an address is none of its protocol";
        let port = "a port is no number up to 65535";
        check(b"PROXY TCP5 192.0.2.1 10.0.0.1 1 2\r\n", malformed(protocol));
        check(b"PROXY  TCP4 192.0.2.1 10.0.0.1 1 2\r\n", malformed(protocol));
        check(b"PROXY UNKNOWNS\r\n", malformed(protocol));
        check(b"PROXY TCP4 192.0.2.1 10.0.0.1 1\r\n", malformed(number));
        check(b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2 3\r\n", malformed(number));
        check(b"PROXY TCP4 ::1 10.0.0.1 1 2\r\n", malformed(address));
        check(b"PROXY TCP6 192.0.2.1 10.0.0.1 1 2\r\n", malformed(address));
        check(b"PROXY TCP4 192.0.2.256 10.0.0.1 1 2\r\n", malformed(address));
        check(b"PROXY TCP4 192.0.2.1 10.0.0.1 1 65536\r\n", malformed(port));
        check(b"PROXY TCP4 192.0.2.1 10.0.0.1 +1 2\r\n", malformed(port));
        check(b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\n", malformed("its line is not text that ends in CRLF"));
        check(b"PROXY \xff\r\n", malformed("its line is not text that ends in CRLF"));
        check(&[&b"PROXY UNKNOWN"[..], &[b' '; 92], b"\r\n"].concat(), Ok(None));
        let longer = [&b"PROXY UNKNOWN"[..], &[b' '; 93], b"\r\n"].concat();
        check(&longer, malformed("its line does not end in 107 bytes"));
    }

    #[test]
    fn version_2() {
        let addresses = Ok(Some("192.0.2.1:56164 10.0.0.1:443"));
        check(&v2(0x21, 0x11, &IPV4), addresses);
        let ipv6: Vec<u8> = [[0; 32].as_slice(), &[0, 1, 0, 2]].concat();
        check(&v2(0x21, 0x21, &ipv6), Ok(Some("[::]:1 [::]:2")));
        // TLVs: one that is registered, one that is not, and one that is cut.
        for tlv in [&[0x05, 0, 1, 7][..], &[0xe9, 0, 2, 1, 2], &[0x20, 0xff, 0xff, 1]] {
            check(&v2(0x21, 0x11, &[&IPV4, tlv].concat()), addresses);
        }
        // LOCAL, with and without addresses, and of a family that there is not.
        for (family, rest) in [(0, &[][..]), (0x11, &IPV4), (0x11, &[]), (0xff, &[1, 2, 3])] {
            check(&v2(0x20, family, rest), Ok(None));
        }
        // UNSPEC, UDP, UNIX, and a family that there is not.
        for (family, rest) in [(0, &[][..]), (0, &[1; 8]), (0x12, &IPV4), (0x31, &[0; 216]), (0x41, &[])] {
            check(&v2(0x21, family, rest), Ok(None));
        }
        let malformed = |reason| Err(Invalid::Malformed(reason));
        check(&v2(0x21, 0x11, &IPV4[..11]), malformed("it is too short for its addresses"));
        check(&v2(0x21, 0x21, &IPV4), malformed("it is too short for its addresses"));
        check(&v2(0x22, 0x11, &IPV4), malformed("its command is neither LOCAL nor PROXY"));
        check(&v2(0x11, 0x11, &IPV4), malformed("its version is neither 1 nor 2"));
        check(&v2(0x20, 0, &vec![0; MAX - V2_FIXED]), Ok(None));
        check(&v2(0x20, 0, &vec![0; MAX - V2_FIXED + 1]), malformed("it has more than 16 KiB"));
    }

    #[test]
    fn a_header_that_is_sent_is_read_as_it_was_meant() {
        let addresses = |source: &str, destination: &str| {
            Some(Addresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
        };
        for sent in [
            None,
            addresses("192.0.2.1:56164", "10.0.0.1:443"),
            addresses("[2001:db8::1]:1", "[::1]:65535"),
            addresses("192.0.2.1:1", "[::1]:2"),
        ] {
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let expect = sent.map(|sent| format!("{} {}", sent.source, sent.destination));
                check(&encode(version, sent), Ok(expect.as_deref()));
            }
        }
        assert_eq!(encode(ProxyProtocol::V1, None), b"PROXY UNKNOWN\r\n");
        assert_eq!(encode(ProxyProtocol::V2, None), v2(0x20, 0, &[]));
        let ipv4 = addresses("192.0.2.1:56164", "10.0.0.1:443");
        assert_eq!(encode(ProxyProtocol::V1, ipv4), b"PROXY TCP4 192.0.2.1 10.0.0.1 56164 443\r\n");
        assert_eq!(encode(ProxyProtocol::V2, ipv4), v2(0x21, 0x11, &IPV4));
    }

    #[test]
    fn other_bytes_are_no_header() {
        for sent in
            [&b"PRI * HTTP/2.0"[..], b"GET / HTTP/1.1", b"\x16\x03\x01", b"\r\n\r\nGET", b"proxy TCP4", b"PROXYTCP4"]
        {
            check(sent, Err(Invalid::Missing));
        }
    }
}
