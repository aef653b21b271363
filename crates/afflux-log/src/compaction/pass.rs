//! One pass over one partition: see the module above for its steps.

use afflux_record::Header;
use afflux_types::{Incarnation, Offset, TopicPartition};
use bytes::Bytes;
use hashbrown::HashSet;

use super::{
    Broken, STEP_BYTES,
    filter::{Filter, Keys},
    parts::Parts,
};
use crate::{
    contract::Isolation,
    door::{Read, Request},
    embedded::Shared,
    error::{AppendError, ReadError},
    index::{IndexEntry, Run, SectionsRead},
    journal::{COMPACTED, CompactedWriter, Finished, compacted_run},
    meta::{Change, CompactedFile},
    sequencer::FileState,
    transactions::Ended,
};

/// A pass on its way.
pub(super) struct Pass {
    at: TopicPartition,
    number: u32,
    filter: Filter,
    /// What is read next.
    next: i64,
    /// Whether all keys are known, and what is left is being written.
    writes: bool,
    stretch: Stretch,
}

/// What is being written of it.
#[derive(Default)]
struct Stretch {
    /// Its first offset.
    from: i64,
    /// Where the first and the last batch that was read became part of the partition.
    ats: Option<(u64, u64)>,
    /// The offsets of markers that stay.
    markers: HashSet<i64>,
    writer: Option<CompactedWriter>,
}

impl Pass {
    /// Begins a pass over what is before `upper`; none if the partition is gone.
    pub(super) fn new(shared: &Shared, at: TopicPartition, upper: i64) -> Option<Box<Self>> {
        let (number, delete_retention) = {
            let meta = shared.meta.read();
            let topic = meta.topic(&at.topic)?;
            let rules = topic.settings.rules().compaction.as_ref()?;
            (topic.stream(at.partition.0)?, rules.delete_retention)
        };
        let random = &shared.env.random;
        let seeds = [random.next_u64(), random.next_u64()];
        let state = shared.state.lock();
        let stream = state.streams.get(&number)?;
        tracing::debug!(%at, upper, "a partition is compacted");
        let next = stream.shown_from();
        let filter = Filter {
            keys: Keys::new(seeds, shared.options.compaction_bytes_max),
            now: shared.env.clock.now(),
            parts: Parts::new(next, upper),
            delete_retention,
            last_batches: stream.producers.last_batches(state.durable()),
            upper,
            inside: HashSet::new(),
        };
        Some(Box::new(Self {
            at,
            number,
            filter,
            next,
            writes: false,
            stretch: Stretch::default(),
        }))
    }

    /// Goes on. Whether there is more to do.
    pub(super) fn step(&mut self, shared: &Shared) -> Result<bool, Broken> {
        // What was trimmed meanwhile is not read any more.
        let start = {
            let state = shared.state.lock();
            let stream = state.streams.get(&self.number);
            stream.ok_or_else(|| ReadError::UnknownPartition(self.at.clone()))?.start
        };
        if start >= self.filter.upper {
            self.discard(shared);
            return Ok(false);
        }
        self.next = self.next.max(start);
        if !self.writes {
            self.note_keys(shared)?;
            return Ok(true);
        }
        if self.next < self.filter.upper {
            self.write(shared)?;
        }
        let is_over = self.next >= self.filter.upper;
        let file_bytes = shared.options.file_bytes;
        let is_full = self.stretch.writer.as_ref().is_some_and(|file| file.is_full(file_bytes));
        if is_over || is_full && self.is_between_files(shared) {
            self.switch(shared)?;
        }
        Ok(!is_over)
    }

    /// Reads on: all, or what may leave something.
    fn read(&self, shared: &Shared) -> Result<Read, ReadError> {
        let wants = |entry: &IndexEntry| !self.writes || self.filter.wants(entry);
        shared.read(Request {
            partition: &self.at,
            from: Offset(self.next),
            to: Offset(self.filter.upper),
            bytes_max: STEP_BYTES,
            isolation: Isolation::Committed,
            sweep: None,
            pass: Some(&wants),
        })
    }

