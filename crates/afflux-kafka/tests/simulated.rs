//! The listener over the simulated network: requests come in pieces, between those of other
//! connections, and some connections are cut within a request or while it is being answered.
//!
//! By seed. What was acknowledged must be in the log after a power cut, what was not is there
//! whole or not at all, and no connection that is gone keeps its place.

#[path = "support/sim.rs"]
mod sim;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use afflux_env::{
    Disk, OpenMode,
    sim::{Failure, Operation, Sim, SimRandom},
};
use afflux_kafka::Options;
use afflux_log::{EmbeddedLog, Isolation, Log as _, LogOptions, TopicSpec};
use afflux_record::{Compression, batch::Builder};
use afflux_types::{Classified, ErrorKind, Offset, Timestamp, TopicName, TopicPartition};
use kafka_protocol::{
    messages::{
        ApiVersionsRequest, ApiVersionsResponse, ConsumerGroupHeartbeatRequest,
        CreateTopicsRequest, DeleteGroupsRequest, DeleteTopicsRequest, FetchRequest, FetchResponse,
        InitProducerIdRequest, ListTransactionsRequest, OffsetCommitRequest, OffsetCommitResponse,
        OffsetFetchRequest, ProduceRequest, ProduceResponse, TransactionalId,
        create_topics_request::CreatableTopic,
        fetch_request::{FetchPartition, FetchTopic},
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch_request::OffsetFetchRequestTopic,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::StrBytes,
};
use sim::{Node, call, frame, open_log, patiently, receive, small, wire_name};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

const CLIENTS: u64 = 6;
/// Fewer than clients: a connection that never ends would hold up the others.
const CONNECTIONS_MAX: usize = 3;
const ROUNDS: u64 = 6;
const PARTITIONS: i32 = 2;
/// Kafka's numbers for them.
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const GROUP_ID_NOT_FOUND: i16 = 69;

static PANICKED: AtomicBool = AtomicBool::new(false);

/// A node that takes few connections.
async fn start(sim: &Sim) -> Node {
    start_with(sim, Options::default()).await
}

async fn start_with(sim: &Sim, options: Options) -> Node {
    let options = Options { connections_max: CONNECTIONS_MAX, ..options };
    Node::start(sim, open_log(sim, EmbeddedLog::open, small()), options).await
}

fn partition(partition: i32) -> TopicPartition {
    TopicPartition::new(TopicName::new("t").unwrap(), partition)
}

fn produce(index: i32, values: &[String]) -> ProduceRequest {
    let mut builder = Builder::new(Compression::None);
    for value in values {
        builder.push(Timestamp(1), None, Some(value.as_bytes()));
    }
    let records = Some(builder.finish().unwrap());
    let data = PartitionProduceData::default().with_index(index).with_records(records);
    let topic =
        TopicProduceData::default().with_name(wire_name("t")).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(-1).with_timeout_ms(1_000).with_topic_data(vec![topic])
}

fn fetch(index: i32) -> FetchRequest {
    let at = FetchPartition::default().with_partition(index).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(wire_name("t")).with_partitions(vec![at]);
    FetchRequest::default()
        .with_max_wait_ms(2)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_topics(vec![topic])
}

fn commit(group: &str, offset: i64) -> OffsetCommitRequest {
    let at = OffsetCommitRequestPartition::default().with_committed_offset(offset);
    let topic =
        OffsetCommitRequestTopic::default().with_name(wire_name("t")).with_partitions(vec![at]);
    OffsetCommitRequest::default()
        .with_group_id(StrBytes::from_string(group.to_owned()).into())
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

async fn committed(node: &Node, group: &str) -> i64 {
    let topic = OffsetFetchRequestTopic::default()
        .with_name(wire_name("t"))
        .with_partition_indexes(vec![0]);
    let request = OffsetFetchRequest::default()
        .with_group_id(StrBytes::from_string(group.to_owned()).into())
        .with_topics(Some(vec![topic]));
    call(node, 5, &request).await.topics[0].partitions[0].committed_offset
}

async fn create(node: &Node, name: &str) {
    let topic = CreatableTopic::default()
        .with_name(wire_name(name))
        .with_num_partitions(PARTITIONS)
        .with_replication_factor(1);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(1_000);
    assert_eq!(call(node, 4, &request).await.topics[0].error_code, 0);
}

async fn delete(node: &Node, name: &str) {
    let request = DeleteTopicsRequest::default().with_topic_names(vec![wire_name(name)]);
    assert_eq!(call(node, 4, &request).await.responses[0].error_code, 0);
}

/// A batch that was handed in, and where it was said to be.
struct Sent {
    partition: i32,
    values: Vec<String>,
    base: Option<i64>,
}

enum Asked {
    Produce(usize),
    Fetch,
    Commit(i64),
}

/// One client's life: a connection after the other. What it sent, and the last offset that it was
/// told is committed.
async fn live(node: Arc<Node>, client: u64, random: SimRandom) -> (Vec<Sent>, i64) {
    let mut sent: Vec<Sent> = Vec::new();
    let mut acknowledged = -1;
    for round in 0..ROUNDS {
        let mut stream = node.connect().await;
        let (mut bytes, mut asked) = (Vec::new(), Vec::new());
        for number in 0..=random.below(5) {
            let (index, correlation) = (random.below(PARTITIONS as u64) as i32, asked.len() as i32);
            match random.below(4) {
                0 => {
                    bytes.extend(frame(4, correlation, &fetch(index)));
                    asked.push(Asked::Fetch);
                }
                1 => {
                    let offset = (round * 10 + number) as i64;
                    let request = commit(&format!("g{client}"), offset);
                    bytes.extend(frame(7, correlation, &request));
                    asked.push(Asked::Commit(offset));
                }
                _ => {
                    let count = 1 + random.below(3);
                    let value = |i| format!("{client}/{round}/{number}/{i}");
                    let values: Vec<_> = (0..count).map(value).collect();
                    bytes.extend(frame(9, correlation, &produce(index, &values)));
                    asked.push(Asked::Produce(sent.len()));
                    sent.push(Sent { partition: index, values, base: None });
                }
            }
        }
        let is_cut = random.below(2) == 0;
        if is_cut {
            bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(1 + random.below(rest.len() as u64) as usize);
            stream.write_all(now).await.unwrap();
            for _ in 0..random.below(6) {
                tokio::task::yield_now().await;
            }
            rest = later;
        }
        if is_cut {
            continue;
        }
        for (expected, asked) in asked.into_iter().enumerate() {
            let correlation = match asked {
                Asked::Fetch => receive::<FetchResponse>(&mut stream, 4).await.0,
                Asked::Commit(offset) => {
                    let (correlation, answer) =
                        receive::<OffsetCommitResponse>(&mut stream, 7).await;
                    assert_eq!(answer.topics[0].partitions[0].error_code, 0);
                    acknowledged = offset;
                    correlation
                }
                Asked::Produce(index) => {
                    let (correlation, answer) = receive::<ProduceResponse>(&mut stream, 9).await;
                    let one = &answer.responses[0].partition_responses[0];
                    assert_eq!(one.error_code, 0);
                    sent[index].base = Some(one.base_offset);
                    correlation
                }
            };
            assert_eq!(correlation, expected as i32, "answers come in order");
        }
    }
    (sent, acknowledged)
}

/// Every value in the log with its offset, by partition.
fn found(log: &EmbeddedLog) -> HashMap<(i32, String), i64> {
    let mut found = HashMap::new();
    for index in 0..PARTITIONS {
        let mut at = Offset(0);
        loop {
            let read = log.fetch(&partition(index), at, 1 << 20, Isolation::Committed).unwrap();
            for record in read.batches.iter().flat_map(afflux_record::records) {
                let record = record.unwrap();
                let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                let twice = found.insert((index, value), record.offset.0);
                assert_eq!(twice, None, "a record is there twice");
            }
            if read.next <= at {
                break;
            }
            at = read.next;
        }
    }
    found
}

async fn world(seed: u64) {
    let sim = Sim::new(seed);
    let node = Arc::new(start(&sim).await);
    node.log
        .create_topic(&TopicSpec { name: TopicName::new("t").unwrap(), partitions: PARTITIONS })
        .unwrap();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (node, random) = (Arc::clone(&node), SimRandom::new(seed << 8 | client));
        clients.spawn(async move { (client, live(node, client, random).await) });
    }
    let mut lives = Vec::new();
    while let Some(life) = patiently("a client hangs", clients.join_next()).await {
        lives.push(life.unwrap());
    }
    let node = Arc::into_inner(node).expect("the clients are gone");
    // Deleting a topic waits for the commits of connections that are gone.
    create(&node, "other").await;
    delete(&node, "other").await;
    let mut standing = Vec::new();
    for (client, (_, acknowledged)) in &lives {
        let offset = committed(&node, &format!("g{client}")).await;
        assert!(offset >= *acknowledged, "client {client}: {offset} < {acknowledged}");
        standing.push(offset);
    }
    sim.disk.crash();
    node.stop().await;

    let node = start(&sim).await;
    let found = found(&node.log);
    for (client, (sent, _)) in &lives {
        for Sent { partition, values, base } in sent {
            let at: Vec<_> =
                values.iter().map(|v| found.get(&(*partition, v.clone())).copied()).collect();
            if let Some(base) = base {
                let expected: Vec<_> = (*base..).map(Some).take(values.len()).collect();
                assert_eq!(at, expected, "client {client}: acknowledged, and not there");
            }
            let whole = at.iter().all(Option::is_some) || at.iter().all(Option::is_none);
            assert!(whole, "client {client}: {values:?} at {at:?}");
        }
    }
    for ((client, _), before) in lives.iter().zip(standing) {
        let after = committed(&node, &format!("g{client}")).await;
        assert_eq!(after, before, "client {client}: the table was not what the log says");
    }
    node.stop().await;
}

#[tokio::test]
async fn cut_connections_leave_nothing_half_done() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICKED.store(true, Ordering::SeqCst);
        usual(info);
    }));
    for seed in 0..40 {
        println!("seed {seed}");
        world(seed).await;
        assert!(!PANICKED.load(Ordering::SeqCst), "a handler has panicked");
    }
}

