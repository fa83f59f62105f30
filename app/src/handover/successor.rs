//! The process that is to take over, as the one before sees it.

use super::channel::{self, GO, LISTENING, READY, VARIABLE, VERSION};
use crate::listener::StreamListener;
use std::{
    env, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};

/// The listeners that are handed over, with their names, and whether the file of a Unix domain socket is not theirs to remove.
pub(crate) type Listeners = Vec<(&'static str, Arc<StreamListener>, bool)>;

/// A process that was started to take over. It is ended with the value, unless it has been told to go.
#[derive(Debug)]
pub(crate) struct Successor {
    child: Child,
    stream: UnixStream,
    is_told: bool,
}

/// Why a process did not take over, with all reasons: JSON lines of the log have no sources of errors.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("this process is the first of its PID namespace, whose end ends all others; start a new container instead")]
    FirstOfNamespace,
    #[error("cannot start {}: {error}", path.display())]
    Start { path: PathBuf, error: io::Error },
    #[error("cannot talk to the new process: {0}")]
    Socket(io::Error),
    #[error("the new process ended before it was ready: {0}")]
    Ended(ExitStatus),
    #[error("the new process does not listen after {0:?}")]
    Silent(Duration),
    #[error("the new process listens, but after {0:?} it cannot reach an endpoint in each direction, as this one can")]
    NotReady(Duration),
}

/// How long a process may take to end that has closed its socket.
const END: Duration = Duration::from_secs(1);
/// How often it is asked whether it has ended.
const POLL: Duration = Duration::from_millis(10);

// === impl Successor ===

impl Successor {
    /// Starts the binary at the path that this process was started by, which may be another binary by now, with the same arguments
    /// and variables. (`/proc/self/exe` would be the old binary, even if its file is deleted.)
    pub(super) fn start(listeners: &Listeners) -> Result<Self, Failure> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let stream = UnixStream::from_std(ours)?;
        let mut args = env::args_os();
        let path = PathBuf::from(args.next().unwrap_or_default());
        let mut command = Command::new(&path);
        command.args(args).env(VARIABLE, VERSION).stdin(OwnedFd::from(theirs));
        // They are about the descriptors of this process.
        ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"].into_iter().for_each(|name| _ = command.env_remove(name));
        let child = command.spawn().map_err(|error| Failure::Start { path, error })?;
        let successor = Self { child, stream, is_told: false };
        // It holds the other end of the socket, which is to close with the new process.
        drop(command);
        let named = listeners.iter().map(|(name, listener, keeps_file)| (*name, listener.as_fd(), *keeps_file));
        let named: Vec<_> = named.collect();
        match channel::send(&successor.stream, &named) {
            // It has ended already, and has a status that tells more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(successor),
            sent => Ok(sent.map(|()| successor)?),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process can take over. Endpoints do not hold it up while this process cannot reach them either.
    pub(super) async fn ready(&mut self, limit: Duration, is_ready: &impl Fn() -> bool) -> Result<(), Failure> {
        let mut is_listening = false;
        let said_ready = async {
            loop {
                match channel::read(&self.stream).await {
                    Ok(Some(LISTENING)) if is_ready() => is_listening = true,
                    Ok(Some(LISTENING)) => return true,
                    Ok(Some(READY)) => return true,
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return false,
                }
            }
        };
        match timeout(limit, said_ready).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::Ended(self.status().await?)),
            Err(_) if !is_listening => Err(Failure::Silent(limit)),
            Err(_) if is_ready() => Err(Failure::NotReady(limit)),
            Err(_) => Ok(()),
        }
    }

    /// The status of a process that has closed its socket.
    async fn status(&mut self) -> io::Result<ExitStatus> {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait()? {
                    return Ok(status);
                }
                sleep(POLL).await;
            }
        };
        match timeout(END, ended).await {
            Ok(status) => status,
            Err(_) => {
                self.child.kill()?;
                self.child.wait()
            }
        }
    }

    /// Lets the process accept connections.
    pub(crate) async fn go(mut self) {
        self.is_told = true;
        if let Err(error) = channel::write(&self.stream, GO).await {
            tracing::error!(%error, pid = self.pid(), "the new process has ended as it was to take over");
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.is_told {
            // It cannot refuse, so the wait is short.
            let _ = self.child.kill().and_then(|()| self.child.wait().map(|_| ()));
        }
    }
}
