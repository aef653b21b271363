//! Consuming: what is in memory, and what is not.
//!
//! * Hot: a topic that the newest bytes in memory hold, read over and over.
//! * Cold: a larger one, another in each round, read once after the system was told to forget its
//!   pages of every file below the brokers' directories. What a broker keeps itself stays, which for
//!   ours is the newest 32 MiB.
//!
//! The raw loop sends a file of the same size through a socket, forgotten before if cold.

use std::{
    fs::{self, File},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::fs::{Advice, fadvise};

use super::{
    Bench, Brokers, Case, KAFKA, Which, in_turn,
    prebuilt::{self, Load},
    produce::{FILL_WITHIN, side_figures},
    reference, report_cpu,
    results::Results,
    settle, smaller,
};
use crate::{raw, report::Report};

const OURS: &str = "ours";
const RAW: &str = "a raw sendfile loop";
const HOT_BYTES: u64 = 16 << 20;
const COLD_BYTES: u64 = 1 << 30;
const COLD_BYTES_QUICK: u64 = 256 << 20;
const SIDES: [(&str, Which); 2] = [(OURS, Which::Ours), (KAFKA, Which::Kafka)];

pub(super) fn run(bench: &mut Bench<'_>, results: &mut Results, report: &mut Report) -> Result<()> {
    let cold = if bench.settings.quick { COLD_BYTES_QUICK } else { COLD_BYTES };
    for (what, bytes, is_cold) in [("consume hot", HOT_BYTES, false), ("consume cold", cold, true)]
    {
        for case in bench.cases {
            let name = case.named(what);
            if bench.wants(&name) {
                one(bench, results, report, (&name, *case, bytes, is_cold))?;
            }
        }
    }
    Ok(())
}

fn one(
    bench: &mut Bench<'_>,
    results: &mut Results,
    report: &mut Report,
    (name, case, bytes, is_cold): (&str, Case, u64, bool),
) -> Result<()> {
    let dir = bench.settings.dir.clone();
    let length = if is_cold { Duration::ZERO } else { bench.length };
    let sides = bench.sides(&SIDES, |side| side.1);
    let (mut file, mut filled) = (None, None);
    let outcome = results.case(name, |round| {
        let brokers = bench.brokers()?;
        let file = match &file {
            Some(file) => file,
            None => file.insert(raw::filled(&dir.join("sent"), bytes)?),
        };
        // Who has read a topic may remember it, and is not cold.
        if is_cold && let Some(topics) = filled.take() {
            remove(brokers, &topics)?;
        }
        let topics = match &filled {
            Some(filled) => filled,
            None => filled.insert(fill(brokers, &sides, (case, bytes))?),
        };
        let forget = || if is_cold { forget(&dir) } else { Ok(()) };
        let mut figures = in_turn(round, &sides, |(side, which)| {
            forget()?;
            let topic = topic_of(topics, which)?;
            let before = brokers.cpu(which)?;
            let moved = prebuilt::read(brokers.address(which), topic, case.partitions, length)?;
            let cpu = brokers.cpu(which)? - before;
            Ok(side_figures(side, moved.megabytes_per_second(), cpu, moved.records))
        })?;
        forget()?;
        figures.insert(RAW.to_owned(), raw::send_file(file, bytes, length)?);
        Ok(figures)
    });
    if let (Some(topics), Some(brokers)) = (filled, &bench.brokers) {
        remove(brokers, &topics)?;
        fs::remove_file(dir.join("sent"))?;
    }
    let figures = outcome?;
    let ours = reference(OURS, &figures).value;
    for side in [KAFKA, RAW] {
        report.compared(name, ours, "MB/s", &reference(side, &figures));
    }
    report.compared(name, ours, "MB/s", &smaller(&figures, [(1.5, KAFKA), (0.8, RAW)]));
    report_cpu(report, name, &figures);
    Ok(())
}

/// A topic of each broker.
type Topics = Vec<(Which, String)>;

fn topic_of(topics: &Topics, which: Which) -> Result<&str> {
    let found = topics.iter().find(|(of, _)| *of == which);
    found.map(|(_, topic)| topic.as_str()).context("a side without a topic")
}

fn remove(brokers: &Brokers, topics: &Topics) -> Result<()> {
    topics.iter().try_for_each(|(which, topic)| brokers.remove(*which, topic))
}

/// Fills a topic of each broker.
fn fill(
    brokers: &mut Brokers,
    sides: &[(&str, Which)],
    (case, bytes): (Case, u64),
) -> Result<Topics> {
    let mut filled = |which| -> Result<String> {
        let topic = brokers.create(which, case.partitions, &[])?;
        let load = Load::new(&topic, case.partitions, case.record_bytes)?;
        let sent = load.send(brokers.address(which), FILL_WITHIN, bytes)?;
        ensure!(sent.bytes > bytes / 2, "only {} bytes were taken in time", sent.bytes);
        Ok(topic)
    };
    // Ours last, as the newest bytes in its memory are those of any topic.
    let topics = sides.iter().rev().map(|(_, which)| Ok((*which, filled(*which)?)));
    let topics = topics.collect::<Result<_>>()?;
    settle();
    Ok(topics)
}

/// Tells the system to forget its pages of all files below a directory. What a broker removes
/// meanwhile has no pages any more.
fn forget(dir: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            forget(&path)?;
        } else if let Ok(file) = File::open(&path) {
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}
