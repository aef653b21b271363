//! Requests of consumer groups: between the wire, the pure [`Coordinator`] and the log.
//!
//! - Callers that the coordinator parks wait on a channel, named by a token.
//! - One task sleeps until the coordinator's next deadline and wakes it.
//! - Groups and committed offsets are records of `__consumer_offsets`: a commit is answered, and seen by
//!   others, once its record is durable. At start the table is rebuilt from that topic.

mod commits;
mod consumer;
mod removal;
mod store;
mod topics;
mod transactional;
mod upkeep;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use afflux_env::{Clock, Env};
use afflux_log::{EmbeddedLog, Log as _};
use afflux_types::Offset;
use bytes::Bytes;
use kafka_protocol::{
    ResponseError,
    messages::{
        DescribeGroupsRequest, DescribeGroupsResponse, GroupId as WireGroupId, HeartbeatRequest,
        HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
        LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, SyncGroupRequest,
        SyncGroupResponse,
        describe_groups_response::{DescribedGroup, DescribedGroupMember},
        join_group_response::JoinGroupResponseMember,
        leave_group_response::MemberResponse,
        list_groups_response::ListedGroup,
    },
    protocol::StrBytes,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, OnceCell, mpsc, oneshot};

pub(crate) use self::commits::offsets_partition;
use self::{
    commits::replay,
    store::{Outgoing, Records},
    topics::LogTopics,
    transactional::PendingOffsets,
};
use crate::{
    Options, StartError, access,
    broker::{Broker, Context, text},
    code,
    fields::duration,
    group::{
        Answer, Coordinator, GroupId, Join, Joined, Reply, Settings, Standing, Sync, Synced, Token,
        offsets::Offsets,
    },
    settings::of_groups::Times,
};

/// All groups and what they committed.
pub(crate) struct Groups {
    inner: Mutex<Inner>,
    log: Arc<EmbeddedLog>,
    clock: Arc<dyn Clock>,
    /// Replies that wait for what was written before them.
    outbox: mpsc::UnboundedSender<Outgoing>,
    line: Mutex<Option<mpsc::UnboundedReceiver<Outgoing>>>,
    offsets: RwLock<Offsets>,
    /// What transactions that are open have committed.
    pending: Mutex<PendingOffsets>,
    /// Held by each commit, and alone by who takes commits back.
    committing: tokio::sync::RwLock<()>,
    /// Whether the offsets' topic is there.
    topic: OnceCell<()>,
    /// Told when the coordinator wants to be woken earlier than before.
    rearmed: Notify,
    /// The end of the records of commits and groups, and where it will be time to write all anew.
    end: AtomicI64,
    crowded_at: AtomicI64,
    /// Told when it is.
    crowded: Notify,
    /// How many records there may be that say nothing any more, beside as many as do.
    spare_records: i64,
}

struct Inner {
    coordinator: Coordinator,
    parked: HashMap<Token, oneshot::Sender<Answer>>,
    tokens: u64,
    /// How many writes of groups are on their way; while there are any, replies wait in line.
    writing: usize,
}

