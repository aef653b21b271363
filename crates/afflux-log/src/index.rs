//! Where the batches of a partition lie: by offset, by time, by journal position.
//!
//! 1. Batches in the journal file that is being written, and in files whose index file is not yet
//!    there, have an [`IndexEntry`] each in memory, in offset order, which is journal order too.
//! 2. Of a sealed file a partition keeps one [`Run`]: what its batches span. Their entries are
//!    read from the file's index file when somebody asks (see `journal::index_file`).
//! 3. `at` says where a batch became part of the partition. For a batch in a group frame that is
//!    its own place; for one of a staged group that is the commit frame's, and its bytes lie in
//!    pieces before it. So a cut of the journal at a group boundary cuts each partition between
//!    the entries with a smaller and a larger `at`.
//! 4. What was compacted lies in files of its own, each a [`Run`] before all others. Its entries
//!    keep their `at`, so that cuts stay where they were; where the bytes are, `pieces` says. There
//!    are gaps between them, and a file that was sealed before may still name what was dropped: a
//!    run tells nothing of what lies before its `base`.

use std::{collections::VecDeque, sync::Arc};

use afflux_record::frame::{BatchMeta, Piece};
use hashbrown::HashMap;

use crate::{
    journal::{COMPACTED, IndexFile, Section},
    producers::Producers,
    transactions::Ended,
};

/// [`IndexEntry::pieces`] of a batch that lies in one piece at `at`.
pub(crate) const WHOLE: u32 = u32::MAX;

/// One batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// Its first offset.
    pub(crate) base: i64,
    /// Where it became part of the partition.
    pub(crate) at: u64,
    /// Its latest timestamp.
    pub(crate) max_timestamp: i64,
    /// Its length.
    pub(crate) bytes: u32,
    /// How many offsets it takes.
    pub(crate) offsets: u32,
    /// Its leader epoch.
    pub(crate) epoch: i32,
    /// Which of its file's piece lists is its, or [`WHOLE`]. In a compacted file: its place there.
    pub(crate) pieces: u32,
}

impl IndexEntry {
    pub(crate) fn new(meta: &BatchMeta, at: u64, epoch: i32, pieces: u32) -> Self {
        Self {
            base: meta.base_offset.0,
            at,
            max_timestamp: meta.max_timestamp.0,
            bytes: meta.bytes,
            offsets: meta.last_offset_delta as u32 + 1,
            epoch,
            pieces,
        }
    }

    /// The offset behind it.
    pub(crate) fn next(&self) -> i64 {
        self.base + i64::from(self.offsets)
    }
}

/// Neighbouring batches of a partition, as retention and compaction weigh them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// The offset behind it.
    pub(crate) end: i64,
    /// 0 if size does not matter.
    pub(crate) bytes: u64,
    /// Its latest timestamp; negative if there is none.
    pub(crate) max_timestamp: i64,
}

impl From<&IndexEntry> for Stretch {
    fn from(entry: &IndexEntry) -> Self {
        let bytes = u64::from(entry.bytes);
        Self { end: entry.next(), bytes, max_timestamp: entry.max_timestamp }
    }
}

/// The pieces of a staged batch.
pub(crate) type Pieces = Arc<[Piece]>;

/// The batches of one partition in one sealed file.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// Where their entries are.
    pub(crate) index: Arc<IndexFile>,
    /// Which of its sections.
    pub(crate) section: u32,
    /// The first offset.
    pub(crate) base: i64,
    /// Behind the last offset.
    pub(crate) end: i64,
    /// The first entry's `at`.
    pub(crate) at_first: u64,
    /// The last entry's `at`.
    pub(crate) at_last: u64,
    /// The latest timestamp.
    pub(crate) max_timestamp: i64,
    /// Where it ends for those who see no open transaction.
    pub(crate) stable: i64,
    /// How many transactions end in it.
    pub(crate) ended: u32,
}

impl Run {
    /// Whether it is one of a compacted file.
    pub(crate) fn is_compacted(&self) -> bool {
        self.index.base >= COMPACTED
    }

    /// Its entries, of its section.
    pub(crate) fn entries<'a>(&self, section: &'a Section) -> &'a [IndexEntry] {
        let first = section.entries.partition_point(|entry| entry.next() <= self.base);
        &section.entries[first..]
    }

    /// The transactions that ended in it, of its section.
    pub(crate) fn ended<'a>(&self, section: &'a Section) -> &'a [Ended] {
        let first = section.ended.partition_point(|ended| ended.marker < self.base);
        &section.ended[first..]
    }
}

