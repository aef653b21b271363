//! Join with a static table: an index over the table's key columns, probed by batch.
//!
//! 1. When the graph is built, each table row's key columns become bytes; rows of one key lie
//!    together in one array ([`Lookup::rows`]), a key's slot says from where to where.
//! 2. A batch's key columns become bytes in one go; each row's slot leads to its matches.
//! 3. Both sides are gathered once, by row numbers.
//!
//! Null equals nothing, so rows with a null in the key are in no slot and find none.

use std::{ops::Range, sync::Arc};

use afflux_plan::{Column, JoinKind};
use afflux_record::changelog::Changes;
use afflux_state::KeyIndex;
use afflux_types::OperatorId;
use arrow::{
    array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array, UInt32Builder},
    compute::take,
    datatypes::SchemaRef,
    row::{RowConverter, SortField},
};

use crate::{BuildError, DataflowError, error::internal, stateless::take_weights};

/// A static table, ready to be probed.
#[derive(Debug)]
pub(crate) struct Lookup {
    operator: OperatorId,
    /// Input columns to probe with.
    probe: Vec<usize>,
    converter: RowConverter,
    index: KeyIndex,
    /// Table rows by slot: slot `s` has `rows[starts[s]..starts[s + 1]]`.
    starts: Vec<u32>,
    rows: Vec<u32>,
    table: RecordBatch,
    outer: bool,
    schema: SchemaRef,
}

impl Lookup {
    pub(crate) fn new(
        operator: OperatorId,
        table: &RecordBatch,
        on: &[(usize, usize)],
        kind: JoinKind,
        input: &[Column],
        schema: SchemaRef,
    ) -> Result<Self, BuildError> {
        let broken = |reason: String| BuildError::Broken { operator, reason };
        if schema.fields().len() != input.len() + table.num_columns() {
            return Err(broken("a join has the columns of both sides".to_owned()));
        }
        for &(left, right) in on {
            let left = input.get(left).map(|column| &column.column_type.0);
            let right = table.columns().get(right).map(Array::data_type);
            if left.is_none() || left != right {
                return Err(broken(format!("it compares {left:?} with {right:?}")));
            }
        }
        let keys: Vec<ArrayRef> =
            on.iter().map(|&(_, right)| table.column(right).clone()).collect();
        let fields = keys.iter().map(|key| SortField::new(key.data_type().clone())).collect();
        let unsupported = |error: arrow::error::ArrowError| BuildError::Unsupported {
            operator,
            reason: error.to_string(),
        };
        let converter = RowConverter::new(fields).map_err(unsupported)?;
        let mut index = KeyIndex::default();
        let slots =
            probe(&converter, &keys, table.num_rows(), |key| Some(index.find_or_insert(key).0))
                .map_err(unsupported)?;
        let (starts, rows) = by_slot(&slots, index.slots());
        Ok(Self {
            operator,
            probe: on.iter().map(|&(left, _)| left).collect(),
            converter,
            index,
            starts,
            rows,
            table: table.clone(),
            outer: kind == JoinKind::Left,
            schema,
        })
    }

    pub(crate) fn apply(&self, changes: &Changes) -> Result<Changes, DataflowError> {
        let fault = internal(self.operator);
        let keys: Vec<ArrayRef> =
            self.probe.iter().map(|&column| changes.batch.column(column).clone()).collect();
        let slots = probe(&self.converter, &keys, changes.len(), |key| self.index.find(key))
            .map_err(&fault)?;
        let mut left = Vec::with_capacity(changes.len());
        let mut right = UInt32Builder::with_capacity(changes.len());
        for (row, slot) in slots.into_iter().enumerate() {
            let matches = slot.map_or(0..0, |slot| self.matches(slot));
            if matches.is_empty() && self.outer {
                left.push(row as u32);
                right.append_null();
            }
            left.extend(std::iter::repeat_n(row as u32, matches.len()));
            right.append_slice(&self.rows[matches]);
        }
        let (left, right) = (UInt32Array::from(left), right.finish());
        let gather = |columns: &[ArrayRef], rows: &UInt32Array| {
            columns.iter().map(|column| take(column, rows, None)).collect::<Result<Vec<_>, _>>()
        };
        let mut columns = gather(changes.batch.columns(), &left).map_err(&fault)?;
        columns.extend(gather(self.table.columns(), &right).map_err(&fault)?);
        let options = RecordBatchOptions::new().with_row_count(Some(left.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(fault)?;
        Ok(Changes { batch, weights: take_weights(changes.weights.as_ref(), &left) })
    }

    fn matches(&self, slot: u32) -> Range<usize> {
        let slot = slot as usize;
        self.starts[slot] as usize..self.starts[slot + 1] as usize
    }
}

/// The slot of each row's key; none for keys with a null in them.
fn probe(
    converter: &RowConverter,
    keys: &[ArrayRef],
    length: usize,
    mut slot_of: impl FnMut(&[u8]) -> Option<u32>,
) -> Result<Vec<Option<u32>>, arrow::error::ArrowError> {
    if keys.is_empty() {
        // Without a condition every row has the one key that there is.
        let slot = slot_of(&[]);
        return Ok(vec![slot; length]);
    }
    let rows = converter.convert_columns(keys)?;
    let nulls: Vec<_> = keys.iter().filter_map(Array::logical_nulls).collect();
    let slot = |row: usize| {
        let null = nulls.iter().any(|nulls| nulls.is_null(row));
        if null { None } else { slot_of(rows.row(row).data()) }
    };
    Ok((0..length).map(slot).collect())
}

/// Row numbers sorted by slot, and where each slot begins (and the last one ends).
fn by_slot(slots: &[Option<u32>], count: usize) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0u32; count + 1];
    for slot in slots.iter().flatten() {
        starts[*slot as usize + 1] += 1;
    }
    for slot in 0..count {
        starts[slot + 1] += starts[slot];
    }
    let mut next = starts.clone();
    let mut rows = vec![0; starts[count] as usize];
    for (row, slot) in slots.iter().enumerate() {
        if let Some(slot) = slot {
            let place = &mut next[*slot as usize];
            rows[*place as usize] = row as u32;
            *place += 1;
        }
    }
    (starts, rows)
}
