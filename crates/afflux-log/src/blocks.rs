//! Blocks of sealed journal files, read past the system's cache and kept for a while.
//!
//! Batches of one partition lie scattered between those of others. Who reads old ones reads whole
//! blocks, and finds the next partition's batches in memory, or the next reader does. Through the
//! system's cache each block would cost the pages that it lies in there, which take longer than the
//! disk where memory is handed out late, and a copy (decision 0006).
//!
//! 1. The last used blocks are kept, as many as [`crate::LogOptions::block_cache_bytes`] has room
//!    for. Who wants one that somebody reads already waits for it.
//! 2. A block that had to go and is wanted again is not read once more: so much is read here and
//!    there that it does not fit. It is for the system's cache then, which takes all the memory that
//!    nobody else needs. So nothing is read past it more than once in a while, however many readers
//!    there are. Nor is one that could not be read: the cache has what can be, page by page.
//! 3. Little of a block is read through the system's cache, but not for ever: who reads a hundred
//!    partitions wants little of each, and all in all the whole block.
//! 4. A thread of its own reads along with who reads much, and a little ahead: the disk is busy
//!    while the last answer is sent.
//!
//! A block never changes: a sealed file is written no more, and one that is made anew of its bytes
//! is another file.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{journal::JournalFile, memory, options::LogOptions};

/// So many blocks that had to go are remembered.
const LEFT_MAX: usize = 4096;

/// So many blocks wait to be read by the thread; more are not worth waiting for.
const AHEAD_MAX: usize = 32;

/// A block that so many were asked of is read whole, little as each of them wants.
const ASKED_MAX: u32 = 3;
/// So many blocks that were asked of are remembered.
const ASKED_BLOCKS_MAX: usize = 256;

/// A file and a block's number in it.
type Key = (u64, u64);
/// A block, once it was read.
type Slot = Arc<Mutex<Option<Bytes>>>;

/// What the thread is to read.
type Ahead = (Arc<JournalFile>, u64);

/// The blocks that were read last.
#[derive(Debug)]
pub(crate) struct Blocks {
    known: Mutex<Known>,
    kept_max: usize,
    /// Bytes of a block.
    pub(crate) block_bytes: u64,
    /// To the thread, while there is one.
    ahead: Mutex<Option<SyncSender<Ahead>>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The last used first.
    kept: VecDeque<(Key, Slot)>,
    /// Those that had to go, the last first.
    left: VecDeque<Key>,
    /// Those of which little was asked, and how often; the last that was new first.
    asked: VecDeque<(Key, u32)>,
}

impl Blocks {
    pub(crate) fn new(options: &LogOptions) -> Self {
        let block_bytes = options.block_bytes;
        let kept_max = options.block_cache_bytes / block_bytes as usize;
        Self { known: Mutex::default(), kept_max, block_bytes, ahead: Mutex::default() }
    }

    /// What the thread runs on.
    pub(crate) fn open(&self) -> Receiver<Ahead> {
        let (sender, receiver) = sync_channel(AHEAD_MAX);
        *self.ahead.lock() = Some(sender);
        receiver
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        self.ahead.lock().take();
    }

    /// Reads what will be wanted, until the end.
    pub(crate) fn run(&self, wanted: &Receiver<Ahead>) {
        for (file, number) in wanted {
            // Whether that worked is for those to tell who want it.
            self.block(&file, number);
        }
    }

    /// Tells that these bytes of a sealed file will be read.
    pub(crate) fn will_read(&self, file: &Arc<JournalFile>, from: u64, to: u64) {
        let ahead = self.ahead.lock();
        let Some(ahead) = &*ahead else { return };
        for number in self.numbers(file, from, to.min(file.end())) {
            if !self.known.lock().is_kept((file.id, number))
                && ahead.try_send((file.clone(), number)).is_err()
            {
                return;
            }
        }
    }

    /// The blocks in which these bytes lie.
    fn numbers(&self, file: &JournalFile, from: u64, to: u64) -> Range<u64> {
        (from - file.base) / self.block_bytes..(to - file.base).div_ceil(self.block_bytes)
    }

    /// What is kept in memory by who keeps something of these bytes where it was read to.
    pub(crate) fn bytes_of(&self, file: &JournalFile, from: u64, to: u64) -> u64 {
        let numbers = self.numbers(file, from, to);
        (numbers.end - numbers.start) * self.block_bytes
    }

    /// Whether who wants little at a position should read the block: it is here, or is often asked
    /// for.
    pub(crate) fn asks(&self, file: &JournalFile, position: u64) -> bool {
        let key = (file.id, (position - file.base) / self.block_bytes);
        let mut known = self.known.lock();
        known.is_kept(key) || known.is_asked(key)
    }

