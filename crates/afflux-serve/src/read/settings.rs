//! The session parameters that clients ask for and set.
//!
//! Most change nothing: clients set them because Postgres has them. They are kept so that `SHOW`
//! answers what was set. What changes something here is `statement_timeout`.

use std::{collections::BTreeMap, time::Duration};

use crate::QueryError;

/// The version that Afflux says it is compatible with: psql and drivers choose their catalogue
/// queries by it.
pub(crate) const SERVER_VERSION: &str = concat!("15.0 (Afflux ", env!("CARGO_PKG_VERSION"), ")");

/// Name, value and whether it is reported to clients unasked, at start-up and on change.
const DEFAULTS: &[(&str, &str, bool)] = &[
    ("application_name", "", true),
    ("client_encoding", "UTF8", true),
    ("client_min_messages", "notice", false),
    ("datestyle", "ISO, YMD", true),
    ("default_transaction_isolation", "read committed", false),
    ("default_transaction_read_only", "off", true),
    ("extra_float_digits", "1", false),
    ("in_hot_standby", "off", true),
    ("integer_datetimes", "on", true),
    ("intervalstyle", "postgres", true),
    ("is_superuser", "on", true),
    ("lc_collate", "C", false),
    ("max_identifier_length", "63", false),
    ("search_path", "public", false),
    ("server_encoding", "UTF8", true),
    ("server_version", SERVER_VERSION, true),
    ("server_version_num", "150000", false),
    ("session_authorization", "", true),
    ("standard_conforming_strings", "on", true),
    ("statement_timeout", "60s", false),
    ("timezone", "UTC", true),
    ("transaction_isolation", "read committed", false),
    ("transaction_read_only", "off", false),
];

/// Parameters that tell what the server is.
const FIXED: &[&str] = &[
    "in_hot_standby",
    "integer_datetimes",
    "is_superuser",
    "lc_collate",
    "max_identifier_length",
    "server_encoding",
    "server_version",
    "server_version_num",
];

/// One session's parameters, names in lower case.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    values: BTreeMap<String, String>,
    timeout: Option<Duration>,
    timeout_default: Option<Duration>,
}

impl Settings {
    /// The defaults, with the node's limit on how long a statement may run.
    pub(crate) fn new(timeout: Option<Duration>) -> Self {
        let values = DEFAULTS.iter().map(|(name, value, _)| ((*name).into(), (*value).into()));
        let mut settings =
            Self { values: values.collect(), timeout: None, timeout_default: timeout };
        settings.reset();
        settings
    }

    /// How long a statement may run.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Back to the defaults.
    pub(crate) fn reset(&mut self) {
        for (name, value, _) in DEFAULTS {
            if !matches!(*name, "application_name" | "session_authorization") {
                self.values.insert((*name).into(), (*value).into());
            }
        }
        self.timeout = self.timeout_default;
        let timeout = self.timeout.map_or(0, |timeout| timeout.as_millis());
        self.values.insert("statement_timeout".into(), format!("{timeout}ms"));
    }

    /// The value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Result<&str, QueryError> {
        self.values.get(name).map(String::as_str).ok_or_else(|| {
            QueryError::invalid(format!("there is no parameter \"{name}\""))
                .with_sqlstate("42704")
                .with_hint("SHOW ALL lists them")
        })
    }

    /// All of them, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Sets a parameter. Names with a dot, as extensions have, are kept whatever they are.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), QueryError> {
        let (name, value) = match (name, value.split_at_checked(4)) {
            // `SET TIME ZONE 'UTC'`, the standard's words for it.
            ("time", Some((zone, value))) if zone.eq_ignore_ascii_case("zone") => {
                ("timezone", value.trim_matches([' ', '\'', '"']))
            }
            _ => (name, value),
        };
        let value = if value.eq_ignore_ascii_case("default") {
            DEFAULTS.iter().find(|(known, ..)| *known == name).map_or("", |(_, value, _)| *value)
        } else {
            value
        };
        if FIXED.contains(&name) && self.values.get(name).is_none_or(|now| now != value) {
            return Err(QueryError::invalid(format!("\"{name}\" can not be changed"))
                .with_sqlstate("55P02"));
        }
        match name {
            "client_encoding" if !is_utf8(value) => {
                return Err(QueryError::invalid(format!(
                    "\"{value}\" is not an encoding for clients"
                ))
                .with_sqlstate("22023")
                .with_hint("Afflux speaks UTF8 alone"));
            }
            "timezone" if !is_utc(value) => {
                return Err(QueryError::unsupported("times are given in UTC")
                    .with_hint("convert them where they are shown"));
            }
            "datestyle" if !value.to_ascii_uppercase().contains("ISO") => {
                return Err(QueryError::unsupported("dates are given in ISO style"));
            }
            "intervalstyle" if !value.eq_ignore_ascii_case("postgres") => {
                return Err(QueryError::unsupported("intervals are given in style postgres"));
            }
            "standard_conforming_strings" if !is_on(value) => {
                return Err(QueryError::unsupported("a backslash in a text is a backslash"));
            }
            "statement_timeout" => {
                let timeout = duration(value).ok_or_else(|| {
                    QueryError::invalid(format!("\"{value}\" is not a duration"))
                        .with_sqlstate("22023")
                        .with_hint(
                            "write milliseconds or a unit: '500ms', '30s', '5min'; 0 for none",
                        )
                })?;
                self.timeout = (!timeout.is_zero()).then_some(timeout);
            }
            "application_name" | "session_authorization" => {}
            name if name.contains('.') || self.values.contains_key(name) => {}
            "names" | "transaction" | "characteristics" | "session characteristics" | "role" => {}
            unknown => {
                return Err(QueryError::invalid(format!("there is no parameter \"{unknown}\""))
                    .with_sqlstate("42704")
                    .with_hint("SHOW ALL lists them"));
            }
        }
        self.values.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// What clients are told unasked, by the names that Postgres writes them with.
    pub(crate) fn reported(&self) -> impl Iterator<Item = (&'static str, &str)> {
        DEFAULTS
            .iter()
            .filter(|(_, _, reported)| *reported)
            .filter_map(|(name, ..)| Some((spelled(name), self.values.get(*name)?.as_str())))
    }

    /// A parameter as it is reported, if it is.
    pub(crate) fn reported_one(&self, name: &str) -> Option<(&'static str, &str)> {
        self.reported().find(|(known, _)| known.eq_ignore_ascii_case(name))
    }
}

