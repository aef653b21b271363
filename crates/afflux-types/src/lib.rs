//! The words that every layer speaks of: ids, offsets, ticks, time and error kinds.
//!
//! Plain data. Nothing here knows how a thing is stored, sent or computed, and nothing
//! here does I/O. Every id and offset is a type of its own, so that a partition can not
//! be passed for a key group or an offset for a journal position.

mod error;
mod id;
mod name;
mod position;
mod time;

pub use error::{Classified, ErrorKind};
pub use id::{
    KeyGroup, ObjectId, OperatorId, PipelineId, ProducerEpoch, ProducerId, TableId, TopicId,
};
pub use name::{InvalidTopicName, TopicName};
pub use position::{
    Incarnation, JournalPosition, LeaderEpoch, Offset, Partition, Tick, TopicPartition,
};
pub use time::Timestamp;
