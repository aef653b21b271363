//! Room for recursion: parsing and planning go as deep as the statement nests.

use afflux_types::ErrorKind;

use crate::{SqlError, error::sqlstate};

/// Up to this depth the caller's stack is enough, also in a debug build with 2 MiB.
const SHALLOW: usize = 12;
/// The stack for deeper statements. Only what is used of it takes memory.
const STACK_BYTES: usize = 64 << 20;

/// Does some work that recurses as deep as a statement of this depth.
pub(crate) fn with<T: Send>(
    depth: usize,
    work: impl FnOnce() -> Result<T, SqlError> + Send,
) -> Result<T, SqlError> {
    if depth <= SHALLOW {
        return work();
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("afflux-sql".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|error| {
                let message = format!("there is no thread to plan on: {error}");
                SqlError::new(ErrorKind::Unavailable, sqlstate::OUT_OF_MEMORY, message)
            })?;
        thread.join().unwrap_or_else(|_| Err(SqlError::internal("planning came to a halt")))
    })
}
