//! Results as JSON lines: the machine first, then a line for each cell and round.

use super::{Cell, Sample};
use crate::{
    fresh::{Transfer, Transferred},
    starvation::{Beside, Scene},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    hash::{DefaultHasher, Hasher as _},
    io::{self, Write as _},
    path::Path,
    process::Command,
};

/// Where and how a run was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The CPU's name and how many there are.
    pub cpu: String,
    /// Memory, in GiB.
    pub memory_gib: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The commit that was measured, with `+` behind it if files were changed.
    pub commit: String,
    /// The proxy's binary, by a hash of its bytes. Empty: there was none.
    #[serde(default)]
    pub app: String,
    /// The command line.
    pub command: String,
    /// Streams were measured for so long in each cell, in seconds.
    pub seconds: f64,
    /// So many times.
    pub rounds: usize,
}

/// One line of results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// Where and how; again after each resumption.
    Machine(Machine),
    /// A measurement.
    Sample {
        /// Of which cell.
        cell: Cell,
        /// In which round, from 0.
        round: usize,
        /// `Err`: why it could not be measured.
        sample: Result<Sample, String>,
    },
    /// A measurement of a transfer on a fresh connection.
    Transfer {
        /// Of which transfer.
        transfer: Transfer,
        /// In which round, from 0.
        round: usize,
        /// `Err`: why it could not be measured.
        sample: Result<Transferred, String>,
    },
    /// A measurement beside readers that have stopped.
    Starvation {
        /// Of which readers, and beside which traffic.
        scene: Scene,
        /// In which round, from 0.
        round: usize,
        /// `Err`: why it could not be measured.
        sample: Result<Beside, String>,
    },
}

/// A file of results that grows.
#[derive(Debug)]
pub struct Results {
    file: File,
    done: HashSet<(String, usize)>,
}

// === impl Machine ===

impl Machine {
    /// This machine and this call.
    pub fn here(app: &Path, seconds: f64, rounds: usize) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let model = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib: u64 = memory.and_then(|kib| kib.split(' ').next()?.parse().ok()).unwrap_or_default();
        let mut args = std::env::args();
        let program = args.next().unwrap_or_default();
        let program = Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self {
            cpu: format!("{cpus} x {model}"),
            memory_gib: kib.div_ceil(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: git(&["describe", "--always", "--dirty=+", "--exclude=*"]),
            app: fs::read(app).map(|bytes| fingerprint(&bytes)).unwrap_or_default(),
            command: std::iter::once(program).chain(args.map(quoted)).collect::<Vec<_>>().join(" "),
            seconds,
            rounds,
        }
    }

    /// Whether measurements of this run can stand beside earlier ones.
    fn continues(&self, before: &Self) -> bool {
        (&self.cpu, &self.commit, &self.app, self.seconds) == (&before.cpu, &before.commit, &before.app, before.seconds)
    }
}

fn fingerprint(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    format!("{:016x}", hasher.finish())
}

/// As it would be typed.
fn quoted(arg: String) -> String {
    if arg.contains(' ') { format!("\"{arg}\"") } else { arg }
}

fn git(args: &[&str]) -> String {
    let output = Command::new("git").args(args).output();
    let output = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    if output.is_empty() { "unknown".to_owned() } else { output }
}

// === impl Record ===

impl Record {
    /// The name and the round of a cell that could be measured.
    fn done(&self) -> Option<(String, usize)> {
        match self {
            Self::Sample { cell, round, sample: Ok(_) } => Some((cell.to_string(), *round)),
            Self::Transfer { transfer, round, sample: Ok(_) } => Some((transfer.to_string(), *round)),
            Self::Starvation { scene, round, sample: Ok(_) } => Some((scene.to_string(), *round)),
            _ => None,
        }
    }
}

// === impl Results ===

impl Results {
    /// Opens `path` for results of `machine`, to go on where a run was stopped. A file that cannot be continued is kept
    /// beside it as `.old`: a run in which everything `planned` was measured, or one of another commit or measured time.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or holds something else.
    pub fn open(path: &Path, machine: &Machine, planned: impl Iterator<Item = (String, usize)>) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut done = HashSet::new();
        let mut same = true;
        if path.exists() {
            for record in Self::read(path)? {
                match record {
                    Record::Machine(before) => same &= machine.continues(&before),
                    record => done.extend(record.done()),
                }
            }
            if !same || planned.into_iter().all(|key| done.contains(&key)) {
                fs::rename(path, path.with_extension("jsonl.old"))?;
                done.clear();
            }
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        // Ends a line that was cut off.
        if file.metadata()?.len() > 0 {
            file.write_all(b"\n")?;
        }
        let mut results = Self { file, done };
        results.add(&Record::Machine(machine.clone()))?;
        Ok(results)
    }

    /// All lines of a file. One that was cut off at its end is left out.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or holds something else.
    pub fn read(path: &Path) -> io::Result<Vec<Record>> {
        let text = fs::read_to_string(path)?;
        let mut records = Vec::new();
        for (n, line) in text.lines().enumerate() {
            match serde_json::from_str(line) {
                Ok(record) => records.push(record),
                // Stopped while it was written, whether or not the run was resumed.
                Err(error) if error.is_eof() => {}
                Err(error) => {
                    return Err(io::Error::other(format!("{} line {}: {error}", path.display(), n + 1)));
                }
            }
        }
        Ok(records)
    }

    /// Whether the cell of that name was measured in that round.
    pub fn has(&self, cell: &str, round: usize) -> bool {
        self.done.contains(&(cell.to_owned(), round))
    }

    /// Adds a line.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn add(&mut self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}
