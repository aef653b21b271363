//! Every served version of every request about transactions is answered, and its answer decodes.

#[path = "support/sim.rs"]
mod sim;

use afflux_env::sim::Sim;
use afflux_kafka::Options;
use afflux_log::EmbeddedLog;
use kafka_protocol::{
    ResponseError,
    messages::{
        AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, ApiVersionsRequest, ApiVersionsResponse,
        DescribeProducersRequest, DescribeTransactionsRequest, EndTxnRequest,
        FindCoordinatorRequest, InitProducerIdRequest, ListTransactionsRequest, TransactionalId,
        TxnOffsetCommitRequest, WriteTxnMarkersRequest,
        add_partitions_to_txn_request::{AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction},
        describe_producers_request::TopicRequest,
        txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic},
        write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic},
    },
    protocol::{Request, StrBytes},
};
use sim::{Node, call, open_log, small, wire_name};

/// Asks in each version that the node serves; the first error of each answer, where it has one.
async fn every<R: Request>(
    node: &Node,
    versions: &ApiVersionsResponse,
    request: impl Fn(i16) -> R,
    error: impl Fn(i16, R::Response) -> i16,
) -> Vec<i16> {
    let api = versions.api_keys.iter().find(|api| api.api_key == R::KEY).expect("it is served");
    let mut errors = Vec::new();
    for version in api.min_version..=api.max_version {
        errors.push(error(version, call(node, version, &request(version)).await));
    }
    errors
}

#[tokio::test]
async fn every_version_is_answered() {
    let text = StrBytes::from_static_str;
    let id = || TransactionalId(text("id"));
    let sim = Sim::new(1);
    let log = open_log(&sim, EmbeddedLog::open, small());
    let node = Node::start(&sim, log, Options::default()).await;
    let asks = ApiVersionsRequest::default()
        .with_client_software_name(text("afflux"))
        .with_client_software_version(text("1"));
    let versions = call(&node, 4, &asks).await;
    let features = versions.finalized_features.iter();
    let features: Vec<_> = features.map(|one| (&*one.name, one.max_version_level)).collect();
    assert_eq!(features, [("group.version", 1), ("transaction.version", 2)]);

    let find = |version| {
        let request = FindCoordinatorRequest::default().with_key_type(1);
        if version >= 4 {
            request.with_coordinator_keys(vec![text("id")])
        } else {
            request.with_key(text("id"))
        }
    };
    // Version 0 knows groups alone.
    let found = every(
        &node,
        &versions,
        |version| find(version).with_key_type(i8::from(version > 0)),
        |_, answer| answer.error_code,
    );
    assert_eq!(found.await, [0; 7]);
    let init = |_| {
        InitProducerIdRequest::default()
            .with_transactional_id(Some(id()))
            .with_transaction_timeout_ms(1_000)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1)
    };
    let inits = every(&node, &versions, init, |_, answer| answer.error_code).await;
    assert_eq!(inits, [0; 6]);

    // Of an id that nobody knows; older clients have no word for being fenced.
    let unknown = 49;
    let add = |version| {
        let topic = AddPartitionsToTxnTopic::default().with_name(wire_name("__consumer_offsets"));
        let topics = vec![topic.with_partitions(vec![0])];
        let request = AddPartitionsToTxnRequest::default();
        if version >= 4 {
            let one = AddPartitionsToTxnTransaction::default()
                .with_transactional_id(TransactionalId(text("other")))
                .with_topics(topics);
            request.with_transactions(vec![one.clone().with_verify_only(true), one])
        } else {
            let request =
                request.with_v3_and_below_transactional_id(TransactionalId(text("other")));
            request.with_v3_and_below_topics(topics)
        }
    };
    let offsets = |_| {
        let other = TransactionalId(text("other"));
        AddOffsetsToTxnRequest::default().with_transactional_id(other)
    };
    assert_eq!(every(&node, &versions, offsets, |_, answer| answer.error_code).await, [unknown; 5]);
    let added = every(&node, &versions, add, |version, answer| {
        let topics = if version >= 4 {
            answer.results_by_transaction[1].topic_results.clone()
        } else {
            answer.results_by_topic_v3_and_below
        };
        topics[0].results_by_partition[0].partition_error_code
    });
    assert_eq!(added.await, [unknown; 6]);
    let end = |_| EndTxnRequest::default().with_transactional_id(id()).with_producer_epoch(1);
    let ended = every(&node, &versions, end, |_, answer| answer.error_code).await;
    assert_eq!(ended, [47, 47, 90, 90, 90, 90], "the last init has fenced this one");
    let commit = |_| {
        let at = TxnOffsetCommitRequestPartition::default();
        let topic = TxnOffsetCommitRequestTopic::default().with_name(wire_name("t"));
        TxnOffsetCommitRequest::default()
            .with_transactional_id(id())
            .with_generation_id(-1)
            .with_topics(vec![topic.with_partitions(vec![at])])
    };
    let committed =
        every(&node, &versions, commit, |_, answer| answer.topics[0].partitions[0].error_code);
    assert_eq!(committed.await, [3; 6], "there is no such topic");

    let mark = |_| {
        let topic = WritableTxnMarkerTopic::default().with_name(wire_name("t"));
        let topic = topic.with_partition_indexes(vec![0]);
        let marker = WritableTxnMarker::default().with_topics(vec![topic]);
        WriteTxnMarkersRequest::default().with_markers(vec![marker])
    };
    let marked = every(&node, &versions, mark, |_, answer| {
        answer.markers[0].topics[0].partitions[0].error_code
    });
    assert_eq!(marked.await, [3]);
    let producers = |_| {
        let topic = TopicRequest::default().with_name(wire_name("t"));
        let topics = vec![topic.with_partition_indexes(vec![0])];
        DescribeProducersRequest::default().with_topics(topics)
    };
    let described =
        every(&node, &versions, producers, |_, answer| answer.topics[0].partitions[0].error_code);
    assert_eq!(described.await, [3]);
    let describe = |_| {
        let ids = ["", "nobody", "id"].map(|id| TransactionalId(text(id))).to_vec();
        DescribeTransactionsRequest::default().with_transactional_ids(ids)
    };
    let described = every(&node, &versions, describe, |_, answer| {
        let codes: Vec<i16> = answer.transaction_states.iter().map(|one| one.error_code).collect();
        assert_eq!(codes, [42, 105, 0]);
        assert_eq!(&*answer.transaction_states[2].transaction_state, "Empty");
        0
    });
    described.await;
    let list = |_| {
        let states = ["Empty", "Resting"].map(text).to_vec();
        ListTransactionsRequest::default().with_state_filters(states).with_duration_filter(-1)
    };
    let listed = every(&node, &versions, list, |_, answer| {
        assert_eq!(answer.unknown_state_filters, [text("Resting")]);
        assert_eq!(answer.transaction_states[0].transactional_id, id());
        answer.error_code
    });
    assert_eq!(listed.await, [0; 3]);
    for (pattern, error, found) in [
        ("i.", 0, 1),
        ("i", 0, 0),
        ("", 0, 1),
        ("i(", ResponseError::InvalidRegularExpression.code(), 0),
    ] {
        let list = ListTransactionsRequest::default()
            .with_duration_filter(-1)
            .with_transactional_id_pattern(Some(text(pattern)));
        let answer = call(&node, 2, &list).await;
        assert_eq!((answer.error_code, answer.transaction_states.len()), (error, found));
    }
    assert_eq!(node.log.open_transactions(), []);
    node.stop().await;
}
