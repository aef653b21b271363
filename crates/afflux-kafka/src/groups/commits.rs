//! Committed offsets: `OffsetCommit`, `OffsetFetch`, and the topic behind them.

use std::sync::Arc;

use afflux_log::{EmbeddedLog, Entry, Group, Isolation, Log as _, TopicSpec};
use afflux_record::{Compression, batch};
use afflux_types::{Offset, TopicName, TopicPartition};
use kafka_protocol::{
    ResponseError,
    messages::{
        OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse,
        TopicName as WireTopicName,
        offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
        offset_fetch_response::{
            OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
            OffsetFetchResponseTopic, OffsetFetchResponseTopics,
        },
    },
    protocol::StrBytes,
};

use super::{Groups, shared};
use crate::{
    StartError,
    broker::{Broker, Context, OFFSETS_TOPIC, text},
    code,
    group::{
        GroupId, Standing,
        offsets::{Committed, MalformedOffset, Offsets, encode_key, encode_value},
    },
};

/// The longest metadata that may be committed with an offset: Kafka's limit.
const METADATA_BYTES_MAX: usize = 4096;
/// How much of the offsets' topic is read at once when it is rebuilt.
const REBUILD_BYTES: usize = 1 << 20;

impl Groups {
    /// `OffsetCommit`. Once begun it comes to its end, also if its client does not wait for that:
    /// what is in the log must be in the table.
    pub(crate) async fn commit(
        broker: &Arc<Broker>,
        _context: &Context,
        request: OffsetCommitRequest,
    ) -> OffsetCommitResponse {
        let broker = Arc::clone(broker);
        let committing = tokio::spawn(async move { Self::commit_whole(&broker, request).await });
        committing.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    async fn commit_whole(
        broker: &Arc<Broker>,
        request: OffsetCommitRequest,
    ) -> OffsetCommitResponse {
        let _standing = broker.groups.committing.read().await;
        let group = shared(&request.group_id);
        let standing = Standing {
            group: group.clone(),
            member: shared(&request.member_id),
            instance: request.group_instance_id.as_ref().map(shared),
            generation: request.generation_id_or_member_epoch,
        };
        let now = broker.env.clock.monotonic();
        let allowed =
            broker.groups.with(|inner| (inner.coordinator.may_commit(now, &standing), Vec::new()));
        let time = broker.env.clock.now();
        let mut taken = Vec::new();
        let mut checked = Vec::new();
        for topic in &request.topics {
            let known = broker.topic(&topic.name);
            for at in &topic.partitions {
                let metadata = at.committed_metadata.as_ref().map_or("", |text| text);
                let outcome = match &known {
                    _ if allowed.is_err() => allowed,
                    _ if metadata.len() > METADATA_BYTES_MAX => {
                        Err(ResponseError::OffsetMetadataTooLarge)
                    }
                    Some(topic) if (0..topic.partitions).contains(&at.partition_index) => {
                        let committed = Committed {
                            offset: Offset(at.committed_offset),
                            leader_epoch: at.committed_leader_epoch,
                            metadata: metadata.into(),
                            time,
                        };
                        let partition = TopicPartition::new(topic.name.clone(), at.partition_index);
                        taken.push((group.clone(), partition, Some(committed)));
                        Ok(())
                    }
                    _ => Err(ResponseError::UnknownTopicOrPartition),
                };
                checked.push(outcome);
            }
        }
        let written = Self::write(broker, taken).await;
        let mut checked = checked.into_iter();
        let topics = request.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|at| {
                let outcome = checked.next().unwrap_or(Ok(())).and(written);
                OffsetCommitResponsePartition::default()
                    .with_partition_index(at.partition_index)
                    .with_error_code(code::number(&outcome))
            });
            let partitions = partitions.collect();
            OffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions)
        });
        OffsetCommitResponse::default().with_topics(topics.collect())
    }

    /// Writes commits, and what takes them back, as one batch; applies them once it is durable.
    async fn write(
        broker: &Arc<Broker>,
        commits: Vec<(GroupId, TopicPartition, Option<Committed>)>,
    ) -> Result<(), ResponseError> {
        if commits.is_empty() {
            return Ok(());
        }
        let partition = offsets_partition().ok_or(ResponseError::UnknownServerError)?;
        Self::ensure_topic(broker, &partition.topic).await?;
        let mut builder = batch::Builder::new(Compression::None);
        let time = broker.env.clock.now();
        for (group, partition, committed) in &commits {
            let value = committed.as_ref().map(encode_value);
            builder.push(time, Some(&encode_key(group, partition)), value.as_deref());
        }
        let batch = builder.finish().map_err(|error| code::of_batch(&error))?;
        let entry = Entry { partition, batch };
        let group = Group { entries: vec![entry] };
        let appended = broker.log.append(&group).await.map_err(|error| {
            tracing::warn!(%error, "offsets could not be committed");
            code::of_append(&error)
        })?;
        let base = appended.base_offsets.first().map_or(0, |base| base.0);
        let mut offsets = broker.groups.offsets.write();
        for (at, (group, partition, committed)) in (base..).zip(commits) {
            offsets.apply(Offset(at), group, partition, committed);
        }
        Ok(())
    }

    async fn ensure_topic(broker: &Arc<Broker>, name: &TopicName) -> Result<(), ResponseError> {
        let made = broker.groups.topic.get_or_try_init(|| async {
            let log = Arc::clone(&broker.log);
            let spec = TopicSpec { name: name.clone(), partitions: 1 };
            tokio::task::spawn_blocking(move || log.ensure_topic(&spec))
                .await
                .map_err(|_| ResponseError::UnknownServerError)?
                .map_err(|error| code::of_topic(&error))
        });
        made.await.copied()
    }

    /// Waits for the commits that were begun, and holds back others: whoever ends a topic holds
    /// this until what was committed for it is taken back, too.
    pub(crate) async fn hold_commits(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        self.committing.write().await
    }

    /// Takes back what groups committed for some topics: others of their names begin anew.
    pub(crate) async fn forget_topics(
        broker: &Arc<Broker>,
        gone: impl Fn(&TopicName) -> bool,
    ) -> Result<(), ResponseError> {
        let standing = broker.groups.offsets.read().in_topics(gone);
        let gone = standing.into_iter().map(|(group, partition)| (group, partition, None));
        Self::write(broker, gone.collect()).await
    }

    /// `OffsetFetch`.
    pub(crate) fn fetch_offsets(
        broker: &Arc<Broker>,
        context: &Context,
        request: OffsetFetchRequest,
    ) -> OffsetFetchResponse {
        if context.version >= 8 {
            let groups = request.groups.into_iter().map(|asked| {
                let wanted = asked.topics.map(|topics| {
                    topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect()
                });
                let topics = Self::committed(broker, &asked.group_id, wanted);
                OffsetFetchResponseGroup::default()
                    .with_group_id(asked.group_id)
                    .with_topics(topics.into_iter().map(newer_offsets).collect())
            });
            return OffsetFetchResponse::default().with_groups(groups.collect());
        }
        let wanted = request.topics.map(|topics| {
            topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect()
        });
        let topics = Self::committed(broker, &request.group_id, wanted);
        OffsetFetchResponse::default().with_topics(topics.into_iter().map(older_offsets).collect())
    }

    /// Where a group stands, in some partitions or in all that it ever committed for.
    fn committed(
        broker: &Broker,
        group: &str,
        wanted: Option<Vec<(WireTopicName, Vec<i32>)>>,
    ) -> Vec<FoundTopic> {
        let offsets = broker.groups.offsets.read();
        let Some(wanted) = wanted else {
            let mut found: Vec<FoundTopic> = Vec::new();
            for (partition, committed) in offsets.all(group) {
                let name = partition.topic.as_str();
                let index = partition.partition.0;
                match found.last_mut().filter(|(topic, _)| &***topic == name) {
                    Some((_, partitions)) => partitions.push((index, Some(committed.clone()))),
                    None => found
                        .push((WireTopicName(text(name)), vec![(index, Some(committed.clone()))])),
                }
            }
            return found;
        };
        let look = |(name, indexes): (WireTopicName, Vec<i32>)| {
            let topic = TopicName::new(&name).ok();
            let partitions = indexes.into_iter().map(|index| {
                let committed = topic.as_ref().and_then(|topic| {
                    offsets.get(group, &TopicPartition::new(topic.clone(), index)).cloned()
                });
                (index, committed)
            });
            let partitions = partitions.collect();
            (name, partitions)
        };
        wanted.into_iter().map(look).collect()
    }
}

