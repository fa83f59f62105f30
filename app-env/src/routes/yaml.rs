//! A YAML document as a tree, each node of which has its position.
//!
//! The tree has no more nodes than the text has characters: aliases, which could repeat nodes without end, are refused.

use super::Problem;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

/// Where something is in the text. Both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) position: Position,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    /// No value, `~` or `null`.
    Null,
    Scalar(String),
    List(Vec<Node>),
    /// The keys in their order, with all that are there more than once.
    Map(Vec<(Key, Node)>),
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) position: Position,
    pub(super) text: String,
}

struct Loader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
}

/// Lists and mappings within each other. Routes have ten.
const MAX_DEPTH: usize = 32;

/// Reads the one document of a text. `None`: there is none.
///
/// # Errors
///
/// The first place from which the text is not understood: without it the rest has no meaning.
pub(super) fn parse(text: &str) -> Result<Option<Node>, Problem> {
    let mut loader = Loader { parser: Parser::new_from_str(text) };
    let mut document = None;
    loop {
        match loader.next()? {
            (Event::StreamEnd, _) => return Ok(document),
            (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd, _) => {}
            (_, span) if document.is_some() => {
                return Err(Problem::new(span.into(), "a second document starts here, must be one in a file"));
            }
            event => document = Some(loader.node(event, MAX_DEPTH)?),
        }
    }
}

// === impl Position ===

impl From<&Marker> for Position {
    fn from(marker: &Marker) -> Self {
        Self { line: marker.line(), column: marker.col() + 1 }
    }
}

impl From<Span> for Position {
    fn from(span: Span) -> Self {
        Self::from(&span.start)
    }
}

// === impl Value ===

impl Value {
    /// The kind of a value, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "empty",
            Self::Scalar(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

// === impl Loader ===

impl<'a> Loader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        let end = || (Event::StreamEnd, Span::default());
        Ok(self.parser.next_event().transpose().map_err(|error| syntax(&error))?.unwrap_or_else(end))
    }

    /// The node that starts with an event, at most `depth` deep.
    fn node(&mut self, (event, span): (Event<'a>, Span), depth: usize) -> Result<Node, Problem> {
        let position = Position::from(span);
        let (Event::Scalar(_, _, _, tag) | Event::SequenceStart(_, tag) | Event::MappingStart(_, tag)) = &event else {
            return Err(Problem::new(position, "is an alias (*), must be written out: aliases are not supported"));
        };
        if tag.is_some() {
            return Err(Problem::new(position, "has a tag (!), must have none: tags are not supported"));
        }
        if depth == 0 {
            return Err(Problem::new(position, format!("is more than {MAX_DEPTH} levels deep")));
        }
        let value = match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) if matches!(&*text, "" | "~" | "null" | "Null" | "NULL") => {
                Value::Null
            }
            Event::Scalar(text, ..) => Value::Scalar(text.into_owned()),
            Event::SequenceStart(..) => Value::List(self.list(depth - 1)?),
            _ => Value::Map(self.map(depth - 1)?),
        };
        Ok(Node { position, value })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                event => items.push(self.node(event, depth)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(Key, Node)>, Problem> {
        let mut entries = Vec::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => return Ok(entries),
                event => self.node(event, depth)?,
            };
            let Node { position, value: Value::Scalar(text) } = key else {
                return Err(Problem::new(key.position, format!("is {} as a key, must be text", key.value.kind())));
            };
            let value = self.next()?;
            entries.push((Key { position, text }, self.node(value, depth)?));
        }
    }
}

fn syntax(error: &ScanError) -> Problem {
    Problem::new(error.marker().into(), format!("is no YAML from here on: {}", error.info()))
}
