//! Groups and aggregates.
//!
//! A batch:
//! 1. Rows whose window ended at or before the watermark of the last finish are late: counted and
//!    dropped.
//! 2. The group columns become key bytes (arrow-row), the keys slots, the batch at a time.
//! 3. Rows that would take a sum out of its range are rejected, if nothing is ever taken back.
//! 4. Of the groups that this epoch touches for the first time, the results are noted as they
//!    were.
//! 5. Each accumulator adds the batch to its columns.
//!
//! A finish:
//! 1. The results of all touched groups are computed and compared with those noted. What differs
//!    is emitted, once: the old row with -1, the new one with +1.
//! 2. Groups without rows, and groups whose window ends at or before the new watermark, are freed.
//!    The latter emit nothing: their results are final and stay in the view.
//! 3. Touched groups that are still there, and what was freed, go into the state delta.
//!
//! What goes into the state table, and back, is in [`state`].

mod accumulator;
mod extreme;
mod state;
mod sum;

use std::collections::BTreeSet;

use afflux_plan::{AggregateCall, Column};
use afflux_record::changelog::Changes;
use afflux_state::{DeltaBuilder, KeyIndex};
use afflux_types::{OperatorId, TableId, Timestamp};
use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions},
    compute::{concat, filter, kernels::cmp::distinct},
    datatypes::{DataType, SchemaRef, TimeUnit},
    error::ArrowError,
    row::{RowConverter, Rows as KeyRows, SortField},
};

use self::accumulator::{Accumulator, Rows};
use crate::{
    BuildError, DataflowError, RejectedRow,
    error::internal,
    key::canonical,
    operator::{Operator, Pending},
    stateless::{keep, millis, reject},
};

const LAYOUT: u16 = 1;

/// What an aggregation is made of, as the plan has it.
pub(crate) struct Spec<'a> {
    pub(crate) operator: OperatorId,
    pub(crate) group: &'a [usize],
    pub(crate) aggregates: &'a [AggregateCall],
    pub(crate) window_end: Option<usize>,
    pub(crate) table: TableId,
    pub(crate) layout: u16,
    pub(crate) input: &'a [Column],
    pub(crate) append_only: bool,
    pub(crate) schema: SchemaRef,
}

#[derive(Debug)]
struct Aggregate {
    accumulator: Box<dyn Accumulator>,
    name: &'static str,
    argument: Option<usize>,
    filter: Option<usize>,
}

/// What is known of a slot beside its accumulators.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// The sum of the weights of its rows.
    rows: i64,
    /// When its window ends, in milliseconds; no meaning without windows.
    window_end: i64,
    /// The epoch that touched it last.
    touched: u64,
    /// Whether its row is in the output.
    emitted: bool,
    /// Whether the state table has its entry.
    durable: bool,
}

/// The operator.
#[derive(Debug)]
pub(crate) struct Aggregation {
    operator: OperatorId,
    table: TableId,
    group: Vec<usize>,
    aggregates: Vec<Aggregate>,
    /// The input column, and its unit, and where it is among the group columns.
    window: Option<(usize, TimeUnit, usize)>,
    append_only: bool,
    schema: SchemaRef,
    converter: RowConverter,
    keys: KeyRows,
    index: KeyIndex,
    slots: Vec<Slot>,
    /// Open windows by their end.
    windows: BTreeSet<(i64, u32)>,
    watermark: Timestamp,
    epoch: u64,
    /// The slots that this epoch touched, and their results before it, batch by batch.
    touched: Vec<u32>,
    before: Vec<Vec<ArrayRef>>,
    late_rows: u64,
}

