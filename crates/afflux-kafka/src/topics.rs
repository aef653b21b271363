//! `CreateTopics` and `DeleteTopics`.
//!
//! As in Kafka, no two topics have names that differ only by a dot where the other has an
//! underscore: the names of metrics have no dots, so that both would be measured as one.

use std::{collections::HashMap, sync::Arc};

use afflux_log::{
    Topic, TopicSpec,
    error::TopicError,
    settings::{SETTINGS, Settings},
};
use afflux_types::{Classified, TopicName};
use kafka_protocol::{
    ResponseError,
    messages::{
        CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
        create_topics_request::CreatableTopic,
        create_topics_response::{CreatableTopicConfigs, CreatableTopicResult},
        delete_topics_request::DeleteTopicState,
        delete_topics_response::DeletableTopicResult,
    },
    protocol::StrBytes,
};

use crate::{
    broker::{
        Broker, Context, Refusal, blocking, check_changeable, once, repeated, text, to_its_end,
        wire_name,
    },
    code,
    configs::{SOURCE_DEFAULT, SOURCE_TOPIC, of_setting},
    groups::Groups,
    replicas,
};

/// The names of topics that others could collide with, by how metrics would call them.
struct Taken(HashMap<String, String>);

impl Taken {
    fn new(broker: &Broker) -> Self {
        let mut taken = Self(HashMap::new());
        for topic in broker.topics() {
            taken.add(topic.name.as_str());
        }
        taken
    }

    fn add(&mut self, name: &str) {
        if may_collide(name) {
            self.0.insert(measured(name), name.to_owned());
        }
    }

    fn check(&self, name: &str) -> Result<(), Refusal> {
        match self.0.get(&measured(name)) {
            Some(other) if other != name => {
                let message = format!(
                    "topic {name} collides with topic {other}: dots and underscores are the same \
                     in metrics; take another name"
                );
                Err((ResponseError::InvalidTopicException, message))
            }
            _ => Ok(()),
        }
    }
}

fn may_collide(name: &str) -> bool {
    name.contains(['.', '_'])
}

fn measured(name: &str) -> String {
    name.replace('.', "_")
}

/// Makes a topic for a client, one at a time, unless its name collides with that of another: whatever
/// was looked at before, there may be more by now.
pub(crate) async fn make(
    broker: &Arc<Broker>,
    spec: TopicSpec,
    settings: Settings,
) -> Result<Arc<Topic>, Refusal> {
    let making = Arc::clone(broker);
    let made = blocking(&broker.log, move |log| {
        let _held = making.naming.lock();
        let name = spec.name.as_str();
        if may_collide(name) {
            Taken::new(&making).check(name)?;
        }
        let made = log.create_topic_with(&spec, settings);
        made.map_err(|error| (code::of_topic(&error), error.to_string()))
    });
    made.await.map_err(|error| (ResponseError::UnknownServerError, error.to_string()))?
}

/// Makes topics, each by itself.
pub(crate) async fn create(
    broker: &Arc<Broker>,
    _context: &Context,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let twice = repeated(request.topics.iter().map(|topic| topic.name.clone()));
    let mut taken = Taken::new(broker);
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in once(request.topics, |topic| topic.name.clone()) {
        let result = CreatableTopicResult::default().with_name(topic.name.clone());
        let made = if twice.contains(&topic.name) {
            Err((ResponseError::InvalidRequest, "a topic can be named once".to_owned()))
        } else {
            create_one(broker, &taken, &topic, request.validate_only).await
        };
        if made.is_ok() {
            taken.add(&topic.name);
        }
        results.push(match made {
            Ok((partitions, settings, made)) => result
                .with_topic_id(made.map_or(uuid::Uuid::nil(), |topic| topic.id.0))
                .with_num_partitions(partitions)
                .with_replication_factor(1)
                .with_configs(Some(describe(&settings))),
            Err((error, message)) => result
                .with_error_code(error.code())
                .with_error_message(Some(text(&message)))
                .with_configs(None),
        });
    }
    CreateTopicsResponse::default().with_topics(results)
}

/// All settings of a new topic.
fn describe(settings: &Settings) -> Vec<CreatableTopicConfigs> {
    let entries = SETTINGS.iter().map(|setting| {
        let is_set = settings.set().contains_key(setting.name);
        CreatableTopicConfigs::default()
            .with_name(StrBytes::from_static_str(setting.name))
            .with_value(Some(text(settings.value(setting))))
            .with_config_source(if is_set { SOURCE_TOPIC } else { SOURCE_DEFAULT })
    });
    entries.collect()
}

/// What a new topic is to be set to.
fn settings_of(request: &CreatableTopic) -> Result<Settings, Refusal> {
    let mut set = Vec::with_capacity(request.configs.len());
    for config in &request.configs {
        let name = config.name.to_string();
        let Some(value) = &config.value else {
            return Err((ResponseError::InvalidConfig, format!("{name} has no value")));
        };
        set.push((name, value.to_string()));
    }
    Settings::new(set).map_err(|error| of_setting(&error))
}

