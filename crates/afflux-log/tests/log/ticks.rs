//! Ticks: where partitions ended at a cut, against a list of everything that was appended.

use std::{
    path::Path,
    pin::pin,
    task::{Context, Poll, Waker},
};

use afflux_env::sim::{Sim, SimRandom};
use afflux_log::{EmbeddedLog, Isolation, Log, LogOptions};
use afflux_types::{Offset, Tick, TopicPartition};
use proptest::prelude::*;

use crate::support::*;

/// A group of the model: behind it, and where each partition ended then.
type Cut = (u64, Vec<i64>);

fn partitions() -> Vec<TopicPartition> {
    (0..3).map(|p| partition("t", p)).collect()
}

fn fill(log: &EmbeddedLog, random: &SimRandom, groups: usize, cuts: &mut Vec<Cut>) {
    let mut ends = cuts.last().map_or(vec![0; 3], |(_, ends)| ends.clone());
    for _ in 0..groups {
        let bytes = if random.below(6) == 0 { 9000 } else { random.below(1200) };
        let value = "t".repeat(bytes as usize);
        let entries: Vec<_> = (0..=random.below(3))
            .map(|_| (random.below(3) as usize, 1 + random.below(3) as usize))
            .collect();
        let batches: Vec<_> = entries
            .iter()
            .map(|(p, count)| (partition("t", *p as i32), batch(0, &vec![&value[..]; *count])))
            .collect();
        let appended = append(log, &batches).unwrap();
        for ((p, count), offset) in entries.iter().zip(&appended.base_offsets) {
            assert_eq!(offset.0, ends[*p]);
            ends[*p] += *count as i64;
        }
        cuts.push((appended.end.0, ends.clone()));
        if random.below(3) == 0 {
            log.step();
        }
    }
}

fn check_cuts(log: &EmbeddedLog, cuts: &[Cut]) {
    for (position, expected) in cuts {
        let ends: Vec<i64> =
            log.ends(Tick(*position), &partitions()).unwrap().iter().map(|end| end.0).collect();
        assert_eq!(&ends, expected, "at {position}");
    }
}

/// Walks all ticks with a step size: each is a group's end, far enough and not too far.
fn check_walk(log: &EmbeddedLog, cuts: &[Cut], bytes_max: u64) {
    // A boundary is remembered every 16 KiB; a group of this test has at most 90 KiB.
    let slack = (16 + 90) << 10;
    let last = cuts.last().unwrap().0;
    let mut tick = Tick(cuts[0].0);
    while tick.0 < last {
        let next = log.next_tick(tick, bytes_max);
        assert!(next > tick, "no progress from {tick}");
        assert!(cuts.iter().any(|(position, _)| *position == next.0), "{next} is no boundary");
        assert!(next.0 - tick.0 <= bytes_max + slack, "{tick} to {next} with {bytes_max}");
        assert!(next.0 == last || next.0 - tick.0 >= bytes_max);
        tick = next;
    }
    assert_eq!(log.next_tick(tick, bytes_max), tick);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn ends_and_ticks_never_change(seed in any::<u64>(), step in 1_u64..200_000) {
        let sim = Sim::new(seed);
        let random = SimRandom::new(seed);
        let mut cuts = Vec::new();
        for life in 0..3 {
            let log = open(&sim).unwrap();
            if life == 0 {
                topic(&log, "t", 3);
            }
            check_cuts(&log, &cuts);
            fill(&log, &random, 40, &mut cuts);
            check_cuts(&log, &cuts);
            check_walk(&log, &cuts, step);
            std::mem::forget(log);
            sim.disk.crash();
        }
    }
}

#[test]
fn a_tick_sees_what_is_not_yet_durable() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    topic(&log, "t", 3);
    let before = log.next_tick(Tick::ZERO, u64::MAX);
    assert_eq!(log.next_tick(before, u64::MAX), before, "nothing was appended since");
    let ticket = log.append(&group(&[(partition("t", 2), batch(0, &["a", "b"]))]));
    let after = log.next_tick(before, u64::MAX);
    assert!(after > before);
    assert_eq!(after.0, log.appended().borrow().0);
    assert!(log.durable().borrow().0 < after.0);
    assert_eq!(log.ends(before, &partitions()).unwrap(), [Offset(0); 3]);
    assert_eq!(log.ends(after, &partitions()).unwrap(), [Offset(0), Offset(0), Offset(2)]);
    settle(&log, ticket).unwrap();
    assert!(log.durable().borrow().0 >= after.0);
}

#[test]
fn a_large_group_blocks_nobody_and_keeps_its_partitions_order() {
    let sim = Sim::new(1);
    let options = LogOptions { in_flight_bytes_max: 10_000, ..options() };
    let log = EmbeddedLog::open_stepped(&sim.env(), Path::new(DIR), options).unwrap();
    topic(&log, "t", 3);
    let value = "L".repeat(3000);
    let values: Vec<&str> = vec![&value; 10];
    let large: Vec<_> = (0..2).map(|p| (partition("t", p), batch(0, &values))).collect();
    let mut large = log.append(&group(&large));
    let mut behind = log.append(&group(&[(partition("t", 1), batch(0, &["behind"]))]));
    let mut passes = 0;
    while large.poll_now().is_none() {
        let ready = pin!(log.ready()).poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(ready, Poll::Ready(()), "others have their room");
        let mut other = log.append(&group(&[(partition("t", 2), batch(0, &["passes"]))]));
        assert!(records(&log, &partition("t", 0), Isolation::Uncommitted).is_empty());
        log.step();
        let outcome = other.poll_now().expect("one step is enough for a small group");
        outcome.unwrap();
        passes += 1;
    }
    assert!(passes >= 60_000 / 4096, "staged in {passes} steps");
    settle(&log, log.append(&group(&[(partition("t", 2), batch(0, &["end"]))]))).unwrap();
    while behind.poll_now().is_none() {
        assert!(log.step());
    }
    let found = records(&log, &partition("t", 1), Isolation::Uncommitted);
    assert_eq!(found.len(), 11);
    assert_eq!(found[10], (10, "behind".to_owned()));
}
