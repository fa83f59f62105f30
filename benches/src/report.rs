//! The report: a run's results as Markdown with charts, and conclusions in words.

mod advice;
mod answers;
mod chart;
mod charts;
mod data;
mod flow_control;
mod table;

pub use self::{
    advice::Advice,
    chart::{Chart, Kind, Series},
    data::{Data, Measured, Spread},
};

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

/// Writes the report into a folder: `README.md` on cells, with a picture for each chart and `cells.md` with the medians of all
/// cells; `flow-control.md` on transfers on fresh connections and on stopped readers. A file of which nothing was measured is
/// left as it is. Returns the pages.
///
/// # Errors
///
/// When the folder cannot be written.
pub fn write(data: &Data, dir: &Path) -> Result<Vec<PathBuf>, Box<dyn Error + Send + Sync>> {
    fs::create_dir_all(dir)?;
    let mut pages = Vec::new();
    if !data.cells().is_empty() {
        for chart in charts::all(data) {
            fs::write(dir.join(format!("{}.svg", chart.name)), chart.svg()?)?;
        }
        pages.push((dir.join("README.md"), markdown(data)));
        let cells = answers::cells(data);
        let cells = format!("# All cells\n\nMedians. \"-\": no stream ended, or no link.\n\n{cells}");
        fs::write(dir.join("cells.md"), cells)?;
    }
    if !data.transfers.is_empty() || !data.scenes.is_empty() {
        pages.push((dir.join("flow-control.md"), flow_control::markdown(data)));
    }
    for (path, text) in &pages {
        fs::write(path, text)?;
    }
    Ok(pages.into_iter().map(|(path, _)| path).collect())
}

/// The text on cells.
pub fn markdown(data: &Data) -> String {
    let machine = &data.machine;
    let mut text = format!(
        "# What windows do to HTTP/2 through a proxy\n\n\
         {} cells, each measured for {} s in {} interleaved rounds; medians, and thin lines in the charts from the \
         least to the most.\nOne worker of the proxy, one client connection, one connection to the endpoint; links of \
         1 Gbit/s where a round trip\nis given, emulated on loopback (delays and queues, no loss).\n\n\
         - machine: {}, {} GiB, Linux {}\n- commit: {}\n- command: `{}`\n\n",
        data.cells().len(),
        machine.seconds,
        machine.rounds,
        machine.cpu,
        machine.memory_gib,
        machine.kernel,
        data.commits().join(", "),
        data.commands.join("`, `"),
    );
    text += "A window of `64K / 1M` is one of 64 KiB for each stream and of 1 MiB for the connection, the proxy's \
             default.\n[cells.md](cells.md) has the figures of every cell, and [flow-control.md](flow-control.md) single transfers on new\n\
             connections, and traffic beside readers that have stopped.\n\n";
    for (title, section) in answers::all(data) {
        let body = section.trim();
        if !body.is_empty() {
            text += &format!("## {title}\n\n{body}\n\n");
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests;