impl Groups {
    /// No members yet, and the offsets that the log holds. Blocks.
    pub(crate) fn rebuild(
        env: &Env,
        log: &Arc<EmbeddedLog>,
        settings: Settings,
        options: &Options,
    ) -> Result<Self, StartError> {
        let clock = Arc::clone(&env.clock);
        let now = clock.monotonic();
        let (mut offsets, mut pending) = (Offsets::default(), PendingOffsets::default());
        let mut coordinator = Coordinator::new(settings, Arc::new(LogTopics(Arc::clone(log))));
        let topic = OnceCell::new();
        let mut bounds = None;
        if let Some(partition) = offsets_partition()
            && log.partition_count(&partition.topic).is_some()
        {
            let mut records = Records::default();
            replay(log, &partition, &mut offsets, &mut pending, &mut records)?;
            let session = |group: &GroupId| Times::of(options, log, group).session;
            records.load(now, &mut coordinator, session);
            bounds = Some(log.bounds(&partition)?);
            // Just made, so nothing can have been put there.
            let _ = topic.set(());
        }
        let (outbox, line) = mpsc::unbounded_channel();
        let live = coordinator.keys().count() + offsets.count();
        let groups = Self {
            inner: Mutex::new(Inner { coordinator, parked: HashMap::new(), tokens: 0, writing: 0 }),
            log: Arc::clone(log),
            clock: Arc::clone(&clock),
            outbox,
            line: Mutex::new(Some(line)),
            offsets: RwLock::new(offsets),
            pending: Mutex::new(pending),
            committing: tokio::sync::RwLock::default(),
            topic,
            rearmed: Notify::new(),
            end: AtomicI64::new(bounds.map_or(0, |bounds| bounds.end.0)),
            crowded_at: AtomicI64::new(0),
            crowded: Notify::new(),
            spare_records: options.group_records_spare.into(),
        };
        groups.note_live(bounds.map_or(Offset(0), |bounds| bounds.start), live);
        Ok(groups)
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
            // Real timers count whole milliseconds.
            let wait = deadline.saturating_sub(now) + Duration::from_millis(1);
            tokio::select! {
                biased;
                () = broker.env.clock.sleep(wait) => {}
                () = rearmed => continue,
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
        self.pass_on(&mut inner, replies);
        if inner.coordinator.next_deadline() != before {
            self.rearmed.notify_one();
        }
        result
    }

    /// Hands the coordinator an event whose answer may come later.
    fn begin(
        &self,
        event: impl FnOnce(&mut Coordinator, Token) -> Vec<Reply>,
    ) -> oneshot::Receiver<Answer> {
        self.with(|inner| {
            inner.tokens += 1;
            let token = Token(inner.tokens);
            let (sender, receiver) = oneshot::channel();
            inner.parked.insert(token, sender);
            let replies = event(&mut inner.coordinator, token);
            (receiver, replies)
        })
    }

    /// The same, and waits for the answer.
    async fn ask(
        &self,
        event: impl FnOnce(&mut Coordinator, Token) -> Vec<Reply>,
    ) -> Option<Answer> {
        self.begin(event).await.ok()
    }

    /// `JoinGroup`.
    pub(crate) async fn join(
        broker: &Arc<Broker>,
        context: &Context,
        request: JoinGroupRequest,
    ) -> JoinGroupResponse {
        let session = duration(request.session_timeout_ms);
        let host = format!("/{}", context.peer.ip());
        let join = Join {
            group: shared(&request.group_id),
            member: Some(shared(&request.member_id)).filter(|member| !member.is_empty()),
            instance: request.group_instance_id.as_ref().map(shared),
            fresh: fresh_member(broker, &context.client),
            named_first: context.version >= 4,
            can_skip: context.version >= 9,
            client: shared(&context.client),
            host: host.into(),
            session,
            // Version 0 has but one time-out.
            rebalance: if context.version >= 1 {
                duration(request.rebalance_timeout_ms)
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
        // The group has its own of all: nothing of the request is kept while others are waited for.
        let member = text(&request.member_id);
        drop(request);
        if let Err(error) = Self::ensure_offsets(broker).await {
            return JoinGroupResponse::default()
                .with_error_code(error.code())
                .with_generation_id(-1)
                .with_protocol_name(none_since(context, 7))
                .with_member_id(member);
        }
        let now = broker.env.clock.monotonic();
        let answer =
            broker.groups.ask(|coordinator, token| coordinator.join(now, token, join)).await;
        match answer {
            Some(Answer::Joined(joined)) => joined_response(context, &joined),
            Some(Answer::JoinRefused(error, other)) => {
                let member = other.map_or(member, |other| text(&other));
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
        context: &Context,
        request: SyncGroupRequest,
    ) -> SyncGroupResponse {
        let is_told = request.protocol_type.is_some() && request.protocol_name.is_some();
        if context.version >= 5 && !is_told {
            let error = ResponseError::InconsistentGroupProtocol;
            return SyncGroupResponse::default().with_error_code(error.code());
        }
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
        // As of a request to join.
        drop(request);
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
    pub(crate) async fn leave(
        broker: &Arc<Broker>,
        context: &Context,
        request: LeaveGroupRequest,
    ) -> LeaveGroupResponse {
        let group = shared(&request.group_id);
        if group.is_empty() {
            let error = ResponseError::InvalidGroupId;
            return LeaveGroupResponse::default().with_error_code(error.code());
        }
        let now = broker.env.clock.monotonic();
        let leave = |member: &StrBytes, instance: Option<&StrBytes>| {
            let (member, instance) = (shared(member), instance.map(shared));
            broker.groups.begin(|coordinator, token| {
                let (left, mut replies) =
                    coordinator.leave(now, &group, &member, instance.as_ref());
                replies.push(Reply { to: token, answer: Answer::Left(left) });
                replies
            })
        };
        let code = async |leaving: oneshot::Receiver<Answer>| match leaving.await {
            Ok(Answer::Left(left)) => code::number(&left),
            _ => ResponseError::UnknownServerError.code(),
        };
        if context.version < 3 {
            let leaving = leave(&request.member_id, None);
            return LeaveGroupResponse::default().with_error_code(code(leaving).await);
        }
        // All of them at once: each waits until it is stored.
        let leaving = request
            .members
            .into_iter()
            .map(|member| (leave(&member.member_id, member.group_instance_id.as_ref()), member));
        let mut members = Vec::new();
        for (leaving, member) in leaving.collect::<Vec<_>>() {
            let member = MemberResponse::default()
                .with_member_id(member.member_id)
                .with_group_instance_id(member.group_instance_id)
                .with_error_code(code(leaving).await);
            members.push(member);
        }
        LeaveGroupResponse::default().with_members(members)
    }

    /// `DescribeGroups`.
    pub(crate) fn describe(
        broker: &Arc<Broker>,
        context: &Context,
        request: DescribeGroupsRequest,
    ) -> DescribeGroupsResponse {
        let allowed = access::GROUP.told(request.include_authorized_operations);
        let groups = request.groups.into_iter().map(|id| {
            let described = DescribedGroup::default()
                .with_group_id(id.clone())
                .with_authorized_operations(allowed);
            let group = broker.groups.inner.lock().coordinator.describe(&id);
            if let Some(group) = group {
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
            let is_newer = broker.groups.inner.lock().coordinator.knows(&id);
            if !is_newer && broker.groups.offsets.read().all(&id).next().is_some() {
                return described.with_group_state(StrBytes::from_static_str("Empty"));
            }
            let described = described.with_group_state(StrBytes::from_static_str("Dead"));
            if context.version < 6 {
                return described;
            }
            let why = if is_newer { "it is no classic group" } else { "there is no such group" };
            described
                .with_authorized_operations(access::GROUP.told(false))
                .with_error_code(ResponseError::GroupIdNotFound.code())
                .with_error_message(Some(text(&format!("{}: {why}", &**id))))
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
        for group in broker.groups.inner.lock().coordinator.list() {
            groups.push(
                listed(&group.group, &group.kind, group.state)
                    .with_group_type(StrBytes::from_static_str(group.protocol)),
            );
            seen.insert(group.group);
        }
        for id in broker.groups.offsets.read().groups() {
            if !seen.contains(id) {
                groups.push(listed(id, "", "Empty"));
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
        .with_skip_assignment(joined.skip)
}

/// Null where a version has it, else empty.
fn none_since(context: &Context, version: i16) -> Option<StrBytes> {
    (context.version < version).then(StrBytes::new)
}

/// The most of a client's name that its members' names begin with.
const NAME_BYTES_MAX: usize = 255;

/// A name for a member that has none: what the client calls itself, and what nobody else has.
fn fresh_member(broker: &Broker, client: &str) -> Arc<str> {
    let random = &broker.env.random;
    let id = uuid::Builder::from_random_bytes(
        (u128::from(random.next_u64()) << 64 | u128::from(random.next_u64())).to_be_bytes(),
    )
    .into_uuid();
    format!("{}-{id}", &client[..client.floor_char_boundary(NAME_BYTES_MAX)]).into()
}

/// A string that outlives the request without keeping its bytes.
fn shared(text: &StrBytes) -> Arc<str> {
    Arc::from(&**text)
}

/// Bytes that outlive the request without keeping the rest of it.
fn owned(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
