//! What waits, on a clock that stands still until it is moved, or is set: fetches of what is
//! committed, what comes behind fetches, groups, and transactions that take too long.

#[expect(dead_code, reason = "its transactions have records alone")]
#[path = "support/producer.rs"]
mod producer;
#[path = "support/sim.rs"]
mod sim;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use afflux_env::{Clock as _, sim::Sim};
use afflux_kafka::Options;
use afflux_log::{EmbeddedLog, Log as _, TopicSpec};
use afflux_record::{Compression, Marker, batch::Builder};
use afflux_types::{Timestamp, TopicName};
use kafka_protocol::{
    ResponseError,
    messages::{
        ApiVersionsRequest, DescribeGroupsRequest, FetchRequest, FetchResponse, GroupId,
        JoinGroupRequest, ProduceRequest, ProduceResponse,
        fetch_request::{FetchPartition, FetchTopic},
        join_group_request::JoinGroupRequestProtocol,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::{Request, StrBytes},
};
use producer::Ask;
use sim::{Node, call, frame, open_log, patiently, receive, small, wire_name};
use tokio::io::AsyncWriteExt;

/// A producer of transactions, which may take a minute.
type Client = producer::Client<Weak<Node>>;

impl Ask for Weak<Node> {
    async fn ask<R: Request>(
        &self,
        version: i16,
        request: &R,
    ) -> Result<R::Response, ResponseError> {
        Ok(call(&self.upgrade().expect("the node is there"), version, request).await)
    }
}

async fn start(sim: &Sim) -> Arc<Node> {
    let node =
        Node::start(sim, open_log(sim, EmbeddedLog::open, small()), Options::default()).await;
    for name in ["t", "other"] {
        let name = TopicName::new(name).unwrap();
        node.log.ensure_topic(&TopicSpec { name, partitions: 1 }).unwrap();
    }
    call(&node, 0, &ApiVersionsRequest::default()).await;
    Arc::new(node)
}

async fn begin(node: &Arc<Node>) -> Client {
    let mut client = Client::init(Arc::downgrade(node), "id", true).await.unwrap();
    produce(&mut client).await;
    client
}

async fn produce(client: &mut Client) {
    client.produce_to("t", 0, (Timestamp(1), None, Some("value"))).await.unwrap();
}

fn produce_request(topic: &str) -> ProduceRequest {
    let mut builder = Builder::new(Compression::None);
    builder.push(Timestamp(1), None, Some(b"value"));
    let data = PartitionProduceData::default().with_records(builder.finish().ok());
    let topic = TopicProduceData::default().with_name(wire_name(topic));
    let topics = vec![topic.with_partition_data(vec![data])];
    ProduceRequest::default().with_acks(-1).with_timeout_ms(1_000).with_topic_data(topics)
}

/// What is committed of partition 0 from an offset on, if need be after a wait.
fn wait_from(offset: i64, wait: Duration) -> FetchRequest {
    let at = FetchPartition::default().with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(wire_name("t")).with_partitions(vec![at]);
    FetchRequest::default()
        .with_max_wait_ms(wait.as_millis() as i32)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_isolation_level(1)
        .with_topics(vec![topic])
}

#[tokio::test]
async fn who_reads_what_is_committed_is_woken_by_an_end_alone() {
    const WAIT: Duration = Duration::from_secs(20);
    let sim = Sim::new(1);
    // Time stands still: no wait is over before it is moved.
    sim.clock.wake_sleepers();
    let node = start(&sim).await;
    let mut client = Client::init(Arc::downgrade(&node), "id", true).await.unwrap();
    let (mut from, mut stream) = (0, node.connect().await);
    for marker in [Some(Marker::Commit), Some(Marker::Abort), None] {
        produce(&mut client).await;
        stream.write_all(&frame(5, 1, &wait_from(from, WAIT))).await.unwrap();
        let mut answer = Box::pin(receive::<FetchResponse>(&mut stream, 5));
        for number in 0..20 {
            // Acknowledged, so durable: whoever waits for that is woken, and has its turn.
            produce(&mut client).await;
            let early = answered(answer.as_mut()).await;
            assert!(early.is_none(), "{marker:?}: answered, and {number} have no end");
        }
        assert_eq!(sim.clock.monotonic(), Duration::ZERO);
        let time = async {
            match marker {
                Some(marker) => client.end(marker).await.unwrap(),
                None => sim.clock.advance(WAIT),
            }
        };
        let woken = async { tokio::join!(time, answer).1 };
        let (_, answer) = patiently("nobody is woken", woken).await;
        let at = &answer.responses[0].partitions[0];
        assert_eq!(at.records.as_ref().unwrap().is_empty(), marker.is_none(), "{marker:?}");
        // Behind 21 records and a marker.
        assert_eq!(at.last_stable_offset, from + if marker.is_some() { 22 } else { 0 });
        let aborted = at.aborted_transactions.iter().flatten().count();
        assert_eq!(aborted, usize::from(marker == Some(Marker::Abort)));
        from = at.last_stable_offset;
    }
}

/// The answer that has come by now, if others had their turns.
async fn answered<T>(mut answer: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    for _ in 0..50 {
        tokio::select! {
            biased;
            answer = &mut answer => return Some(answer),
            () = tokio::task::yield_now() => {}
        }
    }
    None
}

#[tokio::test]
async fn nothing_is_taken_behind_a_fetch_that_waits() {
    const WAIT: Duration = Duration::from_secs(20);
    let sim = Sim::new(2);
    sim.clock.wake_sleepers();
    let node = start(&sim).await;
    let mut stream = node.connect().await;
    stream.write_all(&frame(5, 1, &wait_from(0, WAIT))).await.unwrap();
    stream.write_all(&frame(7, 2, &produce_request("other"))).await.unwrap();
    let mut fetched = Box::pin(receive::<FetchResponse>(&mut stream, 5));
    assert!(answered(fetched.as_mut()).await.is_none());
    // What came later, on another connection, is before it.
    let first = call(&node, 7, &produce_request("other")).await;
    assert_eq!(first.responses[0].partition_responses[0].base_offset, 0);
    assert!(answered(fetched.as_mut()).await.is_none());
    sim.clock.advance(WAIT);
    assert_eq!(patiently("the wait does not end", fetched).await.0, 1);
    let second = receive::<ProduceResponse>(&mut stream, 7);
    let (correlation, second) = patiently("what comes behind is lost", second).await;
    assert_eq!(correlation, 2);
    assert_eq!(second.responses[0].partition_responses[0].base_offset, 1);
}

#[tokio::test]
async fn a_fetch_of_very_many_partitions_waits_a_second() {
    let sim = Sim::new(3);
    sim.clock.wake_sleepers();
    let node = start(&sim).await;
    let name = TopicName::new("many").unwrap();
    node.log.ensure_topic(&TopicSpec { name, partitions: 2_000 }).unwrap();
    let moment = Duration::from_millis(1);
    for (partitions, almost) in [(100, 19_999), (2_000, 999)] {
        let mut request = wait_from(0, Duration::from_secs(20));
        request.topics[0].topic = wire_name("many");
        let at = request.topics[0].partitions[0].clone();
        request.topics[0].partitions =
            (0..partitions).map(|index| at.clone().with_partition(index)).collect();
        let mut answer = Box::pin(call(&node, 5, &request));
        assert!(answered(answer.as_mut()).await.is_none());
        sim.clock.advance(Duration::from_millis(almost));
        assert!(answered(answer.as_mut()).await.is_none(), "{partitions}");
        sim.clock.advance(moment);
        let answer = patiently("the wait does not end", answer).await;
        assert_eq!(answer.responses[0].partitions.len(), partitions as usize);
    }
}

#[tokio::test]
async fn members_that_wait_for_each_other_keep_nothing_from_each_other() {
    let sim = Sim::new(4);
    sim.clock.wake_sleepers();
    // Four long requests would have all that there is for them.
    let options = Options { request_bytes_max: 1 << 20, ..Options::default() };
    let node = Node::start(&sim, open_log(&sim, EmbeddedLog::open, small()), options).await;
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(StrBytes::from_static_str("range"))
        .with_metadata(vec![7; 100 << 10].into());
    let request = JoinGroupRequest::default()
        .with_group_id(GroupId(StrBytes::from_static_str("group")))
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_protocol_type(StrBytes::from_static_str("consumer"))
        .with_protocols(vec![protocol]);
    let (node, request) = (Arc::new(node), Arc::new(request));
    let joining: Vec<_> = (0..5)
        .map(|_| {
            let (node, request) = (Arc::clone(&node), Arc::clone(&request));
            tokio::spawn(async move { call(&node, 2, &*request).await })
        })
        .collect();
    // All have come before the first rebalance is over.
    let described = DescribeGroupsRequest::default().with_groups(vec![request.group_id.clone()]);
    let members = async { while call(&node, 0, &described).await.groups[0].members.len() < 5 {} };
    patiently("a member does not get in", members).await;
    sim.clock.advance(Duration::from_secs(30));
    let mut members = 0;
    for joined in joining {
        let joined = patiently("nobody is answered", joined).await.unwrap();
        assert_eq!((joined.error_code, joined.generation_id), (0, 1));
        members += joined.members.len();
    }
    assert_eq!(members, 5);
    Arc::into_inner(node).expect("nobody has it").stop().await;
}

#[tokio::test]
async fn a_clock_that_is_set_neither_ends_a_transaction_that_runs_nor_keeps_it() {
    const DAY: i64 = 86_400_000;
    let (almost, more) = (Duration::from_secs(55), Duration::from_secs(10));
    for (ahead, restarts) in [(-DAY, false), (DAY, false), (-DAY, true), (DAY, true)] {
        let sim = Sim::new(8);
        sim.clock.wake_sleepers();
        let mut node = start(&sim).await;
        let client = begin(&node).await;
        sim.clock.set_wall(ahead);
        if restarts {
            Arc::into_inner(node).expect("nobody has it").stop().await;
            node = start(&sim).await;
        }
        // A start that finds that a day has gone by leaves nothing of a minute.
        let is_over = (ahead, restarts) == (DAY, true);
        sim.clock.advance(if is_over { Duration::ZERO } else { almost });
        // Whoever was woken has had its turn by then.
        for _ in 0..50 {
            call(&node, 0, &ApiVersionsRequest::default()).await;
        }
        assert_eq!(node.log.open_transactions().len(), 1, "{ahead} {restarts}");
        sim.clock.advance(more);
        let mut durable = node.log.durable();
        let aborted = async {
            while !node.log.open_transactions().is_empty() {
                durable.changed().await.unwrap();
            }
        };
        patiently("it is not aborted", aborted).await;
        drop(client);
        Arc::into_inner(node).expect("nobody has it").stop().await;
    }
}
