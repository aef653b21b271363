//! Journal frames: what the journal's files consist of behind their first page.
//!
//! This module turns frames into bytes and back. It knows no files and decides nothing: which
//! frame counts and which is cut is for the journal's recovery to say.
//!
//! ```text
//!  0       4       8          16         24         32            36       40     41    48
//! +-------+-------+----------+----------+----------+-------------+--------+------+------+---
//! | magic | crc   | position | sequence | durable  | incarnation | length | kind | zero | payload
//! | u32   | u32   | u64      | u64      | u64      | u32         | u32    | u8   |      |
//! +-------+-------+----------+----------+----------+-------------+--------+------+------+---
//! ```
//! Numbers of ours are little-endian. `crc` is the CRC32C of everything behind it up to the
//! payload's end. A frame begins at a multiple of 8; what fills up to the next one is zero.
//! `position` is the frame's own place in the journal, so that bytes of a file's earlier life
//! can not pass for frames; `durable` is what the writer knew to be durable when it wrote this.
//!
//! Payloads by kind:
//! ```text
//! group   time i64 | entries u32 | zero u32 | entries x ( stream u32 | length u32 | v2 batch )
//! chunk   staged group u64 | index u32 | zero u32 | bytes of its batches, one behind the other
//! commit  time i64 | entries u32 | chunks u32 |
//!         chunks x ( position of the bytes u64 | length u32 | zero u32 ) |
//!         entries x ( stream u32 | length u32 | base offset i64 | max timestamp i64 |
//!                     producer i64 | base sequence i32 | last offset delta i32 |
//!                     producer epoch i16 | attributes i16 | marker u32 )
//! seal    nothing: the rest of the file is unused
//! open    nothing: the journal was opened with a new incarnation
//! close   nothing: the journal was closed, all before this was durable
//! ```
//! A stream is a partition's number in the journal, never used for another. `marker` says how a
//! transaction ended: 1 aborted, 2 committed, 0 if the batch is no marker.

use afflux_types::{Incarnation, JournalPosition, Offset, ProducerEpoch, ProducerId, Timestamp};
use bytes::{Buf, BufMut};

use crate::{
    BatchError, Header, Marker,
    batch::{ATTRIBUTES_AT, CRC_AT, TRANSACTIONAL},
    crc,
};

/// Bytes in front of a payload.
pub const FRAME_HEADER_BYTES: usize = 48;
/// Frames begin at multiples of this.
pub const FRAME_ALIGN: usize = 8;
/// Bytes in front of the entries of a group, and of the bytes of a chunk.
pub const PREFIX_BYTES: usize = 16;
/// Bytes in front of each batch of a group.
pub const ENTRY_PREFIX_BYTES: usize = 8;
const COMMIT_CHUNK_BYTES: usize = 16;
const COMMIT_ENTRY_BYTES: usize = 48;
const MAGIC: u32 = u32::from_le_bytes(*b"AFXj");
const CRC_FROM: usize = 8;

/// The checksum that frames carry.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// The same, going on from the checksum of what came before.
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}

/// The checksum of a group's payload, without looking at all of it: most of what a batch consists
/// of has its checksum in the batch, which must have been checked. `starts` are the places of the
/// batches, one behind the other and the last up to the end, each as long as its prefix says.
pub fn group_crc(payload: &[u8], starts: &[usize]) -> u32 {
    let mut crc = 0;
    let mut at = 0;
    for start in starts {
        let covered = start + ATTRIBUTES_AT;
        let mut length = &payload[start - 4..*start];
        let end = start + length.get_u32_le() as usize;
        crc = crc32c_append(crc, &payload[at..covered]);
        let mut stored = &payload[start + CRC_AT..covered];
        crc = crc::join(crc, stored.get_u32(), (end - covered) as u32);
        at = end;
    }
    crc32c_append(crc, &payload[at..])
}

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Batches with offsets.
    Group,
    /// Bytes of a large group, without offsets until a commit adopts them.
    Chunk,
    /// Adopts chunks and gives their batches offsets.
    Commit,
    /// The last frame of a file.
    Seal,
    /// The first frame of an incarnation.
    Open,
    /// The last frame of an incarnation that ended well.
    Close,
}

