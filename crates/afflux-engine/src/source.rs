//! Records of sources to columns, once for all who read them; and how far time has come.
//!
//! Decoding: all columns of a source are decoded, whichever a pipeline reads, so that whether a
//! record is good does not depend on who else is there. Within one pass of the line the outcome
//! is kept by (source, ranges), so pipelines that stand at the same offsets share it.
//!
//! What was dropped from a topic before it was read (by retention, or by a client) is stepped over
//! with a dead letter that says so.
//!
//! A topic can get more partitions. A pipeline takes them in before it reads to a tick, so it has
//! all that lie before the tick; it reads them from their first record on, wherever the source
//! starts: nothing was in them when the view was made.
//!
//! Time, per pipeline and source:
//! 1. a partition's watermark is the latest event time seen in it less the declared delay, and
//!    never goes back;
//! 2. the source's watermark is the lowest of its partitions' that are not idle, and never goes
//!    back either;
//! 3. a partition is idle once it has been read to its end for the source's idle timeout,
//!    counted in the epochs' logged time from the epoch that found it at its end. It is not idle
//!    while records of it wait to be read. If all are idle, time stands still;
//! 4. an idle partition's watermark is lifted to the source's: rows below it are late by now
//!    whichever partition brings them. So the logged watermarks alone tell the source's. A
//!    partition that is added begins with it too.

use std::{collections::HashMap, sync::Arc, time::Duration};

use afflux_catalog::{Format, Source};
use afflux_codec::json;
use afflux_log::{Isolation, Log, error::ReadError};
use afflux_plan::Column;
use afflux_record::batch::{self, Header, Record};
use afflux_types::{ObjectId, Offset, Timestamp, TopicPartition};
use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::max,
    datatypes::{
        DataType, Field, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
        TimestampNanosecondType, TimestampSecondType,
    },
};

use crate::{EngineError, dead_letter::DeadLetter};

const READ_BYTES: usize = 1 << 20;

/// Offsets of one partition that are to be read, half open.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Range {
    pub(crate) partition: usize,
    pub(crate) from: Offset,
    pub(crate) to: Offset,
}

/// What some ranges of a source hold.
pub(crate) struct Decoded {
    /// All columns of the source.
    pub(crate) batch: RecordBatch,
    /// The latest event time in each range, in the ranges' order.
    pub(crate) latest: Vec<Option<Timestamp>>,
    /// What could not be decoded.
    pub(crate) dead: Vec<DeadLetter>,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

/// Decodes, and remembers for the length of a pass.
pub(crate) struct Sources {
    log: Arc<dyn Log>,
    decoders: HashMap<ObjectId, json::Decoder>,
    pass: HashMap<(ObjectId, Vec<Range>), Arc<Decoded>>,
}

impl Sources {
    pub(crate) fn new(log: Arc<dyn Log>) -> Self {
        Self { log, decoders: HashMap::new(), pass: HashMap::new() }
    }

    /// Forgets what the pass has decoded.
    pub(crate) fn end_pass(&mut self) {
        self.pass.clear();
    }

    /// Forgets a source's decoder: nobody reads it any more, or it was dropped.
    pub(crate) fn retain(&mut self, keep: impl Fn(ObjectId) -> bool) {
        self.decoders.retain(|id, _| keep(*id));
    }

    /// The columns of some ranges of a source.
    pub(crate) fn decode(
        &mut self,
        id: ObjectId,
        source: &Source,
        ranges: Vec<Range>,
    ) -> Result<Arc<Decoded>, EngineError> {
        if let Some(decoded) = self.pass.get(&(id, ranges.clone())) {
            return Ok(Arc::clone(decoded));
        }
        let mut records = Vec::new();
        let mut dead = Vec::new();
        let mut ends = Vec::with_capacity(ranges.len());
        for range in &ranges {
            self.read(source, range, &mut records, &mut dead)?;
            ends.push(records.len());
        }
        let decoder = match self.decoders.entry(id) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(decoder(source)?),
        };
        let payloads: Vec<_> = records.iter().map(|(_, record)| record.value.as_deref()).collect();
        let decoded = decoder.decode(&payloads);
        for rejected in decoded.rejected {
            let (partition, record) = &records[rejected.record as usize];
            dead.push(DeadLetter {
                source: Some((
                    TopicPartition::new(source.topic.clone(), *partition),
                    record.offset,
                )),
                timestamp: record.timestamp,
                key: record.key.clone(),
                value: record.value.clone(),
                headers: record.headers.clone(),
                reason: rejected.reason,
            });
        }
        let latest = latest(source, &decoded.batch, &decoded.rows, &ends);
        let decoded = Arc::new(Decoded {
            batch: decoded.batch,
            latest,
            records: (records.len()) as u64,
            bytes: records
                .iter()
                .map(|(_, r)| r.value.as_ref().map_or(0, |v| v.len() as u64))
                .sum(),
            dead,
        });
        self.pass.insert((id, ranges), Arc::clone(&decoded));
        Ok(decoded)
    }

