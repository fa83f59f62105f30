//! File descriptors: as many as the system gives, some of which are kept for endpoints and the admin server.

use app_env::{Config, PREFIX};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

/// The uses of a socket, of which the later ones may take the last descriptors.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Use {
    /// A client's connection.
    Client,
    /// A connection to an endpoint.
    Endpoint,
    /// The admin server, look-ups of names, files.
    Rest,
}

/// Descriptors that are kept for endpoints, and as many again for the rest; of small limits an eighth.
const RESERVE: u64 = 64;

/// Raises the limit of descriptors to what the system allows. The default, 1,024 mostly, is for programs that
/// call `select`, which takes no descriptor above.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // A limit that stays as it is bounds us, as it did.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// Whether a descriptor is kept for other uses.
///
/// POSIX gives each new one the lowest number that is free, so its number says how many are open at least.
pub(crate) fn is_reserved(fd: impl AsFd, used_by: Use) -> bool {
    let fd = u64::try_from(fd.as_fd().as_raw_fd()).unwrap_or(0);
    limit().is_some_and(|limit| fd >= most(limit, used_by))
}

/// The error of a connection that would take a descriptor that is kept for other uses, as the system would have it.
pub(crate) fn exhausted() -> io::Error {
    io::Error::from(rustix::io::Errno::MFILE)
}

/// Says, if it is so, that clients cannot have as many connections as the configuration allows.
pub(crate) fn warning(config: &Config) -> Option<String> {
    let limit = limit()?;
    let directions = [("INBOUND", &config.inbound), ("OUTBOUND", &config.outbound)];
    let on = directions.iter().filter_map(|(name, direction)| Some((*name, direction.as_ref()?.max_connections)));
    let (names, allowed): (Vec<_>, Vec<_>) = on.unzip();
    let allowed = allowed.iter().map(|allowed| u64::try_from(*allowed).unwrap_or(u64::MAX));
    let (allowed, possible) = (allowed.fold(0, u64::saturating_add), most(limit, Use::Client));
    (allowed > possible).then(|| {
        let names: Vec<_> = names.iter().map(|name| format!("{PREFIX}{name}_MAX_CONNECTIONS")).collect();
        format!(
            "{}: {allowed} connections of clients are allowed, and the system's limit of {limit} file descriptors is \
             enough for some {possible}; raise that (ulimit -n, LimitNOFILE= of systemd)",
            names.join(" and ")
        )
    })
}

/// The process may have so many. `None`: any number.
fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// The descriptors of a limit that may be open for a use, with those of all uses before it.
fn most(limit: u64, used_by: Use) -> u64 {
    let reserve = RESERVE.min(limit / 8);
    match used_by {
        Use::Client => limit - 2 * reserve,
        Use::Endpoint => limit - reserve,
        Use::Rest => limit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_limits_have_small_reserves() {
        let most = |limit| [Use::Client, Use::Endpoint, Use::Rest].map(|used_by| most(limit, used_by));
        assert_eq!(most(64), [48, 56, 64]);
        assert_eq!(most(1_048_576), [1_048_448, 1_048_512, 1_048_576]);
        assert_eq!(most(0), [0, 0, 0]);
    }
}
