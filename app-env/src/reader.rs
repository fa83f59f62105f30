//! Reads declared variables from a snapshot of a source, and remembers all that is to be told about them.

use crate::{
    Error, Errors, PREFIX, Source, Warning,
    error::{plain, quote},
    grammar::Grammar,
    linkerd,
    table::TABLE,
    variable::{Empty, Group, Scope, Var, Words},
};
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
};

/// A variable's effective value, and where it comes from.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct Effective {
    /// The full name.
    pub name: String,
    /// The value in the variable's grammar, as `10s`. `None`: it is unset; [`Variable::help`](crate::Variable::help)
    /// has the meaning of that.
    pub value: Option<String>,
    /// Where the value came from.
    pub origin: Origin,
}

/// Where a variable's value came from.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Origin {
    /// It is set.
    Environment,
    /// It is not set.
    Default,
    /// It is not set; the variable of this name is, and stands in.
    Inherited(String),
    /// The variable of this name makes it void, whether it is set or not.
    Overridden(String),
}

/// All variables of a source, while they are read.
///
/// A variable that is wrong reads as if it were unset: its error is remembered, so that one run finds all of them.
pub(crate) struct Reader {
    /// The variables that are set with the prefix, and OpenTelemetry's that are known.
    vars: BTreeMap<OsString, OsString>,
    /// The names that variables are set under, where they are not ours.
    aliases: BTreeMap<String, String>,
    /// Names without the prefix that with it are of one direction's variables.
    unprefixed: Vec<String>,
    settings: BTreeMap<String, Effective>,
    errors: Vec<Error>,
    warnings: Vec<Warning>,
}

// === impl Effective ===

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, origin } = self;
        match value {
            Some(value) => write!(f, "{name}={value} ({origin})"),
            None => write!(f, "{name} is unset ({origin})"),
        }
    }
}

// === impl Origin ===

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("environment"),
            Self::Default => f.write_str("default"),
            Self::Inherited(name) => write!(f, "from {name}"),
            Self::Overridden(name) => write!(f, "overridden by {name}"),
        }
    }
}

// === impl Reader ===

