//! The [`Log`] door to the embedded log: reads and ticks.

use afflux_types::{
    JournalPosition, LeaderEpoch, Offset, ProducerId, Tick, TopicName, TopicPartition,
};
use tokio::sync::watch;

use crate::{
    contract::{
        AbortedTransaction, Batches, Bounds, EpochCommit, Group, Isolation, Log, Ticket, TopicSpec,
    },
    embedded::{EmbeddedLog, Shared},
    error::{ReadError, TopicError, TrimError},
    index::{IndexEntry, Place, Run, SectionsRead, Stream},
    reader::{self, Home, Wanted},
    sequencer::Sequencer,
    sweep::Sweep,
    transactions::is_visible,
};

/// What a read asks for.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) partition: &'a TopicPartition,
    pub(crate) from: Offset,
    pub(crate) to: Offset,
    pub(crate) bytes_max: usize,
    pub(crate) isolation: Isolation,
    /// Not behind its end.
    pub(crate) sweep: Option<&'a Sweep>,
    /// By who goes through all of it, and wants nothing kept for others.
    pub(crate) pass: Option<Wants<'a>>,
}

/// Whether a pass wants a batch. Those that it does not want are empty in its answer.
pub(crate) type Wants<'a> = &'a dyn Fn(&IndexEntry) -> bool;

impl<'a> Request<'a> {
    pub(crate) fn new(
        partition: &'a TopicPartition,
        (from, to): (Offset, Offset),
        bytes_max: usize,
        isolation: Isolation,
    ) -> Self {
        Self { partition, from, to, bytes_max, isolation, sweep: None, pass: None }
    }

    /// Of so many sealed files; what is not sealed counts as one.
    fn files_max(&self) -> usize {
        // What a pass writes may end with a file.
        if self.pass.is_some() { 1 } else { FILES_MAX }
    }
}

/// What the index says to it.
enum Found {
    /// These, and all of the answer but what they hold.
    Batches(Vec<Wanted>, Batches),
    /// The entries of this run can tell, which are not in memory.
    In(Run),
    /// Nothing is left before this offset, and more to be read behind it.
    Gap(Offset),
}

/// So many files are gone through for one answer.
const FILES_MAX: usize = 4;

/// Collects the batches of an answer.
struct Taking<'a> {
    state: &'a Sequencer,
    limit: Offset,
    bytes_max: usize,
    sweep: Option<&'a Sweep>,
    pass: Option<Wants<'a>>,
    wanted: Vec<Wanted>,
    bytes: usize,
    next: Offset,
}

impl Taking<'_> {
    /// Whether there is room for more.
    fn take(&mut self, entry: &IndexEntry, home: Option<Home<'_>>) -> bool {
        if entry.base >= self.limit.0 {
            // What lay between is gone.
            self.next = self.next.max(self.limit);
            return false;
        }
        if self.sweep.is_some_and(|sweep| entry.at >= sweep.to) {
            return false;
        }
        self.bytes += entry.bytes as usize;
        if let Some(first) = self.wanted.first()
            && (self.bytes > self.bytes_max || self.is_far(first, entry, home))
        {
            return false;
        }
        if self.pass.is_some_and(|wants| !wants(entry)) {
            self.wanted.push(Wanted::nothing_of(entry));
        } else if let Some(found) = reader::want(self.state, entry, home) {
            self.wanted.push(found);
        } else {
            return false;
        }
        self.next = Offset(entry.next());
        true
    }

    /// Whether a batch of a sealed file is so far from the first that the blocks that were read for
    /// those between might be gone before the readers of other partitions have come for theirs.
    fn is_far(&self, first: &Wanted, entry: &IndexEntry, home: Option<Home<'_>>) -> bool {
        let stretch = entry.at.saturating_sub(first.entry.at);
        home.is_some_and(|home| !home.run.is_compacted())
            && stretch > self.state.options.stretch_max()
            && reader::is_worth_all(stretch, self.bytes as u64)
    }

    /// Takes what a sealed file has. Whether there is room for more.
    fn take_run(&mut self, home: Home<'_>) -> bool {
        let entries = home.run.entries(home.section);
        let first = entries.partition_point(|entry| entry.next() <= self.next.0);
        let is_all = entries[first..].iter().all(|entry| self.take(entry, Some(home)));
        if is_all {
            self.next = self.next.max(Offset(home.run.end).min(self.limit));
        }
        is_all && self.bytes < self.bytes_max && self.next < self.limit
    }

    /// Takes live batches, from one on.
    fn take_live(&mut self, stream: &Stream, first: usize) {
        let _ = stream.live.range(first..).all(|entry| self.take(entry, None));
    }
}

