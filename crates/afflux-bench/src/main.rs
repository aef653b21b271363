//! Benchmarks: `cargo run --release -p afflux-bench -- NAME [--quick] [--json]`.
//!
//! Each is a module with one `run`, named in [`BENCHMARKS`]. It takes the [`Settings`], measures,
//! and hands every figure to the [`Report`] as soon as it is known, so that a long run that is
//! cut short has not been for nothing.
//!
//! What makes figures comparable:
//! 1. A comparison drives both sides with one client and one configuration, interleaved, and
//!    takes the median of [`ROUNDS`] ([`sample::interleaved`]): a machine that slows down slows
//!    both.
//! 2. Files lie beside the program, on the disk that was built on: a temporary directory may be
//!    memory, on which a sync costs nothing.
//! 3. Nothing else runs. A benchmark cannot see to that; who runs it does.

#![expect(clippy::disallowed_methods, reason = "real time is what is measured")]

mod broker;
mod compaction;
mod demo;
mod journal;
mod latency;
mod node;
mod operators;
mod placement;
mod raw;
mod report;
mod sample;
mod start;
mod usage;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Parser;
use report::Report;

/// Rounds of a comparison; the median counts.
const ROUNDS: usize = 5;

/// One benchmark.
struct Benchmark {
    name: &'static str,
    about: &'static str,
    run: fn(&Settings, &mut Report) -> Result<()>,
}

const BENCHMARKS: &[Benchmark] = &[
    Benchmark {
        name: "broker",
        about: "our broker beside Apache Kafka: throughput, latency, CPU; goes on with --results",
        run: broker::run,
    },
    Benchmark {
        name: "compaction",
        about: "a partition compacted, beside a loop by hand; memory; what it costs producers",
        run: compaction::run,
    },
    Benchmark {
        name: "demo",
        about: "records a second of the flights demo at full speed, both views kept",
        run: demo::run,
    },
    Benchmark {
        name: "journal",
        about: "synced groups through the journal, beside a raw loop that writes and syncs",
        run: journal::run,
    },
    Benchmark {
        name: "latency",
        about: "send call to row shown at 10,000 records a second, durable",
        run: latency::run,
    },
    Benchmark {
        name: "operators",
        about: "rows a second through the operators alone, beside loops by hand; an epoch's cost",
        run: operators::run,
    },
    Benchmark {
        name: "placement",
        about: "where data lives after its journal file is full: bytes written, read and waited for",
        run: placement::run,
    },
    Benchmark { name: "start", about: "start to ready; resident memory at rest", run: start::run },
];

/// Runs one benchmark and prints its figures.
#[derive(Debug, Parser)]
#[command(name = "afflux-bench", after_help = list())]
struct Arguments {
    /// Which benchmark
    name: String,
    /// Fewer and shorter rounds: to see that it works, and for a daily look
    #[arg(long)]
    quick: bool,
    /// One JSON object a figure and line
    #[arg(long)]
    json: bool,
    /// Where files are written [default: a temporary directory beside the program]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Keep what `broker` measures in a file, and do not measure again what it holds
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Begin nothing new after so long; the same command goes on there
    #[arg(long, value_name = "MINUTES", requires = "results")]
    minutes: Option<u64>,
    /// Only the cases of `broker` or `compaction` that have this in their names
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// `broker` without Apache Kafka beside it: to profile ours
    #[arg(long)]
    alone: bool,
}

/// What a benchmark is told.
#[derive(Debug)]
struct Settings {
    /// Few and short rounds.
    quick: bool,
    /// An empty directory on the disk to be measured; removed at the end.
    dir: PathBuf,
    /// What was measured before, and what is measured now.
    results: Option<PathBuf>,
    /// After which nothing new is begun.
    length_max: Option<Duration>,
    /// What a case must have in its name.
    case: String,
    /// Without others to compare with.
    alone: bool,
}

impl Settings {
    /// How many rounds a comparison has.
    fn rounds(&self) -> usize {
        if self.quick { 1 } else { ROUNDS }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let Some(benchmark) = BENCHMARKS.iter().find(|one| one.name == arguments.name) else {
        bail!("there is no benchmark `{}`\n\n{}", arguments.name, list());
    };
    let name = benchmark.name;
    if (arguments.results.is_some() || arguments.alone) && name != "broker" {
        bail!("`{name}` is short: --results and --alone are for `broker`");
    }
    if arguments.case.is_some() && !["broker", "compaction"].contains(&name) {
        bail!("`{name}` is short: --case is for `broker` and `compaction`");
    }
    if cfg!(debug_assertions) {
        eprintln!("warning: built without --release, so these figures say nothing");
    }
    let beside = match &arguments.dir {
        Some(dir) => dir.clone(),
        None => node::program_dir()?,
    };
    let dir = tempfile::Builder::new()
        .prefix("afflux-bench-")
        .tempdir_in(&beside)
        .with_context(|| format!("make a directory in {}", beside.display()))?;
    let settings = Settings {
        quick: arguments.quick,
        dir: dir.path().to_path_buf(),
        results: arguments.results.clone(),
        length_max: arguments.minutes.map(Duration::from_mins),
        case: arguments.case.clone().unwrap_or_default(),
        alone: arguments.alone,
    };
    let mut report = Report::new(benchmark.name, arguments.json);
    (benchmark.run)(&settings, &mut report)
}

fn list() -> String {
    let mut text = "Benchmarks:\n".to_owned();
    for Benchmark { name, about, .. } in BENCHMARKS {
        text = format!("{text}  {name:<10} {about}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn names_are_unique() {
        for (at, benchmark) in BENCHMARKS.iter().enumerate() {
            assert!(BENCHMARKS[..at].iter().all(|other| other.name != benchmark.name));
        }
    }
}
