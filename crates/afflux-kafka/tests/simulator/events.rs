//! What worlds are for: each of these must have happened in one of them, or checkers that look for
//! its faults look at nothing.

use std::collections::BTreeMap;

use crate::history::{
    About, Deed, Found, History, Kind, Outcome, Sweep, What, Word, is_tombstone, key_of,
};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// A topic went.
    Deleted,
    /// Records were deleted on request.
    Trimmed,
    /// A topic got more partitions.
    Grown,
    /// Records were too old.
    Retained,
    /// A compaction left gaps.
    Compacted,
    /// A transactional id was given a new producer when the epochs of the old one had run out.
    Exhausted,
    /// Of a key that was deleted nothing is left, and somebody has read its tombstone.
    Forgotten,
    /// A static member has the place that another one of its name had before.
    Returned,
    /// The wall clock was set back, and forward.
    SetBack,
    SetForward,
}

impl Event {
    pub(crate) const ALL: [Self; 10] = [
        Self::Deleted,
        Self::Trimmed,
        Self::Grown,
        Self::Retained,
        Self::Compacted,
        Self::Exhausted,
        Self::Forgotten,
        Self::Returned,
        Self::SetBack,
        Self::SetForward,
    ];

    pub(crate) fn happened_in(self, history: &History) -> bool {
        match self {
            Self::Deleted => did(history, |it| it == What::Delete),
            Self::Trimmed => left(history, Kind::Passing).any(|found| found.start > 0),
            Self::Grown => did(history, |it| matches!(it, What::Grow(count) if count > 3)),
            Self::Retained => left(history, Kind::Retained).any(|found| found.start > 0),
            Self::Compacted => left(history, Kind::Compacted).any(has_gap),
            Self::Exhausted => is_exhausted(history),
            Self::Forgotten => history.sweeps.iter().any(|sweep| {
                let partitions = history.left.get(&sweep.topic);
                partitions.is_some_and(|partitions| is_forgotten(sweep, partitions))
            }),
            Self::Returned => syncs(history).any(|word| is_back(history, word)),
            Self::SetBack => history.wall.iter().any(|(before, behind)| behind < before),
            Self::SetForward => history.wall.iter().any(|(before, behind)| behind > before),
        }
    }
}

fn did(history: &History, is: fn(What) -> bool) -> bool {
    let is_done = |deed: &&Deed| deed.outcome == Outcome::Done(());
    history.deeds.iter().filter(is_done).any(|it| is(it.what))
}

fn left(history: &History, kind: Kind) -> impl Iterator<Item = &Found> {
    let its = history.left.iter().filter(move |(id, _)| history.kinds[*id] == kind);
    its.flat_map(|(_, partitions)| partitions.values())
}

fn has_gap(found: &Found) -> bool {
    let mut pairs = found.all.iter().zip(found.all.iter().skip(1));
    pairs.any(|((first, _), (next, _))| first + 1 < *next)
}

fn is_exhausted(history: &History) -> bool {
    let orders = || history.transactions.iter().map(|it| (&it.id, it.order));
    let is_fresh = |(id, (producer, epoch, _)): (&String, (i64, i16, i64))| {
        let mut others = orders().filter(|(other, _)| *other == id);
        others.any(|(_, (other, worn, _))| other < producer && worn > 30_000 && epoch < 100)
    };
    orders().any(is_fresh)
}

fn is_forgotten(sweep: &Sweep, partitions: &BTreeMap<i32, Found>) -> bool {
    let Some(found) = partitions.get(&sweep.partition) else { return false };
    let has = |value: &str| found.all.iter().any(|(_, it)| key_of(it) == key_of(value));
    sweep.records.iter().any(|(_, value)| is_tombstone(value) && !has(value))
}

fn syncs(history: &History) -> impl Iterator<Item = &Word> {
    history.words.iter().filter(|it| it.about == About::Sync)
}

fn is_back(history: &History, word: &Word) -> bool {
    let mut before = syncs(history).filter(|it| it.ended < word.begun && it.member != word.member);
    before.any(|it| (&it.instance, it.generation) == (&word.instance, word.generation))
}
