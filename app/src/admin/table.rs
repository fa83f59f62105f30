//! Tables for people, as the admin server's pages have them.

use std::{fmt::Write as _, time::Duration};

/// A table of `rows`, each with the lines that stand under it. The first `words` columns are aligned to the left, the others, which
/// have figures, to the right.
pub(super) fn table<const N: usize>(
    headings: [&str; N],
    words: usize,
    rows: impl IntoIterator<Item = ([String; N], String)>,
) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    let headings = headings.map(str::to_owned);
    let mut widths = headings.each_ref().map(|cell| cell.chars().count());
    for (cells, _) in &rows {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = line(&headings, &widths, words);
    for (cells, under) in &rows {
        text += &line(cells, &widths, words);
        text += under;
    }
    text
}

fn line(cells: &[String], widths: &[usize], words: usize) -> String {
    let mut line = String::new();
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let _ = if column < words { write!(line, "{cell:<width$}  ") } else { write!(line, "{cell:>width$}  ") };
    }
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}

pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

/// A peer's text without the characters that a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '?' } else { char }).collect()
}
