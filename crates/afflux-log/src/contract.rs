//! What the engine, the listeners and the log agree on: appends, reads, ticks, commits.
//!
//! [`Log`] is the engine's one door. It does not say where the log is: the embedded journal
//! ([`crate::EmbeddedLog`]) and an Apache Kafka cluster both stand behind it.
//!
//! Contract, and who checks each clause:
//! 1. A group is atomic: after any crash all of its entries are there or none
//!    (checked by the crash test of `afflux-log`).
//! 2. A [`Ticket`] resolves only once its group is durable (the same test). But that of a group
//!    for topics with `durability=relaxed` alone may resolve once it has its offsets: a crash can
//!    lose it, though nobody has read it but the engine (test of retention and settings).
//! 3. Offsets of a partition rise without a gap within one incarnation (the same test).
//! 4. A [`Tick`] returned by [`Log::next_tick`] is a group boundary; what `ends` says of it
//!    never changes (property test of `afflux-log`), but that it may rise over what was dropped.
//! 5. Groups become durable in the order in which they got their offsets: if one is durable, all
//!    that had theirs before it are. So an epoch computed from records that are not yet durable
//!    can not outlive them. Groups of one partition get their offsets in the order of submission.
//!    A group over a limit is staged: it gets its offsets when all of its bytes are in the
//!    journal, and groups for other partitions pass it (the same test).
//! 6. A commit is refused, all of it, if one of the partitions that it names does not end where it
//!    says when the commit would get its place: nobody builds on a commit that was refused
//!    (checked by the test of a full disk in `afflux-engine`).
//! 7. A producer's transaction is open in a partition from its first transactional batch there to
//!    its next marker. Nothing at or behind an open transaction's first offset is shown with
//!    [`Isolation::Committed`] or [`Isolation::Appended`], and of what was aborted nothing ever
//!    counts. The engine's epochs are computed from decided records alone, so no later marker can
//!    change what they should have been (crash test of transactions in `afflux-log`).
//! 8. Compaction drops records that a newer one of the same key has replaced, and tombstones later
//!    on. It changes no offset, no time and no key of what it leaves, nothing that is not below
//!    the last stable offset, and nothing that a reader has got. Who reads from where nothing is
//!    left goes on with what follows, and is not told (test of compaction in `afflux-log`).

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use afflux_types::{
    JournalPosition, LeaderEpoch, Offset, ProducerId, Tick, Timestamp, TopicName, TopicPartition,
};
use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use crate::error::{AppendError, ReadError, TopicError, TrimError};

/// One record batch (Kafka v2, as the producer sent it) for one partition.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it goes.
    pub partition: TopicPartition,
    /// The batch. Its base offset and leader epoch are overwritten; both lie outside its CRC,
    /// which the caller has checked.
    pub batch: Bytes,
}

/// What becomes durable and visible together, or not at all. Any number of partitions.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// The batches, in the order in which they get offsets.
    pub entries: Vec<Entry>,
}

/// Where a durable group ended up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The base offset of each entry, in the group's order. For a producer's retry: that of the
    /// original.
    pub base_offsets: Vec<Offset>,
    /// Behind the group's last byte in the journal.
    pub end: JournalPosition,
    /// When the log took it.
    pub append_time: Timestamp,
}

/// A group on its way to the disk. Resolves once it is durable, or has its offsets if that is all
/// that its topics ask for. Dropping it changes nothing.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<Result<Appended, AppendError>>);

/// The log's end of a [`Ticket`].
#[derive(Debug)]
pub struct TicketSender(oneshot::Sender<Result<Appended, AppendError>>);

impl Ticket {
    /// A ticket and the end that resolves it.
    pub fn new() -> (TicketSender, Self) {
        let (sender, receiver) = oneshot::channel();
        (TicketSender(sender), Self(receiver))
    }

    /// Waits, blocking this thread, be it an async runtime's or not.
    pub fn wait(self) -> Result<Appended, AppendError> {
        crate::embedded::block_on(self)
    }

    /// The outcome, if it is known by now.
    pub fn poll_now(&mut self) -> Option<Result<Appended, AppendError>> {
        match self.0.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(AppendError::Closed)),
        }
    }
}

impl TicketSender {
    /// Resolves the ticket.
    pub fn resolve(self, outcome: Result<Appended, AppendError>) {
        // Nobody may be waiting any more; the group is durable all the same.
        let _ = self.0.send(outcome);
    }
}

impl Future for Ticket {
    type Output = Result<Appended, AppendError>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|received| received.unwrap_or(Err(AppendError::Closed)))
    }
}

/// How far a read may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Everything that is decided (see [`Bounds::decided`]), durable or not; records of aborted
    /// transactions and markers are left out. For the engine alone, whose own commits lie behind
    /// what it has read.
    Appended,
    /// Everything durable (Kafka's `read_uncommitted`).
    Uncommitted,
    /// Everything durable below the last stable offset (Kafka's `read_committed`). What was
    /// aborted is there, for batches are not taken apart, and [`Batches::aborted`] names it.
    Committed,
}

