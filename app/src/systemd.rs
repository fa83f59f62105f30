//! Notifications to systemd (sd_notify(3)), where it has started the process and asks for them.

use rustix::time::{ClockId, clock_gettime};
use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// Everything is ready, at the start or after a reload.
pub(crate) const READY: &str = "READY=1";
/// The process drains, and ends then.
pub(crate) const STOPPING: &str = "STOPPING=1";

/// Sends a state to the socket that `NOTIFY_SOCKET` names; without the variable there is nobody to tell.
pub(crate) fn notify(state: &str) {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(name.as_bytes(), state) {
        tracing::warn!(%error, state, socket = %name.display(), "cannot notify systemd");
    }
}

/// Files are read again; [`READY`] follows. systemd wants to know when, to tell reloads apart.
pub(crate) fn notify_reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1_000));
}

/// A name is a path, or in the abstract namespace after `@`.
fn send(name: &[u8], state: &str) -> io::Result<()> {
    let addr = match name {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &addr).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_reach_sockets_of_either_kind() {
        let path = env::temp_dir().join(format!("app-notify-{}", std::process::id()));
        let in_files = UnixDatagram::bind(&path).unwrap();
        let name = format!("app-notify-{}", std::process::id());
        let in_no_file = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (socket, name) in [(in_files, path.to_str().unwrap()), (in_no_file, &format!("@{name}"))] {
            send(name.as_bytes(), READY).unwrap();
            let mut received = [0; 64];
            let len = socket.recv(&mut received).unwrap();
            assert_eq!(&received[..len], READY.as_bytes());
        }
        std::fs::remove_file(&path).unwrap();
        assert!(send(path.as_os_str().as_bytes(), READY).is_err());
        assert!(send(b"", READY).is_err());
    }
}
