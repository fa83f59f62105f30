//! The command line.

use benches::{
    bulk, fresh,
    load::Workload,
    matrix::{self, Cell, Results, Side, Windows, plan},
    outside,
    process::find_app,
    report::{self, Data},
    starvation, tune,
};
use clap::{Args, Parser, Subcommand};
use std::{
    error::Error,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

/// Measures the proxy over emulated links, and says what to set.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure cells of windows, streams, links and workloads
    Matrix(MatrixArgs),
    /// Measure stopped readers beside a transfer and small requests
    Starvation(StarvationArgs),
    /// Turn results into Markdown and charts
    Report(ReportArgs),
    /// Measure the path to a server, and print the windows to set for it
    Tune(TuneArgs),
    /// Measure CPU and calls of the system for a MiB, and small requests beside a download on their connection
    Bulk(BulkArgs),
    /// Run h2load, and ghz if it is there, against the same set-up
    Outside(OutsideArgs),
}

#[derive(Args, Debug)]
struct TuneArgs {
    /// An HTTP/2 server, as host:port; or give --rtt-ms and --mbits
    #[arg(required_unless_present_all = ["rtt_ms", "mbits"])]
    target: Option<String>,
    /// It speaks TLS
    #[arg(long)]
    tls: bool,
    /// A PEM file of the authorities that may issue its certificate, with --tls [default: the authorities that the system trusts]
    #[arg(long, requires = "tls")]
    ca: Option<PathBuf>,
    /// What to fetch from it to measure the bandwidth; should be large
    #[arg(long, default_value = "/")]
    path: String,
    /// How long to fetch it, in seconds
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// The path's round trip, instead of measuring it
    #[arg(long, requires = "mbits", conflicts_with = "target")]
    rtt_ms: Option<f64>,
    /// The path's bandwidth, instead of measuring it
    #[arg(long, requires = "rtt_ms")]
    mbits: Option<f64>,
    /// Streams that share a connection
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    streams: u32,
    /// How many of them may stop reading without stopping the others
    #[arg(long, default_value_t = 3)]
    slow_readers: u32,
    /// MiB that one connection may make the proxy hold
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..1024))]
    memory_mib: u32,
}

#[derive(Args, Debug)]
struct OutsideArgs {
    /// Requests of each tool
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,
    /// Streams at once, on one connection
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    streams: u32,
    /// The proxy's binary [default: beside this program]
    #[arg(long, value_name = "PATH")]
    app: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct BulkArgs {
    /// How often to measure, one round after the other
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each measurement takes, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// The proxy's windows: default, adaptive, fixed (16M/24M), or sizes as 256K/4M
    #[arg(long, default_value = "default")]
    settings: Windows,
    /// More variables for the proxy, without LINKERD2_PROXY_; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// The proxy's binary; of several, each is measured in each round [default: beside this program]
    #[arg(long, value_name = "PATH")]
    app: Vec<PathBuf>,
}

#[derive(Args, Debug)]
struct ReportArgs {
    /// The results of `matrix` and `starvation`; of several, a later one replaces the cells of earlier ones [default: the newest in
    /// target/benches]
    #[arg(long, value_name = "FILE")]
    results: Vec<PathBuf>,
    /// Where the report goes [default: benches/report, of a quick run target/benches/report]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct MatrixArgs {
    /// A few cells, once, in under a minute
    #[arg(long, conflicts_with = "cross")]
    quick: bool,
    /// Single transfers, each through a new proxy and on new connections, and the same without a proxy
    #[arg(long, conflicts_with_all = ["quick", "cross", "seconds"])]
    fresh: bool,
    /// The proxy's windows in fresh transfers: default, adaptive, fixed (16M/24M), or sizes as 256K/4M
    #[arg(long, value_delimiter = ',', requires = "fresh", default_value = "default,adaptive,fixed")]
    settings: Vec<Windows>,
    /// Which side of the proxy the link of fresh transfers is on
    #[arg(long, requires = "fresh", value_enum, default_value_t = FreshSide::Endpoint)]
    side: FreshSide,
    /// More variables for the proxy of fresh transfers, without LINKERD2_PROXY_; may be given several times
    #[arg(long, value_name = "NAME=VALUE", requires = "fresh", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Everything with everything, instead of the plan; takes hours
    #[arg(long)]
    cross: bool,
    /// Only cells whose names have all of these words, as in "download x8 20ms"; may be given several times
    #[arg(long, value_name = "WORDS")]
    filter: Vec<String>,
    /// Print the cells' names and how long they would take
    #[arg(long)]
    list: bool,
    /// How often to measure each cell [default: 3, quick: 1]
    #[arg(long)]
    rounds: Option<usize>,
    /// How long to measure each cell, in seconds [default: 1, quick: 0.5]
    #[arg(long)]
    seconds: Option<f64>,
    /// Where results go, as JSON lines; a run that was stopped is resumed [default: in target/benches]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The proxy's binary [default: beside this program]
    #[arg(long, value_name = "PATH")]
    app: Option<PathBuf>,
}

/// Where the link of a fresh transfer is.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum FreshSide {
    /// Between proxy and endpoint
    Endpoint,
    /// Between client and proxy
    Client,
}

