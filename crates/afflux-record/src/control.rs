//! Markers: control batches that end a producer's transaction in one partition.
//!
//! They take an offset as records do, and readers never see them. A marker is one record:
//!
//! ```text
//! key     version:i16=0  kind:i16 (0 abort, 1 commit)
//! value   version:i16=0  coordinator epoch:i32
//! ```
//! Other kinds of control records exist in Kafka's own metadata log, not in topics.

use afflux_types::{ProducerEpoch, ProducerId, Timestamp};
use bytes::{Buf, BufMut, Bytes};

use crate::{
    batch::{BatchError, Header, Producer, records_bounded},
    builder::Builder,
    compression::Compression,
};

const VERSION: i16 = 0;
const ABORT: i16 = 0;
const COMMIT: i16 = 1;
/// No marker is larger; what is takes no room.
const MARKER_BYTES_MAX: usize = 1 << 10;

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Marker {
    /// None of its records count.
    Abort,
    /// All of them do.
    Commit,
}

impl Marker {
    /// The marker's batch. Base offset and leader epoch are 0: the log sets them.
    pub fn batch(
        self,
        producer: ProducerId,
        epoch: ProducerEpoch,
        coordinator_epoch: i32,
        time: Timestamp,
    ) -> Result<Bytes, BatchError> {
        let kind = match self {
            Self::Abort => ABORT,
            Self::Commit => COMMIT,
        };
        let mut key = Vec::with_capacity(4);
        key.put_i16(VERSION);
        key.put_i16(kind);
        let mut value = Vec::with_capacity(6);
        value.put_i16(VERSION);
        value.put_i32(coordinator_epoch);
        let numbered = Producer { id: producer, epoch, base_sequence: -1 };
        let mut builder =
            Builder::new(Compression::None).producer(numbered).transactional().control();
        builder.push(time, Some(&key), Some(&value));
        builder.finish()
    }

    /// What a batch with this header marks; none if it is no marker.
    pub fn of(header: &Header, batch: &[u8]) -> Option<Self> {
        if !header.is_control() || header.bytes > MARKER_BYTES_MAX {
            return None;
        }
        let batch = Bytes::copy_from_slice(batch.get(..header.bytes)?);
        let record = records_bounded(&batch, MARKER_BYTES_MAX).next()?.ok()?;
        let mut key = record.key?;
        if key.len() < 4 || key.get_i16() < VERSION {
            return None;
        }
        match key.get_i16() {
            ABORT => Some(Self::Abort),
            COMMIT => Some(Self::Commit),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::records;

    #[test]
    fn a_marker_is_laid_out_as_kafkas_and_reads_back() {
        for (marker, kind) in [(Marker::Abort, 0), (Marker::Commit, 1)] {
            let batch = marker.batch(ProducerId(7), ProducerEpoch(3), 9, Timestamp(5)).unwrap();
            let header = crate::batch::check(&batch).unwrap();
            assert!(header.is_control() && header.is_transactional());
            assert_eq!((header.producer_id.0, header.producer_epoch.0), (7, 3));
            assert_eq!((header.base_sequence, header.record_count), (-1, 1));
            let record = records(&batch).next().unwrap().unwrap();
            assert_eq!(record.key.as_deref(), Some(&[0, 0, 0, kind][..]));
            assert_eq!(record.value.as_deref(), Some(&[0, 0, 0, 0, 0, 9][..]));
            assert_eq!(Marker::of(&header, &batch), Some(marker));
        }
    }

    #[test]
    fn what_is_no_marker_marks_nothing() {
        let check = |control: bool, key: Option<&[u8]>| {
            let builder = Builder::new(Compression::None);
            let mut builder = if control { builder.control() } else { builder };
            builder.push(Timestamp(0), key, None);
            let batch = builder.finish().unwrap();
            Marker::of(&Header::parse(&batch).unwrap(), &batch)
        };
        assert_eq!(check(true, Some(&[0, 0, 0, 1])), Some(Marker::Commit));
        assert_eq!(check(false, Some(&[0, 0, 0, 1])), None);
        assert_eq!(check(true, Some(&[0, 0, 0, 2])), None, "a leader change");
        assert_eq!(check(true, Some(&[0, 0, 0])), None);
        assert_eq!(check(true, None), None);
    }
}
