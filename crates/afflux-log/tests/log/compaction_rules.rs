//! What compaction keeps for a while, gives back, and does when it can not go on.

use std::{path::Path, time::Duration};

use afflux_env::{
    Clock, Disk,
    sim::{Failure, Operation, Sim},
};
use afflux_log::{
    EmbeddedLog, Isolation, Log, LogOptions, TopicSpec,
    error::{OpenError, ReadError},
    repair::{self, RepairError},
};
use afflux_record::{
    Compression, Header, Marker,
    batch::{Builder, Producer},
};
use afflux_types::{Offset, ProducerEpoch, ProducerId, TopicPartition};
use bytes::Bytes;

use crate::{
    compaction::{files, headers, rest, settings, visible},
    damage::{self, flip, tail_file},
    support::*,
};

fn at() -> TopicPartition {
    partition("t", 0)
}

fn make(log: &EmbeddedLog, topic: &str, more: &[(&str, &str)]) {
    let spec = TopicSpec { name: name(topic), partitions: 1 };
    log.create_topic_with(&spec, settings(more)).unwrap();
}

/// A batch of keys and values, of the present time.
fn keyed(sim: &Sim, pairs: &[(&str, Option<&str>)]) -> Bytes {
    let mut builder = Builder::new(Compression::None);
    for (key, value) in pairs {
        builder.push(sim.clock.now(), Some(key.as_bytes()), value.map(str::as_bytes));
    }
    builder.finish().unwrap()
}

fn put(sim: &Sim, log: &EmbeddedLog, key: &str, value: Option<&str>) -> Offset {
    append(log, &[(at(), keyed(sim, &[(key, value)]))]).unwrap().base_offsets[0]
}

/// Lets a round of compaction go by.
fn round(sim: &Sim, log: &EmbeddedLog) {
    sim.clock.advance(Duration::from_mins(1));
    rest(log);
}

/// Offsets and keys of what is left.
fn left(log: &EmbeddedLog) -> Vec<(i64, String)> {
    let records = visible(log, &at(), log.bounds(&at()).unwrap().start);
    let key = |key: Option<Bytes>| String::from_utf8(key.unwrap().to_vec()).unwrap();
    records.into_iter().map(|record| (record.offset.0, key(record.key))).collect()
}

fn of(left: &[(i64, &str)]) -> Vec<(i64, String)> {
    left.iter().map(|(offset, key)| (*offset, (*key).to_owned())).collect()
}

#[test]
fn tombstones_go_after_their_time_and_never_before_what_they_delete() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    make(&log, "t", &[]);
    for (key, value) in [("a", Some("1")), ("b", Some("2")), ("a", None), ("c", Some("3"))] {
        put(&sim, &log, key, value);
    }
    round(&sim, &log);
    assert_eq!(left(&log), of(&[(1, "b"), (2, "a"), (3, "c")]));
    let horizon = headers(&log, &at()).iter().find_map(Header::delete_horizon);
    let horizon = horizon.expect("the batch of the tombstone has a horizon");
    // The passes that follow do not move it.
    for _ in 0..2 {
        sim.clock.advance(Duration::from_mins(28));
        put(&sim, &log, "d", Some("4"));
        round(&sim, &log);
        assert_eq!(left(&log)[..3], of(&[(1, "b"), (2, "a"), (3, "c")]));
        assert!(headers(&log, &at()).iter().any(|h| h.delete_horizon() == Some(horizon)));
    }
    assert!(sim.clock.now() < horizon);
    sim.clock.advance(Duration::from_mins(2));
    put(&sim, &log, "d", Some("5"));
    round(&sim, &log);
    assert_eq!(left(&log), of(&[(1, "b"), (3, "c"), (6, "d")]));
    drop(log);
    assert_eq!(left(&open(&sim).unwrap()), of(&[(1, "b"), (3, "c"), (6, "d")]));
}

