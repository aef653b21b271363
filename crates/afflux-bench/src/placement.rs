//! `placement`: where data lives once its journal file is full, and what that costs.
//!
//! Three layouts take the same groups at the same time:
//! * **in place**: the sealed file stays a segment, its index beside it;
//! * **copied**: the batches of every sealed file are appended to one file a partition, each
//!   synced, and the journal file is given back;
//! * **rewritten**: after [`COLD_FILES`] sealed files all their batches are written into one file,
//!   sorted by partition, with one sync, and the journal files are given back.
//!
//! What is measured, per layout and number of partitions: acknowledged megabytes a second until
//! all of it is where it belongs; bytes written (files of zeros too) per byte acknowledged; the
//! 99th percentile of a group's wait; and how fast one partition is read back, from files that
//! are not in memory.
//!
//! The journal's work is done by [`afflux_log::EmbeddedLog`]; copying and rewriting exist here
//! alone. A generation of records is a topic, removed when it was copied: that is what gives the
//! journal files back. The quick run fits into the page cache and says little about bandwidth; a
//! full one writes more than the dirty-page limit.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Instant,
};

use afflux_env::{Env, File, Interpose, Interposed, real};
use afflux_log::{EmbeddedLog, Isolation, LogOptions, TopicSpec};
use afflux_types::{Offset, TopicName, TopicPartition};
use anyhow::{Result, anyhow};

use crate::{
    Settings,
    journal::{Client, IN_FLIGHT, batches},
    report::{Reference, Report},
};

const PARTITIONS: [usize; 4] = [1, 16, 100, 1000];
const GROUP_BYTES: usize = 64 << 10;
/// Sealed files that are rewritten together.
const COLD_FILES: usize = 4;
/// What is acknowledged in a run.
const BYTES: u64 = 5 << 30;
const BYTES_QUICK: u64 = 384 << 20;
/// Records of one generation, about a journal file's worth.
const GENERATION_BYTES: u64 = 60 << 20;
/// Generations that may wait to be moved: the client waits for room beyond.
const BACKLOG: usize = COLD_FILES * 2;
/// Partitions that are read back.
const READ: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    InPlace,
    Copied,
    Rewritten,
}

const LAYOUTS: [(Layout, &str); 3] =
    [(Layout::InPlace, "in place"), (Layout::Copied, "copied"), (Layout::Rewritten, "rewritten")];

