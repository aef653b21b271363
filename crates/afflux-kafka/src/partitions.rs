//! What is asked of single partitions: `CreatePartitions`, `DeleteRecords`,
//! `OffsetForLeaderEpoch`, `DescribeLogDirs`.
//!
//! Each topic or partition of a request succeeds or fails by itself. Here is only what Kafka calls
//! things; what happens is in `afflux_log` (`grow_topic`, `trim_all`, `epoch_end`).

use std::sync::Arc;

use afflux_env::Room;
use afflux_log::{EpochEnd, Log as _, Topic, settings::setting};
use afflux_types::{LeaderEpoch, Offset, TopicPartition};
use kafka_protocol::{
    ResponseError,
    messages::{
        CreatePartitionsRequest, CreatePartitionsResponse, DeleteRecordsRequest,
        DeleteRecordsResponse, DescribeLogDirsRequest, DescribeLogDirsResponse,
        OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
        create_partitions_request::CreatePartitionsTopic,
        create_partitions_response::CreatePartitionsTopicResult,
        delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult},
        describe_log_dirs_response::{
            DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
        },
        offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult},
    },
};

use crate::{
    broker::{Broker, Context, Refusal, blocking, once, repeated, text, wire_name},
    code, replicas,
};

/// Instead of an offset: all that is durable.
const ALL: i64 = -1;
/// No epoch, no offset.
const NONE: i32 = -1;

/// Gives topics more partitions.
pub(crate) async fn create(
    broker: &Arc<Broker>,
    _context: &Context,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let twice = repeated(request.topics.iter().map(|topic| topic.name.clone()));
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in once(request.topics, |topic| topic.name.clone()) {
        let grown = if twice.contains(&topic.name) {
            Err((ResponseError::InvalidRequest, "a topic can be named once".to_owned()))
        } else {
            grow(broker, &topic, request.validate_only).await
        };
        let result = CreatePartitionsTopicResult::default().with_name(topic.name);
        results.push(match grown {
            Ok(()) => result,
            Err((error, message)) => {
                result.with_error_code(error.code()).with_error_message(Some(text(&message)))
            }
        });
    }
    CreatePartitionsResponse::default().with_results(results)
}

async fn grow(
    broker: &Arc<Broker>,
    asked: &CreatePartitionsTopic,
    validate_only: bool,
) -> Result<(), Refusal> {
    let topic = broker.changeable_topic(&asked.name)?;
    let (has, count) = (topic.partitions, asked.count);
    let most = broker.log.options().partitions_max;
    if count <= has || count > most {
        let message = format!(
            "the topic has {has} partitions: more than that, up to {most}, can be asked for, not {count}"
        );
        return Err((ResponseError::InvalidPartitions, message));
    }
    if let Some(assignments) = &asked.assignments {
        if assignments.len() as i64 != i64::from(count - has) {
            let message =
                format!("{} new partitions, but {} assignments", count - has, assignments.len());
            return Err((ResponseError::InvalidReplicaAssignment, message));
        }
        assignments.iter().try_for_each(|replicas| replicas::check(&replicas.broker_ids))?;
    }
    if validate_only {
        return Ok(());
    }
    match blocking(&broker.log, move |log| log.grow_topic(&topic.name, count)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err((code::of_topic(&error), error.to_string())),
        Err(error) => Err((ResponseError::UnknownServerError, error.to_string())),
    }
}

/// Whether a topic drops old records, whatever compaction keeps.
fn drops_records(topic: &Topic) -> bool {
    let drops = |policy| topic.settings.value(policy).split(',').any(|part| part == "delete");
    setting("cleanup.policy").is_some_and(drops)
}

/// Drops the records of partitions below offsets. All of a request go with one sync.
pub(crate) async fn delete_records(
    broker: &Arc<Broker>,
    _context: &Context,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let mut wanted = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let topic = broker.changeable_topic(&asked.name);
        let mut found = Vec::with_capacity(asked.partitions.len());
        for at in asked.partitions {
            let before = topic.as_ref().map_err(|(error, _)| *error).and_then(|topic| {
                let partition = TopicPartition::new(topic.name.clone(), at.partition_index);
                let bounds =
                    broker.log.bounds(&partition).map_err(|error| code::of_read(&error))?;
                let before = if at.offset == ALL { bounds.durable } else { Offset(at.offset) };
                if !drops_records(topic) {
                    return Err(ResponseError::PolicyViolation);
                }
                if before < Offset::ZERO {
                    return Err(ResponseError::OffsetOutOfRange);
                }
                Ok((partition, before))
            });
            found.push((
                at.partition_index,
                before.map(|before| {
                    wanted.push(before);
                    wanted.len() - 1
                }),
            ));
        }
        topics.push((asked.name, found));
    }
    let trimmed = blocking(&broker.log, move |log| log.trim_all(&wanted)).await;
    let begins = |place: usize| match &trimmed {
        Ok(outcomes) => outcomes[place].as_ref().map_err(code::of_trim).copied(),
        Err(_) => Err(ResponseError::UnknownServerError),
    };
    let topics = topics.into_iter().map(|(name, found)| {
        let partitions = found.into_iter().map(|(index, place)| {
            let outcome = place.and_then(begins);
            DeleteRecordsPartitionResult::default()
                .with_partition_index(index)
                .with_low_watermark(outcome.map_or(-1, |start| start.0))
                .with_error_code(code::number(&outcome))
        });
        DeleteRecordsTopicResult::default().with_name(name).with_partitions(partitions.collect())
    });
    DeleteRecordsResponse::default().with_topics(topics.collect())
}

