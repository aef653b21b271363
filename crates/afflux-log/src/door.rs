//! The [`Log`] door to the embedded log: reads and ticks.

use std::sync::Arc;

use afflux_types::{
    JournalPosition, LeaderEpoch, Offset, ProducerId, Tick, TopicName, TopicPartition,
};
use tokio::sync::watch;

use crate::{
    contract::{
        AbortedTransaction, Batches, Bounds, EpochCommit, Group, Isolation, Log, Ticket, TopicSpec,
    },
    embedded::EmbeddedLog,
    error::{ReadError, TopicError, TrimError},
    index::{IndexEntry, Place, Run, SectionsRead, Stream},
    journal::Section,
    reader::{self, Wanted},
    sequencer::Sequencer,
    transactions::is_visible,
};

/// What a read asks for.
struct Request<'a> {
    partition: &'a TopicPartition,
    number: u32,
    from: Offset,
    to: Offset,
    bytes_max: usize,
    isolation: Isolation,
}

/// What the index says to it.
enum Found {
    /// These.
    Batches { wanted: Vec<Wanted>, aborted: Vec<AbortedTransaction>, next: Offset, bounds: Bounds },
    /// The entries of this run can tell, which are not in memory.
    In(Run),
}

/// Asks the index. `sections` are what was read for earlier answers.
fn look(
    state: &Sequencer,
    request: &Request<'_>,
    sections: &SectionsRead,
) -> Result<Found, ReadError> {
    let partition = request.partition;
    let stream = state
        .streams
        .get(&request.number)
        .ok_or_else(|| ReadError::UnknownPartition(partition.clone()))?;
    let bounds = stream.bounds();
    let (from, start, end) = (request.from, bounds.start, bounds.end);
    if from < start || from > end {
        let partition = partition.clone();
        return Err(ReadError::OffsetOutOfRange { partition, offset: from, start, end });
    }
    let limit = match request.isolation {
        Isolation::Appended => bounds.decided,
        Isolation::Uncommitted => bounds.durable,
        Isolation::Committed => bounds.stable,
    };
    let limit = limit.min(request.to);
    let mut wanted = Vec::new();
    let mut next = from;
    let mut bytes = 0_usize;
    let mut take = |entry: &IndexEntry, section: Option<&Arc<Section>>| {
        bytes += entry.bytes as usize;
        if entry.base >= limit.0 || (bytes > request.bytes_max && !wanted.is_empty()) {
            return false;
        }
        let Some(found) = reader::want(state, entry, section.map(|section| &**section)) else {
            return false;
        };
        wanted.push(found);
        next = Offset(entry.next());
        true
    };
    if from < limit {
        match stream.place(from.0) {
            Place::Live(first) => {
                let _ = stream.live.range(first..).all(|entry| take(entry, None));
            }
            Place::Run(run) => {
                let Some(section) = sections.get(&run.index.base) else {
                    return Ok(Found::In(run));
                };
                let first = section.entries.partition_point(|entry| entry.next() <= from.0);
                let _ = section.entries[first..].iter().all(|entry| take(entry, Some(section)));
            }
        }
    }
    let ended = match request.isolation {
        Isolation::Uncommitted => Vec::new(),
        _ if next == from => Vec::new(),
        _ => match stream.ended(from.0, next.0, sections) {
            Ok(ended) => ended,
            Err(run) => return Ok(Found::In(run)),
        },
    };
    let aborted = ended.iter().filter(|ended| ended.aborted).map(|ended| AbortedTransaction {
        producer: ProducerId(ended.producer),
        first: Offset(ended.first),
        marker: Offset(ended.marker),
    });
    let mut aborted: Vec<_> = aborted.collect();
    aborted.sort_by_key(|transaction| transaction.first);
    Ok(Found::Batches { wanted, aborted, next, bounds })
}

impl Log for EmbeddedLog {
    fn partition_count(&self, topic: &TopicName) -> Option<i32> {
        self.shared.meta.read().topic(topic).map(|topic| topic.partitions)
    }

    fn remove_topic(&self, name: &TopicName) -> Result<(), TopicError> {
        match self.delete_topic(name) {
            Ok(()) | Err(TopicError::Unknown(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn ensure_topic(&self, spec: &TopicSpec) -> Result<(), TopicError> {
        match self.create_topic(spec) {
            Ok(_) | Err(TopicError::Exists(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn trim(&self, partition: &TopicPartition, before: Offset) -> Result<(), TrimError> {
        Self::trim(self, partition, before).map(drop)
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
        let request = Request { partition, number, from, to, bytes_max, isolation };
        let mut sections = SectionsRead::new();
        loop {
            let found = look(&self.shared.state.lock(), &request, &sections)?;
            match found {
                Found::Batches { wanted, mut aborted, next, bounds } => {
                    let mut batches = reader::fetch(partition, &wanted)?;
                    if isolation == Isolation::Appended {
                        batches.retain(|batch| is_visible(batch, &aborted));
                        aborted.clear();
                    }
                    return Ok(Batches { batches, aborted, next, bounds });
                }
                Found::In(run) => {
                    let disk = &*self.shared.env.disk;
                    let read = self.shared.sections.get(disk, partition, &run)?;
                    sections.insert(run.index.base, read);
                }
            }
        }
    }

    fn bounds(&self, partition: &TopicPartition) -> Result<Bounds, ReadError> {
        let number = self.stream(partition)?;
        let state = self.shared.state.lock();
        let stream = state.streams.get(&number);
        stream.map(Stream::bounds).ok_or_else(|| ReadError::UnknownPartition(partition.clone()))
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
            let mut sections = SectionsRead::new();
            let end = loop {
                let run = {
                    let state = self.shared.state.lock();
                    let stream = state
                        .streams
                        .get(&number)
                        .ok_or_else(|| ReadError::UnknownPartition(partition.clone()))?;
                    let end = stream.end_at(tick.0, &sections);
                    match end.and_then(|end| stream.decided_at(end, &sections)) {
                        Ok(end) => break end,
                        Err(run) => run,
                    }
                };
                let disk = &*self.shared.env.disk;
                let read = self.shared.sections.get(disk, partition, &run)?;
                sections.insert(run.index.base, read);
            };
            ends.push(Offset(end));
        }
        Ok(ends)
    }

    fn was_cut(&self, tick: Tick) -> bool {
        self.shared.meta.read().was_cut(tick.0)
    }

    fn submit(&self, commit: EpochCommit) -> Ticket {
        let mut entries = vec![commit.changelog];
        entries.extend(commit.outputs);
        self.append_expecting(&Group { entries }, &commit.expected)
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
