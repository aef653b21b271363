//! `compaction`: how much of a partition is compacted in a second, beside a loop by hand; the memory
//! that it takes; and what it costs who produces meanwhile.
//!
//! 1. Records are made once a case, in batches as a client sends them, into a file ([`Data`]).
//! 2. A round of ours fills a log from it, lets the system forget what it has read, sets the topic
//!    to be compacted, and steps the log until there is nothing left to do: index, files that are
//!    given back and all. One thread, as the keeper is.
//! 3. A round of the loop by hand ([`by_hand`]) reads the file, forgotten too and as it goes, and
//!    writes what is left of it, synced as often.
//! 4. What is left is read back and must be the same on both sides, or there is no figure.
//! 5. [`beside`] produces into another topic of a log with threads, with and without a pass.
//!
//! Megabytes are those of the batches that are gone through, as they are stored.

mod beside;
mod by_hand;

use std::{
    cell::OnceCell,
    fmt::Write as _,
    fs::File,
    io::{BufWriter, Write as _},
    num::NonZero,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Instant,
};

use afflux_env::real;
use afflux_log::{
    EmbeddedLog, Entry, Group, Isolation, Log, LogOptions, Ticket, TopicSpec, settings::Settings,
};
use afflux_record::{
    Compression, Header,
    batch::{self, Builder},
};
use afflux_types::{LeaderEpoch, Offset, Timestamp, TopicName, TopicPartition};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use rustix::fs::Advice;

use crate::{
    report::{Reference, Report},
    sample, usage,
};

/// Bytes of records in a case, before they are packed.
const BYTES: u64 = 1 << 30;
const BYTES_QUICK: u64 = 32 << 20;
/// Bytes of records in a batch, before they are packed: what a client collects by default.
const BATCH_BYTES: usize = 16 << 10;
/// What is read or appended at once.
const PIECE_BYTES: usize = 1 << 20;

/// What the records of a case are like.
#[derive(Debug, Clone, Copy)]
struct Case {
    record_bytes: usize,
    keys: u64,
    codec: Compression,
}

/// Each of these sizes with each number of keys and each codec.
const RECORD_BYTES: [usize; 2] = [1000, 100];
const KEYS: [u64; 2] = [10_000, 1_000_000];
const CODECS: [Compression; 2] = [Compression::None, Compression::Lz4];

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        let of = |record_bytes, keys| CODECS.map(|codec| Self { record_bytes, keys, codec });
        RECORD_BYTES
            .into_iter()
            .flat_map(move |size| KEYS.into_iter().flat_map(move |k| of(size, k)))
    }

    fn name(&self) -> String {
        let Self { record_bytes, keys, codec } = self;
        format!("{record_bytes} B, {} k keys, {}", keys / 1000, codec.name())
    }
}

pub(crate) fn run(settings: &crate::Settings, report: &mut Report) -> Result<()> {
    let bytes = if settings.quick { BYTES_QUICK } else { BYTES };
    for case in Case::all().filter(|case| case.name().contains(&settings.case)) {
        let data = Data::make(&settings.dir.join("records"), case, bytes)?;
        let (mut memory, mut left_bytes) = (0, 0);
        // The same on both sides, in every round.
        let left = OnceCell::new();
        let check = |side: &str, is: Left| {
            let first = left.get_or_init(|| is);
            ensure!(*first == is, "{}: {side} leaves {is:?}, not {first:?}", case.name());
            Ok(())
        };
        let dir = settings.dir.join("log");
        let (ours, by_hand) = sample::interleaved(
            settings.rounds(),
            || {
                let pass = compact(&dir, &data)?;
                memory = pass.memory.max(memory);
                left_bytes = pass.left_bytes;
                check("the log", pass.left)?;
                Ok(pass.rate)
            },
            || {
                let (rate, is) = by_hand::run(&settings.dir.join("left"), &data)?;
                check("the loop", is)?;
                Ok(rate)
            },
        )?;
        let name = case.name();
        let reference = |value: f64| Reference { name: "loop by hand".to_owned(), value };
        report.compared(&name, ours, "MB/s", &reference(by_hand));
        let records = |rate: f64| rate * 1e6 / data.bytes as f64 * data.records as f64;
        report.compared(&name, records(ours), "records/s", &reference(records(by_hand)));
        report.figure(&format!("{name}, memory"), memory as f64 / 1e6, "MB");
        if case.codec == Compression::None {
            beside::run(settings, report, &name, (&data, left_bytes))?;
        }
        std::fs::remove_file(&data.path)?;
    }
    Ok(())
}

