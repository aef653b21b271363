//! Where a thing stands: in a partition, in the journal, in the node's history.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{TopicName, id::number};

number! {
    /// A record's place in its partition, from 0.
    Offset(i64)
}
number! {
    /// A partition's index in its topic, from 0.
    Partition(i32)
}
number! {
    /// Kafka's leader epoch. Here it is the journal's incarnation.
    LeaderEpoch(i32)
}
number! {
    /// How often the journal was opened for writing. Rises at every start, so that nothing
    /// behind a cut tail can come back to life.
    Incarnation(u32)
}
number! {
    /// A byte position in the node's journal, counted over all its files, never reused for
    /// other bytes once durable.
    JournalPosition(u64)
}
number! {
    /// A node-wide cut of all topics: everything appended before it, nothing after.
    /// On the embedded log it is the [`JournalPosition`] of the cut; elsewhere a counter.
    /// Opaque to all but the log: only its order means something.
    Tick(u64)
}

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Self = Self(0);
}

impl Incarnation {
    /// The highest that is believed: the one behind it must be a leader epoch as well.
    pub const MAX: Self = Self(i32::MAX as u32 - 1);

    /// The one behind it, if that would be believed.
    pub fn next(self) -> Option<Self> {
        (self < Self::MAX).then(|| Self(self.0 + 1))
    }
}

impl JournalPosition {
    /// Where every journal begins.
    pub const ZERO: Self = Self(0);
}

impl Tick {
    /// Before anything was appended.
    pub const ZERO: Self = Self(0);
}

/// A partition of a topic. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: TopicName,
    /// The partition's index.
    pub partition: Partition,
}

impl TopicPartition {
    /// Names a partition.
    pub fn new(topic: TopicName, partition: i32) -> Self {
        Self { topic, partition: Partition(partition) }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}
