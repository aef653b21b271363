//! Topics are made, changed, grown and trimmed; what they hold.
//!
//! Every change is a record of the log's own metadata. It is made under one lock, is durable
//! before anybody sees it, and blocks for one sync.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use afflux_env::Room;
use afflux_types::{LeaderEpoch, Offset, TopicId, TopicName, TopicPartition};

use crate::{
    contract::{Log as _, TopicSpec},
    embedded::{EmbeddedLog, Shared},
    error::{AppendError, ReadError, TopicError, TrimError},
    index::Run,
    meta::{Attributes, Change, Topic},
    settings::{AlterError, SettingError, Settings},
};

/// The most bytes that names and values of all attributes take: they are in every sum of the
/// log's metadata.
const ATTRIBUTES_BYTES_MAX: usize = 1 << 20;

/// Attributes that are not kept.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AttributeError<E> {
    /// Whoever changes them does not want to.
    #[error("{0}")]
    Refused(E),
    /// Those of all owners would take too much.
    #[error("all that is set would take {bytes} bytes; at most {ATTRIBUTES_BYTES_MAX} are allowed")]
    Full {
        /// What they would take.
        bytes: usize,
    },
    /// The change could not be written.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Where the records of a leader epoch end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    /// The latest epoch up to the one asked for.
    pub epoch: LeaderEpoch,
    /// The first offset of a later epoch, or the durable end.
    pub end: Offset,
}

impl EmbeddedLog {
    /// Makes a topic with settings.
    pub fn create_topic_with(
        &self,
        spec: &TopicSpec,
        settings: Settings,
    ) -> Result<Arc<Topic>, TopicError> {
        self.check_partitions(spec.partitions)?;
        let shared = &*self.shared;
        let _changes = shared.changes.lock();
        let first_stream = {
            let meta = shared.meta.read();
            if meta.topic(&spec.name).is_some() {
                return Err(TopicError::Exists(spec.name.clone()));
            }
            meta.streams_next()
        };
        let random = &shared.env.random;
        let bits = (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64());
        let topic = Topic {
            id: TopicId(uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()),
            name: spec.name.clone(),
            partitions: spec.partitions,
            created: shared.env.clock.now(),
            settings,
            first_stream,
            added: Vec::new(),
        };
        shared.change(&Change::Create(topic.clone()))?;
        shared.add_streams(topic.streams());
        shared.meta.write().apply(Change::Create(topic));
        self.topic(&spec.name).ok_or_else(|| TopicError::Unknown(spec.name.clone()))
    }

    /// Gives a topic more partitions.
    pub fn grow_topic(&self, name: &TopicName, partitions: i32) -> Result<Arc<Topic>, TopicError> {
        self.check_partitions(partitions)?;
        let shared = &*self.shared;
        let _changes = shared.changes.lock();
        let unknown = || TopicError::Unknown(name.clone());
        let topic = self.topic(name).ok_or_else(unknown)?;
        if partitions <= topic.partitions {
            return Err(TopicError::Shrinks { has: topic.partitions, partitions });
        }
        let first = shared.meta.read().streams_next();
        let change = Change::Grow(topic.id, partitions, first);
        shared.change(&change)?;
        shared.add_streams(first..first + (partitions - topic.partitions) as u32);
        shared.meta.write().apply(change);
        self.topic(name).ok_or_else(unknown)
    }

    /// Changes a topic's settings to what is made of the present ones.
    pub fn alter_topic(
        &self,
        name: &TopicName,
        alter: impl FnOnce(&BTreeMap<String, String>) -> Result<Settings, SettingError>,
    ) -> Result<(), AlterError> {
        let _changes = self.shared.changes.lock();
        let topic = self.topic(name).ok_or_else(|| AlterError::Unknown(name.clone()))?;
        let settings = alter(topic.settings.set())?;
        if settings != topic.settings {
            let change = Change::Settings(topic.id, settings);
            self.shared.change(&change)?;
            self.shared.meta.write().apply(change);
            self.shared.compact_soon();
            self.shared.retain_soon();
        }
        Ok(())
    }

