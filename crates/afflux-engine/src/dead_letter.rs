//! Records and rows that a pipeline can not use, on their way to its dead-letter topic.
//!
//! A dead letter is the record as it came (key, value, headers), or the row as a JSON object,
//! with headers that say what was wrong with it and where it was read:
//! `afflux.error.reason`, `afflux.source.topic`, `afflux.source.partition`,
//! `afflux.source.offset`. Letters travel in the commit of the epoch that met them, so each is
//! written exactly once.

use std::ops::Range;

use afflux_codec::json;
use afflux_dataflow::RejectedRow;
use afflux_log::Entry;
use afflux_record::{
    batch::{BatchError, Builder, RecordHeader},
    compression::Compression,
};
use afflux_types::{Offset, Timestamp, TopicName, TopicPartition};
use bytes::Bytes;

/// How large a batch of letters grows before the next one begins.
const BATCH_BYTES: usize = 256 << 10;
/// How much of a reason is kept: a reason may quote the payload.
const REASON_BYTES: usize = 1 << 10;

/// One of them.
#[derive(Debug, Clone)]
pub(crate) struct DeadLetter {
    pub(crate) source: Option<(TopicPartition, Offset)>,
    pub(crate) timestamp: Timestamp,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<RecordHeader>,
    pub(crate) reason: String,
}

impl DeadLetter {
    /// Offsets whose records were dropped from the topic before it was known that they were read.
    pub(crate) fn of_gap(partition: &TopicPartition, gone: Range<Offset>) -> Self {
        let Range { start, end } = gone;
        Self {
            source: Some((partition.clone(), start)),
            timestamp: Timestamp(0),
            key: None,
            value: None,
            headers: Vec::new(),
            reason: format!(
                "offsets {start} to {end} of {partition} were deleted from the topic before the \
                 view had recorded that it read them"
            ),
        }
    }

    /// A row that an operator has rejected.
    pub(crate) fn of_row(rejected: &RejectedRow, now: Timestamp) -> Self {
        let value = json::rows(&rejected.row).into_iter().next();
        Self {
            source: None,
            timestamp: now,
            key: None,
            value: value.map(|row| Bytes::from(row.into_bytes())),
            headers: Vec::new(),
            reason: rejected.reason.clone(),
        }
    }
}

/// Letters as batches for the one partition of their topic.
pub(crate) fn entries(topic: &TopicName, letters: &[DeadLetter]) -> Result<Vec<Entry>, BatchError> {
    let mut entries = Vec::new();
    let mut builder = Builder::new(Compression::None);
    let mut finish = |builder: Builder| {
        let partition = TopicPartition::new(topic.clone(), 0);
        builder.finish().map(|batch| entries.push(Entry { partition, batch }))
    };
    for letter in letters {
        if builder.bytes() > BATCH_BYTES {
            finish(std::mem::replace(&mut builder, Builder::new(Compression::None)))?;
        }
        push(&mut builder, letter);
    }
    if builder.record_count() > 0 {
        finish(builder)?;
    }
    Ok(entries)
}

fn push(builder: &mut Builder, letter: &DeadLetter) {
    let reason = &letter.reason[..letter.reason.floor_char_boundary(REASON_BYTES)];
    let place = letter
        .source
        .as_ref()
        .map(|(at, offset)| (at.topic.as_str(), at.partition.to_string(), offset.to_string()));
    let mut headers: Vec<(&[u8], Option<&[u8]>)> =
        letter.headers.iter().map(|h| (h.name.as_ref(), h.value.as_deref())).collect();
    headers.push((b"afflux.error.reason", Some(reason.as_bytes())));
    if let Some((topic, partition, offset)) = &place {
        headers.push((b"afflux.source.topic", Some(topic.as_bytes())));
        headers.push((b"afflux.source.partition", Some(partition.as_bytes())));
        headers.push((b"afflux.source.offset", Some(offset.as_bytes())));
    }
    builder.push_with_headers(
        letter.timestamp,
        letter.key.as_deref(),
        letter.value.as_deref(),
        &headers,
    );
}
