//! librdkafka, through its Rust binding: what kcat and the Python client speak, too.

#![expect(clippy::disallowed_methods, reason = "patience is measured on the wall")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    metadata::MetadataTopic,
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext},
    topic_partition_list::TopicPartitionListElem,
};
use support::Server;

const PATIENCE: Duration = Duration::from_mins(1);

/// Keeps what became of each record: partition and offset.
#[derive(Default)]
struct Deliveries(std::sync::Mutex<Vec<Result<(i32, i64), KafkaError>>>);

impl rdkafka::ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.0.lock().unwrap().push(match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.clone()),
        });
    }
}

fn producer(server: &Server, settings: &[(&str, &str)]) -> BaseProducer<Deliveries> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", server.bootstrap());
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config.create_with_context(Deliveries::default()).unwrap()
}

fn consumer(server: &Server, group: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", server.bootstrap())
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("heartbeat.interval.ms", "200")
        .create()
        .unwrap()
}

/// Sends records `from..to`, each saying its number, and waits until all are acknowledged.
fn produce(producer: &BaseProducer<Deliveries>, topic: &str, from: usize, to: usize) {
    for number in from..to {
        let (key, value) = (format!("key-{}", number % 17), number.to_string());
        loop {
            match producer.send(BaseRecord::to(topic).key(&key).payload(&value)) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    producer.poll(Duration::from_millis(10));
                }
                Err((error, _)) => panic!("{error}"),
            }
        }
    }
    producer.flush(PATIENCE).unwrap();
    let deliveries = std::mem::take(&mut *producer.context().0.lock().unwrap());
    assert_eq!(deliveries.len(), to - from);
    let mut seen = BTreeSet::new();
    for delivery in deliveries {
        assert!(seen.insert(delivery.unwrap()), "an offset is given out twice");
    }
}

/// Polls until `count` records have come; their numbers by partition.
fn consume(consumers: &[&BaseConsumer], count: usize) -> BTreeMap<i32, Vec<usize>> {
    let mut got: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    let started = Instant::now();
    let mut left = count;
    while left > 0 {
        assert!(started.elapsed() < PATIENCE, "{left} of {count} records did not come");
        for consumer in consumers {
            if let Some(message) = consumer.poll(Duration::from_millis(50)) {
                let message = message.unwrap();
                let number = std::str::from_utf8(message.payload().unwrap()).unwrap();
                got.entry(message.partition()).or_default().push(number.parse().unwrap());
                left -= 1;
            }
        }
    }
    got
}

fn numbers(got: &BTreeMap<i32, Vec<usize>>) -> Vec<usize> {
    let mut all: Vec<usize> = got.values().flatten().copied().collect();
    all.sort_unstable();
    all
}

#[test]
fn records_come_back_in_order_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let topic = "in-order";
    for (i, codec) in ["none", "gzip", "snappy", "lz4"].iter().enumerate() {
        let producer =
            producer(&server, &[("enable.idempotence", "true"), ("compression.codec", codec)]);
        produce(&producer, topic, i * 5_000, (i + 1) * 5_000);
    }
    let consumer = consumer(&server, "in-order");
    consumer.subscribe(&[topic]).unwrap();
    let got = consume(&[&consumer], 20_000);
    assert_eq!(numbers(&got), (0..20_000).collect::<Vec<_>>());
    assert_eq!(got.len(), 4, "a topic made by using it has four partitions");
    for (partition, numbers) in got {
        assert!(numbers.is_sorted(), "partition {partition} is out of order");
    }
}

#[test]
fn a_group_shares_rebalances_and_resumes_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let topic = "shared";
    let records = producer(&server, &[("enable.idempotence", "true")]);
    produce(&records, topic, 0, 1_000);

    let one = consumer(&server, "workers");
    one.subscribe(&[topic]).unwrap();
    assert_eq!(numbers(&consume(&[&one], 1_000)), (0..1_000).collect::<Vec<_>>());
    one.commit_consumer_state(CommitMode::Sync).unwrap();

    // A second member comes: the four partitions are shared, none twice.
    let two = consumer(&server, "workers");
    two.subscribe(&[topic]).unwrap();
    let started = Instant::now();
    let partitions = |consumer: &BaseConsumer| -> BTreeSet<i32> {
        consumer
            .assignment()
            .unwrap()
            .elements()
            .iter()
            .map(TopicPartitionListElem::partition)
            .collect()
    };
    while partitions(&one).len() != 2 || partitions(&two).len() != 2 {
        assert!(started.elapsed() < PATIENCE, "{:?} {:?}", partitions(&one), partitions(&two));
        for consumer in [&one, &two] {
            assert!(consumer.poll(Duration::from_millis(50)).is_none(), "nothing is left to read");
        }
    }
    assert_eq!(&partitions(&one) | &partitions(&two), BTreeSet::from([0, 1, 2, 3]));
    produce(&records, topic, 1_000, 2_000);
    assert_eq!(numbers(&consume(&[&one, &two], 1_000)), (1_000..2_000).collect::<Vec<_>>());
    one.commit_consumer_state(CommitMode::Sync).unwrap();
    two.commit_consumer_state(CommitMode::Sync).unwrap();
    drop((one, two));

    produce(&records, topic, 2_000, 2_500);
    drop(records);
    drop(server);
    let server = Server::start(directory.path());
    let three = consumer(&server, "workers");
    three.subscribe(&[topic]).unwrap();
    assert_eq!(numbers(&consume(&[&three], 500)), (2_000..2_500).collect::<Vec<_>>());
}