    /// What is kept for something that the log does not know, by the name that its owner gives it.
    pub fn attributes(&self, owner: &str) -> Attributes {
        self.shared.meta.read().attributes().get(owner).cloned().unwrap_or_default()
    }

    /// All owners for whom something is kept.
    pub fn attribute_owners(&self) -> Vec<String> {
        self.shared.meta.read().attributes().keys().cloned().collect()
    }

    /// Changes what is kept for an owner to what is made of it. Blocks for one sync.
    pub fn alter_attributes<E>(
        &self,
        owner: &str,
        alter: impl FnOnce(&Attributes) -> Result<Attributes, E>,
    ) -> Result<(), AttributeError<E>> {
        let _changes = self.shared.changes.lock();
        let known = self.attributes(owner);
        let attributes = alter(&known).map_err(AttributeError::Refused)?;
        if attributes == known {
            return Ok(());
        }
        let size = |owner: &str, attributes: &Attributes| {
            let texts = attributes.iter().map(|(name, value)| name.len() + value.len());
            owner.len() + texts.sum::<usize>()
        };
        let others: usize = {
            let meta = self.shared.meta.read();
            let others = meta.attributes().iter().filter(|(other, _)| *other != owner);
            others.map(|(other, attributes)| size(other, attributes)).sum()
        };
        let bytes = others + size(owner, &attributes);
        if !attributes.is_empty() && bytes > ATTRIBUTES_BYTES_MAX {
            return Err(AttributeError::Full { bytes });
        }
        let change = Change::Attributes(owner.to_owned(), attributes);
        self.shared.change(&change)?;
        self.shared.meta.write().apply(change);
        Ok(())
    }

