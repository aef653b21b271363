//! Compaction against a naive fold of all that was written, with power cuts at each of its writes
//! and syncs.
//!
//! A seeded workload writes records with few keys to several partitions: plain ones, numbered ones,
//! transactions that are committed, aborted or left open, packed with every codec, some batches
//! large enough to be staged. Then the log compacts until it has nothing more to do, or the power is
//! cut. What must hold, at any time:
//! 1. a record that is there is one that was written, with its offset, time and headers, and is not
//!    of an aborted transaction;
//! 2. a record that is missing is not the newest of its key, or is a tombstone; and if the newest of
//!    a key is missing, every older one is;
//! 3. ends, sequences of producers and open transactions are what they were;
//! 4. whoever begins to read anywhere gets what is there from that place on; where partitions ended
//!    at a tick of before moves over nothing that is left; times are found as the batches have them.
//!
//! And when it has nothing more to do, what is there is the fold, and nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use afflux_env::{
    Clock, Disk, Env, File, Interpose, Interposed,
    sim::{Failure, Operation, Sim, SimRandom},
};
use afflux_log::{EmbeddedLog, Isolation, Log, LogOptions, TopicSpec, settings::Settings};
use afflux_record::{
    Compression, Header, Marker, Record,
    batch::{self, Builder, Producer},
};
use afflux_types::{Offset, ProducerEpoch, ProducerId, Tick, Timestamp, TopicPartition};
use bytes::Bytes;

use crate::{support::*, transactions::check_reads};

const PARTITIONS: i32 = 3;

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Counts,
    Open,
    Aborted,
}

struct Writer {
    sequences: BTreeMap<i32, i32>,
    /// Partitions of its open transaction.
    open: Vec<i32>,
    /// Its last batch in each partition, and where that went.
    last: BTreeMap<i32, (Bytes, Offset)>,
}

/// All that was written, by offset, and by whom in a transaction.
type Written = BTreeMap<i64, (Record, Fate, Option<usize>)>;

struct World {
    sim: Sim,
    env: Env,
    random: SimRandom,
    options: LogOptions,
    /// By partition.
    written: Vec<Written>,
    writers: Vec<Writer>,
    ticks: Vec<(Tick, Vec<Offset>)>,
    count: u64,
}

pub(crate) fn settings(more: &[(&str, &str)]) -> Settings {
    let set = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0"),
        ("delete.retention.ms", "3600000"),
        ("segment.ms", "1"),
    ];
    let set = set.iter().chain(more);
    Settings::new(set.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).unwrap()
}

fn all_partitions() -> Vec<TopicPartition> {
    (0..PARTITIONS).map(|p| partition("t", p)).collect()
}

impl World {
    fn new(seed: u64, before: fn(Arc<dyn Disk>) -> Arc<dyn Disk>) -> Self {
        let sim = Sim::new(seed);
        let mut env = sim.env();
        env.disk = before(env.disk);
        // A few keys a pass, or all at once.
        let compaction_bytes_max = if seed.is_multiple_of(2) { 64 * 8 } else { 64 << 10 };
        let writer =
            || Writer { sequences: BTreeMap::new(), open: Vec::new(), last: BTreeMap::new() };
        Self {
            sim,
            env,
            random: SimRandom::new(seed ^ 0xC0B0),
            options: LogOptions { compaction_bytes_max, ..options() },
            written: vec![BTreeMap::new(); PARTITIONS as usize],
            writers: (0..4).map(|_| writer()).collect(),
            ticks: Vec::new(),
            count: 0,
        }
    }

