//! An upgrade without a gap: on SIGUSR2 the binary is started anew, and gets the listening sockets.
//!
//! The new process has a Unix socket as its standard input, on which it receives the listeners (`SCM_RIGHTS`), and says how far it
//! is. The old one accepts no more once the new one can do all that it can do itself, and drains. Until then it serves as before, and
//! ends the new one if that fails. Connections that nobody accepts meanwhile wait in the listeners' queues, which are the same for both.
//!
//! ```text
//! old  ---  names, descriptors  -->  new
//!      <--  LISTENING           ---       all is read, the workers run
//!      <--  READY               ---       endpoints can be reached, as /ready says
//!      ---  GO                  -->       the old process accepts no more
//! ```

mod channel;
mod successor;

pub(crate) use channel::{Predecessor, take};
pub(crate) use successor::{Listeners, Successor};

use self::successor::Failure;
use std::{future::pending, time::Duration};
use tokio::signal::unix::Signal;

/// How a process takes over from another, and hands over in turn. By default it does neither.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    /// `None`: no process has handed over to this one.
    pub(crate) predecessor: Option<Predecessor>,
    /// SIGUSR2. `None`: nothing asks for an upgrade.
    pub(crate) upgrade: Option<Signal>,
}

// === impl Handover ===

impl Handover {
    /// Waits until the process may accept connections.
    pub(crate) async fn take_over(&mut self, is_ready: impl Fn() -> bool) {
        if let Some(predecessor) = self.predecessor.take() {
            predecessor.wait_for_go(is_ready).await;
            tracing::info!(pid = std::process::id(), "took over, accepting connections");
        }
    }

    /// Starts a process on each SIGUSR2, until one is ready to take over.
    pub(crate) async fn successor(
        &mut self,
        listeners: &Listeners,
        timeout: Duration,
        is_ready: impl Fn() -> bool,
    ) -> Successor {
        loop {
            self.signal().await;
            let started = tokio::select! {
                started = start(listeners, timeout, &is_ready) => started,
                () = self.refuse("an upgrade is under way") => continue,
            };
            match started {
                Ok(successor) => return successor,
                Err(error) => {
                    tracing::error!(%error, "upgrade failed; this process goes on serving");
                }
            }
        }
    }

    /// Refuses all upgrades from now on. Never returns.
    pub(crate) async fn refuse(&mut self, reason: &'static str) {
        loop {
            self.signal().await;
            tracing::warn!(reason, "SIGUSR2 refused");
        }
    }

    async fn signal(&mut self) {
        let signalled = match &mut self.upgrade {
            // Signals come for as long as the process lives.
            Some(upgrade) => upgrade.recv().await,
            None => None,
        };
        if signalled.is_none() {
            pending().await
        }
    }
}

async fn start(listeners: &Listeners, timeout: Duration, is_ready: &impl Fn() -> bool) -> Result<Successor, Failure> {
    // The end of the first process of a PID namespace ends all others.
    if std::process::id() == 1 {
        return Err(Failure::FirstOfNamespace);
    }
    let mut successor = Successor::start(listeners)?;
    tracing::info!(pid = successor.pid(), ?timeout, "SIGUSR2, started a process that is to take over");
    successor.ready(timeout, is_ready).await?;
    Ok(successor)
}
