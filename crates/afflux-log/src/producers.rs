//! Idempotent producers: which batches of a partition were written before, and which of them
//! belong to a transaction that is open.
//!
//! Per partition and producer the last five batches are kept, as many as a Kafka client has in
//! flight. A batch is checked like this (Kafka's `ProducerAppendInfo` is the model):
//! 1. an older epoch than the newest seen: fenced;
//! 2. a newer epoch: must begin at sequence 0, and forgets what was before;
//! 3. the same first and last sequence as one of the five: a retry, answered with the offset of
//!    the original;
//! 4. the sequence behind the last one: new;
//! 5. all of it older than the five: written before, its offset forgotten;
//! 6. anything else: out of order.
//!
//! A producer that the partition does not know may begin anywhere: who has been silent for long is
//! forgotten ([`LogOptions::producer_retention`](crate::LogOptions)).
//!
//! A transaction opens with a producer's first transactional batch and ends with its next marker.
//! While it is open, the producer writes nothing outside it and is not forgotten. A marker may
//! carry a newer epoch than the batches; the producer goes on with that, from sequence 0. One of an
//! older epoch is refused while a transaction is open, and else says nothing.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use afflux_record::{Marker, frame::BatchMeta};
use afflux_types::{Offset, ProducerEpoch, ProducerId, Timestamp};
use bytes::{Buf, BufMut};
use hashbrown::HashMap;

use crate::transactions::Ended;

/// As many batches as an idempotent client has in flight.
const BATCHES_KEPT: usize = 5;

/// A batch that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    base_sequence: i32,
    last_sequence: i32,
    base_offset: Offset,
    /// Behind its group in the journal.
    end: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    time: Timestamp,
    batches: VecDeque<Written>,
    /// The first offset of its open transaction.
    open: Option<i64>,
}

/// What is to be done with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Append it.
    New,
    /// It is there already.
    Duplicate {
        /// Where.
        base_offset: Offset,
        /// Behind its group in the journal.
        end: u64,
    },
    /// It is there already, but nobody knows where any more.
    Forgotten,
    /// One before it is missing.
    OutOfOrder {
        /// The last one there.
        last: Option<i32>,
    },
    /// A newer instance has written.
    Fenced {
        /// Its epoch.
        current: i16,
    },
    /// It is not part of the transaction that its producer has open.
    Outside,
}

/// A producer, as those who ask are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerState {
    /// Its id.
    pub id: ProducerId,
    /// The newest epoch seen.
    pub epoch: ProducerEpoch,
    /// The last sequence written with that epoch.
    pub last_sequence: Option<i32>,
    /// When it wrote last.
    pub time: Timestamp,
    /// Where its open transaction begins.
    pub open_from: Option<Offset>,
}

/// The producers of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Producers {
    known: HashMap<i64, Producer>,
    /// First offset and producer of each open transaction.
    open: BTreeSet<(i64, i64)>,
}

/// The sequence `by` behind another; sequences go round from `i32::MAX` to 0.
fn sequence_after(sequence: i32, by: i32) -> i32 {
    ((i64::from(sequence) + i64::from(by)) % (i64::from(i32::MAX) + 1)) as i32
}

/// How far `later` lies behind `earlier`, going round.
fn sequence_distance(earlier: i32, later: i32) -> i64 {
    (i64::from(later) - i64::from(earlier)).rem_euclid(i64::from(i32::MAX) + 1)
}

pub(crate) fn last_sequence(batch: &BatchMeta) -> i32 {
    sequence_after(batch.base_sequence, batch.last_offset_delta)
}

/// Whether the batch takes part at all. Markers, and what a coordinator writes as a part of a
/// transaction, have a producer but no sequence.
pub(crate) fn is_tracked(batch: &BatchMeta) -> bool {
    batch.producer.0 >= 0 && (batch.base_sequence >= 0 || batch.is_transactional())
}

/// Whether the batch has a sequence.
pub(crate) fn is_numbered(batch: &BatchMeta) -> bool {
    batch.producer.0 >= 0 && batch.base_sequence >= 0
}

