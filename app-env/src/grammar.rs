//! How single values are written: one type for each kind of value.
//!
//! `Display` of a grammar completes the sentence "must be …" and fills the tables of variables.

mod quantity;

use self::quantity::{bytes, digits, duration, duration_fault, print_duration};
use crate::{
    AccessLogFormat, ClientAuth, ClientName, DiscoverySource, DomainSuffix, EndpointAddr, EndpointProtocol, Forwarded,
    HealthCheckRequest, HostPort, LogFormat, Network, ProxyProtocol, StreamAddr,
    host_port::{InvalidHostPort, parse_host},
};
use http_h2::Setting;
use std::{
    fmt,
    marker::PhantomData,
    net::IpAddr,
    ops::{Range, RangeInclusive},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

/// Reads values of one kind from text and writes them back.
pub(crate) trait Grammar: fmt::Display {
    type Value;

    /// Reads a value from trimmed text that is not empty.
    fn parse(&self, text: &str) -> Result<Self::Value, Refused>;

    /// Writes a value so that `parse` reads it back.
    fn print(&self, value: &Self::Value) -> String;
}

/// A text that is not in a grammar.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Refused {
    /// The reason. `None`: the list of accepted values is enough.
    pub(crate) detail: Option<String>,
}

/// `true` or `false`.
pub(crate) struct Bool;

/// Decimal digits, within a range.
pub(crate) enum Number {
    In(RangeInclusive<u32>),
    /// The range of an HTTP/2 setting.
    Of(Setting),
}

/// Digits and a unit, or `0`.
pub(crate) enum Time {
    In {
        least: Duration,
        most: Duration,
    },
    /// The range of an HTTP/2 setting, in nanoseconds.
    Of(Setting),
}

/// A number from 0 to 100 that may have a fraction.
pub(crate) struct Ratio {
    max: f64,
}

/// `ip:port` or a Unix domain socket, as [`StreamAddr`] has it.
pub(crate) struct Address;

/// The permissions of a file, in octal digits.
pub(crate) struct Mode;

/// Values of one kind, separated by commas.
pub(crate) struct List<T> {
    /// The kind in words, with an example.
    of: &'static str,
    kind: PhantomData<fn() -> T>,
}

pub(crate) type Endpoints = List<EndpointAddr>;

pub(crate) type ClientNames = List<ClientName>;

pub(crate) type Suffixes = List<DomainSuffix>;

pub(crate) type Networks = List<Network>;

/// `host:port`, as [`HostPort`] has it.
pub(crate) struct HostAndPort;

/// A host without a port, as [`HostPort`] has it.
pub(crate) struct Host;

/// The path of a file. Whether it is there is not looked at.
pub(crate) struct FilePath {
    kind: &'static str,
}

/// One of a few words, each of which stands for a value.
pub(crate) struct Word<T: 'static> {
    pub(crate) words: &'static [(&'static str, T)],
}

pub(crate) type Switch = Word<bool>;

pub(crate) type Auth = Word<ClientAuth>;

pub(crate) type Sources = Word<DiscoverySource>;

pub(crate) type ForwardedFields = Word<Option<Forwarded>>;

pub(crate) type ProxyProtocols = Word<Option<ProxyProtocol>>;

pub(crate) type RecordFormat = Word<AccessLogFormat>;

/// A word for a [`LogFormat`], in any case, as linkerd2-proxy has it.
pub(crate) struct Format;

/// A word for an [`EndpointProtocol`].
pub(crate) struct Protocols;

/// `off`, or a [`HealthCheckRequest`].
pub(crate) struct HealthChecks;

/// Any text.
pub(crate) struct Text;

/// Lines of `name=value`, as linkerd2-proxy has them.
pub(crate) struct Attributes;

// === impl Bool ===

impl Grammar for Bool {
    type Value = bool;

    fn parse(&self, text: &str) -> Result<bool, Refused> {
        text.parse().map_err(|_| Refused::default())
    }

    fn print(&self, value: &bool) -> String {
        value.to_string()
    }
}

impl fmt::Display for Bool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true or false")
    }
}

// === impl Number ===

impl Number {
    /// Counts where none at all makes sense, too.
    pub(crate) const ANY: Self = Self::In(0..=u32::MAX);
    /// Counts where none at all would hang.
    pub(crate) const ABOVE_ZERO: Self = Self::In(1..=u32::MAX);
}

impl Grammar for Number {
    type Value = u32;

