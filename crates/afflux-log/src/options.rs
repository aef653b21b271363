//! Sizes and limits of the embedded log.

use std::time::Duration;

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
    /// [`crate::EmbeddedLog::ready`]. More than two writes are of no use, and are no more in the
    /// processor's cache when they are written.
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
    /// How far the sealed batches of one answer may lie from each other: half of what is kept of
    /// their blocks.
    pub(crate) fn stretch_max(&self) -> u64 {
        match self.block_cache_bytes as u64 / 2 {
            0 => u64::MAX,
            half => half,
        }
    }
}
