//! The clients of a world. Each does a number of things, whatever becomes of the node meanwhile,
//! and writes down what it knows of them.

mod consumers;
mod idempotent;
mod keeper;
mod operator;
mod seekers;
mod transactional;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use afflux_env::sim::SimClock;
use afflux_record::{Compression, Header, Record};
use afflux_types::{Offset, ProducerId};
use bytes::Bytes;
use kafka_protocol::{
    ResponseError,
    messages::{
        FetchRequest, OffsetFetchRequest,
        fetch_request::{FetchPartition, FetchTopic},
        offset_fetch_request::OffsetFetchRequestTopic,
    },
    protocol::StrBytes,
};
use parking_lot::Mutex;

pub(crate) use self::{
    consumers::{beat, follow, member, stay, tail},
    idempotent::{produce, produce_to},
    keeper::{COMPACTED, PASSING, RETAINED, TIMELESS, commit_for, keep, look_up, start_of},
    operator::end_hanging,
    seekers::{seek, sweep},
    transactional::{transact, work, work_together},
};
use crate::{
    history::{
        EARLIEST, History, Moment, Poll, STEADY, TIMES, Topic, Value, is_tombstone, key_of,
        time_of, tombstone,
    },
    link::Link,
    producer::{Ask, Told, outcome},
    reading::visible,
    sim::wire_name,
};

/// What a record is written down as.
fn written(record: &Record) -> Value {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let (key, time) = (record.key.as_ref().map(text), record.timestamp);
    let none = || {
        let number = (time.0 - EARLIEST) as u64;
        tombstone(key.as_deref().unwrap_or_default(), number.saturating_sub(TIMES))
    };
    let value = record.value.as_ref().map_or_else(none, text);
    let is_sound = time_of(&value) == time && key.is_none_or(|key| key == key_of(&value));
    // What nobody has written is found to be so.
    if is_sound { value } else { format!("{value} in {record:?}") }
}

/// What is in the record of what is written down, in a topic with keys or without.
fn told(value: &str, has_key: bool) -> Told<'_> {
    let key = has_key.then(|| key_of(value));
    (time_of(value), key, (!is_tombstone(value)).then_some(value))
}

/// The topic's partitions.
pub(crate) const PARTITIONS: i32 = 3;

/// What all clients of a world share.
#[derive(Default)]
pub(crate) struct Diary {
    pub(crate) history: Mutex<History>,
    moments: AtomicU64,
    numbers: AtomicU64,
    /// Readers of committed records are shown all: the broker that a checker must see through.
    pub(crate) shows_all: AtomicBool,
    /// Producers are not told from each other: another such broker.
    pub(crate) forgets: AtomicBool,
    /// What is to be deleted is said to be, and is not: another.
    pub(crate) idles: AtomicBool,
    /// When the clock jumped the last time, in microseconds.
    pub(crate) jumped: AtomicU64,
}

impl Diary {
    pub(crate) fn now(&self) -> Moment {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }

    /// A number that nobody else gets.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::SeqCst)
    }
}

/// A client: its way to the node, and what it writes down.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) link: Link,
    pub(crate) diary: Arc<Diary>,
    pub(crate) clock: Arc<SimClock>,
}

impl Client {
    fn below(&self, bound: u64) -> u64 {
        self.link.random.below(bound)
    }

    fn partition(&self) -> i32 {
        self.below(PARTITIONS as u64) as i32
    }

    /// The beginning of a value that has a key.
    fn key(&self) -> String {
        format!("k{}.", self.below(4))
    }

    /// A tombstone, now and then, of a key that may go.
    fn tombstone(&self) -> Option<Value> {
        let key = ["k0", "k1"][self.below(2) as usize];
        (self.below(5) == 0).then(|| tombstone(key, self.diary.number()))
    }

    /// How a batch is packed: mostly not at all.
    fn compression(&self) -> Compression {
        match self.below(12) {
            0 => Compression::Gzip,
            1 => Compression::Snappy,
            2 => Compression::Lz4,
            3 => Compression::Zstd,
            _ => Compression::None,
        }
    }

    /// A value of a name, now and then so large that the log takes it in pieces.
    fn value(&self, mut name: String) -> Value {
        if self.below(20) == 0 {
            name.push_str(&"-".repeat(9_000));
        }
        name
    }

    /// Reads from an offset on, and writes it down.
    pub(crate) async fn poll(
        &self,
        is_committed: bool,
        topic: Topic,
        partition: i32,
        from: i64,
    ) -> Result<Poll, ResponseError> {
        let begun = self.diary.now();
        let at = FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(from)
            .with_partition_max_bytes(200 + self.below(600) as i32);
        // Only its id tells a topic from another one of its name.
        let (version, asked) = if topic == STEADY {
            (5, FetchTopic::default().with_topic(wire_name("t")))
        } else {
            (13, FetchTopic::default().with_topic_id(topic))
        };
        let hides = is_committed && !self.diary.shows_all.load(Ordering::SeqCst);
        let request = FetchRequest::default()
            .with_max_wait_ms(0)
            .with_min_bytes(0)
            .with_max_bytes(1 << 20)
            .with_isolation_level(i8::from(hides))
            .with_topics(vec![asked.with_partitions(vec![at])]);
        let answer = self.link.ask(version, &request).await?;
        outcome(answer.error_code)?;
        let answer = &answer.responses[0].partitions[0];
        outcome(answer.error_code)?;
        let mut rest = answer.records.clone().unwrap_or_default();
        let mut batches = Vec::new();
        let mut next = from;
        while !rest.is_empty() {
            let header = Header::parse(&rest).unwrap();
            next = header.next_offset().0;
            batches.push(rest.split_to(header.bytes));
        }
        let aborted = answer.aborted_transactions.iter().flatten();
        let aborted: Vec<_> =
            aborted.map(|it| (ProducerId(it.producer_id.0), Offset(it.first_offset))).collect();
        let mut records = visible(&batches, &aborted);
        records.retain(|record| record.offset.0 >= from);
        let records = records.iter().map(|record| (record.offset.0, written(record))).collect();
        let (start, high) = (answer.log_start_offset, answer.high_watermark);
        let ended = self.diary.now();
        let poll =
            Poll { is_committed, topic, partition, from, next, records, start, high, begun, ended };
        self.diary.history.lock().polls.push(poll.clone());
        Ok(poll)
    }

    /// Where a group stands, once no transaction is about to change it.
    pub(crate) async fn standing(&self, group: &str, partition: i32) -> Result<i64, ResponseError> {
        self.standing_in("t", group, partition).await
    }

    /// The same in another topic.
    pub(crate) async fn standing_in(
        &self,
        topic: &str,
        group: &str,
        partition: i32,
    ) -> Result<i64, ResponseError> {
        let asked = OffsetFetchRequestTopic::default()
            .with_name(wire_name(topic))
            .with_partition_indexes(vec![partition]);
        let request = OffsetFetchRequest::default()
            .with_group_id(StrBytes::from_string(group.to_owned()).into())
            .with_topics(Some(vec![asked]))
            .with_require_stable(true);
        let answer = self.link.ask(7, &request).await?;
        outcome(answer.error_code)?;
        let at = &answer.topics[0].partitions[0];
        outcome(at.error_code).map(|()| at.committed_offset)
    }
}
