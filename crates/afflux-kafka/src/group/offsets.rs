//! Committed offsets: the records that keep them, and the table folded from those.
//!
//! The records are Kafka's own (`OffsetCommitKey` version 1, `OffsetCommitValue` version 3), so
//! that its tools read them. Numbers are big-endian, strings have a 16-bit length:
//!
//! ```text
//! key     version:i16=1  group:string  topic:string  partition:i32
//! value   version:i16=3  offset:i64  leader-epoch:i32  metadata:string  committed-at:i64
//! value   version:i16=1  offset:i64  metadata:string  committed-at:i64  expires-at:i64
//! ```
//! The second is for the few clients that say themselves how long a commit is to be kept.
//! A key without a value takes a commit back. Keys of other versions, those of groups (`records`),
//! are stepped over.
//!
//! Not here: who may commit, and where the records go.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use afflux_types::{Offset, Timestamp, TopicName, TopicPartition};
use bytes::{Buf, BufMut, Bytes};

use super::GroupId;

const KEY_VERSION: i16 = 1;
const VALUE_VERSION: i16 = 3;
/// The one version of a value that says when it expires.
const EXPIRING_VERSION: i16 = 1;

/// Where a group stands in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committed {
    /// The next offset to read.
    pub(crate) offset: Offset,
    /// The leader epoch of the last record read, or -1.
    pub(crate) leader_epoch: i32,
    /// What the client wants to remember with it.
    pub(crate) metadata: Arc<str>,
    /// When it was committed.
    pub(crate) time: Timestamp,
    /// Until when it is to be kept, if its client said so.
    pub(crate) expires: Option<Timestamp>,
}

