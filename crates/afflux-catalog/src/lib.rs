//! What exists: sources, tables and views, by name and id.
//!
//! A [`Catalog`] is a fold of the records of the DDL topic ([`Change`]s), nothing more: it reads
//! no log, plans no SQL and runs nothing. The engine appends a change, waits until it is durable,
//! and then applies it. Immutable values: a change makes a new catalog, readers keep the old.

mod change;
mod object;

pub use change::{Catalog, CatalogError, Change};
pub use object::{Format, LatePolicy, Object, ObjectKind, Source, Start, Table, View, Watermark};
