//! The listener as its bytes show it: every served version, order, limits, and what it does with
//! what it does not understand.

#![expect(clippy::disallowed_methods, reason = "patience is measured on the wall")]

#[path = "support/client.rs"]
mod client;
#[path = "support/requests.rs"]
mod requests;
mod support;

use std::{
    io::{ErrorKind, Read, Write},
    time::{Duration, Instant},
};

use afflux_kafka::Options;
use afflux_record::{
    Compression,
    batch::{Builder, HEADER_BYTES, Producer},
    fuzzing::mended_batch,
};
use afflux_types::{ProducerEpoch, ProducerId, Timestamp};
use bytes::{Buf, Bytes};
use client::Client;
use kafka_protocol::{
    messages::{
        ApiVersionsRequest, ApiVersionsResponse, CreateTopicsRequest, DeleteTopicsRequest,
        DescribeClusterRequest, DescribeGroupsRequest, FetchRequest, FetchResponse,
        FindCoordinatorRequest, HeartbeatRequest, InitProducerIdRequest, JoinGroupRequest,
        LeaveGroupRequest, ListGroupsRequest, ListOffsetsRequest, MetadataRequest,
        OffsetCommitRequest, OffsetFetchRequest, ProduceResponse, SyncGroupRequest, TopicName,
        create_topics_request::CreatableTopic,
        delete_topics_request::DeleteTopicState,
        join_group_request::JoinGroupRequestProtocol,
        leave_group_request::MemberIdentity,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
        metadata_request::MetadataRequestTopic,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic},
        produce_request::PartitionProduceData,
    },
    protocol::{Request, StrBytes},
};
use requests::{batch, create, fetch, name, produce};
use support::Server;

fn is_closed(client: &mut Client) -> bool {
    match client.0.read(&mut [0]) {
        Ok(0) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
        Ok(_) => false,
    }
}

fn error_of(response: &ProduceResponse) -> i16 {
    response.responses[0].partition_responses[0].error_code
}

fn code_of(response: &FetchResponse) -> i16 {
    response.responses[0].partitions[0].error_code
}

/// Sends a request in each of some versions; its answer must be there and decode.
fn every<R: Request>(
    client: &mut Client,
    versions: std::ops::RangeInclusive<i16>,
    request: impl Fn(i16) -> R,
) {
    for version in versions {
        client.call(version, &request(version));
    }
}

