//! Requests of consumer groups: between the wire, the pure [`Coordinator`] and the log.
//!
//! - Callers that the coordinator parks wait on a channel, named by a token.
//! - One task sleeps until the coordinator's next deadline and wakes it.
//! - Committed offsets are records of `__consumer_offsets`: a commit is answered, and seen by
//!   others, once its record is durable. At start the table is rebuilt from that topic.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use afflux_log::{EmbeddedLog, Entry, Group, Isolation, Log, TopicSpec};
use afflux_record::{Compression, batch};
use afflux_types::{Offset, TopicName, TopicPartition};
use bytes::Bytes;
use kafka_protocol::{
    ResponseError,
    messages::{
        DescribeGroupsRequest, DescribeGroupsResponse, GroupId as WireGroupId, HeartbeatRequest,
        HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
        LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest,
        OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, SyncGroupRequest,
        SyncGroupResponse, TopicName as WireTopicName,
        describe_groups_response::{DescribedGroup, DescribedGroupMember},
        join_group_response::JoinGroupResponseMember,
        leave_group_response::MemberResponse,
        list_groups_response::ListedGroup,
        offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
        offset_fetch_response::{
            OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
            OffsetFetchResponseTopic, OffsetFetchResponseTopics,
        },
    },
    protocol::StrBytes,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, OnceCell, oneshot};

use crate::{
    StartError,
    broker::{Broker, Context, OFFSETS_TOPIC, text},
    code,
    group::{
        Answer, Coordinator, GroupId, Join, Joined, Reply, Settings, Standing, Sync, Synced, Token,
        offsets::{Committed, MalformedOffset, Offsets, encode_key, encode_value},
    },
};

/// The longest metadata that may be committed with an offset: Kafka's limit.
const METADATA_BYTES_MAX: usize = 4096;
/// How much of the offsets' topic is read at once when it is rebuilt.
const REBUILD_BYTES: usize = 1 << 20;

/// All groups and what they committed.
pub(crate) struct Groups {
    inner: Mutex<Inner>,
    offsets: RwLock<Offsets>,
    /// Whether the offsets' topic is there.
    topic: OnceCell<()>,
    /// Told when the coordinator wants to be woken earlier than before.
    rearmed: Notify,
}

struct Inner {
    coordinator: Coordinator,
    parked: HashMap<Token, oneshot::Sender<Answer>>,
    tokens: u64,
}

impl Groups {
    /// No members yet, and the offsets that the log holds. Blocks.
    pub(crate) fn rebuild(log: &EmbeddedLog, settings: Settings) -> Result<Self, StartError> {
        let mut offsets = Offsets::default();
        let topic = OnceCell::new();
        if let Some(partition) = offsets_partition()
            && log.partition_count(&partition.topic).is_some()
        {
            replay(log, &partition, &mut offsets)?;
            // Just made, so nothing can have been put there.
            let _ = topic.set(());
        }
        Ok(Self {
            inner: Mutex::new(Inner {
                coordinator: Coordinator::new(settings),
                parked: HashMap::new(),
                tokens: 0,
            }),
            offsets: RwLock::new(offsets),
            topic,
            rearmed: Notify::new(),
        })
    }

    /// Wakes the coordinator when it wants to be woken. Never ends by itself.
    pub(crate) async fn run(broker: &Broker) {
        let groups = &broker.groups;
        loop {
            // Taken first, so that nothing that happens from here on is missed.
            let rearmed = groups.rearmed.notified();
            let now = broker.env.clock.monotonic();
            let deadline = groups.inner.lock().coordinator.next_deadline();
            let Some(deadline) = deadline else {
                rearmed.await;
                continue;
            };
            // The runtime's timers count whole milliseconds.
            let wait = deadline.saturating_sub(now) + Duration::from_millis(1);
            tokio::select! {
                () = rearmed => continue,
                () = tokio::time::sleep(wait) => {}
            }
            let now = broker.env.clock.monotonic();
            groups.with(|inner| ((), inner.coordinator.tick(now)));
        }
    }

