//! What a log changes in a batch that a producer sent: its time, its compression, and which of its
//! records are left.
//!
//! The first two touch no record: the log's time stands in the header, and the records are unpacked
//! and packed again as one run of bytes. Compaction leaves records out; what stays keeps its offset,
//! its time and its headers, and the batch the offsets and the sequences that it spans.

use afflux_types::Timestamp;
use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    batch::{
        ATTRIBUTES_AT, BatchError, COMPRESSION_MASK, CRC_AT, DELETE_HORIZON, HEADER_BYTES, Header,
        LENGTH_PREFIX_BYTES, LOG_APPEND_TIME, RecordRef, Unpacked,
    },
    builder::put_varint,
    compression::Compression,
};

const LENGTH_AT: usize = 8;
const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
const COUNT_AT: usize = 57;
/// The most bytes of a number in a record.
const VARINT_BYTES_MAX: usize = 10;

/// Gives all records of a batch the log's time (`LogAppendTime`).
pub fn stamp(batch: &Bytes, time: Timestamp) -> Result<Bytes, BatchError> {
    let header = Header::parse(batch)?;
    let mut out = BytesMut::from(&batch[..header.bytes]);
    put(&mut out, ATTRIBUTES_AT, &(header.attributes | LOG_APPEND_TIME).to_be_bytes());
    put(&mut out, MAX_TIMESTAMP_AT, &time.0.to_be_bytes());
    Ok(seal(out))
}

/// Says in a batch's header which of its records' times is the latest.
pub fn set_latest(batch: &Bytes, latest: Timestamp) -> Result<Bytes, BatchError> {
    let header = Header::parse(batch)?;
    let mut out = BytesMut::from(&batch[..header.bytes]);
    put(&mut out, MAX_TIMESTAMP_AT, &latest.0.to_be_bytes());
    Ok(seal(out))
}

/// Packs the records of a batch another way. The batch is not changed if that is how they are
/// packed already.
pub fn recompress(batch: &Bytes, to: Compression) -> Result<Bytes, BatchError> {
    if Header::parse(batch)?.compression()? == to {
        return Ok(batch.clone());
    }
    repack(batch, &Unpacked::new(batch)?, to)
}

/// As [`recompress`], of a batch that is unpacked already: `unpacked` is the same one.
pub fn repack(batch: &Bytes, unpacked: &Unpacked, to: Compression) -> Result<Bytes, BatchError> {
    let header = unpacked.header();
    if header.compression()? == to {
        return Ok(batch.clone());
    }
    let attributes = header.attributes & !COMPRESSION_MASK | to.code();
    Ok(seal(join(batch, &to.pack(unpacked.plain())?, attributes)?))
}

