//! What is asked wrongly, or at the edge of what may be: two nodes are asked the same, request by
//! request, and must answer with the same error codes. One of them is Apache Kafka.

mod coordinators;
mod records;

use std::{fmt::Debug, net::TcpStream};

use afflux_record::{
    Compression,
    batch::{Builder, Producer},
};
use afflux_types::{ProducerEpoch, ProducerId, Timestamp};
use bytes::Bytes;
use kafka_protocol::{
    messages::{
        add_partitions_to_txn_request::AddPartitionsToTxnTopic,
        alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic},
        consumer_group_heartbeat_request::TopicPartitions as OwnedPartitions,
        create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic},
        create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig},
        delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
        delete_topics_request::DeleteTopicState,
        describe_configs_request::DescribeConfigsResource,
        describe_producers_request::TopicRequest as ProducersOf,
        describe_topic_partitions_request::{Cursor, TopicRequest as PartitionsOf},
        elect_leaders_request::TopicPartitions as ElectedPartitions,
        fetch_request::{FetchPartition, FetchTopic},
        incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
        join_group_request::JoinGroupRequestProtocol,
        leave_group_request::MemberIdentity,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
        metadata_request::MetadataRequestTopic,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic},
        offset_fetch_request::{
            OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
        },
        offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic},
        produce_request::{PartitionProduceData, TopicProduceData},
        txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic},
        *,
    },
    protocol::{Request, StrBytes},
};
use uuid::Uuid;

use self::coordinators::{begin, commit};
use crate::client::Client as Connection;

const SESSION: &str = "consumer.session.timeout.ms";
const HEARTBEAT: &str = "consumer.heartbeat.interval.ms";

/// What there is, with one partition and three records.
const TOPIC: &str = "edges";

/// What is answered otherwise. The first is for followers, of which there are none. For the next
/// two Kafka says `UNKNOWN_SERVER_ERROR`, and so it does for wrong offsets in compressed batches. All
/// else it takes: to delete a setting that it does not know, a topic that is neither deleted from nor
/// compacted, two topics of one request that collide, and records that readers stumble over.
pub(crate) const DIFFERENT: &[&str] = &[
    "FetchRequest 12: fetched in an epoch that was not",
    "DescribeTopicPartitionsRequest 0: \"\"",
    "IncrementalAlterConfigsRequest 1: an operation that is not known",
    "ProduceRequest 9: an offset twice, gzip",
    "ProduceRequest 9: turned round, gzip",
    "ProduceRequest 9: an offset behind the last, gzip",
    "IncrementalAlterConfigsRequest 1: not known, deleted",
    "IncrementalAlterConfigsRequest 1: all subtracted",
    "CreateTopicsRequest 7: alike",
    "ProduceRequest 9: an offset twice, none",
    "ProduceRequest 9: turned round, none",
    "ProduceRequest 9: an offset behind the last, none",
    "ProduceRequest 9: no length, gzip",
    "ProduceRequest 9: empty, gzip",
    "ProduceRequest 9: too long, gzip",
    "ProduceRequest 9: too short, gzip",
];

/// A node that is asked, and what it answered: the question, and all error codes in the answer.
pub(crate) struct Asked {
    connection: Connection,
    pub(crate) answers: Vec<(String, Vec<String>)>,
}