#[test]
fn a_marker_outlives_the_records_of_its_transaction() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    make(&log, "t", &[]);
    let write = |producer: i64, key: &str| {
        let numbered =
            Producer { id: ProducerId(producer), epoch: ProducerEpoch(0), base_sequence: 0 };
        let mut builder = Builder::new(Compression::None).producer(numbered).transactional();
        builder.push(sim.clock.now(), Some(key.as_bytes()), Some(b"value"));
        append(&log, &[(at(), builder.finish().unwrap())]).unwrap();
    };
    let end = |producer: i64, marker: Marker| {
        let id = ProducerId(producer);
        let marker = marker.batch(id, ProducerEpoch(0), 0, sim.clock.now()).unwrap();
        append(&log, &[(at(), marker)]).unwrap();
    };
    // Offsets 0 and 1 are committed by 3, offset 2 is aborted by 4, 5 keeps what follows open.
    write(1, "a");
    write(2, "b");
    write(3, "c");
    end(1, Marker::Commit);
    end(3, Marker::Abort);
    end(2, Marker::Commit);
    write(4, "d");
    put(&sim, &log, "a", Some("newer"));
    let markers = || -> Vec<(i64, bool)> {
        let markers = headers(&log, &at()).into_iter().filter(Header::is_control);
        markers.map(|h| (h.base_offset.0, h.delete_horizon().is_some())).collect()
    };
    round(&sim, &log);
    // What is behind the open transaction is not looked at, so "a" stays.
    assert_eq!(left(&log), of(&[(0, "a"), (1, "b")]));
    assert_eq!(markers(), [(3, false), (4, false), (5, false)]);
    end(4, Marker::Commit);
    round(&sim, &log);
    // Of the second producer only a header is left; the aborted record went in the first pass.
    assert_eq!(left(&log), of(&[(1, "b"), (6, "d"), (7, "a")]));
    assert_eq!(markers(), [(3, false), (4, true), (5, false), (8, false)]);
    sim.clock.advance(Duration::from_hours(2));
    put(&sim, &log, "b", Some("newer"));
    round(&sim, &log);
    assert_eq!(markers(), [(3, true), (5, false), (8, false)]);
    sim.clock.advance(Duration::from_hours(2));
    put(&sim, &log, "e", Some("new"));
    round(&sim, &log);
    assert_eq!(markers(), [(5, true), (8, false)]);
    assert_eq!(log.producers(&at()).unwrap().len(), 4);
    let read = log.fetch(&at(), Offset(0), 1 << 20, Isolation::Committed).unwrap();
    assert_eq!(read.aborted, [], "nobody is told of what left no marker");
}

#[test]
fn a_topic_with_few_keys_does_not_keep_the_journal() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    // A pass would not pay by the share of what is new, nor for what is being written.
    let slow = [("min.cleanable.dirty.ratio", "1"), ("segment.ms", "604800000")];
    make(&log, "t", &slow);
    topic(&log, "flood", 1);
    let value = "f".repeat(3000);
    let mut most = 0;
    for i in 0..600 {
        put(&sim, &log, &format!("key {}", i % 5), Some("value"));
        let at = partition("flood", 0);
        append(&log, &[(at.clone(), batch(sim.clock.now().0, &[&value]))]).unwrap();
        if i % 20 == 0 {
            let end = log.bounds(&at).unwrap().end;
            log.trim(&at, end).unwrap();
            round(&sim, &log);
            let journal = damage::files(&sim, "journal").len() + files(&sim, "compacted");
            most = most.max(journal);
        }
    }
    assert!(most < 8, "{most} files of 64 KiB were kept");
    assert_eq!(left(&log).iter().rev().take(5).count(), 5);
    drop(log);
    let log = open(&sim).unwrap();
    let mut keys: Vec<String> = left(&log).into_iter().map(|(_, key)| key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 5);
}

#[test]
fn lags_and_shares_decide_when() {
    let passes = |more: &[(&str, &str)], minutes: u64| -> bool {
        let sim = Sim::new(1);
        let log = open(&sim).unwrap();
        make(&log, "t", more);
        put(&sim, &log, "a", Some("1"));
        put(&sim, &log, "a", Some("2"));
        for _ in 0..minutes {
            round(&sim, &log);
        }
        left(&log).len() == 1
    };
    let week = ("segment.ms", "604800000");
    assert!(passes(&[], 1));
    assert!(!passes(&[week], 10), "what is being written waits");
    assert!(!passes(&[week, ("max.compaction.lag.ms", "300000")], 4));
    assert!(passes(&[week, ("max.compaction.lag.ms", "300000")], 5));
    assert!(!passes(&[("min.compaction.lag.ms", "300000")], 4));
    assert!(passes(&[("min.compaction.lag.ms", "300000")], 5));
    assert!(!passes(&[("cleanup.policy", "delete")], 10));
}

#[test]
fn retention_drops_what_was_compacted_too() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    make(&log, "t", &[("cleanup.policy", "compact,delete"), ("retention.ms", "3600000")]);
    let value = "v".repeat(2000);
    for i in 0..100 {
        put(&sim, &log, &format!("key {}", i % 60), Some(&value));
    }
    round(&sim, &log);
    assert_eq!(left(&log).len(), 60);
    assert!(files(&sim, "compacted") > 1);
    sim.clock.advance(Duration::from_mins(58));
    put(&sim, &log, "late", Some("value"));
    round(&sim, &log);
    assert_eq!(left(&log).len(), 61);
    round(&sim, &log);
    round(&sim, &log);
    assert_eq!(left(&log), of(&[(100, "late")]));
    assert_eq!(files(&sim, "compacted"), 1);
    drop(log);
    let log = open(&sim).unwrap();
    assert_eq!(left(&log), of(&[(100, "late")]));
    assert_eq!(put(&sim, &log, "next", None), Offset(101));
}

