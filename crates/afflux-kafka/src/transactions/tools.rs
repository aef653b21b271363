//! Requests of tools: who is in which transaction, and the end of one that hangs.

use std::sync::Arc;

use afflux_log::error::ReadError;
use afflux_record::Marker;
use afflux_types::{ProducerId, TopicPartition};
use kafka_protocol::{
    ResponseError,
    messages::{
        DescribeProducersRequest, DescribeProducersResponse, DescribeTransactionsRequest,
        DescribeTransactionsResponse, ListTransactionsRequest, ListTransactionsResponse,
        ProducerId as WireProducerId, TopicName as WireTopicName,
        TransactionalId as WireTransactionalId, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
        describe_producers_response::{PartitionResponse, ProducerState, TopicResponse},
        describe_transactions_response::{TopicData, TransactionState},
        list_transactions_response::TransactionState as ListedTransaction,
        write_txn_markers_response::{
            WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
        },
    },
    protocol::StrBytes,
};

use super::{Transactions, depart, mark, now, settle};
use crate::{
    broker::{Broker, Context, text, to_its_end},
    code,
    group::consumer::compile,
    transaction::{Facts, Identity},
};

/// All states of a transaction that Kafka has names for.
const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];

impl Transactions {
    /// `DescribeTransactions`.
    pub(crate) fn describe(
        broker: &Arc<Broker>,
        _context: &Context,
        request: DescribeTransactionsRequest,
    ) -> DescribeTransactionsResponse {
        let coordinator = broker.transactions.coordinator.lock();
        let states = request.transactional_ids.into_iter().map(|id| {
            let found = coordinator.describe(&id).map(|(facts, state)| described(facts, state));
            let missing = if id.is_empty() {
                ResponseError::InvalidRequest
            } else {
                ResponseError::TransactionalIdNotFound
            };
            let state = found
                .unwrap_or_else(|| TransactionState::default().with_error_code(missing.code()));
            state.with_transactional_id(id)
        });
        DescribeTransactionsResponse::default().with_transaction_states(states.collect())
    }

    /// `ListTransactions`.
    pub(crate) fn list(
        broker: &Arc<Broker>,
        context: &Context,
        request: ListTransactionsRequest,
    ) -> ListTransactionsResponse {
        let is_known = |state: &&StrBytes| STATES.contains(&&***state);
        let unknown = request.state_filters.iter().filter(|state| !is_known(state));
        let response = ListTransactionsResponse::default()
            .with_unknown_state_filters(unknown.cloned().collect());
        let pattern = request.transactional_id_pattern.filter(|pattern| !pattern.is_empty());
        let Ok(pattern) = pattern.as_deref().map(compile).transpose() else {
            return response.with_error_code(ResponseError::InvalidRegularExpression.code());
        };
        let now = broker.env.clock.now();
        let least = u128::try_from(request.duration_filter).ok().filter(|_| context.version >= 1);
        let runs_for =
            |facts: &Facts| facts.started.map_or(0, |begun| now.since(begun).as_millis());
        let coordinator = broker.transactions.coordinator.lock();
        let wanted = coordinator.list().filter(|(id, facts, state)| {
            let ids = &request.producer_id_filters;
            let states = &request.state_filters;
            (ids.is_empty() || ids.iter().any(|id| id.0 == facts.producer.id))
                && (states.is_empty() || states.iter().any(|wanted| &**wanted == *state))
                && least.is_none_or(|least| runs_for(facts) > least)
                && pattern.as_ref().is_none_or(|pattern| pattern.is_match(id))
        });
        let listed = wanted.map(|(id, facts, state)| {
            ListedTransaction::default()
                .with_transactional_id(WireTransactionalId(text(id)))
                .with_producer_id(WireProducerId(facts.producer.id))
                .with_transaction_state(StrBytes::from_static_str(state))
        });
        let mut listed: Vec<_> = listed.collect();
        listed.sort_by(|a, b| a.transactional_id.cmp(&b.transactional_id));
        response.with_transaction_states(listed)
    }

    /// `DescribeProducers`.
    pub(crate) fn describe_producers(
        broker: &Arc<Broker>,
        _context: &Context,
        request: DescribeProducersRequest,
    ) -> DescribeProducersResponse {
        let topics = request.topics.into_iter().map(|asked| {
            let topic = broker.topic(&asked.name);
            let partitions = asked.partition_indexes.iter().map(|index| {
                let response = PartitionResponse::default().with_partition_index(*index);
                let unknown = ResponseError::UnknownTopicOrPartition;
                let found = topic.as_ref().ok_or(unknown).and_then(|topic| {
                    let partition = TopicPartition::new(topic.name.clone(), *index);
                    active(broker, &partition).map_err(|error| code::of_read(&error))
                });
                match found {
                    Ok(producers) => response.with_active_producers(producers),
                    Err(error) => response.with_error_code(error.code()),
                }
            });
            let partitions = partitions.collect();
            TopicResponse::default().with_name(asked.name).with_partitions(partitions)
        });
        DescribeProducersResponse::default().with_topics(topics.collect())
    }

