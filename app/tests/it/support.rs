//! The binary as a child process, an endpoint that answers when told, and a client.

use bytes::Bytes;
use futures_util::stream::Stream;
use h2::{
    RecvStream, client,
    server::{self, SendResponse},
};
use http::{Request, Response};
use std::{
    io::{self, BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc as std_mpsc},
    thread,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};

/// How long anything here may take before it counts as hung.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The binary, running; ended with the value.
pub(crate) struct App {
    child: Child,
    /// The lines that it has logged so far.
    log: Arc<Mutex<Vec<String>>>,
    /// Its standard output, if nobody reads that.
    _unread: std_mpsc::Receiver<BufReader<ChildStdout>>,
    /// 0.0.0.0:0 stands for a Unix domain socket, here and for the admin server.
    pub(crate) proxy: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// How much of the log is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LogReader {
    All,
    /// What comes until the listeners are up; the pipe stays open.
    Stops,
    /// The same, and then the pipe is closed, which is standard error as well.
    Closes,
}

/// An endpoint that accepts requests at once and answers them when it is told to.
pub(crate) struct Endpoint {
    pub(crate) addr: SocketAddr,
    pub(crate) asked: mpsc::UnboundedReceiver<()>,
    pub(crate) answer: watch::Sender<bool>,
}

/// The binary with no variables but the test's.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_app"));
    command.env_clear();
    command
}

impl App {
    /// Starts the outbound direction to `endpoint` and waits until the listeners are up.
    pub(crate) fn start(endpoint: SocketAddr, settings: &[(&str, &str)]) -> Self {
        Self::start_to(&endpoint.to_string(), settings)
    }

    /// The same to endpoints that may have names.
    pub(crate) fn start_to(endpoints: &str, settings: &[(&str, &str)]) -> Self {
        Self::run(command(), endpoints, settings, LogReader::All)
    }

    /// The same, with a log that is not read to its end.
    pub(crate) fn start_unread(reader: LogReader, endpoint: SocketAddr, settings: &[(&str, &str)]) -> Self {
        let mut shell = Command::new("/bin/sh");
        let errors = if reader == LogReader::Closes { "2>&1" } else { "" };
        shell.env_clear().args(["-c", &format!("exec \"$0\" {errors}"), env!("CARGO_BIN_EXE_app")]);
        Self::run(shell, &endpoint.to_string(), settings, reader)
    }

    /// The same, with limits of file descriptors, as the shell's `ulimit` takes them.
    pub(crate) fn start_with_descriptors(limits: &[&str], endpoint: SocketAddr) -> Self {
        let mut shell = Command::new("/bin/sh");
        let limits: String = limits.iter().map(|limit| format!("ulimit {limit} && ")).collect();
        shell.env_clear().args(["-c", &format!("{limits}exec \"$0\""), env!("CARGO_BIN_EXE_app")]);
        Self::run(shell, &endpoint.to_string(), &[], LogReader::All)
    }

    /// The same by another command, which may be given sockets.
    pub(crate) fn start_by(command: Command, endpoint: SocketAddr, settings: &[(&str, &str)]) -> Self {
        Self::run(command, &endpoint.to_string(), settings, LogReader::All)
    }

