//! Settings of the node, each given by Kafka's name: what it does, and what clients are told of it.

#[path = "support/client.rs"]
mod client;
#[expect(dead_code, reason = "each node is started with options")]
mod support;

use afflux_kafka::Options;
use client::Client;
use kafka_protocol::{
    ResponseError::{self, *},
    messages::{
        ConsumerGroupHeartbeatRequest, CreateTopicsRequest, DescribeConfigsRequest, GroupId,
        InitProducerIdRequest, JoinGroupRequest, ListTransactionsRequest, MetadataRequest,
        OffsetCommitRequest, TopicName, TransactionalId,
        create_topics_request::CreatableTopic,
        describe_configs_request::DescribeConfigsResource,
        describe_configs_response::DescribeConfigsResourceResult,
        join_group_request::JoinGroupRequestProtocol,
        metadata_request::MetadataRequestTopic,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
    },
    protocol::StrBytes,
};
use support::Server;

const SOURCE_STATIC: i8 = 4;
const SOURCE_DEFAULT: i8 = 5;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic() -> TopicName {
    TopicName(text("t"))
}

/// A node that was started with settings, beside brisk checks, and a connection to it.
struct Node {
    _directory: tempfile::TempDir,
    server: Server,
    client: Client,
}

fn start(given: &[(&str, &str)]) -> Node {
    start_as(Options::default(), given)
}

fn start_as(options: Options, given: &[(&str, &str)]) -> Node {
    let check = std::time::Duration::from_millis(10);
    let mut options = Options { transaction_check: check, ..options };
    let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    options.set(given).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start_with(directory.path(), options);
    let client = Client::connect(&server);
    Node { _directory: directory, server, client }
}

impl Node {
    /// All settings, as clients are told of them.
    fn shown(&mut self) -> Vec<DescribeConfigsResourceResult> {
        let resource =
            DescribeConfigsResource::default().with_resource_type(4).with_resource_name(text("1"));
        let request = DescribeConfigsRequest::default()
            .with_resources(vec![resource])
            .with_include_synonyms(true)
            .with_include_documentation(true);
        self.client.call(4, &request).results.remove(0).configs
    }

    fn join(&mut self, member: &str, session_ms: i32) -> Option<ResponseError> {
        let subscription: &[u8] = &[0, 0, 0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff];
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(subscription.into());
        let request = JoinGroupRequest::default()
            .with_group_id(GroupId(text("g")))
            .with_member_id(text(member))
            .with_session_timeout_ms(session_ms)
            .with_rebalance_timeout_ms(60_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        ResponseError::try_from_code(self.client.call(5, &request).error_code)
    }

    fn consume(&mut self, member: &str) -> Option<ResponseError> {
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text("c")))
            .with_member_id(text(member))
            .with_rebalance_timeout_ms(10_000)
            .with_subscribed_topic_names(Some(vec![topic()]))
            .with_topic_partitions(Some(Vec::new()));
        ResponseError::try_from_code(self.client.call(1, &request).error_code)
    }

    fn commit(&mut self, metadata: usize) -> Option<ResponseError> {
        let at = OffsetCommitRequestPartition::default()
            .with_committed_offset(7)
            .with_committed_metadata(Some(text(&"m".repeat(metadata))));
        let topic =
            OffsetCommitRequestTopic::default().with_name(topic()).with_partitions(vec![at]);
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text("o")))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        let response = self.client.call(8, &request);
        ResponseError::try_from_code(response.topics[0].partitions[0].error_code)
    }

    fn begin(&mut self, timeout_ms: i32) -> Option<ResponseError> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(TransactionalId(text("id"))))
            .with_transaction_timeout_ms(timeout_ms);
        ResponseError::try_from_code(self.client.call(4, &request).error_code)
    }

    fn make_topic(&mut self) {
        let topic = CreatableTopic::default()
            .with_name(topic())
            .with_num_partitions(-1)
            .with_replication_factor(-1);
        self.client.call(7, &CreateTopicsRequest::default().with_topics(vec![topic]));
    }

    /// How many partitions the topic has; none if it is not there, or made by asking.
    fn partitions(&mut self) -> usize {
        let topic = MetadataRequestTopic::default().with_name(Some(topic()));
        let request = MetadataRequest::default()
            .with_topics(Some(vec![topic]))
            .with_allow_auto_topic_creation(true);
        self.client.call(9, &request).topics[0].partitions.len()
    }
}

