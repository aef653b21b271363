//! What can go wrong with a graph as a whole. What is wrong with a row is a
//! [`crate::RejectedRow`].

use afflux_types::{Classified, ErrorKind, ObjectId, OperatorId};
use arrow::error::ArrowError;

/// A plan that can not be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A static table that the plan reads was not given.
    #[error("the rows of table {0} are missing")]
    MissingTable(ObjectId),
    /// An operator's parts do not fit together.
    #[error("operator {operator} of the plan is broken: {reason}")]
    Broken {
        /// Which.
        operator: OperatorId,
        /// What does not fit.
        reason: String,
    },
    /// Understood, but not done by this build.
    #[error("operator {operator} of the plan is not supported: {reason}")]
    Unsupported {
        /// Which.
        operator: OperatorId,
        /// What is not supported.
        reason: String,
    },
}

impl Classified for BuildError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::MissingTable(_) => ErrorKind::NotFound,
            Self::Broken { .. } => ErrorKind::Internal,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
        }
    }
}

/// An epoch that can not be computed. The dataflow is to be dropped; a new one, restored from the
/// changelog, is where the last finished epoch was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DataflowError {
    /// There is no such input.
    #[error("operator {0} is not an input of the plan")]
    UnknownInput(OperatorId),
    /// What was pushed has other columns than the input, or weights that it can not have.
    #[error("operator {operator} was given a batch that is not its input's: {reason}")]
    WrongInput {
        /// Which.
        operator: OperatorId,
        /// What is wrong with the batch.
        reason: String,
    },
    /// A sum left the range of its type, by rows that are taken back later and so can not be
    /// rejected one by one.
    #[error("a {aggregate} of operator {operator} is out of range of {range}")]
    OutOfRange {
        /// Which.
        operator: OperatorId,
        /// The aggregate's name.
        aggregate: &'static str,
        /// The result's type.
        range: String,
    },
    /// A fault of Afflux.
    #[error("operator {operator} failed: {reason}")]
    Internal {
        /// Which.
        operator: OperatorId,
        /// What happened.
        reason: String,
    },
}

impl Classified for DataflowError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::OutOfRange { .. } => ErrorKind::Invalid,
            Self::UnknownInput(_) | Self::WrongInput { .. } | Self::Internal { .. } => {
                ErrorKind::Internal
            }
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::OutOfRange { .. } => {
                Some("cast the argument to a wider type, such as DECIMAL(38, 0)".to_owned())
            }
            _ => None,
        }
    }
}

/// An error of Arrow's where there should be none.
pub(crate) fn internal(operator: OperatorId) -> impl Fn(ArrowError) -> DataflowError {
    move |error| DataflowError::Internal { operator, reason: error.to_string() }
}
