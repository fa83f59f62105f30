//! The version, commit and profile that the binary prints.

use crate::support::command;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command, Output},
};

/// The first digits of the commit that is checked out in `folder`.
fn head(folder: &Path) -> String {
    git(folder, &["rev-parse", "--short=12", "HEAD"])
}

/// Runs git without the settings of the user and the system, and returns its output.
fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.current_dir(folder).args(["-c", "user.name=test", "-c", "user.email=test@example.com"]).args(arguments);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    text(command.env_remove("GIT_DIR").env_remove("GIT_WORK_TREE").output().unwrap())
}

#[track_caller]
fn text(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Folders below a temporary one, which is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = env::temp_dir().join(format!("app-version-{}", process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A checkout in `root` of a package whose build script is ours, and whose program prints its version.
struct Sources {
    root: PathBuf,
}

impl Sources {
    fn write(root: PathBuf) -> Self {
        let package = root.join("app");
        fs::create_dir_all(package.join("src")).unwrap();
        let manifest = "[package]\nname = \"app\"\nversion = \"1.2.3\"\nedition = \"2024\"\n[workspace]\n";
        fs::write(package.join("Cargo.toml"), manifest).unwrap();
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs"), package.join("build.rs")).unwrap();
        let program = "fn main() { print!(\"{} of {}\", env!(\"APP_VERSION\"), env!(\"APP_PROFILE\")) }";
        fs::write(package.join("src/main.rs"), program).unwrap();
        fs::write(root.join(".gitignore"), "target\nCargo.lock\n").unwrap();
        Self { root }
    }

    fn cargo(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(self.root.join("app")).args(arguments).arg("--offline").env_remove("CARGO_TARGET_DIR");
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").output().unwrap()
    }

    /// The version that the program prints, and whether cargo had anything to compile.
    fn build(&self, profile: &[&str]) -> (String, bool) {
        let built = self.cargo(&[&["build"], profile].concat());
        let is_stale = String::from_utf8_lossy(&built.stderr).contains("Compiling");
        text(built);
        (text(self.cargo(&[&["run", "--quiet"], profile].concat())), is_stale)
    }
}

#[test]
fn the_binary_says_its_commit_and_profile() {
    let version = text(command().arg("--version").output().unwrap());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let expected = if root.join(".git").exists() {
        format!("app {} ({}, {})", env!("CARGO_PKG_VERSION"), head(&root), env!("APP_PROFILE"))
    } else {
        format!("app {}", env!("CARGO_PKG_VERSION"))
    };
    assert_eq!(version, expected);
}

#[test]
fn a_build_has_the_commit_that_is_checked_out() {
    let folder = Folder::new();
    let sources = Sources::write(folder.0.join("sources"));
    // Without a repository, and inside of one that is not the sources' own.
    assert_eq!(sources.build(&[]), ("1.2.3 of debug".to_owned(), true));
    git(&folder.0, &["init", "--quiet"]);
    git(&folder.0, &["commit", "--quiet", "--allow-empty", "--message", "other"]);
    // Without a repository there is no file that cargo could look at: it builds anew only after this.
    text(sources.cargo(&["clean"]));
    assert_eq!(sources.build(&[]), ("1.2.3 of debug".to_owned(), true));
    assert_eq!(sources.build(&[]), ("1.2.3 of debug".to_owned(), false));

    git(&sources.root, &["init", "--quiet"]);
    git(&sources.root, &["add", "."]);
    git(&sources.root, &["commit", "--quiet", "--message", "one"]);
    text(sources.cargo(&["clean"]));
    let described =
        |sources: &Sources, profile: &str| format!("1.2.3 ({}, {profile}) of {profile}", head(&sources.root));
    assert_eq!(sources.build(&[]), (described(&sources, "debug"), true));
    assert_eq!(sources.build(&[]), (described(&sources, "debug"), false), "nothing has changed");
    assert_eq!(sources.build(&["--release"]), (described(&sources, "release"), true));

    // Each way to another commit: with the branch in a file of its own, packed, and without a branch.
    for before in [&["status"][..], &["pack-refs", "--all"], &["checkout", "--quiet", "--detach"]] {
        git(&sources.root, before);
        sources.build(&[]);
        let old = head(&sources.root);
        git(&sources.root, &["commit", "--quiet", "--allow-empty", "--message", "another"]);
        assert_ne!(head(&sources.root), old);
        assert_eq!(sources.build(&[]), (described(&sources, "debug"), true), "after {before:?}");
        assert_eq!(sources.build(&[]), (described(&sources, "debug"), false), "after {before:?}");
    }

    // In a worktree .git is a file.
    let worktree = Sources { root: folder.0.join("worktree") };
    git(&sources.root, &["worktree", "add", "--quiet", "-b", "work", worktree.root.to_str().unwrap()]);
    assert_eq!(worktree.build(&[]), (described(&worktree, "debug"), true));
    git(&worktree.root, &["commit", "--quiet", "--allow-empty", "--message", "in the worktree"]);
    assert_ne!(head(&worktree.root), head(&sources.root));
    assert_eq!(worktree.build(&[]), (described(&worktree, "debug"), true));
    assert_eq!(worktree.build(&[]), (described(&worktree, "debug"), false));
}