impl Aggregation {
    pub(crate) fn new(spec: &Spec<'_>) -> Result<Self, BuildError> {
        let operator = spec.operator;
        let broken = |reason: &str| BuildError::Broken { operator, reason: reason.to_owned() };
        if spec.layout != LAYOUT {
            let reason = format!("its state has layout {}; this build has {LAYOUT}", spec.layout);
            return Err(BuildError::Unsupported { operator, reason });
        }
        let type_of = |column: usize| {
            spec.input
                .get(column)
                .map(|column| &column.column_type.0)
                .ok_or_else(|| broken("it names a column that is not there"))
        };
        let fields = spec.group.iter().map(|&column| Ok(SortField::new(type_of(column)?.clone())));
        let converter = RowConverter::new(fields.collect::<Result<_, _>>()?)
            .map_err(|e| BuildError::Unsupported { operator, reason: e.to_string() })?;
        let mut aggregates = Vec::new();
        for call in spec.aggregates {
            let argument = call.argument.map(type_of).transpose()?;
            if let Some(filter) = call.filter
                && *type_of(filter)? != DataType::Boolean
            {
                return Err(broken("a filter is not a Boolean"));
            }
            aggregates.push(Aggregate {
                accumulator: accumulator::build(operator, call, argument, spec.append_only)?,
                name: accumulator::name(call.function),
                argument: call.argument,
                filter: call.filter,
            });
        }
        let types = spec.group.iter().map(|&column| type_of(column));
        let types = types.chain(spec.aggregates.iter().map(|call| Ok(&call.returns.0)));
        let types = types.collect::<Result<Vec<_>, _>>()?;
        if !types.into_iter().eq(spec.schema.fields().iter().map(|field| field.data_type())) {
            return Err(broken("its columns are not its groups and aggregates"));
        }
        let window = match spec.window_end {
            None => None,
            Some(column) => {
                let DataType::Timestamp(unit, _) = type_of(column)? else {
                    return Err(broken("a window's end is not a timestamp"));
                };
                let place = spec.group.iter().position(|&group| group == column);
                let place = place.ok_or_else(|| broken("a window's end is not grouped by"))?;
                Some((column, *unit, place))
            }
        };
        let keys = converter.empty_rows(0, 0);
        Ok(Self {
            operator,
            table: spec.table,
            group: spec.group.to_vec(),
            aggregates,
            window,
            append_only: spec.append_only,
            schema: spec.schema.clone(),
            converter,
            keys,
            index: KeyIndex::default(),
            slots: Vec::new(),
            windows: BTreeSet::new(),
            watermark: Timestamp::MIN,
            epoch: 1,
            touched: Vec::new(),
            before: Vec::new(),
            late_rows: 0,
        })
    }

    pub(crate) fn table(&self) -> TableId {
        self.table
    }

    /// Whether late rows are told by a watermark, which then has to outlive a restart.
    pub(crate) fn is_windowed(&self) -> bool {
        self.window.is_some()
    }

    pub(crate) fn watermark(&self) -> Timestamp {
        self.watermark
    }

    pub(crate) fn set_watermark(&mut self, watermark: Timestamp) {
        self.watermark = self.watermark.max(watermark);
    }

    /// Without group columns there is one group from the beginning, even without rows.
    pub(crate) fn start(&mut self) -> Result<(), DataflowError> {
        if self.group.is_empty() {
            self.open_only();
            self.touch(&[0])?;
        }
        Ok(())
    }

    /// The slot of the group that there is without group columns is the first one.
    fn open_only(&mut self) {
        if self.index.is_empty() {
            self.index.find_or_insert(&[]);
            self.grow();
        }
    }

    fn push(
        &mut self,
        changes: Changes,
        rejected: &mut Vec<RejectedRow>,
    ) -> Result<(), DataflowError> {
        let mut changes = self.drop_late(changes)?;
        if changes.is_empty() {
            return Ok(());
        }
        let mut slots = self.resolve(&changes)?;
        self.touch(&slots)?;
        if self.append_only {
            let bad = self.overflowing(&changes, &slots);
            if !bad.is_empty() {
                let mut row = 0..;
                slots.retain(|_| {
                    let row = row.next().expect("it never ends");
                    bad.binary_search_by_key(&row, |(row, _)| *row).is_err()
                });
                changes = reject(self.operator, changes, &bad, rejected)?;
            }
        }
        let weights = changes.weights.as_ref().map(|weights| weights.values().as_ref());
        for (row, &slot) in slots.iter().enumerate() {
            self.slots[slot as usize].rows += weights.map_or(1, |weights: &[i64]| weights[row]);
        }
        for aggregate in &mut self.aggregates {
            let rows = rows_of(&changes, &slots, aggregate.argument, aggregate.filter);
            aggregate.accumulator.update(&rows);
        }
        Ok(())
    }

