//! Keyed operator state: which slot a key has, and what of it goes to the changelog.
//!
//! An operator keeps its values in columns of its own, indexed by *slot*; [`KeyIndex`] says which
//! slot a key has. A state table as the log sees it is a map from key bytes to value bytes:
//! [`DeltaBuilder`] writes its changes, [`Reader`] reads values back. Deltas are absolute: the
//! newest entry of a key is its value, so applying one twice changes nothing, and snapshots need
//! not be taken at one moment.
//!
//! Nothing here knows what a value means, and nothing here does I/O: what lies in memory is a
//! cache of the changelog.

mod delta;
mod error;
mod index;

pub use delta::{DeltaBuilder, Reader};
pub use error::StateError;
pub use index::{KeyIndex, key_group, key_hash};
