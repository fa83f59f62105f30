//! Listening Unix domain sockets, and the files that they are.

use app_env::UnixAddr;
use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};
use tokio::net::UnixListener;

/// The file of a listening socket. It is removed with the value while it is this process's, and still the same.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    id: Id,
    is_own: bool,
}

/// A file's device and inode.
type Id = (u64, u64);

// === impl SocketFile ===

impl SocketFile {
    /// The file at a path, which is another process's until [`own`](Self::own).
    pub(super) fn find(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: id(path)?, is_own: false })
    }

    /// Has the file removed at the end.
    pub(crate) fn own(&mut self) {
        self.is_own = true;
    }

    /// Leaves the file to the process that has the socket now.
    pub(crate) fn leave(&mut self) {
        self.is_own = false;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_same = || id(&self.path).is_ok_and(|id| id == self.id);
        if self.is_own
            && is_same()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the file of a socket");
        }
    }
}

/// Listens on a path or an abstract name. Must be called in a tokio runtime.
pub(super) fn bind(addr: &UnixAddr, mode: Option<u32>, backlog: i32) -> io::Result<(UnixListener, Option<SocketFile>)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let name = SockAddr::unix(addr.to_system())?;
    let bound = match (socket.bind(&name), addr.path()) {
        (Err(error), Some(path)) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path)?;
            socket.bind(&name)
        }
        (bound, _) => bound,
    };
    bound?;
    let mut file = addr.path().map(SocketFile::find).transpose()?;
    if let Some(file) = &mut file {
        file.own();
        if let Some(mode) = mode {
            // No client can connect before the socket listens.
            fs::set_permissions(&file.path, Permissions::from_mode(mode))?;
        }
    }
    socket.listen(backlog)?;
    Ok((UnixListener::from_std(socket.into())?, file))
}

/// Whether two paths are of one file.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
    let id = |path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    one == other || id(one).is_some_and(|one| Some(one) == id(other))
}

/// Removes the file of a socket that no process listens on.
///
/// # Errors
///
/// When the file is another's: a process listens on it, it is no socket, or nobody can tell.
fn remove_stale(path: &Path) -> io::Result<()> {
    let in_use = |reason| Err(io::Error::new(io::ErrorKind::AddrInUse, reason));
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return in_use("a file that is no socket is there");
    }
    let found = id(path)?;
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full queue of the listener would keep a blocking call waiting.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Ok(()) => return in_use("a process listens on it"),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => {}
            io::ErrorKind::WouldBlock => return in_use("a process listens on it"),
            _ if error.raw_os_error() == Some(rustix::io::Errno::PROTOTYPE.raw_os_error()) => {
                return in_use("a socket that is not of streams is there");
            }
            _ => return Err(error),
        },
    }
    // Another process may have replaced it in the meantime.
    if id(path)? != found {
        return in_use("another process has just made it");
    }
    fs::remove_file(path)
}

fn id(path: &Path) -> io::Result<Id> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}
