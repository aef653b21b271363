//! A file with what compaction left of a stretch of one partition.
//!
//! ```text
//!  0        4096                              index
//! +--------+---------+---------+-- ... ------+-------------------------+
//! | page   | batch   | batch   |             | as in `index_file`      |
//! +--------+---------+---------+-- ... ------+-------------------------+
//! ```
//! The first page is that of a journal file. Batches are v2 batches with their old offsets, one
//! behind the other in the order of offsets. Of an entry `at` says where its batch became part of
//! the partition, not where it lies: that says `pieces`, in bytes from the file's beginning.
//!
//! Such files are no part of the journal's sequence. Their positions lie behind all of its own, so
//! that what looks for a position finds them; which are in use, the log's metadata says. A file that
//! they do not name is one that a crash left unfinished.
//!
//! Not here: what is left, and why. That is for `crate::compaction` to say.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use afflux_env::{Disk, File, OpenMode};
use afflux_record::{batch, frame::BatchMeta};
use afflux_types::Incarnation;
use hashbrown::HashSet;

use super::{
    file::{FIRST_PAGE, Identity, JournalFile},
    index_file::{Content, IndexFile, Section, encode_producers},
    sealing::run_of,
};
use crate::{
    error::OpenError,
    index::{IndexEntry, Run},
    meta::CompactedFile,
    producers::{Producers, is_numbered},
    transactions::Ended,
};

/// Where the positions of these files begin; the journal never gets there.
pub(crate) const COMPACTED: u64 = 1 << 62;
/// Batches are written in pieces of this size.
const WRITE_BYTES: usize = 1 << 20;
/// Synced after as many, so that the last sync does not fill the disk's queue at once.
const SYNC_EVERY: usize = 8;

/// More batches than this are another file's: what a reader needs of the index is read at once.
const ENTRIES_MAX: usize = 100_000;

/// Where the file with a base position is.
pub(crate) fn path_of(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:016x}.compacted"))
}

/// The base position that a path names, if it names one.
pub(crate) fn base_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".compacted")?;
    u64::from_str_radix(name, 16).ok()
}

/// A file that is being written.
pub(crate) struct Writer {
    base: u64,
    path: PathBuf,
    file: Box<dyn File>,
    /// Batches that are not written yet.
    waiting: Vec<u8>,
    /// Where they go.
    at: u64,
    unsynced: usize,
    section: Section,
}

/// A file that is whole and durable.
pub(crate) struct Finished {
    pub(crate) file: Arc<JournalFile>,
    /// Where its index begins in it.
    pub(crate) index_at: u64,
    pub(crate) index: Arc<IndexFile>,
}

impl Writer {
    /// Begins a file.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, base: u64) -> io::Result<Self> {
        let path = path_of(dir, base);
        let file = disk.open(&path, OpenMode::CreateDirect)?;
        let (waiting, section) = (Vec::new(), Section::default());
        Ok(Self { base, path, file, waiting, at: FIRST_PAGE, unsynced: 0, section })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it should take no more.
    pub(crate) fn is_full(&self, bytes_max: u64) -> bool {
        self.bytes() >= bytes_max || self.section.entries.len() >= ENTRIES_MAX
    }

    fn bytes(&self) -> u64 {
        self.at + self.waiting.len() as u64
    }

    /// Adds a batch. Its entry is that of the batch that it was.
    pub(crate) fn push(
        &mut self,
        entry: &IndexEntry,
        batch: &[u8],
        max_timestamp: i64,
    ) -> io::Result<()> {
        let pieces = u32::try_from(self.bytes()).map_err(io::Error::other)?;
        let bytes = batch.len() as u32;
        self.section.entries.push(IndexEntry { max_timestamp, bytes, pieces, ..*entry });
        self.waiting.extend_from_slice(batch);
        if self.waiting.len() < WRITE_BYTES { Ok(()) } else { self.flush() }
    }

