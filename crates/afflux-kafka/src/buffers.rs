//! Memory that requests are read into, lent from connection to connection.
//!
//! A connection has some as long as it has something to read. So one that waits holds none,
//! however large its last request was, and what is read into was used a moment ago: it is still in
//! the processor's caches, and needs no fresh pages.

use bytes::BytesMut;
use parking_lot::Mutex;

/// How much is lent.
pub(crate) const BUFFER_BYTES: usize = 256 << 10;
/// What a long request has made longer than this is not kept.
const KEPT_BYTES_MAX: usize = 4 * BUFFER_BYTES;
/// The most that are kept.
const KEPT_MAX: usize = 16;

/// What is not lent.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Mutex<Vec<BytesMut>>);

impl Buffers {
    /// An empty one, the last that came back if there is any.
    pub(crate) fn take(&self) -> BytesMut {
        let kept = self.0.lock().pop();
        kept.unwrap_or_else(|| BytesMut::with_capacity(BUFFER_BYTES))
    }

    /// Takes one back. Something that was read into it may still be in use: then its memory goes
    /// with that.
    pub(crate) fn give(&self, mut buffer: BytesMut) {
        buffer.clear();
        if buffer.try_reclaim(BUFFER_BYTES) && buffer.capacity() <= KEPT_BYTES_MAX {
            let mut kept = self.0.lock();
            if kept.len() < KEPT_MAX {
                kept.push(buffer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_lent_again_unless_it_is_in_use() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take();
        let memory = buffer.as_ptr();
        buffer.extend_from_slice(&[7; 100]);
        drop(buffer.split_to(60).freeze());
        buffers.give(buffer);
        let mut again = buffers.take();
        assert_eq!((again.as_ptr(), again.len()), (memory, 0));
        assert!(again.capacity() >= BUFFER_BYTES);

        again.extend_from_slice(&[8; 100]);
        let in_use = again.split_to(60).freeze();
        buffers.give(again);
        let mut other = buffers.take();
        other.extend_from_slice(&[9; 60]);
        assert_eq!(in_use, [8; 60][..]);
        assert_ne!(other.as_ptr(), memory);
    }

    #[test]
    fn what_grew_is_not_kept() {
        let buffers = Buffers::default();
        buffers.give(BytesMut::with_capacity(2 * KEPT_BYTES_MAX));
        assert!(buffers.take().capacity() <= KEPT_BYTES_MAX);
        (0..2 * KEPT_MAX).for_each(|_| buffers.give(BytesMut::with_capacity(BUFFER_BYTES)));
        assert_eq!(buffers.0.lock().len(), KEPT_MAX);
    }
}
