//! Clients that go on whatever happens to the node, and write down what they were told.
//!
//! - [`Producer`]: idempotent, numbers its records, keeps a few under way.
//! - [`Transactions`]: writes one record to each partition of a topic in one transaction; every
//!   fourth is aborted.
//! - [`Consumer`]: reads the transactions' topic in a group, `read_committed`, and commits. It ends
//!   when it has seen the last record of each partition, which [`Consumer::end`] writes.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::{KafkaError, RDKafkaError},
    producer::{
        BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer,
    },
};

use super::TEXT;

/// The topic of the plain producers.
pub(crate) const PLAIN: &str = "plain";
/// The topic of the transactions.
pub(crate) const PAIRS: &str = "pairs";
/// The last record of each partition of the transactions' topic.
pub(crate) const LAST: &str = "the last one";
/// Partitions of each.
pub(crate) const PARTITIONS: i32 = 3;
/// Records that a producer has under way at most.
const UNDER_WAY: u64 = 10;
const PATIENCE: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(10);

/// What clients have been told so far, for who waits for it.
#[derive(Default)]
pub(crate) struct Progress {
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Default)]
struct Counts {
    sent: u64,
    acknowledged: u64,
}

impl Progress {
    fn sent(&self) {
        self.counts.lock().expect("no panic").sent += 1;
        self.changed.notify_all();
    }

    fn acknowledged(&self) {
        self.counts.lock().expect("no panic").acknowledged += 1;
        self.changed.notify_all();
    }

    fn wait(&self, enough: impl Fn(&Counts) -> bool) {
        let counts = self.counts.lock().expect("no panic");
        let waited = self.changed.wait_timeout_while(counts, PATIENCE, |counts| !enough(counts));
        assert!(!waited.expect("no panic").1.timed_out(), "the clients do not go on");
    }

    /// Waits until so many more records were acknowledged.
    pub(crate) fn wait_for_acks(&self, more: u64) {
        let enough = self.counts.lock().expect("no panic").acknowledged + more;
        self.wait(|counts| counts.acknowledged >= enough);
    }

    /// Waits until so many records are without an answer.
    pub(crate) fn wait_for_pile(&self, pile: u64) {
        self.wait(|counts| counts.sent - counts.acknowledged >= pile);
    }
}

fn config(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", address)
        .set("reconnect.backoff.ms", "5")
        .set("reconnect.backoff.max.ms", "50")
        .set("retry.backoff.ms", "10")
        .set("log_level", "0");
    config
}

/// Makes the topics.
pub(crate) fn make_topics(address: &str) {
    let admin: AdminClient<DefaultClientContext> = config(address).create().expect("a client");
    let topics =
        [PLAIN, PAIRS].map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let made = runtime.expect("a runtime").block_on(async {
        admin.create_topics(&topics, &AdminOptions::new().request_timeout(Some(PATIENCE))).await
    });
    for topic in made.expect("an answer") {
        topic.expect("it is made");
    }
}

/// A record that a producer was told of, or that was read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Placed {
    /// Its value.
    pub(crate) value: String,
    /// Where it is.
    pub(crate) partition: i32,
    /// Where it is there.
    pub(crate) offset: i64,
}

impl Placed {
    fn of(message: &impl Message) -> Self {
        let value = std::str::from_utf8(message.payload().expect("a value")).expect("text");
        let (partition, offset) = (message.partition(), message.offset());
        Self { value: value.to_owned(), partition, offset }
    }
}

/// What a plain producer was told.
pub(crate) struct Produced {
    /// Its number.
    pub(crate) number: u32,
    /// How many records it sent.
    pub(crate) sent: u64,
    /// What was acknowledged.
    pub(crate) acknowledged: Vec<Placed>,
}

struct Deliveries {
    placed: Mutex<Vec<Placed>>,
    progress: Arc<Progress>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let message = result.as_ref().unwrap_or_else(|(error, _)| panic!("refused: {error}"));
        self.placed.lock().expect("no panic").push(Placed::of(message));
        self.progress.acknowledged();
    }
}

