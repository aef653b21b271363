//! What administrators ask, as the protocol's bytes show it: partitions, deleted records, epochs,
//! pages of topics, replicas, what is internal.

#[path = "support/client.rs"]
mod client;
mod support;

use afflux_record::{Compression, batch::Builder};
use afflux_types::Timestamp;
use client::Client;
use kafka_protocol::{
    ResponseError::{self, *},
    messages::{
        AlterPartitionReassignmentsRequest, ApiVersionsRequest, BrokerId, CreatePartitionsRequest,
        CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DescribeClusterRequest,
        DescribeConfigsRequest, DescribeGroupsRequest, DescribeLogDirsRequest,
        DescribeTopicPartitionsRequest, ElectLeadersRequest, FetchRequest, GroupId,
        IncrementalAlterConfigsRequest, ListConfigResourcesRequest, ListOffsetsRequest,
        ListPartitionReassignmentsRequest, MetadataRequest, OffsetCommitRequest,
        OffsetForLeaderEpochRequest, ProduceRequest, TopicName,
        alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic},
        create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic},
        create_topics_request::{CreatableReplicaAssignment, CreatableTopic},
        delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
        describe_configs_request::DescribeConfigsResource,
        describe_log_dirs_request::DescribableLogDirTopic,
        describe_topic_partitions_request::{Cursor, TopicRequest},
        elect_leaders_request::TopicPartitions,
        fetch_request::{FetchPartition, FetchTopic},
        incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
        metadata_request::MetadataRequestTopic,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic},
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::StrBytes,
};
use support::Server;

const OFFSETS: &str = "__consumer_offsets";

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// A listener with a topic `t` of one partition, and a connection to it.
fn start(directory: &tempfile::TempDir) -> (Server, Client) {
    let server = Server::start(directory.path());
    let mut client = Client::connect(&server);
    assert_eq!(create(&mut client, "t", 1, 1, &[]), 0);
    (server, client)
}

fn create(client: &mut Client, topic: &str, partitions: i32, replicas: i16, on: &[i32]) -> i16 {
    let assignments = (0..).zip(on).map(|(index, node)| {
        let assignment = CreatableReplicaAssignment::default().with_partition_index(index);
        assignment.with_broker_ids(vec![BrokerId(*node)])
    });
    let topic = CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(partitions)
        .with_replication_factor(replicas)
        .with_assignments(assignments.collect());
    let request = CreateTopicsRequest::default().with_topics(vec![topic]);
    client.call(7, &request).topics[0].error_code
}

fn grow(client: &mut Client, topic: &str, count: i32, on: Option<&[i32]>, only_check: bool) -> i16 {
    let assignment =
        |node: &i32| CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(*node)]);
    let topic = CreatePartitionsTopic::default()
        .with_name(name(topic))
        .with_count(count)
        .with_assignments(on.map(|on| on.iter().map(assignment).collect()));
    let request =
        CreatePartitionsRequest::default().with_topics(vec![topic]).with_validate_only(only_check);
    client.call(3, &request).results[0].error_code
}

/// Appends one batch of so many records; the base offset, or the error.
fn produce(client: &mut Client, topic: &str, partition: i32, records: usize) -> Result<i64, i16> {
    let mut builder = Builder::new(Compression::None);
    for _ in 0..records {
        builder.push(Timestamp(1), None, Some(b"value"));
    }
    let records = builder.finish().unwrap();
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(records));
    let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(1_000);
    let response = client.call(9, &request.with_topic_data(vec![topic]));
    let done = &response.responses[0].partition_responses[0];
    if done.error_code == 0 { Ok(done.base_offset) } else { Err(done.error_code) }
}

fn delete_records(client: &mut Client, topic: &str, before: &[(i32, i64)]) -> Vec<(i64, i16)> {
    let at = |(partition, offset): &(i32, i64)| {
        DeleteRecordsPartition::default().with_partition_index(*partition).with_offset(*offset)
    };
    let topic = DeleteRecordsTopic::default()
        .with_name(name(topic))
        .with_partitions(before.iter().map(at).collect());
    let response = client.call(2, &DeleteRecordsRequest::default().with_topics(vec![topic]));
    let partitions = response.topics[0].partitions.iter();
    partitions.map(|at| (at.low_watermark, at.error_code)).collect()
}

