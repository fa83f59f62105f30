//! Which crate may depend on which.

use cargo_metadata::MetadataCommand;
use std::{collections::BTreeMap, fs};

#[test]
fn arrows_between_crates_are_the_ones_of_the_architecture() {
    let metadata = MetadataCommand::new().no_deps().other_options(["--offline".to_owned()]).exec().unwrap();
    let names: Vec<_> = metadata.packages.iter().map(|package| package.name.to_string()).collect();
    let arrows: BTreeMap<_, Vec<_>> = metadata
        .packages
        .iter()
        .map(|package| {
            let mut to: Vec<_> = package.dependencies.iter().map(|dependency| dependency.name.clone()).collect();
            to.retain(|name| names.contains(name));
            to.sort();
            to.dedup();
            (package.name.to_string(), to)
        })
        .collect();
    let expected = [
        ("app", vec!["app-env", "http-h2", "proxy-http"]),
        ("app-env", vec!["http-h2"]),
        ("http-h2", vec![]),
        ("proxy-http", vec!["http-h2"]),
    ];
    for (name, to) in expected {
        assert_eq!(arrows[name], to, "{name} may depend on these crates of the workspace, and on no others");
    }
    assert_eq!(arrows.len(), 5, "a crate more at the top needs a reason: {names:?}");
}

#[test]
fn parameters_and_environment_have_next_to_no_dependencies() {
    let metadata = MetadataCommand::new().no_deps().other_options(["--offline".to_owned()]).exec().unwrap();
    for (name, allowed) in [("http-h2", &[][..]), ("app-env", &["http-h2", "ipnet", "saphyr-parser", "strsim"])] {
        let package = metadata.packages.iter().find(|package| package.name.as_str() == name).unwrap();
        let found: Vec<_> = package.dependencies.iter().map(|dependency| &*dependency.name).collect();
        assert_eq!(found, allowed, "{name}");
    }
}

/// The patterns of non-exhaustive structs end in `..`, so the compiler does not say when a field is forgotten.
#[test]
fn every_setting_is_named_where_the_process_takes_it_apart() {
    let read = |path: &str| fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let config = read("../app-env/src/config.rs");
    for (name, path) in [("Config", "process"), ("Direction", "process"), ("Connect", "backend")] {
        let path = format!("src/{path}.rs");
        let (_, fields) = config.split_once(&format!("pub struct {name} {{\n")).unwrap();
        let (fields, _) = fields.split_once("\n}").unwrap();
        let taken_apart = read(&path);
        let (_, pattern) = taken_apart.split_once(&format!("{name} {{\n")).unwrap();
        let (pattern, _) = pattern.split_once("} = ").unwrap();
        let named: Vec<_> = pattern.split(',').map(|field| field.split(':').next().unwrap().trim()).collect();
        for field in fields.lines().filter_map(|line| line.trim().strip_prefix("pub ")) {
            let (field, _) = field.split_once(':').unwrap();
            assert!(named.contains(&field), "{name}::{field} is in no pattern of app/{path}");
        }
    }
}