/// What is left: how many records, and the sum of their offsets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Left {
    records: u64,
    offsets: i64,
}

impl Left {
    fn add(&mut self, offset: i64) {
        self.records += 1;
        self.offsets += offset;
    }
}

/// The batches of a partition, one behind the other in a file.
struct Data {
    path: PathBuf,
    /// Of the file.
    bytes: u64,
    records: u64,
}

impl Data {
    fn make(path: &Path, case: Case, bytes: u64) -> Result<Self> {
        let mut file = BufWriter::with_capacity(PIECE_BYTES, File::create(path)?);
        let now = real::env().clock.now();
        let (count, records) = (BATCH_BYTES / case.record_bytes, bytes / case.record_bytes as u64);
        let mut data = Self { path: path.to_owned(), bytes: 0, records: 0 };
        let mut random = 1;
        while data.records < records {
            let batch = batch_of(case, count, now, &mut random, data.records)?;
            file.write_all(&batch)?;
            data.bytes += batch.len() as u64;
            data.records += count as u64;
        }
        file.into_inner()?.sync_all()?;
        Ok(data)
    }

    /// All batches, about [`PIECE_BYTES`] at once. The system keeps nothing of them in memory: who
    /// reads them again reads them from the disk, as the log does.
    fn each(&self, mut take: impl FnMut(&[Bytes]) -> Result<()>) -> Result<()> {
        let file = File::open(&self.path)?;
        let mut at = 0;
        while at < self.bytes {
            let mut piece = vec![0; PIECE_BYTES.min((self.bytes - at) as usize)];
            file.read_exact_at(&mut piece, at)?;
            let mut piece = Bytes::from(piece);
            let mut batches = Vec::new();
            while let Ok(Header { bytes, .. }) = Header::parse(&piece) {
                batches.push(piece.split_to(bytes));
                at += bytes as u64;
            }
            ensure!(!batches.is_empty(), "a batch is larger than {PIECE_BYTES} bytes");
            rustix::fs::fadvise(&file, 0, NonZero::new(at), Advice::DontNeed)?;
            take(&batches)?;
        }
        Ok(())
    }

    fn forget(&self) -> Result<()> {
        forget(&File::open(&self.path)?)
    }
}

/// Lets the system forget what it has of a file in memory.
fn forget(file: &File) -> Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?)
}

/// A batch as it lies in its partition, of records of text that can be packed to about a half.
fn batch_of(
    case: Case,
    count: usize,
    now: Timestamp,
    random: &mut u64,
    offset: u64,
) -> Result<Bytes> {
    let mut builder = Builder::new(case.codec);
    let mut value = String::new();
    for _ in 0..count {
        let key = format!("{:016x}", next(random) % case.keys);
        value.clear();
        while value.len() + key.len() < case.record_bytes {
            let _ = write!(value, "\"reading\":\"{:016x}\",", next(random));
        }
        value.truncate(case.record_bytes - key.len());
        builder.push(now, Some(key.as_bytes()), Some(value.as_bytes()));
    }
    let mut batch = Vec::from(builder.finish()?);
    batch::patch(&mut batch, Offset(offset as i64), LeaderEpoch(0))?;
    Ok(batch.into())
}

/// The next of a sequence of numbers that look drawn (splitmix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The partition that is compacted.
fn partition() -> Result<TopicPartition> {
    Ok(TopicPartition::new(TopicName::new("compacted")?, 0))
}

fn options() -> LogOptions {
    LogOptions { spares_max: 64, ..LogOptions::default() }
}

