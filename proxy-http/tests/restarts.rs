//! Endpoints that restart, die and flap while requests go on.
//!
//! Each test takes a few seconds; `RESTARTS_SECONDS=30` makes it 30 s, and 60 s of flapping.

use bytes::Bytes;
use h2::{Reason, client};
use http::{Request, Response};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{
    Connect, Endpoints, Proxy, Server, Stats,
    balance::{self, breaker, endpoint::State},
    proxy::{self, Limits, retry},
};
use std::{
    fmt,
    future::{pending, poll_fn},
    io::Read as _,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpSocket, TcpStream},
    runtime::Handle,
    sync::{Mutex, watch},
    task::{JoinHandle, JoinSet},
};

/// How long anything here may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where this program, started again with [`endpoint_processes_answer_until_they_are_killed`], is an endpoint.
const SERVE_ON: &str = "RESTARTS_SERVE_ON";
/// Descriptors and memory are the process's.
static ALONE: Mutex<()> = Mutex::const_new(());

/// An endpoint that answers GETs with a head, and a little later with a body.
enum Backend {
    Task {
        end: watch::Sender<Option<End>>,
        task: JoinHandle<()>,
    },
    /// A process of its own, which ends with this one.
    Process(Child),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// GOAWAY, finish, close.
    Drain,
    /// All sockets are closed at once, and reset where the endpoint is a task.
    Kill,
}

/// A proxy and a client that has it busy.
struct Rig {
    client: client::SendRequest<Bytes>,
    endpoints: Endpoints,
    limits: Arc<Limits>,
    stats: Arc<Stats>,
}

/// The outcomes of requests.
#[derive(Debug, Default)]
struct Tally {
    whole: AtomicUsize,
    /// Answers of the proxy's own.
    errors: AtomicUsize,
    /// Reset with INTERNAL_ERROR: the endpoint had begun to answer, though the head may not have come this far.
    cut: AtomicUsize,
    /// Reset otherwise.
    reset: AtomicUsize,
}

/// The resources of the process.
#[derive(Clone, Copy, Debug)]
struct Held {
    tasks: usize,
    descriptors: usize,
    resident_kib: usize,
}

fn seconds() -> u32 {
    std::env::var("RESTARTS_SECONDS").map_or(3, |seconds| seconds.parse().expect("RESTARTS_SECONDS is a number"))
}

/// Addresses that stay ours while nobody listens there.
fn addrs<const N: usize>() -> ([SocketAddr; N], [TcpSocket; N]) {
    let sockets = std::array::from_fn(|_| bound(([127, 0, 0, 1], 0).into()));
    (sockets.each_ref().map(|socket| socket.local_addr().unwrap()), sockets)
}

/// A socket that is bound, but refuses connections.
fn bound(addr: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    // Both let the next listener follow the one before.
    socket.set_reuseaddr(true).unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(addr).unwrap();
    socket
}

impl Backend {
    fn start(addr: SocketAddr) -> Self {
        let listener = bound(addr).listen(1_024).unwrap();
        let (end, ended) = watch::channel(None);
        let mut told = ended.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        connections.spawn(serve(accepted.unwrap().0, ended.clone()));
                    }
                    _ = told.wait_for(Option::is_some) => break,
                }
            }
            drop(listener);
            connections.join_all().await;
        });
        Self::Task { end, task }
    }

    /// Starts a process that listens soon.
    fn spawn(addr: SocketAddr) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["endpoint_processes_answer_until_they_are_killed", "--exact", "--nocapture"])
            .env(SERVE_ON, addr.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Self::Process(child.unwrap())
    }

    /// A process can only be killed, by SIGKILL.
    async fn end(self, how: End) {
        match self {
            Self::Task { end, task } => {
                end.send_replace(Some(how));
                tokio::time::timeout(PATIENCE, task).await.expect("it ends").unwrap();
            }
            Self::Process(mut child) => {
                assert_eq!(how, End::Kill);
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
    }
}

async fn serve(stream: TcpStream, mut ended: watch::Receiver<Option<End>>) {
    // A socket that is closed with data unread, or with a linger of zero, is reset.
    stream.set_zero_linger().unwrap();
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut streams = JoinSet::new();
    let mut draining = false;
    loop {
        let end = async { *ended.wait_for(Option::is_some).await.unwrap() };
        let (req, mut respond) = tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok(accepted)) = accepted else { break };
                accepted
            }
            Some(end) = end, if !draining => match end {
                End::Kill => return,
                End::Drain => {
                    draining = true;
                    connection.graceful_shutdown();
                    continue;
                }
            },
        };
        drop(req);
        streams.spawn(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let Ok(mut body) = respond.send_response(Response::new(()), false) else { return };
            tokio::time::sleep(Duration::from_millis(4)).await;
            let _ = body.send_data("answer".into(), true);
        });
    }
}

