//! An attacker would have a machine of its own, and so would the victim and the endpoint. Here, an attacker's threads run
//! where the proxy does, when that does not want to, nearly; so they take nothing from the victim and the endpoint, and what they
//! take from the proxy is known.

use rustix::{
    process::setpriority_process,
    thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity},
};
use std::{
    sync::{LazyLock, Mutex, mpsc},
    thread,
};

type Task = Box<dyn FnOnce() + Send>;

/// A thread that has never given way: its children inherit the priority, and it cannot take it back.
static USUAL: LazyLock<Mutex<mpsc::Sender<Task>>> = LazyLock::new(|| {
    let (tasks, todo) = mpsc::channel::<Task>();
    thread::spawn(move || {
        run_on(|cpus| &cpus.others);
        todo.into_iter().for_each(|task| task());
    });
    Mutex::new(tasks)
});

/// The proxy's CPU, and the CPUs of the victim and the endpoint. `None`: there is one for all.
static CPUS: LazyLock<Option<Cpus>> = LazyLock::new(|| {
    let mut others = sched_getaffinity(None).unwrap();
    let first = (0..CpuSet::MAX_CPU).find(|&cpu| others.is_set(cpu)).filter(|_| others.count() > 1)?;
    others.unset(first);
    let mut proxy = CpuSet::new();
    proxy.set(first);
    Some(Cpus { proxy, others })
});

struct Cpus {
    proxy: CpuSet,
    others: CpuSet,
}

/// A sixtieth of a usual thread's share of a CPU.
const LOWEST: i32 = 19;

/// Starts threads or processes that are no part of an attack.
pub(crate) fn usual<T: Send + 'static>(start: impl FnOnce() -> T + Send + 'static) -> T {
    let (started, result) = mpsc::channel();
    let task = Box::new(move || _ = started.send(start()));
    USUAL.lock().unwrap().send(task).unwrap();
    result.recv().expect("it starts")
}

/// Starts the proxy, which only attackers share a CPU with from then on.
pub(crate) fn apart<T: Send + 'static>(start: impl FnOnce() -> T + Send + 'static) -> T {
    usual(|| {
        run_on(|cpus| &cpus.proxy);
        let started = start();
        run_on(|cpus| &cpus.others);
        started
    })
}

/// Whether there is a CPU for the proxy and one for the victim.
pub(crate) fn is_apart() -> bool {
    CPUS.is_some()
}

/// From now on this thread is an attacker's.
pub(crate) fn give_way() {
    LazyLock::force(&USUAL);
    setpriority_process(Some(gettid()), LOWEST).unwrap();
    run_on(|cpus| &cpus.proxy);
}

/// From now on this thread, and its children, run there.
fn run_on(which: impl FnOnce(&Cpus) -> &CpuSet) {
    if let Some(cpus) = &*CPUS {
        sched_setaffinity(None, which(cpus)).unwrap();
    }
}
