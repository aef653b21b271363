//! Idempotent producers: several batches in flight, sent again over other connections until they
//! are acknowledged.

use std::sync::atomic::Ordering;

use afflux_record::{
    Compression,
    batch::{Builder, Producer},
};
use afflux_types::{ProducerEpoch, ProducerId, Timestamp};
use bytes::Bytes;
use kafka_protocol::{
    ResponseError,
    messages::{
        InitProducerIdRequest, ProduceRequest, ProduceResponse,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
};

use super::{Client, PARTITIONS};
use crate::{
    history::{Batch, Outcome},
    link::decode,
    producer::{Ask, outcome},
    sim::{frame, wire_name},
};
const VERSION: i16 = 9;
/// As many as a client has in flight.
const IN_FLIGHT: u64 = 5;

/// A batch on its way.
struct Sending {
    /// Its number in the history.
    number: usize,
    frame: Bytes,
}

/// One producer id after the other: a client takes a new one when it does not know any more what
/// became of a batch.
pub(crate) async fn produce(client: Client) {
    for _ in 0..4 {
        let Some(id) = init(&client).await else { continue };
        let producer = client.diary.number() as usize;
        let mut sequences = [0; PARTITIONS as usize];
        for _ in 0..6 {
            let count = 1 + client.below(IN_FLIGHT);
            let sending = (0..count).map(|_| write(&client, producer, id, &mut sequences));
            if !deliver(&client, sending.collect()).await {
                break;
            }
            client.link.pause(400).await;
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

/// Makes a batch, and notes it down.
fn write(
    client: &Client,
    producer: usize,
    id: i64,
    sequences: &mut [i32; PARTITIONS as usize],
) -> Sending {
    let partition = client.partition();
    let value = |_| client.value(format!("i{producer}.{}", client.diary.number()));
    let values: Vec<_> = (0..=client.below(2)).map(value).collect();
    let sequence = &mut sequences[partition as usize];
    let mut builder = Builder::new(Compression::None);
    if !client.diary.forgets.load(Ordering::SeqCst) {
        let (id, epoch) = (ProducerId(id), ProducerEpoch(0));
        builder = builder.producer(Producer { id, epoch, base_sequence: *sequence });
    }
    *sequence += values.len() as i32;
    for value in &values {
        builder.push(Timestamp(1), None, Some(value.as_bytes()));
    }
    let data = PartitionProduceData::default()
        .with_index(partition)
        .with_records(Some(builder.finish().unwrap()));
    let topic =
        TopicProduceData::default().with_name(wire_name("t")).with_partition_data(vec![data]);
    let request = ProduceRequest::default().with_acks(-1).with_topic_data(vec![topic]);
    let mut history = client.diary.history.lock();
    history.batches.push(Batch { producer, partition, values, outcome: Outcome::Unknown });
    Sending { number: history.batches.len() - 1, frame: frame(VERSION, 1, &request) }
}

/// Sends batches until all are acknowledged; false if that does not come about.
async fn deliver(client: &Client, mut left: Vec<Sending>) -> bool {
    for _ in 0..12 {
        let frames: Vec<Bytes> = left.iter().map(|sending| sending.frame.clone()).collect();
        let mut answers = client.link.send(&frames).await.into_iter();
        left.retain(|sending| {
            let Some(answer) = answers.next() else { return true };
            let answer: ProduceResponse = decode(answer, VERSION);
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
