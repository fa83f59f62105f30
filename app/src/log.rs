//! Logging: set up from the configuration, changed while running.

use app_env::LogFormat;
use std::{fmt, sync::Arc};
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};

/// The filter of log lines.
#[derive(Clone)]
pub struct LogLevel(Arc<dyn Filter>);

/// A subscriber that can show and replace its filter; an error has the reason why not.
trait Filter: Send + Sync {
    fn show(&self) -> Result<String, String>;
    fn replace(&self, filter: &str) -> Result<(), String>;
}

struct Fixed;

// === impl LogLevel ===

impl LogLevel {
    /// Logs to standard output, as `filter` says.
    ///
    /// # Errors
    ///
    /// A message, when `filter` is no tracing filter or the process logs already.
    pub fn init(filter: &str, format: LogFormat) -> Result<Self, String> {
        let (filter, handle) = reload::Layer::<EnvFilter, Registry>::new(parse(filter)?);
        let registry = tracing_subscriber::registry().with(filter);
        let fmt = tracing_subscriber::fmt::layer();
        match format {
            LogFormat::Plain => registry.with(fmt.with_ansi(false)).try_init(),
            LogFormat::Json => registry.with(fmt.json()).try_init(),
        }
        .map_err(|error| error.to_string())?;
        Ok(Self(Arc::new(handle)))
    }

    /// A level that cannot be changed, for programs that set up logging themselves.
    #[must_use]
    pub fn fixed() -> Self {
        Self(Arc::new(Fixed))
    }

    pub(crate) fn show(&self) -> Result<String, String> {
        self.0.show()
    }

    pub(crate) fn replace(&self, filter: &str) -> Result<(), String> {
        self.0.replace(filter)
    }
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogLevel").field(&self.show()).finish()
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
