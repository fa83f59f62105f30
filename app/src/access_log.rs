//! The access log: one line for each request, written at its end.

mod line;
mod value;
mod writer;

use self::{line::Line, writer::Writer};
use crate::{client_addr::PeerAddr, reload::Reload};
use app_env::{AccessLogFormat, Config, PREFIX};
use http::{Version, request};
use proxy_http::stats::{Observe, ObserveEnd, RequestEnd};
use std::{io, path::PathBuf, sync::Arc, time::SystemTime};

/// The access log of the process.
#[derive(Debug)]
pub(crate) struct AccessLog {
    format: AccessLogFormat,
    sample: f64,
    errors_only: bool,
    writer: Writer,
}

/// Why the log cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{PREFIX}ACCESS_LOG_FILE: {path:?} cannot be opened, must be {expected}")]
pub(crate) struct Error {
    path: PathBuf,
    expected: &'static str,
    source: io::Error,
}

/// One client's connection. Requests hold it and not the log: the log's count of references would be written by all threads.
#[derive(Debug)]
struct Connection(Arc<Client>);

#[derive(Debug)]
struct Client {
    log: Arc<AccessLog>,
    /// The start of the lines of all its requests.
    start: Vec<u8>,
}

/// One request.
struct Request {
    client: Arc<Client>,
    line: Line,
}

/// Checks that the file can be written, without making it.
pub(crate) fn check(config: &Config) -> Option<Error> {
    writer::check(config.access_log.as_ref()?.file.as_deref()?).err()
}

// === impl AccessLog ===

impl AccessLog {
    /// Starts the thread that writes. `None`: there is no log.
    pub(crate) fn start(params: Option<app_env::AccessLog>) -> Result<Option<Arc<Self>>, Error> {
        let Some(app_env::AccessLog { format, file, sample, errors_only, .. }) = params else { return Ok(None) };
        Ok(Some(Arc::new(Self { format, sample, errors_only, writer: Writer::spawn(file)? })))
    }

    /// Observes the requests of a client's connection. `identity`: the name in the client's certificate.
    pub(crate) fn connection(
        self: &Arc<Self>,
        direction: &str,
        peer: PeerAddr,
        identity: Option<&str>,
    ) -> Arc<dyn Observe> {
        let start = Line::client(self.format, direction, peer, identity);
        Arc::new(Connection(Arc::new(Client { log: Arc::clone(self), start })))
    }

    /// Lines that were not written, by reason.
    pub(crate) fn lost(&self) -> [(&'static str, u64); 2] {
        self.writer.lost()
    }

    /// Writes the lines that wait, if that is soon done. Later ones are lost.
    pub(crate) fn close(&self) {
        self.writer.close();
    }
}

impl Reload for AccessLog {
    /// Opens the file again when told, since it may have been moved.
    fn reload(&self, forced: bool) {
        if forced {
            self.writer.reopen();
        }
    }
}

// === impl Connection ===

impl Observe for Connection {
    fn observe(&self, head: &mut request::Parts) -> Option<Box<dyn ObserveEnd>> {
        self.start(|format, client| Line::start(format, client, SystemTime::now(), head))
    }

    fn observe_refused(&self, version: Version) -> Option<Box<dyn ObserveEnd>> {
        self.start(|format, client| Line::refused(format, client, SystemTime::now(), version))
    }
}

impl Connection {
    /// `None`: the request is not in the sample.
    fn start(&self, line: impl FnOnce(AccessLogFormat, &[u8]) -> Line) -> Option<Box<dyn ObserveEnd>> {
        let Client { log, start } = &*self.0;
        if log.sample < 1.0 && fastrand::f64() >= log.sample {
            return None;
        }
        Some(Box::new(Request { client: Arc::clone(&self.0), line: line(log.format, start) }))
    }
}

// === impl Request ===

impl ObserveEnd for Request {
    fn end(self: Box<Self>, end: &RequestEnd) {
        let Self { client, line } = *self;
        let log = &client.log;
        if !log.errors_only || end.is_failure() {
            log.writer.write(&line.end(log.format, end));
        }
    }
}