#[tokio::test]
async fn a_crash_behind_the_end_of_a_topic_brings_no_offset_back() {
    let sim = Sim::new(1);
    let node = start(&sim).await;
    create(&node, "t").await;
    let answer = call(&node, 7, &commit("g", 7)).await;
    assert_eq!(answer.topics[0].partitions[0].error_code, 0);
    assert_eq!(committed(&node, "g").await, 7);
    // As if the node had ended before it took the offset back.
    node.log.delete_topic(&TopicName::new("t").unwrap()).unwrap();
    sim.disk.crash();
    node.stop().await;
    for life in 0..2 {
        let node = start(&sim).await;
        if life == 0 {
            create(&node, "t").await;
        }
        assert_eq!(committed(&node, "g").await, -1, "another topic of that name begins anew");
        sim.disk.crash();
        node.stop().await;
    }
}

#[tokio::test]
async fn offsets_go_with_their_topic_though_the_disk_is_full() {
    let sim = Sim::new(1);
    let node = start(&sim).await;
    create(&node, "t").await;
    assert_eq!(call(&node, 7, &commit("g", 7)).await.topics[0].partitions[0].error_code, 0);
    sim.disk.set_capacity(0);
    let refused = async {
        while call(&node, 7, &commit("h", 1)).await.topics[0].partitions[0].error_code == 0 {}
    };
    patiently("the log does not fill up", refused).await;
    delete(&node, "t").await;
    assert_eq!(committed(&node, "g").await, -1);
    create(&node, "t").await;
    assert_eq!(committed(&node, "g").await, -1);
    sim.disk.crash();
    node.stop().await;
    sim.disk.set_capacity(1 << 40);
    let node = start(&sim).await;
    assert_eq!(committed(&node, "g").await, -1, "it was committed for another");
    node.stop().await;
}

