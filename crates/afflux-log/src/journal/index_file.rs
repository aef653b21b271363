//! The index of a sealed journal file, in a file beside it.
//!
//! A cache: if it is missing or damaged it is built again from the journal file. It saves the
//! restart from reading the journal, and memory from holding an entry for every batch: only the
//! directory is kept, sections are read when somebody asks.
//!
//! ```text
//! header     magic u64 | crc u32 | version u32 | journal u128 | base u64 | end u64 |
//!            sequence u64 | directory length u64                                    64 bytes
//! directory  incarnation u32 |
//!            runs u32 x ( stream u32 | section u64 | length u32 | crc u32 | base i64 | end i64 |
//!                         first at u64 | last at u64 | max timestamp i64 | stable i64 |
//!                         ended u32 )
//!            boundaries u32 x u64
//!            foreign u32 x ( stream u32 | file u64 )
//!            producers u64 | length u32 | crc u32
//! sections   entries u32 | lists u32 | ended u32 |
//!            entries x ( base i64 | at u64 | max timestamp i64 | bytes u32 | offsets u32 |
//!                        epoch i32 | list u32 ) |
//!            lists x ( pieces u32 x ( position u64 | bytes u32 ) ) |
//!            ended x ( producer i64 | first i64 | marker i64 | stable i64 | aborted u8 )
//! producers  streams u32 x ( stream u32 | as in `producers` )
//! ```
//! The header's `crc` is the CRC32C of what lies behind it up to the directory's end. `end` lies
//! behind the file's seal, whose number is `sequence`. `foreign` names streams of staged groups
//! committed here whose bytes lie in an earlier file. `producers` is the state at the seal.
//! `ended` are transactions whose marker is among the entries (see `transactions`), `stable` is
//! what the stream was decided up to at the seal.
//!
//! Version 1 knew no transactions; such an index is built again.
//!
//! A file with what was compacted (see `compacted_file`) ends with such an index, of one stream. That
//! one is no cache; its numbers count from where it begins.

use std::{
    io,
    path::{Path, PathBuf},
};

use afflux_env::{Disk, OpenMode};
use afflux_record::frame::Piece;
use afflux_types::{Incarnation, JournalPosition};
use bytes::{Buf, BufMut};
use hashbrown::HashMap;

use super::{
    file::{crc32c, write_whole},
    frames::can_be_followed,
};
use crate::{
    index::{IndexEntry, Pieces},
    producers::Producers,
    transactions::Ended,
};

const MAGIC: &[u8; 8] = b"AFXINDEX";
const VERSION: u32 = 2;
/// Bytes that the directory takes for a run.
const RUN_BYTES: usize = 72;
const HEADER_BYTES: usize = 64;
const CRC_FROM: usize = 12;

/// What the directory says of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunMeta {
    pub(crate) stream: u32,
    section: u64,
    bytes: u32,
    crc: u32,
    pub(crate) base: i64,
    pub(crate) end: i64,
    pub(crate) at_first: u64,
    pub(crate) at_last: u64,
    pub(crate) max_timestamp: i64,
    pub(crate) stable: i64,
    pub(crate) ended: u32,
}

/// The entries of one stream in one file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Section {
    /// In offset order.
    pub(crate) entries: Vec<IndexEntry>,
    /// What [`IndexEntry::pieces`] counts in.
    pub(crate) pieces: Vec<Pieces>,
    /// Transactions that ended here, in the order of their markers.
    pub(crate) ended: Vec<Ended>,
}

