//! What can be set for the node's Kafka listener, by Kafka's names.
//!
//! [`SETTINGS`] is the one declaration: the command line's checks, the answers of `DescribeConfigs`
//! and the page `docs/node-settings.md` are made from it. Every setting acts; what Kafka has and is
//! not here is refused. Not here: settings of topics (`afflux_log::settings`) and of single groups
//! (`of_groups`).

pub(crate) mod of_groups;

use std::{collections::HashSet, fmt::Write, ops::RangeInclusive, time::Duration};

use afflux_log::settings::SettingType::{self, Boolean, Int, Long};
use afflux_types::{Classified, ErrorKind};

use crate::Options;

/// Where a setting acts.
enum Field<'a> {
    Flag(&'a mut bool),
    Partitions(&'a mut i32),
    Count(&'a mut usize),
    Millis(&'a mut Duration),
    Minutes(&'a mut Duration),
}

/// A setting of the node.
pub(crate) struct NodeSetting {
    /// Its name, which is Kafka's.
    pub(crate) name: &'static str,
    /// Its type.
    pub(crate) kind: SettingType,
    /// What it takes, if it is a number.
    range: RangeInclusive<i64>,
    field: fn(&mut Options) -> Field<'_>,
    /// Kafka's default, where it is another.
    kafkas: Option<&'static str>,
    /// What it does.
    pub(crate) doc: &'static str,
}

const fn int(
    name: &'static str,
    least: i64,
    field: fn(&mut Options) -> Field<'_>,
    doc: &'static str,
) -> NodeSetting {
    NodeSetting { name, kind: Int, range: least..=i32::MAX as i64, field, kafkas: None, doc }
}

const fn long(
    name: &'static str,
    least: i64,
    field: fn(&mut Options) -> Field<'_>,
    doc: &'static str,
) -> NodeSetting {
    // What a clock can be asked to wait.
    NodeSetting { name, kind: Long, range: least..=i64::MAX / 1_000_000, field, kafkas: None, doc }
}

impl NodeSetting {
    const fn kafkas(self, default: &'static str) -> Self {
        Self { kafkas: Some(default), ..self }
    }
}

/// All settings of the node, by name.
pub(crate) static SETTINGS: &[NodeSetting] = &[
    NodeSetting {
        name: "auto.create.topics.enable",
        kind: Boolean,
        range: 0..=1,
        field: |options| Field::Flag(&mut options.create_topics),
        kafkas: None,
        doc: "Whether asking for a topic makes it. `--no-auto-create-topics` sets it to `false`.",
    },
    long(
        "connections.max.idle.ms",
        1,
        |options| Field::Millis(&mut options.idle_max),
        "How long a connection may be without a request.",
    ),
    int(
        "fetch.max.bytes",
        1024,
        |options| Field::Count(&mut options.fetch_bytes_max),
        "The most bytes of batches in one answer, but for a first batch that is larger.",
    )
    .kafkas("57671680"),
    int(
        "group.consumer.heartbeat.interval.ms",
        1,
        |options| Field::Millis(&mut options.group_consumer_heartbeat),
        "How often members of the consumer protocol (KIP-848) are told to be heard of. Shorter \
         than their session, and between the bounds of groups.",
    ),
    int(
        "group.consumer.max.heartbeat.interval.ms",
        1,
        |options| Field::Millis(&mut options.group_consumer_heartbeat_max),
        "The most that the interval of heartbeats can be set to for a group.",
    ),
    int(
        "group.consumer.max.session.timeout.ms",
        1,
        |options| Field::Millis(&mut options.group_consumer_session_max),
        "The most that the session can be set to for a group.",
    ),
    int(
        "group.consumer.max.size",
        1,
        |options| Field::Count(&mut options.group_consumer_members_max),
        "The most members of a group of the consumer protocol.",
    )
    .kafkas("2147483647"),
    int(
        "group.consumer.min.heartbeat.interval.ms",
        1,
        |options| Field::Millis(&mut options.group_consumer_heartbeat_min),
        "The least that the interval of heartbeats can be set to for a group.",
    ),
    int(
        "group.consumer.min.session.timeout.ms",
        1,
        |options| Field::Millis(&mut options.group_consumer_session_min),
        "The least that the session can be set to for a group.",
    ),
    int(
        "group.consumer.session.timeout.ms",
        1,
        |options| Field::Millis(&mut options.group_consumer_session),
        "How long a member of the consumer protocol is not missed. Between the bounds of groups.",
    ),
    int(
        "group.initial.rebalance.delay.ms",
        0,
        |options| Field::Millis(&mut options.group_initial_delay),
        "How long a classic group that was empty waits for members that start together.",
    )
    .kafkas("3000"),
    int(
        "group.max.session.timeout.ms",
        1,
        |options| Field::Millis(&mut options.group_session_max),
        "The longest session that a member of a classic group may ask for.",
    ),
    int(
        "group.max.size",
        1,
        |options| Field::Count(&mut options.group_members_max),
        "The most members of a classic group.",
    )
    .kafkas("2147483647"),
    int(
        "group.min.session.timeout.ms",
        1,
        |options| Field::Millis(&mut options.group_session_min),
        "The shortest session that a member of a classic group may ask for. Not longer than the \
         longest.",
    ),
    int(
        "max.connections",
        1,
        |options| Field::Count(&mut options.connections_max),
        "The most connections; more wait to be accepted.",
    )
    .kafkas("2147483647"),
    NodeSetting {
        name: "num.partitions",
        kind: Int,
        range: 1..=10_000,
        field: |options| Field::Partitions(&mut options.partitions),
        kafkas: Some("1"),
        doc: "How many partitions a topic gets whose maker does not say.",
    },
    int(
        "offset.metadata.max.bytes",
        0,
        |options| Field::Count(&mut options.offset_metadata_bytes_max),
        "The longest metadata that may be committed with an offset.",
    ),
    long(
        "offsets.retention.check.interval.ms",
        1,
        |options| Field::Millis(&mut options.group_offsets_check),
        "How often it is looked for commits that nobody needs any more.",
    ),
    int(
        "offsets.retention.minutes",
        1,
        |options| Field::Minutes(&mut options.group_offsets_retention),
        "How long a commit is kept that no member of its group needs: from the commit on, or from \
         when the group's last member left, if that was later.",
    ),
    int(
        "producer.id.expiration.ms",
        1,
        |options| Field::Millis(&mut options.producer_retention),
        "How long a partition remembers an idempotent producer that does not write, give or take a \
         minute. A retry that comes later is taken for a new record. A producer with an open \
         transaction is not forgotten.",
    ),
    int(
        "socket.request.max.bytes",
        1024,
        |options| Field::Count(&mut options.frame_bytes_max),
        "The longest request that is taken.",
    ),
    int(
        "transaction.abort.timed.out.transaction.cleanup.interval.ms",
        1,
        |options| Field::Millis(&mut options.transaction_check),
        "How often it is looked for transactions that take too long, and for transactional ids \
         that nobody uses.",
    )
    .kafkas("10000"),
    int(
        "transaction.max.timeout.ms",
        1,
        |options| Field::Millis(&mut options.transaction_timeout_max),
        "The longest that a transaction may be allowed to take (`transaction.timeout.ms` of a \
         producer).",
    ),
    int(
        "transactional.id.expiration.ms",
        1,
        |options| Field::Millis(&mut options.transaction_id_retention),
        "How long a transactional id is remembered that nobody uses.",
    ),
];

/// A setting of the node that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeSettingError {
    /// There is none of that name.
    #[error("the node has no Kafka setting {0}")]
    Unknown(String),
    /// It is named more than once.
    #[error("the Kafka setting {0} is given twice")]
    Twice(String),
    /// Its value is none that it takes.
    #[error("the Kafka setting {name} can not be {value:?}: {takes} is taken")]
    Value {
        /// The setting.
        name: &'static str,
        /// The value.
        value: String,
        /// What it takes.
        takes: String,
    },
    /// Two of them do not go together.
    #[error("the Kafka setting {smaller} must be {how} {larger}")]
    Order {
        /// The one that is too large.
        smaller: &'static str,
        /// The one that it is too large for.
        larger: &'static str,
        /// How it must be.
        how: &'static str,
    },
}

impl Classified for NodeSettingError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }

    fn hint(&self) -> Option<String> {
        matches!(self, Self::Unknown(_))
            .then(|| "docs/node-settings.md lists all that there are".to_owned())
    }
}

impl NodeSetting {
    /// What it takes, in words.
    fn takes(&self) -> String {
        match self.kind {
            Boolean => "true or false".to_owned(),
            _ => format!("a whole number from {} to {}", self.range.start(), self.range.end()),
        }
    }

    /// Its value, as text.
    pub(crate) fn value(&self, options: &Options) -> String {
        match (self.field)(&mut options.clone()) {
            Field::Flag(flag) => flag.to_string(),
            Field::Partitions(count) => count.to_string(),
            Field::Count(count) => count.to_string(),
            Field::Millis(time) => time.as_millis().to_string(),
            Field::Minutes(time) => (time.as_secs() / 60).to_string(),
        }
    }

    fn set(&'static self, options: &mut Options, value: &str) -> Result<(), NodeSettingError> {
        let refused = || NodeSettingError::Value {
            name: self.name,
            value: value.to_owned(),
            takes: self.takes(),
        };
        let number = match (self.kind, value) {
            (Boolean, "true") => 1,
            (Boolean, "false") => 0,
            (Boolean, _) => return Err(refused()),
            _ => value.parse().map_err(|_| refused())?,
        };
        if !self.range.contains(&number) {
            return Err(refused());
        }
        let amount = number.unsigned_abs();
        match (self.field)(options) {
            Field::Flag(flag) => *flag = number == 1,
            Field::Partitions(count) => *count = i32::try_from(number).map_err(|_| refused())?,
            Field::Count(count) => *count = usize::try_from(number).map_err(|_| refused())?,
            Field::Millis(time) => *time = Duration::from_millis(amount),
            Field::Minutes(time) => *time = Duration::from_secs(60 * amount),
        }
        Ok(())
    }
}

impl Options {
    /// Sets what is given by Kafka's names, each once; `docs/node-settings.md` says what there is.
    pub fn set(
        &mut self,
        given: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), NodeSettingError> {
        let mut seen = HashSet::new();
        for (name, value) in given {
            let setting = SETTINGS.iter().find(|setting| setting.name == name);
            let setting = setting.ok_or_else(|| NodeSettingError::Unknown(name.clone()))?;
            if !seen.insert(setting.name) {
                return Err(NodeSettingError::Twice(name));
            }
            setting.set(self, value.trim())?;
        }
        self.check_order()
    }

    /// Whether they go together.
    fn check_order(&self) -> Result<(), NodeSettingError> {
        let order = |smaller, how, larger| Err(NodeSettingError::Order { smaller, larger, how });
        for ((least, smaller), (most, larger)) in [
            (
                (self.group_session_min, "group.min.session.timeout.ms"),
                (self.group_session_max, "group.max.session.timeout.ms"),
            ),
            (
                (self.group_consumer_session_min, "group.consumer.min.session.timeout.ms"),
                (self.group_consumer_session, "group.consumer.session.timeout.ms"),
            ),
            (
                (self.group_consumer_session, "group.consumer.session.timeout.ms"),
                (self.group_consumer_session_max, "group.consumer.max.session.timeout.ms"),
            ),
            (
                (self.group_consumer_heartbeat_min, "group.consumer.min.heartbeat.interval.ms"),
                (self.group_consumer_heartbeat, "group.consumer.heartbeat.interval.ms"),
            ),
            (
                (self.group_consumer_heartbeat, "group.consumer.heartbeat.interval.ms"),
                (self.group_consumer_heartbeat_max, "group.consumer.max.heartbeat.interval.ms"),
            ),
        ] {
            if least > most {
                return order(smaller, "at most", larger);
            }
        }
        if self.group_consumer_heartbeat >= self.group_consumer_session {
            let beat = "group.consumer.heartbeat.interval.ms";
            return order(beat, "less than", "group.consumer.session.timeout.ms");
        }
        Ok(())
    }
}

const INTRODUCTION: &str = "\
# Node settings

<!-- Made from crates/afflux-kafka/src/settings.rs; a test holds that they agree. -->

What holds for all Kafka clients of a node, by Kafka's own names. Given when it starts, as often as
need be, or with commas between them in `AFFLUX_KAFKA_CONFIG`:

    afflux up --kafka-config offsets.retention.minutes=43200 --kafka-config num.partitions=8

Every setting does what is said here. Any other name or value is refused, and the node does not
start. Kafka's tools show them (`kafka-configs --describe --entity-type brokers --entity-name 1
--all`), with `STATIC_BROKER_CONFIG` as the source of those that are not at their defaults; they are
changed by starting the node anew. [Settings of topics](topic-settings.md) are another matter.

| setting | default | takes | what it does |
|---|---|---|---|
";

/// The page `docs/node-settings.md`.
pub fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    let defaults = Options::default();
    for setting in SETTINGS {
        let mut default = format!("`{}`", setting.value(&defaults));
        if let Some(kafkas) = setting.kafkas {
            let _ = write!(default, " (Kafka: `{kafkas}`)");
        }
        let takes = match setting.kind {
            Boolean => "`true`, `false`".to_owned(),
            _ => format!("{} to {}", setting.range.start(), setting.range.end()),
        };
        let _ = writeln!(page, "| `{}` | {default} | {takes} | {} |", setting.name, setting.doc);
    }
    page.push_str(&of_groups::page());
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(given: &[(&str, &str)]) -> Result<Options, NodeSettingError> {
        let mut options = Options::default();
        let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        options.set(given).map(|()| options)
    }

    #[test]
    fn each_setting_has_a_field_of_its_own_and_takes_its_ends() {
        let defaults: Vec<String> =
            SETTINGS.iter().map(|setting| setting.value(&Options::default())).collect();
        for (index, setting) in SETTINGS.iter().enumerate() {
            for number in [*setting.range.start(), *setting.range.end()] {
                let given = match setting.kind {
                    Boolean => (number == 1).to_string(),
                    _ => number.to_string(),
                };
                let mut options = Options::default();
                setting.set(&mut options, &given).unwrap();
                let values: Vec<String> = SETTINGS.iter().map(|one| one.value(&options)).collect();
                let mut expected = defaults.clone();
                expected[index] = given;
                assert_eq!(values, expected, "{}", setting.name);
            }
        }
        assert!(SETTINGS.is_sorted_by_key(|setting| setting.name));
    }

    #[test]
    fn what_is_given_is_checked() {
        let check = |given: &[(&str, &str)], expected: &str| {
            let told = set(given).unwrap_err().to_string();
            assert!(told.contains(expected), "{given:?}: {told}");
        };
        check(&[("moon.phase", "full")], "no Kafka setting moon.phase");
        check(&[("log.retention.ms", "5")], "no Kafka setting log.retention.ms");
        check(&[("num.partitions", "0")], "a whole number from 1 to 10000 is taken");
        check(&[("num.partitions", "four")], "\"four\"");
        check(&[("offsets.retention.minutes", "2147483648")], "to 2147483647 is taken");
        check(&[("auto.create.topics.enable", "no")], "true or false is taken");
        check(&[("max.connections", "5"), ("max.connections", "5")], "given twice");
        check(&[("group.min.session.timeout.ms", "1800001")], "must be at most");
        let (least, session, most) = (
            "group.consumer.min.session.timeout.ms",
            "group.consumer.session.timeout.ms",
            "group.consumer.max.session.timeout.ms",
        );
        check(&[(session, "44999")], "min.session.timeout.ms must be at most group.consumer.ses");
        check(&[(session, "60001")], "session.timeout.ms must be at most group.consumer.max.ses");
        check(&[(least, "5000"), (session, "5000")], "must be less than");
        set(&[(least, "5001"), (session, "5001"), (most, "5001")]).unwrap();
        check(&[("group.consumer.heartbeat.interval.ms", "4999")], "min.heartbeat.interval.ms");
        check(&[("group.consumer.heartbeat.interval.ms", "15001")], "max.heartbeat.interval.ms");
        let (min, max) = ("group.min.session.timeout.ms", "group.max.session.timeout.ms");
        let options = set(&[(min, " 1800001 "), (max, "1800001")]).unwrap();
        assert_eq!(options.group_session_min, Duration::from_millis(1_800_001));
    }
}
