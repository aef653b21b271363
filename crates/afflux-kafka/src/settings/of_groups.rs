//! Settings of one group of the consumer protocol (KIP-848), by Kafka's names.
//!
//! 1. [`SETTINGS`] is the one declaration. Validation, the answers of `DescribeConfigs`, and the
//!    second table of `docs/node-settings.md` are made from it.
//! 2. A group for which nothing is set has the node's value. What is set lies within the node's
//!    bounds; bounds that a node is started with later move what was set before to the nearer one.
//! 3. The log keeps them as attributes of `group:` and the group's name. They are looked up when
//!    a member is heard of, so a change holds from its next heartbeat on.
//!
//! A group need not be there for something to be set for it, and what is set outlives it, as in
//! Kafka. Not here: share groups' and streams groups', of which there are none; they are refused.

use std::{fmt::Write, time::Duration};

use afflux_log::{Attributes, EmbeddedLog};

use crate::Options;

const OWNER: &str = "group:";

/// A setting of a group: a time, given in milliseconds.
pub(crate) struct GroupSetting {
    /// Its name, which is Kafka's.
    pub(crate) name: &'static str,
    /// The name of the node's value.
    pub(crate) of_node_name: &'static str,
    /// The node's value, and the least and the most that a group may have.
    of_node: fn(&Options) -> [Duration; 3],
    /// Names of the bounds.
    bounds: [&'static str; 2],
    /// What it does.
    pub(crate) doc: &'static str,
}

static HEARTBEAT: GroupSetting = GroupSetting {
    name: "consumer.heartbeat.interval.ms",
    of_node_name: "group.consumer.heartbeat.interval.ms",
    of_node: |options| {
        let (least, most) =
            (options.group_consumer_heartbeat_min, options.group_consumer_heartbeat_max);
        [options.group_consumer_heartbeat, least, most]
    },
    bounds: [
        "group.consumer.min.heartbeat.interval.ms",
        "group.consumer.max.heartbeat.interval.ms",
    ],
    doc: "How often the group's members of the consumer protocol are told to be heard of.",
};

static SESSION: GroupSetting = GroupSetting {
    name: "consumer.session.timeout.ms",
    of_node_name: "group.consumer.session.timeout.ms",
    of_node: |options| {
        let (least, most) =
            (options.group_consumer_session_min, options.group_consumer_session_max);
        [options.group_consumer_session, least, most]
    },
    bounds: ["group.consumer.min.session.timeout.ms", "group.consumer.max.session.timeout.ms"],
    doc: "How long a member of the consumer protocol is not missed. Longer than its heartbeats' \
          interval.",
};

/// All settings of a group, by name.
pub(crate) static SETTINGS: [&GroupSetting; 2] = [&HEARTBEAT, &SESSION];

/// The times that hold for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    /// How often members are to be heard of.
    pub(crate) heartbeat: Duration,
    /// How long a member is not missed.
    pub(crate) session: Duration,
}

impl Times {
    fn new(options: &Options, set: &Attributes) -> Self {
        Self { heartbeat: HEARTBEAT.value(options, set), session: SESSION.value(options, set) }
    }

    /// Those of a group.
    pub(crate) fn of(options: &Options, log: &EmbeddedLog, group: &str) -> Self {
        Self::new(options, &log.attributes(&owner(group)))
    }
}

/// Under which name the log keeps what is set for a group.
pub(crate) fn owner(group: &str) -> String {
    format!("{OWNER}{group}")
}

/// The groups for which something is set.
pub(crate) fn groups(log: &EmbeddedLog) -> Vec<String> {
    let owners = log.attribute_owners().into_iter();
    owners.filter_map(|owner| Some(owner.strip_prefix(OWNER)?.to_owned())).collect()
}

/// The setting of a name.
pub(crate) fn setting(name: &str) -> Option<&'static GroupSetting> {
    SETTINGS.into_iter().find(|setting| setting.name == name)
}

impl GroupSetting {
    /// The value that holds where this is set.
    pub(crate) fn value(&self, options: &Options, set: &Attributes) -> Duration {
        let [of_node, least, most] = (self.of_node)(options);
        let set = set.get(self.name).and_then(|value| value.parse().ok());
        set.map_or(of_node, |ms| Duration::from_millis(ms).max(least).min(most))
    }

