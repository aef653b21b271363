//! Committed offsets: `OffsetCommit`, `OffsetFetch`, and the topic behind them.

use std::{collections::HashSet, sync::Arc, time::Duration};

use afflux_log::{EmbeddedLog, Entry, Group, Isolation, Log as _, TopicSpec, error::TopicError};
use afflux_record::{BatchError, Compression, Header, Marker, batch};
use afflux_types::{Offset, Timestamp, TopicName, TopicPartition};
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

use super::{
    Groups, Inner, shared,
    store::{Records, end_of},
    transactional::PendingOffsets,
};
use crate::{
    StartError,
    broker::{Broker, Context, OFFSETS_TOPIC, blocking, text, to_its_end},
    code,
    fields::MalformedRecord,
    group::{
        GroupId, Standing,
        offsets::{Committed, Offsets, encode_key, encode_value},
    },
};

/// The most that one request commits, as Kafka's own topic takes it by default.
const COMMIT_BYTES_MAX: usize = 1 << 20;
/// What a commit takes beside its names and metadata, at the most.
const RECORD_BYTES: usize = 96;
/// How many commits are taken back at once.
const COMMITS_AT_ONCE: usize = 1000;
/// How much of the offsets' topic is read at once when it is rebuilt.
const REBUILD_BYTES: usize = 1 << 20;

impl Groups {
    /// `OffsetCommit`. Once begun it comes to its end, also if its client does not wait for that:
    /// what is in the log must be in the table.
    pub(crate) async fn commit(
        broker: &Arc<Broker>,
        context: &Context,
        request: OffsetCommitRequest,
    ) -> OffsetCommitResponse {
        let (broker, is_modern) = (Arc::clone(broker), context.version >= 9);
        to_its_end(async move { Self::commit_whole(&broker, is_modern, request).await }).await
    }

