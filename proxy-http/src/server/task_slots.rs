//! The streams of a connection, each run when it is woken.

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

/// Futures that one task runs, in places that are used again and again.
///
/// What [`FuturesUnordered`](futures_util::stream::FuturesUnordered) allocates, links and counts for each future costs
/// some twenty atomic operations, and a request has no future that costs more. A place costs that once.
#[derive(Debug)]
pub(crate) struct TaskSlots<F> {
    places: Vec<Place<F>>,
    /// One for each [`GROUP`] of places.
    groups: Vec<Arc<Group>>,
    free: Vec<usize>,
    /// Those that were never polled.
    fresh: Vec<usize>,
    task: Arc<AtomicWaker>,
}

#[derive(Debug)]
struct Place<F> {
    future: Pin<Box<Option<F>>>,
    /// Stays when the future goes, so one may be woken for what another waited for.
    waker: Waker,
}

/// Places that share a word.
#[derive(Debug)]
struct Group {
    /// A bit for each one that is woken.
    woken: AtomicU64,
    /// Who runs them.
    task: Arc<AtomicWaker>,
}

struct WakePlace {
    group: Arc<Group>,
    bit: u64,
}

const GROUP: usize = u64::BITS as usize;
/// So many places stay when there is nothing to run.
const KEPT: usize = GROUP;

// === impl TaskSlots ===

impl<F> TaskSlots<F> {
    pub(crate) fn new() -> Self {
        Self { places: Vec::new(), groups: Vec::new(), free: Vec::new(), fresh: Vec::new(), task: Arc::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &F> {
        self.places.iter().filter_map(|place| place.future.as_ref().get_ref().as_ref())
    }

    /// Runs `future`, from the next poll on.
    pub(crate) fn push(&mut self, future: F) {
        let index = self.free.pop().unwrap_or_else(|| self.add());
        self.places[index].future.set(Some(future));
        self.fresh.push(index);
    }

    fn add(&mut self) -> usize {
        let index = self.places.len();
        if index / GROUP == self.groups.len() {
            self.groups.push(Arc::new(Group { woken: AtomicU64::new(0), task: Arc::clone(&self.task) }));
        }
        let group = Arc::clone(&self.groups[index / GROUP]);
        let waker = Waker::from(Arc::new(WakePlace { group, bit: 1 << (index % GROUP) }));
        self.places.push(Place { future: Box::pin(None), waker });
        index
    }

    /// Drops all futures.
    pub(crate) fn clear(&mut self) {
        self.fresh.clear();
        self.free.clear();
        self.places.truncate(KEPT);
        self.places.iter_mut().for_each(|place| place.future.set(None));
        self.groups.truncate(KEPT / GROUP);
        self.free.extend(0..self.places.len());
    }
}

impl<F: Future> TaskSlots<F> {
    /// Polls once each future that is new or was woken, and tells what comes of those that end. `cx` is woken when there
    /// is more to poll.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, mut ended: impl FnMut(F::Output)) {
        // Before it looks, or it would miss what is woken in between.
        self.task.register(cx.waker());
        let Self { places, groups, free, fresh, .. } = self;
        let mut run = |index: usize| {
            let Place { future, waker } = &mut places[index];
            let Some(running) = future.as_mut().as_pin_mut() else { return };
            if let Poll::Ready(output) = running.poll(&mut Context::from_waker(waker)) {
                future.set(None);
                free.push(index);
                ended(output);
            }
        };
        for (number, group) in groups.iter().enumerate() {
            let mut woken = group.take();
            while woken != 0 {
                run(number * GROUP + woken.trailing_zeros() as usize);
                woken &= woken - 1;
            }
        }
        fresh.drain(..).for_each(run);
        if self.is_empty() && self.places.len() > KEPT {
            self.clear();
        }
    }
}

// === impl Group ===

impl Group {
    /// Those that were woken since it was asked last.
    fn take(&self) -> u64 {
        // Cheap where there are none; who comes now wakes the task.
        if self.woken.load(Relaxed) == 0 { 0 } else { self.woken.swap(0, Acquire) }
    }
}

// === impl WakePlace ===

impl Wake for WakePlace {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // The first of a group wakes the task, which takes them all.
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

    /// Futures that wait until they are told to end, and the wakers that they were polled with last.
    #[derive(Default)]
    struct Told {
        wakers: Mutex<BTreeMap<usize, Waker>>,
        over: Mutex<Vec<usize>>,
        polls: AtomicUsize,
    }

