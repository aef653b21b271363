//! Postgres's types, as far as Arrow's columns map to them.

use afflux_plan::Column;
use arrow::datatypes::DataType;
use pgwire::api::Type;

/// A type's row in `pg_type`.
pub(super) struct TypeRow {
    pub(super) pg: Type,
    /// In bytes; -1 for types of any length.
    pub(super) length: i32,
    pub(super) category: &'static str,
    /// As `format_type` says it.
    pub(super) title: &'static str,
    /// The type of arrays of it.
    pub(super) array: Option<Type>,
}

/// All types that there are.
pub(super) fn all() -> Vec<TypeRow> {
    let row = |pg, length, category, title, array: Type| TypeRow {
        pg,
        length,
        category,
        title,
        array: Some(array),
    };
    vec![
        row(Type::BOOL, 1, "B", "boolean", Type::BOOL_ARRAY),
        row(Type::BYTEA, -1, "U", "bytea", Type::BYTEA_ARRAY),
        row(Type::CHAR, 1, "Z", "\"char\"", Type::CHAR_ARRAY),
        row(Type::NAME, 64, "S", "name", Type::NAME_ARRAY),
        row(Type::INT8, 8, "N", "bigint", Type::INT8_ARRAY),
        row(Type::INT2, 2, "N", "smallint", Type::INT2_ARRAY),
        row(Type::INT4, 4, "N", "integer", Type::INT4_ARRAY),
        row(Type::TEXT, -1, "S", "text", Type::TEXT_ARRAY),
        row(Type::OID, 4, "N", "oid", Type::OID_ARRAY),
        row(Type::JSON, -1, "U", "json", Type::JSON_ARRAY),
        row(Type::JSONB, -1, "U", "jsonb", Type::JSONB_ARRAY),
        row(Type::FLOAT4, 4, "N", "real", Type::FLOAT4_ARRAY),
        row(Type::FLOAT8, 8, "N", "double precision", Type::FLOAT8_ARRAY),
        row(Type::BPCHAR, -1, "S", "character", Type::BPCHAR_ARRAY),
        row(Type::VARCHAR, -1, "S", "character varying", Type::VARCHAR_ARRAY),
        row(Type::DATE, 4, "D", "date", Type::DATE_ARRAY),
        row(Type::TIME, 8, "D", "time without time zone", Type::TIME_ARRAY),
        row(Type::TIMESTAMP, 8, "D", "timestamp without time zone", Type::TIMESTAMP_ARRAY),
        row(Type::TIMESTAMPTZ, 8, "D", "timestamp with time zone", Type::TIMESTAMPTZ_ARRAY),
        row(Type::INTERVAL, 16, "T", "interval", Type::INTERVAL_ARRAY),
        row(Type::NUMERIC, -1, "N", "numeric", Type::NUMERIC_ARRAY),
        row(Type::UUID, 16, "U", "uuid", Type::UUID_ARRAY),
        row(Type::REGCLASS, 4, "N", "regclass", Type::REGCLASS_ARRAY),
        row(Type::REGTYPE, 4, "N", "regtype", Type::REGTYPE_ARRAY),
        TypeRow { pg: Type::UNKNOWN, length: -2, category: "X", title: "unknown", array: None },
        TypeRow { pg: Type::RECORD, length: -1, category: "P", title: "record", array: None },
    ]
}

/// What `format_type` says of a type and its modifier.
pub(super) fn format(oid: i32, modifier: Option<i32>) -> String {
    for row in all() {
        if row.pg.oid() as i32 == oid {
            return match modifier {
                Some(modifier) if modifier >= 4 && row.pg == Type::NUMERIC => {
                    let modifier = modifier - 4;
                    format!("numeric({},{})", modifier >> 16, modifier & 0xffff)
                }
                _ => row.title.to_owned(),
            };
        }
        if row.array.is_some_and(|array| array.oid() as i32 == oid) {
            return format!("{}[]", row.title);
        }
    }
    if oid == 0 { "-".to_owned() } else { "???".to_owned() }
}

/// The type of a name, as `format_type` or as `pg_type` write it.
pub(super) fn find(name: &str) -> Option<i32> {
    let row = all().into_iter().find(|row| row.title == name || row.pg.name() == name);
    row.map(|row| row.pg.oid() as i32)
}

/// The type and modifier of a column. Composite columns, which have no type of their own here,
/// are records.
pub(super) fn of_column(column: &Column) -> (i32, i32) {
    let data_type = &column.column_type.0;
    let pg = arrow_pg::datatypes::into_pg_type(data_type).unwrap_or(Type::TEXT);
    let modifier = match data_type {
        DataType::Decimal128(precision, scale) if *scale >= 0 => {
            ((i32::from(*precision) << 16) | i32::from(*scale)) + 4
        }
        _ => -1,
    };
    (pg.oid() as i32, modifier)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_named_as_postgres_names_them() {
        let check = |data_type: DataType, expected: &str| {
            let (oid, modifier) = of_column(&Column::new("c", data_type, true));
            assert_eq!(format(oid, Some(modifier)), expected);
        };
        check(DataType::Int64, "bigint");
        check(DataType::Int32, "integer");
        check(DataType::Utf8, "text");
        check(DataType::Float64, "double precision");
        check(DataType::Decimal128(12, 2), "numeric(12,2)");
        check(
            DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, Some("UTC".into())),
            "timestamp with time zone",
        );
        check(DataType::new_list(DataType::Int64, true), "bigint[]");
    }
}
