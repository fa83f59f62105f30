//! Tables in Markdown.

/// A table whose first column is text and whose others are figures.
pub(super) fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&head.map(str::to_owned));
    text += "| --- |";
    text += &" ---: |".repeat(N - 1);
    text.push('\n');
    let start = text.len();
    rows.into_iter().for_each(|row| text += &line(&row));
    // A head alone is no table.
    if text.len() == start { String::new() } else { text + "\n" }
}
