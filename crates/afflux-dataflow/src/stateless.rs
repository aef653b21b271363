//! Operators that look at one row at a time: filter, projection, tumbling windows.

use std::sync::Arc;

use afflux_plan::{Column, Expr};
use afflux_record::changelog::Changes;
use afflux_types::OperatorId;
use arrow::{
    array::{
        Array, ArrayData, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch,
        RecordBatchOptions, UInt32Array, make_array,
    },
    buffer::Buffer,
    compute::{filter, filter_record_batch, prep_null_mask_filter, take, take_record_batch},
    datatypes::{DataType, Int64Type, Schema, SchemaRef, TimeUnit},
};
use datafusion::physical_expr::PhysicalExpr;

use crate::{
    BuildError, DataflowError, RejectedRow,
    error::internal,
    evaluate::{evaluate, reason},
    expression::{self, Clock},
    operator::{Operator, Pending},
};

/// Gives what it gets, under its own names: a source, a view, a union.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) operator: OperatorId,
    pub(crate) schema: SchemaRef,
}

/// Keeps the rows for which a predicate is true.
#[derive(Debug)]
pub(crate) struct Filter {
    operator: OperatorId,
    predicate: [Arc<dyn PhysicalExpr>; 1],
    schema: SchemaRef,
}

/// Computes one column an expression.
#[derive(Debug)]
pub(crate) struct Project {
    operator: OperatorId,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
}

/// Appends the window that a row's time falls into.
#[derive(Debug)]
pub(crate) struct Tumble {
    operator: OperatorId,
    time: usize,
    size: i64,
    offset: i64,
    /// Of the time column.
    unit: TimeUnit,
    schema: SchemaRef,
}

impl Operator for Pass {
    fn step(
        &mut self,
        input: &mut Pending,
        fuel: usize,
        _: &mut Vec<RejectedRow>,
    ) -> Result<Option<Changes>, DataflowError> {
        let changes = input.take(fuel);
        changes.map(|changes| rewrap(self.operator, changes, &self.schema)).transpose()
    }
}

impl Filter {
    pub(crate) fn new(
        operator: OperatorId,
        predicate: &Expr,
        input: &Schema,
        schema: SchemaRef,
        clock: &Clock,
    ) -> Result<Self, BuildError> {
        let predicate = build(operator, predicate, input, clock, &DataType::Boolean)?;
        Ok(Self { operator, predicate: [predicate], schema })
    }
}

impl Operator for Filter {
    fn step(
        &mut self,
        input: &mut Pending,
        fuel: usize,
        rejected: &mut Vec<RejectedRow>,
    ) -> Result<Option<Changes>, DataflowError> {
        let Some(changes) = input.take(fuel) else { return Ok(None) };
        let fault = internal(self.operator);
        let evaluated = evaluate(&self.predicate, &changes.batch).map_err(&fault)?;
        let changes = reject(self.operator, changes, &evaluated.bad, rejected)?;
        let changes = rewrap(self.operator, changes, &self.schema)?;
        let mask = evaluated.columns[0].as_boolean();
        keep(changes, mask).map(Some).map_err(fault)
    }
}

impl Project {
    pub(crate) fn new(
        operator: OperatorId,
        exprs: &[Expr],
        input: &Schema,
        schema: SchemaRef,
        clock: &Clock,
    ) -> Result<Self, BuildError> {
        if exprs.len() != schema.fields().len() {
            let reason = "it has not one expression a column".to_owned();
            return Err(BuildError::Broken { operator, reason });
        }
        let exprs = exprs
            .iter()
            .zip(schema.fields())
            .map(|(expr, field)| build(operator, expr, input, clock, field.data_type()))
            .collect::<Result<_, _>>()?;
        Ok(Self { operator, exprs, schema })
    }
}

