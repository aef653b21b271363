//! Old records, read in blocks: from anywhere, as much as anybody wants, against a list of what was
//! appended.

use std::{io, path::Path};

use afflux_env::{
    Disk, Env, File, OpenMode,
    sim::{Failure, Operation, Sim, SimRandom},
};
use afflux_log::{Batches, EmbeddedLog, Isolation, LogOptions, error::ReadError};
use afflux_types::Offset;
use bytes::Bytes;
use proptest::prelude::*;

use crate::{damage::FIRST, support::*};

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

/// What was read is what was appended, from an offset on; where it ends.
fn check_batches(batches: &[Bytes], values: &[String], mut next: Offset) -> Offset {
    for batch in batches {
        afflux_record::batch::check(batch).unwrap();
        let record = afflux_record::records(batch).next().unwrap().unwrap();
        assert_eq!(record.offset, next);
        assert_eq!(record.value.unwrap(), values[next.0 as usize].as_bytes());
        next = Offset(next.0 + 1);
    }
    next
}

/// Reads from an offset on until there is nothing more, and counts the bytes of batches.
fn check_read(log: &EmbeddedLog, p: usize, values: &[String], from: usize, bytes_max: usize) {
    let at = partition("t", p as i32);
    let mut next = Offset(from as i64);
    while (next.0 as usize) < values.len() {
        let read = log.fetch(&at, next, bytes_max, Isolation::Uncommitted).unwrap();
        let bytes: usize = read.batches.iter().map(Bytes::len).sum();
        assert!(bytes <= bytes_max || read.batches.len() == 1);
        assert!(!read.batches.is_empty(), "nothing at {next}");
        next = check_batches(&read.batches, values, next);
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

/// A log with a partition of 300 batches in a few files.
fn filled_evenly(block_bytes: u64) -> (Sim, EmbeddedLog) {
    let sim = Sim::new(5);
    let options = LogOptions { block_bytes, block_cache_bytes: 4 << 20, ..options() };
    let log = EmbeddedLog::open_stepped(&sim.env(), Path::new(DIR), options).unwrap();
    topic(&log, "t", 1);
    for n in 0..300 {
        let value = "v".repeat(500);
        append(&log, &[(partition("t", 0), batch(n, &[&value]))]).unwrap();
    }
    while log.step() {}
    (sim, log)
}

/// All batches that can be read, each with its offset, by who asks behind what can not be.
fn readable(log: &EmbeddedLog, bytes_max: usize) -> Vec<(i64, Bytes)> {
    let mut found = Vec::new();
    let mut next = 0;
    while next < 300 {
        match log.fetch(&partition("t", 0), Offset(next), bytes_max, Isolation::Uncommitted) {
            Ok(read) => {
                assert!(!read.batches.is_empty());
                found.extend((next..).zip(read.batches));
                next = read.next.0;
                assert_eq!(found.last().unwrap().0, next - 1);
            }
            Err(_) => next += 1,
        }
    }
    found
}

#[test]
fn a_block_that_can_not_be_read_is_read_otherwise() {
    let mut harmless = 0;
    for n in 1..12 {
        let (sim, log) = filled_evenly(4 << 10);
        let fetch = || log.fetch(&partition("t", 0), Offset(0), 48 << 10, Isolation::Uncommitted);
        let before = sim.disk.count(Operation::Read);
        sim.disk.fail_at(Operation::Read, n, Failure::Error(io::ErrorKind::Other));
        let read = fetch();
        assert!(sim.disk.count(Operation::Read) >= before + n, "only so many reads");
        match read {
            Ok(read) => {
                harmless += 1;
                assert_eq!(read.batches, fetch().unwrap().batches);
            }
            Err(ReadError::Io { path, .. }) => assert_eq!(path.extension().unwrap(), "index"),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(readable(&log, 48 << 10).len(), 300);
    }
    assert!(harmless > 5, "{harmless}");
}

#[test]
fn what_can_not_be_read_harms_nothing_beside_it() {
    type Spoil = fn(&dyn File);
    // A file that ends early, and one that is not what was written.
    let spoils: [Spoil; 2] = [
        |file| file.set_len(30_000).unwrap(),
        |file| file.write_all_at(&[0; 3_000], 30_000).unwrap(),
    ];
    let all = readable(&filled_evenly(4 << 10).1, 1);
    assert_eq!(all.len(), 300);
    for spoil in spoils {
        for (block_bytes, bytes_max) in
            [(1 << 20, 1), (1 << 20, 500_000), (4 << 10, 10_000), (4 << 10, 500_000)]
        {
            let (sim, log) = filled_evenly(block_bytes);
            let file = sim.disk.open(Path::new(FIRST), OpenMode::Write).unwrap();
            let content = || {
                let mut bytes = vec![0; file.len().unwrap() as usize];
                file.read_exact_at(&mut bytes, 0).unwrap();
                bytes
            };
            let before = content();
            spoil(&*file);
            let after = content();
            let is_there = |batch: &Bytes| {
                let at = before.windows(batch.len()).position(|bytes| bytes == batch);
                at.is_none_or(|at| after.get(at..at + batch.len()) == Some(&batch[..]))
            };
            let mut expected = all.clone();
            expected.retain(|(_, batch)| is_there(batch));
            let found = readable(&log, bytes_max);
            assert!((200..299).contains(&expected.len()), "{}", expected.len());
            assert!(found == expected, "{} of {}", found.len(), expected.len());
        }
    }
}

#[test]
fn who_keeps_little_of_a_block_keeps_no_block() {
    let (_sim, log) = filled_evenly(16 << 10);
    let fetch = |bytes_max| {
        log.fetch(&partition("t", 0), Offset(10), bytes_max, Isolation::Uncommitted).unwrap()
    };
    let lies = |batches: &Batches| batches.batches[0].as_ptr();
    let (large, again) = (fetch(40_000), fetch(40_000));
    assert_eq!(lies(&large), lies(&again), "it lies in the block");
    let (small, again) = (fetch(2_000), fetch(2_000));
    assert!(lies(&small) != lies(&again), "it was copied");
    assert_eq!(small.batches[0], large.batches[0]);
}

/// Reads all partitions together as one who asks for all that are left, again and again; how often
/// the disk was asked. The log may say in which order.
fn read_together(
    (sim, log): (&Sim, &EmbeddedLog),
    values: &[Vec<String>],
    bytes_max: usize,
    is_swept: bool,
) -> u64 {
    let before = sim.disk.count(Operation::Read);
    let mut next = vec![Offset(0); values.len()];
    loop {
        let left = (0..values.len()).filter(|p| (next[*p].0 as usize) < values[*p].len());
        let left: Vec<_> = left.map(|p| (p, partition("t", p as i32))).collect();
        if left.is_empty() {
            return sim.disk.count(Operation::Read) - before;
        }
        let wanted = left.iter().map(|(p, at)| (at, next[*p]));
        let sweep = is_swept.then(|| log.sweep(wanted, bytes_max)).flatten();
        let mut bytes = 0;
        for (p, at) in &left {
            let read = match &sweep {
                Some(sweep) if sweep.takes(at) => {
                    log.fetch_along(sweep, at, next[*p], bytes_max, Isolation::Uncommitted)
                }
                _ => log.fetch(at, next[*p], bytes_max / left.len(), Isolation::Uncommitted),
            };
            let batches = read.unwrap().batches;
            bytes += batches.iter().map(Bytes::len).sum::<usize>();
            next[*p] = check_batches(&batches, &values[*p], next[*p]);
        }
        assert!(bytes > 0, "nobody got anything at {next:?}");
    }
}

#[test]
fn who_goes_through_the_journal_together_reads_each_block_once() {
    const RECORDS: usize = 8_000;
    let reads = |is_swept| {
        let sim = Sim::new(5);
        // A few blocks, all that says where batches are, and no file that is only partly in memory.
        let options = LogOptions {
            index_cache_bytes: 4 << 20,
            block_cache_bytes: 128 << 10,
            file_bytes: 256 << 10,
            hot_bytes: 256 << 10,
            ..options()
        };
        let log = EmbeddedLog::open_stepped(&sim.env(), Path::new(DIR), options).unwrap();
        topic(&log, "t", 30);
        let mut values = vec![Vec::new(); 30];
        for n in 0..RECORDS {
            // Ten of them have twice as much as the others.
            let p = n * 7 % 40 % 30;
            let value = format!("{n}-{}", "v".repeat(100));
            append(&log, &[(partition("t", p as i32), batch(n as i64, &[&value]))]).unwrap();
            values[p].push(value);
        }
        while log.step() {}
        read_together((&sim, &log), &values, 32 << 10, is_swept)
    };
    let (apart, swept) = (reads(false), reads(true));
    let blocks = RECORDS as u64 * 200 / (4 << 10);
    // Beside them only what each partition's index of each file takes.
    assert!(swept < 2 * blocks && 2 * apart > 3 * swept, "{blocks}: {swept}, {apart} apart");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn who_is_read_along_a_sweep_gets_all(
        seed in 0..1000_u64,
        kept in 1..20_usize,
        bytes_max in prop_oneof![1..5_000_usize, 1..50_000_usize],
    ) {
        let sim = Sim::new(seed);
        let options = LogOptions { block_cache_bytes: kept * 4096, ..options() };
        let (log, values) = filled(&sim.env(), &SimRandom::new(seed), options, 1200);
        read_together((&sim, &log), &values, bytes_max, true);
    }
}