/// An idempotent producer at work.
pub(crate) struct Producer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Produced>,
}

impl Producer {
    /// Starts it.
    pub(crate) fn start(address: &str, number: u32, progress: &Arc<Progress>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, progress) = (stop.clone(), progress.clone());
        let deliveries = Deliveries { placed: Mutex::default(), progress: progress.clone() };
        let producer: BaseProducer<Deliveries> = config(address)
            .set("enable.idempotence", "true")
            .set("linger.ms", "1")
            .set("message.timeout.ms", "0")
            .create_with_context(deliveries)
            .expect("a client");
        let thread = std::thread::spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::SeqCst) {
                if producer.in_flight_count() as u64 >= UNDER_WAY {
                    producer.poll(POLL);
                    continue;
                }
                let value = format!("{TEXT}-{number}-{sent}");
                let partition = (sent % PARTITIONS as u64) as i32;
                let record = BaseRecord::<(), str, ()>::to(PLAIN).partition(partition);
                producer.send(record.payload(&value)).map_err(|(error, _)| error).expect("room");
                sent += 1;
                progress.sent();
                producer.poll(Duration::ZERO);
            }
            producer.flush(PATIENCE).expect("all is acknowledged");
            let acknowledged = producer.context().placed.lock().expect("no panic").clone();
            Produced { number, sent, acknowledged }
        });
        Self { stop, thread }
    }

    /// Lets it come to its end.
    pub(crate) fn end(self) -> Produced {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("it went well")
    }
}

/// What the transactional producer was told.
pub(crate) struct Transacted {
    /// Transactions whose commit was acknowledged.
    pub(crate) committed: Vec<u64>,
    /// Transactions whose abort was acknowledged.
    pub(crate) aborted: Vec<u64>,
}

/// A transactional producer at work.
pub(crate) struct Transactions {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Transacted>,
}

/// Tries until it is done; false if the transaction has to be aborted instead.
fn insist(mut attempt: impl FnMut() -> Result<(), KafkaError>) -> bool {
    loop {
        let error: RDKafkaError = match attempt() {
            Ok(()) => return true,
            Err(KafkaError::Transaction(error)) => error,
            Err(error) => panic!("{error}"),
        };
        assert!(!error.is_fatal(), "{error}");
        if error.txn_requires_abort() {
            return false;
        }
        assert!(error.is_retriable(), "{error}");
    }
}

impl Transactions {
    /// Starts it.
    pub(crate) fn start(address: &str, progress: &Arc<Progress>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, progress) = (stop.clone(), progress.clone());
        let producer: ThreadedProducer<_> = config(address)
            .set("transactional.id", format!("{TEXT}-transactions"))
            .set("transaction.timeout.ms", "600000")
            .set("linger.ms", "0")
            .create()
            .expect("a client");
        let thread = std::thread::spawn(move || {
            assert!(insist(|| producer.init_transactions(PATIENCE)));
            let mut told = Transacted { committed: Vec::new(), aborted: Vec::new() };
            let mut number = 0;
            while !stopped.load(Ordering::SeqCst) {
                producer.begin_transaction().expect("none is open");
                let value = format!("{TEXT}-transaction-{number}");
                let sent = (0..PARTITIONS).all(|partition| {
                    let record = BaseRecord::<(), str, ()>::to(PAIRS).partition(partition);
                    producer.send(record.payload(&value)).is_ok()
                });
                // An abort at once would be sent though a kill has lost the request that begins the
                // transaction, as librdkafka can not know that; Kafka, too, refuses to end what was
                // not begun (`ends_are_answered_as_kafka_does`).
                let _ = producer.flush(PATIENCE);
                let commits = number % 4 != 3;
                if sent && commits && insist(|| producer.commit_transaction(PATIENCE)) {
                    told.committed.push(number);
                } else {
                    assert!(insist(|| producer.abort_transaction(PATIENCE)), "an abort aborts");
                    told.aborted.push(number);
                }
                // Both counts, so that what is under way is known.
                progress.sent();
                progress.acknowledged();
                number += 1;
            }
            told
        });
        Self { stop, thread }
    }

    /// Lets it come to its end.
    pub(crate) fn end(self) -> Transacted {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("it went well")
    }
}

