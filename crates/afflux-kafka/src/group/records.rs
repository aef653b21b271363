//! Records of groups in `__consumer_offsets`: what each is about, and the bytes that all share.
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

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes};
use uuid::Uuid;

use super::{GroupId, MemberId, Part, Parts};

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

/// A record that does not read as what it says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record of groups or commits is malformed: {0}")]
pub(crate) struct MalformedRecord(pub(super) &'static str);

const CUT: MalformedRecord = MalformedRecord("it is cut");

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

/// A time in milliseconds, as long as fits.
pub(super) fn put_millis(out: &mut Vec<u8>, duration: Duration) {
    out.put_i32(i32::try_from(duration.as_millis()).unwrap_or(i32::MAX));
}

/// The time that so many milliseconds are, in a record or in a request; none if they are negative.
pub(crate) fn duration(millis: i32) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// A string with a 16-bit length. All that come here came in strings of at most that length.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_i16(text.len() as i16);
    out.put_slice(text.as_bytes());
}

/// The same, or nothing.
pub(super) fn put_maybe_text(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => put_text(out, text),
        None => out.put_i16(-1),
    }
}

/// Bytes with a 32-bit length.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_i32(bytes.len() as i32);
    out.put_slice(bytes);
}

/// A count or length of a flexible version: one more, as a varint.
pub(super) fn put_count(out: &mut Vec<u8>, count: usize) {
    put_varint(out, count as u32 + 1);
}

/// A varint.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// A string of a flexible version.
pub(super) fn put_compact(out: &mut Vec<u8>, text: &str) {
    put_count(out, text.len());
    out.put_slice(text.as_bytes());
}

/// The same, or nothing.
pub(super) fn put_maybe_compact(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => put_compact(out, text),
        None => out.put_u8(0),
    }
}

/// Tagged fields, in order.
pub(super) fn put_tags(out: &mut Vec<u8>, tags: &[(u32, Vec<u8>)]) {
    put_varint(out, tags.len() as u32);
    for (tag, value) in tags {
        put_varint(out, *tag);
        put_varint(out, value.len() as u32);
        out.put_slice(value);
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

/// Reads what others may have written: nothing is reserved by a count, and every read can fail.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], MalformedRecord> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(CUT)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn slice(&mut self, bytes: usize) -> Result<&'a [u8], MalformedRecord> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(CUT)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn i8(&mut self) -> Result<i8, MalformedRecord> {
        Ok(i8::from_be_bytes(self.take()?))
    }

    pub(super) fn i16(&mut self) -> Result<i16, MalformedRecord> {
        Ok(i16::from_be_bytes(self.take()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, MalformedRecord> {
        Ok(i32::from_be_bytes(self.take()?))
    }

    pub(super) fn i64(&mut self) -> Result<i64, MalformedRecord> {
        Ok(i64::from_be_bytes(self.take()?))
    }

    pub(super) fn text(&mut self) -> Result<Arc<str>, MalformedRecord> {
        self.maybe_text()?.ok_or(MalformedRecord("a string is missing"))
    }

    pub(super) fn maybe_text(&mut self) -> Result<Option<Arc<str>>, MalformedRecord> {
        match self.i16()? {
            -1 => Ok(None),
            length => self.utf8(usize::try_from(length).map_err(|_| CUT)?).map(Some),
        }
    }

    pub(super) fn compact(&mut self) -> Result<Arc<str>, MalformedRecord> {
        self.maybe_compact()?.ok_or(MalformedRecord("a string is missing"))
    }

    pub(super) fn maybe_compact(&mut self) -> Result<Option<Arc<str>>, MalformedRecord> {
        match self.varint()? {
            0 => Ok(None),
            length => self.utf8(length as usize - 1).map(Some),
        }
    }

    fn utf8(&mut self, length: usize) -> Result<Arc<str>, MalformedRecord> {
        let bytes = self.slice(length)?;
        std::str::from_utf8(bytes)
            .map(Arc::from)
            .map_err(|_| MalformedRecord("a string is not UTF-8"))
    }

    /// Bytes with a 32-bit length; none are none.
    pub(super) fn bytes(&mut self) -> Result<Bytes, MalformedRecord> {
        let length = self.i32()?.max(0);
        Ok(Bytes::copy_from_slice(self.slice(length as usize)?))
    }

    pub(super) fn compact_bytes(&mut self) -> Result<Bytes, MalformedRecord> {
        let length = self.count()?;
        Ok(Bytes::copy_from_slice(self.slice(length)?))
    }

    pub(super) fn varint(&mut self) -> Result<u32, MalformedRecord> {
        let mut value = 0;
        for i in 0..5 {
            let [byte] = self.take()?;
            value |= u32::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(MalformedRecord("a varint is too long"))
    }

    /// A count of a flexible version; none are none.
    pub(super) fn count(&mut self) -> Result<usize, MalformedRecord> {
        Ok((self.varint()? as usize).saturating_sub(1))
    }

    /// The tagged fields.
    pub(super) fn tags(&mut self) -> Result<Vec<(u32, Reader<'a>)>, MalformedRecord> {
        let mut tags = Vec::new();
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let bytes = self.varint()? as usize;
            tags.push((tag, Reader(self.slice(bytes)?)));
        }
        Ok(tags)
    }

    pub(super) fn uuid(&mut self) -> Result<Uuid, MalformedRecord> {
        Ok(Uuid::from_bytes(self.take()?))
    }

    pub(super) fn parts(&mut self) -> Result<Parts, MalformedRecord> {
        let mut parts = Parts::new();
        for _ in 0..self.count()? {
            let topic = self.uuid()?;
            for _ in 0..self.count()? {
                parts.insert(Part::from((topic, self.i32()?)));
            }
            self.tags()?;
        }
        Ok(parts)
    }

    /// The version of a value, which must be one of these.
    pub(super) fn version(&mut self, last: i16) -> Result<i16, MalformedRecord> {
        let version = self.i16()?;
        if (0..=last).contains(&version) {
            Ok(version)
        } else {
            Err(MalformedRecord("its value has an unknown version"))
        }
    }
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
    fn a_count_that_the_bytes_can_not_fill_is_refused_without_reserving() {
        let mut huge = Vec::new();
        put_varint(&mut huge, u32::MAX);
        assert_eq!(Reader(&huge).parts(), Err(CUT));
        assert_eq!(Reader(&huge).compact(), Err(CUT));
        assert!(Reader(&huge).tags().is_err());
    }

    #[test]
    fn partitions_come_back() {
        let one = Uuid::from_u128(1);
        let parts = Parts::from([(one, 0), (one, 7), (Uuid::from_u128(2), 3)]);
        let mut out = Vec::new();
        put_parts(&mut out, &parts);
        assert_eq!(out.len(), 1 + (16 + 1 + 8 + 1) + (16 + 1 + 4 + 1));
        assert_eq!(Reader(&out).parts(), Ok(parts));
    }
}