pub(crate) fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let bytes = if settings.quick { BYTES_QUICK } else { BYTES };
    for partitions in PARTITIONS {
        let mut in_place: Option<Figures> = None;
        for (layout, name) in LAYOUTS {
            let dir = settings.dir.join(format!("{partitions}-{name}"));
            let figures = measure(&dir, layout, partitions, bytes)?;
            fs::remove_dir_all(&dir)?;
            let case = |what: &str| format!("{what}, {partitions} partitions, {name}");
            let mut print = |what: &str, unit: &str, of: fn(&Figures) -> f64| match &in_place {
                None => report.figure(&case(what), of(&figures), unit),
                Some(base) => {
                    let reference = Reference { name: "in place".to_owned(), value: of(base) };
                    report.compared(&case(what), of(&figures), unit, &reference);
                }
            };
            print("acknowledged", "MB/s", |figures| figures.rate);
            print("written per byte", "bytes", |figures| figures.written);
            print("p99 of a group", "ms", |figures| figures.wait_p99);
            print("read of a partition", "MB/s", |figures| figures.read);
            in_place.get_or_insert(figures);
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Figures {
    rate: f64,
    written: f64,
    wait_p99: f64,
    read: f64,
}

fn measure(dir: &Path, layout: Layout, partitions: usize, bytes: u64) -> Result<Figures> {
    fs::create_dir_all(dir)?;
    let written = Arc::new(AtomicU64::new(0));
    let env = counting(&written);
    let options = LogOptions { spares_max: 16, ..LogOptions::default() };
    let log = EmbeddedLog::open(&env, &dir.join("log"), options)?;
    let group = batches(GROUP_BYTES, partitions);
    let start = Instant::now();
    let mut acknowledged = 0;
    let mut generation = 0;
    let mut waits = crate::sample::Durations::default();
    thread::scope(|scope| {
        let (full, moves) = mpsc::sync_channel(BACKLOG);
        let mover = scope.spawn(|| move_all(&log, dir, layout, partitions, &written, moves));
        while acknowledged < bytes {
            let topic = topic(generation)?;
            let spec = TopicSpec { name: topic.clone(), partitions: partitions as i32 };
            log.create_topic(&spec)?;
            let mut client = Client::new(&topic, partitions, IN_FLIGHT);
            client.waits = std::mem::take(&mut waits);
            while client.bytes < GENERATION_BYTES {
                client.append(&log, &group)?;
            }
            client.finish()?;
            acknowledged += client.bytes;
            waits = client.waits;
            // The other end is gone only if moving failed, which is told below.
            let _ = full.send(generation);
            generation += 1;
        }
        drop(full);
        mover.join().map_err(|_| anyhow!("moving ended early"))?
    })?;
    let rate = acknowledged as f64 / 1e6 / start.elapsed().as_secs_f64();
    let written = written.load(Ordering::Relaxed) as f64 / acknowledged as f64;
    let read = read_back(&log, dir, layout, partitions, generation)?;
    Ok(Figures { rate, written, wait_p99: waits.percentile_millis(99.0), read })
}

fn topic(generation: usize) -> Result<TopicName> {
    Ok(TopicName::new(&format!("generation-{generation}"))?)
}

/// Moves generations as they come.
fn move_all(
    log: &EmbeddedLog,
    dir: &Path,
    layout: Layout,
    partitions: usize,
    written: &AtomicU64,
    moves: mpsc::Receiver<usize>,
) -> Result<()> {
    let mut cold = Vec::new();
    let mut rewritten = 0;
    for generation in moves {
        cold.push(generation);
        match layout {
            Layout::InPlace => continue,
            Layout::Rewritten if cold.len() < COLD_FILES => continue,
            Layout::Copied => copy(log, dir, &cold, partitions, written)?,
            Layout::Rewritten => {
                rewrite(log, &cold_file(dir, rewritten), &cold, partitions, written)?;
                rewritten += 1;
            }
        }
        for generation in cold.drain(..) {
            log.delete_topic(&topic(generation)?)?;
        }
    }
    if layout == Layout::Rewritten && !cold.is_empty() {
        rewrite(log, &cold_file(dir, rewritten), &cold, partitions, written)?;
    }
    Ok(())
}

fn cold_file(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("cold-{number}"))
}

fn partition_file(dir: &Path, partition: usize) -> PathBuf {
    dir.join(format!("partition-{partition}"))
}

/// All batches of a partition of a generation, piece by piece.
fn each(
    log: &EmbeddedLog,
    generation: usize,
    partition: usize,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<u64> {
    let at = TopicPartition::new(topic(generation)?, partition as i32);
    let mut from = Offset::ZERO;
    let mut bytes = 0;
    loop {
        let batches = log.fetch(&at, from, 1 << 20, Isolation::Uncommitted)?;
        if batches.batches.is_empty() {
            return Ok(bytes);
        }
        for batch in &batches.batches {
            take(batch)?;
            bytes += batch.len() as u64;
        }
        from = batches.next;
    }
}

fn copy(
    log: &EmbeddedLog,
    dir: &Path,
    generations: &[usize],
    partitions: usize,
    written: &AtomicU64,
) -> Result<()> {
    for partition in 0..partitions {
        let path = partition_file(dir, partition);
        let file = fs::OpenOptions::new().create(true).append(true).open(path)?;
        let mut to = io::BufWriter::with_capacity(1 << 20, &file);
        for generation in generations {
            let bytes = each(log, *generation, partition, |batch| to.write_all(batch))?;
            written.fetch_add(bytes, Ordering::Relaxed);
        }
        to.flush()?;
        drop(to);
        file.sync_data()?;
    }
    Ok(())
}

fn rewrite(
    log: &EmbeddedLog,
    path: &Path,
    generations: &[usize],
    partitions: usize,
    written: &AtomicU64,
) -> Result<()> {
    let file = fs::File::create_new(path)?;
    let mut to = io::BufWriter::with_capacity(1 << 20, &file);
    for partition in 0..partitions {
        for generation in generations {
            let bytes = each(log, *generation, partition, |batch| to.write_all(batch))?;
            written.fetch_add(bytes, Ordering::Relaxed);
        }
    }
    to.flush()?;
    drop(to);
    Ok(file.sync_data()?)
}

/// Megabytes a second of reading some partitions whole, from disk.
fn read_back(
    log: &EmbeddedLog,
    dir: &Path,
    layout: Layout,
    partitions: usize,
    generations: usize,
) -> Result<f64> {
    let mut files: Vec<PathBuf> = Vec::new();
    for dir in [dir.to_owned(), dir.join("log/journal")] {
        for entry in fs::read_dir(dir)? {
            files.push(entry?.path());
        }
    }
    for path in files.iter().filter(|path| path.is_file()) {
        let file = fs::File::open(path)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    let some = (0..partitions).step_by(partitions.div_ceil(READ));
    let start = Instant::now();
    let mut bytes = 0;
    for partition in some {
        match layout {
            Layout::InPlace => {
                for generation in 0..generations {
                    bytes += each(log, generation, partition, |_| Ok(()))?;
                }
            }
            Layout::Copied => bytes += fs::read(partition_file(dir, partition))?.len() as u64,
            Layout::Rewritten => bytes += read_slices(dir, partition, partitions)?,
        }
    }
    Ok(bytes as f64 / 1e6 / start.elapsed().as_secs_f64())
}

/// A partition's slice of each cold file. All partitions have as much, but for the last group.
fn read_slices(dir: &Path, partition: usize, partitions: usize) -> Result<u64> {
    use std::os::unix::fs::FileExt;
    let mut bytes = 0;
    for number in 0.. {
        let Ok(file) = fs::File::open(cold_file(dir, number)) else { break };
        let slice = file.metadata()?.len() / partitions as u64;
        let mut buf = vec![0; slice as usize];
        file.read_exact_at(&mut buf, slice * partition as u64)?;
        bytes += slice;
    }
    Ok(bytes)
}

/// The real world, with a disk that counts what is written.
fn counting(written: &Arc<AtomicU64>) -> Env {
    let mut env = real::env();
    env.disk = Arc::new(Interposed::new(env.disk, Arc::new(Counting(written.clone()))));
    env
}

struct Counting(Arc<AtomicU64>);

impl Interpose for Counting {
    fn write(&self, file: &dyn File, _: u64, bufs: &[&[u8]], position: u64) -> io::Result<()> {
        let bytes: usize = bufs.iter().map(|buf| buf.len()).sum();
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
        file.write_all_vectored_at(bufs, position)
    }
}