/// What the listener says of an epoch: its error, and the epoch and where it ends.
fn epoch_end(client: &mut Client, topic: &str, current: i32, epoch: i32) -> (i16, (i32, i64)) {
    let partition = OffsetForLeaderPartition::default()
        .with_current_leader_epoch(current)
        .with_leader_epoch(epoch);
    let topic =
        OffsetForLeaderTopic::default().with_topic(name(topic)).with_partitions(vec![partition]);
    let response = client.call(4, &OffsetForLeaderEpochRequest::default().with_topics(vec![topic]));
    let end = &response.topics[0].partitions[0];
    (end.error_code, (end.leader_epoch, end.end_offset))
}

fn leader_epoch(client: &mut Client) -> i32 {
    let topic = MetadataRequestTopic::default().with_name(Some(name("t")));
    let request = MetadataRequest::default().with_topics(Some(vec![topic]));
    client.call(9, &request).topics[0].partitions[0].leader_epoch
}

#[test]
fn topics_get_more_partitions() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut client) = start(&directory);
    assert_eq!(produce(&mut client, "t", 2, 1), Err(UnknownTopicOrPartition.code()));
    let refused = [
        ("t", 1, None, InvalidPartitions),
        ("t", 0, None, InvalidPartitions),
        ("t", 1_000_000, None, InvalidPartitions),
        ("u", 3, None, UnknownTopicOrPartition),
        ("not a name", 3, None, InvalidTopicException),
        ("__afflux_ddl", 3, None, UnknownTopicOrPartition),
        ("t", 3, Some(&[1][..]), InvalidReplicaAssignment),
        ("t", 3, Some(&[1, 2][..]), InvalidReplicaAssignment),
    ];
    for (topic, count, on, error) in refused {
        assert_eq!(grow(&mut client, topic, count, on, false), error.code(), "{topic} {count}");
    }
    assert_eq!(grow(&mut client, "t", 3, None, true), 0);
    assert_eq!(produce(&mut client, "t", 2, 1), Err(UnknownTopicOrPartition.code()));
    assert_eq!(grow(&mut client, "t", 3, Some(&[1, 1]), false), 0);
    assert_eq!(produce(&mut client, "t", 2, 1), Ok(0));
    drop((client, server));
    let server = Server::start(directory.path());
    let mut client = Client::connect(&server);
    assert_eq!(produce(&mut client, "t", 2, 1), Ok(1));
    assert_eq!(grow(&mut client, "t", 3, None, false), InvalidPartitions.code());
}

#[test]
fn a_topic_that_is_named_twice_is_neither_made_nor_grown() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, mut client) = start(&directory);
    let new = CreatableTopic::default().with_num_partitions(1).with_replication_factor(1);
    let topics = ["u", "u", "v"].map(|topic| new.clone().with_name(name(topic)));
    let made = client.call(7, &CreateTopicsRequest::default().with_topics(topics.to_vec()));
    let errors: Vec<i16> = made.topics.iter().map(|topic| topic.error_code).collect();
    assert_eq!(errors, [InvalidRequest.code(), 0], "one answer each");
    let more = CreatePartitionsTopic::default().with_count(2).with_assignments(None);
    let topics = ["t", "v", "t"].map(|topic| more.clone().with_name(name(topic)));
    let grown = client.call(3, &CreatePartitionsRequest::default().with_topics(topics.to_vec()));
    let errors: Vec<i16> = grown.results.iter().map(|topic| topic.error_code).collect();
    assert_eq!(errors, [InvalidRequest.code(), 0]);
}

