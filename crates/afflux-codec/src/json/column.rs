//! One column while it is being filled from JSON values.

use std::{fmt, sync::Arc};

use arrow::{
    array::{
        ArrayData, ArrayRef, BooleanArray, LargeStringArray, StringArray, StringViewArray,
        make_array,
    },
    buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer},
    datatypes::{ArrowNativeType, DataType, Field, TimeUnit},
};

use super::{
    super::scan::{Cursor, Number, SyntaxError},
    UnsupportedColumn,
};
use crate::text::{self, DecimalFault};

/// A value that does not fit its column.
pub(super) enum Fault {
    Syntax(SyntaxError),
    Kind { expected: &'static str, found: &'static str },
    Null,
    Text { expected: &'static str, found: String },
    Range { found: String },
    Fraction { found: String },
    Size,
}

impl From<SyntaxError> for Fault {
    fn from(error: SyntaxError) -> Self {
        Self::Syntax(error)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(error) => error.fmt(f),
            Self::Kind { expected, found } => write!(f, "expected {expected}, found {found}"),
            Self::Null => f.write_str("null, where the column has no nulls"),
            Self::Text { expected, found } => write!(f, "\"{found}\" is not {expected}"),
            Self::Range { found } => write!(f, "{found} is out of range"),
            Self::Fraction { found } => write!(f, "expected an integer, found {found}"),
            Self::Size => f.write_str("the text of one batch is over 2 GiB"),
        }
    }
}

/// What JSON has to hold.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Integer { min: i64, max: i64 },
    Unsigned,
    Float32,
    Float64,
    Decimal { precision: u8, scale: i8 },
    Boolean,
    Text,
    Timestamp(TimeUnit),
    Date,
    Time(TimeUnit),
}

/// The values in the form that the column stores, as wide as its kind can need.
#[derive(Debug)]
enum Values {
    Signed(Vec<i64>),
    Unsigned(Vec<u64>),
    Float(Vec<f64>),
    Decimal(Vec<i128>),
    Boolean(Vec<bool>),
    Text { offsets: Vec<i32>, bytes: Vec<u8> },
}

/// A column's values so far.
#[derive(Debug)]
pub(super) struct Builder {
    data_type: DataType,
    nullable: bool,
    kind: Kind,
    values: Values,
    valid: Vec<bool>,
    nulls: usize,
}

impl Builder {
    pub(super) fn new(field: &Field) -> Result<Self, UnsupportedColumn> {
        let signed = |min: i64, max: i64| Kind::Integer { min, max };
        let kind = match field.data_type() {
            DataType::Int8 => signed(i8::MIN.into(), i8::MAX.into()),
            DataType::Int16 => signed(i16::MIN.into(), i16::MAX.into()),
            DataType::Int32 => signed(i32::MIN.into(), i32::MAX.into()),
            DataType::Int64 => signed(i64::MIN, i64::MAX),
            DataType::UInt8 => signed(0, u8::MAX.into()),
            DataType::UInt16 => signed(0, u16::MAX.into()),
            DataType::UInt32 => signed(0, u32::MAX.into()),
            DataType::UInt64 => Kind::Unsigned,
            DataType::Float32 => Kind::Float32,
            DataType::Float64 => Kind::Float64,
            DataType::Decimal128(precision, scale) => {
                Kind::Decimal { precision: *precision, scale: *scale }
            }
            DataType::Boolean => Kind::Boolean,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Kind::Text,
            DataType::Timestamp(unit, _) => Kind::Timestamp(*unit),
            DataType::Date32 => Kind::Date,
            DataType::Time32(unit) | DataType::Time64(unit) => Kind::Time(*unit),
            other => {
                return Err(UnsupportedColumn {
                    column: field.name().clone(),
                    data_type: other.clone(),
                });
            }
        };
        let values = match kind {
            Kind::Integer { .. } | Kind::Timestamp(_) | Kind::Date | Kind::Time(_) => {
                Values::Signed(Vec::new())
            }
            Kind::Unsigned => Values::Unsigned(Vec::new()),
            Kind::Float32 | Kind::Float64 => Values::Float(Vec::new()),
            Kind::Decimal { .. } => Values::Decimal(Vec::new()),
            Kind::Boolean => Values::Boolean(Vec::new()),
            Kind::Text => Values::Text { offsets: vec![0], bytes: Vec::new() },
        };
        let data_type = field.data_type().clone();
        Ok(Self { data_type, nullable: field.is_nullable(), kind, values, valid: vec![], nulls: 0 })
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.valid.len()
    }

