//! What clients did and saw in a world, as far as they can know it.
//!
//! Values are written once each, so that whoever reads one knows who wrote it. A tombstone has
//! none; here it has one that is made of its key and its time, which is its own.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use afflux_types::Timestamp;
use uuid::Uuid;

/// What is in a record.
pub(crate) type Value = String;
/// The id of a topic.
pub(crate) type Topic = Uuid;
/// Instead of that of the steady one, which has its name as long as its world lives.
pub(crate) const STEADY: Topic = Uuid::nil();
/// A point in the order of what all clients do. It is counted, not measured.
pub(crate) type Moment = u64;

/// The key of a record in a compacted topic.
pub(crate) fn key_of(value: &str) -> &str {
    value.split_once('.').map_or(value, |(key, _)| key)
}

/// Later than any marker, so that lookups find what clients have written.
pub(crate) const EARLIEST: i64 = 3_000_000_000_000;
/// How many times there are, but for those of tombstones, which are later.
pub(crate) const TIMES: u64 = 64;
/// Between the key of a tombstone and its number.
const NO_VALUE: &str = ".~";

/// How a tombstone is written down; no other one may have the number.
pub(crate) fn tombstone(key: &str, number: u64) -> Value {
    format!("{key}{NO_VALUE}{number}")
}

/// The number of what was written down as a tombstone.
fn number_of(value: &str) -> Option<u64> {
    value.split_once(NO_VALUE)?.1.parse().ok()
}

pub(crate) fn is_tombstone(value: &str) -> bool {
    number_of(value).is_some()
}

/// The time of a record: of many that have one value each several have the same.
pub(crate) fn time_of(value: &str) -> Timestamp {
    let of_value = || {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        hasher.finish() % TIMES
    };
    let time = number_of(value).map_or_else(of_value, |number| TIMES + number);
    Timestamp(EARLIEST + time as i64)
}

/// What became of something that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome<T> {
    /// It was acknowledged.
    Done(T),
    /// It was refused for good, or never asked for.
    Refused,
    /// No answer says so or otherwise.
    Unknown,
}

/// A batch of an idempotent producer, however often it was sent.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    /// Each has a number of its own, and sends in the order of the history.
    pub(crate) producer: usize,
    pub(crate) topic: Topic,
    pub(crate) partition: i32,
    pub(crate) values: Vec<Value>,
    /// Where its first record is; none if it was there already when its producer was told.
    pub(crate) outcome: Outcome<Option<i64>>,
}

/// A transaction.
#[derive(Debug, Clone)]
pub(crate) struct Transaction {
    pub(crate) id: String,
    /// Producer id, epoch and a number: transactions of one id can only be committed in this order.
    pub(crate) order: (i64, i16, i64),
    pub(crate) writes: Vec<(i32, Value)>,
    /// What it wrote to partition 0 of whichever topics have the names of those that lose records.
    pub(crate) passing: Vec<(Kind, Value)>,
    /// What committed readers gave it while it was open.
    pub(crate) reads: Vec<Value>,
    /// The record that it was made from, if it was made from one, with its offset.
    pub(crate) source: Option<(i64, Value)>,
    /// Which group's offset in partition 0 it commits.
    pub(crate) offset: Option<(String, i64)>,
    pub(crate) begun: Moment,
    /// When it was first asked to be committed.
    pub(crate) asked: Option<Moment>,
    pub(crate) ended: Moment,
    /// Whether it was committed.
    pub(crate) outcome: Outcome<()>,
}

/// An answer to a reader.
#[derive(Debug, Clone)]
pub(crate) struct Poll {
    pub(crate) is_committed: bool,
    pub(crate) topic: Topic,
    pub(crate) partition: i32,
    pub(crate) from: i64,
    /// Where it goes on.
    pub(crate) next: i64,
    pub(crate) records: Vec<(i64, Value)>,
    /// Where the partition begins.
    pub(crate) start: i64,
    /// The high watermark.
    pub(crate) high: i64,
    pub(crate) begun: Moment,
    pub(crate) ended: Moment,
}

/// An answer to who looked for the first record that is no earlier than a time.
#[derive(Debug, Clone)]
pub(crate) struct Lookup {
    pub(crate) is_committed: bool,
    pub(crate) topic: Topic,
    pub(crate) partition: i32,
    /// None asks for the first one of the latest time.
    pub(crate) asked: Option<Timestamp>,
    /// Its offset and its time.
    pub(crate) found: Option<(i64, Timestamp)>,
    pub(crate) begun: Moment,
    pub(crate) ended: Moment,
}

