//! What can go wrong in the log, one variant a fact.

use std::{io, path::PathBuf, sync::Arc};

use afflux_types::{Classified, ErrorKind, Incarnation, Offset, TopicName, TopicPartition};

/// A group was not taken. Nothing of it is in the log, unless it is [`Self::Failed`] or
/// [`Self::Closed`], after which only a restart can tell.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// There is no such partition.
    #[error("there is no partition {0}")]
    UnknownPartition(TopicPartition),
    /// The bytes are not one well-formed v2 batch.
    #[error("the batch for {partition} is malformed: {reason}")]
    Malformed {
        /// Where it should have gone.
        partition: TopicPartition,
        /// What is wrong with it.
        reason: String,
    },
    /// The batch is larger than the topic allows.
    #[error("the batch for {partition} has {bytes} bytes; at most {bytes_max} are allowed")]
    TooLarge {
        /// Where it should have gone.
        partition: TopicPartition,
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A producer's sequence does not follow the last one.
    #[error("sequence {got} of producer {producer} on {partition} does not follow {last:?}")]
    OutOfOrderSequence {
        /// Where it should have gone.
        partition: TopicPartition,
        /// Whose it is.
        producer: i64,
        /// The last sequence taken, if the producer is known.
        last: Option<i32>,
        /// The sequence that came.
        got: i32,
    },
    /// A retry of a batch that is too old to know its offset.
    #[error("sequence {sequence} of producer {producer} on {partition} was written before")]
    DuplicateSequence {
        /// Where it went.
        partition: TopicPartition,
        /// Whose it is.
        producer: i64,
        /// Its first sequence.
        sequence: i32,
    },
    /// A newer instance of the producer has written.
    #[error(
        "producer {producer} wrote to {partition} with epoch {epoch_current} since; this is epoch {epoch}"
    )]
    ProducerFenced {
        /// Where it should have gone.
        partition: TopicPartition,
        /// Whose it is.
        producer: i64,
        /// The stale epoch.
        epoch: i16,
        /// The newest epoch seen.
        epoch_current: i16,
    },
    /// It builds on what is not there: a group before it was refused, or another writer came first.
    #[error("{partition} ends at {end}, not at {expected} as the group expects")]
    Overtaken {
        /// The partition.
        partition: TopicPartition,
        /// Where it should have ended.
        expected: Offset,
        /// Where it ends.
        end: Offset,
    },
    /// The producer has a transaction open of which the batch is no part.
    #[error(
        "producer {producer} has a transaction open on {partition}; the batch is no part of it"
    )]
    OutsideTransaction {
        /// Where it should have gone.
        partition: TopicPartition,
        /// Whose it is.
        producer: i64,
    },
    /// The disk has no room for it.
    #[error("the disk is full: {needed} bytes are needed and {free} are free for the log")]
    DiskFull {
        /// Bytes that the group needs.
        needed: u64,
        /// Bytes that are left.
        free: u64,
    },
    /// A write or a sync failed; the journal takes nothing until the node is restarted.
    #[error("the journal failed and the node must be restarted: {0}")]
    Failed(Arc<io::Error>),
    /// The log was shut down first.
    #[error("the log is shut down")]
    Closed,
}