/// How many partitions are assigned to nodes, if any are.
fn assigned(request: &CreatableTopic) -> Result<Option<i32>, Refusal> {
    if request.assignments.is_empty() {
        return Ok(None);
    }
    if (request.num_partitions, request.replication_factor) != (-1, -1) {
        let message = "with an assignment, the numbers of partitions and replicas are -1";
        return Err((ResponseError::InvalidRequest, message.to_owned()));
    }
    let mut partitions: Vec<i32> =
        request.assignments.iter().map(|at| at.partition_index).collect();
    partitions.sort_unstable();
    if partitions.iter().zip(0..).any(|(partition, place)| *partition != place) {
        let message = "assigned partitions are numbered from 0 on, each once".to_owned();
        return Err((ResponseError::InvalidReplicaAssignment, message));
    }
    request.assignments.iter().try_for_each(|at| replicas::check(&at.broker_ids))?;
    Ok(Some(partitions.len() as i32))
}

async fn create_one(
    broker: &Arc<Broker>,
    taken: &Taken,
    request: &CreatableTopic,
    validate_only: bool,
) -> Result<(i32, Settings, Option<Arc<Topic>>), Refusal> {
    let name = TopicName::new(&request.name).map_err(|error| {
        (
            ResponseError::InvalidTopicException,
            format!("{error}: {}", error.hint().unwrap_or_default()),
        )
    })?;
    if broker.topic(&request.name).is_some() {
        return Err((ResponseError::TopicAlreadyExists, format!("topic {name} exists already")));
    }
    check_changeable(&name)?;
    taken.check(name.as_str())?;
    let assigned = assigned(request)?;
    if !matches!(request.replication_factor, -1 | 1) {
        let message = format!("there is one node, not {}", request.replication_factor);
        return Err((ResponseError::InvalidReplicationFactor, message));
    }
    let settings = settings_of(request)?;
    let partitions = match assigned.unwrap_or(request.num_partitions) {
        -1 => broker.options.partitions,
        partitions => partitions,
    };
    // What only asks is told the same.
    let partitions_max = broker.log.options().partitions_max;
    if !(1..=partitions_max).contains(&partitions) {
        let error = TopicError::Partitions { partitions, partitions_max };
        return Err((code::of_topic(&error), error.to_string()));
    }
    if validate_only {
        return Ok((partitions, settings, None));
    }
    let topic = make(broker, TopicSpec { name, partitions }, settings).await?;
    Ok((partitions, topic.settings.clone(), Some(topic)))
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
    let what = |one: &DeleteTopicState| (one.name.clone(), one.topic_id);
    let twice = repeated(asked.iter().map(what));
    let mut results = Vec::with_capacity(asked.len());
    for one in once(asked, what) {
        let is_unclear = one.name.is_some() != one.topic_id.is_nil() || twice.contains(&what(&one));
        let DeleteTopicState { name, topic_id, .. } = one;
        if is_unclear {
            let message = text("a topic is named once, by its name or by its id");
            results.push(
                DeletableTopicResult::default()
                    .with_name(name)
                    .with_topic_id(topic_id)
                    .with_error_code(ResponseError::InvalidRequest.code())
                    .with_error_message(Some(message)),
            );
            continue;
        }
        let (topic, unknown) = match &name {
            Some(name) => (broker.topic(name), ResponseError::UnknownTopicOrPartition),
            None => (broker.topic_by_id(topic_id), ResponseError::UnknownTopicId),
        };
        let result = DeletableTopicResult::default().with_name(name).with_topic_id(topic_id);
        results.push(match topic {
            None => result.with_error_code(unknown.code()),
            Some(topic) => {
                let result =
                    result.with_name(Some(wire_name(&topic.name))).with_topic_id(topic.id.0);
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
    check_changeable(&topic.name)?;
    let (broker, name, id) = (Arc::clone(broker), topic.name.clone(), topic.id);
    to_its_end(async move {
        let _held = broker.groups.hold_commits().await;
        // Another may have deleted it meanwhile, and made one of its name.
        if broker.log.topic_by_id(id).is_none() {
            let error = ResponseError::UnknownTopicOrPartition;
            return Err((error, "the topic has just been deleted".to_owned()));
        }
        let gone = name.clone();
        match blocking(&broker.log, move |log| log.delete_topic(&gone)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err((code::of_topic(&error), error.to_string())),
            Err(error) => return Err((ResponseError::UnknownServerError, error.to_string())),
        }
        Groups::forget_topic(&broker, &name).await;
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use afflux_env::sim::Sim;

    use super::*;
    use crate::{Options, broker::tests::alone};

    #[tokio::test]
    async fn of_two_that_collide_one_is_made_though_both_come_at_once() {
        let sim = Sim::new(1);
        let broker = alone(&sim, Options::default());
        let spec = |name| TopicSpec { name: TopicName::new(name).unwrap(), partitions: 1 };
        for (one, other) in [("a.b", "a_b"), ("c_.", "c.."), ("d_", "d.")] {
            let made = [one, other].map(|name| {
                let (broker, spec) = (Arc::clone(&broker), spec(name));
                tokio::spawn(async move { make(&broker, spec, Settings::default()).await })
            });
            let mut refused = 0;
            for made in made {
                if let Err((error, _)) = made.await.unwrap() {
                    assert_eq!(error, ResponseError::InvalidTopicException);
                    refused += 1;
                }
            }
            assert_eq!(refused, 1, "{one} {other}");
        }
        assert_eq!(broker.topics().len(), 3);
    }
}
