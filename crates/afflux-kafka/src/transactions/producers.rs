//! Requests of producers: who they are, what is in their transactions, how those end.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use afflux_log::{Entry, Group, Log as _, Ticket};
use afflux_record::Marker;
use afflux_types::TopicPartition;
use kafka_protocol::{
    ResponseError,
    messages::{
        AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest,
        AddPartitionsToTxnResponse, EndTxnRequest, EndTxnResponse, InitProducerIdRequest,
        InitProducerIdResponse, ProducerId as WireProducerId,
        add_partitions_to_txn_request::{AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction},
        add_partitions_to_txn_response::{
            AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult,
            AddPartitionsToTxnTopicResult,
        },
    },
};

use super::{Departed, Transactions, append_state, depart, now, of_state, settle};
use crate::{
    broker::{Broker, Context, blocking, to_its_end},
    code,
    groups::{Groups, offsets_partition},
    transaction::{EPOCH_BUMP, Ending, Identity, Init, TransactionalId},
};

/// The version of Produce that adds its partitions by itself.
const ADDING_PRODUCE: i16 = 12;
/// The first version of Produce whose clients know that a transaction may have to be aborted.
const ABORTABLE_PRODUCE: i16 = 11;
/// The same of `AddPartitionsToTxn`.
const ABORTABLE_ADD: i16 = 5;
/// The same of `AddOffsetsToTxn`.
const ABORTABLE_ADD_OFFSETS: i16 = 4;
/// The version of `EndTxn` that raises the epoch.
const BUMPING_END: i16 = 5;

/// Under what a transactional batch comes.
#[derive(Debug, Clone)]
pub(crate) struct Writing {
    /// Whose it is.
    pub(crate) id: TransactionalId,
    /// Whether the request adds its partitions by itself.
    pub(crate) is_adding: bool,
    /// Whether its client knows that a transaction may have to be aborted.
    pub(crate) knows_abortable: bool,
}

impl Writing {
    /// As a Produce request of a version.
    pub(crate) fn produce(id: TransactionalId, version: i16) -> Self {
        let (is_adding, knows_abortable) =
            (version >= ADDING_PRODUCE, version >= ABORTABLE_PRODUCE);
        Self { id, is_adding, knows_abortable }
    }
}

impl Transactions {
    /// Hands a batch of a transaction to the log, if it is part of one that is open. `taken` is
    /// called then, before the transaction can end.
    pub(crate) fn append(
        &self,
        broker: &Broker,
        writing: &Writing,
        who: Identity,
        entry: Entry,
        taken: impl FnOnce(),
    ) -> Result<Ticket, ResponseError> {
        let partitions = std::slice::from_ref(&entry.partition);
        let mut coordinator = self.coordinator.lock();
        let allowed = if writing.is_adding {
            coordinator.add(now(&broker.env), &writing.id, who, partitions, true)
        } else {
            coordinator.verify(&writing.id, who, &entry.partition).map(|()| None)
        };
        let record = allowed.map_err(|error| match error {
            ResponseError::ProducerFenced => ResponseError::InvalidProducerEpoch,
            ResponseError::TransactionAbortable if !writing.knows_abortable => {
                ResponseError::InvalidTxnState
            }
            ResponseError::PolicyViolation => too_many(&writing.id, writing.knows_abortable),
            // What older clients know how to try again.
            ResponseError::ConcurrentTransactions => ResponseError::NotEnoughReplicas,
            error => error,
        })?;
        if let Some(facts) = record {
            // Not waited for: what is open is known by the batch, too.
            let _ = append_state(broker, &writing.id, Some(&facts));
        }
        taken();
        Ok(broker.log.append(&Group { entries: vec![entry] }))
    }

    /// `InitProducerId`. Once begun it comes to its end.
    pub(crate) async fn init_producer_id(
        broker: &Arc<Broker>,
        context: &Context,
        request: InitProducerIdRequest,
    ) -> InitProducerIdResponse {
        let (broker, version) = (Arc::clone(broker), context.version);
        let outcome = to_its_end(async move { init(&broker, request).await }).await;
        let response = InitProducerIdResponse::default();
        match outcome {
            Ok(who) => {
                response.with_producer_id(WireProducerId(who.id)).with_producer_epoch(who.epoch)
            }
            Err(error) => response
                .with_error_code(older(error, version >= 4).code())
                .with_producer_id(WireProducerId(-1))
                .with_producer_epoch(-1),
        }
    }

