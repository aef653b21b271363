//! Contents of a view: a persistent map that costs nothing to pin.
//!
//! A [`Layout`] knows how rows of a view become bytes and back (arrow-row), a [`Contents`] is one
//! version. Cloning a `Contents` is O(1) and gives a version that never changes; the original
//! goes on and shares what did not change. Nothing here knows ticks, frames or the log.
//!
//! | the view has | map key | map value |
//! |---|---|---|
//! | a proven key | arrow-row bytes of the key columns | arrow-row bytes of the row |
//! | none | arrow-row bytes of the row | how often it occurs |
//!
//! Applying the changes of one tick to a keyed view:
//! 1. a row with a negative weight removes its key if exactly this row is stored there,
//! 2. a row with a positive weight is stored under its key.
//!
//! The order of rows within a tick does not matter, and replaying old changes over newer contents
//! ends where the last change ends. Without a key, weights are added: there a change must be
//! applied exactly once.

use std::{ops::Bound, sync::Arc};

use afflux_record::changelog::Changes;
use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions},
    datatypes::{Schema, SchemaRef},
    error::ArrowError,
    row::{RowConverter, SortField},
};
use rpds::RedBlackTreeMapSync;

/// Rows of one view as bytes and back.
#[derive(Debug)]
pub(crate) struct Layout {
    schema: SchemaRef,
    key: Option<Vec<usize>>,
    rows: RowConverter,
    /// None where the key is the whole row, or has no column.
    keys: Option<RowConverter>,
}

/// One version of a view's contents. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    cells: RedBlackTreeMapSync<Box<[u8]>, Cell>,
    rows: u64,
    bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Cell {
    Row(Box<[u8]>),
    Times(i64),
}

/// Part of a version, in the order of its keys.
pub(crate) struct Chunk {
    /// The rows, each with its multiplicity.
    pub(crate) rows: Changes,
    /// Where to go on; none if this was the last chunk.
    pub(crate) next: Option<Box<[u8]>>,
}

impl Layout {
    /// The layout of a view with these columns and, if proven, this key.
    pub(crate) fn new(schema: Schema, key: Option<Vec<usize>>) -> Result<Self, ArrowError> {
        let field = |index: usize| SortField::new(schema.field(index).data_type().clone());
        let rows = RowConverter::new((0..schema.fields().len()).map(field).collect())?;
        let keys = match &key {
            Some(columns) if !columns.is_empty() => {
                Some(RowConverter::new(columns.iter().map(|&c| field(c)).collect())?)
            }
            _ => None,
        };
        Ok(Self { schema: Arc::new(schema), key, rows, keys })
    }

    /// The view's columns.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Positions of the key's columns; none if rows may repeat.
    pub(crate) fn key(&self) -> Option<&[usize]> {
        self.key.as_deref()
    }

    /// Applies the changes of one tick.
    pub(crate) fn apply(
        &self,
        contents: &mut Contents,
        changes: &Changes,
    ) -> Result<(), ArrowError> {
        let batch = &changes.batch;
        let rows = self.rows.convert_columns(batch.columns())?;
        let weight = |row: usize| changes.weights.as_ref().map_or(1, |weights| weights.value(row));
        let Some(key) = &self.key else {
            for row in 0..batch.num_rows() {
                contents.add(rows.row(row).data(), weight(row));
            }
            return Ok(());
        };
        let keys = match &self.keys {
            Some(converter) => {
                let columns: Vec<_> = key.iter().map(|&c| Arc::clone(batch.column(c))).collect();
                Some(converter.convert_columns(&columns)?)
            }
            None => None,
        };
        let key_of = |row: usize| keys.as_ref().map_or(&[][..], |keys| keys.row(row).data());
        for row in 0..batch.num_rows() {
            let data = rows.row(row);
            if weight(row) > 0 {
                contents.put(key_of(row), data.data());
            } else {
                contents.take(key_of(row), data.data());
            }
        }
        Ok(())
    }

