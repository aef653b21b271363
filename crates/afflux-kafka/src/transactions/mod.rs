//! Transactions of clients: between the wire, the pure [`Coordinator`] and the log.
//!
//! 1. A check of the coordinator and the append that it allows are done under one lock: whatever
//!    a producer appends to a partition before its transaction ends lies before the marker there,
//!    and what comes later is refused.
//! 2. The end of a transaction is one group: a marker for each of its partitions, that of
//!    committed offsets among them, and the record that says how it ended. So it has ended in all
//!    of them or in none, and is answered once it is durable.
//! 3. What a transactional id is up to is a record of `__transaction_state`. At start they are
//!    read, and what the log has open besides is taken in; what is open of nobody that is known is
//!    aborted.
//! 4. Whoever takes committed offsets back waits for the ends that were begun, since those may
//!    commit some.
//! 5. Now and then transactions that take too long are aborted, and ids that nobody has used for
//!    a week are forgotten.
//!
//! Requests of producers are in `producers`, those of tools in `tools`, and offsets that are
//! committed with a transaction in `groups::transactional`.

mod producers;
mod tools;
mod upkeep;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use afflux_env::Env;
use afflux_log::{EmbeddedLog, Entry, Group, Isolation, Log as _, Ticket, TopicSpec};
use afflux_record::{BatchError, Compression, Marker, batch};
use afflux_types::{LeaderEpoch, ProducerEpoch, ProducerId, Timestamp, TopicName, TopicPartition};
use bytes::Bytes;
use kafka_protocol::ResponseError;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

pub(crate) use self::producers::Writing;
use crate::{
    StartError,
    broker::{Broker, OFFSETS_TOPIC, TRANSACTIONS_TOPIC, blocking},
    code,
    transaction::{
        Coordinator, EPOCH_BUMP, End, Facts, Identity, Now, State, TransactionalId, record,
    },
};

/// How much of the topic is read at once at start.
const REBUILD_BYTES: usize = 1 << 20;

/// All transactional ids.
pub(crate) struct Transactions {
    coordinator: Mutex<Coordinator>,
    /// Whether the topic is there.
    topic: OnceCell<()>,
}

/// The end of a transaction on its way to the disk.
struct Departed {
    end: End,
    appended: Result<Ticket, ResponseError>,
    /// Which of the group's entries is the marker of committed offsets.
    offsets: Option<usize>,
}

impl Transactions {
    /// What the log's records say. Blocks.
    pub(crate) fn rebuild(
        env: &Env,
        log: &EmbeddedLog,
        timeout_max: Duration,
        retention: Duration,
    ) -> Result<Self, StartError> {
        let mut coordinator = Coordinator::new(timeout_max, retention, partitions_max(log));
        let topic = OnceCell::new();
        if let Some(partition) = state_partition()
            && log.partition_count(&partition.topic).is_some()
        {
            replay(log, &partition, now(env), &mut coordinator)?;
            // Just made, so nothing can have been put there.
            let _ = topic.set(());
        }
        Ok(Self { coordinator: Mutex::new(coordinator), topic })
    }

    /// Takes in what the log has open, and aborts what nobody can end any more.
    pub(crate) async fn recover(broker: &Arc<Broker>) {
        let open =
            broker.log.open_transactions().into_iter().map(|open| {
                (Identity { id: open.producer.0, epoch: open.epoch.0 }, open.partition)
            });
        let stray = broker.transactions.coordinator.lock().cover(now(&broker.env), open);
        for (who, partition) in stray {
            tracing::warn!(producer = who.id, %partition, "a transaction of nobody is aborted");
            if let Err(error) = mark(broker, Marker::Abort, who, &partition).await {
                tracing::error!(%error, %partition, "it could not be");
            }
        }
    }

