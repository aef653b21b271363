//! Which records are old enough to go: by time, by size.
//!
//! The keeper goes round all partitions, [`PARTITIONS_PER_STEP`] a step, once in
//! [`LogOptions::retention_check`](crate::LogOptions). In a step:
//! 1. Each partition's stretches are noted under the sequencer's lock: one for its share of each
//!    sealed journal file, and one for each batch behind them, up to a bound.
//! 2. Outside of it, [`cut`] says how many of the oldest may go: those whose latest timestamp is
//!    too old, and those behind which enough bytes are left. Where the cut falls into a sealed
//!    file's share, the share's batches are looked at if size decides or the topic wants it so.
//! 3. Where partitions begin now is appended as one record of metadata and waited for, as by
//!    `trim`. (A crash before it is durable: nothing has gone. After it: as after 4.)
//! 4. Readers see it, and files in which nothing is shown any more are given back (see `keeper`).
//!
//! A round begins with forgetting the producers that have been silent for too long.
//!
//! Nothing goes that is not durable and below the last stable offset. No record is read: what
//! decides are the index's entries. Their sizes are kept once they were added up.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use afflux_types::{Offset, Timestamp, TopicPartition};
use hashbrown::HashMap;

use crate::{
    embedded::Shared,
    error::ReadError,
    index::{Run, Stretch},
    meta::Topic,
    settings::Rules,
};

/// How many partitions one step looks at.
const PARTITIONS_PER_STEP: usize = 64;
/// How many batches of the newest file one step looks at, a partition.
const BATCHES_PER_STEP: usize = 10_000;

/// What retention remembers.
#[derive(Debug, Default)]
pub(crate) struct Retention {
    /// When the next round begins, on the monotonic clock.
    due: Duration,
    /// Partitions that this round has not looked at.
    waiting: VecDeque<(Arc<Topic>, i32)>,
    /// Bytes of batches by partition, file and first offset there.
    sizes: HashMap<(u32, u64, i64), u64>,
}

impl Retention {
    /// Its first round begins then, on the monotonic clock.
    pub(crate) fn begin_at(due: Duration) -> Self {
        Self { due, ..Self::default() }
    }
}

/// How many of the oldest stretches may go. `behind` are the bytes of all of them and of what
/// follows them.
///
/// A stretch without timestamps is as old as the one behind it.
fn cut(stretches: &[Stretch], rules: &Rules, now: Timestamp, behind: u64) -> usize {
    let horizon = rules.retention.map(|kept| now.0.saturating_sub(kept.as_millis() as i64));
    let is_old = |stretch: &Stretch| {
        stretch.max_timestamp < 0 || horizon.is_some_and(|horizon| stretch.max_timestamp < horizon)
    };
    let old = stretches.iter().take_while(|stretch| is_old(stretch)).count();
    let timed = stretches[..old].iter().rposition(|stretch| stretch.max_timestamp >= 0);
    let by_time = timed.filter(|_| horizon.is_some()).map_or(0, |last| last + 1);
    let Some(limit) = rules.retention_bytes else { return by_time };
    let mut left = behind;
    let fits = |stretch: &&Stretch| {
        left = left.saturating_sub(stretch.bytes);
        left >= limit
    };
    by_time.max(stretches.iter().take_while(fits).count())
}

/// A partition as a step sees it.
struct Partition {
    runs: Vec<Run>,
    live: Vec<Stretch>,
    /// Bytes of all batches behind the runs.
    live_bytes: u64,
    start: i64,
    /// Nothing from here on may go.
    limit: i64,
}

impl Shared {
    /// Lets a round begin at once.
    pub(crate) fn retain_soon(&self) {
        self.retention.lock().due = Duration::ZERO;
        // Under the lock, or the keeper might just be about to wait.
        let _state = self.state.lock();
        self.chores.notify_one();
    }

    /// Whether there are partitions to be looked at.
    pub(crate) fn retention_is_due(&self) -> bool {
        let retention = self.retention.lock();
        !retention.waiting.is_empty() || self.env.clock.monotonic() >= retention.due
    }

