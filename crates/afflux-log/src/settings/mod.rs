//! What can be set for a topic: names, values, what they do.
//!
//! 1. [`SETTINGS`] is the one declaration. Validation, the answers of `DescribeConfigs` and the
//!    page `docs/topic-settings.md` are made from it.
//! 2. [`Settings`] is what was set for one topic: text by name, as it stands in the log. It only
//!    exists checked.
//! 3. [`Rules`] is what follows from it, in types, for those who act by it: retention here, the
//!    listeners for what is written.
//!
//! Every setting acts, or takes the one value that is true here and refuses the others. So a
//! client that states what it needs either gets it or is told.

mod page;
mod table;

use std::{collections::BTreeMap, time::Duration};

use afflux_record::Compression;
use afflux_types::{Classified, ErrorKind, TopicName};
use serde::{Deserialize, Serialize};

pub use page::page;
pub use table::SETTINGS;

/// A setting's type, by Kafka's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingType {
    /// `true` or `false`.
    Boolean,
    /// Any text.
    Text,
    /// 32 bits.
    Int,
    /// 64 bits.
    Long,
    /// A number with a fraction.
    Double,
    /// Texts with commas between them.
    List,
}

/// Which values a setting takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Allowed {
    /// The default alone, and why.
    Only(&'static str),
    /// One of these.
    OneOf(&'static [&'static str]),
    /// One or more of these.
    AnyOf(&'static [&'static str]),
    /// From 0 to 1.
    Share,
    /// A whole number of this or more.
    AtLeast(i64),
}

/// A setting of a topic.
#[derive(Debug)]
pub struct Setting {
    /// Its name; Kafka's, where Kafka has it.
    pub name: &'static str,
    /// Its type.
    pub kind: SettingType,
    /// The value of a topic that does not set it.
    pub default: &'static str,
    /// What it takes.
    pub allowed: Allowed,
    /// The name of the default among a Kafka broker's settings, if it has one there.
    pub broker_name: Option<&'static str>,
    /// What it does.
    pub doc: &'static str,
}

/// The setting of a name.
pub fn setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// A setting that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// There is none of that name.
    #[error("topics have no setting {0}")]
    Unknown(String),
    /// Its value is none that it takes.
    #[error("{name} can not be {value:?}: {reason}")]
    Value {
        /// The setting.
        name: &'static str,
        /// The value.
        value: String,
        /// What it takes.
        reason: String,
    },
}

impl Classified for SettingError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }

    fn hint(&self) -> Option<String> {
        matches!(self, Self::Unknown(_))
            .then(|| "docs/topic-settings.md lists all that there are".to_owned())
    }
}

impl Setting {
    /// Whether it takes more than one value.
    pub fn is_fixed(&self) -> bool {
        matches!(self.allowed, Allowed::Only(_))
    }

    /// The value as it is kept.
    fn normal(&self, value: &str) -> String {
        let value = value.trim();
        match self.kind {
            SettingType::Boolean => value.to_ascii_lowercase(),
            SettingType::List => {
                let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
                parts.collect::<Vec<_>>().join(",")
            }
            _ => value.to_owned(),
        }
    }

    fn check(&'static self, value: &str) -> Result<(), SettingError> {
        let refused =
            |reason: String| SettingError::Value { name: self.name, value: value.into(), reason };
        match self.allowed {
            Allowed::Only(why) if !self.same(value) => {
                let only = if self.default.is_empty() { "empty" } else { self.default };
                Err(refused(format!("only {only} is taken, for {why}")))
            }
            Allowed::OneOf(values) if !values.contains(&value) => {
                Err(refused(format!("one of {} is taken", values.join(", "))))
            }
            Allowed::AnyOf(values)
                if value.is_empty() || !value.split(',').all(|part| values.contains(&part)) =>
            {
                Err(refused(format!("one or more of {} are taken", values.join(", "))))
            }
            Allowed::Share if !value.parse::<f64>().is_ok_and(|v| (0.0..=1.0).contains(&v)) => {
                Err(refused("a number from 0 to 1 is taken".to_owned()))
            }
            Allowed::AtLeast(least) => {
                let most =
                    if self.kind == SettingType::Int { i64::from(i32::MAX) } else { i64::MAX };
                match value.parse::<i64>() {
                    Ok(number) if (least..=most).contains(&number) => Ok(()),
                    _ => Err(refused(format!("a whole number from {least} to {most} is taken"))),
                }
            }
            _ => Ok(()),
        }
    }

