//! Spawns hyper's futures on tokio.

use hyper::rt::Executor;
use std::future::Future;

/// Spawns each future on the runtime it is called in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spawn;

impl<F> Executor<F> for Spawn
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        // Boxed first: hyper's future of a client stream is as large as its connection's (1.5 KB), and is moved several
        // times before it rests in its task.
        tokio::spawn(Box::pin(future));
    }
}
