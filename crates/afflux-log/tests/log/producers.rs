//! Idempotent producers on a real log: retries, restarts, files in between.

use std::{path::Path, time::Duration};

use afflux_env::sim::Sim;
use afflux_log::{EmbeddedLog, Isolation, LogOptions, error::AppendError};
use afflux_types::Offset;

use crate::{support::*, transactions::written as in_transaction};

#[test]
fn a_retry_is_acknowledged_only_once_the_original_is_durable() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    topic(&log, "t", 1);
    let at = partition("t", 0);
    let entries = [(at.clone(), numbered(5, 0, 0, &["a", "b"]))];
    let mut original = log.append(&group(&entries));
    let mut retry = log.append(&group(&entries));
    assert!(original.poll_now().is_none() && retry.poll_now().is_none());
    log.step();
    assert_eq!(original.poll_now().unwrap().unwrap().base_offsets, [Offset(0)]);
    assert_eq!(retry.poll_now().unwrap().unwrap().base_offsets, [Offset(0)]);
    let mut late = log.append(&group(&entries));
    assert_eq!(late.poll_now().unwrap().unwrap().base_offsets, [Offset(0)]);
    assert_eq!(records(&log, &at, Isolation::Uncommitted).len(), 2);
}

#[test]
fn a_group_leaves_out_what_is_there_already() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    topic(&log, "t", 3);
    let first = [(partition("t", 1), numbered(5, 0, 0, &["b"]))];
    append(&log, &first).unwrap();
    let all = [
        (partition("t", 0), numbered(5, 0, 0, &["a"])),
        (partition("t", 1), numbered(5, 0, 0, &["b"])),
        (partition("t", 2), batch(0, &["c", "d"])),
    ];
    let appended = append(&log, &all).unwrap();
    assert_eq!(appended.base_offsets, [Offset(0), Offset(0), Offset(0)]);
    for (p, expected) in [(0, 1), (1, 1), (2, 2)] {
        assert_eq!(records(&log, &partition("t", p), Isolation::Uncommitted).len(), expected);
    }
}

#[test]
fn a_refused_group_leaves_nothing_behind() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    topic(&log, "t", 2);
    append(&log, &[(partition("t", 1), numbered(5, 1, 0, &["x"]))]).unwrap();
    let check = |entry, expected: &str| {
        let entries = [(partition("t", 0), numbered(5, 1, 0, &["a"])), entry];
        let error = append(&log, &entries).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(records(&log, &partition("t", 0), Isolation::Appended).is_empty());
    };
    check((partition("t", 1), numbered(5, 1, 7, &["y"])), "does not follow");
    check((partition("t", 1), numbered(5, 0, 1, &["y"])), "with epoch 1 since");
    check((partition("t", 0), numbered(5, 1, 1, &["y"])), "one numbered batch");
}

#[test]
fn sequences_are_known_after_restarts_and_many_files() {
    let sim = Sim::new(1);
    let mut sequence = 0;
    let value = "p".repeat(3000);
    for life in 0..4 {
        let log = open(&sim).unwrap();
        if life == 0 {
            topic(&log, "t", 1);
        }
        let at = partition("t", 0);
        if sequence > 0 {
            for back in 1..=5 {
                let retry = [(at.clone(), numbered(5, 0, sequence - back, &[&value]))];
                let offset = i64::from(sequence - back);
                assert_eq!(append(&log, &retry).unwrap().base_offsets, [Offset(offset)]);
            }
            let forgotten = [(at.clone(), numbered(5, 0, sequence - 6, &[&value]))];
            let error = append(&log, &forgotten).unwrap_err();
            assert!(matches!(error, AppendError::DuplicateSequence { .. }), "{error}");
        }
        for _ in 0..60 {
            append(&log, &[(at.clone(), numbered(5, 0, sequence, &[&value]))]).unwrap();
            sequence += 1;
        }
        while log.step() {}
        std::mem::forget(log);
        sim.disk.crash();
    }
}

#[test]
fn what_a_producer_wrote_is_known_when_nothing_of_it_is_left() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    topic(&log, "t", 1);
    topic(&log, "flood", 1);
    let (at, flood) = (partition("t", 0), partition("flood", 0));
    let batch_of = || [(at.clone(), numbered(5, 0, 0, &["a"]))];
    append(&log, &batch_of()).unwrap();
    let value = "f".repeat(3000);
    for _ in 0..100 {
        append(&log, &[(flood.clone(), batch(0, &[&value]))]).unwrap();
    }
    log.trim(&at, Offset(1)).unwrap();
    log.trim(&flood, Offset(100)).unwrap();
    while log.step() {}
    drop(log);
    let log = open(&sim).unwrap();
    let again = append(&log, &batch_of()).unwrap();
    assert_eq!(again.base_offsets, [Offset(0)], "a retry is no new batch");
}

#[test]
fn a_producer_that_is_silent_for_long_is_forgotten() {
    let sim = Sim::new(1);
    let open = |hours: u64| {
        let producer_retention = Duration::from_hours(hours);
        let options = LogOptions { producer_retention, ..options() };
        EmbeddedLog::open_stepped(&sim.env(), Path::new(DIR), options).unwrap()
    };
    let later = |log: &EmbeddedLog, by: Duration| {
        sim.clock.advance(by);
        while log.step() {}
        let states = log.producers(&partition("t", 0)).unwrap();
        states.iter().map(|state| state.id.0).collect::<Vec<_>>()
    };
    let log = open(3);
    topic(&log, "t", 1);
    let at = partition("t", 0);
    let first = [(at.clone(), numbered(5, 0, 0, &["a"]))];
    append(&log, &first).unwrap();
    append(&log, &[(at.clone(), in_transaction(6, 0, 0, &["b"]))]).unwrap();
    assert_eq!(later(&log, Duration::from_mins(179)), [5, 6]);
    let retried = append(&log, &first).unwrap();
    assert_eq!(retried.base_offsets, [Offset(0)], "a retry does not make it younger");
    log.shutdown();
    // What is known is stored; for how long is not.
    let log = open(4);
    assert_eq!(later(&log, Duration::from_hours(1)), [5, 6]);
    assert_eq!(append(&log, &first).unwrap().base_offsets, [Offset(0)]);
    assert_eq!(later(&log, Duration::from_mins(1)), [6], "its transaction is open");
    assert_eq!(append(&log, &first).unwrap().base_offsets, [Offset(2)], "nobody knows it");
    let other = [(at.clone(), numbered(5, 0, 7, &["c"]))];
    assert!(append(&log, &other).is_err(), "it is known again");
}
