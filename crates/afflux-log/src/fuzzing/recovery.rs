//! A data directory that was written once, and wounds of it.
//!
//! 1. Once in a process a log is filled: small and large groups, a transaction that was aborted, a
//!    topic that is compacted, some full files. All that was written is remembered, what partitions
//!    show in the end, and all files.
//! 2. An input is a list of wounds of eight bytes each. They change bytes, take or repeat stretches,
//!    cut files or remove them. None can make a checksum right again.
//! 3. The log is opened on what is left. It may refuse. If it opens, each partition shows what was
//!    written and, up to the last of it, all that it showed: an end may be missing, or its reader is
//!    told where it can not go on. (What compaction dropped may be back, if it is compaction's end
//!    that is missing.) What is then appended is still there when the log is opened again.

use std::{collections::BTreeMap, path::Path, sync::LazyLock, time::Duration};

use afflux_env::{
    Disk, OpenMode,
    sim::{Sim, SimDisk},
};
use afflux_record::{
    Compression, Marker, batch,
    batch::{Builder, Producer},
    fuzzing::Target,
};
use afflux_types::{Offset, ProducerEpoch, ProducerId, Timestamp, TopicName, TopicPartition};
use bytes::Bytes;

use super::{JOURNAL_DIR, a_batch, put};
use crate::{
    EmbeddedLog, Entry, Group, Isolation, Log, LogOptions, TopicSpec, journal::FIRST_PAGE,
    settings::Settings,
};

const DIR: &str = "/data";

/// See the module. The wounds are of eight bytes.
pub const RECOVERY: Target = Target {
    run: |input| _ = wound_and_open(input),
    seeds: || {
        let files = WRITTEN.files.len() as u8;
        let each = (0..files).flat_map(|file| {
            // A byte in front, a byte further on, a stretch, an end, the file itself.
            [[0, 20], [0, 80], [1, 66], [3, 70], [4, 0]]
                .map(|[what, page]| vec![file, what, page, 8, 0, 200, 1, 3])
        });
        each.chain([vec![]]).collect()
    },
    held_bytes_max: |_| 64 << 20,
};

/// Records by their offset.
type Records = BTreeMap<i64, Bytes>;

pub(super) struct Written {
    pub(super) files: Vec<(String, Vec<u8>)>,
    /// Those of the journal file that was written last.
    pub(super) frames: Vec<u8>,
    partitions: Vec<Partition>,
}

struct Partition {
    name: TopicPartition,
    /// All that ever counted.
    written: Records,
    /// What was shown in the end.
    shown: Records,
}

pub(super) static WRITTEN: LazyLock<Written> = LazyLock::new(write);

fn options() -> LogOptions {
    LogOptions {
        file_bytes: 32 << 10,
        first_file_bytes: 32 << 10,
        write_bytes_max: 8 << 10,
        whole_group_bytes_max: 4 << 10,
        chunk_bytes: 2 << 10,
        hot_bytes: 8 << 10,
        block_bytes: 4 << 10,
        block_cache_bytes: 16 << 10,
        index_cache_bytes: 4 << 10,
        free_bytes_min: 0,
        spares_max: 1,
        ..LogOptions::default()
    }
}

fn partitions() -> Vec<TopicPartition> {
    [("kept", 0), ("kept", 1), ("compacted", 0)]
        .map(|(name, partition)| TopicPartition::new(TopicName::new(name).unwrap(), partition))
        .to_vec()
}

fn append(log: &EmbeddedLog, partition: &TopicPartition, batch: Bytes) -> Option<Offset> {
    let entries = vec![Entry { partition: partition.clone(), batch }];
    let mut ticket = log.append(&Group { entries });
    loop {
        if let Some(outcome) = ticket.poll_now() {
            return Some(outcome.ok()?.base_offsets[0]);
        }
        assert!(log.step(), "an append waits for nothing");
    }
}