#[derive(Args, Debug)]
struct StarvationArgs {
    /// How many clients have stopped reading, or how many uploads the endpoint does not read
    #[arg(long, value_delimiter = ',', default_value = "64,1000")]
    readers: Vec<usize>,
    /// The proxy's windows: default, adaptive, fixed (16M/24M), or sizes as 256K/4M
    #[arg(long, value_delimiter = ',', default_value = "default,adaptive,fixed")]
    settings: Vec<Windows>,
    /// The bodies that are not read: downloads by clients, uploads by the endpoint, or one after the other
    #[arg(long, value_enum, default_value_t = Direction::Download)]
    direction: Direction,
    /// How many readers share a connection
    #[arg(long, default_value_t = 1)]
    streams_each: usize,
    /// How clients stop reading
    #[arg(long, value_enum, default_value_t)]
    stop: starvation::Stop,
    /// Let readers come to a new proxy, instead of one that has had the traffic without them
    #[arg(long)]
    cold: bool,
    /// The link's round trip, in milliseconds
    #[arg(long, default_value_t = 20)]
    rtt_ms: u64,
    /// Small requests while the traffic is measured, at an even rate
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,
    /// How long to measure the traffic, without readers and with them, in seconds
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// After how long the proxy's memory is looked at again when all have gone, in seconds
    #[arg(long, default_value_t = 60.0)]
    after: f64,
    /// How often to measure
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// More variables for the proxy, without LINKERD2_PROXY_; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Where results go, as JSON lines; a run that was stopped is resumed [default: in target/benches]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The proxy's binary [default: beside this program]
    #[arg(long, value_name = "PATH")]
    app: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Direction {
    Download,
    Upload,
    Both,
}

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

const RESULTS: &str = "target/benches";
const PATIENCE: Duration = Duration::from_secs(10);
const QUICK: &str = "quick.jsonl";
const FULL: &str = "full.jsonl";
const FRESH: &str = "fresh.jsonl";
const STARVATION: &str = "starvation.jsonl";

pub(crate) fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Matrix(args) if args.fresh => block_on(run_fresh(args)),
        Command::Starvation(args) => block_on(run_starvation(args)),
        Command::Matrix(args) => block_on(run_matrix(args)),
        Command::Report(args) => write_report(args),
        Command::Tune(args) => block_on(run_tune(args)),
        Command::Bulk(args) => block_on(run_bulk(args)),
        Command::Outside(args) => block_on(run_outside(args)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs on one thread: the proxy has the other of two cores, and timers stay exact.
fn block_on(future: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

async fn run_matrix(args: MatrixArgs) -> Outcome {
    let mut cells = match (args.quick, args.cross) {
        (true, _) => plan::quick(),
        (_, true) => plan::cross(),
        _ => plan::full(),
    };
    if !args.filter.is_empty() {
        cells.retain(|cell: &Cell| args.filter.iter().any(|words| cell.matches(words)));
    }
    if cells.is_empty() {
        return Err("no cell has all of these words; --list prints their names".into());
    }
    let seconds = args.seconds.unwrap_or(if args.quick { 0.5 } else { 1.0 });
    let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero());
    let name = if args.quick { QUICK } else { FULL };
    let mut options = matrix::Options {
        app: PathBuf::new(),
        cells,
        rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 3 }),
        time: time.ok_or("--seconds: must be above 0")?,
        out: args.out.unwrap_or_else(|| [RESULTS, name].iter().collect()),
    };
    let minutes = options.estimate().as_secs_f64() / 60.0;
    if args.list {
        options.cells.iter().for_each(|cell| println!("{cell}"));
        println!("{} cells, {} rounds, {minutes:.1} minutes", options.cells.len(), options.rounds);
        return Ok(());
    }
    options.app = find_app(args.app)?;
    println!("{} cells, {} rounds, about {minutes:.1} minutes", options.cells.len(), options.rounds);
    let failed = matrix::run(&options).await?;
    println!("results are in {}", options.out.display());
    if failed > 0 { Err(format!("{failed} cells could not be measured").into()) } else { Ok(()) }
}

