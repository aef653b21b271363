//! CSV files to columns: what `CREATE TABLE` loads.
//!
//! RFC 4180: quotes around fields, doubled inside, line breaks within quotes. All rows have as
//! many fields as the first. A field that equals the null text is null, quoted or not. A file is
//! taken whole or not at all: the error names the line.
//!
//! Without columns, types are inferred from all rows: the first of `Int64`, `Float64`, `Boolean`,
//! `Date32`, `Timestamp(ms, UTC)` and `Utf8` that every value of the column is. Numbers with
//! leading zeros are text, for postcodes and the like. A column without values is text.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use afflux_types::{Classified, ErrorKind};
use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Float32Array,
        Float64Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray, UInt64Array,
        make_array,
    },
    compute::cast,
    datatypes::{DataType, Field, Float32Type, Float64Type, Schema, TimeUnit},
    error::ArrowError,
    row::{RowConverter, SortField},
};
use csv::{ByteRecord, ReaderBuilder};

use crate::text;

/// How a file is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    /// Whether the first line has the columns' names.
    pub header: bool,
    /// What stands between fields.
    pub delimiter: u8,
    /// The text that means null.
    pub null: String,
}

impl Default for Format {
    fn default() -> Self {
        Self { header: true, delimiter: b',', null: String::new() }
    }
}

/// A file that can not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsvError {
    /// The text is not CSV.
    #[error("line {line}: {reason}")]
    Syntax {
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A value is not of its column's type.
    #[error("line {line}, column \"{column}\": \"{value}\" is not {expected}")]
    Value {
        /// The line, from 1.
        line: u64,
        /// The column's name.
        column: String,
        /// The value, its beginning at least.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A value is missing where the column has no nulls.
    #[error("line {line}, column \"{column}\": null, where the column has no nulls")]
    Null {
        /// The line, from 1.
        line: u64,
        /// The column's name.
        column: String,
    },
    /// A row whose primary key another row has.
    #[error("line {line}: the primary key {key} is on line {first} already")]
    Duplicate {
        /// The line, from 1.
        line: u64,
        /// The line of the other row.
        first: u64,
        /// The key's values as they stand in the file, their beginning at least.
        key: String,
    },
    /// The header or the first row has other columns than were declared, or two of one name.
    #[error("{reason}")]
    Columns {
        /// What differs.
        reason: String,
    },
    /// A declared type that CSV is not read into.
    #[error("column \"{column}\" has type {data_type}, which can not be read from CSV")]
    Unsupported {
        /// The column's name.
        column: String,
        /// Its type.
        data_type: DataType,
    },
}

impl Classified for CsvError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            _ => ErrorKind::Invalid,
        }
    }
}

/// Reads a file. `columns`: names and types, in the file's order; with a header the names have to
/// be those of the header, whatever their case. None: names from the header (else, and where it
/// has none, `column_1`, …), types inferred. `key`: columns that have to identify a row, if any.
pub fn read(
    bytes: &[u8],
    columns: Option<&[Field]>,
    key: &[usize],
    format: &Format,
) -> Result<RecordBatch, CsvError> {
    // Excel begins UTF-8 files with a byte order mark.
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut rows = rows(bytes, format)?;
    let header = if format.header && !rows.is_empty() { Some(rows.remove(0)) } else { None };
    let width = header.as_ref().or(rows.first()).map_or(0, |row| row.fields.len());
    let names: Option<Vec<String>> = header.map(|row| row.fields);
    if let Some(columns) = columns {
        check_columns(columns, names.as_deref(), width)?;
    }
    let null = format.null.as_str();
    let fields: Vec<Field> = match columns {
        Some(columns) => columns.to_vec(),
        None => (0..width)
            .map(|index| {
                let name = names.as_ref().map(|names| names[index].clone());
                let name = name.filter(|name| !name.is_empty());
                let name = name.unwrap_or_else(|| format!("column_{}", index + 1));
                let values = rows.iter().map(|row| row.fields[index].as_str());
                Field::new(name, infer(values.filter(|value| *value != null)), true)
            })
            .collect(),
    };
    let mut names = HashSet::new();
    if let Some(field) = fields.iter().find(|field| !names.insert(field.name())) {
        let reason = format!("there are two columns \"{}\"", field.name());
        return Err(CsvError::Columns { reason });
    }
    let arrays = fields
        .iter()
        .enumerate()
        .map(|(index, field)| column(field, index, &rows, null))
        .collect::<Result<Vec<_>, _>>()?;
    check_key(key, &arrays, &rows)?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
        .map_err(faulty)
}

