//! An attacker would have a machine of its own. Here, its threads run when nobody else wants to, nearly.

use rustix::{process::setpriority_process, thread::gettid};
use std::{
    sync::{LazyLock, Mutex, mpsc},
    thread,
};

type Task = Box<dyn FnOnce() + Send>;

/// A thread that has never given way: what a thread starts inherits that, and it cannot take it back.
static USUAL: LazyLock<Mutex<mpsc::Sender<Task>>> = LazyLock::new(|| {
    let (tasks, todo) = mpsc::channel::<Task>();
    thread::spawn(move || todo.into_iter().for_each(|task| task()));
    Mutex::new(tasks)
});

/// A sixtieth of a usual thread's share of a CPU.
const LOWEST: i32 = 19;

/// Starts threads or processes that are no part of an attack.
pub(crate) fn usual<T: Send + 'static>(start: impl FnOnce() -> T + Send + 'static) -> T {
    let (started, result) = mpsc::channel();
    let task = Box::new(move || _ = started.send(start()));
    USUAL.lock().unwrap().send(task).unwrap();
    result.recv().expect("it starts")
}

/// From now on this thread is an attacker's.
pub(crate) fn give_way() {
    LazyLock::force(&USUAL);
    setpriority_process(Some(gettid()), LOWEST).unwrap();
}
