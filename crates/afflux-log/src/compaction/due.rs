//! Which partitions are compacted, and up to where.
//!
//! 1. What lies in journal files that are sealed can be compacted, the oldest first, and what lies
//!    behind them once it is old or much enough (`roll_after`, `roll_bytes`). All of it must be below
//!    the last stable offset and older than `lag_min`; of a sealed file, the newest record of the
//!    partition must be.
//! 2. It is, once the share of it among the partition's bytes is large enough (`dirty_ratio`): a
//!    pass writes what is left of all. Or once its oldest record is older than `lag_max`.
//! 3. Or if it pays for the journal: a small share of a file keeps all of it. The files that nothing
//!    but compacted partitions keep, all of which could go, are added up, and what passes over these partitions would write
//!    at most. If that is not more, all of them are due. So what is written for the sake of the
//!    journal's space is never more than what is given back.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use afflux_types::{Timestamp, TopicPartition};
use hashbrown::{HashMap, HashSet};

use crate::{
    embedded::Shared,
    error::ReadError,
    index::{Run, Stretch},
    journal::{COMPACTED, RunMeta},
    meta::{META_STREAM, Topic},
    settings::Compaction as Rules,
};

/// How many batches of the newest file are looked at, a partition.
const BATCHES_MAX: usize = 100_000;

/// How much of a partition can be compacted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Dirty {
    /// Behind the last offset of it.
    upper: i64,
    bytes: u64,
}

fn is_older(time: i64, than: std::time::Duration, now: Timestamp) -> bool {
    let than = i64::try_from(than.as_millis()).unwrap_or(i64::MAX);
    time <= now.0.saturating_sub(than)
}

/// Whether what has such a time may go. Without a lag it may whatever its time is, as in Kafka: that
/// can be ahead of the clock.
fn may_go(time: i64, rules: &Rules, now: Timestamp) -> bool {
    rules.lag_min.is_zero() || is_older(time, rules.lag_min, now)
}

/// How much can be compacted, of shares of sealed files and of batches behind them.
fn dirty(
    (from, stable): (i64, i64),
    (sealed, live): (&[Stretch], &[Stretch]),
    rules: &Rules,
    now: Timestamp,
) -> Dirty {
    let can =
        |stretch: &&Stretch| stretch.end <= stable && may_go(stretch.max_timestamp, rules, now);
    let mut found = Dirty { upper: from, bytes: 0 };
    let mut take = |stretches: &[Stretch]| {
        let count = stretches.iter().take_while(can).count();
        for stretch in &stretches[..count] {
            found.upper = stretch.end;
            found.bytes += stretch.bytes;
        }
        count == stretches.len()
    };
    if take(sealed) {
        let is_old = live.first().is_some_and(|b| is_older(b.max_timestamp, rules.roll_after, now));
        if is_old || live.iter().map(|batch| batch.bytes).sum::<u64>() >= rules.roll_bytes {
            take(live);
        }
    }
    found
}

/// What the index says of a partition.
struct Seen {
    runs: Vec<Run>,
    live: Vec<Stretch>,
    start: i64,
    stable: i64,
    compacted: i64,
}

impl Shared {
    fn look_at(&self, number: u32) -> Option<Seen> {
        let state = self.state.lock();
        let stream = state.streams.get(&number)?;
        let bounds = stream.bounds();
        let start = bounds.start.0;
        let live = stream.live.iter().filter(|entry| entry.next() > start);
        Some(Seen {
            runs: stream.runs.iter().filter(|run| run.end > start).cloned().collect(),
            live: live.take(BATCHES_MAX).map(Stretch::from).collect(),
            start,
            stable: bounds.stable.0,
            compacted: stream.compacted,
        })
    }

    /// Up to where a partition is to be compacted now, if it is.
    pub(super) fn compactable(
        &self,
        topic: &Topic,
        at: &TopicPartition,
        holds: bool,
    ) -> Result<Option<i64>, ReadError> {
        let unknown = || ReadError::UnknownPartition(at.clone());
        let Some(rules) = &topic.settings.rules().compaction else { return Ok(None) };
        let number = self.stream(at)?;
        let seen = self.look_at(number).ok_or_else(unknown)?;
        let now = self.env.clock.now();
        let mut clean = 0;
        let mut sealed = Vec::new();
        let mut oldest = None;
        for run in &seen.runs {
            let bytes = self.shown_bytes(at, run, seen.start)?;
            if run.is_compacted() {
                clean += bytes;
                continue;
            }
            if oldest.is_none() && rules.lag_max.is_some() {
                let section = self.sections.get(&*self.env.disk, at, run)?;
                oldest = run.entries(&section).first().map(|entry| entry.max_timestamp);
            }
            if run.end > seen.stable {
                // A transaction is open in it. What is before that need not wait.
                let section = self.sections.get(&*self.env.disk, at, run)?;
                sealed.extend(run.entries(&section).iter().map(Stretch::from));
                break;
            }
            sealed.push(Stretch { end: run.end, bytes, max_timestamp: run.max_timestamp });
        }
        let oldest = oldest.or(seen.live.first().map(|batch| batch.max_timestamp));
        let from = seen.compacted.max(seen.start);
        let found = dirty((from, seen.stable), (&sealed, &seen.live), rules, now);
        let is_late = rules.lag_max.zip(oldest).is_some_and(|(lag, time)| is_older(time, lag, now));
        let share = found.bytes as f64 / (found.bytes + clean).max(1) as f64;
        let pays = holds || share >= rules.dirty_ratio;
        Ok((found.upper > from && (is_late || pays)).then_some(found.upper))
    }

