//! Parameters: Postgres's types and bytes to values.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use bytes::{Buf, Bytes};
use datafusion::scalar::ScalarValue;
use pgwire::api::Type;

use crate::QueryError;

/// Microseconds from 1970 to 2000, where Postgres's times begin.
pub(super) const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// Days from 1970 to 2000.
pub(super) const EPOCH_DAYS: i32 = 10_957;

/// The type of a parameter that the client has named; none where the server is to find out.
pub(super) fn given(oid: u32) -> Result<Option<DataType>, QueryError> {
    let Some(pg) = (oid != 0).then(|| Type::from_oid(oid)).flatten() else {
        return if oid == 0 { Ok(None) } else { Err(unsupported(&format!("number {oid}"))) };
    };
    let utc = || Some(Arc::from("UTC"));
    let data_type = match pg {
        Type::UNKNOWN => return Ok(None),
        Type::BOOL => DataType::Boolean,
        Type::INT2 => DataType::Int16,
        Type::INT4 => DataType::Int32,
        Type::INT8 | Type::OID => DataType::Int64,
        Type::FLOAT4 => DataType::Float32,
        Type::FLOAT8 => DataType::Float64,
        Type::NUMERIC => DataType::Decimal128(38, 10),
        Type::TEXT
        | Type::VARCHAR
        | Type::BPCHAR
        | Type::NAME
        | Type::CHAR
        | Type::JSON
        | Type::UUID => DataType::Utf8,
        Type::BYTEA => DataType::Binary,
        Type::DATE => DataType::Date32,
        Type::TIME => DataType::Time64(TimeUnit::Microsecond),
        Type::TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        Type::TIMESTAMPTZ => DataType::Timestamp(TimeUnit::Microsecond, utc()),
        other => return Err(unsupported(other.name())),
    };
    Ok(Some(data_type))
}

fn unsupported(name: &str) -> QueryError {
    QueryError::unsupported(format!("parameters of type {name} are not supported"))
        .with_hint("send it as text and cast it in the query, for example $1::bigint")
}

/// The value of a parameter. `pg` is the type that its bytes have, `data_type` the one that the
/// plan wants.
pub(super) fn value(
    number: usize,
    pg: &Type,
    data_type: &DataType,
    binary: bool,
    bytes: Option<&Bytes>,
) -> Result<ScalarValue, QueryError> {
    let bad = |what: &str| {
        QueryError::invalid(format!("${number} is no {}: {what}", pg.name())).with_sqlstate("22P02")
    };
    let Some(bytes) = bytes else { return Ok(ScalarValue::try_from(data_type)?) };
    let value = if binary {
        from_binary(pg, bytes.clone()).map_err(|what| {
            QueryError::invalid(format!("${number} is no {}: {what}", pg.name()))
                .with_sqlstate("22P03")
        })?
    } else {
        let text = std::str::from_utf8(bytes).map_err(|_| bad("it is not UTF-8"))?;
        if *pg == Type::BYTEA {
            ScalarValue::Binary(Some(from_hex(text).ok_or_else(|| bad("write it as \\x…"))?))
        } else {
            ScalarValue::Utf8(Some(text.to_owned()))
        }
    };
    value.cast_to(data_type).map_err(|error| bad(&QueryError::from(error).message))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
        _ => None,
    };
    digits.chunks(2).map(pair).collect()
}

