//! The [`Log`] door to the embedded log: reads and ticks.

use afflux_types::{JournalPosition, LeaderEpoch, Offset, Tick, TopicName, TopicPartition};
use tokio::sync::watch;

use crate::{
    contract::{Batches, Bounds, EpochCommit, Group, Isolation, Log, Ticket, TopicSpec},
    embedded::EmbeddedLog,
    error::{ReadError, TopicError},
    index::{IndexEntry, Place, Stream, end_in},
    journal::Section,
    reader,
};

fn bounds_of(stream: &Stream) -> Bounds {
    Bounds {
        start: Offset(stream.start),
        stable: Offset(stream.durable),
        durable: Offset(stream.durable),
        end: Offset(stream.end),
    }
}

impl Log for EmbeddedLog {
    fn partition_count(&self, topic: &TopicName) -> Option<i32> {
        self.shared.meta.read().topic(topic).map(|topic| topic.partitions)
    }

    fn ensure_topic(&self, spec: &TopicSpec) -> Result<(), TopicError> {
        match self.create_topic(spec) {
            Ok(_) | Err(TopicError::Exists(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        to: Offset,
        bytes_max: usize,
        isolation: Isolation,
    ) -> Result<Batches, ReadError> {
        let number = self.stream(partition)?;
        let mut section = None;
        loop {
            let state = self.shared.state.lock();
            let stream = state
                .streams
                .get(&number)
                .ok_or_else(|| ReadError::UnknownPartition(partition.clone()))?;
            let bounds = bounds_of(stream);
            if from < bounds.start || from > bounds.end {
                let (start, end) = (bounds.start, bounds.end);
                let partition = partition.clone();
                return Err(ReadError::OffsetOutOfRange { partition, offset: from, start, end });
            }
            let limit = match isolation {
                Isolation::Appended => bounds.end,
                Isolation::Uncommitted => bounds.durable,
                Isolation::Committed => bounds.stable,
            };
            let limit = limit.min(to).0;
            let mut wanted = Vec::new();
            let mut next = from.0;
            let mut bytes = 0_usize;
            let mut take = |entry: &IndexEntry, section: Option<&_>| {
                bytes += entry.bytes as usize;
                if entry.base >= limit || (bytes > bytes_max && !wanted.is_empty()) {
                    return false;
                }
                let Some(found) = reader::want(&state, entry, section) else { return false };
                wanted.push(found);
                next = entry.next();
                true
            };
            if from.0 < limit {
                match stream.place(from.0) {
                    Place::Live(first) => {
                        for entry in stream.live.range(first..) {
                            if !take(entry, None) {
                                break;
                            }
                        }
                    }
                    Place::Run(run) => {
                        let known = section.take().filter(|(base, _)| *base == run.index.base);
                        let Some((_, entries)) = known else {
                            drop(state);
                            let disk = &*self.shared.env.disk;
                            let read = self.shared.sections.get(disk, partition, &run)?;
                            section = Some((run.index.base, read));
                            continue;
                        };
                        let entries: &Section = &entries;
                        let first = entries.entries.partition_point(|e| e.next() <= from.0);
                        for entry in &entries.entries[first..] {
                            if !take(entry, Some(entries)) {
                                break;
                            }
                        }
                    }
                }
            }
            drop(state);
            let batches = reader::fetch(partition, &wanted)?;
            return Ok(Batches { batches, next: Offset(next), bounds });
        }
    }

    fn bounds(&self, partition: &TopicPartition) -> Result<Bounds, ReadError> {
        let number = self.stream(partition)?;
        let state = self.shared.state.lock();
        let stream = state.streams.get(&number);
        stream.map(bounds_of).ok_or_else(|| ReadError::UnknownPartition(partition.clone()))
    }

    fn next_tick(&self, after: Tick, bytes_max: u64) -> Tick {
        let state = self.shared.state.lock();
        let end = state.groups_end;
        if end <= after.0 || end - after.0 <= bytes_max {
            return Tick(end.max(after.0));
        }
        Tick(state.boundary_at(after.0 + bytes_max).min(end))
    }

    fn ends(&self, tick: Tick, partitions: &[TopicPartition]) -> Result<Vec<Offset>, ReadError> {
        let mut ends = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let number = self.stream(partition)?;
            let state = self.shared.state.lock();
            let stream = state
                .streams
                .get(&number)
                .ok_or_else(|| ReadError::UnknownPartition(partition.clone()))?;
            let end = match stream.end_at(tick.0) {
                Ok(end) => end,
                Err(run) => {
                    drop(state);
                    let section =
                        self.shared.sections.get(&*self.shared.env.disk, partition, &run)?;
                    end_in(&section.entries, tick.0).unwrap_or(run.base)
                }
            };
            ends.push(Offset(end));
        }
        Ok(ends)
    }

    fn submit(&self, commit: EpochCommit) -> Ticket {
        let mut entries = vec![commit.changelog];
        entries.extend(commit.outputs);
        self.append(&Group { entries })
    }

    fn appended(&self) -> watch::Receiver<JournalPosition> {
        self.shared.appended.subscribe()
    }

    fn durable(&self) -> watch::Receiver<JournalPosition> {
        self.shared.durable.subscribe()
    }

    fn leader_epoch(&self) -> LeaderEpoch {
        self.shared.state.lock().epoch()
    }
}
