//! Entry points for fuzzers, of this crate and, by their type, of those above it.
//!
//! A [`Target`] takes any bytes. It may refuse them; what it must not do it asserts itself, so that
//! whoever runs it only has to run it: the fuzzer (`fuzz/`), and [`Target::survey`] in tests, which
//! tries what is valid and what was spoilt. A checksum would keep a fuzzer from all that lies behind
//! it, so that targets make it right themselves.
//!
//! Only there with the feature `fuzzing`, and in tests.

use afflux_types::{Offset, ProducerEpoch, ProducerId, Tick, Timestamp};
use arrow::{
    array::{ArrayRef, BinaryArray, BooleanArray, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use bytes::{Bytes, BytesMut};

use crate::{
    Compression, Record,
    batch::{self, Builder, Producer},
    changelog::{self, Changes, EpochFrame, Progress, TableDelta},
    frame::BatchMeta,
};

/// Something that takes any bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Takes them; panics if what must hold does not.
    pub run: fn(&[u8]),
    /// Inputs from which a fuzzer sets out: small and, but for a few, valid.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// The most bytes that it may hold at once, given so many.
    pub held_bytes_max: fn(usize) -> usize,
}

impl Target {
    /// Runs it; `most_held` calls what it is given and tells the most bytes held meanwhile.
    pub fn check(&self, input: &[u8], most_held: impl FnOnce(&mut dyn FnMut()) -> usize) {
        let held = most_held(&mut || (self.run)(input));
        let allowed = (self.held_bytes_max)(input.len());
        assert!(held <= allowed, "{} bytes took {held}, more than {allowed}", input.len());
    }

    /// Runs it on all seeds, and on so many spoilt ones.
    pub fn survey(&self, cases: usize) {
        let seeds = (self.seeds)();
        for seed in &seeds {
            (self.run)(seed);
        }
        let mut random = Random(0x5EED);
        for _ in 0..cases {
            let seed = &seeds[random.below(seeds.len())];
            (self.run)(&spoilt(seed, &mut random));
        }
    }
}

/// Numbers that look like any, the same in each run.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // SplitMix64, by Steele, Lea and Flood.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

/// The same bytes, but for one to three faults: a byte, a number that may be a length, an end.
pub fn spoilt(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    const NUMBERS: [[u8; 4]; 4] =
        [[0xff; 4], [0x7f, 0xff, 0xff, 0xff], [0xff, 0xff, 0xff, 0x7f], [0; 4]];
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(3) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        match random.below(8) {
            0 => bytes.truncate(at),
            1 | 2 => {
                let number = NUMBERS[random.below(NUMBERS.len())];
                bytes[at..].iter_mut().zip(number).for_each(|(to, from)| *to = from);
            }
            3 => bytes.insert(at, random.below(256) as u8),
            _ => bytes[at] = random.below(256) as u8,
        }
    }
    bytes
}

/// What records may unpack to here.
const UNPACKED_BYTES_MAX: usize = 64 << 10;

/// A record batch, from a client or from the disk: as it is, and with its length and checksum made
/// right. One that reads must say the same after all that a log does to it.
pub const RECORD_BATCH: Target = Target {
    run: |input| {
        one_batch(&Bytes::copy_from_slice(input));
        if let Some(mended) = mended_batch(input) {
            one_batch(&mended);
        }
    },
    seeds: batches,
    // LZ4 takes what its frame says of a block's size, 4 MiB at most, and a window with it.
    held_bytes_max: |bytes| (24 << 20) + 256 * bytes,
};

