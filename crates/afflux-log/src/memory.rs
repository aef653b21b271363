//! Memory for frames and for what is read from the disk, used over and over.
//!
//! Frames stay in the hot tail for a while and then make room for others of about their size; what
//! is read is sent and forgotten. Fresh pages for each would cost more than what is done with them,
//! the more so in a virtual machine, where the first touch of a page may have to wait for the host.
//! So memory that nobody uses any more is kept, by size, up to [`KEPT_BYTES_MAX`] for the whole
//! process, and the last that came back is the first to go out again: it may still be cached. What is
//! too much goes from the size that nobody has asked for longest, so that what is kept is always of
//! the sizes that are in use.
//!
//! What is small is not worth it. Blocks of [`BLOCK_BYTES`] lie two by two on huge pages, where the
//! device puts each as one piece (`afflux_env`, module `huge`).

use afflux_env::{HUGE_PAGE_BYTES, prefer_huge_pages};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

/// The smallest that is kept.
const SMALLEST: usize = 4 << 10;
/// Sizes between one power of two and the next.
const STEPS: usize = 4;
/// From 4 KiB to [`HUGE_BYTES`].
const SIZES: usize = 10 * STEPS + 1;
/// The largest, which holds a huge page wherever it begins.
pub(crate) const HUGE_BYTES: usize = 2 * HUGE_PAGE_BYTES;
/// Bytes of a block.
pub(crate) const BLOCK_BYTES: usize = HUGE_PAGE_BYTES / 2;
/// The most that is kept, and the most of blocks.
const KEPT_BYTES_MAX: usize = 32 << 20;

struct Kept {
    by_size: [Vec<Vec<u8>>; SIZES],
    /// When each size was asked for last, in requests.
    asked: [u64; SIZES],
    requests: u64,
    bytes: usize,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept::NEW);
static KEPT_BLOCKS: Mutex<Vec<Block>> = Mutex::new(Vec::new());

impl Kept {
    const NEW: Self =
        Self { by_size: [const { Vec::new() }; SIZES], asked: [0; SIZES], requests: 0, bytes: 0 };

    fn take(&mut self, number: usize) -> Option<Vec<u8>> {
        self.requests += 1;
        self.asked[number] = self.requests;
        let buffer = self.by_size[number].pop()?;
        self.bytes -= buffer.capacity();
        Some(buffer)
    }

    /// Keeps a buffer, and gives back those that are too much.
    fn keep(&mut self, number: usize, buffer: Vec<u8>) -> Vec<Vec<u8>> {
        self.bytes += buffer.capacity();
        self.by_size[number].push(buffer);
        let mut gone = Vec::new();
        while self.bytes > KEPT_BYTES_MAX {
            let kept = (0..SIZES).filter(|number| !self.by_size[*number].is_empty());
            let oldest = kept.min_by_key(|number| self.asked[*number]);
            let Some(buffer) = oldest.and_then(|number| self.by_size[number].pop()) else { break };
            self.bytes -= buffer.capacity();
            gone.push(buffer);
        }
        gone
    }
}

/// Memory of a size that is kept.
fn size(number: usize) -> usize {
    (SMALLEST << (number / STEPS)) / STEPS * (STEPS + number % STEPS)
}

/// The number of the smallest size that so many bytes fit in, if that is one that is kept.
fn number_for(bytes: usize) -> Option<usize> {
    let first = (bytes / SMALLEST).checked_ilog2()? as usize * STEPS;
    (first..SIZES.min(first + STEPS + 1)).find(|number| bytes <= size(*number))
}

/// A buffer of so many bytes, whatever they are.
pub(crate) fn take_filled(bytes: usize) -> Vec<u8> {
    let mut buffer = take_used(bytes);
    buffer.resize(bytes, 0);
    buffer
}

/// An empty buffer with room for so many bytes.
pub(crate) fn take(bytes: usize) -> Vec<u8> {
    let mut buffer = take_used(bytes);
    buffer.clear();
    buffer
}

/// A buffer with room for so many bytes, and what was in it last.
fn take_used(bytes: usize) -> Vec<u8> {
    let Some(number) = number_for(bytes) else { return Vec::with_capacity(bytes) };
    let kept = KEPT.lock().take(number);
    kept.unwrap_or_else(|| {
        let mut buffer = Vec::with_capacity(size(number));
        if buffer.capacity() == HUGE_BYTES {
            prefer_huge_pages(buffer.spare_capacity_mut());
        }
        buffer
    })
}

/// Makes a buffer one that many may read. Behind the last of them it is kept.
pub(crate) fn share(buffer: Vec<u8>) -> Bytes {
    match number_for(buffer.capacity()) {
        Some(number) if size(number) == buffer.capacity() => Bytes::from_owner(Lent(buffer)),
        _ => buffer.into(),
    }
}