/// What a consumer was given that read committed records of a partition, to its end and in less time
/// than tombstones stay.
#[derive(Debug, Clone)]
pub(crate) struct Sweep {
    pub(crate) topic: Topic,
    pub(crate) partition: i32,
    pub(crate) records: Vec<(i64, Value)>,
    /// Where it came to an end.
    pub(crate) next: i64,
}

/// A commit of a group that only goes forward.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub(crate) group: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) begun: Moment,
    pub(crate) ended: Moment,
    pub(crate) outcome: Outcome<()>,
}

/// Where such a group was told that it stands; -1 is nowhere.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) group: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) begun: Moment,
    pub(crate) ended: Moment,
}

/// Something that a static member's group agreed to, but for [`About::Unknown`].
#[derive(Debug, Clone)]
pub(crate) struct Word {
    pub(crate) instance: String,
    pub(crate) member: String,
    pub(crate) generation: i32,
    pub(crate) about: About,
    pub(crate) begun: Moment,
    pub(crate) ended: Moment,
}

/// See [`Word`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    /// It has the member's name.
    Join,
    /// It has what the member is to read.
    Sync,
    /// It lives, or commits.
    Rest,
    /// It was told that there is no such member, nor one of its instance.
    Unknown,
}

/// What was done to a topic by who keeps it.
#[derive(Debug, Clone)]
pub(crate) struct Deed {
    pub(crate) topic: Topic,
    pub(crate) what: What,
    pub(crate) begun: Moment,
    /// From here on it is done, or never will be.
    pub(crate) ended: Moment,
    pub(crate) outcome: Outcome<()>,
}

/// See [`Deed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// It was made, or given partitions, to have so many.
    Grow(i32),
    /// A partition's records before an offset were deleted.
    Trim(i32, i64),
    Delete,
}

/// What may become of a topic's records, and of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It and its first records go when somebody says so.
    Passing,
    /// The first go when there are many.
    Retained,
    /// A record goes when there is a later one with its key.
    Compacted,
}

impl Kind {
    pub(crate) fn has_keys(self) -> bool {
        self == Self::Compacted
    }
}

/// What a partition holds when all is over.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    pub(crate) start: i64,
    pub(crate) all: Vec<(i64, Value)>,
    pub(crate) committed: Vec<(i64, Value)>,
    pub(crate) high: i64,
    pub(crate) stable: i64,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    pub(crate) batches: Vec<Batch>,
    pub(crate) transactions: Vec<Transaction>,
    pub(crate) polls: Vec<Poll>,
    pub(crate) lookups: Vec<Lookup>,
    pub(crate) sweeps: Vec<Sweep>,
    pub(crate) commits: Vec<Commit>,
    pub(crate) looks: Vec<Look>,
    pub(crate) words: Vec<Word>,
    /// When so much time went by that static members were over.
    pub(crate) aged: Option<Moment>,
    /// What the wall clock showed before it was set, and behind that.
    pub(crate) wall: Vec<(Timestamp, Timestamp)>,
    /// What the steady topic's partitions hold.
    pub(crate) found: BTreeMap<i32, Found>,
    /// Topics of other kinds that there were.
    pub(crate) kinds: BTreeMap<Topic, Kind>,
    /// What became of those, in order.
    pub(crate) deeds: Vec<Deed>,
    /// Those that are left, with what their partitions hold.
    pub(crate) left: BTreeMap<Topic, BTreeMap<i32, Found>>,
    /// What a group that has no members commits for the topics that come and go; each offset once.
    pub(crate) passing_commits: Vec<Commit>,
    pub(crate) passing_looks: Vec<Look>,
    /// Where groups of transactions stand when all is over.
    pub(crate) standing: BTreeMap<String, i64>,
    /// Where groups stand when commits that nobody needs are no longer kept.
    pub(crate) outlived: BTreeMap<String, i64>,
}

/// How much there is of what.
impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn done<T>(outcomes: impl Iterator<Item = Outcome<T>>) -> usize {
            outcomes.filter(|outcome| matches!(outcome, Outcome::Done(_))).count()
        }
        let read: usize = self.polls.iter().map(|poll| poll.records.len()).sum();
        write!(
            f,
            "{} of {} batches, {} of {} transactions, {} of {} commits, {} looks, {read} records in {} polls, {} lookups, {} sweeps, {} of {} deeds",
            done(self.batches.iter().map(|it| it.outcome)),
            self.batches.len(),
            done(self.transactions.iter().map(|it| it.outcome)),
            self.transactions.len(),
            done(self.commits.iter().map(|it| it.outcome)),
            self.commits.len(),
            self.looks.len(),
            self.polls.len(),
            self.lookups.len(),
            self.sweeps.len(),
            done(self.deeds.iter().map(|it| it.outcome)),
            self.deeds.len(),
        )
    }
}
