//! Records to columns.
//!
//! 1. A payload is checked to be UTF-8 and read once, from left to right; each value goes straight
//!    into the builder of its column, in the form that the column stores.
//! 2. Records tend to look like the one before: the name at a position is compared with the name
//!    that stood there last time, and looked up only if it differs.
//! 3. Behind the object, columns that were not named get a null.
//! 4. A record that fails is cut off all builders again and reported; so whatever the others of
//!    its batch are, a record decodes alike.

use std::{collections::HashMap, sync::Arc};

use afflux_types::{Classified, ErrorKind};
use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::{DataType, Field, Schema, SchemaRef},
};

use self::column::{Builder, Fault};
use super::scan::{Cursor, SyntaxError};

#[path = "column.rs"]
mod column;

/// More names than this at one level are looked up each time.
const SHAPE_MAX: usize = 256;

/// What became of a batch of payloads.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The rows, in the order of the payloads.
    pub batch: RecordBatch,
    /// For each row the index of its payload.
    pub rows: Vec<u32>,
    /// The payloads that have no row.
    pub rejected: Vec<Rejected>,
}

/// A payload that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its index.
    pub record: u32,
    /// Why, for a human.
    pub reason: String,
}

/// A column that has no JSON form here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column \"{column}\" has type {data_type}, which can not be read from JSON")]
pub struct UnsupportedColumn {
    /// Its name.
    pub column: String,
    /// Its type.
    pub data_type: DataType,
}

impl Classified for UnsupportedColumn {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Unsupported
    }

    fn hint(&self) -> Option<String> {
        Some("use an integer, a float, DECIMAL, BOOLEAN, TEXT, DATE, TIME or TIMESTAMP".to_owned())
    }
}

/// Decodes JSON objects into columns.
///
/// | column | JSON |
/// |---|---|
/// | integer | a number without fraction that fits, also `12.0` and `1e3` |
/// | float | a number that fits |
/// | decimal | a number, or a number as text; rounded half away from zero |
/// | boolean | `true`, `false` |
/// | text | text |
/// | timestamp | ISO-8601 text (without a zone: UTC) or an integer of epoch milliseconds |
/// | date, time | ISO-8601 text |
///
/// `null` and a missing field are null, or a reason to reject where the column has no nulls.
/// Fields without a column are passed over; a field that occurs twice is rejected.
#[derive(Debug)]
pub struct Decoder {
    schema: SchemaRef,
    builders: Vec<Builder>,
    /// Columns by name.
    names: HashMap<Box<str>, usize>,
    /// The names of the last record, as they stood there, and their columns.
    shape: Vec<(Box<str>, Option<usize>)>,
    scratch: Vec<u8>,
}

enum Failure {
    Syntax(SyntaxError),
    Field(usize, Fault),
    Twice(usize),
    Missing(usize),
    Plain(&'static str),
}

impl From<SyntaxError> for Failure {
    fn from(error: SyntaxError) -> Self {
        Self::Syntax(error)
    }
}

impl Decoder {
    /// A decoder for some columns.
    pub fn new(fields: &[Field]) -> Result<Self, UnsupportedColumn> {
        let builders = fields.iter().map(Builder::new).collect::<Result<_, _>>()?;
        let names = fields.iter().enumerate().map(|(i, f)| (f.name().as_str().into(), i)).collect();
        let schema = Arc::new(Schema::new(fields.to_vec()));
        Ok(Self { schema, builders, names, shape: Vec::new(), scratch: Vec::new() })
    }

