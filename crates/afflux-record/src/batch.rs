//! Kafka's v2 record batch: its header. How to read its records is in [`Unpacked`] and [`records`],
//! how to build one in [`Builder`].
//!
//! ```text
//!  0        8      12      16 17      21   23      27        35
//! ┌────────┬───────┬───────┬─┬───────┬────┬───────┬─────────┬────────┐
//! │ base   │length │leader │2│CRC32C │attr│last   │base     │max     │
//! │ offset │       │epoch  │ │       │    │delta  │timestamp│timest. │
//! └────────┴───────┴───────┴─┴───────┴────┴───────┴─────────┴────────┘
//! 43         51    53       57      61
//! ┌─────────┬─────┬────────┬───────┬──────────────────────────────────┐
//! │producer │epoch│base    │record │ records, packed together or not  │
//! │id       │     │sequence│count  │                                  │
//! └─────────┴─────┴────────┴───────┴──────────────────────────────────┘
//! ```
//! Numbers are big-endian. `length` counts what lies behind it; the CRC covers everything from
//! the attributes on. So base offset and leader epoch can be patched without touching it.
//!
//! A record: `length attributes timestamp-delta offset-delta key value headers`, its numbers
//! zigzag varints, its lengths -1 for null.
//!
//! What is read here may come from anywhere: every length is checked against the bytes that are
//! there before anything is reserved or sliced.

use afflux_types::{
    Classified, ErrorKind, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp,
};
use bytes::Buf;

use crate::compression::Compression;

pub use crate::{
    builder::{Builder, Producer},
    records::{
        HEADERS_MAX, Record, RecordHeader, RecordRef, Records, Unpacked, records, records_bounded,
    },
    rewrite::{recompress, repack, retain, set_latest, stamp},
};

/// Bytes in front of the records.
pub const HEADER_BYTES: usize = 61;
/// Bytes in front of what `length` counts.
pub const LENGTH_PREFIX_BYTES: usize = 12;
/// The only format taken.
pub const MAGIC: i8 = 2;

const EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
pub(crate) const CRC_AT: usize = 17;
pub(crate) const ATTRIBUTES_AT: usize = 21;

pub(crate) const COMPRESSION_MASK: i16 = 0b111;
pub(crate) const LOG_APPEND_TIME: i16 = 1 << 3;
pub(crate) const TRANSACTIONAL: i16 = 1 << 4;
pub(crate) const CONTROL: i16 = 1 << 5;
pub(crate) const DELETE_HORIZON: i16 = 1 << 6;