impl Producers {
    /// Says what to do with a tracked batch.
    pub(crate) fn check(&self, batch: &BatchMeta) -> Verdict {
        let Some(producer) = self.known.get(&batch.producer.0) else {
            return Verdict::New;
        };
        let epoch = batch.producer_epoch.0;
        if epoch < producer.epoch {
            // The end of a transaction that came to nothing here, for somebody else's newer epoch
            // was first: its other partitions must not be held up by that.
            return match (batch.marker, producer.open) {
                (Some(_), None) => Verdict::New,
                _ => Verdict::Fenced { current: producer.epoch },
            };
        }
        if !is_numbered(batch) {
            return Verdict::New;
        }
        let newest = producer.batches.back().map(|written| written.last_sequence);
        if epoch > producer.epoch && producer.open.is_some() && !batch.is_transactional() {
            return Verdict::Outside;
        }
        if epoch > producer.epoch {
            return match batch.base_sequence {
                0 => Verdict::New,
                _ => Verdict::OutOfOrder { last: newest },
            };
        }
        let (Some(last), Some(oldest)) = (newest, producer.batches.front()) else {
            // A marker brought this epoch.
            return match batch.base_sequence {
                0 => Verdict::New,
                _ => Verdict::OutOfOrder { last: None },
            };
        };
        let ends = (batch.base_sequence, last_sequence(batch));
        let same = |written: &&Written| (written.base_sequence, written.last_sequence) == ends;
        if let Some(written) = producer.batches.iter().find(same) {
            return Verdict::Duplicate { base_offset: written.base_offset, end: written.end };
        }
        if batch.base_sequence == sequence_after(last, 1) {
            let is_inside = producer.open.is_none() || batch.is_transactional();
            return if is_inside { Verdict::New } else { Verdict::Outside };
        }
        // Before the oldest of the five, within half the circle.
        let before = sequence_distance(last_sequence(batch), oldest.base_sequence);
        if producer.batches.len() == BATCHES_KEPT && before > 0 && before < i64::from(i32::MAX) / 2
        {
            return Verdict::Forgotten;
        }
        Verdict::OutOfOrder { last: Some(last) }
    }

    /// Remembers a batch that was given offsets. The transaction that it ended, if it did.
    pub(crate) fn record(&mut self, batch: &BatchMeta, time: Timestamp, end: u64) -> Option<Ended> {
        if !is_tracked(batch) {
            return None;
        }
        let producer = self.known.entry(batch.producer.0).or_insert_with(|| Producer {
            epoch: batch.producer_epoch.0,
            time,
            batches: VecDeque::with_capacity(BATCHES_KEPT),
            open: None,
        });
        if producer.epoch < batch.producer_epoch.0 {
            producer.epoch = batch.producer_epoch.0;
            producer.batches.clear();
        }
        producer.time = time;
        if let Some(marker) = batch.marker {
            let first = producer.open.take()?;
            self.open.remove(&(first, batch.producer.0));
            return Some(Ended {
                producer: batch.producer.0,
                first,
                marker: batch.base_offset.0,
                stable: self.first_open().unwrap_or(batch.base_offset.0 + 1),
                aborted: marker == Marker::Abort,
            });
        }
        if batch.is_transactional() && producer.open.is_none() {
            producer.open = Some(batch.base_offset.0);
            self.open.insert((batch.base_offset.0, batch.producer.0));
        }
        if !is_numbered(batch) {
            return None;
        }
        if producer.batches.len() == BATCHES_KEPT {
            producer.batches.pop_front();
        }
        producer.batches.push_back(Written {
            base_sequence: batch.base_sequence,
            last_sequence: last_sequence(batch),
            base_offset: batch.base_offset,
            end,
        });
        None
    }

    /// Where the first of the open transactions begins.
    pub(crate) fn first_open(&self) -> Option<i64> {
        self.open.first().map(|(first, _)| *first)
    }

    /// All of them, in the order of their ids.
    pub(crate) fn states(&self) -> impl Iterator<Item = ProducerState> {
        let mut known: Vec<_> = self.known.iter().collect();
        known.sort_unstable_by_key(|(id, _)| **id);
        known.into_iter().map(|(id, producer)| ProducerState {
            id: ProducerId(*id),
            epoch: ProducerEpoch(producer.epoch),
            last_sequence: producer.batches.back().map(|written| written.last_sequence),
            time: producer.time,
            open_from: producer.open.map(Offset),
        })
    }

    /// The offset of the last batch of each producer that is known and durable.
    pub(crate) fn last_batches(&self, durable: u64) -> HashMap<i64, i64> {
        let last = self.known.iter().filter_map(|(id, producer)| {
            let last = producer.batches.iter().rfind(|written| written.end <= durable)?;
            Some((*id, last.base_offset.0))
        });
        last.collect()
    }

