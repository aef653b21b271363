//! A disk in memory that forgets what was not synced.
//!
//! 1. Every file has two contents: what readers see, and what is durable. A write changes the
//!    first and keeps, for each 4 KiB page it touches, the versions written since the last sync.
//! 2. A sync makes the first the second. A failed sync makes some pages durable, and the others
//!    are no longer known to be dirty: a second sync will not help them (as Linux behaves).
//! 3. Names work alike: creations, renames and removals are seen at once and durable at
//!    `sync_dir`. Directories themselves are durable at once.
//! 4. [`SimDisk::crash`] leaves what is durable, and beyond it, for each page on its own, any of
//!    the versions written since; and of each directory's pending changes any number of the
//!    first ones, since file systems journal them in order. Open files and locks die.
//!
//! Failures come at the n-th operation of a kind, counted over all files since the last crash.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::SimRandom;
use crate::{Disk, File, Lock, OpenMode, Room};

const PAGE: usize = 4096;

/// What can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Writing to a file, and changing its length.
    Write,
    /// Syncing a file or a directory.
    Sync,
    /// Reading from a file.
    Read,
}

/// How it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Once, with this error, and nothing is written.
    Error(io::ErrorKind),
    /// The machine stops in the middle: a write may be there in part, a sync may have done its
    /// work or not; all that follows fails until [`SimDisk::crash`].
    Crash,
}

/// A disk in memory.
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    names: BTreeMap<PathBuf, u64>,
    names_durable: BTreeMap<PathBuf, u64>,
    pending: Vec<(PathBuf, Change)>,
    inodes: HashMap<u64, Inode>,
    inode_next: u64,
    locks: HashSet<PathBuf>,
    /// Rises at each crash; handles of an earlier one are dead.
    life: u64,
    stopped: bool,
    counts: HashMap<Operation, u64>,
    plan: HashMap<(Operation, u64), Failure>,
    capacity_bytes: u64,
    random: SimRandom,
}

enum Change {
    Name(PathBuf, u64),
    Unname(PathBuf),
    Rename(PathBuf, PathBuf, u64),
}

#[derive(Default)]
struct Inode {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Versions of each page written since the last sync.
    dirty: BTreeMap<usize, Vec<Box<[u8]>>>,
}

impl Inode {
    fn page(bytes: &[u8], page: usize) -> &[u8] {
        let start = (page * PAGE).min(bytes.len());
        &bytes[start..(start + PAGE).min(bytes.len())]
    }

    fn keep(bytes: &mut Vec<u8>, page: usize, version: &[u8]) {
        let start = page * PAGE;
        if bytes.len() < start + version.len() {
            bytes.resize(start + version.len(), 0);
        }
        bytes[start..start + version.len()].copy_from_slice(version);
    }

    fn write(&mut self, buf: &[u8], position: usize) {
        let end = position + buf.len();
        if self.seen.len() < end {
            self.seen.resize(end, 0);
        }
        self.seen[position..end].copy_from_slice(buf);
        for page in position / PAGE..end.div_ceil(PAGE) {
            let version = Self::page(&self.seen, page).into();
            self.dirty.entry(page).or_default().push(version);
        }
    }

    fn sync(&mut self) {
        for page in std::mem::take(&mut self.dirty).into_keys() {
            let version = Self::page(&self.seen, page).to_vec();
            Self::keep(&mut self.durable, page, &version);
        }
        self.durable.resize(self.seen.len(), 0);
    }

    /// Persists each dirty page in some version, or not at all.
    fn tear(&mut self, random: &SimRandom) {
        for (page, versions) in std::mem::take(&mut self.dirty) {
            let choice = random.below(versions.len() as u64 + 1) as usize;
            if let Some(version) = versions.get(choice) {
                Self::keep(&mut self.durable, page, version);
            }
        }
        if random.below(2) == 0 {
            self.durable.resize(self.seen.len().max(self.durable.len()), 0);
        }
    }
}

impl State {
    fn alive(&self, life: u64) -> io::Result<()> {
        if self.stopped || life != self.life {
            return Err(io::Error::other("the simulated machine has stopped"));
        }
        Ok(())
    }

    /// Counts an operation; the failure that was planned for it, if any.
    fn count(&mut self, operation: Operation) -> Option<Failure> {
        let count = self.counts.entry(operation).or_default();
        *count += 1;
        let failure = self.plan.remove(&(operation, *count));
        if failure == Some(Failure::Crash) {
            self.stopped = true;
        }
        failure
    }

    fn apply(names: &mut BTreeMap<PathBuf, u64>, change: Change) {
        match change {
            Change::Name(path, inode) => {
                names.insert(path, inode);
            }
            Change::Unname(path) => {
                names.remove(&path);
            }
            Change::Rename(from, to, inode) => {
                names.remove(&from);
                names.insert(to, inode);
            }
        }
    }