#[test]
fn offsets_are_found_by_time_and_at_the_ends() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let topic = "times";
    let producer = producer(&server, &[]);
    for number in 0..100_i64 {
        let value = number.to_string();
        let record = BaseRecord::<(), str>::to(topic).partition(1).payload(&value);
        producer.send(record.timestamp(1_000 + 10 * number)).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    let consumer = consumer(&server, "times");
    assert_eq!(consumer.fetch_watermarks(topic, 1, PATIENCE).unwrap(), (0, 100));
    assert_eq!(consumer.fetch_watermarks(topic, 0, PATIENCE).unwrap(), (0, 0));
    let check = |time: i64, expected: Offset| {
        let mut times = TopicPartitionList::new();
        times.add_partition_offset(topic, 1, Offset::Offset(time)).unwrap();
        let found = consumer.offsets_for_times(times, PATIENCE).unwrap();
        assert_eq!(found.elements()[0].offset(), expected, "at {time}");
    };
    check(0, Offset::Offset(0));
    check(1_000, Offset::Offset(0));
    check(1_001, Offset::Offset(1));
    check(1_495, Offset::Offset(50));
    check(1_990, Offset::Offset(99));
    check(1_991, Offset::End);
}

#[test]
fn topics_are_made_and_removed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", server.bootstrap()).create().unwrap();
    let options = AdminOptions::new();
    let create = |name: &str, partitions: i32, replicas: i32| {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
        let made = runtime.block_on(admin.create_topics([&topic], &options)).unwrap();
        made.into_iter().next().unwrap().map_err(|(_, code)| code)
    };
    let delete = |name: &str| {
        let gone = runtime.block_on(admin.delete_topics(&[name], &options)).unwrap();
        gone.into_iter().next().unwrap().map_err(|(_, code)| code)
    };
    let partitions = |name: &str| {
        let metadata = admin.inner().fetch_metadata(None, PATIENCE).unwrap();
        metadata.topics().iter().find(|topic| topic.name() == name).map(|t| t.partitions().len())
    };
    assert_eq!(create("made", 7, 1), Ok("made".to_owned()));
    assert_eq!(partitions("made"), Some(7));
    assert_eq!(create("made", 7, 1), Err(RDKafkaErrorCode::TopicAlreadyExists));
    assert_eq!(create("three", 1, 3), Err(RDKafkaErrorCode::InvalidReplicationFactor));
    assert_eq!(create("no such name", 1, 1), Err(RDKafkaErrorCode::InvalidTopic));
    assert_eq!(create("__afflux_mine", 1, 1), Err(RDKafkaErrorCode::InvalidTopic));
    assert_eq!(create("__consumer_offsets", 1, 1), Err(RDKafkaErrorCode::InvalidTopic));
    assert_eq!(delete("made"), Ok("made".to_owned()));
    assert_eq!(partitions("made"), None);
    assert_eq!(delete("made"), Err(RDKafkaErrorCode::UnknownTopicOrPartition));
}

#[test]
fn what_groups_committed_goes_with_the_topic() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let records = producer(&server, &[]);
    produce(&records, "again", 0, 50);
    let reader = consumer(&server, "g");
    reader.subscribe(&["again"]).unwrap();
    consume(&[&reader], 50);
    reader.commit_consumer_state(CommitMode::Sync).unwrap();
    drop(reader);
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", server.bootstrap()).create().unwrap();
    let gone = runtime.block_on(admin.delete_topics(&["again"], &AdminOptions::new())).unwrap();
    assert!(gone[0].is_ok());
    // A topic of the same name is another one, read from its beginning.
    drop(records);
    let records = producer(&server, &[]);
    produce(&records, "again", 100, 120);
    let reader = consumer(&server, "g");
    reader.subscribe(&["again"]).unwrap();
    assert_eq!(numbers(&consume(&[&reader], 20)), (100..120).collect::<Vec<_>>());
}

#[test]
fn committed_offsets_are_listed_and_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let records = producer(&server, &[("message.timeout.ms", "3000")]);
    produce(&records, "seen", 0, 10);
    let reader = consumer(&server, "g");
    reader.subscribe(&["seen"]).unwrap();
    consume(&[&reader], 10);
    reader.commit_consumer_state(CommitMode::Sync).unwrap();
    let metadata = reader.fetch_metadata(None, PATIENCE).unwrap();
    let names: Vec<&str> = metadata.topics().iter().map(MetadataTopic::name).collect();
    assert_eq!(names, ["seen", "__consumer_offsets"]);
    let record = BaseRecord::<(), str>::to("__consumer_offsets").payload("x").partition(0);
    records.send(record).map_err(|(error, _)| error).unwrap();
    records.flush(PATIENCE).unwrap();
    assert!(records.context().0.lock().unwrap()[0].is_err());
}

#[test]
fn what_is_committed_before_a_restart_is_there_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let before = producer(&server, &[("transactional.id", "t")]);
    before.init_transactions(PATIENCE).unwrap();
    before.begin_transaction().unwrap();
    produce(&before, "t", 1, 2);
    before.commit_transaction(PATIENCE).unwrap();
    before.begin_transaction().unwrap();
    produce(&before, "t", 2, 3);
    drop(server);

    let server = Server::start(directory.path());
    let after = producer(&server, &[("transactional.id", "t")]);
    after.init_transactions(PATIENCE).unwrap();
    after.begin_transaction().unwrap();
    produce(&after, "t", 3, 4);
    after.commit_transaction(PATIENCE).unwrap();
    let reader = consumer(&server, "g");
    reader.subscribe(&["t"]).unwrap();
    assert_eq!(numbers(&consume(&[&reader], 2)), [1, 3], "what was left open is aborted");
}
