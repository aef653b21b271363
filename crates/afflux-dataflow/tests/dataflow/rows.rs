//! Rows as plain values, and batches as rows.

use std::{collections::BTreeMap, sync::Arc};

use afflux_plan::Column;
use afflux_record::changelog::Changes;
use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch,
        RecordBatchOptions, StringArray, TimestampMillisecondArray,
    },
    datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMillisecondType},
};

/// A value. Floats are compared by their bits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    /// Ordered by [`f64::total_cmp`], which is why it is the bits with all but the sign turned
    /// over where it is negative.
    Float(i64),
    Text(String),
    Time(i64),
}

pub(crate) type Row = Vec<Value>;

/// Rows with their weights, without zeros.
pub(crate) type ZSet = BTreeMap<Row, i64>;

impl Value {
    pub(crate) fn float(value: f64) -> Self {
        let bits = value.to_bits() as i64;
        Self::Float(bits ^ (((bits >> 63) as u64) >> 1) as i64)
    }

    pub(crate) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(key) => {
                Some(f64::from_bits((key ^ (((key >> 63) as u64) >> 1) as i64) as u64))
            }
            _ => None,
        }
    }
}

pub(crate) fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

pub(crate) fn add(set: &mut ZSet, row: Row, weight: i64) {
    let sum = set.entry(row).or_insert(0);
    *sum += weight;
    if *sum == 0 {
        set.retain(|_, weight| *weight != 0);
    }
}

pub(crate) fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let value = |column: &ArrayRef, row: usize| {
        if column.is_null(row) {
            return Value::Null;
        }
        match column.data_type() {
            DataType::Boolean => Value::Bool(column.as_boolean().value(row)),
            DataType::Int64 => Value::Int(column.as_primitive::<Int64Type>().value(row)),
            DataType::Float64 => Value::float(column.as_primitive::<Float64Type>().value(row)),
            DataType::Utf8 => Value::Text(column.as_string::<i32>().value(row).to_owned()),
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                Value::Time(column.as_primitive::<TimestampMillisecondType>().value(row))
            }
            other => panic!("the tests have no {other}"),
        }
    };
    (0..batch.num_rows())
        .map(|row| batch.columns().iter().map(|column| value(column, row)).collect())
        .collect()
}

pub(crate) fn zset_of(changes: &Changes) -> ZSet {
    let mut set = ZSet::new();
    for (index, row) in rows_of(&changes.batch).into_iter().enumerate() {
        add(&mut set, row, changes.weight(index));
    }
    set
}

pub(crate) fn batch_of(columns: &[Column], rows: &[Row]) -> RecordBatch {
    let array = |(index, column): (usize, &Column)| -> ArrayRef {
        let values = rows.iter().map(|row| &row[index]);
        match &column.column_type.0 {
            DataType::Boolean => Arc::new(
                values
                    .map(|v| if let Value::Bool(v) = v { Some(*v) } else { None })
                    .collect::<BooleanArray>(),
            ),
            DataType::Int64 => Arc::new(
                values
                    .map(|v| if let Value::Int(v) = v { Some(*v) } else { None })
                    .collect::<Int64Array>(),
            ),
            DataType::Float64 => Arc::new(values.map(Value::as_float).collect::<Float64Array>()),
            DataType::Utf8 => Arc::new(
                values
                    .map(|v| if let Value::Text(v) = v { Some(v.as_str()) } else { None })
                    .collect::<StringArray>(),
            ),
            _ => Arc::new(
                values
                    .map(|v| if let Value::Time(v) = v { Some(*v) } else { None })
                    .collect::<TimestampMillisecondArray>()
                    .with_timezone("UTC"),
            ),
        }
    };
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(
        Arc::new(Column::schema(columns)),
        columns.iter().enumerate().map(array).collect(),
        &options,
    )
    .unwrap()
}

pub(crate) fn changes_of(columns: &[Column], rows: &[(Row, i64)]) -> Changes {
    let plain: Vec<Row> = rows.iter().map(|(row, _)| row.clone()).collect();
    let weights = rows.iter().any(|(_, weight)| *weight != 1);
    Changes {
        batch: batch_of(columns, &plain),
        weights: weights.then(|| rows.iter().map(|(_, weight)| *weight).collect()),
    }
}
