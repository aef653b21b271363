//! JSON: one object a record into columns, one row into an object.
//!
//! Decoding is ours and not `arrow-json`'s, which takes text for numbers, cuts fractions off
//! integers, joins records that break in the middle and, when a batch fails, does not say which
//! record failed. Here each record stands for itself, so a batch decodes as its records do.

mod decode;
mod scan;
mod write;

pub use decode::{Decoded, Decoder, Rejected, UnsupportedColumn};
pub use write::{RowWriter, rows};
