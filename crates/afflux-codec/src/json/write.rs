//! Rows to objects.
//!
//! The same row is always the same text: fields in column order, no white space, times in
//! ISO-8601 with `Z`, decimals and all integers as plain numbers, floats as the shortest number
//! that reads back alike. Not-a-number and the infinities, which JSON lacks, are the texts
//! `"NaN"`, `"Infinity"` and `"-Infinity"`; bytes are hexadecimal text.

use std::fmt::Write;

use arrow::{
    array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, RecordBatch},
    compute::cast,
    datatypes::{
        DataType, Date32Type, Date64Type, Decimal128Type, Float32Type, Float64Type, Int8Type,
        Int16Type, Int32Type, Int64Type, Time32MillisecondType, Time32SecondType,
        Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType,
        TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
        UInt16Type, UInt32Type, UInt64Type,
    },
    util::display::{ArrayFormatter, FormatOptions},
};

use crate::text;

/// One object a row.
pub fn rows(batch: &RecordBatch) -> Vec<String> {
    let writer = RowWriter::new(batch);
    (0..batch.num_rows())
        .map(|row| {
            let mut out = String::new();
            writer.write(row, &mut out);
            out
        })
        .collect()
}

/// Writes rows of one batch as objects.
pub struct RowWriter {
    /// `"name":` and what writes the value.
    columns: Vec<(String, Cell)>,
}

type Cell = Box<dyn Fn(usize, &mut String) + Send>;

impl RowWriter {
    /// A writer for a batch's rows.
    pub fn new(batch: &RecordBatch) -> Self {
        let columns = batch.schema_ref().fields().iter().zip(batch.columns());
        let columns = columns.map(|(field, array)| {
            let mut name = String::new();
            write_text(field.name(), &mut name);
            name.push(':');
            (name, cell(array))
        });
        Self { columns: columns.collect() }
    }

    /// Appends a row's object.
    pub fn write(&self, row: usize, out: &mut String) {
        out.push('{');
        for (index, (name, cell)) in self.columns.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            out.push_str(name);
            cell(row, out);
        }
        out.push('}');
    }
}

/// What writes an array's values. The array's type is looked at once.
fn cell(array: &ArrayRef) -> Cell {
    let value = present(array);
    let Some(nulls) = array.logical_nulls() else {
        return value;
    };
    Box::new(move |row, out| {
        if nulls.is_null(row) {
            out.push_str("null");
        } else {
            value(row, out);
        }
    })
}

fn present(array: &ArrayRef) -> Cell {
    match array.data_type() {
        DataType::Boolean => {
            let array = array.as_boolean().clone();
            Box::new(move |row, out| out.push_str(if array.value(row) { "true" } else { "false" }))
        }
        DataType::Int8 => number::<Int8Type>(array),
        DataType::Int16 => number::<Int16Type>(array),
        DataType::Int32 => number::<Int32Type>(array),
        DataType::Int64 => number::<Int64Type>(array),
        DataType::UInt8 => number::<UInt8Type>(array),
        DataType::UInt16 => number::<UInt16Type>(array),
        DataType::UInt32 => number::<UInt32Type>(array),
        DataType::UInt64 => number::<UInt64Type>(array),
        DataType::Float32 => primitive::<Float32Type>(array, |value, out| {
            write_float(&value, f64::from(value), out);
        }),
        DataType::Float64 => primitive::<Float64Type>(array, |value, out| {
            write_float(&value, value, out);
        }),
        DataType::Decimal128(_, scale) => {
            let scale = *scale;
            primitive::<Decimal128Type>(array, move |v, out| text::write_decimal(v, scale, out))
        }
        DataType::Timestamp(unit, _) => {
            let unit = *unit;
            let write = move |value, out: &mut String| {
                quoted(out, |out| text::write_timestamp(value, unit, out));
            };
            match unit {
                TimeUnit::Second => primitive::<TimestampSecondType>(array, write),
                TimeUnit::Millisecond => primitive::<TimestampMillisecondType>(array, write),
                TimeUnit::Microsecond => primitive::<TimestampMicrosecondType>(array, write),
                TimeUnit::Nanosecond => primitive::<TimestampNanosecondType>(array, write),
            }
        }
        DataType::Date32 => primitive::<Date32Type>(array, |days, out| {
            quoted(out, |out| text::write_date(i64::from(days), out));
        }),
        DataType::Date64 => primitive::<Date64Type>(array, |millis, out| {
            quoted(out, |out| text::write_date(millis.div_euclid(86_400_000), out));
        }),
        DataType::Time32(TimeUnit::Second) => time::<Time32SecondType>(array, TimeUnit::Second),
        DataType::Time32(_) => time::<Time32MillisecondType>(array, TimeUnit::Millisecond),
        DataType::Time64(TimeUnit::Microsecond) => {
            time::<Time64MicrosecondType>(array, TimeUnit::Microsecond)
        }
        DataType::Time64(_) => time::<Time64NanosecondType>(array, TimeUnit::Nanosecond),
        _ => variable(array),
    }
}

