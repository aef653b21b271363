//! One journal file.
//!
//! The first page, in little-endian numbers; all behind it is frames (`afflux_record::frame`):
//! ```text
//!  0        8     12        16           32     40         48            52
//! +--------+-----+---------+------------+------+----------+-------------+------+
//! | magic  | crc | version | journal id | base | capacity | incarnation | zero | ... 4096
//! +--------+-----+---------+------------+------+----------+-------------+------+
//! ```
//! `crc` is the CRC32C of bytes 12..4096. `base` is the file's first position, `capacity` its
//! length, which never changes: a shorter file has been truncated. `incarnation` is the one that
//! put the file in use.
//!
//! How a file comes into use, and what a crash at each step leaves:
//! 1. `spare-N` is created and filled with zeros, synced now and then so that its sync does not
//!    fill the disk's queue at once. (A spare of the wrong length: removed at the next start.)
//! 2. The first page is written and synced. (A spare still: used again.)
//! 3. It is renamed to its base position and the directory is synced. (One or the other.)
//! 4. Only now may frames be given positions in it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use afflux_env::{DIRECT_SLACK_BYTES, Disk, File, HUGE_PAGE_BYTES, OpenMode};
use afflux_types::Incarnation;
use bytes::{Buf, BufMut, Bytes};

use crate::memory::{self, BLOCK_BYTES};

/// Bytes in front of a file's frames.
pub(crate) const FIRST_PAGE: u64 = 4096;
const MAGIC: &[u8; 8] = b"AFXJRNAL";
const VERSION: u32 = 1;
const CRC_FROM: usize = 12;
/// Zeros are written in pieces of this size, and synced after as many.
const ZERO_BYTES: usize = 1 << 20;
const ZERO_SYNC_EVERY: usize = 8;

/// The most that [`JournalFile::read_much`] reads.
pub(crate) const READ_BYTES_MAX: usize = HUGE_PAGE_BYTES - DIRECT_SLACK_BYTES;

/// What a first page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Whose file it is.
    pub(crate) journal: u128,
    /// Its first position.
    pub(crate) base: u64,
    /// Its length.
    pub(crate) capacity: u64,
    /// Which incarnation put it in use.
    pub(crate) incarnation: Incarnation,
}

impl Identity {
    /// The first page.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(FIRST_PAGE as usize);
        page.put_slice(MAGIC);
        page.put_u32_le(0);
        page.put_u32_le(VERSION);
        page.put_u128_le(self.journal);
        page.put_u64_le(self.base);
        page.put_u64_le(self.capacity);
        page.put_u32_le(self.incarnation.0);
        page.resize(FIRST_PAGE as usize, 0);
        let crc = crc32c(&page[CRC_FROM..]);
        page[8..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
        page
    }

    fn decode(page: &[u8]) -> Option<Self> {
        let mut at = page.get(..FIRST_PAGE as usize)?;
        let magic = at.copy_to_bytes(MAGIC.len());
        let crc = at.get_u32_le();
        if &magic[..] != MAGIC || crc != crc32c(at) || at.get_u32_le() != VERSION {
            return None;
        }
        let page = Self {
            journal: at.get_u128_le(),
            base: at.get_u64_le(),
            capacity: at.get_u64_le(),
            incarnation: Incarnation(at.get_u32_le()),
        };
        (page.incarnation <= Incarnation::MAX).then_some(page)
    }
}

/// Writes a file that appears whole or not at all, durably, in the place of what was there.
pub(crate) fn write_whole(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    match disk.remove(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.open(&unfinished, OpenMode::Create)?;
    file.write_all_at(bytes, 0)?;
    file.sync_data()?;
    disk.rename(&unfinished, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new("")))
}

/// CRC32C, as everywhere in the journal.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    afflux_record::frame::crc32c(bytes)
}