    fn parse(&self, text: &str) -> Result<u32, Refused> {
        let in_range = |number: u64| {
            let number = u32::try_from(number).ok()?;
            let in_range = match self {
                Self::In(range) => range.contains(&number),
                Self::Of(setting) => setting.check(number.into()).is_ok(),
            };
            in_range.then_some(number)
        };
        digits(text).and_then(in_range).ok_or_else(|| {
            let bytes = bytes(text).and_then(in_range);
            Refused { detail: bytes.map(|bytes| format!("in bytes, without a unit: {bytes}")) }
        })
    }

    fn print(&self, value: &u32) -> String {
        value.to_string()
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = match self {
            Self::In(range) => (u64::from(*range.start()), u64::from(*range.end())),
            Self::Of(setting) => setting.range().into_inner(),
        };
        write!(f, "a whole number in {least}..={most}")
    }
}

// === impl Time ===

impl Time {
    /// 100 years. Timers add durations to the current time, and panic in a task when that overflows.
    const MOST: Duration = Duration::from_secs(36_500 * 24 * 60 * 60);
    const LEAST_ABOVE_ZERO: Duration = Duration::from_millis(1);

    /// Durations where zero makes sense, too.
    pub(crate) const ANY: Self = Self::In { least: Duration::ZERO, most: Self::MOST };
    /// Durations where zero would hang, spin or fail every request.
    pub(crate) const ABOVE_ZERO: Self = Self::In { least: Self::LEAST_ABOVE_ZERO, most: Self::MOST };
    /// `TCP_KEEPIDLE`: Linux takes whole seconds up to this, and refuses others once the socket is in use.
    pub(crate) const TCP_KEEPALIVE: Self =
        Self::In { least: Duration::from_secs(1), most: Duration::from_secs(32_767) };
    /// `TCP_USER_TIMEOUT`: Linux takes milliseconds up to this, where 0 means that it is unset.
    pub(crate) const TCP_USER_TIMEOUT: Self =
        Self::In { least: Self::LEAST_ABOVE_ZERO, most: Duration::from_millis(i32::MAX as u64) };

    fn bounds(&self) -> (Duration, Duration) {
        match self {
            Self::In { least, most } => (*least, *most),
            Self::Of(setting) => {
                let (least, most) = setting.range().into_inner();
                // Nothing below a millisecond can be written.
                let least = Duration::from_nanos(least).max(Self::LEAST_ABOVE_ZERO);
                (least, Duration::from_nanos(most).min(Self::MOST))
            }
        }
    }
}

impl Grammar for Time {
    type Value = Duration;

    fn parse(&self, text: &str) -> Result<Duration, Refused> {
        let time = duration(text).ok_or_else(|| Refused { detail: duration_fault(text) })?;
        if let Self::Of(setting) = self {
            let nanos = u64::try_from(time.as_nanos()).map_err(|_| Refused::default())?;
            setting.check(nanos).map_err(|_| Refused::default())?;
        }
        let (least, most) = self.bounds();
        if (least..=most).contains(&time) { Ok(time) } else { Err(Refused::default()) }
    }

    fn print(&self, value: &Duration) -> String {
        print_duration(*value)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = self.bounds();
        write!(f, "a duration (as 250ms, 10s, 5m, 2h or 1d) in {}..={}", print_duration(least), print_duration(most))
    }
}

// === impl Ratio ===

impl Ratio {
    pub(crate) const ANY: Self = Self { max: 100.0 };
    pub(crate) const PART: Self = Self { max: 1.0 };

    fn range(&self) -> RangeInclusive<f64> {
        0.0..=self.max
    }
}

impl Grammar for Ratio {
    type Value = f64;

    fn parse(&self, text: &str) -> Result<f64, Refused> {
        // Not-a-number is in no range.
        text.parse().ok().filter(|ratio| self.range().contains(ratio)).ok_or_else(Refused::default)
    }

    fn print(&self, value: &f64) -> String {
        value.to_string()
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number in {:?}", self.range())
    }
}

// === impl Address ===

impl Grammar for Address {
    type Value = StreamAddr;

    fn parse(&self, text: &str) -> Result<StreamAddr, Refused> {
        text.parse().map_err(|error: InvalidHostPort| {
            let detail = if text.starts_with("unix") { Some(error.to_string()) } else { address_fault(text) };
            Refused { detail }
        })
    }

    fn print(&self, value: &StreamAddr) -> String {
        value.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ip:port or unix:/path (as 127.0.0.1:80, [::1]:80 or unix:/run/proxy.sock)")
    }
}

// === impl Mode ===

impl Grammar for Mode {
    type Value = u32;

    fn parse(&self, text: &str) -> Result<u32, Refused> {
        // The parser of numbers takes a sign.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit()).then_some(text);
        digits
            .and_then(|digits| u32::from_str_radix(digits, 8).ok())
            .filter(|mode| *mode <= 0o777)
            .ok_or_else(Refused::default)
    }

