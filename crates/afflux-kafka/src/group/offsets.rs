//! Committed offsets: the records that keep them, and the table folded from those.
//!
//! The records are Kafka's own (`OffsetCommitKey` version 1, `OffsetCommitValue` version 4), so
//! that its tools read them. Numbers are big-endian, strings of the key have a 16-bit length:
//!
//! ```text
//! key     version:i16=1  group:string  topic:string  partition:i32
//! value   version:i16=4  offset:i64  leader-epoch:i32  metadata:compact  committed-at:i64
//!         [tags 0: topic's id, 16 bytes; 1024: expires-at:i64]
//! ```
//! The id tells a topic from another that had its name before. The second tag is Afflux's own, for
//! the few clients that say themselves how long a commit is to be kept. Older versions are read.
//! A key without a value takes a commit back. Keys of other versions, those of groups (`records`),
//! are stepped over.
//!
//! Not here: who may commit, and where the records go.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use afflux_types::{Offset, Timestamp, TopicName, TopicPartition};
use bytes::{BufMut, Bytes};
use uuid::Uuid;

use super::GroupId;
use crate::fields::{MalformedRecord, Reader, put_compact, put_tags, put_text};

const KEY_VERSION: i16 = 1;
const VALUE_VERSION: i16 = 4;
/// The one version of a value that has a field for when it expires.
const EXPIRING_VERSION: i16 = 1;
const TOPIC_TAG: u32 = 0;
const EXPIRES_TAG: u32 = 1024;

/// Where a group stands in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committed {
    /// The topic's id, if its record says it.
    pub(crate) topic: Option<Uuid>,
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
    let mut out = Vec::with_capacity(64 + committed.metadata.len());
    out.put_i16(VALUE_VERSION);
    out.put_i64(committed.offset.0);
    out.put_i32(committed.leader_epoch);
    put_compact(&mut out, &committed.metadata);
    out.put_i64(committed.time.0);
    let topic = committed.topic.map(|id| (TOPIC_TAG, id.into_bytes().to_vec()));
    let expires = committed.expires.map(|at| (EXPIRES_TAG, at.0.to_be_bytes().to_vec()));
    put_tags(&mut out, &topic.into_iter().chain(expires).collect::<Vec<_>>());
    out
}

/// The group and partition of a key; none if the record is about something else.
pub(crate) fn decode_key(key: &[u8]) -> Result<Option<(GroupId, TopicPartition)>, MalformedRecord> {
    let mut from = Reader(key);
    // Version 0 has the same fields.
    if !(0..=KEY_VERSION).contains(&from.i16()?) {
        return Ok(None);
    }
    let group = from.text()?;
    let topic = TopicName::new(&from.text()?)
        .map_err(|_| MalformedRecord("its topic has no legal name"))?;
    Ok(Some((group, TopicPartition::new(topic, from.i32()?))))
}

/// The commit of a value.
pub(crate) fn decode_value(value: &[u8]) -> Result<Committed, MalformedRecord> {
    let mut from = Reader(value);
    let version = from.version(VALUE_VERSION)?;
    let offset = Offset(from.i64()?);
    let leader_epoch = if version >= 3 { from.i32()? } else { -1 };
    let metadata = if version >= 4 { from.compact()? } else { from.text()? };
    let time = Timestamp(from.i64()?);
    let (mut topic, mut expires) = (None, None);
    if version == EXPIRING_VERSION {
        expires = Some(Timestamp(from.i64()?)).filter(|at| at.0 >= 0);
    }
    if version >= 4 {
        for (tag, mut field) in from.tags()? {
            match tag {
                TOPIC_TAG => topic = Some(field.uuid()?).filter(|id| !id.is_nil()),
                EXPIRES_TAG => expires = Some(Timestamp(field.i64()?)),
                _ => {}
            }
        }
    }
    Ok(Committed { topic, offset, leader_epoch, metadata, time, expires })
}

/// All commits, as of the records applied so far.
#[derive(Debug, Default)]
pub(crate) struct Offsets(BTreeMap<GroupId, BTreeMap<TopicPartition, Entry>>);

/// Whose commit for what.
pub(crate) type Place = (GroupId, TopicPartition);

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
    ) -> Result<(), MalformedRecord> {
        let key = key.ok_or(MalformedRecord("it has no key"))?;
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

    /// The commits behind a place, in order, up to where `take` refuses one; the last one before
    /// that. What was taken back on the way is forgotten: no outcome of an append may still have
    /// to be heard of.
    pub(crate) fn walk(
        &mut self,
        behind: Option<&Place>,
        mut take: impl FnMut(&GroupId, &TopicPartition, &Committed) -> bool,
    ) -> Option<Place> {
        let (mut taken_back, mut last, mut stopped) = (Vec::new(), None, None);
        let start = from(behind.map(|(group, _)| group), true);
        'walk: for (group, partitions) in self.0.range::<GroupId, _>(start) {
            let last_of_it = behind.filter(|(of, _)| of == group).map(|(_, partition)| partition);
            for (partition, entry) in partitions.range(from(last_of_it, false)) {
                match &entry.committed {
                    None => taken_back.push((group.clone(), partition.clone())),
                    Some(committed) if take(group, partition, committed) => {
                        last = Some((group, partition));
                    }
                    Some(_) => {
                        let last = last.map(|(group, at)| (Arc::clone(group), at.clone()));
                        stopped = last.or_else(|| behind.cloned());
                        break 'walk;
                    }
                }
            }
        }
        for (group, partition) in taken_back {
            if let Some(partitions) = self.0.get_mut(&group) {
                partitions.remove(&partition);
                if partitions.is_empty() {
                    self.0.remove(&group);
                }
            }
        }
        stopped
    }

    /// All groups that stand anywhere.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &GroupId> {
        self.0
            .iter()
            .filter(|(_, partitions)| partitions.values().any(|entry| entry.committed.is_some()))
            .map(|(group, _)| group)
    }

    /// Takes commits back at once, and says which.
    pub(crate) fn take_back(
        &mut self,
        gone: impl Fn(&TopicPartition, &Committed) -> bool,
    ) -> Vec<Place> {
        let mut found = Vec::new();
        for (group, partitions) in &mut self.0 {
            for (partition, entry) in partitions {
                if entry.committed.take_if(|committed| gone(partition, committed)).is_some() {
                    found.push((group.clone(), partition.clone()));
                }
            }
        }
        found
    }
}