/// Batches of one partition, in offset order.
#[derive(Debug, Clone)]
pub struct Batches {
    /// Whole v2 batches. The first may begin before the offset that was asked for.
    pub batches: Vec<Bytes>,
    /// With [`Isolation::Committed`], the aborted transactions that have records among these, by
    /// first offset.
    pub aborted: Vec<AbortedTransaction>,
    /// Where to read on. Behind the last batch, or further, if what follows is left out.
    pub next: Offset,
    /// The partition's bounds when this was read.
    pub bounds: Bounds,
}

/// A transaction none of whose records count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Whose it was.
    pub producer: ProducerId,
    /// The offset of its first record.
    pub first: Offset,
    /// The offset of the marker that ended it.
    pub marker: Offset,
}

/// The ends of a partition. `start <= stable <= durable <= end` and `stable <= decided <= end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The first offset that is still there.
    pub start: Offset,
    /// The last stable offset: everything below it is durable and no transaction is open there,
    /// nor is one whose end is not durable yet.
    pub stable: Offset,
    /// The high watermark: everything below it is durable.
    pub durable: Offset,
    /// No transaction is open below it, durable or not.
    pub decided: Offset,
    /// The next offset to be assigned.
    pub end: Offset,
}

impl Bounds {
    /// Behind the last record that is shown.
    pub fn shown(&self, isolation: Isolation) -> Offset {
        match isolation {
            Isolation::Appended => self.decided,
            Isolation::Uncommitted => self.durable,
            Isolation::Committed => self.stable,
        }
    }
}

/// How a topic is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: TopicName,
    /// How many partitions, at least one.
    pub partitions: i32,
}

/// All that one epoch of one pipeline makes durable at once.
#[derive(Debug, Clone)]
pub struct EpochCommit {
    /// The tick that the epoch completes.
    pub tick: Tick,
    /// State changes, the view's changes and the input positions, in one batch for the
    /// pipeline's own topic.
    pub changelog: Entry,
    /// Records for other topics: dead letters, sinks.
    pub outputs: Vec<Entry>,
    /// Where partitions must end when the commit gets its place, or it is refused
    /// ([`AppendError::Overtaken`]).
    pub expected: Vec<(TopicPartition, Offset)>,
}

/// The engine's door to the log. See the module for the contract.
pub trait Log: Send + Sync + 'static {
    /// How many partitions a topic has; `None` if there is no such topic.
    fn partition_count(&self, topic: &TopicName) -> Option<i32>;

    /// Makes a topic durable unless it is there already; blocks. For Afflux's own topics.
    fn ensure_topic(&self, spec: &TopicSpec) -> Result<(), TopicError>;

    /// Removes a topic and its records, durably; fine if there is none; blocks. For Afflux's own
    /// topics, when what they belong to is dropped.
    fn remove_topic(&self, name: &TopicName) -> Result<(), TopicError>;

    /// Drops a partition's records below an offset, at most its durable end, durably; fine if they
    /// are gone already; blocks. What a crash may bring back of them is nobody's promise.
    fn trim(&self, partition: &TopicPartition, before: Offset) -> Result<(), TrimError>;

    /// Batches of a partition from an offset on and below `to`, at most `bytes_max` of them but
    /// at least one whole batch if there is any. They end before one that can not be read: who asks
    /// for that is told. Never waits.
    fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        to: Offset,
        bytes_max: usize,
        isolation: Isolation,
    ) -> Result<Batches, ReadError>;

    /// The bounds of a partition now.
    fn bounds(&self, partition: &TopicPartition) -> Result<Bounds, ReadError>;

    /// A cut after `after`: the end of all that is appended, or, if that is more than
    /// `bytes_max` away, a group boundary at or behind `after + bytes_max`, at most 16 KiB and
    /// one group behind it. `after` itself if nothing was appended since.
    fn next_tick(&self, after: Tick, bytes_max: u64) -> Tick;

    /// Where each partition ended at a tick for the engine: the first offset of the transactions
    /// that were open then, else the offset that a record appended right behind the tick would
    /// have got. A partition younger than the tick ended at 0. Any position will do as a tick
    /// here; where records were dropped, the answer may be any offset up to the first that is left,
    /// and not less than it was before.
    fn ends(&self, tick: Tick, partitions: &[TopicPartition]) -> Result<Vec<Offset>, ReadError>;

    /// Whether what stood before a tick was dropped from the log since, by a repair of corrupt
    /// files: whoever knows something as of that tick knows what is no more.
    fn was_cut(&self, tick: Tick) -> bool;

    /// Appends all parts of an epoch as one group.
    fn submit(&self, commit: EpochCommit) -> Ticket;

    /// Changes whenever something was appended; the value is the journal's end.
    fn appended(&self) -> watch::Receiver<JournalPosition>;

    /// Changes whenever something became durable; everything before the value is.
    fn durable(&self) -> watch::Receiver<JournalPosition>;

    /// The present leader epoch, for those who show it.
    fn leader_epoch(&self) -> LeaderEpoch;
}
