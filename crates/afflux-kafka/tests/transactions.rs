//! Transactions, request by request, over the simulated disk: what crashes, zombies and late
//! requests can do to them.

#[path = "support/producer.rs"]
mod producer;
#[path = "support/reading.rs"]
mod reading;
#[path = "support/sim.rs"]
mod sim;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use afflux_env::sim::{Failure, Operation, Sim, SimRandom};
use afflux_kafka::Options;
use afflux_log::{
    Bounds, EmbeddedLog, Entry, Group, Isolation, Log as _, TopicSpec, error::ReadError,
};
use afflux_record::{
    Compression, Marker,
    batch::{Builder, Producer},
};
use afflux_types::{
    Offset, ProducerEpoch, ProducerId, Timestamp, TopicName, TopicPartition as Partition,
};
use kafka_protocol::{
    ResponseError,
    messages::{
        DeleteTopicsRequest, DescribeTransactionsRequest, OffsetFetchRequest,
        WriteTxnMarkersRequest,
        offset_fetch_request::OffsetFetchRequestTopic,
        write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic},
    },
    protocol::{Request, StrBytes},
};
use producer::{Ask, outcome};
use reading::visible;
use sim::{Node, call, open_log, patiently, small, wire_name};
use tokio::task::JoinSet;

const PARTITIONS: i32 = 3;

type Client = producer::Client<Weak<Node>>;

fn topic() -> TopicName {
    TopicName::new("t").unwrap()
}

/// A node that soon writes the records of groups anew.
async fn start(sim: &Sim) -> Arc<Node> {
    let options =
        Options { group_records_spare: 4, transaction_records_spare: 4, ..Options::default() };
    let node = Node::start(sim, open_log(sim, EmbeddedLog::open, small()), options).await;
    node.log.ensure_topic(&TopicSpec { name: topic(), partitions: PARTITIONS }).unwrap();
    // Before anything fails it serves.
    assert!(committed(&node, "nobody", true).await.is_ok());
    Arc::new(node)
}

async fn restart(sim: &Sim, node: Arc<Node>) -> Arc<Node> {
    sim.disk.crash();
    Arc::into_inner(node).expect("nobody has it").stop().await;
    start(sim).await
}

impl Ask for Weak<Node> {
    async fn ask<R: Request>(
        &self,
        version: i16,
        request: &R,
    ) -> Result<R::Response, ResponseError> {
        Ok(call(&self.upgrade().expect("the node is there"), version, request).await)
    }
}

async fn init(node: &Arc<Node>, id: &str, is_modern: bool) -> Result<Client, ResponseError> {
    Client::init(Arc::downgrade(node), id, is_modern).await
}

/// What a client is told that its id is up to.
async fn state(node: &Node, client: &Client) -> String {
    let request =
        DescribeTransactionsRequest::default().with_transactional_ids(vec![client.id.clone()]);
    call(node, 0, &request).await.transaction_states[0].transaction_state.to_string()
}

/// Where a group stands in partition 0.
async fn committed(node: &Node, group: &str, is_stable: bool) -> Result<i64, ResponseError> {
    let asked = OffsetFetchRequestTopic::default()
        .with_name(wire_name("t"))
        .with_partition_indexes(vec![0]);
    let request = OffsetFetchRequest::default()
        .with_group_id(StrBytes::from_string(group.to_owned()).into())
        .with_topics(Some(vec![asked]))
        .with_require_stable(is_stable);
    let answer = call(node, 7, &request).await;
    let at = &answer.topics[0].partitions[0];
    outcome(at.error_code).map(|()| at.committed_offset)
}

impl<L: producer::Ask> producer::Client<L> {
    async fn produce(&mut self, partition: i32, value: &str) -> Result<(), ResponseError> {
        self.produce_to("t", partition, (Timestamp(1), None, Some(value))).await
    }
}

/// What a client sees that reads committed records, by partition.
fn read(log: &EmbeddedLog) -> BTreeSet<(i32, String)> {
    try_read(log).unwrap()
}

