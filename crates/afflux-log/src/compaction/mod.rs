//! Compaction: of all records of a partition with one key the newest stays.
//!
//! ```text
//!             start                    compacted            upper       stable     end
//!   offsets    |  3 . . 9 . 14 . . . 31 | 32 33 34 35 36 37  | 38 39 40   | 41 42   |
//!              +------------------------+--------------------+------------+---------+
//!   lie in     |  files of compaction   |  journal files     | journal, not yet     |
//!              +------------------------+--------------------+----------------------+
//!   a pass     |   1. keys of what is new: ---------------> |
//!              | 2. what is left of all, written anew, a stretch at a time: ------> |
//! ```
//! The journal is one for all partitions, and nothing in it is ever moved. So what is left of a
//! compacted partition leaves it: for files of its own (`journal::compacted_file`), which the
//! partition's index tells of before all that lies in the journal. What the journal still has of
//! the stretch is dead then, and its files are given back as they are when retention drops
//! something (`keeper`).
//!
//! A pass over one partition:
//! 1. `due` says whether it pays, and up to where. Nothing is compacted that is not durable and
//!    below the last stable offset, so every transaction is decided.
//! 2. What came since the last pass is read. Of each key the newest offset is kept (`newest`), as
//!    many as there is memory for; if there are more, the pass ends there, and another follows.
//! 3. The partition is read from its start, but for batches of which is known that nothing stays
//!    (`parts`). What is left of it (`filter`) is written to a file.
//!    (A crash: the file is one that nobody names, and is removed at the next start.)
//! 4. Once the file is full, or the pass at its end, it is synced, and a change of the log's
//!    metadata says that it stands for its stretch of offsets. (A crash: before the change is
//!    durable, as after 3. After it, the next start puts the file in the place of what it finds.)
//! 5. The index is switched, at once for all readers. Files that the stretch lay in are given back
//!    when nobody shows anything in them. (A crash: the next start does so.)
//! 6. The next stretch. A crash between two leaves a partition that is compacted in part: what is
//!    left of keys in front is not wrong, and the next pass begins at the start again. A tombstone
//!    can not go before what it deletes, which lies in front of it.
//!
//! All of it is done by the keeper, [`STEP_BYTES`] a step between its other chores, and holds no
//! lock while it reads or writes. What is written goes past the journal, so appends wait for it no
//! longer than for the disk. A pass takes memory for its keys, for 4 MiB that one step's batches are
//! read into, for what it need not read again (1 MiB at most) and the entries of one file; and disk
//! for one file more than before.

mod due;
mod filter;
mod newest;
mod parts;
mod pass;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use afflux_types::TopicPartition;
use hashbrown::HashSet;

use crate::{embedded::Shared, error::AppendError, error::ReadError, meta::Topic};
use pass::Pass;

/// How much of a partition one step reads.
const STEP_BYTES: usize = 3 << 19;

/// What compaction remembers.
#[derive(Default)]
pub(crate) struct Compaction {
    /// When the next round begins, on the monotonic clock.
    due: Duration,
    /// Partitions that this round has not looked at.
    waiting: VecDeque<(Arc<Topic>, i32)>,
    /// Partitions of which a pass gives back at least what it writes.
    holding: HashSet<u32>,
    pass: Option<Box<Pass>>,
}

impl Compaction {
    /// Its first round begins then, on the monotonic clock.
    pub(crate) fn begin_at(due: Duration) -> Self {
        Self { due, ..Self::default() }
    }
}

/// Why a pass ended before its end. Nothing is lost by it: the next round begins another.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("a batch at offset {0} does not unpack: {1}")]
    Batch(i64, afflux_record::BatchError),
    #[error("writing what is left: {0}")]
    Io(#[from] std::io::Error),
    #[error("the disk has no room: {needed} bytes are needed and {free} are free for the log")]
    Full { needed: u64, free: u64 },
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl Shared {
    /// Lets a round begin at once.
    pub(crate) fn compact_soon(&self) {
        self.compaction.lock().due = Duration::ZERO;
    }

    /// Whether there is something to be compacted, or to be looked at.
    pub(crate) fn compaction_is_due(&self) -> bool {
        let compaction = self.compaction.lock();
        compaction.pass.is_some()
            || !compaction.waiting.is_empty()
            || self.env.clock.monotonic() >= compaction.due
    }

    /// Goes on with a pass, or looks for the next one. Whether there was anything to do.
    pub(crate) fn compact_step(&self) -> bool {
        let (closed, failed) = {
            let state = self.state.lock();
            (state.closed, state.is_failed())
        };
        // The lock is not held while a pass goes on: who changes a topic takes it too.
        if closed || failed {
            *self.compaction.lock() = Compaction::begin_at(Duration::MAX);
            return false;
        }
        let pass = self.compaction.lock().pass.take();
        if let Some(mut pass) = pass {
            match pass.step(self) {
                Ok(true) => self.compaction.lock().pass = Some(pass),
                Ok(false) => {}
                Err(error) => pass.abandon(self, &error),
            }
            return true;
        }
        if !self.begin_round() {
            return false;
        }
        let (next, holds) = {
            let mut compaction = self.compaction.lock();
            let next = compaction.waiting.pop_front();
            let number = next.as_ref().and_then(|(topic, partition)| topic.stream(*partition));
            (next, number.is_some_and(|number| compaction.holding.contains(&number)))
        };
        if let Some((topic, partition)) = next {
            let at = TopicPartition::new(topic.name.clone(), partition);
            match self.compactable(&topic, &at, holds) {
                Ok(upper) => {
                    let pass = upper.and_then(|upper| Pass::new(self, at, upper));
                    self.compaction.lock().pass = pass;
                }
                // It was removed meanwhile, or a file given back.
                Err(ReadError::UnknownPartition(_)) => {}
                Err(error) => tracing::warn!(%error, "compaction can not look at a partition"),
            }
        }
        true
    }

    /// Begins a round if it is time and the last one is over. Whether there is something to be
    /// looked at.
    fn begin_round(&self) -> bool {
        let now = self.env.clock.monotonic();
        {
            let mut compaction = self.compaction.lock();
            if !compaction.waiting.is_empty() {
                return true;
            }
            if now < compaction.due {
                return false;
            }
            compaction.due = now + self.options.retention_check;
        }
        let topics = self.meta.read().topics().to_vec();
        let compacted = topics.into_iter().filter(|t| t.settings.rules().compaction.is_some());
        let waiting: VecDeque<_> =
            compacted.flat_map(|t| (0..t.partitions).map(move |p| (t.clone(), p))).collect();
        let holding = self.holding(&waiting);
        let is_any = !waiting.is_empty();
        let mut compaction = self.compaction.lock();
        (compaction.waiting, compaction.holding) = (waiting, holding);
        is_any
    }
}
