//! What the log knows of itself: topics, their partitions' numbers, producer ids, which of its
//! files were given back. Beside that it keeps attributes for others, of which it knows nothing.
//!
//! All of it is records in stream 0 of the journal, and this module is the fold over them: pure,
//! no I/O. A [`Change::Snapshot`] stands for all changes before it, so that old files can go.

use std::{collections::BTreeMap, sync::Arc};

use afflux_types::{Offset, Timestamp, TopicId, TopicName};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use crate::settings::Settings;

/// More partitions than a topic may ever have, whatever is set.
const PARTITIONS_MAX: i32 = 1 << 20;

/// Numbers of partitions, and positions, of which nobody gets that many. Two of them add up.
const STREAMS_MAX: u32 = 1 << 31;
const POSITION_MAX: u64 = (1 << 62) + (1 << 61);

/// The stream that holds the changes themselves.
pub(crate) const META_STREAM: u32 = 0;

/// Values by name, kept for something that the log does not know.
pub type Attributes = BTreeMap<String, String>;

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its id, never used again.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// How many partitions it has.
    pub partitions: i32,
    /// When it was made.
    pub created: Timestamp,
    /// What was set for it.
    #[serde(default = "Settings::kept")]
    pub settings: Settings,
    /// Its first partition's number in the journal; the others follow.
    pub(crate) first_stream: u32,
    /// Partitions that were added later: from which one on, and the number of that one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) added: Vec<(i32, u32)>,
}

impl Topic {
    fn is_possible(&self) -> bool {
        let (partitions, mut added) = (0..=self.partitions, self.added.iter());
        (1..=PARTITIONS_MAX).contains(&self.partitions)
            && self.first_stream < STREAMS_MAX
            && added.all(|(from, first)| partitions.contains(from) && *first < STREAMS_MAX)
    }

    /// The numbers of its partitions.
    pub(crate) fn streams(&self) -> impl Iterator<Item = u32> {
        (0..self.partitions).filter_map(|partition| self.stream(partition))
    }

    /// The number of a partition.
    pub(crate) fn stream(&self, partition: i32) -> Option<u32> {
        if !(0..self.partitions).contains(&partition) {
            return None;
        }
        let added = self.added.iter().rev().find(|(from, _)| *from <= partition);
        let (from, first) = added.copied().unwrap_or((0, self.first_stream));
        Some(first + (partition - from) as u32)
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    /// A topic was made.
    Create(Topic),
    /// A topic was removed.
    Remove(TopicId),
    /// Producer ids below this may have been handed out.
    ProducerIds(i64),
    /// A partition begins here now.
    Trim(u32, Offset),
    /// What a partition held from one offset to another lies in a file of its own now, or is gone.
    Compact {
        /// The partition.
        stream: u32,
        /// From this offset...
        from: i64,
        /// ...to this one.
        to: i64,
        /// Where what is left of it lies.
        file: Option<CompactedFile>,
    },
    /// Partitions begin here now.
    Trims(Vec<(u32, Offset)>),
    /// A topic's settings are these now.
    Settings(TopicId, Settings),
    /// This is what is kept for its owner now; nothing if empty.
    Attributes(String, Attributes),
    /// A topic has this many partitions now; the first new one has this number.
    Grow(TopicId, i32, u32),
    /// The journal file at this position, of this many bytes, was given back.
    Recycle(u64, u64),
    /// A repair dropped everything between these positions.
    Cut(u64, u64),
    /// All of the above up to here.
    Snapshot(Meta),
}

impl Change {
    /// Reads one. A number that can not be, which would be reckoned with later, is refused here.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let change: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let is_possible = match &change {
            Self::Create(topic) => topic.is_possible(),
            Self::Grow(_, partitions, first_stream) => {
                (1..=PARTITIONS_MAX).contains(partitions) && *first_stream < STREAMS_MAX
            }
            Self::Compact { file, .. } => file.iter().all(CompactedFile::is_possible),
            Self::Recycle(position, bytes) => is_stretch((position, bytes)),
            Self::Snapshot(meta) => meta.is_possible(),
            Self::Remove(_)
            | Self::ProducerIds(_)
            | Self::Trim(..)
            | Self::Trims(_)
            | Self::Settings(..)
            | Self::Attributes(..)
            | Self::Cut(..) => true,
        };
        is_possible.then_some(change).ok_or_else(|| "a number in it can not be".to_owned())
    }
}