    pub(super) fn reserve(&mut self, rows: usize) {
        self.valid.reserve(rows);
        match &mut self.values {
            Values::Signed(values) => values.reserve(rows),
            Values::Unsigned(values) => values.reserve(rows),
            Values::Float(values) => values.reserve(rows),
            Values::Decimal(values) => values.reserve(rows),
            Values::Boolean(values) => values.reserve(rows),
            Values::Text { offsets, .. } => offsets.reserve(rows),
        }
    }

    /// Cuts off what lies behind the first `rows` rows.
    pub(super) fn truncate(&mut self, rows: usize) {
        let cut = self.valid.get(rows..).unwrap_or_default();
        self.nulls -= cut.iter().filter(|valid| !**valid).count();
        self.valid.truncate(rows);
        match &mut self.values {
            Values::Signed(values) => values.truncate(rows),
            Values::Unsigned(values) => values.truncate(rows),
            Values::Float(values) => values.truncate(rows),
            Values::Decimal(values) => values.truncate(rows),
            Values::Boolean(values) => values.truncate(rows),
            Values::Text { offsets, bytes } => {
                offsets.truncate(rows + 1);
                bytes.truncate(offsets[offsets.len() - 1] as usize);
            }
        }
    }

    /// Adds a null; false if the column has none.
    pub(super) fn push_null(&mut self) -> bool {
        if !self.nullable {
            return false;
        }
        match &mut self.values {
            Values::Signed(values) => values.push(0),
            Values::Unsigned(values) => values.push(0),
            Values::Float(values) => values.push(0.0),
            Values::Decimal(values) => values.push(0),
            Values::Boolean(values) => values.push(false),
            Values::Text { offsets, .. } => offsets.push(offsets[offsets.len() - 1]),
        }
        self.valid.push(false);
        self.nulls += 1;
        true
    }

    /// Adds the value that is next in a JSON text.
    #[inline]
    pub(super) fn push(
        &mut self,
        cursor: &mut Cursor<'_>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let next = cursor.peek();
        if next == b'n' {
            cursor.word("null")?;
            return if self.push_null() { Ok(()) } else { Err(Fault::Null) };
        }
        match (&mut self.values, next) {
            (Values::Text { offsets, bytes }, b'"') => {
                let (raw, escapes) = cursor.raw_text()?;
                if escapes {
                    cursor.unescape(raw, bytes)?;
                } else {
                    bytes.extend_from_slice(raw.as_bytes());
                }
                offsets.push(i32::try_from(bytes.len()).map_err(|_| Fault::Size)?);
            }
            (Values::Boolean(values), b't' | b'f') => {
                cursor.word(if next == b't' { "true" } else { "false" })?;
                values.push(next == b't');
            }
            (Values::Signed(values), b'-' | b'0'..=b'9') => {
                let number = cursor.number()?;
                values.push(signed(self.kind, number)?);
            }
            (Values::Unsigned(values), b'-' | b'0'..=b'9') => {
                let number = cursor.number()?;
                let value = integer(number)?;
                values.push(u64::try_from(value).map_err(|_| out_of_range(number.text))?);
            }
            (Values::Float(values), b'-' | b'0'..=b'9') => {
                let number = cursor.number()?;
                values.push(float(self.kind, number)?);
            }
            (Values::Decimal(values), b'-' | b'0'..=b'9') => {
                let number = cursor.number()?;
                values.push(decimal(self.kind, number.text)?);
            }
            (Values::Signed(values), b'"') if !matches!(self.kind, Kind::Integer { .. }) => {
                let text = Self::text(cursor, scratch)?;
                values.push(temporal(self.kind, text)?);
            }
            (Values::Decimal(values), b'"') => {
                let text = Self::text(cursor, scratch)?;
                let mut inner = Cursor::new(text);
                let whole = matches!(inner.peek(), b'-' | b'0'..=b'9')
                    && inner.number().is_ok_and(|number| number.text.len() == text.len());
                if !whole {
                    return Err(bad_text("a number", text));
                }
                values.push(decimal(self.kind, text)?);
            }
            _ => {
                let found = found(next);
                cursor.skip(1)?;
                return Err(Fault::Kind { expected: self.expected(), found });
            }
        }
        self.valid.push(true);
        Ok(())
    }

