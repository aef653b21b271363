//! Transactions: what is stable, what was aborted, and both again after power cuts.
//!
//! The checker reads all batches of a partition as they lie, and works out from their headers,
//! one by one, which transactions are open and which records count. What the log says must be
//! the same:
//! 1. the bounds: stable and decided;
//! 2. the records that a committed read shows, the aborted ones left out by the list beside them;
//! 3. the records that the engine reads;
//! 4. where partitions ended at ticks of before, which no later marker changes.
//!
//! And of the transactions that were ended by one group, an outcome record and a marker for each
//! partition, either all is there or nothing; if it was acknowledged, it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use afflux_env::sim::{Failure, Operation, Sim, SimRandom};
use afflux_log::{
    AbortedTransaction, EmbeddedLog, Isolation, Log, Ticket, TopicSpec, error::AppendError,
};
use afflux_record::{Compression, Header, Marker, batch, batch::Builder};
use afflux_types::{Offset, ProducerEpoch, ProducerId, Tick, Timestamp, TopicPartition};
use bytes::Bytes;

use crate::support::*;

const PARTITIONS: i32 = 3;
const PRODUCERS: i64 = 3;

/// A batch of records of a transaction.
pub(crate) fn written(producer: i64, epoch: i16, sequence: i32, values: &[&str]) -> Bytes {
    let numbered = batch::Producer {
        id: ProducerId(producer),
        epoch: ProducerEpoch(epoch),
        base_sequence: sequence,
    };
    let mut builder = Builder::new(Compression::None).producer(numbered).transactional();
    for value in values {
        builder.push(Timestamp(1), None, Some(value.as_bytes()));
    }
    builder.finish().unwrap()
}

fn marker(producer: i64, epoch: i16, marker: Marker) -> Bytes {
    marker.batch(ProducerId(producer), ProducerEpoch(epoch), 0, Timestamp(1)).unwrap()
}

/// A batch as it lies in its partition.
struct Lying {
    header: Header,
    marker: Option<Marker>,
    values: Vec<(i64, String)>,
}

/// What a partition comes to, worked out batch by batch.
#[derive(Debug, Default, PartialEq, Eq)]
struct Naive {
    stable: i64,
    committed: Vec<(i64, String)>,
}

fn lying(log: &EmbeddedLog, at: &TopicPartition) -> Result<Vec<Lying>, String> {
    let mut found = Vec::new();
    let mut from = log.bounds(at).map_err(|error| error.to_string())?.start;
    loop {
        let read = log.read(at, from, Offset(i64::MAX), 3000, Isolation::Uncommitted);
        let read = read.map_err(|error| error.to_string())?;
        if read.batches.is_empty() {
            return Ok(found);
        }
        for batch in &read.batches {
            let header = batch::check(batch).map_err(|error| error.to_string())?;
            let marker = Marker::of(&header, batch);
            let values = if header.is_control() { Vec::new() } else { values(batch)? };
            found.push(Lying { header, marker, values });
        }
        from = read.next;
    }
}

fn values(batch: &Bytes) -> Result<Vec<(i64, String)>, String> {
    let records = afflux_record::records(batch).map(|record| {
        let record = record.map_err(|error| error.to_string())?;
        let value = String::from_utf8_lossy(&record.value.unwrap_or_default()).into_owned();
        Ok((record.offset.0, value))
    });
    records.collect()
}

fn work_out(batches: &[Lying]) -> Naive {
    let mut open: HashMap<i64, (i64, Vec<(i64, String)>)> = HashMap::new();
    let mut committed = BTreeMap::new();
    let mut end = 0;
    for Lying { header, marker, values } in batches {
        let producer = header.producer_id.0;
        end = header.next_offset().0;
        match marker {
            Some(Marker::Commit) => committed.extend(open.remove(&producer).unwrap_or_default().1),
            Some(Marker::Abort) => drop(open.remove(&producer)),
            None if header.is_transactional() => {
                let (_, records) =
                    open.entry(producer).or_insert_with(|| (header.base_offset.0, Vec::new()));
                records.extend(values.iter().cloned());
            }
            None => committed.extend(values.iter().cloned()),
        }
    }
    let stable = open.values().map(|(first, _)| *first).min().unwrap_or(end);
    committed.retain(|offset, _| *offset < stable);
    Naive { stable, committed: committed.into_iter().collect() }
}

