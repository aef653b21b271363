//! Groups as the protocol's bytes show them: the consumer protocol, what a restart leaves of it,
//! and how groups and commits end.

#![expect(clippy::disallowed_methods, reason = "patience is measured on the wall")]

#[path = "support/client.rs"]
mod client;
mod support;

use std::time::{Duration, Instant};

use afflux_kafka::Options;
use client::Client;
use kafka_protocol::{
    ResponseError::{self, *},
    messages::{
        ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest,
        ConsumerGroupHeartbeatResponse, CreateTopicsRequest, DeleteGroupsRequest,
        DescribeGroupsRequest, GroupId, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest,
        ListGroupsRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
        SyncGroupRequest, TopicName,
        create_topics_request::CreatableTopic,
        join_group_request::JoinGroupRequestProtocol,
        leave_group_request::MemberIdentity,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic},
        offset_fetch_request::OffsetFetchRequestTopic,
        sync_group_request::SyncGroupRequestAssignment,
    },
    protocol::StrBytes,
};
use support::Server;

const PATIENCE: Duration = Duration::from_secs(30);
const TOPIC: &str = "t";
/// A consumer's subscription to that topic: version 0, one name, no user data.
const SUBSCRIPTION: &[u8] = &[0, 0, 0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff];

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group(id: &str) -> GroupId {
    GroupId(text(id))
}

fn topic() -> TopicName {
    TopicName(text(TOPIC))
}

/// A listener with the topic, and a connection to it.
fn start(directory: &tempfile::TempDir, options: Options) -> (Server, Client) {
    let server = Server::start_with(directory.path(), options);
    let mut client = Client::connect(&server);
    let topic = CreatableTopic::default()
        .with_name(topic())
        .with_num_partitions(4)
        .with_replication_factor(1);
    client.call(7, &CreateTopicsRequest::default().with_topics(vec![topic]));
    (server, client)
}

fn commit(client: &mut Client, version: i16, request: OffsetCommitRequest) -> i16 {
    let at = OffsetCommitRequestPartition::default().with_committed_offset(7);
    let topic = OffsetCommitRequestTopic::default().with_name(topic()).with_partitions(vec![at]);
    let response = client.call(version, &request.with_topics(vec![topic]));
    response.topics[0].partitions[0].error_code
}

/// A commit by who is in no group.
fn alone(id: &str) -> OffsetCommitRequest {
    OffsetCommitRequest::default().with_group_id(group(id)).with_generation_id_or_member_epoch(-1)
}

fn committed(client: &mut Client, id: &str) -> i64 {
    let topic =
        OffsetFetchRequestTopic::default().with_name(topic()).with_partition_indexes(vec![0]);
    let request =
        OffsetFetchRequest::default().with_group_id(group(id)).with_topics(Some(vec![topic]));
    client.call(5, &request).topics[0].partitions[0].committed_offset
}

fn listed(client: &mut Client) -> Vec<(String, String, String)> {
    let groups = client.call(5, &ListGroupsRequest::default()).groups;
    let plain = groups.iter().map(|group| {
        let (id, state, kind) = (&group.group_id, &group.group_state, &group.group_type);
        (id.to_string(), state.to_string(), kind.to_string())
    });
    plain.collect()
}

fn delete(client: &mut Client, id: &str) -> i16 {
    let request = DeleteGroupsRequest::default().with_groups_names(vec![group(id)]);
    client.call(2, &request).results[0].error_code
}

/// The error of all, or that of the partition.
fn delete_offset(client: &mut Client, id: &str, topic: &str, partition: i32) -> i16 {
    let at = OffsetDeleteRequestPartition::default().with_partition_index(partition);
    let topic = OffsetDeleteRequestTopic::default()
        .with_name(TopicName(text(topic)))
        .with_partitions(vec![at]);
    let request = OffsetDeleteRequest::default().with_group_id(group(id)).with_topics(vec![topic]);
    let response = client.call(0, &request);
    let one = response.topics.first().map(|topic| topic.partitions[0].error_code);
    one.unwrap_or(response.error_code)
}

fn heartbeat(id: &str, member: &str, epoch: i32) -> ConsumerGroupHeartbeatRequest {
    let request = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group(id))
        .with_member_id(text(member))
        .with_member_epoch(epoch);
    if epoch != 0 {
        return request.with_rebalance_timeout_ms(-1);
    }
    request
        .with_rebalance_timeout_ms(10_000)
        .with_subscribed_topic_names(Some(vec![topic()]))
        .with_topic_partitions(Some(Vec::new()))
}