#[test]
fn what_was_deleted_or_trimmed_meanwhile_leaves_nothing_behind() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    let value = "v".repeat(3000);
    for deletes in [true, false] {
        make(&log, "t", &[]);
        for i in 0..150 {
            put(&sim, &log, &format!("key {i}"), Some(&value));
        }
        rest(&log);
        sim.clock.advance(Duration::from_mins(1));
        // Into the middle of a pass.
        while files(&sim, "compacted") == 0 {
            assert!(log.step());
        }
        if deletes {
            log.delete_topic(&name("t")).unwrap();
        } else {
            log.trim(&at(), Offset(150)).unwrap();
        }
        round(&sim, &log);
        round(&sim, &log);
        assert_eq!(files(&sim, "compacted"), 0, "{deletes}");
    }
    assert_eq!(put(&sim, &log, "a", None), Offset(150));
    drop(log);
    assert_eq!(left(&open(&sim).unwrap()), of(&[(150, "a")]));
}

#[test]
fn without_room_nothing_is_compacted_and_nothing_lost() {
    let sim = Sim::new(1);
    let options = LogOptions { bytes_max: Some(256 << 10), ..options() };
    let log = EmbeddedLog::open_stepped(&sim.env(), Path::new(DIR), options).unwrap();
    make(&log, "t", &[]);
    let value = "v".repeat(3000);
    let mut count = 0;
    let mut key = |log: &EmbeddedLog| {
        count += 1;
        let batch = keyed(&sim, &[(&format!("key {}", count % 3), Some(&value))]);
        append(log, &[(at(), batch)])
    };
    while key(&log).is_ok() {}
    round(&sim, &log);
    assert_eq!(files(&sim, "compacted"), 0);
    assert!(left(&log).len() > 60);
    // Failures of the disk end a pass, not the log.
    drop(log);
    let log = open(&sim).unwrap();
    for operation in [Operation::Write, Operation::Sync] {
        sim.disk.fail_at(
            operation,
            sim.disk.count(operation) + 1,
            Failure::Error(std::io::ErrorKind::Other),
        );
        let before = left(&log).len();
        for _ in 0..3 {
            log.step();
        }
        assert!(log.failure().is_none());
        assert_eq!(left(&log).len(), before);
        round(&sim, &log);
    }
    round(&sim, &log);
    assert_eq!(left(&log).len(), 3);
    key(&log).unwrap();
}

/// A log of which something was compacted, closed.
fn compacted(seed: u64) -> Sim {
    let sim = Sim::new(seed);
    let log = open(&sim).unwrap();
    make(&log, "t", &[]);
    topic(&log, "kept", 1);
    append(&log, &[(partition("kept", 0), batch(0, &["so that its file stays"]))]).unwrap();
    let value = "v".repeat(3000);
    for i in 0..30 {
        put(&sim, &log, &format!("key {}", i % 10), Some(&value));
    }
    round(&sim, &log);
    assert_eq!(left(&log).len(), 10);
    drop(log);
    sim.disk.crash();
    sim
}

#[test]
fn damage_in_what_was_compacted_is_told() {
    let check = |sim: &Sim| repair::check(&sim.env(), Path::new(DIR)).unwrap().damage;
    let path = |sim: &Sim| damage::files(sim, "compacted")[0].clone();
    let sim = compacted(1);
    assert_eq!(check(&sim), []);
    // In a batch: who reads it is told.
    flip(&sim, &path(&sim), 4096 + 3500);
    let [damage] = &check(&sim)[..] else { panic!("one place") };
    assert!(!damage.stops && damage.reason.contains("offset 21"), "{damage:?}");
    let log = open(&sim).unwrap();
    let fetch = |from| log.fetch(&at(), from, 1 << 20, Isolation::Uncommitted);
    let before = fetch(Offset(0)).unwrap();
    assert_eq!((before.batches.len(), before.next), (1, Offset(21)));
    let error = fetch(before.next).unwrap_err();
    assert!(matches!(error, ReadError::Corrupt { offset: Offset(21), .. }), "{error}");
    drop(log);

    let stops = |sim: &Sim, part: &str| {
        let [damage] = &check(sim)[..] else { panic!("one place") };
        assert!(damage.stops && damage.reason.contains(part), "{damage:?}");
        let error = open(sim).err().unwrap();
        let OpenError::Corrupt { reason, .. } = &error else { panic!("{error}") };
        assert!(reason.contains(part), "{reason}");
        let refused = repair::repair(&sim.env(), Path::new(DIR), &options(), |_| true).unwrap_err();
        assert!(matches!(refused, RepairError::Compacted(_)), "{refused}");
    };
    flip(&sim, &path(&sim), 20);
    stops(&sim, "its first page");
    let sim = compacted(2);
    sim.disk.remove(&path(&sim)).unwrap();
    stops(&sim, "it is missing");
}