    /// Partitions that keep files of the journal which nothing but compacted ones keeps, if passes
    /// over all of them would write no more than what these files take.
    pub(super) fn holding(&self, compacted: &VecDeque<(Arc<Topic>, i32)>) -> HashSet<u32> {
        let number =
            |(topic, p): &(Arc<Topic>, i32)| Some((topic.stream(*p)?, (topic.clone(), *p)));
        // In order: what is read of them is read in the same order each time.
        let compacted: BTreeMap<u32, _> = compacted.iter().filter_map(number).collect();
        let mut holding = HashSet::new();
        if compacted.is_empty() {
            return holding;
        }
        // Where what is shown of each partition begins, and up to where it is stable.
        let (files, shown): (Vec<_>, HashMap<u32, (i64, i64)>) = {
            let state = self.state.lock();
            let files = state.files.range(..COMPACTED);
            let files = files.filter_map(|(_, f)| Some((f.file.capacity, f.index.clone()?)));
            let streams = state.streams.iter();
            let shown = streams.map(|(number, s)| (*number, (s.shown_from(), s.bounds().stable.0)));
            (files.collect(), shown.collect())
        };
        let now = self.env.clock.now();
        // Whether a pass would take all of a run away.
        let can_go = |run: &RunMeta| {
            let rules = compacted.get(&run.stream).map(|(topic, _)| topic.settings.rules());
            let stable = shown.get(&run.stream).map_or(0, |(_, stable)| *stable);
            rules
                .and_then(|rules| rules.compaction.as_ref())
                .is_some_and(|rules| run.end <= stable && may_go(run.max_timestamp, rules, now))
        };
        let shows = |run: &&RunMeta| {
            let from = shown.get(&run.stream).map(|(from, _)| *from);
            run.stream != META_STREAM && from.is_some_and(|from| from < run.end)
        };
        let mut held = 0;
        for (capacity, index) in files {
            let keep: Vec<&RunMeta> = index.runs.iter().filter(shows).collect();
            if !keep.is_empty() && keep.iter().all(|run| can_go(run)) {
                held += capacity;
                holding.extend(keep.iter().map(|run| run.stream));
            }
        }
        let mut bytes = 0;
        for (_, (topic, partition)) in compacted.iter().filter(|(it, _)| holding.contains(*it)) {
            let at = TopicPartition::new(topic.name.clone(), *partition);
            // What can not be read is told when it is looked at.
            bytes += self.bytes_of(&at).unwrap_or(u64::MAX / 2);
        }
        if bytes > held {
            holding.clear();
        }
        holding
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_stable_and_old_enough_can_be_compacted() {
        // Ends and times of shares of sealed files and of batches behind them; ten bytes each.
        type Given<'a> = &'a [(i64, i64)];
        let after = |lag, sealed: Given<'_>, live: Given<'_>, stable: i64, expected: (i64, u64)| {
            let rules = Rules {
                lag_min: Duration::from_millis(lag),
                lag_max: None,
                delete_retention: Duration::ZERO,
                dirty_ratio: 0.5,
                roll_after: Duration::from_millis(500),
                roll_bytes: 30,
            };
            let stretches = |given: Given<'_>| -> Vec<Stretch> {
                let all = given.iter();
                all.map(|(end, max_timestamp)| Stretch {
                    end: *end,
                    bytes: 10,
                    max_timestamp: *max_timestamp,
                })
                .collect()
            };
            let (sealed, live) = (stretches(sealed), stretches(live));
            let found = dirty((2, stable), (&sealed, &live), &rules, Timestamp(1000));
            assert_eq!((found.upper, found.bytes), expected, "{sealed:?} {live:?} {stable}");
        };
        after(1, &[(10, 999), (20, 1001)], &[], 99, (10, 10));
        after(0, &[(10, 999), (20, 1001)], &[], 99, (20, 20));
        let check = |sealed: Given<'_>, live: Given<'_>, stable: i64, expected: (i64, u64)| {
            after(100, sealed, live, stable, expected);
        };
        check(&[], &[], 99, (2, 0));
        check(&[(10, 0), (20, 900), (30, -1)], &[], 99, (30, 30));
        check(&[(10, 0), (20, 901), (30, -1)], &[], 99, (10, 10));
        check(&[(10, 0), (20, 0)], &[], 19, (10, 10));
        check(&[(10, 0)], &[(11, 501), (12, 0)], 99, (10, 10));
        check(&[(10, 0)], &[(11, 500), (12, 600)], 99, (12, 30));
        check(&[(10, 0)], &[(11, 501), (12, 900), (13, 0)], 99, (13, 40));
        check(&[(10, 950)], &[(11, 0), (12, 0), (13, 0)], 99, (2, 0));
        check(&[(10, 0)], &[(11, 0), (12, 0), (13, 0)], 12, (12, 30));
    }
}