fn from_binary(pg: &Type, mut bytes: Bytes) -> Result<ScalarValue, &'static str> {
    const LENGTH: &str = "it has another length";
    let text = |bytes: Bytes| {
        String::from_utf8(bytes.into())
            .map(|text| ScalarValue::Utf8(Some(text)))
            .map_err(|_| "it is not UTF-8")
    };
    let value = match *pg {
        Type::BOOL => ScalarValue::Boolean(Some(bytes.try_get_u8().map_err(|_| LENGTH)? != 0)),
        Type::INT2 => ScalarValue::Int16(Some(bytes.try_get_i16().map_err(|_| LENGTH)?)),
        Type::INT4 => ScalarValue::Int32(Some(bytes.try_get_i32().map_err(|_| LENGTH)?)),
        Type::OID => ScalarValue::Int64(Some(bytes.try_get_u32().map_err(|_| LENGTH)?.into())),
        Type::INT8 => ScalarValue::Int64(Some(bytes.try_get_i64().map_err(|_| LENGTH)?)),
        Type::FLOAT4 => ScalarValue::Float32(Some(bytes.try_get_f32().map_err(|_| LENGTH)?)),
        Type::FLOAT8 => ScalarValue::Float64(Some(bytes.try_get_f64().map_err(|_| LENGTH)?)),
        Type::DATE => {
            let days = bytes.try_get_i32().map_err(|_| LENGTH)?;
            ScalarValue::Date32(Some(days.checked_add(EPOCH_DAYS).ok_or("it is out of range")?))
        }
        Type::TIME => {
            ScalarValue::Time64Microsecond(Some(bytes.try_get_i64().map_err(|_| LENGTH)?))
        }
        Type::TIMESTAMP | Type::TIMESTAMPTZ => {
            let micros = bytes.try_get_i64().map_err(|_| LENGTH)?;
            let micros = micros.checked_add(EPOCH_MICROS).ok_or("it is out of range")?;
            let zone = (*pg == Type::TIMESTAMPTZ).then(|| Arc::from("UTC"));
            ScalarValue::TimestampMicrosecond(Some(micros), zone)
        }
        Type::NUMERIC => return super::numeric::from_binary(bytes),
        Type::BYTEA => return Ok(ScalarValue::Binary(Some(bytes.into()))),
        Type::UUID => {
            let raw: [u8; 16] = bytes.as_ref().try_into().map_err(|_| LENGTH)?;
            let hex = format!("{:032x}", u128::from_be_bytes(raw));
            let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
            return Ok(ScalarValue::Utf8(Some(parts.join("-"))));
        }
        _ => return text(bytes),
    };
    if bytes.is_empty() { Ok(value) } else { Err(LENGTH) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_as_text_and_binary() {
        let check = |pg: Type, binary: bool, bytes: &'static [u8], expected: Result<&str, &str>| {
            let data_type = given(pg.oid()).unwrap().unwrap_or(DataType::Utf8);
            let value = value(1, &pg, &data_type, binary, Some(&Bytes::from_static(bytes)));
            let actual = match &value {
                Ok(value) => Ok(value.to_string()),
                Err(error) => Err(error.sqlstate),
            };
            assert_eq!(actual.as_deref(), expected.as_ref().copied(), "{value:?}");
        };
        check(Type::INT4, false, b"42", Ok("42"));
        check(Type::INT4, false, b"4x2", Err("22P02"));
        check(Type::INT4, true, &[0, 0, 0, 42], Ok("42"));
        check(Type::INT4, true, &[0, 0, 42], Err("22P03"));
        check(Type::INT4, true, &[0, 0, 0, 42, 0], Err("22P03"));
        check(Type::BOOL, false, b"t", Ok("true"));
        check(Type::BOOL, true, &[0], Ok("false"));
        check(Type::TEXT, true, b"caf\xc3\xa9", Ok("café"));
        check(Type::TEXT, true, b"\xff", Err("22P03"));
        check(Type::TEXT, false, b"\xff", Err("22P02"));
        check(Type::DATE, true, &[0, 0, 0, 1], Ok("2000-01-02"));
        check(Type::BYTEA, false, b"\\x0aff", Ok("0AFF"));
        check(Type::BYTEA, false, b"0a", Err("22P02"));
        check(Type::NUMERIC, false, b"12.5", Ok("12.5000000000"));
        check(
            Type::NUMERIC,
            true,
            &[0, 2, 0, 0, 0, 0, 0, 1, 0, 12, 0x13, 0x88],
            Ok("12.5000000000"),
        );
    }

    #[test]
    fn types_are_known_inferred_or_refused() {
        assert_eq!(given(0), Ok(None));
        assert_eq!(given(Type::UNKNOWN.oid()), Ok(None));
        assert_eq!(given(Type::INT8.oid()), Ok(Some(DataType::Int64)));
        assert_eq!(given(Type::INT4_ARRAY.oid()).unwrap_err().sqlstate, "0A000");
        assert_eq!(given(99_999).unwrap_err().sqlstate, "0A000");
    }

    #[test]
    fn nulls_have_the_plan_s_type() {
        let null = value(1, &Type::TEXT, &DataType::Int64, false, None);
        assert_eq!(null, Ok(ScalarValue::Int64(None)));
    }
}