impl Operator for Project {
    fn step(
        &mut self,
        input: &mut Pending,
        fuel: usize,
        rejected: &mut Vec<RejectedRow>,
    ) -> Result<Option<Changes>, DataflowError> {
        let Some(changes) = input.take(fuel) else { return Ok(None) };
        let fault = internal(self.operator);
        let evaluated = evaluate(&self.exprs, &changes.batch).map_err(&fault)?;
        let changes = reject(self.operator, changes, &evaluated.bad, rejected)?;
        let options = RecordBatchOptions::new().with_row_count(Some(changes.len()));
        let batch =
            RecordBatch::try_new_with_options(self.schema.clone(), evaluated.columns, &options);
        Ok(Some(Changes { batch: batch.map_err(fault)?, weights: changes.weights }))
    }
}

fn build(
    operator: OperatorId,
    expr: &Expr,
    input: &Schema,
    clock: &Clock,
    expected: &DataType,
) -> Result<Arc<dyn PhysicalExpr>, BuildError> {
    let broken = |reason: String| BuildError::Broken { operator, reason };
    let physical = expression::build(expr, input, clock).map_err(|error| broken(reason(&error)))?;
    let found = physical.data_type(input).map_err(|error| broken(reason(&error)))?;
    if found == *expected {
        return Ok(physical);
    }
    Err(broken(format!("the plan says that {physical} is {expected}, but it is {found}")))
}

impl Tumble {
    pub(crate) fn new(
        operator: OperatorId,
        time: usize,
        size_ms: i64,
        offset_ms: i64,
        input: &[Column],
        schema: SchemaRef,
    ) -> Result<Self, BuildError> {
        let broken = |reason: &str| BuildError::Broken { operator, reason: reason.to_owned() };
        let Some(DataType::Timestamp(unit, _)) = input.get(time).map(|c| &c.column_type.0) else {
            return Err(broken("the time column is not a timestamp"));
        };
        if size_ms <= 0 {
            return Err(broken("the window has no length"));
        }
        let fields = schema.fields();
        if fields.len() != input.len() + 3 {
            return Err(broken("a window appends three columns"));
        }
        for field in &fields[input.len()..] {
            match field.data_type() {
                DataType::Timestamp(TimeUnit::Second, _)
                    if size_ms % 1000 != 0 || offset_ms % 1000 != 0 =>
                {
                    return Err(broken("the window's bounds are not whole seconds"));
                }
                DataType::Timestamp(..) => {}
                _ => return Err(broken("a window's bounds are timestamps")),
            }
        }
        let offset = offset_ms.rem_euclid(size_ms);
        Ok(Self { operator, time, size: size_ms, offset, unit: *unit, schema })
    }

    /// The start of the window of a time, if the window's bounds can be told in nanoseconds.
    fn start(&self, millis: i64) -> Option<i64> {
        let start = millis.checked_sub((millis.checked_sub(self.offset)?).rem_euclid(self.size))?;
        start.checked_mul(1_000_000)?;
        start.checked_add(self.size)?.checked_mul(1_000_000)?;
        Some(start)
    }
}

impl Operator for Tumble {
    fn step(
        &mut self,
        input: &mut Pending,
        fuel: usize,
        rejected: &mut Vec<RejectedRow>,
    ) -> Result<Option<Changes>, DataflowError> {
        let Some(changes) = input.take(fuel) else { return Ok(None) };
        let fault = internal(self.operator);
        let times = changes.batch.column(self.time);
        let mut bad = Vec::new();
        let mut starts = Vec::with_capacity(times.len());
        let mut window = 0..0;
        for (row, millis) in millis(times, self.unit).iter().enumerate() {
            if times.is_null(row) {
                bad.push((row, "the row has no time".to_owned()));
            } else if window.contains(millis) {
                starts.push(window.start);
            } else if let Some(start) = self.start(*millis) {
                window = start..start + self.size;
                starts.push(start);
            } else {
                bad.push((row, "the row's time is out of range".to_owned()));
            }
        }
        let changes = reject(self.operator, changes, &bad, rejected)?;
        let appended = self.schema.fields()[changes.batch.num_columns()..].iter();
        let appended = appended.zip([0, self.size, self.size - 1]);
        let mut columns = changes.batch.columns().to_vec();
        columns.extend(appended.map(|(field, add)| bound(field.data_type(), &starts, add)));
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(fault)?;
        Ok(Some(Changes { batch, weights: changes.weights }))
    }
}

