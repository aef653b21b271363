//! Every decoder on bytes that were right once: it answers or refuses, never panics, and reserves
//! no more than what is really there can need.
//!
//! Each case takes valid input and spoils it: flips bits, cuts it, or writes an extreme number over
//! a place that may be a length. Where a checksum stands in the way, it is made right again.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::Arc,
};

use afflux_record::{
    Compression, batch,
    batch::Builder,
    changelog::{self, Changes, EpochFrame, Progress, TableDelta},
    frame::{
        BatchMeta, Commit, FRAME_HEADER_BYTES, FrameHeader, Kind, Piece, crc32c, put_entry,
        put_group, read_group,
    },
};
use afflux_types::{
    Incarnation, JournalPosition, Offset, TableId, Tick, Timestamp, TopicName, TopicPartition,
};
use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Int64Array, LargeStringArray, RecordBatch, StringArray,
    },
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use bytes::Bytes;
use proptest::prelude::*;

/// Remembers the largest thing that this thread has asked for.
struct Watched;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(bytes: usize) {
    // A thread that is ending has nothing to remember any more.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
}

#[expect(unsafe_code, reason = "an allocator can not be made otherwise; this one only counts")]
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// The largest thing that is asked for meanwhile.
fn largest(work: impl FnOnce()) -> usize {
    LARGEST.set(0);
    work();
    LARGEST.get()
}

#[derive(Debug, Clone)]
enum Spoil {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Number(prop::sample::Index, Vec<u8>),
}

fn spoil() -> impl Strategy<Value = Spoil> {
    let place = any::<prop::sample::Index>;
    let number = prop_oneof![
        prop::sample::select(vec![0_u32, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff])
            .prop_map(|number| number.to_le_bytes().to_vec()),
        prop::sample::select(vec![0x7fff_ffff_u32, 0x8000_0000, 0x00ff_ffff])
            .prop_map(|number| number.to_be_bytes().to_vec()),
        prop::sample::select(vec![u64::MAX, i64::MAX as u64, 1 << 40])
            .prop_map(|number| number.to_le_bytes().to_vec()),
        // The greatest lengths that a varint says.
        Just(vec![0xfe, 0xff, 0xff, 0xff, 0x0f]),
    ];
    prop_oneof![
        2 => (place(), 0..8_u8).prop_map(|(at, bit)| Spoil::Flip(at, bit)),
        1 => place().prop_map(Spoil::Cut),
        4 => (place(), number).prop_map(|(at, number)| Spoil::Number(at, number)),
    ]
}

fn spoils() -> impl Strategy<Value = Vec<Spoil>> {
    proptest::collection::vec(spoil(), 1..4)
}

/// Spoils what lies behind `from`.
fn spoiled(bytes: &[u8], from: usize, spoils: &[Spoil]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for spoil in spoils {
        if bytes.len() <= from {
            break;
        }
        let place = |at: &prop::sample::Index| from + at.index(bytes.len() - from);
        match spoil {
            Spoil::Flip(at, bit) => {
                let at = place(at);
                bytes[at] ^= 1 << bit;
            }
            Spoil::Cut(at) => {
                let at = place(at);
                bytes.truncate(at);
            }
            Spoil::Number(at, number) => {
                let at = place(at);
                let end = (at + number.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
        }
    }
    bytes
}

fn a_batch(codec: Compression) -> Bytes {
    let mut builder = Builder::new(codec);
    for i in 0..8_u8 {
        let value = vec![i; usize::from(i) * 9];
        let headers: Vec<(&[u8], Option<&[u8]>)> = vec![(b"name", Some(b"value")), (b"none", None)];
        builder.push_with_headers(Timestamp(i.into()), Some(&[i]), Some(&value), &headers);
    }
    builder.finish().unwrap()
}

fn codecs() -> impl Strategy<Value = Compression> {
    prop::sample::select((0..5).filter_map(Compression::from_code).collect::<Vec<_>>())
}

fn a_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Utf8, true),
        Field::new("c", DataType::LargeUtf8, true),
        Field::new("d", DataType::Boolean, true),
    ]))
}

fn an_epoch() -> Bytes {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])),
        Arc::new(StringArray::from(vec![Some("x"), None, Some("yz")])),
        Arc::new(LargeStringArray::from(vec![Some("é"), Some(""), None])),
        Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
    ];
    let batch = RecordBatch::try_new(a_schema(), columns).unwrap();
    let topic = TopicName::new("departures").unwrap();
    changelog::encode(&EpochFrame {
        tick: Tick(7),
        time: Timestamp(8),
        progress: vec![Progress {
            partition: TopicPartition::new(topic, 3),
            next: Offset(9),
            watermark: Timestamp(10),
        }],
        tables: vec![TableDelta {
            table: TableId(1),
            keys: BinaryArray::from(vec![b"k".as_slice(), b"l"]),
            values: BinaryArray::from(vec![Some(b"v".as_slice()), None]),
        }],
        changes: Some(Changes { batch, weights: Some(Int64Array::from(vec![1, -1, 300])) }),
    })
    .unwrap()
}

