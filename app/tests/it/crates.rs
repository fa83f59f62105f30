//! Which crate may depend on which.

use cargo_metadata::MetadataCommand;
use std::collections::BTreeMap;

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
    for (name, allowed) in [("http-h2", &[][..]), ("app-env", &["http-h2", "strsim"])] {
        let package = metadata.packages.iter().find(|package| package.name.as_str() == name).unwrap();
        let found: Vec<_> = package.dependencies.iter().map(|dependency| &*dependency.name).collect();
        assert_eq!(found, allowed, "{name}");
    }
}
