//! Join with a static table: an index over the table's key columns, probed by batch.
//!
//! 1. When the graph is built, each table row's key columns become bytes; rows of one key lie
//!    together in one array ([`Lookup::rows`]), a key's slot says from where to where.
//! 2. A batch's key columns become bytes in one go; each row's slot leads to its matches.
//! 3. Both sides are gathered by row numbers, as many as there is fuel for. A step stops in the
//!    middle of a row's matches if need be, and the next one goes on from there.
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
    error::ArrowError,
    row::{RowConverter, SortField},
};

use crate::{
    BuildError, DataflowError, RejectedRow,
    error::internal,
    key::canonical,
    operator::{Operator, Pending},
    stateless::take_weights,
};

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
    probed: Option<Probed>,
}

/// A batch whose matches are being given out.
#[derive(Debug)]
struct Probed {
    changes: Changes,
    /// Each row's.
    slots: Vec<Option<u32>>,
    /// The next row, and how many of its matches are out.
    row: usize,
    matched: usize,
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
            on.iter().map(|&(_, right)| canonical(table.column(right))).collect();
        let fields = keys.iter().map(|key| SortField::new(key.data_type().clone())).collect();
        let unsupported =
            |error: ArrowError| BuildError::Unsupported { operator, reason: error.to_string() };
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
            probed: None,
        })
    }

    fn probe(&self, changes: Changes) -> Result<Probed, ArrowError> {
        let keys: Vec<ArrayRef> =
            self.probe.iter().map(|&column| canonical(changes.batch.column(column))).collect();
        let slots = probe(&self.converter, &keys, changes.len(), |key| self.index.find(key))?;
        Ok(Probed { changes, slots, row: 0, matched: 0 })
    }

    /// The next pairs of rows, at most so many.
    fn pairs(&self, probed: &mut Probed, rows_max: usize) -> (UInt32Array, UInt32Array) {
        let capacity = rows_max.min(probed.slots.len());
        let (mut left, mut right) =
            (Vec::with_capacity(capacity), UInt32Builder::with_capacity(capacity));
        while left.len() < rows_max
            && let Some(slot) = probed.slots.get(probed.row)
        {
            let row = probed.row as u32;
            let all = slot.map_or(0..0, |slot| self.matches(slot));
            if all.is_empty() && self.outer {
                left.push(row);
                right.append_null();
            }
            let from = all.start + probed.matched;
            let to = all.end.min(from + rows_max - left.len());
            left.extend(std::iter::repeat_n(row, to - from));
            right.append_slice(&self.rows[from..to]);
            if to == all.end {
                (probed.row, probed.matched) = (probed.row + 1, 0);
            } else {
                probed.matched += to - from;
            }
        }
        (UInt32Array::from(left), right.finish())
    }

    fn gather(
        &self,
        changes: &Changes,
        left: &UInt32Array,
        right: &UInt32Array,
    ) -> Result<Changes, ArrowError> {
        let gather = |columns: &[ArrayRef], rows: &UInt32Array| {
            columns.iter().map(|column| take(column, rows, None)).collect::<Result<Vec<_>, _>>()
        };
        let mut columns = gather(changes.batch.columns(), left)?;
        columns.extend(gather(self.table.columns(), right)?);
        let options = RecordBatchOptions::new().with_row_count(Some(left.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        Ok(Changes { batch, weights: take_weights(changes.weights.as_ref(), left) })
    }

    fn matches(&self, slot: u32) -> Range<usize> {
        let slot = slot as usize;
        self.starts[slot] as usize..self.starts[slot + 1] as usize
    }
}

impl Operator for Lookup {
    fn step(
        &mut self,
        input: &mut Pending,
        fuel: usize,
        _: &mut Vec<RejectedRow>,
    ) -> Result<Option<Changes>, DataflowError> {
        let fault = internal(self.operator);
        let mut probed = match self.probed.take() {
            Some(probed) => probed,
            None => match input.take(fuel) {
                Some(changes) => self.probe(changes).map_err(&fault)?,
                None => return Ok(None),
            },
        };
        let (left, right) = self.pairs(&mut probed, fuel);
        let found = self.gather(&probed.changes, &left, &right).map_err(fault)?;
        self.probed = (probed.row < probed.slots.len()).then_some(probed);
        Ok(Some(found))
    }
}

/// The slot of each row's key; none for keys with a null in them.
fn probe(
    converter: &RowConverter,
    keys: &[ArrayRef],
    length: usize,
    mut slot_of: impl FnMut(&[u8]) -> Option<u32>,
) -> Result<Vec<Option<u32>>, ArrowError> {
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

#[cfg(test)]
mod tests {
    use arrow::{
        array::{AsArray, Int64Array},
        datatypes::{DataType, Field, Int64Type, Schema},
    };

    use super::*;

    fn batch(names: [&str; 1], values: Vec<i64>) -> RecordBatch {
        let fields = names.map(|name| Field::new(name, DataType::Int64, true));
        let schema = Arc::new(Schema::new(fields.to_vec()));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(values))]).unwrap()
    }

    #[test]
    fn a_row_with_many_matches_comes_in_parts() {
        // Key 0 is there 1,000 times, key 1 once, key 2 not at all.
        let mut keys = vec![0; 1_000];
        keys.push(1);
        let table = batch(["key"], keys);
        let input = vec![0, 1, 2, 0, 1];
        let columns = [Column::new("k", DataType::Int64, true)];
        let schema =
            [Column::new("k", DataType::Int64, true), Column::new("key", DataType::Int64, true)];
        let schema = Arc::new(Column::schema(&schema));
        for fuel in [1, 3, 999, 1_000, 1_001, 5_000] {
            let kind = JoinKind::Left;
            let on = [(0, 0)];
            let mut lookup =
                Lookup::new(OperatorId(0), &table, &on, kind, &columns, schema.clone()).unwrap();
            let weights = Some(Int64Array::from(vec![1, 1, 1, -2, 1]));
            let changes = Changes { batch: batch(["k"], input.clone()), weights };
            let mut pending = Pending::new(changes);
            let mut found = Vec::new();
            let mut steps = 0;
            while let Some(part) = lookup.step(&mut pending, fuel, &mut Vec::new()).unwrap() {
                assert!(part.len() <= fuel, "{} rows of {fuel}", part.len());
                let keys = part.batch.column(0).as_primitive::<Int64Type>();
                found.extend((0..part.len()).map(|row| (keys.value(row), part.weight(row))));
                steps += 1;
            }
            let times = |row: (i64, i64), count| std::iter::repeat_n(row, count);
            let expected = times((0, 1), 1_000).chain([(1, 1), (2, 1)]);
            let expected = expected.chain(times((0, -2), 1_000)).chain([(1, 1)]);
            assert_eq!(found, expected.collect::<Vec<_>>(), "{fuel}");
            assert!(steps >= 2_003 / fuel, "{steps} steps of {fuel}");
        }
    }
}
