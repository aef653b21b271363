//! Topic names, checked once at the edge.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Classified, ErrorKind};

/// A topic's name: 1 to 249 of `[A-Za-z0-9._-]`, neither `.` nor `..` (Kafka's
/// `org.apache.kafka.common.internals.Topic`). Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicName(Arc<str>);

/// A name that Kafka would refuse too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidTopicName(pub String);

impl TopicName {
    /// The longest name that Kafka takes.
    pub const LENGTH_MAX: usize = 249;
    /// How names of Afflux's own topics begin. Clients neither see nor write them.
    pub const INTERNAL_PREFIX: &'static str = "__afflux_";

    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, InvalidTopicName> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty()
            || name.len() > Self::LENGTH_MAX
            || name == "."
            || name == ".."
            || !name.bytes().all(legal)
        {
            return Err(InvalidTopicName(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is one of Afflux's own topics: unlisted, not for clients.
    pub fn is_internal(&self) -> bool {
        self.0.starts_with(Self::INTERNAL_PREFIX)
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for TopicName {
    type Error = InvalidTopicName;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(&name)
    }
}

impl From<TopicName> for String {
    fn from(name: TopicName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for InvalidTopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is not a topic name", self.0.escape_debug())
    }
}

impl std::error::Error for InvalidTopicName {}

impl Classified for InvalidTopicName {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
    fn hint(&self) -> Option<String> {
        Some("use 1 to 249 letters, digits, '.', '_' or '-'".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_as_kafka_does() {
        let check = |name: &str, legal: bool| {
            assert_eq!(TopicName::new(name).is_ok(), legal, "{name:?}");
        };
        check("a", true);
        check("departures", true);
        check("A.b_c-9", true);
        check(&"x".repeat(249), true);
        check(&"x".repeat(250), false);
        check("", false);
        check(".", false);
        check("..", false);
        check("...", true);
        check("a b", false);
        check("a/b", false);
        check("é", false);
    }
}
