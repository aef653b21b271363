//! What the engine can not do, one variant a fact.

use std::sync::Arc;

use afflux_catalog::CatalogError;
use afflux_log::error::{AppendError, ReadError, TopicError};
use afflux_sql::SqlError;
use afflux_types::{Classified, ErrorKind, InvalidTopicName, TopicName};

/// A statement, a read or a follower that the engine can not serve.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The statement is wrong, or not supported.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// The catalog does not allow it.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// There is no such object, or no longer.
    #[error("there is no {0}")]
    Unknown(String),
    /// It is another kind of object than the statement says.
    #[error("\"{name}\" is a {is}, not a {expected}")]
    WrongKind {
        /// Its name.
        name: String,
        /// What it is.
        is: &'static str,
        /// What the statement takes it for.
        expected: &'static str,
    },
    /// Only views and tables hold rows.
    #[error("\"{0}\" is a source: it is read by views, not by queries")]
    NotReadable(String),
    /// A source was made for a topic that does not exist.
    #[error("there is no topic {0}")]
    UnknownTopic(TopicName),
    /// The view's name can not be that of its dead-letter topic.
    #[error("the dead-letter topic of the view can not be made: {0}")]
    DeadLetterTopic(#[from] InvalidTopicName),
    /// A file of a `CREATE TABLE` can not be read.
    #[error("reading {path}: {reason}")]
    File {
        /// The file, as the statement names it.
        path: String,
        /// What is wrong.
        reason: String,
        /// What the caller should do.
        kind: ErrorKind,
    },
    /// A view's columns or plan are beyond this build.
    #[error("the view can not be kept: {0}")]
    Unsupported(String),
    /// A view was not up to date in time.
    #[error("\"{view}\" is still catching up: {lag_bytes} bytes of the log are ahead of it")]
    CatchingUp {
        /// The view that lags most.
        view: String,
        /// How far.
        lag_bytes: u64,
    },
    /// A view's pipeline has stopped.
    #[error("the pipeline of \"{view}\" failed: {error}")]
    Failed {
        /// The view.
        view: String,
        /// What happened to it.
        error: String,
    },
    /// A topic of the engine's own can not be made.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The log did not take it.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The log can not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Bytes of the engine's own in the log are not what was written.
    #[error("{topic} holds what this build can not read: {reason}")]
    Unreadable {
        /// The topic.
        topic: TopicName,
        /// What is wrong.
        reason: String,
    },
    /// Rows could not be turned into columns or back.
    #[error("columns of \"{view}\": {source}")]
    Columns {
        /// The view.
        view: String,
        /// What arrow says.
        source: Arc<arrow::error::ArrowError>,
    },
    /// The log failed, or the engine was shut down.
    #[error("the engine is shut down: {0}")]
    Halted(String),
}

impl Classified for EngineError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Sql(error) => error.kind(),
            Self::Catalog(error) => error.kind(),
            Self::Unknown(_) | Self::UnknownTopic(_) => ErrorKind::NotFound,
            Self::WrongKind { .. } | Self::NotReadable(_) | Self::DeadLetterTopic(_) => {
                ErrorKind::Invalid
            }
            Self::File { kind, .. } => *kind,
            Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::CatchingUp { .. } | Self::Failed { .. } | Self::Halted(_) => {
                ErrorKind::Unavailable
            }
            Self::Topic(error) => error.kind(),
            Self::Append(error) => error.kind(),
            Self::Read(error) => error.kind(),
            Self::Unreadable { .. } => ErrorKind::Corrupt,
            Self::Columns { .. } => ErrorKind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Sql(error) => error.hint(),
            Self::Catalog(error) => error.hint(),
            Self::DeadLetterTopic(error) => error.hint(),
            Self::UnknownTopic(topic) => {
                Some(format!("create it first: afflux topic create {topic}"))
            }
            Self::NotReadable(name) => {
                Some(format!("CREATE MATERIALIZED VIEW … AS SELECT … FROM {name}, and read that"))
            }
            Self::CatchingUp { .. } => {
                Some("try again; SHOW PIPELINES tells how far it is".to_owned())
            }
            Self::Failed { view, .. } => Some(format!(
                "remove the cause and restart the node, or DROP MATERIALIZED VIEW {view}"
            )),
            Self::WrongKind { name, is, .. } => Some(format!("DROP {} {name}", is.to_uppercase())),
            Self::Topic(error) => error.hint(),
            Self::Append(error) => error.hint(),
            Self::Read(error) => error.hint(),
            _ => None,
        }
    }
}
