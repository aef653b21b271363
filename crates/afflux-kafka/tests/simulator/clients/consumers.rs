//! Consumers: those that follow a topic to its end, and members of groups that share it, by the
//! classic protocol and by the newer one (KIP-848).

use std::collections::BTreeMap;

use kafka_protocol::{
    ResponseError,
    messages::{
        ConsumerGroupHeartbeatRequest, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest,
        OffsetCommitRequest, SyncGroupRequest,
        consumer_group_heartbeat_request::TopicPartitions,
        join_group_request::JoinGroupRequestProtocol,
        leave_group_request::MemberIdentity,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        sync_group_request::SyncGroupRequestAssignment,
    },
    protocol::StrBytes,
};
use uuid::Uuid;

use super::{
    Client, PARTITIONS,
    keeper::{look_up, start_of},
};
use crate::{
    history::{About, Commit, Look, Moment, Outcome, STEADY, Word},
    link::LOST,
    producer::{Ask, outcome},
    sim::wire_name,
};

/// The group that members of the classic protocol are of.
const CLASSIC: &str = "classic";
/// The other's.
const NEWER: &str = "newer";
/// That of static members.
const STATIC: &str = "static";
/// How long a member may be silent, in the world's time.
const SESSION_MILLIS: i32 = 40;
/// The same for static ones: none is over but where time goes by as in [`History::aged`].
///
/// [`History::aged`]: crate::history::History::aged
const STATIC_SESSION_MILLIS: i32 = 30 * 60 * 1_000;

/// Follows all partitions, reading all records or those that are committed.
pub(crate) async fn tail(client: Client, is_committed: bool) {
    let mut next = [0; PARTITIONS as usize];
    for _ in 0..60 {
        let partition = client.partition();
        let place = &mut next[partition as usize];
        // Now and then what was read is read again.
        let from = if client.below(6) == 0 { *place / 2 } else { *place };
        if let Ok(poll) = client.poll(is_committed, STEADY, partition, from).await {
            *place = poll.next.max(*place);
        }
        client.link.pause(150).await;
    }
}

/// Follows topics of another name, one after the other.
pub(crate) async fn follow(client: Client, name: &'static str, is_committed: bool) {
    let mut known = None;
    let mut next = BTreeMap::new();
    for _ in 0..60 {
        client.link.pause(150).await;
        let Some((topic, partitions)) = known else {
            known = look_up(&client, name).await.ok().flatten();
            next.clear();
            continue;
        };
        let partition = client.below(partitions as u64) as i32;
        let place = next.get(&partition).copied().unwrap_or(0);
        let from = if client.below(6) == 0 { place / 2 } else { place };
        match client.poll(is_committed, topic, partition, from).await {
            Ok(poll) => {
                next.insert(partition, poll.next.max(place));
            }
            Err(ResponseError::OffsetOutOfRange) => {
                if let Ok(start) = start_of(&client, name, partition).await {
                    next.insert(partition, start);
                }
            }
            Err(LOST) => {}
            // It is gone, or has more partitions.
            Err(_) => known = None,
        }
        if client.below(10) == 0 {
            known = None;
        }
    }
}

/// A member's standing in a generation or an epoch.
pub(super) struct Standing {
    group: &'static str,
    pub(super) member: StrBytes,
    /// What a static member is known by, whatever its name is.
    instance: Option<StrBytes>,
    pub(super) generation: i32,
    pub(super) partitions: Vec<i32>,
}

/// Joins, reads what it is given and commits where it is, until it is told to join again; one
/// time it leaves, another it is gone without a word.
pub(crate) async fn member(client: Client) {
    let mut known = StrBytes::new();
    for _ in 0..8 {
        let standing = match join(&client, CLASSIC, &known, None).await {
            Ok(standing) => standing,
            Err(ResponseError::UnknownMemberId) => {
                known = StrBytes::new();
                continue;
            }
            Err(_) => {
                client.link.pause(300).await;
                continue;
            }
        };
        known = standing.member.clone();
        if share(&client, &standing).await == Err(ResponseError::UnknownMemberId) {
            known = StrBytes::new();
        }
        if client.below(4) == 0 {
            leave(&client, std::mem::take(&mut known)).await;
        }
    }
    leave(&client, known).await;
}

/// A static member that is started again and again, without a word when it ends. Two that have one
/// instance's id are at each other's place.
pub(crate) async fn stay(client: Client, instance: &'static str) {
    for _ in 0..8 {
        let instance = Some(StrBytes::from_static_str(instance));
        let told = match join(&client, STATIC, &StrBytes::new(), instance).await {
            Ok(standing) => share(&client, &standing).await,
            Err(error) => Err(error),
        };
        let is_fenced = told == Err(ResponseError::FencedInstanceId);
        client.link.pause(if is_fenced { 900 } else { 100 }).await;
    }
}

