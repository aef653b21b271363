//! Who there is and what there is: Metadata, `DescribeTopicPartitions`, `DescribeCluster`,
//! `FindCoordinator`.

use std::{collections::BTreeSet, sync::Arc};

use afflux_log::{Topic, TopicSpec, settings::Settings};
use afflux_types::TopicName;
use kafka_protocol::{
    ResponseError,
    messages::{
        DescribeClusterRequest, DescribeClusterResponse, DescribeTopicPartitionsRequest,
        DescribeTopicPartitionsResponse, FindCoordinatorRequest, FindCoordinatorResponse,
        MetadataRequest, MetadataResponse,
        describe_cluster_response::DescribeClusterBroker,
        describe_topic_partitions_response::{
            Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
        },
        find_coordinator_response::Coordinator,
        metadata_request::MetadataRequestTopic,
        metadata_response::{
            MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
        },
    },
    protocol::StrBytes,
};

use crate::{
    access,
    broker::{Broker, Context, NODE, check_changeable, is_internal, text, wire_name},
    topics,
};

/// Keys of `FindCoordinator` that are groups' names.
const GROUP_KEY: i8 = 0;
/// Keys of `FindCoordinator` that are transactional ids.
const TRANSACTION_KEY: i8 = 1;

/// Endpoints of `DescribeCluster` that are brokers.
const BROKERS: i8 = 1;
/// Endpoints of `DescribeCluster` that are controllers.
const CONTROLLERS: i8 = 2;
/// The most partitions in one answer to `DescribeTopicPartitions`: Kafka's default.
const PAGE_PARTITIONS_MAX: i32 = 2000;

/// Lists the node and the topics; makes those that are missing if that is wanted.
pub(crate) async fn answer(
    broker: &Arc<Broker>,
    context: &Context,
    request: MetadataRequest,
) -> MetadataResponse {
    // Version 0 has no null: there an empty list means all.
    let asked = request.topics.filter(|topics| context.version > 0 || !topics.is_empty());
    let create = broker.options.create_topics && request.allow_auto_topic_creation;
    let mut topics = match asked {
        None => broker.topics().iter().map(|topic| describe(broker, topic)).collect(),
        Some(asked) => {
            let mut topics = Vec::with_capacity(asked.len());
            for topic in asked {
                topics.push(if context.version < 12 && !topic.topic_id.is_nil() {
                    // Fields for ids came earlier than ids.
                    MetadataResponseTopic::default()
                        .with_name(topic.name)
                        .with_topic_id(topic.topic_id)
                        .with_error_code(ResponseError::InvalidRequest.code())
                } else {
                    look_up(broker, topic, create).await
                });
            }
            topics
        }
    };
    if request.include_topic_authorized_operations {
        for topic in &mut topics {
            topic.topic_authorized_operations = access::TOPIC.told(true);
        }
    }
    let node = MetadataResponseBroker::default()
        .with_node_id(NODE)
        .with_host(broker.host.clone())
        .with_port(broker.port);
    MetadataResponse::default()
        .with_brokers(vec![node])
        .with_cluster_id(Some(text(&broker.options.cluster_id)))
        .with_controller_id(NODE)
        .with_cluster_authorized_operations(
            access::CLUSTER.told(request.include_cluster_authorized_operations),
        )
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
        Ok(legal) if create && check_changeable(&legal).is_ok() => {
            match make(broker, legal).await {
                Ok(topic) => return describe(broker, &topic),
                Err(error) => error,
            }
        }
        Ok(_) => ResponseError::UnknownTopicOrPartition,
    };
    MetadataResponseTopic::default().with_name(Some(name)).with_error_code(error.code())
}

/// Makes a topic that somebody asked for by using it.
async fn make(broker: &Arc<Broker>, name: TopicName) -> Result<Arc<Topic>, ResponseError> {
    let spec = TopicSpec { name: name.clone(), partitions: broker.options.partitions };
    match topics::make(broker, spec, Settings::default()).await {
        Ok(topic) => Ok(topic),
        // Somebody else was faster, which is as good.
        Err((ResponseError::TopicAlreadyExists, _)) => {
            broker.log.topic(&name).ok_or(ResponseError::UnknownTopicOrPartition)
        }
        Err((error, reason)) => {
            tracing::warn!(reason, "a topic could not be made");
            Err(error)
        }
    }
}

