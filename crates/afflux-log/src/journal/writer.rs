//! Frames to disk: what waits is written with one write and made durable with one sync.
//!
//! What follows the last frame is zeros up to the page's end: a write that covers only a part of
//! a page that is not in memory would first have to read it, and a file that was used before has
//! old bytes there.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use afflux_record::frame::{FRAME_HEADER_BYTES, FrameHeader, Kind, crc32c, frame_bytes, group_crc};
use afflux_types::{Incarnation, JournalPosition};
use bytes::Bytes;

use super::file::JournalFile;
use crate::memory;

const PAGE: u64 = 4096;
static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];

/// From this size of batches on, checksums are put together faster than they are taken.
const JOINED_FROM: usize = 4 << 10;
/// From this size on it is worth it to take a payload's checksum ahead.
const LARGE: usize = 64 << 10;

/// What a frame says, and its checksum once somebody has taken it: who appends much takes it beside
/// the writer, who would else do so between two syncs. That of large batches is known from theirs.
#[derive(Debug, Clone)]
pub(crate) struct Payload {
    pub(crate) bytes: Bytes,
    crc: Arc<OnceLock<u32>>,
}

impl Payload {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { bytes, crc: Arc::default() }
    }

    pub(crate) fn empty() -> Self {
        Self::new(Bytes::new())
    }

    /// A group's, whose batches begin at `starts`. Its checksum is put together from theirs if that
    /// costs less than to go through them.
    pub(crate) fn of_group(group: Vec<u8>, starts: &[usize]) -> Self {
        let crc = (group.len() >= starts.len() * JOINED_FROM).then(|| group_crc(&group, starts));
        let crc = crc.map_or_else(OnceLock::new, OnceLock::from);
        Self { bytes: memory::share(group), crc: Arc::new(crc) }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the checksum is worth taking ahead, if that is not done.
    pub(crate) fn is_large(&self) -> bool {
        self.len() >= LARGE
    }

    /// Whether the checksum is known, or somebody is at it.
    fn is_summed(&self) -> bool {
        self.is_large() || self.crc.get().is_some()
    }

    /// The checksum. Whoever comes second waits for it.
    pub(crate) fn crc(&self) -> u32 {
        *self.crc.get_or_init(|| crc32c(&self.bytes))
    }
}

/// A frame that has its position but is not yet written.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// Where it goes.
    pub(crate) position: u64,
    /// Its number.
    pub(crate) sequence: u64,
    /// What it is for.
    pub(crate) kind: Kind,
    /// What it says.
    pub(crate) payload: Payload,
}

impl Frame {
    /// Where the next one begins.
    pub(crate) fn end(&self) -> u64 {
        self.position + frame_bytes(self.payload.len()) as u64
    }
}

/// Frames of one file, one behind the other.
#[derive(Debug)]
pub(crate) struct WriteBatch {
    /// Where they go.
    pub(crate) file: Arc<JournalFile>,
    /// At least one.
    pub(crate) frames: Vec<Frame>,
    /// The journal's incarnation.
    pub(crate) incarnation: Incarnation,
    /// What is durable by now.
    pub(crate) durable: u64,
}

impl WriteBatch {
    /// Behind the last frame.
    pub(crate) fn end(&self) -> u64 {
        self.frames.last().map_or(self.durable, Frame::end)
    }

    /// Writes all of it. Not durable yet.
    pub(crate) fn write(&self) -> io::Result<()> {
        let headers: Vec<[u8; FRAME_HEADER_BYTES]> = self
            .frames
            .iter()
            .map(|frame| {
                let header = FrameHeader {
                    position: JournalPosition(frame.position),
                    sequence: frame.sequence,
                    durable: JournalPosition(self.durable),
                    incarnation: self.incarnation,
                    length: frame.payload.len() as u32,
                    kind: frame.kind,
                };
                if frame.payload.is_summed() {
                    header.encode_over(frame.payload.crc())
                } else {
                    header.encode(&frame.payload.bytes)
                }
            })
            .collect();
        let mut bufs: Vec<&[u8]> = Vec::with_capacity(self.frames.len() * 3 + 1);
        for (frame, header) in self.frames.iter().zip(&headers) {
            bufs.push(header);
            bufs.push(&frame.payload.bytes);
            let padding =
                frame.end() - frame.position - (FRAME_HEADER_BYTES + frame.payload.len()) as u64;
            bufs.push(&ZEROS[..padding as usize]);
        }
        let end = self.end();
        bufs.push(&ZEROS[..(end.next_multiple_of(PAGE) - end) as usize]);
        self.file.write(&bufs, self.frames.first().map_or(end, |frame| frame.position))
    }

    /// Writes all of it and makes it durable.
    pub(crate) fn commit(&self) -> io::Result<()> {
        self.write()?;
        self.file.sync()
    }
}
