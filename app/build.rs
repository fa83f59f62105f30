//! Sets variables for the crate that say which build it is: `APP_VERSION`, `APP_PROFILE`, and `APP_COMMIT` where there is one.
//!
//! The commit is that of the checkout; changes that are not committed do not show. Outside of a checkout, as in a package of
//! the sources, or without git, a build has no commit.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    // Without such a line cargo would run this again for each file of the package that changes.
    println!("cargo::rerun-if-changed=build.rs");
    let version = env::var("CARGO_PKG_VERSION").expect("cargo sets it");
    let profile = profile();
    println!("cargo::rustc-env=APP_PROFILE={profile}");
    match commit() {
        Some(commit) => {
            println!("cargo::rustc-env=APP_COMMIT={commit}");
            println!("cargo::rustc-env=APP_VERSION={version} ({commit}, {profile})");
        }
        None => println!("cargo::rustc-env=APP_VERSION={version}"),
    }
}

/// The name of the profile's folder below `target`, such as `debug` or `release`, with `-pgo` if the build is guided by counts.
/// Cargo's variable `PROFILE` is `release` for all profiles that inherit from it.
fn profile() -> String {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    // The folder is PROFILE/build/PACKAGE/out.
    let folder = out.ancestors().nth(2).filter(|build| build.ends_with("build")).and_then(Path::parent);
    let name = folder.and_then(Path::file_name).and_then(|name| name.to_str().map(str::to_owned));
    let name = name.unwrap_or_else(|| env::var("PROFILE").expect("cargo sets it"));
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    if flags.contains("profile-use=") { format!("{name}-pgo") } else { name }
}

/// The first 12 digits of the commit. Cargo runs this again when another commit is checked out or made.
fn commit() -> Option<String> {
    let root = Path::new(&env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).parent()?.to_owned();
    // A folder, or a file in a worktree. Without it git would look for a repository in the folders above.
    root.join(".git").exists().then_some(())?;
    // Hooks of git set these variables, for the repository that they run in.
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(&root).args(arguments).env_remove("GIT_DIR").env_remove("GIT_WORK_TREE");
        let output = command.output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--verify", "--short=12", "HEAD"])?;
    // HEAD changes with the branch, and the branch's own file with each commit. That is missing while the branch is among
    // packed-refs, but the log of HEAD grows with either.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "logs/HEAD"].into_iter().chain(branch.as_deref()) {
        let Some(path) = git(&["rev-parse", "--git-path", name]).map(|path| root.join(path)) else { continue };
        // A file that is missing would count as changed in each build.
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    Some(commit)
}
