//! Arrow's values as Postgres's clients take them, in text and in binary.
//!
//! 1. [`Value::of`] reads a value off its column as what Postgres knows it by.
//! 2. It is written as Postgres 15 prints it with its default settings (`DateStyle` ISO,
//!    `IntervalStyle` postgres, `bytea_output` hex, `extra_float_digits` 1), or as its send
//!    functions lay it out, big-endian:
//!
//! ```text
//! date       days since 2000:i32
//! time       microseconds:i64
//! timestamp  microseconds since 2000:i64
//! interval   microseconds:i64 days:i32 months:i32
//! array      dimensions:i32 (0 if empty, else 1) has-nulls:i32 element-oid:i32
//!            {1: count:i32 lower-bound:i32=1} {length:i32 (-1: null) element}…
//! ```
//! Postgres counts microseconds: what a time has below that is cut off.

use std::fmt::Write;

use afflux_codec::text::{civil, per_second};
use afflux_types::ErrorKind;
use arrow::{
    array::{Array, ArrayRef, AsArray},
    datatypes::{
        ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal128Type,
        DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType,
        DurationSecondType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
        Int64Type, IntervalDayTimeType, IntervalMonthDayNanoType, IntervalUnit,
        IntervalYearMonthType, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
        Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
        TimestampNanosecondType, TimestampSecondType,
    },
};
use arrow_pg::datatypes::into_pg_type;
use bytes::{BufMut, BytesMut};
use pgwire::api::results::FieldFormat;

use super::{
    numeric::Numeric,
    parameters::{EPOCH_DAYS, EPOCH_MICROS},
};
use crate::QueryError;

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Writes one value behind its length, which is -1 for null.
pub(super) fn write(
    column: &ArrayRef,
    row: usize,
    format: FieldFormat,
    out: &mut BytesMut,
) -> Result<(), QueryError> {
    let at = out.len();
    out.put_i32(-1);
    let Some(value) = Value::of(column, row)? else { return Ok(()) };
    match format {
        FieldFormat::Text => value.text(out)?,
        FieldFormat::Binary => value.binary(out)?,
    }
    let length = i32::try_from(out.len() - at - 4).map_err(|_| too_long())?;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

fn too_long() -> QueryError {
    QueryError::new(ErrorKind::Full, "a value is longer than 2 GiB").with_sqlstate("54000")
}

fn out_of_range(what: &str) -> QueryError {
    QueryError::invalid(format!("{what} is out of Postgres's range"))
        .with_sqlstate("22008")
        .with_hint("cast it to TEXT to see it")
}

/// A value that is there.
enum Value<'a> {
    Bool(bool),
    Int2(i16),
    Int4(i32),
    Int8(i64),
    Float4(f32),
    Float8(f64),
    Numeric(Numeric),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Days since 1970.
    Date(i64),
    /// Microseconds since midnight.
    Time(i64),
    /// Since 1970; with a zone it is shown in UTC.
    Timestamp {
        seconds: i64,
        micros: i64,
        zone: bool,
    },
    Interval {
        months: i32,
        days: i32,
        micros: i64,
    },
    Array(ArrayRef),
}

fn primitive<T: ArrowPrimitiveType>(column: &ArrayRef, row: usize) -> T::Native {
    column.as_primitive::<T>().value(row)
}