async fn run_fresh(args: MatrixArgs) -> Outcome {
    let side = match args.side {
        FreshSide::Endpoint => Side::Endpoint,
        FreshSide::Client => Side::Client,
    };
    let mut transfers = fresh::plan(&args.settings, side, &args.env);
    if !args.filter.is_empty() {
        transfers.retain(|transfer| args.filter.iter().any(|words| transfer.matches(words)));
    }
    if transfers.is_empty() {
        return Err("no transfer has all of these words; --list prints their names".into());
    }
    let rounds = args.rounds.unwrap_or(3);
    let time: Duration = transfers.iter().map(fresh::Transfer::estimate).sum();
    let minutes = (time * rounds as u32).as_secs_f64() / 60.0;
    if args.list {
        transfers.iter().for_each(|transfer| println!("{transfer}"));
    }
    println!("{} transfers, {rounds} rounds, about {minutes:.1} minutes", transfers.len());
    if args.list {
        return Ok(());
    }
    let out = args.out.unwrap_or_else(|| [RESULTS, FRESH].iter().collect());
    let options = fresh::Options { app: find_app(args.app)?, transfers, rounds, out };
    let table = fresh::run(&options).await?;
    println!("\nMB/s, medians; in brackets the share of the same transfer without a proxy\n\n{}", table.markdown());
    Ok(())
}

async fn run_starvation(args: StarvationArgs) -> Outcome {
    let mut scenes = Vec::new();
    for (direction, workload) in [(Direction::Download, Workload::Download), (Direction::Upload, Workload::Upload)] {
        if args.direction != direction && args.direction != Direction::Both {
            continue;
        }
        for windows in &args.settings {
            scenes.extend(args.readers.iter().map(|readers| starvation::Scene {
                workload,
                windows: *windows,
                readers: *readers,
                streams_each: args.streams_each,
                stop: args.stop,
                rtt_ms: args.rtt_ms,
                mbits: 1_000,
                cold: args.cold,
                env: args.env.clone(),
            }));
        }
    }
    let params = starvation::Params {
        time: Duration::try_from_secs_f64(args.seconds)?,
        requests: args.requests,
        after: Duration::try_from_secs_f64(args.after)?,
    };
    let options = starvation::Options {
        app: find_app(args.app)?,
        scenes,
        rounds: args.rounds,
        params,
        out: args.out.unwrap_or_else(|| [RESULTS, STARVATION].iter().collect()),
    };
    let table = starvation::run(&options).await?;
    println!("\n{}", table.markdown());
    Ok(())
}