impl Section {
    /// Bytes that it holds in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        let pieces: usize = self.pieces.iter().map(|list| list.len() * size_of::<Piece>()).sum();
        let ended = self.ended.len() * size_of::<Ended>();
        self.entries.len() * size_of::<IndexEntry>() + ended + pieces
    }

    fn encode(&self, to: &mut Vec<u8>) {
        to.put_u32_le(self.entries.len() as u32);
        to.put_u32_le(self.pieces.len() as u32);
        to.put_u32_le(self.ended.len() as u32);
        for entry in &self.entries {
            to.put_i64_le(entry.base);
            to.put_u64_le(entry.at);
            to.put_i64_le(entry.max_timestamp);
            to.put_u32_le(entry.bytes);
            to.put_u32_le(entry.offsets);
            to.put_i32_le(entry.epoch);
            to.put_u32_le(entry.pieces);
        }
        for list in &self.pieces {
            to.put_u32_le(list.len() as u32);
            for piece in &**list {
                to.put_u64_le(piece.position.0);
                to.put_u32_le(piece.bytes);
            }
        }
        for ended in &self.ended {
            to.put_i64_le(ended.producer);
            to.put_i64_le(ended.first);
            to.put_i64_le(ended.marker);
            to.put_i64_le(ended.stable);
            to.put_u8(u8::from(ended.aborted));
        }
    }

    fn decode(mut at: &[u8]) -> Option<Self> {
        let entries = at.try_get_u32_le().ok()?;
        let lists = at.try_get_u32_le().ok()?;
        let ended = at.try_get_u32_le().ok()?;
        let mut section = Self::default();
        for _ in 0..entries {
            section.entries.push(IndexEntry {
                base: at.try_get_i64_le().ok()?,
                at: at.try_get_u64_le().ok()?,
                max_timestamp: at.try_get_i64_le().ok()?,
                bytes: at.try_get_u32_le().ok()?,
                offsets: at.try_get_u32_le().ok()?,
                epoch: at.try_get_i32_le().ok()?,
                pieces: at.try_get_u32_le().ok()?,
            });
        }
        for _ in 0..lists {
            let mut list = Vec::new();
            for _ in 0..at.try_get_u32_le().ok()? {
                list.push(Piece {
                    position: JournalPosition(at.try_get_u64_le().ok()?),
                    bytes: at.try_get_u32_le().ok()?,
                });
            }
            section.pieces.push(list.into());
        }
        for _ in 0..ended {
            section.ended.push(Ended {
                producer: at.try_get_i64_le().ok()?,
                first: at.try_get_i64_le().ok()?,
                marker: at.try_get_i64_le().ok()?,
                stable: at.try_get_i64_le().ok()?,
                aborted: at.try_get_u8().ok()? != 0,
            });
        }
        Some(section)
    }
}

/// What an index file is made of.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) journal: u128,
    pub(crate) base: u64,
    pub(crate) end: u64,
    pub(crate) sequence: u64,
    pub(crate) incarnation: Incarnation,
    /// Each with its stream, and with what that was decided up to at its end.
    pub(crate) sections: Vec<(u32, i64, Section)>,
    pub(crate) boundaries: Vec<u64>,
    pub(crate) foreign: Vec<(u32, u64)>,
    /// As [`encode_producers`] gives it.
    pub(crate) producers: Vec<u8>,
}

/// The directory of an index file, in memory.
#[derive(Debug)]
pub(crate) struct IndexFile {
    path: PathBuf,
    /// Where in that it begins.
    from: u64,
    /// Its journal file's first position.
    pub(crate) base: u64,
    /// Behind the seal.
    pub(crate) end: u64,
    /// The seal's number.
    pub(crate) sequence: u64,
    /// The seal's incarnation.
    pub(crate) incarnation: Incarnation,
    /// Its streams.
    pub(crate) runs: Vec<RunMeta>,
    /// Some group boundaries.
    pub(crate) boundaries: Vec<u64>,
    /// Streams whose bytes lie in an earlier file, and which.
    pub(crate) foreign: Vec<(u32, u64)>,
    producers: (u64, u32, u32),
}

/// The index file's place beside its journal file.
pub(crate) fn path_of(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:016x}.index"))
}

/// All streams' producers, as bytes.
pub(crate) fn encode_producers<'a>(streams: impl Iterator<Item = (u32, &'a Producers)>) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    let mut count = 0_u32;
    for (stream, producers) in streams.filter(|(_, producers)| !producers.is_empty()) {
        count += 1;
        bytes.put_u32_le(stream);
        producers.encode(&mut bytes);
    }
    bytes[..4].copy_from_slice(&count.to_le_bytes());
    bytes
}

