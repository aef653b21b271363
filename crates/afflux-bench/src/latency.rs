//! From the send call of a record to the row that it makes, as a reader of the view sees it.
//!
//! 1. A node, a topic, a view that has one row a record, and a reader who follows the view as
//!    server-sent events.
//! 2. A round sends records at [`RATE`] through librdkafka (idempotent, acknowledged once
//!    durable), notes the time right before each send call, and waits until the reader has seen
//!    every row. A row is seen when the event with it has come in, not when it is taken apart.
//! 3. Between rounds, while the node has nothing to do, a raw loop overwrites a zeroed file and
//!    syncs it: what the disk can do in this very run.
//! 4. Each percentile is taken in a round; the median of the rounds counts.

use std::{
    io::{BufRead, BufReader, Read},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};
use serde::Deserialize;

use crate::{
    Settings,
    node::{self, Node},
    raw::Raw,
    report::{Reference, Report},
    sample::{self, Durations},
};

/// Records a second.
const RATE: u32 = 10_000;
const PARTITIONS: i32 = 4;
const TOPIC: &str = "sends";
const SQL: &str = "\
    CREATE SOURCE sends (id BIGINT NOT NULL, payload VARCHAR) \
        WITH (topic = 'sends', format = 'json'); \
    CREATE MATERIALIZED VIEW shown AS SELECT id, payload FROM sends";
/// With the rest of the record, about 100 bytes.
const PAYLOAD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// What is allowed whatever the disk does.
const ALLOWED_MILLIS: f64 = 20.0;
/// What it allows on a slow disk.
const ALLOWED_SYNCS: f64 = 4.0;
/// What the raw loop writes at a time.
const SYNC_BYTES: usize = 4096;
/// A row that has not come by then will not.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let seconds = if settings.quick { 2 } else { 10 };
    let node = Node::start(&node::program()?, &settings.dir.join("data"))?;
    create_topic(&node)?;
    node.sql(SQL)?;
    let mut load = Load::new(&node)?;
    let mut disk = Raw::new(&settings.dir.join("raw"))?;

    // Connections, caches and the journal's first files.
    load.round(2 * RATE)?;
    let mut rounds = [const { Vec::new() }; 5];
    for _ in 0..settings.rounds() {
        let mut sync = disk.syncs(SYNC_BYTES, Duration::from_secs(seconds) / 4)?;
        let mut shown = load.round(seconds as u32 * RATE)?;
        rounds[0].push(shown.latencies.percentile_millis(50.0));
        rounds[1].push(shown.latencies.percentile_millis(99.0));
        rounds[2].push(shown.rate);
        rounds[3].push(sync.percentile_millis(50.0));
        rounds[4].push(sync.percentile_millis(99.0));
    }
    let [p50, p99, rate, sync_p50, sync_p99] = rounds.map(|mut values| sample::median(&mut values));
    ensure!(rate > 0.98 * f64::from(RATE), "only {rate:.0} records/s were sent: no such figure");
    let allowed = Reference {
        name: format!("the larger of {ALLOWED_MILLIS} ms and {ALLOWED_SYNCS} x fdatasync p99"),
        value: ALLOWED_MILLIS.max(ALLOWED_SYNCS * sync_p99),
    };
    report.figure("sent", rate, "records/s");
    report.figure("fdatasync of 4 KiB, p50", sync_p50, "ms");
    report.figure("fdatasync of 4 KiB, p99", sync_p99, "ms");
    report.figure("send call to row shown, p50", p50, "ms");
    report.compared("send call to row shown, p99", p99, "ms", &allowed);
    node.stop()
}

fn create_topic(node: &Node) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &node.addresses.kafka).create()?;
    let topic = NewTopic::new(TOPIC, PARTITIONS, TopicReplication::Fixed(1));
    let created = admin.create_topics([&topic], &AdminOptions::new());
    for outcome in block_on(created)? {
        if let Err((topic, code)) = outcome {
            bail!("topic {topic} could not be created: {code}");
        }
    }
    Ok(())
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime of one thread needs nothing that could be missing")
        .block_on(future)
}

/// A producer and a reader of one node.
struct Load {
    producer: ThreadedProducer<DefaultProducerContext>,
    /// Ids of rows and when the event with them came in.
    seen: mpsc::Receiver<Result<(Instant, Vec<u64>)>>,
    next_id: u64,
}

struct Round {
    latencies: Durations,
    /// Records a second that were sent.
    rate: f64,
}

