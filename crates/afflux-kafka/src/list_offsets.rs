//! `ListOffsets`: where a partition begins and ends, and what was when.

use std::sync::Arc;

use afflux_log::{EmbeddedLog, Isolation, Log as _, error::ReadError};
use afflux_types::{Offset, Timestamp, TopicPartition};
use kafka_protocol::{
    ResponseError,
    messages::{
        ListOffsetsRequest, ListOffsetsResponse,
        list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
    },
};

use crate::{
    broker::{Broker, Context, blocking, once, repeated},
    code,
};

/// Instead of a time: the end.
const LATEST: i64 = -1;
/// Instead of a time: the beginning.
const EARLIEST: i64 = -2;
/// Instead of a time: the record with the latest timestamp.
const MAX_TIMESTAMP: i64 = -3;
/// Instead of a time: the beginning of what is on this node, which is everything.
const EARLIEST_LOCAL: i64 = -4;
/// Instead of a time: the end of what was moved elsewhere, which is nothing.
const LATEST_TIERED: i64 = -5;

/// Answers each partition by itself.
pub(crate) async fn answer(
    broker: &Arc<Broker>,
    context: &Context,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let isolation = isolation(request.isolation_level);
    let epoch = if context.version >= 4 { broker.leader_epoch() } else { -1 };
    let mut topics = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let topic = broker.topic(&asked.name);
        let twice = repeated(asked.partitions.iter().map(|at| at.partition_index));
        let mut partitions = Vec::with_capacity(asked.partitions.len());
        for at in once(asked.partitions, |at| at.partition_index) {
            let found = match &topic {
                _ if twice.contains(&at.partition_index) => Err(ResponseError::InvalidRequest),
                None => Err(ResponseError::UnknownTopicOrPartition),
                Some(topic) => {
                    let partition = TopicPartition::new(topic.name.clone(), at.partition_index);
                    let epoch = broker.check_epoch(at.current_leader_epoch);
                    let wanted = (at.timestamp, epoch);
                    find(&broker.log, partition, wanted, isolation).await
                }
            };
            let response =
                ListOffsetsPartitionResponse::default().with_partition_index(at.partition_index);
            partitions.push(match found {
                Ok(Some((offset, time))) => response
                    .with_offset(offset.0)
                    .with_timestamp(time.map_or(-1, |time| time.0))
                    .with_leader_epoch(epoch),
                Ok(None) => response,
                Err(error) => response.with_error_code(error.code()),
            });
        }
        topics.push(
            ListOffsetsTopicResponse::default().with_name(asked.name).with_partitions(partitions),
        );
    }
    ListOffsetsResponse::default().with_topics(topics)
}

/// What a client may see.
pub(crate) fn isolation(level: i8) -> Isolation {
    if level == 1 { Isolation::Committed } else { Isolation::Uncommitted }
}

/// An offset, and the time of the record there if a record was looked for.
type Found = Option<(Offset, Option<Timestamp>)>;

async fn find(
    log: &Arc<EmbeddedLog>,
    partition: TopicPartition,
    (wanted, epoch): (i64, Result<(), ResponseError>),
    isolation: Isolation,
) -> Result<Found, ResponseError> {
    // Looking for a time reads the disk.
    match blocking(log, move |log| look(log, &partition, wanted, isolation)).await {
        Ok(Ok(found)) => epoch.and(found),
        Ok(Err(error)) => Err(code::of_read(&error)),
        Err(_) => Err(ResponseError::UnknownServerError),
    }
}

fn look(
    log: &EmbeddedLog,
    partition: &TopicPartition,
    wanted: i64,
    isolation: Isolation,
) -> Result<Result<Found, ResponseError>, ReadError> {
    let bounds = log.bounds(partition)?;
    let end = bounds.shown(isolation);
    let record = |found: Option<(Offset, Timestamp)>| {
        found.filter(|(offset, _)| *offset < end).map(|(offset, time)| (offset, Some(time)))
    };
    Ok(Ok(match wanted {
        LATEST => Some((end, None)),
        EARLIEST | EARLIEST_LOCAL => Some((bounds.start, None)),
        LATEST_TIERED => None,
        MAX_TIMESTAMP => record(latest_time(log, partition)?),
        time if time >= 0 => record(log.offset_at(partition, Timestamp(time))?),
        _ => return Ok(Err(ResponseError::UnsupportedVersion)),
    }))
}

/// The first record with the latest timestamp of all. The log finds the first one at or after a
/// time; so the latest time is between one at which there is a record and one at which there is
/// none, and each look at least halves what is between them.
fn latest_time(
    log: &EmbeddedLog,
    partition: &TopicPartition,
) -> Result<Option<(Offset, Timestamp)>, ReadError> {
    let Some(mut latest) = log.offset_at(partition, Timestamp::MIN)? else { return Ok(None) };
    let mut behind = i64::MAX;
    while latest.1.0 < behind - 1 {
        let between = latest.1.0.midpoint(behind).max(latest.1.0 + 1);
        match log.offset_at(partition, Timestamp(between))? {
            Some(later) => latest = later,
            None => behind = between,
        }
    }
    Ok(Some(latest))
}