fn a_group() -> Vec<u8> {
    let mut payload = Vec::new();
    put_group(&mut payload, Timestamp(1), 2);
    put_entry(&mut payload, 1, &a_batch(Compression::None));
    put_entry(&mut payload, 2, &a_batch(Compression::Zstd));
    payload
}

fn a_commit() -> Vec<u8> {
    let batch = a_batch(Compression::None);
    let meta = BatchMeta::new(3, &batch::check(&batch).unwrap(), &batch);
    let bytes = batch.len() as u32;
    let piece = |position, bytes| Piece { position: JournalPosition(position), bytes };
    let chunks = vec![piece(4096, bytes), piece(8192, bytes - 10), piece(9000, 10)];
    Commit { time: Timestamp(2), chunks, entries: vec![meta, meta] }.encode()
}

/// What unpacking may give in these tests.
const UNPACKED: usize = 64 << 10;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn batches(codec in codecs(), spoils in spoils()) {
        let bytes = spoiled(&a_batch(codec), 0, &spoils);
        let largest = largest(|| {
            let _ = batch::check(&bytes);
            let _ = batch::records_bounded(&bytes.into(), UNPACKED).count();
        });
        // LZ4 takes what its frame says of a block's size, 4 MiB at most, and a window with it.
        prop_assert!(largest <= 16 << 20, "{largest} bytes at once");
    }

    // Not packed, and right up to the records, so that those are reached.
    #[test]
    fn records(spoils in spoils()) {
        let mut bytes = spoiled(&a_batch(Compression::None), batch::HEADER_BYTES, &spoils);
        let length = (bytes.len() - batch::LENGTH_PREFIX_BYTES) as i32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        let given = bytes.len();
        let mut count = 0;
        let largest = largest(|| count = batch::records_bounded(&bytes.into(), UNPACKED).count());
        prop_assert!(count <= 9);
        prop_assert!(largest <= given * 64, "{largest} bytes for {given}");
    }

    #[test]
    fn frames(spoils in spoils()) {
        let payload = a_group();
        let header = FrameHeader {
            position: JournalPosition(4096),
            sequence: 7,
            durable: JournalPosition(4096),
            incarnation: Incarnation(1),
            length: payload.len() as u32,
            kind: Kind::Group,
        };
        let mut bytes = header.encode(&payload).to_vec();
        bytes.extend_from_slice(&payload);
        let bytes = spoiled(&bytes, 0, &spoils);
        let largest = largest(|| {
            if let Some(header) = FrameHeader::parse(&bytes, JournalPosition(4096)) {
                let payload = bytes.get(FRAME_HEADER_BYTES..).unwrap_or_default();
                let _ = FrameHeader::verify(&bytes, payload);
                let _ = header.end();
            }
        });
        prop_assert_eq!(largest, 0);
    }

    #[test]
    fn groups(spoils in spoils()) {
        let bytes = spoiled(&a_group(), 0, &spoils);
        let largest = largest(|| {
            for (meta, at) in read_group(&bytes).map(|(_, entries)| entries).unwrap_or_default() {
                let _ = meta.next_offset();
                assert!(at + meta.bytes as usize <= bytes.len());
            }
        });
        prop_assert!(largest <= bytes.len() * 2 + 1024, "{largest} bytes at once");
    }

    #[test]
    fn commits(spoils in spoils()) {
        let bytes = spoiled(&a_commit(), 0, &spoils);
        let largest = largest(|| {
            if let Ok(commit) = Commit::decode(&bytes) {
                let _ = commit.pieces(1 << 40);
                commit.entries.iter().for_each(|meta| { let _ = meta.next_offset(); });
            }
        });
        prop_assert!(largest <= bytes.len() * 4 + 1024, "{largest} bytes at once");
    }

    #[test]
    fn epochs(spoils in spoils(), crc in any::<bool>()) {
        let mut bytes = spoiled(&an_epoch(), if crc { 8 } else { 0 }, &spoils);
        if crc && bytes.len() >= 8 {
            let right = crc32c(&bytes[8..]).to_le_bytes();
            bytes[4..8].copy_from_slice(&right);
        }
        let bytes = Bytes::from(bytes);
        let schema = a_schema();
        let largest = largest(|| { let _ = changelog::decode(&bytes, &schema); });
        prop_assert!(largest <= bytes.len() * 16 + 4096, "{largest} bytes at once");
    }
}

#[test]
fn the_watch_sees_what_is_reserved() {
    assert!(largest(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20)))) >= 1 << 20);
}
