//! The `app` binary as a process: how it is found, started, looked at and ended.

use procfs::process::Process;
use serde_json::Value;
use std::{
    env, io,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};
use tokio::{sync::oneshot, time::timeout};

/// A proxy with one worker, on free ports of loopback. Dropping it ends the process.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    addr: SocketAddr,
    /// Told when the proxy has a connection to the endpoint.
    has_reached: oneshot::Receiver<()>,
}

/// A process's use of CPU and memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Time of all threads on a CPU.
    pub cpu: Duration,
    /// Resident memory, in KiB.
    pub rss_kib: u64,
    /// The most there ever was of it, in KiB.
    pub peak_rss_kib: u64,
}

const START: Duration = Duration::from_secs(10);

/// The release binary: the given one, else cargo's, else one beside this program.
///
/// # Errors
///
/// When there is none, with how to build it.
pub fn find_app(named: Option<PathBuf>) -> io::Result<PathBuf> {
    if let Some(path) = named {
        return found(path);
    }
    let this = env::current_exe()?;
    let dir = this.parent().unwrap_or(Path::new("."));
    // Under `cargo run` only this package was built: the proxy may be missing, or older than its sources.
    if let Some(cargo) = env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "app"]);
        if dir.ends_with("release") {
            build.arg("--release");
        }
        if !build.status()?.success() {
            return Err(io::Error::other("the proxy does not build: cargo build --release -p app"));
        }
    }
    found(dir.join("app"))
}

fn found(path: PathBuf) -> io::Result<PathBuf> {
    if path.is_file() {
        return Ok(path);
    }
    let message = format!("{} is missing: cargo build --release -p app, or --app PATH", path.display());
    Err(io::Error::new(io::ErrorKind::NotFound, message))
}

// === impl Proxy ===

impl Proxy {
    /// Starts `app` before `endpoint` with nothing but `settings` in its environment; their names go without the
    /// `LINKERD2_PROXY_` that all have. Waits until it listens.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn spawn(app: &Path, endpoint: SocketAddr, settings: &[(String, String)]) -> io::Result<Self> {
        let own = [
            ("OUTBOUND_ENDPOINTS", endpoint.to_string().as_str()),
            ("OUTBOUND_LISTEN_ADDR", "127.0.0.1:0"),
            ("ADMIN_LISTEN_ADDR", "127.0.0.1:0"),
            ("CORES", "1"),
            ("LOG_FORMAT", "json"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut child = Command::new(app)
            .env_clear()
            .envs(own.iter().chain(settings).map(|(name, value)| (format!("LINKERD2_PROXY_{name}"), value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let stdout = child.stdout.take();
        // From here on a failure ends the process.
        let (reached, has_reached) = oneshot::channel();
        let mut proxy = Self { child, addr: SocketAddr::from(([127, 0, 0, 1], 0)), has_reached };
        let (tx, rx) = mpsc::channel();
        // Ends with the process; reads on, so that it never waits for its log.
        thread::spawn(move || stdout.map(|stdout| read_log(stdout, &tx, reached)));
        proxy.addr = rx.recv_timeout(START).map_err(|_| io::Error::other("the proxy did not start"))?;
        Ok(proxy)
    }

    /// Waits until the connection to the endpoint that is made ahead is there: requests would wait for it. To be called once.
    ///
    /// # Errors
    ///
    /// When the endpoint is not reached.
    pub async fn ready(&mut self) -> io::Result<()> {
        let ready = timeout(START, &mut self.has_reached).await;
        ready.ok().and_then(Result::ok).ok_or_else(|| io::Error::other("the proxy did not reach its endpoint"))
    }

    /// Where clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The process's use until now.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn usage(&self) -> io::Result<Usage> {
        let process = Process::new(self.child.id().cast_signed()).map_err(io::Error::other)?;
        let mut usage = Usage::default();
        // Not from the process's own times, which come in hundredths of a second.
        for task in process.tasks().map_err(io::Error::other)?.flatten() {
            usage.cpu += Duration::from_nanos(task.schedstat().map_err(io::Error::other)?.sum_exec_runtime);
        }
        let status = process.status().map_err(io::Error::other)?;
        usage.rss_kib = status.vmrss.unwrap_or_default();
        usage.peak_rss_kib = status.vmhwm.unwrap_or_default();
        Ok(usage)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its id is not given to another process before it was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_log(stdout: ChildStdout, tx: &mpsc::Sender<SocketAddr>, reached: oneshot::Sender<()>) {
    let mut reached = Some(reached);
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        if let Some(addr) = listening(&line) {
            let _ = tx.send(addr);
        }
        if line.contains(r#""message":"endpoint is ready""#)
            && let Some(reached) = reached.take()
        {
            let _ = reached.send(());
        }
    }
}

/// The address in a line that says where clients connect to.
fn listening(line: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields")?;
    if fields.get("message")? != "listening" {
        return None;
    }
    let addr = fields.get("addr")?.as_str()?;
    addr.trim_start_matches("Some(").trim_end_matches(')').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_read_from_the_log() {
        let line = r#"{"level":"INFO","fields":{"message":"listening","direction":"outbound","addr":"Some(127.0.0.1:33825)"}}"#;
        assert_eq!(listening(line), Some(SocketAddr::from(([127, 0, 0, 1], 33825))));
        assert_eq!(listening(&line.replace("listening", "admin server listening")), None);
        assert_eq!(listening("not JSON"), None);
    }

    #[test]
    fn missing_app_says_how_to_build_it() {
        let error = find_app(Some("no/such/app".into())).unwrap_err();
        assert!(error.to_string().contains("cargo build --release -p app"), "{error}");
    }
}