    /// Looks at some partitions, and drops what is too old. Whether there were any.
    pub(crate) fn retain_step(&self) -> bool {
        if !self.retention_is_due() {
            return false;
        }
        let now = self.env.clock.now();
        let some = self.next_partitions(now);
        let mut found = Vec::new();
        for (topic, partition) in &some {
            let at = TopicPartition::new(topic.name.clone(), *partition);
            match self.outlived(topic, &at, now) {
                Ok(Some(start)) => found.push((topic, *partition, start)),
                // A file that was given back meanwhile was looked for in vain.
                Ok(None) | Err(ReadError::UnknownPartition(_)) => {}
                Err(error) => tracing::warn!(%error, "retention can not look at a partition"),
            }
        }
        if !found.is_empty() {
            let _changes = self.changes.lock();
            let starts = found
                .into_iter()
                // Changed or removed meanwhile: the next round sees what it is now.
                .filter(|(topic, ..)| {
                    self.meta.read().topic(&topic.name).is_some_and(|now| Arc::ptr_eq(now, topic))
                })
                .filter_map(|(topic, partition, start)| Some((topic.stream(partition)?, start)));
            if let Err(error) = self.move_starts(starts.collect()) {
                tracing::warn!(%error, "old records can not be dropped now");
            }
        }
        !some.is_empty()
    }

    /// The next partitions of this round, or the first of the next one.
    fn next_partitions(&self, now: Timestamp) -> Vec<(Arc<Topic>, i32)> {
        let begins = self.retention.lock().waiting.is_empty();
        let topics = if begins { self.meta.read().topics().to_vec() } else { Vec::new() };
        let mut files = Vec::new();
        if begins {
            let mut state = self.state.lock();
            state.expire_producers(now);
            files.extend(state.files.keys().copied());
        }
        let mut retention = self.retention.lock();
        if begins {
            retention.due = self.env.clock.monotonic() + self.options.retention_check;
            retention.sizes.retain(|(_, base, _), _| files.binary_search(base).is_ok());
            let limited = topics.into_iter().filter(|topic| {
                let rules = topic.settings.rules();
                let is_limited = rules.retention.is_some() || rules.retention_bytes.is_some();
                is_limited && !topic.name.is_internal()
            });
            retention.waiting = limited
                .flat_map(|topic| (0..topic.partitions).map(move |p| (topic.clone(), p)))
                .collect();
        }
        let count = retention.waiting.len().min(PARTITIONS_PER_STEP);
        retention.waiting.drain(..count).collect()
    }

    /// Where a partition is to begin, if records of it are too old.
    fn outlived(
        &self,
        topic: &Topic,
        at: &TopicPartition,
        now: Timestamp,
    ) -> Result<Option<Offset>, ReadError> {
        let rules = topic.settings.rules();
        let unknown = || ReadError::UnknownPartition(at.clone());
        let number = topic.stream(at.partition.0).ok_or_else(unknown)?;
        let by_size = rules.retention_bytes.is_some();
        let seen = self.see(number, by_size).ok_or_else(unknown)?;
        let mut stretches = Vec::with_capacity(seen.runs.len());
        let mut bytes = seen.live_bytes;
        for run in &seen.runs {
            let size = if by_size { self.shown_bytes(at, run, seen.start)? } else { 0 };
            bytes += size;
            let max_timestamp = run.max_timestamp;
            stretches.push(Stretch { end: run.end, bytes: size, max_timestamp });
        }
        let mut gone = cut(&stretches, rules, now, bytes);
        let mut start = seen.start;
        if let Some(last) = gone.checked_sub(1) {
            start = start.max(stretches[last].end);
            bytes -= stretches[..gone].iter().map(|stretch| stretch.bytes).sum::<u64>();
        }
        let inner: Vec<Stretch> = match seen.runs.get(gone) {
            Some(run) if by_size || rules.retention_by_batch => {
                let section = self.sections.get(&*self.env.disk, at, run)?;
                let shown = run.entries(&section).iter();
                let shown = shown.filter(|entry| entry.next() > seen.start);
                shown.map(Stretch::from).collect()
            }
            Some(_) => Vec::new(),
            None => seen.live,
        };
        gone = cut(&inner, rules, now, bytes);
        let allowed = inner[..gone].iter().rev().find(|stretch| stretch.end <= seen.limit);
        start = start.max(allowed.map_or(start, |stretch| stretch.end)).min(seen.limit);
        Ok((start > seen.start).then_some(Offset(start)))
    }

