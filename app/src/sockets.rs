//! Listening sockets that the process was started with, and which listener each is for.
//!
//! They come from systemd's socket activation (sd_listen_fds(3)), or from a process that hands over (`handover`). The name of a
//! socket decides, else the address that it listens on.

use crate::listener::{self, BindError, SocketFile, StreamListener, local_addr};
use app_env::{Config, PREFIX, StreamAddr};
use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;
use std::{env, os::fd::OwnedFd, process};

/// A socket that the process was started with.
#[derive(Debug)]
pub(crate) struct Given {
    /// As an error shows it.
    pub(crate) label: String,
    /// `None`: it has no name, or one that is not of a listener.
    pub(crate) name: Option<&'static str>,
    pub(crate) listener: OwnedFd,
    /// Whether the file of a Unix domain socket stays when the process ends, as it is for another to remove.
    pub(crate) keeps_file: bool,
}

/// The sockets of the process's listeners that need not be bound.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    given: Vec<(&'static str, OwnedFd, bool)>,
    /// Files of Unix domain sockets that this process removes at its end, with their listeners' names.
    files: Vec<(&'static str, SocketFile)>,
}

/// The listeners of a process.
pub(crate) const NAMES: [&str; 3] = ["inbound", "outbound", "admin"];
/// The first descriptor of systemd's (`SD_LISTEN_FDS_START`).
const FIRST: usize = 3;
/// More descriptors than any unit has. Larger counts are mistakes.
const MAX: usize = 1024;

/// The sockets that systemd has passed. Must be called before the process has threads, since it removes variables.
///
/// # Errors
///
/// All that is wrong with them.
pub(crate) fn from_systemd() -> Result<Vec<Given>, Vec<String>> {
    let variable = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let Some(count) = variable("LISTEN_FDS") else { return Ok(Vec::new()) };
    let own = process::id();
    match variable("LISTEN_PID") {
        Some(pid) if pid.parse() == Ok(own) => {}
        pid => {
            let pid = pid.map_or_else(|| "unset".to_owned(), |pid| format!("{pid:?}"));
            eprintln!(
                "warning: LISTEN_PID is {pid}, must be {own}, this process; the sockets of LISTEN_FDS are not used. A script \
                 that starts it should do so by exec"
            );
            return Ok(Vec::new());
        }
    }
    let Some(count) = count.parse().ok().filter(|count| (0..=MAX).contains(count)) else {
        return Err(vec![format!("LISTEN_FDS is {count:?}, must be a number of descriptors, at most {MAX}")]);
    };
    let names = variable("LISTEN_FDNAMES").filter(|names| !names.is_empty());
    let names: Option<Vec<_>> = names.as_ref().map(|names| names.split(':').collect());
    if let Some(names) = &names
        && names.len() != count
    {
        return Err(vec![format!("LISTEN_FDNAMES has {} names, must have {count}, as LISTEN_FDS says", names.len())]);
    }
    let mut descriptors = ListenFd::from_env();
    let taken = (0..count).map(|index| {
        let name = names.as_ref().map(|names| names[index]);
        let label = match name {
            Some(name) => format!("descriptor {} ({name:?})", FIRST + index),
            None => format!("descriptor {}", FIRST + index),
        };
        let tcp = descriptors.take_tcp_listener(index).ok().flatten().map(OwnedFd::from);
        let listener = tcp.or_else(|| Some(descriptors.take_unix_listener(index).ok()??.into()));
        match listener.filter(|listener| socket_acceptconn(listener).unwrap_or(false)) {
            // systemd has made the file, and removes it if RemoveOnStop= says so.
            Some(listener) => Ok(Given { label, name: known(name), listener, keeps_file: true }),
            None => Err(format!(
                "{label} is no listening socket of TCP or a path, must be one, as by ListenStream= of systemd"
            )),
        }
    });
    all(taken)
}