    /// Aborts what takes too long, and forgets who is gone. Never ends by itself.
    pub(crate) async fn run(broker: &Arc<Broker>) {
        let mut underway = None;
        loop {
            broker.env.clock.sleep(broker.options.transaction_check).await;
            let begun = broker.groups.begin_commit().await;
            let departed: Vec<Departed> = {
                let now = now(&broker.env);
                let mut coordinator = broker.transactions.coordinator.lock();
                for id in coordinator.expire(now) {
                    // If this is refused, the id is back after a restart, and goes again.
                    let _ = append_state(broker, &id, None);
                }
                coordinator.tick(now).into_iter().map(|end| depart(broker, end)).collect()
            };
            for departed in departed {
                tracing::info!(id = &*departed.end.id, "a transaction took too long");
                // If it could not be aborted it is tried again.
                let _ = settle(broker, departed).await;
            }
            drop(begun);
            if let Err(error) = upkeep::keep_small(broker, &mut underway).await {
                tracing::warn!(%error, "what transactions are could not be written anew");
            }
        }
    }

    async fn ensure_topic(broker: &Arc<Broker>) -> Result<(), ResponseError> {
        let made = broker.transactions.topic.get_or_try_init(|| async {
            let partition = state_partition().ok_or(ResponseError::UnknownServerError)?;
            let spec = TopicSpec { name: partition.topic, partitions: 1 };
            blocking(&broker.log, move |log| log.ensure_topic(&spec))
                .await
                .map_err(|_| ResponseError::UnknownServerError)?
                .map_err(|_| ResponseError::CoordinatorNotAvailable)
        });
        made.await.copied()
    }
}

/// The most partitions of a transaction. Its end is one append: a marker for each, and the record of
/// how it ended, under the longest id that there can be.
fn partitions_max(log: &EmbeddedLog) -> usize {
    let (producer, epoch) = (ProducerId(i64::MAX), ProducerEpoch(i16::MAX));
    let marker = Marker::Commit.batch(producer, epoch, i32::MAX, Timestamp(i64::MAX));
    let ended = Facts {
        producer: Identity { id: producer.0, epoch: epoch.0 },
        previous: i64::MAX,
        last_epoch: -1,
        timeout: Duration::from_millis(i32::MAX as u64),
        state: State::CompleteCommit,
        partitions: BTreeSet::new(),
        started: Some(Timestamp(i64::MAX)),
        updated: Timestamp(i64::MAX),
        version: EPOCH_BUMP,
    };
    let longest = "i".repeat(i16::MAX as usize);
    let record = state_batch(Timestamp(i64::MAX), &longest, Some(&ended));
    match (marker, record) {
        (Ok(marker), Ok(record)) => log.options().group_batches_max(marker.len(), record.len()),
        // Neither is ever too large to be a batch.
        _ => usize::MAX,
    }
}

/// The one partition of what transactional ids are up to.
fn state_partition() -> Option<TopicPartition> {
    Some(TopicPartition::new(TopicName::new(TRANSACTIONS_TOPIC).ok()?, 0))
}

fn now(env: &Env) -> Now {
    Now { monotonic: env.clock.monotonic(), wall: env.clock.now() }
}

/// Hands the record of an id to the log; none forgets it.
fn append_state(
    broker: &Broker,
    id: &TransactionalId,
    facts: Option<&Facts>,
) -> Result<Ticket, ResponseError> {
    let entries = vec![state_entry(broker, id, facts)?];
    Ok(broker.log.append(&Group { entries }))
}

fn state_entry(
    broker: &Broker,
    id: &TransactionalId,
    facts: Option<&Facts>,
) -> Result<Entry, ResponseError> {
    let partition = state_partition().ok_or(ResponseError::UnknownServerError)?;
    let batch = state_batch(broker.env.clock.now(), id, facts);
    Ok(Entry { partition, batch: batch.map_err(|error| code::of_batch(&error))? })
}

fn state_batch(now: Timestamp, id: &str, facts: Option<&Facts>) -> Result<Bytes, BatchError> {
    let mut builder = batch::Builder::new(Compression::None);
    let value = facts.map(record::encode_value);
    builder.push(now, Some(&record::encode_key(id)), value.as_deref());
    builder.finish()
}

