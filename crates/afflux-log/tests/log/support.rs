//! Batches, groups and small logs.

use std::path::Path;

use afflux_env::{Env, sim::Sim};
use afflux_log::{
    Appended, EmbeddedLog, Entry, Group, Isolation, Log, LogOptions, Ticket, TopicSpec,
    error::{AppendError, OpenError},
};
use afflux_record::{
    Compression,
    batch::{Builder, Producer},
};
use afflux_types::{Offset, ProducerEpoch, ProducerId, Timestamp, TopicName, TopicPartition};
use bytes::Bytes;

pub(crate) const DIR: &str = "/data";

/// Files of 64 KiB, groups staged above 8 KiB in chunks of 4 KiB.
pub(crate) fn options() -> LogOptions {
    LogOptions {
        file_bytes: 64 << 10,
        first_file_bytes: 64 << 10,
        write_bytes_max: 16 << 10,
        whole_group_bytes_max: 8 << 10,
        chunk_bytes: 4 << 10,
        hot_bytes: 16 << 10,
        block_bytes: 4 << 10,
        block_cache_bytes: 16 << 10,
        index_cache_bytes: 4 << 10,
        free_bytes_min: 0,
        spares_max: 2,
        ..LogOptions::default()
    }
}

pub(crate) fn open(sim: &Sim) -> Result<EmbeddedLog, OpenError> {
    open_in(&sim.env())
}

pub(crate) fn open_in(env: &Env) -> Result<EmbeddedLog, OpenError> {
    EmbeddedLog::open_stepped(env, Path::new(DIR), options())
}

pub(crate) fn name(topic: &str) -> TopicName {
    TopicName::new(topic).unwrap()
}

pub(crate) fn partition(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(name(topic), partition)
}

pub(crate) fn topic(log: &EmbeddedLog, topic: &str, partitions: i32) {
    log.create_topic(&TopicSpec { name: name(topic), partitions }).unwrap();
}

/// A batch of records with these values, a millisecond apart.
pub(crate) fn batch(time: i64, values: &[&str]) -> Bytes {
    let mut builder = Builder::new(Compression::None);
    for (i, value) in values.iter().enumerate() {
        builder.push(Timestamp(time + i as i64), None, Some(value.as_bytes()));
    }
    builder.finish().unwrap()
}

pub(crate) fn numbered(id: i64, epoch: i16, sequence: i32, values: &[&str]) -> Bytes {
    let mut builder = Builder::new(Compression::None).producer(Producer {
        id: ProducerId(id),
        epoch: ProducerEpoch(epoch),
        base_sequence: sequence,
    });
    for value in values {
        builder.push(Timestamp(1), None, Some(value.as_bytes()));
    }
    builder.finish().unwrap()
}

pub(crate) fn group(entries: &[(TopicPartition, Bytes)]) -> Group {
    Group {
        entries: entries
            .iter()
            .map(|(partition, batch)| Entry { partition: partition.clone(), batch: batch.clone() })
            .collect(),
    }
}

pub(crate) fn settle(log: &EmbeddedLog, mut ticket: Ticket) -> Result<Appended, AppendError> {
    loop {
        if let Some(outcome) = ticket.poll_now() {
            return outcome;
        }
        assert!(log.step(), "a ticket waits for nothing");
    }
}

pub(crate) fn append(
    log: &EmbeddedLog,
    entries: &[(TopicPartition, Bytes)],
) -> Result<Appended, AppendError> {
    settle(log, log.append(&group(entries)))
}

/// Everything of a partition: offsets and values.
pub(crate) fn records(
    log: &EmbeddedLog,
    of: &TopicPartition,
    isolation: Isolation,
) -> Vec<(i64, String)> {
    try_records(log, of, isolation).unwrap()
}

/// As [`records`], or what is wrong.
pub(crate) fn try_records(
    log: &EmbeddedLog,
    of: &TopicPartition,
    isolation: Isolation,
) -> Result<Vec<(i64, String)>, String> {
    let mut found = Vec::new();
    let mut from = log.bounds(of).map_err(|error| error.to_string())?.start;
    loop {
        let read = log.read(of, from, Offset(i64::MAX), 1000, isolation);
        let batches = read.map_err(|error| error.to_string())?;
        if batches.batches.is_empty() {
            return Ok(found);
        }
        for batch in &batches.batches {
            afflux_record::batch::check(batch).map_err(|error| error.to_string())?;
            for record in afflux_record::records(batch) {
                let record = record.map_err(|error| error.to_string())?;
                let value = String::from_utf8_lossy(&record.value.unwrap_or_default()).into_owned();
                found.push((record.offset.0, value));
            }
        }
        if batches.next <= from {
            return Err(format!("a read from {from} goes on at {}", batches.next));
        }
        from = batches.next;
    }
}
