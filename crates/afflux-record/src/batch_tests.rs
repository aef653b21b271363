use afflux_types::{ProducerEpoch, ProducerId};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;

type Field = Option<Vec<u8>>;

#[derive(Debug, Clone)]
struct Plain {
    timestamp: i64,
    key: Field,
    value: Field,
    headers: Vec<(Vec<u8>, Field)>,
}

fn field() -> impl Strategy<Value = Field> {
    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40))
}

fn plain() -> impl Strategy<Value = Plain> {
    let headers =
        proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..9), field()), 0..3);
    (0..2_000_000_000_000_i64, field(), field(), headers)
        .prop_map(|(timestamp, key, value, headers)| Plain { timestamp, key, value, headers })
}

fn codec() -> impl Strategy<Value = Compression> {
    prop_oneof![
        Just(Compression::None),
        Just(Compression::Gzip),
        Just(Compression::Snappy),
        Just(Compression::Lz4),
        Just(Compression::Zstd),
    ]
}

fn build(records: &[Plain], codec: Compression) -> Bytes {
    let mut builder = Builder::new(codec).producer(Producer {
        id: ProducerId(7),
        epoch: ProducerEpoch(1),
        base_sequence: 42,
    });
    for record in records {
        let headers: Vec<(&[u8], Option<&[u8]>)> = record
            .headers
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_deref()))
            .collect();
        builder.push_with_headers(
            Timestamp(record.timestamp),
            record.key.as_deref(),
            record.value.as_deref(),
            &headers,
        );
    }
    builder.finish().unwrap()
}

/// One record, key "k", value "v", timestamp 1, no producer: field by field, against the drawing.
#[test]
fn the_layout_is_kafkas() {
    let mut builder = Builder::new(Compression::None);
    builder.push(Timestamp(1), Some(b"k"), Some(b"v"));
    let batch = builder.finish().unwrap();
    #[rustfmt::skip]
    let expected: &[u8] = &[
        0, 0, 0, 0, 0, 0, 0, 0, // base offset
        0, 0, 0, 58, // length
        0, 0, 0, 0, // leader epoch
        2, // magic
    ];
    assert_eq!(&batch[..17], expected);
    #[rustfmt::skip]
    let covered: &[u8] = &[
        0, 0, // attributes
        0, 0, 0, 0, // last offset delta
        0, 0, 0, 0, 0, 0, 0, 1, // base timestamp
        0, 0, 0, 0, 0, 0, 0, 1, // max timestamp
        255, 255, 255, 255, 255, 255, 255, 255, // producer id
        255, 255, // producer epoch
        255, 255, 255, 255, // base sequence
        0, 0, 0, 1, // records
        16, 0, 0, 0, 2, b'k', 2, b'v', 0, // length 8, attributes, deltas, key, value, headers
    ];
    assert_eq!(&batch[21..], covered);
    assert_eq!(check(&batch).unwrap().bytes, 70);
}

#[test]
fn sequences_go_round() {
    let mut header = Header::parse(&build(&[], Compression::None)).unwrap();
    let mut check = |base, delta, expected| {
        header.base_sequence = base;
        header.last_offset_delta = delta;
        assert_eq!(header.last_sequence(), expected);
    };
    check(0, 0, 0);
    check(5, 4, 9);
    check(i32::MAX, 0, i32::MAX);
    check(i32::MAX, 1, 0);
    check(i32::MAX - 1, 3, 1);
    check(-1, 9, -1);
}

#[test]
fn append_time_replaces_the_producers() {
    let mut batch = BytesMut::from(
        &build(
            &[Plain { timestamp: 5, key: None, value: None, headers: Vec::new() }],
            Compression::None,
        )[..],
    );
    batch[ATTRIBUTES_AT + 1] |= LOG_APPEND_TIME as u8;
    batch[35..43].copy_from_slice(&99_i64.to_be_bytes());
    let all: Vec<_> = records(&batch.freeze()).map(Result::unwrap).collect();
    assert_eq!(all[0].timestamp, Timestamp(99));
}

#[test]
fn a_codec_that_kafka_does_not_know_is_an_error() {
    for code in 5..8_u8 {
        let mut batch = BytesMut::from(&build(&[], Compression::None)[..]);
        batch[ATTRIBUTES_AT + 1] = code;
        let found: Vec<_> = records(&batch.freeze()).collect();
        assert_eq!(found, [Err(BatchError::UnknownCompression(i16::from(code)))]);
    }
}