#[test]
fn every_served_version_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let client = &mut Client::connect(&server);
    let text = StrBytes::from_static_str;
    let id = create(client, "t");
    let versions: ApiVersionsResponse = client.call(2, &ApiVersionsRequest::default());
    let served = |key: i16| {
        let api = versions.api_keys.iter().find(|api| api.api_key == key).unwrap();
        // Produce says 0 for librdkafka's sake, and serves from 3 on.
        (if key == 0 { 3 } else { api.min_version })..=api.max_version
    };
    every(client, served(18), |_| {
        let request = ApiVersionsRequest::default().with_client_software_name(text("wire"));
        request.with_client_software_version(text("1.0"))
    });
    every(client, served(3), |_| {
        MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(true)
    });
    every(client, 0..=0, |_| MetadataRequest::default().with_topics(Some(Vec::new())));
    every(client, served(3), |_| {
        let unknown = MetadataRequestTopic::default().with_name(Some(name("made by asking")));
        let legal = MetadataRequestTopic::default().with_name(Some(name("legal")));
        MetadataRequest::default().with_topics(Some(vec![unknown, legal]))
    });
    every(client, served(0), |version| {
        let mut request = produce("t", 0, batch(&["a", "b"]));
        request.topic_data[0].topic_id = id;
        if version >= 13 {
            request.topic_data[0].name = TopicName::default();
        }
        request
    });
    every(client, served(1), |version| {
        let mut request = fetch("t", 0, 0, 0);
        request.topics[0].topic_id = id;
        if version >= 13 {
            request.topics[0].topic = TopicName::default();
        }
        request
    });
    every(client, served(2), |_| {
        let at = |timestamp| ListOffsetsPartition::default().with_timestamp(timestamp);
        let times = [-1, -2, -3, -4, -5, 0, 5].map(at).to_vec();
        let topic = ListOffsetsTopic::default().with_name(name("t")).with_partitions(times);
        ListOffsetsRequest::default().with_topics(vec![topic])
    });
    every(client, served(10), |version| {
        let request = FindCoordinatorRequest::default();
        if version >= 4 {
            request.with_coordinator_keys(vec![text("g")])
        } else {
            request.with_key(text("g"))
        }
    });
    every(client, served(22), |_| InitProducerIdRequest::default().with_transactional_id(None));
    every(client, served(60), |_| DescribeClusterRequest::default());
    every(client, served(8), |_| {
        let at = OffsetCommitRequestPartition::default()
            .with_committed_offset(1)
            .with_committed_metadata(Some(text("m")));
        let topic =
            OffsetCommitRequestTopic::default().with_name(name("t")).with_partitions(vec![at]);
        OffsetCommitRequest::default()
            .with_group_id(text("g").into())
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic])
    });
    every(client, served(9), |version| {
        let request = OffsetFetchRequest::default();
        if version >= 8 {
            let group = OffsetFetchRequestGroup::default()
                .with_group_id(text("g").into())
                .with_topics(None);
            return request.with_groups(vec![group]);
        }
        let topic = OffsetFetchRequestTopic::default()
            .with_name(name("t"))
            .with_partition_indexes(vec![0, 1]);
        request.with_group_id(text("g").into()).with_topics(Some(vec![topic]))
    });
    every(client, served(11), |version| {
        let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
        JoinGroupRequest::default()
            .with_group_id(StrBytes::from_string(format!("joined-{version}")).into())
            .with_session_timeout_ms(10_000)
            .with_rebalance_timeout_ms(if version >= 1 { 10_000 } else { -1 })
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol])
    });
    every(client, served(12), |_| HeartbeatRequest::default().with_group_id(text("g").into()));
    every(client, served(14), |_| SyncGroupRequest::default().with_group_id(text("g").into()));
    every(client, served(13), |version| {
        let request = LeaveGroupRequest::default().with_group_id(text("g").into());
        if version >= 3 {
            request.with_members(vec![MemberIdentity::default().with_member_id(text("m"))])
        } else {
            request.with_member_id(text("m"))
        }
    });
    every(client, served(15), |_| {
        DescribeGroupsRequest::default().with_groups(vec![
            text("g").into(),
            text("joined-2").into(),
            text("none").into(),
        ])
    });
    every(client, served(16), |_| ListGroupsRequest::default());
    every(client, served(19), |version| {
        let topic = CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_string(format!("made-{version}"))))
            .with_num_partitions(1)
            .with_replication_factor(1);
        let mut bad = topic.clone();
        bad.replication_factor = 3;
        CreateTopicsRequest::default().with_topics(vec![topic, bad])
    });
    every(client, served(20), |version| {
        let request = DeleteTopicsRequest::default();
        let topic = TopicName(StrBytes::from_string(format!("made-{}", version + 1)));
        if version >= 6 {
            request.with_topics(vec![DeleteTopicState::default().with_name(Some(topic))])
        } else {
            request.with_topic_names(vec![topic])
        }
    });
}

#[test]
fn an_unknown_version_of_api_versions_is_answered_in_version_0() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let mut client = Client::connect(&server);
    // Key 18, version 99, correlation 5, and a header nobody knows yet.
    client.send_frame(&[0, 18, 0, 99, 0, 0, 0, 5, 1, 2, 3, 4, 5]);
    let (correlation, response): (_, ApiVersionsResponse) = client.receive(0);
    assert_eq!((correlation, response.error_code), (5, 35));
    let [only] = &response.api_keys[..] else { panic!("{response:?}") };
    assert_eq!((only.api_key, only.min_version, only.max_version), (18, 0, 4));
    // The connection lives on.
    let response = client.call(0, &ApiVersionsRequest::default());
    assert_eq!(response.error_code, 0);
}