    fn run(mut command: Command, endpoints: &str, settings: &[(&str, &str)], reader: LogReader) -> Self {
        command
            .env("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", endpoints)
            .env("LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR", "127.0.0.1:0")
            .env("LINKERD2_PROXY_ADMIN_LISTEN_ADDR", "127.0.0.1:0")
            .env("LINKERD2_PROXY_CORES", "2")
            .env("LINKERD2_PROXY_LOG_FORMAT", "json")
            .envs(settings.iter().copied())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (found, addrs) = std_mpsc::channel();
        let (keep, unread) = std_mpsc::channel();
        let log = Arc::<Mutex<Vec<String>>>::default();
        let lines = Arc::clone(&log);
        // Reads to the end, so that the process never waits for us, unless it is to.
        thread::spawn(move || {
            let mut listeners = 0;
            for line in stdout.by_ref().lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line.clone());
                let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
                let fields = &line["fields"];
                let addr = fields["addr"].as_str().unwrap_or_default();
                let addr = if addr.starts_with("unix:") { "0.0.0.0:0" } else { addr };
                let Ok(addr) = addr.parse() else { continue };
                let _ = found.send((fields["message"] == "listening", addr));
                listeners += 1;
                if listeners == 2 && reader != LogReader::All {
                    break;
                }
            }
            if reader == LogReader::Stops {
                let _ = keep.send(stdout);
            }
        });
        let (first, second): ((_, SocketAddr), (_, SocketAddr)) =
            (addrs.recv_timeout(PATIENCE).unwrap(), addrs.recv_timeout(PATIENCE).unwrap());
        assert!(first.0 && !second.0);
        Self { child, log, _unread: unread, proxy: first.1, admin: second.1 }
    }

    /// Waits for a line of the log that has all of `words`.
    pub(crate) async fn logged(&self, words: &[&str]) -> String {
        let found = async {
            loop {
                let has_all = |line: &&String| words.iter().all(|word| line.contains(word));
                if let Some(line) = self.log().iter().find(has_all) {
                    return line.clone();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{words:?} not in {:?}", self.log()))
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a line of the metrics page.
    pub(crate) async fn counted(&self, line: &str) {
        let counted = async {
            while !admin(self.admin, "GET", "/metrics", "").await.1.lines().any(|found| found == line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, counted).await.is_err() {
            panic!("{line} is not in\n{}", admin(self.admin, "GET", "/metrics", "").await.1);
        }
    }

    /// CPU time that the process has spent, user and system.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = procfs::process::Process::new(self.child.id().try_into().unwrap()).unwrap().stat().unwrap();
        Duration::from_millis((stat.utime + stat.stime) * 1_000 / procfs::ticks_per_second())
    }

    /// Memory of the process that is resident.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let process = procfs::process::Process::new(self.child.id().try_into().unwrap()).unwrap();
        process.statm().unwrap().resident * procfs::page_size()
    }

    /// File descriptors that the process has open.
    pub(crate) fn descriptors(&self) -> usize {
        procfs::process::Process::new(self.child.id().try_into().unwrap()).unwrap().fd_count().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the process to end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("the process ends")
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Endpoint {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (asking, asked) = mpsc::unbounded_channel();
        let (answer, told) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (asking, told) = (asking.clone(), told.clone());
                tokio::spawn(async move {
                    let builder = server::Builder::new();
                    let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        let _ = asking.send(());
                        let mut told = told.clone();
                        tokio::spawn(async move {
                            if told.wait_for(|told| *told).await.is_err() {
                                return std::future::pending().await;
                            }
                            if let Ok(mut body) = respond.send_response(Response::new(()), false) {
                                let _ = body.send_data("answer".into(), true);
                            }
                        });
                    }
                });
            }
        });
        Self { addr, asked, answer }
    }
}

/// A client's connection, driven by a task.
/// An endpoint of HTTP/2, where `answer` answers the requests of each connection; it has the number of each, from 0.
pub(crate) async fn serve(
    listener: TcpListener,
    answer: impl Fn(usize, Request<RecvStream>, SendResponse<Bytes>) + Clone + Send + 'static,
) -> SocketAddr {
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut connection = server::handshake(stream).await.unwrap();
                let mut count = 0;
                while let Some(Ok((req, respond))) = connection.accept().await {
                    answer(count, req, respond);
                    count += 1;
                }
            });
        }
    });
    addr
}

/// The same on a port of its own.
pub(crate) async fn endpoint(
    answer: impl Fn(usize, Request<RecvStream>, SendResponse<Bytes>) + Clone + Send + 'static,
) -> SocketAddr {
    serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), answer).await
}

/// A listener on an address that a killed server may not have closed yet.
pub(crate) async fn bind(addr: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(addr).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// The connections of a listener, for a server of tonic.
pub(crate) fn accepted(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
    futures_util::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    })
}

pub(crate) async fn connect(addr: SocketAddr) -> client::SendRequest<Bytes> {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (client, connection) = client::handshake(stream).await.unwrap();
    tokio::spawn(async { _ = connection.await });
    client
}

pub(crate) fn get() -> Request<()> {
    Request::get("http://test.example/").body(()).unwrap()
}

/// All bytes of a response.
pub(crate) async fn body(response: client::ResponseFuture) -> Result<Vec<u8>, h2::Error> {
    let mut body = response.await?.into_body();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

/// Status and body of an HTTP/1.1 exchange with the admin server.
pub(crate) async fn admin(addr: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let req = format!(
        "{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(req.as_bytes()).await.unwrap();
    let mut rsp = String::new();
    stream.read_to_string(&mut rsp).await.unwrap();
    let (head, body) = rsp.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}