    /// Writes all whole pages: past the system's cache.
    fn flush(&mut self) -> io::Result<()> {
        let whole = self.waiting.len() / FIRST_PAGE as usize * FIRST_PAGE as usize;
        self.file.write_all_at(&self.waiting[..whole], self.at)?;
        self.at += whole as u64;
        self.waiting.drain(..whole);
        self.unsynced += 1;
        if self.unsynced == SYNC_EVERY {
            self.unsynced = 0;
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// Writes its index and its first page, and makes all of it durable, its name too. `stable` is
    /// what the stream was decided up to at its end.
    pub(crate) fn finish(
        mut self,
        disk: &dyn Disk,
        (journal, incarnation): (u128, Incarnation),
        (stream, stable): (u32, i64),
        ended: Vec<Ended>,
    ) -> io::Result<Finished> {
        let index_at = self.bytes();
        let mut section = std::mem::take(&mut self.section);
        section.ended = ended;
        let content = Content {
            journal,
            base: self.base,
            end: self.base + index_at,
            sequence: 0,
            incarnation,
            sections: vec![(stream, stable, section)],
            boundaries: Vec::new(),
            foreign: Vec::new(),
            producers: encode_producers(std::iter::empty()),
        };
        let index = content.encode();
        self.waiting.extend_from_slice(&index);
        self.file.write_all_at(&self.waiting, self.at)?;
        let capacity = index_at + index.len() as u64;
        let identity = Identity { journal, base: self.base, capacity, incarnation };
        self.file.write_all_at(&identity.encode(), 0)?;
        self.file.sync_data()?;
        disk.sync_dir(self.path.parent().unwrap_or(Path::new("")))?;
        let (file, page) = JournalFile::open(disk, &self.path, self.base)?;
        let whole = file.is_whole(page, journal).map_err(io::Error::other);
        let index = IndexFile::open_at(disk, (self.path, index_at), journal, self.base);
        let index = index.ok_or_else(|| io::Error::other("its index does not read back"));
        whole.and(index).map(|index| Finished {
            file: Arc::new(file),
            index_at,
            index: Arc::new(index),
        })
    }
}

/// The one run of a compacted file.
pub(crate) fn run(index: &Arc<IndexFile>, file: &CompactedFile) -> Run {
    let CompactedFile { from: base, to: end, at_first, at_last, .. } = *file;
    Run { base, end, at_first, at_last, ..run_of(index, 0) }
}

/// Opens a file that is in use.
pub(crate) fn open(
    disk: &dyn Disk,
    dir: &Path,
    journal: u128,
    (stream, named): (u32, &CompactedFile),
) -> Result<(Arc<JournalFile>, Run), OpenError> {
    let path = path_of(dir, named.base);
    let corrupt = |reason: String| OpenError::Corrupt {
        path: path.clone(),
        position: named.base,
        reason: format!("it holds what compaction left of a partition: {reason}"),
    };
    let opened = JournalFile::open(disk, &path, named.base);
    let (file, page) = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => corrupt("it is missing".to_owned()),
        io::ErrorKind::UnexpectedEof => corrupt("it ends early".to_owned()),
        _ => OpenError::io(&path, error),
    })?;
    file.is_whole(page, journal).map_err(corrupt)?;
    let index = IndexFile::open_at(disk, (path.clone(), named.index), journal, named.base);
    let is_its = |index: &IndexFile| {
        file.capacity == named.bytes && index.runs.len() == 1 && index.runs[0].stream == stream
    };
    let index = index.filter(is_its);
    let index = index.ok_or_else(|| corrupt("its index is not what was written".to_owned()))?;
    Ok((Arc::new(file), run(&Arc::new(index), named)))
}

/// Lets producers be known of which nothing but these batches tells any more. What they have open
/// stands in the journal itself.
pub(super) fn recall(
    disk: &dyn Disk,
    (file, run): (&JournalFile, &Run),
    known: &HashSet<i64>,
    producers: &mut Producers,
) -> io::Result<()> {
    for entry in &run.index.section(disk, run.section)?.entries {
        let mut batch = vec![0; entry.bytes as usize];
        file.read(&mut batch, file.base + u64::from(entry.pieces))?;
        let header = batch::check(&batch).map_err(io::Error::other)?;
        let meta = BatchMeta::new(0, &header, &batch);
        if is_numbered(&meta) && !known.contains(&meta.producer.0) {
            let alone = BatchMeta { attributes: 0, ..meta };
            producers.record(&alone, header.max_timestamp, entry.at);
        }
    }
    Ok(())
}
