//! Whether each response goes to the client whose request it answers, whatever endpoints and clients do. `scripts/isolation`
//! runs it.
//!
//! Every request has a token of its own. Endpoints put it in a field of the response and all over its body, also where they
//! send more than was asked for, or nothing that HTTP allows. Clients check both. The proxy is the binary in `APP`, once for
//! each value of `CONNECT_PROTOCOL`; clients and endpoints speak both versions of HTTP.

use clap::Parser;
use std::{
    env, io,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinSet,
    time::sleep,
};

mod client;
mod endpoint;
mod http1;
mod kind;
mod tally;
mod transport;

use tally::{Cell, Tally};
use transport::Tls;

/// Checks that no client gets what was written for another.
#[derive(Debug, Parser)]
struct Args {
    /// How long, in seconds.
    #[arg(default_value_t = 60)]
    seconds: u64,
    /// TLS on both sides of the proxy, with `tls.pem`, `tls.key` and `ca.pem` of this directory. The proxy's own settings for
    /// it are taken from the environment.
    #[arg(long)]
    tls: Option<PathBuf>,
}

const PROTOCOLS: [&str; 3] = ["http1", "http2", "same"];
/// Endpoints of each proxy.
const ENDPOINTS: usize = 3;
/// Clients of HTTP/1.1, and connections of HTTP/2, of each proxy.
const HTTP1_CLIENTS: usize = 12;
const HTTP2_CLIENTS: usize = 3;
/// Responses a second that are checked at least: less would say nothing. Altogether, and of each of the six ways through.
const LEAST: u64 = 100;
const LEAST_OF_ONE: u64 = 5;
const PREFIX: &str = "LINKERD2_PROXY_";
/// Connections that live shortly, and few of them to each endpoint, so that each has many clients.
const SETTINGS: &[(&str, &str)] = &[
    ("CORES", "1"),
    ("LOG", "error"),
    ("ADMIN_LISTEN_ADDR", "127.0.0.1:0"),
    ("OUTBOUND_SERVER_HTTP2_MAX_CONNECTION_AGE", "300ms"),
    ("OUTBOUND_SERVER_HTTP2_MAX_CONNECTION_AGE_GRACE", "1s"),
    ("OUTBOUND_CONNECT_HTTP1_MAX_CONNECTIONS", "4"),
    ("OUTBOUND_CONNECT_TIMEOUT", "2s"),
    ("OUTBOUND_CONNECT_EXP_BACKOFF_MIN", "1ms"),
    ("OUTBOUND_CONNECT_EXP_BACKOFF_MAX", "5ms"),
    ("OUTBOUND_BREAKER_CONSECUTIVE_FAILURES", "0"),
    ("OUTBOUND_HTTP_REQUEST_TIMEOUT", "500ms"),
    ("OUTBOUND_HTTP_RETRY_BUDGET_RATIO", "10"),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("isolation: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all was as it should be.
async fn run(args: &Args) -> io::Result<bool> {
    let tls = args.tls.as_deref().map(Tls::read).transpose()?.map(Arc::new);
    let tally = Arc::<Tally>::default();
    let (mut tasks, mut apps) = (JoinSet::new(), Vec::new());
    let seconds = Duration::from_secs(args.seconds);
    for protocol in PROTOCOLS {
        let mut endpoints = Vec::new();
        for _ in 0..ENDPOINTS {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            endpoints.push(listener.local_addr()?.to_string());
            tasks.spawn(endpoint::serve(listener, tls.clone()));
        }
        let (mut app, addr) = start(protocol, &endpoints.join(",")).await?;
        await_listener(&mut app, addr).await?;
        apps.push((app, protocol, addr));
    }
    let until = Instant::now() + seconds;
    let mut clients = JoinSet::new();
    for &(_, protocol, addr) in &apps {
        for _ in 0..HTTP1_CLIENTS {
            let cell = Cell { protocol, http2: false };
            clients.spawn(client::http1(addr, tls.clone(), Arc::clone(&tally), cell, until));
        }
        for _ in 0..HTTP2_CLIENTS {
            let cell = Cell { protocol, http2: true };
            clients.spawn(client::http2(addr, tls.clone(), Arc::clone(&tally), cell, until));
        }
    }
    while clients.join_next().await.is_some() {}
    for (app, protocol, _) in &mut apps {
        if let Some(status) = app.try_wait()? {
            return Err(io::Error::other(format!("the proxy with CONNECT_PROTOCOL={protocol} has ended: {status}")));
        }
        app.kill().await?;
    }
    println!("{tally}");
    let cells = PROTOCOLS.iter().flat_map(|protocol| [false, true].map(|http2| Cell { protocol, http2 }));
    let few: Vec<_> = cells.filter(|cell| tally.checked(*cell) < LEAST_OF_ONE * args.seconds).collect();
    if tally.all_checked() < LEAST * args.seconds || !few.is_empty() {
        eprintln!("isolation: too few responses to say anything {few:?}");
        return Ok(false);
    }
    Ok(tally.mixed() == 0)
}

/// Starts a proxy, and tells where it will listen.
async fn start(protocol: &str, endpoints: &str) -> io::Result<(Child, SocketAddr)> {
    let app = env::var_os("APP").unwrap_or_else(|| "target/release/app".into());
    // Free now; it is asked for at once.
    let addr = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let mut command = Command::new(&app);
    command
        .kill_on_drop(true)
        .envs(SETTINGS.iter().map(|(name, value)| (format!("{PREFIX}{name}"), value)))
        .env(format!("{PREFIX}OUTBOUND_LISTEN_ADDR"), addr.to_string())
        .env(format!("{PREFIX}OUTBOUND_ENDPOINTS"), endpoints)
        .env(format!("{PREFIX}OUTBOUND_CONNECT_PROTOCOL"), protocol);
    let child = command.spawn().map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", app.display())))?;
    Ok((child, addr))
}

async fn await_listener(app: &mut Child, addr: SocketAddr) -> io::Result<()> {
    for _ in 0..200 {
        if TcpStream::connect(addr).await.is_ok() {
            return Ok(());
        }
        if let Some(status) = app.try_wait()? {
            return Err(io::Error::other(format!("the proxy has ended: {status}")));
        }
        sleep(Duration::from_millis(50)).await;
    }
    Err(io::Error::other("the proxy does not listen"))
}
