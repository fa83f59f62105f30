//! The manual: its links lead somewhere, and its variables exist.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A chapter of the manual.
pub(crate) fn chapter(name: &str) -> String {
    read(&root().join("docs").join(name))
}

/// All chapters, and the pages beside the crates.
fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let beside = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| root().join(name));
    docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")).chain(beside).collect()
}

/// The lines outside of code.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    page.split("```").step_by(2).flat_map(str::lines)
}

/// The targets of links.
fn links(page: &str) -> impl Iterator<Item = &str> {
    prose(page).flat_map(|line| line.split("](").skip(1)).filter_map(|rest| rest.split(')').next())
}

/// The anchors of a page, by GitHub's and mdBook's rule for headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let named = page.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned);
    let of_heading = |line: &str| {
        let kept = line.trim_start_matches('#').trim().to_lowercase();
        kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-")
    };
    prose(page).filter(|line| line.starts_with('#')).map(of_heading).chain(named).collect()
}

#[test]
fn each_link_leads_somewhere() {
    let mut broken = Vec::new();
    let mut seen = 0;
    for path in pages() {
        let page = read(&path);
        for link in links(&page).filter(|link| !link.starts_with("http")) {
            seen += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            if !target.exists() || !anchor.is_empty() && !anchors(&read(&target)).contains(anchor) {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(seen > 50, "{seen} links");
}

#[test]
fn the_contents_have_each_chapter_once() {
    let contents = chapter("SUMMARY.md");
    let mut listed: Vec<_> = links(&contents).collect();
    listed.sort_unstable();
    let is_chapter = |path: &PathBuf| path.parent().unwrap().ends_with("docs") && !path.ends_with("SUMMARY.md");
    let mut chapters: Vec<_> = pages()
        .into_iter()
        .filter(is_chapter)
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    chapters.sort_unstable();
    assert_eq!(listed, chapters);
}

#[test]
fn each_variable_of_the_manual_exists() {
    let known: BTreeSet<_> = app_env::variables().map(|variable| variable.name).collect();
    let mut seen = 0;
    for path in pages() {
        for text in read(&path).split("LINKERD2_PROXY_").skip(1) {
            let name: String =
                text.chars().take_while(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_').collect();
            // Without a name it is the prefix of all, or of some.
            if name.is_empty() || name.ends_with('_') {
                continue;
            }
            seen += 1;
            assert!(known.contains(&format!("LINKERD2_PROXY_{name}")), "{}: {name}", path.display());
        }
    }
    assert!(seen > 20, "{seen} variables");
}

#[test]
fn the_readme_is_short() {
    let lines = read(&root().join("README.md")).lines().count();
    assert!(lines <= 150, "{lines} lines");
}