    fn print(&self, value: &u32) -> String {
        format!("{value:03o}")
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("permissions in octal digits up to 777 (as 660)")
    }
}

/// Why a text is not the address of a listener. `None`: it has another form.
fn address_fault(text: &str) -> Option<String> {
    if text.parse::<IpAddr>().is_ok() {
        return Some("has no port".to_owned());
    }
    let (host, port) = text.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    match host {
        "" | "*" => Some(format!("has no IP address: all are 0.0.0.0:{port} or [::]:{port}")),
        "localhost" => Some(format!("has a name, no IP address: did you mean 127.0.0.1:{port}?")),
        _ => parse_host(host)
            .is_ok_and(|host| host.parse::<IpAddr>().is_err())
            .then(|| "has a name, no IP address".to_owned()),
    }
}

// === impl List ===

impl<T> List<T> {
    const fn new(of: &'static str) -> Self {
        Self { of, kind: PhantomData }
    }
}

impl List<EndpointAddr> {
    pub(crate) const ENDPOINTS: Self =
        Self::new("host:port or unix:/path (as 10.0.0.1:80,[::1]:80,api.example:80,unix:/run/api.sock)");
}

impl List<ClientName> {
    pub(crate) const CLIENT_NAMES: Self =
        Self::new("DNS names and SPIFFE IDs (as web.example,*.prod.example,spiffe://example/web)");
}

impl List<DomainSuffix> {
    pub(crate) const SUFFIXES: Self = Self::new("DNS names (as svc.cluster.local,example.com)");
}

impl List<Network> {
    pub(crate) const NETWORKS: Self = Self::new("networks (as 10.0.0.0/8,fd00::/8)");
}

impl<T: fmt::Display + FromStr<Err: fmt::Display>> Grammar for List<T> {
    type Value = Vec<T>;

    fn parse(&self, text: &str) -> Result<Vec<T>, Refused> {
        let mut items = Vec::new();
        let mut faults = Vec::new();
        for (index, item) in text.split(',').map(str::trim).enumerate() {
            match item.parse() {
                Ok(item) => items.push(item),
                Err(_) if item.is_empty() => faults.push(format!("item {} is empty", index + 1)),
                Err(error) => faults.push(format!("item {} {error}", index + 1)),
            }
        }
        if faults.is_empty() { Ok(items) } else { Err(Refused { detail: Some(summary(&faults)) }) }
    }

    fn print(&self, value: &Vec<T>) -> String {
        value.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

impl<T> fmt::Display for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a comma-separated list of {}", self.of)
    }
}

/// The first faults, which are enough for a long list.
fn summary(faults: &[String]) -> String {
    const SHOWN: Range<usize> = 0..5;
    match faults.get(SHOWN) {
        Some(first) if faults.len() > SHOWN.end => {
            format!("{}; {} more are wrong", first.join("; "), faults.len() - SHOWN.end)
        }
        _ => faults.join("; "),
    }
}

// === impl Host ===

impl Grammar for Host {
    type Value = String;

    fn parse(&self, text: &str) -> Result<String, Refused> {
        parse_host(text).map_err(|error| Refused { detail: Some(error.to_string()) })
    }

    fn print(&self, value: &String) -> String {
        if value.contains(':') { format!("[{value}]") } else { value.clone() }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a host (as api.example, 10.0.0.1 or [::1])")
    }
}

// === impl HostAndPort ===

impl Grammar for HostAndPort {
    type Value = HostPort;

    fn parse(&self, text: &str) -> Result<HostPort, Refused> {
        text.parse().map_err(|error: InvalidHostPort| Refused { detail: Some(error.to_string()) })
    }

    fn print(&self, value: &HostPort) -> String {
        value.to_string()
    }
}

impl fmt::Display for HostAndPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("host:port (as api.example:80, 10.0.0.1:80 or [::1]:80)")
    }
}

// === impl FilePath ===

impl FilePath {
    pub(crate) const PEM: Self = Self { kind: "a PEM file" };
    pub(crate) const ROUTES: Self = Self { kind: "a YAML file of routes" };
    pub(crate) const LOG: Self = Self { kind: "a file that can be written" };
}

impl Grammar for FilePath {
    type Value = PathBuf;

    fn parse(&self, text: &str) -> Result<PathBuf, Refused> {
        Ok(PathBuf::from(text))
    }

    fn print(&self, value: &PathBuf) -> String {
        value.display().to_string()
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the path of {}", self.kind)
    }
}

// === impl Word ===

impl<T: Copy + PartialEq> Grammar for Word<T> {
    type Value = T;

