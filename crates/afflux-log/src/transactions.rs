//! Transactions of a partition: what of it is decided, what is not, and what never happened.
//!
//! ```text
//!  offsets   0  1  2  3  4  5  6  7  8  9
//!            a  a  B  a  B  A  c  B  B  ...      A aborts a; B and c are open
//!            └─ aborted ┘   │  │
//!                  └ first open: the partition is stable up to here (2)
//! ```
//! 1. Which transactions are open is part of what is known of `producers`. The first offset of
//!    the first of them is where the partition is *decided* up to. Where it is *stable* is the
//!    same, but for what is durable: a marker that is not durable yet has not ended anything.
//! 2. A transaction that ended is an [`Ended`], in the order of the markers: in memory for what
//!    is in memory of the index, else in the sections of index files.
//! 3. Who reads some offsets asks for those that were aborted there: the first one that ended
//!    behind the first offset is looked up, and then all are walked through until everything that
//!    was read is decided. Runs say how far they are decided, so that the walk ends soon, and
//!    whether anything ended in them, so that most are not read.
//! 4. Where a partition ended at a tick is the same question: the transactions that were open at
//!    the tick are open still, or ended behind it. So the answer never changes.

use afflux_record::{Header, frame::BatchMeta};
use afflux_types::{Offset, ProducerEpoch, ProducerId, Timestamp, TopicPartition};
use bytes::Bytes;

use crate::{
    contract::{AbortedTransaction, Bounds},
    embedded::EmbeddedLog,
    error::ReadError,
    index::{IndexEntry, Run, SectionsRead, Stream},
    producers::ProducerState,
};

/// A transaction that ended, in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Whose it was.
    pub(crate) producer: i64,
    /// Its first offset.
    pub(crate) first: i64,
    /// The marker's offset.
    pub(crate) marker: i64,
    /// What the partition was decided up to, behind the marker.
    pub(crate) stable: i64,
    /// Whether none of its records count.
    pub(crate) aborted: bool,
}

impl Stream {
    /// Adds a batch behind all others.
    pub(crate) fn add(&mut self, meta: &BatchMeta, entry: IndexEntry, time: Timestamp, end: u64) {
        self.push(entry);
        self.ended.extend(self.producers.record(meta, time, end));
    }

    /// The ends of the partition.
    pub(crate) fn bounds(&self) -> Bounds {
        let decided = self.producers.first_open().unwrap_or(self.end);
        let undurable = self.ended.iter().rev().take_while(|ended| ended.marker >= self.durable);
        let stable = undurable.map(|ended| ended.first).min().unwrap_or(i64::MAX);
        Bounds {
            start: Offset(self.start),
            stable: Offset(stable.min(decided).min(self.durable).max(self.start)),
            durable: Offset(self.durable),
            decided: Offset(decided.max(self.start)),
            end: Offset(self.end),
        }
    }

    /// The transactions with offsets before `upper` that ended at or behind `from`; a run, if its
    /// section is needed to tell.
    pub(crate) fn ended(
        &self,
        from: i64,
        upper: i64,
        sections: &SectionsRead,
    ) -> Result<Vec<Ended>, Run> {
        let mut found = Vec::new();
        let mut walk = |ended: &Ended| {
            if ended.marker >= from && ended.first < upper {
                found.push(*ended);
            }
            ended.stable < upper
        };
        let first = self.runs.partition_point(|run| run.end <= from);
        for run in &self.runs[first..] {
            if run.ended > 0 {
                let section = sections.get(&run.index.base).ok_or_else(|| run.clone())?;
                run.ended(section).iter().for_each(|ended| {
                    walk(ended);
                });
            }
            if run.stable >= upper {
                return Ok(found);
            }
        }
        let first = self.ended.partition_point(|ended| ended.marker < from);
        let _ = self.ended.range(first..).all(walk);
        Ok(found)
    }

    /// What the partition was decided up to when it ended at `end`; a run, if its section is
    /// needed to tell.
    pub(crate) fn decided_at(&self, end: i64, sections: &SectionsRead) -> Result<i64, Run> {
        Ok(self.decided_by(end, &self.ended(end, end, sections)?))
    }

    /// The same for an end that lies behind all runs.
    pub(crate) fn decided_behind_runs(&self, end: i64) -> i64 {
        let later = self.ended.partition_point(|ended| ended.marker < end);
        self.decided_by(end, self.ended.range(later..))
    }

    fn decided_by<'a>(&self, end: i64, ended_later: impl IntoIterator<Item = &'a Ended>) -> i64 {
        let open = self.producers.first_open().unwrap_or(end).min(end);
        ended_later.into_iter().map(|ended| ended.first).min().unwrap_or(open).min(open)
    }
}

/// Whether a batch is one that the engine sees, if these transactions were aborted.
pub(crate) fn is_visible(batch: &Bytes, aborted: &[AbortedTransaction]) -> bool {
    // What can not be read is shown, and reported by who tries.
    let Ok(header) = Header::parse(batch) else { return true };
    let was_aborted = |transaction: &AbortedTransaction| {
        transaction.producer == header.producer_id
            && transaction.first <= header.base_offset
            && header.base_offset < transaction.marker
    };
    let is_hidden =
        header.is_control() || header.is_transactional() && aborted.iter().any(was_aborted);
    !is_hidden
}

/// A transaction that is open in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Where.
    pub partition: TopicPartition,
    /// Whose it is.
    pub producer: ProducerId,
    /// The newest epoch of that producer there.
    pub epoch: ProducerEpoch,
    /// Its first offset.
    pub first: Offset,
}

impl EmbeddedLog {
    /// The producers that a partition knows.
    pub fn producers(&self, partition: &TopicPartition) -> Result<Vec<ProducerState>, ReadError> {
        let number = self.stream(partition)?;
        let state = self.shared.state.lock();
        let stream = state.streams.get(&number);
        let stream = stream.ok_or_else(|| ReadError::UnknownPartition(partition.clone()))?;
        let mut states: Vec<_> = stream.producers.states().collect();
        states.sort_by_key(|state| state.id.0);
        Ok(states)
    }

    /// All transactions that are open, in all partitions.
    pub fn open_transactions(&self) -> Vec<OpenTransaction> {
        let mut found = Vec::new();
        for topic in self.topics() {
            for (index, number) in topic.streams().enumerate() {
                let state = self.shared.state.lock();
                let Some(stream) = state.streams.get(&number) else { continue };
                if stream.producers.first_open().is_none() {
                    continue;
                }
                let partition = TopicPartition::new(topic.name.clone(), index as i32);
                found.extend(stream.producers.states().filter_map(|state| {
                    Some(OpenTransaction {
                        partition: partition.clone(),
                        producer: state.id,
                        epoch: state.epoch,
                        first: state.open_from?,
                    })
                }));
            }
        }
        found
    }
}
