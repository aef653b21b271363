//! Old records, read in blocks: from anywhere, as much as anybody wants, against a list of what was
//! appended.

use std::{io, path::Path};

use afflux_env::{
    Env,
    sim::{Failure, Operation, Sim, SimRandom},
};
use afflux_log::{EmbeddedLog, Isolation, LogOptions};
use afflux_types::Offset;
use proptest::prelude::*;

use crate::support::*;

const PARTITIONS: u64 = 4;

/// A log with a few sealed files, and each partition's values.
fn filled(
    env: &Env,
    random: &SimRandom,
    options: LogOptions,
    bytes_max: u64,
) -> (EmbeddedLog, Vec<Vec<String>>) {
    let log = EmbeddedLog::open_stepped(env, Path::new(DIR), options).unwrap();
    topic(&log, "t", PARTITIONS as i32);
    let mut values = vec![Vec::new(); PARTITIONS as usize];
    for n in 0..400 {
        let p = random.below(PARTITIONS);
        // Some are larger than a block, and some are staged.
        let bytes = if random.below(20) == 0 { 9 * bytes_max } else { random.below(bytes_max) };
        let value = format!("{n}-{}", "v".repeat(bytes as usize));
        append(&log, &[(partition("t", p as i32), batch(n, &[&value]))]).unwrap();
        values[p as usize].push(value);
    }
    while log.step() {}
    (log, values)
}

/// Reads from an offset on until there is nothing more, and counts the bytes of batches.
fn check_read(log: &EmbeddedLog, p: usize, values: &[String], from: usize, bytes_max: usize) {
    let at = partition("t", p as i32);
    let mut next = Offset(from as i64);
    while (next.0 as usize) < values.len() {
        let read = log.fetch(&at, next, bytes_max, Isolation::Uncommitted).unwrap();
        let bytes: usize = read.batches.iter().map(bytes::Bytes::len).sum();
        assert!(bytes <= bytes_max || read.batches.len() == 1);
        assert!(!read.batches.is_empty(), "nothing at {next}");
        for batch in &read.batches {
            afflux_record::batch::check(batch).unwrap();
            let record = afflux_record::records(batch).next().unwrap().unwrap();
            assert_eq!(record.offset, next);
            assert_eq!(record.value.unwrap(), values[next.0 as usize].as_bytes());
            next = Offset(next.0 + 1);
        }
    }
    assert_eq!(next.0 as usize, values.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn what_is_old_is_read_as_it_was_written(
        seed in 0..1000_u64,
        block_bytes in prop_oneof![Just(512_u64), Just(4096), Just(1 << 20)],
        kept in 0..20_usize,
        reads in prop::collection::vec(
            (0..PARTITIONS as usize, 0..1000_usize, prop_oneof![1..5_000_usize, 1..500_000_usize]),
            1..30,
        ),
    ) {
        let sim = Sim::new(seed);
        let block_cache_bytes = kept * block_bytes as usize;
        let options = LogOptions { block_bytes, block_cache_bytes, ..options() };
        let (log, values) = filled(&sim.env(), &SimRandom::new(seed), options, 1200);
        for (p, from, bytes_max) in reads {
            let values = &values[p];
            check_read(&log, p, values, from % (values.len() + 1), bytes_max);
        }
    }
}

#[test]
fn blocks_are_read_once_for_all_who_come_the_same_way() {
    let sim = Sim::new(3);
    // All that there is fits.
    let options =
        LogOptions { block_cache_bytes: 4 << 20, index_cache_bytes: 1 << 20, ..options() };
    let (log, values) = filled(&sim.env(), &SimRandom::new(3), options, 1200);
    let read = |p: usize| {
        let before = sim.disk.count(Operation::Read);
        check_read(&log, p, &values[p], 0, 64 << 10);
        sim.disk.count(Operation::Read) - before
    };
    let first = read(0);
    let others: Vec<u64> = (1..PARTITIONS as usize).map(read).collect();
    assert!(first > 20, "{first} reads of what is on disk");
    // Index sections, and the file that is still written.
    assert!(others.iter().sum::<u64>() < 3 * first / 2, "{first}, then {others:?}");
    assert!(read(0) < first / 4);
}

#[test]
fn a_block_that_can_not_be_read_is_tried_again() {
    let sim = Sim::new(4);
    let options = LogOptions { block_cache_bytes: 4 << 20, ..options() };
    let (log, values) = filled(&sim.env(), &SimRandom::new(4), options, 800);
    let read = |p| log.fetch(&partition("t", p), Offset(0), 48 << 10, Isolation::Uncommitted);
    let mut failures = 0;
    loop {
        // One more block each time, and then an error.
        sim.disk.fail_at(Operation::Read, 2, Failure::Error(io::ErrorKind::Other));
        match read(1) {
            Ok(_) => break,
            Err(_) => failures += 1,
        }
    }
    assert!(failures > 5, "{failures} failures");
    assert!(read(0).is_err(), "the last one is still to come");
    check_read(&log, 0, &values[0], 0, 48 << 10);
    check_read(&log, 1, &values[1], 0, 48 << 10);
}