    /// Whether a value means the default.
    fn same(&self, value: &str) -> bool {
        let numbers = || Some((value.parse::<f64>().ok()?, self.default.parse::<f64>().ok()?));
        value == self.default
            || self.kind == SettingType::Double
                && numbers().is_some_and(|(a, b)| (a - b).abs() < f64::EPSILON)
    }
}

/// When and how a topic is compacted.
#[derive(Debug, Clone, PartialEq)]
pub struct Compaction {
    /// How old records must be for it.
    pub lag_min: Duration,
    /// How old records may become without it.
    pub lag_max: Option<Duration>,
    /// How long tombstones and markers stay once a pass has seen them.
    pub delete_retention: Duration,
    /// Which share of the bytes must have come since the last pass.
    pub dirty_ratio: f64,
    /// How old a record of the file being written must be for it to be compacted...
    pub roll_after: Duration,
    /// ...or how many bytes there must be of them.
    pub roll_bytes: u64,
}

/// What follows from a topic's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// How it is compacted, if it is.
    pub compaction: Option<Compaction>,
    /// How long records are kept, by their timestamps.
    pub retention: Option<Duration>,
    /// How many bytes of a partition are kept.
    pub retention_bytes: Option<u64>,
    /// Whether retention looks into the files, batch by batch.
    pub retention_by_batch: bool,
    /// The largest batch that is taken from a client.
    pub batch_bytes_max: usize,
    /// Whether records get the log's time instead of the client's.
    pub append_time: bool,
    /// How much older than the log's time a client's may be.
    pub before_max: Option<Duration>,
    /// How much later than the log's time a client's may be.
    pub after_max: Option<Duration>,
    /// Whether records are acknowledged before they are durable.
    pub relaxed: bool,
    /// How batches are packed; as they came if none.
    pub compression: Option<Compression>,
}

/// What was set for a topic, checked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Settings {
    set: BTreeMap<String, String>,
    rules: Rules,
}

/// The rules follow from what was set.
impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        self.set == other.set
    }
}

impl Eq for Settings {}

impl Default for Settings {
    fn default() -> Self {
        Self::from(BTreeMap::new())
    }
}

impl From<BTreeMap<String, String>> for Settings {
    /// What stands in the log was checked once; what this version does not know has its default.
    fn from(set: BTreeMap<String, String>) -> Self {
        let rules = Rules::of(&set);
        Self { set, rules }
    }
}

impl From<Settings> for BTreeMap<String, String> {
    fn from(settings: Settings) -> Self {
        settings.set
    }
}

impl Settings {
    /// Checks what is to be set.
    pub fn new(set: impl IntoIterator<Item = (String, String)>) -> Result<Self, SettingError> {
        let mut checked = BTreeMap::new();
        for (name, value) in set {
            let Some(setting) = setting(&name) else { return Err(SettingError::Unknown(name)) };
            let value = setting.normal(&value);
            setting.check(&value)?;
            checked.insert(name, value);
        }
        let settings = Self::from(checked);
        let flushed = ["flush.messages", "flush.ms"].into_iter();
        if let Some(name) =
            flushed.filter(|_| settings.rules.relaxed).find(|name| settings.set.contains_key(*name))
        {
            return Err(SettingError::Value {
                name: "durability",
                value: "relaxed".to_owned(),
                reason: format!("{name} is set, which asks for more"),
            });
        }
        if let Some(Compaction { lag_min, lag_max: Some(lag_max), .. }) = settings.rules.compaction
            && lag_min > lag_max
        {
            return Err(SettingError::Value {
                name: "min.compaction.lag.ms",
                value: lag_min.as_millis().to_string(),
                reason: "max.compaction.lag.ms is less".to_owned(),
            });
        }
        Ok(settings)
    }

    /// Those of a topic whose records stay until somebody removes them.
    pub fn kept() -> Self {
        Self::from(BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())]))
    }

    /// What was set, by name.
    pub fn set(&self) -> &BTreeMap<String, String> {
        &self.set
    }

    /// The value that holds for a setting.
    pub fn value(&self, setting: &'static Setting) -> &str {
        value(&self.set, setting)
    }

    /// What follows from them.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }
}

fn value<'a>(set: &'a BTreeMap<String, String>, setting: &'static Setting) -> &'a str {
    set.get(setting.name).map_or(setting.default, String::as_str)
}

