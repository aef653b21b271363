//! Frames of a pipeline in its changelog topic: one record, in a batch of its own, per epoch.
//!
//! ```text
//! record key    the frame's offset, i64 big endian
//! record value  the EpochFrame (afflux-record::changelog)
//! ```
//!
//! The engine is the only writer, so it knows every frame's offset before it submits it, and asks
//! the log to refuse the commit if that is not the offset it would get. So what was computed
//! behind a commit that was refused (a full disk) is refused too, with its dead letters; the
//! pipeline opens again from the last frame that is there.

use afflux_log::{Entry, Isolation, Log, error::ReadError};
use afflux_record::{
    batch::{self, BatchError, Builder, Record, Records},
    changelog::{self, EpochFrame},
    compression::Compression,
};
use afflux_types::{Offset, Timestamp, TopicName, TopicPartition};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;

use crate::EngineError;

/// Bytes read from the log at once.
const READ_BYTES: usize = 1 << 20;

/// A frame and where it lies.
pub(crate) struct StoredFrame {
    pub(crate) offset: Offset,
    pub(crate) frame: EpochFrame,
    pub(crate) bytes: usize,
}

/// The one partition of a topic of the engine's own.
pub(crate) fn sole_partition(topic: &TopicName) -> TopicPartition {
    TopicPartition::new(topic.clone(), 0)
}

/// One record as a batch for the one partition of a topic.
pub(crate) fn entry(
    topic: &TopicName,
    time: Timestamp,
    key: &[u8],
    value: &[u8],
) -> Result<Entry, BatchError> {
    let mut builder = Builder::new(Compression::None);
    builder.push(time, Some(key), Some(value));
    Ok(Entry { partition: sole_partition(topic), batch: builder.finish()? })
}

/// A frame as an entry for its topic.
pub(crate) fn frame_entry(
    topic: &TopicName,
    offset: Offset,
    time: Timestamp,
    frame: &Bytes,
) -> Result<Entry, BatchError> {
    entry(topic, time, &offset.0.to_be_bytes(), frame)
}

/// Calls `each` with offset, key and value of every record of the one partition of a topic in
/// `[from, to)`, in order, reading in bounded pieces.
pub(crate) fn scan(
    log: &dyn Log,
    topic: &TopicName,
    (mut from, to): (Offset, Offset),
    isolation: Isolation,
    mut each: impl FnMut(Offset, &Bytes, &Bytes) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let partition = sole_partition(topic);
    while from < to {
        let read = log.read(&partition, from, to, READ_BYTES, isolation)?;
        if read.next <= from {
            let reason = "there is nothing where a record should be".to_owned();
            return Err(ReadError::Corrupt { partition, offset: from, reason }.into());
        }
        for record in read.batches.iter().flat_map(own_records) {
            let record = readable(topic, record)?;
            if record.offset >= from && record.offset < to {
                let (key, value) = parts(topic, &record)?;
                each(record.offset, key, value)?;
            }
        }
        from = read.next;
    }
    Ok(())
}

/// Key and value of one record; none if it is not there yet.
pub(crate) fn record(
    log: &dyn Log,
    topic: &TopicName,
    offset: Offset,
    isolation: Isolation,
) -> Result<Option<(Bytes, Bytes)>, EngineError> {
    let read = log.read(&sole_partition(topic), offset, Offset(offset.0 + 1), 1, isolation)?;
    for record in read.batches.iter().flat_map(own_records) {
        let record = readable(topic, record)?;
        if record.offset == offset {
            let (key, value) = parts(topic, &record)?;
            return Ok(Some((key.clone(), value.clone())));
        }
    }
    Ok(None)
}

/// Calls `each` with every frame in `[from, to)`, in order.
pub(crate) fn replay(
    log: &dyn Log,
    topic: &TopicName,
    range: (Offset, Offset),
    schema: &SchemaRef,
    mut each: impl FnMut(StoredFrame) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    scan(log, topic, range, Isolation::Appended, |offset, key, value| {
        each(decode(topic, offset, (key, value), schema)?)
    })
}

/// The frame at an offset; none if it is not there yet.
pub(crate) fn at(
    log: &dyn Log,
    topic: &TopicName,
    offset: Offset,
    isolation: Isolation,
    schema: &SchemaRef,
) -> Result<Option<StoredFrame>, EngineError> {
    let record = record(log, topic, offset, isolation)?;
    record.map(|(key, value)| decode(topic, offset, (&key, &value), schema)).transpose()
}

/// The records of a batch of the engine's own: never compressed, as large as an epoch needs.
fn own_records(batch: &Bytes) -> Records {
    batch::records_bounded(batch, batch.len())
}

fn decode(
    topic: &TopicName,
    offset: Offset,
    (key, value): (&Bytes, &Bytes),
    schema: &SchemaRef,
) -> Result<StoredFrame, EngineError> {
    let damaged =
        |reason: String| unreadable(topic, &format_args!("the frame at offset {offset}: {reason}"));
    if key.as_ref() != offset.0.to_be_bytes() {
        return Err(damaged("its key is another's".to_owned()));
    }
    let frame = changelog::decode(value, schema).map_err(|error| damaged(error.to_string()))?;
    Ok(StoredFrame { offset, frame, bytes: value.len() })
}

fn readable(topic: &TopicName, record: Result<Record, BatchError>) -> Result<Record, EngineError> {
    record.map_err(|error| unreadable(topic, &error))
}

fn parts<'a>(topic: &TopicName, record: &'a Record) -> Result<(&'a Bytes, &'a Bytes), EngineError> {
    let parts = record.key.as_ref().zip(record.value.as_ref());
    parts.ok_or_else(|| {
        unreadable(topic, &format_args!("offset {}: a record without key or value", record.offset))
    })
}

/// A topic of the engine's own that holds something else.
pub(crate) fn unreadable(topic: &TopicName, reason: &dyn std::fmt::Display) -> EngineError {
    EngineError::Unreadable { topic: topic.clone(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read_however_large() {
        let topic = TopicName::new("t").unwrap();
        let value = vec![7; afflux_record::compression::UNPACKED_BYTES_MAX + 1];
        let entry = entry(&topic, Timestamp(1), b"k", &value).unwrap();
        let record = own_records(&entry.batch).next().unwrap().unwrap();
        assert!(record.value.unwrap() == value);
    }
}