impl Classified for AppendError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownPartition(_) => ErrorKind::NotFound,
            Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::OutOfOrderSequence { .. }
            | Self::DuplicateSequence { .. }
            | Self::OutsideTransaction { .. } => ErrorKind::Invalid,
            Self::ProducerFenced { .. } => ErrorKind::Fenced,
            Self::DiskFull { .. } => ErrorKind::Full,
            Self::Overtaken { .. } | Self::Failed(_) | Self::Closed => ErrorKind::Unavailable,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::DiskFull { .. } => Some(
                "free some space, delete a topic, keep records for less long (retention.ms), or \
                 give the log more with --log-bytes-max; nothing that was acknowledged is lost"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// A read that can not be answered.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// There is no such partition.
    #[error("there is no partition {0}")]
    UnknownPartition(TopicPartition),
    /// The offset is not in the partition.
    #[error("offset {offset} of {partition} is outside {start}..{end}")]
    OffsetOutOfRange {
        /// The partition.
        partition: TopicPartition,
        /// What was asked for.
        offset: Offset,
        /// The first offset that is there.
        start: Offset,
        /// The first that is not yet there.
        end: Offset,
    },
    /// Stored bytes are not what was written.
    #[error("{partition} can not be read at offset {offset}: {reason}")]
    Corrupt {
        /// The partition.
        partition: TopicPartition,
        /// The batch's offset.
        offset: Offset,
        /// What is wrong.
        reason: String,
    },
    /// The disk refused to read.
    #[error("reading {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl Classified for ReadError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownPartition(_) => ErrorKind::NotFound,
            Self::OffsetOutOfRange { .. } => ErrorKind::Invalid,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Io { .. } => ErrorKind::Unavailable,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Corrupt { .. } => Some(
                "copy the data directory and check the disk for errors; `afflux journal check` \
                 names the file, to be restored from a backup"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// A topic that can not be made or removed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// There is one of that name.
    #[error("topic {0} exists already")]
    Exists(TopicName),
    /// There is none of that name.
    #[error("there is no topic {0}")]
    Unknown(TopicName),
    /// The number of partitions is out of range.
    #[error("a topic has 1 to {partitions_max} partitions, not {partitions}")]
    Partitions {
        /// What was asked for.
        partitions: i32,
        /// The most a topic can have.
        partitions_max: i32,
    },
    /// Partitions are never taken away.
    #[error("it has {has} partitions: it can grow beyond that, not to {partitions}")]
    Shrinks {
        /// How many it has.
        has: i32,
        /// What was asked for.
        partitions: i32,
    },
    /// The change could not be written.
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl Classified for TopicError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Exists(_) => ErrorKind::AlreadyExists,
            Self::Unknown(_) => ErrorKind::NotFound,
            Self::Partitions { .. } | Self::Shrinks { .. } => ErrorKind::Invalid,
            Self::Append(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Append(error) => error.hint(),
            _ => None,
        }
    }
}

/// A log that can not be opened. Nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it open.
    #[error("the data directory {0} is in use by another process")]
    InUse(PathBuf),
    /// The directory holds something else.
    #[error("{path} is not a data directory of this version: {found}")]
    Version {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// What was durable is not there as it was written.
    #[error("{path} is damaged at position {position}: {reason}")]
    Corrupt {
        /// The journal file.
        path: PathBuf,
        /// Where in the journal.
        position: u64,
        /// What is wrong, and how that is known.
        reason: String,
    },
    /// No start can follow: each needs an incarnation of its own.
    #[error("the journal in {0} has used the last incarnation that there is: {last}", last = Incarnation::MAX)]
    Exhausted(PathBuf),
    /// There is no room to begin.
    #[error("the disk of {path} is full: {needed} bytes are needed and {free} are free")]
    DiskFull {
        /// The data directory.
        path: PathBuf,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that are left.
        free: u64,
    },
    /// Sizes that do not go together.
    #[error("the log's options do not go together: {0}")]
    Options(&'static str),
    /// The disk refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl OpenError {
    pub(crate) fn io(path: &std::path::Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source: Arc::new(source) }
    }
}

impl Classified for OpenError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::InUse(_) | Self::Io { .. } => ErrorKind::Unavailable,
            Self::Version { .. } => ErrorKind::Unsupported,
            Self::Corrupt { .. } | Self::Exhausted(_) => ErrorKind::Corrupt,
            Self::DiskFull { .. } => ErrorKind::Full,
            Self::Options(_) => ErrorKind::Invalid,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::InUse(_) => "stop the other process, or name another directory".to_owned(),
            Self::Version { .. } => {
                "open it with the version of Afflux that wrote it, or name another directory"
                    .to_owned()
            }
            Self::Corrupt { path, .. } => format!(
                "nothing was changed. Copy the data directory and check the disk for errors; then \
                 restore {} from a backup, or see with `afflux journal check` what would be lost \
                 and cut it off with `afflux journal repair`",
                path.display()
            ),
            Self::Exhausted(_) => {
                "nobody starts a node that often, so the bytes that say so are not what was \
                 written: restore the data directory from a backup"
                    .to_owned()
            }
            Self::DiskFull { .. } => "free some space, or name a directory elsewhere".to_owned(),
            Self::Options(_) | Self::Io { .. } => return None,
        })
    }
}

/// Records that can not be dropped.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TrimError {
    /// There is no such partition, or the offset is not in it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The change could not be written.
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl Classified for TrimError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Read(error) => error.kind(),
            Self::Append(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Read(error) => error.hint(),
            Self::Append(error) => error.hint(),
        }
    }
}
