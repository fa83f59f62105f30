//! Listening sockets: their options, and accepting from them whatever goes wrong.

mod unix;

pub(crate) use unix::{SocketFile, is_same_file};

use crate::{
    client_addr::PeerAddr,
    descriptors::{Use, exhausted, is_reserved},
    transport::Socket as Stream,
};
use app_env::{Config, EndpointAddr, PREFIX, StreamAddr, TcpParams};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener},
    time::Instant,
};

/// A listening socket.
#[derive(Debug)]
pub(crate) enum StreamListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{variable}: cannot listen on {addr}")]
pub struct BindError {
    variable: String,
    addr: StreamAddr,
    source: io::Error,
}

/// Connections that were closed because there are too many.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// Not logged yet.
    count: u64,
    logged: Option<Instant>,
}

/// The shortest time between two lines of [`Refusals`].
const LOG_PAUSE: Duration = Duration::from_secs(10);
/// How long to wait when the system is out of descriptors or memory: long enough not to spin, short enough that a
/// client hardly notices.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(5);

/// Listens on `addr`, the value of `variable`. `mode`: the permissions of a socket that is a file. Must be called in a tokio runtime.
pub(crate) fn bind(
    addr: &StreamAddr,
    mode: Option<u32>,
    backlog: u32,
    variable: String,
) -> Result<(StreamListener, Option<SocketFile>), BindError> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    let bound = match addr {
        StreamAddr::Tcp(addr) => bind_tcp(*addr, backlog).map(|listener| (StreamListener::Tcp(listener), None)),
        StreamAddr::Unix(addr) => {
            unix::bind(addr, mode, backlog).map(|(listener, file)| (StreamListener::Unix(listener), file))
        }
    };
    bound.map_err(|source| BindError { variable, addr: addr.clone(), source })
}

fn bind_tcp(addr: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(backlog)?;
    TcpListener::from_std(socket.into())
}

/// Listens by a socket that the process was started with, in place of `addr`, the value of `variable`. Its queue stays as long as
/// it is. Its file, if it is one, is another process's for now. Must be called in a tokio runtime.
pub(crate) fn adopt(
    socket: OwnedFd,
    addr: &StreamAddr,
    variable: String,
) -> Result<(StreamListener, Option<SocketFile>), BindError> {
    let listen = || {
        SockRef::from(&socket).set_nonblocking(true)?;
        Ok(match local_addr(&socket) {
            Some(StreamAddr::Unix(unix)) => {
                // Without its file the socket is one that nobody can connect to, as it was before.
                let file = unix.path().and_then(|path| SocketFile::find(path).ok());
                (StreamListener::Unix(UnixListener::from_std(socket.into())?), file)
            }
            _ if is_unix(&socket) => (StreamListener::Unix(UnixListener::from_std(socket.into())?), None),
            _ => (StreamListener::Tcp(TcpListener::from_std(socket.into())?), None),
        })
    };
    listen().map_err(|source| BindError { variable, addr: addr.clone(), source })
}

/// The address that a socket has on this host. `None`: it has none that a variable could have.
pub(crate) fn local_addr(socket: &impl AsFd) -> Option<StreamAddr> {
    let addr = SockRef::from(socket).local_addr().ok()?;
    if let Some(addr) = addr.as_socket() {
        return Some(addr.into());
    }
    let path = addr.as_pathname().and_then(|path| path.to_str()).map(str::to_owned);
    let name = || Some(format!("@{}", str::from_utf8(addr.as_abstract_namespace()?).ok()?));
    format!("unix:{}", path.or_else(name)?).parse().ok()
}

fn is_unix(socket: &impl AsFd) -> bool {
    SockRef::from(socket).local_addr().is_ok_and(|addr| addr.is_unix())
}