#[test]
fn what_nobody_can_answer_ends_the_connection_alone() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start_with(
        directory.path(),
        Options {
            frame_bytes_max: 1 << 20,
            stall_max: Duration::from_millis(300),
            ..Options::default()
        },
    );
    let mut bystander = Client::connect(&server);
    let check = |bytes: &[u8]| {
        let mut client = Client::connect(&server);
        client.0.write_all(bytes).unwrap();
        assert!(is_closed(&mut client), "{bytes:?}");
    };
    // A negative length, and one above the limit.
    check(&[0xff, 0xff, 0xff, 0xff]);
    check(&[0x7f, 0xff, 0xff, 0xff]);
    check(&[0, 0x10, 0, 1]);
    // Too short for a header; an API that is not served; a version of Metadata that is not.
    check(&[0, 0, 0, 3, 0, 3, 0]);
    check(&[0, 0, 0, 10, 0, 99, 0, 0, 0, 0, 0, 1, 0, 0]);
    check(&[0, 0, 0, 10, 0, 3, 0, 99, 0, 0, 0, 1, 0, 0]);
    // Produce version 2, which is announced but not served.
    check(&[0, 0, 0, 10, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0]);
    // Metadata for two thousand million topics.
    check(&[0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 1, 0, 0, 0x7f, 0xff, 0xff, 0xff]);
    // A request that stops in its middle.
    check(&[0, 0, 0, 14, 0, 3, 0, 1]);
    assert_eq!(bystander.call(0, &ApiVersionsRequest::default()).error_code, 0);
}

#[test]
fn answers_come_in_the_order_of_requests() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let mut client = Client::connect(&server);
    create(&mut client, "t");
    // A fetch that waits for what is produced behind it would wait for ever: its answer comes
    // first, when its patience ends.
    client.send(4, 1, &fetch("t", 0, 0, 100));
    for correlation in 2..30 {
        client.send(9, correlation, &produce("t", 0, batch(&["x"])));
    }
    client.send(1, 30, &MetadataRequest::default().with_topics(None));
    let (correlation, _): (_, FetchResponse) = client.receive(4);
    assert_eq!(correlation, 1);
    for expected in 2..30 {
        let (correlation, response): (_, ProduceResponse) = client.receive(9);
        assert_eq!((correlation, error_of(&response)), (expected, 0));
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!(partition.base_offset, i64::from(expected) - 2, "requests are taken in order");
    }
    let (correlation, _) = client.receive::<kafka_protocol::messages::MetadataResponse>(1);
    assert_eq!(correlation, 30);
}

#[test]
fn a_fetch_waits_for_what_becomes_durable() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let (mut reader, mut writer) = (Client::connect(&server), Client::connect(&server));
    create(&mut writer, "t");
    let started = Instant::now();
    reader.send(4, 1, &fetch("t", 1, 0, 20_000));
    // Another partition's records do not end the wait.
    writer.call(9, &produce("t", 0, batch(&["other"])));
    writer.call(9, &produce("t", 1, batch(&["mine"])));
    let (_, response): (_, FetchResponse) = reader.receive(4);
    assert!(started.elapsed() < Duration::from_secs(20), "it was woken, not timed out");
    let records = response.responses[0].partitions[0].records.clone().unwrap();
    let record = afflux_record::records(&records).next().unwrap().unwrap();
    assert_eq!(record.value.unwrap(), "mine");
    assert_eq!(response.responses[0].partitions[0].high_watermark, 1);
    // Nothing comes: it ends when its patience does.
    let response = reader.call(4, &fetch("t", 1, 1, 50));
    assert_eq!(response.responses[0].partitions[0].records.as_ref().unwrap().len(), 0);
    assert_eq!(code_of(&reader.call(4, &fetch("t", 1, 2, 50))), 1, "behind the end");
    assert_eq!(code_of(&reader.call(4, &fetch("t", 1, -1, 50))), 1, "before the beginning");
    assert_eq!(code_of(&reader.call(4, &fetch("t", 9, 0, 50))), 3, "no such partition");
    assert_eq!(code_of(&reader.call(4, &fetch("none", 0, 0, 50))), 3, "no such topic");
    let mut session = fetch("t", 1, 0, 0);
    session.session_id = 5;
    session.session_epoch = 1;
    assert_eq!(reader.call(7, &session).error_code, 70, "no such session");
}

