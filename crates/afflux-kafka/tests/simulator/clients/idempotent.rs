//! Idempotent producers: several batches in flight, sent again over other connections until they
//! are acknowledged; to the steady topic, or to whichever topic has a name.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use afflux_record::batch::{Builder, Producer};
use afflux_types::{ProducerEpoch, ProducerId};
use bytes::Bytes;
use kafka_protocol::{
    ResponseError,
    messages::{
        InitProducerIdRequest, ProduceRequest, ProduceResponse,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
};

use super::{
    Client, PARTITIONS,
    keeper::{COMPACTED, look_up},
    told,
};
use crate::{
    history::{Batch, Outcome, STEADY, Topic},
    link::decode,
    producer::{Ask, outcome},
    sim::{frame, wire_name},
};

const VERSION: i16 = 9;
/// The first in which topics are named by their ids.
const BY_ID: i16 = 13;
/// As many as a client has in flight.
const IN_FLIGHT: u64 = 5;

/// A batch on its way.
struct Sending {
    /// Its number in the history.
    number: usize,
    frame: Bytes,
}

/// A producer and where it writes.
struct Instance {
    /// Its number in the history.
    producer: usize,
    id: i64,
    topic: Topic,
    partitions: i32,
    has_keys: bool,
    sequences: BTreeMap<i32, i32>,
}

/// One producer id after the other: a client takes a new one when it does not know any more what
/// became of a batch.
pub(crate) async fn produce(client: Client) {
    for _ in 0..4 {
        let Some(id) = init(&client).await else { continue };
        let mut instance = Instance::new(&client, id, (STEADY, PARTITIONS), false);
        for _ in 0..6 {
            if !instance.send(&client).await {
                break;
            }
            client.link.pause(400).await;
        }
    }
}

/// The same for topics of another name. Behind one that was deleted the same producer goes on.
pub(crate) async fn produce_to(client: Client, name: &'static str) {
    for _ in 0..4 {
        let Some(id) = init(&client).await else { continue };
        let mut known: Option<Instance> = None;
        for _ in 0..8 {
            client.link.pause(300).await;
            let Ok(Some(at)) = look_up(&client, name).await else { continue };
            let same = known.take().filter(|it| it.topic == at.0);
            let anew = || Instance::new(&client, id, at, name == COMPACTED);
            let mut instance = same.unwrap_or_else(anew);
            instance.partitions = at.1;
            if !instance.send(&client).await && look_up(&client, name).await == Ok(Some(at)) {
                break;
            }
            known = Some(instance);
        }
    }
}

async fn init(client: &Client) -> Option<i64> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_producer_id((-1).into())
        .with_producer_epoch(-1);
    for _ in 0..40 {
        if let Ok(answer) = client.link.ask(4, &request).await
            && answer.error_code == 0
        {
            return Some(answer.producer_id.0);
        }
        client.link.pause(200).await;
    }
    None
}

impl Instance {
    fn new(client: &Client, id: i64, (topic, partitions): (Topic, i32), has_keys: bool) -> Self {
        let producer = client.diary.number() as usize;
        Self { producer, id, topic, partitions, has_keys, sequences: BTreeMap::new() }
    }

    fn version(&self) -> i16 {
        if self.topic == STEADY { VERSION } else { BY_ID }
    }

    /// Sends some batches; false if not all were acknowledged.
    async fn send(&mut self, client: &Client) -> bool {
        let count = 1 + client.below(IN_FLIGHT);
        let sending = (0..count).map(|_| self.write(client)).collect();
        deliver(client, self.version(), sending).await
    }

    /// Makes a batch, and notes it down.
    fn write(&mut self, client: &Client) -> Sending {
        let producer = self.producer;
        let partition = client.below(self.partitions as u64) as i32;
        let value = || {
            let key = if self.has_keys { client.key() } else { String::new() };
            client.value(format!("{key}i{producer}.{}", client.diary.number()))
        };
        let gone = || if self.has_keys { client.tombstone() } else { None };
        let values = (0..=client.below(2)).map(|_| gone().unwrap_or_else(value));
        let values: Vec<_> = values.collect();
        let sequence = self.sequences.entry(partition).or_default();
        let mut builder = Builder::new(client.compression());
        if !client.diary.forgets.load(Ordering::SeqCst) {
            let (id, epoch) = (ProducerId(self.id), ProducerEpoch(0));
            builder = builder.producer(Producer { id, epoch, base_sequence: *sequence });
        }
        *sequence += values.len() as i32;
        for value in &values {
            let (time, key, value) = told(value, self.has_keys);
            builder.push(time, key.map(str::as_bytes), value.map(str::as_bytes));
        }
        let data = PartitionProduceData::default()
            .with_index(partition)
            .with_records(Some(builder.finish().unwrap()));
        let data = TopicProduceData::default().with_partition_data(vec![data]);
        let data = if self.topic == STEADY {
            data.with_name(wire_name("t"))
        } else {
            data.with_topic_id(self.topic)
        };
        let request = ProduceRequest::default().with_acks(-1).with_topic_data(vec![data]);
        let (topic, outcome) = (self.topic, Outcome::Unknown);
        let mut history = client.diary.history.lock();
        history.batches.push(Batch { producer, topic, partition, values, outcome });
        Sending { number: history.batches.len() - 1, frame: frame(self.version(), 1, &request) }
    }
}

/// Sends batches until all are acknowledged; false if that does not come about.
async fn deliver(client: &Client, version: i16, mut left: Vec<Sending>) -> bool {
    for _ in 0..12 {
        let frames: Vec<Bytes> = left.iter().map(|sending| sending.frame.clone()).collect();
        let mut answers = client.link.send(&frames).await.into_iter();
        left.retain(|sending| {
            let Some(answer) = answers.next() else { return true };
            let answer: ProduceResponse = decode(answer, version);
            let answer = &answer.responses[0].partition_responses[0];
            let done = match outcome(answer.error_code) {
                Ok(()) => Some(answer.base_offset),
                Err(ResponseError::DuplicateSequenceNumber) => None,
                Err(_) => return true,
            };
            client.diary.history.lock().batches[sending.number].outcome = Outcome::Done(done);
            false
        });
        if left.is_empty() {
            return true;
        }
        client.link.pause(200).await;
    }
    false
}
