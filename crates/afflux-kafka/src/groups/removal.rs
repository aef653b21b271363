//! `DeleteGroups` and `OffsetDelete`: groups and commits that nobody needs any more.
//!
//! Each comes to its end, also if its client does not wait for that, and holds back commits
//! meanwhile: what it takes back stays so.

use std::{collections::BTreeSet, sync::Arc};

use afflux_types::TopicPartition;
use kafka_protocol::{
    ResponseError,
    messages::{
        DeleteGroupsRequest, DeleteGroupsResponse, OffsetDeleteRequest, OffsetDeleteResponse,
        delete_groups_response::DeletableGroupResult,
        offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic},
    },
};

use super::{Groups, shared};
use crate::{
    broker::{Broker, Context, once, to_its_end},
    code,
    group::{Answer, GroupId},
};

impl Groups {
    /// `DeleteGroups`: each by itself.
    pub(crate) async fn delete(
        broker: &Arc<Broker>,
        _context: &Context,
        request: DeleteGroupsRequest,
    ) -> DeleteGroupsResponse {
        let mut results = Vec::with_capacity(request.groups_names.len());
        for id in once(request.groups_names, Clone::clone) {
            let (broker, group) = (Arc::clone(broker), shared(&id));
            let deleting = async move { Self::delete_one(&broker, &group).await };
            let outcome = to_its_end(deleting).await;
            results.push(
                DeletableGroupResult::default()
                    .with_group_id(id)
                    .with_error_code(code::number(&outcome)),
            );
        }
        DeleteGroupsResponse::default().with_results(results)
    }

    /// Where a group has committed offsets; also those of open transactions, which would count when
    /// they end.
    fn places(&self, group: &GroupId) -> BTreeSet<TopicPartition> {
        let pending = self.pending.lock();
        let coming = pending.all().filter(|(of, ..)| of == group).map(|(_, at, _)| at);
        let offsets = self.offsets.read();
        offsets.all(group).map(|(at, _)| at).chain(coming).cloned().collect()
    }

    async fn delete_one(broker: &Arc<Broker>, group: &GroupId) -> Result<(), ResponseError> {
        let _held = broker.groups.hold_commits().await;
        let ending = broker.groups.ask(|coordinator, token| vec![coordinator.end(token, group)]);
        let Some(Answer::Ended(outcome)) = ending.await else {
            return Err(ResponseError::UnknownServerError);
        };
        let was_there = outcome?;
        let standing: Vec<_> =
            broker.groups.places(group).into_iter().map(|at| (group.clone(), at, None)).collect();
        if !was_there && standing.is_empty() {
            return Err(ResponseError::GroupIdNotFound);
        }
        Self::write(broker, standing).await
    }

    /// `OffsetDelete`: what a group committed for topics that its members no longer want.
    pub(crate) async fn delete_offsets(
        broker: &Arc<Broker>,
        _context: &Context,
        request: OffsetDeleteRequest,
    ) -> OffsetDeleteResponse {
        let broker = Arc::clone(broker);
        let deleting = async move { Self::delete_some(&broker, request).await };
        let outcome = to_its_end(deleting).await;
        outcome
            .unwrap_or_else(|error| OffsetDeleteResponse::default().with_error_code(error.code()))
    }

    async fn delete_some(
        broker: &Arc<Broker>,
        request: OffsetDeleteRequest,
    ) -> Result<OffsetDeleteResponse, ResponseError> {
        let group = shared(&request.group_id);
        if group.is_empty() {
            return Err(ResponseError::InvalidGroupId);
        }
        let _held = broker.groups.hold_commits().await;
        let mut taken_back = Vec::new();
        let mut topics = Vec::with_capacity(request.topics.len());
        {
            let inner = broker.groups.inner.lock();
            let places = broker.groups.places(&group);
            if !inner.coordinator.knows(&group) && places.is_empty() {
                return Err(ResponseError::GroupIdNotFound);
            }
            for topic in request.topics {
                let known = broker.topic(&topic.name);
                let is_wanted = inner.coordinator.wants(&group, &topic.name)?;
                let partitions = topic.partitions.iter().map(|at| {
                    let outcome = match &known {
                        Some(known) if (0..known.partitions).contains(&at.partition_index) => {
                            let partition =
                                TopicPartition::new(known.name.clone(), at.partition_index);
                            if is_wanted {
                                Err(ResponseError::GroupSubscribedToTopic)
                            } else {
                                if places.contains(&partition) {
                                    taken_back.push((group.clone(), partition, None));
                                }
                                Ok(())
                            }
                        }
                        _ => Err(ResponseError::UnknownTopicOrPartition),
                    };
                    OffsetDeleteResponsePartition::default()
                        .with_partition_index(at.partition_index)
                        .with_error_code(code::number(&outcome))
                });
                let partitions = partitions.collect();
                topics.push(
                    OffsetDeleteResponseTopic::default()
                        .with_name(topic.name)
                        .with_partitions(partitions),
                );
            }
        }
        Self::write(broker, taken_back).await?;
        Ok(OffsetDeleteResponse::default().with_topics(topics))
    }
}