    fn read(
        &self,
        source: &Source,
        range: &Range,
        records: &mut Vec<(i32, Record)>,
        dead: &mut Vec<DeadLetter>,
    ) -> Result<(), EngineError> {
        let partition = TopicPartition::new(source.topic.clone(), range.partition as i32);
        let mut from = range.from;
        while from < range.to {
            let read = self.log.read(&partition, from, range.to, READ_BYTES, Isolation::Appended);
            let read = match read {
                Err(ReadError::OffsetOutOfRange { start, .. }) if start > from => {
                    let to = start.min(range.to);
                    dead.push(DeadLetter::of_gap(&partition, from..to));
                    from = to;
                    continue;
                }
                read => read?,
            };
            for bytes in &read.batches {
                let header = Header::parse(bytes);
                if header.as_ref().is_ok_and(Header::is_control) {
                    continue;
                }
                let base = header.map_or(from, |header| header.base_offset.max(from));
                for record in batch::records(bytes) {
                    match record {
                        Ok(record) if record.offset < from || record.offset >= range.to => {}
                        Ok(record) => records.push((range.partition as i32, record)),
                        Err(error) => dead.push(DeadLetter {
                            source: Some((partition.clone(), base)),
                            timestamp: Timestamp(0),
                            key: None,
                            value: Some(bytes.clone()),
                            headers: Vec::new(),
                            reason: format!("the record batch can not be read: {error}"),
                        }),
                    }
                }
            }
            if read.next <= from {
                return Err(EngineError::Read(ReadError::Corrupt {
                    partition,
                    offset: from,
                    reason: "there is nothing where a record should be".to_owned(),
                }));
            }
            from = read.next;
        }
        Ok(())
    }
}

/// A source's decoder, or why there is none.
pub(crate) fn decoder(source: &Source) -> Result<json::Decoder, EngineError> {
    match source.format {
        Format::Json => {
            let fields: Vec<Field> = Column::schema(&source.columns)
                .fields()
                .iter()
                .map(|field| field.as_ref().clone())
                .collect();
            json::Decoder::new(&fields).map_err(|error| EngineError::Unsupported(error.to_string()))
        }
    }
}

/// The latest event time of each range. `ends` are the ranges' ends among the records, `rows`
/// names each row's record.
fn latest(
    source: &Source,
    batch: &RecordBatch,
    rows: &[u32],
    ends: &[usize],
) -> Vec<Option<Timestamp>> {
    let Some(watermark) = &source.watermark else { return vec![None; ends.len()] };
    let column = batch.column(watermark.column);
    let mut start = 0;
    ends.iter()
        .map(|&end| {
            let end = rows.partition_point(|&record| (record as usize) < end);
            let slice = column.slice(start, end - start);
            start = end;
            latest_of(&slice)
        })
        .collect()
}

fn latest_of(times: &dyn Array) -> Option<Timestamp> {
    let DataType::Timestamp(unit, _) = times.data_type() else { return None };
    Some(Timestamp(match unit {
        TimeUnit::Second => max(times.as_primitive::<TimestampSecondType>())?.saturating_mul(1000),
        TimeUnit::Millisecond => max(times.as_primitive::<TimestampMillisecondType>())?,
        TimeUnit::Microsecond => {
            max(times.as_primitive::<TimestampMicrosecondType>())?.div_euclid(1000)
        }
        TimeUnit::Nanosecond => {
            max(times.as_primitive::<TimestampNanosecondType>())?.div_euclid(1_000_000)
        }
    }))
}

/// How far a pipeline has come in one source.
pub(crate) struct SourceInput {
    pub(crate) id: ObjectId,
    pub(crate) source: Source,
    pub(crate) partitions: Vec<SourcePartition>,
    watermark: Timestamp,
    /// The logged time at which `watermark` was last looked at.
    looked_at: Timestamp,
}

/// How far a pipeline has come in one partition.
pub(crate) struct SourcePartition {
    pub(crate) partition: TopicPartition,
    pub(crate) next: Offset,
    pub(crate) watermark: Timestamp,
    /// When it was found at its end, in logged time; none while there is more to read.
    at_end_since: Option<Timestamp>,
    /// Position and watermark as of the last frame.
    pub(crate) recorded: (Offset, Timestamp),
}

impl SourcePartition {
    fn new(partition: TopicPartition, next: Offset, watermark: Timestamp) -> Self {
        let recorded = (Offset(-1), Timestamp::MIN);
        Self { partition, next, watermark, at_end_since: None, recorded }
    }