    async fn commit_whole(
        broker: &Arc<Broker>,
        is_modern: bool,
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
        let allowed = broker
            .groups
            .with(|inner| (inner.coordinator.may_commit(now, &standing, is_modern), Vec::new()));
        let allowed = allowed.map_err(|error| match error {
            // A group that only stands somewhere is there, and has no members.
            ResponseError::IllegalGeneration | ResponseError::GroupIdNotFound
                if broker.groups.offsets.read().all(&group).next().is_some() =>
            {
                ResponseError::UnknownMemberId
            }
            error => error,
        });
        // Versions 2 to 4 may say how long, in milliseconds.
        let expires = u64::try_from(request.retention_time_ms)
            .ok()
            .map(|millis| broker.env.clock.now().saturating_add(Duration::from_millis(millis)));
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|at| Asked {
                index: at.partition_index,
                offset: at.committed_offset,
                leader_epoch: at.committed_leader_epoch,
                metadata: at.committed_metadata.as_deref().unwrap_or_default(),
            });
            (&**topic.name, partitions)
        });
        let (commits, checked) = check(broker, &group, expires, topics);
        let written = match allowed.and_then(|()| check_size(&commits)) {
            Ok(()) => {
                // Asked again where it is written: its generation may be over by then.
                let allowed =
                    |inner: &mut Inner| inner.coordinator.may_commit(now, &standing, is_modern);
                let commits = commits.into_iter().map(|(group, at, made)| (group, at, Some(made)));
                Self::write_if(broker, commits.collect(), allowed).await
            }
            Err(error) => Err(error),
        };
        committed_response(request, allowed, checked, written)
    }

    /// Writes what takes commits back, a bounded part at a time.
    pub(super) async fn write(
        broker: &Arc<Broker>,
        mut commits: Vec<Commit>,
    ) -> Result<(), ResponseError> {
        while !commits.is_empty() {
            let part = commits.split_off(commits.len().saturating_sub(COMMITS_AT_ONCE));
            Self::write_if(broker, part, |_| Ok(())).await?;
        }
        Ok(())
    }

    /// Writes commits, and what takes them back, as one batch, if they are allowed at that moment;
    /// applies them once it is durable.
    async fn write_if(
        broker: &Arc<Broker>,
        commits: Vec<Commit>,
        allowed: impl FnOnce(&mut Inner) -> Result<(), ResponseError>,
    ) -> Result<(), ResponseError> {
        if commits.is_empty() {
            return Ok(());
        }
        let partition = Self::ensure_offsets(broker).await?;
        let mut builder = batch::Builder::new(Compression::None);
        let time = broker.env.clock.now();
        for (group, partition, committed) in &commits {
            let value = committed.as_ref().map(encode_value);
            builder.push(time, Some(&encode_key(group, partition)), value.as_deref());
        }
        let batch = builder.finish().map_err(|error| code::of_batch(&error))?;
        let entry = Entry { partition, batch };
        let group = Group { entries: vec![entry] };
        let ticket = broker
            .groups
            .with(|inner| (allowed(inner).map(|()| broker.log.append(&group)), Vec::new()))?;
        let appended = ticket.await.map_err(|error| {
            tracing::warn!(%error, "offsets could not be committed");
            code::of_group_append(&error)
        })?;
        let end = end_of(&appended, commits.len());
        let base = appended.base_offsets.first().map_or(0, |base| base.0);
        let mut pending = broker.groups.pending.lock();
        let gone = commits.iter().filter(|(.., committed)| committed.is_none());
        let gone: HashSet<_> = gone.map(|(group, partition, _)| (group, partition)).collect();
        if !gone.is_empty() {
            // As it is read back.
            pending.take_back(|group, partition, _| gone.contains(&(group, partition)));
        }
        let mut offsets = broker.groups.offsets.write();
        for (at, (group, partition, committed)) in (base..).zip(commits) {
            offsets.apply(Offset(at), group, partition, committed);
        }
        drop((offsets, pending));
        broker.groups.note_end(end);
        Ok(())
    }

    /// Makes the topic of committed offsets and groups, if it is not there; its one partition.
    pub(crate) async fn ensure_offsets(
        broker: &Arc<Broker>,
    ) -> Result<TopicPartition, ResponseError> {
        let partition = offsets_partition().ok_or(ResponseError::UnknownServerError)?;
        Self::ensure_topic(broker, &partition.topic).await?;
        Ok(partition)
    }

    async fn ensure_topic(broker: &Arc<Broker>, name: &TopicName) -> Result<(), ResponseError> {
        let made = broker.groups.topic.get_or_try_init(|| async {
            let spec = TopicSpec { name: name.clone(), partitions: 1 };
            blocking(&broker.log, move |log| log.ensure_topic(&spec))
                .await
                .map_err(|_| ResponseError::UnknownServerError)?
                .map_err(|error| match error {
                    TopicError::Append(error) => code::of_group_append(&error),
                    error => code::of_topic(&error),
                })
        });
        made.await.copied()
    }

    /// Waits for the commits that were begun, and holds back others: whoever ends a topic holds
    /// this until what was committed for it is taken back, too.
    pub(crate) async fn hold_commits(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        self.committing.write().await
    }

    /// Held by whoever ends a transaction, until its offsets are committed.
    pub(crate) async fn begin_commit(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.committing.read().await
    }

    /// Takes back what groups committed for topics that are gone. Should the records that say so be
    /// refused, by a full disk, it stands in the log until all is written anew; but it is not
    /// taken for a commit of another topic of that name, whose id differs.
    pub(crate) async fn forget_topics(broker: &Arc<Broker>) {
        let gone = |at: &TopicPartition, committed: &Committed| {
            let topic = broker.log.topic(&at.topic);
            topic.is_none_or(|topic| committed.topic.is_some_and(|id| id != topic.id.0))
        };
        Self::forget(broker, gone).await;
    }

    /// The same for a topic that was just removed.
    pub(crate) async fn forget_topic(broker: &Arc<Broker>, name: &TopicName) {
        Self::forget(broker, |at, _| at.topic == *name).await;
    }

    async fn forget(broker: &Arc<Broker>, gone: impl Fn(&TopicPartition, &Committed) -> bool) {
        let mut places = broker.groups.pending.lock().take_back(|_, at, made| gone(at, made));
        places.extend(broker.groups.offsets.write().take_back(gone));
        let taken_back = places.into_iter().map(|(group, at)| (group, at, None));
        if let Err(error) = Self::write(broker, taken_back.collect()).await {
            tracing::warn!(%error, "that commits went with their topics could not be written");
        }
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
                let member = asked.member_id.as_deref().unwrap_or_default();
                let allowed = broker.groups.inner.lock().coordinator.may_fetch(
                    &asked.group_id,
                    member,
                    asked.member_epoch,
                );
                if let Err(error) = allowed {
                    return OffsetFetchResponseGroup::default()
                        .with_group_id(asked.group_id)
                        .with_error_code(error.code());
                }
                let topics =
                    Self::committed(broker, &asked.group_id, wanted, request.require_stable);
                OffsetFetchResponseGroup::default()
                    .with_group_id(asked.group_id)
                    .with_topics(topics.into_iter().map(newer_offsets).collect())
            });
            return OffsetFetchResponse::default().with_groups(groups.collect());
        }
        let wanted = request.topics.map(|topics| {
            topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect()
        });
        let topics = Self::committed(broker, &request.group_id, wanted, request.require_stable);
        OffsetFetchResponse::default().with_topics(topics.into_iter().map(older_offsets).collect())
    }

    /// Where a group stands, in some partitions or in all that it ever committed for. Who wants it
    /// stable is not told where a transaction is about to change that.
    fn committed(
        broker: &Broker,
        group: &str,
        wanted: Option<Vec<(WireTopicName, Vec<i32>)>>,
        is_stable: bool,
    ) -> Vec<FoundTopic> {
        // Asked first: what has ended by now is among the offsets.
        let mut pending = HashSet::new();
        if is_stable {
            let all = broker.groups.pending.lock();
            let its = all.all().filter(|(of, ..)| &**of == group);
            pending.extend(its.map(|(_, partition, _)| partition.clone()));
        }
        let found = |partition: &TopicPartition, committed: Option<&Committed>| {
            if pending.contains(partition) {
                Err(ResponseError::UnstableOffsetCommit)
            } else {
                Ok(committed.cloned())
            }
        };
        let offsets = broker.groups.offsets.read();
        let Some(wanted) = wanted else {
            let mut topics: Vec<FoundTopic> = Vec::new();
            for (partition, committed) in offsets.all(group) {
                let name = partition.topic.as_str();
                let index = partition.partition.0;
                let committed = found(partition, Some(committed));
                match topics.last_mut().filter(|(topic, _)| &***topic == name) {
                    Some((_, partitions)) => partitions.push((index, committed)),
                    None => topics.push((WireTopicName(text(name)), vec![(index, committed)])),
                }
            }
            return topics;
        };
        let look = |(name, indexes): (WireTopicName, Vec<i32>)| {
            let topic = TopicName::new(&name).ok();
            let partitions = indexes.into_iter().map(|index| {
                let committed = topic.as_ref().map_or(Ok(None), |topic| {
                    let partition = TopicPartition::new(topic.clone(), index);
                    found(&partition, offsets.get(group, &partition))
                });
                (index, committed)
            });
            let partitions = partitions.collect();
            (name, partitions)
        };
        wanted.into_iter().map(look).collect()
    }
}