impl<'a> Value<'a> {
    /// The value in a row; none if it is null.
    fn of(column: &'a ArrayRef, row: usize) -> Result<Option<Self>, QueryError> {
        if column.is_null(row) {
            return Ok(None);
        }
        Ok(Some(match column.data_type() {
            DataType::Null => return Ok(None),
            DataType::Boolean => Self::Bool(column.as_boolean().value(row)),
            DataType::Int8 => Self::Int2(primitive::<Int8Type>(column, row).into()),
            DataType::Int16 => Self::Int2(primitive::<Int16Type>(column, row)),
            DataType::Int32 => Self::Int4(primitive::<Int32Type>(column, row)),
            DataType::Int64 => Self::Int8(primitive::<Int64Type>(column, row)),
            DataType::Float16 => Self::Float4(primitive::<Float16Type>(column, row).into()),
            DataType::Float32 => Self::Float4(primitive::<Float32Type>(column, row)),
            DataType::Float64 => Self::Float8(primitive::<Float64Type>(column, row)),
            DataType::Decimal128(_, scale) => {
                let value = primitive::<Decimal128Type>(column, row);
                Self::Numeric(Numeric { value, scale: *scale })
            }
            DataType::Utf8 => Self::Text(column.as_string::<i32>().value(row)),
            DataType::LargeUtf8 => Self::Text(column.as_string::<i64>().value(row)),
            DataType::Utf8View => Self::Text(column.as_string_view().value(row)),
            DataType::Binary => Self::Bytes(column.as_binary::<i32>().value(row)),
            DataType::LargeBinary => Self::Bytes(column.as_binary::<i64>().value(row)),
            DataType::BinaryView => Self::Bytes(column.as_binary_view().value(row)),
            DataType::FixedSizeBinary(_) => Self::Bytes(column.as_fixed_size_binary().value(row)),
            DataType::Date32 => Self::Date(primitive::<Date32Type>(column, row).into()),
            DataType::Date64 => {
                let millis = primitive::<Date64Type>(column, row);
                Self::Date(millis.div_euclid(SECONDS_PER_DAY * 1_000))
            }
            DataType::Time32(unit) | DataType::Time64(unit) => Self::time(column, row, *unit),
            DataType::Timestamp(unit, zone) => Self::timestamp(column, row, *unit, zone.is_some()),
            DataType::Interval(unit) => Self::interval(column, row, *unit),
            DataType::Duration(unit) => Self::duration(column, row, *unit)?,
            DataType::List(_) => Self::Array(column.as_list::<i32>().value(row)),
            DataType::LargeList(_) => Self::Array(column.as_list::<i64>().value(row)),
            DataType::FixedSizeList(..) => Self::Array(column.as_fixed_size_list().value(row)),
            other => return Err(QueryError::internal(format!("{other} is not sent as it is"))),
        }))
    }

    fn time(column: &ArrayRef, row: usize, unit: TimeUnit) -> Self {
        Self::Time(match unit {
            TimeUnit::Second => {
                i64::from(primitive::<Time32SecondType>(column, row)) * MICROS_PER_SECOND
            }
            TimeUnit::Millisecond => {
                i64::from(primitive::<Time32MillisecondType>(column, row)) * 1_000
            }
            TimeUnit::Microsecond => primitive::<Time64MicrosecondType>(column, row),
            TimeUnit::Nanosecond => primitive::<Time64NanosecondType>(column, row) / 1_000,
        })
    }

    fn timestamp(column: &ArrayRef, row: usize, unit: TimeUnit, zone: bool) -> Self {
        let value = match unit {
            TimeUnit::Second => primitive::<TimestampSecondType>(column, row),
            TimeUnit::Millisecond => primitive::<TimestampMillisecondType>(column, row),
            TimeUnit::Microsecond => primitive::<TimestampMicrosecondType>(column, row),
            TimeUnit::Nanosecond => primitive::<TimestampNanosecondType>(column, row),
        };
        let scale = per_second(unit);
        let micros = value.rem_euclid(scale) * MICROS_PER_SECOND / scale;
        Self::Timestamp { seconds: value.div_euclid(scale), micros, zone }
    }

    fn interval(column: &ArrayRef, row: usize, unit: IntervalUnit) -> Self {
        match unit {
            IntervalUnit::YearMonth => {
                let months = primitive::<IntervalYearMonthType>(column, row);
                Self::Interval { months, days: 0, micros: 0 }
            }
            IntervalUnit::DayTime => {
                let value = primitive::<IntervalDayTimeType>(column, row);
                let micros = i64::from(value.milliseconds) * 1_000;
                Self::Interval { months: 0, days: value.days, micros }
            }
            IntervalUnit::MonthDayNano => {
                let value = primitive::<IntervalMonthDayNanoType>(column, row);
                let micros = value.nanoseconds / 1_000;
                Self::Interval { months: value.months, days: value.days, micros }
            }
        }
    }

