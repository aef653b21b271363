//! An operator who ends transactions that seem to hang, with Kafka's tool for it.

use kafka_protocol::messages::{
    DescribeProducersRequest, WriteTxnMarkersRequest,
    describe_producers_request::TopicRequest,
    write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic},
};

use super::Client;
use crate::{producer::Ask, sim::wire_name};

/// Looks now and then, and aborts some of what is open.
pub(crate) async fn end_hanging(client: Client) {
    for _ in 0..10 {
        client.link.pause(2_500).await;
        let partition = client.partition();
        let topic = TopicRequest::default()
            .with_name(wire_name("t"))
            .with_partition_indexes(vec![partition]);
        let request = DescribeProducersRequest::default().with_topics(vec![topic]);
        let Ok(answer) = client.link.ask(0, &request).await else { continue };
        let producers = &answer.topics[0].partitions[0].active_producers;
        let open = producers.iter().filter(|producer| producer.current_txn_start_offset >= 0);
        let markers = open.filter(|_| client.below(4) == 0).map(|producer| {
            let topic = WritableTxnMarkerTopic::default()
                .with_name(wire_name("t"))
                .with_partition_indexes(vec![partition]);
            WritableTxnMarker::default()
                .with_producer_id(producer.producer_id)
                .with_producer_epoch(producer.producer_epoch as i16)
                .with_topics(vec![topic])
        });
        let request = WriteTxnMarkersRequest::default().with_markers(markers.collect());
        let _ = client.link.ask(1, &request).await;
    }
}
