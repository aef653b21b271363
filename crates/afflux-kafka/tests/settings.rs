//! Settings of topics as clients see them.

mod support;

use std::time::Duration;

use afflux_log::settings::SETTINGS;
use rdkafka::{
    ClientConfig, Message, TopicPartitionList,
    admin::{
        AdminClient, AdminOptions, AlterConfig, ConfigEntry, ConfigSource, NewTopic,
        ResourceSpecifier, TopicReplication,
    },
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{
        BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer,
    },
};
use support::Server;

/// Tells what became of each record.
struct Outcomes(std::sync::mpsc::SyncSender<Option<RDKafkaErrorCode>>);

impl rdkafka::ClientContext for Outcomes {}

impl ProducerContext for Outcomes {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let error = result.as_ref().err().and_then(|(error, _)| error.rdkafka_error_code());
        let _ = self.0.send(error);
    }
}

struct Admin {
    client: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
}

impl Admin {
    fn new(server: &Server) -> Self {
        let client =
            ClientConfig::new().set("bootstrap.servers", server.bootstrap()).create().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { client, runtime }
    }

    fn create(&self, topic: &str, settings: &[(&str, &str)]) -> Result<(), RDKafkaErrorCode> {
        let mut new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let made = self.client.create_topics([&new], &AdminOptions::new());
        let made = self.runtime.block_on(made).unwrap();
        made.into_iter().next().unwrap().map(drop).map_err(|(_, code)| code)
    }

    /// Replaces what is set.
    fn alter(&self, topic: &str, settings: &[(&str, &str)]) -> Result<(), RDKafkaErrorCode> {
        let mut alter = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (name, value) in settings {
            alter = alter.set(name, value);
        }
        let done = self.client.alter_configs([&alter], &AdminOptions::new());
        let done = self.runtime.block_on(done).unwrap();
        done.into_iter().next().unwrap().map(drop).map_err(|(_, code)| code)
    }

    fn describe(&self, of: ResourceSpecifier<'_>) -> Result<Vec<ConfigEntry>, RDKafkaErrorCode> {
        let found = self.client.describe_configs([&of], &AdminOptions::new());
        let found = self.runtime.block_on(found).unwrap();
        found.into_iter().next().unwrap().map(|resource| resource.entries)
    }

    fn value(&self, topic: &str, name: &str) -> (String, bool) {
        let entries = self.describe(ResourceSpecifier::Topic(topic)).unwrap();
        let entry = entries.iter().find(|entry| entry.name == name).unwrap();
        let is_set = entry.source == ConfigSource::DynamicTopic;
        assert_eq!(is_set, !entry.is_default);
        (entry.value.clone().unwrap(), is_set)
    }
}

fn send(server: &Server, topic: &str, bytes: usize, time: i64) -> Option<RDKafkaErrorCode> {
    let (sender, outcome) = std::sync::mpsc::sync_channel(1);
    let producer: ThreadedProducer<_> = ClientConfig::new()
        .set("bootstrap.servers", server.bootstrap())
        .create_with_context(Outcomes(sender))
        .unwrap();
    let value = vec![7; bytes];
    let record = BaseRecord::<(), [u8]>::to(topic).payload(&value).timestamp(time);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(Duration::from_mins(1)).unwrap();
    outcome.recv().unwrap()
}

#[test]
fn settings_are_set_shown_changed_and_survive() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let admin = Admin::new(&server);
    let set = |value: &str, is_set: bool| (value.to_owned(), is_set);
    admin.create("t", &[("retention.ms", "60000"), ("segment.bytes", "52428800")]).unwrap();
    assert_eq!(admin.value("t", "retention.ms"), set("60000", true));
    assert_eq!(admin.value("t", "max.message.bytes"), set("1048588", false));
    let shown = admin.describe(ResourceSpecifier::Topic("t")).unwrap();
    assert_eq!(shown.len(), SETTINGS.len());
    admin.alter("t", &[("max.message.bytes", "1000")]).unwrap();
    assert_eq!(admin.value("t", "retention.ms"), set("604800000", false));
    drop(server);

    let server = Server::start(directory.path());
    let admin = Admin::new(&server);
    assert_eq!(admin.value("t", "max.message.bytes"), set("1000", true));
    assert_eq!(send(&server, "t", 500, 1), None);
    assert_eq!(send(&server, "t", 2000, 1), Some(RDKafkaErrorCode::MessageSizeTooLarge));
    let node = admin.describe(ResourceSpecifier::Broker(1)).unwrap();
    let partitions = node.iter().find(|entry| entry.name == "num.partitions").unwrap();
    assert_eq!((partitions.value.as_deref(), partitions.is_read_only), (Some("4"), true));
}

