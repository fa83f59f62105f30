//! The socket between a process and its successor, and the successor's end of it.

use crate::sockets::{Given, known};
use rustix::{
    cmsg_space,
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
    stdio::dup2_stdin,
};
use std::{
    env,
    fs::File,
    future::pending,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    time::Duration,
};
use tokio::net::UnixStream;

/// The process that this one takes over from.
#[derive(Debug)]
pub(crate) struct Predecessor(StdUnixStream);

/// Tells a process that its standard input is the socket.
pub(super) const VARIABLE: &str = "APP_HANDOVER";
/// The value of the variable: the version of the protocol on the socket.
pub(super) const VERSION: &str = "1";
/// The new process has read all files and listens.
pub(super) const LISTENING: u8 = b'l';
/// The new process can reach its endpoints.
pub(super) const READY: u8 = b'r';
/// The new process may accept connections.
pub(super) const GO: u8 = b'g';

/// Follows the name of a socket that systemd removes the file of.
const KEPT: &str = ":kept";
/// How often the new process looks whether it is ready.
const POLL: Duration = Duration::from_millis(10);
/// More listeners than a process has.
const MAX_SOCKETS: usize = 8;
/// Longer than the names of all listeners.
const MAX_NAMES: usize = 128;

/// The listeners that another process hands over, and that process. `None`: no process does.
///
/// # Errors
///
/// When the variable is set, but standard input is not from such a process.
pub(crate) fn take() -> io::Result<Option<(Vec<Given>, Predecessor)>> {
    let Some(version) = env::var_os(VARIABLE) else { return Ok(None) };
    let wrong = |reason: String| {
        io::Error::other(format!("{VARIABLE}: {reason}; only a process that is told to upgrade by SIGUSR2 sets it"))
    };
    if version != VERSION {
        return Err(wrong(format!("is {version:?}, must be {VERSION}, the hand-over that this version knows")));
    }
    let stream = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let given = receive(&stream).map_err(|error| wrong(format!("standard input has no listeners ({error})")))?;
    // The connection ends with this process, not with another that might have its input.
    dup2_stdin(File::open("/dev/null")?)?;
    Ok(Some((given, Predecessor(stream))))
}

/// Sends listeners with their names, and whether their files are to be kept.
pub(super) fn send(stream: impl AsFd, listeners: &[(&str, BorrowedFd<'_>, bool)]) -> io::Result<()> {
    let kept = |keeps_file| if keeps_file { KEPT } else { "" };
    let names: Vec<_> = listeners.iter().map(|(name, _, keeps_file)| format!("{name}{}", kept(*keeps_file))).collect();
    let descriptors: Vec<_> = listeners.iter().map(|(_, listener, _)| *listener).collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::TOOBIG.into());
    }
    // Without a name there would be no byte for the descriptors to go with.
    let names = names.join(" ") + "\n";
    sendmsg(stream, &[IoSlice::new(names.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(stream: &StdUnixStream) -> io::Result<Vec<Given>> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut names = [0; MAX_NAMES];
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut names)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors: Vec<OwnedFd> = descriptors.flatten().collect();
    let names = String::from_utf8_lossy(&names[..received.bytes]);
    let names: Vec<_> = names.split_whitespace().collect();
    if names.is_empty() || names.len() != descriptors.len() {
        return Err(io::Error::other(format!("{} names and {} descriptors", names.len(), descriptors.len())));
    }
    let given = names.into_iter().zip(descriptors).map(|(name, listener)| Given {
        label: format!("socket {name:?} of the process before"),
        name: known(Some(name.strip_suffix(KEPT).unwrap_or(name))),
        listener,
        keeps_file: name.ends_with(KEPT),
    });
    Ok(given.collect())
}

/// The next byte. `None`: the other process is gone.
pub(super) async fn read(stream: &UnixStream) -> io::Result<Option<u8>> {
    loop {
        stream.readable().await?;
        let mut byte = [0];
        match stream.try_read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

pub(super) async fn write(stream: &UnixStream, byte: u8) -> io::Result<()> {
    loop {
        stream.writable().await?;
        match stream.try_write(&[byte]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => return written.map(|_| ()),
        }
    }
}

// === impl Predecessor ===

impl Predecessor {
    /// Says that this process listens, and when it is ready; returns when it may accept connections. If the other process is gone, it
    /// may, as nobody else does.
    pub(super) async fn wait_for_go(self, is_ready: impl Fn() -> bool) {
        if let Err(error) = self.talk(is_ready).await {
            tracing::warn!(%error, "the process before is gone; accepting connections in its place");
        }
    }

    async fn talk(self, is_ready: impl Fn() -> bool) -> io::Result<()> {
        self.0.set_nonblocking(true)?;
        let stream = UnixStream::from_std(self.0)?;
        write(&stream, LISTENING).await?;
        let say_ready = async {
            while !is_ready() {
                tokio::time::sleep(POLL).await;
            }
            write(&stream, READY).await?;
            pending().await
        };
        let told = tokio::select! {
            result = say_ready => return result,
            told = read(&stream) => told?,
        };
        if told == Some(GO) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}
