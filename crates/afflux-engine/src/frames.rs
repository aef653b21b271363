//! Frames of a pipeline in its changelog topic: one record, in a batch of its own, per epoch.
//!
//! ```text
//! record key    the offset that the frame must get, i64 big endian
//! record value  the EpochFrame (afflux-record::changelog)
//! ```
//!
//! The engine is the only writer, so it knows every frame's offset before it submits it. If the
//! log refuses a frame (a full disk), those submitted behind it end up one offset too early. They
//! were computed from an epoch that never was, and are void: whoever reads frames leaves out
//! those whose key is not their offset. The pipeline opens again from the last valid one.

use afflux_log::{Entry, Isolation, Log, error::ReadError};
use afflux_record::{
    batch::{self, BatchError, Builder},
    changelog::{self, EpochFrame},
    compression::Compression,
};
use afflux_types::{Offset, Timestamp, TopicName, TopicPartition};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;

use crate::EngineError;

/// Bytes read from the log at once.
const READ_BYTES: usize = 1 << 20;

/// A valid frame and where it lies.
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

/// Records of the one partition of a topic in `[from, to)`, about `bytes_max` of them. `each`
/// gets a record's offset, key and value. Returns where to go on.
pub(crate) fn scan(
    log: &dyn Log,
    topic: &TopicName,
    (from, to): (Offset, Offset),
    bytes_max: usize,
    isolation: Isolation,
    mut each: impl FnMut(Offset, &Bytes, &Bytes) -> Result<(), EngineError>,
) -> Result<Offset, EngineError> {
    let partition = sole_partition(topic);
    let batches = log.read(&partition, from, to, bytes_max, isolation)?;
    let unreadable = |reason: String| EngineError::Unreadable { topic: topic.clone(), reason };
    for batch in &batches.batches {
        for record in batch::records(batch) {
            let record = record.map_err(|error| unreadable(error.to_string()))?;
            if record.offset < from || record.offset >= to {
                continue;
            }
            match (&record.key, &record.value) {
                (Some(key), Some(value)) => each(record.offset, key, value)?,
                _ => return Err(unreadable("a record without key or value".to_owned())),
            }
        }
    }
    Ok(batches.next.min(to))
}

/// Calls `each` with every valid frame in `[from, to)`, in order, reading in bounded pieces.
pub(crate) fn replay(
    log: &dyn Log,
    topic: &TopicName,
    (mut from, to): (Offset, Offset),
    isolation: Isolation,
    schema: &SchemaRef,
    mut each: impl FnMut(StoredFrame) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    while from < to {
        let next =
            scan(log, topic, (from, to), READ_BYTES, isolation, |offset, key, value| match valid(
                topic, offset, key, value, schema,
            )? {
                Some(frame) => each(frame),
                None => Ok(()),
            })?;
        if next <= from {
            return Err(EngineError::Read(ReadError::Corrupt {
                partition: sole_partition(topic),
                offset: from,
                reason: "there is nothing where a frame should be".to_owned(),
            }));
        }
        from = next;
    }
    Ok(())
}

/// The first valid frame in `[from, to)`.
pub(crate) fn first(
    log: &dyn Log,
    topic: &TopicName,
    (mut from, to): (Offset, Offset),
    schema: &SchemaRef,
) -> Result<Option<StoredFrame>, EngineError> {
    while from < to {
        let mut found = None;
        let next =
            scan(log, topic, (from, to), 1, Isolation::Uncommitted, |offset, key, value| {
                if found.is_none() {
                    found = valid(topic, offset, key, value, schema)?;
                }
                Ok(())
            })?;
        if found.is_some() || next <= from {
            return Ok(found);
        }
        from = next;
    }
    Ok(None)
}

fn valid(
    topic: &TopicName,
    offset: Offset,
    key: &Bytes,
    value: &Bytes,
    schema: &SchemaRef,
) -> Result<Option<StoredFrame>, EngineError> {
    if key.as_ref() != offset.0.to_be_bytes() {
        return Ok(None);
    }
    let frame = changelog::decode(value, schema).map_err(|error| EngineError::Unreadable {
        topic: topic.clone(),
        reason: format!("offset {offset}: {error}"),
    })?;
    Ok(Some(StoredFrame { offset, frame, bytes: value.len() }))
}