/// Whether each row's key is its own. Equal values may be different texts.
fn check_key(key: &[usize], arrays: &[ArrayRef], rows: &[CsvRow]) -> Result<(), CsvError> {
    if key.is_empty() {
        return Ok(());
    }
    let columns: Vec<_> = key.iter().map(|&column| without_minus_zero(&arrays[column])).collect();
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let keys = RowConverter::new(fields).and_then(|converter| converter.convert_columns(&columns));
    let keys = keys.map_err(faulty)?;
    let mut seen: HashMap<&[u8], usize> = HashMap::new();
    for row in 0..rows.len() {
        if let Some(first) = seen.insert(keys.row(row).data(), row) {
            let values: Vec<_> = key.iter().map(|&at| clipped(&rows[row].fields[at])).collect();
            let key = format!("({})", values.join(", "));
            return Err(CsvError::Duplicate { line: rows[row].line, first: rows[first].line, key });
        }
    }
    Ok(())
}

/// Of floats, -0 is 0: equal values have equal bytes then.
fn without_minus_zero(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float32 => Arc::new(
            array.as_primitive::<Float32Type>().unary::<_, Float32Type>(|value| value + 0.0),
        ),
        DataType::Float64 => Arc::new(
            array.as_primitive::<Float64Type>().unary::<_, Float64Type>(|value| value + 0.0),
        ),
        _ => Arc::clone(array),
    }
}

