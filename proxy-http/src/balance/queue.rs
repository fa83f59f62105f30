//! Requests that wait for room on a connection: first come, first served, whichever client they are from.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::Notify;

/// A queue of requests. The first one looks for room when it is told; the others keep their places.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<Arc<Ticket>>);

/// One request's place.
#[derive(Debug)]
pub(super) struct Ticket {
    /// Its number: who has come before has a lower one.
    number: u64,
    /// The endpoint whose queue it is in. [`NOWHERE`]: the one of all endpoints. Changed with the state's lock held.
    node: AtomicU64,
    /// Told when it may be its turn.
    turn: Notify,
}

/// No endpoint's id.
const NOWHERE: u64 = u64::MAX;

// === impl Queue ===

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a request, in the order of their numbers: one that comes back from another queue has its old place.
    pub(super) fn add(&mut self, ticket: &Arc<Ticket>, node: Option<u64>) {
        ticket.node.store(node.unwrap_or(NOWHERE), Relaxed);
        let place = self.place(ticket).unwrap_or_else(|place| place);
        self.0.insert(place, Arc::clone(ticket));
    }

    /// Removes a request, and tells the one that is first now.
    pub(super) fn remove(&mut self, ticket: &Ticket) {
        if let Ok(place) = self.place(ticket) {
            self.0.remove(place);
            if place == 0 {
                self.wake_first();
            }
        }
    }

    pub(super) fn is_first(&self, ticket: &Ticket) -> bool {
        self.0.front().is_some_and(|first| first.number == ticket.number)
    }

    pub(super) fn wake_first(&self) {
        if let Some(first) = self.0.front() {
            first.turn.notify_one();
        }
    }

    pub(super) fn wake_all(&self) {
        self.0.iter().for_each(|ticket| ticket.turn.notify_one());
    }

    /// All of them, in order; none is left.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Arc<Ticket>> {
        std::mem::take(&mut self.0).into_iter()
    }

    fn place(&self, ticket: &Ticket) -> Result<usize, usize> {
        self.0.binary_search_by_key(&ticket.number, |other| other.number)
    }
}

// === impl Ticket ===

impl Ticket {
    pub(super) fn new(number: u64) -> Arc<Self> {
        Arc::new(Self { number, node: AtomicU64::new(NOWHERE), turn: Notify::new() })
    }

    /// The endpoint whose connection it waits for. `None`: any.
    pub(super) fn node(&self) -> Option<u64> {
        Some(self.node.load(Relaxed)).filter(|node| *node != NOWHERE)
    }

    /// Completes when it may be its turn.
    pub(super) async fn turn(&self) {
        self.turn.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_comes_back_has_its_old_place() {
        let tickets: Vec<_> = (0..4).map(Ticket::new).collect();
        let (mut all, mut one) = (Queue::default(), Queue::default());
        all.add(&tickets[3], None);
        one.add(&tickets[0], Some(7));
        one.add(&tickets[2], Some(7));
        all.add(&tickets[1], None);
        assert_eq!((tickets[0].node(), tickets[1].node()), (Some(7), None));
        one.take().for_each(|ticket| all.add(&ticket, None));
        assert!(one.is_empty() && tickets[0].node().is_none());
        for ticket in &tickets {
            assert!(all.is_first(ticket));
            all.remove(ticket);
        }
        assert_eq!(all.len(), 0);
    }
}