/// Keys and values of a topic, from its beginning to its end.
fn consume(server: &Server, topic: &str) -> Vec<(String, Option<String>)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", server.bootstrap())
        .set("group.id", "compacted")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, rdkafka::Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut found = Vec::new();
    loop {
        match consumer.poll(Duration::from_mins(1)).expect("records or the end") {
            Ok(record) => found.push((text(record.key().unwrap()), record.payload().map(text))),
            Err(KafkaError::PartitionEOF(_)) => return found,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_compacted_topic_keeps_the_newest_of_each_key() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let admin = Admin::new(&server);
    let compacted = [("cleanup.policy", "compact"), ("compression.type", "lz4")];
    admin.create("t", &compacted).unwrap();
    assert_eq!(send(&server, "t", 10, 1), Some(RDKafkaErrorCode::InvalidRecord));
    let produce = |numbers: std::ops::Range<usize>| {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", server.bootstrap())
            .set("enable.idempotence", "true")
            .create()
            .unwrap();
        for number in numbers {
            let (key, value) = (format!("key {}", number % 7), format!("value {number}"));
            producer.send(BaseRecord::to("t").key(&key).payload(&value)).unwrap();
        }
        producer
    };
    // Of the first producer a batch without records is left.
    produce(0..20).flush(Duration::from_mins(1)).unwrap();
    let producer = produce(20..1_000);
    producer.send(BaseRecord::<_, str>::to("t").key("key 3")).unwrap();
    producer.flush(Duration::from_mins(1)).unwrap();
    // A change of settings lets the log look at once.
    let brisk = [("segment.ms", "1"), ("min.cleanable.dirty.ratio", "0")];
    admin.alter("t", &[&compacted[..], &brisk].concat()).unwrap();
    let newest = |number: usize| (format!("key {}", number % 7), Some(format!("value {number}")));
    let mut expected: Vec<_> = (993..1_000).map(newest).filter(|(key, _)| key != "key 3").collect();
    expected.push(("key 3".to_owned(), None));
    while consume(&server, "t") != expected {
        admin.alter("t", &compacted).unwrap();
        admin.alter("t", &[&compacted[..], &brisk].concat()).unwrap();
    }
    drop(server);
    let server = Server::start(directory.path());
    assert_eq!(consume(&server, "t"), expected);
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", server.bootstrap()).create().unwrap();
    assert_eq!(consumer.fetch_watermarks("t", 0, Duration::from_mins(1)).unwrap(), (0, 1_001));
}

#[test]
fn what_can_not_be_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let admin = Admin::new(&server);
    let invalid = Err(RDKafkaErrorCode::InvalidConfig);
    assert_eq!(admin.create("t", &[("cleanup.policy", "keep")]), invalid);
    assert_eq!(admin.create("t", &[("moon.phase", "full")]), invalid);
    admin.create("t", &[]).unwrap();
    // The binding does not pass on why a resource was refused: what is set shows it.
    admin.alter("t", &[("min.insync.replicas", "2"), ("retention.ms", "5")]).unwrap();
    assert_eq!(admin.value("t", "retention.ms"), ("604800000".to_owned(), false));
    assert!(admin.describe(ResourceSpecifier::Topic("u")).unwrap().is_empty());
    let late = i64::MAX / 2;
    assert_eq!(send(&server, "t", 10, late), Some(RDKafkaErrorCode::InvalidTimestamp));
    admin.alter("t", &[("message.timestamp.type", "LogAppendTime")]).unwrap();
    assert_eq!(send(&server, "t", 10, late), None);
}