    /// Drops records of partitions below offsets, each at most its durable end; where they begin
    /// now. All that can be done is done at once.
    pub fn trim_all(&self, before: &[(TopicPartition, Offset)]) -> Vec<Result<Offset, TrimError>> {
        let _changes = self.shared.changes.lock();
        let mut starts = Vec::new();
        let mut outcomes: Vec<Result<Offset, TrimError>> = before
            .iter()
            .map(|(partition, before)| {
                let stream = self.stream(partition)?;
                let bounds = self.bounds(partition)?;
                if *before > bounds.durable {
                    return Err(TrimError::from(ReadError::OffsetOutOfRange {
                        partition: partition.clone(),
                        offset: *before,
                        start: bounds.start,
                        end: bounds.durable,
                    }));
                }
                if *before > bounds.start {
                    starts.push((stream, *before));
                }
                Ok(bounds.start.max(*before))
            })
            .collect();
        if let Err(error) = self.shared.move_starts(starts) {
            for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_ok()) {
                *outcome = Err(TrimError::Append(error.clone()));
            }
        }
        outcomes
    }

    /// Where the records of a leader epoch end; none if the epoch is yet to come.
    pub fn epoch_end(
        &self,
        partition: &TopicPartition,
        epoch: LeaderEpoch,
    ) -> Result<Option<EpochEnd>, ReadError> {
        let number = self.stream(partition)?;
        let unknown = || ReadError::UnknownPartition(partition.clone());
        let (bounds, runs, live) = {
            let state = self.shared.state.lock();
            if epoch > state.epoch() {
                return Ok(None);
            }
            let stream = state.streams.get(&number).ok_or_else(unknown)?;
            let bounds = stream.bounds();
            if epoch == state.epoch() {
                return Ok(Some(EpochEnd { epoch, end: bounds.durable }));
            }
            let runs: Vec<Run> =
                stream.runs.iter().filter(|run| run.end > stream.start).cloned().collect();
            // Epochs rise along a partition.
            let live = stream.live.partition_point(|entry| entry.epoch <= epoch.0);
            let before = live.checked_sub(1).map(|last| stream.live[last].epoch);
            (bounds, runs, (before, stream.live.get(live).map(|entry| entry.base)))
        };
        let in_run = |run: &Run| -> Result<(Option<i32>, Option<i64>), ReadError> {
            let section = self.shared.sections.get(&*self.shared.env.disk, partition, run)?;
            let entries = run.entries(&section);
            let later = entries.partition_point(|entry| entry.epoch <= epoch.0);
            let before = later.checked_sub(1).map(|last| entries[last].epoch);
            Ok((before, entries.get(later).map(|entry| entry.base)))
        };
        // The first run that holds a later epoch, by halving: each look reads one section.
        let (mut from, mut to) = (0, runs.len());
        let mut found = live;
        while from < to {
            let middle = usize::midpoint(from, to);
            let (before, later) = in_run(&runs[middle])?;
            if later.is_some() {
                found = (before, later);
                to = middle;
            } else {
                found.0 = found.0.max(before);
                from = middle + 1;
            }
        }
        if found.0.is_none() && from > 0 {
            found.0 = in_run(&runs[from - 1])?.0;
        }
        let end = found.1.map_or(bounds.durable, |base| Offset(base).min(bounds.durable));
        Ok(Some(EpochEnd {
            epoch: LeaderEpoch(found.0.unwrap_or(epoch.0)),
            end: end.max(bounds.start),
        }))
    }

    /// How many bytes of batches a partition holds that are still shown.
    pub fn partition_bytes(&self, partition: &TopicPartition) -> Result<u64, ReadError> {
        self.shared.bytes_of(partition)
    }

    /// Where the journal is.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// How much room there is on the disk that the journal is on.
    pub fn room(&self) -> std::io::Result<Room> {
        self.shared.env.disk.room(&self.shared.dir)
    }

    /// The sizes and limits that it was opened with.
    pub fn options(&self) -> &crate::LogOptions {
        &self.shared.options
    }

    fn check_partitions(&self, partitions: i32) -> Result<(), TopicError> {
        let partitions_max = self.shared.options.partitions_max;
        if (1..=partitions_max).contains(&partitions) {
            return Ok(());
        }
        Err(TopicError::Partitions { partitions, partitions_max })
    }
}

impl Shared {
    /// How many bytes of batches a partition holds that are still shown.
    pub(crate) fn bytes_of(&self, partition: &TopicPartition) -> Result<u64, ReadError> {
        let number = self.stream(partition)?;
        let unknown = || ReadError::UnknownPartition(partition.clone());
        let (start, runs, mut bytes) = {
            let state = self.state.lock();
            let stream = state.streams.get(&number).ok_or_else(unknown)?;
            let runs: Vec<Run> =
                stream.runs.iter().filter(|run| run.end > stream.start).cloned().collect();
            let first = stream.live.partition_point(|entry| entry.next() <= stream.start);
            let live = stream.live.range(first..).map(|entry| u64::from(entry.bytes));
            (stream.start, runs, live.sum::<u64>())
        };
        for run in &runs {
            bytes += self.shown_bytes(partition, run, start)?;
        }
        Ok(bytes)
    }

    fn add_streams(&self, numbers: impl IntoIterator<Item = u32>) {
        let mut state = self.state.lock();
        for stream in numbers {
            state.streams.entry(stream).or_default();
        }
    }

    /// Makes partitions begin later, durably. The caller holds `changes`.
    pub(crate) fn move_starts(&self, starts: Vec<(u32, Offset)>) -> Result<(), AppendError> {
        if starts.is_empty() {
            return Ok(());
        }
        let change = Change::Trims(starts.clone());
        self.change(&change)?;
        self.meta.write().apply(change);
        {
            let mut state = self.state.lock();
            for (number, start) in starts {
                if let Some(stream) = state.streams.get_mut(&number) {
                    stream.start = stream.start.max(start.0);
                }
            }
        }
        self.look_for_dead_files();
        Ok(())
    }
}
