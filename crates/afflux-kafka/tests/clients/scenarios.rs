//! What is done with every client. The expectations are Apache Kafka's: the same runs against it.

#![expect(clippy::disallowed_methods, reason = "patience is measured on the wall")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::TcpStream,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use kafka_protocol::{
    messages::{
        FetchRequest, TopicName,
        fetch_request::{FetchPartition, FetchTopic},
    },
    protocol::StrBytes,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};

use crate::{
    client::Client as Connection,
    program::{Commands, Failure},
    table,
};

const PATIENCE: Duration = Duration::from_mins(1);

/// A broker under test.
pub(crate) trait Broker {
    /// Where it is.
    fn bootstrap(&self) -> String;

    /// Stops and starts it, if it can.
    fn restart(&mut self);
}

/// A client, and the broker that it is tried with.
pub(crate) struct Stage<'a> {
    pub(crate) program: Box<dyn Commands>,
    pub(crate) broker: &'a mut dyn Broker,
    /// Begins the names of all topics and groups.
    pub(crate) name: String,
}

/// Runs all that a client does not lack, and fails with all that failed.
pub(crate) fn run(client: &table::Client, mut stage: Stage<'_>) {
    let bootstrap = stage.broker.bootstrap();
    stage.ok(&["connect", &bootstrap]);
    let mut failed = Vec::new();
    for (scenario, _) in table::SCENARIOS {
        if client.lacks(scenario).is_some() {
            continue;
        }
        let started = Instant::now();
        // What it says is shown by the panic hook; the next one runs.
        if catch_unwind(AssertUnwindSafe(|| stage.play(scenario))).is_err() {
            failed.push(*scenario);
        }
        println!("{scenario}: {:.1?}", started.elapsed());
    }
    assert!(failed.is_empty(), "{}: {failed:?}\n{}", client.name, stage.program.errors());
}

fn record(partition: i32, value: impl std::fmt::Display) -> String {
    format!("{partition}|~|{value}|~|")
}

/// A part of a record as it is on a line.
fn part(record: &str, index: usize) -> &str {
    record.split('|').nth(index).unwrap()
}

fn values(records: &[String]) -> Vec<&str> {
    records.iter().map(|record| part(record, 2)).collect()
}