impl Reader {
    pub(crate) fn new(source: &(impl Source + ?Sized)) -> Self {
        let mut vars = BTreeMap::new();
        let mut unprefixed = Vec::new();
        // Of OpenTelemetry's variables, which other programs have as well, only the ones that are read.
        let others = TABLE.iter().map(|row| row.words).filter(|words| words.group == Group::OpenTelemetry);
        let others: Vec<_> = others.map(|words| words.name(Scope::Process)).collect();
        for (name, value) in source.vars() {
            if name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) || others.iter().any(|other| name == **other) {
                // As getenv does it: of two with one name the first counts.
                vars.entry(name).or_insert(value);
            } else if let Some(name) = name.to_str().filter(|name| is_of_direction(name)) {
                unprefixed.push(name.to_owned());
            }
        }
        let mut warnings = Vec::new();
        let aliases = linkerd::resolve_aliases(&mut vars, &mut warnings);
        Self { vars, aliases, unprefixed, settings: BTreeMap::new(), errors: Vec::new(), warnings }
    }

    /// The variable's value. `None`: it is unset or wrong.
    pub(crate) fn read<G: Grammar>(&mut self, var: &Var<G>, scope: Scope) -> Option<G::Value> {
        let name = var.name(scope);
        let value = match self.text(var, scope) {
            Ok(Some(text)) => var.grammar.parse(text).map_err(|refused| {
                let detail = refused.detail.map(|detail| format!(" ({detail})")).unwrap_or_default();
                Error::new(self.set_name(&name), format!("is {}{detail}", quote(text)), var.grammar.to_string())
            }),
            Ok(None) => {
                self.note(name, None, Origin::Default);
                return None;
            }
            Err(error) => Err(error),
        };
        match value {
            Ok(value) => {
                let origin = self.aliases.get(&name).cloned().map_or(Origin::Environment, Origin::Inherited);
                self.note(name, Some(var.grammar.print(&value)), origin);
                Some(value)
            }
            Err(error) => {
                self.note(name, None, Origin::Environment);
                self.errors.push(error);
                None
            }
        }
    }

    /// The variable's value, or its declared default.
    pub(crate) fn read_or_default<G: Grammar>(&mut self, var: &Var<G>, scope: Scope) -> G::Value {
        self.read(var, scope).unwrap_or_else(|| self.fall_back(var, scope, var.default(scope), Origin::Default))
    }

    /// Notes the default as an unset variable's value, and returns it.
    pub(crate) fn fall_back<G: Grammar>(
        &mut self,
        var: &Var<G>,
        scope: Scope,
        value: G::Value,
        origin: Origin,
    ) -> G::Value {
        self.note(var.name(scope), Some(var.grammar.print(&value)), origin);
        value
    }

    /// Remembers that another variable makes this one void, and warns if it is set.
    pub(crate) fn overrule<G: Grammar>(&mut self, var: &Var<G>, scope: Scope, by: &str, why: &str) {
        if self.is_set(var, scope) {
            self.warn(var.name(scope), format!("has no effect, {by} {why}"));
        }
        self.note(var.name(scope), None, Origin::Overridden(by.to_owned()));
    }

    /// Notes a variable's effective value, in place of one that was noted before.
    pub(crate) fn note(&mut self, name: String, value: Option<String>, origin: Origin) {
        self.settings.insert(name.clone(), Effective { name, value, origin });
    }

    pub(crate) fn error(&mut self, error: Error) {
        self.errors.push(error);
    }

    pub(crate) fn warn(&mut self, variable: String, message: impl Into<String>) {
        self.warnings.push(Warning::new(variable, message));
    }

    /// Warns about each variable of a direction that is off, since neither of `switches` is set.
    pub(crate) fn warn_without_effect(&mut self, scope: Scope, switches: [&Words; 3]) {
        let switches = switches.map(|words| words.name(scope));
        for row in TABLE.iter().filter(|row| row.words.group.scopes().contains(&scope)) {
            let name = row.words.name(scope);
            if !switches.contains(&name) && self.vars.contains_key(OsStr::new(&name)) {
                let [endpoints, routes, discovery] = &switches;
                self.warn(name, format!("has no effect, none of {endpoints}, {routes} and {discovery} is set"));
            }
        }
    }

    /// Whether the variable has a value, be it right or wrong.
    pub(crate) fn is_set<G: Grammar>(&self, var: &Var<G>, scope: Scope) -> bool {
        !matches!(self.text(var, scope), Ok(None))
    }

    /// Whether the variable, once read, was wrong.
    pub(crate) fn is_wrong<G: Grammar>(&self, var: &Var<G>, scope: Scope) -> bool {
        let name = var.name(scope);
        let set_name = self.set_name(&name);
        self.errors.iter().any(|error| error.variable() == name || error.variable() == set_name)
    }

    /// The name that a variable is set under.
    fn set_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.aliases.get(name).map_or(name, String::as_str)
    }

    /// The origin of the value of a variable that was read.
    pub(crate) fn origin<G: Grammar>(&self, var: &Var<G>, scope: Scope) -> Option<&Origin> {
        self.settings.get(&var.name(scope)).map(|setting| &setting.origin)
    }

    /// The effective value of every variable, in the order of the table, and the warnings; or all errors.
    pub(crate) fn finish(mut self) -> Result<(Vec<Effective>, Vec<Warning>), Errors> {
        let names: Vec<String> =
            TABLE.iter().flat_map(|row| row.words.group.scopes().iter().map(|scope| row.words.name(*scope))).collect();
        let place = |variable: &str| names.iter().position(|name| name == variable);
        self.errors.sort_by_key(|error| place(error.variable()));
        self.warnings.sort_by_key(|warning| place(warning.variable()));
        self.warn_unknown(&names);
        if self.errors.is_empty() {
            Ok((names.iter().filter_map(|name| self.settings.remove(name)).collect(), self.warnings))
        } else {
            Err(Errors::new(self.errors, self.warnings))
        }
    }

    /// The trimmed text of a variable. `None`: it is unset, or empty where that is the same.
    fn text<G: Grammar>(&self, var: &Var<G>, scope: Scope) -> Result<Option<&str>, Error> {
        let name = var.name(scope);
        let Some(value) = self.vars.get(OsStr::new(&name)) else { return Ok(None) };
        let Some(text) = value.to_str().map(str::trim) else {
            let found = format!("is not Unicode ({})", quote(&value.to_string_lossy()));
            return Err(Error::new(self.set_name(&name), found, var.grammar.to_string()));
        };
        match (text, var.words.empty) {
            ("", Empty::Unset) => Ok(None),
            ("", Empty::Refused) => {
                let expected = format!("{}; unset it for its default", var.grammar);
                Err(Error::new(self.set_name(&name), "is empty", expected))
            }
            _ => Ok(Some(text)),
        }
    }

    fn warn_unknown(&mut self, known: &[String]) {
        for name in self.vars.keys() {
            let name = name.to_string_lossy();
            if known.iter().any(|known| *known == name) {
                continue;
            }
            if linkerd::has(&name) {
                let message = "is linkerd2-proxy's and has no effect here";
                self.warnings.push(Warning::new(plain(&name), message));
                continue;
            }
            let nearest = nearest(&name, known).map(|near| format!("; the nearest known name is {near}"));
            let message = format!("is not known and ignored{}", nearest.unwrap_or_default());
            self.warnings.push(Warning::new(plain(&name), message));
        }
        for name in &self.unprefixed {
            let full = format!("{PREFIX}{name}");
            if !self.vars.contains_key(OsStr::new(&full)) {
                self.warnings
                    .push(Warning::new(name, format!("is ignored without its prefix; the known name is {full}")));
            }
        }
    }
}

