//! Expressions over a batch in which some rows can fail.
//!
//! 1. All expressions are evaluated over the whole batch.
//! 2. If one fails (division by zero, a cast, a function that panics), the batch is halved and
//!    each half is tried alone, down to single rows: those that fail alone are bad.
//! 3. What the good parts gave is put together again. It is not evaluated again as a whole: a row
//!    may be good only beside rows that are.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, RecordBatch},
    compute::concat,
    error::ArrowError,
};
use datafusion::{error::DataFusionError, physical_expr::PhysicalExpr};

/// The results for the good rows, and the bad rows.
pub(crate) struct Evaluated {
    /// One array an expression, over the good rows.
    pub(crate) columns: Vec<ArrayRef>,
    /// The bad rows in ascending order, with what is wrong with them.
    pub(crate) bad: Vec<(usize, String)>,
}

/// Evaluates expressions over a batch.
pub(crate) fn evaluate(
    exprs: &[Arc<dyn PhysicalExpr>],
    batch: &RecordBatch,
) -> Result<Evaluated, ArrowError> {
    let mut parts = Vec::new();
    let mut bad = Vec::new();
    bisect(exprs, batch, 0, &mut parts, &mut bad);
    let columns = match parts.len() {
        1 => parts.swap_remove(0),
        // Nothing is good. A slice of no rows still tells the types.
        0 => return empty(exprs, batch, bad),
        _ => (0..exprs.len())
            .map(|column| {
                let arrays: Vec<_> = parts.iter().map(|part| part[column].as_ref()).collect();
                concat(&arrays)
            })
            .collect::<Result<_, _>>()?,
    };
    Ok(Evaluated { columns, bad })
}

fn empty(
    exprs: &[Arc<dyn PhysicalExpr>],
    batch: &RecordBatch,
    bad: Vec<(usize, String)>,
) -> Result<Evaluated, ArrowError> {
    let columns = exprs.iter().map(|expr| {
        let data_type = expr.data_type(batch.schema_ref())?;
        Ok(arrow::array::new_empty_array(&data_type))
    });
    let columns: Result<_, DataFusionError> = columns.collect();
    let columns = columns.map_err(|error| ArrowError::ComputeError(error.to_string()))?;
    Ok(Evaluated { columns, bad })
}

fn bisect(
    exprs: &[Arc<dyn PhysicalExpr>],
    batch: &RecordBatch,
    first: usize,
    parts: &mut Vec<Vec<ArrayRef>>,
    bad: &mut Vec<(usize, String)>,
) {
    let rows = batch.num_rows();
    match attempt(exprs, batch) {
        Ok(columns) => parts.push(columns),
        Err(_) if rows == 0 => {}
        Err(reason) if rows == 1 => bad.push((first, reason)),
        Err(_) => {
            let half = rows / 2;
            bisect(exprs, &batch.slice(0, half), first, parts, bad);
            bisect(exprs, &batch.slice(half, rows - half), first + half, parts, bad);
        }
    }
}

fn attempt(exprs: &[Arc<dyn PhysicalExpr>], batch: &RecordBatch) -> Result<Vec<ArrayRef>, String> {
    let run = || {
        let one = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(batch)?.into_array(batch.num_rows());
        exprs.iter().map(one).collect::<Result<Vec<_>, _>>()
    };
    // Expressions hold no state, so nothing is left half done by a kernel that panics.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(columns)) => Ok(columns),
        Ok(Err(error)) => Err(reason(&error)),
        Err(_) => Err("a function failed on this row".to_owned()),
    }
}

/// The innermost message, without the names of the layers that it went through.
pub(crate) fn reason(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::ArrowError(error, _) => match error.as_ref() {
            ArrowError::DivideByZero => "division by zero".to_owned(),
            ArrowError::CastError(text)
            | ArrowError::ComputeError(text)
            | ArrowError::ParseError(text)
            | ArrowError::InvalidArgumentError(text)
            | ArrowError::ArithmeticOverflow(text) => text.clone(),
            other => other.to_string(),
        },
        root => root.message().into_owned(),
    }
}
