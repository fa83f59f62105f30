//! Requests that wait for a free stream: first come, first served, across all clients.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::Notify;

/// A queue of requests. The first one looks for a free stream when it is woken; the others keep their places.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<Arc<Ticket>>);

/// A request's place in a queue.
#[derive(Debug)]
pub(super) struct Ticket {
    /// The order of arrival: earlier requests have lower numbers.
    number: u64,
    /// The endpoint in whose queue the request is. [`ANY`]: the queue for all endpoints. Changed with the balancer's lock
    /// held.
    endpoint_id: AtomicU64,
    /// Notified when the request may be sent.
    woken: Notify,
}

/// Stands for any endpoint; no endpoint has this id.
const ANY: u64 = u64::MAX;

// === impl Queue ===

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a request in the order of arrival: a request that comes back from another queue has its old place.
    pub(super) fn add(&mut self, ticket: &Arc<Ticket>, endpoint_id: Option<u64>) {
        ticket.endpoint_id.store(endpoint_id.unwrap_or(ANY), Relaxed);
        let place = self.position(ticket).unwrap_or_else(|place| place);
        self.0.insert(place, Arc::clone(ticket));
    }

    /// Removes a request. If it was the first, wakes the next one.
    pub(super) fn remove(&mut self, ticket: &Ticket) {
        if let Ok(place) = self.position(ticket) {
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
            first.woken.notify_one();
        }
    }

    pub(super) fn wake_all(&self) {
        self.0.iter().for_each(|ticket| ticket.woken.notify_one());
    }

    /// Empties the queue, and yields its requests in order.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Arc<Ticket>> {
        std::mem::take(&mut self.0).into_iter()
    }

    fn position(&self, ticket: &Ticket) -> Result<usize, usize> {
        self.0.binary_search_by_key(&ticket.number, |other| other.number)
    }
}

// === impl Ticket ===

impl Ticket {
    pub(super) fn new(number: u64) -> Arc<Self> {
        Arc::new(Self { number, endpoint_id: AtomicU64::new(ANY), woken: Notify::new() })
    }

    /// The endpoint for whose connection the request waits. `None`: any.
    pub(super) fn endpoint_id(&self) -> Option<u64> {
        Some(self.endpoint_id.load(Relaxed)).filter(|id| *id != ANY)
    }

    /// Completes when the request may be sent.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
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
        assert_eq!((tickets[0].endpoint_id(), tickets[1].endpoint_id()), (Some(7), None));
        one.drain().for_each(|ticket| all.add(&ticket, None));
        assert!(one.is_empty() && tickets[0].endpoint_id().is_none());
        for ticket in &tickets {
            assert!(all.is_first(ticket));
            all.remove(ticket);
        }
        assert_eq!(all.len(), 0);
    }
}
