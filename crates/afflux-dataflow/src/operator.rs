//! What an operator is to the graph: something that is stepped.
//!
//! The graph gives an operator a batch and steps it until the batch is worked off; what a step
//! gives goes all the way down the graph before the next one. So what is held at a time is a
//! batch of [`FUEL_ROWS`] an operator, however many rows one row becomes: a key that a hundred
//! million rows of a table have does not fill memory.
//!
//! Two things are as large as what an epoch changes, and not bounded here: the groups that an
//! aggregation touched, which it keeps anyway, and what reached the output, which is one frame.

use std::fmt;

use afflux_record::changelog::Changes;

use crate::{DataflowError, RejectedRow};

/// How many rows an operator takes in, and gives out, a step. Large enough that what is fixed a
/// step does not count, small enough that the columns at work stay in the cache.
pub const FUEL_ROWS: usize = 8192;

/// Something that makes changes of changes.
///
/// Contract, and who checks it:
/// 1. A step takes rows from the front of the input, and gives at most `fuel` rows. (The graph,
///    in debug builds.)
/// 2. `None` says that the input is worked off and that nothing is held back for a later step.
///    (The graph, in debug builds.)
/// 3. Each step takes rows or gives some, so there is an end. (The property tests hang.)
/// 4. All that comes out does not depend on the fuel. (The property tests: any fuel, against the
///    reference.)
pub(crate) trait Operator: fmt::Debug {
    /// Works on the input.
    fn step(
        &mut self,
        input: &mut Pending,
        fuel: usize,
        rejected: &mut Vec<RejectedRow>,
    ) -> Result<Option<Changes>, DataflowError>;
}

/// Changes that are worked off from the front.
#[derive(Debug)]
pub(crate) struct Pending {
    changes: Changes,
    taken: usize,
}

impl Pending {
    pub(crate) fn new(changes: Changes) -> Self {
        Self { changes, taken: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.taken == self.changes.len()
    }

    /// The next rows, at most so many; none if there are no more. Copies nothing.
    pub(crate) fn take(&mut self, rows_max: usize) -> Option<Changes> {
        let rows = rows_max.min(self.changes.len() - self.taken);
        if rows == 0 {
            return None;
        }
        let first = self.taken;
        self.taken += rows;
        if rows == self.changes.len() {
            return Some(self.changes.clone());
        }
        Some(Changes {
            batch: self.changes.batch.slice(first, rows),
            weights: self.changes.weights.as_ref().map(|weights| weights.slice(first, rows)),
        })
    }
}