#[test]
fn who_only_asks_whether_a_topic_can_be_made_is_told_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, mut client) = start(&directory);
    let new = |topic: &str, partitions: i32, replicas: i16| {
        CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(partitions)
            .with_replication_factor(replicas)
    };
    let mut check = |topics: &[CreatableTopic], expected: &[i16]| {
        for only_check in [true, false] {
            let request = CreateTopicsRequest::default().with_topics(topics.to_vec());
            let answer = client.call(7, &request.with_validate_only(only_check));
            let errors: Vec<i16> = answer.topics.iter().map(|topic| topic.error_code).collect();
            assert_eq!(errors, expected, "{topics:?}, only checked: {only_check}");
        }
    };
    let (illegal, taken) = (InvalidTopicException.code(), TopicAlreadyExists.code());
    check(&[new("u", 10_001, 1)], &[InvalidPartitions.code()]);
    check(&[new("u", i32::MAX, 1)], &[InvalidPartitions.code()]);
    check(&[new("u", 0, 1)], &[InvalidPartitions.code()]);
    check(&[new("u", 1, 2)], &[InvalidReplicationFactor.code()]);
    check(&[new("t", 1, 1)], &[taken]);
    // Of names that metrics can not tell apart the first one counts.
    check(&[new("a.b_c", 1, 1), new("a_b_c", 1, 1), new("a.bc", 1, 1)], &[0, illegal, 0]);
    check(&[new("a_b.c", 1, 1)], &[illegal]);
    check(&[new("a.b_c", 1, 1)], &[taken]);
    check(&[new("A.b_c", 1, 1), new("a.b.c.", 1, 1)], &[0, 0]);
    let asked = MetadataRequestTopic::default().with_name(Some(name("a.b.c")));
    let request = MetadataRequest::default().with_topics(Some(vec![asked]));
    let answer = client.call(9, &request.with_allow_auto_topic_creation(true));
    assert_eq!(answer.topics[0].error_code, illegal, "nor is it made by use");
    // Once the other is gone it can be made.
    let gone = DeleteTopicsRequest::default().with_topic_names(vec![name("a.b_c")]);
    assert_eq!(client.call(4, &gone).responses[0].error_code, 0);
    assert_eq!(create(&mut client, "a_b_c", 1, 1, &[]), 0);
}

#[test]
fn clients_say_what_they_are_in_letters_and_digits() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, mut client) = start(&directory);
    for (software, number, is_legal) in [
        ("afflux", "1.0", true),
        ("apache-kafka-java", "4.1.0-rc.1", true),
        ("", "1.0", false),
        ("afflux", "", false),
        ("a b", "1.0", false),
        ("afflux", "1.0-", false),
    ] {
        for version in 0..=4 {
            let text = |text: &str| StrBytes::from_string(text.to_owned());
            let request = ApiVersionsRequest::default()
                .with_client_software_name(text(software))
                .with_client_software_version(text(number));
            let answer = client.call(version, &request);
            let expected = if is_legal || version < 3 { 0 } else { InvalidRequest.code() };
            assert_eq!(answer.error_code, expected, "{software:?} {number:?} {version}");
            assert_eq!(answer.api_keys.is_empty(), expected != 0);
        }
    }
}

#[test]
fn records_are_deleted_up_to_an_offset() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut client) = start(&directory);
    assert_eq!(grow(&mut client, "t", 2, None, false), 0);
    for partition in 0..2 {
        assert_eq!(produce(&mut client, "t", partition, 10), Ok(0));
    }
    let unknown = UnknownTopicOrPartition.code();
    let out = OffsetOutOfRange.code();
    let check = |client: &mut Client, before: &[(i32, i64)], expected: &[(i64, i16)]| {
        assert_eq!(delete_records(client, "t", before), expected, "{before:?}");
    };
    check(&mut client, &[(0, 4), (1, 11), (2, 0)], &[(4, 0), (-1, out), (-1, unknown)]);
    check(&mut client, &[(0, 2), (1, -2)], &[(4, 0), (-1, out)]);
    // The later of the two holds, whichever comes first.
    let both = delete_records(&mut client, "t", &[(1, -1), (1, 5)]);
    assert!(both.iter().all(|(_, error)| *error == 0), "{both:?}");
    check(&mut client, &[(1, 0)], &[(10, 0)]);
    assert_eq!(delete_records(&mut client, "u", &[(0, 1)]), [(-1, unknown)]);
    drop((client, server));
    let server = Server::start(directory.path());
    let mut client = Client::connect(&server);
    check(&mut client, &[(0, 0), (1, 0)], &[(4, 0), (10, 0)]);
    assert_eq!(produce(&mut client, "t", 1, 1), Ok(10));
}