    fn duration(column: &ArrayRef, row: usize, unit: TimeUnit) -> Result<Self, QueryError> {
        let micros = match unit {
            TimeUnit::Second => {
                primitive::<DurationSecondType>(column, row).checked_mul(MICROS_PER_SECOND)
            }
            TimeUnit::Millisecond => {
                primitive::<DurationMillisecondType>(column, row).checked_mul(1_000)
            }
            TimeUnit::Microsecond => Some(primitive::<DurationMicrosecondType>(column, row)),
            TimeUnit::Nanosecond => Some(primitive::<DurationNanosecondType>(column, row) / 1_000),
        };
        let micros = micros.ok_or_else(|| out_of_range("a duration"))?;
        Ok(Self::Interval { months: 0, days: 0, micros })
    }

    // What is written to memory can not fail.
    fn text(&self, out: &mut BytesMut) -> Result<(), QueryError> {
        let _ = match self {
            Self::Bool(value) => out.write_str(if *value { "t" } else { "f" }),
            Self::Int2(value) => write!(out, "{value}"),
            Self::Int4(value) => write!(out, "{value}"),
            Self::Int8(value) => write!(out, "{value}"),
            Self::Float4(value) => {
                out.write_str(&float(value, value.is_finite(), f32::DIGITS as i32))
            }
            Self::Float8(value) => {
                out.write_str(&float(value, value.is_finite(), f64::DIGITS as i32))
            }
            Self::Numeric(value) => out.write_str(&value.text()),
            Self::Text(value) => out.write_str(value),
            Self::Bytes(value) => {
                out.put_slice(b"\\x");
                value.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
            }
            Self::Date(days) => out.write_str(&date(*days, "")),
            Self::Time(micros) => clock(*micros, out),
            Self::Timestamp { seconds, micros, zone } => {
                let mut of_day = String::from(" ");
                let second = seconds.rem_euclid(SECONDS_PER_DAY);
                let _ = clock(second * MICROS_PER_SECOND + micros, &mut of_day);
                of_day.push_str(if *zone { "+00" } else { "" });
                out.write_str(&date(seconds.div_euclid(SECONDS_PER_DAY), &of_day))
            }
            Self::Interval { months, days, micros } => interval(*months, *days, *micros, out),
            Self::Array(elements) => return array_text(elements, out),
        };
        Ok(())
    }

    fn binary(&self, out: &mut BytesMut) -> Result<(), QueryError> {
        match self {
            Self::Bool(value) => out.put_u8(u8::from(*value)),
            Self::Int2(value) => out.put_i16(*value),
            Self::Int4(value) => out.put_i32(*value),
            Self::Int8(value) | Self::Time(value) => out.put_i64(*value),
            Self::Float4(value) => out.put_f32(*value),
            Self::Float8(value) => out.put_f64(*value),
            Self::Numeric(value) => value.binary(out),
            Self::Text(value) => out.put_slice(value.as_bytes()),
            Self::Bytes(value) => out.put_slice(value),
            Self::Date(days) => {
                let days = i32::try_from(days - i64::from(EPOCH_DAYS));
                out.put_i32(days.map_err(|_| out_of_range("a date"))?);
            }
            Self::Timestamp { seconds, micros, .. } => {
                let since_2000 = (seconds.checked_mul(MICROS_PER_SECOND))
                    .and_then(|whole| whole.checked_add(*micros)?.checked_sub(EPOCH_MICROS));
                out.put_i64(since_2000.ok_or_else(|| out_of_range("a timestamp"))?);
            }
            Self::Interval { months, days, micros } => {
                out.put_i64(*micros);
                out.put_i32(*days);
                out.put_i32(*months);
            }
            Self::Array(elements) => return array_binary(elements, out),
        }
        Ok(())
    }
}

