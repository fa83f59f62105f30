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
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
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

/// Reads a filter. Levels above [`STATIC_MAX_LEVEL`], which this binary does not have, are lowered to it: the library would write
/// several lines to standard error about each.
pub(crate) fn parse(filter: &str) -> Result<EnvFilter, String> {
    if let Some(word) = filter.split(',').map(str::trim).find(|word| is_misspelt(word)) {
        return Err(format!(
            "{word:?} is neither a level nor a crate of the proxy; levels are off, error, warn, info and debug; \
             another target is written {word}=debug"
        ));
    }
    let directives: Vec<_> = filter.split(',').map(|directive| clip(directive, STATIC_MAX_LEVEL)).collect();
    EnvFilter::builder().parse(directives.join(",")).map_err(|error| {
        format!("{filter:?} is not a log filter ({error}); it must be like \"info\" or \"warn,proxy_http=debug\"")
    })
}

/// A warning about a filter that asks for lines which this binary does not have. `None`: it does not.
pub(crate) fn warning(filter: &str) -> Option<String> {
    let level = |directive: &str| directive.rsplit('=').next()?.trim().parse::<LevelFilter>().ok();
    let beyond = filter.split(',').find(|directive| level(directive).is_some_and(|level| level > STATIC_MAX_LEVEL))?;
    Some(format!("{beyond:?} is more than this binary logs, {STATIC_MAX_LEVEL} is the most"))
}

/// Whether a directive is a word alone that is no level, and no target that there is: a misspelt level would silence all else.
fn is_misspelt(directive: &str) -> bool {
    let is_word = directive.chars().all(|char| char.is_ascii_alphanumeric() || ['_', '-'].contains(&char));
    let is_target = TARGETS.iter().any(|target| directive.starts_with(target));
    !directive.is_empty() && is_word && !is_target && directive.parse::<LevelFilter>().is_err()
}

/// A directive with the level `most` in place of one above it. A target alone has all levels.
fn clip(directive: &str, most: LevelFilter) -> String {
    let (target, level) = match directive.rsplit_once('=') {
        Some((target, level)) => (Some(target), level),
        None => (None, directive),
    };
    match (target, level.trim().parse::<LevelFilter>()) {
        (Some(target), Ok(level)) if level > most => format!("{target}={most}"),
        (None, Ok(level)) if level > most => most.to_string(),
        (None, Err(_))
            if most < LevelFilter::TRACE && TARGETS.iter().any(|target| directive.trim().starts_with(target)) =>
        {
            format!("{directive}={most}")
        }
        _ => directive.to_owned(),
    }
}

/// First parts of the names of crates in the process that log.
const TARGETS: [&str; 13] = [
    "app",
    "proxy_http",
    "http_h2",
    "h2",
    "hyper",
    "hickory",
    "mio",
    "opentelemetry",
    "rustls",
    "tokio",
    "tonic",
    "tower",
    "tracing",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_refused_and_named() {
        for filter in ["inof", "warn,inof", "warn, inof", "debg", "verbose", "linkerd", "warn,h2=debug,trce"] {
            let error = parse(filter).unwrap_err();
            let word = filter.rsplit(',').next().unwrap().trim();
            assert!(error.starts_with(&format!("{word:?} is neither a level nor a crate")), "{error}");
        }
        for filter in [
            "",
            "off",
            "info",
            "INFO",
            "3",
            "warn,app",
            "app::worker",
            "proxy_http",
            "warn,h2=debug",
            "hyper_util",
            "linkerd=info,warn",
            "[span]=debug",
            "warn,[span{a=1}]",
        ] {
            assert_eq!(parse(filter).err(), None, "{filter}");
        }
    }

    #[test]
    fn levels_that_are_not_in_the_binary_are_left_out() {
        let check = |directive, expect| assert_eq!(clip(directive, LevelFilter::DEBUG), expect, "{directive}");
        check("trace", "debug");
        check("h2=trace", "h2=debug");
        check("h2", "h2=debug");
        check("[span{a=1}]=trace", "[span{a=1}]=debug");
        for directive in ["info", "h2=info", "[span{a=trace}]", "[span]", "x"] {
            check(directive, directive);
        }
        assert_eq!(clip("h2", LevelFilter::TRACE), "h2");
    }
}
