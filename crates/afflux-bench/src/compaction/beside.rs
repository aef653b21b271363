//! What producing costs while a partition is compacted: one client that appends groups of 64 KiB to
//! another topic, as `journal` does, to a log with threads.
//!
//! Both sides have a log before them that holds the same records. With a pass, the client appends
//! until it is over, and what is compacted in a second meanwhile is told too; alone, for some time.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use afflux_env::real;
use afflux_log::{EmbeddedLog, TopicSpec};
use afflux_types::TopicName;
use anyhow::{Result, ensure};

use super::{Data, begin, fill, forget_log, options, partition};
use crate::{
    Settings,
    journal::{Client, IN_FLIGHT, batches},
    report::{Reference, Report},
    sample,
};

const GROUP_BYTES: usize = 64 << 10;
/// How often it is looked whether the pass is over.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a pass may take.
const PATIENCE: Duration = Duration::from_mins(10);

/// What rounds of one side give.
#[derive(Default)]
struct Side {
    /// Megabytes a second.
    produced: Vec<f64>,
    /// The 99th percentile of a group's wait, in milliseconds.
    waits: Vec<f64>,
    /// How long each took, in seconds.
    seconds: Vec<f64>,
}

/// Measures both sides. A pass leaves so many bytes of the partition.
pub(super) fn run(
    settings: &Settings,
    report: &mut Report,
    name: &str,
    (data, left_bytes): (&Data, u64),
) -> Result<()> {
    let length = Duration::from_millis(if settings.quick { 300 } else { 3000 });
    let dir = settings.dir.join("beside");
    let (mut with, mut alone) = (Side::default(), Side::default());
    for round in 0..2 * settings.rounds() {
        // With and without in turns, and neither always first.
        if matches!(round % 4, 0 | 3) {
            with.round(&dir, data, begin, |log, since| {
                ensure!(since < PATIENCE, "a pass is not over after {since:?}");
                Ok(log.partition_bytes(&partition()?)? <= left_bytes)
            })?;
        } else {
            alone.round(&dir, data, |_| Ok(()), |_, since| Ok(since >= length))?;
        }
    }
    let mut print = |what: &str, unit: &str, with: &mut [f64], alone: &mut [f64]| {
        let reference = Reference { name: "alone".to_owned(), value: sample::median(alone) };
        report.compared(&format!("{name}, {what}"), sample::median(with), unit, &reference);
    };
    print("produced beside", "MB/s", &mut with.produced, &mut alone.produced);
    print("p99 of a group", "ms", &mut with.waits, &mut alone.waits);
    let compacted = data.bytes as f64 / 1e6 / sample::median(&mut with.seconds);
    report.figure(&format!("{name}, compacted beside"), compacted, "MB/s");
    Ok(())
}

impl Side {
    /// One round, on a log of its own.
    fn round(
        &mut self,
        dir: &Path,
        data: &Data,
        begin: impl Fn(&EmbeddedLog) -> Result<()>,
        is_over: impl Fn(&EmbeddedLog, Duration) -> Result<bool>,
    ) -> Result<()> {
        let log = EmbeddedLog::open(&real::env(), dir, options())?;
        fill(&log, data, |_, ticket| Ok(ticket.wait().map(drop)?))?;
        forget_log(&log)?;
        let topic = TopicName::new("produced")?;
        log.create_topic(&TopicSpec { name: topic.clone(), partitions: 1 })?;
        let group = batches(GROUP_BYTES, 1);
        let mut client = Client::new(&topic, 1, IN_FLIGHT);
        let start = Instant::now();
        begin(&log)?;
        let mut looked = Duration::ZERO;
        loop {
            client.append(&log, &group)?;
            let since = start.elapsed();
            if since >= looked + LOOK_EVERY {
                looked = since;
                if is_over(&log, since)? {
                    break;
                }
            }
        }
        client.finish()?;
        let seconds = start.elapsed().as_secs_f64();
        self.produced.push(client.bytes as f64 / 1e6 / seconds);
        self.waits.push(client.waits.percentile_millis(99.0));
        self.seconds.push(seconds);
        log.shutdown();
        drop(log);
        Ok(fs::remove_dir_all(dir)?)
    }
}