/// Whether a position and a number of bytes add up to a position.
fn is_stretch((position, bytes): (&u64, &u64)) -> bool {
    position.checked_add(*bytes).is_some_and(|end| end <= POSITION_MAX)
}

/// A file with what is left of a stretch of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CompactedFile {
    /// Its first position, behind those of the journal.
    pub(crate) base: u64,
    /// Its length.
    pub(crate) bytes: u64,
    /// Where in it its index begins.
    pub(crate) index: u64,
    /// The stretch's first offset.
    pub(crate) from: i64,
    /// Behind its last.
    pub(crate) to: i64,
    /// Where the first batch of the stretch became part of the partition.
    pub(crate) at_first: u64,
    /// The same of its last.
    pub(crate) at_last: u64,
}

impl CompactedFile {
    fn is_possible(&self) -> bool {
        is_stretch((&self.base, &self.bytes))
    }
}

/// What was compacted of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Compacted {
    /// Everything before this offset.
    pub(crate) to: i64,
    /// What is left of it, in the order of offsets.
    pub(crate) files: Vec<CompactedFile>,
}

/// The fold of all changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    topics: Vec<Arc<Topic>>,
    streams_next: u32,
    /// Producer ids from this on have not been handed out.
    pub(crate) producer_ids_next: i64,
    /// Where partitions begin that do not begin at 0.
    starts: BTreeMap<u32, Offset>,
    /// Journal files that were given back: position and bytes.
    recycled: BTreeMap<u64, u64>,
    /// What repairs dropped: from and to.
    #[serde(default)]
    cuts: BTreeMap<u64, u64>,
    /// What was compacted, by partition.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    compacted: BTreeMap<u32, Compacted>,
    /// Behind the positions of all files with what was compacted.
    #[serde(default)]
    compacted_next: u64,
    /// What is kept for others, by its owner.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<String, Attributes>,
    #[serde(skip)]
    by_name: HashMap<TopicName, Arc<Topic>>,
}

impl Meta {
    /// Nothing but the stream of changes.
    pub(crate) fn new() -> Self {
        Self { streams_next: META_STREAM + 1, ..Self::default() }
    }