    impl Told {
        fn wait(self: &Arc<Self>, id: usize) -> impl Future<Output = usize> + use<> {
            let told = Arc::clone(self);
            poll_fn(move |cx| {
                told.polls.fetch_add(1, Relaxed);
                told.wakers.lock().unwrap().insert(id, cx.waker().clone());
                if told.over.lock().unwrap().contains(&id) { Poll::Ready(id) } else { Poll::Pending }
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

    fn poll<F: Future>(running: &mut TaskSlots<F>, waker: &Waker) -> Vec<F::Output> {
        let mut ended = Vec::new();
        running.poll(&mut Context::from_waker(waker), |output| ended.push(output));
        ended
    }

    #[test]
    fn those_that_are_new_or_woken_are_polled() {
        let (told, task) = (Arc::<Told>::default(), Arc::<Count>::default());
        let waker = Waker::from(Arc::clone(&task));
        let mut running = TaskSlots::new();
        (0..200).for_each(|id| running.push(told.wait(id)));
        assert_eq!((poll(&mut running, &waker), told.polls()), (vec![], 200));
        assert_eq!((poll(&mut running, &waker), told.polls()), (vec![], 0));
        assert_eq!(task.0.load(Relaxed), 0);
        told.wake(7);
        told.end(199);
        told.end(64);
        told.end(65);
        told.end(65);
        assert!(task.0.load(Relaxed) > 0);
        assert_eq!((poll(&mut running, &waker), told.polls()), (vec![64, 65, 199], 4));
        assert_eq!((running.len(), running.iter().count()), (197, 197));
        let woken = task.0.load(Relaxed);
        told.wake(0);
        assert_eq!(task.0.load(Relaxed), woken + 1, "it is woken each time");
    }

    #[test]
    fn places_are_used_again_and_may_be_woken_for_those_before() {
        let told = Arc::<Told>::default();
        let mut running = TaskSlots::new();
        for id in 0..1_000 {
            running.push(told.wait(id));
            poll(&mut running, noop_waker_ref());
            if id > 0 {
                told.end(id - 1);
                assert_eq!(poll(&mut running, noop_waker_ref()), [id - 1]);
                // Somebody has kept its waker.
                told.wake(id - 1);
                assert_eq!(poll(&mut running, noop_waker_ref()), []);
            }
        }
        assert_eq!((running.len(), running.places.len()), (1, 2));
    }

    #[test]
    fn one_that_wakes_itself_is_polled_next_time() {
        let task = Arc::<Count>::default();
        let waker = Waker::from(Arc::clone(&task));
        let mut running = TaskSlots::new();
        let mut left = 3;
        running.push(poll_fn(move |cx| {
            left -= 1;
            cx.waker().wake_by_ref();
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        }));
        for polled in 1..3 {
            assert_eq!(poll(&mut running, &waker), []);
            assert_eq!(task.0.load(Relaxed), polled);
        }
        assert_eq!(poll(&mut running, &waker), [()]);
        assert!(running.is_empty());
    }

    #[test]
    fn many_places_are_given_back() {
        let told = Arc::<Told>::default();
        let mut running = TaskSlots::new();
        (0..1_000).for_each(|id| running.push(told.wait(id)));
        poll(&mut running, noop_waker_ref());
        (0..1_000).for_each(|id| told.end(id));
        assert_eq!(poll(&mut running, noop_waker_ref()).len(), 1_000);
        assert_eq!((running.places.len(), running.groups.len(), running.len()), (KEPT, 1, 0));
        // Wakers of places that are gone.
        (0..1_000).for_each(|id| told.wake(id));
        (0..100).for_each(|id| running.push(told.wait(id)));
        assert_eq!(poll(&mut running, noop_waker_ref()).len(), 100);
        running.push(told.wait(1_000));
        running.clear();
        assert!(running.is_empty() && Arc::strong_count(&told) == 1);
        assert_eq!(poll(&mut running, noop_waker_ref()), []);
    }

    #[test]
    fn no_wake_is_lost_between_threads() {
        let (told, parked) = (Arc::<Told>::default(), Arc::new(Unpark(thread::current())));
        let waker = Waker::from(parked);
        let mut running = TaskSlots::new();
        let (next, ids) = mpsc::channel();
        let ending = {
            let told = Arc::clone(&told);
            thread::spawn(move || ids.into_iter().for_each(|id| told.end(id)))
        };
        for id in 0..20_000 {
            running.push(told.wait(id));
            assert_eq!(poll(&mut running, &waker), []);
            next.send(id).unwrap();
            while !running.is_empty() {
                if poll(&mut running, &waker).is_empty() {
                    thread::park();
                }
            }
            told.over.lock().unwrap().clear();
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