/// Joins a group of the classic protocol.
pub(super) async fn join(
    client: &Client,
    group: &'static str,
    member: &StrBytes,
    instance: Option<StrBytes>,
) -> Result<Standing, ResponseError> {
    let id = StrBytes::from_static_str(group);
    // Static members are of later versions, in which others are given a name first.
    let (version, session) =
        if instance.is_some() { (5, STATIC_SESSION_MILLIS) } else { (3, SESSION_MILLIS) };
    let protocol = JoinGroupRequestProtocol::default().with_name(StrBytes::from_static_str("any"));
    let request = JoinGroupRequest::default()
        .with_group_id(id.clone().into())
        .with_session_timeout_ms(session)
        .with_rebalance_timeout_ms(SESSION_MILLIS)
        .with_member_id(member.clone())
        .with_group_instance_id(instance.clone())
        .with_protocol_type(StrBytes::from_static_str("simulated"))
        .with_protocols(vec![protocol]);
    let begun = client.diary.now();
    let joined = client.link.ask(version, &request).await?;
    outcome(joined.error_code)?;
    let (member, generation) = (joined.member_id, joined.generation_id);
    let mut standing = Standing { group, member, instance, generation, partitions: Vec::new() };
    note(client, &standing, About::Join, begun);
    // The leader deals partitions out in turn; what a member gets is their numbers.
    let all = joined.members.len() as i32;
    let assignments = (0..).zip(&joined.members).map(|(number, other)| {
        let its = (0..PARTITIONS).filter(|partition| partition % all == number);
        SyncGroupRequestAssignment::default()
            .with_member_id(other.member_id.clone())
            .with_assignment(its.map(|partition| partition as u8).collect::<Vec<_>>().into())
    });
    let request = SyncGroupRequest::default()
        .with_group_id(id.clone().into())
        .with_generation_id(standing.generation)
        .with_member_id(standing.member.clone())
        .with_group_instance_id(standing.instance.clone())
        .with_assignments(assignments.collect());
    let begun = client.diary.now();
    let synced = client.link.ask(3, &request).await?;
    outcome(synced.error_code)?;
    note(client, &standing, About::Sync, begun);
    standing.partitions = synced.assignment.iter().map(|at| i32::from(*at)).collect();
    Ok(standing)
}

/// Notes down what a static member was told.
fn note(client: &Client, standing: &Standing, about: About, begun: Moment) {
    let Some(instance) = standing.instance.as_ref().map(ToString::to_string) else { return };
    let (member, generation) = (standing.member.to_string(), standing.generation);
    let ended = client.diary.now();
    let word = Word { instance, member, generation, about, begun, ended };
    client.diary.history.lock().words.push(word);
}

/// Reads and commits until something tells it to join again.
async fn share(client: &Client, standing: &Standing) -> Result<(), ResponseError> {
    let mut places = Vec::new();
    for partition in &standing.partitions {
        places.push((*partition, look(client, standing.group, *partition).await?.max(0)));
    }
    for _ in 0..3 + client.below(8) {
        match alive(client, standing).await {
            Err(LOST) => continue,
            told => told?,
        }
        if places.is_empty() {
            client.link.pause(100).await;
            continue;
        }
        let at = client.below(places.len() as u64) as usize;
        go_on(client, standing, &mut places[at]).await?;
    }
    Ok(())
}

/// A heartbeat of the classic protocol.
pub(super) async fn alive(client: &Client, standing: &Standing) -> Result<(), ResponseError> {
    let request = HeartbeatRequest::default()
        .with_group_id(StrBytes::from_static_str(standing.group).into())
        .with_generation_id(standing.generation)
        .with_member_id(standing.member.clone())
        .with_group_instance_id(standing.instance.clone());
    let begun = client.diary.now();
    let told = outcome(client.link.ask(3, &request).await?.error_code);
    match told {
        Ok(()) | Err(ResponseError::RebalanceInProgress) => {
            note(client, standing, About::Rest, begun);
        }
        Err(ResponseError::UnknownMemberId) => note(client, standing, About::Unknown, begun),
        Err(_) => {}
    }
    told
}

/// Reads on in a partition, and commits.
async fn go_on(
    client: &Client,
    standing: &Standing,
    (partition, place): &mut (i32, i64),
) -> Result<(), ResponseError> {
    match client.poll(true, STEADY, *partition, *place).await {
        Ok(poll) if poll.next > *place => {
            *place = poll.next;
            commit(client, standing, *partition, *place).await
        }
        _ => Ok(()),
    }
}

