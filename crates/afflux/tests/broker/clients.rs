//! Clients that go on whatever happens to the node, and write down what they were told, as the
//! simulator's clients do (`history`). Both topics are one there: the partitions of the second come
//! behind those of the first.
//!
//! - [`Producer`]: idempotent, numbers its records, keeps a few under way.
//! - [`Transactions`]: writes one record to each partition of a topic in one transaction; every
//!   fourth is aborted.
//! - [`Consumer`]: reads the transactions' topic in a group, `read_committed`, and commits. It ends
//!   when it has seen the last record of each partition, which [`Consumer::end`] writes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
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

use super::{
    TEXT,
    history::{Batch, Commit, Found, Look, Moment, Outcome, Poll, STEADY, Transaction},
};

/// The topic of the plain producers.
pub(crate) const PLAIN: &str = "plain";
/// The topic of the transactions.
pub(crate) const PAIRS: &str = "pairs";
/// The last record of each partition of the transactions' topic.
pub(crate) const LAST: &str = "the last one";
/// The group that reads them. Its name is in what is written for it.
const GROUP: &str = "killed-group";
/// Partitions of each.
pub(crate) const PARTITIONS: i32 = 3;
/// Records that a producer has under way at most.
const UNDER_WAY: u64 = 10;
const PATIENCE: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(10);

/// Where a partition is in a history.
fn place(topic: &str, partition: i32) -> i32 {
    if topic == PAIRS { PARTITIONS + partition } else { partition }
}

/// What clients have been told so far, for who waits for it.
#[derive(Default)]
pub(crate) struct Progress {
    counts: Mutex<Counts>,
    changed: Condvar,
    moments: AtomicU64,
}

#[derive(Default)]
struct Counts {
    sent: u64,
    acknowledged: u64,
}

impl Progress {
    /// A point in the order of what all clients do.
    fn moment(&self) -> Moment {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }

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

/// An idempotent producer at work. Each record counts as a batch of its own.
pub(crate) struct Producer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Batch>>,
}

impl Producer {
    /// Starts it.
    pub(crate) fn start(address: &str, number: usize, progress: &Arc<Progress>) -> Self {
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
            let mut sent: Vec<(String, i32)> = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                if producer.in_flight_count() as u64 >= UNDER_WAY {
                    producer.poll(POLL);
                    continue;
                }
                let value = format!("{TEXT}-{number}-{}", sent.len());
                let partition = sent.len() as i32 % PARTITIONS;
                let record = BaseRecord::<(), str, ()>::to(PLAIN).partition(partition);
                producer.send(record.payload(&value)).map_err(|(error, _)| error).expect("room");
                sent.push((value, partition));
                progress.sent();
                producer.poll(Duration::ZERO);
            }
            producer.flush(PATIENCE).expect("all is acknowledged");
            let placed = producer.context().placed.lock().expect("no panic");
            let offsets: HashMap<_, _> = placed.iter().map(|it| (&it.value, it.offset)).collect();
            let batches = sent.into_iter().map(|(value, partition)| Batch {
                producer: number,
                topic: STEADY,
                partition: place(PLAIN, partition),
                outcome: Outcome::Done(Some(offsets[&value])),
                values: vec![value],
            });
            batches.collect()
        });
        Self { stop, thread }
    }

    /// Lets it come to its end.
    pub(crate) fn end(self) -> Vec<Batch> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("it went well")
    }
}

/// A transactional producer at work.
pub(crate) struct Transactions {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Transaction>>,
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
            let mut told = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                let (number, begun) = (told.len(), progress.moment());
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
                let asked = (sent && number % 4 != 3).then(|| progress.moment());
                let committed = asked.is_some() && insist(|| producer.commit_transaction(PATIENCE));
                if !committed {
                    assert!(insist(|| producer.abort_transaction(PATIENCE)), "an abort aborts");
                }
                told.push(Transaction {
                    id: "the only one".to_owned(),
                    order: (0, 0, number as i64),
                    writes: (0..PARTITIONS).map(|at| (place(PAIRS, at), value.clone())).collect(),
                    passing: Vec::new(),
                    reads: Vec::new(),
                    source: None,
                    offset: None,
                    begun,
                    asked,
                    ended: progress.moment(),
                    outcome: if committed { Outcome::Done(()) } else { Outcome::Refused },
                });
                // Both counts, so that what is under way is known.
                progress.sent();
                progress.acknowledged();
            }
            told
        });
        Self { stop, thread }
    }

    /// Lets it come to its end.
    pub(crate) fn end(self) -> Vec<Transaction> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("it went well")
    }
}

/// What the consumer saw and was told.
#[derive(Default)]
pub(crate) struct Consumed {
    pub(crate) polls: Vec<Poll>,
    pub(crate) commits: Vec<Commit>,
    /// Where the node says that the group stands, at the end.
    pub(crate) looks: Vec<Look>,
    /// Not known yet: how far the partitions were.
    open: Vec<Poll>,
    /// Where each partition is read on.
    next: BTreeMap<i32, i64>,
}