#[test]
fn headers_are_limited() {
    let check = |headers: usize, fine: bool| {
        let mut builder = Builder::new(Compression::None);
        let none: &[u8] = b"";
        builder.push_with_headers(Timestamp(1), None, None, &vec![(none, None); headers]);
        let read: Result<Vec<_>, _> = records(&builder.finish().unwrap()).collect();
        assert_eq!(read.is_ok(), fine, "{headers}");
    };
    check(HEADERS_MAX, true);
    check(HEADERS_MAX + 1, false);
}

proptest! {
    // Each case is tried at every byte or bit.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_built_is_read(
        plains in proptest::collection::vec(plain(), 1..20),
        codec in codec(),
        base in 0..i64::MAX / 2,
        epoch in any::<i32>(),
    ) {
        let mut batch = BytesMut::from(&build(&plains, codec)[..]);
        patch(&mut batch, Offset(base), LeaderEpoch(epoch)).unwrap();
        let batch = batch.freeze();
        let header = check(&batch).unwrap();
        prop_assert_eq!(header.base_offset, Offset(base));
        prop_assert_eq!(header.leader_epoch, LeaderEpoch(epoch));
        prop_assert_eq!(header.record_count as usize, plains.len());
        prop_assert_eq!(header.next_offset(), Offset(base + plains.len() as i64));
        prop_assert_eq!(header.compression().unwrap(), codec);
        prop_assert_eq!((header.producer_id, header.base_sequence), (ProducerId(7), 42));
        prop_assert_eq!(
            header.max_timestamp.0,
            plains.iter().map(|plain| plain.timestamp).max().unwrap()
        );
        let read: Vec<Record> = records(&batch).map(Result::unwrap).collect();
        prop_assert_eq!(read.len(), plains.len());
        for (i, (record, plain)) in read.iter().zip(&plains).enumerate() {
            prop_assert_eq!(record.offset, Offset(base + i as i64));
            prop_assert_eq!(record.timestamp, Timestamp(plain.timestamp));
            prop_assert_eq!(record.key.as_deref(), plain.key.as_deref());
            prop_assert_eq!(record.value.as_deref(), plain.value.as_deref());
            prop_assert_eq!(record.headers.len(), plain.headers.len());
            for (header, (name, value)) in record.headers.iter().zip(&plain.headers) {
                prop_assert_eq!(&header.name[..], &name[..]);
                prop_assert_eq!(header.value.as_deref(), value.as_deref());
            }
        }
    }

    #[test]
    fn every_truncation_is_an_error(
        plains in proptest::collection::vec(plain(), 1..5),
        codec in codec(),
    ) {
        let batch = build(&plains, codec);
        for length in 0..batch.len() {
            prop_assert!(check(&batch[..length]).is_err(), "cut at {length}");
            let read: Vec<_> = records(&batch.slice(..length)).collect();
            prop_assert!(read.iter().any(Result::is_err), "cut at {length}");
        }
        let mut longer = batch.to_vec();
        longer.push(0);
        let trailing = matches!(check(&longer), Err(BatchError::Trailing { behind: 1, .. }));
        prop_assert!(trailing);
    }

    #[test]
    fn every_flipped_bit_is_an_error(
        plains in proptest::collection::vec(plain(), 1..4),
        codec in codec(),
    ) {
        let batch = build(&plains, codec);
        // Base offset and leader epoch are the log's to write: no checksum covers them.
        let free = |at: usize| at < 8 || (EPOCH_AT..MAGIC_AT).contains(&at);
        for at in (0..batch.len()).filter(|at| !free(*at)) {
            for bit in 0..8 {
                let mut flipped = batch.to_vec();
                flipped[at] ^= 1 << bit;
                prop_assert!(check(&flipped).is_err(), "bit {bit} of byte {at}");
                // Unchecked bytes may read as anything, but must end and not panic.
                let read = records_bounded(&flipped.into(), 1 << 20).count();
                prop_assert!(read <= 1 << 20);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        // Most of them with a header that passes, so that the records are reached.
        if bytes.len() >= HEADER_BYTES {
            let length = (bytes.len() - LENGTH_PREFIX_BYTES) as i32;
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            bytes[MAGIC_AT] = MAGIC as u8;
            bytes[22] &= !(COMPRESSION_MASK as u8);
            bytes[23..27].copy_from_slice(&100_i32.to_be_bytes());
            bytes[57..61].copy_from_slice(&50_i32.to_be_bytes());
        }
        let read = records(&bytes.into()).count();
        prop_assert!(read <= 51);
    }
}