    fn note_keys(&mut self, shared: &Shared) -> Result<(), Broken> {
        let mut is_over = self.next >= self.filter.upper;
        if !is_over {
            let Read { entries, batches } = self.read(shared)?;
            for (entry, batch) in entries.iter().zip(&batches.batches) {
                let noted = self.filter.note(batch, &batches.aborted);
                if !noted.map_err(|error| Broken::Batch(entry.base, error))? {
                    self.filter.upper = entry.base;
                    is_over = true;
                    break;
                }
            }
            self.advance(batches.next)?;
            is_over |= self.next >= self.filter.upper;
        }
        if is_over {
            self.filter.knows_all();
            self.writes = true;
            self.next = 0;
        }
        Ok(())
    }

    /// A read that gives nothing would be repeated for ever.
    fn advance(&mut self, next: Offset) -> Result<(), ReadError> {
        if next.0 <= self.next {
            let (partition, offset) = (self.at.clone(), Offset(self.next));
            let reason = "there is nothing where a record should be".to_owned();
            return Err(ReadError::Corrupt { partition, offset, reason });
        }
        self.next = next.0;
        Ok(())
    }

    fn write(&mut self, shared: &Shared) -> Result<(), Broken> {
        let Read { entries, batches } = self.read(shared)?;
        for (entry, batch) in entries.iter().zip(&batches.batches) {
            let (first, _) = *self.stretch.ats.get_or_insert((entry.at, entry.at));
            self.stretch.ats = Some((first, entry.at));
            if batch.is_empty() {
                // It was not wanted.
                continue;
            }
            let left = self.filter.next(batch, &batches.aborted);
            if let Some(left) = left.map_err(|error| Broken::Batch(entry.base, error))? {
                self.push(shared, entry, &left)?;
            }
        }
        self.advance(batches.next)?;
        Ok(())
    }

    fn push(&mut self, shared: &Shared, entry: &IndexEntry, batch: &Bytes) -> Result<(), Broken> {
        let header = Header::parse(batch).map_err(|error| Broken::Batch(entry.base, error))?;
        if header.is_control() {
            self.stretch.markers.insert(entry.base);
        }
        let writer = match &mut self.stretch.writer {
            Some(writer) => writer,
            none => none.insert(shared.begin_compacted()?),
        };
        writer.push(entry, batch, header.max_timestamp.0)?;
        Ok(())
    }

    /// Whether what is read next does not lie within a file of an earlier pass.
    fn is_between_files(&self, shared: &Shared) -> bool {
        let state = shared.state.lock();
        let runs = state.streams.get(&self.number).map(|stream| &stream.runs);
        let within = |run: &Run| run.is_compacted() && run.base < self.next && self.next < run.end;
        !runs.is_some_and(|runs| runs.iter().any(within))
    }

    /// Puts what was written in the place of what it is left of.
    fn switch(&mut self, shared: &Shared) -> Result<(), Broken> {
        let (from, to) = (self.stretch.from, self.next);
        let ended = shared.ended_in(&self.at, from, to)?;
        let disk = &*shared.env.disk;
        let mut finished = None;
        if let Some(writer) = self.stretch.writer.take() {
            let kept = ended.0.into_iter().filter(|e| self.stretch.markers.contains(&e.marker));
            let incarnation = Incarnation(shared.state.lock().epoch().0 as u32);
            let path = writer.path().to_owned();
            let of = (self.number, ended.1);
            match writer.finish(disk, (shared.journal, incarnation), of, kept.collect()) {
                Ok(file) => finished = Some(file),
                Err(error) => {
                    shared.remove_unused(&path);
                    return Err(error.into());
                }
            }
        }
        let (at_first, at_last) = self.ats(shared);
        let named = finished.as_ref().map(|Finished { file, index_at, .. }| {
            let (base, bytes, index) = (file.base, file.capacity, *index_at);
            CompactedFile { base, bytes, index, from, to, at_first, at_last }
        });
        let is_there = shared.take_compacted(self.number, (from, to), named.zip(finished))?;
        self.stretch = Stretch { from: to, ..Stretch::default() };
        if is_there { Ok(()) } else { Err(ReadError::UnknownPartition(self.at.clone()).into()) }
    }

