//! What an aggregate function keeps a group, in columns indexed by slot.

use afflux_plan::{AggregateCall, AggregateFunction};
use afflux_state::{Reader, StateError};
use afflux_types::OperatorId;
use arrow::{
    array::{ArrayRef, Int64Array},
    buffer::BooleanBuffer,
    datatypes::DataType,
};

use super::{extreme, sum};
use crate::{BuildError, DataflowError};

/// One batch as one aggregate sees it.
pub(super) struct Rows<'a> {
    /// The group of each row.
    pub(super) slots: &'a [u32],
    /// The weight of each row; none where all are +1.
    pub(super) weights: Option<&'a [i64]>,
    /// Which rows count: those that the filter takes and whose argument is not null. None: all.
    pub(super) counted: Option<BooleanBuffer>,
    /// The argument.
    pub(super) argument: Option<&'a ArrayRef>,
}

impl Rows<'_> {
    /// Calls `f(row, slot, weight)` for every row that counts.
    #[inline]
    pub(super) fn for_each(&self, mut f: impl FnMut(usize, usize, i64)) {
        let slots = self.slots.iter().enumerate();
        match (&self.counted, self.weights) {
            (None, None) => slots.for_each(|(row, &slot)| f(row, slot as usize, 1)),
            (None, Some(weights)) => {
                slots.for_each(|(row, &slot)| f(row, slot as usize, weights[row]));
            }
            (Some(counted), weights) => counted.set_indices().for_each(|row| {
                f(row, self.slots[row] as usize, weights.map_or(1, |weights| weights[row]));
            }),
        }
    }
}

/// Takes `(slot, name, value)` of an entry.
pub(super) type WriteEntry<'a> = dyn FnMut(u32, &[u8], Option<i64>) + 'a;

/// One aggregate over all groups. A slot that is cleared, or new, is that of an empty group.
///
/// Contract, held by the restart test: what [`Self::write`] and [`Self::write_entries`] wrote,
/// read into a cleared slot, gives the same results ever after, bit by bit.
pub(super) trait Accumulator: std::fmt::Debug + Send {
    /// There are this many slots.
    fn grow(&mut self, slots: usize);

    /// Rows that, added in their order, would take a group out of the result's range. Only asked
    /// where nothing is ever taken back.
    fn overflowing(&mut self, _rows: &Rows<'_>) -> Vec<usize> {
        Vec::new()
    }

    /// Adds a batch.
    fn update(&mut self, rows: &Rows<'_>);

    /// The results of some slots.
    fn results(&self, slots: &[u32]) -> Result<ArrayRef, DataflowError>;

    /// Empties a slot.
    fn clear(&mut self, slot: u32);

    /// Appends what the group's own entry holds of a slot.
    fn write(&self, slot: u32, out: &mut Vec<u8>);

    /// Reads what [`Self::write`] wrote.
    fn read(&mut self, slot: u32, input: &mut Reader<'_>) -> Result<(), StateError>;

    /// Gives `entry(slot, name, value)` for entries beside the group's own that changed since the
    /// last call; no value: deleted.
    fn write_entries(&mut self, _entry: &mut WriteEntry<'_>) {}

    /// Gives `entry(name, value)` for all entries of a slot beside the group's own.
    fn entries(&self, _slot: u32, _entry: &mut dyn FnMut(&[u8], i64)) {}

    /// Reads an entry that [`Self::write_entries`] or [`Self::entries`] gave. False if this
    /// accumulator has none.
    fn read_entry(&mut self, _slot: u32, _name: &[u8], _value: Option<i64>) -> bool {
        false
    }
}

/// The accumulator of an aggregate whose argument has a type.
pub(super) fn build(
    operator: OperatorId,
    call: &AggregateCall,
    argument: Option<&DataType>,
    append_only: bool,
) -> Result<Box<dyn Accumulator>, BuildError> {
    let returns = &call.returns.0;
    let unsupported = || BuildError::Unsupported {
        operator,
        reason: match argument {
            Some(argument) => format!("{} of {argument} as {returns}", name(call.function)),
            None => format!("{} without an argument as {returns}", name(call.function)),
        },
    };
    match (call.function, argument) {
        (AggregateFunction::Count, _) if *returns == DataType::Int64 => {
            Ok(Box::new(Count::default()))
        }
        (AggregateFunction::Sum | AggregateFunction::Avg, Some(argument)) => {
            let mean = call.function == AggregateFunction::Avg;
            sum::build(operator, mean, argument, returns).ok_or_else(unsupported)
        }
        (AggregateFunction::Min | AggregateFunction::Max, Some(argument))
            if argument == returns =>
        {
            let max = call.function == AggregateFunction::Max;
            extreme::build(operator, max, argument, append_only).ok_or_else(unsupported)
        }
        _ => Err(unsupported()),
    }
}

/// An aggregate's name in SQL.
pub(super) fn name(function: AggregateFunction) -> &'static str {
    match function {
        AggregateFunction::Count => "count",
        AggregateFunction::Sum => "sum",
        AggregateFunction::Avg => "avg",
        AggregateFunction::Min => "min",
        AggregateFunction::Max => "max",
    }
}

/// `count(*)`, `count(x)`.
#[derive(Debug, Default)]
struct Count {
    counts: Vec<i64>,
}

impl Accumulator for Count {
    fn grow(&mut self, slots: usize) {
        self.counts.resize(slots, 0);
    }

    fn update(&mut self, rows: &Rows<'_>) {
        rows.for_each(|_, slot, weight| self.counts[slot] += weight);
    }

    fn results(&self, slots: &[u32]) -> Result<ArrayRef, DataflowError> {
        let counts: Int64Array = slots.iter().map(|&slot| self.counts[slot as usize]).collect();
        Ok(std::sync::Arc::new(counts))
    }

    fn clear(&mut self, slot: u32) {
        self.counts[slot as usize] = 0;
    }

    fn write(&self, slot: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.counts[slot as usize].to_le_bytes());
    }

    fn read(&mut self, slot: u32, input: &mut Reader<'_>) -> Result<(), StateError> {
        self.counts[slot as usize] = input.i64()?;
        Ok(())
    }
}