/// Times in milliseconds, rounded down.
pub(crate) fn millis(times: &ArrayRef, unit: TimeUnit) -> Vec<i64> {
    let data = times.to_data();
    let values = &data.buffers()[0].typed_data::<i64>()[data.offset()..data.offset() + data.len()];
    match unit {
        TimeUnit::Second => values.iter().map(|v| v.saturating_mul(1_000)).collect(),
        TimeUnit::Millisecond => values.to_vec(),
        TimeUnit::Microsecond => values.iter().map(|v| v.div_euclid(1_000)).collect(),
        TimeUnit::Nanosecond => values.iter().map(|v| v.div_euclid(1_000_000)).collect(),
    }
}

fn bound(data_type: &DataType, starts: &[i64], add: i64) -> ArrayRef {
    let convert = |start: i64| match data_type {
        DataType::Timestamp(TimeUnit::Second, _) => (start + add).div_euclid(1_000),
        DataType::Timestamp(TimeUnit::Microsecond, _) => (start + add) * 1_000,
        DataType::Timestamp(TimeUnit::Nanosecond, _) => (start + add) * 1_000_000,
        _ => start + add,
    };
    let values: Vec<i64> = starts.iter().map(|start| convert(*start)).collect();
    let data = ArrayData::builder(data_type.clone()).len(values.len());
    make_array(data.add_buffer(Buffer::from_vec(values)).build().expect("a value a row"))
}

/// Takes bad rows out, and reports those that are being added.
pub(crate) fn reject(
    operator: OperatorId,
    changes: Changes,
    bad: &[(usize, String)],
    rejected: &mut Vec<RejectedRow>,
) -> Result<Changes, DataflowError> {
    if bad.is_empty() {
        return Ok(changes);
    }
    let fault = internal(operator);
    let added = bad.iter().filter(|(row, _)| changes.weight(*row) > 0);
    rejected.extend(added.map(|(row, reason)| RejectedRow {
        operator,
        row: changes.batch.slice(*row, 1),
        reason: reason.clone(),
    }));
    let mut next = bad.iter().map(|(row, _)| *row).peekable();
    let good = |row: &u32| next.next_if_eq(&(*row as usize)).is_none();
    let good: UInt32Array = (0..changes.len() as u32).filter(good).collect();
    let batch = take_record_batch(&changes.batch, &good).map_err(&fault)?;
    let weights = match &changes.weights {
        None => None,
        Some(weights) => {
            Some(take(weights, &good, None).map_err(fault)?.as_primitive::<Int64Type>().clone())
        }
    };
    Ok(Changes { batch, weights })
}

/// Keeps the rows for which a mask is true.
pub(crate) fn keep(
    changes: Changes,
    mask: &BooleanArray,
) -> Result<Changes, arrow::error::ArrowError> {
    if mask.true_count() == changes.len() {
        return Ok(changes);
    }
    // Null is not true.
    let mask = &if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() };
    let batch = filter_record_batch(&changes.batch, mask)?;
    let weights = match &changes.weights {
        None => None,
        Some(weights) => Some(filter(weights, mask)?.as_primitive::<Int64Type>().clone()),
    };
    Ok(Changes { batch, weights })
}

/// The same columns under an operator's own names.
pub(crate) fn rewrap(
    operator: OperatorId,
    changes: Changes,
    schema: &SchemaRef,
) -> Result<Changes, DataflowError> {
    if Arc::ptr_eq(changes.batch.schema_ref(), schema) {
        return Ok(changes);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(changes.len()));
    let columns = changes.batch.columns().to_vec();
    let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .map_err(internal(operator))?;
    Ok(Changes { batch, weights: changes.weights })
}

/// Weights by rows that were taken from others.
pub(crate) fn take_weights(weights: Option<&Int64Array>, rows: &UInt32Array) -> Option<Int64Array> {
    weights.map(|weights| rows.values().iter().map(|&row| weights.value(row as usize)).collect())
}