    /// `AddPartitionsToTxn`, for one transaction or for many.
    pub(crate) async fn add_partitions(
        broker: &Arc<Broker>,
        context: &Context,
        request: AddPartitionsToTxnRequest,
    ) -> AddPartitionsToTxnResponse {
        if context.version >= 4 {
            let mut results = Vec::with_capacity(request.transactions.len());
            for transaction in request.transactions {
                let topics = add_one(broker, &transaction, context.version).await;
                results.push(
                    AddPartitionsToTxnResult::default()
                        .with_transactional_id(transaction.transactional_id)
                        .with_topic_results(topics),
                );
            }
            return AddPartitionsToTxnResponse::default().with_results_by_transaction(results);
        }
        let transaction = AddPartitionsToTxnTransaction::default()
            .with_transactional_id(request.v3_and_below_transactional_id)
            .with_producer_id(request.v3_and_below_producer_id)
            .with_producer_epoch(request.v3_and_below_producer_epoch)
            .with_topics(request.v3_and_below_topics);
        let topics = add_one(broker, &transaction, context.version).await;
        AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(topics)
    }

    /// `AddOffsetsToTxn`.
    pub(crate) async fn add_offsets(
        broker: &Arc<Broker>,
        context: &Context,
        request: AddOffsetsToTxnRequest,
    ) -> AddOffsetsToTxnResponse {
        let id = TransactionalId::from(&**request.transactional_id);
        let who = Identity { id: request.producer_id.0, epoch: request.producer_epoch };
        let added = async {
            let partition = Groups::ensure_offsets(broker).await?;
            let knows_abortable = context.version >= ABORTABLE_ADD_OFFSETS;
            add(broker, &id, who, &[partition], knows_abortable).await
        };
        let outcome = added.await.map_err(|error| older(error, context.version >= 2));
        AddOffsetsToTxnResponse::default().with_error_code(code::number(&outcome))
    }

    /// `EndTxn`. Once begun it comes to its end.
    pub(crate) async fn end(
        broker: &Arc<Broker>,
        context: &Context,
        request: EndTxnRequest,
    ) -> EndTxnResponse {
        let (broker, version) = (Arc::clone(broker), context.version);
        let outcome = to_its_end(async move { end(&broker, version, request).await }).await;
        let response = EndTxnResponse::default();
        match outcome {
            Ok(who) if version >= BUMPING_END => {
                response.with_producer_id(WireProducerId(who.id)).with_producer_epoch(who.epoch)
            }
            Ok(_) => response,
            Err(error) => response
                .with_error_code(older(error, version >= 2).code())
                .with_producer_id(WireProducerId(-1))
                .with_producer_epoch(-1),
        }
    }
}

/// Older clients know another word for it.
fn older(error: ResponseError, is_new: bool) -> ResponseError {
    match error {
        ResponseError::ProducerFenced if !is_new => ResponseError::InvalidProducerEpoch,
        error => error,
    }
}

/// A transaction would have more partitions than can be ended at once: its client has to abort it.
/// To try again would be no use, and clients that do not know the first word abort at the other.
fn too_many(id: &TransactionalId, knows_abortable: bool) -> ResponseError {
    tracing::warn!(
        id = &**id,
        "a transaction has as many partitions as can be ended in one write, and gets no more: its \
         client has to write to fewer partitions in a transaction"
    );
    if knows_abortable {
        ResponseError::TransactionAbortable
    } else {
        ResponseError::PolicyViolation
    }
}

async fn fresh_producer(broker: &Arc<Broker>) -> Result<i64, ResponseError> {
    match blocking(&broker.log, |log| log.next_producer_id()).await {
        Ok(Ok(id)) => Ok(id.0),
        Ok(Err(error)) => Err(of_state(&error)),
        Err(_) => Err(ResponseError::UnknownServerError),
    }
}

/// What a decision of the coordinator needs next, now that its lock is let go.
enum Next {
    Producer,
    Written(Identity, Ticket),
    Departed(Departed),
}

async fn init(
    broker: &Arc<Broker>,
    request: InitProducerIdRequest,
) -> Result<Identity, ResponseError> {
    let Some(id) = &request.transactional_id else {
        return Ok(Identity { id: fresh_producer(broker).await?, epoch: 0 });
    };
    let id = TransactionalId::from(&***id);
    let expected = Identity { id: request.producer_id.0, epoch: request.producer_epoch };
    let expected = match (expected.id >= 0, expected.epoch >= 0) {
        (true, true) => Some(expected),
        (false, false) => None,
        _ => return Err(ResponseError::InvalidRequest),
    };
    let timeout = u64::try_from(request.transaction_timeout_ms).unwrap_or(0);
    let timeout = Duration::from_millis(timeout);
    Transactions::ensure_topic(broker).await?;
    let _begun = broker.groups.begin_commit().await;
    let mut fresh = None;
    loop {
        let next = {
            let mut coordinator = broker.transactions.coordinator.lock();
            match coordinator.init(now(&broker.env), &id, timeout, expected, fresh)? {
                Init::NeedsProducer => Next::Producer,
                Init::Write(facts) => match append_state(broker, &id, Some(&facts)) {
                    Ok(ticket) => Next::Written(facts.producer, ticket),
                    Err(error) => {
                        coordinator.settle(now(&broker.env), &id, false);
                        return Err(error);
                    }
                },
                Init::Abort(end) => Next::Departed(depart(broker, end)),
            }
        };
        match next {
            Next::Producer => fresh = Some(fresh_producer(broker).await?),
            Next::Departed(departed) => {
                settle(broker, departed).await?;
            }
            Next::Written(who, ticket) => {
                let written = ticket.await;
                let mut coordinator = broker.transactions.coordinator.lock();
                coordinator.settle(now(&broker.env), &id, written.is_ok());
                return written.map(|_| who).map_err(|error| of_state(&error));
            }
        }
    }
}

