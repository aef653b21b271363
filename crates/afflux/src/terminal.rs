//! What may be drawn where, and lines of text on the standard output.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

use crate::failure::{Failure, Status};

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

/// Writes a line to the standard output. Whoever reads it may have seen enough (`| head`): that is
/// the end of this process, and no fault.
pub(crate) fn say_line(line: fmt::Arguments<'_>) {
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            Failure::new(Status::Failed, format!("writing the answer: {error}")).report();
            std::process::exit(Status::Failed as i32)
        }
    }
}

/// [`say_line`], with the arguments of `println!`.
macro_rules! say {
    ($($line:tt)*) => { $crate::terminal::say_line(format_args!($($line)*)) };
}
pub(crate) use say;
