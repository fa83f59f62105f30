//! Which folder of `proxy-http` may see which, and how large its files and functions may be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The rooms that each room may use, from the top. Each folder and file of `src` but lib.rs is a row.
const ARROWS: [(&str, &[&str]); 11] = [
    ("proxy", &["balance", "client", "http1", "route", "body", "connection", "message", "stats"]),
    ("balance", &["client", "body", "connection", "message"]),
    ("client", &["http1", "body", "connection", "message", "stats"]),
    ("server", &["http1", "body", "connection", "message", "stats"]),
    ("http1", &["body", "connection", "message", "stats"]),
    ("body", &["connection", "message", "stats"]),
    ("connection", &["message", "stats"]),
    ("route", &["message"]),
    ("message", &["stats"]),
    ("stats", &[]),
    // hyper's builders stand apart: they know of `http-h2` and hyper only.
    ("hyper", &[]),
];

const MAX_ENTRIES: usize = 14;
const MAX_LINES: usize = 450;
const MAX_FUNCTION: usize = 70;

/// The path of a module in its crate. That of the crate itself is empty.
type Module = Vec<String>;

/// The modules of a crate, by their paths.
struct Crate {
    modules: BTreeMap<Module, Source>,
}

#[derive(Default)]
struct Source {
    file: PathBuf,
    text: String,
    /// The paths of its crate that it uses, absolute.
    uses: Vec<Module>,
    /// The names that it exports, and the paths that they stand for.
    exports: BTreeMap<String, Module>,
}

