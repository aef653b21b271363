//! `ConsumerGroupHeartbeat` and `ConsumerGroupDescribe`: the consumer protocol (KIP-848).

use std::sync::Arc;

use kafka_protocol::{
    ResponseError,
    messages::{
        ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatRequest,
        ConsumerGroupHeartbeatResponse, TopicName, consumer_group_describe_response as described,
        consumer_group_heartbeat_response::{Assignment, TopicPartitions},
    },
};

use super::{Groups, fresh_member, shared};
use crate::{
    access,
    broker::{Broker, Context, text},
    fields::duration,
    group::{
        Answer, Parts, Reply, Topics as _,
        consumer::{Heartbeat, Member},
        records::by_topic,
    },
    groups::topics::LogTopics,
    settings::of_groups::Times,
};

impl Groups {
    /// `ConsumerGroupHeartbeat`.
    pub(crate) async fn consumer_heartbeat(
        broker: &Arc<Broker>,
        context: &Context,
        request: ConsumerGroupHeartbeatRequest,
    ) -> ConsumerGroupHeartbeatResponse {
        let refused = |error: ResponseError, why: &str| {
            ConsumerGroupHeartbeatResponse::default()
                .with_error_code(error.code())
                .with_error_message(Some(text(why)))
        };
        if let Err(error) = Self::ensure_offsets(broker).await {
            return refused(error, "The topic of groups could not be made.");
        }
        let mut member = shared(&request.member_id);
        // Version 0 leaves it to the coordinator to name members.
        if context.version == 0 && member.is_empty() && request.member_epoch == 0 {
            member = fresh_member(broker, "");
            member = member.trim_start_matches('-').into();
        }
        let times = Times::of(&broker.options, &broker.log, &request.group_id);
        let names = request.subscribed_topic_names;
        let heartbeat = Heartbeat {
            group: shared(&request.group_id),
            member,
            epoch: request.member_epoch,
            instance: request.instance_id.as_ref().map(shared),
            rack: request.rack_id.as_ref().map(shared),
            rebalance: (request.rebalance_timeout_ms >= 0)
                .then(|| duration(request.rebalance_timeout_ms)),
            topics: names.map(|names| names.iter().map(|name| shared(name)).collect()),
            expression: request.subscribed_topic_regex.as_ref().map(shared),
            assignor: request.server_assignor.as_ref().map(shared),
            owned: request.topic_partitions.map(|topics| {
                let parts = topics.iter().flat_map(|topic| {
                    topic.partitions.iter().map(|partition| (topic.topic_id, *partition))
                });
                parts.collect()
            }),
            session: times.session,
            client: shared(&context.client),
            host: format!("/{}", context.peer.ip()).into(),
        };
        let now = broker.env.clock.monotonic();
        let answer = broker.groups.ask(|coordinator, token| {
            let (outcome, mut replies) = coordinator.consumer_heartbeat(now, heartbeat);
            replies.push(Reply { to: token, answer: Answer::Beat(outcome) });
            replies
        });
        match answer.await {
            Some(Answer::Beat(Ok(beat))) => {
                let interval = times.heartbeat.as_millis();
                ConsumerGroupHeartbeatResponse::default()
                    .with_member_id(Some(text(&beat.member)))
                    .with_member_epoch(beat.epoch)
                    .with_heartbeat_interval_ms(i32::try_from(interval).unwrap_or(i32::MAX))
                    .with_assignment(beat.assigned.as_ref().map(assignment))
            }
            Some(Answer::Beat(Err((error, why)))) => refused(error, why),
            _ => refused(ResponseError::UnknownServerError, "The listener stops."),
        }
    }

    /// `ConsumerGroupDescribe`.
    pub(crate) fn describe_consumer(
        broker: &Arc<Broker>,
        context: &Context,
        request: ConsumerGroupDescribeRequest,
    ) -> ConsumerGroupDescribeResponse {
        let topics = LogTopics(Arc::clone(&broker.log));
        let inner = broker.groups.inner.lock();
        let allowed = access::GROUP.told(request.include_authorized_operations);
        let groups = request.group_ids.into_iter().map(|id| {
            let described = described::DescribedGroup::default().with_group_id(id.clone());
            if id.is_empty() {
                return described.with_error_code(ResponseError::InvalidGroupId.code());
            }
            let Some(group) = inner.coordinator.describe_consumer(&id) else {
                return described
                    .with_error_code(ResponseError::GroupIdNotFound.code())
                    .with_error_message(Some(text(&format!("Group {} not found.", &**id))));
            };
            let nothing = Parts::new();
            let members = group.members.iter().map(|(id, member)| {
                let target = group.target.get(id).unwrap_or(&nothing);
                let described = member_described(member, target, &topics);
                // Version 0 does not tell who speaks the classic protocol.
                let kind = i8::from(member.classic.is_none());
                let kind = if context.version >= 1 { kind } else { -1 };
                described.with_member_id(text(id)).with_member_type(kind)
            });
            described
                .with_authorized_operations(allowed)
                .with_group_state(text(group.state().name()))
                .with_group_epoch(group.epoch)
                .with_assignment_epoch(group.target_epoch)
                .with_assignor_name(text(group.assignor()))
                .with_members(members.collect())
        });
        let groups = groups.collect();
        ConsumerGroupDescribeResponse::default().with_groups(groups)
    }
}

fn assignment(parts: &Parts) -> Assignment {
    let topics = by_topic(parts).into_iter().map(|(topic, partitions)| {
        TopicPartitions::default().with_topic_id(topic).with_partitions(partitions)
    });
    Assignment::default().with_topic_partitions(topics.collect())
}

fn member_described(member: &Member, target: &Parts, topics: &LogTopics) -> described::Member {
    let named = |parts: &Parts| {
        let topics = by_topic(parts).into_iter().filter_map(|(topic, partitions)| {
            Some(
                described::TopicPartitions::default()
                    .with_topic_id(topic)
                    .with_topic_name(TopicName(text(&topics.name(topic)?)))
                    .with_partitions(partitions),
            )
        });
        described::Assignment::default().with_topic_partitions(topics.collect())
    };
    let names = member.topics.iter().map(|name| TopicName(text(name)));
    described::Member::default()
        .with_instance_id(member.instance.as_deref().map(text))
        .with_rack_id(member.rack.as_deref().map(text))
        .with_member_epoch(member.epoch)
        .with_client_id(text(&member.client))
        .with_client_host(text(&member.host))
        .with_subscribed_topic_names(names.collect())
        .with_subscribed_topic_regex(member.expression.as_deref().map(text))
        .with_assignment(named(&member.assigned))
        .with_target_assignment(named(target))
}