#[test]
fn epochs_end_where_the_next_one_begins() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut client) = start(&directory);
    let first = leader_epoch(&mut client);
    produce(&mut client, "t", 0, 3).unwrap();
    assert_eq!(epoch_end(&mut client, "t", first, first), (0, (first, 3)));
    drop((client, server));
    let server = Server::start(directory.path());
    let mut client = Client::connect(&server);
    let second = leader_epoch(&mut client);
    assert!(second > first);
    // Nothing was written yet: the first goes on to the end.
    assert_eq!(epoch_end(&mut client, "t", second, first), (0, (first, 3)));
    produce(&mut client, "t", 0, 2).unwrap();
    assert_eq!(epoch_end(&mut client, "t", second, first), (0, (first, 3)));
    assert_eq!(epoch_end(&mut client, "t", -1, second), (0, (second, 5)));
    assert_eq!(epoch_end(&mut client, "t", second, second + 1), (0, (-1, -1)));
    let none = (-1, -1);
    assert_eq!(epoch_end(&mut client, "t", first, first), (FencedLeaderEpoch.code(), none));
    let later = second + 1;
    assert_eq!(epoch_end(&mut client, "t", later, first), (UnknownLeaderEpoch.code(), none));
    assert_eq!(epoch_end(&mut client, "u", -1, first), (UnknownTopicOrPartition.code(), none));
}

/// KIP-320: who was away while the node started anew has to look before it reads on.
#[test]
fn readers_of_another_epoch_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, mut client) = start(&directory);
    produce(&mut client, "t", 0, 3).unwrap();
    let now = leader_epoch(&mut client);
    let expected = [
        (-1, 0),
        (now, 0),
        (now - 1, FencedLeaderEpoch.code()),
        (now + 1, UnknownLeaderEpoch.code()),
    ];
    for (epoch, code) in expected {
        let partition =
            FetchPartition::default().with_current_leader_epoch(epoch).with_partition_max_bytes(1);
        let topic = FetchTopic::default().with_topic(name("t")).with_partitions(vec![partition]);
        let request = FetchRequest::default().with_max_bytes(1).with_topics(vec![topic]);
        let answer = client.call(12, &request);
        let got = &answer.responses[0].partitions[0];
        assert_eq!(
            (got.error_code, got.records.as_ref().is_some_and(|r| !r.is_empty())),
            (code, code == 0)
        );
        let partition =
            ListOffsetsPartition::default().with_current_leader_epoch(epoch).with_timestamp(-1);
        let topic =
            ListOffsetsTopic::default().with_name(name("t")).with_partitions(vec![partition]);
        let answer = client.call(7, &ListOffsetsRequest::default().with_topics(vec![topic]));
        let got = &answer.topics[0].partitions[0];
        assert_eq!((got.error_code, got.offset), (code, if code == 0 { 3 } else { -1 }));
    }
}

#[test]
fn partitions_are_described_a_page_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, mut client) = start(&directory);
    assert_eq!(create(&mut client, "a", 5, 1, &[]), 0);
    let mut page = |topics: &[&str], limit: i32, at: Option<(&str, i32)>| {
        let topic = |topic: &&str| TopicRequest::default().with_name(name(topic));
        let cursor = |(topic, partition): (&str, i32)| {
            Cursor::default().with_topic_name(name(topic)).with_partition_index(partition)
        };
        let request = DescribeTopicPartitionsRequest::default()
            .with_topics(topics.iter().map(topic).collect())
            .with_response_partition_limit(limit)
            .with_cursor(at.map(cursor));
        let response = client.call(0, &request);
        let found = response.topics.iter().map(|topic| {
            let partitions: Vec<i32> = topic.partitions.iter().map(|p| p.partition_index).collect();
            (topic.name.as_ref().unwrap().to_string(), topic.error_code, partitions)
        });
        let next = response.next_cursor.map(|c| (c.topic_name.to_string(), c.partition_index));
        (found.collect::<Vec<_>>(), next)
    };
    let topic = |name: &str, error: Option<ResponseError>, partitions: &[i32]| {
        (name.to_owned(), error.map_or(0, |error| error.code()), partitions.to_vec())
    };
    let cursor = |topic: &str, partition: i32| Some((topic.to_owned(), partition));
    let (a, t) = (topic("a", None, &[0, 1, 2, 3, 4]), topic("t", None, &[0]));
    assert_eq!(page(&[], 2000, None), (vec![a.clone(), t.clone()], None));
    assert_eq!(page(&[], 3, None), (vec![topic("a", None, &[0, 1, 2])], cursor("a", 3)));
    assert_eq!(page(&[], 3, Some(("a", 3))), (vec![topic("a", None, &[3, 4]), t.clone()], None));
    assert_eq!(page(&["t", "a"], 5, None), (vec![a], cursor("t", 0)));
    assert_eq!(page(&["t", "a"], 5, Some(("t", 0))), (vec![t], None));
    let unknown = topic("nobody", Some(UnknownTopicOrPartition), &[]);
    assert_eq!(page(&["nobody"], 0, None), (vec![unknown], None));
}