impl Rig {
    async fn new(addrs: &[SocketAddr], params: proxy::Params) -> Self {
        let connect =
            Connect::new(tower::service_fn(TcpStream::connect::<SocketAddr>), &ClientParams::DEFAULT).unwrap();
        let backoff = balance::Backoff {
            min: Duration::from_millis(5),
            max: Duration::from_millis(50),
            ..balance::Backoff::default()
        };
        let pause = Duration::from_millis(10);
        let breaker = breaker::Params { min_ejection: pause, max_ejection: pause, ..breaker::Params::default() };
        let endpoint_params = balance::Params { backoff, breaker, slow_start: Duration::ZERO, ..Default::default() };
        let endpoints = Endpoints::fixed(addrs.iter().copied(), &connect, endpoint_params);
        let (limits, stats) = (Arc::new(Limits::new(params)), Arc::<Stats>::default());
        let proxy = Proxy::new(endpoints.clone(), Arc::clone(&limits), Arc::clone(&stats));
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move { Server::new(&ServerParams::DEFAULT).unwrap().serve(far, proxy, pending()).await });
        let (client, connection) = client::handshake(near).await.unwrap();
        tokio::spawn(connection);
        let rig = Self { client, endpoints, limits, stats };
        rig.until_ready(addrs.len()).await;
        rig
    }

    async fn until_ready(&self, count: usize) {
        self.until(|rig| rig.endpoints.status().iter().filter(|one| one.state == State::Ready).count() == count).await;
    }

    async fn until(&self, will_do: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !will_do(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("it comes to be");
    }

    /// Has so many requests in flight until told to stop.
    fn load(&self, at_once: usize) -> (Arc<Tally>, watch::Sender<bool>, JoinSet<()>) {
        let (tally, (stop, stopped)) = (Arc::<Tally>::default(), watch::channel(false));
        let mut tasks = JoinSet::new();
        for _ in 0..at_once {
            let (mut client, tally, stopped) = (self.client.clone(), Arc::clone(&tally), stopped.clone());
            tasks.spawn(async move {
                while !*stopped.borrow() {
                    tally.count(&mut client).await;
                }
            });
        }
        (tally, stop, tasks)
    }
}

impl Tally {
    async fn count(&self, client: &mut client::SendRequest<Bytes>) {
        poll_fn(|cx| client.poll_ready(cx)).await.expect("the client's own connection stays");
        let req = Request::get("http://test.example/").body(()).unwrap();
        let counter = match client.send_request(req, true).unwrap().0.await {
            Err(error) => self.reset(&error),
            Ok(rsp) if rsp.status() != 200 => &self.errors,
            Ok(rsp) => {
                let mut body = rsp.into_body();
                loop {
                    match body.data().await {
                        None => break &self.whole,
                        Some(Ok(_)) => {}
                        Some(Err(error)) => break self.reset(&error),
                    }
                }
            }
        };
        counter.fetch_add(1, Relaxed);
    }

    fn reset(&self, error: &h2::Error) -> &AtomicUsize {
        if error.is_remote() && error.reason() == Some(Reason::INTERNAL_ERROR) { &self.cut } else { &self.reset }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { whole, errors, cut, reset } = self;
        write!(f, "{whole:?} whole, {errors:?} 5xx, {cut:?} cut, {reset:?} reset")
    }
}

impl Held {
    fn now() -> Self {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        Self {
            tasks: Handle::current().metrics().num_alive_tasks(),
            descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
            resident_kib: 4 * pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap(),
        }
    }
}