/// Bytes that are not a batch that this module reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The batch ends early.
    #[error("the batch needs {needed} bytes and {have} are there")]
    Truncated {
        /// Bytes that it needs.
        needed: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// Bytes follow where one batch was expected.
    #[error("the batch has {batch} bytes and {behind} more follow it")]
    Trailing {
        /// The batch's own size.
        batch: usize,
        /// Bytes behind it.
        behind: usize,
    },
    /// Another format version than 2.
    #[error("the batch has format version {0}; only version 2 is taken")]
    Magic(i8),
    /// A header field that no producer writes.
    #[error("the batch's header is malformed: {0}")]
    Header(&'static str),
    /// The bytes are not those that were sent.
    #[error("the batch's checksum is {computed:08x}, it should be {stored:08x}")]
    Checksum {
        /// What the batch carries.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// A codec that Kafka does not know.
    #[error("compression {0} is not known")]
    UnknownCompression(i16),
    /// The records do not unpack.
    #[error("unpacking {codec}: {reason}")]
    Unpacking {
        /// The codec's name.
        codec: &'static str,
        /// What it said.
        reason: String,
    },
    /// The records can not be packed.
    #[error("packing {codec}: {reason}")]
    Packing {
        /// The codec's name.
        codec: &'static str,
        /// What it said.
        reason: String,
    },
    /// The records unpack to more than the limit.
    #[error("the batch unpacks to more than {bytes_max} bytes")]
    UnpacksTooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// A record is malformed.
    #[error("record {index} of the batch is malformed: {reason}")]
    Record {
        /// Its place in the batch, from 0.
        index: i32,
        /// What is wrong.
        reason: &'static str,
    },
}

impl Classified for BatchError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Checksum { .. } => ErrorKind::Corrupt,
            Self::Magic(_) => ErrorKind::Unsupported,
            _ => ErrorKind::Invalid,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Magic(_) => "use a client that speaks Kafka 0.11 or newer",
            Self::UnpacksTooLarge { .. } => "send fewer or smaller records in a batch",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// What a batch says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The offset of its first record.
    pub base_offset: Offset,
    /// Bytes of the whole batch, header and all.
    pub bytes: usize,
    /// The leader epoch under which it was appended.
    pub leader_epoch: LeaderEpoch,
    /// CRC32C of everything from the attributes on.
    pub crc: u32,
    /// Flags; read them through the methods.
    pub attributes: i16,
    /// The last record's offset, less the base offset.
    pub last_offset_delta: i32,
    /// What the records' timestamps count from.
    pub base_timestamp: Timestamp,
    /// The latest timestamp of its records, or the append time.
    pub max_timestamp: Timestamp,
    /// Who produced it, or [`ProducerId::NONE`].
    pub producer_id: ProducerId,
    /// The producer's epoch, or -1.
    pub producer_epoch: ProducerEpoch,
    /// The sequence of its first record, or -1.
    pub base_sequence: i32,
    /// How many records it holds.
    pub record_count: i32,
}

impl Header {
    /// Reads the header of the batch that `bytes` begin with; more may follow. The whole batch
    /// must be there. The checksum is not checked.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let have = bytes.len();
        // A batch of another format may be shorter than a header of ours.
        if have > MAGIC_AT && bytes[MAGIC_AT] as i8 != MAGIC {
            return Err(BatchError::Magic(bytes[MAGIC_AT] as i8));
        }
        let mut at = bytes
            .get(..HEADER_BYTES)
            .ok_or(BatchError::Truncated { needed: HEADER_BYTES, have })?;
        let base_offset = Offset(at.get_i64());
        let needed = usize::try_from(at.get_i32())
            .ok()
            .and_then(|length| length.checked_add(LENGTH_PREFIX_BYTES))
            .filter(|needed| *needed >= HEADER_BYTES)
            .ok_or(BatchError::Header("its length is less than a header's"))?;
        if needed > have {
            return Err(BatchError::Truncated { needed, have });
        }
        let leader_epoch = LeaderEpoch(at.get_i32());
        at.advance(1);
        let header = Self {
            base_offset,
            bytes: needed,
            leader_epoch,
            crc: at.get_u32(),
            attributes: at.get_i16(),
            last_offset_delta: at.get_i32(),
            base_timestamp: Timestamp(at.get_i64()),
            max_timestamp: Timestamp(at.get_i64()),
            producer_id: ProducerId(at.get_i64()),
            producer_epoch: ProducerEpoch(at.get_i16()),
            base_sequence: at.get_i32(),
            record_count: at.get_i32(),
        };
        if header.last_offset_delta < 0 {
            return Err(BatchError::Header("its last offset lies before its first"));
        }
        if header.record_count < 0
            || i64::from(header.record_count) > i64::from(header.last_offset_delta) + 1
        {
            return Err(BatchError::Header("its record count does not fit its offsets"));
        }
        Ok(header)
    }

    /// The offset of the last record.
    pub fn last_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(i64::from(self.last_offset_delta)))
    }

    /// The offset behind the batch.
    pub fn next_offset(&self) -> Offset {
        Offset(self.last_offset().0.saturating_add(1))
    }

    /// The sequence of the last record; sequences go round from `i32::MAX` to 0.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        ((i64::from(self.base_sequence) + i64::from(self.last_offset_delta))
            % (i64::from(i32::MAX) + 1)) as i32
    }

    /// How its records are packed.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        let code = self.attributes & COMPRESSION_MASK;
        Compression::from_code(code).ok_or(BatchError::UnknownCompression(code))
    }

    /// Whether its timestamps are the log's, not the producer's.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// Whether it is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether it holds markers for the log instead of records for readers.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// When compaction may drop the tombstones, or the marker, that it holds, if it has seen them
    /// in a pass before. It stands where else the base timestamp does (KIP-534).
    pub fn delete_horizon(&self) -> Option<Timestamp> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    /// Whether the producer numbers its batches.
    pub fn is_idempotent(&self) -> bool {
        self.producer_id.0 >= 0
    }
}

/// Reads and checks exactly one batch: no byte too few or too many, and its checksum.
pub fn check(batch: &[u8]) -> Result<Header, BatchError> {
    let header = Header::parse(batch)?;
    if header.bytes < batch.len() {
        return Err(BatchError::Trailing {
            batch: header.bytes,
            behind: batch.len() - header.bytes,
        });
    }
    verify_crc(batch)?;
    Ok(header)
}

/// Checks the checksum of exactly one batch.
pub fn verify_crc(batch: &[u8]) -> Result<(), BatchError> {
    let have = batch.len();
    let truncated = BatchError::Truncated { needed: HEADER_BYTES, have };
    let covered = batch.get(ATTRIBUTES_AT..).ok_or(truncated)?;
    let stored = (&batch[CRC_AT..]).get_u32();
    let computed = crc32c::crc32c(covered);
    if stored == computed { Ok(()) } else { Err(BatchError::Checksum { stored, computed }) }
}

/// Writes base offset and leader epoch into a batch; the checksum does not cover them.
pub fn patch(
    batch: &mut [u8],
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
) -> Result<(), BatchError> {
    let have = batch.len();
    if have < HEADER_BYTES {
        return Err(BatchError::Truncated { needed: HEADER_BYTES, have });
    }
    batch[..8].copy_from_slice(&base_offset.0.to_be_bytes());
    batch[EPOCH_AT..MAGIC_AT].copy_from_slice(&leader_epoch.0.to_be_bytes());
    Ok(())
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
