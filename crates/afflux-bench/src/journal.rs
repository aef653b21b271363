//! `journal`: synced groups through the journal, beside a raw loop that writes and syncs as much.
//!
//! Both sides write groups of the same size and count what is durable:
//! * the raw loop overwrites a file of zeros with one write and one `fdatasync` a group;
//! * the journal takes groups of batches for so many partitions from one client, on
//!   [`afflux_log::EmbeddedLog`] as a node runs it. The client has two groups under way, one that
//!   is synced and one that collects; cases that end in "one at a time" show what a group costs
//!   that waits for the one before, as the raw loop's do.
//!
//! The journal's files are in their steady state: filled with zeros or used before, given back
//! by removed topics between the rounds.

use std::{
    collections::VecDeque,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use afflux_env::real;
use afflux_log::{EmbeddedLog, Entry, Group, LogOptions, TopicSpec};
use afflux_record::{Compression, batch::Builder, frame};
use afflux_types::{Timestamp, TopicName, TopicPartition};
use anyhow::{Result, bail};
use bytes::Bytes;

use crate::{
    Settings,
    raw::Raw,
    report::{Reference, Report},
    sample,
};

/// Groups that a client has under way: one that is synced, one that collects.
pub(crate) const IN_FLIGHT: usize = 2;
const SIZES: [(usize, &str); 4] =
    [(4 << 10, "4 KiB"), (64 << 10, "64 KiB"), (256 << 10, "256 KiB"), (1 << 20, "1 MiB")];
const PARTITIONS: [usize; 4] = [1, 16, 100, 1000];
/// The smallest batch that a group is cut into.
const BATCH_BYTES_MIN: usize = 1 << 10;
/// How long the keeper may take to give files back.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let length = Duration::from_millis(if settings.quick { 200 } else { 1000 });
    let mut raw = Raw::new(&settings.dir.join("raw"))?;
    let mut journal = Journal::new(&settings.dir.join("journal"), 64)?;
    // The first round of all fills files with zeros; the later ones find them.
    journal.round(&batches(1 << 20, 1), 1, IN_FLIGHT, 2 * length)?;
    for (bytes, size) in SIZES {
        let cases = PARTITIONS.map(|partitions| (partitions, IN_FLIGHT, ""));
        for (partitions, in_flight, how) in [(1, 1, ", one at a time")].into_iter().chain(cases) {
            let group = batches(bytes, partitions);
            let (ours, theirs) = sample::interleaved(
                settings.rounds(),
                || journal.round(&group, partitions, in_flight, length),
                || raw.round(bytes, length, true),
            )?;
            let case = format!("{size} x {partitions} partitions{how}");
            let reference = Reference { name: "raw loop".to_owned(), value: theirs };
            report.compared(&case, ours, "MB/s", &reference);
        }
    }
    Ok(())
}

/// Batches that make a group of this many bytes over so many partitions.
pub(crate) fn batches(group_bytes: usize, partitions: usize) -> Vec<Bytes> {
    let count = partitions.min(group_bytes / BATCH_BYTES_MIN).max(1);
    let room = (group_bytes - frame::FRAME_HEADER_BYTES - frame::PREFIX_BYTES) / count;
    let value_of = |bytes: usize| {
        let mut builder = Builder::new(Compression::None);
        builder.push(Timestamp(1), None, Some(&vec![b'j'; bytes]));
        builder.finish().expect("a batch without compression can be made")
    };
    let overhead = frame::ENTRY_PREFIX_BYTES + value_of(room).len() - room;
    vec![value_of(room - overhead); count]
}

/// A log and where its files are.
struct Journal {
    log: EmbeddedLog,
    dir: std::path::PathBuf,
    rounds: usize,
}

impl Journal {
    fn new(dir: &Path, spares_max: usize) -> Result<Self> {
        let options = LogOptions { spares_max, ..LogOptions::default() };
        let log = EmbeddedLog::open(&real::env(), dir, options)?;
        Ok(Self { log, dir: dir.join("journal"), rounds: 0 })
    }

