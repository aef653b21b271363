//! The coordinator of transactions: which transactional id is in which transaction.
//!
//! Pure: it knows no clock, network or log. Each call is an event with its time; what comes back
//! is what the edge has to append, and the edge says how that went with
//! [`Coordinator::settle`].
//!
//! ```text
//!            add partitions            one group: markers + outcome
//! ┌───────┐ ───────────────▶ ┌─────────┐ ─────────▶ ┌────────────────┐
//! │ Empty │                  │ Ongoing │            │ CompleteCommit │ ──┐
//! └───────┘ ◀── init ──┐     └─────────┘ ─────────▶ │ CompleteAbort  │   │
//!      ▲               │          ▲   time-out too  └────────────────┘   │
//!      │               │          └──────────── add partitions ──────────┤
//!      └───────────────┴───────────────────────── init ──────────────────┘
//! ```
//! 1. Kafka's `PrepareCommit` and `PrepareAbort` are no states here. There they record the
//!    decision while markers travel to other brokers; here the decision, the markers of all
//!    partitions and the committed offsets are one atomic group. While that group is on its way,
//!    who asks is shown `Prepare…`, and requests are put off with `CONCURRENT_TRANSACTIONS`.
//!    `Dead` is an id whose record was taken back: it is not here any more.
//! 2. *Fencing*: each init raises the epoch. An init or a time-out that finds a transaction open
//!    aborts it with a raised epoch, so that its producer is refused from then on.
//! 3. With version 2 of transactions (KIP-890) each end raises the epoch too, so that a late
//!    request of one transaction can not reach into the next. When epochs are used up, the
//!    producer goes on with another id.
//! 4. Adding is applied at once and its record appended before the data; a record that was
//!    refused is appended again with the next. Where partitions are added by the data itself, the
//!    data is record enough: at start the log tells what it has open ([`Coordinator::cover`]), and
//!    that is the truth. Inits and ends count only once they are durable.

pub(crate) mod record;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use afflux_record::Marker;
use afflux_types::{Timestamp, TopicPartition};
use kafka_protocol::ResponseError;

/// What a producer calls itself across restarts.
pub(crate) type TransactionalId = Arc<str>;

/// The last epoch that a client gets; the one behind it is kept for fencing.
const EPOCH_LAST: i16 = i16::MAX - 1;
/// How far fencing raises the epoch: further than an end does, so that a client whose transaction
/// was aborted is not taken for one that asks again.
const FENCE: i16 = 2;
/// The version of transactions that raises the epoch with each end.
pub(crate) const EPOCH_BUMP: i16 = 2;
/// How soon what could not be aborted is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// A producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: i64,
    pub(crate) epoch: i16,
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Empty,
    Ongoing,
    CompleteCommit,
    CompleteAbort,
}

/// What the record of an id says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) producer: Identity,
    /// The producer id before the last one was used up, or -1.
    pub(crate) previous: i64,
    /// The epoch before the last, if the same client had it, or -1. Not recorded, as in Kafka.
    pub(crate) last_epoch: i16,
    pub(crate) timeout: Duration,
    pub(crate) state: State,
    pub(crate) partitions: BTreeSet<TopicPartition>,
    /// When the transaction began.
    pub(crate) started: Option<Timestamp>,
    pub(crate) updated: Timestamp,
    /// The version of transactions that its client speaks, and its last one was ended with.
    pub(crate) version: i16,
}

/// When something happens: for time-outs, and for records.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) monotonic: Duration,
    pub(crate) wall: Timestamp,
}

/// The end of a transaction, to be appended as one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) id: TransactionalId,
    pub(crate) marker: Marker,
    /// Who the markers are of.
    pub(crate) producer: Identity,
    pub(crate) partitions: BTreeSet<TopicPartition>,
    /// The outcome record's facts; its producer is the client's from then on.
    pub(crate) outcome: Facts,
}

/// What an init comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Init {
    /// It needs a fresh producer id: ask again with one.
    NeedsProducer,
    /// Append this, then settle.
    Write(Facts),
    /// Append this first, settle, then ask again.
    Abort(End),
}

/// What an end comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It needs a fresh producer id: ask again with one.
    NeedsProducer,
    /// It was ended so before.
    Already(Identity),
    /// Append this, then settle.
    Write(End),
}

