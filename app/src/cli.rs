//! The command line.

use crate::{
    LogLevel, Process, access_log, build, demo, descriptors,
    handover::{self, Handover, Predecessor},
    listener, log, routes, settings,
    sockets::{self, Sockets},
    tls, window_limits, worker,
};
use app_env::{Config, Loaded, Variable, Warning};
use clap::{Parser, Subcommand};
use http::{HeaderName, HeaderValue};
use std::{
    error::Error,
    future::pending,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time::sleep,
};

/// An HTTP/2 and gRPC proxy whose flow control can be set, seen and measured.
///
/// It is set up by environment variables; `app env` lists them.
#[derive(Debug, Parser)]
#[command(version = build::DESCRIPTION)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy (the default).
    Run,
    /// Validate the environment and the files of routes; print the settings that are not defaults, each with where it came
    /// from, and what goes where.
    Check {
        /// Print all settings.
        #[arg(long)]
        all: bool,
        /// Print all settings, and nothing else, as the admin server's /config has them.
        #[arg(long, conflicts_with = "all")]
        json: bool,
        /// Say instead which rule takes a request, and where that goes. Fails if none does.
        #[arg(long, value_name = "METHOD URI", conflicts_with_all = ["all", "json"])]
        request: Option<routes::Query>,
        /// A field of the request; may be repeated.
        #[arg(long, value_name = "NAME: VALUE", value_parser = routes::header, requires = "request")]
        header: Vec<(HeaderName, HeaderValue)>,
        /// Fail if there are warnings, as of names that are not known, but for the one about this host's file descriptors.
        #[arg(long)]
        strict: bool,
    },
    /// List every variable that is understood.
    Env {
        /// Only variables with this word in name or meaning, in either case.
        #[arg(conflicts_with = "markdown")]
        word: Option<String>,
        /// As a Markdown table.
        #[arg(long)]
        markdown: bool,
    },
    /// Start an echo back end and the proxy before it, and send real traffic through it.
    Demo {
        /// End after the table.
        #[arg(long)]
        once: bool,
        /// With TLS on both sides of the proxy, and a certificate to throw away.
        #[arg(long)]
        tls: bool,
        /// With two back ends behind one port, and a file of routes to throw away: calls of gRPC go to one, all else to the other.
        #[arg(long)]
        routes: bool,
        /// How long to send traffic.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
    },
}

/// Whether a configuration that has warnings alone is in order.
#[derive(Clone, Copy, Eq, PartialEq)]
enum OnWarning {
    GoOn,
    Fail,
}

impl OnWarning {
    fn of(strict: bool) -> Self {
        if strict { Self::Fail } else { Self::GoOn }
    }
}

/// Runs the command that the process was started with. Workers call `collect` now and then: it returns the memory that the
/// calling thread has freed to the system.
pub fn main(collect: fn()) -> ExitCode {
    worker::collect_by(collect);
    descriptors::raise_limit();
    let Args { command } = Args::parse();
    match command.unwrap_or(Command::Run) {
        Command::Run => load(OnWarning::GoOn).and_then(|loaded| {
            let (sockets, predecessor) = take_sockets(&loaded.config)?;
            run(loaded, sockets, predecessor)
        }),
        Command::Check { json: true, strict, .. } => {
            load(OnWarning::of(strict)).and_then(|loaded| print(&settings::json(&loaded.settings)))
        }
        Command::Check { request: None, all, strict, .. } => load(OnWarning::of(strict)).and_then(|loaded| {
            let mut lines = if all { settings::all(&loaded.settings) } else { settings::changed(&loaded.settings) };
            lines.extend(window_limits::note(&loaded.config));
            lines.extend(routes::describe(&loaded.config));
            print(&(lines.join("\n") + "\n"))
        }),
        Command::Check { request: Some(mut request), header, strict, .. } => {
            load(OnWarning::of(strict)).and_then(|loaded| {
                header.into_iter().for_each(|header| request.add(header));
                answer(&request, &loaded.config)
            })
        }
        Command::Env { markdown: true, .. } => print(&app_env::markdown()),
        Command::Env { word, .. } => env(word.as_deref().unwrap_or_default()),
        Command::Demo { once, tls, routes, seconds } => {
            block_on(demo::run(demo::Options { once, tls, routes, time: Duration::from_secs(seconds) }))
        }
    }
    .map_or_else(|code| code, |()| ExitCode::SUCCESS)
}

/// Prints to standard output. A reader that has seen enough, as `head`, is no error.
fn print(text: &str) -> Result<(), ExitCode> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(fail(&error)),
        _ => Ok(()),
    }
}

/// Lists the variables that have a word in their names or their meaning.
fn env(word: &str) -> Result<(), ExitCode> {
    // keep-alive is KEEP_ALIVE in names.
    let plain = |text: &str| text.to_lowercase().replace(['-', '_'], " ");
    let sought = plain(word);
    let text: String = app_env::variables()
        .filter(|variable| [&*variable.name, variable.help].iter().any(|text| plain(text).contains(&sought)))
        .map(|Variable { name, accepts, default, help, .. }| {
            format!("{name}\n    {help}\n    accepts {accepts}; default {default}\n\n")
        })
        .collect();
    if text.is_empty() {
        eprintln!("error: no variable has {word:?} in its name or its meaning; app env lists all");
        return Err(ExitCode::FAILURE);
    }
    print(&text)
}

