//! Bytes and back: Kafka's v2 record batches, journal frames and changelog frames.
//!
//! Pure functions over bytes. Nothing here knows where bytes lie or travel, and nothing here
//! trusts them: every length is checked against the bytes that are there.

pub mod batch;
mod builder;
pub mod changelog;
pub mod compression;
mod control;
mod crc;
pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod murmur2;
mod records;
mod rewrite;

pub use batch::{BatchError, Header, Record, RecordHeader, records};
pub use compression::Compression;
pub use control::Marker;
pub use murmur2::{murmur2, partition_for};