/// Where a group stands in a partition, or that it no longer does.
pub(super) type Commit = (GroupId, TopicPartition, Option<Committed>);

/// A topic's partitions, each with what was committed for it.
type FoundTopic = (WireTopicName, Vec<(i32, Found)>);
type Found = Result<Option<Committed>, ResponseError>;

fn newer_offsets((name, partitions): FoundTopic) -> OffsetFetchResponseTopics {
    let partitions = partitions.into_iter().map(|(index, found)| {
        let error = code::number(&found);
        let (offset, epoch, metadata) = standing_of(found);
        OffsetFetchResponsePartitions::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(epoch)
            .with_metadata(Some(metadata))
            .with_error_code(error)
    });
    OffsetFetchResponseTopics::default().with_name(name).with_partitions(partitions.collect())
}

fn older_offsets((name, partitions): FoundTopic) -> OffsetFetchResponseTopic {
    let partitions = partitions.into_iter().map(|(index, found)| {
        let error = code::number(&found);
        let (offset, epoch, metadata) = standing_of(found);
        OffsetFetchResponsePartition::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(epoch)
            .with_metadata(Some(metadata))
            .with_error_code(error)
    });
    OffsetFetchResponseTopic::default().with_name(name).with_partitions(partitions.collect())
}

fn standing_of(found: Found) -> (i64, i32, StrBytes) {
    match found.ok().flatten() {
        Some(committed) => (committed.offset.0, committed.leader_epoch, text(&committed.metadata)),
        None => (-1, -1, StrBytes::new()),
    }
}