impl Rules {
    fn of(set: &BTreeMap<String, String>) -> Self {
        let text = |name: &str| setting(name).map_or("", |setting| value(set, setting));
        let number = |name: &str| {
            let parsed = text(name).parse::<i64>().ok();
            parsed.or_else(|| setting(name)?.default.parse().ok()).unwrap_or(-1)
        };
        // Negative, or as much as a number can say: no limit.
        let limit = |name: &str| Some(number(name)).filter(|n| *n >= 0 && *n < i64::MAX);
        let time = |name: &str| limit(name).map(|ms| Duration::from_millis(ms as u64));
        let codecs = [
            Compression::None,
            Compression::Gzip,
            Compression::Snappy,
            Compression::Lz4,
            Compression::Zstd,
        ];
        let codec = match text("compression.type") {
            "uncompressed" => "none",
            name => name,
        };
        let policies = text("cleanup.policy");
        let has = |policy: &str| policies.split(',').any(|part| part == policy);
        let lag_max = time("max.compaction.lag.ms");
        let roll_after = Duration::from_millis(number("segment.ms").unsigned_abs());
        let compaction = has("compact").then(|| Compaction {
            lag_min: time("min.compaction.lag.ms").unwrap_or(Duration::MAX),
            lag_max,
            delete_retention: time("delete.retention.ms").unwrap_or(Duration::MAX),
            dirty_ratio: text("min.cleanable.dirty.ratio").parse().unwrap_or(0.5),
            roll_after: lag_max.map_or(roll_after, |lag| lag.min(roll_after)),
            roll_bytes: number("segment.bytes").unsigned_abs(),
        });
        let deletes = has("delete");
        Self {
            compaction,
            retention: time("retention.ms").filter(|_| deletes),
            retention_bytes: limit("retention.bytes").filter(|_| deletes).map(|bytes| bytes as u64),
            retention_by_batch: ["segment.bytes", "segment.ms"]
                .iter()
                .any(|s| set.contains_key(*s)),
            batch_bytes_max: number("max.message.bytes") as usize,
            append_time: text("message.timestamp.type") == "LogAppendTime",
            before_max: time("message.timestamp.before.max.ms"),
            after_max: time("message.timestamp.after.max.ms"),
            relaxed: text("durability") == "relaxed",
            compression: codecs.into_iter().find(|found| found.name() == codec),
        }
    }
}

/// Settings that can not be changed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AlterError {
    /// There is no such topic.
    #[error("there is no topic {0}")]
    Unknown(TopicName),
    /// A setting is refused.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The change could not be written.
    #[error(transparent)]
    Append(#[from] crate::error::AppendError),
}