fn marker_entry(
    broker: &Broker,
    marker: Marker,
    who: Identity,
    partition: &TopicPartition,
) -> Result<Entry, ResponseError> {
    let (id, epoch) = (ProducerId(who.id), ProducerEpoch(who.epoch));
    let LeaderEpoch(coordinator) = broker.log.leader_epoch();
    let batch = marker.batch(id, epoch, coordinator, broker.env.clock.now());
    let batch = batch.map_err(|error| code::of_batch(&error))?;
    Ok(Entry { partition: partition.clone(), batch })
}

/// Hands the end of a transaction to the log. Under the coordinator's lock.
fn depart(broker: &Broker, end: End) -> Departed {
    // What was written to a topic that is gone is gone with it.
    let is_there = |at: &&TopicPartition| {
        let count = broker.log.partition_count(&at.topic).unwrap_or(0);
        (0..count).contains(&at.partition.0)
    };
    let partitions: Vec<_> = end.partitions.iter().filter(is_there).collect();
    let offsets = partitions.iter().position(|at| at.topic.as_str() == OFFSETS_TOPIC);
    let entries = partitions
        .iter()
        .map(|partition| marker_entry(broker, end.marker, end.producer, partition))
        .chain([state_entry(broker, &end.id, Some(&end.outcome))]);
    let entries = entries.collect::<Result<Vec<_>, _>>();
    let appended = entries.map(|entries| broker.log.append(&Group { entries }));
    Departed { end, appended, offsets }
}

/// Waits for the end of a transaction, and says what became of it. Has to come to its end.
async fn settle(broker: &Arc<Broker>, departed: Departed) -> Result<Identity, ResponseError> {
    let Departed { end, appended, offsets } = departed;
    let outcome = match appended {
        Ok(ticket) => ticket.await.map_err(|error| of_state(&error)),
        Err(error) => Err(error),
    };
    if let Ok(appended) = &outcome {
        let at = offsets.and_then(|offsets| appended.base_offsets.get(offsets)).copied();
        broker.groups.end_transaction(ProducerId(end.producer.id), end.marker, at);
    }
    let is_durable = outcome.is_ok();
    broker.transactions.coordinator.lock().settle(now(&broker.env), &end.id, is_durable);
    outcome.map(|_| end.outcome.producer)
}

/// Ends a transaction in one partition.
async fn mark(
    broker: &Arc<Broker>,
    marker: Marker,
    who: Identity,
    partition: &TopicPartition,
) -> Result<(), ResponseError> {
    let entries = vec![marker_entry(broker, marker, who, partition)?];
    let appended = broker.log.append(&Group { entries }).await;
    let appended = appended.map_err(|error| code::of_append(&error))?;
    if partition.topic.as_str() == OFFSETS_TOPIC {
        let at = appended.base_offsets.first().copied();
        broker.groups.end_transaction(ProducerId(who.id), marker, at);
    }
    Ok(())
}

/// The code for a record of the coordinator that was not taken: clients look for the coordinator
/// again, and try again.
fn of_state(error: &afflux_log::error::AppendError) -> ResponseError {
    tracing::warn!(%error, "a transaction's state could not be written");
    ResponseError::CoordinatorNotAvailable
}

/// Folds the records. What does not read as one is reported and stepped over: it was not written
/// here, and no other id should be lost because of it.
fn replay(
    log: &EmbeddedLog,
    partition: &TopicPartition,
    now: Now,
    coordinator: &mut Coordinator,
) -> Result<(), StartError> {
    let mut at = log.bounds(partition)?.start;
    loop {
        let read = log.fetch(partition, at, REBUILD_BYTES, Isolation::Uncommitted)?;
        for batch in &read.batches {
            for record in batch::records(batch) {
                let record = record.map_err(|source| StartError::Batch { offset: at, source })?;
                let id = record::decode_key(record.key.as_deref().unwrap_or_default());
                let facts = record.value.as_deref().map(record::decode_value).transpose();
                match id.and_then(|id| Ok((id, facts?))) {
                    Ok((id, None)) => coordinator.forget(&id),
                    Ok((id, Some(facts))) => coordinator.restore(now, id, facts),
                    Err(error) => {
                        tracing::warn!(offset = record.offset.0, %error, "stepped over");
                    }
                }
            }
        }
        if read.next <= at {
            return Ok(());
        }
        at = read.next;
    }
}