impl Kind {
    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Group,
            2 => Self::Chunk,
            3 => Self::Commit,
            4 => Self::Seal,
            5 => Self::Open,
            6 => Self::Close,
            _ => return None,
        })
    }

    fn code(self) -> u8 {
        match self {
            Self::Group => 1,
            Self::Chunk => 2,
            Self::Commit => 3,
            Self::Seal => 4,
            Self::Open => 5,
            Self::Close => 6,
        }
    }
}

/// What stands in front of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Where the frame begins in the journal.
    pub position: JournalPosition,
    /// Its number; each frame's is one more than that of the one before.
    pub sequence: u64,
    /// Everything before this was durable when the frame was written.
    pub durable: JournalPosition,
    /// Under which opening of the journal it was written.
    pub incarnation: Incarnation,
    /// Bytes of payload.
    pub length: u32,
    /// What it is for.
    pub kind: Kind,
}

/// Bytes that a frame with such a payload takes, up to the next frame.
pub fn frame_bytes(payload: usize) -> usize {
    (FRAME_HEADER_BYTES + payload).next_multiple_of(FRAME_ALIGN)
}

impl FrameHeader {
    /// What every frame begins with.
    pub const MAGIC_BYTES: [u8; 4] = MAGIC.to_le_bytes();

    /// The header's bytes, its checksum taken over the payload too. `self.length` must be the
    /// payload's.
    pub fn encode(&self, payload: &[u8]) -> [u8; FRAME_HEADER_BYTES] {
        self.sealed(|header| crc32c::crc32c_append(header, payload))
    }

    /// The same, where the checksum of the payload alone is known.
    pub fn encode_over(&self, payload_crc: u32) -> [u8; FRAME_HEADER_BYTES] {
        self.sealed(|header| crc::join(header, payload_crc, self.length))
    }

    fn sealed(&self, over: impl FnOnce(u32) -> u32) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let mut at = &mut bytes[..];
        at.put_u32_le(MAGIC);
        at.put_u32_le(0);
        at.put_u64_le(self.position.0);
        at.put_u64_le(self.sequence);
        at.put_u64_le(self.durable.0);
        at.put_u32_le(self.incarnation.0);
        at.put_u32_le(self.length);
        at.put_u8(self.kind.code());
        let crc = over(crc32c::crc32c(&bytes[CRC_FROM..]));
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header that claims to stand at `position`; `None` if these bytes do not.
    /// What it says is not to be believed before [`FrameHeader::verify`].
    pub fn parse(bytes: &[u8], position: JournalPosition) -> Option<Self> {
        let mut at = bytes.get(..FRAME_HEADER_BYTES)?;
        if at.get_u32_le() != MAGIC {
            return None;
        }
        at.advance(4);
        let header = Self {
            position: JournalPosition(at.get_u64_le()),
            sequence: at.get_u64_le(),
            durable: JournalPosition(at.get_u64_le()),
            incarnation: Incarnation(at.get_u32_le()),
            length: at.get_u32_le(),
            kind: Kind::from_code(at.get_u8())?,
        };
        (header.position == position).then_some(header)
    }

    /// Whether header and payload are those that were written.
    pub fn verify(header: &[u8], payload: &[u8]) -> bool {
        let (Some(header), Some(stored)) =
            (header.get(CRC_FROM..FRAME_HEADER_BYTES), header.get(4..8))
        else {
            return false;
        };
        let crc = crc32c::crc32c_append(crc32c::crc32c(header), payload);
        stored == crc.to_le_bytes()
    }

    /// Where the next frame begins.
    pub fn end(&self) -> JournalPosition {
        JournalPosition(self.position.0 + frame_bytes(self.length as usize) as u64)
    }
}

/// A frame whose checksum holds but whose payload makes no sense: written by something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// It ends early.
    #[error("the payload ends early")]
    Truncated,
    /// A batch in it is not one.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

/// What the journal's index keeps of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchMeta {
    /// The partition's number.
    pub stream: u32,
    /// Bytes of the batch.
    pub bytes: u32,
    /// The offset of its first record.
    pub base_offset: Offset,
    /// Its latest timestamp.
    pub max_timestamp: Timestamp,
    /// Who produced it.
    pub producer: ProducerId,
    /// The producer's epoch.
    pub producer_epoch: ProducerEpoch,
    /// The sequence of its first record.
    pub base_sequence: i32,
    /// The last record's offset, less the base offset.
    pub last_offset_delta: i32,
    /// Kafka's flags.
    pub attributes: i16,
    /// How a transaction ended, if the batch says so.
    pub marker: Option<Marker>,
}