    /// Bytes of a sealed file, put together if they lie in several blocks; `None` if they are to be
    /// read through the system's cache.
    pub(crate) fn get(&self, file: &JournalFile, position: u64, bytes: usize) -> Option<Bytes> {
        let end = position + bytes as u64;
        if end > file.end() {
            return None;
        }
        let (from, to) = (position - file.base, end - file.base);
        let mut joined = Vec::new();
        for number in self.numbers(file, position, end) {
            let block = self.block(file, number)?;
            let start = number * self.block_bytes;
            let begin = from.saturating_sub(start) as usize;
            let end = ((to - start) as usize).min(block.len());
            if end - begin == bytes {
                return Some(block.slice(begin..end));
            }
            if joined.is_empty() {
                joined = memory::take(bytes);
            }
            joined.extend_from_slice(&block[begin..end]);
        }
        Some(memory::share(joined))
    }

    fn block(&self, file: &JournalFile, number: u64) -> Option<Bytes> {
        let key = (file.id, number);
        let slot = self.known.lock().slot(key, self.kept_max)?;
        // Whoever comes while it is read waits here, and for nothing else.
        let mut slot = slot.lock();
        if slot.is_none() {
            let start = number * self.block_bytes;
            let bytes = self.block_bytes.min(file.capacity - start);
            match file.read_block(file.base + start, bytes as usize) {
                Ok(read) => *slot = Some(read),
                Err(_) => self.known.lock().leave(key),
            }
        }
        slot.clone()
    }
}

impl Known {
    fn is_kept(&self, key: Key) -> bool {
        self.kept.iter().any(|(kept, _)| *kept == key)
    }

    /// Counts one who asks for little of a block. Whether there are enough of them.
    fn is_asked(&mut self, key: Key) -> bool {
        if let Some((_, count)) = self.asked.iter_mut().find(|(asked, _)| *asked == key) {
            *count += 1;
            return *count >= ASKED_MAX;
        }
        self.asked.push_front((key, 1));
        self.asked.truncate(ASKED_BLOCKS_MAX);
        false
    }

    /// The place of a block, made for it unless it had to go lately.
    fn slot(&mut self, key: Key, kept_max: usize) -> Option<Slot> {
        if let Some(at) = self.kept.iter().position(|(kept, _)| *kept == key) {
            let found = self.kept.remove(at)?;
            let slot = found.1.clone();
            self.kept.push_front(found);
            return Some(slot);
        }
        if kept_max == 0 || self.left.contains(&key) {
            return None;
        }
        let slot = Slot::default();
        self.kept.push_front((key, slot.clone()));
        if self.kept.len() > kept_max
            && let Some((last, _)) = self.kept.back()
        {
            self.leave(*last);
        }
        Some(slot)
    }

    /// Lets a block go.
    fn leave(&mut self, key: Key) {
        let kept = self.kept.len();
        self.kept.retain(|(kept, _)| *kept != key);
        if self.kept.len() < kept {
            self.left.push_front(key);
            self.left.truncate(LEFT_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_had_to_go_is_not_kept_again_until_it_is_forgotten() {
        let mut known = Known::default();
        let is_kept = |known: &mut Known, number| known.slot((1, number), 2).is_some();
        assert!(is_kept(&mut known, 0) && is_kept(&mut known, 1) && is_kept(&mut known, 0));
        // 1 was used longest ago.
        assert!(is_kept(&mut known, 2) && is_kept(&mut known, 0));
        assert!(!is_kept(&mut known, 1));
        assert!(known.slot((2, 1), 2).is_some(), "a block of another file");
        for number in 3..LEFT_MAX as u64 + 6 {
            assert!(is_kept(&mut known, number));
        }
        assert_eq!((known.kept.len(), known.left.len()), (2, LEFT_MAX));
        assert!(is_kept(&mut known, 1));
    }

    #[test]
    fn a_block_is_wanted_once_many_have_asked_for_little_of_it() {
        let mut known = Known::default();
        for n in 1..=2 * ASKED_MAX {
            assert_eq!(known.is_asked((1, 5)), n >= ASKED_MAX);
            assert!(!known.is_asked((1, 100 + u64::from(n))));
        }
        for number in 1000..1000 + ASKED_BLOCKS_MAX as u64 {
            known.is_asked((1, number));
        }
        assert_eq!(known.asked.len(), ASKED_BLOCKS_MAX);
        assert!(!known.is_asked((1, 5)), "that was long ago");
    }
}