/// What is left of a batch if only some of its records are: `records`, which are its own. If there
/// are none it is a header, of no codec. With a `horizon`, that is noted in it: see
/// [`Header::delete_horizon`].
pub fn retain(
    batch: &Bytes,
    records: &[RecordRef<'_>],
    horizon: Option<Timestamp>,
) -> Result<Bytes, BatchError> {
    let header = Header::parse(batch)?;
    let bytes: usize = records.iter().map(|record| record.bytes.len() + VARINT_BYTES_MAX).sum();
    let mut plain = Vec::with_capacity(bytes);
    for record in records {
        match horizon {
            None => plain.put_slice(record.bytes),
            // It stands where else the time does that records count from.
            Some(base) => put_retimed(&mut plain, record, base),
        }
    }
    let is_empty = records.is_empty();
    let codec = if is_empty { Compression::None } else { header.compression()? };
    if codec != Compression::None {
        plain = codec.pack(&plain)?;
    }
    let mut attributes = header.attributes & !COMPRESSION_MASK | codec.code();
    if horizon.is_some() {
        attributes |= DELETE_HORIZON;
    }
    let mut out = join(batch, &plain, attributes)?;
    if let Some(horizon) = horizon {
        put(&mut out, BASE_TIMESTAMP_AT, &horizon.0.to_be_bytes());
    }
    if !header.is_log_append_time() || is_empty {
        let latest = records.iter().map(|record| record.timestamp.0).max().unwrap_or(-1);
        put(&mut out, MAX_TIMESTAMP_AT, &latest.to_be_bytes());
    }
    put(&mut out, COUNT_AT, &(records.len() as i32).to_be_bytes());
    Ok(seal(out))
}

/// Adds a record whose time counts from another.
fn put_retimed(out: &mut Vec<u8>, record: &RecordRef<'_>, base: Timestamp) {
    let mut time = [0; VARINT_BYTES_MAX];
    let mut behind = &mut time[..];
    put_varint(&mut behind, record.timestamp.0.wrapping_sub(base.0));
    let spare = behind.len();
    let time = &time[..VARINT_BYTES_MAX - spare];
    put_varint(out, (1 + time.len() + record.behind_time.len()) as i64);
    out.put_u8(0);
    out.put_slice(time);
    out.put_slice(record.behind_time);
}

/// A batch's header with other records behind it; its checksum is not yet right.
fn join(batch: &Bytes, packed: &[u8], attributes: i16) -> Result<BytesMut, BatchError> {
    let bytes = HEADER_BYTES + packed.len();
    let length = i32::try_from(bytes - LENGTH_PREFIX_BYTES)
        .map_err(|_| BatchError::Header("it is larger than 2 GiB"))?;
    let mut out = BytesMut::with_capacity(bytes);
    out.put_slice(&batch[..HEADER_BYTES]);
    out.put_slice(packed);
    put(&mut out, LENGTH_AT, &length.to_be_bytes());
    put(&mut out, ATTRIBUTES_AT, &attributes.to_be_bytes());
    Ok(out)
}

fn put(out: &mut BytesMut, at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn seal(mut out: BytesMut) -> Bytes {
    let crc = crc32c::crc32c(&out[ATTRIBUTES_AT..]);
    put(&mut out, CRC_AT, &crc.to_be_bytes());
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{self, Builder};

    fn batch(codec: Compression) -> Bytes {
        let mut builder = Builder::new(codec);
        for i in 0..20 {
            let value = format!("value {i}");
            builder.push(Timestamp(100 + i), Some(b"key"), Some(value.as_bytes()));
        }
        builder.finish().unwrap()
    }

    fn records(batch: &Bytes) -> Vec<batch::Record> {
        batch::check(batch).unwrap();
        batch::records(batch).collect::<Result<_, _>>().unwrap()
    }

    /// What is left of a batch without some of its records.
    fn retained(
        batch: &Bytes,
        keeps: impl Fn(i64) -> bool,
        horizon: Option<Timestamp>,
    ) -> Result<Bytes, BatchError> {
        let unpacked = batch::Unpacked::new(batch)?;
        let mut records: Vec<_> = unpacked.records().collect::<Result<_, _>>()?;
        records.retain(|record| keeps(record.offset.0));
        retain(batch, &records, horizon)
    }

    #[test]
    fn records_survive_another_compression() {
        let plain = records(&batch(Compression::None));
        for from in Compression::ALL {
            for to in Compression::ALL {
                let packed = recompress(&batch(from), to).unwrap();
                assert_eq!(Header::parse(&packed).unwrap().compression().unwrap(), to);
                assert_eq!(records(&packed), plain, "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn what_is_left_of_a_batch_is_as_it_was() {
        for codec in Compression::ALL {
            let whole = batch(codec);
            let mut whole = BytesMut::from(&whole[..]);
            batch::patch(&mut whole, afflux_types::Offset(100), afflux_types::LeaderEpoch(3))
                .unwrap();
            let whole = whole.freeze();
            let mut left = records(&whole);
            left.retain(|record| record.offset.0 % 3 == 0);
            let header = Header::parse(&whole).unwrap();
            for horizon in [None, Some(Timestamp(5_000_000))] {
                let less = retained(&whole, |offset| offset % 3 == 0, horizon).unwrap();
                assert_eq!(records(&less), left, "{codec:?}");
                let now = batch::check(&less).unwrap();
                assert_eq!(now.delete_horizon(), horizon);
                assert_eq!(now.compression().unwrap(), codec);
                assert_eq!(
                    (now.base_offset, now.next_offset()),
                    (header.base_offset, header.next_offset())
                );
                assert_eq!((now.record_count, now.leader_epoch), (6, header.leader_epoch));
                assert_eq!(now.max_timestamp, left.last().unwrap().timestamp);
                // Once more, as the next pass does.
                let first = left[0].offset.0;
                let again = retained(&less, |offset| offset > first, None).unwrap();
                assert_eq!(records(&again), left[1..]);
                assert_eq!(batch::check(&again).unwrap().delete_horizon(), horizon);
            }
            let none = retained(&whole, |_| false, None).unwrap();
            let now = batch::check(&none).unwrap();
            assert_eq!(records(&none), []);
            assert_eq!((now.bytes, now.max_timestamp.0), (HEADER_BYTES, -1));
            assert_eq!(now.next_offset(), header.next_offset());
        }
    }

    /// The checksum does not cover the base offset: it may be anything.
    #[test]
    fn offsets_that_go_round_are_kept() {
        let mut whole = BytesMut::from(&batch(Compression::None)[..]);
        let last = afflux_types::Offset(i64::MAX - 3);
        batch::patch(&mut whole, last, afflux_types::LeaderEpoch(0)).unwrap();
        let whole = whole.freeze();
        let all = records(&whole);
        let again = retained(&whole, |_| true, None).unwrap();
        assert_eq!((records(&again), &again), (all, &whole));
    }

    #[test]
    fn a_stamped_batch_has_the_logs_time_in_every_record() {
        let stamped = stamp(&batch(Compression::Zstd), Timestamp(7)).unwrap();
        assert!(Header::parse(&stamped).unwrap().is_log_append_time());
        let records = records(&stamped);
        assert_eq!(records.len(), 20);
        assert!(records.iter().all(|record| record.timestamp == Timestamp(7)));
        assert_eq!(records[3].value.as_deref(), Some(&b"value 3"[..]));
    }
}