impl Consumed {
    /// It was given a record.
    fn take(&mut self, message: Placed, progress: &Progress) {
        let Placed { value, partition, offset } = message;
        let next = self.next.insert(partition, offset + 1).unwrap_or(0);
        let moment = progress.moment();
        let its = place(PAIRS, partition);
        let last = self.open.iter_mut().rfind(|poll| poll.partition == its);
        let poll = match last.filter(|poll| poll.next == next && next <= offset) {
            Some(poll) => poll,
            None => self.open.push_mut(Poll {
                is_committed: true,
                topic: STEADY,
                partition: its,
                // What it was given again comes from where the group stood.
                from: next.min(offset),
                next,
                records: Vec::new(),
                start: 0,
                high: 0,
                begun: moment,
                ended: moment,
            }),
        };
        poll.records.push((offset, value));
        (poll.next, poll.ended) = (offset + 1, moment);
    }

    /// Asks how far the partitions are of which it was given something.
    fn look(&mut self, consumer: &BaseConsumer) {
        let open = std::mem::take(&mut self.open);
        for poll in open {
            match consumer.fetch_watermarks(PAIRS, poll.partition - PARTITIONS, PATIENCE) {
                Ok((start, high)) => self.polls.push(Poll { start, high, ..poll }),
                Err(_) => self.open.push(poll),
            }
        }
    }

    /// Commits where it is; whether that was acknowledged.
    fn commit(&mut self, consumer: &BaseConsumer, progress: &Progress) -> bool {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in &self.next {
            let offset = Offset::Offset(*offset);
            list.add_partition_offset(PAIRS, *partition, offset).expect("a place");
        }
        let begun = progress.moment();
        let is_done = consumer.commit(&list, CommitMode::Sync).is_ok();
        let ended = progress.moment();
        self.commits.extend(self.next.iter().map(|(partition, offset)| Commit {
            group: GROUP.to_owned(),
            partition: place(PAIRS, *partition),
            offset: *offset,
            begun,
            ended,
            outcome: if is_done { Outcome::Done(()) } else { Outcome::Unknown },
        }));
        is_done
    }
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
            .set("group.id", GROUP)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "50")
            .create()
            .expect("a client");
        consumer.subscribe(&[PAIRS]).expect("a topic");
        let thread = std::thread::spawn(move || {
            let mut consumed = Consumed::default();
            let mut ended = HashSet::new();
            // Whether something was read since it committed last.
            let mut goes_on = false;
            loop {
                match consumer.poll(POLL) {
                    Some(Ok(message)) => {
                        let placed = Placed::of(&message);
                        if placed.value == LAST {
                            ended.insert(placed.partition);
                        }
                        consumed.take(placed, &progress);
                        goes_on = true;
                    }
                    None if goes_on => {
                        consumed.look(&consumer);
                        if consumed.commit(&consumer, &progress) {
                            progress.sent();
                            progress.acknowledged();
                            goes_on = false;
                        }
                    }
                    None if !consumed.open.is_empty() => consumed.look(&consumer),
                    None if ended.len() == PARTITIONS as usize => return consumed,
                    // The client itself tries again.
                    Some(Err(_)) | None => {}
                }
            }
        });
        Self { thread }
    }

    /// Lets it read to the end, and asks the node where the group stands; what it was told, and
    /// the records that say where the end is.
    pub(crate) fn end(self, address: &str, progress: &Progress) -> (Consumed, Vec<Batch>) {
        let producer: BaseProducer = config(address).create().expect("a client");
        let last = (0..PARTITIONS).map(|partition| {
            let record = BaseRecord::<(), str, ()>::to(PAIRS).partition(partition).payload(LAST);
            producer.send(record).map_err(|(error, _)| error).expect("room");
            Batch {
                producer: usize::MAX,
                topic: STEADY,
                partition: place(PAIRS, partition),
                values: vec![LAST.to_owned()],
                outcome: Outcome::Unknown,
            }
        });
        let last = last.collect();
        producer.flush(PATIENCE).expect("they are written");
        let mut consumed = self.thread.join().expect("it went well");
        let asking: BaseConsumer =
            config(address).set("group.id", GROUP).create().expect("a client");
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition(PAIRS, partition);
        }
        let begun = progress.moment();
        let stands = asking.committed_offsets(list, PATIENCE).expect("an answer");
        consumed.looks.extend(stands.elements().iter().map(|at| Look {
            group: GROUP.to_owned(),
            partition: place(PAIRS, at.partition()),
            offset: at.offset().to_raw().unwrap_or(-1),
            begun,
            ended: progress.moment(),
        }));
        (consumed, last)
    }
}

/// What the topics hold.
pub(crate) fn read_all(address: &str) -> BTreeMap<i32, Found> {
    let mut found: BTreeMap<i32, Found> = BTreeMap::new();
    for (topic, is_committed) in [(PLAIN, false), (PLAIN, true), (PAIRS, false), (PAIRS, true)] {
        let level = if is_committed { "read_committed" } else { "read_uncommitted" };
        let consumer: BaseConsumer = config(address)
            .set("group.id", "reader")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", level)
            .create()
            .expect("a client");
        for partition in 0..PARTITIONS {
            let found = found.entry(place(topic, partition)).or_default();
            let (start, end) =
                consumer.fetch_watermarks(topic, partition, PATIENCE).expect("an answer");
            found.start = start;
            *if is_committed { &mut found.stable } else { &mut found.high } = end;
            let records = if is_committed { &mut found.committed } else { &mut found.all };
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition, Offset::Beginning).expect("a place");
            consumer.assign(&list).expect("a partition");
            loop {
                match consumer.poll(PATIENCE).expect("records or the end") {
                    Ok(message) => {
                        let placed = Placed::of(&message);
                        records.push((placed.offset, placed.value));
                    }
                    Err(KafkaError::PartitionEOF(_)) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    found
}