/// A partition.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// The first offset that is still there.
    pub(crate) start: i64,
    /// The next offset to be assigned.
    pub(crate) end: i64,
    /// Behind the last durable offset.
    pub(crate) durable: i64,
    /// Everything before it was compacted: it lies in the first runs, or is gone.
    pub(crate) compacted: i64,
    /// Sealed files, oldest first.
    pub(crate) runs: Vec<Run>,
    /// What lies behind them.
    pub(crate) live: VecDeque<IndexEntry>,
    /// Transactions that ended there, in the order of their markers.
    pub(crate) ended: VecDeque<Ended>,
    /// Who wrote it.
    pub(crate) producers: Producers,
}

/// Sections of one partition that were read to answer one question, by their file's position.
pub(crate) type SectionsRead = HashMap<u64, Arc<Section>>;

/// Where to look for something.
#[derive(Debug)]
pub(crate) enum Place {
    /// In the entries of a sealed file: from this run on.
    Run(usize),
    /// In `live`, from this index on.
    Live(usize),
}

impl Stream {
    /// Tells, before a batch is added that was found in a file, which offset it begins at. What is
    /// missing before it was dropped with its file, so the partition begins here.
    pub(crate) fn skip_to(&mut self, base: i64) {
        if base != self.end {
            self.start = base;
        }
    }

    /// Adds a batch behind all others.
    pub(crate) fn push(&mut self, entry: IndexEntry) {
        self.end = entry.next();
        self.live.push_back(entry);
    }

    /// Puts what was compacted in the place of all before `to` and at or behind `from`; there is no
    /// run if nothing is left of it.
    pub(crate) fn compact(&mut self, from: i64, to: i64, run: Option<Run>) {
        let first = self.runs.partition_point(|run| run.end <= from);
        let behind = self.runs.partition_point(|run| run.end <= to);
        let at_last = run.as_ref().map_or(0, |run| run.at_last);
        self.runs.splice(first..behind, run);
        // One that it took a part of.
        if let Some(next) = self.runs.iter_mut().find(|run| run.end > to).filter(|r| r.base < to) {
            next.base = to;
            next.at_first = next.at_first.max(at_last + 1);
        }
        let live = self.live.partition_point(|entry| entry.base < to);
        self.live.drain(..live);
        let ended = self.ended.partition_point(|ended| ended.marker < to);
        self.ended.drain(..ended);
        self.compacted = self.compacted.max(to);
        self.end = self.end.max(to);
    }

    /// Where what is shown of it begins that lies in the journal itself.
    pub(crate) fn shown_from(&self) -> i64 {
        self.start.max(self.compacted)
    }

    /// Where the batch is that holds an offset, or the first one behind it.
    pub(crate) fn place(&self, offset: i64) -> Place {
        let run = self.runs.partition_point(|run| run.end <= offset);
        if run < self.runs.len() {
            return Place::Run(run);
        }
        Place::Live(self.live.partition_point(|entry| entry.next() <= offset))
    }

    /// Where the partition ended at a cut of the journal; a run, if its entries are needed.
    pub(crate) fn end_at(&self, cut: u64, sections: &SectionsRead) -> Result<i64, Run> {
        let live = self.live.partition_point(|entry| entry.at < cut);
        if let Some(last) = live.checked_sub(1) {
            return Ok(self.live[last].next());
        }
        let runs = self.runs.partition_point(|run| run.at_first < cut);
        match runs.checked_sub(1).map(|last| &self.runs[last]) {
            Some(run) if run.at_last < cut => Ok(run.end),
            Some(run) => {
                let section = sections.get(&run.index.base).ok_or_else(|| run.clone())?;
                let before = section.entries.partition_point(|entry| entry.at < cut);
                if run.is_compacted() {
                    // Not less than it was before: somebody may have read up to there.
                    return Ok(section.entries.get(before).map_or(run.end, |entry| entry.base));
                }
                let last = before.checked_sub(1).map(|last| section.entries[last].next());
                Ok(last.unwrap_or(run.base).max(run.base))
            }
            None => Ok(self.base_first()),
        }
    }

    /// The first offset that any batch here has; the end if there is none.
    fn base_first(&self) -> i64 {
        let run = self.runs.first().map(|run| run.base);
        run.or(self.live.front().map(|entry| entry.base)).unwrap_or(self.end)
    }

    /// Puts a run in the place of the live entries before a journal position.
    pub(crate) fn seal(&mut self, run: Run, before: u64) {
        let sealed = self.live.partition_point(|entry| entry.at < before);
        self.live.drain(..sealed);
        self.live.shrink_to(self.live.len() * 2);
        let ended = self.ended.partition_point(|ended| ended.marker < run.end);
        self.ended.drain(..ended);
        self.ended.shrink_to(self.ended.len() * 2);
        self.runs.push(run);
    }
}
