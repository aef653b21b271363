//! Requests as the simplest client sends them.

use afflux_record::{Compression, batch::Builder};
use afflux_types::Timestamp;
use bytes::Bytes;
use kafka_protocol::{
    messages::{
        CreateTopicsRequest, FetchRequest, ProduceRequest, TopicName,
        create_topics_request::CreatableTopic,
        fetch_request::{FetchPartition, FetchTopic},
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::StrBytes,
};

use crate::client::Client;

/// A topic's name.
pub(crate) fn name(name: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(name))
}

/// A batch of these values, not packed.
pub(crate) fn batch(values: &[&str]) -> Bytes {
    let mut builder = Builder::new(Compression::None);
    for value in values {
        builder.push(Timestamp(1), None, Some(value.as_bytes()));
    }
    builder.finish().unwrap()
}

/// A request that brings a partition a batch.
pub(crate) fn produce(topic: &'static str, partition: i32, records: Bytes) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(records));
    let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(-1).with_timeout_ms(1_000).with_topic_data(vec![topic])
}

/// A request for what a partition has from an offset on, with so many milliseconds to wait for it.
pub(crate) fn fetch(topic: &'static str, partition: i32, from: i64, wait: i32) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(from)
        .with_partition_max_bytes(1 << 20);
    FetchRequest::default()
        .with_max_wait_ms(wait)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_topics(vec![
            FetchTopic::default().with_topic(name(topic)).with_partitions(vec![partition]),
        ])
}

/// Makes a topic of two partitions.
pub(crate) fn create(client: &mut Client, topic: &'static str) -> uuid::Uuid {
    let topic = CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(2)
        .with_replication_factor(-1);
    let response = client.call(7, &CreateTopicsRequest::default().with_topics(vec![topic]));
    assert_eq!(response.topics[0].error_code, 0);
    response.topics[0].topic_id
}