/// Says which rule takes a request.
fn answer(request: &routes::Query, config: &Config) -> Result<(), ExitCode> {
    let (lines, is_taken) = request.answer(config);
    if lines.is_empty() {
        let reason = "neither is set, must be a file of routes for --request";
        eprintln!("error: {0}OUTBOUND_ROUTES, {0}INBOUND_ROUTES: {reason}", app_env::PREFIX);
        return Err(ExitCode::from(app_env::EXIT_CODE));
    }
    print(&(lines.join("\n") + "\n"))?;
    if is_taken { Ok(()) } else { Err(ExitCode::FAILURE) }
}

/// Reads and checks the environment. All warnings and errors go to standard error.
fn load(on_warning: OnWarning) -> Result<Loaded, ExitCode> {
    let lines = |warnings: &[Warning]| warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (loaded, mut warnings, mut errors) = match app_env::load(&app_env::Process) {
        Ok(loaded) => {
            let warnings = lines(&loaded.warnings);
            (Some(loaded), warnings, Vec::new())
        }
        Err(errors) => (None, lines(errors.warnings()), errors.iter().map(ToString::to_string).collect()),
    };
    if let Some(Loaded { config, .. }) = &loaded {
        let Config { inbound, outbound, log, .. } = config;
        if inbound.is_none() && outbound.is_none() {
            errors.push(format!(
                "{0}OUTBOUND_ENDPOINTS, {0}INBOUND_ENDPOINTS: neither is set, must be host:port[,host:port...] for at \
                 least one, or have a file or authorities in its place ({0}OUTBOUND_ROUTES, {0}OUTBOUND_DISCOVERY)",
                app_env::PREFIX
            ));
        }
        match log::parse(log) {
            Ok(_) => warnings.extend(log::warning(log).map(|warning| format!("{}LOG: {warning}", app_env::PREFIX))),
            Err(error) => errors.push(format!("{}LOG: {error}", app_env::PREFIX)),
        }
        errors.extend(access_log::check(config).map(|error| chain(&error)));
        errors.extend(listener::loops(config));
        let routes = routes::check(config);
        warnings.extend(routes.warnings);
        errors.extend(routes.errors);
        errors.extend(tls::check(config));
    }
    if on_warning == OnWarning::Fail && !warnings.is_empty() && errors.is_empty() {
        errors.push("--strict takes warnings for errors".to_owned());
    }
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    // About this host, where the configuration may be checked for another one.
    if let Some(warning) = loaded.as_ref().and_then(|loaded| descriptors::warning(&loaded.config)) {
        eprintln!("warning: {warning}");
    }
    for error in &errors {
        eprintln!("error: {error}");
    }
    loaded.filter(|_| errors.is_empty()).ok_or(ExitCode::from(app_env::EXIT_CODE))
}

/// The sockets that the process was started with. Must be called before it has threads.
fn take_sockets(config: &Config) -> Result<(Sockets, Option<Predecessor>), ExitCode> {
    let taken = match handover::take().map_err(|error| fail(&error))? {
        Some((given, predecessor)) => Ok((given, Some(predecessor))),
        None => sockets::from_systemd().map(|given| (given, None)),
    };
    let assigned = taken.and_then(|(given, predecessor)| Ok((Sockets::assign(given, config)?, predecessor)));
    assigned.map_err(|errors| {
        errors.iter().for_each(|error| eprintln!("error: {error}"));
        ExitCode::from(app_env::EXIT_CODE)
    })
}

fn run(loaded: Loaded, sockets: Sockets, predecessor: Option<Predecessor>) -> Result<(), ExitCode> {
    let Config { log, log_format, .. } = &loaded.config;
    // The guard is dropped last.
    let (level, _guard) = LogLevel::init(log, *log_format).map_err(|error| fail(&*Box::<dyn Error>::from(error)))?;
    block_on(async {
        let process = Process::start_on(sockets, loaded, level)?;
        let handover = Handover { predecessor, upgrade: Some(signal(SignalKind::user_defined2())?) };
        let mut first = EndSignals::new()?;
        let mut hangup = signal(SignalKind::hangup())?;
        // A write to a file at the limit of sizes then fails, where the signal would end the process. The handler stays.
        drop(signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
        let reloader = process.reloader();
        // Ends with the process.
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                reloader.reload();
            }
        });
        let (drain, told) = oneshot::channel();
        let ended_by_signal = async {
            // A send fails if the process is at its end anyway.
            let _ = drain.send(first.recv().await);
            // Some senders of signals send one twice, as `timeout` of coreutils: to the process and to its group.
            sleep(SIGNAL_PAUSE).await;
            match EndSignals::new() {
                Ok(mut second) => second.recv().await,
                Err(_) => pending().await,
            }
        };
        tokio::select! {
            () = process.run_with(async { told.await.unwrap_or("no signals come any more") }, handover) => {}
            signal = ended_by_signal => tracing::warn!(signal, "told to end once more, closing all connections"),
        }
        Ok(())
    })
}

/// The signals that end the process.
struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

/// How soon after the first signal another one is the same.
const SIGNAL_PAUSE: Duration = Duration::from_millis(250);

impl EndSignals {
    /// Signals that come from now on.
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next one.
    async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Runs `future` on this thread, which accepts connections and serves admin requests; the traffic is the workers'.
fn block_on(future: impl Future<Output = Result<(), Box<dyn Error + Send + Sync>>>) -> Result<(), ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| fail(&error))?;
    let result = runtime.block_on(future).map_err(|error| fail(&*error));
    // A name look-up that hangs must not hold up the end.
    runtime.shutdown_background();
    result
}

/// Prints an error with its causes.
fn fail(error: &dyn Error) -> ExitCode {
    eprintln!("error: {}", chain(error));
    ExitCode::FAILURE
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        line.push_str(&format!(": {error}"));
        next = error.source();
    }
    line
}

#[cfg(test)]
mod generated;