    fn drop_late(&mut self, changes: Changes) -> Result<Changes, DataflowError> {
        let Some((column, unit, _)) = self.window else {
            return Ok(changes);
        };
        let ends = changes.batch.column(column);
        let watermark = self.watermark.0;
        let on_time: Vec<bool> = millis(ends, unit).iter().map(|end| *end > watermark).collect();
        let late = on_time.iter().filter(|on_time| !**on_time).count();
        if late == 0 {
            return Ok(changes);
        }
        self.late_rows += late as u64;
        keep(changes, &BooleanArray::from(on_time)).map_err(internal(self.operator))
    }

    /// The slot of each row's group.
    fn resolve(&mut self, changes: &Changes) -> Result<Vec<u32>, DataflowError> {
        if self.group.is_empty() {
            self.open_only();
            return Ok(vec![0; changes.len()]);
        }
        let fault = internal(self.operator);
        let columns: Vec<_> =
            self.group.iter().map(|&column| canonical(changes.batch.column(column))).collect();
        self.keys.clear();
        self.converter.append(&mut self.keys, &columns).map_err(fault)?;
        let (mut slots, mut fresh) = (Vec::with_capacity(changes.len()), Vec::new());
        self.index.resolve(self.keys.iter().map(|key| key.data()), &mut slots, &mut fresh);
        if fresh.is_empty() {
            return Ok(slots);
        }
        self.grow();
        let ends = self.window.map(|(column, unit, _)| millis(changes.batch.column(column), unit));
        for row in fresh {
            let slot = slots[row as usize];
            self.open(slot, ends.as_ref().map(|ends| ends[row as usize]));
        }
        Ok(slots)
    }

    fn grow(&mut self) {
        let slots = self.index.slots();
        self.slots.resize(slots, Slot::default());
        for aggregate in &mut self.aggregates {
            aggregate.accumulator.grow(slots);
        }
    }

    fn open(&mut self, slot: u32, window_end: Option<i64>) {
        self.slots[slot as usize] = Slot::default();
        if let Some(end) = window_end {
            self.slots[slot as usize].window_end = end;
            self.windows.insert((end, slot));
        }
    }

    fn free(&mut self, slot: u32) {
        if self.window.is_some() {
            self.windows.remove(&(self.slots[slot as usize].window_end, slot));
        }
        self.slots[slot as usize] = Slot::default();
        self.index.remove(slot);
        for aggregate in &mut self.aggregates {
            aggregate.accumulator.clear(slot);
        }
    }

    /// The rows that no sum has room for, in ascending order.
    fn overflowing(&mut self, changes: &Changes, slots: &[u32]) -> Vec<(usize, String)> {
        let mut bad: Vec<(usize, String)> = Vec::new();
        for aggregate in &mut self.aggregates {
            let rows = rows_of(changes, slots, aggregate.argument, aggregate.filter);
            let found = aggregate.accumulator.overflowing(&rows);
            let reason =
                || format!("the {} of the row's group would be out of range", aggregate.name);
            bad.extend(found.into_iter().map(|row| (row, reason())));
        }
        bad.sort_by_key(|(row, _)| *row);
        bad.dedup_by_key(|(row, _)| *row);
        bad
    }

    /// Notes the results of groups that this epoch had not touched yet.
    fn touch(&mut self, slots: &[u32]) -> Result<(), DataflowError> {
        let first = self.touched.len();
        for &slot in slots {
            let touched = &mut self.slots[slot as usize].touched;
            if *touched != self.epoch {
                *touched = self.epoch;
                self.touched.push(slot);
            }
        }
        if self.touched.len() > first {
            let results = self.results(&self.touched[first..])?;
            self.before.push(results);
        }
        Ok(())
    }

    fn results(&self, slots: &[u32]) -> Result<Vec<ArrayRef>, DataflowError> {
        self.aggregates.iter().map(|aggregate| aggregate.accumulator.results(slots)).collect()
    }

    /// Whether a group is part of the result.
    fn exists(&self, slot: u32) -> bool {
        self.group.is_empty() || self.slots[slot as usize].rows > 0
    }

    /// Ends the epoch. Returns what is emitted; what changed in the state is added to `delta`.
    pub(crate) fn finish(
        &mut self,
        watermark: Timestamp,
        delta: &mut DeltaBuilder,
    ) -> Result<Option<Changes>, DataflowError> {
        let touched = std::mem::take(&mut self.touched);
        let before = std::mem::take(&mut self.before);
        let emitted = if touched.is_empty() { None } else { self.emit(&touched, &before)? };
        self.set_watermark(watermark);
        self.write(touched, delta);
        self.epoch += 1;
        Ok(emitted)
    }

