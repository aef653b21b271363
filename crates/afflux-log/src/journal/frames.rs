//! Frames of one journal file, read through a window: in order, or searched for.
//!
//! Not here: which frame counts. That is for `recovery` to say, and for `crate::repair`.

use std::{io, sync::Arc};

use afflux_record::frame::{
    BatchMeta, FRAME_ALIGN, FRAME_HEADER_BYTES, FrameHeader, Kind, frame_bytes,
};
use afflux_types::{Incarnation, JournalPosition};

use super::file::{FIRST_PAGE, JournalFile};

/// Read at a time.
const WINDOW: usize = 1 << 20;

/// A file's frames.
pub(crate) struct Reader<'a> {
    file: &'a JournalFile,
    start: u64,
    buf: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &'a JournalFile) -> Self {
        Self { file, start: file.base, buf: Vec::new() }
    }

    fn load(&mut self, position: u64, bytes: usize) -> io::Result<()> {
        let length = (WINDOW.max(bytes) as u64).min(self.file.end() - position);
        self.buf.resize(length as usize, 0);
        self.start = position;
        self.file.read(&mut self.buf, position)
    }

    fn holds(&self, position: u64, bytes: usize) -> bool {
        position >= self.start && position + bytes as u64 <= self.start + self.buf.len() as u64
    }

    /// The bytes at a position; `None` behind the file's end.
    pub(crate) fn get(&mut self, position: u64, bytes: usize) -> io::Result<Option<&[u8]>> {
        if position + bytes as u64 > self.file.end() {
            return Ok(None);
        }
        if !self.holds(position, bytes) {
            self.load(position, bytes)?;
        }
        let from = (position - self.start) as usize;
        Ok(Some(&self.buf[from..from + bytes]))
    }

    /// The frame at a position, if its checksum holds.
    pub(crate) fn frame(&mut self, position: u64) -> io::Result<Option<(FrameHeader, &[u8])>> {
        let Some(header) = self.get(position, FRAME_HEADER_BYTES)? else { return Ok(None) };
        let Some(parsed) = FrameHeader::parse(header, JournalPosition(position)) else {
            return Ok(None);
        };
        let length = parsed.length as usize;
        let Some(bytes) = self.get(position, FRAME_HEADER_BYTES + length)? else {
            return Ok(None);
        };
        let (header, payload) = bytes.split_at(FRAME_HEADER_BYTES);
        Ok(FrameHeader::verify(header, payload).then_some((parsed, payload)))
    }

    /// The first frame at or behind a position, which is one for frames, whose checksum holds.
    ///
    /// A file that was used before is full of what begins like a frame: the window is only read
    /// anew when it is used up.
    pub(crate) fn find(&mut self, from: u64) -> io::Result<Option<FrameHeader>> {
        let mut at = from;
        while at + FRAME_HEADER_BYTES as u64 <= self.file.end() {
            if !self.holds(at, FRAME_ALIGN) {
                self.load(at, WINDOW)?;
            }
            let mut words = self.buf[(at - self.start) as usize..].chunks_exact(FRAME_ALIGN);
            let count = words.len();
            let Some(word) = words.position(|word| word[..4] == FrameHeader::MAGIC_BYTES) else {
                at += (count * FRAME_ALIGN) as u64;
                continue;
            };
            at += (word * FRAME_ALIGN) as u64;
            if let Some((header, _)) = self.frame(at)? {
                return Ok(Some(header));
            }
            at += FRAME_ALIGN as u64;
        }
        Ok(None)
    }
}

/// Whether there are numbers and incarnations behind these. There are, unless they are forged.
pub(super) fn can_be_followed(sequence: u64, incarnation: Incarnation) -> bool {
    i64::try_from(sequence).is_ok() && incarnation <= Incarnation::MAX
}

/// Whether more can follow a frame: another number and another incarnation, and in this file a
/// seal, if it is none.
pub(crate) fn check_header(header: &FrameHeader, file: &JournalFile) -> Result<(), String> {
    let FrameHeader { sequence, incarnation, .. } = *header;
    if !can_be_followed(sequence, incarnation) {
        let which = format!("its number is {sequence} and its incarnation {incarnation}");
        return Err(format!("{which}, which leaves none for what follows"));
    }
    let seal = if header.kind == Kind::Seal { 0 } else { frame_bytes(0) as u64 };
    if header.end().0 + seal > file.end() {
        return Err("there is no room for a seal behind it".to_owned());
    }
    Ok(())
}

/// Whether a batch can stand behind this end of its partition.
pub(crate) fn check_offsets(batch: &BatchMeta, end: i64) -> Result<(), String> {
    let base = batch.base_offset.0;
    if base < end {
        return Err(format!("a batch begins at offset {base}, but there are offsets up to {end}"));
    }
    // One is never reached: what lies behind an end is counted too.
    if batch.next_offset().0 == i64::MAX {
        return Err(format!("a batch at offset {base} has offsets that can not be"));
    }
    Ok(())
}

/// The last frame that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Last {
    pub(crate) sequence: u64,
    pub(crate) incarnation: Incarnation,
}

impl Last {
    /// Whether a frame somewhere behind this one is of the same journal, and not a remnant of
    /// what was cut before.
    pub(crate) fn is_before(self, header: &FrameHeader) -> bool {
        header.incarnation >= self.incarnation && header.sequence > self.sequence
    }
}

/// A frame behind an invalid one that proves that what stands there was durable, if there is one
/// in these files, of which the first holds the position.
pub(crate) fn proof(
    files: &[Arc<JournalFile>],
    position: u64,
    last: Last,
) -> Result<Option<FrameHeader>, (Arc<JournalFile>, io::Error)> {
    for file in files {
        let mut reader = Reader::new(file);
        let mut at = (file.base + FIRST_PAGE).max(position + FRAME_ALIGN as u64);
        while let Some(header) = reader.find(at).map_err(|error| (file.clone(), error))? {
            if !last.is_before(&header) {
                at = header.position.0 + FRAME_ALIGN as u64;
                continue;
            }
            if header.durable.0 > position {
                return Ok(Some(header));
            }
            at = header.end().0;
        }
    }
    Ok(None)
}

/// What is said of an invalid frame that was durable.
pub(crate) fn explain(proof: &FrameHeader) -> String {
    format!(
        "the frame at position {} was written when everything before {} was durable, but what \
         stands here is not what was written",
        proof.position.0, proof.durable.0
    )
}