struct Entry {
    facts: Facts,
    /// What is on its way to the log.
    moving: Option<Facts>,
    /// The facts are newer than their record.
    unsaved: bool,
    /// When an ongoing transaction is aborted.
    deadline: Option<Duration>,
}

/// All transactional ids.
pub(crate) struct Coordinator {
    timeout_max: Duration,
    /// How long an id is kept that nobody uses.
    retention: Duration,
    /// The most partitions of a transaction: no more can be ended with one append.
    partitions_max: usize,
    entries: BTreeMap<TransactionalId, Entry>,
}

impl Coordinator {
    pub(crate) fn new(timeout_max: Duration, retention: Duration, partitions_max: usize) -> Self {
        Self { timeout_max, retention, partitions_max, entries: BTreeMap::new() }
    }

    /// Takes what a record says; the last one counts.
    pub(crate) fn restore(&mut self, now: Now, id: TransactionalId, facts: Facts) {
        let begun = facts.started.filter(|_| facts.state == State::Ongoing);
        let left = begun.map(|begun| facts.timeout.saturating_sub(now.wall.since(begun)));
        let deadline = left.map(|left| now.monotonic + left);
        self.entries.insert(id, Entry { facts, moving: None, unsaved: false, deadline });
    }

    /// Forgets an id, as its record says.
    pub(crate) fn forget(&mut self, id: &str) {
        self.entries.remove(id);
    }

    /// Takes in what the log has open: who has which partition in a transaction. What is left is
    /// of nobody that is known here, or of an epoch that nobody here was given.
    pub(crate) fn cover(
        &mut self,
        now: Now,
        open: impl IntoIterator<Item = (Identity, TopicPartition)>,
    ) -> Vec<(Identity, TopicPartition)> {
        let entries = self.entries.values_mut();
        let mut known: HashMap<i64, &mut Entry> =
            entries.map(|entry| (entry.facts.producer.id, entry)).collect();
        let mut unknown = Vec::new();
        for (who, partition) in open {
            match known.get_mut(&who.id) {
                // What is open under a newer epoch is somebody else's.
                Some(entry) if who.epoch <= entry.facts.producer.epoch => {
                    entry.begin(now);
                    entry.facts.partitions.insert(partition);
                }
                _ => unknown.push((who, partition)),
            }
        }
        unknown
    }

    /// Forgets ids that nobody has used for long: which ones.
    pub(crate) fn expire(&mut self, now: Now) -> Vec<TransactionalId> {
        let retention = self.retention;
        let idle = |entry: &Entry| {
            let at = entry.facts.updated.saturating_add(retention);
            entry.facts.state != State::Ongoing && entry.moving.is_none() && at <= now.wall
        };
        self.entries.extract_if(.., |_, entry| idle(entry)).map(|(id, _)| id).collect()
    }