fn variable(array: &ArrayRef) -> Cell {
    match array.data_type() {
        DataType::Utf8 => {
            let array = array.as_string::<i32>().clone();
            Box::new(move |row, out| write_text(array.value(row), out))
        }
        DataType::Utf8View => {
            let array = array.as_string_view().clone();
            Box::new(move |row, out| write_text(array.value(row), out))
        }
        DataType::LargeUtf8 => {
            let array = array.as_string::<i64>().clone();
            Box::new(move |row, out| write_text(array.value(row), out))
        }
        DataType::Binary => {
            let array = array.as_binary::<i32>().clone();
            Box::new(move |row, out| write_bytes(array.value(row), out))
        }
        DataType::BinaryView => {
            let array = array.as_binary_view().clone();
            Box::new(move |row, out| write_bytes(array.value(row), out))
        }
        DataType::LargeBinary => {
            let array = array.as_binary::<i64>().clone();
            Box::new(move |row, out| write_bytes(array.value(row), out))
        }
        DataType::List(_) => {
            let array = array.as_list::<i32>();
            let (offsets, inner) = (array.offsets().clone(), cell(array.values()));
            Box::new(move |row, out| {
                let range = offsets[row] as usize..offsets[row + 1] as usize;
                out.push('[');
                for (index, element) in range.enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    inner(element, out);
                }
                out.push(']');
            })
        }
        DataType::Struct(_) => {
            let writer = RowWriter::new(&RecordBatch::from(array.as_struct()));
            Box::new(move |row, out| writer.write(row, out))
        }
        DataType::Dictionary(_, values) => match cast(array, values) {
            Ok(plain) => present(&plain),
            Err(_) => display(array),
        },
        _ => display(array),
    }
}

/// What has no form of its own, such as intervals, is Arrow's text.
fn display(array: &ArrayRef) -> Cell {
    let array = array.clone();
    Box::new(move |row, out| {
        let options = FormatOptions::default();
        match ArrayFormatter::try_new(&array, &options) {
            Ok(formatter) => write_text(&formatter.value(row).to_string(), out),
            Err(_) => out.push_str("null"),
        }
    })
}

fn primitive<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    write: impl Fn(T::Native, &mut String) + Send + 'static,
) -> Cell {
    let array = array.as_primitive::<T>().clone();
    Box::new(move |row, out| write(array.value(row), out))
}

fn number<T: ArrowPrimitiveType>(array: &ArrayRef) -> Cell
where
    T::Native: std::fmt::Display,
{
    primitive::<T>(array, |value, out| {
        // Writing to a string can not fail.
        let _ = write!(out, "{value}");
    })
}

fn time<T: ArrowPrimitiveType>(array: &ArrayRef, unit: TimeUnit) -> Cell
where
    T::Native: Into<i64>,
{
    primitive::<T>(array, move |value, out| {
        quoted(out, |out| text::write_time_of_day(value.into(), unit, out));
    })
}

fn write_float(value: &impl std::fmt::Debug, wide: f64, out: &mut String) {
    if wide.is_finite() {
        let _ = write!(out, "{value:?}");
    } else if wide.is_nan() {
        out.push_str("\"NaN\"");
    } else {
        out.push_str(if wide > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
    }
}

fn quoted(out: &mut String, write: impl FnOnce(&mut String)) {
    out.push('"');
    write(out);
    out.push('"');
}

fn write_bytes(bytes: &[u8], out: &mut String) {
    quoted(out, |out| {
        for byte in bytes {
            let _ = write!(out, "{byte:02x}");
        }
    });
}

fn write_text(text: &str, out: &mut String) {
    out.push('"');
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[plain..at]);
        plain = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            other => {
                let _ = write!(out, "\\u{other:04x}");
            }
        }
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, Decimal128Array, Float64Array, Int64Array, NullArray, StringArray,
        TimestampMillisecondArray,
    };

    use super::*;

    #[test]
    fn values_are_written_stably() {
        let check = |array: ArrayRef, expected: &str| {
            let batch = RecordBatch::try_from_iter([("a\"b", array)]).unwrap();
            assert_eq!(rows(&batch), [format!("{{\"a\\\"b\":{expected}}}")]);
        };
        check(Arc::new(Int64Array::from(vec![i64::MIN])), "-9223372036854775808");
        check(Arc::new(Int64Array::from(vec![None])), "null");
        check(Arc::new(NullArray::new(1)), "null");
        check(Arc::new(Float64Array::from(vec![1.0])), "1.0");
        check(Arc::new(Float64Array::from(vec![0.1])), "0.1");
        check(Arc::new(Float64Array::from(vec![1e300])), "1e300");
        check(Arc::new(Float64Array::from(vec![f64::NAN])), "\"NaN\"");
        check(Arc::new(Float64Array::from(vec![f64::NEG_INFINITY])), "\"-Infinity\"");
        let text = "a\"\\\n\u{1}é😀";
        check(Arc::new(StringArray::from(vec![text])), "\"a\\\"\\\\\\n\\u0001é😀\"");
        check(Arc::new(BinaryArray::from(vec![b"\x00\xff".as_slice()])), "\"00ff\"");
        let time = |ms| TimestampMillisecondArray::from(vec![ms]);
        check(Arc::new(time(1_357_035_420_000)), "\"2013-01-01T10:17:00Z\"");
        check(Arc::new(time(-1).with_timezone("UTC")), "\"1969-12-31T23:59:59.999Z\"");
        let decimal = |value| Decimal128Array::from(vec![value]).with_precision_and_scale(38, 2);
        check(Arc::new(decimal(-5i128).unwrap()), "-0.05");
        check(Arc::new(decimal(12345i128).unwrap()), "123.45");
        check(Arc::new(StringArray::from(vec!["x"]).slice(0, 1)), "\"x\"");
    }
}