    /// Whether a frame has its position.
    pub(crate) fn is_recorded(&self) -> bool {
        self.recorded.0 >= Offset::ZERO
    }
}

impl SourceInput {
    /// At the beginning of nothing: positions are set by the caller.
    pub(crate) fn new(id: ObjectId, source: Source, partition_count: i32) -> Self {
        let partitions = (0..partition_count)
            .map(|partition| {
                let partition = TopicPartition::new(source.topic.clone(), partition);
                SourcePartition::new(partition, Offset::ZERO, Timestamp::MIN)
            })
            .collect();
        Self { id, source, partitions, watermark: Timestamp::MIN, looked_at: Timestamp::MIN }
    }

    /// Takes in partitions that the topic got since, from their first record on.
    pub(crate) fn grow(&mut self, log: &dyn Log) -> Result<(), EngineError> {
        let count = log.partition_count(&self.source.topic).unwrap_or(0);
        for partition in self.partitions.len() as i32..count {
            let partition = TopicPartition::new(self.source.topic.clone(), partition);
            let start = log.bounds(&partition)?.start;
            self.partitions.push(SourcePartition::new(partition, start, self.watermark));
        }
        Ok(())
    }

    /// All logged positions were taken: partitions without one are younger than the last frame,
    /// which had them all.
    pub(crate) fn restored(&mut self, log: &dyn Log) -> Result<(), EngineError> {
        self.partitions.retain(SourcePartition::is_recorded);
        let watermarks = self.partitions.iter().map(|partition| partition.watermark);
        self.watermark = watermarks.min().unwrap_or(Timestamp::MIN);
        self.grow(log)
    }

    /// Takes a logged position.
    pub(crate) fn restore(&mut self, partition: usize, next: Offset, watermark: Timestamp) {
        if let Some(found) = self.partitions.get_mut(partition) {
            found.next = next;
            found.watermark = watermark;
            found.recorded = (next, watermark);
        }
    }

    /// What is to be read to come to these ends.
    pub(crate) fn ranges(&self, ends: &[Offset]) -> Vec<Range> {
        self.partitions
            .iter()
            .zip(ends)
            .enumerate()
            .filter(|(_, (partition, end))| **end > partition.next)
            .map(|(index, (partition, end))| Range {
                partition: index,
                from: partition.next,
                to: *end,
            })
            .collect()
    }

    /// Moves behind what was read.
    pub(crate) fn advance(&mut self, ranges: &[Range], decoded: &Decoded) {
        let delay = self.source.watermark.as_ref().map_or(0, |watermark| watermark.delay_ms);
        for (range, latest) in ranges.iter().zip(&decoded.latest) {
            let partition = &mut self.partitions[range.partition];
            partition.next = range.to;
            partition.at_end_since = None;
            if let Some(latest) = latest {
                let watermark = Timestamp(latest.0.saturating_sub(delay as i64));
                partition.watermark = partition.watermark.max(watermark);
            }
        }
    }

    /// The source's watermark at this logged time; none if it declares none. `at_end` tells
    /// whether a partition holds nothing more to read.
    pub(crate) fn watermark(
        &mut self,
        now: Timestamp,
        at_end: impl Fn(&SourcePartition) -> bool,
    ) -> Option<Timestamp> {
        self.source.watermark.as_ref()?;
        self.looked_at = now;
        for partition in &mut self.partitions {
            if at_end(partition) {
                partition.at_end_since.get_or_insert(now);
            } else {
                partition.at_end_since = None;
            }
        }
        let timeout = Duration::from_millis(self.source.idle_timeout_ms);
        let idle = |p: &SourcePartition| p.at_end_since.is_some_and(|at| now.since(at) >= timeout);
        let active = self.partitions.iter().filter(|p| !idle(p));
        if let Some(lowest) = active.map(|partition| partition.watermark).min() {
            self.watermark = self.watermark.max(lowest);
        }
        let lowest = self.watermark;
        for partition in self.partitions.iter_mut().filter(|p| idle(p)) {
            partition.watermark = partition.watermark.max(lowest);
        }
        Some(self.watermark)
    }

    /// When an idle partition would next let the source's watermark rise, if nothing comes.
    pub(crate) fn idle_deadline(&self) -> Option<Timestamp> {
        self.source.watermark.as_ref()?;
        let highest = self.partitions.iter().map(|partition| partition.watermark).max()?;
        let timeout = Duration::from_millis(self.source.idle_timeout_ms);
        // Those that hold the source back, unless no other is ahead of them.
        self.partitions
            .iter()
            .filter(|partition| partition.watermark < highest)
            .filter_map(|partition| Some(partition.at_end_since?.saturating_add(timeout)))
            .filter(|deadline| *deadline > self.looked_at)
            .min()
    }
}

#[cfg(test)]
mod tests;