    /// How many ids are known.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether a record of an id is on its way, and counts once it is durable.
    pub(crate) fn is_moving(&self, id: &str) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.moving.is_some())
    }

    /// A client begins; `expected` is who it takes itself for (KIP-360).
    pub(crate) fn init(
        &mut self,
        now: Now,
        id: &TransactionalId,
        timeout: Duration,
        expected: Option<Identity>,
        fresh: Option<i64>,
    ) -> Result<Init, ResponseError> {
        if id.is_empty() {
            return Err(ResponseError::InvalidRequest);
        }
        if timeout.is_zero() || timeout > self.timeout_max {
            return Err(ResponseError::InvalidTransactionTimeout);
        }
        let Some(entry) = self.entries.get_mut(id) else {
            return Ok(
                fresh.map_or(Init::NeedsProducer, |fresh| self.first(now, id, timeout, fresh))
            );
        };
        if entry.moving.is_some() {
            return Err(ResponseError::ConcurrentTransactions);
        }
        let facts = &entry.facts;
        let is_valid = |expected: Identity| {
            facts.producer.epoch < 0
                || expected.id == facts.producer.id
                || expected.id == facts.previous && expected.epoch >= EPOCH_LAST
        };
        if !expected.is_none_or(is_valid) {
            return Err(ResponseError::ProducerFenced);
        }
        if facts.state == State::Ongoing {
            return Ok(Init::Abort(entry.fence(now, id)));
        }
        let Some(producer) = facts.next_identity(expected, fresh)? else {
            return Ok(Init::NeedsProducer);
        };
        let continues = expected.is_some() && producer != facts.producer;
        let last_epoch = match expected {
            None => -1,
            Some(_) if continues => facts.producer.epoch,
            Some(_) => facts.last_epoch,
        };
        let rotated = producer.id != facts.producer.id;
        let next = Facts {
            producer,
            previous: if rotated { facts.producer.id } else { facts.previous },
            last_epoch,
            timeout,
            state: State::Empty,
            partitions: BTreeSet::new(),
            started: None,
            updated: now.wall,
            version: facts.version,
        };
        entry.moving = Some(next.clone());
        Ok(Init::Write(next))
    }

    /// Takes in an id that is not known.
    fn first(&mut self, now: Now, id: &TransactionalId, timeout: Duration, fresh: i64) -> Init {
        let facts = Facts {
            producer: Identity { id: fresh, epoch: -1 },
            previous: -1,
            last_epoch: -1,
            timeout,
            state: State::Empty,
            partitions: BTreeSet::new(),
            started: None,
            updated: now.wall,
            version: 0,
        };
        let producer = Identity { id: fresh, epoch: 0 };
        let next = Facts { producer, ..facts.clone() };
        let moving = Some(next.clone());
        let entry = Entry { facts, moving, unsaved: false, deadline: None };
        self.entries.insert(Arc::clone(id), entry);
        Init::Write(next)
    }

    /// Whether a producer's transaction has a partition in it.
    pub(crate) fn verify(
        &self,
        id: &str,
        who: Identity,
        partition: &TopicPartition,
    ) -> Result<(), ResponseError> {
        let entry = self.entries.get(id).ok_or(ResponseError::InvalidProducerIdMapping)?;
        entry.is_of(who)?;
        let inside =
            entry.facts.state == State::Ongoing && entry.facts.partitions.contains(partition);
        if inside { Ok(()) } else { Err(ResponseError::TransactionAbortable) }
    }

    /// Adds partitions, and begins a transaction if there is none. The record to be appended, if
    /// one is needed: `by_data` are added by what is appended to them. `POLICY_VIOLATION` if the
    /// transaction would have too many; then none is added.
    pub(crate) fn add(
        &mut self,
        now: Now,
        id: &str,
        who: Identity,
        partitions: &[TopicPartition],
        by_data: bool,
    ) -> Result<Option<Facts>, ResponseError> {
        if id.is_empty() {
            return Err(ResponseError::InvalidRequest);
        }
        let entry = self.entries.get_mut(id).ok_or(ResponseError::InvalidProducerIdMapping)?;
        entry.is_of(who)?;
        if entry.facts.count_with(partitions) > self.partitions_max {
            return Err(ResponseError::PolicyViolation);
        }
        entry.begin(now);
        for partition in partitions {
            let is_new = entry.facts.partitions.insert(partition.clone());
            entry.unsaved |= is_new && !by_data;
        }
        if !std::mem::take(&mut entry.unsaved) {
            return Ok(None);
        }
        entry.facts.updated = now.wall;
        entry.facts.version = if by_data { EPOCH_BUMP } else { entry.facts.version };
        Ok(Some(entry.facts.clone()))
    }

    /// The record of an added partition was refused: the next call gives it again.
    pub(crate) fn unsaved(&mut self, id: &str) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.unsaved = true;
        }
    }

    /// A client ends its transaction.
    pub(crate) fn end(
        &mut self,
        now: Now,
        id: &TransactionalId,
        who: Identity,
        marker: Marker,
        version: i16,
        fresh: Option<i64>,
    ) -> Result<Ending, ResponseError> {
        if id.is_empty() {
            return Err(ResponseError::InvalidRequest);
        }
        let entry = self.entries.get_mut(id).ok_or(ResponseError::InvalidProducerIdMapping)?;
        let bumps = version >= EPOCH_BUMP;
        if entry.moving.is_some() {
            return Err(ResponseError::ConcurrentTransactions);
        }
        let facts = &entry.facts;
        // An end of before version 2 raises no epoch: whoever was fenced by its producer must not be
        // taken for one who asks again.
        let raised = bumps && facts.version >= EPOCH_BUMP;
        let overflowed = raised
            && who == (Identity { id: facts.previous, epoch: EPOCH_LAST })
            && facts.producer.epoch == 0;
        if who.id != facts.producer.id && !overflowed {
            return Err(ResponseError::InvalidProducerIdMapping);
        }
        let completed = match facts.state {
            State::CompleteCommit => Some(Marker::Commit),
            State::CompleteAbort => Some(Marker::Abort),
            State::Empty | State::Ongoing => None,
        };
        // No end raises to the very last epoch, only fencing does.
        let bumped = raised && who.epoch < EPOCH_LAST && who.epoch + 1 == facts.producer.epoch;
        let is_retry = completed.is_some() && (overflowed || bumped);
        if who.epoch != facts.producer.epoch && !is_retry {
            return Err(ResponseError::ProducerFenced);
        }
        match (facts.state, completed) {
            (State::Ongoing, _) => {}
            // The answer to the first of them was lost, or the client asks twice.
            (_, Some(before)) if is_retry || !bumps => {
                return if before == marker {
                    Ok(Ending::Already(facts.producer))
                } else {
                    Err(ResponseError::InvalidTxnState)
                };
            }
            // Nothing was written; the epoch is raised all the same.
            _ if bumps && marker == Marker::Abort => {}
            _ => return Err(ResponseError::InvalidTxnState),
        }
        Ok(entry.finish(now, id, marker, version, fresh))
    }

    /// What was on its way for an id is durable, or was refused.
    pub(crate) fn settle(&mut self, now: Now, id: &str, durable: bool) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let Some(next) = entry.moving.take() else { return };
        if durable {
            entry.facts = next;
            entry.deadline = None;
            entry.unsaved = false;
        } else if entry.facts.producer.epoch < 0 {
            // It never was.
            self.entries.remove(id);
        } else if entry.facts.state == State::Ongoing {
            let later = now.monotonic + RETRY;
            entry.deadline = entry.deadline.map(|deadline| deadline.max(later));
        }
    }

    /// Aborts what has taken too long.
    pub(crate) fn tick(&mut self, now: Now) -> Vec<End> {
        let due = |entry: &Entry| {
            entry.moving.is_none() && entry.deadline.is_some_and(|at| at <= now.monotonic)
        };
        let due = self.entries.iter_mut().filter(|(_, entry)| due(entry));
        due.map(|(id, entry)| entry.fence(now, id)).collect()
    }

    /// What an id is up to, and the name of its state.
    pub(crate) fn describe(&self, id: &str) -> Option<(&Facts, &'static str)> {
        self.entries.get(id).map(|entry| (&entry.facts, entry.name()))
    }

    /// The same of all.
    pub(crate) fn list(&self) -> impl Iterator<Item = (&TransactionalId, &Facts, &'static str)> {
        self.entries.iter().map(|(id, entry)| (id, &entry.facts, entry.name()))
    }

    /// Whether a producer that is known here has a transaction open.
    pub(crate) fn has_open(&self, producer: i64) -> bool {
        let mut entries = self.entries.values().map(|entry| &entry.facts);
        entries.any(|facts| facts.producer.id == producer && facts.state == State::Ongoing)
    }

    /// Aborts the transaction that a producer has open, whoever wants that. None if it has none.
    pub(crate) fn abort(&mut self, now: Now, producer: i64) -> Result<Option<End>, ResponseError> {
        let is_it = |entry: &Entry| {
            entry.facts.producer.id == producer && entry.facts.state == State::Ongoing
        };
        let Some((id, entry)) = self.entries.iter_mut().find(|(_, entry)| is_it(entry)) else {
            return Ok(None);
        };
        match entry.moving {
            Some(_) => Err(ResponseError::ConcurrentTransactions),
            None => Ok(Some(entry.fence(now, id))),
        }
    }
}