/// The shortest digits that read back alike; with an exponent where there would be more than
/// `digits` of them in front of the point, or more than four zeros behind it.
fn float(
    value: &(impl std::fmt::Display + std::fmt::LowerExp),
    finite: bool,
    digits: i32,
) -> String {
    if !finite {
        return value.to_string().replace("inf", "Infinity");
    }
    let scientific = format!("{value:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(exponent) if exponent < -4 || exponent >= digits => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => value.to_string(),
    }
}

/// A day, then what is said of its time. Years before the first are counted backwards.
fn date(days: i64, of_day: &str) -> String {
    let (year, month, day) = civil(days);
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    format!("{year:04}-{month:02}-{day:02}{of_day}{era}")
}

/// `10:17:00.5`: no more of the fraction than it needs.
fn clock(micros: i64, out: &mut impl Write) -> std::fmt::Result {
    let (seconds, fraction) = (micros / MICROS_PER_SECOND, micros % MICROS_PER_SECOND);
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    write!(out, "{hours:02}:{minutes:02}:{seconds:02}")?;
    if fraction == 0 {
        return Ok(());
    }
    out.write_str(format!(".{fraction:06}").trim_end_matches('0'))
}

/// `1 year 2 mons -3 days +04:05:06`: each part with its own sign, which is said again where it
/// changes.
fn interval(months: i32, days: i32, micros: i64, out: &mut BytesMut) -> std::fmt::Result {
    let (mut gap, mut negative) = ("", false);
    for (count, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if count != 0 {
            let plus = if negative && count > 0 { "+" } else { "" };
            let plural = if count == 1 { "" } else { "s" };
            write!(out, "{gap}{plus}{count} {unit}{plural}")?;
            (gap, negative) = (" ", count < 0);
        }
    }
    if micros == 0 && !gap.is_empty() {
        return Ok(());
    }
    let sign = match (micros < 0, negative) {
        (true, _) => "-",
        (false, true) => "+",
        (false, false) => "",
    };
    write!(out, "{gap}{sign}")?;
    // The least duration has no opposite: what is lost is a microsecond of 292,000 years.
    clock(micros.checked_abs().unwrap_or(i64::MAX), out)
}

fn array_text(elements: &ArrayRef, out: &mut BytesMut) -> Result<(), QueryError> {
    let mut element = BytesMut::new();
    out.put_u8(b'{');
    for row in 0..elements.len() {
        if row > 0 {
            out.put_u8(b',');
        }
        let Some(value) = Value::of(elements, row)? else {
            out.put_slice(b"NULL");
            continue;
        };
        element.clear();
        value.text(&mut element)?;
        let special = |byte: &u8| matches!(byte, b'"' | b'\\' | b'{' | b'}' | b',' | b' ' | 9..=13);
        let quoted = element.is_empty()
            || element.eq_ignore_ascii_case(b"null")
            || element.iter().any(special);
        if !quoted {
            out.put_slice(&element);
            continue;
        }
        out.put_u8(b'"');
        for byte in &element {
            if matches!(byte, b'"' | b'\\') {
                out.put_u8(b'\\');
            }
            out.put_u8(*byte);
        }
        out.put_u8(b'"');
    }
    out.put_u8(b'}');
    Ok(())
}

fn array_binary(elements: &ArrayRef, out: &mut BytesMut) -> Result<(), QueryError> {
    let element = match elements.data_type() {
        // As `into_pg_type` has it for arrays of nothing.
        DataType::Null => pgwire::api::Type::TEXT,
        other => into_pg_type(other).map_err(|error| QueryError::internal(error.to_string()))?,
    };
    let has_nulls = elements.logical_null_count() > 0;
    out.put_i32(i32::from(!elements.is_empty()));
    out.put_i32(has_nulls.into());
    out.put_u32(element.oid());
    if elements.is_empty() {
        return Ok(());
    }
    out.put_i32(i32::try_from(elements.len()).map_err(|_| too_long())?);
    out.put_i32(1);
    (0..elements.len()).try_for_each(|row| write(elements, row, FieldFormat::Binary, out))
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