/// Says where the records of leader epochs end. A client whose node came back asks, to learn
/// whether what it has read is still so. It is: nobody is shown what is not durable.
pub(crate) async fn epoch_ends(
    broker: &Arc<Broker>,
    _context: &Context,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let topic = broker.topic(&asked.topic);
        let mut partitions = Vec::with_capacity(asked.partitions.len());
        for at in asked.partitions {
            let epochs = (at.current_leader_epoch, at.leader_epoch);
            let found = epoch_end(broker, topic.as_deref(), at.partition, epochs).await;
            let (epoch, end) = match found {
                Ok(Some(EpochEnd { epoch, end })) => (epoch.0, end.0),
                _ => (NONE, i64::from(NONE)),
            };
            partitions.push(
                EpochEndOffset::default()
                    .with_partition(at.partition)
                    .with_error_code(code::number(&found))
                    .with_leader_epoch(epoch)
                    .with_end_offset(end),
            );
        }
        topics.push(
            OffsetForLeaderTopicResult::default()
                .with_topic(asked.topic)
                .with_partitions(partitions),
        );
    }
    OffsetForLeaderEpochResponse::default().with_topics(topics)
}

async fn epoch_end(
    broker: &Arc<Broker>,
    topic: Option<&Topic>,
    index: i32,
    (current, asked): (i32, i32),
) -> Result<Option<EpochEnd>, ResponseError> {
    let topic = topic.ok_or(ResponseError::UnknownTopicOrPartition)?;
    let partition = TopicPartition::new(topic.name.clone(), index);
    broker.check_epoch(current)?;
    // What is asked of the past reads the disk.
    match blocking(&broker.log, move |log| log.epoch_end(&partition, LeaderEpoch(asked))).await {
        Ok(found) => found.map_err(|error| code::of_read(&error)),
        Err(_) => Err(ResponseError::UnknownServerError),
    }
}

/// Says how much there is of partitions, and where: in the journal, one for all.
pub(crate) async fn log_dirs(
    broker: &Arc<Broker>,
    _context: &Context,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let asked: Vec<(Arc<Topic>, Vec<i32>)> = match request.topics {
        None => broker
            .topics()
            .into_iter()
            .map(|topic| {
                let partitions = (0..topic.partitions).collect();
                (topic, partitions)
            })
            .collect(),
        Some(asked) => asked
            .into_iter()
            .filter_map(|asked| Some((broker.topic(&asked.topic)?, asked.partitions)))
            .collect(),
    };
    let looking = blocking(&broker.log, move |log| {
        let topics = asked.into_iter().map(|(topic, partitions)| {
            let sizes = partitions.into_iter().filter_map(|index| {
                let partition = TopicPartition::new(topic.name.clone(), index);
                let bytes = log.partition_bytes(&partition).ok()?;
                let found = DescribeLogDirsPartition::default().with_partition_index(index);
                Some(found.with_partition_size(bytes as i64))
            });
            let name = wire_name(&topic.name);
            DescribeLogDirsTopic::default().with_name(name).with_partitions(sizes.collect())
        });
        let room = log.room();
        let bytes = |of: fn(&Room) -> u64| room.as_ref().map_or(-1, |room| of(room) as i64);
        DescribeLogDirsResult::default()
            .with_log_dir(text(&log.dir().display().to_string()))
            .with_topics(topics.collect())
            .with_total_bytes(bytes(|room| room.total))
            .with_usable_bytes(bytes(|room| room.free))
    });
    match looking.await {
        Ok(result) => DescribeLogDirsResponse::default().with_results(vec![result]),
        Err(_) => DescribeLogDirsResponse::default()
            .with_error_code(ResponseError::UnknownServerError.code()),
    }
}
