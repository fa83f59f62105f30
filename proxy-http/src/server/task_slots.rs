//! The futures of a connection's streams, each polled when it is woken.

use futures_util::task::AtomicWaker;
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll, Wake, Waker},
};

/// Futures that one task polls, in slots that are reused.
///
/// [`FuturesUnordered`](futures_util::stream::FuturesUnordered) allocates, links and counts a node for each future, some
/// twenty atomic operations, more than any other future of a request costs. A slot costs that once.
#[derive(Debug)]
pub(crate) struct TaskSlots<F> {
    slots: Vec<Slot<F>>,
    /// A group for each [`GROUP_SLOTS`] of slots.
    groups: Vec<Arc<Group>>,
    free: Vec<usize>,
    /// Slots whose futures were never polled.
    unpolled: Vec<usize>,
    task: Arc<AtomicWaker>,
}

#[derive(Debug)]
struct Slot<F> {
    future: Pin<Box<Option<F>>>,
    /// Stays when the future ends, so that the next future in the slot may be woken without need.
    waker: Waker,
}

/// Slots that share an atomic word of wake flags.
#[derive(Debug)]
struct Group {
    /// A bit for each slot that is woken.
    woken: AtomicU64,
    /// The task that polls the slots.
    task: Arc<AtomicWaker>,
}

struct SlotWaker {
    group: Arc<Group>,
    bit: u64,
}

const GROUP_SLOTS: usize = u64::BITS as usize;
/// How many slots are kept when no future is left.
const KEPT_SLOTS: usize = GROUP_SLOTS;

// === impl TaskSlots ===

impl<F> TaskSlots<F> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), groups: Vec::new(), free: Vec::new(), unpolled: Vec::new(), task: Arc::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &F> {
        self.slots.iter().filter_map(|slot| slot.future.as_ref().get_ref().as_ref())
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = Pin<&mut F>> {
        self.slots.iter_mut().filter_map(|slot| slot.future.as_mut().as_pin_mut())
    }

    /// Adds `future`, which the next poll of the slots polls.
    pub(crate) fn push(&mut self, future: F) {
        let index = self.free.pop().unwrap_or_else(|| self.add());
        self.slots[index].future.set(Some(future));
        self.unpolled.push(index);
    }

    fn add(&mut self) -> usize {
        let index = self.slots.len();
        if index / GROUP_SLOTS == self.groups.len() {
            self.groups.push(Arc::new(Group { woken: AtomicU64::new(0), task: Arc::clone(&self.task) }));
        }
        let group = Arc::clone(&self.groups[index / GROUP_SLOTS]);
        let waker = Waker::from(Arc::new(SlotWaker { group, bit: 1 << (index % GROUP_SLOTS) }));
        self.slots.push(Slot { future: Box::pin(None), waker });
        index
    }

    /// Drops all futures.
    pub(crate) fn clear(&mut self) {
        self.unpolled.clear();
        self.free.clear();
        self.slots.truncate(KEPT_SLOTS);
        self.slots.iter_mut().for_each(|slot| slot.future.set(None));
        self.groups.truncate(KEPT_SLOTS / GROUP_SLOTS);
        self.free.extend(0..self.slots.len());
    }
}

impl<F: Future> TaskSlots<F> {
    /// Polls each future once that is new or was woken, and calls `ended` with the outputs. `cx` is woken when there is
    /// more to poll.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, mut ended: impl FnMut(F::Output)) {
        // Before the flags are read, or a wake in between would be lost.
        self.task.register(cx.waker());
        let Self { slots, groups, free, unpolled, .. } = self;
        let mut run = |index: usize| {
            let Slot { future, waker } = &mut slots[index];
            let Some(pinned) = future.as_mut().as_pin_mut() else { return };
            if let Poll::Ready(output) = pinned.poll(&mut Context::from_waker(waker)) {
                future.set(None);
                free.push(index);
                ended(output);
            }
        };
        for (number, group) in groups.iter().enumerate() {
            let mut woken = group.take_woken();
            while woken != 0 {
                run(number * GROUP_SLOTS + woken.trailing_zeros() as usize);
                woken &= woken - 1;
            }
        }
        unpolled.drain(..).for_each(run);
        if self.is_empty() && self.slots.len() > KEPT_SLOTS {
            self.clear();
        }
    }
}

// === impl Group ===

impl Group {
    /// Takes the flags of the slots that were woken since the last call.
    fn take_woken(&self) -> u64 {
        // A load is cheaper than a swap, and a flag that is set from now on wakes the task.
        if self.woken.load(Relaxed) == 0 { 0 } else { self.woken.swap(0, Acquire) }
    }
}

