//! Files that are written past the system's cache (`O_DIRECT`).
//!
//! A journal is written once, in order, and its newest part is kept by its writer. Through the
//! cache each byte would be copied into a page that must be found first, and found again to be
//! written back: where memory is handed out late, as in virtual machines, a file of zeros took
//! eight times as long and forty times the processor's time (decision 0004).
//!
//! 1. A file has two descriptors: one past the cache for writes, one through it for the rest. The
//!    system drops what it has cached of a page that is written past the cache.
//! 2. What is written is gathered in an aligned buffer of the writing thread, unless there is much of
//!    it that is aligned already.
//! 3. A write that begins within a page writes the page's beginning again: it is remembered from
//!    the last write, or read. As the bytes are the same, a crash can not harm them, no more than
//!    a write through the cache, which writes whole pages too.
//! 4. Much is read past the cache too, if its reader asks for that; all else through it.
//! 5. A write that ends within a page goes through the cache; so does everything where the file
//!    system knows no other way.

use std::{
    cell::RefCell,
    fs, io,
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

use super::disk::RealFile;
use crate::{File, HUGE_PAGE_BYTES, prefer_huge_pages};

/// What every address, position and length is a multiple of. Some devices ask for less.
const PAGE: usize = 4096;
/// The most that is written at once.
const BUFFER_BYTES: usize = 1 << 20;

thread_local! {
    /// Kept from write to write: fresh memory is what this module avoids.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A file that is written past the cache, if there is a way; else the file itself.
pub(super) fn open(path: &Path, cached: RealFile) -> Box<dyn File> {
    match past_cache(path) {
        Ok(direct) => Box::new(DirectFile {
            direct,
            cached,
            last: Mutex::new(None),
            refused: AtomicBool::new(false),
        }),
        Err(_) => Box::new(cached),
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn past_cache(path: &Path) -> io::Result<fs::File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn past_cache(_: &Path) -> io::Result<fs::File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A page as it was last written.
struct Page {
    at: u64,
    bytes: [u8; PAGE],
}

struct DirectFile {
    direct: fs::File,
    cached: RealFile,
    /// The last page of the last write. Its lock is held while writing: pages are shared.
    last: Mutex<Option<Box<Page>>>,
    /// The file system took the flag, and no write or read.
    refused: AtomicBool,
}

impl DirectFile {
    /// Writes whole pages, the first of which begins at `page` and is known up to `position`.
    fn write_pages(&self, last: &mut Page, bufs: &[&[u8]], position: u64) -> io::Result<()> {
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.is_empty() {
                buffer.reserve_exact(2 * HUGE_PAGE_BYTES);
                prefer_huge_pages(buffer.spare_capacity_mut());
                // No more of it is touched than is used.
                buffer.resize(buffer.as_ptr().align_offset(HUGE_PAGE_BYTES) + BUFFER_BYTES, 0);
            }
            let aligned = buffer.as_ptr().align_offset(HUGE_PAGE_BYTES);
            let space = &mut buffer[aligned..aligned + BUFFER_BYTES];
            let head = (position - last.at) as usize;
            space[..head].copy_from_slice(&last.bytes[..head]);
            let mut filled = head;
            let mut at = last.at;
            let mut flush = |space: &[u8]| {
                self.direct.write_all_at(space, at)?;
                at += space.len() as u64;
                last.at = at - PAGE as u64;
                last.bytes.copy_from_slice(&space[space.len() - PAGE..]);
                io::Result::Ok(())
            };
            for buf in bufs {
                let mut rest = *buf;
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(BUFFER_BYTES - filled));
                    rest = later;
                    if now.len() == BUFFER_BYTES && now.as_ptr().align_offset(PAGE) == 0 {
                        flush(now)?;
                        continue;
                    }
                    space[filled..filled + now.len()].copy_from_slice(now);
                    filled += now.len();
                    if filled == BUFFER_BYTES {
                        flush(space)?;
                        filled = 0;
                    }
                }
            }
            if filled > 0 { flush(&space[..filled]) } else { Ok(()) }
        })
    }

    /// Reads whole pages to where `buf` is aligned, to a huge page if there is room, and says where
    /// in it the bytes are.
    fn read_pages(&self, buf: &mut [u8], bytes: usize, position: u64) -> io::Result<Range<usize>> {
        let head = position as usize % PAGE;
        let wanted = head + bytes;
        let whole = wanted.next_multiple_of(PAGE);
        let fits = |start: &usize| start + whole <= buf.len();
        let huge = Some(buf.as_ptr().align_offset(HUGE_PAGE_BYTES)).filter(fits);
        let start = huge.unwrap_or_else(|| buf.as_ptr().align_offset(PAGE));
        let space = &mut buf[start..start + whole];
        let mut filled = 0;
        while filled < wanted {
            let at = position - head as u64 + filled as u64;
            let read = match self.direct.read_at(&mut space[filled..], at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            filled += read;
            // A file's end is the only place where a read gives nothing, or a part of a page.
            if filled < wanted && (read == 0 || !filled.is_multiple_of(PAGE)) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(start + head..start + wanted)
    }

    /// The page that a write begins in, known up to where it begins.
    fn first_page(&self, last: Option<Box<Page>>, position: u64) -> io::Result<Box<Page>> {
        let head = position as usize % PAGE;
        let at = position - head as u64;
        let mut page = last.unwrap_or_else(|| Box::new(Page { at: u64::MAX, bytes: [0; PAGE] }));
        if page.at != at {
            page.at = at;
            self.cached.read_exact_at(&mut page.bytes[..head], at)?;
        }
        Ok(page)
    }
}

impl File for DirectFile {
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        self.cached.read_exact_at(buf, position)
    }

    fn read_onto(&self, buf: &mut Vec<u8>, bytes: usize, position: u64) -> io::Result<()> {
        self.cached.read_onto(buf, bytes, position)
    }

    fn read_direct(&self, buf: &mut [u8], bytes: usize, position: u64) -> io::Result<Range<usize>> {
        if !self.refused.load(Ordering::Relaxed) {
            match self.read_pages(buf, bytes, position) {
                Ok(read) => return Ok(read),
                Err(error) if error.kind() != io::ErrorKind::InvalidInput => return Err(error),
                Err(_) => self.refused.store(true, Ordering::Relaxed),
            }
        }
        self.cached.read_direct(buf, bytes, position)
    }

    fn write_all_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        self.write_all_vectored_at(&[buf], position)
    }

    fn write_all_vectored_at(&self, bufs: &[&[u8]], position: u64) -> io::Result<()> {
        let mut last = self.last.lock();
        let bytes: usize = bufs.iter().map(|buf| buf.len()).sum();
        let whole = bytes > 0 && (position + bytes as u64).is_multiple_of(PAGE as u64);
        if whole && !self.refused.load(Ordering::Relaxed) {
            let mut page = self.first_page(last.take(), position)?;
            match self.write_pages(&mut page, bufs, position) {
                Ok(()) => {
                    *last = Some(page);
                    return Ok(());
                }
                Err(error) if error.kind() != io::ErrorKind::InvalidInput => return Err(error),
                Err(_) => self.refused.store(true, Ordering::Relaxed),
            }
        }
        *last = None;
        self.cached.write_all_vectored_at(bufs, position)
    }

    fn will_read(&self, position: u64, bytes: u64) {
        self.cached.will_read(position, bytes);
    }

    fn sync_data(&self) -> io::Result<()> {
        // One file, whichever descriptor is asked.
        self.cached.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        *self.last.lock() = None;
        self.cached.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.cached.allocate(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.cached.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::{DIRECT_SLACK_BYTES, Disk as _, OpenMode, real::RealDisk};

    const PAGE: u64 = super::PAGE as u64;

    /// A file written like a journal, and at random: it reads as what was written.
    fn check(writes: &[(u64, Vec<usize>, bool, bool)]) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let mut file = RealDisk.open(&path, OpenMode::CreateDirect).unwrap();
        let mut expected = vec![0; 64 * PAGE as usize];
        file.write_all_at(&expected, 0).unwrap();
        let mut end = 0;
        for (n, (jump, parts, is_padded, is_reopened)) in writes.iter().enumerate() {
            let at = if *jump == 0 { end } else { *jump };
            let mut bufs: Vec<Vec<u8>> =
                parts.iter().enumerate().map(|(i, len)| vec![(n + i + 1) as u8; *len]).collect();
            end = at + parts.iter().sum::<usize>() as u64;
            if *is_padded {
                bufs.push(vec![0; (end.next_multiple_of(PAGE) - end) as usize]);
            }
            let content = bufs.concat();
            if at as usize + content.len() > expected.len() {
                end = 0;
                continue;
            }
            if *is_reopened {
                file = RealDisk.open(&path, OpenMode::WriteDirect).unwrap();
            }
            let bufs: Vec<&[u8]> = bufs.iter().map(Vec::as_slice).collect();
            file.write_all_vectored_at(&bufs, at).unwrap();
            expected[at as usize..at as usize + content.len()].copy_from_slice(&content);
            let mut got = vec![0; expected.len()];
            file.read_exact_at(&mut got, 0).unwrap();
            assert!(got == expected, "write {n}");
            // And past the cache, from within a page to within another.
            let (from, to) = (n * 1_111 % 9_000, expected.len() - n * 777 % 9_000);
            let mut buf = vec![0; expected.len() + DIRECT_SLACK_BYTES];
            let read = file.read_direct(&mut buf, to - from, from as u64).unwrap();
            assert!(buf[read] == expected[from..to], "write {n}");
        }
        file.sync_data().unwrap();
        assert!(std::fs::read(&path).unwrap() == expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_written_is_read(
            writes in prop::collection::vec((
                prop_oneof![4 => Just(0), 1 => 0..64 * PAGE],
                prop::collection::vec(0..3 * PAGE as usize, 0..4),
                prop::bool::weighted(0.8),
                prop::bool::weighted(0.1),
            ), 1..20)
        ) {
            check(&writes);
        }
    }

    #[test]
    fn a_file_is_read_past_the_cache_up_to_its_end_and_not_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("f"), OpenMode::CreateDirect).unwrap();
        let content: Vec<u8> = (0..3 * PAGE + 100).map(|i| (i / 7) as u8).collect();
        file.write_all_at(&content, 0).unwrap();
        for bytes in [1, 100, 4096, content.len() - 10] {
            let mut buf = vec![0; bytes + DIRECT_SLACK_BYTES];
            let read = file.read_direct(&mut buf, bytes, 10).unwrap();
            assert_eq!(buf[read], content[10..10 + bytes]);
            for from in [content.len() - bytes + 1, content.len() + 5_000] {
                let error = file.read_direct(&mut buf, bytes, from as u64).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
            }
        }
        // It may end with a page, too.
        file.set_len(2 * PAGE).unwrap();
        let mut buf = vec![0; 3 * PAGE as usize + DIRECT_SLACK_BYTES];
        let error = file.read_direct(&mut buf, 2 * PAGE as usize, 10).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
        // That was no reason to go through the cache from now on.
        let mut buf = vec![0; 4096 + DIRECT_SLACK_BYTES];
        assert_eq!(
            file.read_direct(&mut buf, 4096, 0).unwrap().start % 4096,
            buf.as_ptr().align_offset(4096) % 4096
        );
    }

    #[test]
    fn writes_larger_than_the_buffer_arrive_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("f"), OpenMode::CreateDirect).unwrap();
        let content: Vec<u8> = (0..4 * super::BUFFER_BYTES).map(|i| (i / 7) as u8).collect();
        let start = content.as_ptr().align_offset(super::PAGE);
        for (from, middle) in [(100, 1_500_000), (100, start), (0, start), (0, 100)] {
            let content = &content[..content.len() - start - super::PAGE];
            file.write_all_at(&content[..from], 0).unwrap();
            let (a, b) = content[from..].split_at(middle);
            file.write_all_vectored_at(&[a, b], from as u64).unwrap();
            let mut got = vec![0; content.len()];
            file.read_exact_at(&mut got, 0).unwrap();
            assert!(got == content, "{from}, {middle}");
        }
    }
}