/// Errors quote the beginning of a value only.
fn clipped(value: &str) -> String {
    value.chars().take(60).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` wants it")]
fn faulty(error: ArrowError) -> CsvError {
    CsvError::Columns { reason: error.to_string() }
}

struct CsvRow {
    line: u64,
    fields: Vec<String>,
}

fn rows(bytes: &[u8], format: &Format) -> Result<Vec<CsvRow>, CsvError> {
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(format.delimiter)
        .from_reader(bytes);
    let mut rows: Vec<CsvRow> = Vec::new();
    let mut record = ByteRecord::new();
    loop {
        let more = reader.read_byte_record(&mut record);
        let line = record.position().map_or(1, |position| line_of(bytes, position));
        match more {
            Ok(true) => {}
            Ok(false) => return Ok(rows),
            Err(error) => return Err(CsvError::Syntax { line, reason: error.to_string() }),
        }
        let text = |field: &[u8]| std::str::from_utf8(field).map(str::to_owned);
        let fields = record.iter().map(text).collect::<Result<Vec<_>, _>>();
        let fields = fields
            .map_err(|_| CsvError::Syntax { line, reason: "it is not UTF-8 text".to_owned() })?;
        if let Some(first) = rows.first()
            && first.fields.len() != fields.len()
        {
            let (found, expected) = (fields.len(), first.fields.len());
            let reason = format!("it has {found} fields, but line {} has {expected}", first.line);
            return Err(CsvError::Syntax { line, reason });
        }
        rows.push(CsvRow { line, fields });
    }
}

/// The line of a record, whose position is before any empty lines that were passed over.
fn line_of(bytes: &[u8], position: &csv::Position) -> u64 {
    let rest = usize::try_from(position.byte()).ok().and_then(|at| bytes.get(at..));
    let empty = rest.unwrap_or_default().iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
    position.line() + empty.filter(|byte| **byte == b'\n').count() as u64
}

fn check_columns(
    columns: &[Field],
    names: Option<&[String]>,
    width: usize,
) -> Result<(), CsvError> {
    let wanted = || columns.iter().map(|c| c.name().as_str()).collect::<Vec<_>>().join(", ");
    if let Some(names) = names {
        let same = |(column, name): (&Field, &String)| column.name().eq_ignore_ascii_case(name);
        if names.len() == columns.len() && columns.iter().zip(names).all(same) {
            return Ok(());
        }
        let found = names.join(", ");
        let reason = format!("the header has {found}; the table has {}", wanted());
        return Err(CsvError::Columns { reason });
    }
    if width != 0 && width != columns.len() {
        let reason = format!("the rows have {width} fields; the table has {}", wanted());
        return Err(CsvError::Columns { reason });
    }
    Ok(())
}

fn infer<'a>(values: impl Iterator<Item = &'a str>) -> DataType {
    type Test = fn(&str) -> bool;
    let candidates: [(DataType, Test); 5] = [
        (DataType::Int64, |value| plain_number(value) && value.parse::<i64>().is_ok()),
        (DataType::Float64, |value| plain_number(value) && float(value).is_some()),
        (DataType::Boolean, |value| boolean(value).is_some()),
        (DataType::Date32, |value| text::date(value.as_bytes()).is_some()),
        (time_type(), |value| millis(value).is_some()),
    ];
    let mut possible = [true; 5];
    let mut any = false;
    for value in values {
        any = true;
        for (possible, (_, test)) in possible.iter_mut().zip(&candidates) {
            *possible = *possible && test(value);
        }
    }
    let first = candidates.into_iter().zip(possible).find(|(_, possible)| any && *possible);
    first.map_or(DataType::Utf8, |((data_type, _), _)| data_type)
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// Digits with a sign, a point and an exponent at most, and no leading zero before a digit.
fn plain_number(value: &str) -> bool {
    let digits = value.strip_prefix(['-', '+']).unwrap_or(value).as_bytes();
    let padded = digits.len() > 1 && digits[0] == b'0' && digits[1].is_ascii_digit();
    digits.first().is_some_and(u8::is_ascii_digit)
        && !padded
        && digits.iter().all(|b| b.is_ascii_digit() || b".eE+-".contains(b))
}

fn float(value: &str) -> Option<f64> {
    value.parse::<f64>().ok().filter(|value| value.is_finite())
}

fn boolean(value: &str) -> Option<bool> {
    if value.eq_ignore_ascii_case("true") {
        return Some(true);
    }
    value.eq_ignore_ascii_case("false").then_some(false)
}

fn millis(value: &str) -> Option<i64> {
    text::timestamp(value.as_bytes(), TimeUnit::Millisecond)
}

fn column(field: &Field, index: usize, rows: &[CsvRow], null: &str) -> Result<ArrayRef, CsvError> {
    let cells = Cells { field, index, rows, null };
    let (array, integer): (ArrayRef, bool) = match field.data_type() {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            (Arc::new(cells.parse::<Int64Array, _>("an integer", |v| v.parse().ok())?), true)
        }
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
            let expected = "an integer without a sign";
            (Arc::new(cells.parse::<UInt64Array, _>(expected, |v| v.parse().ok())?), true)
        }
        DataType::Float32 => {
            let parse = |v: &str| v.parse::<f32>().ok().filter(|v| v.is_finite());
            (Arc::new(cells.parse::<Float32Array, _>("a number", parse)?), false)
        }
        DataType::Float64 => (Arc::new(cells.parse::<Float64Array, _>("a number", float)?), false),
        DataType::Boolean => {
            let expected = "true or false";
            (Arc::new(cells.parse::<BooleanArray, _>(expected, boolean)?), false)
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let texts: StringArray =
                cells.parse::<StringArray, _>("text", |value| Some(value.to_owned()))?;
            (Arc::new(texts), false)
        }
        DataType::Date32 => {
            let parse = |v: &str| text::date(v.as_bytes());
            (Arc::new(cells.parse::<Date32Array, _>("a date", parse)?), false)
        }
        DataType::Timestamp(unit, _) => {
            let parse = |v: &str| text::timestamp(v.as_bytes(), *unit);
            let counts = cells.parse::<Int64Array, _>("a time that the column holds", parse)?;
            // Not a cast: that would want a table of time zones, even for UTC.
            let data = counts.into_data().into_builder().data_type(field.data_type().clone());
            (make_array(data.build().map_err(faulty)?), false)
        }
        DataType::Decimal128(precision, scale) => {
            let limit = 10u128.pow(u32::from(*precision));
            let parse = |value: &str| {
                let number = plain_number(value) && float(value).is_some();
                let scaled = text::scaled(value.as_bytes(), i32::from(*scale), true).ok();
                scaled.filter(|value| number && value.unsigned_abs() < limit)
            };
            let array = cells.parse::<Decimal128Array, _>("a decimal that fits", parse)?;
            let array = array.with_precision_and_scale(*precision, *scale).map_err(faulty)?;
            (Arc::new(array), false)
        }
        other => {
            let (column, data_type) = (field.name().clone(), other.clone());
            return Err(CsvError::Unsupported { column, data_type });
        }
    };
    if array.data_type() == field.data_type() {
        return Ok(array);
    }
    let narrowed = cast(&array, field.data_type()).map_err(faulty)?;
    // A cast makes null of what does not fit.
    match (0..rows.len()).find(|&row| integer && narrowed.is_null(row) && array.is_valid(row)) {
        Some(row) => Err(cells.bad(row, "an integer of the column's range")),
        None => Ok(narrowed),
    }
}

/// One column of the file.
struct Cells<'a> {
    field: &'a Field,
    index: usize,
    rows: &'a [CsvRow],
    null: &'a str,
}

impl Cells<'_> {
    fn parse<A: FromIterator<Option<T>>, T>(
        &self,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<A, CsvError> {
        let cell = |(number, row): (usize, &CsvRow)| {
            let value = row.fields[self.index].as_str();
            if value != self.null {
                return parse(value).map(Some).ok_or_else(|| self.bad(number, expected));
            }
            if self.field.is_nullable() {
                return Ok(None);
            }
            Err(CsvError::Null { line: row.line, column: self.field.name().clone() })
        };
        self.rows.iter().enumerate().map(cell).collect()
    }

    fn bad(&self, row: usize, expected: &'static str) -> CsvError {
        let row = &self.rows[row];
        let value = clipped(&row.fields[self.index]);
        CsvError::Value { line: row.line, column: self.field.name().clone(), value, expected }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::rows as json;

    fn format(null: &str) -> Format {
        Format { null: null.to_owned(), ..Format::default() }
    }

    #[test]
    fn types_are_inferred_from_all_rows() {
        let check = |values: &[&str], expected: DataType| {
            let file = format!("c\n{}\n", values.join("\n"));
            let batch = read(file.as_bytes(), None, &[], &format("NA")).unwrap();
            assert_eq!(*batch.schema().field(0).data_type(), expected, "{values:?}");
            assert_eq!(batch.num_rows(), values.len());
        };
        check(&["1", "-2", "NA"], DataType::Int64);
        check(&["1", "2.5"], DataType::Float64);
        check(&["1", "1e3"], DataType::Float64);
        check(&["99999999999999999999"], DataType::Float64);
        check(&["01234"], DataType::Utf8);
        check(&["0", "0.5"], DataType::Float64);
        check(&["inf"], DataType::Utf8);
        check(&["true", "FALSE"], DataType::Boolean);
        check(&["2013-01-01"], DataType::Date32);
        check(&["2013-01-01", "2013-01-01T10:00:00Z"], time_type());
        check(&["2013-01-01 10:00"], time_type());
        check(&["1", "x"], DataType::Utf8);
        check(&["NA"], DataType::Utf8);
        check(&[], DataType::Utf8);
    }

    #[test]
    fn files_become_rows() {
        let check = |file: &str, format: &Format, expected: &[&str]| {
            let batch = read(file.as_bytes(), None, &[], format).unwrap();
            assert_eq!(json(&batch), expected, "{file:?}");
        };
        let plain = Format::default();
        check("a,b\n1,x\n2,\n", &plain, &[r#"{"a":1,"b":"x"}"#, r#"{"a":2,"b":null}"#]);
        check("\u{feff}a\r\n\"x, \"\"y\"\"\r\nz\"\r\n", &plain, &[r#"{"a":"x, \"y\"\r\nz"}"#]);
        check(",b\n1,2\n", &plain, &[r#"{"column_1":1,"b":2}"#]);
        check("a,b\n", &plain, &[]);
        check("", &plain, &[]);
        let bare = Format { header: false, delimiter: b';', null: "-".to_owned() };
        check(
            "1;x\n-;\n",
            &bare,
            &[r#"{"column_1":1,"column_2":"x"}"#, r#"{"column_1":null,"column_2":""}"#],
        );
    }

    #[test]
    fn errors_name_the_line() {
        let fields = [
            Field::new("id", DataType::Int8, false),
            Field::new("at", time_type(), true),
            Field::new("price", DataType::Decimal128(5, 2), true),
        ];
        let check = |file: &str, expected: &str| {
            let error = read(file.as_bytes(), Some(&fields), &[0], &Format::default()).unwrap_err();
            assert_eq!(error.to_string(), expected, "{file:?}");
        };
        check(
            "id,at,price\n1,,\n\n\"x\n\",,\n",
            "line 4, column \"id\": \"x\n\" is not an integer",
        );
        check(
            "id,at,price\n1,,\n300,,\n",
            "line 3, column \"id\": \"300\" is not an integer of the column's range",
        );
        check("id,at,price\n,,\n", "line 2, column \"id\": null, where the column has no nulls");
        check(
            "id,at,price\n1,soon,\n",
            "line 2, column \"at\": \"soon\" is not a time that the column holds",
        );
        check(
            "id,at,price\n1,,1e9\n",
            "line 2, column \"price\": \"1e9\" is not a decimal that fits",
        );
        check(
            "id,at,price\n1,,1x\n",
            "line 2, column \"price\": \"1x\" is not a decimal that fits",
        );
        check("id,at,price\n1,2\n", "line 2: it has 2 fields, but line 1 has 3");
        check("id,at\n1,2\n", "the header has id, at; the table has id, at, price");
        check("id,at,price\n1,,\n7,,\n07,,\n", "line 4: the primary key (07) is on line 3 already");
        let file = b"ID,At,price\n1,2013-01-01,0.125\n";
        let good = read(file, Some(&fields), &[0], &Format::default());
        assert_eq!(json(&good.unwrap()), [r#"{"id":1,"at":"2013-01-01T00:00:00Z","price":0.13}"#]);
        let error = read(b"a\n\xff\n", None, &[], &Format::default()).unwrap_err();
        assert_eq!(error.to_string(), "line 2: it is not UTF-8 text");
        let file = b"a\n0.0\n-0.0\n";
        let error = read(file, None, &[0], &Format::default()).unwrap_err();
        assert_eq!(error.to_string(), "line 3: the primary key (-0.0) is on line 2 already");
        let error = read(b"a,b,a\n", None, &[], &Format::default()).unwrap_err();
        assert_eq!(error.to_string(), "there are two columns \"a\"");
    }

    proptest! {
        #[test]
        fn any_file_is_read_or_refused(bytes: Vec<u8>, header: bool) {
            let _ = read(&bytes, None, &[], &Format { header, ..Format::default() });
        }

        // What was inferred reads the same file.
        #[test]
        fn inferred_columns_hold_their_values(rows in proptest::collection::vec("[-+0-9.eTZ: ]{0,12}", 0..8)) {
            let file = rows.iter().fold("c\n".to_owned(), |file, row| file + "\"" + row + "\"\n");
            let batch = read(file.as_bytes(), None, &[], &Format::default()).unwrap();
            let fields: Vec<Field> = batch.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
            prop_assert_eq!(read(file.as_bytes(), Some(&fields), &[], &Format::default()), Ok(batch));
        }
    }
}