/// A heartbeat of the one member of a group of the consumer protocol, which it joins in epoch 0.
async fn heartbeat(node: &Node, epoch: i32) -> i16 {
    let text = StrBytes::from_static_str;
    let mut request = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(text("held").into())
        .with_member_id(text("member"))
        .with_member_epoch(epoch);
    if epoch == 0 {
        request.rebalance_timeout_ms = 10_000;
        request.subscribed_topic_names = Some(vec![wire_name("t")]);
        request.topic_partitions = Some(Vec::new());
    }
    call(node, 1, &request).await.error_code
}

/// Commits and deletes groups, also when the machine has stopped. Of each group there is what it
/// may have committed: one offset, or several while the machine has not told the outcome.
async fn use_groups(node: &Node, random: &SimRandom, first: usize, possible: &mut [Vec<i64>]) {
    for _ in 0..20 {
        let at = random.below(possible.len() as u64) as usize;
        let name = format!("g{}", first + at);
        let (offset, error) = if random.below(4) == 0 {
            let id = StrBytes::from_string(name).into();
            let request = DeleteGroupsRequest::default().with_groups_names(vec![id]);
            let error = call(node, 2, &request).await.results[0].error_code;
            if error == GROUP_ID_NOT_FOUND {
                // So it was; or what is unknown of it did not come back to the node.
                assert!(possible[at].contains(&-1) || possible[at].len() > 1);
                continue;
            }
            (-1, error)
        } else {
            let offset = random.below(1_000) as i64;
            let answer = call(node, 7, &commit(&name, offset)).await;
            (offset, answer.topics[0].partitions[0].error_code)
        };
        if error == 0 {
            possible[at].clear();
        }
        possible[at].push(offset);
    }
}

