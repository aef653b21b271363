//! Files of the machine.

use std::{
    fs,
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rustix::buffer::spare_capacity;

use crate::{Disk, File, Lock, OpenMode, Room};

/// How many buffers one `pwritev` takes on every system that we run on (`IOV_MAX`).
const BUFFERS_MAX: usize = 1024;

/// The machine's file system.
#[derive(Debug)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let mut options = fs::OpenOptions::new();
        match mode {
            OpenMode::Read => options.read(true),
            OpenMode::Write | OpenMode::WriteDirect => options.read(true).write(true),
            OpenMode::Create | OpenMode::CreateDirect => {
                options.read(true).write(true).create_new(true)
            }
        };
        let file = RealFile(options.open(path)?);
        Ok(if mode.is_direct() { super::direct::open(path, file) } else { Box::new(file) })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = fs::read_dir(dir)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if dir.as_os_str().is_empty() || dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().unwrap_or(Path::new(""));
        self.create_dir_all(parent)?;
        match fs::create_dir(dir) {
            Err(error) if !dir.is_dir() => return Err(error),
            _ => {}
        }
        self.sync_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn room(&self, path: &Path) -> io::Result<Room> {
        let stat = rustix::fs::statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Room { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(RealLock { _file: file })),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

/// The system lets go of the lock when the file is closed.
struct RealLock {
    _file: fs::File,
}

impl Lock for RealLock {}

pub(super) struct RealFile(pub(super) fs::File);

impl File for RealFile {
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, position)
    }

    /// Without zeros first, which for much would take as long as the rest.
    fn read_onto(&self, buf: &mut Vec<u8>, bytes: usize, position: u64) -> io::Result<()> {
        buf.reserve(bytes);
        let (start, end) = (buf.len(), buf.len() + bytes);
        while buf.len() < end {
            let at = position + (buf.len() - start) as u64;
            match rustix::io::pread(&self.0, spare_capacity(buf), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // There may have been more room than was asked for.
        buf.truncate(end);
        Ok(())
    }

    fn write_all_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        self.0.write_all_at(buf, position)
    }

    fn write_all_vectored_at(&self, bufs: &[&[u8]], position: u64) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> =
            bufs.iter().filter(|buf| !buf.is_empty()).map(|buf| IoSlice::new(buf)).collect();
        let mut rest = &mut slices[..];
        let mut at = position;
        while !rest.is_empty() {
            let count = rest.len().min(BUFFERS_MAX);
            match rustix::io::pwritev(&self.0, &rest[..count], at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn will_read(&self, position: u64, bytes: u64) {
        #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
        {
            let bytes = std::num::NonZeroU64::new(bytes);
            // A hint that is refused is no loss.
            let _ = rustix::fs::fadvise(&self.0, position, bytes, rustix::fs::Advice::WillNeed);
        }
        #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
        let _ = (position, bytes);
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn allocate(&self, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, len)?)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn allocate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectored_writes_land_one_behind_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("f"), OpenMode::Create).unwrap();
        let parts: Vec<Vec<u8>> = (0..3000_usize).map(|i| vec![i as u8; i % 7]).collect();
        let bufs: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        file.write_all_vectored_at(&bufs, 5).unwrap();
        let expected = parts.concat();
        let mut got = vec![0; expected.len()];
        file.read_exact_at(&mut got, 5).unwrap();
        assert_eq!(got, expected);
        assert_eq!(file.len().unwrap(), 5 + expected.len() as u64);
    }

    #[test]
    fn what_is_read_lands_behind_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("f"), OpenMode::Create).unwrap();
        let written: Vec<u8> = (0..10_000_u32).map(|i| i as u8).collect();
        file.write_all_at(&written, 0).unwrap();
        let mut buf = Vec::with_capacity(9_000);
        buf.push(7);
        file.read_onto(&mut buf, 100, 50).unwrap();
        file.read_onto(&mut buf, 9_000, 1_000).unwrap();
        assert_eq!(buf, [&[7][..], &written[50..150], &written[1_000..]].concat());
        let error = file.read_onto(&mut buf, 101, 9_900).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn directories_are_made_with_their_parents() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        RealDisk.create_dir_all(&deep).unwrap();
        RealDisk.create_dir_all(&deep).unwrap();
        assert!(deep.is_dir());
        let file = dir.path().join("file");
        RealDisk.open(&file, OpenMode::Create).unwrap();
        assert!(RealDisk.create_dir_all(&file).is_err());
        assert!(RealDisk.create_dir_all(&file.join("below")).is_err());
    }

    #[test]
    fn a_held_lock_is_refused_until_it_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = RealDisk.lock(&path).unwrap();
        assert_eq!(RealDisk.lock(&path).err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        RealDisk.lock(&path).unwrap();
    }
}