/// What a client sees that leaves out what the list beside the batches says.
fn committed(log: &EmbeddedLog, at: &TopicPartition, bytes: usize) -> Result<Naive, String> {
    let mut found = Naive::default();
    let mut from = log.bounds(at).map_err(|error| error.to_string())?.start;
    loop {
        let read = log.read(at, from, Offset(i64::MAX), bytes, Isolation::Committed);
        let read = read.map_err(|error| error.to_string())?;
        found.stable = read.bounds.stable.0;
        if read.next == from {
            return Ok(found);
        }
        // As Kafka's clients do it: a producer is aborted from the first offset on that the list
        // names, up to its next marker.
        let mut list: Vec<AbortedTransaction> = read.aborted;
        let mut aborting = BTreeSet::new();
        for batch in &read.batches {
            let header = Header::parse(batch).map_err(|error| error.to_string())?;
            list.retain(|aborted| {
                let begun = aborted.first <= header.last_offset();
                if begun {
                    aborting.insert(aborted.producer);
                }
                !begun
            });
            if header.is_control() {
                aborting.remove(&header.producer_id);
            } else if !(header.is_transactional() && aborting.contains(&header.producer_id)) {
                found.committed.extend(values(batch)?);
            }
        }
        from = read.next;
    }
}

/// What the engine sees.
fn engine(log: &EmbeddedLog, at: &TopicPartition) -> Result<Naive, String> {
    let mut found = Naive::default();
    let mut from = Offset::ZERO;
    loop {
        let read = log.read(at, from, Offset(i64::MAX), 2000, Isolation::Appended);
        let read = read.map_err(|error| error.to_string())?;
        found.stable = read.bounds.decided.0;
        if read.next == from {
            return Ok(found);
        }
        for batch in &read.batches {
            found.committed.extend(values(batch)?);
        }
        from = read.next;
    }
}

fn partitions() -> Vec<TopicPartition> {
    (0..PARTITIONS).map(|p| partition("t", p)).collect()
}

/// Holds the log against what its batches come to; nothing may be under way.
pub(crate) fn check_reads(log: &EmbeddedLog) -> Result<Vec<i64>, String> {
    let mut stable = Vec::new();
    for at in partitions() {
        let naive = work_out(&lying(log, &at)?);
        for (who, seen) in [
            ("a client", committed(log, &at, 2000)?),
            ("a client of single batches", committed(log, &at, 1)?),
            ("the engine", engine(log, &at)?),
        ] {
            if seen != naive {
                return Err(format!("{at}: {who} sees {seen:?}, it should be {naive:?}"));
            }
        }
        stable.push(naive.stable);
    }
    Ok(stable)
}

#[test]
fn nothing_is_stable_before_its_transaction_is_durably_over() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    topic(&log, "t", PARTITIONS);
    let at = partition("t", 0);
    let bounds = || {
        let bounds = log.bounds(&at).unwrap();
        (bounds.stable.0, bounds.durable.0, bounds.decided.0, bounds.end.0)
    };
    append(&log, &[(at.clone(), batch(0, &["plain"]))]).unwrap();
    append(&log, &[(at.clone(), written(1, 0, 0, &["a", "b"]))]).unwrap();
    append(&log, &[(at.clone(), written(2, 0, 0, &["c"]))]).unwrap();
    assert_eq!(bounds(), (1, 4, 1, 4));
    assert_eq!(log.open_transactions().len(), 2);
    let before = log.next_tick(Tick::ZERO, u64::MAX);

    let ticket = log.append(&group(&[(at.clone(), marker(1, 0, Marker::Commit))]));
    assert_eq!(bounds(), (1, 4, 3, 5), "the marker is not durable");
    settle(&log, ticket).unwrap();
    assert_eq!(bounds(), (3, 5, 3, 5));
    append(&log, &[(at.clone(), marker(2, 1, Marker::Abort))]).unwrap();
    assert_eq!(bounds(), (6, 6, 6, 6));
    assert_eq!(log.ends(before, std::slice::from_ref(&at)).unwrap(), [Offset(1)]);

    let read = log.fetch(&at, Offset(0), 10_000, Isolation::Committed).unwrap();
    let aborted =
        AbortedTransaction { producer: ProducerId(2), first: Offset(3), marker: Offset(5) };
    assert_eq!(read.aborted, [aborted]);
    let read = log.fetch(&at, Offset(0), 10_000, Isolation::Uncommitted).unwrap();
    assert_eq!((read.batches.len(), read.aborted.len()), (5, 0));
    check_reads(&log).unwrap();

    let states = log.producers(&at).unwrap();
    let known: Vec<_> = states.iter().map(|s| (s.id.0, s.epoch.0, s.last_sequence)).collect();
    assert_eq!(known, [(1, 0, Some(1)), (2, 1, None)]);
}