#[test]
fn a_fetch_of_nothing_is_answered_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let request = FetchRequest::default().with_max_wait_ms(i32::MAX).with_min_bytes(1);
    let answer = Client::connect(&server).call(12, &request);
    assert_eq!((answer.error_code, answer.responses.len()), (0, 0));
}

/// A fetch of both partitions from their beginning.
fn fetch_both(bytes_max: i32) -> FetchRequest {
    let mut request = fetch("t", 0, 0, 0).with_max_bytes(bytes_max);
    let first = request.topics[0].partitions[0].clone();
    request.topics[0].partitions.push(first.with_partition(1));
    request
}

/// Bytes of batches from each partition.
fn sizes(answer: &FetchResponse) -> Vec<usize> {
    let partitions = answer.responses[0].partitions.iter();
    partitions.map(|at| at.records.as_ref().map_or(0, Bytes::len)).collect()
}

#[test]
fn the_first_batch_comes_however_large_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let mut client = Client::connect(&server);
    create(&mut client, "t");
    let large = "x".repeat(10_000);
    for partition in [0, 0, 1] {
        client.call(9, &produce("t", partition, batch(&[&large])));
    }
    let mut request = fetch_both(100);
    // More is wanted than fits, so there is nothing to wait for.
    (request.min_bytes, request.max_wait_ms) = (1 << 20, 20_000);
    let started = Instant::now();
    let response = client.call(4, &request);
    assert!(started.elapsed() < Duration::from_secs(20), "it is full, and was held back");
    let sizes = sizes(&response);
    assert!((10_000..20_000).contains(&sizes[0]), "one batch, whole: {sizes:?}");
    assert_eq!(sizes[1], 0, "but no more than the first");
}

#[test]
fn partitions_share_an_answer_in_which_not_all_have_room() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let mut client = Client::connect(&server);
    create(&mut client, "t");
    let kilobyte = "x".repeat(1_000);
    for _ in 0..20 {
        client.call(9, &produce("t", 0, batch(&[&kilobyte])));
    }
    let mut fetched = || sizes(&client.call(4, &fetch_both(10_000)));
    // Who is alone gets all of it.
    assert!(matches!(fetched()[..], [8_000..=10_000, 0]), "{:?}", fetched());
    // Half of it, and the other what that left.
    let mut writer = Client::connect(&server);
    for size in [1_000, 5_500, 1_000] {
        writer.call(9, &produce("t", 1, batch(&[&"y".repeat(size)])));
    }
    assert!(matches!(fetched()[..], [4_000..=5_000, 1_000..=1_200]), "{:?}", fetched());
}

#[test]
fn many_batches_that_unpack_to_much_are_taken() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let mut client = Client::connect(&server);
    create(&mut client, "t");
    let value = "0".repeat(3 << 20);
    let mut builder = Builder::new(Compression::Zstd);
    builder.push(Timestamp(1), None, Some(value.as_bytes()));
    let mut request = produce("t", 0, builder.finish().unwrap());
    // Others have their turn between these.
    let data = &mut request.topic_data[0].partition_data;
    *data = vec![data[0].clone(); 6];
    let response = client.call(9, &request);
    let answers = response.responses[0].partition_responses.iter();
    let answers: Vec<_> = answers.map(|answer| (answer.error_code, answer.base_offset)).collect();
    assert_eq!(answers, [0, 1, 2, 3, 4, 5].map(|offset| (0, offset)));
}