/// A record that is not one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record of committed offsets is malformed: {0}")]
pub(crate) struct MalformedOffset(&'static str);

/// The key of a group's commit for a partition.
pub(crate) fn encode_key(group: &str, partition: &TopicPartition) -> Vec<u8> {
    let topic = partition.topic.as_str();
    let mut out = Vec::with_capacity(10 + group.len() + topic.len());
    out.put_i16(KEY_VERSION);
    put_text(&mut out, group);
    put_text(&mut out, topic);
    out.put_i32(partition.partition.0);
    out
}

/// The value of a commit.
pub(crate) fn encode_value(committed: &Committed) -> Vec<u8> {
    let mut out = Vec::with_capacity(24 + committed.metadata.len());
    out.put_i16(if committed.expires.is_some() { EXPIRING_VERSION } else { VALUE_VERSION });
    out.put_i64(committed.offset.0);
    if committed.expires.is_none() {
        out.put_i32(committed.leader_epoch);
    }
    put_text(&mut out, &committed.metadata);
    out.put_i64(committed.time.0);
    if let Some(expires) = committed.expires {
        out.put_i64(expires.0);
    }
    out
}

/// The group and partition of a key; none if the record is about something else.
pub(crate) fn decode_key(
    mut key: &[u8],
) -> Result<Option<(GroupId, TopicPartition)>, MalformedOffset> {
    if key.len() < 2 {
        return Err(MalformedOffset("its key has no version"));
    }
    // Version 0 has the same fields.
    if !(0..=KEY_VERSION).contains(&key.get_i16()) {
        return Ok(None);
    }
    let group = get_text(&mut key)?;
    let topic = TopicName::new(&get_text(&mut key)?)
        .map_err(|_| MalformedOffset("its topic has no legal name"))?;
    if key.len() < 4 {
        return Err(MalformedOffset("its key is cut"));
    }
    Ok(Some((group, TopicPartition::new(topic, key.get_i32()))))
}

/// The commit of a value. Versions 0 to 3 are read; later ones are flexible.
pub(crate) fn decode_value(mut value: &[u8]) -> Result<Committed, MalformedOffset> {
    if value.len() < 10 {
        return Err(MalformedOffset("its value is cut"));
    }
    let version = value.get_i16();
    if !(0..=VALUE_VERSION).contains(&version) {
        return Err(MalformedOffset("its value has an unknown version"));
    }
    let offset = Offset(value.get_i64());
    let mut leader_epoch = -1;
    if version >= 3 {
        if value.len() < 4 {
            return Err(MalformedOffset("its value is cut"));
        }
        leader_epoch = value.get_i32();
    }
    let metadata = get_text(&mut value)?;
    let times = if version == EXPIRING_VERSION { 2 } else { 1 };
    if value.len() < times * 8 {
        return Err(MalformedOffset("its value is cut"));
    }
    let time = Timestamp(value.get_i64());
    let expires = (times == 2).then(|| Timestamp(value.get_i64())).filter(|at| at.0 >= 0);
    Ok(Committed { offset, leader_epoch, metadata, time, expires })
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // All of these came in strings of at most this length.
    out.put_i16(text.len() as i16);
    out.put_slice(text.as_bytes());
}

fn get_text(from: &mut &[u8]) -> Result<Arc<str>, MalformedOffset> {
    const CUT: MalformedOffset = MalformedOffset("a string is cut");
    if from.len() < 2 {
        return Err(CUT);
    }
    let length = usize::try_from(from.get_i16()).map_err(|_| CUT)?;
    let (text, rest) = from.split_at_checked(length).ok_or(CUT)?;
    *from = rest;
    std::str::from_utf8(text).map(Arc::from).map_err(|_| MalformedOffset("a string is not UTF-8"))
}

/// All commits, as of the records applied so far.
#[derive(Debug, Default)]
pub(crate) struct Offsets(HashMap<GroupId, BTreeMap<TopicPartition, Entry>>);

#[derive(Debug)]
struct Entry {
    /// Where its record lies; outcomes of appends may be heard of out of order.
    at: Offset,
    /// None once taken back, until the next commit.
    committed: Option<Committed>,
}

impl Offsets {
    /// Applies a record.
    pub(crate) fn apply_record(
        &mut self,
        at: Offset,
        key: Option<&Bytes>,
        value: Option<&Bytes>,
    ) -> Result<(), MalformedOffset> {
        let key = key.ok_or(MalformedOffset("it has no key"))?;
        let Some((group, partition)) = decode_key(key)? else { return Ok(()) };
        let committed = value.map(|value| decode_value(value)).transpose()?;
        self.apply(at, group, partition, committed);
        Ok(())
    }

    /// Applies a commit, or takes it back, unless something later is known.
    pub(crate) fn apply(
        &mut self,
        at: Offset,
        group: GroupId,
        partition: TopicPartition,
        committed: Option<Committed>,
    ) {
        let entry = self
            .0
            .entry(group)
            .or_default()
            .entry(partition)
            .or_insert(Entry { at: Offset(-1), committed: None });
        if at > entry.at {
            *entry = Entry { at, committed };
        }
    }

    /// Where a group stands in a partition.
    pub(crate) fn get(&self, group: &str, partition: &TopicPartition) -> Option<&Committed> {
        self.0.get(group)?.get(partition)?.committed.as_ref()
    }

    /// Where a group stands in all partitions that it ever committed for, in order.
    pub(crate) fn all(&self, group: &str) -> impl Iterator<Item = (&TopicPartition, &Committed)> {
        let partitions = self.0.get(group).into_iter().flatten();
        partitions.filter_map(|(partition, entry)| Some((partition, entry.committed.as_ref()?)))
    }

    /// How many commits stand.
    pub(crate) fn count(&self) -> usize {
        let entries = self.0.values().flat_map(BTreeMap::values);
        entries.filter(|entry| entry.committed.is_some()).count()
    }

    /// Forgets what was taken back, when no outcome of an append is still to be heard of.
    pub(crate) fn forget_taken_back(&mut self) {
        self.0.retain(|_, partitions| {
            partitions.retain(|_, entry| entry.committed.is_some());
            !partitions.is_empty()
        });
    }

    /// All groups that stand anywhere.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &GroupId> {
        self.0
            .iter()
            .filter(|(_, partitions)| partitions.values().any(|entry| entry.committed.is_some()))
            .map(|(group, _)| group)
    }

    /// Who stands where in some topics.
    pub(crate) fn in_topics(
        &self,
        wanted: impl Fn(&TopicName) -> bool,
    ) -> Vec<(GroupId, TopicPartition)> {
        let mut found = Vec::new();
        for (group, partitions) in &self.0 {
            for (partition, entry) in partitions {
                if entry.committed.is_some() && wanted(&partition.topic) {
                    found.push((group.clone(), partition.clone()));
                }
            }
        }
        found.sort();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition::new(TopicName::new(topic).unwrap(), partition)
    }

    fn committed(offset: i64) -> Committed {
        Committed {
            offset: Offset(offset),
            leader_epoch: 4,
            metadata: "m".into(),
            time: Timestamp(9),
            expires: None,
        }
    }

    #[test]
    fn records_are_laid_out_as_kafkas() {
        let key = encode_key("g", &partition("t", 7));
        assert_eq!(key, [0, 1, 0, 1, b'g', 0, 1, b't', 0, 0, 0, 7]);
        let value = encode_value(&committed(258));
        #[rustfmt::skip]
        assert_eq!(value, [
            0, 3, // version
            0, 0, 0, 0, 0, 0, 1, 2, // offset
            0, 0, 0, 4, // leader epoch
            0, 1, b'm', // metadata
            0, 0, 0, 0, 0, 0, 0, 9, // time
        ]);
        assert_eq!(decode_key(&key).unwrap(), Some(("g".into(), partition("t", 7))));
        assert_eq!(decode_value(&value).unwrap(), committed(258));
        let expiring =
            Committed { leader_epoch: -1, expires: Some(Timestamp(10)), ..committed(258) };
        let value = encode_value(&expiring);
        #[rustfmt::skip]
        assert_eq!(value, [
            0, 1, // version
            0, 0, 0, 0, 0, 0, 1, 2, // offset
            0, 1, b'm', // metadata
            0, 0, 0, 0, 0, 0, 0, 9, // time
            0, 0, 0, 0, 0, 0, 0, 10, // expires
        ]);
        assert_eq!(decode_value(&value).unwrap(), expiring);
        assert!(decode_value(&value[..value.len() - 1]).is_err());
    }

    #[test]
    fn cut_records_are_errors_and_others_are_stepped_over() {
        let key = encode_key("group", &partition("topic", 7));
        for length in 0..key.len() {
            assert!(decode_key(&key[..length]).is_err(), "{length}");
        }
        let value = encode_value(&committed(1));
        for length in 0..value.len() {
            assert!(decode_value(&value[..length]).is_err(), "{length}");
        }
        // A group's metadata has a key of version 2.
        assert_eq!(decode_key(&[0, 2, 0, 1, b'g']).unwrap(), None);
        assert!(decode_value(&[0, 9, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn the_last_record_counts_whenever_it_is_heard_of() {
        let mut offsets = Offsets::default();
        let at = partition("t", 0);
        offsets.apply(Offset(5), "g".into(), at.clone(), Some(committed(50)));
        offsets.apply(Offset(4), "g".into(), at.clone(), Some(committed(40)));
        assert_eq!(offsets.get("g", &at), Some(&committed(50)));
        assert_eq!(offsets.get("h", &at), None);
        assert_eq!(offsets.in_topics(|topic| *topic == at.topic), [("g".into(), at.clone())]);
        assert_eq!(offsets.in_topics(|_| false), []);
        offsets.apply(Offset(6), "g".into(), at.clone(), None);
        assert_eq!(offsets.get("g", &at), None);
        assert_eq!(offsets.groups().count(), 0);
        assert_eq!(offsets.all("g").count(), 0);
        // What was taken back stays so, whatever is heard of late.
        offsets.apply(Offset(5), "g".into(), at.clone(), Some(committed(50)));
        assert_eq!((offsets.get("g", &at), offsets.count()), (None, 0));
        offsets.forget_taken_back();
        assert!(offsets.0.is_empty());
    }
}
