//! A transactional producer as its client's library sees it, one request a time; whoever has one
//! decides what to do about errors.

use std::collections::HashMap;

use afflux_record::{
    Compression, Marker,
    batch::{Builder, Producer},
};
use afflux_types::{ProducerEpoch, ProducerId, Timestamp};
use bytes::Bytes;
use kafka_protocol::{
    ResponseError,
    messages::{
        AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest,
        ProduceRequest, TransactionalId, TxnOffsetCommitRequest,
        add_partitions_to_txn_request::AddPartitionsToTxnTopic,
        produce_request::{PartitionProduceData, TopicProduceData},
        txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic},
    },
    protocol::{Request, StrBytes},
};

use crate::sim::wire_name;

/// Whom requests are put to.
pub(crate) trait Ask {
    /// The answer; `NETWORK_EXCEPTION` if none came, as Kafka's clients call that.
    async fn ask<R: Request>(
        &self,
        version: i16,
        request: &R,
    ) -> Result<R::Response, ResponseError>;
}

/// An outcome by its code.
pub(crate) fn outcome(code: i16) -> Result<(), ResponseError> {
    ResponseError::try_from_code(code).map_or(Ok(()), Err)
}

fn at(topic: &str, partition: i32) -> (String, i32) {
    (topic.to_owned(), partition)
}

/// What is in a record: its time, key and value.
pub(crate) type Told<'a> = (Timestamp, Option<&'a str>, Option<&'a str>);

/// A transactional producer, as its client's library sees it.
#[derive(Clone)]
pub(crate) struct Client<L> {
    pub(crate) node: L,
    pub(crate) id: TransactionalId,
    pub(crate) producer: i64,
    pub(crate) epoch: i16,
    /// Whether it speaks version 2 of transactions.
    pub(crate) is_modern: bool,
    /// What it is in the group whose offsets it commits.
    pub(crate) generation: i32,
    pub(crate) member: StrBytes,
    pub(crate) compression: Compression,
    sequences: HashMap<(String, i32), i32>,
}

impl<L: Ask> Client<L> {
    pub(crate) async fn init(node: L, id: &str, is_modern: bool) -> Result<Self, ResponseError> {
        let id = TransactionalId(StrBytes::from_string(id.to_owned()));
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(id.clone()))
            .with_transaction_timeout_ms(60_000)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        loop {
            let answer = node.ask(4, &request).await?;
            match outcome(answer.error_code) {
                Err(ResponseError::ConcurrentTransactions) => tokio::task::yield_now().await,
                Err(error) => return Err(error),
                Ok(()) => {
                    let (producer, epoch) = (answer.producer_id.0, answer.producer_epoch);
                    return Ok(Self {
                        node,
                        id,
                        producer,
                        epoch,
                        is_modern,
                        generation: -1,
                        member: StrBytes::new(),
                        compression: Compression::None,
                        sequences: HashMap::new(),
                    });
                }
            }
        }
    }

    pub(crate) async fn add(&self, partitions: &[i32]) -> Result<(), ResponseError> {
        self.add_in("t", partitions).await
    }

    pub(crate) async fn add_in(
        &self,
        topic: &str,
        partitions: &[i32],
    ) -> Result<(), ResponseError> {
        let topic = AddPartitionsToTxnTopic::default()
            .with_name(wire_name(topic))
            .with_partitions(partitions.to_vec());
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.id.clone())
            .with_v3_and_below_producer_id(self.producer.into())
            .with_v3_and_below_producer_epoch(self.epoch)
            .with_v3_and_below_topics(vec![topic]);
        let answer = self.node.ask(3, &request).await?;
        let topics = answer.results_by_topic_v3_and_below.iter();
        topics
            .flat_map(|topic| &topic.results_by_partition)
            .try_for_each(|result| outcome(result.partition_error_code))
    }

    fn batch(&self, topic: &str, partition: i32, (time, key, value): Told<'_>) -> Bytes {
        let producer = Producer {
            id: ProducerId(self.producer),
            epoch: ProducerEpoch(self.epoch),
            base_sequence: self.sequences.get(&at(topic, partition)).copied().unwrap_or(0),
        };
        let mut builder = Builder::new(self.compression).producer(producer).transactional();
        builder.push(time, key.map(str::as_bytes), value.map(str::as_bytes));
        builder.finish().unwrap()
    }

    pub(crate) async fn produce_to(
        &mut self,
        topic: &str,
        partition: i32,
        record: Told<'_>,
    ) -> Result<(), ResponseError> {
        let data = PartitionProduceData::default()
            .with_index(partition)
            .with_records(Some(self.batch(topic, partition, record)));
        let name = wire_name(topic);
        let data = TopicProduceData::default().with_name(name).with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_transactional_id(Some(self.id.clone()))
            .with_acks(-1)
            .with_topic_data(vec![data]);
        let answer = self.node.ask(if self.is_modern { 12 } else { 11 }, &request).await?;
        outcome(answer.responses[0].partition_responses[0].error_code)?;
        *self.sequences.entry(at(topic, partition)).or_default() += 1;
        Ok(())
    }

    pub(crate) async fn add_offsets(&self, group: &str) -> Result<(), ResponseError> {
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(self.id.clone())
            .with_producer_id(self.producer.into())
            .with_producer_epoch(self.epoch)
            .with_group_id(StrBytes::from_string(group.to_owned()).into());
        outcome(self.node.ask(3, &request).await?.error_code)
    }

    pub(crate) async fn commit_offset(
        &self,
        group: &str,
        offset: i64,
    ) -> Result<(), ResponseError> {
        let at = TxnOffsetCommitRequestPartition::default().with_committed_offset(offset);
        let topic = TxnOffsetCommitRequestTopic::default()
            .with_name(wire_name("t"))
            .with_partitions(vec![at]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(self.id.clone())
            .with_group_id(StrBytes::from_string(group.to_owned()).into())
            .with_producer_id(self.producer.into())
            .with_producer_epoch(self.epoch)
            .with_generation_id(self.generation)
            .with_member_id(self.member.clone())
            .with_topics(vec![topic]);
        let answer = self.node.ask(if self.is_modern { 5 } else { 3 }, &request).await?;
        outcome(answer.topics[0].partitions[0].error_code)
    }

    pub(crate) async fn end(&mut self, marker: Marker) -> Result<(), ResponseError> {
        let request = EndTxnRequest::default()
            .with_transactional_id(self.id.clone())
            .with_producer_id(self.producer.into())
            .with_producer_epoch(self.epoch)
            .with_committed(marker == Marker::Commit);
        loop {
            let answer = self.node.ask(if self.is_modern { 5 } else { 4 }, &request).await?;
            match outcome(answer.error_code) {
                Err(ResponseError::ConcurrentTransactions) => tokio::task::yield_now().await,
                Err(error) => return Err(error),
                Ok(()) => {
                    if self.is_modern {
                        (self.producer, self.epoch) = (answer.producer_id.0, answer.producer_epoch);
                        self.sequences.clear();
                    }
                    return Ok(());
                }
            }
        }
    }
}
