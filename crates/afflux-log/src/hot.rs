//! The journal's newest frames, in memory.
//!
//! A window over the journal: frames are put behind the newest and leave at the oldest end once
//! they are written and the window is larger than its limit. What is not yet written is only
//! here, so it stays whatever its size.

use std::collections::VecDeque;

use bytes::Bytes;

/// A window of payloads, each at its journal position.
#[derive(Debug)]
pub(crate) struct HotTail {
    payloads: VecDeque<(u64, Bytes)>,
    bytes: usize,
    bytes_max: usize,
    /// Before this, everything is on disk.
    written: u64,
}

impl HotTail {
    pub(crate) fn new(bytes_max: usize, written: u64) -> Self {
        Self { payloads: VecDeque::new(), bytes: 0, bytes_max, written }
    }

    /// Adds a payload behind all others.
    pub(crate) fn push(&mut self, position: u64, payload: Bytes) {
        self.bytes += payload.len();
        self.payloads.push_back((position, payload));
        self.evict();
    }

    /// Tells that everything before a position can be read from disk.
    pub(crate) fn written(&mut self, position: u64) {
        self.written = position;
        self.evict();
    }

    fn evict(&mut self) {
        while self.bytes > self.bytes_max
            && let Some((position, payload)) = self.payloads.front()
            && position + payload.len() as u64 <= self.written
        {
            self.bytes -= payload.len();
            self.payloads.pop_front();
        }
    }

    /// The bytes at a position, shared, if they are here.
    pub(crate) fn get(&self, position: u64, bytes: usize) -> Option<Bytes> {
        let behind = self.payloads.partition_point(|(start, _)| *start <= position);
        let (start, payload) = self.payloads.get(behind.checked_sub(1)?)?;
        let from = (position - start) as usize;
        let to = from.checked_add(bytes)?;
        (to <= payload.len()).then(|| payload.slice(from..to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_written_payloads_leave() {
        let mut hot = HotTail::new(10, 0);
        for i in 0..4_u64 {
            hot.push(100 + i * 8, Bytes::from(vec![i as u8; 8]));
        }
        assert_eq!(hot.get(100, 8).unwrap()[0], 0);
        hot.written(116);
        assert_eq!(hot.get(100, 8), None);
        assert_eq!(hot.get(108, 8), None);
        assert_eq!(hot.get(118, 3).unwrap(), Bytes::from(vec![2; 3]));
        assert_eq!(hot.get(118, 7), None, "a slice spans no two payloads");
        hot.written(132);
        assert_eq!(hot.get(116, 8), None);
        assert_eq!(hot.get(124, 8).unwrap()[0], 3);
    }
}
