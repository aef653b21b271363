//! A broker that nobody serves, and what comes over a wire to it.
//!
//! 1. An input is what a client sends: frames, a 32-bit length in front of each. A length that is
//!    more than what is there is what is there.
//! 2. Each is taken in as from a connection. One that can not be read ends it, as on a real one.
//! 3. It is answered, or the answer waits for something: then the next one is taken in.
//! 4. Every answer has its own length and its request's number in front. No answer may be such that
//!    it can not be encoded, and whatever came, the broker still answers.

use std::{net::SocketAddr, path::Path, pin::Pin, sync::Arc, time::Duration};

use afflux_env::sim::Sim;
use afflux_log::{EmbeddedLog, LogOptions};
use afflux_record::fuzzing::{Random, Target, batches};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        AddPartitionsToTxnRequest, ApiKey, CreateTopicsRequest, EndTxnRequest, FetchRequest,
        InitProducerIdRequest, JoinGroupRequest, MetadataRequest, OffsetCommitRequest,
        ProduceRequest, RequestHeader, TopicName, TransactionalId,
        add_partitions_to_txn_request::AddPartitionsToTxnTopic,
        create_topics_request::CreatableTopic,
        fetch_request::{FetchPartition, FetchTopic},
        join_group_request::JoinGroupRequestProtocol,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::{Encodable, Request, StrBytes},
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::author;
use crate::{
    Options,
    api::SERVED,
    broker::{Broker, Outcome, Pending},
    budget::Budget,
    buffers::Buffers,
    coordinate, dispatch,
    groups::Groups,
    transactions::Transactions,
    wire::Unreadable,
};

/// See the module.
pub const BROKER: Target = Target {
    run: |input| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(send(input));
    },
    seeds,
    held_bytes_max: |bytes| (64 << 20) + 1024 * bytes,
};

/// How long an answer is waited for before the next request: what parks is told apart from what
/// only has to wait for the disk.
const PATIENCE: Duration = Duration::from_millis(3);
/// The most requests of an input.
const FRAMES_MAX: usize = 8;
const PEER: ([u8; 4], u16) = ([127, 0, 0, 1], 40_001);

/// A broker that nobody serves, over a simulated disk.
pub(crate) fn alone(sim: &Sim, options: Options) -> Arc<Broker> {
    let log_options = LogOptions {
        file_bytes: 64 << 10,
        first_file_bytes: 64 << 10,
        block_bytes: 4 << 10,
        block_cache_bytes: 16 << 10,
        write_bytes_max: 16 << 10,
        whole_group_bytes_max: 8 << 10,
        chunk_bytes: 4 << 10,
        free_bytes_min: 0,
        ..LogOptions::default()
    };
    let env = sim.env();
    let log = Arc::new(EmbeddedLog::open(&env, Path::new("/data"), log_options).unwrap());
    let (settings, minute) = (crate::group::Settings::default(), Duration::from_mins(1));
    let groups = Groups::rebuild(&env, &log, settings, &options).unwrap();
    let transactions = Transactions::rebuild(&env, &log, minute, 60 * minute).unwrap();
    let host = StrBytes::from_static_str("localhost");
    let (buffers, stopping) = (Buffers::default(), Semaphore::new(0));
    let port = 0;
    let budget = Budget::new(&options);
    Arc::new(Broker {
        env,
        log,
        options,
        buffers,
        budget,
        host,
        port,
        groups,
        transactions,
        naming: Mutex::new(()),
        stopping,
    })
}

/// Takes in a frame as from a connection.
fn receive(broker: &Arc<Broker>, frame: Bytes) -> Result<Pending, Unreadable> {
    dispatch::begin(broker, dispatch::look_over(SocketAddr::from(PEER), frame)?)
}