#[test]
fn replicas_and_leaders_are_where_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, mut client) = start(&directory);
    assert_eq!(create(&mut client, "on-1", -1, -1, &[1, 1]), 0);
    assert_eq!(create(&mut client, "on-2", -1, -1, &[1, 2]), InvalidReplicaAssignment.code());
    assert_eq!(create(&mut client, "counted", 2, -1, &[1, 1]), InvalidRequest.code());

    let elect = |topic: &str, partition: i32| {
        let partitions = TopicPartitions::default().with_topic(name(topic));
        let partitions = partitions.with_partitions(vec![partition]);
        ElectLeadersRequest::default().with_topic_partitions(Some(vec![partitions]))
    };
    let mut elected = |request: &ElectLeadersRequest| {
        let response = client.call(2, request);
        assert_eq!(response.error_code, 0);
        let results = response.replica_election_results.iter();
        results.map(|topic| topic.partition_result[0].error_code).collect::<Vec<_>>()
    };
    assert_eq!(elected(&elect("on-1", 1)), [ElectionNotNeeded.code()]);
    assert_eq!(elected(&elect("on-1", 2)), [UnknownTopicOrPartition.code()]);
    assert_eq!(elected(&ElectLeadersRequest::default().with_topic_partitions(None)), [0_i16; 0]);

    let mut reassign = |topic: &str, nodes: Option<&[i32]>| {
        let nodes = nodes.map(|nodes| nodes.iter().map(|node| BrokerId(*node)).collect());
        let partition = ReassignablePartition::default().with_replicas(nodes);
        let topic = ReassignableTopic::default().with_name(name(topic));
        let topic = topic.with_partitions(vec![partition]);
        let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
        client.call(1, &request).responses[0].partitions[0].error_code
    };
    assert_eq!(reassign("t", Some(&[1])), 0);
    assert_eq!(reassign("t", Some(&[2])), InvalidReplicaAssignment.code());
    assert_eq!(reassign("t", None), NoReassignmentInProgress.code());
    assert_eq!(reassign("u", Some(&[1])), UnknownTopicOrPartition.code());
    let moving = client.call(0, &ListPartitionReassignmentsRequest::default().with_topics(None));
    assert!(moving.topics.is_empty() && moving.error_code == 0);
}

#[test]
fn what_there_is_has_a_size_and_settings() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, mut client) = start(&directory);
    let mut sizes = |topics: Option<&[&str]>| {
        let topic = |topic: &&str| {
            DescribableLogDirTopic::default().with_topic(name(topic)).with_partitions(vec![0, 7])
        };
        let topics = topics.map(|topics| topics.iter().map(topic).collect());
        let response = client.call(4, &DescribeLogDirsRequest::default().with_topics(topics));
        let dir = &response.results[0];
        assert!(dir.log_dir.starts_with(directory.path().to_str().unwrap()));
        assert!(dir.usable_bytes > 0 && dir.total_bytes > dir.usable_bytes);
        let topics = dir.topics.iter().map(|topic| {
            let sizes: Vec<i64> = topic.partitions.iter().map(|p| p.partition_size).collect();
            (topic.name.to_string(), sizes)
        });
        topics.collect::<Vec<_>>()
    };
    assert_eq!(sizes(None), [("t".to_owned(), vec![0])]);
    assert_eq!(sizes(Some(&["u", "t"])), [("t".to_owned(), vec![0])]);
    produce(&mut client, "t", 0, 100).unwrap();
    let response = client.call(1, &DescribeLogDirsRequest::default().with_topics(None));
    assert!(response.results[0].topics[0].partitions[0].partition_size > 500);

    let mut resources = |version: i16, kinds: &[i8]| {
        let request = ListConfigResourcesRequest::default().with_resource_types(kinds.to_vec());
        let response = client.call(version, &request);
        let found = response.config_resources.iter();
        found.map(|at| (at.resource_type, at.resource_name.to_string())).collect::<Vec<_>>()
    };
    assert_eq!(resources(1, &[]), [(2, "t".to_owned()), (4, "1".to_owned())]);
    assert_eq!(resources(1, &[4]), [(4, "1".to_owned())]);
    assert_eq!(resources(1, &[16]), []);
    assert_eq!(resources(0, &[]), []);

    let nodes = DescribeClusterRequest::default().with_endpoint_type(1);
    assert_eq!(client.call(1, &nodes).brokers.len(), 1);
    let controllers = DescribeClusterRequest::default().with_endpoint_type(2);
    assert_eq!(client.call(1, &controllers).error_code, MismatchedEndpointType.code());
}