    /// The row of a key, if there is one. `key` holds one array of one value per key column, in
    /// the key's order and of the columns' types.
    pub(crate) fn get(
        &self,
        contents: &Contents,
        key: &[ArrayRef],
    ) -> Result<Option<RecordBatch>, ArrowError> {
        let bytes = match &self.keys {
            Some(converter) => converter.convert_columns(key)?.row(0).data().to_vec(),
            None => Vec::new(),
        };
        match contents.cells.get(bytes.as_slice()) {
            Some(Cell::Row(row)) => Ok(Some(self.batch(std::iter::once(row.as_ref()))?)),
            _ => Ok(None),
        }
    }

    /// The rows behind a key, about `bytes_max` of them but at least one if there is any.
    pub(crate) fn chunk(
        &self,
        contents: &Contents,
        after: Option<&[u8]>,
        bytes_max: usize,
    ) -> Result<Chunk, ArrowError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rows: Vec<&[u8]> = Vec::new();
        let mut weights = Vec::new();
        let mut bytes = 0;
        let mut last: Option<&[u8]> = None;
        let mut next = None;
        for (key, cell) in contents.cells.range::<[u8], _>((from, Bound::Unbounded)) {
            if bytes >= bytes_max {
                next = last.map(Box::from);
                break;
            }
            let (row, times) = match cell {
                Cell::Row(row) => (row, 1),
                Cell::Times(times) => (key, *times),
            };
            bytes += row.len();
            rows.push(row);
            weights.push(times);
            last = Some(key);
        }
        let weights = weights.iter().any(|&w| w != 1).then(|| Int64Array::from(weights));
        Ok(Chunk { rows: Changes { batch: self.batch(rows.into_iter())?, weights }, next })
    }

    /// All rows, in batches of bounded size, a row as often as it occurs.
    pub(crate) fn batches(&self, contents: &Contents) -> Result<Vec<RecordBatch>, ArrowError> {
        const ROWS: usize = 8192;
        let mut batches = Vec::new();
        let mut pending: Vec<&[u8]> = Vec::new();
        for (key, cell) in &contents.cells {
            let (row, times) = match cell {
                Cell::Row(row) => (row, 1),
                Cell::Times(times) => (key, *times),
            };
            for _ in 0..times.max(0) {
                pending.push(row);
                if pending.len() == ROWS {
                    batches.push(self.batch(pending.drain(..))?);
                }
            }
        }
        if !pending.is_empty() {
            batches.push(self.batch(pending.drain(..))?);
        }
        Ok(batches)
    }

    fn batch<'a>(&self, rows: impl Iterator<Item = &'a [u8]>) -> Result<RecordBatch, ArrowError> {
        let parser = self.rows.parser();
        let mut count = 0;
        let rows = rows.map(|bytes| {
            count += 1;
            parser.parse(bytes)
        });
        let columns = self.rows.convert_rows(rows)?;
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }
}

impl Contents {
    /// A view without rows.
    pub(crate) fn empty() -> Self {
        Self { cells: RedBlackTreeMapSync::new_sync(), rows: 0, bytes: 0 }
    }

    /// How many rows there are.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// About how many bytes of keys and rows there are.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn put(&mut self, key: &[u8], row: &[u8]) {
        match self.cells.get(key) {
            Some(Cell::Row(old)) if old.as_ref() == row => return,
            Some(Cell::Row(old)) => self.bytes -= old.len() as u64,
            _ => {
                self.rows += 1;
                self.bytes += key.len() as u64;
            }
        }
        self.bytes += row.len() as u64;
        self.cells.insert_mut(key.into(), Cell::Row(row.into()));
    }

    fn take(&mut self, key: &[u8], row: &[u8]) {
        if matches!(self.cells.get(key), Some(Cell::Row(old)) if old.as_ref() == row) {
            self.cells.remove_mut(key);
            self.rows -= 1;
            self.bytes -= (key.len() + row.len()) as u64;
        }
    }

    fn add(&mut self, row: &[u8], weight: i64) {
        let old = match self.cells.get(row) {
            Some(Cell::Times(times)) => *times,
            _ => 0,
        };
        let new = old + weight;
        self.rows = self.rows.wrapping_add_signed(new.max(0) - old.max(0));
        if new == 0 {
            if self.cells.remove_mut(row) {
                self.bytes -= row.len() as u64;
            }
            return;
        }
        if old == 0 {
            self.bytes += row.len() as u64;
        }
        self.cells.insert_mut(row.into(), Cell::Times(new));
    }
}

#[cfg(test)]
mod tests;