fn committed_response(
    request: OffsetCommitRequest,
    allowed: Result<(), ResponseError>,
    checked: Vec<Result<(), ResponseError>>,
    written: Result<(), ResponseError>,
) -> OffsetCommitResponse {
    let mut checked = checked.into_iter();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|at| {
            let outcome = allowed.and(checked.next().unwrap_or(Ok(()))).and(written);
            OffsetCommitResponsePartition::default()
                .with_partition_index(at.partition_index)
                .with_error_code(code::number(&outcome))
        });
        let partitions = partitions.collect();
        OffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions)
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// What a group commits for a partition.
pub(super) type Made = (GroupId, TopicPartition, Committed);

/// What a request asks to commit for a partition of a topic.
pub(super) struct Asked<'a> {
    pub(super) index: i32,
    pub(super) offset: i64,
    pub(super) leader_epoch: i32,
    pub(super) metadata: &'a str,
}

/// What can be committed of a request, and what is wrong with the rest, in its order.
pub(super) fn check<'a, T: Iterator<Item = Asked<'a>>>(
    broker: &Broker,
    group: &GroupId,
    expires: Option<Timestamp>,
    topics: impl Iterator<Item = (&'a str, T)>,
) -> (Vec<Made>, Vec<Result<(), ResponseError>>) {
    let time = broker.env.clock.now();
    let (mut commits, mut checked) = (Vec::new(), Vec::new());
    for (name, partitions) in topics {
        let known = broker.topic(name);
        for Asked { index, offset, leader_epoch, metadata } in partitions {
            checked.push(match &known {
                _ if metadata.len() > broker.options.offset_metadata_bytes_max => {
                    Err(ResponseError::OffsetMetadataTooLarge)
                }
                Some(topic) if (0..topic.partitions).contains(&index) => {
                    let committed = Committed {
                        topic: Some(topic.id.0),
                        offset: Offset(offset),
                        leader_epoch,
                        metadata: metadata.into(),
                        time,
                        expires,
                    };
                    let partition = TopicPartition::new(topic.name.clone(), index);
                    commits.push((group.clone(), partition, committed));
                    Ok(())
                }
                _ => Err(ResponseError::UnknownTopicOrPartition),
            });
        }
    }
    (commits, checked)
}

/// Refuses commits that Kafka, too, would not put into one batch.
pub(super) fn check_size(commits: &[Made]) -> Result<(), ResponseError> {
    let sizes = commits.iter().map(|(group, partition, committed)| {
        let names = group.len() + partition.topic.as_str().len();
        RECORD_BYTES + names + committed.metadata.len()
    });
    if sizes.sum::<usize>() > COMMIT_BYTES_MAX {
        return Err(ResponseError::InvalidCommitOffsetSize);
    }
    Ok(())
}

/// The one partition of committed offsets.
pub(crate) fn offsets_partition() -> Option<TopicPartition> {
    Some(TopicPartition::new(TopicName::new(OFFSETS_TOPIC).ok()?, 0))
}

/// Folds the records of committed offsets. What does not read as one is reported and stepped
/// over: it was not written here, and no group should lose its place because of it.
pub(super) fn replay(
    log: &EmbeddedLog,
    partition: &TopicPartition,
    offsets: &mut Offsets,
    pending: &mut PendingOffsets,
    groups: &mut Records,
) -> Result<(), StartError> {
    let mut at = log.bounds(partition)?.start;
    loop {
        let read = log.fetch(partition, at, REBUILD_BYTES, Isolation::Uncommitted)?;
        for batch in &read.batches {
            let broken = |source| StartError::Batch { offset: at, source };
            let header = Header::parse(batch).map_err(broken)?;
            if header.is_control() {
                let marker = Marker::of(&header, batch);
                pending.settle(header.producer_id, marker, header.base_offset, offsets);
                continue;
            }
            for record in batch::records(batch) {
                let record = match record {
                    Err(error @ BatchError::UnpacksTooLarge { .. }) => {
                        tracing::error!(offset = at.0, %error, "what groups stored is left out");
                        break;
                    }
                    record => record.map_err(broken)?,
                };
                let applied: Result<(), MalformedRecord> = if header.is_transactional() {
                    pending.add_record(header.producer_id, &record)
                } else {
                    pending.forget_record(&record);
                    offsets.apply_record(record.offset, record.key.as_ref(), record.value.as_ref())
                };
                if let Err(error) = applied {
                    tracing::warn!(offset = record.offset.0, %error, "stepped over");
                }
                if let Err(error) = groups.apply(record.key.as_ref(), record.value.as_ref()) {
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