/// A topic's partitions, each with what was committed for it.
type FoundTopic = (WireTopicName, Vec<(i32, Option<Committed>)>);

fn newer_offsets((name, partitions): FoundTopic) -> OffsetFetchResponseTopics {
    let partitions = partitions.into_iter().map(|(index, committed)| {
        let (offset, epoch, metadata) = standing_of(committed);
        OffsetFetchResponsePartitions::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(epoch)
            .with_metadata(Some(metadata))
    });
    OffsetFetchResponseTopics::default().with_name(name).with_partitions(partitions.collect())
}

fn older_offsets((name, partitions): FoundTopic) -> OffsetFetchResponseTopic {
    let partitions = partitions.into_iter().map(|(index, committed)| {
        let (offset, epoch, metadata) = standing_of(committed);
        OffsetFetchResponsePartition::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(epoch)
            .with_metadata(Some(metadata))
    });
    OffsetFetchResponseTopic::default().with_name(name).with_partitions(partitions.collect())
}

fn standing_of(committed: Option<Committed>) -> (i64, i32, StrBytes) {
    match committed {
        Some(committed) => (committed.offset.0, committed.leader_epoch, text(&committed.metadata)),
        None => (-1, -1, StrBytes::new()),
    }
}

/// The one partition of committed offsets.
pub(super) fn offsets_partition() -> Option<TopicPartition> {
    Some(TopicPartition::new(TopicName::new(OFFSETS_TOPIC).ok()?, 0))
}

/// Folds the records of committed offsets. What does not read as one is reported and stepped
/// over: it was not written here, and no group should lose its place because of it.
pub(super) fn replay(
    log: &EmbeddedLog,
    partition: &TopicPartition,
    offsets: &mut Offsets,
) -> Result<(), StartError> {
    let mut at = log.bounds(partition)?.start;
    loop {
        let read = log.fetch(partition, at, REBUILD_BYTES, Isolation::Uncommitted)?;
        for batch in &read.batches {
            for record in batch::records(batch) {
                let record = record.map_err(|source| StartError::Batch { offset: at, source })?;
                let applied: Result<(), MalformedOffset> =
                    offsets.apply_record(record.offset, record.key.as_ref(), record.value.as_ref());
                if let Err(error) = applied {
                    tracing::warn!(offset = record.offset.0, %error, "stepped over");
                }
            }
        }
        if read.next <= at {
            return Ok(());
        }
        at = read.next;
    }
}