#[tokio::test]
async fn no_crash_while_groups_are_written_anew_loses_what_they_are() {
    const SPARE: u32 = 3;
    let records = TopicPartition::new(TopicName::new("__consumer_offsets").unwrap(), 0);
    let mut trimmed = 0;
    for seed in 0..30 {
        let (sim, random) = (Sim::new(seed), SimRandom::new(seed));
        let mut possible: [_; 4] = std::array::from_fn(|_| vec![-1_i64]);
        for life in 0..6 {
            // Each record is a part of its own: others commit between them.
            let options =
                Options { group_records_spare: SPARE, rewrite_bytes: 1, ..Options::default() };
            let node = start_with(&sim, options).await;
            if life == 0 {
                create(&node, "t").await;
                assert_eq!(heartbeat(&node, 0).await, 0);
            } else {
                trimmed += i32::from(node.log.bounds(&records).unwrap().start > Offset(0));
            }
            assert_eq!(heartbeat(&node, 1).await, 0, "seed {seed}: the member is known");
            for (at, possible) in possible.iter_mut().enumerate() {
                let found = committed(&node, &format!("g{at}")).await;
                assert!(possible.contains(&found), "seed {seed}: {found} is not of {possible:?}");
                *possible = vec![found];
            }
            if life < 5 {
                let kind = [Operation::Write, Operation::Sync][random.below(2) as usize];
                sim.disk.fail_at(kind, 1 + random.below(50), Failure::Crash);
            }
            let (left, right) = possible.split_at_mut(2);
            tokio::join!(use_groups(&node, &random, 0, left), use_groups(&node, &random, 2, right));
            if life == 5 {
                let few = async {
                    // Five records of the member's group, and at most one commit of each other.
                    let most = 2 * (5 + possible.len() as i64) + i64::from(SPARE);
                    loop {
                        let bounds = node.log.bounds(&records).unwrap();
                        if bounds.end.0 - bounds.start.0 <= most {
                            break;
                        }
                        tokio::task::yield_now().await;
                    }
                };
                patiently("records pile up", few).await;
            }
            sim.disk.crash();
            node.stop().await;
        }
    }
    assert!(trimmed > 60, "only {trimmed} lives began with trimmed records");
}

#[tokio::test]
async fn what_groups_stored_and_nobody_can_read_stops_the_start() {
    let sim = Sim::new(1);
    let node = start(&sim).await;
    create(&node, "t").await;
    let journal = std::path::Path::new("/data/journal");
    let sealed = || {
        let mut files = sim.disk.list(journal).unwrap();
        files.retain(|file| file.extension().is_some_and(|is| is == "index"));
        files.into_iter().min()
    };
    let sealing = async {
        let mut offset = 0;
        while sealed().is_none() {
            offset += 1;
            assert_eq!(
                call(&node, 7, &commit("g", offset)).await.topics[0].partitions[0].error_code,
                0
            );
        }
    };
    patiently("no file fills up", sealing).await;
    let path = sealed().unwrap().with_extension("journal");
    let log = Arc::clone(&node.log);
    node.stop().await;
    log.shutdown();
    drop(log);
    let file = sim.disk.open(&path, OpenMode::Write).unwrap();
    let bytes = file.len().unwrap();
    for at in (8_000..bytes - 1_000).step_by(512) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }
    file.sync_data().unwrap();
    let env = sim.env();
    let log = EmbeddedLog::open(&env, std::path::Path::new("/data"), LogOptions::default());
    let log = Arc::new(log.expect("nobody reads it there"));
    let listener = env.network.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (_stop, stopping) = tokio::sync::watch::channel(false);
    let started = afflux_kafka::start(env, log, listener, Options::default(), stopping).await;
    let Err(refused) = started else { panic!("it serves what it has not read") };
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    assert!(refused.hint().is_some_and(|hint| hint.contains("journal check")), "{refused}");
}