async fn end(
    broker: &Arc<Broker>,
    version: i16,
    request: EndTxnRequest,
) -> Result<Identity, ResponseError> {
    let id = TransactionalId::from(&**request.transactional_id);
    let who = Identity { id: request.producer_id.0, epoch: request.producer_epoch };
    let marker = if request.committed { Marker::Commit } else { Marker::Abort };
    let speaks = if version >= BUMPING_END { EPOCH_BUMP } else { 0 };
    let _begun = broker.groups.begin_commit().await;
    let mut fresh = None;
    loop {
        let departed = {
            let mut coordinator = broker.transactions.coordinator.lock();
            match coordinator.end(now(&broker.env), &id, who, marker, speaks, fresh)? {
                Ending::NeedsProducer => None,
                Ending::Already(who) => return Ok(who),
                Ending::Write(end) => Some(depart(broker, end)),
            }
        };
        match departed {
            Some(departed) => return settle(broker, departed).await,
            None => fresh = Some(fresh_producer(broker).await?),
        }
    }
}

/// Adds partitions for one transaction; how that went for each.
async fn add_one(
    broker: &Arc<Broker>,
    request: &AddPartitionsToTxnTransaction,
    version: i16,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let id = TransactionalId::from(&**request.transactional_id);
    let who = Identity { id: request.producer_id.0, epoch: request.producer_epoch };
    let unknown: BTreeSet<(&str, i32)> = request
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|index| (&**topic.name, *index)))
        .filter(|(topic, index)| partition(broker, topic, *index).is_none())
        .collect();
    let wanted: Vec<TopicPartition> = request
        .topics
        .iter()
        .flat_map(|topic| {
            topic.partitions.iter().filter_map(|index| partition(broker, &topic.name, *index))
        })
        .collect();
    let outcome = if !unknown.is_empty() {
        // All or none.
        Err(ResponseError::OperationNotAttempted)
    } else if request.verify_only {
        let coordinator = broker.transactions.coordinator.lock();
        return answer(&request.topics, |topic, index| {
            let partition = partition(broker, topic, index);
            partition.map_or(Ok(()), |partition| coordinator.verify(&id, who, &partition))
        });
    } else {
        add(broker, &id, who, &wanted, version >= ABORTABLE_ADD).await
    };
    let outcome = outcome.map_err(|error| older(error, version >= 2));
    answer(&request.topics, |topic, index| {
        if unknown.contains(&(topic, index)) {
            return Err(ResponseError::UnknownTopicOrPartition);
        }
        outcome
    })
}

fn answer(
    topics: &[AddPartitionsToTxnTopic],
    outcome: impl Fn(&str, i32) -> Result<(), ResponseError>,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let topics = topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|index| {
            AddPartitionsToTxnPartitionResult::default()
                .with_partition_index(*index)
                .with_partition_error_code(code::number(&outcome(&topic.name, *index)))
        });
        AddPartitionsToTxnTopicResult::default()
            .with_name(topic.name.clone())
            .with_results_by_partition(partitions.collect())
    });
    topics.collect()
}

/// A partition that clients may write to; that of committed offsets is one, in a transaction.
fn partition(broker: &Broker, topic: &str, index: i32) -> Option<TopicPartition> {
    let name = match broker.topic(topic) {
        Some(topic) => topic.name.clone(),
        None => offsets_partition().map(|at| at.topic).filter(|name| name.as_str() == topic)?,
    };
    let count = broker.log.partition_count(&name)?;
    (0..count).contains(&index).then(|| TopicPartition::new(name, index))
}

/// Adds partitions; answers once that is durable.
async fn add(
    broker: &Arc<Broker>,
    id: &TransactionalId,
    who: Identity,
    partitions: &[TopicPartition],
    knows_abortable: bool,
) -> Result<(), ResponseError> {
    let written = {
        let mut coordinator = broker.transactions.coordinator.lock();
        let added = coordinator.add(now(&broker.env), id, who, partitions, false);
        let record = added.map_err(|error| match error {
            ResponseError::PolicyViolation => too_many(id, knows_abortable),
            error => error,
        })?;
        let Some(facts) = record else { return Ok(()) };
        append_state(broker, id, Some(&facts))
    };
    let outcome = match written {
        Ok(ticket) => ticket.await.map(drop).map_err(|error| of_state(&error)),
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        broker.transactions.coordinator.lock().unsaved(id);
    }
    outcome
}
