//! Logging: set up from the configuration, changed while running, and never in the way of the traffic.

mod rate;
mod throttle;
mod writer;

pub(crate) use throttle::Throttle;
pub use writer::LogGuard;

use self::rate::RateLimit;
use app_env::LogFormat;
use std::{
    fmt, io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tracing_appender::non_blocking::ErrorCounter;
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};

/// The filter of log lines.
#[derive(Clone)]
pub struct LogLevel {
    filter: Arc<dyn Filter>,
    lost: Arc<Lost>,
}

/// Log lines that were not written, by reason.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    /// Too many of their kind came.
    by_rate: AtomicU64,
    /// Too many waited to be written. Not set: there is no queue.
    by_queue: OnceLock<ErrorCounter>,
    /// Writing them failed.
    by_error: AtomicU64,
}

/// A subscriber that can show and replace its filter; an error has the reason why not.
trait Filter: Send + Sync {
    fn show(&self) -> Result<String, String>;
    fn replace(&self, filter: &str) -> Result<(), String>;
}

struct Fixed;

// === impl LogLevel ===

impl LogLevel {
    /// Logs to standard output, as `filter` says. A thread of its own writes; lines that it cannot write in time are dropped
    /// and counted. Lines that wait at the end are written when the guard is dropped.
    ///
    /// # Errors
    ///
    /// A message, when `filter` is no tracing filter or the process logs already.
    pub fn init(filter: &str, format: LogFormat) -> Result<(Self, LogGuard), String> {
        let (filter, handle) = reload::Layer::<EnvFilter, Registry>::new(parse(filter)?);
        let lost = Arc::<Lost>::default();
        let (lines, guard) = writer::spawn(io::stdout(), format, &lost);
        let registry = tracing_subscriber::registry().with(filter).with(RateLimit::new(Arc::clone(&lost)));
        let fmt = tracing_subscriber::fmt::layer().with_writer(lines).log_internal_errors(false);
        match format {
            LogFormat::Plain => registry.with(fmt.with_ansi(false)).try_init(),
            LogFormat::Json => registry.with(fmt.json()).try_init(),
        }
        .map_err(|error| error.to_string())?;
        Ok((Self { filter: Arc::new(handle), lost }, guard))
    }

    /// A level that cannot be changed, for programs that set up logging themselves.
    #[must_use]
    pub fn fixed() -> Self {
        Self { filter: Arc::new(Fixed), lost: Arc::default() }
    }

    /// Log lines that were not written.
    pub(crate) fn lost(&self) -> &Arc<Lost> {
        &self.lost
    }

    pub(crate) fn show(&self) -> Result<String, String> {
        self.filter.show()
    }

    pub(crate) fn replace(&self, filter: &str) -> Result<(), String> {
        self.filter.replace(filter)
    }
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogLevel").field(&self.show()).finish()
    }
}

// === impl Lost ===

impl Lost {
    /// Lines that were not written, by reason.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 3] {
        let by_queue = self.by_queue.get().map_or(0, ErrorCounter::dropped_lines);
        [
            ("rate", self.by_rate.load(Relaxed)),
            ("queue", u64::try_from(by_queue).unwrap_or(u64::MAX)),
            ("error", self.by_error.load(Relaxed)),
        ]
    }
}

// === impl Filter ===

impl Filter for reload::Handle<EnvFilter, Registry> {
    fn show(&self) -> Result<String, String> {
        self.with_current(ToString::to_string).map_err(|error| error.to_string())
    }

    fn replace(&self, filter: &str) -> Result<(), String> {
        self.reload(parse(filter)?).map_err(|error| error.to_string())
    }
}

impl Filter for Fixed {
    fn show(&self) -> Result<String, String> {
        Err("the log level is not set here".to_owned())
    }

    fn replace(&self, _: &str) -> Result<(), String> {
        self.show().map(drop)
    }
}

/// Checks a filter without using it.
pub(crate) fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder().parse(filter).map_err(|error| {
        format!("{filter:?} is not a log filter ({error}); it must be like \"info\" or \"warn,proxy_http=debug\"")
    })
}