/// A buffer that comes back.
struct Lent(Vec<u8>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        let Some(number) = number_for(buffer.capacity()) else { return };
        // They are freed when nobody is held up by it.
        let gone = KEPT.lock().keep(number, buffer);
        drop(gone);
    }
}

/// A block of [`BLOCK_BYTES`], whatever they are, that begins at a multiple of that. Behind its
/// last use it is kept; a huge page is given back once neither half of it is.
pub(crate) fn take_block() -> Block {
    if let Some(block) = KEPT_BLOCKS.lock().pop() {
        return block;
    }
    // There is one huge page in it, and nothing else of it is ever touched.
    let mut room = BytesMut::with_capacity(HUGE_BYTES);
    prefer_huge_pages(room.spare_capacity_mut());
    let mut room = room.split_off(room.as_ptr().align_offset(HUGE_PAGE_BYTES));
    let mut block = || {
        let rest = room.split_off(BLOCK_BYTES);
        let mut block = std::mem::replace(&mut room, rest);
        block.resize(BLOCK_BYTES, 0);
        Block(block)
    };
    // The other half is kept.
    drop(block());
    block()
}

/// See [`take_block`].
pub(crate) struct Block(BytesMut);

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for Block {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        let mut kept = KEPT_BLOCKS.lock();
        // One that is not kept is freed when nobody is held up by it.
        if kept.len() < KEPT_BYTES_MAX / BLOCK_BYTES {
            kept.push(Block(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_ascend_and_every_number_of_bytes_fits() {
        assert_eq!((size(0), size(1), size(STEPS)), (SMALLEST, 5 << 10, 2 * SMALLEST));
        assert_eq!(size(SIZES - 1), HUGE_BYTES);
        assert!((1..SIZES).all(|number| size(number - 1) < size(number)));
        for bytes in (SMALLEST..=size(SIZES - 1)).step_by(77) {
            let number = number_for(bytes).unwrap();
            assert!(bytes <= size(number));
            assert!(number == 0 || size(number - 1) < bytes);
        }
        assert_eq!(number_for(SMALLEST - 1), None);
        assert_eq!(number_for(size(SIZES - 1) + 1), None);
        for number in 0..SIZES {
            assert_eq!(number_for(size(number)), Some(number));
        }
    }

    #[test]
    fn what_is_shared_is_what_was_written() {
        for bytes in [10, 5_000, 20_000, 3 << 20] {
            let mut buffer = take(bytes);
            assert!(buffer.is_empty() && buffer.capacity() >= bytes);
            buffer.resize(bytes, 7);
            let shared = share(buffer);
            let slice = shared.slice(5..bytes);
            drop(shared);
            let mut other = take(bytes);
            other.resize(bytes, 8);
            assert!(slice.iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn what_is_kept_is_of_the_sizes_that_are_asked_for() {
        let mut kept = Kept::NEW;
        for bytes in [1 << 20, 64 << 10, 16 << 10, 512 << 10] {
            let number = number_for(bytes).unwrap();
            let count = KEPT_BYTES_MAX / bytes;
            for again in [false, true] {
                let found = (0..count).filter_map(|_| kept.take(number)).count();
                assert_eq!(found, if again { count } else { 0 });
                let given = (0..count).map(|_| kept.keep(number, Vec::with_capacity(bytes)).len());
                let gone = given.sum::<usize>();
                assert_eq!(gone > 0, !again && kept.requests > count as u64);
            }
        }
    }

    #[test]
    fn blocks_are_halves_of_huge_pages_and_come_back() {
        let blocks: Vec<_> = (0..100)
            .map(|n| {
                let mut block = take_block();
                assert_eq!((block.0.len(), block.0.capacity()), (BLOCK_BYTES, BLOCK_BYTES));
                assert_eq!(block.0.as_ptr().align_offset(BLOCK_BYTES), 0);
                block.0.fill(n);
                Bytes::from_owner(block)
            })
            .collect();
        for (n, block) in (0_u8..).zip(&blocks) {
            assert!(block.iter().all(|byte| *byte == n));
        }
        drop(blocks);
        assert_eq!(KEPT_BLOCKS.lock().len(), KEPT_BYTES_MAX / BLOCK_BYTES);
    }

    #[test]
    fn no_more_is_kept_than_said() {
        let many: Vec<_> = (0..40).map(|_| share(take(1 << 20))).collect();
        drop(many);
        let kept = KEPT.lock();
        assert!(kept.bytes <= KEPT_BYTES_MAX);
        let all = kept.by_size.iter().flatten().map(Vec::capacity).sum::<usize>();
        assert_eq!(all, kept.bytes);
    }
}
