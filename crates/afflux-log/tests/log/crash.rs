//! Power cuts at every write and every sync, and a checker that knows what may be lost.
//!
//! A seeded workload runs on a simulated disk until the cut. Then the log is opened again and
//! the checker compares what it finds with what was promised:
//! 1. a group that was acknowledged is there, at the offsets that were told;
//! 2. any other group is there whole or not at all;
//! 3. offsets have no gap, no two records have one offset, and no record is there that nobody
//!    sent, or twice;
//! 4. groups that had their offsets at once survive as a prefix of the order they got them in,
//!    and every partition keeps the order in which it was sent to;
//! 5. a retry of a numbered batch is answered with the original's offset if the original is
//!    there, and taken if it is not;
//! 6. the leader epoch rises.
//!
//! The cut comes at a fixed operation in the first life, so that all of them are tried, and at a
//! random one in the lives that follow on the same disk, so that what lies behind one cut has the
//! chance to come back after another.
//!
//! The canaries run the same workload on disks that lie. A checker that finds nothing there
//! finds nothing anywhere.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
};

use afflux_env::{
    Disk, Env, File, Interpose, Interposed,
    sim::{Failure, Operation, Sim, SimRandom},
};
use afflux_log::{Appended, EmbeddedLog, Isolation, Log, Ticket, TopicSpec};
use afflux_types::{Offset, TopicPartition};
use bytes::Bytes;

use crate::support::*;

const PARTITIONS: i32 = 3;
const PRODUCER: i64 = 77;

/// A group that was handed in.
struct Sent {
    entries: Vec<(TopicPartition, Vec<String>)>,
    /// Its bytes again, if it was numbered.
    retry: Option<(TopicPartition, Bytes)>,
    appended: Option<Appended>,
    /// Whether it had its offsets when `append` returned.
    at_once: bool,
}

struct World {
    sim: Sim,
    env: Env,
    random: SimRandom,
    sent: Vec<Sent>,
    /// The next sequence of the numbered producer, by partition.
    sequences: HashMap<i32, i32>,
    epoch: i32,
    junk: u32,
    /// Groups count as acknowledged once they have offsets.
    early: bool,
}

/// What is wrong with the world, so that the checker must find something.
#[derive(Clone, Copy)]
struct Broken {
    disk: fn(Arc<dyn Disk>) -> Arc<dyn Disk>,
    early: bool,
}

const NOTHING: Broken = Broken { disk: honest, early: false };

type Found = HashMap<TopicPartition, Vec<(i64, String)>>;

fn all_partitions() -> impl Iterator<Item = TopicPartition> {
    (0..PARTITIONS).map(|p| partition("t", p))
}

impl World {
    fn new(seed: u64, broken: Broken) -> Self {
        let sim = Sim::new(seed);
        let mut env = sim.env();
        env.disk = (broken.disk)(env.disk);
        Self {
            sim,
            env,
            random: SimRandom::new(seed ^ 0xC4A5),
            sent: Vec::new(),
            sequences: HashMap::new(),
            epoch: 0,
            junk: 0,
            early: broken.early,
        }
    }