    fn make_durable(&mut self, dir: &Path, count: usize) {
        let mut left = count;
        let mut later = Vec::new();
        for (at, change) in std::mem::take(&mut self.pending) {
            if at == dir && left > 0 {
                left -= 1;
                Self::apply(&mut self.names_durable, change);
            } else {
                later.push((at, change));
            }
        }
        self.pending = later;
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[inode].seen.len() as u64).sum()
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

fn stopped() -> io::Error {
    io::Error::other("the simulated machine stopped here")
}

impl SimDisk {
    /// An empty disk of 1 TiB.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            names: BTreeMap::new(),
            names_durable: BTreeMap::new(),
            pending: Vec::new(),
            inodes: HashMap::new(),
            inode_next: 0,
            locks: HashSet::new(),
            life: 0,
            stopped: false,
            counts: HashMap::new(),
            plan: HashMap::new(),
            capacity_bytes: 1 << 40,
            random: SimRandom::new(seed ^ 0xD15C),
        })))
    }

    /// Makes the `n`-th operation of a kind from now on fail; the next one is the first.
    pub fn fail_at(&self, operation: Operation, n: u64, failure: Failure) {
        let mut state = self.0.lock();
        let at = state.counts.get(&operation).copied().unwrap_or(0) + n;
        state.plan.insert((operation, at), failure);
    }

    /// How many operations of a kind there were since the last crash.
    pub fn count(&self, operation: Operation) -> u64 {
        self.0.lock().counts.get(&operation).copied().unwrap_or(0)
    }

    /// Sets how many bytes fit, all files together.
    pub fn set_capacity(&self, bytes: u64) {
        self.0.lock().capacity_bytes = bytes;
    }

    /// Whether a planned crash has happened.
    pub fn is_stopped(&self) -> bool {
        self.0.lock().stopped
    }

    /// Cuts the power, and switches it on again.
    pub fn crash(&self) {
        let state = &mut *self.0.lock();
        let dirs: HashSet<PathBuf> = state.pending.iter().map(|(dir, _)| dir.clone()).collect();
        let mut dirs: Vec<_> = dirs.into_iter().collect();
        dirs.sort();
        for dir in dirs {
            let count = state.pending.iter().filter(|(at, _)| *at == dir).count();
            let survive = state.random.below(count as u64 + 1) as usize;
            state.make_durable(&dir, survive);
        }
        state.pending.clear();
        state.names = state.names_durable.clone();
        let named: HashSet<u64> = state.names.values().copied().collect();
        state.inodes.retain(|inode, _| named.contains(inode));
        let mut inodes: Vec<_> = state.inodes.iter_mut().collect();
        inodes.sort_by_key(|(number, _)| **number);
        for (_, inode) in inodes {
            inode.tear(&state.random);
            inode.seen.clone_from(&inode.durable);
        }
        state.locks.clear();
        state.life += 1;
        state.stopped = false;
        state.counts.clear();
        state.plan.clear();
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let state = &mut *self.0.lock();
        state.alive(state.life)?;
        let inode = if mode.creates() {
            if state.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let inode = state.inode_next;
            state.inode_next += 1;
            state.inodes.insert(inode, Inode::default());
            state.names.insert(path.to_owned(), inode);
            state.pending.push((parent(path), Change::Name(path.to_owned(), inode)));
            inode
        } else {
            state.find(path)?
        };
        Ok(Box::new(SimFile {
            disk: self.0.clone(),
            inode,
            life: state.life,
            writable: mode != OpenMode::Read,
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.0.lock();
        state.alive(state.life)?;
        Ok(state.names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        let state = self.0.lock();
        state.alive(state.life)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let state = &mut *self.0.lock();
        state.alive(state.life)?;
        let inode = state.find(from)?;
        let change = || Change::Rename(from.to_owned(), to.to_owned(), inode);
        State::apply(&mut state.names, change());
        state.pending.push((parent(from), change()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let state = &mut *self.0.lock();
        state.alive(state.life)?;
        state.find(path)?;
        State::apply(&mut state.names, Change::Unname(path.to_owned()));
        state.pending.push((parent(path), Change::Unname(path.to_owned())));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let state = &mut *self.0.lock();
        state.alive(state.life)?;
        let count = state.pending.iter().filter(|(at, _)| at == dir).count();
        match state.count(Operation::Sync) {
            None => {
                state.make_durable(dir, count);
                Ok(())
            }
            Some(Failure::Crash) => Err(stopped()),
            Some(Failure::Error(kind)) => Err(kind.into()),
        }
    }

    fn room(&self, _path: &Path) -> io::Result<Room> {
        let state = self.0.lock();
        state.alive(state.life)?;
        let total = state.capacity_bytes;
        Ok(Room { free: total.saturating_sub(state.used_bytes()), total })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut state = self.0.lock();
        state.alive(state.life)?;
        if !state.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { disk: self.0.clone(), path: path.to_owned(), life: state.life }))
    }
}

struct SimLock {
    disk: Arc<Mutex<State>>,
    path: PathBuf,
    life: u64,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}

struct SimFile {
    disk: Arc<Mutex<State>>,
    inode: u64,
    life: u64,
    writable: bool,
}

impl SimFile {
    fn change(&self, len: u64, change: impl FnOnce(&mut Inode)) -> io::Result<()> {
        let state = &mut *self.disk.lock();
        state.alive(self.life)?;
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let failure = state.count(Operation::Write);
        if let Some(Failure::Error(kind)) = failure {
            return Err(kind.into());
        }
        let used = state.used_bytes();
        let inode = state.inodes.get_mut(&self.inode).ok_or_else(stopped)?;
        let grows = len.saturating_sub(inode.seen.len() as u64);
        if grows > 0 && used + grows > state.capacity_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        change(inode);
        if failure.is_some() { Err(stopped()) } else { Ok(()) }
    }
}

impl File for SimFile {
    fn read_exact_at(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        let state = &mut *self.disk.lock();
        state.alive(self.life)?;
        match state.count(Operation::Read) {
            None => {}
            Some(Failure::Crash) => return Err(stopped()),
            Some(Failure::Error(kind)) => return Err(kind.into()),
        }
        let inode = state.inodes.get(&self.inode).ok_or_else(stopped)?;
        let bytes = usize::try_from(position)
            .ok()
            .and_then(|start| inode.seen.get(start..start.checked_add(buf.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn write_all_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        self.change(position + buf.len() as u64, |inode| inode.write(buf, position as usize))
    }

    fn write_all_vectored_at(&self, bufs: &[&[u8]], position: u64) -> io::Result<()> {
        self.write_all_at(&bufs.concat(), position)
    }

    fn sync_data(&self) -> io::Result<()> {
        let state = &mut *self.disk.lock();
        state.alive(self.life)?;
        let failure = state.count(Operation::Sync);
        let inode = state.inodes.get_mut(&self.inode).ok_or_else(stopped)?;
        match failure {
            None => {
                inode.sync();
                Ok(())
            }
            // What is dirty may or may not survive: `crash` decides.
            Some(Failure::Crash) => {
                if state.random.below(2) == 0 {
                    inode.sync();
                }
                Err(stopped())
            }
            Some(Failure::Error(kind)) => {
                inode.tear(&state.random);
                Err(kind.into())
            }
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(len, |inode| {
            let len = len as usize;
            inode.seen.resize(len, 0);
            inode.dirty.retain(|page, _| page * PAGE < len);
            for version in inode.dirty.get_mut(&(len / PAGE)).into_iter().flatten() {
                if version.len() > len % PAGE {
                    *version = version[..len % PAGE].into();
                }
            }
        })
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.disk.lock();
        state.alive(self.life)?;
        Ok(state.inodes.get(&self.inode).ok_or_else(stopped)?.seen.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
        let file = disk.open(Path::new(path), OpenMode::Read).ok()?;
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        Some(bytes)
    }

    #[test]
    fn synced_bytes_survive_and_others_by_page_in_any_order() {
        let mut outcomes = HashSet::new();
        for seed in 0..64 {
            let disk = SimDisk::new(seed);
            let file = disk.open(Path::new("/d/f"), OpenMode::Create).unwrap();
            file.write_all_at(&[1; 3 * PAGE], 0).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir(Path::new("/d")).unwrap();
            file.write_all_at(&[2; 2 * PAGE], PAGE as u64).unwrap();
            disk.crash();
            let bytes = read(&disk, "/d/f").unwrap();
            assert_eq!(bytes.len(), 3 * PAGE);
            assert!(bytes[..PAGE].iter().all(|&b| b == 1));
            outcomes.insert((bytes[PAGE], bytes[2 * PAGE]));
            assert!(file.sync_data().is_err(), "a handle outlived the crash");
        }
        assert_eq!(outcomes, HashSet::from([(1, 1), (1, 2), (2, 1), (2, 2)]));
    }

    #[test]
    fn names_are_durable_once_the_directory_is_synced() {
        let mut outcomes = HashSet::new();
        for seed in 0..32 {
            let disk = SimDisk::new(seed);
            let file = disk.open(Path::new("/d/a"), OpenMode::Create).unwrap();
            file.write_all_at(&[1], 0).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir(Path::new("/d")).unwrap();
            disk.rename(Path::new("/d/a"), Path::new("/d/b")).unwrap();
            disk.crash();
            outcomes.insert((read(&disk, "/d/a").is_some(), read(&disk, "/d/b").is_some()));
        }
        assert_eq!(outcomes, HashSet::from([(true, false), (false, true)]));
    }

    #[test]
    fn failures_come_where_they_were_put() {
        let disk = SimDisk::new(1);
        let file = disk.open(Path::new("/f"), OpenMode::Create).unwrap();
        disk.fail_at(Operation::Write, 2, Failure::Error(io::ErrorKind::Other));
        disk.fail_at(Operation::Sync, 1, Failure::Crash);
        file.write_all_at(&[1], 0).unwrap();
        assert!(file.write_all_at(&[1], 0).is_err());
        file.write_all_at(&[1], 0).unwrap();
        assert!(file.sync_data().is_err());
        assert!(disk.is_stopped() && file.write_all_at(&[1], 0).is_err());
        let disk = SimDisk::new(1);
        disk.set_capacity(10);
        let file = disk.open(Path::new("/g"), OpenMode::Create).unwrap();
        file.write_all_at(&[1; 10], 0).unwrap();
        let full = file.write_all_at(&[1; 10], 1).err().unwrap();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    }
}