#[test]
fn batches_are_checked_before_they_are_taken() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let mut client = Client::connect(&server);
    create(&mut client, "t");
    let mut check = |records: Bytes, expected: i16| {
        let response = client.call(9, &produce("t", 0, records));
        assert_eq!(error_of(&response), expected);
    };
    let good = batch(&["a", "b"]);
    check(good.clone(), 0);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = byte;
        Bytes::from(bytes)
    };
    check(with(good.len() - 1, 9), 2); // a flipped bit: corrupt
    check(with(16, 1), 87); // an older format
    check(with(16, 3), 2); // none that there is
    check(with(11, 3), 87); // a wrong length
    check(good.slice(..good.len() - 1), 87);
    check([&good[..], &good[..]].concat().into(), 87); // two batches
    check(Bytes::new(), 87);
    let mut control = Builder::new(Compression::None).control();
    control.push(Timestamp(1), None, None);
    check(control.finish().unwrap(), 87);
    let mut transactional = Builder::new(Compression::None).transactional();
    transactional.push(Timestamp(1), None, None);
    check(transactional.finish().unwrap(), 53); // of a request that is of none
    check(Builder::new(Compression::None).finish().unwrap(), 87); // no records
    // Headers and checksums that are right, and records that are not what they say.
    let forged = |base: u8, last: i32, count: i32, records: &[u8]| {
        let mut bytes = good[..HEADER_BYTES].to_vec();
        bytes[7] = base;
        bytes[23..27].copy_from_slice(&last.to_be_bytes());
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        bytes.extend_from_slice(records);
        mended_batch(&bytes).unwrap()
    };
    let records = &good[HEADER_BYTES..];
    check(forged(0, i32::MAX, i32::MAX, &[]), 87);
    check(forged(0, i32::MAX - 1, i32::MAX, &[]), 87);
    check(forged(0, 2, 2, records), 87);
    check(forged(0, 2, 3, records), 87);
    check(forged(0, 0, 1, records), 87);
    check(forged(5, 1, 2, records), 87);
    // What was refused has left nothing.
    check(forged(0, 1, 2, records), 0);
    let response = client.call(9, &produce("t", 0, good.clone()));
    assert_eq!(response.responses[0].partition_responses[0].base_offset, 4);

    // One partition's error is its own.
    let mut request = produce("t", 0, good.clone());
    let data = &mut request.topic_data[0].partition_data;
    data.push(PartitionProduceData::default().with_index(7).with_records(Some(good.clone())));
    data.push(PartitionProduceData::default().with_index(1).with_records(Some(good.clone())));
    let response = client.call(9, &request);
    let codes: Vec<i16> =
        response.responses[0].partition_responses.iter().map(|one| one.error_code).collect();
    assert_eq!(codes, [0, 3, 0]);
    let response = client.call(9, &produce("t", 0, good.clone()).with_acks(5));
    assert_eq!(error_of(&response), 21);
    let response = client.call(9, &produce("none", 0, good.clone()));
    assert_eq!(error_of(&response), 3);
    let response = client.call(9, &produce("__consumer_offsets", 0, good));
    assert_eq!(error_of(&response), 3);
}

#[test]
fn a_retry_is_acknowledged_with_the_offset_of_the_original() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let mut client = Client::connect(&server);
    create(&mut client, "t");
    let request = InitProducerIdRequest::default().with_transactional_id(None);
    let ids: Vec<i64> = (0..2).map(|_| client.call(4, &request).producer_id.0).collect();
    assert_ne!(ids[0], ids[1]);
    let numbered = |epoch: i16, base_sequence: i32| {
        let producer =
            Producer { id: ProducerId(ids[0]), epoch: ProducerEpoch(epoch), base_sequence };
        let mut builder = Builder::new(Compression::None).producer(producer);
        builder.push(Timestamp(1), None, Some(b"a"));
        builder.push(Timestamp(1), None, Some(b"b"));
        builder.finish().unwrap()
    };
    let check = |client: &mut Client, batch: Bytes, expected: (i16, i64)| {
        let response = client.call(9, &produce("t", 0, batch));
        let one = &response.responses[0].partition_responses[0];
        assert_eq!((one.error_code, one.base_offset), expected);
    };
    check(&mut client, numbered(0, 0), (0, 0));
    check(&mut client, numbered(0, 2), (0, 2));
    check(&mut client, numbered(0, 0), (0, 0));
    check(&mut client, numbered(0, 2), (0, 2));
    check(&mut client, numbered(0, 9), (45, -1)); // a gap
    check(&mut client, numbered(1, 0), (0, 4)); // a new instance
    check(&mut client, numbered(0, 4), (47, -1)); // the old one is fenced
    drop((client, server));

    // What the log knows of a producer outlives a restart.
    let server = Server::start(directory.path());
    let mut client = Client::connect(&server);
    check(&mut client, numbered(1, 0), (0, 4));
    check(&mut client, numbered(1, 2), (0, 6));
    let next = client.call(4, &request).producer_id.0;
    assert!(!ids.contains(&next), "a number is never given twice");
}

