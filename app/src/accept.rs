//! Clients' connections, from a direction's listener to a worker.

use crate::{
    client_addr::PeerAddr,
    descriptors::Use,
    listener::{self, Refusals, StreamListener},
    transport::Socket,
    worker::{Accepted, Worker},
};
use proxy_http::stats::{Limit, Peer};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

/// The workers, and the way to each. They know that no more connections come when all clones of this are gone.
#[derive(Clone, Debug)]
pub(crate) struct Workers {
    pub(crate) workers: Arc<[Worker]>,
    pub(crate) connections: Arc<[mpsc::Sender<Accepted>]>,
}

/// The listener of one direction.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The direction's name.
    pub(crate) name: &'static str,
    pub(crate) listener: Arc<StreamListener>,
    /// As they are configured.
    pub(crate) endpoints: String,
    /// One for each connection that may be open.
    pub(crate) places: Arc<Semaphore>,
}

/// Accepts connections until the process drains, or has been replaced by another that accepts them. A connection above the limit is
/// closed at once: in the queue its client would wait, though it could be served elsewhere.
pub(crate) async fn accept(
    direction: usize,
    listener: Listener,
    workers: Workers,
    mut stop: watch::Receiver<bool>,
    mut replaced: watch::Receiver<bool>,
) {
    let Listener { listener, places, .. } = listener;
    let mut refusals = Refusals::default();
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            // Connections in the queue are the other process's.
            _ = replaced.wait_for(|replaced| *replaced) => return,
            accepted = listener::accept(&listener, Use::Client) => accepted,
            // Asked last: clients that have connected by now are accepted before the listener closes.
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match Arc::clone(&places).try_acquire_owned() {
            Ok(permit) => workers.give(direction, stream, peer, permit).await,
            Err(_) => {
                drop(stream);
                workers.count_refused(direction);
                refusals.log();
            }
        }
    }
}

// === impl Workers ===

impl Workers {
    /// Gives a connection to the worker that has the fewest, of the workers that can take one now; waits if none can.
    async fn give(&self, direction: usize, stream: Socket, peer: PeerAddr, permit: OwnedSemaphorePermit) {
        let stream = match stream.into_fd() {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(%error, "cannot hand a connection to a worker"),
        };
        let all = self.workers.iter().zip(&*self.connections);
        let least = all.min_by_key(|(worker, connections)| (connections.capacity() == 0, worker.load()));
        if let Some((worker, connections)) = least {
            // A worker takes connections for as long as there is a sender.
            let _ = connections.send(Accepted { direction, stream, peer, place: worker.place(permit) }).await;
        }
    }

    /// Counts a connection that no worker has seen, on the first.
    fn count_refused(&self, direction: usize) {
        if let Some(worker) = self.workers.first() {
            worker.stats[direction].transport(Peer::Client).limit(Limit::Connections);
        }
    }
}