fn partitions(response: &ConsumerGroupHeartbeatResponse) -> Vec<i32> {
    let assignment = response.assignment.as_ref().expect("an assignment");
    assignment.topic_partitions.iter().flat_map(|topic| topic.partitions.clone()).collect()
}

/// A member of a classic group of one, at work.
fn join_classic(client: &mut Client, id: &str) -> (StrBytes, i32) {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(SUBSCRIPTION.into());
    let request = JoinGroupRequest::default()
        .with_group_id(group(id))
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    let joined = client.call(3, &request);
    let request = SyncGroupRequest::default()
        .with_group_id(group(id))
        .with_member_id(joined.member_id.clone())
        .with_generation_id(joined.generation_id)
        .with_assignments(vec![
            SyncGroupRequestAssignment::default()
                .with_member_id(joined.member_id.clone())
                .with_assignment(b"all of it".as_slice().into()),
        ]);
    assert_eq!(client.call(2, &request).error_code, 0);
    (joined.member_id, joined.generation_id)
}

fn leave_classic(client: &mut Client, id: &str, member: StrBytes) -> i16 {
    let member = MemberIdentity::default().with_member_id(member);
    let request = LeaveGroupRequest::default().with_group_id(group(id)).with_members(vec![member]);
    client.call(3, &request).members[0].error_code
}

/// Asks until it is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn every_served_version_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, mut client) = start(&directory, Options::default());
    for version in 0..=1 {
        let member = format!("m{version}");
        let joined = client.call(version, &heartbeat("g", &member, 0));
        assert_eq!(joined.error_code, 0, "{joined:?}");
        let request =
            ConsumerGroupDescribeRequest::default().with_group_ids(vec![group("g"), group("h")]);
        let described = client.call(version, &request).groups;
        assert_eq!(described[0].members.len(), version as usize + 1);
        assert_eq!(described[1].error_code, GroupIdNotFound.code());
    }
    for version in 0..=2 {
        let groups = DeleteGroupsRequest::default().with_groups_names(vec![group("none")]);
        let results = client.call(version, &groups).results;
        assert_eq!(results[0].error_code, GroupIdNotFound.code());
    }
    client.call(0, &OffsetDeleteRequest::default());
}

#[test]
fn a_group_of_the_consumer_protocol_goes_on_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut client) = start(&directory, Options::default());
    let first = client.call(1, &heartbeat("g", "a", 0));
    assert_eq!((first.member_epoch, partitions(&first)), (1, vec![0, 1, 2, 3]));
    let second = client.call(1, &heartbeat("g", "b", 0));
    assert_eq!((second.member_epoch, partitions(&second)), (2, vec![]));
    let told = client.call(1, &heartbeat("g", "a", 1));
    assert_eq!((told.member_epoch, partitions(&told).len()), (1, 2), "it keeps two");
    drop((client, server));

    let server = Server::start(directory.path());
    let mut client = Client::connect(&server);
    // The second still waits, for the first has not said that it gave the others up.
    assert_eq!(client.call(1, &heartbeat("g", "b", 2)).assignment, None);
    let mut given_up = heartbeat("g", "a", 1);
    given_up.topic_partitions = Some(Vec::new());
    assert_eq!(client.call(1, &given_up).member_epoch, 2);
    assert_eq!(partitions(&client.call(1, &heartbeat("g", "b", 2))).len(), 2);
    assert_eq!(listed(&mut client), [("g".into(), "Stable".into(), "consumer".into())]);
    // It is none that the older description knows.
    let request = DescribeGroupsRequest::default().with_groups(vec![group("g")]);
    let described = client.call(6, &request).groups;
    assert_eq!(
        (described[0].error_code, &*described[0].group_state),
        (GroupIdNotFound.code(), "Dead")
    );
}

#[test]
fn an_expression_matches_topics_of_the_broker_itself() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, mut client) = start(&directory, Options::default());
    assert_eq!(commit(&mut client, 8, alone("other")), 0);
    let mut member = heartbeat("g", "a", 0);
    member.subscribed_topic_names = None;
    member.subscribed_topic_regex = Some(text("__consumer_.*"));
    let joined = client.call(1, &member);
    assert_eq!(joined.error_code, 0, "{joined:?}");
    assert_eq!(partitions(&joined), [0]);
}