impl Facts {
    /// How many partitions there would be with these.
    fn count_with(&self, more: &[TopicPartition]) -> usize {
        let new: BTreeSet<_> = more.iter().filter(|at| !self.partitions.contains(at)).collect();
        self.partitions.len() + new.len()
    }

    /// Who a client is after an init; none if that takes a fresh producer id.
    fn next_identity(
        &self,
        expected: Option<Identity>,
        fresh: Option<i64>,
    ) -> Result<Option<Identity>, ResponseError> {
        let Identity { id, epoch } = self.producer;
        if epoch >= EPOCH_LAST && expected.is_none_or(|expected| expected.epoch == epoch) {
            return Ok(fresh.map(|id| Identity { id, epoch: 0 }));
        }
        match expected {
            Some(expected) if epoch >= 0 && expected.epoch != epoch => {
                // The answer to the init before was lost.
                let is_retry = expected.epoch == self.last_epoch;
                if is_retry { Ok(Some(self.producer)) } else { Err(ResponseError::ProducerFenced) }
            }
            _ => Ok(Some(Identity { id, epoch: epoch + 1 })),
        }
    }
}

impl Entry {
    fn is_of(&self, who: Identity) -> Result<(), ResponseError> {
        if who.id != self.facts.producer.id {
            return Err(ResponseError::InvalidProducerIdMapping);
        }
        if who.epoch != self.facts.producer.epoch {
            return Err(ResponseError::ProducerFenced);
        }
        match self.moving {
            Some(_) => Err(ResponseError::ConcurrentTransactions),
            None => Ok(()),
        }
    }