#[test]
fn limits_of_groups_are_those_that_are_set() {
    let mut node = start(&[
        ("group.initial.rebalance.delay.ms", "0"),
        ("group.min.session.timeout.ms", "100"),
        ("group.max.session.timeout.ms", "5000"),
        ("group.max.size", "1"),
        ("group.consumer.max.size", "2"),
        ("offset.metadata.max.bytes", "5000"),
    ]);
    node.make_topic();
    assert_eq!(node.join("", 99), Some(InvalidSessionTimeout));
    assert_eq!(node.join("", 5_001), Some(InvalidSessionTimeout));
    // The first gets a name, and has a place by it.
    assert_eq!(node.join("", 5_000), Some(MemberIdRequired));
    assert_eq!(node.join("", 100), Some(GroupMaxSizeReached));
    assert_eq!(node.consume("one"), None);
    assert_eq!(node.consume("two"), None);
    assert_eq!(node.consume("three"), Some(GroupMaxSizeReached));
    assert_eq!(node.commit(5_000), None);
    assert_eq!(node.commit(5_001), Some(OffsetMetadataTooLarge));
}

#[test]
fn limits_of_transactions_are_those_that_are_set() {
    let mut node =
        start(&[("transaction.max.timeout.ms", "2000"), ("transactional.id.expiration.ms", "1")]);
    assert_eq!(node.begin(2_001), Some(InvalidTransactionTimeout));
    assert_eq!(node.begin(2_000), None);
    while !node.client.call(0, &ListTransactionsRequest::default()).transaction_states.is_empty() {}
}

#[test]
fn topics_are_made_as_is_set() {
    let mut node = start(&[("num.partitions", "7")]);
    assert_eq!(node.partitions(), 7);
    let mut node = start(&[("auto.create.topics.enable", "false"), ("num.partitions", "6")]);
    assert_eq!(node.partitions(), 0);
    node.make_topic();
    assert_eq!(node.partitions(), 6);
}

#[test]
fn what_is_set_is_shown_with_its_source() {
    let mut node = start(&[("offsets.retention.minutes", "60"), ("num.partitions", "4")]);
    let found = node.shown();
    let shown = |name: &str| {
        let entry = found.iter().find(|entry| &*entry.name == name).unwrap();
        assert!(entry.read_only && entry.documentation.is_some(), "{name}");
        let synonyms = entry.synonyms.iter().map(|one| (one.value.as_deref().unwrap(), one.source));
        (entry.value.as_deref().unwrap(), entry.config_source, synonyms.collect::<Vec<_>>())
    };
    let both = vec![("60", SOURCE_STATIC), ("10080", SOURCE_DEFAULT)];
    assert_eq!(shown("offsets.retention.minutes"), ("60", SOURCE_STATIC, both));
    let check = |name: &str, value: &str| {
        assert_eq!(shown(name), (value, SOURCE_DEFAULT, vec![(value, SOURCE_DEFAULT)]));
    };
    check("num.partitions", "4");
    check("group.min.session.timeout.ms", "6000");
    check("transaction.max.timeout.ms", "900000");
    check("log.retention.ms", "604800000");
    assert_eq!(shown("node.id"), ("1", SOURCE_STATIC, vec![("1", SOURCE_STATIC)]));
    let listener = format!("PLAINTEXT://{}", node.server.address);
    let listener = listener.as_str();
    assert_eq!(
        shown("advertised.listeners"),
        (listener, SOURCE_STATIC, vec![(listener, SOURCE_STATIC)])
    );
}

#[test]
fn a_port_is_told_from_an_address_with_colons() {
    let advertised = Some(("fd00::1".to_owned(), 9092));
    let mut node = start_as(Options { advertised, ..Options::default() }, &[]);
    let shown = node.shown();
    let listener = shown.iter().find(|entry| &*entry.name == "advertised.listeners").unwrap();
    assert_eq!(listener.value.as_deref(), Some("PLAINTEXT://[fd00::1]:9092"));
}
