//! The log on its own threads and the machine's disk.

use std::{sync::Arc, time::Duration};

use afflux_env::real;
use afflux_log::{EmbeddedLog, Isolation, Log, LogOptions, TopicSpec};
use afflux_record::{Compression, batch::Builder};
use afflux_types::{Offset, TopicPartition};

use crate::support::*;

fn small() -> LogOptions {
    LogOptions {
        file_bytes: 1 << 20,
        first_file_bytes: 1 << 20,
        whole_group_bytes_max: 64 << 10,
        chunk_bytes: 32 << 10,
        hot_bytes: 128 << 10,
        block_bytes: 4 << 10,
        block_cache_bytes: 16 << 10,
        ..LogOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_producers_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let env = real::env();
    let log = Arc::new(EmbeddedLog::open(&env, dir.path(), small()).unwrap());
    log.ensure_topic(&TopicSpec { name: name("t"), partitions: 4 }).unwrap();
    let producers: Vec<_> = (0..4)
        .map(|p| {
            let log = log.clone();
            tokio::spawn(async move {
                for i in 0..200 {
                    let bytes = if i % 50 == 0 { 100_000 } else { 2000 };
                    let value = format!("{i} {}", "m".repeat(bytes));
                    log.ready().await;
                    let at = partition("t", p);
                    let entries = [(at, batch(i64::from(i), &[&value]))];
                    let appended = log.append(&group(&entries)).await.unwrap();
                    assert_eq!(appended.base_offsets, [Offset(i64::from(i))]);
                }
            })
        })
        .collect();
    for producer in producers {
        producer.await.unwrap();
    }
    let check = |log: &EmbeddedLog| {
        for p in 0..4 {
            let found = records(log, &TopicPartition::new(name("t"), p), Isolation::Uncommitted);
            assert_eq!(found.len(), 200);
            for (i, (offset, value)) in found.iter().enumerate() {
                assert_eq!(*offset, i as i64);
                assert!(value.starts_with(&format!("{i} ")));
            }
        }
    };
    check(&log);
    log.shutdown();
    check(&log);
    assert!(log.append(&group(&[(partition("t", 0), batch(0, &["late"]))])).await.is_err());
    drop(log);
    check(&EmbeddedLog::open(&env, dir.path(), small()).unwrap());
}

#[tokio::test]
async fn blocking_calls_do_not_mind_a_runtime_of_one_thread() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(&real::env(), dir.path(), small()).unwrap();
    topic(&log, "t", 1);
    let first = log.next_producer_id().unwrap();
    let second = log.next_producer_id().unwrap();
    assert_ne!(first, second);
    // More often than the runtime lets a task go on without yielding.
    for i in 0..200 {
        let appended = log.append(&group(&[(partition("t", 0), batch(0, &["x"]))])).wait().unwrap();
        assert_eq!(appended.base_offsets, [Offset(i)]);
    }
    log.delete_topic(&name("t")).unwrap();
}

/// Keys and offsets of a partition, read from its beginning.
fn keys(log: &EmbeddedLog, at: &TopicPartition) -> Vec<(Vec<u8>, i64)> {
    let mut found = Vec::new();
    let mut from = Offset::ZERO;
    loop {
        let read = log.fetch(at, from, 20_000, Isolation::Committed).unwrap();
        if read.next == from {
            return found;
        }
        for record in read.batches.iter().flat_map(afflux_record::records) {
            let record = record.unwrap();
            let last = found.last().map_or(-1, |(_, offset)| *offset);
            assert!(record.offset.0 > last, "{} behind {last}", record.offset);
            found.push((record.key.unwrap().to_vec(), record.offset.0));
        }
        from = read.next;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_goes_on_beside_writers_and_readers() {
    const RECORDS: i64 = 300;
    let dir = tempfile::tempdir().unwrap();
    let env = real::env();
    let options = LogOptions { retention_check: Duration::from_millis(2), ..small() };
    let log = Arc::new(EmbeddedLog::open(&env, dir.path(), options).unwrap());
    let spec = TopicSpec { name: name("t"), partitions: 2 };
    log.create_topic_with(&spec, crate::compaction::settings(&[])).unwrap();
    let tasks = (0..2).map(|p| {
        let (log, env) = (log.clone(), env.clone());
        tokio::spawn(async move {
            let value = "c".repeat(5_000);
            for i in 0..RECORDS {
                let mut builder = Builder::new(Compression::None);
                let key = format!("key {}", i % 7);
                builder.push(env.clock.now(), Some(key.as_bytes()), Some(value.as_bytes()));
                let entries = [(partition("t", p), builder.finish().unwrap())];
                let appended = log.append(&group(&entries)).await.unwrap();
                assert_eq!(appended.base_offsets, [Offset(i)]);
                if i % 20 == 0 {
                    assert!(keys(&log, &partition("t", p)).iter().any(|(_, last)| *last == i));
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let newest: Vec<i64> = (RECORDS - 7..RECORDS).collect();
    for p in 0..2 {
        let offsets = || keys(&log, &partition("t", p)).into_iter().map(|(_, offset)| offset);
        while !offsets().eq(newest.iter().copied()) {
            tokio::task::yield_now().await;
        }
    }
}
