//! Names of things that outlive their human-readable name.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
pub(crate) use number;

number! {
    /// A catalog object (source, table or view). Never used again after a drop.
    ObjectId(u64)
}
number! {
    /// A running pipeline; that of a view has the number of the view's [`ObjectId`].
    PipelineId(u64)
}
number! {
    /// An operator within one plan. Permanent for the life of the plan.
    OperatorId(u32)
}
number! {
    /// A state table within one plan. Permanent for the life of the plan.
    TableId(u32)
}
number! {
    /// Kafka's producer id; negative means none.
    ProducerId(i64)
}
number! {
    /// Kafka's producer epoch; negative means none.
    ProducerEpoch(i16)
}
number! {
    /// One of the [`KeyGroup::COUNT`] fixed groups that keys hash to.
    KeyGroup(u8)
}

impl ProducerId {
    /// What a batch of a producer without idempotence carries.
    pub const NONE: Self = Self(-1);
}

impl KeyGroup {
    /// How many key groups there are, on every node and for ever.
    pub const COUNT: u8 = 128;
}

/// Kafka's topic id (KIP-516): a random UUID, never used again after a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(pub Uuid);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