    fn below(&self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    fn open(&self) -> EmbeddedLog {
        EmbeddedLog::open_stepped(&self.env, Path::new(DIR), self.options.clone()).unwrap()
    }

    /// Appends a batch, and notes its records.
    fn write(&mut self, log: &EmbeddedLog, p: i32) {
        let codec = Compression::ALL[self.below(5) as usize];
        // The first two have transactions, the others number their batches; the rest does not.
        let who = self.below(6) as usize;
        let mut builder = Builder::new(codec);
        if let Some(writer) = self.writers.get(who) {
            builder = builder.producer(Producer {
                id: ProducerId(who as i64),
                epoch: ProducerEpoch(0),
                base_sequence: writer.sequences.get(&p).copied().unwrap_or(0),
            });
        }
        let is_transactional = who < 2;
        if is_transactional {
            builder = builder.transactional();
        }
        let large = if self.below(12) == 0 { 9000 } else { 0 };
        let mut records = Vec::new();
        for _ in 0..=self.below(4) {
            self.count += 1;
            let key = Bytes::from(format!("key {}", self.below(12)));
            // Not all the same, or it would be packed to nothing.
            let noise: String = (0..large + self.below(300))
                .map(|_| char::from(b'a' + self.below(26) as u8))
                .collect();
            let value = (self.below(6) > 0).then(|| Bytes::from(format!("{}/{noise}", self.count)));
            let timestamp = Timestamp(self.sim.clock.now().0 + self.below(1000) as i64);
            let header = self.count.to_string();
            let headers = [("number".as_bytes(), Some(header.as_bytes()))];
            builder.push_with_headers(timestamp, Some(&key), value.as_deref(), &headers);
            records.push((timestamp, key, value, header));
        }
        let batch = builder.finish().unwrap();
        let at = partition("t", p);
        let appended = append(log, &[(at, batch.clone())]).unwrap();
        let base = appended.base_offsets[0];
        if let Some(writer) = self.writers.get_mut(who) {
            *writer.sequences.entry(p).or_default() += records.len() as i32;
            writer.last.insert(p, (batch, base));
            if is_transactional && !writer.open.contains(&p) {
                writer.open.push(p);
            }
        }
        let fate = if is_transactional { Fate::Open } else { Fate::Counts };
        for (offset, (timestamp, key, value, header)) in (base.0..).zip(records) {
            let header = afflux_record::RecordHeader {
                name: Bytes::from_static(b"number"),
                value: Some(header.into()),
            };
            let headers = vec![header];
            let offset_is = Offset(offset);
            let record = Record { offset: offset_is, timestamp, key: Some(key), value, headers };
            let by = is_transactional.then_some(who);
            self.written[p as usize].insert(offset, (record, fate, by));
        }
    }

    /// Ends a transaction in all its partitions, by one group.
    fn end(&mut self, log: &EmbeddedLog, who: usize, marker: Marker) {
        let open = std::mem::take(&mut self.writers[who].open);
        let batch =
            |_| marker.batch(ProducerId(who as i64), ProducerEpoch(0), 0, self.now()).unwrap();
        let entries: Vec<_> = open.iter().map(|p| (partition("t", *p), batch(p))).collect();
        if entries.is_empty() {
            return;
        }
        append(log, &entries).unwrap();
        let fate = if marker == Marker::Commit { Fate::Counts } else { Fate::Aborted };
        for (_, now, by) in self.written.iter_mut().flat_map(BTreeMap::values_mut) {
            if *now == Fate::Open && *by == Some(who) {
                *now = fate;
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.sim.clock.now()
    }

    fn act(&mut self, log: &EmbeddedLog, actions: u64) {
        for _ in 0..actions {
            match self.below(12) {
                0 => self.end(log, 0, Marker::Commit),
                1 => {
                    let who = self.below(2) as usize;
                    self.end(log, who, Marker::Abort);
                }
                2 => {
                    let tick = log.next_tick(Tick::ZERO, u64::MAX);
                    let ends = log.ends(tick, &all_partitions()).unwrap();
                    self.ticks.push((tick, ends));
                }
                _ => {
                    let p = self.below(PARTITIONS as u64) as i32;
                    self.write(log, p);
                }
            }
        }
        // Indexes of what is full.
        rest(log);
    }

    /// Compacts until there is nothing more to do.
    fn compact(&self, log: &EmbeddedLog) {
        for _ in 0..8 {
            self.sim.clock.advance(Duration::from_mins(1));
            rest(log);
        }
    }

    /// Checks what holds at any time. What is there, by partition.
    fn check(&self, log: &EmbeddedLog) -> Vec<Vec<Record>> {
        check_reads(log).unwrap();
        let mut all = Vec::new();
        for (at, written) in all_partitions().iter().zip(&self.written) {
            let found = visible(log, at, Offset::ZERO);
            let mut newest: BTreeMap<&Bytes, i64> = BTreeMap::new();
            for record in &found {
                let (same, fate, _) = &written[&record.offset.0];
                assert_eq!((record, *fate), (same, Fate::Counts), "{at}");
                newest.insert(record.key.as_ref().unwrap(), record.offset.0);
            }
            let stable = log.bounds(at).unwrap().stable.0;
            for (record, ..) in counting(written, stable) {
                let key = record.key.as_ref().unwrap();
                let left = newest.get(key).copied().unwrap_or(-1);
                let is_older = left >= record.offset.0;
                let last = counting(written, stable).rfind(|(r, ..)| r.key == record.key).unwrap();
                let is_dead = left < 0 && last.0.value.is_none();
                assert!(is_older || is_dead, "{at}: {} is lost", record.offset);
            }
            // The last batch of each producer is there, with its records or without.
            let lying: Vec<Offset> = headers(log, at).iter().map(|h| h.base_offset).collect();
            let last = self.writers.iter().filter_map(|w| w.last.get(&at.partition.0));
            assert!(last.into_iter().all(|(_, offset)| lying.contains(offset)), "{at}: {lying:?}");
            self.check_places(log, at, &found);
            all.push(found);
        }
        self.check_ticks(log, &all);
        all
    }

    /// Reads from every offset, and looks for times.
    fn check_places(&self, log: &EmbeddedLog, at: &TopicPartition, found: &[Record]) {
        let bounds = log.bounds(at).unwrap();
        for from in (bounds.start.0..bounds.stable.0).step_by(13) {
            let behind = found.iter().filter(|record| record.offset.0 >= from);
            let read = read_once(log, at, Offset(from)).0;
            let read: Vec<_> = read.iter().filter(|record| record.offset.0 >= from).collect();
            assert_eq!(read, behind.take(read.len()).collect::<Vec<_>>(), "{at} from {from}");
        }
        let lying = lying(log, at);
        for _ in 0..5 {
            let time = Timestamp(self.now().0 - self.below(5_000_000) as i64);
            let naive = lying.iter().find(|record| record.timestamp >= time);
            let naive = naive.map(|record| (record.offset, record.timestamp));
            assert_eq!(log.offset_at(at, time).unwrap(), naive, "{at} at {time}");
        }
    }

    fn check_ticks(&self, log: &EmbeddedLog, found: &[Vec<Record>]) {
        let mut last = vec![Offset::ZERO; PARTITIONS as usize];
        for (tick, before) in &self.ticks {
            let ends = log.ends(*tick, &all_partitions()).unwrap();
            for (p, (before, end)) in before.iter().zip(&ends).enumerate() {
                assert!(end >= before, "{p} at {tick}: {end} was {before}");
                let between = found[p].iter().find(|r| (*before..*end).contains(&r.offset));
                assert_eq!(between, None, "{p} at {tick}: {end} was {before}");
                assert!(last[p] <= *end, "{p} at {tick}");
            }
            last = ends;
        }
    }

    /// Checks that what is there is the fold.
    fn check_fold(&self, log: &EmbeddedLog) {
        for (p, found) in self.check(log).into_iter().enumerate() {
            let stable = log.bounds(&partition("t", p as i32)).unwrap().stable.0;
            let mut fold: BTreeMap<Option<Bytes>, &Record> = BTreeMap::new();
            for (record, ..) in counting(&self.written[p], stable) {
                fold.insert(record.key.clone(), record);
            }
            let mut fold: Vec<_> = fold.into_values().collect();
            fold.sort_by_key(|record| record.offset);
            assert_eq!(found.iter().collect::<Vec<_>>(), fold, "partition {p}");
        }
    }

    /// Sends the last batch of every producer again: it is known.
    fn retry(&self, log: &EmbeddedLog) {
        for writer in &self.writers {
            for (p, (batch, offset)) in &writer.last {
                let again = append(log, &[(partition("t", *p), batch.clone())]).unwrap();
                assert_eq!(again.base_offsets, [*offset], "partition {p}");
            }
        }
    }
}

fn counting(
    written: &Written,
    stable: i64,
) -> impl DoubleEndedIterator<Item = &(Record, Fate, Option<usize>)> {
    written.range(..stable).map(|(_, written)| written).filter(|w| w.1 == Fate::Counts)
}

pub(crate) fn rest(log: &EmbeddedLog) {
    while log.step() {}
}

/// What the engine sees from an offset on, and where it reads on.
fn read_once(log: &EmbeddedLog, at: &TopicPartition, from: Offset) -> (Vec<Record>, Offset) {
    let read = log.read(at, from, Offset(i64::MAX), 3000, Isolation::Appended).unwrap();
    assert!(read.batches.iter().all(|batch| batch::check(batch).is_ok()));
    (read.batches.iter().flat_map(batch::records).map(Result::unwrap).collect(), read.next)
}

/// All of it, below what is stable.
pub(crate) fn visible(log: &EmbeddedLog, at: &TopicPartition, mut from: Offset) -> Vec<Record> {
    let mut found = Vec::new();
    loop {
        let (records, next) = read_once(log, at, from);
        if next == from {
            return found;
        }
        found.extend(records);
        from = next;
    }
}

/// All records as they lie, markers too.
fn lying(log: &EmbeddedLog, at: &TopicPartition) -> Vec<Record> {
    let mut found = Vec::new();
    let mut from = log.bounds(at).unwrap().start;
    loop {
        let read = log.read(at, from, Offset(i64::MAX), 3000, Isolation::Uncommitted).unwrap();
        if read.next == from {
            return found;
        }
        found.extend(read.batches.iter().flat_map(batch::records).map(Result::unwrap));
        from = read.next;
    }
}

pub(crate) fn headers(log: &EmbeddedLog, at: &TopicPartition) -> Vec<Header> {
    let mut found = Vec::new();
    let mut from = log.bounds(at).unwrap().start;
    loop {
        let read = log.read(at, from, Offset(i64::MAX), 3000, Isolation::Uncommitted).unwrap();
        if read.next == from {
            return found;
        }
        found.extend(read.batches.iter().map(|batch| Header::parse(batch).unwrap()));
        from = read.next;
    }
}

fn make(log: &EmbeddedLog, more: &[(&str, &str)]) {
    let spec = TopicSpec { name: name("t"), partitions: PARTITIONS };
    log.create_topic_with(&spec, settings(more)).unwrap();
}

pub(crate) fn files(sim: &Sim, kind: &str) -> usize {
    let files = sim.disk.list(Path::new("/data/journal")).unwrap();
    files.iter().filter(|path| path.extension().unwrap() == kind).count()
}

/// Writes, compacts up to a cut, and goes on. How many writes and syncs there were meanwhile.
fn run(
    seed: u64,
    cut: Option<(Operation, u64)>,
    before: fn(Arc<dyn Disk>) -> Arc<dyn Disk>,
) -> [u64; 2] {
    let mut world = World::new(seed, before);
    let log = world.open();
    make(&log, &[]);
    world.act(&log, 90);
    if seed.is_multiple_of(3) {
        // A pass before, so that the next one takes what it left.
        world.compact(&log);
        world.act(&log, 40);
    }
    world.check(&log);
    let known = |log: &EmbeddedLog| -> Vec<_> {
        all_partitions().iter().map(|at| log.producers(at).unwrap()).collect()
    };
    let producers = known(&log);
    let counts = || [Operation::Write, Operation::Sync].map(|of| world.sim.disk.count(of));
    let before = counts();
    if let Some((operation, n)) = cut {
        let n = before[usize::from(operation == Operation::Sync)] + n;
        world.sim.disk.fail_at(operation, n, Failure::Crash);
    }
    world.compact(&log);
    let did = counts();
    std::mem::forget(log);
    world.sim.disk.crash();

    let log = world.open();
    assert_eq!(known(&log), producers);
    world.check(&log);
    world.retry(&log);
    world.act(&log, 20);
    world.compact(&log);
    world.check_fold(&log);
    drop(log);
    let log = world.open();
    world.check_fold(&log);
    world.retry(&log);
    rest(&log);
    let files = files(&world.sim, "compacted");
    assert!((3..10).contains(&files), "seed {seed}, {cut:?}: {files} files");
    [did[0] - before[0], did[1] - before[1]]
}

#[test]
fn what_is_left_is_the_newest_of_each_key_wherever_the_power_is_cut() {
    let mut cuts = 0;
    for seed in 0..3 {
        let [writes, syncs] = run(seed, None, |disk| disk);
        let all = (1..=writes).map(|n| (Operation::Write, n));
        for cut in all.chain((1..=syncs).map(|n| (Operation::Sync, n))) {
            run(seed, Some(cut), |disk| disk);
            cuts += 1;
        }
    }
    assert!(cuts > 100, "only {cuts} cuts were tried");
}

/// A disk that does not sync what compaction writes, while it says that it did. Such files alone are
/// written from behind their first page on.
#[derive(Default)]
struct Lying(Mutex<HashMap<u64, bool>>);

impl Interpose for Lying {
    fn write(&self, file: &dyn File, number: u64, bufs: &[&[u8]], at: u64) -> io::Result<()> {
        self.0.lock().unwrap().entry(number).or_insert(at == 4096);
        file.write_all_vectored_at(bufs, at)
    }

    fn sync(&self, file: &dyn File, number: u64) -> io::Result<()> {
        let lies = self.0.lock().unwrap().get(&number).copied().unwrap_or_default();
        if lies { Ok(()) } else { file.sync_data() }
    }
}

#[test]
fn the_checker_sees_files_that_were_not_synced() {
    let lying = |disk| Arc::new(Interposed::new(disk, Arc::new(Lying::default()))) as Arc<dyn Disk>;
    let found = std::panic::catch_unwind(|| run(0, None, lying));
    assert!(found.is_err(), "the checker found nothing on a lying disk");
}