    fn check(&self, options: &Options, value: &str) -> Result<(), String> {
        let [_, least, most] = (self.of_node)(options);
        let number = value.parse::<i32>().ok().and_then(|ms| u64::try_from(ms).ok());
        let time = number.map(Duration::from_millis);
        if time.is_some_and(|time| (least..=most).contains(&time)) {
            return Ok(());
        }
        let [from, to] = self.bounds;
        let (least, most) = (least.as_millis(), most.as_millis());
        Err(format!(
            "{} can not be {value:?}: a whole number from {least} ({from}) to {most} ({to}) is taken",
            self.name
        ))
    }
}

/// Checks what is to be set for a group; why it is refused.
pub(crate) fn check(options: &Options, given: Attributes) -> Result<Attributes, String> {
    let mut set = Attributes::new();
    for (name, value) in given {
        let setting = setting(&name).ok_or_else(|| format!("groups have no setting {name}"))?;
        let value = value.trim();
        setting.check(options, value)?;
        set.insert(name, value.to_owned());
    }
    let times = Times::new(options, &set);
    if times.session <= times.heartbeat {
        return Err(format!("{} must be more than {}", SESSION.name, HEARTBEAT.name));
    }
    Ok(set)
}

const INTRODUCTION: &str = "
## Settings of groups

Groups of the consumer protocol (KIP-848) can have times of their own. They are set while the node
runs, by any Kafka admin client (`kafka-configs --entity-type groups --entity-name GROUP --alter
--add-config consumer.session.timeout.ms=50000`), for groups that are not there yet too; they survive
a restart and hold from the next heartbeat of each member on. Where none is set, the node's holds: of
the same name with `group.` in front.

| setting | from | to | what it does |
|---|---|---|---|
";

/// The part of `docs/node-settings.md` about groups.
pub(super) fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for setting in SETTINGS {
        let [from, to] = setting.bounds;
        let _ = writeln!(page, "| `{}` | `{from}` | `{to}` | {} |", setting.name, setting.doc);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(set: &[(&str, &str)]) -> Attributes {
        set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_is_set_lies_within_the_nodes_bounds() {
        let (beat, session) = (HEARTBEAT.name, SESSION.name);
        let check = |set: &[(&str, &str)], expected: &str| {
            let told = check(&Options::default(), given(set))
                .map_or_else(|why| why, |set| format!("{set:?}"));
            assert!(told.contains(expected), "{set:?}: {told}");
        };
        check(&[(session, "44999")], "from 45000 (group.consumer.min.session.timeout.ms) to 60000");
        check(&[(session, "60001")], "to 60000 (group.consumer.max.session.timeout.ms)");
        check(&[(session, " 60000 "), (beat, "5000")], r#"": "5000", "consumer.session"#);
        check(&[(session, " 60000 ")], r#"{"consumer.session.timeout.ms": "60000"}"#);
        check(&[(beat, "4999")], "from 5000 (group.consumer.min.heartbeat.interval.ms)");
        check(&[(beat, "15001")], "to 15000 (group.consumer.max.heartbeat.interval.ms)");
        check(&[(beat, "often")], "\"often\"");
        check(&[(beat, "")], "\"\"");
        check(&[("share.session.timeout.ms", "45000")], "groups have no setting share.");
        let wide =
            Options { group_consumer_heartbeat_max: Duration::from_mins(1), ..Options::default() };
        let more = super::check(&wide, given(&[(beat, "45000")])).unwrap_err();
        assert_eq!(more, format!("{session} must be more than {beat}"));
    }

    #[test]
    fn what_was_set_follows_the_bounds_of_now() {
        let (beat, session) = (HEARTBEAT.name, SESSION.name);
        let secs = Duration::from_secs;
        let set = given(&[(beat, "15000"), (session, "46000"), ("of.a.later.version", "x")]);
        let mut options = Options::default();
        let times = |options: &Options, set: &Attributes| {
            let Times { heartbeat, session } = Times::new(options, set);
            (heartbeat, session)
        };
        assert_eq!(times(&options, &set), (secs(15), secs(46)));
        assert_eq!(times(&options, &given(&[])), (secs(5), secs(45)));
        options.group_consumer_heartbeat_max = secs(9);
        options.group_consumer_session_min = secs(50);
        assert_eq!(times(&options, &set), (secs(9), secs(50)));
    }
}