impl BatchMeta {
    /// What the index keeps of a batch, which has this header.
    pub fn new(stream: u32, header: &Header, batch: &[u8]) -> Self {
        Self {
            stream,
            bytes: header.bytes as u32,
            base_offset: header.base_offset,
            max_timestamp: header.max_timestamp,
            producer: header.producer_id,
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            last_offset_delta: header.last_offset_delta,
            attributes: header.attributes,
            marker: Marker::of(header, batch),
        }
    }

    /// Whether it is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// The offset behind the batch.
    pub fn next_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(i64::from(self.last_offset_delta) + 1))
    }
}

fn marker_code(marker: Option<Marker>) -> u32 {
    match marker {
        None => 0,
        Some(Marker::Abort) => 1,
        Some(Marker::Commit) => 2,
    }
}

fn marker_of(code: u32) -> Option<Marker> {
    match code {
        1 => Some(Marker::Abort),
        2 => Some(Marker::Commit),
        _ => None,
    }
}

/// Bytes that a group's payload takes, of batches of these lengths.
pub fn group_bytes(batches: impl Iterator<Item = usize>) -> usize {
    PREFIX_BYTES + batches.map(|bytes| ENTRY_PREFIX_BYTES + bytes).sum::<usize>()
}

/// Begins a group's payload.
pub fn put_group(payload: &mut Vec<u8>, time: Timestamp, entries: usize) {
    payload.put_i64_le(time.0);
    payload.put_u32_le(entries as u32);
    payload.put_u32_le(0);
}

/// Adds a batch to a group's payload; where the batch begins in it.
pub fn put_entry(payload: &mut Vec<u8>, stream: u32, batch: &[u8]) -> usize {
    payload.put_u32_le(stream);
    payload.put_u32_le(batch.len() as u32);
    let start = payload.len();
    payload.extend_from_slice(batch);
    start
}

/// Reads a group's payload: when it was appended, and each batch with its place in the payload.
pub fn read_group(payload: &[u8]) -> Result<(Timestamp, Vec<(BatchMeta, usize)>), PayloadError> {
    let (time, count, _, mut at) = read_prefix(payload)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        if at.len() < ENTRY_PREFIX_BYTES {
            return Err(PayloadError::Truncated);
        }
        let stream = at.get_u32_le();
        let bytes = at.get_u32_le() as usize;
        let batch = at.get(..bytes).ok_or(PayloadError::Truncated)?;
        let header = Header::parse(batch)?;
        if header.bytes != bytes {
            return Err(PayloadError::Truncated);
        }
        entries.push((BatchMeta::new(stream, &header, batch), payload.len() - at.len()));
        at.advance(bytes);
    }
    Ok((Timestamp(time), entries))
}

/// A chunk's prefix; the bytes follow it.
pub fn put_chunk(payload: &mut Vec<u8>, staged: u64, index: u32) {
    payload.put_u64_le(staged);
    payload.put_u32_le(index);
    payload.put_u32_le(0);
}

/// Some of a staged group's bytes: where they lie in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Of the first byte.
    pub position: JournalPosition,
    /// How many.
    pub bytes: u32,
}

/// What a commit frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// When the group was appended.
    pub time: Timestamp,
    /// Its chunks' bytes, in order.
    pub chunks: Vec<Piece>,
    /// Its batches, in order; their bytes follow each other in the chunks.
    pub entries: Vec<BatchMeta>,
}

impl Commit {
    /// Bytes that [`Commit::encode`] gives.
    pub fn encoded_bytes(chunks: usize, entries: usize) -> usize {
        PREFIX_BYTES + chunks * COMMIT_CHUNK_BYTES + entries * COMMIT_ENTRY_BYTES
    }