/// Tells files apart that have, or had, the same place.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// A file in use.
pub(crate) struct JournalFile {
    /// No other has it that this process opened.
    pub(crate) id: u64,
    /// Its first position.
    pub(crate) base: u64,
    /// Its length.
    pub(crate) capacity: u64,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Whether none of its zeros were written: there is only room for it.
    is_bare: AtomicBool,
    file: Box<dyn File>,
}

impl fmt::Debug for JournalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalFile").field("base", &self.base).finish_non_exhaustive()
    }
}

/// Where the file with a base position is.
pub(crate) fn path_of(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:016x}.journal"))
}

/// Where a spare is.
pub(crate) fn spare_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("spare-{number:016x}.journal"))
}

/// The base position that a path names, if it names one.
pub(crate) fn base_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".journal")?;
    (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok())?
}

/// The number of the spare that a path names, if it names one.
pub(crate) fn spare_number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_prefix("spare-")?.strip_suffix(".journal")?;
    u64::from_str_radix(name, 16).ok()
}

fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// Writes zeros up to a file's end, and syncs them.
fn write_zeros(file: &dyn File, mut at: u64, capacity: u64) -> io::Result<()> {
    let zeros = vec![0; ZERO_BYTES + DIRECT_SLACK_BYTES];
    let zeros = &zeros[zeros.as_ptr().align_offset(FIRST_PAGE as usize)..][..ZERO_BYTES];
    let mut unsynced = 0;
    while at < capacity {
        let bytes = zeros.len().min((capacity - at) as usize);
        file.write_all_at(&zeros[..bytes], at)?;
        at += bytes as u64;
        unsynced += 1;
        if unsynced == ZERO_SYNC_EVERY {
            file.sync_data()?;
            unsynced = 0;
        }
    }
    file.sync_data()
}

impl JournalFile {
    /// Makes a spare full of zeros. Its name is durable once it comes into use.
    pub(crate) fn make_spare(disk: &dyn Disk, path: &Path, capacity: u64) -> io::Result<()> {
        write_zeros(&*disk.open(path, OpenMode::CreateDirect)?, 0, capacity)
    }

    /// Makes a spare that reads as zeros, none of which were written if the file system can promise
    /// room without. Whether it is such a bare one.
    pub(crate) fn make_bare(disk: &dyn Disk, path: &Path, capacity: u64) -> io::Result<bool> {
        let file = disk.open(path, OpenMode::CreateDirect)?;
        match file.allocate(capacity) {
            Ok(()) => file.sync_data().map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                write_zeros(&*file, 0, capacity).map(|()| false)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether it was made bare.
    pub(crate) fn is_bare(&self) -> bool {
        self.is_bare.load(Ordering::Relaxed)
    }

    pub(crate) fn set_bare(&self, is_bare: bool) {
        self.is_bare.store(is_bare, Ordering::Relaxed);
    }

    /// Writes the zeros of a bare one that holds nothing yet; once, whether or not that works.
    pub(crate) fn dress(&self) -> io::Result<()> {
        self.set_bare(false);
        write_zeros(&*self.file, FIRST_PAGE, self.capacity)
    }

    /// Puts a spare into use.
    pub(crate) fn put_in_use(
        disk: &dyn Disk,
        spare: &Path,
        dir: &Path,
        identity: Identity,
    ) -> io::Result<Self> {
        let file = disk.open(spare, OpenMode::WriteDirect)?;
        file.write_all_at(&identity.encode(), 0)?;
        file.sync_data()?;
        let path = path_of(dir, identity.base);
        disk.rename(spare, &path)?;
        disk.sync_dir(dir)?;
        let Identity { base, capacity, .. } = identity;
        Ok(Self { id: next_id(), base, capacity, path, is_bare: AtomicBool::new(false), file })
    }

    /// Opens a file that is in use, and reads what its first page says.
    pub(crate) fn open(
        disk: &dyn Disk,
        path: &Path,
        base: u64,
    ) -> io::Result<(Self, Option<Identity>)> {
        let file = disk.open(path, OpenMode::WriteDirect)?;
        let capacity = file.len()?;
        let mut page = vec![0; FIRST_PAGE.min(capacity) as usize];
        file.read_exact_at(&mut page, 0)?;
        let is_bare = AtomicBool::new(false);
        let file = Self { id: next_id(), base, capacity, path: path.to_owned(), is_bare, file };
        Ok((file, Identity::decode(&page)))
    }

    /// Whether a file that was opened is what its first page and its name say, or what is wrong.
    pub(crate) fn is_whole(&self, page: Option<Identity>, journal: u128) -> Result<(), String> {
        let page = page.ok_or("its first page is not what was written")?;
        if page.journal != journal || page.base != self.base {
            return Err("it belongs to another journal, or was renamed".to_owned());
        }
        if self.capacity != page.capacity {
            return Err(format!("it has {} bytes instead of {}", self.capacity, page.capacity));
        }
        Ok(())
    }

    /// Behind its last position.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.capacity
    }

    /// Reads at a journal position.
    pub(crate) fn read(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, position - self.base)
    }