    fn text<'s, 'a: 's>(
        cursor: &mut Cursor<'a>,
        scratch: &'s mut Vec<u8>,
    ) -> Result<&'s str, Fault> {
        let (raw, escapes) = cursor.raw_text()?;
        if !escapes {
            return Ok(raw);
        }
        scratch.clear();
        cursor.unescape(raw, scratch)?;
        Ok(std::str::from_utf8(scratch).expect("unescaped text stays UTF-8"))
    }

    fn expected(&self) -> &'static str {
        match self.kind {
            Kind::Integer { .. } | Kind::Unsigned => "an integer",
            Kind::Float32 | Kind::Float64 | Kind::Decimal { .. } => "a number",
            Kind::Boolean => "true or false",
            Kind::Text => "text",
            Kind::Timestamp(_) => "a time as ISO-8601 text or epoch milliseconds",
            Kind::Date => "a date as ISO-8601 text",
            Kind::Time(_) => "a time of day as ISO-8601 text",
        }
    }

    /// The column, after which the builder is empty.
    pub(super) fn finish(&mut self) -> ArrayRef {
        let valid = std::mem::take(&mut self.valid);
        let nulls =
            (self.nulls > 0).then(|| NullBuffer::new(BooleanBuffer::from(valid.as_slice())));
        self.nulls = 0;
        let rows = valid.len();
        let primitive = |buffer: Buffer| {
            let data = ArrayData::builder(self.data_type.clone()).len(rows).nulls(nulls.clone());
            make_array(data.add_buffer(buffer).build().expect("as many values as rows"))
        };
        match &mut self.values {
            Values::Signed(values) => {
                let values = std::mem::take(values);
                primitive(match self.data_type.primitive_width() {
                    Some(1) => narrow(values, |value| value as u8),
                    Some(2) => narrow(values, |value| value as u16),
                    Some(4) => narrow(values, |value| value as u32),
                    _ => Buffer::from_vec(values),
                })
            }
            Values::Unsigned(values) => primitive(Buffer::from_vec(std::mem::take(values))),
            Values::Float(values) => {
                let values = std::mem::take(values);
                primitive(match self.kind {
                    Kind::Float32 => values.into_iter().map(|value| value as f32).collect(),
                    _ => Buffer::from_vec(values),
                })
            }
            Values::Decimal(values) => primitive(Buffer::from_vec(std::mem::take(values))),
            Values::Boolean(values) => {
                let bits = BooleanBuffer::from(std::mem::take(values).as_slice());
                Arc::new(BooleanArray::new(bits, nulls))
            }
            Values::Text { offsets, bytes } => {
                let offsets = std::mem::replace(offsets, vec![0]);
                let bytes = std::mem::take(bytes);
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                let text = StringArray::try_new(offsets, Buffer::from_vec(bytes), nulls)
                    .expect("text that was cut at characters");
                match self.data_type {
                    DataType::Utf8View => Arc::new(StringViewArray::from(&text)),
                    DataType::LargeUtf8 => Arc::new(text.iter().collect::<LargeStringArray>()),
                    _ => Arc::new(text),
                }
            }
        }
    }
}