/// The same while the disk may stop.
fn try_read(log: &EmbeddedLog) -> Result<BTreeSet<(i32, String)>, ReadError> {
    let mut seen = BTreeSet::new();
    for index in 0..PARTITIONS {
        let (partition, mut at) = (Partition::new(topic(), index), Offset(0));
        loop {
            let read = log.fetch(&partition, at, 200, Isolation::Committed)?;
            let aborted: Vec<_> = read.aborted.iter().map(|it| (it.producer, it.first)).collect();
            for record in visible(&read.batches, &aborted) {
                let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                assert!(seen.insert((index, value)), "a record is there twice");
            }
            if read.next <= at {
                break;
            }
            at = read.next;
        }
    }
    Ok(seen)
}

/// What became of a transaction, as far as its client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Committed,
    /// Aborted, refused, or never asked to be committed.
    Not,
    Unknown,
}

/// A transaction.
#[derive(Debug)]
struct Tried {
    group: String,
    /// In the order in which they can have been committed.
    order: (i64, i16, i64),
    values: Vec<(i32, String)>,
    has_offset: bool,
    fate: Fate,
}

/// One instance of a client: some transactions, until it is fenced or the node is gone.
async fn live(node: Arc<Node>, id: u64, random: SimRandom, numbers: Arc<AtomicI64>) -> Vec<Tried> {
    let mut tried = Vec::new();
    let Ok(mut client) = init(&node, &format!("id-{id}"), random.below(2) == 0).await else {
        return tried;
    };
    let mut late = JoinSet::new();
    for _ in 0..6 {
        let number = numbers.fetch_add(1, Ordering::SeqCst);
        let marker = if random.below(3) == 0 { Marker::Abort } else { Marker::Commit };
        let mut this = Tried {
            group: format!("g-{id}"),
            order: (client.producer, client.epoch, number),
            values: Vec::new(),
            has_offset: random.below(2) == 0,
            fate: Fate::Not,
        };
        let written = write(&mut client, &mut this, number, &random).await;
        if written.is_err() {
            tried.push(this);
            break;
        }
        // A request that its client gave up on, and tried again over another connection. Before
        // version 2 such a one could end the next transaction.
        let is_doubled = client.is_modern && random.below(3) == 0;
        if is_doubled {
            let mut doubled = client.clone();
            let pauses = random.below(60);
            late.spawn(async move {
                for _ in 0..pauses {
                    tokio::task::yield_now().await;
                }
                let _ = doubled.end(marker).await;
            });
        }
        let ended = client.end(marker).await;
        this.fate = match (&ended, marker) {
            (Ok(()), Marker::Commit) => Fate::Committed,
            (_, Marker::Abort) => Fate::Not,
            (Err(error), _) if is_final(*error) && !is_doubled => Fate::Not,
            (Err(_), _) => Fate::Unknown,
        };
        tried.push(this);
        if ended.is_err() {
            break;
        }
    }
    while late.join_next().await.is_some() {}
    tried
}

/// Whether an end was refused for good.
fn is_final(error: ResponseError) -> bool {
    use ResponseError::{
        InvalidProducerEpoch, InvalidProducerIdMapping, InvalidTxnState, ProducerFenced,
    };
    let refusals =
        [InvalidProducerEpoch, InvalidProducerIdMapping, InvalidTxnState, ProducerFenced];
    refusals.contains(&error)
}

/// Writes a transaction's records and offset.
async fn write(
    client: &mut Client,
    this: &mut Tried,
    number: i64,
    random: &SimRandom,
) -> Result<(), ResponseError> {
    let partitions: BTreeSet<i32> =
        (0..=random.below(4)).map(|_| random.below(PARTITIONS as u64) as i32).collect();
    let partitions: Vec<i32> = partitions.into_iter().collect();
    if !client.is_modern {
        client.add(&partitions).await?;
    }
    for partition in partitions {
        for part in 0..=random.below(2) {
            let value = format!("{number}/{part}");
            this.values.push((partition, value.clone()));
            client.produce(partition, &value).await?;
        }
    }
    if this.has_offset {
        if !client.is_modern {
            client.add_offsets(&this.group).await?;
        }
        client.commit_offset(&this.group, number).await?;
    }
    Ok(())
}

