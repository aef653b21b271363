//! Who keeps topics: it makes and deletes them, deletes their first records and gives them
//! partitions while others are at it. And a group that commits for topics that come and go.

use std::sync::atomic::Ordering;

use kafka_protocol::{
    ResponseError,
    messages::{
        CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
        ListOffsetsRequest, MetadataRequest, OffsetCommitRequest,
        create_partitions_request::CreatePartitionsTopic,
        create_topics_request::{CreatableTopic, CreatableTopicConfig},
        delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
        delete_topics_request::DeleteTopicState,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
        metadata_request::MetadataRequestTopic,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
    },
    protocol::StrBytes,
};

use super::Client;
use crate::{
    history::{Commit, Deed, Kind, Look, Outcome, Topic, What},
    producer::{Ask, outcome},
    sim::wire_name,
};

/// The name of topics that come and go.
pub(crate) const PASSING: &str = "passing";
/// The topic of which only the last few bytes are kept.
pub(crate) const RETAINED: &str = "retained";
/// The topic of which the last record of each key is kept.
pub(crate) const COMPACTED: &str = "compacted";
/// Who commits for what comes and goes.
const GROUP: &str = "g-passing";

/// Set for all topics: what times records have does not matter to how long they stay.
pub(crate) const TIMELESS: [(&str, &str); 2] =
    [("retention.ms", "-1"), ("message.timestamp.after.max.ms", "9223372036854775807")];

/// What is set for topics of a name.
fn settings(name: &str) -> Vec<(&'static str, &'static str)> {
    let mut all = TIMELESS.to_vec();
    all.extend_from_slice(match name {
        RETAINED => &[("retention.bytes", "9000")],
        COMPACTED => &[
            ("cleanup.policy", "compact"),
            ("min.cleanable.dirty.ratio", "0"),
            ("delete.retention.ms", "100"),
        ],
        _ => &[],
    });
    all
}

/// What becomes of topics of a name.
pub(crate) fn kind(name: &str) -> Kind {
    match name {
        RETAINED => Kind::Retained,
        COMPACTED => Kind::Compacted,
        _ => Kind::Passing,
    }
}

/// The topic that has a name, and how many partitions it has.
pub(crate) async fn look_up(
    client: &Client,
    name: &str,
) -> Result<Option<(Topic, i32)>, ResponseError> {
    let topic = MetadataRequestTopic::default().with_name(Some(wire_name(name)));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![topic]))
        .with_allow_auto_topic_creation(false);
    let answer = client.link.ask(12, &request).await?;
    let topic = &answer.topics[0];
    match outcome(topic.error_code) {
        Ok(()) => {
            client.diary.history.lock().kinds.insert(topic.topic_id, kind(name));
            Ok(Some((topic.topic_id, topic.partitions.len() as i32)))
        }
        Err(ResponseError::UnknownTopicOrPartition) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where a partition begins.
pub(crate) async fn start_of(
    client: &Client,
    name: &str,
    partition: i32,
) -> Result<i64, ResponseError> {
    Ok(list(client, (name, partition), -2, false).await?.0)
}

/// The offset that Kafka finds for a time, and the time of the record there.
pub(super) async fn list(
    client: &Client,
    (name, partition): (&str, i32),
    time: i64,
    is_committed: bool,
) -> Result<(i64, i64), ResponseError> {
    let at = ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(time);
    let topic = ListOffsetsTopic::default().with_name(wire_name(name)).with_partitions(vec![at]);
    let request = ListOffsetsRequest::default()
        .with_isolation_level(i8::from(is_committed))
        .with_topics(vec![topic]);
    let answer = client.link.ask(7, &request).await?;
    let at = &answer.topics[0].partitions[0];
    outcome(at.error_code).map(|()| (at.offset, at.timestamp))
}

/// Makes a topic if it is not there, and does this and that to it if that is its lot.
pub(crate) async fn keep(client: Client, name: &'static str) {
    for _ in 0..40 {
        let Ok(found) = look_up(&client, name).await else {
            client.link.pause(100).await;
            continue;
        };
        let Some((topic, partitions)) = found else {
            make(&client, name).await;
            continue;
        };
        if kind(name) != Kind::Passing {
            break;
        }
        client.link.pause(400).await;
        match client.below(8) {
            0 | 1 => delete(&client, topic).await,
            2 => grow(&client, topic, partitions + 1 + client.below(2) as i32).await,
            3..6 => trim(&client, topic, client.below(partitions as u64) as i32).await,
            _ => {}
        }
    }
}

/// Notes down what was done.
async fn note(
    client: &Client,
    topic: Topic,
    what: What,
    asking: impl Future<Output = Result<(), ResponseError>>,
) {
    let begun = client.diary.now();
    let idles = client.diary.idles.load(Ordering::SeqCst) && !matches!(what, What::Grow(_));
    let told = if idles { Ok(()) } else { asking.await };
    let ended = client.diary.now();
    let outcome = match told {
        Ok(()) => Outcome::Done(()),
        Err(
            ResponseError::UnknownTopicId
            | ResponseError::UnknownTopicOrPartition
            | ResponseError::OffsetOutOfRange
            | ResponseError::InvalidPartitions,
        ) => Outcome::Refused,
        Err(_) => Outcome::Unknown,
    };
    client.diary.history.lock().deeds.push(Deed { topic, what, begun, ended, outcome });
}

async fn make(client: &Client, name: &str) {
    let config = |(name, value)| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_static_str(name))
            .with_value(Some(StrBytes::from_static_str(value)))
    };
    let partitions = 1 + client.below(3) as i32;
    let topic = CreatableTopic::default()
        .with_name(wire_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
        .with_configs(settings(name).into_iter().map(config).collect());
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(1_000);
    let begun = client.diary.now();
    let Ok(answer) = client.link.ask(7, &request).await else { return };
    if outcome(answer.topics[0].error_code).is_ok() {
        let (topic, ended) = (answer.topics[0].topic_id, client.diary.now());
        let (what, outcome) = (What::Grow(partitions), Outcome::Done(()));
        let mut history = client.diary.history.lock();
        history.kinds.insert(topic, kind(name));
        history.deeds.push(Deed { topic, what, begun, ended, outcome });
    }
}

