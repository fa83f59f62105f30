//! Where variables are read from.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
};

/// A place that variables are read from, once and all together.
///
/// Maps are sources, so that a test needs no process environment.
pub trait Source {
    /// Every variable that is set, as name and value. Names that are not among [`variables`](crate::variables) and have not
    /// [`PREFIX`](crate::PREFIX) may be left out; of two
    /// with one name the first counts.
    fn vars(&self) -> Vec<(OsString, OsString)>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process;

// === impl Process ===

impl Source for Process {
    fn vars(&self) -> Vec<(OsString, OsString)> {
        std::env::vars_os().collect()
    }
}

// === impl Source for maps ===

impl<K: AsRef<OsStr>, V: AsRef<OsStr>> Source for BTreeMap<K, V> {
    fn vars(&self) -> Vec<(OsString, OsString)> {
        self.iter().map(owned).collect()
    }
}

impl<K: AsRef<OsStr>, V: AsRef<OsStr>, S> Source for HashMap<K, V, S> {
    fn vars(&self) -> Vec<(OsString, OsString)> {
        self.iter().map(owned).collect()
    }
}

fn owned<K: AsRef<OsStr>, V: AsRef<OsStr>>((name, value): (K, V)) -> (OsString, OsString) {
    (name.as_ref().to_owned(), value.as_ref().to_owned())
}
