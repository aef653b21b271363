//! A full disk, and files that are given back.

use afflux_env::{Disk, sim::Sim};
use afflux_log::{
    EmbeddedLog, Isolation, Log, LogOptions,
    error::{AppendError, OpenError},
};
use afflux_types::Offset;
use std::path::Path;

use crate::support::*;

fn journal_files(sim: &Sim) -> usize {
    let files = sim.disk.list(Path::new("/data/journal")).unwrap();
    files.iter().filter(|path| path.extension().unwrap() == "journal").count()
}

#[test]
fn a_full_disk_refuses_appends_while_reads_go_on() {
    let sim = Sim::new(1);
    sim.disk.set_capacity(400 << 10);
    let log = open(&sim).unwrap();
    topic(&log, "t", 1);
    topic(&log, "other", 1);
    let at = partition("t", 0);
    let value = "f".repeat(2000);
    let mut taken = 0;
    let refused = loop {
        match append(&log, &[(at.clone(), batch(0, &[&value]))]) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::DiskFull { .. }), "{refused}");
    assert!(taken > 50);
    let large = "g".repeat(20_000);
    let refused = append(&log, &[(at.clone(), batch(0, &[&large]))]).unwrap_err();
    assert!(matches!(refused, AppendError::DiskFull { .. }), "{refused}");
    assert_eq!(records(&log, &at, Isolation::Uncommitted).len(), taken);
    // A restart on the full disk reads too.
    drop(log);
    sim.disk.crash();
    let log = open(&sim).unwrap();
    assert_eq!(records(&log, &at, Isolation::Uncommitted).len(), taken);
    assert!(append(&log, &[(at.clone(), batch(0, &[&large]))]).is_err());
    // Removing a topic makes room, without any other.
    log.delete_topic(&name("t")).unwrap();
    while log.step() {}
    append(&log, &[(partition("other", 0), batch(0, &[&large]))]).unwrap();
}

#[test]
fn room_that_comes_back_is_used() {
    let sim = Sim::new(1);
    sim.disk.set_capacity(200 << 10);
    let log = open(&sim).unwrap();
    topic(&log, "t", 1);
    let at = partition("t", 0);
    let value = "f".repeat(2000);
    while append(&log, &[(at.clone(), batch(0, &[&value]))]).is_ok() {}
    sim.disk.set_capacity(1 << 20);
    log.step();
    append(&log, &[(at.clone(), batch(0, &[&value]))]).unwrap();
}

#[test]
fn a_disk_too_small_to_begin_is_said_so() {
    let sim = Sim::new(1);
    sim.disk.set_capacity(10 << 10);
    let error = open(&sim).err().unwrap();
    assert!(matches!(error, OpenError::DiskFull { .. }), "{error}");
}

#[test]
fn files_of_removed_topics_are_used_again() {
    let sim = Sim::new(1);
    let value = "r".repeat(3000);
    let mut kept = Vec::new();
    let mut most = 0;
    for life in 0..3 {
        let log = open(&sim).unwrap();
        if life == 0 {
            topic(&log, "kept", 1);
        }
        for round in 0..6 {
            let junk = format!("junk{life}-{round}");
            topic(&log, &junk, 2);
            for i in 0..40 {
                append(&log, &[(partition(&junk, i % 2), batch(0, &[&value]))]).unwrap();
            }
            let value = format!("{life} {round}");
            let appended = append(&log, &[(partition("kept", 0), batch(0, &[&value]))]).unwrap();
            kept.push((appended.base_offsets[0].0, value));
            log.delete_topic(&name(&junk)).unwrap();
            while log.step() {}
            most = most.max(journal_files(&sim));
        }
        assert_eq!(records(&log, &partition("kept", 0), Isolation::Uncommitted), kept);
        std::mem::forget(log);
        sim.disk.crash();
    }
    let log = open(&sim).unwrap();
    assert_eq!(records(&log, &partition("kept", 0), Isolation::Uncommitted), kept);
    assert_eq!(log.topics().len(), 1);
    // 2.2 MB were written, 35 files' worth; a file stays while it has a record that is kept.
    assert!(most <= kept.len() + 5, "{most} files");
}

#[test]
fn what_is_trimmed_is_gone_for_good() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    topic(&log, "t", 1);
    let at = partition("t", 0);
    let value = "r".repeat(3000);
    for _ in 0..100 {
        append(&log, &[(at.clone(), batch(0, &[&value]))]).unwrap();
    }
    while log.step() {}
    let before = journal_files(&sim);
    assert!(log.trim(&at, Offset(101)).is_err());
    assert_eq!(log.trim(&at, Offset(100)).unwrap(), Offset(100));
    while log.step() {}
    assert!(journal_files(&sim) < before);
    drop(log);
    let log = open(&sim).unwrap();
    let bounds = log.bounds(&at).unwrap();
    assert_eq!((bounds.start, bounds.end), (Offset(100), Offset(100)));
    let appended = append(&log, &[(at.clone(), batch(0, &["next"]))]).unwrap();
    assert_eq!(appended.base_offsets, [Offset(100)]);
}

#[test]
fn sizes_that_do_not_go_together_are_refused() {
    let sim = Sim::new(1);
    let check = |change: fn(&mut LogOptions)| {
        let mut options = options();
        change(&mut options);
        let error = EmbeddedLog::open_stepped(&sim.env(), Path::new(DIR), options).err().unwrap();
        assert!(matches!(error, OpenError::Options(_)), "{error}");
    };
    check(|options| options.file_bytes = 5000);
    check(|options| options.first_file_bytes = 4096);
    check(|options| options.whole_group_bytes_max = 64 << 10);
}

#[test]
fn a_group_beyond_all_limits_is_refused() {
    let sim = Sim::new(1);
    let options = LogOptions { group_bytes_max: 10_000, ..options() };
    let log = EmbeddedLog::open_stepped(&sim.env(), Path::new(DIR), options).unwrap();
    topic(&log, "t", 1);
    let large = "g".repeat(20_000);
    let error = append(&log, &[(partition("t", 0), batch(0, &[&large]))]).unwrap_err();
    assert!(matches!(error, AppendError::TooLarge { .. }), "{error}");
}
