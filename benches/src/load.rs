//! The load generator: streams on connections, in a closed loop or at a fixed rate, and the end of each.

mod body;
mod end;
pub(crate) mod endpoint;
mod exchange;
mod outcome;
mod workload;

pub use self::{
    body::Payload,
    end::End,
    endpoint::{Endpoint, serve_endpoint},
    outcome::Outcome,
    workload::Workload,
};

pub(crate) use self::exchange::Exchange;

use self::outcome::Recorder;
use crate::timer::{Clock, Timer};
use http_h2::{ClientParams, FlowControl};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy_http::hyper::client_builder;
use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// The requests of a load, their target and the times.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Where to connect to.
    pub target: SocketAddr,
    /// The kind of the streams.
    pub workload: Workload,
    /// Over how many connections the streams are spread; at least 1.
    pub connections: usize,
    /// How many streams are open at once, in total. At a fixed rate: at most.
    pub streams: usize,
    /// Streams to start a second, whether earlier ones have ended or not; their latency counts from when they were to
    /// start. `None`: a closed loop, each stream begins when the one before has ended.
    pub rate: Option<f64>,
    /// How long to run before anything counts.
    pub warm_up: Duration,
    /// How long to measure.
    pub time: Duration,
    /// After how long a stream is given up.
    pub timeout: Duration,
}

/// Windows that never bind: the proxy's windows are measured.
pub(crate) const STREAM_WINDOW: u32 = 64 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 1 << 30;
/// The initial SETTINGS_MAX_FRAME_SIZE (RFC 9113 section 6.5.2).
const FRAME: u32 = 16 << 10;

pub(crate) type Client = SendRequest<Payload>;

// === impl Load ===

impl Load {
    /// Runs the load; `sample` is called when the measured time begins and when it ends.
    ///
    /// # Errors
    ///
    /// When no connection can be made; later failures are counted.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn run<T>(&self, mut sample: impl FnMut() -> T) -> io::Result<(Outcome, T, T)> {
        let recorder = Arc::new(Recorder::new());
        let mut clients = Vec::new();
        // Aborts all of them when the run is over.
        let mut tasks = JoinSet::new();
        for _ in 0..self.connections.max(1) {
            let stream_window = self.workload.client_window().unwrap_or(STREAM_WINDOW);
            clients.push(connect(self.target, stream_window, &mut tasks).await?);
        }
        if let Some(rate) = self.rate {
            tasks.spawn(open_loop(*self, rate, clients.clone(), Arc::clone(&recorder)));
        } else {
            for (client, _) in clients.iter().cycle().zip(0..self.streams) {
                tasks.spawn(closed_loop(*self, client.clone(), Arc::clone(&recorder)));
            }
        }
        if let Some(beside) = self.workload.beside() {
            let load = Self { workload: beside, ..*self };
            for client in &clients {
                tasks.spawn(closed_loop(load, client.clone(), Arc::clone(&recorder)));
            }
        }
        sleep(self.warm_up).await;
        recorder.begin();
        let before = sample();
        sleep(self.time).await;
        let outcome = recorder.finish();
        Ok((outcome, before, sample()))
    }
}

/// A connection whose streams have windows of `stream_window`, as long as `tasks` live.
pub(crate) async fn connect(target: SocketAddr, stream_window: u32, tasks: &mut JoinSet<()>) -> io::Result<Client> {
    let io = TcpStream::connect(target).await?;
    io.set_nodelay(true)?;
    let flow_control = Some(FlowControl::Fixed {
        initial_stream_window_size: stream_window,
        initial_connection_window_size: CONNECTION_WINDOW,
    });
    // Frames as clients take them that set nothing.
    let params = ClientParams { flow_control, max_frame_size: Some(FRAME), ..ClientParams::DEFAULT };
    let builder = client_builder(&params, TokioExecutor::new()).map_err(io::Error::other)?;
    let (client, connection) = builder.handshake(TokioIo::new(io)).await.map_err(io::Error::other)?;
    // How a connection ends shows in its streams.
    tasks.spawn(async move { connection.await.unwrap_or_default() });
    Ok(client)
}

async fn closed_loop(load: Load, client: Client, recorder: Arc<Recorder>) {
    while !client.is_closed() {
        one(&load, client.clone(), &recorder, Instant::now()).await;
    }
}

async fn open_loop(load: Load, rate: f64, clients: Vec<Client>, recorder: Arc<Recorder>) {
    let Ok(mut timer) = Timer::new(Clock::Kernel) else { return };
    let slots = Arc::new(Semaphore::new(load.streams));
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for (client, n) in clients.iter().cycle().zip(0u32..) {
        let intended = start + Duration::from_secs_f64(f64::from(n) / rate);
        let (Ok(()), Ok(slot)) = (timer.until(intended).await, Arc::clone(&slots).acquire_owned().await) else {
            return;
        };
        let (client, recorder) = (client.clone(), Arc::clone(&recorder));
        tasks.spawn(async move {
            one(&load, client, &recorder, intended).await;
            drop(slot);
        });
        while tasks.try_join_next().is_some() {}
    }
}

/// One stream, from its start to its end.
async fn one(load: &Load, client: Client, recorder: &Recorder, start: Instant) {
    let exchange = Exchange::of(load.workload).run(client, |bytes| recorder.received(bytes));
    let end = timeout(load.timeout, exchange).await.unwrap_or(End::Timeout);
    if load.workload.is_measured() || !end.is_ok() {
        recorder.record(end, start.elapsed());
    }
}

/// The first error of a chain that is a `T`.
fn find<'a, T: Error + 'static>(mut error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    loop {
        match error.downcast_ref() {
            Some(found) => return Some(found),
            None => error = error.source()?,
        }
    }
}

#[cfg(test)]
mod tests;
