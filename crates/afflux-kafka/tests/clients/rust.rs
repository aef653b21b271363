//! rdkafka, which is librdkafka from Rust: here and not in a process of its own. `program.rs` says
//! what is said.

#![expect(clippy::disallowed_methods, reason = "patience is measured on the wall")]

use std::{
    collections::HashMap,
    str::from_utf8,
    sync::Mutex,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{
        AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
        TopicReplication,
    },
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Header, Headers, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext},
};
use tokio::runtime::Runtime;

use crate::program::{Commands, Failure};

const PATIENCE: Duration = Duration::from_secs(30);
/// How long a poll waits for records.
const MOMENT: Duration = Duration::from_millis(50);

type Answer = Result<Vec<String>, KafkaError>;

/// What became of each record that was sent: its number there, and its offset.
#[derive(Default)]
struct Deliveries(Mutex<Vec<(usize, Result<i64, KafkaError>)>>);

impl rdkafka::ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<usize>;
    fn delivery(&self, result: &DeliveryResult<'_>, number: Box<usize>) {
        let outcome = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.clone()),
        };
        self.0.lock().unwrap().push((*number, outcome));
    }
}

pub(crate) struct Client {
    runtime: Runtime,
    bootstrap: String,
    admin: AdminClient<DefaultClientContext>,
    producers: HashMap<String, BaseProducer<Deliveries>>,
    members: HashMap<String, BaseConsumer>,
}

impl Commands for Client {
    fn call(&mut self, fields: &[&str]) -> Result<Vec<String>, Failure> {
        self.perform(fields[0], &fields[1..]).map_err(|error| Failure {
            code: error.rdkafka_error_code().and_then(|code| i16::try_from(code as i32).ok()),
            text: error.to_string(),
        })
    }
}

fn nothing((): ()) -> Vec<String> {
    Vec::new()
}

/// What came of something done to one thing.
fn only<T, N>(outcomes: Vec<Result<T, (N, RDKafkaErrorCode)>>) -> Answer {
    let outcome = outcomes.into_iter().next().unwrap();
    outcome.map(|_| Vec::new()).map_err(|(_, code)| KafkaError::Global(code))
}

fn at(topic: &str, partition: i32, offset: i64) -> TopicPartitionList {
    let mut places = TopicPartitionList::new();
    places.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
    places
}

/// The offsets of places, -1 where there is none.
fn offsets(places: &TopicPartitionList) -> Answer {
    let mut offsets = Vec::new();
    for place in places.elements() {
        place.error()?;
        let Offset::Offset(offset) = place.offset() else {
            offsets.push("-1".to_owned());
            continue;
        };
        offsets.push(offset.to_string());
    }
    Ok(offsets)
}

/// Bytes as they are on a line.
fn shown(bytes: Option<&[u8]>) -> &str {
    bytes.map_or("~", |bytes| from_utf8(bytes).unwrap())
}

fn show(message: &BorrowedMessage<'_>) -> String {
    let headers: Vec<String> = message.headers().map_or_else(Vec::new, |headers| {
        headers.iter().map(|header| format!("{}={}", header.key, shown(header.value))).collect()
    });
    let (key, value) = (shown(message.key()), shown(message.payload()));
    let time = message.timestamp().to_millis().unwrap();
    format!("{}|{key}|{value}|{time}|{}", message.partition(), headers.join(","))
}

/// Text on a line as bytes.
fn given(text: &str) -> Option<&str> {
    (text != "~").then_some(text)
}

fn parse<'a>(topic: &'a str, line: &'a str, number: usize) -> BaseRecord<'a, str, str, Box<usize>> {
    let parts: Vec<&str> = line.split('|').collect();
    let mut headers = OwnedHeaders::new();
    for pair in parts[4].split(',').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap();
        headers = headers.insert(Header { key, value: given(value) });
    }
    let record = BaseRecord::with_opaque_to(topic, Box::new(number)).headers(headers);
    BaseRecord {
        partition: parts[0].parse().ok(),
        key: given(parts[1]),
        payload: given(parts[2]),
        timestamp: parts[3].parse().ok(),
        ..record
    }
}