    fn is_possible(&self) -> bool {
        let mut files = self.compacted.values().flat_map(|compacted| &compacted.files);
        self.topics.iter().all(|topic| topic.is_possible())
            && self.streams_next <= STREAMS_MAX + PARTITIONS_MAX as u32
            && self.recycled.iter().all(is_stretch)
            && files.all(CompactedFile::is_possible)
            && self.compacted_next <= POSITION_MAX
    }

    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::Create(topic) => {
                self.numbered(topic.first_stream, topic.partitions);
                let topic = Arc::new(topic);
                self.by_name.insert(topic.name.clone(), topic.clone());
                self.topics.push(topic);
            }
            Change::Remove(id) => {
                if let Some(at) = self.topics.iter().position(|topic| topic.id == id) {
                    let topic = self.topics.remove(at);
                    self.by_name.remove(&topic.name);
                    for stream in topic.streams() {
                        self.starts.remove(&stream);
                        self.compacted.remove(&stream);
                    }
                }
            }
            Change::ProducerIds(next) => self.producer_ids_next = next,
            Change::Trim(stream, start) => {
                self.starts.insert(stream, start);
                self.trim_compacted(stream, start);
            }
            Change::Trims(starts) => {
                // The same one may be named twice.
                for (stream, start) in starts {
                    let known = self.starts.entry(stream).or_insert(start);
                    *known = start.max(*known);
                    self.trim_compacted(stream, start);
                }
            }
            Change::Compact { stream, from, to, file } => {
                let start = self.start(stream).0;
                let compacted = self.compacted.entry(stream).or_default();
                compacted.files.retain(|file| file.to <= from || file.from >= to);
                compacted.files.extend(file.filter(|file| file.to > start));
                compacted.files.sort_by_key(|file| file.from);
                compacted.to = compacted.to.max(to);
                if let Some(file) = file {
                    self.compacted_next = self.compacted_next.max(file.base + file.bytes);
                }
            }
            Change::Settings(id, settings) => self.change(id, |topic| topic.settings = settings),
            Change::Attributes(owner, attributes) => self.keep(owner, attributes),
            Change::Grow(id, partitions, first_stream) => {
                let mut new = 0;
                self.change(id, |topic| {
                    if partitions <= topic.partitions {
                        return;
                    }
                    new = partitions - topic.partitions;
                    topic.added.push((topic.partitions, first_stream));
                    topic.partitions = partitions;
                });
                self.numbered(first_stream, new);
            }
            Change::Recycle(position, bytes) => {
                self.recycled.insert(position, bytes);
                self.merge_recycled();
            }
            Change::Cut(from, to) => {
                self.cuts.insert(from, to);
            }
            Change::Snapshot(meta) => {
                *self = meta;
                self.by_name =
                    self.topics.iter().map(|topic| (topic.name.clone(), topic.clone())).collect();
            }
        }
    }

    /// Changes a topic, if it is there.
    fn change(&mut self, id: TopicId, change: impl FnOnce(&mut Topic)) {
        let Some(topic) = self.topics.iter_mut().find(|topic| topic.id == id) else { return };
        change(Arc::make_mut(topic));
        self.by_name.insert(topic.name.clone(), topic.clone());
    }

    /// Keeps an owner's attributes instead of those before.
    fn keep(&mut self, owner: String, attributes: Attributes) {
        if attributes.is_empty() {
            self.attributes.remove(&owner);
        } else {
            self.attributes.insert(owner, attributes);
        }
    }

    /// These numbers are taken.
    fn numbered(&mut self, first: u32, count: i32) {
        self.streams_next = self.streams_next.max(first + count as u32);
    }

    /// Forgets files in which nothing is shown any more.
    fn trim_compacted(&mut self, stream: u32, start: Offset) {
        if let Some(compacted) = self.compacted.get_mut(&stream) {
            compacted.files.retain(|file| file.to > start.0);
        }
    }

    /// What was compacted, by partition.
    pub(crate) fn compacted(&self) -> &BTreeMap<u32, Compacted> {
        &self.compacted
    }

    /// The position of the next file with what was compacted, not below `from`.
    pub(crate) fn compacted_next(&self, from: u64) -> u64 {
        self.compacted_next.max(from).next_multiple_of(1 << 12)
    }

    /// Joins neighbours, so that the list stays short however many files were given back.
    fn merge_recycled(&mut self) {
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (&position, &bytes) in &self.recycled {
            match merged.last_mut() {
                Some((start, length)) if *start + *length == position => *length += bytes,
                _ => merged.push((position, bytes)),
            }
        }
        self.recycled = merged.into_iter().collect();
    }

    /// Whether all of a range of the journal was given back.
    pub(crate) fn is_recycled(&self, position: u64, bytes: u64) -> bool {
        self.recycled
            .range(..=position)
            .next_back()
            .is_some_and(|(start, length)| start + length >= position + bytes)
    }

    /// Whether what stood right before a position was dropped by a repair.
    pub(crate) fn was_cut(&self, position: u64) -> bool {
        self.cuts.range(..position).next_back().is_some_and(|(_, to)| position <= *to)
    }

    /// Forgets that records were dropped from a partition's beginning.
    pub(crate) fn untrim(&mut self, stream: u32) {
        self.starts.remove(&stream);
    }

    pub(crate) fn topic(&self, name: &TopicName) -> Option<&Arc<Topic>> {
        self.by_name.get(name)
    }

    /// What is kept for others, by its owner. None of it is empty.
    pub(crate) fn attributes(&self) -> &BTreeMap<String, Attributes> {
        &self.attributes
    }

    /// In the order of their creation.
    pub(crate) fn topics(&self) -> &[Arc<Topic>] {
        &self.topics
    }

    /// The next topic's first number.
    pub(crate) fn streams_next(&self) -> u32 {
        self.streams_next
    }

    /// Where a partition begins.
    pub(crate) fn start(&self, stream: u32) -> Offset {
        self.starts.get(&stream).copied().unwrap_or(Offset::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str, first_stream: u32, partitions: i32) -> Topic {
        Topic {
            id: TopicId(uuid::Uuid::from_u128(u128::from(first_stream))),
            name: TopicName::new(name).unwrap(),
            partitions,
            created: Timestamp(0),
            settings: Settings::default(),
            first_stream,
            added: Vec::new(),
        }
    }

    fn attributes(set: &[(&str, &str)]) -> Attributes {
        set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn compact(stream: u32, from: i64, to: i64, base: Option<u64>) -> Change {
        let file = |base| CompactedFile {
            base,
            bytes: 4000,
            index: 2000,
            from,
            to,
            at_first: 0,
            at_last: 9,
        };
        Change::Compact { stream, from, to, file: base.map(file) }
    }

    #[test]
    fn a_snapshot_stands_for_the_changes_before_it() {
        let mut meta = Meta::new();
        for change in [
            Change::Create(topic("a", 1, 3)),
            Change::Create(topic("b", 4, 1)),
            Change::Trim(2, Offset(9)),
            Change::Trims(vec![(1, Offset(4)), (2, Offset(10)), (1, Offset(3))]),
            Change::Grow(topic("a", 1, 3).id, 5, 5),
            Change::Settings(topic("a", 1, 3).id, Settings::kept()),
            Change::Attributes("x".to_owned(), attributes(&[("of", "x")])),
            Change::Attributes("y".to_owned(), attributes(&[("of", "y")])),
            Change::Attributes("x".to_owned(), attributes(&[])),
            Change::ProducerIds(100),
            Change::Recycle(200, 100),
            Change::Recycle(0, 100),
            Change::Recycle(100, 100),
            Change::Cut(50, 60),
            compact(1, 0, 10, Some(1 << 62)),
            compact(1, 10, 20, Some((1 << 62) + 4096)),
            compact(1, 20, 25, None),
            compact(1, 0, 20, Some((1 << 62) + 8192)),
            Change::Trim(1, Offset(4)),
            compact(4, 0, 5, Some((1 << 62) + 16384)),
            Change::Remove(topic("b", 4, 1).id),
        ] {
            meta.apply(change);
        }
        let files = |meta: &Meta| -> Vec<_> {
            meta.compacted.values().flat_map(|c| &c.files).map(|f| (f.from, f.to)).collect()
        };
        // The topic of stream 4 is gone, and the last one took in the two before it.
        assert_eq!(files(&meta), [(0, 20)]);
        assert_eq!(meta.compacted()[&1].to, 25);
        assert_eq!(meta.compacted_next(1 << 62), (1 << 62) + 20480);
        let text = serde_json::to_string(&Change::Snapshot(meta.clone())).unwrap();
        let mut other = Meta::new();
        other.apply(serde_json::from_str(&text).unwrap());
        assert_eq!(other, meta);
        assert_eq!(other.streams_next(), 7, "numbers are not used again");
        assert_eq!((other.start(1), other.start(2)), (Offset(4), Offset(10)));
        let a = other.topic(&TopicName::new("a").unwrap()).unwrap();
        assert_eq!(a.streams().collect::<Vec<_>>(), [1, 2, 3, 5, 6]);
        assert_eq!((a.stream(4), a.stream(5), a.stream(-1)), (Some(6), None, None));
        assert_eq!(a.settings, Settings::kept());
        let kept = BTreeMap::from([("y".to_owned(), attributes(&[("of", "y")]))]);
        assert_eq!(other.attributes(), &kept);
        other.apply(Change::Trim(1, Offset(20)));
        assert_eq!((files(&other), other.compacted()[&1].to), (vec![], 25));
        let a = other.topic(&TopicName::new("a").unwrap()).unwrap();
        assert!(Arc::ptr_eq(a, &other.topics()[0]));
        assert!(other.is_recycled(100, 200) && !other.is_recycled(100, 201));
        let cut: Vec<u64> = (45..65).filter(|at| other.was_cut(*at)).collect();
        assert_eq!(cut, (51..61).collect::<Vec<_>>());
        assert!(other.topic(&TopicName::new("a").unwrap()).is_some());
        assert!(other.topic(&TopicName::new("b").unwrap()).is_none());
    }

    /// Whoever reckons with them later does not look.
    #[test]
    fn numbers_that_can_not_be_are_refused() {
        let check = |change: &Change, is_possible: bool| {
            let text = serde_json::to_vec(change).unwrap();
            assert_eq!(Change::read(&text).is_ok(), is_possible, "{change:?}");
        };
        let id = topic("a", 1, 1).id;
        for partitions in [i32::MIN, -1, 0, PARTITIONS_MAX + 1, i32::MAX] {
            check(&Change::Create(topic("a", 1, partitions)), false);
            check(&Change::Grow(id, partitions, 2), false);
        }
        check(&Change::Create(topic("a", u32::MAX, 2)), false);
        check(&Change::Grow(id, 2, u32::MAX), false);
        check(&Change::Create(Topic { added: vec![(-1, 2)], ..topic("a", 1, 2) }), false);
        check(&Change::Create(Topic { added: vec![(1, 2)], ..topic("a", 1, 2) }), true);
        check(&Change::Recycle(1, u64::MAX), false);
        check(&compact(1, 0, 10, Some(u64::MAX)), false);
        check(&compact(1, 0, 10, Some(1 << 62)), true);
        let mut meta = Meta::new();
        meta.apply(Change::Recycle(0, 1 << 63));
        check(&Change::Snapshot(meta), false);
        // Partitions never go.
        let mut meta = Meta::new();
        meta.apply(Change::Create(topic("a", 1, 3)));
        meta.apply(Change::Grow(id, 2, 4));
        assert_eq!((meta.topics()[0].partitions, meta.streams_next()), (3, 4));
    }

    /// As it was written before topics had settings and could grow.
    #[test]
    fn what_a_topic_without_settings_holds_is_kept() {
        let text = r#"{"create":{"id":"00000000-0000-0000-0000-000000000001","name":"a",
            "partitions":2,"created":5,"first_stream":1}}"#;
        let Change::Create(topic) = serde_json::from_str(text).unwrap() else { panic!("{text}") };
        assert_eq!(topic.settings, Settings::kept());
        assert_eq!(topic.streams().collect::<Vec<_>>(), [1, 2]);
    }

    /// As it was written before topics could be compacted and others had attributes.
    #[test]
    fn a_sum_without_compaction_reads_back() {
        let text = r#"{"snapshot":{"topics":[],"streams_next":5,"producer_ids_next":9,
            "starts":{"3":7},"recycled":{"0":100},"cuts":{}}}"#;
        let mut meta = Meta::new();
        meta.apply(serde_json::from_str(text).unwrap());
        assert_eq!((meta.start(3), meta.streams_next()), (Offset(7), 5));
        assert!(meta.compacted().is_empty() && meta.attributes().is_empty());
        assert_eq!(meta.compacted_next(1 << 62), 1 << 62);
    }
}