fn numbers(range: std::ops::Range<i32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

impl Stage<'_> {
    fn play(&mut self, scenario: &str) {
        match scenario {
            "none" | "gzip" | "snappy" | "lz4" | "zstd" => self.codec(scenario),
            "record" => self.kept(
                scenario,
                &["0|~|a|1600000000001|", "0|k|~|1600000000002|", "0|||1600000000003|"],
            ),
            "headers" => self.kept(scenario, &["0|k|a|1600000000001|h=1,h=2,empty="]),
            "header-order" => self.kept(scenario, &["0|k|a|1600000000001|h=1,a=2,h=3"]),
            "header-null" => self.kept(scenario, &["0|k|a|1600000000001|null=~"]),
            "idempotent" => self.idempotent(),
            "group" => self.group(scenario, "classic"),
            "consumer-protocol" => self.group(scenario, "consumer"),
            "restart" => self.restart(),
            "transactions" => self.transactions(),
            "fence" => self.fence(),
            "process" => self.process(),
            "topics" => self.topics(),
            "configs" => self.configs(),
            "delete-records" => self.delete_records(),
            "groups" => self.groups(),
            "delete-group" => self.delete_group(),
            "times" => self.times(),
            "unknown-topic" => {
                let topic = self.named("unknown");
                self.refused(&["missing", &topic], 3);
            }
            "too-large" => self.too_large(),
            other => panic!("no scenario {other}"),
        }
    }

    fn call(&mut self, command: &[&str]) -> Result<Vec<String>, Failure> {
        self.program.call(command)
    }

    /// A command that must succeed.
    fn ok(&mut self, command: &[&str]) -> Vec<String> {
        self.call(command).unwrap_or_else(|failure| panic!("{command:?}: {failure:?}"))
    }

    /// A command that must be refused.
    fn refused(&mut self, command: &[&str], code: i16) {
        let failure = self.call(command).expect_err("it succeeds");
        assert_eq!(failure.code, Some(code), "{command:?}: {}", failure.text);
    }

    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let started = Instant::now();
        while !holds(self) {
            assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        }
    }

    fn named(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }

    /// Makes a topic, by librdkafka: not every client can.
    fn topic(&self, name: &str, partitions: i32, setting: (&str, &str)) -> String {
        let topic = self.named(name);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", self.broker.bootstrap()).create().unwrap();
        let new = NewTopic::new(&topic, partitions, TopicReplication::Fixed(1));
        let new = new.set(setting.0, setting.1);
        let made = runtime.block_on(admin.create_topics([&new], &AdminOptions::new())).unwrap();
        made.into_iter().next().unwrap().unwrap();
        let started = Instant::now();
        let known = || {
            let metadata = admin.inner().fetch_metadata(Some(&topic), PATIENCE).unwrap();
            metadata.topics()[0].partitions().len() == partitions as usize
        };
        while !known() {
            assert!(started.elapsed() < PATIENCE, "{topic} is not there");
        }
        topic
    }

    /// A topic that keeps records of any time, with a producer of the same name.
    fn written(&mut self, name: &str, partitions: i32, records: &[String]) -> String {
        let topic = self.topic(name, partitions, ("retention.ms", "-1"));
        self.ok(&["producer", name, "none", "~"]);
        self.send(name, &topic, records);
        topic
    }

    fn send(&mut self, producer: &str, topic: &str, records: &[String]) -> Vec<String> {
        let mut command = vec!["send", producer, topic];
        command.extend(records.iter().map(String::as_str));
        let offsets = self.ok(&command);
        assert_eq!(offsets.len(), records.len());
        offsets
    }

    /// The values of partition 0.
    fn read(&mut self, topic: &str, from: i32, count: usize, isolation: &str) -> Vec<String> {
        let (from, count) = (from.to_string(), count.to_string());
        let records = self.ok(&["read", topic, &from, &count, isolation]);
        values(&records).into_iter().map(str::to_owned).collect()
    }

    /// Joins, and polls until there is a record.
    fn joined(&mut self, member: &str, topic: &str) -> String {
        let group = self.named(member);
        self.ok(&["join", member, &group, topic, "classic"]);
        self.until("a record", |stage| stage.ok(&["poll", member]).len() > 1);
        group
    }

    fn codec(&mut self, codec: &str) {
        let topic = self.topic(codec, 1, ("retention.ms", "-1"));
        self.ok(&["producer", codec, codec, "~"]);
        let records: Vec<String> =
            (0..50).map(|n| record(0, format!("{codec}-{codec}-{codec}-{n}"))).collect();
        let offsets = self.send(codec, &topic, &records);
        assert_eq!(offsets, numbers(0..50));
        assert_eq!(self.read(&topic, 0, 50, "read_uncommitted"), values(&records));
        let number = ["none", "gzip", "snappy", "lz4", "zstd"].iter().position(|one| *one == codec);
        assert_eq!(
            Some(self.stored_codec(&topic)),
            number,
            "what is stored is compressed otherwise"
        );
    }

    /// The number of the codec in the first batch.
    fn stored_codec(&self, topic: &str) -> usize {
        let partition = FetchPartition::default().with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default()
            .with_topic(TopicName(StrBytes::from_string(topic.to_owned())))
            .with_partitions(vec![partition]);
        let request = FetchRequest::default().with_max_bytes(1 << 20).with_topics(vec![topic]);
        let answer =
            Connection(TcpStream::connect(self.broker.bootstrap()).unwrap()).call(12, &request);
        let batch = answer.responses[0].partitions[0].records.clone().unwrap();
        // Attributes follow base offset, length, epoch, magic and checksum.
        usize::from(batch[22] & 7)
    }

    /// What is sent comes back as it was.
    fn kept(&mut self, name: &str, records: &[&str]) {
        let records: Vec<String> = records.iter().copied().map(str::to_owned).collect();
        let topic = self.written(name, 1, &records);
        let count = records.len().to_string();
        assert_eq!(self.ok(&["read", &topic, "0", &count, "read_uncommitted"]), records);
    }

    fn idempotent(&mut self) {
        let records: Vec<String> = numbers(0..200).iter().map(|n| record(0, n)).collect();
        let topic = self.topic("idempotent", 1, ("retention.ms", "-1"));
        self.ok(&["producer", "idempotent", "none", "~"]);
        let offsets = self.send("idempotent", &topic, &records);
        assert_eq!(offsets, numbers(0..200), "each has its offset");
        assert_eq!(self.read(&topic, 0, 200, "read_uncommitted"), numbers(0..200));
    }

    fn group(&mut self, name: &str, protocol: &str) {
        let records: Vec<String> = (0..100).map(|n| record(n % 4, n)).collect();
        let topic = self.written(name, 4, &records);
        let group = self.named(name);
        let members = [format!("{name}-one"), format!("{name}-two")];
        for member in &members {
            self.ok(&["join", member, &group, &topic, protocol]);
        }
        let mut read: BTreeSet<String> = BTreeSet::new();
        // Who had which partition last.
        let mut owners: BTreeMap<String, &str> = BTreeMap::new();
        self.until("two share, and read all", |stage| {
            let mut shares = Vec::new();
            for member in &members {
                let answer = stage.ok(&["poll", member]);
                shares.push(answer[0].clone());
                for record in &answer[1..] {
                    read.insert(part(record, 2).to_owned());
                    owners.insert(part(record, 0).to_owned(), member);
                }
            }
            shares == ["2", "2"] && read.len() == 100
        });
        for member in &members {
            let places: Vec<String> = owners
                .iter()
                .filter(|(_, owner)| **owner == member.as_str())
                .map(|(partition, _)| format!("{partition}=25"))
                .collect();
            if places.is_empty() {
                continue;
            }
            let mut command = vec!["commit", member, &topic];
            command.extend(places.iter().map(String::as_str));
            self.ok(&command);
        }
        self.ok(&["leave", &members[1]]);
        self.until("one has all", |stage| stage.ok(&["poll", &members[0]])[0] == "4");
        assert_eq!(self.ok(&["committed", &members[0], &topic, "4"]), ["25"; 4]);
        self.ok(&["leave", &members[0]]);
    }

    fn restart(&mut self) {
        let records: Vec<String> = (0..100).map(|n| record(0, n)).collect();
        let topic = self.written("restart", 1, &records);
        let group = self.joined("restart", &topic);
        self.ok(&["commit", "restart", &topic, "0=60"]);
        self.ok(&["leave", "restart"]);
        self.broker.restart();
        let bootstrap = self.broker.bootstrap();
        self.ok(&["connect", &bootstrap]);
        self.ok(&["join", "restart", &group, &topic, "classic"]);
        let mut read = Vec::new();
        self.until("the rest", |stage| {
            read.extend(stage.ok(&["poll", "restart"]).drain(1..));
            read.len() >= 40
        });
        assert_eq!(values(&read), numbers(60..100));
        self.ok(&["leave", "restart"]);
    }

    fn transactions(&mut self) {
        let topic = self.topic("transactions", 1, ("retention.ms", "-1"));
        let id = self.named("writer");
        self.ok(&["producer", "writer", "none", &id]);
        for (first, how) in [(1, "commit"), (3, "abort"), (5, "commit")] {
            self.ok(&["begin", "writer"]);
            self.send("writer", &topic, &[record(0, first), record(0, first + 1)]);
            self.ok(&["end", "writer", how]);
        }
        assert_eq!(self.read(&topic, 0, 4, "read_committed"), ["1", "2", "5", "6"]);
        assert_eq!(self.read(&topic, 0, 6, "read_uncommitted"), numbers(1..7));
    }

    fn fence(&mut self) {
        let topic = self.topic("fence", 1, ("retention.ms", "-1"));
        let id = self.named("fenced");
        self.ok(&["producer", "older", "none", &id]);
        self.ok(&["begin", "older"]);
        self.send("older", &topic, &[record(0, 1)]);
        self.ok(&["producer", "newer", "none", &id]);
        self.ok(&["begin", "newer"]);
        self.send("newer", &topic, &[record(0, 2)]);
        self.call(&["end", "older", "commit"]).expect_err("a fenced producer commits");
        self.ok(&["end", "newer", "commit"]);
        assert_eq!(self.read(&topic, 0, 1, "read_committed"), ["2"]);
    }

    fn process(&mut self) {
        let records: Vec<String> = (0..10).map(|n| record(0, n)).collect();
        let source = self.written("source", 1, &records);
        let sink = self.topic("sink", 1, ("retention.ms", "-1"));
        self.joined("process", &source);
        let id = self.named("processor");
        self.ok(&["producer", "processor", "none", &id]);
        let doubled: Vec<String> = (0..10).map(|n| record(0, 2 * n)).collect();
        for (count, how, committed) in [(5, "commit", "5"), (7, "abort", "5"), (10, "commit", "10")]
        {
            self.ok(&["begin", "processor"]);
            let from = if count == 5 { 0 } else { 5 };
            self.send("processor", &sink, &doubled[from..count]);
            let offset = count.to_string();
            self.ok(&["offset_in_transaction", "processor", "process", &source, &offset]);
            self.ok(&["end", "processor", how]);
            self.until("the outcome", |stage| {
                stage.ok(&["committed", "process", &source, "1"]) == [committed]
            });
        }
        assert_eq!(self.read(&sink, 0, 10, "read_committed"), values(&doubled));
        self.ok(&["leave", "process"]);
    }

    fn topics(&mut self) {
        let topic = self.named("topics");
        let create = ["create", &topic, "2", "retention.ms", "-1"];
        self.ok(&create);
        let has = |stage: &mut Self, count: &str| stage.ok(&["partitions", &topic]) == [count];
        self.until("it is there", |stage| has(stage, "2"));
        self.refused(&create, 36);
        self.ok(&["grow", &topic, "3"]);
        self.until("it grows", |stage| has(stage, "3"));
        self.refused(&["grow", &topic, "1"], 37);
        self.ok(&["delete", &topic]);
        self.until("it is gone", |stage| has(stage, "0"));
    }

    fn configs(&mut self) {
        let topic = self.topic("configs", 1, ("retention.ms", "3600000"));
        let describe = ["describe", &topic, "retention.ms"];
        assert_eq!(self.ok(&describe), ["3600000"]);
        self.ok(&["alter", &topic, "retention.ms", "7200000"]);
        self.until("it is altered", |stage| stage.ok(&describe) == ["7200000"]);
        self.refused(&["alter", &topic, "retention.ms", "many"], 40);
    }

    fn delete_records(&mut self) {
        let records: Vec<String> = (0..10).map(|n| record(0, n)).collect();
        let topic = self.written("delete-records", 1, &records);
        assert_eq!(self.ok(&["delete_records", &topic, "4"]), ["4"]);
        self.refused(&["delete_records", &topic, "11"], 1);
        assert_eq!(self.read(&topic, 4, 6, "read_uncommitted"), numbers(4..10));
    }

    fn groups(&mut self) {
        let topic = self.written("groups", 1, &[record(0, 1)]);
        let group = self.joined("groups", &topic);
        assert!(self.ok(&["groups"]).contains(&group));
        let state = |stage: &mut Self| stage.ok(&["state", &group])[0].to_lowercase();
        assert_eq!(state(self), "stable");
        self.ok(&["commit", "groups", &topic, "0=1"]);
        self.ok(&["leave", "groups"]);
        self.until("it is empty", |stage| state(stage) == "empty");
    }

    fn delete_group(&mut self) {
        let topic = self.written("delete-group", 1, &[record(0, 1)]);
        let group = self.joined("delete-group", &topic);
        self.ok(&["commit", "delete-group", &topic, "0=1"]);
        self.refused(&["delete_group", &group], 68);
        self.ok(&["leave", "delete-group"]);
        self.until("it can be deleted", |stage| stage.call(&["delete_group", &group]).is_ok());
        self.refused(&["delete_group", &group], 69);
    }

    fn times(&mut self) {
        let start = 1_600_000_000_000_i64;
        let records: Vec<String> = (0..3).map(|n| format!("0|~|{n}|{}|", start + 10 * n)).collect();
        let topic = self.written("times", 1, &records);
        let mut check = |time: &str, expected: &[&str]| {
            let found = self.ok(&["offset", &topic, time]);
            assert!(expected.contains(&found[0].as_str()), "at {time}: {found:?}");
        };
        check("earliest", &["0"]);
        check("latest", &["3"]);
        for (time, expected) in [(0, "0"), (1, "1"), (20, "2")] {
            check(&(start + time).to_string(), &[expected]);
        }
        check(&(start + 21).to_string(), &["-1", "3"]);
    }

    fn too_large(&mut self) {
        let topic = self.topic("too-large", 1, ("max.message.bytes", "1000"));
        self.ok(&["producer", "too-large", "none", "~"]);
        let value: String = "0123456789".repeat(500);
        self.refused(&["send", "too-large", &topic, &record(0, value)], 10);
    }
}