#[test]
fn a_classic_group_goes_on_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut client) = start(&directory, Options::default());
    let (member, generation) = join_classic(&mut client, "g");
    drop((client, server));

    let server = Server::start(directory.path());
    let mut client = Client::connect(&server);
    let request = HeartbeatRequest::default()
        .with_group_id(group("g"))
        .with_member_id(member.clone())
        .with_generation_id(generation);
    assert_eq!(client.call(3, &request).error_code, 0);
    let standing =
        alone("g").with_member_id(member.clone()).with_generation_id_or_member_epoch(generation);
    assert_eq!(commit(&mut client, 8, standing), 0);
    let request = SyncGroupRequest::default()
        .with_group_id(group("g"))
        .with_member_id(member.clone())
        .with_generation_id(generation);
    assert_eq!(&client.call(2, &request).assignment[..], b"all of it");
    assert_eq!(leave_classic(&mut client, "g", member), 0);
    assert_eq!(listed(&mut client), [("g".into(), "Empty".into(), "classic".into())]);
}

#[test]
fn what_is_too_large_to_be_stored_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, mut client) = start(&directory, Options::default());
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(vec![0; 5 << 20].into());
    let request = JoinGroupRequest::default()
        .with_group_id(group("g"))
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    assert_eq!(client.call(3, &request).error_code, GroupMaxSizeReached.code());
    let mut request = heartbeat("newer", "a", 0);
    request.subscribed_topic_names =
        Some((0..200).map(|n| TopicName(text(&format!("{n}{}", "x".repeat(30_000))))).collect());
    assert_eq!(client.call(1, &request).error_code, GroupMaxSizeReached.code());
    // Who leads and assigns too much has to share anew.
    let (member, generation) = join_classic(&mut client, "g");
    let rejoin = |client: &mut Client, metadata: &'static [u8]| {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(metadata.into());
        let request = JoinGroupRequest::default()
            .with_group_id(group("g"))
            .with_member_id(member.clone())
            .with_session_timeout_ms(30_000)
            .with_rebalance_timeout_ms(30_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        client.call(3, &request).generation_id
    };
    let sync = |client: &mut Client, generation: i32, bytes: usize| {
        let assignment = SyncGroupRequestAssignment::default()
            .with_member_id(member.clone())
            .with_assignment(vec![0; bytes].into());
        let request = SyncGroupRequest::default()
            .with_group_id(group("g"))
            .with_member_id(member.clone())
            .with_generation_id(generation)
            .with_assignments(vec![assignment]);
        client.call(2, &request).error_code
    };
    assert_eq!(rejoin(&mut client, SUBSCRIPTION), generation + 1);
    assert_eq!(sync(&mut client, generation + 1, 5 << 20), UnknownServerError.code());
    assert_eq!(rejoin(&mut client, SUBSCRIPTION), generation + 2);
    assert_eq!(sync(&mut client, generation + 2, 3 << 20), 0);
}

#[test]
fn who_commits_must_be_who_the_group_knows() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, mut client) = start(&directory, Options::default());
    client.call(1, &heartbeat("g", "a", 0));
    let mut check = |member: &str, epoch: i32, version: i16, expected: Option<ResponseError>| {
        let request =
            alone("g").with_member_id(text(member)).with_generation_id_or_member_epoch(epoch);
        let expected = expected.map_or(0, |error| error.code());
        assert_eq!(commit(&mut client, version, request), expected, "{member} {epoch} {version}");
    };
    check("a", 1, 9, None);
    check("a", 9, 9, Some(StaleMemberEpoch));
    check("x", 1, 9, Some(UnknownMemberId));
    check("a", 1, 8, Some(UnsupportedVersion));
    check("", -1, 9, Some(UnknownMemberId));
    let unknown = alone("h").with_generation_id_or_member_epoch(1);
    assert_eq!(commit(&mut client, 9, unknown.clone()), GroupIdNotFound.code());
    assert_eq!(commit(&mut client, 8, unknown), IllegalGeneration.code());
}

