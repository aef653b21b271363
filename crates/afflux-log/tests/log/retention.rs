//! Old records go, by time and by size, and stay gone; partitions are added; epochs end; relaxed
//! topics acknowledge early.

use std::{path::Path, time::Duration};

use afflux_env::{
    Clock, Disk,
    sim::{Failure, Operation, Sim},
};
use afflux_log::{
    EmbeddedLog, Entry, Group, Isolation, Log, TopicSpec, error::TopicError, settings::Settings,
};
use afflux_types::{LeaderEpoch, Offset};

use crate::support::*;

fn settings(set: &[(&str, &str)]) -> Settings {
    let set = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Settings::new(set).unwrap()
}

fn with(log: &EmbeddedLog, topic: &str, set: &[(&str, &str)]) {
    let spec = TopicSpec { name: name(topic), partitions: 1 };
    log.create_topic_with(&spec, settings(set)).unwrap();
}

fn journal_files(sim: &Sim) -> usize {
    let files = sim.disk.list(Path::new("/data/journal")).unwrap();
    files.iter().filter(|path| path.extension().unwrap() == "journal").count()
}

/// A batch of about 3 KB, of the present time.
fn fill(sim: &Sim, log: &EmbeddedLog, topic: &str, count: usize) {
    let value = "r".repeat(3000);
    for _ in 0..count {
        append(log, &[(partition(topic, 0), batch(sim.clock.now().0, &[&value]))]).unwrap();
    }
}

fn rest(log: &EmbeddedLog) {
    while log.step() {}
}

fn start(log: &EmbeddedLog, topic: &str) -> i64 {
    log.bounds(&partition(topic, 0)).unwrap().start.0
}

#[test]
fn records_go_by_time_and_give_their_files_back() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    with(&log, "t", &[("retention.ms", "3600000")]);
    topic(&log, "kept", 1);
    fill(&sim, &log, "t", 100);
    append(&log, &[(partition("kept", 0), batch(0, &["old, and kept"]))]).unwrap();
    rest(&log);
    let before = journal_files(&sim);
    sim.clock.advance(Duration::from_mins(59));
    fill(&sim, &log, "t", 1);
    rest(&log);
    assert_eq!(start(&log, "t"), 0);
    sim.clock.advance(Duration::from_mins(2));
    rest(&log);
    assert_eq!(start(&log, "t"), 100, "the newest is not old yet");
    assert!(journal_files(&sim) < before);
    assert_eq!(start(&log, "kept"), 0);
    std::mem::forget(log);
    sim.disk.crash();
    let log = open(&sim).unwrap();
    assert_eq!(start(&log, "t"), 100);
    assert_eq!(records(&log, &partition("t", 0), Isolation::Uncommitted).len(), 1);
    assert_eq!(records(&log, &partition("kept", 0), Isolation::Uncommitted).len(), 1);
}

#[test]
fn as_many_bytes_stay_as_were_asked_for() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    with(&log, "t", &[("retention.bytes", "50000"), ("retention.ms", "-1")]);
    fill(&sim, &log, "t", 100);
    rest(&log);
    sim.clock.advance(Duration::from_mins(2));
    rest(&log);
    let bytes = log.partition_bytes(&partition("t", 0)).unwrap();
    assert!((50_000..54_000).contains(&bytes), "{bytes} bytes are left");
    // What is set anew holds at once.
    let done = log.alter_topic(&name("t"), |_| Ok(settings(&[("retention.bytes", "10000")])));
    done.unwrap();
    rest(&log);
    let bytes = log.partition_bytes(&partition("t", 0)).unwrap();
    assert!((10_000..14_000).contains(&bytes), "{bytes} bytes are left");
}

#[test]
fn a_crash_at_each_step_leaves_a_valid_log() {
    // What is kept must be there in full, and what went must not come back in part.
    let run = |seed: u64, cut: Option<(Operation, u64)>| {
        let sim = Sim::new(seed);
        let log = open(&sim).unwrap();
        with(&log, "t", &[("retention.bytes", "20000")]);
        topic(&log, "kept", 1);
        fill(&sim, &log, "t", 60);
        append(&log, &[(partition("kept", 0), batch(0, &["a"]))]).unwrap();
        rest(&log);
        let counted = [Operation::Write, Operation::Sync].map(|of| sim.disk.count(of));
        if let Some((operation, n)) = cut {
            sim.disk.fail_at(operation, n, Failure::Crash);
        }
        sim.clock.advance(Duration::from_mins(2));
        for _ in 0..100 {
            log.step();
        }
        let did = [Operation::Write, Operation::Sync].map(|of| sim.disk.count(of));
        std::mem::forget(log);
        sim.disk.crash();
        let log = open(&sim).unwrap();
        let start = start(&log, "t");
        let found = records(&log, &partition("t", 0), Isolation::Uncommitted);
        let offsets: Vec<i64> = found.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(offsets, (start..60).collect::<Vec<_>>(), "{seed} {cut:?}");
        assert_eq!(records(&log, &partition("kept", 0), Isolation::Uncommitted).len(), 1);
        fill(&sim, &log, "t", 1);
        (did[0] - counted[0], did[1] - counted[1], start)
    };
    let mut starts = std::collections::BTreeSet::new();
    for seed in 0..8 {
        let (writes, syncs, start) = run(seed, None);
        assert!(start > 50 && writes > 0 && syncs > 0, "{writes} {syncs} {start}");
        let cuts = (1..=writes).map(|n| (Operation::Write, n));
        for cut in cuts.chain((1..=syncs).map(|n| (Operation::Sync, n))) {
            starts.insert(run(seed, Some(cut)).2);
        }
    }
    assert!(starts.len() > 1, "no cut came before the change was durable: {starts:?}");
}