async fn delete(client: &Client, topic: Topic) {
    let state = DeleteTopicState::default();
    let state = if client.below(2) == 0 {
        state.with_name(Some(wire_name(PASSING)))
    } else {
        state.with_name(None).with_topic_id(topic)
    };
    let request = DeleteTopicsRequest::default().with_topics(vec![state]).with_timeout_ms(1_000);
    let asking = async { outcome(client.link.ask(6, &request).await?.responses[0].error_code) };
    note(client, topic, What::Delete, asking).await;
}

async fn grow(client: &Client, topic: Topic, count: i32) {
    let asked = CreatePartitionsTopic::default()
        .with_name(wire_name(PASSING))
        .with_count(count)
        .with_assignments(None);
    let request =
        CreatePartitionsRequest::default().with_topics(vec![asked]).with_timeout_ms(1_000);
    let asking = async { outcome(client.link.ask(3, &request).await?.results[0].error_code) };
    note(client, topic, What::Grow(count), asking).await;
}

async fn trim(client: &Client, topic: Topic, partition: i32) {
    let before = client.below(40) as i64;
    let at = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(before);
    let asked =
        DeleteRecordsTopic::default().with_name(wire_name(PASSING)).with_partitions(vec![at]);
    let request = DeleteRecordsRequest::default().with_topics(vec![asked]).with_timeout_ms(1_000);
    let asking = async {
        let answer = client.link.ask(2, &request).await?;
        outcome(answer.topics[0].partitions[0].error_code)
    };
    note(client, topic, What::Trim(partition, before), asking).await;
}

/// Commits for whichever topic has the name, as nobody's member, and looks where that stands.
pub(crate) async fn commit_for(client: Client) {
    for _ in 0..40 {
        client.link.pause(200).await;
        let begun = client.diary.now();
        if client.below(2) == 0 {
            let Ok(offset) = client.standing_in(PASSING, GROUP, 0).await else { continue };
            let (group, ended) = (GROUP.to_owned(), client.diary.now());
            let look = Look { group, partition: 0, offset, begun, ended };
            client.diary.history.lock().passing_looks.push(look);
            continue;
        }
        let offset = client.diary.number() as i64;
        let at = OffsetCommitRequestPartition::default()
            .with_partition_index(0)
            .with_committed_offset(offset);
        let topic = OffsetCommitRequestTopic::default()
            .with_name(wire_name(PASSING))
            .with_partitions(vec![at]);
        let request = OffsetCommitRequest::default()
            .with_group_id(StrBytes::from_static_str(GROUP).into())
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        let answer = client.link.ask(7, &request).await;
        let told = answer.and_then(|answer| outcome(answer.topics[0].partitions[0].error_code));
        let outcome = match told {
            Ok(()) => Outcome::Done(()),
            Err(ResponseError::UnknownTopicOrPartition) => Outcome::Refused,
            Err(_) => Outcome::Unknown,
        };
        let (group, ended) = (GROUP.to_owned(), client.diary.now());
        let commit = Commit { group, partition: 0, offset, begun, ended, outcome };
        client.diary.history.lock().passing_commits.push(commit);
    }
}