    /// Forgets producers that have not written for so long, and have no transaction open.
    pub(crate) fn expire(&mut self, now: Timestamp, silent: Duration) {
        let stays = |producer: &Producer| now.since(producer.time) < silent;
        self.known.retain(|_, producer| stays(producer) || producer.open.is_some());
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Writes all: count u32, then per producer id i64, epoch i16, time i64, first offset of its
    /// open transaction i64 or -1, batches u8 x (base sequence i32, last sequence i32, base offset
    /// i64, end u64).
    pub(crate) fn encode(&self, to: &mut Vec<u8>) {
        to.put_u32_le(self.known.len() as u32);
        for (id, producer) in &self.known {
            to.put_i64_le(*id);
            to.put_i16_le(producer.epoch);
            to.put_i64_le(producer.time.0);
            to.put_i64_le(producer.open.unwrap_or(-1));
            to.put_u8(producer.batches.len() as u8);
            for written in &producer.batches {
                to.put_i32_le(written.base_sequence);
                to.put_i32_le(written.last_sequence);
                to.put_i64_le(written.base_offset.0);
                to.put_u64_le(written.end);
            }
        }
    }

    /// Reads what [`Self::encode`] wrote; `None` if it ends early.
    pub(crate) fn decode(from: &mut &[u8]) -> Option<Self> {
        let mut producers = Self::default();
        for _ in 0..from.try_get_u32_le().ok()? {
            let id = from.try_get_i64_le().ok()?;
            let epoch = from.try_get_i16_le().ok()?;
            let time = Timestamp(from.try_get_i64_le().ok()?);
            let open = Some(from.try_get_i64_le().ok()?).filter(|first| *first >= 0);
            let mut batches = VecDeque::with_capacity(BATCHES_KEPT);
            for _ in 0..from.try_get_u8().ok()? {
                batches.push_back(Written {
                    base_sequence: from.try_get_i32_le().ok()?,
                    last_sequence: from.try_get_i32_le().ok()?,
                    base_offset: Offset(from.try_get_i64_le().ok()?),
                    end: from.try_get_u64_le().ok()?,
                });
            }
            producers.open.extend(open.map(|first| (first, id)));
            producers.known.insert(id, Producer { epoch, time, batches, open });
        }
        Some(producers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(epoch: i16, base_sequence: i32, records: i32) -> BatchMeta {
        BatchMeta {
            stream: 1,
            bytes: 100,
            base_offset: Offset(i64::from(base_sequence) + 1000),
            max_timestamp: Timestamp(0),
            producer: ProducerId(7),
            producer_epoch: ProducerEpoch(epoch),
            base_sequence,
            last_offset_delta: records - 1,
            attributes: 0,
            marker: None,
        }
    }

    #[test]
    fn sequences_are_checked_as_kafka_does() {
        let written = |batches: &[(i16, i32, i32)]| {
            let mut producers = Producers::default();
            for (epoch, sequence, records) in batches {
                let batch = batch(*epoch, *sequence, *records);
                assert_eq!(producers.check(&batch), Verdict::New);
                producers.record(&batch, Timestamp(0), 50);
            }
            producers
        };
        let check = |before: &[(i16, i32, i32)], (e, s, r): (i16, i32, i32), expected: Verdict| {
            assert_eq!(written(before).check(&batch(e, s, r)), expected, "{before:?} {s}");
        };
        let duplicate = |s: i64| Verdict::Duplicate { base_offset: Offset(1000 + s), end: 50 };
        let out = |last: i32| Verdict::OutOfOrder { last: Some(last) };
        check(&[], (0, 0, 1), Verdict::New);
        check(&[], (0, 5, 1), Verdict::New);
        check(&[(0, 0, 3)], (0, 3, 1), Verdict::New);
        check(&[(0, 0, 3)], (0, 4, 1), out(2));
        check(&[(0, 0, 3)], (0, 0, 3), duplicate(0));
        check(&[(0, 0, 3)], (0, 0, 2), out(2));
        check(&[(1, 0, 3)], (0, 3, 1), Verdict::Fenced { current: 1 });
        check(&[(0, 0, 3)], (1, 0, 1), Verdict::New);
        check(&[(0, 0, 3)], (1, 3, 1), out(2));
        check(&[(0, 0, 3), (1, 0, 1)], (1, 0, 1), duplicate(0));
        let six: Vec<_> = (0..6).map(|s| (0, s, 1)).collect();
        check(&six, (0, 0, 1), Verdict::Forgotten);
        check(&six, (0, 1, 1), duplicate(1));
        check(&six, (0, 8, 1), out(5));
        let max = i32::MAX;
        check(&[(0, max - 1, 2)], (0, 0, 1), Verdict::New);
        check(&[(0, max, 2)], (0, 1, 1), Verdict::New);
        check(&[(0, max, 2)], (0, max, 2), duplicate(i64::from(max)));
    }

    #[test]
    fn state_reads_back_and_expires() {
        let mut producers = Producers::default();
        producers.record(&batch(3, 0, 2), Timestamp(10), 64);
        producers.record(&batch(3, 2, 1), Timestamp(20), 128);
        let mut bytes = Vec::new();
        producers.encode(&mut bytes);
        assert_eq!(Producers::decode(&mut &bytes[..]), Some(producers.clone()));
        for cut in 0..bytes.len() {
            assert_eq!(Producers::decode(&mut &bytes[..cut]), None);
        }
        let silent = Duration::from_millis(30);
        producers.expire(Timestamp(49), silent);
        assert!(!producers.is_empty());
        producers.expire(Timestamp(50), silent);
        assert!(producers.is_empty());
    }

    const TRANSACTIONAL: i16 = 1 << 4;

    #[test]
    fn a_transaction_lasts_from_its_first_batch_to_its_marker() {
        let at = |offset: i64, of: i64, epoch: i16| BatchMeta {
            producer: ProducerId(of),
            base_offset: Offset(offset),
            attributes: TRANSACTIONAL,
            ..batch(epoch, 0, 1)
        };
        let marker = |offset: i64, of: i64, epoch: i16, marker: Marker| BatchMeta {
            base_sequence: -1,
            marker: Some(marker),
            ..at(offset, of, epoch)
        };
        let mut producers = Producers::default();
        assert_eq!(producers.record(&at(5, 1, 0), Timestamp(0), 0), None);
        assert_eq!(producers.record(&at(6, 2, 0), Timestamp(0), 0), None);
        assert_eq!(producers.first_open(), Some(5));
        let outside = BatchMeta { attributes: 0, base_sequence: 1, ..at(7, 1, 0) };
        assert_eq!(producers.check(&outside), Verdict::Outside);
        producers.expire(Timestamp(i64::MAX), Duration::ZERO);
        assert_eq!(producers.states().count(), 2, "open transactions are not forgotten");
        let mut bytes = Vec::new();
        producers.encode(&mut bytes);
        assert_eq!(Producers::decode(&mut &bytes[..]), Some(producers.clone()));

        let ended = producers.record(&marker(8, 1, 1, Marker::Abort), Timestamp(0), 0).unwrap();
        let expected = Ended { producer: 1, first: 5, marker: 8, stable: 6, aborted: true };
        assert_eq!(ended, expected);
        let ended = producers.record(&marker(9, 2, 0, Marker::Commit), Timestamp(0), 0).unwrap();
        assert_eq!((ended.first, ended.stable, ended.aborted), (6, 10, false));
        assert_eq!(producers.first_open(), None);
        assert_eq!(producers.record(&marker(10, 2, 0, Marker::Abort), Timestamp(0), 0), None);

        // The marker's epoch fences the old one, and is begun at 0.
        assert_eq!(producers.check(&at(11, 1, 0)), Verdict::Fenced { current: 1 });
        // With nothing to end, an older marker is taken and changes nothing.
        let late = marker(11, 1, 0, Marker::Commit);
        assert_eq!(producers.check(&late), Verdict::New);
        let before = producers.known[&1].epoch;
        assert_eq!(producers.record(&late, Timestamp(0), 0), None);
        assert_eq!(producers.known[&1].epoch, before);
        let later = BatchMeta { base_sequence: 1, ..at(11, 1, 1) };
        assert_eq!(producers.check(&later), Verdict::OutOfOrder { last: None });
        assert_eq!(producers.check(&at(11, 1, 1)), Verdict::New);
        // A marker of the same epoch changes nothing about sequences.
        let later = BatchMeta { base_sequence: 1, ..at(11, 2, 0) };
        assert_eq!(producers.check(&later), Verdict::New);
    }
}