fn write() -> Written {
    let sim = Sim::new(3);
    let log = EmbeddedLog::open_stepped(&sim.env(), Path::new(DIR), options()).unwrap();
    let names = partitions();
    log.create_topic(&TopicSpec { name: names[0].topic.clone(), partitions: 2 }).unwrap();
    let compacted = TopicSpec { name: names[2].topic.clone(), partitions: 1 };
    let set =
        [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0"), ("segment.ms", "1")];
    let set = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
    log.create_topic_with(&compacted, Settings::new(set).unwrap()).unwrap();
    let mut written = vec![Records::new(); names.len()];
    for time in 0..60 {
        let bytes = if time % 9 == 8 { 5_000 } else { 300 + 40 * (time % 7) };
        let (partition, batch) = (time % 3, a_batch(time as i64, bytes));
        let base = append(&log, &names[partition], batch.clone()).unwrap();
        for (at, record) in (base.0..).zip(batch::records(&batch)) {
            written[partition].insert(at, record.unwrap().value.unwrap());
        }
        if time == 30 {
            abort(&log, &names[1]);
        }
        if time % 20 == 19 {
            rest(&sim, &log);
        }
    }
    let partitions = names.into_iter().zip(written).map(|(name, written)| {
        let (shown, whole) = read(&log, &name);
        assert!(whole && !shown.is_empty());
        Partition { name, written, shown }
    });
    let partitions = partitions.collect();
    // As a power cut leaves it, so that the end is not marked.
    std::mem::forget(log);
    sim.disk.crash();
    let files = files(&sim.disk);
    let journals = files.iter().filter(|(path, _)| path.ends_with("0.journal"));
    let mut newest = journals.map(|(_, bytes)| &bytes[FIRST_PAGE as usize..]);
    let newest = newest.rfind(|frames| frames.iter().any(|byte| *byte != 0)).unwrap();
    let end = newest.iter().rposition(|byte| *byte != 0).unwrap();
    let frames = newest[..=end].to_vec();
    Written { files, frames, partitions }
}

/// A transaction that does not count.
fn abort(log: &EmbeddedLog, partition: &TopicPartition) {
    let (id, epoch) = (ProducerId(5), ProducerEpoch(0));
    let mut builder = Builder::new(Compression::Zstd)
        .producer(Producer { id, epoch, base_sequence: 0 })
        .transactional();
    builder.push(Timestamp(1), None, Some(b"aborted"));
    append(log, partition, builder.finish().unwrap()).unwrap();
    append(log, partition, Marker::Abort.batch(id, epoch, 0, Timestamp(2)).unwrap()).unwrap();
}

/// Lets time pass, for all that is done now and then.
fn rest(sim: &Sim, log: &EmbeddedLog) {
    for _ in 0..4 {
        sim.clock.advance(Duration::from_mins(1));
        while log.step() {}
    }
}

fn files(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for path in [DIR, JOURNAL_DIR].iter().flat_map(|dir| disk.list(Path::new(dir)).unwrap()) {
        let Ok(file) = disk.open(&path, OpenMode::Read) else { continue };
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        files.push((path.to_str().unwrap().to_owned(), bytes));
    }
    files
}

/// What a partition shows, and whether it could be read to its end.
fn read(log: &EmbeddedLog, partition: &TopicPartition) -> (Records, bool) {
    let mut shown = Records::new();
    let Ok(bounds) = log.bounds(partition) else { return (shown, true) };
    let mut from = bounds.start;
    loop {
        let read = log.read(partition, from, Offset(i64::MAX), 2_000, Isolation::Appended);
        let Ok(read) = read else { return (shown, false) };
        for batch in &read.batches {
            if batch::check(batch).is_err() {
                return (shown, false);
            }
            for record in batch::records(batch) {
                let record = record.expect("a batch whose checksum holds is one that was written");
                shown.insert(record.offset.0, record.value.unwrap_or_default());
            }
        }
        if read.next <= from {
            assert!(read.batches.is_empty(), "a read from {from:?} goes on at {:?}", read.next);
            return (shown, from >= bounds.end);
        }
        from = read.next;
    }
}

impl Partition {
    fn check(&self, shown: &Records) {
        let name = &self.name;
        for (at, value) in shown {
            assert_eq!(self.written.get(at), Some(value), "{name} at {at}");
        }
        let last = shown.last_key_value().map_or(-1, |(at, _)| *at);
        let missing = self.shown.range(..=last).find(|(at, _)| !shown.contains_key(at));
        assert_eq!(missing, None, "{name} shows what stands behind, up to {last}");
    }
}

/// Whether it opened.
fn wound_and_open(input: &[u8]) -> bool {
    let mut files = WRITTEN.files.clone();
    let mut removed = vec![false; files.len()];
    for wound in input.chunks_exact(8).take(16) {
        wound_one(&mut files, &mut removed, wound);
    }
    let sim = Sim::new(5);
    for dir in [DIR, JOURNAL_DIR] {
        sim.disk.create_dir_all(Path::new(dir)).unwrap();
    }
    for ((path, bytes), _) in files.iter().zip(removed).filter(|(_, removed)| !removed) {
        put(&sim.disk, Path::new(path), bytes);
    }
    let Ok(log) = EmbeddedLog::open_stepped(&sim.env(), Path::new(DIR), options()) else {
        return false;
    };
    let mut appended = Vec::new();
    for partition in &WRITTEN.partitions {
        partition.check(&read(&log, &partition.name).0);
        let offset = append(&log, &partition.name, a_batch(1_000, 100));
        appended.extend(offset.map(|offset| (&partition.name, offset)));
    }
    drop(log);
    let log = EmbeddedLog::open_stepped(&sim.env(), Path::new(DIR), options())
        .expect("what was opened once opens again");
    for (partition, offset) in appended {
        let read = log.read(partition, offset, Offset(i64::MAX), 2_000, Isolation::Uncommitted);
        let first = read.unwrap().batches.first().map(batch::records);
        let first = first.and_then(|mut records| records.next()).unwrap().unwrap();
        assert_eq!((first.offset, first.timestamp), (offset, Timestamp(1_000)));
    }
    true
}

/// `file what place:u16 bytes:u16 from:u16`, of big-endian numbers.
fn wound_one(files: &mut [(String, Vec<u8>)], removed: &mut [bool], wound: &[u8]) {
    let number = |at: usize| usize::from(u16::from_be_bytes([wound[at], wound[at + 1]]));
    let file = usize::from(wound[0]) % files.len();
    let other = number(6) % files.len();
    let source = files[other].1.clone();
    let bytes = &mut files[file].1;
    let place = number(2) % (bytes.len() + 1);
    let end = (place + number(4)).min(bytes.len());
    match wound[1] % 8 {
        0 | 7 if place < bytes.len() => bytes[place] ^= wound[7].max(1),
        1 => bytes[place..end].fill(0),
        2 => bytes[place..end].fill(0xff),
        3 => bytes.truncate(place),
        4 => removed[file] = true,
        5 => {
            let from = number(6) % (bytes.len() + 1);
            let length = (end - place).min(bytes.len() - from);
            bytes.copy_within(from..from + length, place);
        }
        // The same place of another file: a file's former life.
        6 => {
            let end = end.min(source.len());
            if place < end {
                bytes[place..end].copy_from_slice(&source[place..end]);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_wounds_are_refused_and_some_are_not() {
        let opened = (RECOVERY.seeds)().iter().filter(|seed| wound_and_open(seed)).count();
        assert!(opened > 0 && opened < (RECOVERY.seeds)().len(), "{opened}");
        assert!(wound_and_open(&[]));
    }

    fn partition() -> Partition {
        let partition = &WRITTEN.partitions[0];
        let Partition { name, written, shown } = partition;
        Partition { name: name.clone(), written: written.clone(), shown: shown.clone() }
    }

    #[test]
    fn an_end_may_be_missing() {
        let partition = partition();
        let mut shown = partition.shown.clone();
        while shown.pop_last().is_some() {
            partition.check(&shown);
        }
    }

    #[test]
    #[should_panic(expected = "shows what stands behind")]
    fn a_hole_is_found() {
        let partition = partition();
        let mut shown = partition.shown.clone();
        shown.remove(&1);
        partition.check(&shown);
    }

    #[test]
    #[should_panic(expected = "kept-0 at 1")]
    fn what_was_not_written_is_found() {
        let partition = partition();
        let mut shown = partition.shown.clone();
        shown.insert(1, Bytes::from_static(b"else"));
        partition.check(&shown);
    }
}
