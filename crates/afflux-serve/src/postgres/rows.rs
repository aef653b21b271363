//! Batches to rows as Postgres's clients take them.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, StringArray},
    compute::cast,
    datatypes::{DataType, Field, FieldRef, Schema, SchemaRef},
    record_batch::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use arrow_pg::datatypes::field_into_pg_type;
use bytes::BytesMut;
use pgwire::{
    api::{
        Type,
        results::{FieldFormat, FieldInfo},
    },
    messages::data::{DataRow, FieldDescription, RowDescription},
};

use super::values;
use crate::QueryError;

/// The columns of an answer. Cheap to clone.
#[derive(Clone)]
pub(super) struct Shape {
    /// As the rows are encoded, each of a type that Postgres has.
    fields: Arc<Vec<FieldRef>>,
    infos: Arc<Vec<FieldInfo>>,
}

impl Shape {
    /// The shape of an answer. `formats` are the client's codes: none for text, one for all
    /// columns, or one a column.
    pub(super) fn new(schema: &Schema, formats: &[i16]) -> Result<Self, QueryError> {
        let count = schema.fields().len();
        if formats.len() > 1 && formats.len() != count {
            return Err(QueryError::invalid(format!(
                "the client names {} result formats for {count} columns",
                formats.len()
            ))
            .with_sqlstate("08P01"));
        }
        let fields: Vec<_> = schema.fields().iter().map(sendable).collect();
        let info = |(n, field): (usize, &FieldRef)| {
            let code = formats.get(n).or(formats.first()).copied().unwrap_or(0);
            let pg = field_into_pg_type(field).map_err(|e| QueryError::internal(e.to_string()))?;
            let modifier = match field.data_type() {
                DataType::Decimal128(precision, scale) if *scale >= 0 => {
                    ((i32::from(*precision) << 16) | i32::from(*scale)) + 4
                }
                _ => -1,
            };
            let length = length_of(&pg);
            Ok(FieldInfo::new(field.name().clone(), None, None, pg, FieldFormat::from(code))
                .with_type_size(length)
                .with_type_modifier(modifier))
        };
        let infos = fields.iter().enumerate().map(info).collect::<Result<Vec<_>, QueryError>>()?;
        Ok(Self { fields: Arc::new(fields), infos: Arc::new(infos) })
    }

    /// What `Describe` and simple queries answer.
    pub(super) fn description(&self) -> RowDescription {
        RowDescription::new(self.infos.iter().map(FieldDescription::from).collect())
    }

    /// The rows of a batch.
    pub(super) fn rows(&self, batch: &RecordBatch) -> Result<Rows, QueryError> {
        let columns = batch
            .columns()
            .iter()
            .zip(self.fields.iter())
            .map(|(column, field)| converted(column, field))
            .collect::<Result<_, _>>()?;
        Ok(Rows {
            shape: self.clone(),
            columns,
            buffer: BytesMut::new(),
            next: 0,
            count: batch.num_rows(),
        })
    }
}

/// The rows of one batch, one after the other.
pub(super) struct Rows {
    shape: Shape,
    columns: Vec<ArrayRef>,
    buffer: BytesMut,
    next: usize,
    count: usize,
}

impl Rows {
    /// The next row.
    pub(super) fn next_row(&mut self) -> Option<Result<DataRow, QueryError>> {
        if self.next == self.count {
            return None;
        }
        let row = self.next;
        self.next += 1;
        for (column, info) in self.columns.iter().zip(self.shape.infos.iter()) {
            if let Err(error) = values::write(column, row, info.format(), &mut self.buffer) {
                return Some(Err(error));
            }
        }
        Some(Ok(DataRow::new(self.buffer.split(), self.columns.len() as i16)))
    }
}

/// The type that a column is sent with.
fn sendable(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Int8 | DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Null => DataType::Utf8,
        DataType::Dictionary(_, values) => {
            let values = Arc::new(Field::new(field.name(), values.as_ref().clone(), true));
            sendable(&values).data_type().clone()
        }
        // Whatever Postgres has no type for is sent as it would be printed.
        other if field_into_pg_type(field).is_err() || is_nested(other) => DataType::Utf8,
        _ => return Arc::clone(field),
    };
    Arc::new(Field::clone(field).with_data_type(data_type))
}

/// Lists of simple types are arrays; anything deeper is text.
fn is_nested(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            item.data_type().is_nested() || item.data_type().is_unsigned_integer()
        }
        other => other.is_nested(),
    }
}

fn converted(column: &ArrayRef, field: &Field) -> Result<ArrayRef, QueryError> {
    if column.data_type() == field.data_type() {
        return Ok(Arc::clone(column));
    }
    if *field.data_type() == DataType::Utf8 && column.data_type().is_nested() {
        let options = FormatOptions::default();
        let formatter = ArrayFormatter::try_new(column, &options)?;
        let texts = (0..column.len())
            .map(|row| column.is_valid(row).then(|| formatter.value(row).to_string()));
        return Ok(Arc::new(texts.collect::<StringArray>()));
    }
    Ok(cast(column, field.data_type())?)
}

fn length_of(pg: &Type) -> i16 {
    match *pg {
        Type::BOOL => 1,
        Type::INT2 => 2,
        Type::INT4 | Type::FLOAT4 | Type::DATE | Type::OID => 4,
        Type::INT8 | Type::FLOAT8 | Type::TIME | Type::TIMESTAMP | Type::TIMESTAMPTZ => 8,
        Type::INTERVAL => 16,
        _ => -1,
    }
}

/// The type that a parameter of the plan has for the client.
pub(super) fn parameter_type(data_type: &DataType) -> Type {
    let field = Arc::new(Field::new("parameter", data_type.clone(), true));
    field_into_pg_type(&sendable(&field)).unwrap_or(Type::TEXT)
}

/// Whether two answers look alike to a client that has prepared for the first.
pub(super) fn alike(left: &SchemaRef, right: &SchemaRef) -> bool {
    left.fields().len() == right.fields().len()
        && left.fields().iter().zip(right.fields()).all(|(l, r)| {
            l.name() == r.name() && sendable(l).data_type() == sendable(r).data_type()
        })
}
