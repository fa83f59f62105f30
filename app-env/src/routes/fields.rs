//! Takes nodes for values, and remembers each problem, so that one run finds all of them.

use super::{
    Problem,
    yaml::{Key, Node, Position, Value},
};
use crate::{
    error::{plain, quote},
    grammar::Grammar,
};

/// All that is wrong, or probably not meant.
#[derive(Default)]
pub(super) struct Problems {
    pub(super) errors: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    /// Errors beyond the ones that are kept.
    more: usize,
}

/// Of each kind. A megabyte has room for many.
const MAX_PROBLEMS: usize = 1_000;

/// A mapping all of whose keys are known, and a key once.
pub(super) struct Fields<'a> {
    pub(super) position: Position,
    kind: &'static str,
    entries: &'a [(Key, Node)],
}

/// The keys that a mapping may have, and the ones that the Gateway API has beside them.
pub(super) struct Known {
    /// The mapping's name, for people.
    pub(super) kind: &'static str,
    pub(super) keys: &'static [&'static str],
    pub(super) unsupported: &'static [&'static str],
}

// === impl Problems ===

impl Problems {
    /// The value that was read and the warnings, or all errors; each in the order of their places.
    pub(super) fn finish<T>(mut self, read: Option<T>) -> Result<(T, Vec<Problem>), Vec<Problem>> {
        for problems in [&mut self.errors, &mut self.warnings] {
            problems.sort_by_key(|problem| (problem.line, problem.column));
        }
        if let (Some(last), 1..) = (self.errors.last_mut(), self.more) {
            last.message.push_str(&format!(" (and {} more mistakes are in the file)", self.more));
        }
        read.filter(|_| self.errors.is_empty()).map(|read| (read, self.warnings)).ok_or(self.errors)
    }

    pub(super) fn error(&mut self, position: Position, message: impl Into<String>) {
        if self.errors.len() < MAX_PROBLEMS {
            self.errors.push(Problem::new(position, message));
        } else {
            self.more += 1;
        }
    }

    pub(super) fn warn(&mut self, position: Position, message: impl Into<String>) {
        if self.warnings.len() < MAX_PROBLEMS {
            self.warnings.push(Problem::new(position, message));
        }
    }

    /// The fields of a mapping.
    pub(super) fn fields<'a>(&mut self, node: &'a Node, known: &Known) -> Option<Fields<'a>> {
        let Value::Map(entries) = &node.value else {
            let (kind, keys) = (known.kind, known.keys.join(", "));
            self.error(node.position, format!("{kind} is {}, must be a mapping of {keys}", shown(&node.value)));
            return None;
        };
        for (index, (key, _)) in entries.iter().enumerate() {
            if !known.keys.contains(&&*key.text) {
                // To look for the nearest key takes time, which is lost on an error that is not kept.
                let is_kept = self.errors.len() < MAX_PROBLEMS;
                self.error(key.position, if is_kept { known.refuse(&key.text) } else { String::new() });
            } else if let Some((first, _)) = entries[..index].iter().find(|(first, _)| first.text == key.text) {
                self.twice(key, first.position);
            }
        }
        Some(Fields { position: node.position, kind: known.kind, entries })
    }

    pub(super) fn twice(&mut self, key: &Key, first: Position) {
        self.error(
            key.position,
            format!("{} is set again, must be set once; line {} does", plain(&key.text), first.line),
        );
    }

    /// The items of a list, of which there must be one.
    pub(super) fn list<'a>(&mut self, node: &'a Node, name: &str, of: &str) -> Option<&'a [Node]> {
        match &node.value {
            Value::List(items) if !items.is_empty() => Some(items),
            Value::List(_) => {
                self.error(node.position, format!("{name} is an empty list, must have at least one item"));
                None
            }
            value => {
                self.error(node.position, format!("{name} is {}, must be a list of {of}", shown(value)));
                None
            }
        }
    }

    /// The value of a node in a grammar.
    pub(super) fn read<G: Grammar>(&mut self, node: &Node, name: &str, grammar: &G) -> Option<G::Value> {
        self.parse(node, name, &grammar.to_string(), |text| {
            grammar.parse(text).map_err(|refused| refused.detail.unwrap_or_default())
        })
    }

    /// The value of a node. An error of `parse` is the reason why the text has none, or empty.
    pub(super) fn parse<T>(
        &mut self,
        node: &Node,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let detail = match &node.value {
            // The grammars take texts that are trimmed and not empty.
            Value::Scalar(text) if text.trim().is_empty() => String::new(),
            Value::Scalar(text) => match parse(text.trim()) {
                Ok(value) => return Some(value),
                Err(detail) => detail,
            },
            _ => String::new(),
        };
        let detail = if detail.is_empty() { detail } else { format!(" ({detail})") };
        self.error(node.position, format!("{name} is {}{detail}, must be {expected}", shown(&node.value)));
        None
    }
}

// === impl Fields ===

impl<'a> Fields<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&'a Node> {
        self.entries.iter().find(|(found, _)| found.text == key).map(|(_, node)| node)
    }

    /// The field of a key without which the mapping has no meaning.
    pub(super) fn require(&self, problems: &mut Problems, key: &str) -> Option<&'a Node> {
        let found = self.get(key);
        if found.is_none() {
            problems.error(self.position, format!("{} has no {key}, must have it", self.kind));
        }
        found
    }

    /// The value of a field. `None`: it is unset or wrong.
    pub(super) fn read<G: Grammar>(&self, problems: &mut Problems, key: &str, grammar: &G) -> Option<G::Value> {
        problems.read(self.get(key)?, key, grammar)
    }
}

// === impl Known ===

impl Known {
    fn refuse(&self, key: &str) -> String {
        let (kind, known) = (self.kind, self.keys.join(", "));
        if self.unsupported.contains(&key) {
            return format!("{key} of {kind} is not supported here, must be left out; supported are {known}");
        }
        let near = nearest(key, self.keys.iter().copied());
        let near = near.map(|near| format!("; the nearest known one is {near}")).unwrap_or_default();
        format!("{} is no key of {kind}{near}, must be one of {known}", plain(key))
    }
}

/// The known word that one probably meant. `None`: no word is near.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing takes quadratic time.
    const LONGEST: usize = 100;
    if word.len() > LONGEST {
        return None;
    }
    let word = word.to_ascii_lowercase();
    known
        .filter(|known| known.len() <= LONGEST)
        .map(|known| (strsim::damerau_levenshtein(&word, &known.to_ascii_lowercase()), known))
        .filter(|(distance, _)| *distance <= word.chars().count().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

fn shown(value: &Value) -> String {
    match value {
        Value::Scalar(text) => quote(text),
        other => other.kind().to_owned(),
    }
}
