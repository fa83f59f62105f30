//! When the machine had no time for anybody: a virtual one is not always run by its host.

use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};
use std::{
    process::{Command, Stdio},
    sync::{LazyLock, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

/// All since they were first asked for. `None`: nobody may wake up before all others here, and so they are not noticed.
static PAUSES: LazyLock<Option<&Mutex<Vec<Pause>>>> = LazyLock::new(|| {
    let cpus = sched_getaffinity(None).unwrap();
    let pauses = Box::leak(Box::default());
    let watched = (0..CpuSet::MAX_CPU).filter(|&cpu| cpus.is_set(cpu)).all(|cpu| watch(cpu, pauses));
    watched.then_some(&*pauses)
});

const PERIOD: Duration = Duration::from_micros(250);
/// Later than that is a pause; a shorter one may be the proxy's system calls.
const LATE: Duration = Duration::from_micros(250);
/// None is longer.
const MOST: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
struct Pause {
    began: Instant,
    ended: Instant,
}

/// Pauses are noticed from now on, if this is true.
pub(crate) fn are_noticed() -> bool {
    PAUSES.is_some()
}

/// How long a CPU had a pause between two times.
pub(crate) fn between(from: Instant, to: Instant) -> Duration {
    let Some(pauses) = &*PAUSES else { return Duration::ZERO };
    let pauses = pauses.lock().unwrap();
    // They are in the order of their ends, nearly.
    let since = pauses.iter().rev().take_while(|pause| pause.ended + MOST > from);
    let mut within: Vec<_> = since.filter(|pause| pause.ended > from && pause.began < to).collect();
    within.sort_unstable_by_key(|pause| pause.began);
    let mut counted = from;
    let mut all = Duration::ZERO;
    for pause in within {
        all += pause.ended.min(to).saturating_duration_since(pause.began.max(counted));
        counted = counted.max(pause.ended);
    }
    all
}

/// A thread on a CPU that wakes up all the time, before all others, and notes when it was late; false: it may not.
fn watch(cpu: usize, pauses: &'static Mutex<Vec<Pause>>) -> bool {
    let (tell, started) = mpsc::channel();
    thread::spawn(move || {
        let mut here = CpuSet::new();
        here.set(cpu);
        sched_setaffinity(None, &here).unwrap();
        let id = gettid().as_raw_nonzero().to_string();
        let first = Command::new("chrt").args(["--fifo", "--pid", "1", &id]).stderr(Stdio::null()).status();
        let may = first.is_ok_and(|status| status.success());
        let _ = tell.send(may);
        if !may {
            return;
        }
        loop {
            let due = Instant::now() + PERIOD;
            thread::sleep(PERIOD);
            let now = Instant::now();
            if now > due + LATE {
                pauses.lock().unwrap().push(Pause { began: due, ended: now });
            }
        }
    });
    started.recv().unwrap()
}