#[tokio::test]
async fn a_member_that_a_full_disk_kept_out_is_in_later() {
    let sim = Sim::new(1);
    let node = start(&sim).await;
    create(&node, "t").await;
    sim.disk.set_capacity(0);
    let refused = async {
        while call(&node, 7, &commit("g", 1)).await.topics[0].partitions[0].error_code == 0 {}
    };
    patiently("the log does not fill up", refused).await;
    assert_eq!(heartbeat(&node, 0).await, COORDINATOR_NOT_AVAILABLE, "it is not stored");
    sim.disk.set_capacity(1 << 40);
    let taken = async {
        while heartbeat(&node, 0).await != 0 {
            sim.clock.advance(Duration::from_secs(1));
        }
    };
    patiently("room that came back is not used", taken).await;
    sim.disk.crash();
    node.stop().await;
    let node = start(&sim).await;
    assert_eq!(heartbeat(&node, 1).await, 0, "all of it was stored in the end");
    node.stop().await;
}

#[tokio::test]
async fn transactional_ids_are_looked_through_as_often_as_is_set() {
    let mut options = Options::default();
    let check = ("transaction.abort.timed.out.transaction.cleanup.interval.ms", "10000");
    let given = [check, ("transactional.id.expiration.ms", "1")];
    options.set(given.map(|(name, value)| (name.to_owned(), value.to_owned()))).unwrap();
    let sim = Sim::new(1);
    sim.clock.wake_sleepers();
    let node = start_with(&sim, options).await;
    let begin = InitProducerIdRequest::default()
        .with_transactional_id(Some(TransactionalId(StrBytes::from_static_str("id"))))
        .with_transaction_timeout_ms(1_000);
    assert_eq!(call(&node, 4, &begin).await.error_code, 0);
    let known = async || {
        let listed = call(&node, 0, &ListTransactionsRequest::default()).await;
        listed.transaction_states.len()
    };
    sim.clock.advance(Duration::from_secs(9));
    // Whoever was woken has had its turn by then.
    for _ in 0..50 {
        assert_eq!(known().await, 1, "nobody looks yet");
    }
    sim.clock.advance(Duration::from_secs(1));
    let forgotten = async { while known().await > 0 {} };
    patiently("nobody looks", forgotten).await;
    node.stop().await;
}

/// `ApiVersions` with more behind it than it needs.
fn long_request(bytes: usize) -> Vec<u8> {
    let mut request = vec![0; bytes];
    request[1] = 18;
    request
}

#[tokio::test]
async fn who_announces_a_request_and_does_not_send_it_holds_up_nobody() {
    let bytes: usize = 100 << 10;
    let options =
        Options { frame_bytes_max: bytes, request_bytes_max: 2 * bytes, ..Options::default() };
    let node = start_with(&Sim::new(1), options).await;
    let request = long_request(bytes);
    // More than there is room for; and what was sent of it is more than there is room for, too.
    let mut silent = Vec::new();
    for _ in 0..4 {
        let mut client = node.connect().await;
        client.write_i32(bytes as i32).await.unwrap();
        client.write_all(&request[..bytes / 2]).await.unwrap();
        silent.push(client);
    }
    let (mut long, mut short) = (node.connect().await, node.connect().await);
    let ask = frame(0, 1, &ApiVersionsRequest::default());
    for _ in 0..20 {
        long.write_i32(bytes as i32).await.unwrap();
        long.write_all(&request).await.unwrap();
        let answered = receive::<ApiVersionsResponse>(&mut long, 0);
        patiently("a long request waits for what others do not send", answered).await;
        short.write_all(&ask).await.unwrap();
        let answered = receive::<ApiVersionsResponse>(&mut short, 0);
        patiently("a short request waits for what others do not send", answered).await;
    }
    node.stop().await;
}

#[tokio::test]
async fn who_comes_beyond_the_budget_has_to_hurry() {
    let bytes: usize = 100 << 10;
    let options =
        Options { frame_bytes_max: bytes, request_bytes_max: bytes, ..Options::default() };
    let node = start_with(&Sim::new(1), options).await;
    let request = long_request(bytes);
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = node.connect().await;
        client.write_i32(bytes as i32).await.unwrap();
        client.write_all(&request[..bytes - 1]).await.unwrap();
        clients.push(client);
    }
    // Long before its minute is over.
    let (mut one, mut other) = ([0], [0]);
    let [first, second] = &mut clients[..] else { panic!() };
    let closed = async {
        tokio::select! {
            read = first.read(&mut one) => read,
            read = second.read(&mut other) => read,
        }
    };
    assert_eq!(patiently("both go on", closed).await.unwrap(), 0);
    node.stop().await;
}