    fn parse(&self, text: &str) -> Result<T, Refused> {
        self.words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(Refused::default)
    }

    fn print(&self, value: &T) -> String {
        self.words.iter().find(|(_, of)| of == value).map_or_else(String::new, |(word, _)| (*word).to_owned())
    }
}

impl<T> fmt::Display for Word<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.words.iter().map(|(word, _)| *word).collect();
        f.write_str(&words.join(" or "))
    }
}

// === impl Format ===

impl Grammar for Format {
    type Value = LogFormat;

    fn parse(&self, text: &str) -> Result<LogFormat, Refused> {
        let formats = [LogFormat::Plain, LogFormat::Json];
        formats.into_iter().find(|format| self.print(format).eq_ignore_ascii_case(text)).ok_or_else(Refused::default)
    }

    fn print(&self, value: &LogFormat) -> String {
        match value {
            LogFormat::Plain => "plain".to_owned(),
            LogFormat::Json => "json".to_owned(),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("plain or json")
    }
}

// === impl Protocols ===

impl Grammar for Protocols {
    type Value = EndpointProtocol;

    fn parse(&self, text: &str) -> Result<EndpointProtocol, Refused> {
        match text {
            "http2" => Ok(EndpointProtocol::Http2),
            "http1" => Ok(EndpointProtocol::Http1),
            "same" => Ok(EndpointProtocol::Same),
            _ => Err(Refused { detail: nearest_protocol(text).map(|word| format!("did you mean {word}?")) }),
        }
    }

    fn print(&self, value: &EndpointProtocol) -> String {
        let word = match value {
            EndpointProtocol::Http2 => "http2",
            EndpointProtocol::Http1 => "http1",
            EndpointProtocol::Same => "same",
        };
        word.to_owned()
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("http2, http1 or same")
    }
}

/// The word for a protocol that has other names elsewhere. `None`: it is not known.
fn nearest_protocol(text: &str) -> Option<&'static str> {
    match text.to_ascii_lowercase().as_str() {
        "http1" | "http/1" | "http1.1" | "http/1.1" | "h1" | "http" => Some("http1"),
        "http2" | "http/2" | "http2.0" | "http/2.0" | "h2" | "h2c" | "grpc" => Some("http2"),
        "same" | "auto" => Some("same"),
        _ => None,
    }
}

// === impl HealthChecks ===

impl Grammar for HealthChecks {
    type Value = Option<HealthCheckRequest>;

    fn parse(&self, text: &str) -> Result<Self::Value, Refused> {
        let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        match text.split_once(':') {
            None if text == "off" => Ok(None),
            None if text == "grpc" => Ok(Some(HealthCheckRequest::Grpc(String::new()))),
            Some(("grpc", service)) if is_name(service) => Ok(Some(HealthCheckRequest::Grpc(service.to_owned()))),
            Some(("http", path)) if path.starts_with('/') && is_name(path) && !path.contains('#') => {
                if path.starts_with("//") {
                    let detail = "http: is followed by a path alone, the endpoint is known".to_owned();
                    return Err(Refused { detail: Some(detail) });
                }
                Ok(Some(HealthCheckRequest::Http(path.to_owned())))
            }
            _ => Err(Refused::default()),
        }
    }

    fn print(&self, value: &Self::Value) -> String {
        match value {
            None => "off".to_owned(),
            Some(HealthCheckRequest::Grpc(service)) if service.is_empty() => "grpc".to_owned(),
            Some(HealthCheckRequest::Grpc(service)) => format!("grpc:{service}"),
            Some(HealthCheckRequest::Http(path)) => format!("http:{path}"),
        }
    }
}

impl fmt::Display for HealthChecks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("off, grpc, grpc:SERVICE or http:/PATH (as grpc:shop.Cart or http:/healthz)")
    }
}

// === impl Text ===

impl Grammar for Text {
    type Value = String;

    fn parse(&self, text: &str) -> Result<String, Refused> {
        Ok(text.to_owned())
    }

    fn print(&self, value: &String) -> String {
        value.clone()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }
}

// === impl Attributes ===

impl Grammar for Attributes {
    type Value = Vec<(String, String)>;

    /// Quotes around a value are the ones of Kubernetes' downward API.
    fn parse(&self, text: &str) -> Result<Vec<(String, String)>, Refused> {
        let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
        lines
            .map(|(index, line)| match line.split_once('=') {
                Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.trim_matches('"').to_owned())),
                _ => Err(Refused { detail: Some(format!("line {} has no name and value", index + 1)) }),
            })
            .collect()
    }

    fn print(&self, value: &Vec<(String, String)>) -> String {
        value.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("lines of name=value")
    }
}

#[cfg(test)]
mod tests;