#[test]
fn what_does_not_belong_into_a_transaction_is_refused() {
    let sim = Sim::new(1);
    let log = open(&sim).unwrap();
    topic(&log, "t", PARTITIONS);
    let at = partition("t", 0);
    let refused = |batch: Bytes| append(&log, &[(at.clone(), batch)]).unwrap_err();
    append(&log, &[(at.clone(), written(1, 3, 0, &["a"]))]).unwrap();
    let outside = refused(numbered(1, 3, 1, &["b"]));
    assert!(matches!(outside, AppendError::OutsideTransaction { .. }), "{outside}");
    let late = refused(marker(1, 2, Marker::Commit));
    assert!(matches!(late, AppendError::ProducerFenced { .. }), "{late}");
    let mut unnumbered = Builder::new(Compression::None).transactional();
    unnumbered.push(Timestamp(0), None, None);
    let unnumbered = refused(unnumbered.finish().unwrap());
    assert!(matches!(unnumbered, AppendError::Malformed { .. }), "{unnumbered}");
    let mut strange = Builder::new(Compression::None).control();
    strange.push(Timestamp(0), Some(&[0, 0, 0, 9]), None);
    let strange = refused(strange.finish().unwrap());
    assert!(matches!(strange, AppendError::Malformed { .. }), "{strange}");
    assert_eq!(log.bounds(&at).unwrap().end, Offset(1));
}

/// A producer's side of its transactions.
#[derive(Default)]
struct Writer {
    epoch: i16,
    /// The next sequence of each partition.
    sequences: HashMap<i32, i32>,
    /// Partitions of the transaction that is open.
    partitions: BTreeSet<i32>,
}

/// The end of a transaction that was handed in: its number, and where its markers go.
struct Ending {
    name: String,
    partitions: BTreeSet<i32>,
    producer: i64,
    epoch: i16,
    acknowledged: bool,
}