/// What comes behind a key, or with it; all without one.
fn from<T>(key: Option<&T>, with: bool) -> (Bound<&T>, Bound<&T>) {
    let start = match key {
        None => Bound::Unbounded,
        Some(key) if with => Bound::Included(key),
        Some(key) => Bound::Excluded(key),
    };
    (start, Bound::Unbounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition::new(TopicName::new(topic).unwrap(), partition)
    }

    fn committed(offset: i64) -> Committed {
        Committed {
            topic: Some(Uuid::from_u128(7)),
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
        assert_eq!(decode_key(&key).unwrap(), Some(("g".into(), partition("t", 7))));
        let value = encode_value(&committed(258));
        #[rustfmt::skip]
        assert_eq!(value, [
            0, 4, // version
            0, 0, 0, 0, 0, 0, 1, 2, // offset
            0, 0, 0, 4, // leader epoch
            2, b'm', // metadata
            0, 0, 0, 0, 0, 0, 0, 9, // time
            1, 0, 16, // a tag: the topic's id
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7,
        ]);
        assert_eq!(decode_value(&value).unwrap(), committed(258));
        let expiring = Committed { topic: None, expires: Some(Timestamp(10)), ..committed(258) };
        let value = encode_value(&expiring);
        assert_eq!(value[24..], [1, 0x80, 8, 8, 0, 0, 0, 0, 0, 0, 0, 10]);
        assert_eq!(decode_value(&value).unwrap(), expiring);
    }

    #[test]
    fn older_records_are_read() {
        #[rustfmt::skip]
        let older = [
            0, 3, // version
            0, 0, 0, 0, 0, 0, 1, 2, // offset
            0, 0, 0, 4, // leader epoch
            0, 1, b'm', // metadata
            0, 0, 0, 0, 0, 0, 0, 9, // time
        ];
        let plain = Committed { topic: None, ..committed(258) };
        assert_eq!(decode_value(&older).unwrap(), plain);
        #[rustfmt::skip]
        let expiring = [
            0, 1, // version
            0, 0, 0, 0, 0, 0, 1, 2, // offset
            0, 1, b'm', // metadata
            0, 0, 0, 0, 0, 0, 0, 9, // time
            0, 0, 0, 0, 0, 0, 0, 10, // expires
        ];
        let expected = Committed { leader_epoch: -1, expires: Some(Timestamp(10)), ..plain };
        assert_eq!(decode_value(&expiring).unwrap(), expected);
        assert!(decode_value(&expiring[..expiring.len() - 1]).is_err());
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
        offsets.apply(Offset(6), "g".into(), at.clone(), None);
        assert_eq!(offsets.get("g", &at), None);
        assert_eq!(offsets.groups().count(), 0);
        assert_eq!(offsets.all("g").count(), 0);
        // What was taken back stays so, whatever is heard of late.
        offsets.apply(Offset(5), "g".into(), at.clone(), Some(committed(50)));
        assert_eq!((offsets.get("g", &at), offsets.count()), (None, 0));
        assert_eq!(offsets.walk(None, |_, _, _| panic!("nothing stands")), None);
        assert!(offsets.0.is_empty());
    }

    #[test]
    fn a_walk_goes_on_where_it_stopped() {
        let mut offsets = Offsets::default();
        let places = [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("c", 0)];
        let places = places.map(|(group, index)| (GroupId::from(group), partition("t", index)));
        for (record, (group, at)) in (0..).zip(&places) {
            offsets.apply(Offset(record), group.clone(), at.clone(), Some(committed(record)));
        }
        let gone =
            offsets.take_back(|at, committed| (at.partition.0, committed.offset.0) == (1, 3));
        assert_eq!(gone, [places[3].clone()]);
        for at_once in 1..=5 {
            let (mut last, mut seen) = (None, Vec::new());
            loop {
                let before = seen.len();
                last = offsets.walk(last.as_ref(), |group, at, _| {
                    let takes = seen.len() < before + at_once;
                    seen.extend(takes.then(|| (group.clone(), at.clone())));
                    takes
                });
                if last.is_none() {
                    break;
                }
            }
            assert_eq!(seen, [0, 1, 2, 4].map(|at| places[at].clone()), "{at_once} at once");
        }
    }
}
