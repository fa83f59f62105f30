//! The binary before a well-behaved endpoint, and the victim: a well-behaved client beside the attacker.

use crate::{
    endpoint::Endpoint,
    pauses,
    priority::{apart, give_way},
    threads::Threads,
    victim::Victim,
};
use std::{
    env,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex as StdMutex, mpsc},
    thread,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Mutex, MutexGuard},
    time::{sleep, timeout},
};

/// How long anything here may take before it counts as hung.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Attacks are made one at a time, or one would be measured by the other.
static ALONE: Mutex<()> = Mutex::const_new(());

/// How many times larger than by default attacks are: `ATTACKS_FACTOR`.
pub(crate) fn factor() -> usize {
    env::var("ATTACKS_FACTOR").map_or(1, |factor| factor.parse().expect("ATTACKS_FACTOR is a number"))
}

/// The binary that is attacked: `ATTACKS_APP`, or the debug build.
fn binary() -> String {
    env::var("ATTACKS_APP").unwrap_or_else(|_| env!("CARGO_BIN_EXE_app").to_owned())
}

pub(crate) fn is_release() -> bool {
    env::var_os("ATTACKS_APP").is_some()
}

/// The inbound direction leads to a well-behaved endpoint; the outbound one to a hostile endpoint, if there is one.
pub(crate) struct Rig {
    child: Child,
    /// Where victims and hostile clients connect to.
    pub(crate) inbound: SocketAddr,
    /// Where clients of the hostile endpoint connect to.
    pub(crate) outbound: Option<SocketAddr>,
    pub(crate) admin: SocketAddr,
    pub(crate) endpoint: Endpoint,
    victim: Victim,
    errors: Arc<StdMutex<String>>,
    /// Before the attack, in bytes.
    resident: u64,
    _alone: MutexGuard<'static, ()>,
}

/// Has the defaults of the binary, but for the variables that a test sets.
#[derive(Clone, Copy, Default)]
pub(crate) struct Settings<'a> {
    pub(crate) hostile: Option<SocketAddr>,
    pub(crate) descriptors: Option<u32>,
    /// Variables, without their prefix.
    pub(crate) variables: &'a [(&'a str, &'a str)],
}

// === impl Rig ===

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with(Settings::default()).await
    }

    pub(crate) async fn set(variables: &[(&str, &str)]) -> Self {
        Self::with(Settings { variables, ..Settings::default() }).await
    }

    /// Starts everything, and sees how the victim fares undisturbed.
    pub(crate) async fn with(settings: Settings<'_>) -> Self {
        let alone = ALONE.lock().await;
        pauses::are_noticed();
        let endpoint = Endpoint::start();
        let mut command = command(settings, endpoint.addr);
        let mut child = apart(move || command.spawn()).unwrap();
        give_way();
        let mut errors = child.stderr.take().unwrap();
        let seen = Arc::<StdMutex<String>>::default();
        let into = Arc::clone(&seen);
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = errors.read(&mut chunk) {
                into.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..read]));
            }
        });
        let addrs = addrs(&mut child, if settings.hostile.is_some() { 3 } else { 2 });
        let find = |name: &str| addrs.iter().find(|(direction, _)| direction == name).map(|(_, addr)| *addr);
        let (inbound, outbound, admin) = (find("inbound").unwrap(), find("outbound"), find("").unwrap());
        let victim = Victim::start(inbound, Threads::of(child.id()).with(&endpoint.thread)).await;
        let mut rig =
            Self { child, inbound, outbound, admin, endpoint, victim, errors: seen, resident: 0, _alone: alone };
        // The victim's connection is gone, and does not count from here on.
        rig.alone().await;
        rig.resident = rig.memory("VmRSS");
        rig
    }

    /// The victim must fare as well beside an attack as before.
    pub(crate) async fn beside<T>(&self, attack: impl Future<Output = T>) -> T {
        let measuring = self.victim.begin();
        let came = timeout(2 * PATIENCE, attack).await.expect("the attack ends");
        self.victim.check(measuring).await;
        let errors = self.errors.lock().unwrap();
        assert!(!errors.contains("panicked"), "{errors}");
        came
    }

    /// Checks the most memory that the attack cost.
    #[track_caller]
    pub(crate) fn costs_at_most(&self, mib: u64) {
        let grown = self.memory("VmHWM").saturating_sub(self.resident);
        assert!(grown <= mib << 20, "{} KiB more, of {mib} MiB", grown >> 10);
    }

    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    /// CPU time that the process has spent, user and system.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = procfs::process::Process::new(self.child.id().try_into().unwrap()).unwrap().stat().unwrap();
        Duration::from_millis((stat.utime + stat.stime) * 1_000 / procfs::ticks_per_second())
    }

    /// Waits until no client is connected: the proxy has hung up on all that did not themselves.
    pub(crate) async fn alone(&self) {
        self.connections(0).await;
    }

    /// Waits until so many clients are connected.
    pub(crate) async fn connections(&self, count: u64) {
        let open = || self.metric("tcp_open_connections", "direction=\"inbound\",peer=\"src\"");
        let reached = async {
            while open().await != count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, reached).await.is_err() {
            panic!("{} connections", open().await);
        }
    }

    /// Waits until no more descriptors are open than there were. A scrape of the metrics may still hold one.
    pub(crate) async fn descriptors_are_back_at(&self, before: usize) {
        let reached = async {
            while self.descriptors() > before {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, reached).await.is_err() {
            panic!("{before} descriptors before, {} now", self.descriptors());
        }
    }

    /// Descriptors that the process has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// How often clients went beyond a limit.
    pub(crate) async fn beyond_limits(&self) -> u64 {
        self.metric("http2_connection_limit_total", "direction=\"inbound\"").await
    }

    /// The sum of a metric's values with labels that begin with these.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> u64 {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        let start = format!("{name}{{{labels}");
        let values = page.lines().filter(|line| line.starts_with(&start)).filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<u64>().unwrap()).sum()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(settings: Settings<'_>, endpoint: SocketAddr) -> Command {
    let mut command = match settings.descriptors {
        None => Command::new(binary()),
        Some(most) => {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", &format!("ulimit -n {most} && exec \"$0\""), &binary()]);
            shell
        }
    };
    command.env_clear().stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut set = |name: &str, value: &str| _ = command.env(format!("LINKERD2_PROXY_{name}"), value);
    set("INBOUND_ENDPOINTS", &endpoint.to_string());
    set("INBOUND_LISTEN_ADDR", "127.0.0.1:0");
    set("ADMIN_LISTEN_ADDR", "127.0.0.1:0");
    // The victim shares its worker with the attacker.
    set("CORES", "1");
    set("LOG_FORMAT", "json");
    if let Some(hostile) = settings.hostile {
        set("OUTBOUND_ENDPOINTS", &hostile.to_string());
        set("OUTBOUND_LISTEN_ADDR", "127.0.0.1:0");
    }
    for (name, value) in settings.variables {
        set(name, value);
    }
    command
}

/// Where a process says that it listens, by direction; the admin server has none.
fn addrs(child: &mut Child, count: usize) -> Vec<(String, SocketAddr)> {
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let (found, addrs) = mpsc::channel();
    // Reads to the end, so that the process never waits for us.
    thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
            let fields = &line["fields"];
            let Some(addr) = fields["addr"].as_str() else { continue };
            let direction = fields["direction"].as_str().unwrap_or_default().to_owned();
            let _ = found.send((direction, addr.parse().unwrap()));
        }
    });
    (0..count).map(|_| addrs.recv_timeout(PATIENCE).unwrap()).collect()
}