    /// Where the first and the last batch of the stretch became part of the partition, those that an
    /// earlier pass dropped too.
    fn ats(&self, shared: &Shared) -> (u64, u64) {
        let (mut first, mut last) = self.stretch.ats.unwrap_or((u64::MAX, 0));
        let state = shared.state.lock();
        let runs = state.streams.get(&self.number).map_or(&[][..], |stream| &stream.runs[..]);
        for run in runs.iter().filter(|run| self.stretch.from < run.end && run.end <= self.next) {
            first = first.min(run.at_first);
            last = last.max(run.at_last);
        }
        (first.min(last), last)
    }

    fn discard(&mut self, shared: &Shared) {
        if let Some(writer) = self.stretch.writer.take() {
            shared.remove_unused(writer.path());
        }
    }

    /// Gives up.
    pub(super) fn abandon(mut self: Box<Self>, shared: &Shared, error: &Broken) {
        self.discard(shared);
        if !matches!(error, Broken::Read(ReadError::UnknownPartition(_))) {
            tracing::warn!(%error, partition = %self.at, "a partition can not be compacted now");
        }
    }
}

impl Shared {
    /// Begins a file, if there is room for it.
    fn begin_compacted(&self) -> Result<CompactedWriter, Broken> {
        let (needed, free) = self.room_for(self.options.file_bytes)?;
        if free < needed {
            return Err(Broken::Full { needed, free });
        }
        let base = self.meta.read().compacted_next(COMPACTED);
        Ok(CompactedWriter::create(&*self.env.disk, &self.dir, base)?)
    }

    fn remove_unused(&self, path: &std::path::Path) {
        if let Err(error) = self.env.disk.remove(path) {
            tracing::warn!(%error, path = %path.display(), "a file stays until the next start");
        }
    }

    /// The transactions that ended in a stretch, and what was decided at its end.
    fn ended_in(
        &self,
        at: &TopicPartition,
        from: i64,
        to: i64,
    ) -> Result<(Vec<Ended>, i64), ReadError> {
        let number = self.stream(at)?;
        let mut sections = SectionsRead::new();
        loop {
            let found = {
                let state = self.state.lock();
                let stream = state.streams.get(&number);
                let stream = stream.ok_or_else(|| ReadError::UnknownPartition(at.clone()))?;
                let ended = stream.ended(from, to, &sections);
                ended.and_then(|ended| Ok((ended, stream.decided_at(to, &sections)?)))
            };
            match found {
                Ok((mut ended, decided)) => {
                    ended.retain(|ended| ended.marker < to);
                    return Ok((ended, decided));
                }
                Err(run) => self.read_section(at, &run, &mut sections)?,
            }
        }
    }

    /// Lets a file, or nothing, stand for a stretch of a partition from now on. False if the
    /// partition is gone.
    fn take_compacted(
        &self,
        number: u32,
        (from, to): (i64, i64),
        left: Option<(CompactedFile, Finished)>,
    ) -> Result<bool, Broken> {
        let _changes = self.changes.lock();
        let unused = left.as_ref().map(|(_, finished)| finished.file.path.clone());
        let file = left.as_ref().map(|(file, _)| *file);
        let change = Change::Compact { stream: number, from, to, file };
        let is_there = self.state.lock().streams.contains_key(&number);
        let changed = if is_there { self.change(&change).map(drop) } else { Ok(()) };
        // Of a journal that failed only a start can tell whether it was.
        let is_unused = match &changed {
            Err(AppendError::Failed(_) | AppendError::Closed) => false,
            Err(_) => true,
            Ok(()) => !is_there,
        };
        if is_unused && let Some(path) = &unused {
            self.remove_unused(path);
        }
        changed?;
        if !is_there {
            return Ok(false);
        }
        self.meta.write().apply(change);
        {
            let state = &mut *self.state.lock();
            let run = left.map(|(file, Finished { file: journal, index, .. })| {
                state.files.insert(file.base, FileState::new(journal));
                compacted_run(&index, &file)
            });
            if let Some(stream) = state.streams.get_mut(&number) {
                stream.compact(from, to, run);
            }
        }
        self.look_for_dead_files();
        Ok(true)
    }
}