    /// Reads at a journal position, behind what `buf` holds.
    pub(crate) fn read_onto(&self, buf: &mut Vec<u8>, bytes: usize, at: u64) -> io::Result<()> {
        self.file.read_onto(buf, bytes, at - self.base)
    }

    /// Reads at a journal position, past the system's cache if there is a way.
    pub(crate) fn read_block(&self, at: u64, bytes: usize) -> io::Result<Bytes> {
        let from = at - self.base;
        if from.is_multiple_of(BLOCK_BYTES as u64) && bytes == BLOCK_BYTES {
            let mut block = memory::take_block();
            let read = self.file.read_direct(block.as_mut(), bytes, from)?;
            return Ok(Bytes::from_owner(block).slice(read));
        }
        let mut buf = memory::take_filled(bytes + DIRECT_SLACK_BYTES);
        let read = self.file.read_direct(&mut buf, bytes, from)?;
        Ok(memory::share(buf).slice(read))
    }

    /// As [`Self::read_block`], into memory on a huge page: at most [`READ_BYTES_MAX`].
    pub(crate) fn read_much(&self, at: u64, bytes: usize) -> io::Result<Bytes> {
        let mut buf = memory::take_filled(memory::HUGE_BYTES);
        let read = self.file.read_direct(&mut buf, bytes, at - self.base)?;
        Ok(memory::share(buf).slice(read))
    }

    /// Tells that these bytes will be read soon.
    pub(crate) fn will_read(&self, position: u64, bytes: u64) {
        self.file.will_read(position - self.base, bytes);
    }

    /// Writes at a journal position.
    pub(crate) fn write(&self, bufs: &[&[u8]], position: u64) -> io::Result<()> {
        self.file.write_all_vectored_at(bufs, position - self.base)
    }

    /// Makes what was written durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use afflux_env::sim::{Failure, Operation, Sim};

    use super::*;

    #[test]
    fn a_spare_is_zeroed_where_room_can_not_be_promised() {
        for refused in [None, Some(io::ErrorKind::Unsupported), Some(io::ErrorKind::StorageFull)] {
            let sim = Sim::new(1);
            let path = Path::new("/spare");
            if let Some(kind) = refused {
                sim.disk.fail_at(Operation::Write, 1, Failure::Error(kind));
            }
            let made = JournalFile::make_bare(&*sim.disk, path, 3 << 20);
            match refused {
                Some(io::ErrorKind::StorageFull) => {
                    assert_eq!(made.unwrap_err().kind(), io::ErrorKind::StorageFull);
                    continue;
                }
                refused => assert_eq!(made.unwrap(), refused.is_none()),
            }
            let file = sim.disk.open(path, OpenMode::Read).unwrap();
            let mut content = vec![1; 3 << 20];
            file.read_exact_at(&mut content, 0).unwrap();
            assert_eq!(file.len().unwrap(), 3 << 20);
            assert!(content.iter().all(|byte| *byte == 0));
        }
    }
}