/// A batch with the right length, format and checksum, if it has a header at all.
pub fn mended_batch(input: &[u8]) -> Option<Bytes> {
    if input.len() < batch::HEADER_BYTES {
        return None;
    }
    let mut mended = BytesMut::from(input);
    let length = (input.len() - batch::LENGTH_PREFIX_BYTES) as i32;
    mended[8..12].copy_from_slice(&length.to_be_bytes());
    mended[16] = batch::MAGIC as u8;
    let crc = crc32c::crc32c(&mended[batch::ATTRIBUTES_AT..]);
    mended[batch::CRC_AT..batch::ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
    Some(mended.freeze())
}

fn read(batch: &Bytes) -> Vec<Record> {
    batch::check(batch).unwrap();
    batch::records(batch).collect::<Result<_, _>>().unwrap()
}

fn one_batch(bytes: &Bytes) {
    let Ok(header) = batch::check(bytes) else { return };
    let _ = BatchMeta::new(1, &header, bytes).next_offset();
    let records: Result<Vec<Record>, _> =
        batch::records_bounded(bytes, UNPACKED_BYTES_MAX).collect();
    let Ok(mut records) = records else { return };
    assert_eq!(records.len(), header.record_count as usize);
    for codec in Compression::ALL {
        let packed = batch::recompress(bytes, codec).unwrap();
        assert_eq!(read(&packed), records, "packed by {codec:?}");
        assert_eq!(batch::check(&packed).unwrap().next_offset(), header.next_offset());
    }
    let unpacked = batch::Unpacked::new(bytes).unwrap();
    let mut lying: Vec<_> = unpacked.records().collect::<Result<_, _>>().unwrap();
    assert_eq!(read(&batch::retain(bytes, &lying, None).unwrap()), records);
    let horizon = Some(Timestamp(1 << 40));
    let less: Vec<Record> = records.iter().step_by(2).cloned().collect();
    lying = lying.into_iter().step_by(2).collect();
    let retained = batch::retain(bytes, &lying, horizon).unwrap();
    assert_eq!(read(&retained), less);
    assert_eq!(batch::check(&retained).unwrap().delete_horizon(), horizon);
    let time = Timestamp(7);
    for record in &mut records {
        record.timestamp = time;
    }
    assert_eq!(read(&batch::stamp(bytes, time).unwrap()), records);
}

/// One batch of each kind: of all codecs, numbered, transactional, a marker, without records.
pub fn batches() -> Vec<Vec<u8>> {
    let numbered = Producer { id: ProducerId(7), epoch: ProducerEpoch(1), base_sequence: 5 };
    let mut batches: Vec<Vec<u8>> = Compression::ALL
        .into_iter()
        .map(|codec| {
            let mut builder = Builder::new(codec).producer(numbered);
            let headers: [(&[u8], Option<&[u8]>); 2] = [(b"a", Some(b"b")), (b"c", None)];
            builder.push_with_headers(Timestamp(3), Some(b"key"), Some(&[b'v'; 40]), &headers);
            builder.push(Timestamp(4), None, Some(b""));
            builder.push(Timestamp(2), Some(b"gone"), None);
            if codec == Compression::Lz4 {
                builder = builder.transactional();
            }
            builder.finish().unwrap().to_vec()
        })
        .collect();
    let mut marker = Builder::new(Compression::None).producer(numbered).transactional().control();
    marker.push(Timestamp(1), Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 0, 0, 1]));
    batches.push(marker.finish().unwrap().to_vec());
    let first = Bytes::copy_from_slice(&batches[0]);
    batches.push(batch::retain(&first, &[], Some(Timestamp(9))).unwrap().to_vec());
    batches
}

/// A frame of a pipeline's changelog, as it is and with its checksum made right.
pub const CHANGELOG: Target = Target {
    run: |input| {
        let mut bytes = input.to_vec();
        one_epoch(&bytes.clone().into());
        if bytes.len() >= 8 {
            let crc = crc32c::crc32c(&bytes[8..]).to_le_bytes();
            bytes[4..8].copy_from_slice(&crc);
            one_epoch(&bytes.into());
        }
    },
    seeds: || vec![an_epoch(true, 0), an_epoch(false, 0), an_epoch(false, 20)],
    // A table of nothing is twenty bytes, and two of arrow's arrays in memory.
    held_bytes_max: |bytes| 64 * bytes + (16 << 10),
};

fn one_epoch(bytes: &Bytes) {
    let Ok(frame) = changelog::decode(bytes, &a_schema()) else { return };
    if let Some(changes) = frame.changes {
        // Whoever reads a value reads what is there.
        let _ = format!("{:?} {:?}", changes.batch, changes.weights);
    }
}

fn a_schema() -> SchemaRef {
    let field = |name, kind| Field::new(name, kind, true);
    Schema::new(vec![
        field("a", DataType::Int64),
        field("b", DataType::Utf8),
        field("c", DataType::Boolean),
    ])
    .into()
}

/// An epoch with changes or without, and some tables in which nothing changed.
fn an_epoch(whole: bool, empty: u32) -> Vec<u8> {
    let columns: Vec<ArrayRef> = vec![
        std::sync::Arc::new(Int64Array::from(vec![Some(1), None])),
        std::sync::Arc::new(StringArray::from(vec![Some("x"), Some("yz")])),
        std::sync::Arc::new(BooleanArray::from(vec![None, Some(true)])),
    ];
    let batch = RecordBatch::try_new(a_schema(), columns).unwrap();
    let topic = afflux_types::TopicName::new("t").unwrap();
    let table = |id, keys: Vec<&[u8]>, values| TableDelta {
        table: afflux_types::TableId(id),
        keys: BinaryArray::from(keys),
        values: BinaryArray::from(values),
    };
    let mut tables = vec![table(1, vec![b"k", b"l"], vec![Some(b"v".as_slice()), None])];
    tables.extend((0..empty).map(|n| table(2 + n, Vec::new(), Vec::new())));
    let frame = EpochFrame {
        tick: Tick(7),
        time: Timestamp(8),
        progress: vec![Progress {
            partition: afflux_types::TopicPartition::new(topic, 3),
            next: Offset(9),
            watermark: Timestamp(10),
        }],
        tables,
        changes: whole.then(|| Changes { batch, weights: Some(Int64Array::from(vec![1, -1])) }),
    };
    changelog::encode(&frame).unwrap().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_reach_what_they_are_for() {
        for seed in batches() {
            read(&seed.into());
        }
        for seed in (CHANGELOG.seeds)() {
            changelog::decode(&seed.into(), &a_schema()).unwrap();
        }
    }

    #[test]
    fn batches_are_refused_or_kept() {
        RECORD_BATCH.survey(2_000);
    }

    #[test]
    fn changelog_frames_are_refused_or_read() {
        CHANGELOG.survey(2_000);
    }

    #[test]
    #[should_panic(expected = "more than")]
    fn a_target_that_takes_too_much_is_told() {
        CHANGELOG.check(&[], |run| {
            run();
            1 << 30
        });
    }
}
