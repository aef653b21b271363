//! Producing: throughput by librdkafka and by requests built beforehand, and latency.

use std::time::Duration;

use anyhow::Result;

use super::{
    Bench, Case, KAFKA, Which, in_turn,
    librdkafka::{self, Paced},
    prebuilt::{ENDLESS, Load},
    reference, report_cpu,
    results::{Figures, Results},
    settle, smaller,
};
use crate::{raw::Raw, report::Report, sample};

const OURS: &str = "ours";
const SYNCED: &str = "Apache Kafka with flush.messages=1";
const NULL: &str = "a null broker";
const RAW: &str = "a raw loop of synced writes";
const RAW_RELAXED: &str = "a raw loop of writes";
/// The most that the raw loop writes at once.
const RAW_BYTES_MAX: usize = 1 << 20;

/// Records a second whose latency is taken, their size and over how many partitions.
const RATE: u32 = 10_000;
const LATENCY: Case = Case::new(1000, 4);
/// What is written and synced between rounds, to hold latencies against.
const SYNC_BYTES: usize = 4096;

/// A broker, what its figures are called and how its topic is set.
type Side = (&'static str, Which, &'static [(&'static str, &'static str)]);

/// Durable, by librdkafka.
pub(super) fn by_librdkafka(
    bench: &mut Bench<'_>,
    results: &mut Results,
    report: &mut Report,
) -> Result<()> {
    const SIDES: [Side; 4] = [
        (OURS, Which::Ours, &[]),
        (KAFKA, Which::Kafka, &[]),
        (SYNCED, Which::Kafka, &[("flush.messages", "1")]),
        (NULL, Which::Null, &[]),
    ];
    for case in bench.cases {
        let name = case.named("produce, librdkafka");
        if !bench.wants(&name) {
            continue;
        }
        let sides = bench.sides(&SIDES, |side| side.1);
        let figures = results.case(&name, |round| {
            let length = bench.length;
            let brokers = bench.brokers()?;
            in_turn(round, &sides, |(side, which, settings)| {
                let topic = brokers.create(which, case.partitions, settings)?;
                let before = brokers.cpu(which)?;
                let sent = librdkafka::throughput(
                    brokers.address(which),
                    &topic,
                    case.partitions,
                    case.record_bytes,
                    length,
                )?;
                let cpu = brokers.cpu(which)? - before;
                brokers.remove(which, &topic)?;
                let rate = sent.records as f64 / sent.elapsed.as_secs_f64();
                Ok(side_figures(side, rate, cpu, sent.records))
            })
        })?;
        let ours = reference(OURS, &figures).value;
        for side in [KAFKA, SYNCED, NULL] {
            report.compared(&name, ours, "records/s", &reference(side, &figures));
        }
        let target = smaller(&figures, [(10.0, SYNCED), (0.9, NULL)]);
        report.compared(&name, ours, "records/s", &target);
        report_cpu(report, &name, &figures);
    }
    Ok(())
}

/// Durable and relaxed, by requests that are built beforehand.
pub(super) fn by_prebuilt(
    bench: &mut Bench<'_>,
    results: &mut Results,
    report: &mut Report,
) -> Result<()> {
    const DURABLE: [Side; 2] = [(OURS, Which::Ours, &[]), (KAFKA, Which::Kafka, &[])];
    const RELAXED: [Side; 2] =
        [(OURS, Which::Ours, &[("durability", "relaxed")]), (KAFKA, Which::Kafka, &[])];
    let mut disk = None;
    for (what, sides, raw, times) in [
        ("produce, prebuilt", DURABLE, RAW, 2.0),
        ("relaxed produce, prebuilt", RELAXED, RAW_RELAXED, 2.5),
    ] {
        for case in bench.cases {
            let name = case.named(what);
            if !bench.wants(&name) {
                continue;
            }
            let sides = bench.sides(&sides, |side| side.1);
            let figures = results.case(&name, |round| {
                let disk = match &mut disk {
                    Some(disk) => disk,
                    none => none.insert(Raw::new(&bench.settings.dir.join("raw"))?),
                };
                throughput(bench, *case, round, &sides, (raw, disk))
            })?;
            let ours = reference(OURS, &figures).value;
            for side in [KAFKA, raw] {
                report.compared(&name, ours, "MB/s", &reference(side, &figures));
            }
            report.compared(&name, ours, "MB/s", &smaller(&figures, [(times, KAFKA), (0.8, raw)]));
            report_cpu(report, &name, &figures);
        }
    }
    Ok(())
}