/// Restarts three endpoints in turn while 64 requests are in flight.
async fn rolling(end: End, params: proxy::Params) -> (Arc<Tally>, Arc<Stats>, u32) {
    let (addrs, _held) = addrs::<3>();
    let start = if end == End::Kill { Backend::spawn } else { Backend::start };
    let mut backends = addrs.map(|addr| Some(start(addr)));
    let rig = Rig::new(&addrs, params).await;
    let (tally, stop, load) = rig.load(64);
    let (started, mut restarts) = (Instant::now(), 0);
    while started.elapsed() < Duration::from_secs(seconds().into()) {
        for (backend, addr) in backends.iter_mut().zip(addrs) {
            backend.take().unwrap().end(end).await;
            // For a while, nobody is there.
            tokio::time::sleep(Duration::from_millis(20)).await;
            *backend = Some(start(addr));
            rig.until_ready(addrs.len()).await;
            restarts += 1;
        }
    }
    stop.send_replace(true);
    load.join_all().await;
    if end == End::Kill {
        for backend in backends.into_iter().flatten() {
            backend.end(end).await;
        }
    }
    println!("{end:?}: {restarts} restarts, {tally}; retries: {:?}", rig.stats.retries().collect::<Vec<_>>());
    (tally, rig.stats, restarts)
}

#[tokio::test]
async fn endpoint_processes_answer_until_they_are_killed() {
    if let Ok(addr) = std::env::var(SERVE_ON) {
        // This is the process: it ends when it is killed, or when its parent process is gone.
        std::thread::spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
        let _serving = Backend::start(addr.parse().unwrap());
        return pending().await;
    }
    let _alone = ALONE.lock().await;
    let ([addr], _held) = addrs::<1>();
    let backend = Backend::spawn(addr);
    let rig = Rig::new(&[addr], proxy::Params::default()).await;
    let tally = Tally::default();
    tally.count(&mut rig.client.clone()).await;
    assert_eq!(tally.whole.load(Relaxed), 1, "{tally}");
    backend.end(End::Kill).await;
    rig.until(|rig| !rig.endpoints.is_ready()).await;
}

#[tokio::test]
async fn rolling_restarts_are_not_seen() {
    let _alone = ALONE.lock().await;
    let (tally, _, restarts) = rolling(End::Drain, proxy::Params::default()).await;
    let Tally { whole, errors, cut, reset } = &*tally;
    let failed = [errors, cut, reset].map(|count| count.load(Relaxed));
    assert_eq!(failed, [0; 3], "{tally}");
    assert!(whole.load(Relaxed) > 1_000 && restarts >= 3, "{tally}, {restarts} restarts");
}

#[tokio::test]
async fn of_killed_endpoints_only_answers_that_had_begun_break() {
    let _alone = ALONE.lock().await;
    // The number of requests that a kill breaks depends on the machine's speed, and this is no test of the budget.
    let retry = retry::Params { gateway_errors: true, budget_ratio: 1.0, ..retry::Params::default() };
    let (tally, stats, restarts) = rolling(End::Kill, proxy::Params { retry, ..proxy::Params::default() }).await;
    let Tally { whole, errors, cut, reset } = &*tally;
    assert_eq!([errors, reset].map(|count| count.load(Relaxed)), [0; 2], "{tally}");
    assert!(whole.load(Relaxed) > 1_000 && restarts >= 3, "{tally}, {restarts} restarts");
    // Or else nothing was killed in the middle.
    let retries = stats.retries().map(|(_, count)| count).sum::<u64>();
    assert!(cut.load(Relaxed) as u64 + retries > 0, "{tally}");
}

#[tokio::test]
async fn flapping_leaves_nothing_behind() {
    let _alone = ALONE.lock().await;
    let ([addr], _held) = addrs::<1>();
    let mut backend = Backend::start(addr);
    let rig =
        Rig::new(&[addr], proxy::Params { failfast_timeout: Duration::from_millis(20), ..Default::default() }).await;
    let mut before = None;
    // First so long that all buffers and tables have their size.
    for time in [seconds().div_ceil(3), seconds() * 2] {
        let (tally, stop, load) = rig.load(8);
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(time.into()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            backend.end(End::Kill).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            backend = Backend::start(addr);
        }
        rig.until_ready(1).await;
        stop.send_replace(true);
        load.join_all().await;
        rig.until(|rig| rig.limits.in_flight() == 0).await;
        let Some(before) = before.replace(Held::now()) else { continue };
        println!("{time} s of flapping: {tally}; {before:?} before, {:?} after", Held::now());
        // Up for 50 ms and down for 50: hardly any request is answered, and the others fail fast.
        assert!(tally.errors.load(Relaxed) > 100, "{tally}");
        rig.until(|_| Held::now().tasks <= before.tasks + 2 && Held::now().descriptors <= before.descriptors + 2).await;
        let after = Held::now();
        assert!(after.resident_kib < before.resident_kib + 4_096, "{before:?} {after:?}");
    }
}
