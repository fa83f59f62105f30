//! A link as a TCP relay on loopback.

use super::{Direction, Link};
use crate::timer::{Clock, Timer};
use std::{io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::Instant,
};

/// Listens on loopback, and puts the link between its clients and its target. Dropping it closes all connections.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    _tasks: JoinSet<()>,
}

/// The buffers of the relay's sockets: small, so that bytes queue where the link can see them.
const SOCKET_BUFFER: u32 = 128 << 10;
const COPY_BUFFER: usize = 64 << 10;
/// Bytes sent to measure the relay's own delay; the slowest of the fastest third counts.
const PROBES: usize = 30;

// === impl Relay ===

impl Relay {
    /// Starts a relay to `target` over `link`. Clients are at the link's first end.
    ///
    /// The delay of loopback and relay is measured, and counts as a part of the link's delay.
    ///
    /// # Errors
    ///
    /// When no port is free on loopback.
    pub async fn spawn(link: Link, target: SocketAddr) -> io::Result<Self> {
        link.count_hops(hops().await?);
        Self::uncorrected(link, target)
    }

    fn uncorrected(link: Link, target: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // Accepted sockets inherit it.
        socket.set_recv_buffer_size(SOCKET_BUFFER)?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(1024)?;
        let addr = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, link, target));
        Ok(Self { addr, _tasks: tasks })
    }

    /// Where to connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// The delay of a byte through a relay without a link, in one direction.
async fn hops() -> io::Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let relay = Relay::uncorrected(Link::symmetric(Direction::DIRECT), listener.local_addr()?)?;
    let mut near = TcpStream::connect(relay.addr()).await?;
    let (mut far, _) = listener.accept().await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let mut pause = Timer::new(Clock::Kernel)?;
    let mut times = [Duration::MAX; PROBES];
    for time in &mut times {
        // Each finds everyone asleep, as behind a short delay.
        pause.until(Instant::now() + Duration::from_micros(500)).await?;
        let start = Instant::now();
        near.write_u8(0).await?;
        far.read_u8().await?;
        *time = start.elapsed();
    }
    times.sort();
    Ok(times[PROBES / 3])
}

async fn accept(listener: TcpListener, link: Link, target: SocketAddr) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let link = link.clone();
        // A connection that fails is closed, which is all that its peers could be told.
        connections.spawn(async move { relay(client, &link, target).await.unwrap_or_default() });
        while connections.try_join_next().is_some() {}
    }
}

async fn relay(mut client: TcpStream, link: &Link, target: SocketAddr) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    let mut server = socket.connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut near, mut far) = link.pair()?;
    tokio::try_join!(
        copy_bidirectional_with_sizes(&mut client, &mut near, COPY_BUFFER, COPY_BUFFER),
        copy_bidirectional_with_sizes(&mut far, &mut server, COPY_BUFFER, COPY_BUFFER),
    )?;
    Ok(())
}
