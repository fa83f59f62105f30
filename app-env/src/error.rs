//! Errors and warnings about the variables, in words for users.

use std::{fmt, slice};

/// Everything that is wrong with the variables of a run, one [`Error`] a line, in the order of
/// [`variables`](crate::variables).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Errors {
    /// At least one.
    errors: Vec<Error>,
    warnings: Vec<Warning>,
}

/// One thing that is wrong with one variable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Error {
    variable: String,
    found: String,
    expected: String,
}

/// A setting of one variable that is probably not meant; the proxy works all the same.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Warning {
    variable: String,
    message: String,
}

// === impl Errors ===

impl Errors {
    pub(crate) const fn new(errors: Vec<Error>, warnings: Vec<Warning>) -> Self {
        Self { errors, warnings }
    }

    /// Each error; at least one.
    pub fn iter(&self) -> slice::Iter<'_, Error> {
        self.errors.iter()
    }

    /// The warnings of the same run: an unknown name is often the reason for an error.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a Error;
    type IntoIter = slice::Iter<'a, Error>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

// === impl Error ===

impl Error {
    /// An error that reads "`variable`: `found`, must be `expected`".
    pub(crate) fn new(variable: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { variable: variable.into(), found: found.into(), expected: expected.into() }
    }

    /// The variable's full name.
    #[must_use]
    pub fn variable(&self) -> &str {
        &self.variable
    }

    /// The variable's value, as `is "4"`. Long values are shortened and control characters escaped.
    #[must_use]
    pub fn found(&self) -> &str {
        &self.found
    }

    /// The accepted values, in words that follow "must be".
    #[must_use]
    pub fn expected(&self) -> &str {
        &self.expected
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, must be {}", self.variable, self.found, self.expected)
    }
}

impl std::error::Error for Error {}

// === impl Warning ===

impl Warning {
    pub(crate) fn new(variable: impl Into<String>, message: impl Into<String>) -> Self {
        Self { variable: variable.into(), message: message.into() }
    }

    /// The variable's full name; that of an unknown variable is shortened and escaped as values are.
    #[must_use]
    pub fn variable(&self) -> &str {
        &self.variable
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.variable, self.message)
    }
}

/// A foreign text in quotes, short enough for a line and without control characters.
pub(crate) fn quote(text: &str) -> String {
    match shorten(text) {
        short if short.len() == text.len() => format!("{text:?}"),
        short => format!("{short:?}... ({} bytes)", text.len()),
    }
}

/// A foreign name without quotes, short enough for a line and without control characters.
pub(crate) fn plain(text: &str) -> String {
    let short = shorten(text);
    let rest = if short.len() == text.len() { "" } else { "..." };
    format!("{}{rest}", short.escape_debug())
}

/// The first characters of a text, whole if it is not long.
fn shorten(text: &str) -> &str {
    const SHOWN: usize = 80;
    text.char_indices().nth(SHOWN).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_escaped() {
        assert_eq!(quote("a\"\n\x1b[2Jé\u{202e}"), r#""a\"\n\u{1b}[2Jé\u{202e}""#);
        assert_eq!(plain("a\n"), "a\\n");
    }

    #[test]
    fn foreign_text_is_shortened() {
        assert_eq!(quote(&"é".repeat(80)), format!("\"{}\"", "é".repeat(80)));
        assert_eq!(quote(&"é".repeat(81)), format!("\"{}\"... (162 bytes)", "é".repeat(80)));
        assert_eq!(plain(&"é".repeat(81)), format!("{}...", "é".repeat(80)));
    }

    #[test]
    fn errors_are_lines() {
        let error = |name| Error::new(name, "is \"x\"", "true or false");
        let errors = Errors::new(vec![error("A"), error("B")], Vec::new());
        assert_eq!(errors.to_string(), "A: is \"x\", must be true or false\nB: is \"x\", must be true or false");
        let names: Vec<_> = errors.into_iter().map(Error::variable).collect();
        assert_eq!(names, ["A", "B"]);
    }
}
