//! SQL's types as Arrow's, and intervals as milliseconds.

use arrow::{
    compute::kernels::cast_utils::parse_interval_month_day_nano,
    datatypes::{DataType, TimeUnit},
};
use datafusion::sql::sqlparser::ast;

use crate::{SqlError, error::sqlstate};

/// The largest precision of a `DECIMAL`.
const DECIMAL_PRECISION_MAX: u64 = 38;

/// The Arrow type of a SQL type, the same in columns and casts.
pub(crate) fn column_type(sql: &ast::DataType) -> Result<DataType, SqlError> {
    use ast::DataType as Sql;
    Ok(match sql {
        Sql::Boolean | Sql::Bool => DataType::Boolean,
        Sql::SmallInt(_) | Sql::Int2(_) | Sql::TinyInt(_) => DataType::Int16,
        Sql::Int(_) | Sql::Integer(_) | Sql::Int4(_) => DataType::Int32,
        Sql::BigInt(_) | Sql::Int8(_) => DataType::Int64,
        Sql::Real | Sql::Float4 => DataType::Float32,
        Sql::Double(ast::ExactNumberInfo::None) | Sql::DoublePrecision | Sql::Float8 => {
            DataType::Float64
        }
        Sql::Float(ast::ExactNumberInfo::None) => DataType::Float64,
        // PostgreSQL: float(1) to float(24) is real, above it is double precision.
        Sql::Float(ast::ExactNumberInfo::Precision(bits)) if *bits <= 24 => DataType::Float32,
        Sql::Float(ast::ExactNumberInfo::Precision(bits)) if *bits <= 53 => DataType::Float64,
        Sql::Decimal(info) | Sql::Numeric(info) | Sql::Dec(info) => decimal(*info)?,
        Sql::Text
        | Sql::String(_)
        | Sql::Varchar(_)
        | Sql::CharVarying(_)
        | Sql::CharacterVarying(_) => DataType::Utf8,
        Sql::Date => DataType::Date32,
        Sql::Timestamp(precision, zone) => timestamp(
            *precision,
            matches!(zone, ast::TimezoneInfo::WithTimeZone | ast::TimezoneInfo::Tz),
        )?,
        Sql::Bytea | Sql::Bytes(_) | Sql::Varbinary(_) => DataType::Binary,
        Sql::Interval { fields: None, precision: None } => {
            DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano)
        }
        Sql::Custom(name, arguments) => custom(&name.to_string(), arguments, sql)?,
        other => return Err(unknown(other)),
    })
}

fn custom(name: &str, arguments: &[String], sql: &ast::DataType) -> Result<DataType, SqlError> {
    let precision = match arguments {
        [] => None,
        [digits] => Some(digits.parse().map_err(|_| unknown(sql))?),
        _ => return Err(unknown(sql)),
    };
    match name.to_lowercase().as_str() {
        "timestamp_ltz" => timestamp(precision, true),
        _ => Err(unknown(sql)),
    }
}

fn unknown(sql: &ast::DataType) -> SqlError {
    SqlError::unsupported(format!("there is no type {sql}")).with_hint(
        "use BOOLEAN, SMALLINT, INT, BIGINT, REAL, DOUBLE PRECISION, DECIMAL(p, s), TEXT, DATE, \
         TIMESTAMP(p) [WITH TIME ZONE] or BYTEA",
    )
}

