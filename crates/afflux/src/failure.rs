//! How a command ends when it does not succeed: a message, what to try, an exit status.

use std::{fmt, process::ExitCode};

use afflux_types::{Classified, ErrorKind};

/// Exit statuses, as `afflux --help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// The command failed.
    Failed = 1,
    /// The node can not be reached.
    Unreachable = 3,
    /// The node can not start here.
    CannotStart = 4,
    /// Stored data are damaged.
    Damaged = 5,
    /// Ctrl-C came first.
    Interrupted = 130,
}

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    status: Status,
    message: String,
    hint: Option<String>,
    passing: bool,
}

impl Failure {
    /// A failure with a message.
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Self {
        let passing = status == Status::Unreachable;
        Self { status, message: message.into(), hint: None, passing }
    }

    /// Says what to try.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Ctrl-C came before the command was done.
    pub(crate) fn interrupted() -> Self {
        Self::new(Status::Interrupted, "interrupted")
    }

    /// An error at the start of a node.
    pub(crate) fn start(error: &dyn Classified) -> Self {
        let status = match error.kind() {
            ErrorKind::Corrupt => Status::Damaged,
            ErrorKind::Internal => Status::Failed,
            _ => Status::CannotStart,
        };
        Self { status, message: error.to_string(), hint: error.hint(), passing: false }
    }

    /// Says that trying again may help.
    pub(crate) fn passing(mut self) -> Self {
        self.passing = true;
        self
    }

    /// Whether trying again may help.
    pub(crate) fn is_passing(&self) -> bool {
        self.passing
    }

    /// Prints it where errors go and gives the status to exit with.
    pub(crate) fn report(&self) -> ExitCode {
        if self.status != Status::Interrupted {
            eprintln!("{}: {}", styled("error", "1;31"), self.message);
            if let Some(hint) = &self.hint {
                eprintln!("{}: {hint}", styled("hint", "1;36"));
            }
        }
        ExitCode::from(self.status as u8)
    }
}

/// Tells of something that is no failure, but not what the user may expect either.
pub(crate) fn warn(message: &str, hint: &str) {
    eprintln!("{}: {message}", styled("warning", "1;33"));
    eprintln!("{}: {hint}", styled("hint", "1;36"));
}

fn styled(text: &str, code: &str) -> String {
    if crate::terminal::colours_on_stderr() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Status::Failed, format!("{error:#}"))
    }
}