/// The next connection. Errors never end it: an error of one connection is ignored, and when the system lacks resources
/// it waits a little, as it does while all descriptors are in use but the ones kept for other uses.
pub(crate) async fn accept(listener: &StreamListener, used_by: Use) -> (Stream, PeerAddr) {
    let mut warned = false;
    loop {
        let error = match listener.accept().await {
            Ok((stream, peer)) if !is_reserved(&stream, used_by) => return (stream, peer),
            Ok((stream, peer)) => match unreserved(stream, peer, used_by, &mut warned).await {
                Ok(stream) => return (stream, peer),
                Err(error) => error,
            },
            Err(error) => error,
        };
        if is_of_one_connection(&error) {
            tracing::debug!(%error, "a connection was gone before it was accepted");
            continue;
        }
        pause(&error, &mut warned).await;
    }
}

/// A connection under a descriptor that is not kept for other uses; waits until one is free.
async fn unreserved(stream: Stream, peer: PeerAddr, used_by: Use, warned: &mut bool) -> io::Result<Stream> {
    let held = stream.into_fd()?;
    loop {
        pause(&exhausted(), warned).await;
        let stream = held.try_clone()?;
        if !is_reserved(&stream, used_by) {
            return Stream::from_fd(stream, peer);
        }
    }
}

/// Waits a little for descriptors or memory.
async fn pause(error: &io::Error, warned: &mut bool) {
    if !*warned {
        tracing::warn!(%error, "cannot accept connections; trying again");
        *warned = true;
    }
    tokio::time::sleep(EXHAUSTED_PAUSE).await;
}

// === impl StreamListener ===

impl StreamListener {
    /// The address that it listens on. `None`: it has none that a variable could have.
    pub(crate) fn addr(&self) -> Option<StreamAddr> {
        local_addr(self)
    }

    async fn accept(&self) -> io::Result<(Stream, PeerAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::Tcp(stream), PeerAddr::Tcp(peer)))
            }
            Self::Unix(listener) => Ok((Stream::Unix(listener.accept().await?.0), PeerAddr::Unix)),
        }
    }
}

impl AsFd for StreamListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

// === impl Refusals ===

impl Refusals {
    /// Counts one, and says how many there were, but not too often.
    pub(crate) fn log(&mut self) {
        self.count += 1;
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_PAUSE) {
            tracing::warn!(closed = self.count, "too many connections from clients; closing new ones");
            *self = Self { count: 0, logged: Some(Instant::now()) };
        }
    }
}

/// The errors of directions that have an address of this host as endpoint, where a listener of the process is on all of them.
/// `app_env` finds endpoints that show to be listeners of the process without asking the system.
pub(crate) fn loops(config: &Config) -> Vec<String> {
    let directions = [("INBOUND", &config.inbound), ("OUTBOUND", &config.outbound)];
    let on: Vec<_> = directions.into_iter().filter_map(|(name, direction)| Some((name, direction.as_ref()?))).collect();
    let listeners = on.iter().map(|(_, direction)| &direction.listen_addr).chain([&config.admin_listen_addr]);
    let wildcards: Vec<_> = listeners.filter_map(StreamAddr::tcp).filter(|addr| addr.ip().is_unspecified()).collect();
    let looping = on.into_iter().filter_map(|(name, direction)| {
        let is_own = |endpoint: &&EndpointAddr| {
            let Some(endpoint) = endpoint.host_port() else { return false };
            // The system lets nobody bind addresses of other hosts.
            let is_local = |ip| UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok();
            wildcards.iter().any(|addr| addr.port() == endpoint.port()) && endpoint.ip().is_some_and(is_local)
        };
        let endpoint = direction.endpoints.iter().find(is_own)?;
        let reason = format!("has {endpoint}, the proxy's own listener, must be addresses of others");
        Some(format!("{PREFIX}{name}_ENDPOINTS: {reason}, since a process does not connect to itself"))
    });
    looping.collect()
}

/// Sets the options of a connection's socket. One that the system refuses is logged and left out.
pub(crate) fn set_options(stream: &TcpStream, params: &TcpParams) {
    let TcpParams { keepalive, user_timeout } = *params;
    let socket = SockRef::from(stream);
    let mut set = stream.set_nodelay(true);
    if let Some(time) = keepalive {
        set = set.and(socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(time)));
    }
    if let Some(timeout) = user_timeout {
        set = set.and(socket.set_tcp_user_timeout(Some(timeout)));
    }
    if let Err(error) = set {
        tracing::debug!(%error, "cannot set socket options");
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