impl Content {
    /// The bytes of an index.
    pub(super) fn encode(&self) -> Vec<u8> {
        let directory_bytes = 4
            + 4
            + self.sections.len() * RUN_BYTES
            + 4
            + self.boundaries.len() * 8
            + 4
            + self.foreign.len() * 12
            + 16;
        let mut sections = Vec::new();
        let mut directory = Vec::with_capacity(directory_bytes);
        directory.put_u32_le(self.incarnation.0);
        directory.put_u32_le(self.sections.len() as u32);
        let sections_from = (HEADER_BYTES + directory_bytes) as u64;
        for (stream, stable, section) in &self.sections {
            let from = sections.len();
            section.encode(&mut sections);
            let bytes = &sections[from..];
            let first = section.entries.first();
            let last = section.entries.last();
            directory.put_u32_le(*stream);
            directory.put_u64_le(sections_from + from as u64);
            directory.put_u32_le(bytes.len() as u32);
            directory.put_u32_le(crc32c(bytes));
            directory.put_i64_le(first.map_or(0, |entry| entry.base));
            directory.put_i64_le(last.map_or(0, IndexEntry::next));
            directory.put_u64_le(first.map_or(0, |entry| entry.at));
            directory.put_u64_le(last.map_or(0, |entry| entry.at));
            let latest = section.entries.iter().map(|entry| entry.max_timestamp).max();
            directory.put_i64_le(latest.unwrap_or(i64::MIN));
            directory.put_i64_le(*stable);
            directory.put_u32_le(section.ended.len() as u32);
        }
        directory.put_u32_le(self.boundaries.len() as u32);
        self.boundaries.iter().for_each(|boundary| directory.put_u64_le(*boundary));
        directory.put_u32_le(self.foreign.len() as u32);
        for (stream, file) in &self.foreign {
            directory.put_u32_le(*stream);
            directory.put_u64_le(*file);
        }
        directory.put_u64_le(sections_from + sections.len() as u64);
        directory.put_u32_le(self.producers.len() as u32);
        directory.put_u32_le(crc32c(&self.producers));
        debug_assert_eq!(directory.len(), directory_bytes);

        let mut bytes = Vec::with_capacity(sections_from as usize + sections.len());
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(0);
        bytes.put_u32_le(VERSION);
        bytes.put_u128_le(self.journal);
        bytes.put_u64_le(self.base);
        bytes.put_u64_le(self.end);
        bytes.put_u64_le(self.sequence);
        bytes.put_u64_le(directory_bytes as u64);
        bytes.extend_from_slice(&directory);
        let crc = crc32c(&bytes[CRC_FROM..]);
        bytes[8..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&sections);
        bytes.extend_from_slice(&self.producers);
        bytes
    }
}

impl IndexFile {
    /// Writes an index file, whole or not at all.
    pub(crate) fn write(disk: &dyn Disk, dir: &Path, content: &Content) -> io::Result<Self> {
        let bytes = content.encode();
        let path = path_of(dir, content.base);
        write_whole(disk, &path, &bytes)?;
        Self::parse((path, 0), content.journal, &bytes[..HEADER_BYTES], &bytes[HEADER_BYTES..])
            .ok_or_else(|| io::Error::other("an index file does not read back"))
    }

