//! Log lines on their way to standard output: bounded in size, and written by a thread of their own.

use super::Lost;
use app_env::LogFormat;
use serde_json::{Value, json};
use std::{
    io::{self, Write},
    sync::{Arc, atomic::Ordering::Relaxed, mpsc},
    thread,
    time::Duration,
};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;

/// Makes a writer for each line.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    queue: NonBlocking,
    format: LogFormat,
}

/// Writes one line.
#[derive(Debug)]
pub(super) struct Line<'a>(&'a Lines);

/// Writes the lines that wait, when it is dropped, if somebody reads them.
#[derive(Debug)]
#[must_use = "lines that wait are lost without it"]
pub struct LogGuard(Option<WorkerGuard>);

/// Counts the errors of a writer.
struct Counted<W> {
    inner: W,
    lost: Arc<Lost>,
}

/// Lines that may wait to be written; with [`MAX_LINE`] they bound the memory of a log that nobody reads to 32 MiB.
const MAX_WAITING: usize = 4_096;
/// Bytes of a line. The proxy's own have some hundred; names in certificates and texts of peers have any number.
const MAX_LINE: usize = 8 << 10;
/// Bytes of a text in a JSON line that is too long.
const MAX_TEXT: usize = 256;
/// How long a process that ends waits for a reader of its log.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Starts the thread that writes to `output`.
///
/// A pipe that nobody reads, a terminal that is stopped or a disk that hangs stop a thread that writes to them; workers
/// must go on. So lines wait in a queue, and lines that it has no room for are counted and dropped.
pub(super) fn spawn<W>(output: W, format: LogFormat, lost: &Arc<Lost>) -> (Lines, LogGuard)
where
    W: Write + Send + Sync + 'static,
{
    let output = Counted { inner: output, lost: Arc::clone(lost) };
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MAX_WAITING).thread_name("log");
    let (queue, guard) = builder.finish(output);
    // Set once: a second log in the process is an error before this is called.
    let _ = lost.by_queue.set(queue.error_counter());
    (Lines { queue, format }, LogGuard(Some(guard)))
}

// === impl Lines ===

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

// === impl Line ===

impl Write for Line<'_> {
    /// Takes a whole line, as `tracing_subscriber::fmt` writes it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Lines { queue, format } = self.0;
        let mut queue = queue.clone();
        if line.len() <= MAX_LINE {
            queue.write_all(line)?;
        } else {
            queue.write_all(&cut(line, *format))?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line that is too long, cut; one of JSON is JSON still.
fn cut(line: &[u8], format: LogFormat) -> Vec<u8> {
    let text = String::from_utf8_lossy(line);
    let whole = line.len();
    let cut = match format {
        LogFormat::Plain => format!("{} ... (of {whole} bytes)\n", start(text.trim_end(), MAX_LINE - 64)),
        LogFormat::Json => {
            let mut value = serde_json::from_str(&text).unwrap_or(Value::Null);
            shorten(&mut value);
            let short = format!("{value}\n");
            if value.is_object() && short.len() <= MAX_LINE {
                short
            } else {
                let message = format!("a log line of {whole} bytes");
                format!("{}\n", json!({ "fields": { "message": message, "start": start(&text, MAX_TEXT) } }))
            }
        }
    };
    cut.into_bytes()
}

/// Cuts all texts in a JSON value.
fn shorten(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > MAX_TEXT => {
            *text = format!("{} ... (of {} bytes)", start(text, MAX_TEXT), text.len());
        }
        Value::Array(values) => values.iter_mut().for_each(shorten),
        Value::Object(fields) => fields.values_mut().for_each(shorten),
        _ => {}
    }
}

/// At most so many bytes of a text.
fn start(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

// === impl LogGuard ===

impl Drop for LogGuard {
    fn drop(&mut self) {
        // The guard of the queue prints to standard output if that does not take the lines in time, which never returns if
        // nobody reads. So this is another thread's, which ends with the process.
        let (done, flushed) = mpsc::channel::<()>();
        let guard = self.0.take();
        let flushing = thread::Builder::new().name("log-flush".to_owned()).spawn(move || {
            drop(guard);
            drop(done);
        });
        if flushing.is_ok() {
            let _ = flushed.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

// === impl Counted ===

impl<W: Write> Write for Counted<W> {
    /// Writes all, or counts one line as lost.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.inner.write_all(line).is_err() {
            self.lost.by_error.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_and_say_so() {
        let line = format!("2026-01-01 WARN app: {}\n", "é".repeat(MAX_LINE));
        let cut = String::from_utf8(cut(line.as_bytes(), LogFormat::Plain)).unwrap();
        assert!(cut.len() <= MAX_LINE && cut.starts_with("2026-01-01 WARN app: é"), "{cut}");
        assert!(cut.ends_with(&format!(" ... (of {} bytes)\n", line.len())), "{cut}");
    }

    #[test]
    fn long_lines_of_json_stay_json() {
        let line = json!({ "level": "WARN", "fields": { "message": "short", "names": "a,".repeat(MAX_LINE) } });
        let short: Value = serde_json::from_slice(&cut(line.to_string().as_bytes(), LogFormat::Json)).unwrap();
        assert_eq!((&short["level"], &short["fields"]["message"]), (&json!("WARN"), &json!("short")));
        assert!(short["fields"]["names"].as_str().unwrap().ends_with(&format!("a, ... (of {} bytes)", 2 * MAX_LINE)));
        // Too many fields, and a line that is none of JSON.
        let fields: serde_json::Map<_, _> = (0..MAX_LINE).map(|index| (index.to_string(), json!(0))).collect();
        for line in [json!({ "fields": fields }).to_string(), "[".repeat(2 * MAX_LINE)] {
            let short = cut(line.as_bytes(), LogFormat::Json);
            let value: Value = serde_json::from_slice(&short).unwrap();
            assert!(short.len() <= MAX_LINE && value["fields"]["message"].as_str().unwrap().contains("a log line of"));
        }
    }
}