// === impl SlotWaker ===

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // The first flag of a group wakes the task, which takes all flags.
        if self.group.woken.fetch_or(self.bit, Release) == 0 {
            self.group.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker_ref;
    use std::{
        collections::BTreeMap,
        future::poll_fn,
        sync::{Mutex, atomic::AtomicUsize, mpsc},
        thread,
    };

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// Futures that a test wakes and ends, and the wakers that they were polled with last.
    #[derive(Default)]
    struct TestFutures {
        wakers: Mutex<BTreeMap<usize, Waker>>,
        over: Mutex<Vec<usize>>,
        polls: AtomicUsize,
    }

    impl TestFutures {
        fn future(self: &Arc<Self>, id: usize) -> impl Future<Output = usize> + use<> {
            let futures = Arc::clone(self);
            poll_fn(move |cx| {
                futures.polls.fetch_add(1, Relaxed);
                futures.wakers.lock().unwrap().insert(id, cx.waker().clone());
                if futures.over.lock().unwrap().contains(&id) { Poll::Ready(id) } else { Poll::Pending }
            })
        }

        fn wake(&self, id: usize) {
            let waker = self.wakers.lock().unwrap()[&id].clone();
            waker.wake();
        }

        fn end(&self, id: usize) {
            self.over.lock().unwrap().push(id);
            self.wake(id);
        }

        fn polls(&self) -> usize {
            self.polls.swap(0, Relaxed)
        }
    }

    fn poll<F: Future>(slots: &mut TaskSlots<F>, waker: &Waker) -> Vec<F::Output> {
        let mut ended = Vec::new();
        slots.poll(&mut Context::from_waker(waker), |output| ended.push(output));
        ended
    }

    #[test]
    fn new_and_woken_futures_are_polled() {
        let (futures, task) = (Arc::<TestFutures>::default(), Arc::<Count>::default());
        let waker = Waker::from(Arc::clone(&task));
        let mut slots = TaskSlots::new();
        (0..200).for_each(|id| slots.push(futures.future(id)));
        assert_eq!((poll(&mut slots, &waker), futures.polls()), (vec![], 200));
        assert_eq!((poll(&mut slots, &waker), futures.polls()), (vec![], 0));
        assert_eq!(task.0.load(Relaxed), 0);
        futures.wake(7);
        futures.end(199);
        futures.end(64);
        futures.end(65);
        futures.end(65);
        assert!(task.0.load(Relaxed) > 0);
        assert_eq!((poll(&mut slots, &waker), futures.polls()), (vec![64, 65, 199], 4));
        assert_eq!((slots.len(), slots.iter().count()), (197, 197));
        let woken = task.0.load(Relaxed);
        futures.wake(0);
        assert_eq!(task.0.load(Relaxed), woken + 1, "it is woken each time");
    }

    #[test]
    fn slots_are_reused_and_may_be_woken_for_futures_before() {
        let futures = Arc::<TestFutures>::default();
        let mut slots = TaskSlots::new();
        for id in 0..1_000 {
            slots.push(futures.future(id));
            poll(&mut slots, noop_waker_ref());
            if id > 0 {
                futures.end(id - 1);
                assert_eq!(poll(&mut slots, noop_waker_ref()), [id - 1]);
                // A waker may outlive its future.
                futures.wake(id - 1);
                assert_eq!(poll(&mut slots, noop_waker_ref()), []);
            }
        }
        assert_eq!((slots.len(), slots.slots.len()), (1, 2));
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_next_time() {
        let task = Arc::<Count>::default();
        let waker = Waker::from(Arc::clone(&task));
        let mut slots = TaskSlots::new();
        let mut left = 3;
        slots.push(poll_fn(move |cx| {
            left -= 1;
            cx.waker().wake_by_ref();
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        }));
        for polled in 1..3 {
            assert_eq!(poll(&mut slots, &waker), []);
            assert_eq!(task.0.load(Relaxed), polled);
        }
        assert_eq!(poll(&mut slots, &waker), [()]);
        assert!(slots.is_empty());
    }

    #[test]
    fn slots_beyond_the_kept_ones_are_dropped() {
        let futures = Arc::<TestFutures>::default();
        let mut slots = TaskSlots::new();
        (0..1_000).for_each(|id| slots.push(futures.future(id)));
        poll(&mut slots, noop_waker_ref());
        (0..1_000).for_each(|id| futures.end(id));
        assert_eq!(poll(&mut slots, noop_waker_ref()).len(), 1_000);
        assert_eq!((slots.slots.len(), slots.groups.len(), slots.len()), (KEPT_SLOTS, 1, 0));
        // Wakers of slots that are dropped.
        (0..1_000).for_each(|id| futures.wake(id));
        (0..100).for_each(|id| slots.push(futures.future(id)));
        assert_eq!(poll(&mut slots, noop_waker_ref()).len(), 100);
        slots.push(futures.future(1_000));
        slots.clear();
        assert!(slots.is_empty() && Arc::strong_count(&futures) == 1);
        assert_eq!(poll(&mut slots, noop_waker_ref()), []);
    }

    #[test]
    fn no_wake_is_lost_between_threads() {
        let (futures, parked) = (Arc::<TestFutures>::default(), Arc::new(Unpark(thread::current())));
        let waker = Waker::from(parked);
        let mut slots = TaskSlots::new();
        let (next, ids) = mpsc::channel();
        let ending = {
            let futures = Arc::clone(&futures);
            thread::spawn(move || ids.into_iter().for_each(|id| futures.end(id)))
        };
        for id in 0..20_000 {
            slots.push(futures.future(id));
            assert_eq!(poll(&mut slots, &waker), []);
            next.send(id).unwrap();
            while !slots.is_empty() {
                if poll(&mut slots, &waker).is_empty() {
                    thread::park();
                }
            }
            futures.over.lock().unwrap().clear();
        }
        drop(next);
        ending.join().unwrap();
    }

    struct Unpark(thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
}
