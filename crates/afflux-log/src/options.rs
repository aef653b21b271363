//! Sizes and limits of the embedded log.

use std::time::Duration;

use afflux_record::frame::{self, Commit};

/// Sizes and limits. The defaults are for a node; tests make them small.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Bytes of a journal file.
    pub file_bytes: u64,
    /// Bytes of a new journal's first file; each next one is twice as large, up to
    /// [`Self::file_bytes`]. Small, so that a new node need not wait for zeros.
    pub first_file_bytes: u64,
    /// The most that one write and sync take.
    pub write_bytes_max: usize,
    /// Groups larger than this are staged in chunks, so that they block nobody.
    pub whole_group_bytes_max: usize,
    /// Bytes of a chunk of a staged group.
    pub chunk_bytes: usize,
    /// The largest group.
    pub group_bytes_max: usize,
    /// The most that should have its place and not be durable yet: see
    /// [`crate::EmbeddedLog::ready`]. More than two writes make nothing faster.
    pub in_flight_bytes_max: usize,
    /// Bytes of the journal's newest frames that are kept in memory.
    pub hot_bytes: usize,
    /// Bytes of a sealed file that are read at once.
    pub block_bytes: u64,
    /// Bytes of such blocks that are kept in memory.
    pub block_cache_bytes: usize,
    /// Bytes of older index sections that are kept in memory.
    pub index_cache_bytes: usize,
    /// What must stay free on the disk after a new journal file.
    pub free_bytes_min: u64,
    /// The most that journal files may take together. Beyond that appends are refused as if the
    /// disk were full. If none: nine tenths of what they take and what is free.
    pub bytes_max: Option<u64>,
    /// Bytes that one pass of compaction takes for keys, about. More keys take more passes.
    pub compaction_bytes_max: usize,
    /// How long a partition remembers a producer that does not write: a retry that comes later is
    /// taken for new. One with an open transaction is not forgotten.
    pub producer_retention: Duration,
    /// How often partitions are looked at for records and producers that are too old, or to be
    /// compacted.
    pub retention_check: Duration,
    /// The most partitions that a topic can have.
    pub partitions_max: i32,
    /// Dead journal files that are kept to be used again.
    pub spares_max: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            file_bytes: 64 << 20,
            first_file_bytes: 8 << 20,
            write_bytes_max: 4 << 20,
            whole_group_bytes_max: 1 << 20,
            chunk_bytes: 512 << 10,
            group_bytes_max: 512 << 20,
            in_flight_bytes_max: 8 << 20,
            hot_bytes: 32 << 20,
            block_bytes: 1 << 20,
            block_cache_bytes: 64 << 20,
            index_cache_bytes: 16 << 20,
            free_bytes_min: 64 << 20,
            bytes_max: None,
            compaction_bytes_max: 64 << 20,
            producer_retention: Duration::from_hours(24),
            retention_check: Duration::from_mins(1),
            partitions_max: 10_000,
            spares_max: 16,
        }
    }
}

impl LogOptions {
    /// Whether one append takes so many batches, which take so many bytes as a group.
    pub(crate) fn takes_group(&self, batches: usize, bytes: usize) -> bool {
        let commit = Commit::encoded_bytes(bytes.div_ceil(self.chunk_bytes), batches);
        bytes <= self.whole_group_bytes_max
            || bytes <= self.group_bytes_max && commit <= self.whole_group_bytes_max
    }

    /// The most batches of so many bytes each that one append takes beside one of `other_bytes`.
    pub fn group_batches_max(&self, batch_bytes: usize, other_bytes: usize) -> usize {
        let other = frame::group_bytes(std::iter::once(other_bytes));
        let each = frame::ENTRY_PREFIX_BYTES + batch_bytes;
        let takes = |batches: usize| self.takes_group(batches + 1, other + batches * each);
        // More of them are never taken where fewer are not.
        let (mut most, mut refused) =
            (0, self.group_bytes_max.max(self.whole_group_bytes_max) / each + 1);
        while refused - most > 1 {
            let middle = usize::midpoint(most, refused);
            if takes(middle) {
                most = middle;
            } else {
                refused = middle;
            }
        }
        most
    }

    /// How far the sealed batches of one answer may lie from each other: half of what is kept of
    /// their blocks.
    pub(crate) fn stretch_max(&self) -> u64 {
        match self.block_cache_bytes as u64 / 2 {
            0 => u64::MAX,
            half => half,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_holds_as_many_batches_as_its_frames_do() {
        let check = |options: &LogOptions, batch: usize, other: usize| {
            let most = options.group_batches_max(batch, other);
            let takes = |batches: usize| {
                let sizes = std::iter::repeat_n(batch, batches).chain([other]);
                options.takes_group(batches + 1, frame::group_bytes(sizes))
            };
            assert!(takes(most) && !takes(most + 1), "{most} of {batch} and {other}");
            most
        };
        let node = LogOptions::default();
        // 48 bytes of the commit frame for each, less what names the chunks and the other.
        assert_eq!(check(&node, 80, 100), 21_842);
        assert!(check(&node, 80, 40 << 10) >= 21_840);
        assert_eq!(check(&node, 300 << 20, 0), 1);
        assert_eq!(check(&node, 512 << 20, 0), 0);
        let small = LogOptions { whole_group_bytes_max: 8 << 10, chunk_bytes: 4 << 10, ..node };
        assert_eq!(check(&small, 80, 100), 168);
        // Few chunks are named, and so what is not staged is more.
        let tiny = LogOptions { whole_group_bytes_max: 400, chunk_bytes: 16, ..small };
        assert_eq!(check(&tiny, 20, 20), 12);
    }
}