/// Asks a node everything.
pub(crate) fn ask(bootstrap: &str) -> Vec<(String, Vec<String>)> {
    let connection = Connection(TcpStream::connect(bootstrap).unwrap());
    let mut asked = Asked { connection, answers: Vec::new() };
    asked.prepare();
    asked.produce();
    asked.records();
    asked.names();
    asked.fetch();
    asked.list_offsets();
    asked.metadata();
    asked.topics();
    asked.partitions();
    asked.configs();
    asked.classic_groups();
    asked.offsets();
    asked.consumer_groups();
    asked.transactions();
    asked.administration();
    asked.answers
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic(name: &str) -> TopicName {
    TopicName(text(name))
}

fn group(id: &str) -> GroupId {
    GroupId(text(id))
}

fn id(id: &str) -> TransactionalId {
    TransactionalId(text(id))
}

/// All error codes in what is printed of an answer, whatever their order.
fn codes(answer: &impl Debug) -> Vec<String> {
    let printed = format!("{answer:?}");
    let mut found = Vec::new();
    for part in printed.split("error_code: ").skip(1) {
        let end = part.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(part.len());
        found.push(part[..end].to_owned());
    }
    found.sort();
    found
}

fn batch(producer: Option<(i64, i16, i32)>, transactional: bool) -> Vec<u8> {
    let mut builder = Builder::new(Compression::None);
    if let Some((id, epoch, base_sequence)) = producer {
        let (id, epoch) = (ProducerId(id), ProducerEpoch(epoch));
        builder = builder.producer(Producer { id, epoch, base_sequence });
    }
    if transactional {
        builder = builder.transactional();
    }
    builder.push(Timestamp(1), Some(b"key"), Some(b"value"));
    builder.finish().unwrap().to_vec()
}

fn produce(name: &str, partition: i32, acks: i16, records: Vec<u8>) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition);
    let data = data.with_records(Some(records.into()));
    let of = TopicProduceData::default().with_name(topic(name)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![of])
}

impl Asked {
    fn ask<R: Request>(&mut self, what: &str, version: i16, request: &R) -> R::Response
    where
        R::Response: Debug,
    {
        let answer = self.connection.call(version, request);
        let name = std::any::type_name::<R>().rsplit("::").next().unwrap();
        self.answers.push((format!("{name} {version}: {what}"), codes(&answer)));
        answer
    }