/// The listener of a name. systemd names sockets after their unit, unless it says otherwise.
pub(crate) fn known(name: Option<&str>) -> Option<&'static str> {
    NAMES.into_iter().find(|known| Some(*known) == name)
}

/// All values, or all errors.
fn all<T>(results: impl Iterator<Item = Result<T, String>>) -> Result<Vec<T>, Vec<String>> {
    let (mut values, mut errors) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(values) } else { Err(errors) }
}

// === impl Sockets ===

impl Sockets {
    /// Finds the listener of each socket.
    ///
    /// # Errors
    ///
    /// One for each socket that no listener has a use for: none of its name or address is on, or another socket is for it.
    pub(crate) fn assign(given: Vec<Given>, config: &Config) -> Result<Self, Vec<String>> {
        let directions = [("inbound", &config.inbound), ("outbound", &config.outbound)];
        let on = directions.iter().filter_map(|(name, direction)| Some((*name, &direction.as_ref()?.listen_addr)));
        let listeners: Vec<_> = on.chain([("admin", &config.admin_listen_addr)]).collect();
        let mut taken: Vec<(&str, String)> = Vec::new();
        let assigned = given.into_iter().map(|Given { label, name, listener, keeps_file }| {
            let name = listener_of(name, local_addr(&listener).as_ref(), &listeners)
                .map_err(|reason| format!("{label} {reason}"))?;
            if let Some((_, other)) = taken.iter().find(|(taken, _)| *taken == name) {
                return Err(format!(
                    "{label} is for the {name} listener, as is {other}, must be one for each listener"
                ));
            }
            taken.push((name, label));
            Ok((name, listener, keeps_file))
        });
        all(assigned).map(|given| Self { given, files: Vec::new() })
    }

    /// The listener of a name: on the socket that it was given, or else on `addr`. `mode`: the permissions of the file of a socket
    /// that is made. Must be called in a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on.
    pub(crate) fn listen(
        &mut self,
        name: &'static str,
        addr: &StreamAddr,
        mode: Option<u32>,
        backlog: u32,
    ) -> Result<StreamListener, BindError> {
        let variable = variable(name);
        let (listener, file) = match self.given.iter().position(|(given, ..)| *given == name) {
            Some(at) => {
                let (_, socket, keeps_file) = self.given.swap_remove(at);
                let (listener, file) = listener::adopt(socket, addr, variable)?;
                (listener, file.filter(|_| !keeps_file))
            }
            None => listener::bind(addr, mode, backlog, variable)?,
        };
        self.files.extend(file.map(|file| (name, file)));
        Ok(listener)
    }

    /// The files of the listeners that are Unix domain sockets, unless they are for another process to remove.
    pub(crate) fn into_files(self) -> Vec<(&'static str, SocketFile)> {
        self.files
    }
}

/// The variable of a listener's address.
fn variable(name: &str) -> String {
    format!("{PREFIX}{}_LISTEN_ADDR", name.to_ascii_uppercase())
}