    fn below(&self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    /// A random group: of one or of several partitions, small or large, numbered or not.
    fn next_group(&mut self) -> (Sent, Vec<(TopicPartition, Bytes)>) {
        let number = self.sent.len();
        let numbered_batch = self.below(4) == 0;
        let entries = if numbered_batch { 1 } else { 1 + self.below(3) as usize };
        let large = self.below(8) == 0;
        let mut sent = Sent { entries: Vec::new(), retry: None, appended: None, at_once: false };
        let mut batches = Vec::new();
        for entry in 0..entries {
            let p = self.below(PARTITIONS as u64) as i32;
            let at = partition("t", p);
            let bytes = if large { 6000 } else { self.below(900) as usize };
            let values: Vec<String> = (0..=self.below(2))
                .map(|record| format!("{number}/{entry}/{record}/{}", "z".repeat(bytes)))
                .collect();
            let texts: Vec<&str> = values.iter().map(String::as_str).collect();
            let bytes = if numbered_batch {
                let sequence = self.sequences.entry(p).or_default();
                let bytes = numbered(PRODUCER, 0, *sequence, &texts);
                *sequence += texts.len() as i32;
                sent.retry = Some((at.clone(), bytes.clone()));
                bytes
            } else {
                batch(number as i64, &texts)
            };
            sent.entries.push((at.clone(), values));
            batches.push((at, bytes));
        }
        (sent, batches)
    }

    /// One life of the log, up to its crash or a number of actions.
    fn live(&mut self, actions: usize) -> Result<(), String> {
        let log = match open_in(&self.env) {
            Ok(log) => log,
            Err(_) if self.sim.disk.is_stopped() => return Ok(()),
            Err(error) => return Err(format!("the log does not open: {error}")),
        };
        let epoch = log.leader_epoch().0;
        if epoch <= self.epoch {
            return Err(format!("leader epoch {epoch} after {}", self.epoch));
        }
        self.epoch = epoch;
        self.check(&log)?;
        let mut tickets: Vec<(usize, Ticket)> = Vec::new();
        let result = self.act(&log, actions, &mut tickets);
        for (number, mut ticket) in tickets {
            if let Some(Ok(appended)) = ticket.poll_now() {
                self.sent[number].appended = Some(appended);
            }
        }
        // Not shut down: a power cut says no last words.
        std::mem::forget(log);
        result
    }

    fn act(
        &mut self,
        log: &EmbeddedLog,
        actions: usize,
        tickets: &mut Vec<(usize, Ticket)>,
    ) -> Result<(), String> {
        if log.ensure_topic(&TopicSpec { name: name("t"), partitions: PARTITIONS }).is_err() {
            return if self.sim.disk.is_stopped() { Ok(()) } else { Err("no topic".to_owned()) };
        }
        self.retry_all(log)?;
        for _ in 0..actions {
            if self.sim.disk.is_stopped() {
                return Ok(());
            }
            match self.below(10) {
                0..=5 => {
                    let (mut sent, batches) = self.next_group();
                    let at = &sent.entries[0].0;
                    let before = log.bounds(at).map_err(|error| error.to_string())?.end;
                    let ticket = log.append(&group(&batches));
                    sent.at_once = log.bounds(at).map_err(|error| error.to_string())?.end > before;
                    if self.early && sent.at_once && sent.entries.len() == 1 {
                        let (base_offsets, append_time) = (vec![before], self.env.clock.now());
                        let end = *log.appended().borrow();
                        sent.appended = Some(Appended { base_offsets, end, append_time });
                    }
                    tickets.push((self.sent.len(), ticket));
                    self.sent.push(sent);
                }
                6..=8 => {
                    log.step();
                }
                _ => self.junk(log),
            }
        }
        while !self.sim.disk.is_stopped() && log.step() {}
        Ok(())
    }

    /// A topic that fills files and goes, so that files are given back.
    fn junk(&mut self, log: &EmbeddedLog) {
        self.junk += 1;
        let topic = format!("junk{}", self.junk);
        if log.create_topic(&TopicSpec { name: name(&topic), partitions: 1 }).is_err() {
            return;
        }
        let value = "j".repeat(5000);
        for _ in 0..self.below(8) {
            // It is gone soon: what becomes of it does not matter.
            drop(log.append(&group(&[(partition(&topic, 0), batch(0, &[&value]))])));
        }
        let _ = log.delete_topic(&name(&topic));
    }

    /// Sends all numbered batches of before again, in order, as a client does that saw no answer.
    fn retry_all(&mut self, log: &EmbeddedLog) -> Result<(), String> {
        let found = match read_all(log) {
            Err(_) if self.sim.disk.is_stopped() => return Ok(()),
            found => found?,
        };
        for number in 0..self.sent.len() {
            let Some((at, bytes)) = self.sent[number].retry.clone() else { continue };
            let is_there = place_of(&found, &self.sent[number].entries[0]);
            let mut ticket = log.append(&group(&[(at, bytes)]));
            let outcome = loop {
                if let Some(outcome) = ticket.poll_now() {
                    break outcome;
                }
                if self.sim.disk.is_stopped() {
                    return Ok(());
                }
                log.step();
            };
            match (is_there, outcome) {
                (Some(offset), Ok(appended)) if appended.base_offsets == [Offset(offset)] => {
                    self.sent[number].appended = Some(appended);
                }
                (Some(_), Err(afflux_log::error::AppendError::DuplicateSequence { .. })) => {}
                (None, Ok(appended)) => self.sent[number].appended = Some(appended),
                (_, Err(_)) if self.sim.disk.is_stopped() => return Ok(()),
                (is_there, outcome) => {
                    return Err(format!("retry of {number}, found at {is_there:?}: {outcome:?}"));
                }
            }
        }
        Ok(())
    }

    fn check(&mut self, log: &EmbeddedLog) -> Result<(), String> {
        if log.topic(&name("t")).is_none() {
            let acknowledged = self.sent.iter().any(|sent| sent.appended.is_some());
            return if acknowledged { Err("the topic is lost".to_owned()) } else { Ok(()) };
        }
        let found = read_all(log)?;
        let mut known: HashSet<&str> = HashSet::new();
        let mut lost_at_once = None;
        let mut last: HashMap<&TopicPartition, i64> = HashMap::new();
        for (number, sent) in self.sent.iter().enumerate() {
            let places: Vec<_> = sent.entries.iter().map(|e| place_of(&found, e)).collect();
            let there = places.iter().filter(|place| place.is_some()).count();
            if there != 0 && there != places.len() {
                return Err(format!("group {number} is there in part: {places:?}"));
            }
            if let Some(appended) = &sent.appended {
                let told: Vec<_> = appended.base_offsets.iter().map(|o| Some(o.0)).collect();
                if told != places {
                    return Err(format!("group {number}: told {told:?}, found {places:?}"));
                }
            }
            if sent.at_once && there == 0 {
                lost_at_once.get_or_insert(number);
            } else if let Some(lost) = lost_at_once
                && sent.at_once
            {
                return Err(format!("group {number} is there, {lost} before it is not"));
            }
            for ((at, values), place) in sent.entries.iter().zip(&places) {
                known.extend(values.iter().map(String::as_str));
                let Some(place) = place else { continue };
                // Retries come later than they were first sent.
                if sent.retry.is_none() && last.insert(at, *place).is_some_and(|l| l >= *place) {
                    return Err(format!("group {number} is out of order in {at}"));
                }
            }
        }
        for (at, records) in &found {
            let mut seen = HashSet::new();
            for (i, (offset, value)) in records.iter().enumerate() {
                if *offset != i as i64 {
                    return Err(format!("{at}: offset {offset} where {i} should be"));
                }
                if !known.contains(value.as_str()) || !seen.insert(value) {
                    return Err(format!("{at}: offset {offset} holds what nobody sent, or twice"));
                }
            }
        }
        // What is lost may be lost for ever: it does not bind the groups of later lives.
        for sent in &mut self.sent {
            sent.at_once &= place_of(&found, &sent.entries[0]).is_some();
        }
        Ok(())
    }
}

fn read_all(log: &EmbeddedLog) -> Result<Found, String> {
    let mut found = Found::new();
    for at in all_partitions() {
        let records = try_records(log, &at, Isolation::Uncommitted);
        found.insert(at.clone(), records.map_err(|error| format!("{at}: {error}"))?);
    }
    Ok(found)
}

/// Where the values of an entry lie, one behind the other.
fn place_of(found: &Found, (at, values): &(TopicPartition, Vec<String>)) -> Option<i64> {
    let records = &found[at];
    let first = records.iter().position(|(_, value)| *value == values[0])?;
    let behind = records.get(first..first + values.len())?;
    let whole = behind.iter().map(|(_, value)| value).eq(values.iter());
    whole.then(|| records[first].0)
}

fn honest(disk: Arc<dyn Disk>) -> Arc<dyn Disk> {
    disk
}

/// Lives on one disk: the first is cut at the given operation, the others at random ones.
fn run(seed: u64, cut: Option<(Operation, u64)>, broken: Broken) -> Result<(u64, u64), String> {
    let mut world = World::new(seed, broken);
    if let Some((operation, n)) = cut {
        world.sim.disk.fail_at(operation, n, Failure::Crash);
    }
    world.live(40)?;
    let counts = (world.sim.disk.count(Operation::Write), world.sim.disk.count(Operation::Sync));
    for _ in 0..3 {
        world.sim.disk.crash();
        let operation = if world.below(2) == 0 { Operation::Write } else { Operation::Sync };
        let n = 1 + world.below(40);
        world.sim.disk.fail_at(operation, n, Failure::Crash);
        world.live(15)?;
    }
    world.sim.disk.crash();
    world.live(0)?;
    Ok(counts)
}

fn every_cut(seed: u64, broken: Broken) -> Result<u64, ((Operation, u64), String)> {
    let uncut = (Operation::Write, 0);
    let (writes, syncs) = run(seed, None, broken).map_err(|error| (uncut, error))?;
    let cuts = (1..=writes).map(|n| (Operation::Write, n));
    let cuts = cuts.chain((1..=syncs).map(|n| (Operation::Sync, n)));
    for cut in cuts {
        run(seed, Some(cut), broken).map_err(|error| (cut, error))?;
    }
    Ok(writes + syncs)
}

#[test]
fn nothing_acknowledged_is_lost_wherever_the_power_is_cut() {
    let mut cuts = 0;
    for seed in 0..6 {
        match every_cut(seed, NOTHING) {
            Ok(count) => cuts += count,
            Err((cut, error)) => panic!("seed {seed}, cut at {cut:?}: {error}"),
        }
    }
    assert!(cuts > 500, "only {cuts} cuts were tried");
}

/// A disk whose syncs do nothing while they say that they did.
struct Lying;

impl Interpose for Lying {
    fn write(&self, file: &dyn File, _: u64, bufs: &[&[u8]], position: u64) -> io::Result<()> {
        // First pages and zeros are made durable, or no file would ever open.
        file.write_all_vectored_at(bufs, position)?;
        let buf = bufs.concat();
        let is_zeros = buf.len() > 4096 && buf.iter().all(|b| *b == 0);
        if position == 0 || is_zeros { file.sync_data() } else { Ok(()) }
    }