#[test]
fn without_acknowledgement_nothing_is_answered_and_an_error_closes() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let mut client = Client::connect(&server);
    create(&mut client, "t");
    client.send(9, 1, &produce("t", 0, batch(&["a"])).with_acks(0));
    client.send(9, 2, &produce("t", 0, batch(&["b"])));
    let (correlation, response): (_, ProduceResponse) = client.receive(9);
    assert_eq!((correlation, error_of(&response)), (2, 0));
    assert_eq!(response.responses[0].partition_responses[0].base_offset, 1);
    client.send(9, 3, &produce("t", 99, batch(&["c"])).with_acks(0));
    assert!(is_closed(&mut client));
}

#[test]
fn topics_are_made_by_use_only_if_wanted() {
    let ask = |options: Options, allow: bool| {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::start_with(directory.path(), options);
        let topic = MetadataRequestTopic::default().with_name(Some(name("new")));
        let request = MetadataRequest::default()
            .with_topics(Some(vec![topic]))
            .with_allow_auto_topic_creation(allow);
        let response = Client::connect(&server).call(4, &request);
        (response.topics[0].error_code, response.topics[0].partitions.len())
    };
    assert_eq!(ask(Options::default(), true), (0, 4));
    assert_eq!(ask(Options { partitions: 9, ..Options::default() }, true), (0, 9));
    assert_eq!(ask(Options::default(), false), (3, 0));
    assert_eq!(ask(Options { create_topics: false, ..Options::default() }, true), (3, 0));
}

#[test]
fn clients_are_told_the_advertised_address() {
    let check = |advertised: Option<(String, u16)>, expected: Option<(&str, i32)>| {
        let directory = tempfile::tempdir().unwrap();
        let server =
            Server::start_with(directory.path(), Options { advertised, ..Options::default() });
        let response =
            Client::connect(&server).call(1, &MetadataRequest::default().with_topics(None));
        let node = &response.brokers[0];
        let expected = expected.unwrap_or(("127.0.0.1", i32::from(server.address.port())));
        assert_eq!((&*node.host, node.port), expected);
    };
    check(None, None);
    check(Some(("kafka.example".to_owned(), 9_999)), Some(("kafka.example", 9_999)));
}

#[test]
fn idle_connections_end_but_not_those_that_wait() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { idle_max: Duration::from_millis(500), ..Options::default() };
    let server = Server::start_with(directory.path(), options);
    let mut client = Client::connect(&server);
    create(&mut client, "t");
    assert_eq!(code_of(&client.call(4, &fetch("t", 0, 0, 1_500))), 0);
    assert!(is_closed(&mut client));
}

#[test]
fn stopping_ends_waiting_fetches() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let mut client = Client::connect(&server);
    create(&mut client, "t");
    client.send(4, 1, &fetch("t", 0, 0, 60_000));
    let started = Instant::now();
    drop(server);
    assert!(started.elapsed() < Duration::from_secs(10));
    let mut rest = Vec::new();
    // Either an answer or the end, but not silence.
    let _ = client.0.read_to_end(&mut rest);
    let mut rest = Bytes::from(rest);
    assert!(rest.is_empty() || rest.get_i32() as usize == rest.len());
}