/// Types narrower than 64 bits keep the low bits, signed or not; the range was checked.
fn narrow<T: ArrowNativeType>(values: Vec<i64>, low: impl Fn(i64) -> T) -> Buffer {
    values.into_iter().map(low).collect()
}

fn signed(kind: Kind, number: Number<'_>) -> Result<i64, Fault> {
    let value = match number.integer() {
        Some(value) => i128::from(value),
        None => integer(number)?,
    };
    let in_range = match kind {
        Kind::Integer { min, max } => i64::try_from(value).ok().filter(|v| (min..=max).contains(v)),
        Kind::Timestamp(unit) => from_millis(value, unit),
        _ => {
            let expected = if matches!(kind, Kind::Date) { "a date" } else { "a time of day" };
            return Err(Fault::Kind { expected, found: "a number" });
        }
    };
    in_range.ok_or_else(|| out_of_range(number.text))
}

fn from_millis(millis: i128, unit: TimeUnit) -> Option<i64> {
    let value = match unit {
        TimeUnit::Second => millis.div_euclid(1000),
        _ => millis * i128::from(text::per_second(unit) / 1000),
    };
    i64::try_from(value).ok()
}

fn integer(number: Number<'_>) -> Result<i128, Fault> {
    text::scaled(number.text.as_bytes(), 0, false).map_err(|fault| match fault {
        DecimalFault::Inexact => Fault::Fraction { found: clipped(number.text) },
        DecimalFault::Range => out_of_range(number.text),
    })
}

fn float(kind: Kind, number: Number<'_>) -> Result<f64, Fault> {
    let value = match kind {
        // From the text and not from the double, so that it is rounded once.
        Kind::Float32 => number.text.parse::<f32>().map_or(f64::INFINITY, f64::from),
        _ => number.double(),
    };
    if value.is_finite() { Ok(value) } else { Err(out_of_range(number.text)) }
}

fn decimal(kind: Kind, number: &str) -> Result<i128, Fault> {
    let Kind::Decimal { precision, scale } = kind else {
        return Err(Fault::Kind { expected: "a number", found: "a decimal" });
    };
    text::scaled(number.as_bytes(), i32::from(scale), true)
        .ok()
        .filter(|value| value.unsigned_abs() < 10u128.pow(u32::from(precision)))
        .ok_or_else(|| out_of_range(number))
}

fn temporal(kind: Kind, value: &str) -> Result<i64, Fault> {
    let bytes = value.as_bytes();
    let (parsed, expected) = match kind {
        Kind::Timestamp(unit) => (text::timestamp(bytes, unit), "a time that this column holds"),
        Kind::Date => (text::date(bytes).map(i64::from), "a date"),
        Kind::Time(unit) => (text::time_of_day(bytes, unit), "a time of day"),
        _ => (None, "a time"),
    };
    parsed.ok_or_else(|| bad_text(expected, value))
}

fn found(next: u8) -> &'static str {
    match next {
        b'"' => "text",
        b'{' => "an object",
        b'[' => "an array",
        b't' | b'f' => "a boolean",
        b'-' | b'0'..=b'9' => "a number",
        _ => "something else",
    }
}

#[cold]
fn out_of_range(number: &str) -> Fault {
    Fault::Range { found: clipped(number) }
}

#[cold]
fn bad_text(expected: &'static str, found: &str) -> Fault {
    Fault::Text { expected, found: clipped(found) }
}

/// Reasons travel in headers and logs: they quote the beginning only.
fn clipped(text: &str) -> String {
    const LENGTH_MAX: usize = 60;
    match text.char_indices().nth(LENGTH_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