/// Fills a log, which waits for a ticket as `settle` does.
fn fill(
    log: &EmbeddedLog,
    data: &Data,
    settle: impl Fn(&EmbeddedLog, Ticket) -> Result<()>,
) -> Result<()> {
    let partition = partition()?;
    log.create_topic(&TopicSpec { name: partition.topic.clone(), partitions: 1 })?;
    data.each(|batches| {
        // Half of it: a larger group would be staged.
        for batches in batches.chunks(batches.len().div_ceil(2)) {
            let entry =
                |batch: &Bytes| Entry { partition: partition.clone(), batch: batch.clone() };
            let group = Group { entries: batches.iter().map(entry).collect() };
            settle(log, log.append(&group))?;
        }
        Ok(())
    })
}

/// Lets the system forget what it has of a log in memory. A file that the log's threads give another
/// name meanwhile is new.
fn forget_log(log: &EmbeddedLog) -> Result<()> {
    for entry in std::fs::read_dir(log.dir())? {
        match File::open(entry?.path()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            file => forget(&file?)?,
        }
    }
    Ok(())
}

/// Lets all that is there be compacted from now on.
fn begin(log: &EmbeddedLog) -> Result<()> {
    let set = [("cleanup.policy", "compact"), ("segment.ms", "1")];
    let set = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Ok(log.alter_topic(&partition()?.topic, |_| Settings::new(set))?)
}

/// What a pass over a partition gives.
struct Pass {
    /// Megabytes a second.
    rate: f64,
    /// The most resident memory beyond what there was before, in bytes.
    memory: u64,
    left: Left,
    /// Bytes of batches that are left.
    left_bytes: u64,
}

fn compact(dir: &Path, data: &Data) -> Result<Pass> {
    let log = EmbeddedLog::open_stepped(&real::env(), dir, options())?;
    fill(&log, data, |log, mut ticket| {
        loop {
            match ticket.poll_now() {
                Some(appended) => return Ok(appended.map(drop)?),
                None => ensure!(log.step(), "the log has nothing to do, and an append waits"),
            }
        }
    })?;
    while log.step() {}
    forget_log(&log)?;
    let before = usage::begin_peak()?;
    let start = Instant::now();
    begin(&log)?;
    while log.step() {}
    let seconds = start.elapsed().as_secs_f64();
    let memory = usage::peak_bytes()?.saturating_sub(before);
    let (left, left_bytes) = (left_in(&log)?, log.partition_bytes(&partition()?)?);
    log.shutdown();
    drop(log);
    std::fs::remove_dir_all(dir).context("remove a log")?;
    Ok(Pass { rate: data.bytes as f64 / 1e6 / seconds, memory, left, left_bytes })
}

fn left_in(log: &EmbeddedLog) -> Result<Left> {
    let partition = partition()?;
    let mut left = Left::default();
    let mut from = log.bounds(&partition)?.start;
    loop {
        let read = log.fetch(&partition, from, PIECE_BYTES, Isolation::Uncommitted)?;
        if read.batches.is_empty() && read.next == from {
            return Ok(left);
        }
        for record in read.batches.iter().flat_map(batch::records) {
            left.add(record?.offset.0);
        }
        from = read.next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_leave_the_newest_record_of_each_key() {
        let dir = tempfile::tempdir().unwrap();
        for codec in CODECS {
            let case = Case { record_bytes: 100, keys: 500, codec };
            let data = Data::make(&dir.path().join("records"), case, 1 << 20).unwrap();
            let mut newest = std::collections::HashMap::new();
            data.each(|batches| {
                for record in batches.iter().flat_map(batch::records) {
                    let record = record?;
                    assert_eq!(
                        record.key.as_ref().unwrap().len() + record.value.unwrap().len(),
                        100
                    );
                    newest.insert(record.key, record.offset.0);
                }
                Ok(())
            })
            .unwrap();
            let expected = Left { records: 500, offsets: newest.values().sum() };
            assert_eq!(newest.len(), 500);
            let ours = compact(&dir.path().join("log"), &data).unwrap().left;
            let (_, theirs) = by_hand::run(&dir.path().join("left"), &data).unwrap();
            assert_eq!((ours, theirs), (expected, expected), "{codec:?}");
        }
    }
}