fn describe(broker: &Broker, topic: &Topic) -> MetadataResponseTopic {
    let epoch = broker.leader_epoch();
    let partitions = (0..topic.partitions).map(|index| {
        MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_leader_id(NODE)
            .with_leader_epoch(epoch)
            .with_replica_nodes(vec![NODE])
            .with_isr_nodes(vec![NODE])
    });
    MetadataResponseTopic::default()
        .with_name(Some(wire_name(&topic.name)))
        .with_is_internal(is_internal(&topic.name))
        .with_topic_id(topic.id.0)
        .with_partitions(partitions.collect())
}

/// Describes topics by name, all if none is named, a page at a time.
pub(crate) fn describe_partitions(
    broker: &Arc<Broker>,
    _context: &Context,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let is_all = request.topics.is_empty();
    let named: BTreeSet<StrBytes> = if is_all {
        broker.topics().iter().map(|topic| text(topic.name.as_str())).collect()
    } else {
        request.topics.into_iter().map(|topic| topic.name.0).collect()
    };
    let (first, from) = request.cursor.map_or((StrBytes::new(), 0), |cursor| {
        (cursor.topic_name.0, cursor.partition_index.max(0))
    });
    if !is_all && !first.is_empty() && !named.contains(&first) {
        let refused = named.into_iter().map(|name| {
            DescribeTopicPartitionsResponseTopic::default()
                .with_name(Some(name.into()))
                .with_error_code(ResponseError::InvalidRequest.code())
        });
        return DescribeTopicPartitionsResponse::default().with_topics(refused.collect());
    }
    let mut room = request.response_partition_limit.clamp(1, PAGE_PARTITIONS_MAX);
    let epoch = broker.leader_epoch();
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in named.range(first.clone()..) {
        let from = if *name == first { from } else { 0 };
        let cursor = |partition: i32| {
            let at = Cursor::default().with_topic_name(name.clone().into());
            Some(at.with_partition_index(partition))
        };
        if room == 0 {
            response.next_cursor = cursor(0);
            break;
        }
        let found = DescribeTopicPartitionsResponseTopic::default()
            .with_name(Some(name.clone().into()))
            .with_topic_authorized_operations(access::TOPIC.told(true));
        let topic = match broker.known_topic(name) {
            Ok(topic) => topic,
            Err((error, _)) => {
                response.topics.push(found.with_error_code(error.code()));
                continue;
            }
        };
        let to = topic.partitions.min(from.saturating_add(room));
        let partitions = (from..to).map(|index| {
            // Java's client takes no null where nothing is known of replicas.
            DescribeTopicPartitionsResponsePartition::default()
                .with_eligible_leader_replicas(Some(Vec::new()))
                .with_last_known_elr(Some(Vec::new()))
                .with_partition_index(index)
                .with_leader_id(NODE)
                .with_leader_epoch(epoch)
                .with_replica_nodes(vec![NODE])
                .with_isr_nodes(vec![NODE])
        });
        let found = found.with_topic_id(topic.id.0).with_is_internal(is_internal(&topic.name));
        response.topics.push(found.with_partitions(partitions.collect()));
        room -= (to - from).max(0);
        if to < topic.partitions {
            response.next_cursor = cursor(to);
            break;
        }
    }
    response
}

/// Describes the cluster, which is this node. There are no controllers to be asked instead.
pub(crate) fn describe_cluster(
    broker: &Arc<Broker>,
    _context: &Context,
    DescribeClusterRequest {
        endpoint_type, include_cluster_authorized_operations: is_asked, ..
    }: DescribeClusterRequest,
) -> DescribeClusterResponse {
    let response = DescribeClusterResponse::default();
    let refused = match endpoint_type {
        BROKERS => None,
        CONTROLLERS => Some(ResponseError::MismatchedEndpointType),
        _ => Some(ResponseError::UnsupportedEndpointType),
    };
    if let Some(error) = refused {
        let message = StrBytes::from_static_str("this is where clients of brokers connect");
        return response.with_error_code(error.code()).with_error_message(Some(message));
    }
    let node = DescribeClusterBroker::default()
        .with_broker_id(NODE)
        .with_host(broker.host.clone())
        .with_port(broker.port);
    response
        .with_cluster_id(text(&broker.options.cluster_id))
        .with_controller_id(NODE)
        .with_cluster_authorized_operations(access::CLUSTER.told(is_asked))
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