/// The name of the listener that a socket is for.
fn listener_of(
    name: Option<&'static str>,
    addr: Option<&StreamAddr>,
    listeners: &[(&'static str, &StreamAddr)],
) -> Result<&'static str, String> {
    if let Some(name) = name {
        let is_on = listeners.iter().any(|(on, _)| *on == name);
        let upper = name.to_ascii_uppercase();
        let off = || format!("is for the {name} listener, which is off, must be on: set {PREFIX}{upper}_ENDPOINTS");
        return is_on.then_some(name).ok_or_else(off);
    }
    let found = addr.and_then(|addr| listeners.iter().find(|(_, configured)| is_same(configured, addr)));
    found.map(|(name, _)| *name).ok_or_else(|| {
        let addr = addr.map_or_else(|| "an unknown address".to_owned(), |addr| addr.to_string());
        let listed: Vec<_> = listeners.iter().map(|(name, addr)| format!("{} ({addr})", variable(name))).collect();
        format!(
            "listens on {addr}, must be named {} in LISTEN_FDNAMES, or listen on one of {}",
            NAMES.join(", "),
            listed.join(", ")
        )
    })
}

/// Whether a socket listens where a variable says. A socket for all addresses has IPv4's and IPv6's.
fn is_same(configured: &StreamAddr, actual: &StreamAddr) -> bool {
    let (Some(configured), Some(actual)) = (configured.tcp(), actual.tcp()) else { return configured == actual };
    let (ip, other) = (configured.ip().to_canonical(), actual.ip().to_canonical());
    configured.port() == actual.port() && (ip == other || ip.is_unspecified() && other.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        collections::HashMap,
        net::{SocketAddr, TcpListener},
    };

    fn config(outbound: SocketAddr, admin: SocketAddr) -> Config {
        let (outbound, admin) = (outbound.to_string(), admin.to_string());
        let env = HashMap::from([
            ("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1"),
            ("LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR", &outbound),
            ("LINKERD2_PROXY_ADMIN_LISTEN_ADDR", &admin),
        ]);
        app_env::load(&env).unwrap().config
    }

    fn given(label: &str, name: Option<&'static str>) -> (Given, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        (Given { label: label.to_owned(), name, listener: listener.into(), keeps_file: true }, addr)
    }

    fn assigned(given: Vec<Given>, config: &Config) -> Vec<(&'static str, SocketAddr)> {
        let Sockets { given, .. } = Sockets::assign(given, config).unwrap();
        let addr = |listener| local_addr(&listener).and_then(|addr| addr.tcp()).unwrap();
        given.into_iter().map(|(name, listener, _)| (name, addr(listener))).collect()
    }

    #[test]
    fn a_name_decides_and_else_the_address() {
        let ((first, one), (second, two)) = (given("a", None), given("b", None));
        assert_eq!(assigned(vec![first, second], &config(two, one)), [("admin", one), ("outbound", two)]);
        let ((first, one), (second, two)) = (given("a", Some("outbound")), given("b", Some("admin")));
        assert_eq!(assigned(vec![first, second], &config(two, one)), [("outbound", one), ("admin", two)]);
    }

    #[test]
    fn sockets_that_no_listener_has_a_use_for_are_all_named() {
        let ((one, outbound), (two, _), (three, admin)) =
            (given("descriptor 3", None), given("descriptor 4", Some("outbound")), given("descriptor 5", None));
        let ((four, other), (five, _)) = (given("descriptor 6", None), given("descriptor 7", Some("inbound")));
        let errors = Sockets::assign(vec![one, two, three, four, five], &config(outbound, admin)).unwrap_err();
        let [twice, unknown, off] = &errors[..] else { panic!("{errors:?}") };
        assert_eq!(
            twice,
            "descriptor 4 is for the outbound listener, as is descriptor 3, must be one for each listener"
        );
        assert!(unknown.starts_with(&format!("descriptor 6 listens on {other}, must be named")), "{unknown}");
        assert!(unknown.contains(&format!("OUTBOUND_LISTEN_ADDR ({outbound})")), "{unknown}");
        assert!(off.contains("inbound listener, which is off") && off.contains("INBOUND_ENDPOINTS"), "{off}");
    }

    #[test]
    fn all_addresses_are_the_same_in_ipv4_and_ipv6() {
        let same = |one: &str, other: &str| is_same(&one.parse().unwrap(), &other.parse().unwrap());
        assert!(same("0.0.0.0:80", "[::]:80") && same("127.0.0.1:80", "[::ffff:127.0.0.1]:80"));
        assert!(!same("0.0.0.0:80", "[::]:81") && !same("0.0.0.0:80", "127.0.0.1:80"));
        assert!(same("unix:/a", "unix:///a") && !same("unix:/a", "unix:@/a") && !same("unix:/a", "127.0.0.1:80"));
    }
}
