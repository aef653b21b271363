//! What a log changes in a batch that a producer sent: its time and its compression.
//!
//! Neither touches a record: the log's time stands in the header, and the records are unpacked and
//! packed again as one run of bytes.

use afflux_types::Timestamp;
use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    batch::{
        ATTRIBUTES_AT, BatchError, COMPRESSION_MASK, CRC_AT, HEADER_BYTES, Header,
        LENGTH_PREFIX_BYTES, LOG_APPEND_TIME,
    },
    compression::{Compression, UNPACKED_BYTES_MAX},
};

const LENGTH_AT: usize = 8;
const MAX_TIMESTAMP_AT: usize = 35;

/// Gives all records of a batch the log's time (`LogAppendTime`).
pub fn stamp(batch: &Bytes, time: Timestamp) -> Result<Bytes, BatchError> {
    let header = Header::parse(batch)?;
    let mut out = BytesMut::from(&batch[..header.bytes]);
    put(&mut out, ATTRIBUTES_AT, &(header.attributes | LOG_APPEND_TIME).to_be_bytes());
    put(&mut out, MAX_TIMESTAMP_AT, &time.0.to_be_bytes());
    Ok(seal(out))
}

/// Packs the records of a batch another way. The batch is not changed if that is how they are
/// packed already.
pub fn recompress(batch: &Bytes, to: Compression) -> Result<Bytes, BatchError> {
    let header = Header::parse(batch)?;
    let from = header.compression()?;
    if from == to {
        return Ok(batch.clone());
    }
    let plain = from.unpack(&batch.slice(HEADER_BYTES..header.bytes), UNPACKED_BYTES_MAX)?;
    let packed = to.pack(&plain)?;
    let bytes = HEADER_BYTES + packed.len();
    let length = i32::try_from(bytes - LENGTH_PREFIX_BYTES)
        .map_err(|_| BatchError::Header("it is larger than 2 GiB"))?;
    let mut out = BytesMut::with_capacity(bytes);
    out.put_slice(&batch[..HEADER_BYTES]);
    out.put_slice(&packed);
    put(&mut out, LENGTH_AT, &length.to_be_bytes());
    let attributes = header.attributes & !COMPRESSION_MASK | to.code();
    put(&mut out, ATTRIBUTES_AT, &attributes.to_be_bytes());
    Ok(seal(out))
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

    const CODECS: [Compression; 5] = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];

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

    #[test]
    fn records_survive_another_compression() {
        let plain = records(&batch(Compression::None));
        for from in CODECS {
            for to in CODECS {
                let packed = recompress(&batch(from), to).unwrap();
                assert_eq!(Header::parse(&packed).unwrap().compression().unwrap(), to);
                assert_eq!(records(&packed), plain, "{from:?} to {to:?}");
            }
        }
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