impl Load {
    fn new(node: &Node) -> Result<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &node.addresses.kafka)
            .set("enable.idempotence", "true")
            .set("linger.ms", "0")
            .create()?;
        let url = format!("http://{}/v1/views/shown/changes", node.addresses.http);
        let answer = ureq::get(&url).call().context("follow the view")?;
        let (sender, seen) = mpsc::channel();
        // It ends with the node, whose end closes the connection.
        thread::spawn(move || follow(answer.into_body().into_reader(), &sender));
        Ok(Self { producer, seen, next_id: 0 })
    }

    fn round(&mut self, records: u32) -> Result<Round> {
        let first = self.next_id;
        self.next_id += u64::from(records);
        let gap = Duration::from_secs(1) / RATE;
        let mut sent = Vec::with_capacity(records as usize);
        let mut value = String::new();
        let started = Instant::now();
        for number in 0..records {
            let due = started + gap * number;
            let early = due.saturating_duration_since(Instant::now());
            if !early.is_zero() {
                thread::sleep(early);
            }
            let id = first + u64::from(number);
            value.clear();
            // Writing to a string does not fail.
            let _ = std::fmt::Write::write_fmt(
                &mut value,
                format_args!(r#"{{"id":{id},"payload":"{PAYLOAD}"}}"#),
            );
            let key = id.to_le_bytes();
            let record = BaseRecord::to(TOPIC).key(&key).payload(&value);
            sent.push(Instant::now());
            self.producer.send(record).map_err(|(error, _)| error).context("send a record")?;
        }
        let rate = f64::from(records) / started.elapsed().as_secs_f64();

        let mut latencies = Durations::default();
        while latencies.len() < sent.len() {
            let (at, ids) = self.seen.recv_timeout(PATIENCE).with_context(|| {
                format!("{} of {records} rows were shown, then no more", latencies.len())
            })??;
            for id in ids {
                let sent = id.checked_sub(first).and_then(|number| sent.get(number as usize));
                let sent = sent.context("a row was shown of a record that was not sent")?;
                latencies.push(at - *sent);
            }
        }
        self.producer.flush(PATIENCE).context("wait for the acknowledgements")?;
        Ok(Round { latencies, rate })
    }
}

#[derive(Deserialize)]
struct Event {
    changes: Vec<Change>,
}

#[derive(Deserialize)]
struct Change {
    weight: i64,
    row: Row,
}

#[derive(Deserialize)]
struct Row {
    id: u64,
}

/// Reads server-sent events until the stream or the receiver ends.
fn follow(stream: impl Read, seen: &mpsc::Sender<Result<(Instant, Vec<u64>)>>) {
    for line in BufReader::new(stream).lines() {
        // The node's end: a round that still waits for rows says so.
        let Ok(line) = line else { return };
        let at = Instant::now();
        let Some(data) = line.strip_prefix("data:") else { continue };
        if seen.send(ids(data).map(|ids| (at, ids))).is_err() {
            return;
        }
    }
}

/// The ids of the rows that an event brings. A row that goes again was never expected.
fn ids(data: &str) -> Result<Vec<u64>> {
    let event: Event = serde_json::from_str(data)
        .with_context(|| format!("the view's stream has no changes in {data}"))?;
    event
        .changes
        .into_iter()
        .map(|change| {
            ensure!(change.weight == 1, "row {} has weight {}", change.row.id, change.weight);
            Ok(change.row.id)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_new_rows() {
        let event = r#"{"tick":7,"changes":[{"weight":1,"row":{"id":4,"payload":"x"}},
                        {"weight":1,"row":{"id":9,"payload":null}}]}"#;
        assert_eq!(ids(event).unwrap(), [4, 9]);
        assert_eq!(ids(r#"{"tick":7,"changes":[]}"#).unwrap(), [0; 0]);
        assert!(ids(r#"{"tick":7,"changes":[{"weight":-1,"row":{"id":4}}]}"#).is_err());
        assert!(ids(r#"{"reason":"gone"}"#).is_err());
    }

    #[test]
    fn a_stream_gives_the_rows_of_its_data_lines() {
        let stream = "event: changes\nid: a-1\ndata: {\"tick\":1,\"changes\":[{\"weight\":1,\
                      \"row\":{\"id\":3}}]}\n\n: still here\n\nevent: reset\ndata: {}\n\n";
        let (sender, seen) = mpsc::channel();
        follow(stream.as_bytes(), &sender);
        drop(sender);
        let seen: Vec<_> = seen.iter().map(|event| event.map(|(_, ids)| ids).ok()).collect();
        assert_eq!(seen, [Some(vec![3]), None]);
    }
}