    fn begin(&mut self, now: Now) {
        if self.facts.state != State::Ongoing {
            self.facts.state = State::Ongoing;
            self.facts.started = Some(now.wall);
            self.deadline = Some(now.monotonic + self.facts.timeout);
            self.unsaved = true;
        }
    }

    fn name(&self) -> &'static str {
        match (self.facts.state, self.moving.as_ref().map(|next| next.state)) {
            (_, Some(State::CompleteCommit)) => "PrepareCommit",
            (_, Some(State::CompleteAbort)) => "PrepareAbort",
            (State::Empty, _) => "Empty",
            (State::Ongoing, _) => "Ongoing",
            (State::CompleteCommit, _) => "CompleteCommit",
            (State::CompleteAbort, _) => "CompleteAbort",
        }
    }

    /// Aborts with a raised epoch, which nobody is told.
    fn fence(&mut self, now: Now, id: &TransactionalId) -> End {
        let Identity { id: producer, epoch } = self.facts.producer;
        let fenced = Identity { id: producer, epoch: epoch.saturating_add(FENCE) };
        let outcome = Facts { producer: fenced, last_epoch: -1, ..self.facts.clone() };
        self.depart(now, id, Marker::Abort, fenced, outcome)
    }

    fn finish(
        &mut self,
        now: Now,
        id: &TransactionalId,
        marker: Marker,
        version: i16,
        fresh: Option<i64>,
    ) -> Ending {
        let facts = &self.facts;
        let Identity { id: producer, epoch } = facts.producer;
        if version < EPOCH_BUMP {
            let outcome = Facts { version, ..facts.clone() };
            return Ending::Write(self.depart(now, id, marker, facts.producer, outcome));
        }
        let marked = Identity { id: producer, epoch: epoch.saturating_add(1) };
        let mut outcome = Facts { last_epoch: epoch, version, ..facts.clone() };
        if epoch >= EPOCH_LAST {
            let Some(fresh) = fresh else { return Ending::NeedsProducer };
            outcome.producer = Identity { id: fresh, epoch: 0 };
            outcome.previous = producer;
        } else {
            outcome.producer = marked;
        }
        outcome.started = outcome.started.or(Some(now.wall));
        Ending::Write(self.depart(now, id, marker, marked, outcome))
    }

    fn depart(
        &mut self,
        now: Now,
        id: &TransactionalId,
        marker: Marker,
        producer: Identity,
        mut outcome: Facts,
    ) -> End {
        outcome.state = match marker {
            Marker::Commit => State::CompleteCommit,
            Marker::Abort => State::CompleteAbort,
        };
        let partitions = std::mem::take(&mut outcome.partitions);
        outcome.updated = now.wall;
        self.moving = Some(outcome.clone());
        End { id: Arc::clone(id), marker, producer, partitions, outcome }
    }
}

#[cfg(test)]
mod tests;
