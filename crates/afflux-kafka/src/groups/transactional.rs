//! `TxnOffsetCommit`: offsets that are committed with a transaction.
//!
//! 1. Its records go to `__consumer_offsets` as those of any commit do, as a part of the producer's
//!    transaction. Whether the member may commit is decided under the same lock, so that one whose
//!    generation is over leaves nothing behind.
//! 2. Until the transaction ends they are pending: they are not shown, and who wants stable offsets
//!    has to wait.
//! 3. With the marker they count, from its offset on, or are dropped.

use std::{collections::BTreeMap, sync::Arc};

use afflux_log::{Entry, Ticket};
use afflux_record::{
    Compression, Marker, Record,
    batch::{Builder, Producer},
};
use afflux_types::{Offset, ProducerEpoch, ProducerId, TopicPartition};
use kafka_protocol::{
    ResponseError,
    messages::{
        TxnOffsetCommitRequest, TxnOffsetCommitResponse,
        txn_offset_commit_response::{
            TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
        },
    },
};

use super::{
    Groups,
    commits::{Asked, Made, check, check_size},
    shared,
};
use crate::{
    broker::{Broker, Context, to_its_end},
    code,
    fields::MalformedRecord,
    group::{
        GroupId, Standing,
        offsets::{Committed, Offsets, Place, decode_key, decode_value, encode_key, encode_value},
    },
    transaction::Identity,
    transactions::Writing,
};

/// The version whose clients know that a transaction may have to be aborted.
const ABORTABLE: i16 = 4;
/// The version that adds the offsets to the transaction by itself.
const ADDING: i16 = 5;

/// What transactions that are open have committed, by their producers.
#[derive(Debug, Default)]
pub(crate) struct PendingOffsets {
    by_producer: BTreeMap<ProducerId, Vec<(u64, Made)>>,
    requests: u64,
}

impl PendingOffsets {
    /// Adds what one request commits; its number.
    pub(crate) fn add(&mut self, producer: ProducerId, commits: &[Made]) -> u64 {
        self.requests += 1;
        let commits = commits.iter().map(|commit| (self.requests, commit.clone()));
        self.by_producer.entry(producer).or_default().extend(commits);
        self.requests
    }

    /// The request was refused.
    fn refuse(&mut self, producer: ProducerId, request: u64) {
        if let Some(commits) = self.by_producer.get_mut(&producer) {
            commits.retain(|(number, _)| *number != request);
        }
    }

    /// The producer's transaction has ended: what it had committed.
    fn end(&mut self, producer: ProducerId) -> impl Iterator<Item = Made> + use<> {
        self.by_producer.remove(&producer).into_iter().flatten().map(|(_, commit)| commit)
    }

    /// Adds what a record of a transaction says.
    pub(super) fn add_record(
        &mut self,
        producer: ProducerId,
        record: &Record,
    ) -> Result<(), MalformedRecord> {
        let key = record.key.as_deref().unwrap_or_default();
        if let (Some((group, partition)), Some(value)) = (decode_key(key)?, &record.value) {
            self.add(producer, &[(group, partition, decode_value(value)?)]);
        }
        Ok(())
    }

    /// A record that takes a commit back takes those back, too, that are pending.
    pub(super) fn forget_record(&mut self, record: &Record) {
        if record.value.is_none()
            && let Some(Ok(Some(gone))) = record.key.as_deref().map(decode_key)
        {
            self.take_back(|group, partition, _| (group, partition) == (&gone.0, &gone.1));
        }
    }

    /// The producer's transaction has ended, with a marker at `at`.
    pub(super) fn settle(
        &mut self,
        producer: ProducerId,
        marker: Option<Marker>,
        at: Offset,
        offsets: &mut Offsets,
    ) {
        let commits = self.end(producer);
        if marker == Some(Marker::Commit) {
            for (group, partition, committed) in commits {
                offsets.apply(at, group, partition, Some(committed));
            }
        }
    }

    /// What is not to be committed any more: whose that was.
    pub(crate) fn take_back(
        &mut self,
        gone: impl Fn(&GroupId, &TopicPartition, &Committed) -> bool,
    ) -> Vec<Place> {
        let of_all = self.by_producer.values_mut().flat_map(|commits| {
            commits.extract_if(.., |(_, (group, at, committed))| gone(group, at, committed))
        });
        of_all.map(|(_, (group, at, _))| (group, at)).collect()
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Made> {
        self.by_producer.values().flatten().map(|(_, commit)| commit)
    }
}

impl Groups {
    /// `TxnOffsetCommit`. Once begun it comes to its end, also if its client does not wait.
    pub(crate) async fn commit_in_transaction(
        broker: &Arc<Broker>,
        context: &Context,
        request: TxnOffsetCommitRequest,
    ) -> TxnOffsetCommitResponse {
        let (broker, version) = (Arc::clone(broker), context.version);
        to_its_end(async move {
            let topics = request.topics.iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|at| Asked {
                    index: at.partition_index,
                    offset: at.committed_offset,
                    leader_epoch: at.committed_leader_epoch,
                    metadata: at.committed_metadata.as_deref().unwrap_or_default(),
                });
                (&**topic.name, partitions)
            });
            let (commits, checked) = check(&broker, &shared(&request.group_id), None, topics);
            let written = write(&broker, version, &request, &commits).await;
            answer(request, checked, written)
        })
        .await
    }

    /// A transaction has ended: `at` is where its marker lies, if it had committed any offsets.
    pub(crate) fn end_transaction(&self, producer: ProducerId, marker: Marker, at: Option<Offset>) {
        // Held until they count: nobody sees them neither pending nor committed.
        let mut pending = self.pending.lock();
        let at = at.unwrap_or(Offset(-1));
        pending.settle(producer, Some(marker), at, &mut self.offsets.write());
        self.note_end(Offset(at.0 + 1));
    }
}