impl Client {
    pub(crate) fn new() -> Self {
        Self {
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            bootstrap: String::new(),
            admin: ClientConfig::new().create().unwrap(),
            producers: HashMap::new(),
            members: HashMap::new(),
        }
    }

    fn perform(&mut self, verb: &str, a: &[&str]) -> Answer {
        match verb {
            "connect" => self.connect(a[0]),
            "producer" => self.producer(a[0], a[1], a[2]),
            "send" => self.send(a[0], a[1], &a[2..]),
            "begin" => self.producers[a[0]].begin_transaction().map(nothing),
            "offset_in_transaction" => {
                let metadata = self.members[a[1]].group_metadata().unwrap();
                let places = at(a[2], 0, a[3].parse().unwrap());
                let by = &self.producers[a[0]];
                by.send_offsets_to_transaction(&places, &metadata, PATIENCE).map(nothing)
            }
            "end" if a[1] == "commit" => {
                self.producers[a[0]].commit_transaction(PATIENCE).map(nothing)
            }
            "end" => self.producers[a[0]].abort_transaction(PATIENCE).map(nothing),
            "read" => self.read(a[0], a[1].parse().unwrap(), a[2].parse().unwrap(), a[3]),
            "join" => self.join(a[0], a[1], a[2], a[3]),
            "poll" => self.poll(a[0]),
            "commit" => self.commit(a[0], a[1], &a[2..]),
            "committed" => {
                let mut places = TopicPartitionList::new();
                places.add_partition_range(a[1], 0, a[2].parse::<i32>().unwrap() - 1);
                offsets(&self.members[a[0]].committed_offsets(places, PATIENCE)?)
            }
            "leave" => {
                self.members.remove(a[0]);
                Ok(Vec::new())
            }
            _ => self.administer(verb, a),
        }
    }

