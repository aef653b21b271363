//! Records of groups in `__consumer_offsets`: what each is about, and the partitions that they name.
//!
//! They are Kafka's own, so that its tools read them. A key is never flexible; its version says
//! what it is about:
//!
//! ```text
//! version:i16  group:string                       2 a classic group, with members and assignment
//!                                                 3 a consumer group: its epoch
//!                                                 6 a consumer group: its target's epoch
//! version:i16  group:string  member:string        5 a member's subscription
//!                                                 7 a member's target
//!                                                 8 a member's epoch and what it holds
//! version:i16  group:string  expression:string   16 the topics that an expression matches
//! ```
//! 0 and 1 are committed offsets (see `offsets`). 4 is what Kafka kept until 4.0 of a group's
//! topics; it, and what other kinds of groups write, is stepped over. A key without a value ends
//! what it is about.
//!
//! Not here: what values say (with the groups they are of), and where records go.

use std::sync::Arc;

use bytes::BufMut;
use uuid::Uuid;

use super::{GroupId, MemberId, Part, Parts};
use crate::fields::{MalformedRecord, Reader, put_count, put_tags, put_text};

/// What a record of a group is about. The order is one in which values may be replayed; what
/// ends goes the other way round.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    /// A classic group.
    Classic(GroupId),
    /// A consumer group's epoch.
    Group(GroupId),
    /// What a member of a consumer group wants.
    Member(GroupId, MemberId),
    /// The epoch of a consumer group's target.
    Target(GroupId),
    /// What a member of a consumer group shall hold.
    TargetMember(GroupId, MemberId),
    /// What a member of a consumer group holds.
    Current(GroupId, MemberId),
    /// Which topics an expression matches.
    Expression(GroupId, Arc<str>),
}

impl Key {
    /// The group that it is about.
    pub(crate) fn group(&self) -> &GroupId {
        match self {
            Self::Classic(group)
            | Self::Group(group)
            | Self::Member(group, _)
            | Self::Target(group)
            | Self::TargetMember(group, _)
            | Self::Current(group, _)
            | Self::Expression(group, _) => group,
        }
    }

    /// Its bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (version, second) = match self {
            Self::Classic(_) => (2, None),
            Self::Group(_) => (3, None),
            Self::Member(_, member) => (5, Some(member)),
            Self::Target(_) => (6, None),
            Self::TargetMember(_, member) => (7, Some(member)),
            Self::Current(_, member) => (8, Some(member)),
            Self::Expression(_, expression) => (16, Some(expression)),
        };
        let mut out = Vec::new();
        out.put_i16(version);
        put_text(&mut out, self.group());
        if let Some(second) = second {
            put_text(&mut out, second);
        }
        out
    }

    /// What a key is about; none if that is no group of ours.
    pub(crate) fn decode(key: &[u8]) -> Result<Option<Self>, MalformedRecord> {
        let mut from = Reader(key);
        let version = from.i16()?;
        if !matches!(version, 2 | 3 | 5..=8 | 16) {
            return Ok(None);
        }
        let group = from.text()?;
        Ok(Some(match version {
            2 => Self::Classic(group),
            3 => Self::Group(group),
            5 => Self::Member(group, from.text()?),
            6 => Self::Target(group),
            7 => Self::TargetMember(group, from.text()?),
            8 => Self::Current(group, from.text()?),
            _ => Self::Expression(group, from.text()?),
        }))
    }
}

/// Partitions by topic, as all flexible values have them.
pub(super) fn put_parts(out: &mut Vec<u8>, parts: &Parts) {
    let topics = by_topic(parts);
    put_count(out, topics.len());
    for (topic, partitions) in topics {
        out.put_slice(topic.as_bytes());
        put_count(out, partitions.len());
        for partition in partitions {
            out.put_i32(partition);
        }
        put_tags(out, &[]);
    }
}

/// Partitions, gathered by topic.
pub(crate) fn by_topic(parts: &Parts) -> Vec<(Uuid, Vec<i32>)> {
    let mut topics: Vec<(Uuid, Vec<i32>)> = Vec::new();
    for &(topic, partition) in parts {
        match topics.last_mut() {
            Some((last, partitions)) if *last == topic => partitions.push(partition),
            _ => topics.push((topic, vec![partition])),
        }
    }
    topics
}

/// Partitions that [`put_parts`] wrote.
pub(super) fn parts(from: &mut Reader<'_>) -> Result<Parts, MalformedRecord> {
    let mut parts = Parts::new();
    for _ in 0..from.count()? {
        let topic = from.uuid()?;
        for _ in 0..from.count()? {
            parts.insert(Part::from((topic, from.i32()?)));
        }
        from.tags()?;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_laid_out_as_kafkas() {
        let check = |key: Key, bytes: &[u8]| {
            assert_eq!(key.encode(), bytes);
            assert_eq!(Key::decode(bytes), Ok(Some(key)));
            for length in 0..bytes.len() {
                assert!(Key::decode(&bytes[..length]).is_err(), "{length}");
            }
        };
        check(Key::Classic("g".into()), &[0, 2, 0, 1, b'g']);
        check(Key::Group("g".into()), &[0, 3, 0, 1, b'g']);
        check(Key::Member("g".into(), "m".into()), &[0, 5, 0, 1, b'g', 0, 1, b'm']);
        check(Key::Target("g".into()), &[0, 6, 0, 1, b'g']);
        check(Key::TargetMember("g".into(), "m".into()), &[0, 7, 0, 1, b'g', 0, 1, b'm']);
        check(Key::Current("g".into(), "m".into()), &[0, 8, 0, 1, b'g', 0, 1, b'm']);
        check(
            Key::Expression("g".into(), "a.*".into()),
            &[0, 16, 0, 1, b'g', 0, 3, b'a', b'.', b'*'],
        );
    }

    #[test]
    fn other_keys_are_stepped_over() {
        for version in [0, 1, 4, 9, 10, 15, 17, -1_i16] {
            let mut key = version.to_be_bytes().to_vec();
            key.extend([0, 1, b'g']);
            assert_eq!(Key::decode(&key), Ok(None), "{version}");
        }
    }

    #[test]
    fn partitions_come_back() {
        let one = Uuid::from_u128(1);
        let all = Parts::from([(one, 0), (one, 7), (Uuid::from_u128(2), 3)]);
        let mut out = Vec::new();
        put_parts(&mut out, &all);
        assert_eq!(out.len(), 1 + (16 + 1 + 8 + 1) + (16 + 1 + 4 + 1));
        assert_eq!(parts(&mut Reader(&out)), Ok(all));
    }
}
