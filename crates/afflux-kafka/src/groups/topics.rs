//! The topics that the coordinator knows of: those in the log that clients may see. An expression
//! can match `__consumer_offsets` too, as in Kafka, where clients alone leave out such topics.

use std::{fmt, sync::Arc};

use afflux_log::EmbeddedLog;
use afflux_types::{TopicId, TopicName};
use uuid::Uuid;

use crate::{
    broker::is_hidden,
    group::{Shape, Topics},
};

/// See the module.
pub(super) struct LogTopics(pub(super) Arc<EmbeddedLog>);

impl fmt::Debug for LogTopics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogTopics").finish_non_exhaustive()
    }
}

impl Topics for LogTopics {
    fn shape(&self, name: &str) -> Option<Shape> {
        let name = TopicName::new(name).ok().filter(|name| !is_hidden(name))?;
        let topic = self.0.topic(&name)?;
        Some(Shape { id: topic.id.0, partitions: topic.partitions })
    }

    fn name(&self, id: Uuid) -> Option<Arc<str>> {
        let topic = self.0.topic_by_id(TopicId(id)).filter(|topic| !is_hidden(&topic.name))?;
        Some(topic.name.as_str().into())
    }

    fn names(&self) -> Vec<Arc<str>> {
        let topics = self.0.topics();
        let seen = topics.iter().filter(|topic| !is_hidden(&topic.name));
        seen.map(|topic| topic.name.as_str().into()).collect()
    }
}