    /// `WriteTxnMarkers`: ends what hangs. A transaction that its client may still end is aborted
    /// whole, and its producer fenced. Once begun it comes to its end.
    pub(crate) async fn write_markers(
        broker: &Arc<Broker>,
        _context: &Context,
        request: WriteTxnMarkersRequest,
    ) -> WriteTxnMarkersResponse {
        let broker = Arc::clone(broker);
        to_its_end(async move {
            let mut results = Vec::with_capacity(request.markers.len());
            for asked in request.markers {
                let who = Identity { id: asked.producer_id.0, epoch: asked.producer_epoch };
                let marker = if asked.transaction_result { Marker::Commit } else { Marker::Abort };
                let mut topics = Vec::with_capacity(asked.topics.len());
                for topic in asked.topics {
                    let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
                    for index in topic.partition_indexes {
                        let outcome = end_one(&broker, marker, who, &topic.name, index).await;
                        partitions.push(
                            WritableTxnMarkerPartitionResult::default()
                                .with_partition_index(index)
                                .with_error_code(code::number(&outcome)),
                        );
                    }
                    topics.push(
                        WritableTxnMarkerTopicResult::default()
                            .with_name(topic.name)
                            .with_partitions(partitions),
                    );
                }
                let result = WritableTxnMarkerResult::default().with_producer_id(asked.producer_id);
                results.push(result.with_topics(topics));
            }
            WriteTxnMarkersResponse::default().with_markers(results)
        })
        .await
    }
}

fn described(facts: &Facts, state: &'static str) -> TransactionState {
    let mut topics: Vec<TopicData> = Vec::new();
    for at in &facts.partitions {
        let topic = at.topic.as_str();
        match topics.last_mut().filter(|last| &**last.topic == topic) {
            Some(last) => last.partitions.push(at.partition.0),
            None => topics.push(
                TopicData::default()
                    .with_topic(WireTopicName(text(topic)))
                    .with_partitions(vec![at.partition.0]),
            ),
        }
    }
    TransactionState::default()
        .with_transaction_state(StrBytes::from_static_str(state))
        .with_transaction_timeout_ms(i32::try_from(facts.timeout.as_millis()).unwrap_or(i32::MAX))
        .with_transaction_start_time_ms(facts.started.map_or(-1, |started| started.0))
        .with_producer_id(WireProducerId(facts.producer.id))
        .with_producer_epoch(facts.producer.epoch)
        .with_topics(topics)
}

fn active(broker: &Broker, partition: &TopicPartition) -> Result<Vec<ProducerState>, ReadError> {
    let producers = broker.log.producers(partition)?.into_iter().map(|state| {
        ProducerState::default()
            .with_producer_id(WireProducerId(state.id.0))
            .with_producer_epoch(i32::from(state.epoch.0))
            .with_last_sequence(state.last_sequence.unwrap_or(-1))
            .with_last_timestamp(state.time.0)
            .with_coordinator_epoch(-1)
            .with_current_txn_start_offset(state.open_from.map_or(-1, |offset| offset.0))
    });
    Ok(producers.collect())
}

/// Ends a producer's transaction in a partition, if it has one open there.
async fn end_one(
    broker: &Arc<Broker>,
    marker: Marker,
    who: Identity,
    topic: &str,
    index: i32,
) -> Result<(), ResponseError> {
    let topic = broker.topic(topic).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let partition = TopicPartition::new(topic.name.clone(), index);
    let producers = broker.log.producers(&partition).map_err(|error| code::of_read(&error))?;
    let state = producers.into_iter().find(|state| state.id == ProducerId(who.id));
    let Some(state) = state.filter(|state| state.open_from.is_some()) else { return Ok(()) };
    if who.epoch < state.epoch.0 {
        return Err(ResponseError::InvalidProducerEpoch);
    }
    let _begun = broker.groups.begin_commit().await;
    let departed = {
        let mut coordinator = broker.transactions.coordinator.lock();
        if marker == Marker::Commit && coordinator.has_open(who.id) {
            // It would commit a part of it.
            return Err(ResponseError::InvalidTxnState);
        }
        coordinator.abort(now(&broker.env), who.id)?.map(|end| depart(broker, end))
    };
    match departed {
        Some(departed) => settle(broker, departed).await.map(drop),
        None => mark(broker, marker, who, &partition).await,
    }
}