    fn sync(&self, _: &dyn File, _: u64) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_checker_sees_a_disk_that_does_not_sync() {
    let lying = |disk| Arc::new(Interposed::new(disk, Arc::new(Lying))) as Arc<dyn Disk>;
    let found = every_cut(0, Broken { disk: lying, early: false });
    assert!(found.is_err(), "the checker found nothing on a lying disk");
}

#[test]
fn the_checker_sees_acknowledgements_before_the_sync() {
    let (_, error) = every_cut(0, Broken { disk: honest, early: true })
        .expect_err("the checker found nothing though nobody waited for a sync");
    assert!(error.contains("told"), "{error}");
}

#[test]
fn a_failed_write_or_sync_ends_the_journal() {
    for operation in [Operation::Write, Operation::Sync] {
        let sim = Sim::new(3);
        let log = open(&sim).unwrap();
        topic(&log, "t", 1);
        while log.step() {}
        let at = partition("t", 0);
        append(&log, &[(at.clone(), batch(0, &["kept"]))]).unwrap();
        sim.disk.fail_at(operation, 1, Failure::Error(io::ErrorKind::Other));
        let first = append(&log, &[(at.clone(), batch(0, &["a"]))]);
        assert!(matches!(first, Err(afflux_log::error::AppendError::Failed(_))), "{first:?}");
        let second = append(&log, &[(at.clone(), batch(0, &["b"]))]);
        assert!(matches!(second, Err(afflux_log::error::AppendError::Failed(_))), "{second:?}");
        assert_eq!(records(&log, &at, Isolation::Uncommitted), [(0, "kept".to_owned())]);
        drop(log);
        sim.disk.crash();
        let log = open(&sim).unwrap();
        let found = records(&log, &at, Isolation::Uncommitted);
        assert_eq!(found[0], (0, "kept".to_owned()));
        assert!(found.len() <= 2 && !found.iter().any(|(_, value)| value == "b"));
    }
}