    /// Changes the groups, passes on the replies that are due, and wakes the task that waits.
    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> (T, Vec<Reply>)) -> T {
        let mut inner = self.inner.lock();
        let before = inner.coordinator.next_deadline();
        let (result, replies) = change(&mut inner);
        for reply in replies {
            if let Some(waiting) = inner.parked.remove(&reply.to) {
                // Its connection may be gone; its session will tell.
                let _ = waiting.send(reply.answer);
            }
        }
        if inner.coordinator.next_deadline() != before {
            self.rearmed.notify_one();
        }
        result
    }

    /// Hands the coordinator an event whose answer may come later, and waits for that.
    async fn ask(
        &self,
        event: impl FnOnce(&mut Coordinator, Token) -> Vec<Reply>,
    ) -> Option<Answer> {
        let answer = self.with(|inner| {
            inner.tokens += 1;
            let token = Token(inner.tokens);
            let (sender, receiver) = oneshot::channel();
            inner.parked.insert(token, sender);
            let replies = event(&mut inner.coordinator, token);
            (receiver, replies)
        });
        answer.await.ok()
    }

    /// `JoinGroup`.
    pub(crate) async fn join(
        broker: &Arc<Broker>,
        context: &Context,
        request: JoinGroupRequest,
    ) -> JoinGroupResponse {
        let session = millis(request.session_timeout_ms);
        let host = format!("/{}", context.peer.ip());
        let join = Join {
            group: shared(&request.group_id),
            member: Some(shared(&request.member_id)).filter(|member| !member.is_empty()),
            instance: request.group_instance_id.as_ref().map(shared),
            fresh: fresh_member(broker, &context.client),
            named_first: context.version >= 4,
            client: shared(&context.client),
            host: host.into(),
            session,
            // Version 0 has but one time-out.
            rebalance: if context.version >= 1 {
                millis(request.rebalance_timeout_ms)
            } else {
                session
            },
            kind: shared(&request.protocol_type),
            protocols: request
                .protocols
                .iter()
                .map(|protocol| (shared(&protocol.name), owned(&protocol.metadata)))
                .collect(),
        };
        let now = broker.env.clock.monotonic();
        let answer =
            broker.groups.ask(|coordinator, token| coordinator.join(now, token, join)).await;
        match answer {
            Some(Answer::Joined(joined)) => joined_response(context, &joined),
            Some(Answer::JoinRefused(error, member)) => {
                let member =
                    member.map_or_else(|| request.member_id.clone(), |member| text(&member));
                JoinGroupResponse::default()
                    .with_error_code(error.code())
                    .with_generation_id(-1)
                    .with_protocol_name(none_since(context, 7))
                    .with_member_id(member)
            }
            _ => JoinGroupResponse::default()
                .with_error_code(ResponseError::UnknownServerError.code())
                .with_protocol_name(none_since(context, 7)),
        }
    }

    /// `SyncGroup`.
    pub(crate) async fn sync(
        broker: &Arc<Broker>,
        _context: &Context,
        request: SyncGroupRequest,
    ) -> SyncGroupResponse {
        let sync = Sync {
            standing: Standing {
                group: shared(&request.group_id),
                member: shared(&request.member_id),
                instance: request.group_instance_id.as_ref().map(shared),
                generation: request.generation_id,
            },
            kind: request.protocol_type.as_ref().map(shared),
            protocol: request.protocol_name.as_ref().map(shared),
            assignments: request
                .assignments
                .iter()
                .map(|one| (shared(&one.member_id), owned(&one.assignment)))
                .collect(),
        };
        let now = broker.env.clock.monotonic();
        let answer =
            broker.groups.ask(|coordinator, token| coordinator.sync(now, token, sync)).await;
        match answer {
            Some(Answer::Synced(Synced { kind, protocol, assignment })) => {
                SyncGroupResponse::default()
                    .with_protocol_type(Some(text(&kind)))
                    .with_protocol_name(Some(text(&protocol)))
                    .with_assignment(assignment)
            }
            Some(Answer::SyncRefused(error)) => {
                SyncGroupResponse::default().with_error_code(error.code())
            }
            _ => SyncGroupResponse::default()
                .with_error_code(ResponseError::UnknownServerError.code()),
        }
    }

    /// Heartbeat.
    #[expect(clippy::needless_pass_by_value, reason = "all answers are made alike")]
    pub(crate) fn heartbeat(
        broker: &Arc<Broker>,
        _context: &Context,
        request: HeartbeatRequest,
    ) -> HeartbeatResponse {
        let standing = Standing {
            group: shared(&request.group_id),
            member: shared(&request.member_id),
            instance: request.group_instance_id.as_ref().map(shared),
            generation: request.generation_id,
        };
        let now = broker.env.clock.monotonic();
        let outcome =
            broker.groups.with(|inner| (inner.coordinator.heartbeat(now, &standing), Vec::new()));
        HeartbeatResponse::default().with_error_code(code::number(&outcome))
    }

    /// `LeaveGroup`.
    pub(crate) fn leave(
        broker: &Arc<Broker>,
        context: &Context,
        request: LeaveGroupRequest,
    ) -> LeaveGroupResponse {
        let group = shared(&request.group_id);
        let now = broker.env.clock.monotonic();
        let leave = |member: &StrBytes, instance: Option<&StrBytes>| {
            let (member, instance) = (shared(member), instance.map(shared));
            broker
                .groups
                .with(|inner| inner.coordinator.leave(now, &group, &member, instance.as_ref()))
        };
        if context.version < 3 {
            let outcome = leave(&request.member_id, None);
            return LeaveGroupResponse::default().with_error_code(code::number(&outcome));
        }
        let members = request.members.into_iter().map(|member| {
            let outcome = leave(&member.member_id, member.group_instance_id.as_ref());
            MemberResponse::default()
                .with_member_id(member.member_id)
                .with_group_instance_id(member.group_instance_id)
                .with_error_code(code::number(&outcome))
        });
        LeaveGroupResponse::default().with_members(members.collect())
    }

    /// `OffsetCommit`.
    pub(crate) async fn commit(
        broker: &Arc<Broker>,
        _context: &Context,
        request: OffsetCommitRequest,
    ) -> OffsetCommitResponse {
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

    /// Takes back what groups committed for a topic that is gone: another of its name begins anew.
    pub(crate) async fn forget_topic(
        broker: &Arc<Broker>,
        topic: &TopicName,
    ) -> Result<(), ResponseError> {
        let standing = broker.groups.offsets.read().in_topic(topic);
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

    /// `DescribeGroups`.
    pub(crate) fn describe(
        broker: &Arc<Broker>,
        context: &Context,
        request: DescribeGroupsRequest,
    ) -> DescribeGroupsResponse {
        let groups = request.groups.into_iter().map(|id| {
            let described = DescribedGroup::default().with_group_id(id.clone());
            if let Some(group) = broker.groups.inner.lock().coordinator.describe(&id) {
                let members = group.members.iter().map(|member| {
                    DescribedGroupMember::default()
                        .with_member_id(text(&member.member))
                        .with_group_instance_id(member.instance.as_deref().map(text))
                        .with_client_id(text(&member.client))
                        .with_client_host(text(&member.host))
                        .with_member_metadata(member.metadata.clone())
                        .with_member_assignment(member.assignment.clone())
                });
                return described
                    .with_group_state(text(group.state.name()))
                    .with_protocol_type(text(&group.kind))
                    .with_protocol_data(text(&group.protocol))
                    .with_members(members.collect());
            }
            if broker.groups.offsets.read().all(&id).next().is_some() {
                return described
                    .with_group_state(StrBytes::from_static_str("Empty"))
                    .with_protocol_type(StrBytes::from_static_str("consumer"));
            }
            let described = described.with_group_state(StrBytes::from_static_str("Dead"));
            if context.version < 6 {
                return described;
            }
            described
                .with_error_code(ResponseError::GroupIdNotFound.code())
                .with_error_message(Some(text(&format!("there is no group {}", &**id))))
        });
        DescribeGroupsResponse::default().with_groups(groups.collect())
    }

    /// `ListGroups`.
    #[expect(clippy::needless_pass_by_value, reason = "all answers are made alike")]
    pub(crate) fn list(
        broker: &Arc<Broker>,
        _context: &Context,
        request: ListGroupsRequest,
    ) -> ListGroupsResponse {
        let listed = |id: &GroupId, kind: &str, state: &str| {
            ListedGroup::default()
                .with_group_id(WireGroupId(text(id)))
                .with_protocol_type(text(kind))
                .with_group_state(text(state))
                .with_group_type(StrBytes::from_static_str("classic"))
        };
        let mut seen = HashSet::new();
        let mut groups = Vec::new();
        for (id, state, kind) in broker.groups.inner.lock().coordinator.list() {
            seen.insert(id.clone());
            groups.push(listed(id, &kind, state.name()));
        }
        for id in broker.groups.offsets.read().groups() {
            if !seen.contains(id) {
                groups.push(listed(id, "consumer", "Empty"));
            }
        }
        let matches = |filter: &[StrBytes], value: &StrBytes| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
        };
        groups.retain(|group| {
            matches(&request.states_filter, &group.group_state)
                && matches(&request.types_filter, &group.group_type)
        });
        groups.sort_by(|a, b| a.group_id.cmp(&b.group_id));
        ListGroupsResponse::default().with_groups(groups)
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

fn joined_response(context: &Context, joined: &Joined) -> JoinGroupResponse {
    let members = joined.members.iter().map(|(member, instance, metadata)| {
        JoinGroupResponseMember::default()
            .with_member_id(text(member))
            .with_group_instance_id(instance.as_deref().map(text))
            .with_metadata(metadata.clone())
    });
    let kind = (context.version >= 7).then(|| text(&joined.kind));
    JoinGroupResponse::default()
        .with_generation_id(joined.generation)
        .with_protocol_type(kind)
        .with_protocol_name(Some(text(&joined.protocol)))
        .with_leader(text(&joined.leader))
        .with_member_id(text(&joined.member))
        .with_members(members.collect())
}

/// Null where a version has it, else empty.
fn none_since(context: &Context, version: i16) -> Option<StrBytes> {
    (context.version < version).then(StrBytes::new)
}

/// The one partition of committed offsets.
fn offsets_partition() -> Option<TopicPartition> {
    Some(TopicPartition::new(TopicName::new(OFFSETS_TOPIC).ok()?, 0))
}

/// Folds the records of committed offsets. What does not read as one is reported and stepped
/// over: it was not written here, and no group should lose its place because of it.
fn replay(
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

/// A name for a member that has none: what the client calls itself, and what nobody else has.
fn fresh_member(broker: &Broker, client: &str) -> Arc<str> {
    let random = &broker.env.random;
    let id = uuid::Builder::from_random_bytes(
        (u128::from(random.next_u64()) << 64 | u128::from(random.next_u64())).to_be_bytes(),
    )
    .into_uuid();
    format!("{client}-{id}").into()
}

fn millis(millis: i32) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// A string that outlives the request without keeping its bytes.
fn shared(text: &StrBytes) -> Arc<str> {
    Arc::from(&**text)
}

/// Bytes that outlive the request without keeping the rest of it.
fn owned(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