    /// Waits for what a node makes when it is first asked for.
    fn prepare(&mut self) {
        let new = CreatableTopic::default().with_name(topic(TOPIC)).with_num_partitions(1);
        let set = |name: &str, value: &str| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        };
        let new = new.with_replication_factor(1).with_configs(vec![set("retention.ms", "-1")]);
        let packed = new.clone().with_name(topic("edges-compacted"));
        let packed = packed.with_configs(vec![set("cleanup.policy", "compact")]);
        let zstd = new.clone().with_name(topic("edges-zstd"));
        let zstd = zstd.with_configs(vec![set("compression.type", "zstd")]);
        let all = vec![new, packed, zstd];
        let request = CreateTopicsRequest::default().with_timeout_ms(30_000).with_topics(all);
        self.connection.call(7, &request);
        while self.send(-1, batch(None, false)) != "0" {}
        self.send(-1, batch(None, false));
        self.send(-1, batch(None, false));
        for (kind, key) in [(0, "edges"), (1, "edges")] {
            let find = FindCoordinatorRequest::default()
                .with_key_type(kind)
                .with_coordinator_keys(vec![text(key)]);
            while codes(&self.connection.call(4, &find)).iter().any(|code| code != "0") {}
        }
        while codes(&self.connection.call(8, &commit("edges", TOPIC, 1))) != ["0"] {}
        while codes(&self.connection.call(4, &begin("edges", 1000))) != ["0"] {}
        self.answers.clear();
    }

    fn send(&mut self, acks: i16, records: Vec<u8>) -> String {
        codes(&self.connection.call(9, &produce(TOPIC, 0, acks, records)))[0].clone()
    }

    fn produce(&mut self) {
        let good = || batch(None, false);
        let mut check = |what: &str, request: &ProduceRequest| {
            self.ask(what, 9, request);
        };
        check("no such topic", &produce("no-such", 0, -1, good()));
        check("no such partition", &produce(TOPIC, 1, -1, good()));
        check("a negative partition", &produce(TOPIC, -1, -1, good()));
        check("acks of 2", &produce(TOPIC, 0, 2, good()));
        check("an internal topic", &produce("__consumer_offsets", 0, -1, good()));
        check("no batch", &produce(TOPIC, 0, -1, Vec::new()));
        check("two batches", &produce(TOPIC, 0, -1, [good(), good()].concat()));
        let spoilt = |at: usize, byte: u8| {
            let mut bytes = good();
            bytes[at] = byte;
            bytes
        };
        check("a checksum that is wrong", &produce(TOPIC, 0, -1, spoilt(20, 0xff)));
        check("an older format", &produce(TOPIC, 0, -1, spoilt(16, 1)));
        check("a format that is not known", &produce(TOPIC, 0, -1, spoilt(16, 3)));
        check(
            "no key, compacted",
            &produce("edges-compacted", 0, -1, {
                let mut builder = Builder::new(Compression::None);
                builder.push(Timestamp(1), None, Some(b"value"));
                builder.finish().unwrap().to_vec()
            }),
        );
        for (what, sequence, epoch) in [
            ("a producer that begins late", 5, 3),
            ("the same again", 5, 3),
            ("a gap", 8, 3),
            ("an older epoch", 6, 2),
            ("a newer epoch that does not begin", 6, 4),
            ("a newer epoch", 0, 4),
        ] {
            check(what, &produce(TOPIC, 0, -1, batch(Some((77_777, epoch, sequence)), false)));
        }
        let in_transaction = batch(Some((77_778, 0, 0)), true);
        let request = produce(TOPIC, 0, -1, in_transaction.clone());
        let request = request.with_transactional_id(Some(id("edges-none")));
        check("a transaction that nobody began", &request);
        self.ask("the same, newer", 12, &request);
    }

    fn fetch(&mut self) {
        let part = |partition: i32, from: i64| {
            FetchPartition::default()
                .with_partition(partition)
                .with_fetch_offset(from)
                .with_partition_max_bytes(1 << 20)
        };
        let fetch = |name: &str, part: FetchPartition| {
            let of = FetchTopic::default().with_topic(topic(name)).with_partitions(vec![part]);
            FetchRequest::default()
                .with_max_wait_ms(1)
                .with_max_bytes(1 << 20)
                .with_session_epoch(-1)
                .with_topics(vec![of])
        };
        let mut check = |what: &str, request: &FetchRequest| {
            self.ask(what, 12, request);
        };
        check("no such topic", &fetch("no-such", part(0, 0)));
        check("no such partition", &fetch(TOPIC, part(1, 0)));
        check("behind the end", &fetch(TOPIC, part(0, 1_000)));
        check("before the beginning", &fetch(TOPIC, part(0, -1)));
        let newer = part(0, 0).with_current_leader_epoch(1_000);
        check("a newer epoch than there is", &fetch(TOPIC, newer));
        let newer = part(0, 0).with_last_fetched_epoch(1_000);
        check("fetched in an epoch that was not", &fetch(TOPIC, newer));
        check("no bytes of a partition", &fetch(TOPIC, part(0, 0).with_partition_max_bytes(0)));
        check(
            "a session that is not",
            &fetch(TOPIC, part(0, 0)).with_session_id(7).with_session_epoch(3),
        );
        check("no session, an epoch", &fetch(TOPIC, part(0, 0)).with_session_epoch(3));
        for version in [4, 9, 10] {
            for name in [TOPIC, "edges-zstd"] {
                self.ask(&format!("zstd of {name}"), version, &fetch(name, part(0, 0)));
            }
        }
        let unknown = FetchTopic::default()
            .with_topic_id(Uuid::from_u128(7))
            .with_partitions(vec![part(0, 0)]);
        let request = fetch(TOPIC, part(0, 0)).with_topics(vec![unknown]);
        self.ask("no such id", 13, &request);
    }

    fn list_offsets(&mut self) {
        let at = |partition: i32, time: i64| {
            ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(time)
        };
        let list = |name: &str, parts: Vec<ListOffsetsPartition>| {
            let of = ListOffsetsTopic::default().with_name(topic(name)).with_partitions(parts);
            ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![of])
        };
        let mut check = |what: &str, request: &ListOffsetsRequest| {
            self.ask(what, 10, request);
        };
        check("no such topic", &list("no-such", vec![at(0, -1)]));
        check("no such partition", &list(TOPIC, vec![at(1, -1)]));
        for time in -8..0 {
            check(&format!("at {time}"), &list(TOPIC, vec![at(0, time)]));
        }
        check("twice", &list(TOPIC, vec![at(0, -1), at(0, -2)]));
        let newer = at(0, -1).with_current_leader_epoch(1_000);
        check("a newer epoch than there is", &list(TOPIC, vec![newer]));
        let at = |epoch: i32, current: i32| {
            let part = OffsetForLeaderPartition::default()
                .with_leader_epoch(epoch)
                .with_current_leader_epoch(current);
            let of = OffsetForLeaderTopic::default().with_topic(topic(TOPIC));
            OffsetForLeaderEpochRequest::default()
                .with_replica_id((-1).into())
                .with_topics(vec![of.with_partitions(vec![part])])
        };
        self.ask("an epoch that was not", 4, &at(1_000, -1));
        self.ask("a newer epoch than there is", 4, &at(0, 1_000));
        self.ask("a negative epoch", 4, &at(-1, -1));
    }

    fn metadata(&mut self) {
        let named = |name: &str| MetadataRequestTopic::default().with_name(Some(topic(name)));
        let of =
            |one: MetadataRequestTopic| MetadataRequest::default().with_topics(Some(vec![one]));
        for name in ["no-such", "", ".", "no such", &"n".repeat(250)] {
            self.ask(&format!("{:?}", &name[..name.len().min(10)]), 12, &of(named(name)));
        }
        let unknown = MetadataRequestTopic::default().with_name(None);
        self.ask("no such id", 12, &of(unknown.with_topic_id(Uuid::from_u128(7))));
        self.ask(
            "an id, before there were",
            11,
            &of(named("no-such").with_topic_id(Uuid::from_u128(7))),
        );
        let of = |name: &str, limit: i32| {
            let one = PartitionsOf::default().with_name(topic(name));
            DescribeTopicPartitionsRequest::default()
                .with_topics(vec![one])
                .with_response_partition_limit(limit)
        };
        for name in ["no-such", "", "no such"] {
            self.ask(&format!("{name:?}"), 0, &of(name, 10));
        }
        let cursor = Cursor::default().with_topic_name(topic("no-such")).with_partition_index(0);
        self.ask("from no such topic on", 0, &of(TOPIC, 10).with_cursor(Some(cursor)));
        for kind in [0, 1, 2, 3] {
            let request = DescribeClusterRequest::default().with_endpoint_type(kind);
            self.ask(&format!("endpoints of kind {kind}"), 2, &request);
        }
    }

    fn topics(&mut self) {
        let new = |name: &str, partitions: i32, replicas: i16| {
            CreatableTopic::default()
                .with_name(topic(name))
                .with_num_partitions(partitions)
                .with_replication_factor(replicas)
        };
        let create = |topics: Vec<CreatableTopic>| {
            CreateTopicsRequest::default()
                .with_timeout_ms(30_000)
                .with_validate_only(true)
                .with_topics(topics)
        };
        let mut check = |what: &str, one: CreatableTopic| {
            self.ask(what, 7, &create(vec![one]));
        };
        for name in [TOPIC, "", ".", "..", "no such", "__consumer_offsets", &"n".repeat(250)] {
            check(&format!("{:?}", &name[..name.len().min(10)]), new(name, 1, 1));
        }
        for (partitions, replicas) in [(0, 1), (-2, 1), (1, 0), (1, -2), (1, 2), (-1, -1)] {
            check(
                &format!("{partitions} partitions, {replicas} replicas"),
                new("new", partitions, replicas),
            );
        }
        let assigned = |partition: i32, nodes: &[i32]| {
            CreatableReplicaAssignment::default()
                .with_partition_index(partition)
                .with_broker_ids(nodes.iter().map(|node| (*node).into()).collect())
        };
        let placed =
            |all: Vec<CreatableReplicaAssignment>| new("new", -1, -1).with_assignments(all);
        check("placed", placed(vec![assigned(0, &[1])]));
        check("placed and counted", new("new", 1, 1).with_assignments(vec![assigned(0, &[1])]));
        check("placed nowhere", placed(vec![assigned(0, &[])]));
        check("placed elsewhere", placed(vec![assigned(0, &[7])]));
        check("placed twice", placed(vec![assigned(0, &[1, 1])]));
        check("the same placed twice", placed(vec![assigned(0, &[1]), assigned(0, &[1])]));
        check("one left out", placed(vec![assigned(0, &[1]), assigned(2, &[1])]));
        check("a negative one placed", placed(vec![assigned(-1, &[1])]));
        let set = |name: &str, value: Option<&str>| {
            let one = CreatableTopicConfig::default().with_name(text(name));
            new("new", 1, 1).with_configs(vec![one.with_value(value.map(text))])
        };
        check("a setting that is not known", set("moon.phase", Some("full")));
        check("a setting without a value", set("retention.ms", None));
        check("a setting that can not be", set("retention.ms", Some("often")));
        for name in ["edges.compacted", "edges_compacted", "edges-compacted", "__consumer.offsets"]
        {
            check(name, new(name, 1, 1));
        }
        self.ask("twice", 7, &create(vec![new("new", 1, 1), new("new", 1, 1)]));
        self.ask("alike", 7, &create(vec![new("n.w", 1, 1), new("n_w", 1, 1)]));
        self.ask("one good, one not", 7, &create(vec![new("new", 1, 1), new("", 1, 1)]));
        let state = |name: Option<&str>, id: u128| {
            DeleteTopicState::default()
                .with_name(name.map(topic))
                .with_topic_id(Uuid::from_u128(id))
        };
        let mut check = |what: &str, topics: Vec<DeleteTopicState>| {
            self.ask(
                what,
                6,
                &DeleteTopicsRequest::default().with_timeout_ms(30_000).with_topics(topics),
            );
        };
        check("no such topic", vec![state(Some("no-such"), 0)]);
        check("no such id", vec![state(None, 7)]);
        check("both", vec![state(Some(TOPIC), 7)]);
        check("neither", vec![state(None, 0)]);
        check("twice", vec![state(Some("no-such"), 0), state(Some("no-such"), 0)]);
    }

    fn partitions(&mut self) {
        let more = |name: &str, count: i32, nodes: Option<&[i32]>| {
            let nodes = nodes.map(|nodes| {
                let one = |node: &i32| {
                    CreatePartitionsAssignment::default().with_broker_ids(vec![(*node).into()])
                };
                nodes.iter().map(one).collect()
            });
            CreatePartitionsTopic::default()
                .with_name(topic(name))
                .with_count(count)
                .with_assignments(nodes)
        };
        let mut check = |what: &str, topics: Vec<CreatePartitionsTopic>| {
            let request = CreatePartitionsRequest::default().with_timeout_ms(30_000);
            self.ask(what, 3, &request.with_validate_only(true).with_topics(topics));
        };
        check("no such topic", vec![more("no-such", 2, None)]);
        check("as many", vec![more(TOPIC, 1, None)]);
        check("fewer", vec![more(TOPIC, 0, None)]);
        check("a negative number", vec![more(TOPIC, -1, None)]);
        check("twice", vec![more(TOPIC, 2, None), more(TOPIC, 3, None)]);
        check("placed", vec![more(TOPIC, 2, Some(&[1]))]);
        check("too few placed", vec![more(TOPIC, 3, Some(&[1]))]);
        check("none placed", vec![more(TOPIC, 3, Some(&[]))]);
        check("placed elsewhere", vec![more(TOPIC, 2, Some(&[7]))]);
        let mut check = |what: &str, name: &str, partition: i32, offset: i64| {
            let at = DeleteRecordsPartition::default()
                .with_partition_index(partition)
                .with_offset(offset);
            let of = DeleteRecordsTopic::default().with_name(topic(name)).with_partitions(vec![at]);
            let request = DeleteRecordsRequest::default().with_timeout_ms(30_000);
            self.ask(what, 2, &request.with_topics(vec![of]));
        };
        check("no such topic", "no-such", 0, 0);
        check("no such partition", TOPIC, 1, 0);
        check("behind the end", TOPIC, 0, 1_000);
        check("before the beginning", TOPIC, 0, -2);
        check("at the beginning", TOPIC, 0, 0);
        check("of a compacted topic", "edges-compacted", 0, 0);
        check("of an internal topic", "__consumer_offsets", 0, 0);
    }

    fn configs(&mut self) {
        let mut check = |what: &str, kind: i8, name: &str| {
            let one = DescribeConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(name))
                .with_configuration_keys(Some(vec![text("retention.ms")]));
            self.ask(what, 4, &DescribeConfigsRequest::default().with_resources(vec![one]));
        };
        check("no such topic", 2, "no-such");
        check("a topic that can not be", 2, "no such");
        check("no topic", 2, "");
        check("no such node", 4, "7");
        check("a node without a number", 4, "seven");
        check("a kind that is not known", 99, "x");
        check("a group that is not", 32, "edges-none");
        check("no group", 32, "");
        for kinds in [vec![99], vec![2, 99], vec![8, 16, 32], vec![0]] {
            let request = ListConfigResourcesRequest::default().with_resource_types(kinds.clone());
            self.ask(&format!("{kinds:?}"), 1, &request);
        }
        let change = |name: &str, operation: i8, value: Option<&str>| {
            AlterableConfig::default()
                .with_name(text(name))
                .with_config_operation(operation)
                .with_value(value.map(text))
        };
        let of = |kind: i8, name: &str, configs: Vec<AlterableConfig>| {
            AlterConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(name))
                .with_configs(configs)
        };
        let mut check = |what: &str, resources: Vec<AlterConfigsResource>| {
            let request = IncrementalAlterConfigsRequest::default().with_validate_only(true);
            self.ask(what, 1, &request.with_resources(resources));
        };
        let set = || change("retention.ms", 0, Some("5"));
        check("no such topic", vec![of(2, "no-such", vec![set()])]);
        check("no topic", vec![of(2, "", vec![set()])]);
        check("a kind that is not known", vec![of(99, TOPIC, vec![set()])]);
        check("a node without a number", vec![of(4, "seven", vec![set()])]);
        check("a topic twice", vec![of(2, TOPIC, vec![set()]), of(2, TOPIC, vec![set()])]);
        check("a setting twice", vec![of(2, TOPIC, vec![set(), set()])]);
        for (what, one) in [
            ("not known", change("moon.phase", 0, Some("full"))),
            ("not known, deleted", change("moon.phase", 1, None)),
            ("no value", change("retention.ms", 0, None)),
            ("a value that can not be", change("retention.ms", 0, Some("often"))),
            ("appended, no list", change("retention.ms", 2, Some("5"))),
            ("subtracted, no list", change("retention.ms", 3, Some("5"))),
            ("appended that can not be", change("cleanup.policy", 2, Some("keep"))),
            ("all subtracted", change("cleanup.policy", 3, Some("delete"))),
            ("an operation that is not known", change("retention.ms", 9, Some("5"))),
            ("deleted", change("retention.bytes", 1, None)),
            ("no name", change("", 0, Some("5"))),
        ] {
            check(what, vec![of(2, TOPIC, vec![one])]);
        }
        check("no group", vec![of(32, "", vec![change(SESSION, 0, Some("50000"))])]);
        for (what, one) in [
            ("a group's setting", change(SESSION, 0, Some("50000"))),
            ("a group's, below", change(SESSION, 0, Some("44999"))),
            ("a group's, above", change(SESSION, 0, Some("60001"))),
            ("a group's, no number", change(SESSION, 0, Some("long"))),
            ("a group's, no value", change(SESSION, 0, None)),
            ("a group's, appended", change(SESSION, 2, Some("50000"))),
            ("a group's, deleted", change(SESSION, 1, None)),
            ("a group's, not known", change("moon.phase", 0, Some("full"))),
            ("a group's heartbeat, above", change(HEARTBEAT, 0, Some("15001"))),
        ] {
            check(what, vec![of(32, "edges", vec![one])]);
        }
    }
}
