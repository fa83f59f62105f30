//! A connection to each of several targets, kept up, and a choice among those that are ready.

use crate::{IncomingBody, SendRequest, answer::Answer, client::ConnectError};
use std::{error::Error as StdError, fmt, future::poll_fn, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};
use tower_service::Service;

/// Connections to several targets, each made anew when it is lost; clones share them.
///
/// Requests go to the targets that are ready in turn. The connections are given up when the last clone is dropped.
pub struct Endpoints {
    state: watch::Receiver<State>,
    /// The connections ready when `state` was last looked at: a copy of one's own needs no lock.
    ready: Vec<SendRequest<IncomingBody>>,
    next: usize,
}

/// Pauses between attempts to connect: from `min`, doubled each time, up to `max`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The first pause.
    pub min: Duration,
    /// The longest pause.
    pub max: Duration,
    /// What part of a pause is added to it at most, at random: 0.1 makes 1 s last up to 1.1 s.
    pub jitter: f64,
}

/// What all targets' tasks know together.
struct State {
    targets: Vec<Target>,
    /// Since when no target has been ready. `None`: one is.
    down_since: Option<Instant>,
}

enum Target {
    Connecting,
    Ready(SendRequest<IncomingBody>),
    Failed(Arc<ConnectError>),
}

/// A connection that lasted this long was a success: the next is tried at once, and backoff starts over.
const STABLE: Duration = Duration::from_secs(1);

// === impl Endpoints ===

impl Endpoints {
    /// Connects to each of `targets` with `connect`, and again whenever a connection is lost.
    ///
    /// Must be called in a tokio runtime; each target has a task of its own.
    pub fn spawn<T, C>(targets: impl IntoIterator<Item = T>, connect: &C, backoff: Backoff) -> Self
    where
        T: Clone + fmt::Display + Send + Sync + 'static,
        C: Service<T, Response = SendRequest<IncomingBody>, Error = ConnectError> + Clone + Send + 'static,
        C::Future: Send,
    {
        let targets = Vec::from_iter(targets);
        let (shared, state) = watch::channel(State {
            targets: targets.iter().map(|_| Target::Connecting).collect(),
            down_since: Some(Instant::now()),
        });
        let shared = Arc::new(shared);
        for (index, target) in targets.into_iter().enumerate() {
            tokio::spawn(keep_connected(index, target, connect.clone(), backoff, Arc::clone(&shared)));
        }
        Self { state, ready: Vec::new(), next: 0 }
    }

    /// Whether a request could be sent now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.borrow().ready().next().is_some()
    }

    /// The next of the connections that are ready.
    pub(crate) fn pick(&mut self) -> Option<&mut SendRequest<IncomingBody>> {
        // An error says that no task is left to change anything.
        if self.state.has_changed().unwrap_or(false) || self.ready.is_empty() {
            self.ready = self.state.borrow_and_update().ready().cloned().collect();
        }
        let n = self.ready.len();
        let start = self.next;
        let found = (0..n).map(|i| (start + i) % n).find(|&i| !self.ready[i].is_closed())?;
        self.next = found + 1;
        Some(&mut self.ready[found])
    }

    /// Waits until a connection is ready, for as long as none may be.
    pub(crate) async fn ready(&mut self, failfast: Duration) -> Result<(), Answer> {
        loop {
            let until = {
                let state = self.state.borrow_and_update();
                if state.ready().next().is_some() {
                    // Seen here, it must be taken over by `pick`.
                    self.ready.clear();
                    return Ok(());
                }
                state.down_since.unwrap_or_else(Instant::now) + failfast
            };
            match tokio::time::timeout_at(until, self.state.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Answer::unavailable("no endpoints")),
                Err(_) => return Err(self.state.borrow().unready()),
            }
        }
    }
}

impl Clone for Endpoints {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), ready: self.ready.clone(), next: self.next }
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints").field("ready", &self.ready.len()).finish_non_exhaustive()
    }
}

