//! The options of `WITH (…)`: one declaration for the parser, its errors and the reference page.

use std::collections::BTreeMap;

use crate::{
    Position, SqlError,
    error::{nearest, sqlstate},
};

/// One option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionSpec {
    /// Its name. `scan.startup.mode` and `scan_startup_mode` are one name.
    pub name: &'static str,
    /// What it takes.
    pub values: &'static str,
    /// What holds where it is left out; none if it has to be there.
    pub default: Option<&'static str>,
    /// What it does.
    pub about: &'static str,
}

/// The options of `CREATE SOURCE`.
pub const SOURCE_OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "topic",
        values: "a topic's name",
        default: None,
        about: "The topic to read.",
    },
    OptionSpec {
        name: "format",
        values: "`'json'`",
        default: None,
        about: "How a record's value is encoded: one JSON object a record.",
    },
    OptionSpec {
        name: "scan_startup_mode",
        values: "`'earliest'`, `'latest'`",
        default: Some("`'earliest'`"),
        about: "Where a new view begins to read: at the first record that is retained, or behind \
                the last one that is there when the view is made. Flink's `earliest-offset` and \
                `latest-offset` are taken too.",
    },
    OptionSpec {
        name: "idle_timeout",
        values: "an interval",
        default: Some("`'30 seconds'`"),
        about: "How long a partition that is read to its end may stay silent before the watermark \
                no longer waits for it.",
    },
    OptionSpec {
        name: "late",
        values: "`'drop'`",
        default: Some("`'drop'`"),
        about: "What happens to a row whose window is closed: it is left out and counted.",
    },
];

/// The options of `CREATE TABLE`.
pub const TABLE_OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "path",
        values: "a path",
        default: None,
        about: "The file, on the machine of the server. `FROM 'file.csv'` says the same.",
    },
    OptionSpec {
        name: "format",
        values: "`'csv'`",
        default: Some("`'csv'`"),
        about: "How the file is encoded.",
    },
    OptionSpec {
        name: "header",
        values: "`true`, `false`",
        default: Some("`true`"),
        about: "Whether the first row holds the columns' names.",
    },
    OptionSpec {
        name: "delimiter",
        values: "one ASCII character",
        default: Some("`','`"),
        about: "What separates fields.",
    },
    OptionSpec {
        name: "null",
        values: "a text",
        default: Some("`''`"),
        about: "The text of a field that is null.",
    },
];

/// The options given in one statement, by declared name.
#[derive(Debug, Default)]
pub(crate) struct Options {
    values: BTreeMap<&'static str, (String, Option<Position>)>,
}

impl Options {
    /// Adds one, checked against the declaration.
    pub(crate) fn insert(
        &mut self,
        specs: &'static [OptionSpec],
        name: &str,
        value: String,
        position: Option<Position>,
    ) -> Result<(), SqlError> {
        let folded = name.to_lowercase().replace(['.', '-'], "_");
        let Some(spec) = specs.iter().find(|spec| spec.name == folded) else {
            let known: Vec<_> = specs.iter().map(|spec| spec.name).collect();
            let error = SqlError::invalid(
                sqlstate::INVALID_PARAMETER,
                format!("there is no option \"{name}\""),
            );
            let list = format!("the options are {}", known.join(", "));
            let hint = match nearest(&folded, known) {
                Some(near) => format!("did you mean {near}? {list}"),
                None => list,
            };
            return Err(error.with_hint(hint).at(position));
        };
        if self.values.insert(spec.name, (value, position)).is_some() {
            return Err(SqlError::invalid(
                sqlstate::SYNTAX,
                format!("the option {} is given twice", spec.name),
            )
            .at(position));
        }
        Ok(())
    }

    /// The value of an option, if given.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(value, _)| value.as_str())
    }

    /// Where an option was given.
    pub(crate) fn position(&self, name: &str) -> Option<Position> {
        self.values.get(name).and_then(|(_, position)| *position)
    }

    /// The value of an option that has to be there.
    pub(crate) fn required(&self, name: &str, example: &str) -> Result<&str, SqlError> {
        self.get(name).ok_or_else(|| {
            SqlError::invalid(sqlstate::INVALID_PARAMETER, format!("the option {name} is missing"))
                .with_hint(format!("add WITH ({name} = {example})"))
        })
    }

    /// An option that takes one of a few words.
    pub(crate) fn one_of<T: Copy>(
        &self,
        name: &str,
        words: &[(&str, T)],
        otherwise: T,
    ) -> Result<T, SqlError> {
        let Some(value) = self.get(name) else { return Ok(otherwise) };
        let folded = value.to_lowercase();
        words.iter().find(|(word, _)| *word == folded).map(|(_, meaning)| *meaning).ok_or_else(
            || {
                let known: Vec<_> = words.iter().map(|(word, _)| format!("'{word}'")).collect();
                SqlError::unsupported(format!("the option {name} can not be '{value}'"))
                    .with_hint(format!("use {}", known.join(" or ")))
                    .at(self.position(name))
            },
        )
    }
}