async fn send(mut input: &[u8]) {
    let sim = Sim::new(1);
    let broker = alone(&sim, Options { partitions: 1, ..Options::default() });
    let coordinating = tokio::spawn(coordinate(Arc::clone(&broker)));
    let mut waiting: Vec<(i32, Pending)> = Vec::new();
    while input.len() >= 4 && waiting.len() < FRAMES_MAX {
        let length = (input.get_u32() as usize).min(input.len());
        let (frame, rest) = input.split_at(length);
        input = rest;
        let correlation = frame.get(4..8).map_or(0, |mut number| number.get_i32());
        let frame = Bytes::copy_from_slice(frame);
        let Ok(pending) = receive(&broker, frame) else { break };
        waiting.push((correlation, pending));
        let (correlation, pending) = waiting.last_mut().expect("it was just put there");
        if let Ok(outcome) = tokio::time::timeout(PATIENCE, Pin::new(pending)).await {
            check(*correlation, outcome);
            waiting.pop();
        }
    }
    drop(waiting);
    let request = MetadataRequest::default().with_topics(None);
    let frame = Bytes::from(frame(12, &request)).slice(4..);
    let answer = receive(&broker, frame).expect("a request that is right");
    let answer = answer.await;
    assert!(matches!(answer, Outcome::Respond(_)), "the broker answers no more: {answer:?}");
    assert!(broker.log.failure().is_none());
    assert!(!coordinating.is_finished(), "groups or transactions have ended");
    coordinating.abort();
}

fn check(correlation: i32, outcome: Outcome) {
    match outcome {
        Outcome::Respond(answer) => {
            let mut bytes = Bytes::from(answer.into_parts().0.concat());
            assert_eq!(bytes.get_i32() as usize, bytes.len());
            assert_eq!(bytes.get_i32(), correlation);
        }
        Outcome::Silent => {}
        Outcome::Close(reason) => assert!(!reason.starts_with("encoding"), "{reason}"),
    }
}

/// A request with its length.
fn frame<R: Request>(version: i16, request: &R) -> Vec<u8> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(7);
    let mut body = BytesMut::new();
    header.encode(&mut body, R::header_version(version)).unwrap();
    request.encode(&mut body, version).unwrap();
    framed(&body)
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.put_u32(body.len() as u32);
    frame.extend_from_slice(body);
    frame
}

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn name() -> TopicName {
    TopicName(text("t"))
}

fn create() -> Vec<u8> {
    let topic = CreatableTopic::default()
        .with_name(name())
        .with_num_partitions(1)
        .with_replication_factor(1);
    frame(7, &CreateTopicsRequest::default().with_topics(vec![topic]))
}

fn produce(batch: Vec<u8>, transactional: bool) -> Vec<u8> {
    let data = PartitionProduceData::default().with_records(Some(batch.into()));
    let topic = TopicProduceData::default().with_name(name()).with_partition_data(vec![data]);
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(1_000)
        .with_transactional_id(transactional.then(|| TransactionalId(text("x"))))
        .with_topic_data(vec![topic]);
    frame(9, &request)
}

/// Each API alone on a topic, each kind of batch, a transaction, a group.
fn seeds() -> Vec<Vec<u8>> {
    let mut random = Random(7);
    let mut seeds: Vec<Vec<u8>> = SERVED
        .iter()
        .filter(|api| api.key != ApiKey::Produce)
        .map(|api| {
            let frame = author::frame(api, api.version_max, &mut |bound| random.below(bound));
            [create(), framed(&frame)].concat()
        })
        .collect();
    let at = FetchPartition::default().with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(name()).with_partitions(vec![at]);
    let fetch = FetchRequest::default().with_max_bytes(1 << 20).with_topics(vec![topic]);
    let fetch = frame(12, &fetch);
    for batch in batches() {
        seeds.push([create(), produce(batch, false), fetch.clone()].concat());
    }
    let id = || TransactionalId(text("x"));
    let init = InitProducerIdRequest::default()
        .with_transactional_id(Some(id()))
        .with_transaction_timeout_ms(1_000);
    let topic = AddPartitionsToTxnTopic::default().with_name(name()).with_partitions(vec![0]);
    let add = AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(id())
        .with_v3_and_below_producer_id(0.into())
        .with_v3_and_below_topics(vec![topic]);
    let end = EndTxnRequest::default().with_transactional_id(id()).with_producer_id(0.into());
    let batch = batches().swap_remove(3);
    seeds.push(
        [
            create(),
            frame(4, &init),
            frame(3, &add),
            produce(batch, true),
            frame(3, &end.with_committed(true)),
            fetch,
        ]
        .concat(),
    );
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(super::subscription().into());
    let join = JoinGroupRequest::default()
        .with_group_id(text("g").into())
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    let at = OffsetCommitRequestPartition::default().with_committed_offset(5);
    let topic = OffsetCommitRequestTopic::default().with_name(name()).with_partitions(vec![at]);
    let commit = OffsetCommitRequest::default()
        .with_group_id(text("g").into())
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    seeds.push([create(), frame(8, &commit), frame(3, &join)].concat());
    seeds
}