async fn world(seed: u64) {
    let sim = Sim::new(seed);
    let random = SimRandom::new(seed);
    let numbers = Arc::new(AtomicI64::new(0));
    let (mut tried, mut seen) = (Vec::new(), BTreeSet::new());
    let mut node = start(&sim).await;
    for life in 0..3 {
        let operation = if random.below(2) == 0 { Operation::Write } else { Operation::Sync };
        sim.disk.fail_at(operation, 1 + random.below(120), Failure::Crash);
        let mut clients = JoinSet::new();
        // Two instances of one client, and one of another.
        for (instance, id) in [0, 0, 1].into_iter().enumerate() {
            let random = SimRandom::new(seed << 16 | life << 8 | instance as u64);
            clients.spawn(live(Arc::clone(&node), id, random, Arc::clone(&numbers)));
        }
        let is_over = AtomicBool::new(false);
        let living = async {
            while let Some(some) = patiently("a client hangs", clients.join_next()).await {
                tried.extend(some.unwrap());
            }
            is_over.store(true, Ordering::SeqCst);
        };
        let reading = async {
            while !is_over.load(Ordering::SeqCst) {
                seen.extend(try_read(&node.log).unwrap_or_default());
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(living, reading);
        node = restart(&sim, node).await;
    }
    // Whoever comes anew ends what was left open.
    for id in 0..2 {
        init(&node, &format!("id-{id}"), true).await.unwrap();
    }
    check(&node, &tried, &seen).await;
    Arc::into_inner(node).unwrap().stop().await;
}

async fn check(node: &Node, tried: &[Tried], seen: &BTreeSet<(i32, String)>) {
    assert_eq!(node.log.open_transactions(), []);
    let found = read(&node.log);
    assert!(seen.is_subset(&found), "read, and not committed: {:?}", seen.difference(&found));
    let mut expected: HashMap<&str, ((i64, i16, i64), i64)> = HashMap::new();
    for this in tried {
        let there = this.values.iter().filter(|value| found.contains(*value)).count();
        let is_there = there > 0;
        assert!(there == 0 || there == this.values.len(), "only a part: {this:?}");
        match this.fate {
            Fate::Committed => assert!(is_there, "committed, and lost: {this:?}"),
            Fate::Not => assert!(!is_there, "not committed, and there: {this:?}"),
            Fate::Unknown => {}
        }
        if is_there && this.has_offset {
            let last = expected.entry(&this.group).or_insert((this.order, this.order.2));
            *last = (*last).max((this.order, this.order.2));
        }
    }
    for group in ["g-0", "g-1"] {
        let offset = expected.get(group).map_or(-1, |(_, offset)| *offset);
        assert_eq!(committed(node, group, true).await, Ok(offset), "{group}: {tried:#?}");
    }
}

#[tokio::test]
async fn transactions_are_whole_whatever_happens() {
    for seed in 0..60 {
        println!("seed {seed}");
        world(seed).await;
    }
}

#[tokio::test]
async fn an_open_transaction_and_its_offsets_survive_a_crash() {
    for is_modern in [false, true] {
        let sim = Sim::new(7);
        let mut node = start(&sim).await;
        let mut client = init(&node, "id", is_modern).await.unwrap();
        if !is_modern {
            let unknown = client.produce(1, "too soon").await;
            assert_eq!(unknown, Err(ResponseError::TransactionAbortable));
            client.add(&[1]).await.unwrap();
            client.add_offsets("g").await.unwrap();
        }
        client.produce(1, "one").await.unwrap();
        client.commit_offset("g", 5).await.unwrap();
        // A member of a generation that is over commits nothing.
        client.generation = 3;
        let late = client.commit_offset("g", 6).await;
        client.generation = -1;
        assert_eq!(late, Err(ResponseError::IllegalGeneration));
        for life in 0..2 {
            assert_eq!(state(&node, &client).await, "Ongoing");
            assert_eq!(read(&node.log).len(), 0);
            assert_eq!(committed(&node, "g", false).await, Ok(-1));
            let unstable = committed(&node, "g", true).await;
            assert_eq!(unstable, Err(ResponseError::UnstableOffsetCommit));
            if life == 0 {
                node = restart(&sim, node).await;
                client.node = Arc::downgrade(&node);
            }
        }
        client.produce(1, "two").await.unwrap();
        client.end(Marker::Commit).await.unwrap();
        assert_eq!(read(&node.log).len(), 2);
        assert_eq!(committed(&node, "g", true).await, Ok(5));
        let node = restart(&sim, node).await;
        assert_eq!(read(&node.log).len(), 2);
        assert_eq!(committed(&node, "g", true).await, Ok(5));
    }
}

#[tokio::test]
async fn offsets_of_an_open_transaction_outlive_that_records_are_written_anew() {
    let records = Partition::new(TopicName::new("__consumer_offsets").unwrap(), 0);
    let states = Partition::new(TopicName::new("__transaction_state").unwrap(), 0);
    let start_of = |node: &Node| node.log.bounds(&records).map_or(Offset(0), |bounds| bounds.start);
    let sim = Sim::new(11);
    let mut node = start(&sim).await;
    let mut other = init(&node, "other", true).await.unwrap();
    let mut client = init(&node, "id", true).await.unwrap();
    let mut offset = 0;
    for life in 0..3 {
        if life == 1 {
            client.commit_offset("g", 5).await.unwrap();
        }
        let from = start_of(&node);
        let mut most = 0;
        while most < 100 && (life == 1 || start_of(&node) <= from) {
            offset += 1;
            most += 1;
            other.produce(0, "x").await.unwrap();
            other.commit_offset("h", offset).await.unwrap();
            other.end(Marker::Commit).await.unwrap();
        }
        assert!(life == 1 || start_of(&node) > from, "life {life}: they pile up");
        if life == 1 {
            let bounds = node.log.bounds(&records).unwrap();
            assert!(bounds.start <= bounds.stable && bounds.stable < bounds.end, "{bounds:?}");
            node = restart(&sim, node).await;
            other.node = Arc::downgrade(&node);
            client.node = Arc::downgrade(&node);
            client.end(Marker::Commit).await.unwrap();
        }
        let few = async {
            let piled = |bounds: Bounds| bounds.end.0 - bounds.start.0 > 2 * 2 + 4;
            while piled(node.log.bounds(&states).unwrap()) {
                tokio::task::yield_now().await;
            }
        };
        patiently("the states of transactions are not written anew", few).await;
        assert_eq!(committed(&node, "h", true).await, Ok(offset));
        assert_eq!(committed(&node, "g", true).await, Ok(if life == 0 { -1 } else { 5 }));
        node = restart(&sim, node).await;
        other.node = Arc::downgrade(&node);
        client.node = Arc::downgrade(&node);
        assert_eq!(committed(&node, "h", true).await, Ok(offset));
        assert_eq!(committed(&node, "g", true).await, Ok(if life == 0 { -1 } else { 5 }));
    }
}

#[tokio::test]
async fn offsets_for_a_topic_that_is_deleted_meanwhile_are_not_committed() {
    let sim = Sim::new(10);
    let node = start(&sim).await;
    let mut client = init(&node, "id", true).await.unwrap();
    client.produce(1, "gone").await.unwrap();
    client.commit_offset("g", 5).await.unwrap();
    let delete = DeleteTopicsRequest::default().with_topic_names(vec![wire_name("t")]);
    assert_eq!(call(&node, 4, &delete).await.responses[0].error_code, 0);
    node.log.ensure_topic(&TopicSpec { name: topic(), partitions: PARTITIONS }).unwrap();
    client.end(Marker::Commit).await.unwrap();
    assert_eq!(committed(&node, "g", true).await, Ok(-1));
    let node = restart(&sim, node).await;
    assert_eq!(committed(&node, "g", true).await, Ok(-1));
}

#[tokio::test]
async fn what_somebody_else_writes_in_a_producers_name_holds_up_no_end() {
    for (is_modern, marker) in [(false, Marker::Commit), (true, Marker::Abort)] {
        let sim = Sim::new(12);
        let node = start(&sim).await;
        let mut client = init(&node, "id", is_modern).await.unwrap();
        if !is_modern {
            client.add(&[0, 1]).await.unwrap();
        }
        client.produce(0, "mine").await.unwrap();
        let (id, epoch) = (ProducerId(client.producer), ProducerEpoch(client.epoch + 9));
        let producer = Producer { id, epoch, base_sequence: 0 };
        let mut builder = Builder::new(Compression::None).producer(producer);
        builder.push(Timestamp(1), None, Some(b"not mine"));
        let (partition, batch) = (Partition::new(topic(), 1), builder.finish().unwrap());
        node.log.append(&Group { entries: vec![Entry { partition, batch }] }).await.unwrap();
        let fenced = client.produce(1, "fenced").await;
        assert_eq!(fenced, Err(ResponseError::InvalidProducerEpoch));
        assert_eq!(client.end(marker).await, Ok(()));
        let committed = usize::from(marker == Marker::Commit);
        assert_eq!(read(&node.log).len(), 1 + committed);
        let node = restart(&sim, node).await;
        assert_eq!(node.log.open_transactions(), []);
        assert_eq!(read(&node.log).len(), 1 + committed);
    }
}

#[tokio::test]
async fn what_takes_too_long_is_aborted_and_its_commit_refused() {
    for is_modern in [false, true] {
        let sim = Sim::new(8);
        let node = start(&sim).await;
        let mut client = init(&node, "id", is_modern).await.unwrap();
        if !is_modern {
            client.add(&[0]).await.unwrap();
        }
        client.produce(0, "late").await.unwrap();
        sim.clock.advance(Duration::from_secs(61));
        let mut durable = node.log.durable();
        let aborted = async {
            while !node.log.open_transactions().is_empty() {
                durable.changed().await.unwrap();
            }
        };
        patiently("it is not aborted", aborted).await;
        assert_eq!(client.end(Marker::Commit).await, Err(ResponseError::ProducerFenced));
        let fenced = client.produce(0, "later").await;
        assert_eq!(fenced, Err(ResponseError::InvalidProducerEpoch));
        assert_eq!(read(&node.log).len(), 0);
        assert_eq!(node.log.open_transactions(), []);
    }
}

#[tokio::test]
async fn what_hangs_is_ended_by_tools_and_at_start() {
    let sim = Sim::new(9);
    let node = start(&sim).await;
    let at = Partition::new(topic(), 0);
    // Of nobody that the coordinator knows.
    let hang = |node: &Node, id: i64| {
        let (id, epoch) = (ProducerId(id), ProducerEpoch(4));
        let producer = Producer { id, epoch, base_sequence: 0 };
        let mut builder = Builder::new(Compression::None).producer(producer).transactional();
        builder.push(Timestamp(1), None, Some(b"hangs"));
        let entry = Entry { partition: at.clone(), batch: builder.finish().unwrap() };
        node.log.append(&Group { entries: vec![entry] })
    };
    hang(&node, 999).await.unwrap();
    let end = |producer: i64, epoch: i16, commit: bool| {
        let topic = WritableTxnMarkerTopic::default()
            .with_name(wire_name("t"))
            .with_partition_indexes(vec![0]);
        let marker = WritableTxnMarker::default()
            .with_producer_id(producer.into())
            .with_producer_epoch(epoch)
            .with_transaction_result(commit)
            .with_topics(vec![topic]);
        WriteTxnMarkersRequest::default().with_markers(vec![marker])
    };
    let code = |answer: kafka_protocol::messages::WriteTxnMarkersResponse| {
        outcome(answer.markers[0].topics[0].partitions[0].error_code)
    };
    let older = code(call(&node, 1, &end(999, 3, false)).await);
    assert_eq!(older, Err(ResponseError::InvalidProducerEpoch));
    assert_eq!(code(call(&node, 1, &end(999, 4, false)).await), Ok(()));
    assert_eq!(node.log.open_transactions(), []);
    // One that its client could still end is aborted whole, and never committed in part.
    let mut client = init(&node, "id", true).await.unwrap();
    client.produce(0, "zero").await.unwrap();
    client.produce(1, "one").await.unwrap();
    let part = code(call(&node, 1, &end(client.producer, client.epoch, true)).await);
    assert_eq!(part, Err(ResponseError::InvalidTxnState));
    assert_eq!(code(call(&node, 1, &end(client.producer, client.epoch, false)).await), Ok(()));
    assert_eq!(node.log.open_transactions(), []);
    assert_eq!(client.end(Marker::Commit).await, Err(ResponseError::ProducerFenced));

    hang(&node, 1_000).await.unwrap();
    let node = restart(&sim, node).await;
    assert_eq!(node.log.open_transactions(), [], "aborted before anybody is served");
    assert_eq!(read(&node.log).len(), 0);
}