/// `NAME=VALUE`.
fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn write_report(args: ReportArgs) -> Outcome {
    let mut results = args.results;
    if results.is_empty() {
        results.push(
            newest_results().ok_or("there are no results: call `benches matrix` or `benches starvation` before")?,
        );
    }
    // The repository holds a full run's report, which a quick one should not replace.
    let out = args.out.unwrap_or_else(|| {
        let quick = results.iter().any(|path| path.file_name().is_some_and(|name| name == QUICK));
        if quick { [RESULTS, "report"].iter().collect() } else { PathBuf::from("benches/report") }
    });
    let mut data = Data::default();
    for path in &results {
        data.add_run(Results::read(path)?);
    }
    let pages = report::write(&data, &out)?;
    if pages.is_empty() {
        return Err("nothing was measured in these results".into());
    }
    let names =
        |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ");
    println!("{}: the report of {}", names(&pages), names(&results));
    Ok(())
}

async fn run_tune(args: TuneArgs) -> Outcome {
    let path = match (args.target, args.rtt_ms, args.mbits) {
        (Some(authority), ..) => {
            let time = Duration::try_from_secs_f64(args.seconds)?;
            let tls = args.tls.then_some(tune::Tls { ca: args.ca });
            let target = tune::Target { authority, tls, path: args.path, streams: args.streams as usize, time };
            // Failures to connect take as long as the system lets them.
            let measuring = tokio::time::timeout(time + PATIENCE, tune::Path::measure(&target));
            let measured = measuring.await.map_err(|_| format!("{}: takes too long", target.authority))??;
            eprint!("{measured}");
            measured.path
        }
        (None, rtt_ms, mbits) => {
            let rtt = Duration::try_from_secs_f64(rtt_ms.unwrap_or_default() / 1e3)?;
            tune::Path { rtt, bits_per_second: mbits.unwrap_or_default() * 1e6 }
        }
    };
    let needs = tune::Needs { streams: args.streams, slow_readers: args.slow_readers, memory: args.memory_mib << 20 };
    let advice = tune::Advice::new(path, needs);
    eprintln!("{advice}\n");
    // Alone on standard output, so that it can be a file of variables.
    print!("{}", advice.environment());
    Ok(())
}

async fn run_bulk(args: BulkArgs) -> Outcome {
    let apps = if args.app.is_empty() {
        vec![find_app(None)?]
    } else {
        args.app.into_iter().map(|app| find_app(Some(app))).collect::<Result<_, _>>()?
    };
    let time = Duration::try_from_secs_f64(args.seconds).ok().filter(|time| !time.is_zero());
    let options = bulk::Options {
        apps,
        rounds: args.rounds,
        time: time.ok_or("--seconds: must be above 0")?,
        settings: [matrix::settings(args.settings), args.env].concat(),
    };
    print!("{}", bulk::run(&options).await?);
    Ok(())
}

async fn run_outside(args: OutsideArgs) -> Outcome {
    let app = find_app(args.app)?;
    let options = outside::Options { app, requests: args.requests, streams: args.streams, windows: Windows::DEFAULT };
    let rows = outside::run(&options).await?;
    println!("{}", outside::Row::HEAD);
    rows.iter().for_each(|row| println!("{row}"));
    if rows.iter().any(|row| matches!(row.outcome, outside::Outcome::Failed(_))) {
        return Err("not all tools that are there could be run".into());
    }
    Ok(())
}

fn newest_results() -> Option<PathBuf> {
    let paths = [FULL, QUICK, FRESH, STARVATION].map(|name| Path::new(RESULTS).join(name));
    paths
        .into_iter()
        .filter(|path| path.exists())
        .max_by_key(|path| path.metadata().and_then(|data| data.modified()).ok())
}
