//! Tables written as text: columns once, and in each row only what is not the default.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{ArrayRef, BooleanArray, Int16Array, Int32Array, StringArray},
    datatypes::{DataType, Field, Schema},
    record_batch::{RecordBatch, RecordBatchOptions},
};
use arrow_pg::datatypes::PG_OID_ALIAS_KEY;

use crate::QueryError;

/// A cell that is not the default.
#[derive(Debug, Clone)]
pub(super) enum Cell {
    Number(i32),
    Text(String),
    Flag(bool),
}

impl From<i32> for Cell {
    fn from(value: i32) -> Self {
        Self::Number(value)
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Self::Flag(value)
    }
}

/// A row: cells by column name.
pub(super) type Row = HashMap<&'static str, Cell>;

/// `row! { column: value, … }`.
macro_rules! row {
    ($($name:ident: $value:expr),* $(,)?) => {
        $crate::read::pg_catalog::rows::Row::from([
            $((stringify!($name), $crate::read::pg_catalog::rows::Cell::from($value))),*
        ])
    };
}
pub(super) use row;

/// A table. `columns` are words `name:type`, the types `oid`, `int2`, `int4`, `bool` and `text`;
/// a column that ends in `?` is null by default, the others 0, false or empty.
pub(super) fn table(columns: &str, rows: &[Row]) -> Result<RecordBatch, QueryError> {
    let mut fields = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for column in columns.split_whitespace() {
        let (name, kind) = column
            .split_once(':')
            .ok_or_else(|| QueryError::internal(format!("the column \"{column}\" has no type")))?;
        let (kind, nullable) = match kind.strip_suffix('?') {
            Some(kind) => (kind, true),
            None => (kind, false),
        };
        let (field, array) = cells(name, kind, nullable, rows)?;
        fields.push(field.with_nullable(true));
        arrays.push(array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?)
}

fn cells(
    name: &str,
    kind: &str,
    nullable: bool,
    rows: &[Row],
) -> Result<(Field, ArrayRef), QueryError> {
    let numbers = || {
        rows.iter().map(|row| match row.get(name) {
            Some(Cell::Number(value)) => Some(*value),
            _ => (!nullable).then_some(0),
        })
    };
    let column = match kind {
        "oid" => {
            let metadata = [(PG_OID_ALIAS_KEY.to_owned(), "oid".to_owned())].into();
            let field = Field::new(name, DataType::Int32, true).with_metadata(metadata);
            (field, Arc::new(numbers().collect::<Int32Array>()) as ArrayRef)
        }
        "int4" => (
            Field::new(name, DataType::Int32, true),
            Arc::new(numbers().collect::<Int32Array>()) as ArrayRef,
        ),
        "int2" => (
            Field::new(name, DataType::Int16, true),
            Arc::new(numbers().map(|n| n.map(|n| n as i16)).collect::<Int16Array>()) as ArrayRef,
        ),
        "bool" => {
            let flags = rows.iter().map(|row| match row.get(name) {
                Some(Cell::Flag(value)) => Some(*value),
                _ => (!nullable).then_some(false),
            });
            let array: BooleanArray = flags.collect();
            (Field::new(name, DataType::Boolean, true), Arc::new(array) as ArrayRef)
        }
        "text" => {
            let texts = rows.iter().map(|row| match row.get(name) {
                Some(Cell::Text(value)) => Some(value.as_str()),
                _ => (!nullable).then_some(""),
            });
            let array: StringArray = texts.collect();
            (Field::new(name, DataType::Utf8, true), Arc::new(array) as ArrayRef)
        }
        other => return Err(QueryError::internal(format!("there is no column type \"{other}\""))),
    };
    Ok(column)
}