#[test]
fn a_topic_grows_and_keeps_what_it_has() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    topic(&log, "t", 2);
    topic(&log, "u", 1);
    append(&log, &[(partition("t", 1), batch(1, &["a"]))]).unwrap();
    assert!(matches!(log.grow_topic(&name("t"), 2), Err(TopicError::Shrinks { .. })));
    assert!(matches!(log.grow_topic(&name("v"), 2), Err(TopicError::Unknown(_))));
    assert_eq!(log.grow_topic(&name("t"), 4).unwrap().partitions, 4);
    append(&log, &[(partition("t", 3), batch(1, &["b"])), (partition("u", 0), batch(1, &["c"]))])
        .unwrap();
    drop(log);
    let log = open(&sim).unwrap();
    for (at, value) in [(("t", 1), "a"), (("t", 3), "b"), (("u", 0), "c")] {
        let found = records(&log, &partition(at.0, at.1), Isolation::Uncommitted);
        assert_eq!(found, [(0, value.to_owned())]);
    }
    assert!(log.bounds(&partition("t", 4)).is_err());
}

#[test]
fn an_epoch_ends_where_the_next_begins() {
    let sim = Sim::new(1);
    let mut log = open(&sim).unwrap();
    with(&log, "t", &[("retention.ms", "-1")]);
    // Epochs 1, 3 and 4 write 30 batches each, over several files; 2 writes none.
    for epoch in 1..=4 {
        if epoch != 2 {
            fill(&sim, &log, "t", 30);
            rest(&log);
        }
        drop(log);
        log = open(&sim).unwrap();
    }
    let check = |epoch: i32, expected: Option<(i32, i64)>| {
        let found = log.epoch_end(&partition("t", 0), LeaderEpoch(epoch)).unwrap();
        assert_eq!(found.map(|end| (end.epoch.0, end.end.0)), expected, "epoch {epoch}");
    };
    check(0, Some((0, 0)));
    check(1, Some((1, 30)));
    check(2, Some((1, 30)));
    check(3, Some((3, 60)));
    check(4, Some((4, 90)));
    check(5, Some((5, 90)));
    check(6, None);
    assert_eq!(log.bounds(&partition("t", 0)).unwrap().end, Offset(90));
}

#[test]
fn the_logs_own_limit_is_kept() {
    let sim = Sim::new(1);
    let options = afflux_log::LogOptions { bytes_max: Some(256 << 10), ..options() };
    let log = EmbeddedLog::open_stepped(&sim.env(), Path::new(DIR), options.clone()).unwrap();
    topic(&log, "t", 1);
    let value = "f".repeat(2000);
    let full = loop {
        match append(&log, &[(partition("t", 0), batch(0, &[&value]))]) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(full, afflux_log::error::AppendError::DiskFull { .. }), "{full}");
    assert_eq!(journal_files(&sim), 4);
    // What retention gives back is used again.
    let limit = settings(&[("retention.bytes", "1000")]);
    log.alter_topic(&name("t"), |_| Ok(limit)).unwrap();
    rest(&log);
    append(&log, &[(partition("t", 0), batch(0, &[&value]))]).unwrap();
    drop(log);
    let small = afflux_log::LogOptions { bytes_max: Some(64 << 10), ..options };
    assert!(EmbeddedLog::open_stepped(&sim.env(), Path::new(DIR), small).is_err());
}

#[test]
fn relaxed_records_are_acknowledged_before_they_are_durable_and_not_shown() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    with(&log, "relaxed", &[("durability", "relaxed")]);
    with(&log, "synced", &[]);
    rest(&log);
    let bounds = |log: &EmbeddedLog, topic: &str| {
        let bounds = log.bounds(&partition(topic, 0)).unwrap();
        (bounds.durable.0, bounds.end.0)
    };
    let group = |topics: &[&str]| {
        let entry = |topic: &&str| {
            let batch = batch(sim.clock.now().0, &["value"]);
            Entry { partition: partition(topic, 0), batch }
        };
        Group { entries: topics.iter().map(entry).collect() }
    };
    let appended = log.append(&group(&["relaxed"])).poll_now().unwrap().unwrap();
    assert_eq!((appended.base_offsets, bounds(&log, "relaxed")), (vec![Offset(0)], (0, 1)));
    assert!(log.append(&group(&["synced"])).poll_now().is_none());
    // A group is as strict as the strictest of its topics.
    let mut both = log.append(&group(&["relaxed", "synced"]));
    assert!(both.poll_now().is_none());
    rest(&log);
    assert!(both.poll_now().unwrap().is_ok());
    assert_eq!((bounds(&log, "relaxed"), bounds(&log, "synced")), ((2, 2), (2, 2)));
    // What was acknowledged and not yet synced goes in a crash, and leaves no gap.
    log.append(&group(&["relaxed"])).poll_now().unwrap().unwrap();
    std::mem::forget(log);
    sim.disk.crash();
    let log = open(&sim).unwrap();
    assert_eq!(bounds(&log, "relaxed"), (2, 2));
    assert_eq!(records(&log, &partition("relaxed", 0), Isolation::Uncommitted).len(), 2);
}
