//! A full disk, and files that are given back.

use std::{
    io,
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use afflux_env::{
    Disk,
    sim::{Failure, Operation, Sim},
};
use afflux_log::{
    EmbeddedLog, Isolation, Log, LogOptions, Ticket,
    error::{AppendError, OpenError},
};
use afflux_types::{Offset, Timestamp};

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
fn zeros_that_were_left_out_in_a_hurry_are_written_later_and_once() {
    for failing in [None, Some(Operation::Write), Some(Operation::Sync)] {
        let sim = Sim::new(1);
        let log = open(&sim).unwrap();
        topic(&log, "t", 1);
        let value = "z".repeat(2_000);
        let fill = |files| {
            while journal_files(&sim) < files {
                append(&log, &[(partition("t", 0), batch(0, &[&value]))]).unwrap();
                while log.step() {}
            }
        };
        let at_rest = || {
            let before = sim.disk.count(Operation::Write);
            let did = log.step();
            assert_eq!(did, sim.disk.count(Operation::Write) > before);
            !did
        };
        fill(4);
        assert!(at_rest());
        if let Some(operation) = failing {
            sim.disk.fail_at(operation, 1, Failure::Error(io::ErrorKind::Other));
        }
        sim.clock.advance(Duration::from_secs(1));
        assert!(!at_rest(), "the next file was made while the clock stood still");
        assert!(at_rest());
        sim.clock.advance(Duration::from_secs(1));
        assert!(at_rest());
        // It is used, and read after a crash.
        fill(6);
        let written = records(&log, &partition("t", 0), Isolation::Uncommitted);
        drop(log);
        sim.disk.crash();
        let log = open(&sim).unwrap();
        assert_eq!(records(&log, &partition("t", 0), Isolation::Uncommitted), written);
    }
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

#[test]
fn who_waits_for_room_is_woken_when_there_is_some() {
    let sim = Sim::new(1);
    let options = LogOptions { in_flight_bytes_max: 10_000, ..options() };
    let log = EmbeddedLog::open_stepped(&sim.env(), Path::new(DIR), options).unwrap();
    topic(&log, "t", 1);
    while log.step() {}
    let some = "s".repeat(6_000);
    let mut ready = pin!(log.ready());
    let waker = Arc::new(Woken::default());
    let task = Waker::from(waker.clone());
    let mut tickets: Vec<_> =
        (0..5).map(|_| log.append(&group(&[(partition("t", 0), batch(0, &[&some]))]))).collect();
    assert_eq!(ready.as_mut().poll(&mut Context::from_waker(&task)), Poll::Pending);
    let mut lacking = 0;
    loop {
        assert!(log.step());
        assert!(waker.0.swap(false, Ordering::SeqCst), "nobody told who waits");
        let written = tickets.iter_mut().filter_map(Ticket::poll_now).map(Result::unwrap).count();
        tickets.drain(..written);
        match ready.as_mut().poll(&mut Context::from_waker(&task)) {
            Poll::Ready(()) => break,
            // Something became durable, but not enough.
            Poll::Pending => lacking += 1,
        }
    }
    assert_eq!((lacking, tickets.len()), (1, 1));
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_next_file_that_can_not_be_made_is_told_to_who_watches() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    let mut durable = log.durable();
    durable.borrow_and_update();
    sim.disk.fail_at(Operation::Write, 1, Failure::Error(io::ErrorKind::Other));
    log.step();
    assert!(log.failure().is_some());
    assert!(durable.has_changed().unwrap());
}

#[test]
fn a_start_reads_a_file_that_was_used_before_once() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    topic(&log, "junk", 1);
    // Small groups: what is left of them begins like frames everywhere.
    for i in 0..2000 {
        append(&log, &[(partition("junk", 0), batch(i, &["j"]))]).unwrap();
    }
    log.delete_topic(&name("junk")).unwrap();
    while log.step() {}
    topic(&log, "t", 1);
    for i in 0..400 {
        append(&log, &[(partition("t", 0), batch(i, &["t"]))]).unwrap();
    }
    log.shutdown();
    sim.disk.crash();
    drop(open(&sim).unwrap());
    let reads = sim.disk.count(Operation::Read);
    assert!(reads < 100, "{reads} reads");
}

#[test]
fn a_time_is_found_in_a_batch_of_which_a_part_was_trimmed() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    topic(&log, "t", 1);
    let at = partition("t", 0);
    append(&log, &[(at.clone(), batch(10, &["a", "b", "c"]))]).unwrap();
    log.trim(&at, Offset(1)).unwrap();
    assert_eq!(log.offset_at(&at, Timestamp(0)).unwrap(), Some((Offset(1), Timestamp(11))));
    assert_eq!(log.offset_at(&at, Timestamp(12)).unwrap(), Some((Offset(2), Timestamp(12))));
}