    /// The columns that batches have.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes payloads. A `None` is a tombstone, which is rejected.
    pub fn decode(&mut self, payloads: &[Option<&[u8]>]) -> Decoded {
        let mut rows = Vec::with_capacity(payloads.len());
        let mut rejected = Vec::new();
        for builder in &mut self.builders {
            builder.reserve(payloads.len());
        }
        for (record, payload) in payloads.iter().enumerate() {
            let record = record as u32;
            match self.payload(*payload, rows.len()) {
                Ok(()) => rows.push(record),
                Err(failure) => {
                    for builder in &mut self.builders {
                        builder.truncate(rows.len());
                    }
                    rejected.push(Rejected { record, reason: self.reason(&failure) });
                }
            }
        }
        let columns = self.builders.iter_mut().map(Builder::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .expect("every builder has a value a row, and nulls only where they are allowed");
        Decoded { batch, rows, rejected }
    }

    fn payload(&mut self, payload: Option<&[u8]>, row: usize) -> Result<(), Failure> {
        let bytes = payload.ok_or(Failure::Plain("a record without a value (tombstone)"))?;
        let text =
            std::str::from_utf8(bytes).map_err(|_| Failure::Plain("not JSON: not UTF-8 text"))?;
        let mut cursor = Cursor::new(text);
        if !cursor.take(b'{') {
            let what = if cursor.at_end() { "it is empty" } else { "expected an object" };
            return Ok(cursor.error(what)?);
        }
        if !cursor.take(b'}') {
            self.members(&mut cursor, row)?;
        }
        if !cursor.at_end() {
            return Ok(cursor.error("something follows the object")?);
        }
        for (column, builder) in self.builders.iter_mut().enumerate() {
            if builder.len() == row && !builder.push_null() {
                return Err(Failure::Missing(column));
            }
        }
        Ok(())
    }

    fn members(&mut self, cursor: &mut Cursor<'_>, row: usize) -> Result<(), Failure> {
        for position in 0.. {
            if cursor.peek() != b'"' {
                return Ok(cursor.error("expected a name")?);
            }
            let (name, escapes) = cursor.raw_text()?;
            let column = match self.shape.get(position) {
                Some((last, column)) if **last == *name => *column,
                _ => self.column_of(cursor, name, escapes, position)?,
            };
            if !cursor.take(b':') {
                return Ok(cursor.error("expected :")?);
            }
            match column {
                None => cursor.skip(1)?,
                Some(column) if self.builders[column].len() > row => {
                    return Err(Failure::Twice(column));
                }
                Some(column) => {
                    let pushed = self.builders[column].push(cursor, &mut self.scratch);
                    pushed.map_err(|fault| match fault {
                        Fault::Syntax(error) => Failure::Syntax(error),
                        fault => Failure::Field(column, fault),
                    })?;
                }
            }
            if cursor.take(b'}') {
                return Ok(());
            }
            if !cursor.take(b',') {
                return Ok(cursor.error("expected , or }")?);
            }
        }
        Ok(())
    }

    #[cold]
    fn column_of(
        &mut self,
        cursor: &Cursor<'_>,
        name: &str,
        escapes: bool,
        position: usize,
    ) -> Result<Option<usize>, SyntaxError> {
        let column = if escapes {
            self.scratch.clear();
            cursor.unescape(name, &mut self.scratch)?;
            std::str::from_utf8(&self.scratch).ok().and_then(|name| self.names.get(name)).copied()
        } else {
            self.names.get(name).copied()
        };
        let entry = (Box::from(name), column);
        if let Some(place) = self.shape.get_mut(position) {
            *place = entry;
        } else if position == self.shape.len() && position < SHAPE_MAX {
            self.shape.push(entry);
        }
        Ok(column)
    }

    fn reason(&self, failure: &Failure) -> String {
        let name = |column: usize| self.schema.field(column).name();
        match failure {
            Failure::Syntax(error) => error.to_string(),
            Failure::Field(column, fault) => format!("field \"{}\": {fault}", name(*column)),
            Failure::Twice(column) => format!("field \"{}\" occurs twice", name(*column)),
            Failure::Missing(column) => format!("field \"{}\" is missing", name(*column)),
            Failure::Plain(reason) => (*reason).to_owned(),
        }
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