    /// The payload of a commit frame.
    pub fn encode(&self) -> Vec<u8> {
        let size = Self::encoded_bytes(self.chunks.len(), self.entries.len());
        let mut payload = Vec::with_capacity(size);
        payload.put_i64_le(self.time.0);
        payload.put_u32_le(self.entries.len() as u32);
        payload.put_u32_le(self.chunks.len() as u32);
        for chunk in &self.chunks {
            payload.put_u64_le(chunk.position.0);
            payload.put_u32_le(chunk.bytes);
            payload.put_u32_le(0);
        }
        for entry in &self.entries {
            payload.put_u32_le(entry.stream);
            payload.put_u32_le(entry.bytes);
            payload.put_i64_le(entry.base_offset.0);
            payload.put_i64_le(entry.max_timestamp.0);
            payload.put_i64_le(entry.producer.0);
            payload.put_i32_le(entry.base_sequence);
            payload.put_i32_le(entry.last_offset_delta);
            payload.put_i16_le(entry.producer_epoch.0);
            payload.put_i16_le(entry.attributes);
            payload.put_u32_le(marker_code(entry.marker));
        }
        payload
    }

    /// Reads the payload of a commit frame.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let (time, entries, chunks, mut at) = read_prefix(payload)?;
        let (entries, chunks) = (entries as usize, chunks as usize);
        // The lengths are checked before anything is reserved by them.
        let needed = chunks
            .checked_mul(COMMIT_CHUNK_BYTES)
            .zip(entries.checked_mul(COMMIT_ENTRY_BYTES))
            .and_then(|(chunks, entries)| chunks.checked_add(entries));
        if needed != Some(at.len()) {
            return Err(PayloadError::Truncated);
        }
        let chunks = (0..chunks)
            .map(|_| {
                let piece =
                    Piece { position: JournalPosition(at.get_u64_le()), bytes: at.get_u32_le() };
                at.advance(4);
                piece
            })
            .collect();
        let entries: Vec<BatchMeta> = (0..entries)
            .map(|_| BatchMeta {
                stream: at.get_u32_le(),
                bytes: at.get_u32_le(),
                base_offset: Offset(at.get_i64_le()),
                max_timestamp: Timestamp(at.get_i64_le()),
                producer: ProducerId(at.get_i64_le()),
                base_sequence: at.get_i32_le(),
                last_offset_delta: at.get_i32_le(),
                producer_epoch: ProducerEpoch(at.get_i16_le()),
                attributes: at.get_i16_le(),
                marker: marker_of(at.get_u32_le()),
            })
            .collect();
        if entries.iter().any(|meta| meta.last_offset_delta < 0) {
            return Err(BatchError::Header("its last offset lies before its first").into());
        }
        Ok(Self { time: Timestamp(time), chunks, entries })
    }

    /// Where each batch's bytes lie, in order, of a commit at this position; `None` if the chunks
    /// hold other than the batches need, or do not lie one behind the other before the commit.
    pub fn pieces(&self, position: u64) -> Option<Vec<Vec<Piece>>> {
        let mut free = 0;
        for chunk in &self.chunks {
            let from = chunk.position.0;
            free = from.checked_add(u64::from(chunk.bytes)).filter(|_| from >= free)?;
        }
        if free > position {
            return None;
        }
        let mut chunks = self.chunks.iter().copied();
        let mut chunk = Piece { position: JournalPosition::ZERO, bytes: 0 };
        let mut all = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            let mut left = entry.bytes;
            let mut pieces = Vec::with_capacity(1);
            while left > 0 {
                if chunk.bytes == 0 {
                    chunk = chunks.next()?;
                }
                let bytes = left.min(chunk.bytes);
                pieces.push(Piece { position: chunk.position, bytes });
                chunk.position.0 += u64::from(bytes);
                chunk.bytes -= bytes;
                left -= bytes;
            }
            all.push(pieces);
        }
        (chunk.bytes == 0 && chunks.next().is_none()).then_some(all)
    }
}

type Prefix<'a> = (i64, u32, u32, &'a [u8]);

fn read_prefix(payload: &[u8]) -> Result<Prefix<'_>, PayloadError> {
    let mut at = payload;
    if at.len() < PREFIX_BYTES {
        return Err(PayloadError::Truncated);
    }
    Ok((at.get_i64_le(), at.get_u32_le(), at.get_u32_le(), at))
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
