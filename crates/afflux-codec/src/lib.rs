//! Payload bytes to Arrow and back.
//!
//! One module a format. Decoders are pure: a batch of payloads in, columns out, and beside them
//! the payloads that could not be decoded, each with its reason. They know no topics, no offsets
//! and no I/O, and they trust no input: depth, lengths and numbers are checked, memory grows with
//! the bytes that are there.
//!
//! The text of times, dates and decimals is the same in every format; [`text`] has it.

pub mod csv;
pub mod json;
pub mod text;