/// Asks the index. `sections` are what was read for earlier answers.
fn look(
    state: &Sequencer,
    number: u32,
    request: &Request<'_>,
    sections: &SectionsRead,
) -> Result<Found, ReadError> {
    let partition = request.partition;
    let stream =
        state.streams.get(&number).ok_or_else(|| ReadError::UnknownPartition(partition.clone()))?;
    let bounds = stream.bounds();
    let (from, start, end) = (request.from, bounds.start, bounds.end);
    if from < start || from > end {
        let partition = partition.clone();
        return Err(ReadError::OffsetOutOfRange { partition, offset: from, start, end });
    }
    let limit = bounds.shown(request.isolation).min(request.to);
    let Request { bytes_max, sweep, pass, .. } = *request;
    let mut taking =
        Taking { state, limit, bytes_max, sweep, pass, wanted: Vec::new(), bytes: 0, next: from };
    if from < limit {
        match stream.place(from.0) {
            Place::Live(first) => taking.take_live(stream, first),
            Place::Run(first) => {
                let mut goes_on = true;
                for run in stream.runs[first..].iter().take(request.files_max()) {
                    let Some(section) = sections.get(&run.index.base) else {
                        return Ok(Found::In(run.clone()));
                    };
                    goes_on = taking.take_run(Home { run, section });
                    if !goes_on {
                        break;
                    }
                }
                if goes_on && stream.runs.len() < first + request.files_max() {
                    taking.take_live(stream, 0);
                }
            }
        }
    }
    let Taking { wanted, next, .. } = taking;
    if wanted.is_empty() && from < next && next < limit {
        return Ok(Found::Gap(next));
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
    Ok(Found::Batches(wanted, Batches { batches: Vec::new(), aborted, next, bounds }))
}

/// What a read gives, with what the index says of each batch.
pub(crate) struct Read {
    pub(crate) entries: Vec<IndexEntry>,
    pub(crate) batches: Batches,
}

impl Shared {
    /// Reads a partition.
    pub(crate) fn read(&self, mut request: Request<'_>) -> Result<Read, ReadError> {
        let partition = request.partition;
        let number = self.stream(partition)?;
        let mut sections = SectionsRead::new();
        loop {
            let found = look(&self.state.lock(), number, &request, &sections)?;
            match found {
                Found::Batches(wanted, answer) => {
                    let batches = self.fill(&request, &wanted, answer)?;
                    let read = wanted.iter().take(batches.batches.len());
                    return Ok(Read {
                        entries: read.map(|wanted| wanted.entry).collect(),
                        batches,
                    });
                }
                Found::In(run) => self.read_section(partition, &run, &mut sections)?,
                Found::Gap(next) => request.from = next,
            }
        }
    }

    /// Reads a partition if nothing of it is wanted from the disk.
    pub(crate) fn read_hot(&self, request: &Request<'_>) -> Result<Option<Batches>, ReadError> {
        let partition = request.partition;
        let number = self.stream(partition)?;
        let found = look(&self.state.lock(), number, request, &SectionsRead::new())?;
        match found {
            Found::Batches(wanted, answer) if wanted.iter().all(Wanted::is_hot) => {
                self.fill(request, &wanted, answer).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Reads what is wanted, and ends the answer before what can not be read.
    fn fill(
        &self,
        request: &Request<'_>,
        wanted: &[Wanted],
        mut answer: Batches,
    ) -> Result<Batches, ReadError> {
        answer.batches = reader::fetch(request, wanted, &self.blocks)?;
        if let Some(unread) = wanted.get(answer.batches.len()) {
            answer.next = Offset(unread.entry.base);
            answer.aborted.retain(|transaction| transaction.first < answer.next);
        }
        Ok(answer)
    }

    /// Reads the entries of a run, to ask the index again.
    pub(crate) fn read_section(
        &self,
        partition: &TopicPartition,
        run: &Run,
        sections: &mut SectionsRead,
    ) -> Result<(), ReadError> {
        let read = self.sections.get(&*self.env.disk, partition, run)?;
        sections.insert(run.index.base, read);
        Ok(())
    }
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
        let request = Request::new(partition, (from, to), bytes_max, isolation);
        let mut read = self.shared.read(request)?.batches;
        if isolation == Isolation::Appended {
            read.batches.retain(|batch| is_visible(batch, &read.aborted));
            read.aborted.clear();
        }
        Ok(read)
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
                self.shared.read_section(partition, &run, &mut sections)?;
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