    /// Megabytes a second of durable groups, for a time. Their files are given back after it.
    fn round(
        &mut self,
        batches: &[Bytes],
        partitions: usize,
        in_flight: usize,
        length: Duration,
    ) -> Result<f64> {
        self.rounds += 1;
        let topic = TopicName::new(&format!("round-{}", self.rounds))?;
        self.log.create_topic(&TopicSpec { name: topic.clone(), partitions: partitions as i32 })?;
        let mut client = Client::new(&topic, partitions, in_flight);
        let start = Instant::now();
        while start.elapsed() < length {
            client.append(&self.log, batches)?;
        }
        client.finish()?;
        let rate = client.bytes as f64 / 1e6 / start.elapsed().as_secs_f64();
        self.log.delete_topic(&topic)?;
        self.wait_for_spares()?;
        Ok(rate)
    }

    /// Waits until the files of removed topics are spares: all but the one that is written, the
    /// next one, and the one before, which may hold the last of the topic's records.
    fn wait_for_spares(&self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let names = fs::read_dir(&self.dir)?.map(|entry| entry.map(|entry| entry.file_name()));
            let names: Vec<_> = names.collect::<std::io::Result<_>>()?;
            let in_use = names
                .iter()
                .filter_map(|name| name.to_str())
                .filter(|name| name.ends_with(".journal") && !name.starts_with("spare-"));
            if in_use.count() <= 3 {
                return Ok(());
            }
            std::thread::yield_now();
        }
        bail!("files of removed topics were not given back within {PATIENCE:?}")
    }
}

/// Appends groups, a few of them under way at once.
pub(crate) struct Client {
    partitions: Vec<TopicPartition>,
    next: usize,
    in_flight: usize,
    tickets: VecDeque<(afflux_log::Ticket, Instant)>,
    /// What was appended.
    pub(crate) bytes: u64,
    /// From the call to the acknowledgement, or to the next call if that was later.
    pub(crate) waits: sample::Durations,
}

impl Client {
    pub(crate) fn new(topic: &TopicName, partitions: usize, in_flight: usize) -> Self {
        Self {
            partitions: (0..partitions as i32)
                .map(|partition| TopicPartition::new(topic.clone(), partition))
                .collect(),
            next: 0,
            in_flight,
            tickets: VecDeque::new(),
            bytes: 0,
            waits: sample::Durations::default(),
        }
    }

    /// Appends one group to the partitions whose turn it is.
    pub(crate) fn append(&mut self, log: &EmbeddedLog, batches: &[Bytes]) -> Result<()> {
        if self.tickets.len() == self.in_flight {
            self.wait()?;
        }
        let entries = batches.iter().map(|batch| {
            let partition = self.partitions[self.next].clone();
            self.next = (self.next + 1) % self.partitions.len();
            Entry { partition, batch: batch.clone() }
        });
        let group = Group { entries: entries.collect() };
        self.bytes += batches.iter().map(|batch| batch.len() as u64).sum::<u64>();
        self.tickets.push_back((log.append(&group), Instant::now()));
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        if let Some((ticket, since)) = self.tickets.pop_front() {
            ticket.wait()?;
            self.waits.push(since.elapsed());
        }
        Ok(())
    }

    /// Waits for all.
    pub(crate) fn finish(&mut self) -> Result<()> {
        while !self.tickets.is_empty() {
            self.wait()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_the_size_that_they_are_named_by() {
        for (bytes, size) in SIZES {
            for partitions in PARTITIONS {
                let batches = batches(bytes, partitions);
                let payload = frame::group_bytes(batches.iter().map(Bytes::len));
                let total = frame::frame_bytes(payload);
                assert!(total <= bytes, "{size} x {partitions}: {total}");
                assert!(total * 100 >= bytes * 97, "{size} x {partitions}: {total}");
            }
        }
    }
}