async fn write(
    broker: &Arc<Broker>,
    version: i16,
    request: &TxnOffsetCommitRequest,
    commits: &[Made],
) -> Result<(), ResponseError> {
    if request.transactional_id.is_empty() {
        return Err(ResponseError::InvalidRequest);
    }
    if request.group_id.is_empty() {
        return Err(ResponseError::InvalidGroupId);
    }
    check_size(commits)?;
    let groups = &broker.groups;
    let _begun = groups.begin_commit().await;
    let partition = Groups::ensure_offsets(broker).await?;
    let (id, epoch) = (ProducerId(request.producer_id.0), ProducerEpoch(request.producer_epoch));
    let producer = Producer { id, epoch, base_sequence: -1 };
    let mut builder = Builder::new(Compression::None).producer(producer).transactional();
    for (group, partition, committed) in commits {
        let (key, value) = (encode_key(group, partition), encode_value(committed));
        builder.push(committed.time, Some(&key), Some(&value));
    }
    let batch = builder.finish();
    let entry = batch.map(|batch| Entry { partition, batch });
    let entry = entry.map_err(|error| code::of_batch(&error))?;
    let standing = Standing {
        group: shared(&request.group_id),
        member: shared(&request.member_id),
        instance: request.group_instance_id.as_ref().map(shared),
        generation: request.generation_id,
    };
    let writing = Writing {
        id: shared(&request.transactional_id),
        is_adding: version >= ADDING,
        knows_abortable: version >= ABORTABLE,
    };
    let who = Identity { id: id.0, epoch: epoch.0 };
    let (ticket, number) = take(broker, &standing, &writing, who, entry, commits)?;
    if let Err(error) = ticket.await {
        tracing::warn!(%error, "offsets could not be committed");
        groups.pending.lock().refuse(id, number);
        return Err(code::of_group_append(&error));
    }
    Ok(())
}

/// Asks whether the member may commit, and hands what it commits to the log, under one lock.
fn take(
    broker: &Broker,
    standing: &Standing,
    writing: &Writing,
    who: Identity,
    entry: Entry,
    commits: &[Made],
) -> Result<(Ticket, u64), ResponseError> {
    // Older clients do not say who they are.
    let is_anonymous =
        standing.generation < 0 && standing.member.is_empty() && standing.instance.is_none();
    let now = broker.env.clock.monotonic();
    broker.groups.with(|inner| {
        let allowed =
            if is_anonymous { Ok(()) } else { inner.coordinator.may_commit(now, standing, true) };
        let allowed = match allowed {
            // It is in the present generation, which is all that Kafka asks of transactions.
            Err(ResponseError::RebalanceInProgress) => Ok(()),
            allowed => allowed,
        };
        let mut number = 0;
        let taken = allowed
            .map_err(|error| match error {
                // A producer would not try again with the generation that comes, and takes what it
                // does not know for fatal.
                ResponseError::GroupIdNotFound
                | ResponseError::StaleMemberEpoch
                | ResponseError::UnsupportedVersion => ResponseError::IllegalGeneration,
                error => error,
            })
            .and_then(|()| {
                broker.transactions.append(broker, writing, who, entry, || {
                    number = broker.groups.pending.lock().add(ProducerId(who.id), commits);
                })
            })
            .map_err(|error| match error {
                ResponseError::NotEnoughReplicas => ResponseError::CoordinatorNotAvailable,
                error => error,
            });
        (taken.map(|ticket| (ticket, number)), Vec::new())
    })
}

fn answer(
    request: TxnOffsetCommitRequest,
    checked: Vec<Result<(), ResponseError>>,
    written: Result<(), ResponseError>,
) -> TxnOffsetCommitResponse {
    let mut checked = checked.into_iter();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|at| {
            let outcome = checked.next().unwrap_or(Ok(())).and(written);
            TxnOffsetCommitResponsePartition::default()
                .with_partition_index(at.partition_index)
                .with_error_code(code::number(&outcome))
        });
        let partitions = partitions.collect();
        TxnOffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions)
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}

#[cfg(test)]
mod tests {
    use afflux_types::{Timestamp, TopicName};

    use super::*;

    #[test]
    fn offsets_are_pending_until_their_producer_ends() {
        let at = |index| TopicPartition::new(TopicName::new("t").unwrap(), index);
        let commit = |index, offset| {
            let committed = Committed {
                topic: None,
                offset: Offset(offset),
                leader_epoch: -1,
                metadata: "".into(),
                time: Timestamp(0),
                expires: None,
            };
            (GroupId::from("g"), at(index), committed)
        };
        let mut pending = PendingOffsets::default();
        pending.add(ProducerId(1), &[commit(0, 5), commit(1, 6)]);
        let refused = pending.add(ProducerId(1), &[commit(2, 7)]);
        pending.add(ProducerId(2), &[commit(0, 9)]);
        assert_eq!(pending.all().count(), 4);
        pending.refuse(ProducerId(1), refused);
        assert_eq!(pending.all().count(), 3);
        let gone = pending.take_back(|_, partition, _| *partition == at(1));
        assert_eq!(gone, [(GroupId::from("g"), at(1))]);
        assert_eq!(pending.end(ProducerId(1)).collect::<Vec<_>>(), [commit(0, 5)]);
        assert_eq!(pending.end(ProducerId(1)).count(), 0);
        assert_eq!(pending.all().collect::<Vec<_>>(), [&commit(0, 9)], "of the other producer");
    }
}
