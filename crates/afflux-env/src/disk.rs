//! Files, with the durability rules of a POSIX file system and no more than those.
//!
//! What a caller may rely on after a crash:
//! 1. bytes written before a [`File::sync_data`] that returned `Ok` are there;
//! 2. any other write may be there wholly, in part (by page), or not at all, in any order;
//! 3. a file created, renamed or removed is so for good only after [`Disk::sync_dir`], after a
//!    rename into another directory that of both;
//! 4. a directory that [`Disk::create_dir_all`] made is there.
//!
//! A failed sync says nothing about which bytes are there: the caller must treat it as fatal.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist; not written.
    Read,
    /// Must exist; read and written.
    Write,
    /// Must not exist; created empty, read and written.
    Create,
    /// As [`OpenMode::Write`], past the system's cache where the system can: see
    /// [`OpenMode::is_direct`].
    WriteDirect,
    /// As [`OpenMode::Create`], past the system's cache where the system can.
    CreateDirect,
}

impl OpenMode {
    /// Whether the file is created.
    pub fn creates(self) -> bool {
        matches!(self, Self::Create | Self::CreateDirect)
    }

    /// Whether writes go past the system's cache. A matter of speed alone: for a file that is
    /// written once, in order, whose newest bytes its writer keeps. A write must then cover whole
    /// pages of 4 KiB at its end, and begins at a page or where the last write's padding begins;
    /// any other write is as right, but goes through the cache. Of what lies at a page in memory, each
    /// whole MiB that comes to a page in the file is not copied.
    pub fn is_direct(self) -> bool {
        matches!(self, Self::WriteDirect | Self::CreateDirect)
    }
}

/// By how much a buffer for [`File::read_direct`] is longer than what is read.
pub const DIRECT_SLACK_BYTES: usize = 12 << 10;

/// How many bytes there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that can still be written.
    pub free: u64,
    /// Bytes that it holds when it is empty.
    pub total: u64,
}

/// A directory tree.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>>;
    /// The paths in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Creates a directory and its parents; fine if it is there.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Renames a file over whatever has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// How much room there is where `path` is.
    fn room(&self, path: &Path) -> io::Result<Room>;
    /// Takes an exclusive lock on a file, created if absent; `WouldBlock` if another holds it.
    /// Held until the value is dropped, or the process ends.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
}

/// A held lock.
pub trait Lock: Send + Sync {}

/// An open file. Positions are absolute: there is no cursor to share.
#[allow(clippy::len_without_is_empty, reason = "a file's length is I/O, not a collection's")]
pub trait File: Send + Sync {
    /// Fills `buf` from `position`; `UnexpectedEof` if the file ends before that.
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()>;
    /// Reads that many bytes behind what `buf` holds; `UnexpectedEof` if the file ends before that.
    /// Then what `buf` holds is anybody's guess.
    fn read_onto(&self, buf: &mut Vec<u8>, bytes: usize, position: u64) -> io::Result<()> {
        let held = buf.len();
        buf.resize(held + bytes, 0);
        self.read_exact_at(&mut buf[held..], position)
    }
    /// Reads that many bytes past the system's cache where the system can, which then neither has
    /// nor drops pages for them; `UnexpectedEof` if the file ends before that. For much at once,
    /// of a file that was opened so ([`OpenMode::is_direct`]). They land somewhere in `buf`:
    /// where, is what is returned. It must be [`DIRECT_SLACK_BYTES`] longer, or begin at a multiple of
    /// a page, as `position` does, and be whole pages long.
    fn read_direct(&self, buf: &mut [u8], bytes: usize, position: u64) -> io::Result<Range<usize>> {
        self.read_exact_at(&mut buf[..bytes], position)?;
        Ok(0..bytes)
    }
    /// Writes all of `buf` at `position`, growing the file if need be.
    fn write_all_at(&self, buf: &[u8], position: u64) -> io::Result<()>;
    /// Writes the buffers one behind the other, in one call where the system has one.
    fn write_all_vectored_at(&self, bufs: &[&[u8]], position: u64) -> io::Result<()> {
        let mut at = position;
        for buf in bufs {
            self.write_all_at(buf, at)?;
            at += buf.len() as u64;
        }
        Ok(())
    }
    /// Tells that these bytes will be read soon, so that the system may read them at once. Only a
    /// hint: it changes nothing else.
    fn will_read(&self, _position: u64, _bytes: u64) {}
    /// Makes all written bytes durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts or grows the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Grows the file to `len` bytes of zeros for which there is room (`fallocate`); `Unsupported`
    /// where the system can not promise that.
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
}
