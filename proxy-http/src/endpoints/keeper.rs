//! Keeps endpoints connected.

use super::{
    Chain, Params, Shared,
    nodes::{Connection, Node},
};
use crate::{BoxError, Connect, Replay, SendRequest, client::ConnectError};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::{
    future::{Future, pending, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::{Instant, Interval},
};
use tower_service::Service;

/// Keeps an endpoint connected: with one connection, or more when they are asked for.
pub(super) struct Keeper {
    pub(super) id: u64,
    pub(super) addr: Arc<str>,
    pub(super) params: Params,
    pub(super) shared: Weak<Shared>,
    pub(super) demand: Arc<Notify>,
    /// The connections that are open: each tells when it closes, and whether it was of use.
    pub(super) open: FuturesUnordered<Pin<Box<dyn Future<Output = bool> + Send>>>,
    /// Attempts that failed, and connections that were lost at once, in a row.
    pub(super) failures: u32,
    /// Before the next attempt.
    pub(super) pause: Duration,
}

/// A connection that lasted this long was a success: the next is tried at once, and backoff starts over.
const STABLE: Duration = Duration::from_secs(1);
/// Idle connections are not looked for more often.
const MIN_REAP: Duration = Duration::from_millis(1);

// === impl Keeper ===

impl Keeper {
    pub(super) async fn keep<A, C>(mut self, target: A, mut connect: Connect<C, Replay>)
    where
        A: Clone,
        C: Service<A>,
        C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send + 'static,
    {
        let max = self.params.max_connections.get();
        let mut reap = self.params.max_idle.map(|idle| tokio::time::interval((idle / 2).max(MIN_REAP)));
        loop {
            if !self.open.is_empty() {
                tokio::select! {
                    Some(was_of_use) = self.open.next() => {
                        self.closed(was_of_use);
                        continue;
                    }
                    () = self.demand.notified(), if self.open.len() < max => {}
                    () = tick(reap.as_mut()), if self.open.len() > 1 => {
                        self.reap();
                        continue;
                    }
                }
            }
            let mut attempt = pin!(attempt(self.pause, target.clone(), &mut connect));
            let made = loop {
                tokio::select! {
                    made = &mut attempt => break made,
                    Some(was_of_use) = self.open.next() => self.closed(was_of_use),
                }
            };
            self.made(made);
        }
    }

    fn made(&mut self, made: Result<SendRequest<Replay>, ConnectError>) {
        match made {
            Ok(handle) => {
                if self.open.is_empty() {
                    tracing::info!(endpoint = %self.addr, "endpoint is ready");
                }
                let (opened, closed, worked) = (Instant::now(), handle.closed(), handle.worked());
                self.open.push(Box::pin(async move {
                    closed.await;
                    opened.elapsed() >= STABLE || worked()
                }));
                self.pause = Duration::ZERO;
                self.update(|node| {
                    node.failed = None;
                    node.connections.push(Connection { handle, used: opened });
                });
            }
            Err(error) => {
                // Once is news, every time would be noise.
                if self.failures == 0 {
                    tracing::warn!(endpoint = %self.addr, error = %Chain(&error), "endpoint cannot be reached");
                } else {
                    tracing::debug!(endpoint = %self.addr, error = %Chain(&error), "endpoint cannot be reached");
                }
                self.back_off();
                self.update(|node| node.failed = Some(Arc::new(error)));
            }
        }
    }

    /// A connection is closed, or takes no more requests.
    fn closed(&mut self, was_of_use: bool) {
        self.update(|node| node.connections.retain(|connection| !connection.handle.is_closed()));
        if self.open.is_empty() {
            tracing::info!(endpoint = %self.addr, "connection to endpoint has closed");
        }
        if was_of_use {
            (self.failures, self.pause) = (0, Duration::ZERO);
        } else {
            self.back_off();
        }
    }

    fn back_off(&mut self) {
        self.pause = self.params.backoff.pause(self.failures);
        self.failures = self.failures.saturating_add(1);
    }

    /// Closes connections that nobody has used, but not the last one.
    fn reap(&self) {
        let Some(max_idle) = self.params.max_idle else { return };
        self.update(|node| {
            let mut open = node.connections.len();
            node.connections.retain(|Connection { handle, used }| {
                let stays = open == 1 || handle.streams() > 0 || used.elapsed() < max_idle;
                open -= usize::from(!stays);
                stays
            });
        });
    }

    fn update(&self, change: impl FnOnce(&mut Node)) {
        if let Some(shared) = self.shared.upgrade() {
            shared.update(self.id, change);
        }
    }
}

/// Makes a connection after a pause.
async fn attempt<A, C>(
    pause: Duration,
    target: A,
    connect: &mut Connect<C, Replay>,
) -> Result<SendRequest<Replay>, ConnectError>
where
    C: Service<A>,
    C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    poll_fn(|cx| connect.poll_ready(cx)).await?;
    connect.call(target).await
}

async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => _ = interval.tick().await,
        None => pending().await,
    }
}
