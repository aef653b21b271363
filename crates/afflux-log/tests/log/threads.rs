//! The log on its own threads and the machine's disk.

use std::sync::Arc;

use afflux_env::real;
use afflux_log::{EmbeddedLog, Isolation, Log, LogOptions, TopicSpec};
use afflux_types::{Offset, TopicPartition};

use crate::support::*;

fn small() -> LogOptions {
    LogOptions {
        file_bytes: 1 << 20,
        first_file_bytes: 1 << 20,
        whole_group_bytes_max: 64 << 10,
        chunk_bytes: 32 << 10,
        hot_bytes: 128 << 10,
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
    log.delete_topic(&name("t")).unwrap();
}