/// Whether a name without the prefix is that of a variable of one direction. Others, as `LOG`, are variables of other programs as well.
fn is_of_direction(name: &str) -> bool {
    [Scope::Inbound, Scope::Outbound].into_iter().any(|scope| {
        name.starts_with(scope.prefix())
            && TABLE
                .iter()
                .filter(|row| row.words.group.scopes().contains(&scope))
                .any(|row| row.words.name(scope).strip_prefix(PREFIX) == Some(name))
    })
}

/// The known name that one probably meant. `None`: no name is near.
fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    // Longer than every known name by half again: nothing can be near, and comparing takes quadratic time.
    const LONGEST: usize = 100;
    let name = name.strip_prefix(PREFIX).filter(|name| name.len() <= LONGEST)?;
    known
        .iter()
        .filter_map(|known| {
            let distance = strsim::damerau_levenshtein(name, known.strip_prefix(PREFIX)?);
            (distance <= name.chars().count() / 3).then_some((distance, known.as_str()))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_with_one_name_the_first_counts() {
        struct Twice;
        impl Source for Twice {
            fn vars(&self) -> Vec<(OsString, OsString)> {
                ["1", "2"].map(|value| ("LINKERD2_PROXY_CORES".into(), value.into())).into()
            }
        }
        assert_eq!(Reader::new(&Twice).read(&crate::table::CORES, Scope::Process), Some(1));
    }

    #[test]
    fn names_are_near_when_two_thirds_are_right() {
        let known = ["LINKERD2_PROXY_CORES".to_owned(), "LINKERD2_PROXY_LOG".to_owned()];
        let check = |name: &str, expect| assert_eq!(nearest(name, &known), expect, "name: {name}");
        check("LINKERD2_PROXY_CORE", Some("LINKERD2_PROXY_CORES"));
        check("LINKERD2_PROXY_OCRES", Some("LINKERD2_PROXY_CORES"));
        check("LINKERD2_PROXY_LOGS", Some("LINKERD2_PROXY_LOG"));
        check("LINKERD2_PROXY_TAP_SVC_NAME", None);
        check("LINKERD2_PROXY_", None);
        check(&format!("LINKERD2_PROXY_CORES{}", "S".repeat(1 << 20)), None);
    }
}