impl Classified for AlterError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown(_) => ErrorKind::NotFound,
            Self::Setting(error) => error.kind(),
            Self::Append(error) => error.kind(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(set: &[(&str, &str)]) -> Result<Settings, SettingError> {
        Settings::new(set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn the_table_is_sorted_and_its_defaults_are_taken() {
        assert!(SETTINGS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for setting in SETTINGS {
            settings(&[(setting.name, setting.default)]).unwrap();
            assert!(setting.doc.ends_with('.'), "{}", setting.name);
        }
    }

    #[test]
    fn values_are_taken_or_refused() {
        let check = |name: &str, value: &str, expected: Result<(), &str>| match (
            settings(&[(name, value)]),
            expected,
        ) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{name}={value}: {error}");
            }
            (found, _) => panic!("{name}={value}: {found:?}"),
        };
        check("retention.ms", "-1", Ok(()));
        check("retention.ms", " 3600000 ", Ok(()));
        check("retention.ms", "-2", Err("from -1"));
        check("retention.ms", "soon", Err("a whole number"));
        check("retention.ms", "9223372036854775808", Err("a whole number"));
        check("max.message.bytes", "2147483648", Err("to 2147483647"));
        check("cleanup.policy", "delete", Ok(()));
        check("cleanup.policy", " delete , ", Ok(()));
        check("cleanup.policy", "compact", Ok(()));
        check("cleanup.policy", "compact, delete", Ok(()));
        check("cleanup.policy", "", Err("one or more of delete, compact"));
        check("cleanup.policy", "compact,keep", Err("one or more of delete, compact"));
        check("compression.type", "zstd", Ok(()));
        check("compression.type", "brotli", Err("one of"));
        check("min.insync.replicas", "1", Ok(()));
        check("min.insync.replicas", "2", Err("only 1 is taken"));
        check("unclean.leader.election.enable", "FALSE", Ok(()));
        check("unclean.leader.election.enable", "true", Err("only false"));
        check("min.cleanable.dirty.ratio", "0.01", Ok(()));
        check("min.cleanable.dirty.ratio", "1.1", Err("from 0 to 1"));
        check("min.cleanable.dirty.ratio", "NaN", Err("from 0 to 1"));
        check("follower.replication.throttled.replicas", "", Ok(()));
        check("follower.replication.throttled.replicas", "*", Err("only empty"));
        check("segment.bytes", "52428800", Ok(()));
        check("durability", "relaxed", Ok(()));
        check("durability", "none", Err("one of fsync, relaxed"));
        check("retention", "1", Err("no setting retention"));
    }

    #[test]
    fn relaxed_topics_promise_no_sync() {
        for flush in ["flush.messages", "flush.ms"] {
            settings(&[(flush, "1"), ("durability", "fsync")]).unwrap();
            let refused = settings(&[(flush, "1"), ("durability", "relaxed")]).unwrap_err();
            assert!(refused.to_string().contains(flush), "{refused}");
        }
        assert!(settings(&[("durability", "relaxed")]).unwrap().rules().relaxed);
    }

    #[test]
    fn rules_follow_from_settings() {
        let week = Duration::from_hours(7 * 24);
        let rules = settings(&[]).unwrap().rules().clone();
        assert_eq!((rules.retention, rules.retention_bytes), (Some(week), None));
        assert_eq!((rules.batch_bytes_max, rules.append_time), (1_048_588, false));
        assert_eq!((rules.before_max, rules.after_max), (None, Some(Duration::from_hours(1))));
        assert_eq!((rules.compression, rules.retention_by_batch), (None, false));
        assert_eq!(rules.compaction, None);
        let compacted = |more: &[(&str, &str)]| {
            let set =
                [("cleanup.policy", "compact"), ("retention.bytes", "5"), ("segment.ms", "70")];
            let set: Vec<_> = set.into_iter().chain(more.iter().copied()).collect();
            settings(&set).unwrap().rules().clone()
        };
        let rules = compacted(&[]);
        assert_eq!((rules.retention, rules.retention_bytes), (None, None));
        let expected = Compaction {
            lag_min: Duration::ZERO,
            lag_max: None,
            delete_retention: Duration::from_hours(24),
            dirty_ratio: 0.5,
            roll_after: Duration::from_millis(70),
            roll_bytes: 1 << 30,
        };
        assert_eq!(rules.compaction, Some(expected.clone()));
        let rules = compacted(&[
            ("cleanup.policy", "compact,delete"),
            ("max.compaction.lag.ms", "60"),
            ("min.cleanable.dirty.ratio", "0.1"),
        ]);
        assert_eq!((rules.retention, rules.retention_bytes), (Some(week), Some(5)));
        let lag_max = Some(Duration::from_millis(60));
        let roll_after = Duration::from_millis(60);
        let expected = Compaction { lag_max, dirty_ratio: 0.1, roll_after, ..expected };
        assert_eq!(rules.compaction, Some(expected));
        let lags = [("min.compaction.lag.ms", "61"), ("max.compaction.lag.ms", "60")];
        let lags = [("cleanup.policy", "compact")].into_iter().chain(lags).collect::<Vec<_>>();
        assert!(settings(&lags).unwrap_err().to_string().contains("max.compaction.lag.ms is less"));
        let rules = settings(&[
            ("retention.ms", "-1"),
            ("retention.bytes", "1000"),
            ("max.message.bytes", "10"),
            ("message.timestamp.type", "LogAppendTime"),
            ("message.timestamp.before.max.ms", "5"),
            ("compression.type", "uncompressed"),
            ("segment.bytes", "1048576"),
        ]);
        let rules = rules.unwrap().rules().clone();
        assert_eq!((rules.retention, rules.retention_bytes), (None, Some(1000)));
        assert_eq!((rules.batch_bytes_max, rules.append_time), (10, true));
        assert_eq!(rules.before_max, Some(Duration::from_millis(5)));
        assert_eq!((rules.compression, rules.retention_by_batch), (Some(Compression::None), true));
    }

    #[test]
    fn what_stands_in_the_log_reads_back() {
        let set = settings(&[("retention.ms", "5"), ("compression.type", "lz4")]).unwrap();
        let text = serde_json::to_string(&set).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), set);
        // Of a later version: known here or not, the log opens.
        let later: Settings =
            serde_json::from_str(r#"{"retention.ms":"for ever","moon.phase":"full"}"#).unwrap();
        assert_eq!(later.rules(), Settings::default().rules());
    }
}
