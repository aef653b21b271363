//! Which of Kafka's error codes says what went wrong: the only place where that is decided.

use afflux_log::error::{AppendError, ReadError, TopicError, TrimError};
use afflux_record::BatchError;
use kafka_protocol::ResponseError;

/// The code for an append that was not taken.
pub(crate) fn of_append(error: &AppendError) -> ResponseError {
    match error {
        AppendError::UnknownPartition(_) => ResponseError::UnknownTopicOrPartition,
        AppendError::Malformed { .. } => ResponseError::InvalidRecord,
        AppendError::TooLarge { .. } => ResponseError::MessageTooLarge,
        AppendError::OutOfOrderSequence { .. } => ResponseError::OutOfOrderSequenceNumber,
        AppendError::DuplicateSequence { .. } => ResponseError::DuplicateSequenceNumber,
        AppendError::ProducerFenced { .. } => ResponseError::InvalidProducerEpoch,
        AppendError::OutsideTransaction { .. } => ResponseError::InvalidTxnState,
        // Clients try again after these two, and that is right: the node is about to restart, or
        // somebody is about to make room.
        AppendError::DiskFull { .. } | AppendError::Failed(_) => ResponseError::KafkaStorageError,
        AppendError::Closed => ResponseError::NotLeaderOrFollower,
        _ => ResponseError::UnknownServerError,
    }
}

/// The code for a record of a group's coordinator that was not taken: of the codes that its clients
/// try again after.
pub(crate) fn of_group_append(error: &AppendError) -> ResponseError {
    match error {
        AppendError::DiskFull { .. } | AppendError::Failed(_) => {
            ResponseError::CoordinatorNotAvailable
        }
        AppendError::Closed => ResponseError::NotCoordinator,
        AppendError::TooLarge { .. } => ResponseError::UnknownServerError,
        error => of_append(error),
    }
}

/// The code for a batch that is not one.
pub(crate) fn of_batch(error: &BatchError) -> ResponseError {
    match error {
        // Flipped on the way: worth another try. Older formats are known, and not taken.
        BatchError::Checksum { .. } | BatchError::Magic(..0 | 3..) => ResponseError::CorruptMessage,
        BatchError::UnknownCompression(_) => ResponseError::UnsupportedCompressionType,
        // Some clients send the batch again in parts.
        BatchError::UnpacksTooLarge { .. } => ResponseError::MessageTooLarge,
        _ => ResponseError::InvalidRecord,
    }
}

/// The code for a read that can not be answered.
pub(crate) fn of_read(error: &ReadError) -> ResponseError {
    match error {
        ReadError::UnknownPartition(_) => ResponseError::UnknownTopicOrPartition,
        ReadError::OffsetOutOfRange { .. } => ResponseError::OffsetOutOfRange,
        ReadError::Corrupt { .. } | ReadError::Io { .. } => ResponseError::KafkaStorageError,
        _ => ResponseError::UnknownServerError,
    }
}

/// The code for records that can not be dropped.
pub(crate) fn of_trim(error: &TrimError) -> ResponseError {
    match error {
        TrimError::Read(error) => of_read(error),
        TrimError::Append(error) => of_append(error),
        _ => ResponseError::UnknownServerError,
    }
}

/// The code for a topic that can not be made or removed.
pub(crate) fn of_topic(error: &TopicError) -> ResponseError {
    match error {
        TopicError::Exists(_) => ResponseError::TopicAlreadyExists,
        TopicError::Unknown(_) => ResponseError::UnknownTopicOrPartition,
        TopicError::Partitions { .. } | TopicError::Shrinks { .. } => {
            ResponseError::InvalidPartitions
        }
        TopicError::Append(error) => of_append(error),
        _ => ResponseError::UnknownServerError,
    }
}

/// The number of an outcome; 0 if it went well.
pub(crate) fn number<T>(outcome: &Result<T, ResponseError>) -> i16 {
    match outcome {
        Ok(_) => 0,
        Err(error) => error.code(),
    }
}
