use std::{fmt::Write, sync::Arc};

use arrow::{
    array::{
        BinaryViewArray, BooleanArray, Decimal128Array, Float64Array, LargeStringArray, NullArray,
        StringArray, StringViewArray, TimestampMillisecondArray,
    },
    datatypes::Field,
};
use proptest::prelude::*;

use super::*;

fn wide_batch(rows: usize, seed: i64) -> RecordBatch {
    let number = |row: usize| (row as i64 * 7 + seed) % 11;
    let some = |row: usize| number(row) % 3 != 0;
    let text = |row: usize| some(row).then(|| "é".repeat(number(row).unsigned_abs() as usize));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("int", Arc::new((0..rows).map(|r| some(r).then_some(number(r))).collect::<Int64Array>())),
        ("float", Arc::new((0..rows).map(|r| Some(number(r) as f64)).collect::<Float64Array>())),
        (
            "bool",
            Arc::new((0..rows).map(|r| some(r).then_some(r % 2 == 0)).collect::<BooleanArray>()),
        ),
        ("text", Arc::new((0..rows).map(text).collect::<StringArray>())),
        ("large", Arc::new((0..rows).map(text).collect::<LargeStringArray>())),
        ("view", Arc::new((0..rows).map(text).collect::<StringViewArray>())),
        (
            "bytes",
            Arc::new(
                (0..rows).map(|r| text(r).map(String::into_bytes)).collect::<BinaryViewArray>(),
            ),
        ),
        (
            "time",
            Arc::new(
                (0..rows)
                    .map(|r| some(r).then_some(number(r)))
                    .collect::<TimestampMillisecondArray>()
                    .with_timezone("UTC"),
            ),
        ),
        (
            "decimal",
            Arc::new(
                (0..rows)
                    .map(|r| some(r).then_some(i128::from(number(r)) << 70))
                    .collect::<Decimal128Array>(),
            ),
        ),
        ("none", Arc::new(NullArray::new(rows))),
    ];
    let fields: Vec<_> = columns
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        columns.into_iter().map(|(_, array)| array).collect(),
    )
    .unwrap()
}

fn frame(rows: usize, seed: i64, weights: Option<Vec<i64>>) -> EpochFrame {
    let keys: Vec<Vec<u8>> = (0..rows).map(|row| vec![row as u8; row % 5]).collect();
    let topic = TopicName::new("departures").unwrap();
    EpochFrame {
        tick: Tick(seed as u64),
        time: Timestamp(-seed),
        progress: (0..seed % 4)
            .map(|partition| Progress {
                partition: TopicPartition::new(topic.clone(), partition as i32),
                next: Offset(seed),
                watermark: Timestamp::MIN,
            })
            .collect(),
        tables: vec![TableDelta {
            table: TableId(3),
            keys: keys.iter().map(Some).collect(),
            values: keys.iter().map(|key| (key.len() > 1).then_some(key)).collect(),
        }],
        changes: weights.map(|weights| {
            let batch = wide_batch(rows + 2, seed).slice(1, rows);
            let weights = (!weights.is_empty())
                .then(|| (0..rows).map(|row| weights[row % weights.len()]).collect());
            Changes { batch, weights }
        }),
    }
}

fn schema() -> SchemaRef {
    wide_batch(0, 0).schema()
}

fn with_crc(mut bytes: Vec<u8>) -> Bytes {
    if bytes.len() >= CRC_END {
        bytes[..3].copy_from_slice(&MAGIC);
        bytes[3] = VERSION;
        let crc = crc32c::crc32c(&bytes[CRC_END..]);
        bytes[CRC_AT..CRC_END].copy_from_slice(&crc.to_le_bytes());
    }
    bytes.into()
}

proptest! {
    #[test]
    fn frames_come_back_as_they_went(
        rows in 0usize..40,
        seed in 0i64..1000,
        weights in proptest::option::of(proptest::collection::vec(
            prop_oneof![-2i64..3, any::<i64>()], 0..4)),
    ) {
        let frame = frame(rows, seed, weights);
        let bytes = encode(&frame).unwrap();
        prop_assert_eq!(decode(&bytes, &schema()).unwrap(), frame);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_an_error(rows in 0usize..12, at: prop::sample::Index, bit in 0u8..8) {
        let bytes = encode(&frame(rows, 3, Some(vec![1, -1]))).unwrap();
        let mut flipped = bytes.to_vec();
        flipped[at.index(bytes.len())] ^= 1 << bit;
        prop_assert!(decode(&flipped.into(), &schema()).is_err());
        prop_assert!(decode(&bytes.slice(..at.index(bytes.len())), &schema()).is_err());
    }

    // The CRC keeps damage out; these go behind it.
    #[test]
    fn damage_under_a_right_crc_never_panics(rows in 0usize..12, at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let bytes = encode(&frame(rows, 3, Some(vec![1, -1]))).unwrap();
        let mut changed = bytes.to_vec();
        let at = CRC_END + at.index(bytes.len() - CRC_END);
        changed[at] = byte;
        let _ = decode(&with_crc(changed.clone()), &schema());
        changed.truncate(CRC_END + cut.index(changed.len() - CRC_END));
        prop_assert!(decode(&with_crc(changed), &schema()).is_err());
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes.clone().into(), &schema());
        let _ = decode(&with_crc(bytes), &schema());
    }
}

#[test]
fn a_length_reserves_nothing_that_is_not_there() {
    let mut bytes = encode(&frame(0, 0, Some(vec![]))).unwrap().to_vec();
    let rows_at = bytes.len() - 4 - 1 - 10; // rows, weight width, a validity byte a column
    bytes[rows_at..rows_at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = decode(&with_crc(bytes), &schema()).unwrap_err();
    assert!(matches!(error, FrameError::Damaged(_)), "{error}");
}

#[test]
fn a_frame_of_other_columns_is_refused() {
    let bytes = encode(&frame(3, 1, Some(vec![]))).unwrap();
    let other = Arc::new(Schema::new(vec![Field::new("int", DataType::Int64, true)]));
    assert_eq!(decode(&bytes, &other), Err(FrameError::Schema));
    let mut newer = bytes.to_vec();
    newer[3] = 2;
    assert_eq!(decode(&newer.into(), &schema()), Err(FrameError::Version { found: 2 }));
}

#[test]
fn a_type_without_encoding_is_refused() {
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
    assert!(!supports(&list));
    assert!(schema().fields().iter().all(|field| supports(field.data_type())));
}

// The bytes of version 1. A change here is a new version.
#[test]
fn the_first_version_stays_readable() {
    let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]));
    let batch =
        RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(vec![5]))]).unwrap();
    let frame = EpochFrame {
        tick: Tick(1),
        time: Timestamp(2),
        progress: vec![],
        tables: vec![TableDelta {
            table: TableId(7),
            keys: BinaryArray::from(vec![b"k".as_slice()]),
            values: BinaryArray::from(vec![None]),
        }],
        changes: Some(Changes { batch, weights: Some(Int64Array::from(vec![-1])) }),
    };
    let hex = encode(&frame).unwrap().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    let expected = concat!(
        "414645014d3e1df3fca38db20100000001000000000000000200000000000000",
        "0000000001000000070000000100000000010000006b01000000000001000000",
        "01ff000500000000000000",
    );
    assert_eq!(hex, expected);
    assert_eq!(decode(&encode(&frame).unwrap(), &schema).unwrap(), frame);
}