fn decimal(info: ast::ExactNumberInfo) -> Result<DataType, SqlError> {
    let (precision, scale) = match info {
        ast::ExactNumberInfo::None => {
            return Err(SqlError::unsupported("DECIMAL without a precision is not there")
                .with_hint("write DECIMAL(p, s), such as DECIMAL(18, 2)"));
        }
        ast::ExactNumberInfo::Precision(precision) => (precision, 0),
        ast::ExactNumberInfo::PrecisionAndScale(precision, scale) => (precision, scale),
    };
    match i8::try_from(scale) {
        Ok(scale)
            if (1..=DECIMAL_PRECISION_MAX).contains(&precision)
                && (0..=precision as i64).contains(&i64::from(scale)) =>
        {
            Ok(DataType::Decimal128(precision as u8, scale))
        }
        _ => Err(SqlError::invalid(
            sqlstate::INVALID_PARAMETER,
            format!("DECIMAL({precision}, {scale}) is out of range"),
        )
        .with_hint("the precision is 1 to 38, the scale 0 to the precision")),
    }
}

/// PostgreSQL's default precision is 6. Below 3 it is 3: a watermark counts milliseconds.
fn timestamp(precision: Option<u64>, zone: bool) -> Result<DataType, SqlError> {
    let unit = match precision {
        Some(0..=3) => TimeUnit::Millisecond,
        None | Some(4..=6) => TimeUnit::Microsecond,
        Some(7..=9) => TimeUnit::Nanosecond,
        Some(precision) => {
            return Err(SqlError::invalid(
                sqlstate::INVALID_PARAMETER,
                format!("TIMESTAMP({precision}) is out of range"),
            )
            .with_hint("the precision is 0 to 9"));
        }
    };
    Ok(DataType::Timestamp(unit, zone.then(|| "UTC".into())))
}

/// The milliseconds of an `INTERVAL` of fixed length, not negative.
pub(crate) fn interval_ms(expr: &ast::Expr) -> Result<i64, SqlError> {
    let ast::Expr::Interval(interval) = expr else {
        return Err(SqlError::invalid(
            sqlstate::SYNTAX,
            format!("expected an interval, found {expr}"),
        )
        .with_hint("write INTERVAL '5' SECOND"));
    };
    let amount = match interval.value.as_ref() {
        ast::Expr::Value(value) => match &value.value {
            ast::Value::SingleQuotedString(text) | ast::Value::Number(text, _) => text.clone(),
            _ => return Err(not_an_interval(&expr.to_string())),
        },
        _ => return Err(not_an_interval(&expr.to_string())),
    };
    if interval.last_field.is_some() {
        return Err(SqlError::unsupported(format!("{expr} names two units"))
            .with_hint("write INTERVAL '90' MINUTE or INTERVAL '1 hour 30 minutes'"));
    }
    match &interval.leading_field {
        Some(unit) => duration_ms(&format!("{amount} {unit}")),
        None => duration_ms(&amount),
    }
}

fn not_an_interval(text: &str) -> SqlError {
    SqlError::invalid(sqlstate::INVALID_PARAMETER, format!("\"{text}\" is not an interval"))
        .with_hint("write a number and a unit, such as '5 seconds', '1 hour' or '30 days'")
}

/// The milliseconds of a text such as `5 seconds`: whole, fixed and not negative.
pub(crate) fn duration_ms(text: &str) -> Result<i64, SqlError> {
    const DAY_NS: i128 = 86_400_000_000_000;
    let has_unit = text.chars().any(char::is_alphabetic);
    let parsed = has_unit.then(|| parse_interval_month_day_nano(text).ok()).flatten();
    let Some(interval) = parsed else { return Err(not_an_interval(text)) };
    if interval.months != 0 {
        return Err(SqlError::invalid(
            sqlstate::INVALID_PARAMETER,
            format!("\"{text}\" has no fixed length"),
        )
        .with_hint("months and years differ in length: use days or hours"));
    }
    let nanos = i128::from(interval.days) * DAY_NS + i128::from(interval.nanoseconds);
    if nanos < 0 || nanos % 1_000_000 != 0 {
        return Err(SqlError::invalid(
            sqlstate::INVALID_PARAMETER,
            format!("\"{text}\" is not a whole number of milliseconds from 0"),
        ));
    }
    i64::try_from(nanos / 1_000_000).map_err(|_| not_an_interval(text))
}
