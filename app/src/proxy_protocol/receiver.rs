//! Reads the header of connections from clients.

use super::header::{Addresses, Invalid, Partial};
use crate::{
    client_addr::{ClientAddr, PeerAddr},
    log::Throttle,
    transport::Socket,
};
use app_env::{Network, PREFIX};
use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use tokio::{io::AsyncReadExt as _, time::timeout};

/// The PROXY protocol of one direction's listener, for all workers.
#[derive(Debug)]
pub(crate) struct Receiver {
    direction: &'static str,
    /// Connections from these networks begin with a header; others have none. All connections by a Unix domain socket do.
    networks: Vec<Network>,
    timeout: Duration,
    /// For each [`Outcome`].
    counts: [AtomicU64; Outcome::ALL.len()],
    log: [Throttle; Outcome::ALL.len()],
}

/// The outcome of a connection that has to begin with a header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    /// The header had the client's address.
    Proxied,
    /// The header leaves the connection its own address.
    Local,
    /// The connection was closed before its first byte, as by a health check.
    Closed,
    /// There was no header.
    Missing,
    /// There was a header that nobody understands.
    Malformed,
    /// The header was not whole in time.
    Timeout,
}

#[derive(Debug)]
enum ReadError {
    Invalid(Invalid),
    Closed,
    Io(io::Error),
}

// === impl Receiver ===

impl Receiver {
    /// A header is expected from `networks`, and has `timeout`. `None`: from nowhere.
    pub(crate) fn new(direction: &'static str, networks: Vec<Network>, timeout: Duration) -> Option<Self> {
        let (counts, log) = Default::default();
        (!networks.is_empty()).then_some(Self { direction, networks, timeout, counts, log })
    }

    /// The addresses of a connection that was accepted from `peer`, of which the header is read if one is expected. `None`: it
    /// is to be closed.
    pub(crate) async fn client_addr(&self, stream: &mut Socket, peer: PeerAddr) -> Option<ClientAddr> {
        let is_among = |ip| self.networks.iter().any(|network| network.contains(ip));
        if peer.tcp().is_some_and(|peer| !is_among(peer.ip())) {
            return Some(ClientAddr::direct(peer));
        }
        match timeout(self.timeout, read(stream)).await {
            Ok(Ok(Some(Addresses { source, destination }))) => {
                self.count(Outcome::Proxied);
                return Some(ClientAddr { client: PeerAddr::Tcp(source), peer, destination: Some(destination) });
            }
            Ok(Ok(None)) => {
                self.count(Outcome::Local);
                return Some(ClientAddr::direct(peer));
            }
            Ok(Err(ReadError::Invalid(Invalid::Missing))) => self.failed(Outcome::Missing, peer, &Invalid::Missing),
            Ok(Err(ReadError::Invalid(invalid))) => self.failed(Outcome::Malformed, peer, &invalid),
            Ok(Err(ReadError::Closed)) => self.count(Outcome::Closed),
            Ok(Err(ReadError::Io(error))) => {
                tracing::debug!(direction = self.direction, %peer, %error, "connection failed before its PROXY protocol header");
                self.count(Outcome::Closed);
            }
            Err(_) => self.failed(Outcome::Timeout, peer, &"it does not come in time"),
        }
        None
    }

    /// Connections by their outcome.
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Outcome::ALL.into_iter().map(|outcome| (outcome.name(), self.counts[outcome as usize].load(Relaxed)))
    }

    fn count(&self, outcome: Outcome) {
        self.counts[outcome as usize].fetch_add(1, Relaxed);
    }

    fn failed(&self, outcome: Outcome, peer: PeerAddr, reason: &dyn std::fmt::Display) {
        self.count(outcome);
        let Some(left_out) = self.log[outcome as usize].admits() else { return };
        let direction = self.direction;
        let variable = format!("{PREFIX}{}_ACCEPT_PROXY_PROTOCOL_NETWORKS", direction.to_ascii_uppercase());
        tracing::warn!(
            direction,
            %peer,
            left_out,
            %reason,
            "no valid PROXY protocol header from an address in {variable}; closing its connection"
        );
    }
}

// === impl Outcome ===

impl Outcome {
    /// In the order of their declaration, by which they index counters.
    const ALL: [Self; 6] = [Self::Proxied, Self::Local, Self::Closed, Self::Missing, Self::Malformed, Self::Timeout];

    const fn name(self) -> &'static str {
        match self {
            Self::Proxied => "proxied",
            Self::Local => "local",
            Self::Closed => "closed",
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Timeout => "timeout",
        }
    }
}

// === impl ReadError ===

impl From<Invalid> for ReadError {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads a header, and no byte more. `None`: it leaves the connection its own addresses.
async fn read(stream: &mut Socket) -> Result<Option<Addresses>, ReadError> {
    let mut header = Partial::default();
    loop {
        let mut next = [0; 256];
        // The header's length shows only as it comes, so the bytes are looked at before they are taken.
        let there = stream.peek(&mut next).await?;
        if there == 0 && header.is_empty() {
            return Err(ReadError::Closed);
        }
        if there == 0 {
            return Err(Invalid::Malformed("the connection ends within it").into());
        }
        let taken = header.push(&next[..there])?;
        stream.read_exact(&mut next[..taken]).await?;
        if let Some(parsed) = header.parse() {
            return Ok(parsed?);
        }
    }
}