#[test]
fn a_repair_of_the_journal_keeps_what_was_compacted() {
    let sim = compacted(3);
    let log = open(&sim).unwrap();
    rest(&log);
    drop(log);
    // The change that names the file is among what is cut, which begins with the first frame of the
    // file being written.
    let expected = left(&open(&sim).unwrap());
    sim.disk.crash();
    flip(&sim, &tail_file(&sim), 4096 + 60);
    let checked = repair::check(&sim.env(), Path::new(DIR)).unwrap();
    assert!(checked.stop().is_some_and(|stop| stop.position.0 > 64 << 10), "{checked:?}");
    let named = checked.losses.iter().any(|loss| loss.partition == "t-0");
    assert!(!named, "nothing of it is lost: {checked:?}");
    repair::repair(&sim.env(), Path::new(DIR), &options(), |_| true).unwrap();
    let log = open(&sim).unwrap();
    assert_eq!(left(&log), expected);
    assert_eq!(put(&sim, &log, "next", None), Offset(30));
    round(&sim, &log);
    assert_eq!(left(&log).len(), 11);
}

/// An index that is missing is made from a file that still has what was compacted.
#[test]
fn what_was_compacted_does_not_come_back_with_an_index_made_anew() {
    let sim = Sim::new(5);
    let log = open(&sim).unwrap();
    make(&log, "t", &[]);
    topic(&log, "kept", 1);
    let value = "v".repeat(2000);
    for i in 0..40 {
        put(&sim, &log, &format!("key {}", i % 7), Some(&value));
        append(&log, &[(partition("kept", 0), batch(0, &[&value]))]).unwrap();
    }
    round(&sim, &log);
    // More, of which a part goes into the file that was compacted in the middle.
    for i in 40..60 {
        put(&sim, &log, &format!("key {i}"), Some(&value));
        append(&log, &[(partition("kept", 0), batch(0, &[&value]))]).unwrap();
    }
    rest(&log);
    let expected = left(&log);
    assert_eq!(expected.len(), 27);
    drop(log);
    for index in damage::files(&sim, "index") {
        sim.disk.remove(&index).unwrap();
    }
    let log = open(&sim).unwrap();
    assert_eq!(left(&log), expected);
    for from in 0..60 {
        let behind = visible(&log, &at(), Offset(from));
        let first = expected.iter().find(|(offset, _)| *offset >= from).map(|(offset, _)| *offset);
        let found = behind.iter().map(|r| r.offset.0).find(|offset| *offset >= from);
        assert_eq!(found, first, "from {from}");
    }
    let bytes: usize = headers(&log, &at()).iter().map(|header| header.bytes).sum();
    assert_eq!(log.partition_bytes(&at()).unwrap(), bytes as u64);
    round(&sim, &log);
    assert_eq!(left(&log), expected);
    assert_eq!(records(&log, &partition("kept", 0), Isolation::Uncommitted).len(), 60);
}

#[test]
fn producers_are_known_by_what_compaction_left_if_nothing_else_tells() {
    let sim = Sim::new(6);
    let log = open(&sim).unwrap();
    make(&log, "t", &[]);
    topic(&log, "flood", 1);
    let flood = partition("flood", 0);
    let batch_of = |id: i64, sequence: i32| {
        let (id, epoch) = (ProducerId(id), ProducerEpoch(0));
        let numbered = Producer { id, epoch, base_sequence: sequence };
        let mut builder = Builder::new(Compression::None).producer(numbered);
        builder.push(sim.clock.now(), Some(b"the only key"), Some(b"value"));
        builder.finish().unwrap()
    };
    let first = batch_of(5, 0);
    append(&log, &[(at(), first.clone())]).unwrap();
    append(&log, &[(at(), batch_of(6, 0))]).unwrap();
    let value = "f".repeat(3000);
    for _ in 0..100 {
        append(&log, &[(flood.clone(), batch(0, &[&value]))]).unwrap();
    }
    log.trim(&flood, Offset(100)).unwrap();
    round(&sim, &log);
    assert_eq!(left(&log).len(), 1);
    drop(log);
    for index in damage::files(&sim, "index") {
        sim.disk.remove(&index).unwrap();
    }
    assert!(!damage::files(&sim, "journal").contains(&Path::new(damage::FIRST).to_owned()));
    let log = open(&sim).unwrap();
    let again = append(&log, &[(at(), first)]).unwrap();
    assert_eq!(again.base_offsets, [Offset(0)], "its batch is empty, and known");
}
