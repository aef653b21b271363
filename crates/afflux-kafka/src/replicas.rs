//! Replicas and their leaders: `ElectLeaders`, `AlterPartitionReassignments`,
//! `ListPartitionReassignments`.
//!
//! There is one node, which holds and leads every partition. So what asks for that is done already,
//! anything else is refused, and nothing is ever under way.

use std::sync::Arc;

use kafka_protocol::{
    ResponseError,
    messages::{
        AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, BrokerId,
        ElectLeadersRequest, ElectLeadersResponse, ListPartitionReassignmentsRequest,
        ListPartitionReassignmentsResponse,
        alter_partition_reassignments_response::{
            ReassignablePartitionResponse, ReassignableTopicResponse,
        },
        elect_leaders_response::{PartitionResult, ReplicaElectionResult},
    },
};

use crate::broker::{Broker, Context, NODE, Refusal, text};

/// Whether a partition can be on these nodes.
pub(crate) fn check(nodes: &[BrokerId]) -> Result<(), Refusal> {
    if nodes == [NODE] {
        return Ok(());
    }
    let nodes: Vec<i32> = nodes.iter().map(|node| node.0).collect();
    let message = format!("replicas can be on node {} alone, not on {nodes:?}", NODE.0);
    Err((ResponseError::InvalidReplicaAssignment, message))
}

/// Whether there is such a partition.
fn find(broker: &Broker, topic: &str, index: i32) -> Result<(), Refusal> {
    let topic = broker.known_topic(topic)?;
    if (0..topic.partitions).contains(&index) {
        return Ok(());
    }
    let message = format!("topic {} has no partition {index}", topic.name);
    Err((ResponseError::UnknownTopicOrPartition, message))
}

/// Elects the leaders that there are. Those of all partitions need no answer, as in Kafka.
pub(crate) fn elect(
    broker: &Arc<Broker>,
    context: &Context,
    request: ElectLeadersRequest,
) -> ElectLeadersResponse {
    let is_known = context.version == 0 || (0..=1).contains(&request.election_type);
    let refused = (!is_known)
        .then(|| (ResponseError::InvalidRequest, "there is no such kind of election".to_owned()));
    let results = request.topic_partitions.unwrap_or_default().into_iter().map(|asked| {
        let partitions = asked.partitions.into_iter().map(|index| {
            let leads = || (ResponseError::ElectionNotNeeded, "the one node leads it".to_owned());
            let found = || find(broker, &asked.topic, index).err();
            let (error, message) = refused.clone().or_else(found).unwrap_or_else(leads);
            PartitionResult::default()
                .with_partition_id(index)
                .with_error_code(error.code())
                .with_error_message(Some(text(&message)))
        });
        let partitions = partitions.collect();
        ReplicaElectionResult::default().with_topic(asked.topic).with_partition_result(partitions)
    });
    ElectLeadersResponse::default()
        .with_replica_election_results(results.collect())
        .with_error_code(refused.map_or(0, |(error, _)| error.code()))
}

/// Moves partitions to where they are.
pub(crate) fn reassign(
    broker: &Arc<Broker>,
    _context: &Context,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let responses = request.topics.into_iter().map(|asked| {
        let partitions = asked.partitions.into_iter().map(|at| {
            let none = || (ResponseError::NoReassignmentInProgress, "it is not moving".to_owned());
            let done = find(broker, &asked.name, at.partition_index)
                .and_then(|()| check(&at.replicas.ok_or_else(none)?));
            let response =
                ReassignablePartitionResponse::default().with_partition_index(at.partition_index);
            match done {
                Ok(()) => response,
                Err((error, message)) => {
                    response.with_error_code(error.code()).with_error_message(Some(text(&message)))
                }
            }
        });
        let partitions = partitions.collect();
        ReassignableTopicResponse::default().with_name(asked.name).with_partitions(partitions)
    });
    AlterPartitionReassignmentsResponse::default()
        .with_allow_replication_factor_change(request.allow_replication_factor_change)
        .with_responses(responses.collect())
}

/// Lists partitions that are moving: none.
pub(crate) fn list_reassignments(
    _broker: &Arc<Broker>,
    _context: &Context,
    _request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse::default()
}