/// What the consumer saw and was told.
pub(crate) struct Consumed {
    /// What it was given, in the order in which that happened.
    pub(crate) seen: Vec<Placed>,
    /// Its commits that were acknowledged, by partition, in their order.
    pub(crate) committed: HashMap<i32, Vec<i64>>,
    /// What the node says is committed, at the end.
    pub(crate) stands: HashMap<i32, i64>,
}

/// A consumer in a group at work.
pub(crate) struct Consumer {
    thread: JoinHandle<Consumed>,
}

impl Consumer {
    /// Starts it.
    pub(crate) fn start(address: &str, progress: &Arc<Progress>) -> Self {
        let progress = progress.clone();
        let consumer: BaseConsumer = config(address)
            .set("group.id", format!("{TEXT}-group"))
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "50")
            .create()
            .expect("a client");
        consumer.subscribe(&[PAIRS]).expect("a topic");
        let thread = std::thread::spawn(move || {
            let mut consumed =
                Consumed { seen: Vec::new(), committed: HashMap::new(), stands: HashMap::new() };
            let mut next: HashMap<i32, i64> = HashMap::new();
            let mut ended = HashSet::new();
            loop {
                match consumer.poll(POLL) {
                    Some(Ok(message)) => {
                        let placed = Placed::of(&message);
                        next.insert(placed.partition, placed.offset + 1);
                        if placed.value == LAST {
                            ended.insert(placed.partition);
                        } else {
                            consumed.seen.push(placed);
                        }
                    }
                    // The client itself tries again.
                    Some(Err(_)) => {}
                    None if next.is_empty() => {
                        if ended.len() == PARTITIONS as usize {
                            return consumed;
                        }
                    }
                    None => {
                        let mut list = TopicPartitionList::new();
                        for (partition, offset) in &next {
                            let offset = Offset::Offset(*offset);
                            list.add_partition_offset(PAIRS, *partition, offset).expect("a place");
                        }
                        if consumer.commit(&list, CommitMode::Sync).is_ok() {
                            progress.sent();
                            progress.acknowledged();
                            for (partition, offset) in next.drain() {
                                consumed.committed.entry(partition).or_default().push(offset);
                            }
                        }
                    }
                }
            }
        });
        Self { thread }
    }

    /// Lets it read to the end; then the node is asked where the group stands.
    pub(crate) fn end(self, address: &str) -> Consumed {
        let producer: BaseProducer = config(address).create().expect("a client");
        for partition in 0..PARTITIONS {
            let last = BaseRecord::<(), str, ()>::to(PAIRS).partition(partition).payload(LAST);
            producer.send(last).map_err(|(error, _)| error).expect("room");
        }
        producer.flush(PATIENCE).expect("they are written");
        let mut consumed = self.thread.join().expect("it went well");
        let asking: BaseConsumer =
            config(address).set("group.id", format!("{TEXT}-group")).create().expect("a client");
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition(PAIRS, partition);
        }
        let stands = asking.committed_offsets(list, PATIENCE).expect("an answer");
        for at in stands.elements() {
            let offset = at.offset().to_raw().unwrap_or(-1);
            consumed.stands.insert(at.partition(), offset);
        }
        consumed
    }
}

/// All records of a topic, partition by partition, in the order of their offsets.
pub(crate) fn read_all(address: &str, topic: &str, is_committed: bool) -> Vec<Placed> {
    let consumer: BaseConsumer = config(address)
        .set("group.id", "reader")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", if is_committed { "read_committed" } else { "read_uncommitted" })
        .create()
        .expect("a client");
    let mut records = Vec::new();
    for partition in 0..PARTITIONS {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("a place");
        consumer.assign(&list).expect("a partition");
        loop {
            match consumer.poll(PATIENCE).expect("records or the end") {
                Ok(message) => records.push(Placed::of(&message)),
                Err(KafkaError::PartitionEOF(_)) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    records
}
