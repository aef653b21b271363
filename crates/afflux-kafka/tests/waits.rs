//! What waits, on a clock that stands still until it is moved, or is set: fetches of what is
//! committed, and transactions that take too long.

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
use afflux_record::Marker;
use afflux_types::{Timestamp, TopicName};
use kafka_protocol::{
    ResponseError,
    messages::{
        ApiVersionsRequest, FetchRequest, FetchResponse,
        fetch_request::{FetchPartition, FetchTopic},
    },
    protocol::Request,
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
    let name = TopicName::new("t").unwrap();
    node.log.ensure_topic(&TopicSpec { name, partitions: 1 }).unwrap();
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
            for _ in 0..50 {
                tokio::select! {
                    biased;
                    _ = &mut answer => panic!("{marker:?}: answered, and {number} have no end"),
                    () = tokio::task::yield_now() => {}
                }
            }
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
