//! State that can not be restored.

use afflux_types::{Classified, ErrorKind, TableId};

/// A changelog entry that is not this state's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The plan has no such table.
    #[error("the changelog holds state table {0}, which the plan does not have")]
    UnknownTable(TableId),
    /// An entry is not what this layout writes.
    #[error("an entry of state table {table} can not be read: {reason}")]
    Damaged {
        /// The table.
        table: TableId,
        /// What is wrong.
        reason: String,
    },
}

impl Classified for StateError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
}