#[test]
fn arrows_between_rooms_are_the_ones_of_the_architecture() {
    let proxy_http = Crate::read();
    let allowed: BTreeMap<_, _> = ARROWS.into_iter().collect();
    let mut wrong = BTreeSet::new();
    for (module, source) in &proxy_http.modules {
        let Some(room) = module.first() else { continue };
        let to = allowed.get(&**room).unwrap_or_else(|| panic!("{room} is no room of the table"));
        for used in proxy_http.used(source) {
            if let Some(other) = used.first().filter(|other| *other != room && !to.contains(&&***other)) {
                wrong.insert(format!("{}: {room} -> {other}", source.file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that are not allowed: {wrong:#?}");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let proxy_http = Crate::read();
    // A parent declares its children and re-exports their items, so these arrows are left out.
    let mut arrows: BTreeMap<&Module, BTreeSet<Module>> = BTreeMap::new();
    for (module, source) in &proxy_http.modules {
        let to = proxy_http.used(source).into_iter().filter(|to| !to.starts_with(module) && !module.starts_with(to));
        arrows.insert(module, to.collect());
    }
    // Files that import none of the rest, or that none of the rest imports, are in no circle.
    loop {
        let imported: BTreeSet<_> = arrows.values().flatten().cloned().collect();
        let before = arrows.len();
        arrows.retain(|module, to| !to.is_empty() && imported.contains(*module));
        let rest: BTreeSet<_> = arrows.keys().map(|module| (*module).clone()).collect();
        arrows.values_mut().for_each(|to| to.retain(|module| rest.contains(module)));
        if arrows.len() == before {
            break;
        }
    }
    let circle: Vec<_> = arrows.iter().map(|(module, to)| (module.join("::"), to)).collect();
    assert!(circle.is_empty(), "these files import each other: {circle:#?}");
}

#[test]
fn rooms_and_files_are_small() {
    let entries = fs::read_dir(sources()).unwrap().count();
    assert!(entries <= MAX_ENTRIES, "{entries} entries in {}", sources().display());
    for source in Crate::read().modules.into_values() {
        let lines = source.text.lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines", source.file.display());
        for (function, lines) in functions(&source.text) {
            assert!(lines <= MAX_FUNCTION, "{} has {lines} lines, in {}", function, source.file.display());
        }
    }
}

#[test]
fn paths_and_functions_are_read_as_the_compiler_reads_them() {
    let module = ["a", "b"].map(str::to_owned);
    let of = |text| uses(text, &module).into_iter().map(|(path, _)| path.join("::")).collect::<Vec<_>>();
    assert_eq!(of("use crate::{c::D, e::{self, F as G}};"), ["c::D", "e", "e::F"]);
    assert_eq!(
        of("use super::{\n    c::D,\n    E,\n};\npub(crate) use self::f::G;"),
        ["a::c::D", "a::E", "a::b::f::G"]
    );
    assert_eq!(of("mod tests {\n    use super::*;\n    use crate::c::D;\n}"), ["a::b", "c::D"]);
    assert_eq!(of("fn f() { crate::c::d(); } // crate::x\n/// [`D`](crate::x::D)"), ["c::d"]);
    assert_eq!(of("use std::{crate_like::D, mem};"), [] as [String; 0]);
    let text = "impl A {\n    fn one() {}\n    pub(crate) async fn two(\n    ) {\n        a();\n    }\n}\nfn three() { '{' }\nfn four();\n";
    assert_eq!(functions(text), [("one", 1), ("two", 4), ("three", 1)].map(|(name, lines)| (name.to_owned(), lines)));
}

// === impl Crate ===

impl Crate {
    /// Reads all of `proxy-http` but its unit tests that are files of their own.
    fn read() -> Self {
        let mut modules = BTreeMap::new();
        let mut folders = vec![sources()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let is_test = path.file_stem().is_some_and(|stem| stem == "tests");
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test {
                    let source = Source::read(&path);
                    modules.insert(module(&source.file), source);
                }
            }
        }
        assert!(modules.len() > ARROWS.len(), "the sources are where they are looked for");
        Self { modules }
    }

    /// The modules that a file uses. A re-exported name counts as a use of its own module. The crate's root is left out: all
    /// may use its items.
    fn used(&self, source: &Source) -> BTreeSet<Module> {
        source.uses.iter().map(|path| self.resolve(path)).filter(|module| !module.is_empty()).collect()
    }

    fn resolve(&self, path: &[String]) -> Module {
        let mut module = Module::new();
        for (index, name) in path.iter().enumerate() {
            let child: Module = module.iter().chain([name]).cloned().collect();
            if self.modules.contains_key(&child) {
                module = child;
            } else if let Some(exported) = self.modules[&module].exports.get(name) {
                return self.resolve(&[exported, &path[index + 1..]].concat());
            } else {
                break;
            }
        }
        module
    }
}

// === impl Source ===

impl Source {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let file = path.strip_prefix(sources()).unwrap().to_owned();
        let uses = uses(&text, &module(&file));
        let exports = uses.iter().filter_map(|(path, exported)| Some((exported.clone()?, path.clone()))).collect();
        Self { file, text, uses: uses.into_iter().map(|(path, _)| path).collect(), exports }
    }
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../proxy-http/src")
}

/// The path of the module that a file is.
fn module(file: &Path) -> Module {
    let path = file.with_extension("");
    let mut module: Module = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}

/// The paths into the crate that the file of a module has, and the names that it exports them by.
fn uses(text: &str, module: &[String]) -> Vec<(Module, Option<String>)> {
    let code = without_comments(text);
    let mut found = Vec::new();
    let mut rest = &*code;
    while !rest.is_empty() {
        let line = rest.lines().next().unwrap_or_default();
        let statement = line.trim_start();
        let before_use = statement.split_once("use ").map(|(before, _)| before);
        match before_use.filter(|before| ["", "pub ", "pub(crate) ", "pub(super) "].contains(before)) {
            Some(before) => {
                let (used, after) = rest.split_once("use ").unwrap().1.split_once(';').unwrap();
                // An indented `use` is in the unit tests, which are a module of their own.
                let is_in_tests = statement.len() < line.len();
                let here: Module = module.iter().cloned().chain(is_in_tests.then(|| "tests".to_owned())).collect();
                let mut paths = Vec::new();
                read_tree(used, Vec::new(), &mut paths);
                let absolute = paths.into_iter().filter_map(|(path, name)| Some((absolute(path, &here)?, name)));
                found.extend(absolute.map(|(path, name)| (path, (!before.is_empty()).then_some(name))));
                rest = after;
            }
            None => {
                for root in ["crate::", "super::"] {
                    for (at, _) in line.match_indices(root) {
                        let end = |c: char| !c.is_alphanumeric() && c != '_' && c != ':';
                        let path = line[at..].split(end).next().unwrap();
                        let path = path.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect();
                        found.extend(absolute(path, module).map(|path| (path, None)));
                    }
                }
                rest = &rest[line.len()..];
            }
        }
        rest = rest.trim_start_matches('\n');
    }
    found
}

/// Reads one tree of a `use` into its paths and the names that they have here; returns the text after it.
fn read_tree<'a>(mut text: &'a str, mut path: Module, paths: &mut Vec<(Module, String)>) -> &'a str {
    loop {
        text = text.trim_start();
        if let Some(mut group) = text.strip_prefix('{') {
            loop {
                group = group.trim_start_matches([',', ' ', '\n']);
                if let Some(after) = group.strip_prefix('}') {
                    return after;
                }
                group = read_tree(group, path.clone(), paths);
            }
        }
        let (name, after) = text.split_at(text.find([':', ',', '}', ' ', '\n']).unwrap_or(text.len()));
        path.push(name.to_owned());
        text = after;
        let Some(after) = text.strip_prefix("::") else { break };
        text = after;
    }
    // `self` and `*` stand for the path before them.
    path.pop_if(|last| last == "self" || last == "*");
    let mut name = path.last().cloned().unwrap_or_default();
    if let Some(alias) = text.strip_prefix(" as ") {
        let (alias, after) = alias.split_at(alias.find([',', '}', '\n']).unwrap_or(alias.len()));
        (name, text) = (alias.to_owned(), after);
    }
    paths.push((path, name));
    text
}

/// A path that is used in the module `here`, from the crate on. `None`: it is of another crate.
fn absolute(mut path: Module, here: &[String]) -> Option<Module> {
    let mut base = here.to_vec();
    match path.first().map(String::as_str) {
        Some("crate") => base.clear(),
        Some("self") => {}
        Some("super") => {
            while path.first().is_some_and(|name| name == "super") {
                base.pop();
                path.remove(0);
            }
            return Some([base, path].concat());
        }
        // The crate itself names its rooms.
        _ if here.is_empty() => return Some(path),
        _ => return None,
    }
    path.remove(0);
    Some([base, path].concat())
}

fn without_comments(text: &str) -> String {
    let lines = text.lines().map(|line| line.find("//").map_or(line, |at| &line[..at]));
    lines.collect::<Vec<_>>().join("\n")
}

/// The functions with a body, and how many lines each has. The last one is where rustfmt has it: a brace below the first letter.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<_> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some((before, after)) = line.split_once("fn ") else { continue };
        let mut words = before.split_whitespace();
        if !words.all(|word| ["pub", "pub(crate)", "pub(super)", "const", "async"].contains(&word)) {
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let is_whole = line.ends_with(['}', ';']);
        let is_end = |line: &&str| {
            let rest = line.strip_prefix(indent).unwrap_or_default();
            rest == "}" || rest.starts_with(')') && rest.ends_with(';')
        };
        let end = if is_whole { start } else { start + lines[start..].iter().position(is_end).unwrap() };
        if !lines[end].ends_with(';') {
            let name = after.split(['(', '<']).next().unwrap().to_owned();
            found.push((name, end - start + 1));
        }
    }
    found
}