/// The same for the newer protocol: heartbeats tell it what to read.
pub(crate) async fn beat(client: Client) {
    for _ in 0..3 {
        let member = StrBytes::from_string(format!("m{}", client.diary.number()));
        let (group, instance, partitions) = (NEWER, None, Vec::new());
        let mut standing = Standing { group, member, instance, generation: 0, partitions };
        let (mut topic, mut places) = (Uuid::nil(), Vec::new());
        for _ in 0..10 + client.below(20) {
            match heartbeat(&client, &mut standing, &mut topic).await {
                Ok(()) => {}
                Err(ResponseError::FencedMemberEpoch | ResponseError::UnknownMemberId) => {
                    (standing.generation, standing.partitions) = (0, Vec::new());
                    continue;
                }
                Err(_) => continue,
            }
            places.retain(|(partition, _)| standing.partitions.contains(partition));
            for partition in &standing.partitions {
                let is_new = places.iter().all(|(known, _)| known != partition);
                if is_new && let Ok(place) = look(&client, NEWER, *partition).await {
                    places.push((*partition, place.max(0)));
                }
            }
            if !places.is_empty() {
                let at = client.below(places.len() as u64) as usize;
                let _ = go_on(&client, &standing, &mut places[at]).await;
            }
            client.link.pause(60).await;
        }
        if client.below(2) == 0 {
            standing.generation = -1;
            let _ = heartbeat(&client, &mut standing, &mut topic).await;
        }
    }
}

/// Says what it holds, and takes what it is told to.
async fn heartbeat(
    client: &Client,
    standing: &mut Standing,
    topic: &mut Uuid,
) -> Result<(), ResponseError> {
    let joins = standing.generation == 0;
    let held = TopicPartitions::default()
        .with_topic_id(*topic)
        .with_partitions(standing.partitions.clone());
    let held = if standing.partitions.is_empty() { Vec::new() } else { vec![held] };
    let request = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(StrBytes::from_static_str(NEWER).into())
        .with_member_id(standing.member.clone())
        .with_member_epoch(standing.generation)
        .with_rebalance_timeout_ms(if joins { SESSION_MILLIS } else { -1 })
        .with_subscribed_topic_names(joins.then(|| vec![wire_name("t")]))
        .with_topic_partitions(Some(held));
    let answer = client.link.ask(1, &request).await?;
    outcome(answer.error_code)?;
    standing.generation = answer.member_epoch;
    if let Some(assignment) = answer.assignment {
        let parts = assignment.topic_partitions.into_iter().next();
        (*topic, standing.partitions) =
            parts.map_or((*topic, Vec::new()), |parts| (parts.topic_id, parts.partitions));
    }
    Ok(())
}

/// Where the group stands.
async fn look(client: &Client, group: &str, partition: i32) -> Result<i64, ResponseError> {
    let begun = client.diary.now();
    let offset = client.standing(group, partition).await?;
    let ended = client.diary.now();
    let look = Look { group: group.to_owned(), partition, offset, begun, ended };
    client.diary.history.lock().looks.push(look);
    Ok(offset)
}

async fn commit(
    client: &Client,
    standing: &Standing,
    partition: i32,
    offset: i64,
) -> Result<(), ResponseError> {
    let at = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset);
    let topic =
        OffsetCommitRequestTopic::default().with_name(wire_name("t")).with_partitions(vec![at]);
    let request = OffsetCommitRequest::default()
        .with_group_id(StrBytes::from_static_str(standing.group).into())
        .with_generation_id_or_member_epoch(standing.generation)
        .with_member_id(standing.member.clone())
        .with_group_instance_id(standing.instance.clone())
        .with_topics(vec![topic]);
    let begun = client.diary.now();
    let version = if standing.group == NEWER { 9 } else { 7 };
    let answer = client.link.ask(version, &request).await;
    let told = answer.and_then(|answer| outcome(answer.topics[0].partitions[0].error_code));
    let ended = client.diary.now();
    if told.is_ok() {
        note(client, standing, About::Rest, begun);
    }
    let outcome = match told {
        Ok(()) => Outcome::Done(()),
        Err(
            ResponseError::IllegalGeneration
            | ResponseError::FencedInstanceId
            | ResponseError::UnknownMemberId
            | ResponseError::StaleMemberEpoch
            | ResponseError::RebalanceInProgress,
        ) => Outcome::Refused,
        Err(_) => Outcome::Unknown,
    };
    let group = standing.group.to_owned();
    let commit = Commit { group, partition, offset, begun, ended, outcome };
    client.diary.history.lock().commits.push(commit);
    if told == Err(LOST) { Ok(()) } else { told }
}

async fn leave(client: &Client, member: StrBytes) {
    if member.is_empty() || client.below(3) == 0 {
        return;
    }
    let members = vec![MemberIdentity::default().with_member_id(member)];
    let request = LeaveGroupRequest::default()
        .with_group_id(StrBytes::from_static_str(CLASSIC).into())
        .with_members(members);
    let _ = client.link.ask(3, &request).await;
}