struct World {
    sim: Sim,
    random: SimRandom,
    writers: Vec<Writer>,
    endings: Vec<Ending>,
    /// Ticks, and where the partitions ended at them.
    ticks: Vec<(Tick, Vec<i64>)>,
    records: u64,
    ends: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            sim: Sim::new(seed),
            random: SimRandom::new(seed ^ 0x7A17),
            writers: (0..PRODUCERS).map(|_| Writer::default()).collect(),
            endings: Vec::new(),
            ticks: Vec::new(),
            records: 0,
            ends: 0,
        }
    }

    fn below(&self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    fn values(&mut self) -> Vec<String> {
        let large = self.below(10) == 0;
        let bytes = if large { 6000 } else { self.below(700) as usize };
        (0..=self.below(2))
            .map(|_| {
                self.records += 1;
                format!("{}/{}", self.records, "z".repeat(bytes))
            })
            .collect()
    }

    fn write(&mut self, log: &EmbeddedLog) -> Ticket {
        let values = self.values();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let p = self.below(PARTITIONS as u64) as i32;
        if self.below(3) == 0 {
            return log.append(&group(&[(partition("t", p), batch(0, &values))]));
        }
        let producer = self.below(PRODUCERS as u64) as usize;
        let writer = &mut self.writers[producer];
        let sequence = writer.sequences.entry(p).or_default();
        let batch = written(producer as i64, writer.epoch, *sequence, &values);
        *sequence += values.len() as i32;
        writer.partitions.insert(p);
        log.append(&group(&[(partition("t", p), batch)]))
    }

    /// Ends a transaction by one group; half of them with a newer epoch.
    fn end(&mut self, log: &EmbeddedLog, producer: usize, how: Marker) -> Ticket {
        let bump = self.below(2) == 0;
        self.ends += 1;
        let name = format!("end {}", self.ends);
        let writer = &mut self.writers[producer];
        if bump {
            writer.epoch += 1;
            writer.sequences.clear();
        }
        let partitions = std::mem::take(&mut writer.partitions);
        let epoch = writer.epoch;
        let mut entries = vec![(partition("outcomes", 0), batch(0, &[&name]))];
        for p in &partitions {
            entries.push((partition("t", *p), marker(producer as i64, epoch, how)));
        }
        let producer = producer as i64;
        self.endings.push(Ending { name, partitions, producer, epoch, acknowledged: false });
        log.append(&group(&entries))
    }

    /// One life of the log, up to its crash or a number of actions.
    fn live(&mut self, actions: usize) -> Result<(), String> {
        let log = match open(&self.sim) {
            Ok(log) => log,
            Err(_) if self.sim.disk.is_stopped() => return Ok(()),
            Err(error) => return Err(format!("the log does not open: {error}")),
        };
        let made = ["t", "outcomes"].map(|topic| {
            let spec = TopicSpec { name: name(topic), partitions: PARTITIONS };
            log.ensure_topic(&spec).is_ok()
        });
        if made == [true, true] {
            self.check(&log)?;
            self.recover(&log)?;
            self.act(&log, actions)?;
        } else if !self.sim.disk.is_stopped() {
            return Err("no topics".to_owned());
        }
        // Not shut down: a power cut says no last words.
        std::mem::forget(log);
        Ok(())
    }

    /// What a coordinator does first: it ends what is open, and its producers begin anew.
    fn recover(&mut self, log: &EmbeddedLog) -> Result<(), String> {
        let open = log.open_transactions();
        for writer in &mut self.writers {
            writer.partitions.clear();
        }
        for transaction in open {
            let producer = transaction.producer.0 as usize;
            self.writers[producer].partitions.insert(transaction.partition.partition.0);
        }
        for producer in 0..self.writers.len() {
            self.writers[producer].epoch += 1;
            self.writers[producer].sequences.clear();
            let mut ticket = self.end(log, producer, Marker::Abort);
            let number = self.endings.len() - 1;
            loop {
                match ticket.poll_now() {
                    Some(Ok(_)) => break self.endings[number].acknowledged = true,
                    Some(Err(error)) if !self.sim.disk.is_stopped() => {
                        return Err(format!("an abort was refused: {error}"));
                    }
                    _ if self.sim.disk.is_stopped() => return Ok(()),
                    _ => {
                        log.step();
                    }
                }
            }
        }
        Ok(())
    }

    fn act(&mut self, log: &EmbeddedLog, actions: usize) -> Result<(), String> {
        let mut tickets: Vec<(usize, Ticket)> = Vec::new();
        for _ in 0..actions {
            if self.sim.disk.is_stopped() {
                break;
            }
            match self.below(12) {
                0..=5 => drop(self.write(log)),
                6 | 7 => {
                    let producer = self.below(PRODUCERS as u64) as usize;
                    let how = if self.below(2) == 0 { Marker::Abort } else { Marker::Commit };
                    let ticket = self.end(log, producer, how);
                    tickets.push((self.endings.len() - 1, ticket));
                }
                8 => {
                    while !self.sim.disk.is_stopped() && log.step() {}
                    if !self.sim.disk.is_stopped() {
                        let tick = log.next_tick(Tick::ZERO, u64::MAX);
                        self.ticks.push((tick, check_reads(log)?));
                    }
                }
                _ => {
                    log.step();
                }
            }
        }
        while !self.sim.disk.is_stopped() && log.step() {}
        for (number, mut ticket) in tickets {
            match ticket.poll_now() {
                Some(Ok(_)) => self.endings[number].acknowledged = true,
                Some(Err(error)) if !self.sim.disk.is_stopped() => {
                    return Err(format!("an end was refused: {error}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check(&mut self, log: &EmbeddedLog) -> Result<(), String> {
        check_reads(log)?;
        for (tick, expected) in &self.ticks {
            let ends = log.ends(*tick, &partitions()).map_err(|error| error.to_string())?;
            let ends: Vec<i64> = ends.iter().map(|end| end.0).collect();
            if ends != *expected {
                return Err(format!("at {tick} it ended at {ends:?}, before at {expected:?}"));
            }
        }
        let outcomes = try_records(log, &partition("outcomes", 0), Isolation::Uncommitted)?;
        let outcomes: BTreeSet<String> = outcomes.into_iter().map(|(_, value)| value).collect();
        let mut markers: HashMap<(i32, i64, i16), usize> = HashMap::new();
        for p in 0..PARTITIONS {
            for lying in lying(log, &partition("t", p))? {
                if lying.marker.is_some() {
                    let Header { producer_id, producer_epoch, .. } = lying.header;
                    *markers.entry((p, producer_id.0, producer_epoch.0)).or_default() += 1;
                }
            }
        }
        for ending in &self.endings {
            let there = outcomes.contains(&ending.name);
            if ending.acknowledged && !there {
                return Err(format!("{} was acknowledged and is lost", ending.name));
            }
            for p in &ending.partitions {
                let key = (*p, ending.producer, ending.epoch);
                let count = markers.entry(key).or_default();
                if there {
                    *count = count.checked_sub(1).ok_or(format!("no marker of {}", ending.name))?;
                }
            }
        }
        if let Some((key, _)) = markers.iter().find(|(_, left)| **left > 0) {
            return Err(format!("a marker without its outcome: {key:?}"));
        }
        // What was lost is lost for ever, and what came through will be there.
        self.endings.retain(|ending| outcomes.contains(&ending.name));
        self.endings.iter_mut().for_each(|ending| ending.acknowledged = true);
        Ok(())
    }
}

fn run(seed: u64, cut: Option<(Operation, u64)>) -> Result<(u64, u64), String> {
    let mut world = World::new(seed);
    if let Some((operation, n)) = cut {
        world.sim.disk.fail_at(operation, n, Failure::Crash);
    }
    world.live(60)?;
    let counts = (world.sim.disk.count(Operation::Write), world.sim.disk.count(Operation::Sync));
    for _ in 0..2 {
        world.sim.disk.crash();
        let operation = if world.below(2) == 0 { Operation::Write } else { Operation::Sync };
        let n = 1 + world.below(60);
        world.sim.disk.fail_at(operation, n, Failure::Crash);
        world.live(30)?;
    }
    world.sim.disk.crash();
    world.live(0)?;
    Ok(counts)
}

#[test]
fn transactions_are_whole_wherever_the_power_is_cut() {
    let mut cuts = 0;
    for seed in 0..4 {
        let (writes, syncs) = run(seed, None).unwrap_or_else(|error| panic!("{seed}: {error}"));
        let all = (1..=writes).map(|n| (Operation::Write, n));
        for cut in all.chain((1..=syncs).map(|n| (Operation::Sync, n))) {
            run(seed, Some(cut)).unwrap_or_else(|error| panic!("seed {seed}, {cut:?}: {error}"));
            cuts += 1;
        }
    }
    assert!(cuts > 200, "only {cuts} cuts were tried");
}

/// Long runs over many journal files, so that transactions span several of them.
#[test]
fn transactions_may_span_journal_files() {
    for seed in 100..104 {
        let mut world = World::new(seed);
        for _ in 0..3 {
            world.live(400).unwrap_or_else(|error| panic!("{seed}: {error}"));
            world.sim.disk.crash();
        }
        world.live(0).unwrap_or_else(|error| panic!("{seed}: {error}"));
        assert!(world.ticks.len() > 30);
    }
}
