//! From a group as it was handed in to bytes that only lack their offsets.
//!
//! Done before the sequencer's lock is taken: batches are parsed and copied here, so that under
//! the lock only offsets are written. The copy is on purpose: the hot tail keeps these bytes, and
//! sharing the caller's would keep a whole request alive for one of its batches.

use afflux_record::{
    Header,
    frame::{self, BatchMeta},
};
use afflux_types::{Offset, Timestamp, TopicPartition};
use bytes::Bytes;
use hashbrown::HashMap;

use crate::{
    contract::{Entry, Group},
    error::AppendError,
    index::Stream,
    memory,
    meta::Meta,
    options::LogOptions,
};

/// A group that waits for its offsets.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// For error messages.
    pub(crate) partitions: Vec<TopicPartition>,
    /// What the index keeps of each batch; base offsets are not yet right.
    pub(crate) metas: Vec<BatchMeta>,
    /// Where streams must end when it gets its place.
    pub(crate) expected: Vec<(u32, TopicPartition, Offset)>,
    /// The bytes.
    pub(crate) body: Body,
    /// When it was handed in.
    pub(crate) time: Timestamp,
    /// Whether it changes the log's own metadata, for which some room is kept back.
    pub(crate) is_meta: bool,
    /// Whether its ticket is resolved once it has its place, before it is durable.
    pub(crate) is_relaxed: bool,
}

/// A group's bytes.
#[derive(Debug)]
pub(crate) enum Body {
    /// A group frame's payload, and where each batch begins in it.
    Whole(Vec<u8>, Vec<usize>),
    /// Batches to be staged.
    Staged(Vec<Bytes>),
}

impl Prepared {
    /// Bytes that it holds in memory.
    pub(crate) fn bytes(&self) -> usize {
        match &self.body {
            Body::Whole(payload, _) => payload.len(),
            Body::Staged(batches) => batches.iter().map(Bytes::len).sum(),
        }
    }

    /// Whether the partitions that it builds on end where it says.
    pub(crate) fn check_ends(&self, streams: &HashMap<u32, Stream>) -> Result<(), AppendError> {
        for (stream, partition, expected) in &self.expected {
            let (partition, expected) = (partition.clone(), *expected);
            match streams.get(stream).map(|stream| Offset(stream.end)) {
                None => return Err(AppendError::UnknownPartition(partition)),
                Some(end) if end != expected => {
                    return Err(AppendError::Overtaken { partition, expected, end });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Leaves only the batches that are to be written.
    pub(crate) fn retain(&mut self, keep: &[bool]) {
        let mut each = keep.iter();
        self.metas.retain(|_| *each.next().unwrap_or(&false));
        let mut each = keep.iter();
        self.partitions.retain(|_| *each.next().unwrap_or(&false));
        if let Body::Whole(payload, starts) = &self.body {
            let kept: Vec<(usize, usize)> = starts
                .iter()
                .enumerate()
                .filter(|(i, _)| keep[*i])
                .map(|(i, start)| {
                    (
                        *start,
                        starts
                            .get(i + 1)
                            .map_or(payload.len(), |next| next - frame::ENTRY_PREFIX_BYTES),
                    )
                })
                .collect();
            let mut fresh = memory::take(payload.len());
            frame::put_group(&mut fresh, self.time, kept.len());
            let starts = self
                .metas
                .iter()
                .zip(kept)
                .map(|(meta, (from, to))| {
                    frame::put_entry(&mut fresh, meta.stream, &payload[from..to])
                })
                .collect();
            self.body = Body::Whole(fresh, starts);
        }
    }
}

fn batch_meta(entry: &Entry, stream: u32) -> Result<BatchMeta, AppendError> {
    let malformed =
        |reason: String| AppendError::Malformed { partition: entry.partition.clone(), reason };
    let header = Header::parse(&entry.batch).map_err(|error| malformed(error.to_string()))?;
    if header.bytes != entry.batch.len() {
        let behind = entry.batch.len() - header.bytes;
        return Err(malformed(format!("{behind} bytes follow it")));
    }
    let meta = BatchMeta::new(stream, &header, &entry.batch);
    debug_assert!(afflux_record::batch::verify_crc(&entry.batch).is_ok(), "its checksum holds");
    if header.is_control() && meta.marker.is_none() {
        return Err(malformed("it is a control batch of an unknown kind".to_owned()));
    }
    if header.is_transactional() && !header.is_idempotent() {
        return Err(malformed("it is part of a transaction, but of no producer".to_owned()));
    }
    Ok(meta)
}

/// Checks a group and copies it into the shape it is written in.
pub(crate) fn prepare(
    meta: &Meta,
    options: &LogOptions,
    group: &Group,
    expected: &[(TopicPartition, Offset)],
    time: Timestamp,
) -> Result<Prepared, AppendError> {
    let find = |partition: &TopicPartition| {
        meta.topic(&partition.topic)
            .and_then(|topic| Some((topic, topic.stream(partition.partition.0)?)))
            .ok_or_else(|| AppendError::UnknownPartition(partition.clone()))
    };
    let mut metas = Vec::with_capacity(group.entries.len());
    let mut is_relaxed = expected.is_empty();
    for entry in &group.entries {
        let (topic, stream) = find(&entry.partition)?;
        is_relaxed &= topic.settings.rules().relaxed;
        metas.push(batch_meta(entry, stream)?);
    }
    let mut prepared = Prepared { is_relaxed, ..build(options, group, metas, time)? };
    for (partition, end) in expected {
        prepared.expected.push((find(partition)?.1, partition.clone(), *end));
    }
    Ok(prepared)
}

/// The same for batches whose streams are known.
pub(crate) fn build(
    options: &LogOptions,
    group: &Group,
    metas: Vec<BatchMeta>,
    time: Timestamp,
) -> Result<Prepared, AppendError> {
    let partitions: Vec<_> = group.entries.iter().map(|entry| entry.partition.clone()).collect();
    let bytes = frame::group_bytes(group.entries.iter().map(|entry| entry.batch.len()));
    let body = if bytes <= options.whole_group_bytes_max {
        let mut payload = memory::take(bytes);
        frame::put_group(&mut payload, time, metas.len());
        let entries = metas.iter().zip(&group.entries);
        let starts =
            entries.map(|(m, e)| frame::put_entry(&mut payload, m.stream, &e.batch)).collect();
        Body::Whole(payload, starts)
    } else {
        if !options.takes_group(metas.len(), bytes) {
            let largest = group.entries.iter().max_by_key(|entry| entry.batch.len());
            let partition = largest.unwrap_or(&group.entries[0]).partition.clone();
            let bytes_max = options.group_bytes_max;
            return Err(AppendError::TooLarge { partition, bytes, bytes_max });
        }
        Body::Staged(group.entries.iter().map(|entry| entry.batch.clone()).collect())
    };
    Ok(Prepared {
        partitions,
        metas,
        expected: Vec::new(),
        body,
        time,
        is_meta: false,
        is_relaxed: false,
    })
}