fn spelled(name: &'static str) -> &'static str {
    match name {
        "datestyle" => "DateStyle",
        "intervalstyle" => "IntervalStyle",
        "timezone" => "TimeZone",
        name => name,
    }
}

fn is_on(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1")
}

fn is_utf8(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "utf8" | "utf-8" | "unicode")
}

fn is_utc(value: &str) -> bool {
    matches!(
        value.to_ascii_lowercase().as_str(),
        "utc" | "etc/utc" | "gmt" | "zulu" | "etc/gmt" | "0" | "+00:00" | "universal"
    )
}

/// Postgres's durations: a number of milliseconds, or with a unit.
fn duration(value: &str) -> Option<Duration> {
    let value = value.trim();
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit.trim() {
        "" | "ms" => number,
        "s" => number.checked_mul(1_000)?,
        "min" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        "d" => number.checked_mul(86_400_000)?,
        _ => return None,
    };
    Some(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_postgres_s() {
        let check = |text: &str, millis: Option<u64>| {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text:?}");
        };
        check("0", Some(0));
        check("1500", Some(1500));
        check("5s", Some(5_000));
        check("2 min", Some(120_000));
        check("1h", Some(3_600_000));
        check("99999999999999999999", None);
        check("18446744073709551615d", None);
        check("-1", None);
        check("soon", None);
    }

    #[test]
    fn parameters_are_set_or_refused() {
        let check = |name: &str, value: &str, sqlstate: Option<&str>| {
            let mut settings = Settings::new(None);
            let outcome = settings.set(name, value);
            assert_eq!(outcome.as_ref().err().map(|e| e.sqlstate), sqlstate, "{name} {outcome:?}");
            if outcome.is_ok() {
                assert_eq!(settings.get(name), Ok(value));
            }
        };
        check("application_name", "psql", None);
        check("client_encoding", "UTF8", None);
        check("client_encoding", "latin1", Some("22023"));
        check("timezone", "UTC", None);
        check("timezone", "Europe/Paris", Some("0A000"));
        check("characteristics", "AS TRANSACTION READ ONLY", None);
        check("intervalstyle", "postgres", None);
        check("intervalstyle", "iso_8601", Some("0A000"));
        check("standard_conforming_strings", "on", None);
        check("standard_conforming_strings", "off", Some("0A000"));
        check("statement_timeout", "5s", None);
        check("statement_timeout", "soon", Some("22023"));
        check("server_version", "99", Some("55P02"));
        check("jit", "off", Some("42704"));
        check("myapp.user", "7", None);
    }

    #[test]
    fn the_time_zone_has_two_names() {
        let check = |value: &str, sqlstate: Option<&str>| {
            let outcome = Settings::new(None).set("time", value);
            assert_eq!(outcome.err().map(|error| error.sqlstate), sqlstate, "{value}");
        };
        check("ZONE 'UTC'", None);
        check("zone UTC", None);
        check("ZONE 'Europe/Paris'", Some("0A000"));
        check("é", Some("42704"));
    }

    #[test]
    fn the_timeout_is_set_and_reset() {
        let mut settings = Settings::new(Some(Duration::from_secs(9)));
        assert_eq!(settings.get("statement_timeout"), Ok("9000ms"));
        settings.set("statement_timeout", "0").unwrap();
        assert_eq!(settings.timeout(), None);
        settings.reset();
        assert_eq!(settings.timeout(), Some(Duration::from_secs(9)));
    }
}
