//! Who there is and what there is: Metadata, `DescribeCluster`, `FindCoordinator`.

use std::sync::Arc;

use afflux_log::{Topic, TopicSpec, error::TopicError};
use afflux_types::TopicName;
use kafka_protocol::{
    ResponseError,
    messages::{
        DescribeClusterRequest, DescribeClusterResponse, FindCoordinatorRequest,
        FindCoordinatorResponse, MetadataRequest, MetadataResponse, TopicName as WireTopicName,
        describe_cluster_response::DescribeClusterBroker,
        find_coordinator_response::Coordinator,
        metadata_request::MetadataRequestTopic,
        metadata_response::{
            MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
        },
    },
    protocol::StrBytes,
};

use crate::{
    broker::{Broker, Context, NODE, is_hidden, text},
    code,
    produce::leader_epoch,
};

/// Keys of `FindCoordinator` that are groups' names.
const GROUP_KEY: i8 = 0;
/// Keys of `FindCoordinator` that are transactional ids.
const TRANSACTION_KEY: i8 = 1;

/// Lists the node and the topics; makes those that are missing if that is wanted.
pub(crate) async fn answer(
    broker: &Arc<Broker>,
    context: &Context,
    request: MetadataRequest,
) -> MetadataResponse {
    // Version 0 has no null: there an empty list means all.
    let asked = request.topics.filter(|topics| context.version > 0 || !topics.is_empty());
    let create = broker.options.create_topics && request.allow_auto_topic_creation;
    let topics = match asked {
        None => broker.topics().iter().map(|topic| describe(broker, topic)).collect(),
        Some(asked) => {
            let mut topics = Vec::with_capacity(asked.len());
            for topic in asked {
                topics.push(look_up(broker, topic, create).await);
            }
            topics
        }
    };
    let node = MetadataResponseBroker::default()
        .with_node_id(NODE)
        .with_host(broker.host.clone())
        .with_port(broker.port);
    MetadataResponse::default()
        .with_brokers(vec![node])
        .with_cluster_id(Some(text(&broker.options.cluster_id)))
        .with_controller_id(NODE)
        .with_topics(topics)
}

async fn look_up(
    broker: &Arc<Broker>,
    asked: MetadataRequestTopic,
    create: bool,
) -> MetadataResponseTopic {
    let Some(name) = asked.name else {
        return match broker.topic_by_id(asked.topic_id) {
            Some(topic) => describe(broker, &topic),
            None => MetadataResponseTopic::default()
                .with_topic_id(asked.topic_id)
                .with_name(None)
                .with_error_code(ResponseError::UnknownTopicId.code()),
        };
    };
    if let Some(topic) = broker.topic(&name) {
        return describe(broker, &topic);
    }
    let error = match TopicName::new(&name) {
        Err(_) => ResponseError::InvalidTopicException,
        Ok(legal) if create && !is_hidden(&legal) => match make(broker, legal).await {
            Ok(topic) => return describe(broker, &topic),
            Err(error) => error,
        },
        Ok(_) => ResponseError::UnknownTopicOrPartition,
    };
    MetadataResponseTopic::default().with_name(Some(name)).with_error_code(error.code())
}

/// Makes a topic that somebody asked for by using it.
async fn make(broker: &Arc<Broker>, name: TopicName) -> Result<Arc<Topic>, ResponseError> {
    let partitions = broker.options.partitions;
    let log = Arc::clone(&broker.log);
    let made = tokio::task::spawn_blocking(move || {
        match log.create_topic(&TopicSpec { name: name.clone(), partitions }) {
            Ok(topic) => Ok(Some(topic)),
            // Somebody else was faster, which is as good.
            Err(TopicError::Exists(_)) => Ok(log.topic(&name)),
            Err(error) => Err(error),
        }
    });
    match made.await {
        Ok(Ok(Some(topic))) => Ok(topic),
        Ok(Ok(None)) => Err(ResponseError::UnknownTopicOrPartition),
        Ok(Err(error)) => {
            tracing::warn!(%error, "a topic could not be made");
            Err(code::of_topic(&error))
        }
        Err(_) => Err(ResponseError::UnknownServerError),
    }
}

fn describe(broker: &Broker, topic: &Topic) -> MetadataResponseTopic {
    let epoch = leader_epoch(broker);
    let partitions = (0..topic.partitions).map(|index| {
        MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_leader_id(NODE)
            .with_leader_epoch(epoch)
            .with_replica_nodes(vec![NODE])
            .with_isr_nodes(vec![NODE])
    });
    MetadataResponseTopic::default()
        .with_name(Some(WireTopicName(text(topic.name.as_str()))))
        .with_topic_id(topic.id.0)
        .with_partitions(partitions.collect())
}

/// Describes the cluster, which is this node.
pub(crate) fn describe_cluster(
    broker: &Arc<Broker>,
    _context: &Context,
    _request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    let node = DescribeClusterBroker::default()
        .with_broker_id(NODE)
        .with_host(broker.host.clone())
        .with_port(broker.port);
    DescribeClusterResponse::default()
        .with_cluster_id(text(&broker.options.cluster_id))
        .with_controller_id(NODE)
        .with_brokers(vec![node])
}

/// Says who coordinates a group or a transactional id: this node.
pub(crate) fn find_coordinator(
    broker: &Arc<Broker>,
    context: &Context,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let error = match request.key_type {
        GROUP_KEY | TRANSACTION_KEY => None,
        _ => Some((ResponseError::InvalidRequest, "keys of this kind have no coordinator")),
    };
    let number = error.map_or(0, |(error, _)| error.code());
    let message = error.map(|(_, message)| StrBytes::from_static_str(message));
    if context.version < 4 {
        let response = FindCoordinatorResponse::default();
        return match error {
            Some(_) => response
                .with_error_code(number)
                .with_error_message(message)
                .with_node_id((-1).into())
                .with_port(-1),
            None => {
                response.with_node_id(NODE).with_host(broker.host.clone()).with_port(broker.port)
            }
        };
    }
    let coordinators = request.coordinator_keys.into_iter().map(|key| {
        let coordinator = Coordinator::default().with_key(key);
        match error {
            Some(_) => coordinator
                .with_error_code(number)
                .with_error_message(message.clone())
                .with_node_id((-1).into())
                .with_port(-1),
            None => {
                coordinator.with_node_id(NODE).with_host(broker.host.clone()).with_port(broker.port)
            }
        }
    });
    FindCoordinatorResponse::default().with_coordinators(coordinators.collect())
}
