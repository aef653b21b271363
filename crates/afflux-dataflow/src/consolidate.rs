//! Distinct rows, each with the sum of its weights.

use afflux_record::changelog::Changes;
use afflux_state::KeyIndex;
use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, UInt32Array},
    compute::{concat_batches, take_record_batch},
    datatypes::SchemaRef,
    error::ArrowError,
    row::{RowConverter, SortField},
};

/// Puts batches together. Distinct rows keep the order of their first occurrence, those that are
/// taken away before those that are added, so that a reader with a unique key never holds two
/// rows of one key.
pub(crate) fn consolidate(
    schema: &SchemaRef,
    parts: &[Changes],
) -> Result<Option<Changes>, ArrowError> {
    let Some(all) = together(schema, parts)? else {
        return Ok(None);
    };
    let (slots, sums) = sum(&all)?;
    let mut first = vec![u32::MAX; sums.len()];
    for (row, &slot) in slots.iter().enumerate().rev() {
        first[slot as usize] = row as u32;
    }
    let chosen = |negative: bool| {
        let wanted = move |sum: i64| if negative { sum < 0 } else { sum > 0 };
        sums.iter().zip(&first).filter(move |(sum, _)| wanted(**sum))
    };
    let (weights, rows): (Vec<i64>, Vec<u32>) = chosen(true).chain(chosen(false)).unzip();
    if rows.is_empty() {
        return Ok(None);
    }
    let batch = take_record_batch(&all.batch, &UInt32Array::from(rows))?;
    Ok(Some(Changes { batch, weights: compact(weights) }))
}

/// Puts batches together as they are.
pub(crate) fn together(
    schema: &SchemaRef,
    parts: &[Changes],
) -> Result<Option<Changes>, ArrowError> {
    let parts: Vec<_> = parts.iter().filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(Changes::clone(one))),
        many => {
            let batch = concat_batches(schema, many.iter().map(|part| &part.batch))?;
            let weights = many.iter().any(|part| part.weights.is_some()).then(|| {
                many.iter().flat_map(|part| (0..part.len()).map(|row| part.weight(row))).collect()
            });
            Ok(Some(Changes { batch, weights }))
        }
    }
}

/// Weights, or none if all are +1.
pub(crate) fn compact(weights: Vec<i64>) -> Option<Int64Array> {
    weights.iter().any(|&weight| weight != 1).then(|| weights.into())
}

/// A converter of rows of a batch into bytes that are equal where the rows are.
pub(crate) fn converter(columns: &[ArrayRef]) -> Result<RowConverter, ArrowError> {
    RowConverter::new(columns.iter().map(|c| SortField::new(c.data_type().clone())).collect())
}

/// For each row a number that equal rows share, and the sum of the weights of each number.
fn sum(changes: &Changes) -> Result<(Vec<u32>, Vec<i64>), ArrowError> {
    let batch: &RecordBatch = &changes.batch;
    let mut slots = Vec::with_capacity(batch.num_rows());
    if batch.num_columns() == 0 {
        slots.resize(batch.num_rows(), 0);
    } else {
        let rows = converter(batch.columns())?.convert_columns(batch.columns())?;
        let mut index = KeyIndex::default();
        index.resolve(rows.iter().map(|row| row.data()), &mut slots, &mut Vec::new());
    }
    let distinct = slots.iter().max().map_or(0, |slot| *slot as usize + 1);
    let mut sums = vec![0; distinct];
    for (row, &slot) in slots.iter().enumerate() {
        sums[slot as usize] += changes.weight(row);
    }
    Ok((slots, sums))
}