    fn administer(&self, verb: &str, a: &[&str]) -> Answer {
        let (admin, options) = (&self.admin, AdminOptions::new());
        let topic = ResourceSpecifier::Topic(a.first().copied().unwrap_or_default());
        match verb {
            "create" => {
                let new = NewTopic::new(a[0], a[1].parse().unwrap(), TopicReplication::Fixed(1));
                let new = new.set(a[2], a[3]);
                only(self.runtime.block_on(admin.create_topics([&new], &options))?)
            }
            "grow" => {
                let new = NewPartitions::new(a[0], a[1].parse().unwrap());
                only(self.runtime.block_on(admin.create_partitions([&new], &options))?)
            }
            "delete" => only(self.runtime.block_on(admin.delete_topics(&[a[0]], &options))?),
            "partitions" => {
                let metadata = admin.inner().fetch_metadata(None, PATIENCE)?;
                let found = metadata.topics().iter().find(|topic| topic.name() == a[0]);
                Ok(vec![found.map_or(0, |topic| topic.partitions().len()).to_string()])
            }
            "missing" => self.missing(a[0]),
            "describe" => {
                let found = self.runtime.block_on(admin.describe_configs([&topic], &options))?;
                let found = found.into_iter().next().unwrap().map_err(KafkaError::Global)?;
                Ok(vec![found.get(a[1]).unwrap().value.clone().unwrap()])
            }
            "alter" => {
                let change = AlterConfig::new(topic).set(a[1], a[2]);
                only(self.runtime.block_on(admin.alter_configs([&change], &options))?)
            }
            "delete_records" => {
                let before = at(a[0], 0, a[1].parse().unwrap());
                offsets(&self.runtime.block_on(admin.delete_records(&before, &options))?)
            }
            "groups" => {
                let found = admin.inner().fetch_group_list(None, PATIENCE)?;
                Ok(found.groups().iter().map(|group| group.name().to_owned()).collect())
            }
            "state" => {
                let found = admin.inner().fetch_group_list(Some(a[0]), PATIENCE)?;
                Ok(vec![found.groups()[0].state().to_owned()])
            }
            "delete_group" => only(self.runtime.block_on(admin.delete_groups(&[a[0]], &options))?),
            "offset" => self.offset(a[0], a[1]),
            other => panic!("no command {other}"),
        }
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    fn connect(&mut self, bootstrap: &str) -> Answer {
        bootstrap.clone_into(&mut self.bootstrap);
        self.producers.clear();
        self.members.clear();
        self.admin = self.config().create()?;
        Ok(Vec::new())
    }

    fn producer(&mut self, name: &str, codec: &str, id: &str) -> Answer {
        let mut config = self.config();
        config.set("enable.idempotence", "true").set("linger.ms", "20");
        config.set("compression.codec", codec);
        if id != "~" {
            config.set("transactional.id", id);
        }
        let made: BaseProducer<Deliveries> = config.create_with_context(Deliveries::default())?;
        if id != "~" {
            made.init_transactions(PATIENCE)?;
        }
        self.producers.insert(name.to_owned(), made);
        Ok(Vec::new())
    }

    fn send(&self, name: &str, topic: &str, lines: &[&str]) -> Answer {
        let by = &self.producers[name];
        for (number, line) in lines.iter().enumerate() {
            by.send(parse(topic, line, number)).map_err(|(error, _)| error)?;
        }
        by.flush(PATIENCE)?;
        let mut deliveries = std::mem::take(&mut *by.context().0.lock().unwrap());
        deliveries.sort_unstable_by_key(|(number, _)| *number);
        deliveries.into_iter().map(|(_, offset)| Ok(offset?.to_string())).collect()
    }

    fn consumer(&self, group: &str, more: &[(&str, &str)]) -> Result<BaseConsumer, KafkaError> {
        let mut config = self.config();
        config.set("group.id", group).set("enable.auto.commit", "false");
        config.set("auto.offset.reset", "earliest");
        for (name, value) in more {
            config.set(*name, *value);
        }
        config.create()
    }

    fn read(&self, topic: &str, from: i64, count: usize, isolation: &str) -> Answer {
        let reader = self.consumer("reader", &[("isolation.level", isolation)])?;
        reader.assign(&at(topic, 0, from))?;
        let mut records = Vec::new();
        let started = Instant::now();
        while records.len() < count && started.elapsed() < PATIENCE {
            records.extend(reader.poll(MOMENT).transpose()?.map(|message| show(&message)));
        }
        Ok(records)
    }

    fn join(&mut self, name: &str, group: &str, topic: &str, protocol: &str) -> Answer {
        let classic = [("group.protocol", protocol), ("heartbeat.interval.ms", "200")];
        let settings = if protocol == "classic" { &classic[..] } else { &classic[..1] };
        let member = self.consumer(group, settings)?;
        member.subscribe(&[topic])?;
        self.members.insert(name.to_owned(), member);
        Ok(Vec::new())
    }

    fn poll(&self, name: &str) -> Answer {
        let member = &self.members[name];
        let record = member.poll(MOMENT).transpose()?.map(|message| show(&message));
        let partitions = member.assignment()?.count().to_string();
        Ok([partitions].into_iter().chain(record).collect())
    }

    fn commit(&self, name: &str, topic: &str, lines: &[&str]) -> Answer {
        let mut places = TopicPartitionList::new();
        for line in lines {
            let (partition, offset) = line.split_once('=').unwrap();
            let offset = Offset::Offset(offset.parse().unwrap());
            places.add_partition_offset(topic, partition.parse().unwrap(), offset)?;
        }
        self.members[name].commit(&places, CommitMode::Sync).map(nothing)
    }

    fn missing(&self, topic: &str) -> Answer {
        let reader = self.consumer("missing", &[])?;
        reader.subscribe(&[topic])?;
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            reader.poll(MOMENT).transpose()?;
        }
        Ok(Vec::new())
    }

    fn offset(&self, topic: &str, time: &str) -> Answer {
        let reader = self.consumer("offset", &[])?;
        if let Ok(time) = time.parse() {
            return offsets(&reader.offsets_for_times(at(topic, 0, time), PATIENCE)?);
        }
        let (earliest, latest) = reader.fetch_watermarks(topic, 0, PATIENCE)?;
        Ok(vec![if time == "earliest" { earliest } else { latest }.to_string()])
    }
}
