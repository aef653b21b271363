//! A disk with somebody standing before its writes and syncs, to count, to watch or to spoil them.
//!
//! All else goes through. For tests and benchmarks: a node that runs in earnest has none.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{Disk, File, Lock, OpenMode, Room};

/// Who stands before writes and syncs. Files are numbered as they are opened.
pub trait Interpose: Send + Sync + 'static {
    /// Writes the buffers one behind the other.
    fn write(
        &self,
        file: &dyn File,
        _number: u64,
        bufs: &[&[u8]],
        position: u64,
    ) -> io::Result<()> {
        file.write_all_vectored_at(bufs, position)
    }

    /// Makes all written bytes durable.
    fn sync(&self, file: &dyn File, _number: u64) -> io::Result<()> {
        file.sync_data()
    }
}

/// A disk with somebody before it.
pub struct Interposed<I> {
    disk: Arc<dyn Disk>,
    before: Arc<I>,
    opened: AtomicU64,
}

impl<I: Interpose> Interposed<I> {
    /// Stands before a disk.
    pub fn new(disk: Arc<dyn Disk>, before: Arc<I>) -> Self {
        Self { disk, before, opened: AtomicU64::new(0) }
    }
}

impl<I: Interpose> Disk for Interposed<I> {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let file = self.disk.open(path, mode)?;
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(InterposedFile { file, number, before: self.before.clone() }))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn room(&self, path: &Path) -> io::Result<Room> {
        self.disk.room(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.disk.lock(path)
    }
}

struct InterposedFile<I> {
    file: Box<dyn File>,
    number: u64,
    before: Arc<I>,
}

impl<I: Interpose> File for InterposedFile<I> {
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, position)
    }
    fn read_onto(&self, buf: &mut Vec<u8>, bytes: usize, position: u64) -> io::Result<()> {
        self.file.read_onto(buf, bytes, position)
    }
    fn read_direct(&self, buf: &mut [u8], bytes: usize, position: u64) -> io::Result<Range<usize>> {
        self.file.read_direct(buf, bytes, position)
    }
    fn write_all_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        self.before.write(&*self.file, self.number, &[buf], position)
    }
    fn write_all_vectored_at(&self, bufs: &[&[u8]], position: u64) -> io::Result<()> {
        self.before.write(&*self.file, self.number, bufs, position)
    }
    fn will_read(&self, position: u64, bytes: u64) {
        self.file.will_read(position, bytes);
    }
    fn sync_data(&self) -> io::Result<()> {
        self.before.sync(&*self.file, self.number)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
