//! What may be drawn where.

use std::io::IsTerminal;

/// Whether a wish to see no colours was expressed (`NO_COLOR`, set to anything).
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Whether colours may go to the standard error.
pub(crate) fn colours_on_stderr() -> bool {
    !no_color() && std::io::stderr().is_terminal()
}

/// Whether somebody watches the standard output, so that it may be drawn over.
pub(crate) fn is_watched() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