    /// How many rows were late since the last call.
    pub(crate) fn take_late_rows(&mut self) -> u64 {
        std::mem::take(&mut self.late_rows)
    }

    fn emit(
        &mut self,
        touched: &[u32],
        before: &[Vec<ArrayRef>],
    ) -> Result<Option<Changes>, DataflowError> {
        let fault = internal(self.operator);
        let after = self.results(touched)?;
        let before = columns_together(before).map_err(&fault)?;
        let mut changed = vec![false; touched.len()];
        for (before, after) in before.iter().zip(&after) {
            let differs = distinct(before, after).map_err(&fault)?;
            for row in differs.values().set_indices() {
                changed[row] = true;
            }
        }
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for (row, &slot) in touched.iter().enumerate() {
            let exists = self.exists(slot);
            let slot = &mut self.slots[slot as usize];
            old.push(slot.emitted && (!exists || changed[row]));
            new.push(exists && (!slot.emitted || changed[row]));
            slot.emitted = exists;
        }
        let (old, new) = (BooleanArray::from(old), BooleanArray::from(new));
        let (minus, plus) = (old.true_count(), new.true_count());
        if minus + plus == 0 {
            return Ok(None);
        }
        let groups = self.group_columns(touched).map_err(&fault)?;
        let both = |before: &ArrayRef, after: &ArrayRef| {
            if minus == 0 && plus == touched.len() {
                return Ok(after.clone());
            }
            concat(&[&filter(before, &old)?, &filter(after, &new)?])
        };
        let groups = groups.iter().map(|column| both(column, column));
        let results = before.iter().zip(&after).map(|(before, after)| both(before, after));
        let columns = groups.chain(results).collect::<Result<Vec<_>, _>>().map_err(&fault)?;
        let options = RecordBatchOptions::new().with_row_count(Some(minus + plus));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(fault)?;
        let weights = (minus > 0)
            .then(|| std::iter::repeat_n(-1, minus).chain(std::iter::repeat_n(1, plus)).collect());
        Ok(Some(Changes { batch, weights }))
    }

    fn group_columns(&self, slots: &[u32]) -> Result<Vec<ArrayRef>, ArrowError> {
        if self.group.is_empty() {
            return Ok(Vec::new());
        }
        let parser = self.converter.parser();
        self.converter.convert_rows(slots.iter().map(|&slot| parser.parse(self.index.key(slot))))
    }
}

impl Operator for Aggregation {
    /// Takes in everything; what comes of it is told at the end of the epoch.
    fn step(
        &mut self,
        input: &mut Pending,
        _: usize,
        rejected: &mut Vec<RejectedRow>,
    ) -> Result<Option<Changes>, DataflowError> {
        if let Some(changes) = input.take(usize::MAX) {
            self.push(changes, rejected)?;
        }
        Ok(None)
    }
}

fn columns_together(parts: &[Vec<ArrayRef>]) -> Result<Vec<ArrayRef>, ArrowError> {
    let [first, others @ ..] = parts else {
        return Ok(Vec::new());
    };
    if others.is_empty() {
        return Ok(first.clone());
    }
    let column = |column: usize| {
        let arrays: Vec<_> = parts.iter().map(|part| part[column].as_ref()).collect();
        concat(&arrays)
    };
    (0..first.len()).map(column).collect()
}

/// A batch as an aggregate with this argument and filter sees it.
fn rows_of<'a>(
    changes: &'a Changes,
    slots: &'a [u32],
    argument: Option<usize>,
    filter: Option<usize>,
) -> Rows<'a> {
    let argument = argument.map(|column| changes.batch.column(column));
    let valid = argument.and_then(Array::logical_nulls);
    let valid = valid.filter(|nulls| nulls.null_count() > 0).map(|nulls| nulls.inner().clone());
    let taken = filter.map(|column| {
        let mask = changes.batch.column(column).as_boolean();
        match mask.nulls() {
            Some(nulls) => mask.values() & nulls.inner(),
            None => mask.values().clone(),
        }
    });
    let counted = match (valid, taken) {
        (Some(valid), Some(taken)) => Some(&valid & &taken),
        (valid, taken) => valid.or(taken),
    };
    let weights = changes.weights.as_ref().map(|weights| weights.values().as_ref());
    Rows { slots, weights, counted, argument }
}
