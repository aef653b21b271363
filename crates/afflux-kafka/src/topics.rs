//! `CreateTopics` and `DeleteTopics`.

use std::sync::Arc;

use afflux_log::{Topic, TopicSpec};
use afflux_types::{Classified, TopicName};
use kafka_protocol::{
    ResponseError,
    messages::{
        CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
        TopicName as WireTopicName, create_topics_request::CreatableTopic,
        create_topics_response::CreatableTopicResult, delete_topics_request::DeleteTopicState,
        delete_topics_response::DeletableTopicResult,
    },
};

use crate::{
    broker::{Broker, Context, is_hidden, text},
    code,
    groups::Groups,
};

type Refusal = (ResponseError, String);

/// Makes topics, each by itself.
pub(crate) async fn create(
    broker: &Arc<Broker>,
    _context: &Context,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let result = CreatableTopicResult::default().with_name(topic.name.clone());
        results.push(match create_one(broker, &topic, request.validate_only).await {
            Ok((partitions, made)) => result
                .with_topic_id(made.map_or(uuid::Uuid::nil(), |topic| topic.id.0))
                .with_num_partitions(partitions)
                .with_replication_factor(1),
            Err((error, message)) => result
                .with_error_code(error.code())
                .with_error_message(Some(text(&message)))
                .with_configs(None),
        });
    }
    CreateTopicsResponse::default().with_topics(results)
}

async fn create_one(
    broker: &Arc<Broker>,
    request: &CreatableTopic,
    validate_only: bool,
) -> Result<(i32, Option<Arc<Topic>>), Refusal> {
    let name = TopicName::new(&request.name).map_err(|error| {
        (
            ResponseError::InvalidTopicException,
            format!("{error}: {}", error.hint().unwrap_or_default()),
        )
    })?;
    if is_hidden(&name) {
        let message = format!("names that begin with {} are Afflux's", TopicName::INTERNAL_PREFIX);
        return Err((ResponseError::InvalidTopicException, message));
    }
    if !request.assignments.is_empty() {
        let message = "there is one node: leave the assignment of replicas out".to_owned();
        return Err((ResponseError::InvalidReplicaAssignment, message));
    }
    if !matches!(request.replication_factor, -1 | 1) {
        let message = format!("there is one node, not {}", request.replication_factor);
        return Err((ResponseError::InvalidReplicationFactor, message));
    }
    if let Some(config) = request.configs.first() {
        let message = format!("topics have no setting {} in this version of Afflux", &*config.name);
        return Err((ResponseError::InvalidConfig, message));
    }
    let partitions = match request.num_partitions {
        -1 => broker.options.partitions,
        partitions => partitions,
    };
    if partitions < 1 {
        let message = format!("a topic has at least one partition, not {partitions}");
        return Err((ResponseError::InvalidPartitions, message));
    }
    if broker.topic(&request.name).is_some() {
        return Err((ResponseError::TopicAlreadyExists, format!("topic {name} exists already")));
    }
    if validate_only {
        return Ok((partitions, None));
    }
    let log = Arc::clone(&broker.log);
    let made =
        tokio::task::spawn_blocking(move || log.create_topic(&TopicSpec { name, partitions }));
    match made.await {
        Ok(Ok(topic)) => Ok((partitions, Some(topic))),
        Ok(Err(error)) => Err((code::of_topic(&error), error.to_string())),
        Err(error) => Err((ResponseError::UnknownServerError, error.to_string())),
    }
}

/// Removes topics, each by itself, and with each what groups committed for it.
pub(crate) async fn delete(
    broker: &Arc<Broker>,
    context: &Context,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let asked: Vec<DeleteTopicState> = if context.version >= 6 {
        request.topics
    } else {
        let by_name = |name| DeleteTopicState::default().with_name(Some(name));
        request.topic_names.into_iter().map(by_name).collect()
    };
    let mut results = Vec::with_capacity(asked.len());
    for DeleteTopicState { name, topic_id, .. } in asked {
        let (topic, unknown) = match &name {
            Some(name) => (broker.topic(name), ResponseError::UnknownTopicOrPartition),
            None => (broker.topic_by_id(topic_id), ResponseError::UnknownTopicId),
        };
        let result = DeletableTopicResult::default().with_name(name).with_topic_id(topic_id);
        results.push(match topic {
            None => result.with_error_code(unknown.code()),
            Some(topic) => {
                let result = result
                    .with_name(Some(WireTopicName(text(topic.name.as_str()))))
                    .with_topic_id(topic.id.0);
                match delete_one(broker, &topic).await {
                    Ok(()) => result,
                    Err((error, message)) => result
                        .with_error_code(error.code())
                        .with_error_message(Some(text(&message))),
                }
            }
        });
    }
    DeleteTopicsResponse::default().with_responses(results)
}

/// Comes to its end, also if its client does not wait for that.
async fn delete_one(broker: &Arc<Broker>, topic: &Topic) -> Result<(), Refusal> {
    let (broker, name) = (Arc::clone(broker), topic.name.clone());
    let deleting = tokio::spawn(async move {
        let _held = broker.groups.hold_commits().await;
        let (log, gone) = (Arc::clone(&broker.log), name.clone());
        match tokio::task::spawn_blocking(move || log.delete_topic(&gone)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err((code::of_topic(&error), error.to_string())),
            Err(error) => return Err((ResponseError::UnknownServerError, error.to_string())),
        }
        Groups::forget_topics(&broker, |topic| *topic == name).await.map_err(|error| {
            (error, "the topic is gone, but not what groups committed for it".into())
        })
    });
    deleting.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