    /// What the index says of a partition.
    fn see(&self, number: u32, by_size: bool) -> Option<Partition> {
        let state = self.state.lock();
        let stream = state.streams.get(&number)?;
        let bounds = stream.bounds();
        let start = bounds.start.0;
        let first = stream.live.partition_point(|entry| entry.next() <= start);
        let live = stream.live.range(first..);
        let live_bytes =
            if by_size { live.clone().map(|entry| u64::from(entry.bytes)).sum() } else { 0 };
        Some(Partition {
            runs: stream.runs.iter().filter(|run| run.end > start).cloned().collect(),
            live: live.take(BATCHES_PER_STEP).map(Stretch::from).collect(),
            live_bytes,
            start,
            limit: bounds.stable.0,
        })
    }

    /// Bytes of the batches of a run that are still shown.
    pub(crate) fn shown_bytes(
        &self,
        partition: &TopicPartition,
        run: &Run,
        start: i64,
    ) -> Result<u64, ReadError> {
        let key = (run.index.runs[run.section as usize].stream, run.index.base, run.base);
        if run.base >= start
            && let Some(bytes) = self.retention.lock().sizes.get(&key)
        {
            return Ok(*bytes);
        }
        let section = self.sections.get(&*self.env.disk, partition, run)?;
        let shown = run.entries(&section).iter().filter(|entry| entry.next() > start);
        let bytes = shown.map(|entry| u64::from(entry.bytes)).sum();
        if run.base >= start {
            self.retention.lock().sizes.insert(key, bytes);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn rules(ms: &str, bytes: &str) -> Rules {
        let set = [("retention.ms", ms), ("retention.bytes", bytes)];
        let set = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Settings::new(set).unwrap().rules().clone()
    }

    #[test]
    fn the_oldest_go_first_and_nothing_out_of_turn() {
        let now = Timestamp(1000);
        // Timestamps; a hundred bytes each.
        let check = |times: &[i64], (ms, bytes): (&str, &str), expected: usize| {
            let stretches: Vec<Stretch> = times
                .iter()
                .zip(1..)
                .map(|(time, end)| Stretch { end, bytes: 100, max_timestamp: *time })
                .collect();
            let behind = 100 * times.len() as u64;
            let found = cut(&stretches, &rules(ms, bytes), now, behind);
            assert_eq!(found, expected, "{times:?} with {ms} ms, {bytes} bytes");
        };
        check(&[], ("100", "0"), 0);
        check(&[0, 500, 899, 900, 950], ("100", "-1"), 3);
        check(&[0, 950, 500], ("100", "-1"), 1);
        check(&[0, 500], ("-1", "-1"), 0);
        check(&[2000, 500], ("100", "-1"), 0);
        // Without a timestamp: as old as what follows.
        check(&[-1, 500, -1, 950], ("100", "-1"), 2);
        check(&[-1, -1], ("100", "-1"), 0);
        check(&[-1, -1], ("-1", "-1"), 0);
        // As many bytes as the limit always stay.
        check(&[0, 0, 0, 0], ("-1", "200"), 2);
        check(&[0, 0, 0, 0], ("-1", "201"), 1);
        check(&[0, 0, 0, 0], ("-1", "400"), 0);
        check(&[0, 0, 0, 0], ("-1", "0"), 4);
        // Whichever wants more.
        check(&[0, 950, 950, 950], ("100", "200"), 2);
        check(&[0, 0, 0, 950], ("100", "200"), 3);
    }
}