/// One round of prebuilt requests, and one of the raw loop before it.
fn throughput(
    bench: &mut Bench<'_>,
    case: Case,
    round: usize,
    sides: &[Side],
    (raw, disk): (&str, &mut Raw),
) -> Result<Figures> {
    let length = bench.length;
    let brokers = bench.brokers()?;
    let under_way = Load::new("", case.partitions, case.record_bytes)?.bytes_in_flight();
    let written = disk.round(under_way.min(RAW_BYTES_MAX), length, raw == RAW)?;
    settle();
    let mut figures = in_turn(round, sides, |(side, which, settings)| {
        let topic = brokers.create(which, case.partitions, settings)?;
        let load = Load::new(&topic, case.partitions, case.record_bytes)?;
        let before = brokers.cpu(which)?;
        let sent = load.send(brokers.address(which), length, ENDLESS)?;
        let cpu = brokers.cpu(which)? - before;
        brokers.remove(which, &topic)?;
        Ok(side_figures(side, sent.megabytes_per_second(), cpu, sent.records))
    })?;
    figures.insert(raw.to_owned(), written);
    Ok(figures)
}

/// A side's rate, and the CPU that it took for a million records if that is known.
pub(super) fn side_figures(side: &str, rate: f64, cpu: f64, records: u64) -> Figures {
    let mut figures = Figures::from([(side.to_owned(), rate)]);
    if cpu.is_finite() {
        figures.insert(format!("{side}, CPU"), cpu / (records as f64 / 1e6));
    }
    figures
}

/// From the send call to the acknowledgement, at a rate that all sides can hold.
pub(super) fn latency(
    bench: &mut Bench<'_>,
    results: &mut Results,
    report: &mut Report,
) -> Result<()> {
    const SIDES: [(&str, Which); 2] = [(OURS, Which::Ours), (KAFKA, Which::Kafka)];
    if !bench.wants("latency") {
        return Ok(());
    }
    let sides = bench.sides(&SIDES, |side| side.1);
    let length = bench.length * 3;
    let mut disk = None;
    let figures = results.case("latency", |round| {
        let disk = match &mut disk {
            Some(disk) => disk,
            none => none.insert(Raw::new(&bench.settings.dir.join("raw-latency"))?),
        };
        let warm_up = bench.length;
        let brokers = bench.brokers()?;
        let mut syncs = disk.syncs(SYNC_BYTES, warm_up)?;
        settle();
        let mut figures = in_turn(round, &sides, |(side, which)| {
            let topic = brokers.create(which, LATENCY.partitions, &[])?;
            let address = brokers.address(which);
            let mut load = Paced::new(address, &topic, LATENCY.partitions, LATENCY.record_bytes)?;
            load.round(RATE, warm_up)?;
            let mut waits = load.round(RATE, length)?;
            brokers.remove(which, &topic)?;
            Ok(percentiles(side, &mut waits))
        })?;
        figures.extend(percentiles("fdatasync", &mut syncs));
        Ok(figures)
    })?;
    let of = |name: &str| reference(name, &figures);
    for name in ["fdatasync p50", "fdatasync p99"] {
        report.figure(&format!("{name} of 4 KiB"), of(name).value, "ms");
    }
    let named = |name: &str, value| crate::report::Reference { name: name.to_owned(), value };
    let (p50, p99) = (of("ours p50").value, of("ours p99").value);
    let (sync_p50, sync_p99) = (of("fdatasync p50").value, of("fdatasync p99").value);
    let (kafka_p50, kafka_p99) = (of("Apache Kafka p50"), of("Apache Kafka p99"));
    for (case, value, reference) in [
        ("produce latency p50", p50, kafka_p50),
        ("produce latency p50", p50, named("1.5 x fdatasync p50 + 1 ms", 1.5 * sync_p50 + 1.0)),
        ("produce latency p99", p99, named("2.5 x fdatasync p99 + 1 ms", 2.5 * sync_p99 + 1.0)),
        (
            "produce latency p99",
            p99,
            named("Apache Kafka p99 + fdatasync p99", kafka_p99.value + sync_p99),
        ),
    ] {
        report.compared(case, value, "ms", &reference);
    }
    Ok(())
}

fn percentiles(side: &str, waits: &mut sample::Durations) -> Figures {
    [50.0, 99.0].map(|p| (format!("{side} p{p}"), waits.percentile_millis(p))).into()
}

/// How long a whole topic may take to be filled.
pub(super) const FILL_WITHIN: Duration = Duration::from_mins(2);
