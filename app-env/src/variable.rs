//! A variable: its name, the values that it accepts, its default and its purpose.
//!
//! [`Var`] is the declaration that the parsers read with; [`Variable`] is the form that users see.

use crate::{
    grammar::Grammar,
    table::{Row, TABLE},
};
use std::fmt::Write as _;

/// The prefix of all variables' names.
pub const PREFIX: &str = "LINKERD2_PROXY_";

/// One environment variable, in words.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct Variable {
    /// The full name, with [`PREFIX`] unless it is OpenTelemetry's.
    pub name: String,
    /// The accepted values, in words that follow "must be".
    pub accepts: String,
    /// The value of an unset variable, in the variable's own grammar; `unset` or words where it has none.
    pub default: String,
    /// The variable's purpose, and the meaning of unset where the default does not have it; one line.
    pub help: &'static str,
    /// Whether linkerd2-proxy does not have it.
    pub ours: bool,
}

/// A declared variable whose values have the grammar `G`; one for both directions.
pub(crate) struct Var<G> {
    pub(crate) words: Words,
    pub(crate) grammar: G,
}

/// All of a declaration but its grammar.
pub(crate) struct Words {
    pub(crate) group: Group,
    pub(crate) suffix: &'static str,
    pub(crate) default: DefaultText,
    pub(crate) empty: Empty,
    pub(crate) ours: bool,
    pub(crate) help: &'static str,
}

/// Variables that share the first part of their names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Group {
    Process,
    /// Toward endpoints, both directions.
    SharedHttp2,
    /// `D_`, where `D` is a direction.
    Direction,
    /// Toward clients, one direction.
    ServerHttp2,
    /// Toward endpoints, one direction.
    ConnectHttp2,
    /// OpenTelemetry's, which have no [`PREFIX`].
    OpenTelemetry,
}

/// Whose variable is meant, where one declaration stands for two.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scope {
    Process,
    Inbound,
    Outbound,
}

/// The value of an unset variable.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DefaultText {
    /// Off, no limit, or the HTTP/2 engine's choice.
    Unset,
    /// A value in the variable's grammar.
    Is(&'static str),
    /// A value for inbound and one for outbound.
    PerDirection(&'static str, &'static str),
    /// Known only at run time; in words.
    Computed(&'static str),
}

/// The meaning of an empty value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Empty {
    Refused,
    Unset,
}

/// Every variable there is, by its full name, in the order of the tables.
pub fn variables() -> impl Iterator<Item = Variable> {
    TABLE.iter().flat_map(|row| {
        row.words.group.scopes().iter().map(|scope| Variable {
            name: row.words.name(*scope),
            accepts: row.accepts.to_string(),
            default: row.words.default.text(*scope).unwrap_or("unset").to_owned(),
            help: row.words.help,
            ours: row.words.ours,
        })
    })
}

/// The table of variables in Markdown: names without [`PREFIX`], both directions in one row.
///
/// In names `D` is `INBOUND` or `OUTBOUND`; where the two have different defaults the inbound one comes first.
#[must_use]
pub fn markdown() -> String {
    let mut table = "| variable | accepts | default | meaning |\n| --- | --- | --- | --- |\n".to_owned();
    for Row { words, accepts } in TABLE {
        let default = match words.default {
            DefaultText::PerDirection(inbound, outbound) => format!("{inbound} / {outbound}"),
            default => default.text(Scope::Process).unwrap_or("unset").to_owned(),
        };
        let Words { group, suffix, help, .. } = words;
        let ours = if words.ours { " (ours)" } else { "" };
        let base = group.base();
        writeln!(table, "| `{base}{suffix}`{ours} | {accepts} | {default} | {help} |")
            .expect("a String takes all that is written");
    }
    table
}

// === impl Var ===

impl<G: Grammar> Var<G> {
    pub(crate) fn name(&self, scope: Scope) -> String {
        self.words.name(scope)
    }

    /// The default, for a variable declared with a value as its default.
    pub(crate) fn default(&self, scope: Scope) -> G::Value {
        let text = self.words.default.text(scope).expect("only variables that are declared with a default need it");
        self.grammar.parse(text).expect("a declared default is in the variable's own grammar")
    }
}

// === impl Words ===

impl Words {
    pub(crate) fn name(&self, scope: Scope) -> String {
        let base = self.group.base();
        if self.group == Group::OpenTelemetry {
            return format!("{base}{}", self.suffix);
        }
        // Only the groups of one direction have the placeholder.
        let base = base.strip_prefix("D_").map_or_else(|| base.to_owned(), |rest| format!("{}{rest}", scope.prefix()));
        format!("{PREFIX}{base}{}", self.suffix)
    }
}

// === impl Group ===

impl Group {
    const fn base(self) -> &'static str {
        match self {
            Self::Process => "",
            Self::SharedHttp2 => "HTTP2_",
            Self::Direction => "D_",
            Self::ServerHttp2 => "D_SERVER_HTTP2_",
            Self::ConnectHttp2 => "D_CONNECT_HTTP2_",
            Self::OpenTelemetry => "OTEL_",
        }
    }

    pub(crate) const fn scopes(self) -> &'static [Scope] {
        match self {
            Self::Process | Self::SharedHttp2 | Self::OpenTelemetry => &[Scope::Process],
            Self::Direction | Self::ServerHttp2 | Self::ConnectHttp2 => &[Scope::Inbound, Scope::Outbound],
        }
    }
}

// === impl Scope ===

impl Scope {
    /// The first part of the names of a direction's variables, behind [`PREFIX`].
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Process => "",
            Self::Inbound => "INBOUND_",
            Self::Outbound => "OUTBOUND_",
        }
    }
}

// === impl DefaultText ===

impl DefaultText {
    const fn text(self, scope: Scope) -> Option<&'static str> {
        match (self, scope) {
            (Self::Unset, _) => None,
            (Self::Is(text) | Self::Computed(text), _) => Some(text),
            (Self::PerDirection(inbound, _), Scope::Process | Scope::Inbound) => Some(inbound),
            (Self::PerDirection(_, outbound), Scope::Outbound) => Some(outbound),
        }
    }
}
