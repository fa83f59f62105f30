//! Lines on their way to a file or to standard error: bounded in size, and written by a thread of their own.

use super::Error;
use rustix::fs::{OFlags, fcntl_setfl};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    mem,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

/// Hands lines to the thread that writes them.
#[derive(Debug)]
pub(super) struct Writer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// The thread has something to do.
    wake: Condvar,
    /// The thread has ended.
    ended: Condvar,
    lost_by_queue: AtomicU64,
    lost_by_error: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<u8>,
    lines: u64,
    /// The file is to be opened again.
    is_reopened: bool,
    /// All is to be written, and nothing more comes.
    is_closed: bool,
    has_ended: bool,
}

/// Where lines go.
enum Output {
    Errors,
    File { path: PathBuf, file: File },
}

/// Bytes of lines that may wait: some ten thousand lines.
const MAX_WAITING: usize = 8 << 20;
/// Lines are written together when one has waited for so long, or when there are [`BATCH`] bytes of them: a write for each
/// would cost more than all else.
const INTERVAL: Duration = Duration::from_millis(50);
const BATCH: usize = 256 << 10;
/// How long a process that ends waits until its lines are written.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Checks that a file can be written, without making it.
pub(super) fn check(path: &Path) -> Result<(), Error> {
    match options().open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            match folder.metadata() {
                Ok(metadata) if metadata.is_dir() => Ok(()),
                Ok(_) => Err(Error::new(path, io::ErrorKind::NotADirectory.into())),
                Err(error) => Err(Error::new(path, error)),
            }
        }
        opened => opened.map(drop).map_err(|error| Error::new(path, error)),
    }
}

/// Opens a file, at once: one that is a pipe without a reader would else wait for that.
fn open(path: &Path) -> io::Result<File> {
    let file = options().create(true).open(path)?;
    // Readers of a pipe may take their time; lines wait for them.
    fcntl_setfl(&file, OFlags::APPEND)?;
    Ok(file)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    options
}

// === impl Error ===

impl Error {
    fn new(path: &Path, source: io::Error) -> Self {
        Self { path: path.to_owned(), expected: "a file that can be written, in a folder that exists", source }
    }
}

// === impl Writer ===

impl Writer {
    /// Starts the thread, which ends when the log is [closed](Self::close). `file`: standard error, if there is none.
    pub(super) fn spawn(file: Option<PathBuf>) -> Result<Self, Error> {
        let output = match file {
            None => Output::Errors,
            Some(path) => match open(&path) {
                Ok(file) => Output::File { path, file },
                Err(error) => return Err(Error::new(&path, error)),
            },
        };
        let shared = Arc::<Shared>::default();
        let writing = Arc::clone(&shared);
        let spawned = thread::Builder::new().name("access-log".to_owned()).spawn(move || writing.run(output));
        spawned.map_err(|error| Error::new(Path::new("a thread"), error))?;
        Ok(Self(shared))
    }

    /// Has a line written, which is counted as lost if there are too many.
    pub(super) fn write(&self, line: &[u8]) {
        let Shared { wake, lost_by_queue, .. } = &*self.0;
        let mut queue = self.0.lock();
        let before = queue.waiting.len();
        if queue.is_closed || before + line.len() > MAX_WAITING {
            drop(queue);
            lost_by_queue.fetch_add(1, Relaxed);
            return;
        }
        queue.waiting.extend_from_slice(line);
        queue.lines += 1;
        let is_full = before < BATCH && queue.waiting.len() >= BATCH;
        drop(queue);
        if before == 0 || is_full {
            wake.notify_one();
        }
    }

    /// Has the file opened again.
    pub(super) fn reopen(&self) {
        self.0.lock().is_reopened = true;
        self.0.wake.notify_one();
    }

    /// Lines that were not written, by reason.
    pub(super) fn lost(&self) -> [(&'static str, u64); 2] {
        let Shared { lost_by_queue, lost_by_error, .. } = &*self.0;
        [("queue", lost_by_queue.load(Relaxed)), ("error", lost_by_error.load(Relaxed))]
    }

    /// Writes the lines that wait, if that is soon done.
    pub(super) fn close(&self) {
        let mut queue = self.0.lock();
        queue.is_closed = true;
        self.0.wake.notify_one();
        let waited = self.0.ended.wait_timeout_while(queue, CLOSE_TIMEOUT, |queue| !queue.has_ended);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes until the log is closed.
    fn run(&self, mut output: Output) {
        let mut batch = Vec::new();
        // Whether the last write has stopped within a line.
        let mut is_cut = false;
        loop {
            batch.clear();
            let Queue { lines, is_reopened, is_closed, .. } = self.next(&mut batch);
            if is_reopened {
                output.reopen();
            }
            let ended = if is_cut { output.write(b"\n") } else { Ok(()) };
            match ended.and_then(|()| output.write(&batch)) {
                Ok(()) => is_cut = false,
                Err(error) => {
                    if !is_cut {
                        tracing::error!(%error, "cannot write the access log; lines are lost until that ends");
                    }
                    is_cut = true;
                    self.lost_by_error.fetch_add(lines, Relaxed);
                }
            }
            if is_closed {
                self.lock().has_ended = true;
                self.ended.notify_all();
                return;
            }
        }
    }

    /// Waits for lines, and takes them.
    fn next(&self, batch: &mut Vec<u8>) -> Queue {
        let is_told = |queue: &Queue| queue.is_reopened || queue.is_closed;
        let queue = self.lock();
        let queue = self.wake.wait_while(queue, |queue| queue.waiting.is_empty() && !is_told(queue));
        let queue = queue.unwrap_or_else(PoisonError::into_inner);
        let is_small = |queue: &mut Queue| queue.waiting.len() < BATCH && !is_told(queue);
        let waited = self.wake.wait_timeout_while(queue, INTERVAL, is_small);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        mem::swap(&mut queue.waiting, batch);
        let lines = mem::take(&mut queue.lines);
        let is_reopened = mem::take(&mut queue.is_reopened);
        Queue { waiting: Vec::new(), lines, is_reopened, is_closed: queue.is_closed, has_ended: false }
    }
}

// === impl Output ===

impl Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Errors => io::stderr().write_all(bytes),
            Self::File { file, .. } => file.write_all(bytes),
        }
    }

    /// If that fails, lines go where they went before.
    fn reopen(&mut self) {
        let Self::File { path, file } = self else { return };
        match open(path) {
            Ok(opened) => *file = opened,
            Err(error) => tracing::error!(%error, file = %path.display(), "cannot open the access log again"),
        }
    }
}