async fn keep_connected<T, C>(
    index: usize,
    target: T,
    mut connect: C,
    backoff: Backoff,
    shared: Arc<watch::Sender<State>>,
) where
    T: Clone + fmt::Display,
    C: Service<T, Response = SendRequest<IncomingBody>, Error = ConnectError>,
{
    let mut failures = 0;
    loop {
        let connecting = async {
            poll_fn(|cx| connect.poll_ready(cx)).await?;
            connect.call(target.clone()).await
        };
        let connected = tokio::select! {
            () = shared.closed() => return,
            connected = connecting => connected,
        };
        match connected {
            Ok(connection) => {
                tracing::info!(endpoint = %target, "endpoint is ready");
                let since = Instant::now();
                let closed = connection.closed();
                shared.send_modify(|state| state.set(index, Target::Ready(connection)));
                tokio::select! {
                    () = shared.closed() => return,
                    () = closed => {}
                }
                tracing::info!(endpoint = %target, "connection to endpoint has closed");
                shared.send_modify(|state| state.set(index, Target::Connecting));
                if since.elapsed() >= STABLE {
                    failures = 0;
                    continue;
                }
            }
            Err(error) => {
                // Once is news, every time would be noise.
                if failures == 0 {
                    tracing::warn!(endpoint = %target, error = %Chain(&error), "endpoint cannot be reached");
                } else {
                    tracing::debug!(endpoint = %target, error = %Chain(&error), "endpoint cannot be reached");
                }
                shared.send_modify(|state| state.set(index, Target::Failed(Arc::new(error))));
            }
        }
        tokio::select! {
            () = shared.closed() => return,
            () = tokio::time::sleep(backoff.pause(failures)) => {}
        }
        failures += 1;
    }
}

// === impl Backoff ===

impl Backoff {
    /// The pause after so many failures since the last success.
    fn pause(&self, failures: u32) -> Duration {
        let pause = self.min.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(self.max);
        pause + pause.mul_f64(self.jitter.max(0.0) * fastrand::f64())
    }
}

// === impl State ===

impl State {
    fn ready(&self) -> impl Iterator<Item = &SendRequest<IncomingBody>> {
        self.targets.iter().filter_map(|target| match target {
            Target::Ready(connection) if !connection.is_closed() => Some(connection),
            _ => None,
        })
    }

    fn set(&mut self, index: usize, target: Target) {
        self.targets[index] = target;
        if self.targets.iter().any(|target| matches!(target, Target::Ready(_))) {
            self.down_since = None;
        } else {
            self.down_since.get_or_insert_with(Instant::now);
        }
    }

    /// What to answer when no target got ready in time: why, if all have failed, or else just that.
    fn unready(&self) -> Answer {
        let failures = self.targets.iter().map(|target| match target {
            Target::Failed(error) => Some(error),
            _ => None,
        });
        let Some(failures) = failures.collect::<Option<Vec<_>>>() else {
            return Answer::unavailable("no endpoint is ready");
        };
        match failures.first() {
            None => Answer::unavailable("no endpoints"),
            Some(error) if failures.iter().all(|error| error.is_timeout()) => {
                Answer::connect_timeout(format!("no endpoint can be reached: {}", Chain(&***error)))
            }
            Some(error) => Answer::bad_gateway(format!("no endpoint can be reached: {}", Chain(&***error))),
        }
    }
}

/// An error with its causes, in one line.
struct Chain<'a>(&'a (dyn StdError + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0, f)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let backoff = Backoff { min: Duration::from_millis(100), max: Duration::from_secs(1), jitter: 0.0 };
        let pauses: Vec<_> = (0..6).map(|failures| backoff.pause(failures).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.pause(u32::MAX), backoff.max);
    }

    #[test]
    fn jitter_only_adds() {
        let backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(1), jitter: 0.5 };
        for _ in 0..100 {
            let pause = backoff.pause(0);
            assert!((Duration::from_secs(1)..=Duration::from_millis(1500)).contains(&pause), "{pause:?}");
        }
    }
}
