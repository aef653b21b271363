//! The one error that readers see, whatever they speak.
//!
//! It carries what both edges need: Postgres its SQLSTATE, hint and position, HTTP its status.
//! Errors of the layers below become one here and nowhere else.

use std::fmt;

use afflux_sql::SqlError;
use afflux_types::{Classified, ErrorKind};
use arrow::error::ArrowError;
use axum::http::StatusCode;
use datafusion::{common::SchemaError, error::DataFusionError};
use serde::Serialize;

/// Where in a statement's text an error lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Position {
    /// From 1.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
}

impl Position {
    /// The position as Postgres counts it: characters from the beginning of the text, from 1.
    /// `None` if the text has no such line.
    pub fn characters(self, text: &str) -> Option<u64> {
        let before = usize::try_from(self.line.checked_sub(1)?).ok()?;
        let mut lines = text.split_inclusive('\n');
        let mut characters = 0;
        for _ in 0..before {
            characters += lines.next()?.chars().count() as u64;
        }
        Some(characters + self.column)
    }
}

/// Why a statement, a read or a subscription failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryError {
    /// What the caller should do.
    pub kind: ErrorKind,
    /// Five characters, as in Postgres.
    pub sqlstate: &'static str,
    /// One sentence.
    pub message: String,
    /// What to try.
    pub hint: Option<String>,
    /// Where in the statement.
    pub position: Option<Position>,
}

impl QueryError {
    /// An error of a kind, with the kind's usual SQLSTATE.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            sqlstate: sqlstate_of(kind),
            message: message.into(),
            hint: None,
            position: None,
        }
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// This build does not do it.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// A fault of Afflux.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The client gave up.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Unavailable, "the statement was cancelled by its client")
            .with_sqlstate("57014")
    }

    /// The statement ran for too long.
    pub fn timed_out(after: std::time::Duration) -> Self {
        Self::new(
            ErrorKind::Unavailable,
            format!("the statement was cancelled after {} ms", after.as_millis()),
        )
        .with_sqlstate("57014")
        .with_hint("read less of it, or raise it with SET statement_timeout = '5min'")
    }

    /// With another SQLSTATE.
    #[must_use]
    pub fn with_sqlstate(mut self, sqlstate: &'static str) -> Self {
        self.sqlstate = sqlstate;
        self
    }

    /// With a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An error of a layer below.
    pub fn from_classified(error: &impl Classified) -> Self {
        Self { hint: error.hint(), ..Self::new(error.kind(), error.to_string()) }
    }

    /// The HTTP status of the error's kind.
    pub fn status(&self) -> StatusCode {
        match self.kind {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::AlreadyExists | ErrorKind::Fenced => StatusCode::CONFLICT,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Full => StatusCode::INSUFFICIENT_STORAGE,
            ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The error as the JSON that HTTP answers with: `{"error": {…}}`.
    pub fn json(&self) -> String {
        serde_json::json!({ "error": {
            "kind": self.kind.to_string(),
            "message": self.message,
            "hint": self.hint,
            "sqlstate": self.sqlstate,
            "position": self.position,
        }})
        .to_string()
    }
}

fn sqlstate_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "42000",
        ErrorKind::NotFound => "42P01",
        ErrorKind::AlreadyExists => "42P07",
        ErrorKind::Fenced => "55000",
        ErrorKind::Unavailable => "57P03",
        ErrorKind::Full => "53100",
        ErrorKind::Unsupported => "0A000",
        ErrorKind::Corrupt => "XX001",
        _ => "XX000",
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for QueryError {}

impl Classified for QueryError {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

impl From<SqlError> for QueryError {
    fn from(error: SqlError) -> Self {
        let position = error.position().map(|at| Position { line: at.line, column: at.column });
        Self {
            message: error.message().to_owned(),
            position,
            ..Self::from_classified(&error).with_sqlstate(error.sqlstate())
        }
    }
}

impl From<DataFusionError> for QueryError {
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::Context(_, inner) => Self::from(*inner),
            DataFusionError::Diagnostic(diagnostic, inner) => {
                let at = diagnostic.span.map(|span| span.start);
                let position = at.map(|at| Position { line: at.line, column: at.column });
                let error = Self::from(*inner);
                Self { position: error.position.or(position), ..error }
            }
            DataFusionError::Collection(errors) => errors
                .into_iter()
                .next()
                .map_or_else(|| Self::internal("the query failed"), Self::from),
            DataFusionError::Shared(inner) => Self::of_shared(&inner),
            DataFusionError::ArrowError(inner, _) => Self::from(*inner),
            DataFusionError::External(inner) => match inner.downcast::<Self>() {
                Ok(error) => *error,
                Err(other) => Self::internal(other.to_string()),
            },
            other => Self::of_shared(&other),
        }
    }
}