    /// Opens the index of a journal file; `None` if it is missing or damaged.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, journal: u128, base: u64) -> Option<Self> {
        Self::open_at(disk, (path_of(dir, base), 0), journal, base)
    }

    /// Opens an index that begins somewhere in a file; `None` if it is missing or damaged.
    pub(super) fn open_at(
        disk: &dyn Disk,
        (path, from): (PathBuf, u64),
        journal: u128,
        base: u64,
    ) -> Option<Self> {
        let file = disk.open(&path, OpenMode::Read).ok()?;
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, from).ok()?;
        let length = (&header[HEADER_BYTES - 8..]).get_u64_le();
        if length > file.len().ok()? {
            return None;
        }
        let mut directory = vec![0; length as usize];
        file.read_exact_at(&mut directory, from + HEADER_BYTES as u64).ok()?;
        Self::parse((path, from), journal, &header, &directory).filter(|index| index.base == base)
    }

    fn parse(
        (path, from): (PathBuf, u64),
        journal: u128,
        header: &[u8],
        directory: &[u8],
    ) -> Option<Self> {
        let mut at = header;
        let magic = at.copy_to_bytes(MAGIC.len());
        let crc = at.get_u32_le();
        let version = at.get_u32_le();
        let whose = at.get_u128_le();
        let (base, end, sequence) = (at.get_u64_le(), at.get_u64_le(), at.get_u64_le());
        let directory = directory.get(..usize::try_from(at.get_u64_le()).ok()?)?;
        let computed = afflux_record::frame::crc32c_append(crc32c(&header[CRC_FROM..]), directory);
        if &magic[..] != MAGIC || version != VERSION || whose != journal || crc != computed {
            return None;
        }
        let mut at = directory;
        let incarnation = Incarnation(at.try_get_u32_le().ok()?);
        if !can_be_followed(sequence, incarnation) {
            return None;
        }
        let mut runs = Vec::new();
        for _ in 0..at.try_get_u32_le().ok()? {
            runs.push(RunMeta {
                stream: at.try_get_u32_le().ok()?,
                section: at.try_get_u64_le().ok()?,
                bytes: at.try_get_u32_le().ok()?,
                crc: at.try_get_u32_le().ok()?,
                base: at.try_get_i64_le().ok()?,
                end: at.try_get_i64_le().ok()?,
                at_first: at.try_get_u64_le().ok()?,
                at_last: at.try_get_u64_le().ok()?,
                max_timestamp: at.try_get_i64_le().ok()?,
                stable: at.try_get_i64_le().ok()?,
                ended: at.try_get_u32_le().ok()?,
            });
        }
        let mut boundaries = Vec::new();
        for _ in 0..at.try_get_u32_le().ok()? {
            boundaries.push(at.try_get_u64_le().ok()?);
        }
        let mut foreign = Vec::new();
        for _ in 0..at.try_get_u32_le().ok()? {
            foreign.push((at.try_get_u32_le().ok()?, at.try_get_u64_le().ok()?));
        }
        let producers =
            (at.try_get_u64_le().ok()?, at.try_get_u32_le().ok()?, at.try_get_u32_le().ok()?);
        Some(Self {
            path,
            from,
            base,
            end,
            sequence,
            incarnation,
            runs,
            boundaries,
            foreign,
            producers,
        })
    }

    /// Whether it knows any producers.
    pub(crate) fn knows_producers(&self) -> bool {
        let (_, bytes, _) = self.producers;
        bytes > 4
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self, disk: &dyn Disk, at: u64, bytes: u32, crc: u32) -> io::Result<Vec<u8>> {
        let file = disk.open(&self.path, OpenMode::Read)?;
        let at = at.saturating_add(self.from);
        if at.saturating_add(u64::from(bytes)) > file.len()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut buf = vec![0; bytes as usize];
        file.read_exact_at(&mut buf, at)?;
        if crc32c(&buf) == crc { Ok(buf) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// Reads a section.
    pub(crate) fn section(&self, disk: &dyn Disk, section: u32) -> io::Result<Section> {
        let damaged = || io::Error::from(io::ErrorKind::InvalidData);
        let run = self.runs.get(section as usize).ok_or_else(damaged)?;
        let bytes = self.read(disk, run.section, run.bytes, run.crc)?;
        Section::decode(&bytes).ok_or_else(damaged)
    }

    /// Reads the producers' state at the seal; `None` if it is damaged.
    pub(crate) fn producers(&self, disk: &dyn Disk) -> Option<HashMap<u32, Producers>> {
        let (at, bytes, crc) = self.producers;
        let bytes = self.read(disk, at, bytes, crc).ok()?;
        let mut at = &bytes[..];
        let mut streams = HashMap::new();
        for _ in 0..at.try_get_u32_le().ok()? {
            let stream = at.try_get_u32_le().ok()?;
            streams.insert(stream, Producers::decode(&mut at)?);
        }
        Some(streams)
    }
}

#[cfg(test)]
#[path = "index_file_tests.rs"]
mod tests;