#[test]
fn committed_offsets_are_read_and_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, mut client) = start(&directory);
    let listed = |client: &mut Client| {
        let response = client.call(9, &MetadataRequest::default().with_topics(None));
        let topics =
            response.topics.iter().map(|t| (t.name.as_ref().unwrap().to_string(), t.is_internal));
        topics.collect::<Vec<_>>()
    };
    let invalid = InvalidTopicException.code();
    // Nobody makes it by asking for it.
    assert_eq!(create(&mut client, OFFSETS, 1, 1, &[]), invalid);
    assert_eq!(listed(&mut client), [("t".to_owned(), false)]);
    let at = OffsetCommitRequestPartition::default().with_committed_offset(0);
    let topic = OffsetCommitRequestTopic::default().with_name(name("t")).with_partitions(vec![at]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(StrBytes::from_static_str("g")))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    assert_eq!(client.call(8, &request).topics[0].partitions[0].error_code, 0);
    assert_eq!(listed(&mut client), [("t".to_owned(), false), (OFFSETS.to_owned(), true)]);

    let exists = TopicAlreadyExists.code();
    assert_eq!(create(&mut client, OFFSETS, 1, 1, &[]), exists);
    assert_eq!(grow(&mut client, OFFSETS, 3, None, false), invalid);
    assert_eq!(produce(&mut client, OFFSETS, 0, 1), Err(invalid));
    assert_eq!(delete_records(&mut client, OFFSETS, &[(0, -1)]), [(-1, invalid)]);
    let delete = DeleteTopicsRequest::default().with_topic_names(vec![name(OFFSETS)]);
    assert_eq!(client.call(5, &delete).responses[0].error_code, invalid);
    let resource = StrBytes::from_static_str(OFFSETS);
    let change = AlterableConfig::default()
        .with_name(StrBytes::from_static_str("retention.ms"))
        .with_value(Some(StrBytes::from_static_str("1")));
    let alter = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(resource.clone())
        .with_configs(vec![change]);
    let alter = IncrementalAlterConfigsRequest::default().with_resources(vec![alter]);
    assert_eq!(client.call(1, &alter).responses[0].error_code, invalid);
    let describe =
        DescribeConfigsResource::default().with_resource_type(2).with_resource_name(resource);
    let describe = DescribeConfigsRequest::default().with_resources(vec![describe]);
    assert_eq!(client.call(4, &describe).results[0].error_code, 0);
}

#[test]
fn who_asks_is_told_that_all_is_allowed() {
    // What Kafka answers that has no authorizer.
    const CLUSTER: i32 = 8096;
    const GROUP: i32 = 3400;
    const TOPIC: i32 = 3576;
    let directory = tempfile::tempdir().unwrap();
    let (_server, mut client) = start(&directory);
    for (is_asked, cluster, topic, group) in
        [(true, CLUSTER, TOPIC, GROUP), (false, i32::MIN, i32::MIN, i32::MIN)]
    {
        let request = MetadataRequest::default()
            .with_include_cluster_authorized_operations(is_asked)
            .with_include_topic_authorized_operations(is_asked)
            .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(name("t")))]));
        let told = client.call(10, &request);
        assert_eq!(told.cluster_authorized_operations, cluster);
        assert_eq!(told.topics[0].topic_authorized_operations, topic);

        let request = DescribeClusterRequest::default().with_endpoint_type(1);
        let request = request.with_include_cluster_authorized_operations(is_asked);
        assert_eq!(client.call(2, &request).cluster_authorized_operations, cluster);

        let groups = vec![GroupId(StrBytes::from_static_str("nobody"))];
        let mut described = |version: i16| {
            let request = DescribeGroupsRequest::default()
                .with_groups(groups.clone())
                .with_include_authorized_operations(is_asked);
            client.call(version, &request).groups[0].authorized_operations
        };
        assert_eq!((described(5), described(6)), (group, i32::MIN));
    }
    let request = DescribeTopicPartitionsRequest::default().with_response_partition_limit(1);
    assert_eq!(client.call(0, &request).topics[0].topic_authorized_operations, TOPIC);
}