impl QueryError {
    fn of_shared(error: &DataFusionError) -> Self {
        match error {
            DataFusionError::Plan(message) => {
                let sqlstate = plan_sqlstate(message);
                let kind =
                    if sqlstate == "42P01" { ErrorKind::NotFound } else { ErrorKind::Invalid };
                let (message, hint) = message.split_once('\n').unwrap_or((message, ""));
                let hint = Some(hint.trim().to_owned()).filter(|hint| !hint.is_empty());
                Self { hint, ..Self::new(kind, message).with_sqlstate(sqlstate) }
            }
            DataFusionError::SQL(inner, _) => {
                Self::invalid(inner.to_string()).with_sqlstate("42601")
            }
            DataFusionError::SchemaError(inner, _) => {
                let sqlstate = match **inner {
                    SchemaError::FieldNotFound { .. } => "42703",
                    SchemaError::AmbiguousReference { .. } => "42702",
                    _ => "42701",
                };
                Self::invalid(inner.to_string()).with_sqlstate(sqlstate)
            }
            DataFusionError::NotImplemented(message) => Self::unsupported(message),
            DataFusionError::ResourcesExhausted(_) => Self::new(
                ErrorKind::Full,
                "the query needs more memory than reads may use on this node",
            )
            .with_sqlstate("53200")
            .with_hint("select fewer rows or columns, or keep the result as a materialized view"),
            DataFusionError::Execution(message) => Self::invalid(message).with_sqlstate("22000"),
            DataFusionError::ArrowError(inner, _) => Self::of_arrow(inner),
            other => Self::internal(other.strip_backtrace()),
        }
    }

    fn of_arrow(error: &ArrowError) -> Self {
        match error {
            ArrowError::DivideByZero => Self::invalid("division by zero").with_sqlstate("22012"),
            ArrowError::ArithmeticOverflow(message) => {
                Self::invalid(message).with_sqlstate("22003")
            }
            ArrowError::CastError(message) | ArrowError::ParseError(message) => {
                Self::invalid(message).with_sqlstate("22P02")
            }
            ArrowError::NotYetImplemented(message) => Self::unsupported(message),
            other => Self::invalid(other.to_string()).with_sqlstate("22000"),
        }
    }
}

impl From<ArrowError> for QueryError {
    fn from(error: ArrowError) -> Self {
        match error {
            ArrowError::ExternalError(inner) => match inner.downcast::<DataFusionError>() {
                Ok(error) => Self::from(*error),
                Err(other) => Self::internal(other.to_string()),
            },
            other => Self::of_arrow(&other),
        }
    }
}

/// DataFusion tells planning errors apart by their text alone.
fn plan_sqlstate(message: &str) -> &'static str {
    if message.starts_with("table '") || message.contains("not found in the catalog") {
        "42P01"
    } else if message.contains("Invalid function") || message.contains("No function matches") {
        "42883"
    } else {
        "42000"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_over_lines() {
        let check = |text: &str, line, column, expected| {
            assert_eq!(Position { line, column }.characters(text), expected, "{text:?}");
        };
        check("SELECT x", 1, 8, Some(8));
        check("SELECT\n  é, y\nFROM t", 2, 6, Some(13));
        check("SELECT\n1", 4, 1, None);
        check("a", 0, 1, None);
    }

    #[test]
    fn errors_below_become_states_and_statuses() {
        let check = |error: DataFusionError, sqlstate: &str, status: u16| {
            let error = QueryError::from(error);
            assert_eq!((error.sqlstate, error.status().as_u16()), (sqlstate, status), "{error:?}");
        };
        check(DataFusionError::Plan("table 'afflux.public.x' not found".into()), "42P01", 404);
        check(DataFusionError::Plan("Invalid function 'f'".into()), "42883", 400);
        check(DataFusionError::NotImplemented("that".into()), "0A000", 501);
        check(DataFusionError::ResourcesExhausted("m".into()), "53200", 507);
        check(DataFusionError::from(ArrowError::DivideByZero), "22012", 400);
        check(
            DataFusionError::External(Box::new(QueryError::cancelled())).context("while reading"),
            "57014",
            503,
        );
    }
}
