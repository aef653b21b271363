//! What is wrong with a statement, and where.

use std::fmt;

use afflux_types::{Classified, ErrorKind};

/// A place in the text, both from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: u64,
    /// The character in the line.
    pub column: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// A statement that can not be parsed or planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlError {
    kind: ErrorKind,
    sqlstate: &'static str,
    message: String,
    hint: Option<String>,
    position: Option<Position>,
}

/// The SQLSTATE codes that this crate uses (PostgreSQL, appendix A).
pub(crate) mod sqlstate {
    pub(crate) const AMBIGUOUS_COLUMN: &str = "42702";
    pub(crate) const DATATYPE_MISMATCH: &str = "42804";
    pub(crate) const DUPLICATE_COLUMN: &str = "42701";
    pub(crate) const FEATURE_NOT_SUPPORTED: &str = "0A000";
    pub(crate) const GROUPING: &str = "42803";
    pub(crate) const INTERNAL: &str = "XX000";
    pub(crate) const INVALID_NAME: &str = "42602";
    pub(crate) const INVALID_PARAMETER: &str = "22023";
    pub(crate) const INVALID_TABLE: &str = "42P16";
    pub(crate) const OUT_OF_MEMORY: &str = "53200";
    pub(crate) const STATEMENT_TOO_COMPLEX: &str = "54001";
    pub(crate) const SYNTAX: &str = "42601";
    pub(crate) const UNDEFINED_COLUMN: &str = "42703";
    pub(crate) const UNDEFINED_FUNCTION: &str = "42883";
    pub(crate) const UNDEFINED_OBJECT: &str = "42704";
    pub(crate) const UNDEFINED_TABLE: &str = "42P01";
}

impl SqlError {
    /// An error of a kind.
    pub(crate) fn new(kind: ErrorKind, sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self { kind, sqlstate, message: message.into(), hint: None, position: None }
    }

    /// The statement is wrong.
    pub(crate) fn invalid(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, sqlstate, message)
    }

    /// The statement is understood, but not done.
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, sqlstate::FEATURE_NOT_SUPPORTED, message)
    }

    /// A fault of Afflux.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, sqlstate::INTERNAL, message)
    }

    /// With something to try.
    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With something to try, unless there is something already.
    #[must_use]
    pub(crate) fn or_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = self.hint.or_else(|| Some(hint.into()));
        self
    }

    /// With a place, unless it has one.
    #[must_use]
    pub(crate) fn at(mut self, position: Option<Position>) -> Self {
        self.position = self.position.or(position);
        self
    }

    /// What is wrong, without position and hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Where in the text given to [`crate::parse`], as far as known.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// PostgreSQL's five characters for it.
    pub fn sqlstate(&self) -> &'static str {
        self.sqlstate
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.position {
            Some(position) => write!(f, " ({position})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for SqlError {}

impl Classified for SqlError {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

/// The name in `known` that is most like `name`, if one is near enough for a typing error.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (distance(&name, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance in characters, one row of the table at a time.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_recognised() {
        let check = |name: &str, known: &[&str], expected: Option<&str>| {
            assert_eq!(nearest(name, known.iter().copied()), expected, "{name}");
        };
        check("carier", &["carrier", "dest"], Some("carrier"));
        check("Carrier", &["carrier"], Some("carrier"));
        check("tial", &["tail", "toll"], None);
        check("taill", &["tail", "toll"], Some("tail"));
        check("zzz", &["carrier", "dest"], None);
        check("x", &[], None);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