#[test]
fn groups_and_commits_are_deleted_unless_somebody_needs_them() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut client) = start(&directory, Options::default());
    assert_eq!(delete(&mut client, ""), GroupIdNotFound.code());
    assert_eq!(delete_offset(&mut client, "", TOPIC, 0), InvalidGroupId.code());
    assert_eq!(delete_offset(&mut client, "g", TOPIC, 0), GroupIdNotFound.code());
    // Of nobody's commits, one goes, and then the group.
    assert_eq!(commit(&mut client, 8, alone("g")), 0);
    assert_eq!(delete_offset(&mut client, "g", "none", 0), UnknownTopicOrPartition.code());
    assert_eq!(delete_offset(&mut client, "g", TOPIC, 9), UnknownTopicOrPartition.code());
    assert_eq!(delete_offset(&mut client, "g", TOPIC, 1), 0, "nothing is committed there");
    assert_eq!(committed(&mut client, "g"), 7);
    assert_eq!(delete_offset(&mut client, "g", TOPIC, 0), 0);
    assert_eq!(committed(&mut client, "g"), -1);
    assert_eq!(commit(&mut client, 8, alone("g")), 0);
    assert_eq!(delete(&mut client, "g"), 0);
    assert_eq!(delete(&mut client, "g"), GroupIdNotFound.code());
    // Members keep both, whatever their protocol.
    let (member, generation) = join_classic(&mut client, "classic");
    let standing = alone("classic")
        .with_member_id(member.clone())
        .with_generation_id_or_member_epoch(generation);
    assert_eq!(commit(&mut client, 8, standing), 0);
    client.call(1, &heartbeat("newer", "a", 0));
    let standing = alone("newer").with_member_id(text("a")).with_generation_id_or_member_epoch(1);
    assert_eq!(commit(&mut client, 9, standing), 0);
    for id in ["classic", "newer"] {
        assert_eq!(delete_offset(&mut client, id, TOPIC, 0), GroupSubscribedToTopic.code(), "{id}");
        assert_eq!(delete(&mut client, id), NonEmptyGroup.code(), "{id}");
        assert_eq!(committed(&mut client, id), 7, "{id}");
    }
    assert_eq!(leave_classic(&mut client, "classic", member), 0);
    assert_eq!(client.call(1, &heartbeat("newer", "a", -1)).error_code, 0);
    for id in ["classic", "newer"] {
        assert_eq!(delete(&mut client, id), 0, "{id}");
    }
    drop((client, server));

    let server = Server::start(directory.path());
    let mut client = Client::connect(&server);
    assert_eq!(listed(&mut client), []);
    for id in ["g", "classic", "newer"] {
        assert_eq!(committed(&mut client, id), -1, "{id}");
    }
}

#[test]
fn commits_that_nobody_needs_expire() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        group_offsets_retention: Duration::from_millis(1),
        group_offsets_check: Duration::from_millis(20),
        ..Options::default()
    };
    let (_server, mut client) = start(&directory, options);
    client.call(1, &heartbeat("newer", "a", 0));
    let standing = alone("newer").with_member_id(text("a")).with_generation_id_or_member_epoch(1);
    assert_eq!(commit(&mut client, 9, standing), 0);
    let (member, generation) = join_classic(&mut client, "classic");
    let standing = alone("classic")
        .with_member_id(member.clone())
        .with_generation_id_or_member_epoch(generation);
    assert_eq!(commit(&mut client, 8, standing), 0);
    assert_eq!(commit(&mut client, 8, alone("nobody")), 0);
    wait_until("nobody's commit expires", || committed(&mut client, "nobody") == -1);
    // What expires together is taken back together: the others' would be gone, too.
    assert_eq!((committed(&mut client, "newer"), committed(&mut client, "classic")), (7, 7));
    leave_classic(&mut client, "classic", member);
    client.call(1, &heartbeat("newer", "a", -1));
    wait_until("groups without members end", || listed(&mut client).is_empty());
    assert_eq!((committed(&mut client, "newer"), committed(&mut client, "classic")), (-1, -1));
}

#[test]
fn a_commit_may_say_itself_how_long_it_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { group_offsets_check: Duration::from_millis(20), ..Options::default() };
    let (_server, mut client) = start(&directory, options);
    assert_eq!(commit(&mut client, 4, alone("usual")), 0);
    assert_eq!(commit(&mut client, 4, alone("short").with_retention_time_ms(1)), 0);
    wait_until("it expires", || committed(&mut client, "short") == -1);
    assert_eq!(committed(&mut client, "usual"), 7);
}
