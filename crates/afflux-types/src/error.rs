//! What the receiver of an error should do, which is the only thing that error kinds say.

use std::fmt;

/// What the caller should do about an error. Edges map it once: to a Kafka error code,
/// an SQLSTATE, an HTTP status, a process exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong: change it.
    Invalid,
    /// The thing named does not exist: name another or create it.
    NotFound,
    /// A thing of that name exists already.
    AlreadyExists,
    /// Somebody newer has taken over: stop, or start again from their state.
    Fenced,
    /// It may work soon: try again.
    Unavailable,
    /// There is no room: free some, then try again.
    Full,
    /// Understood, but this build does not do it.
    Unsupported,
    /// Stored bytes are not what was written: an operator has to look.
    Corrupt,
    /// A fault of Afflux: report it.
    Internal,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::Fenced => "fenced",
            Self::Unavailable => "unavailable",
            Self::Full => "full",
            Self::Unsupported => "unsupported",
            Self::Corrupt => "corrupt",
            Self::Internal => "internal",
        })
    }
}

/// An error that says what to do about it. Every public error of the workspace is one.
pub trait Classified: std::error::Error {
    /// What the caller should do.
    fn kind(&self) -> ErrorKind;

    /// One sentence on what to try, where there is something to try.
    fn hint(&self) -> Option<String> {
        None
    }
}
