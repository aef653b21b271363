//! How long a node takes to serve, and what it holds when nothing happens.
//!
//! 1. Start a node on an empty directory, wait for its ready file, let it rest, read its
//!    resident memory, kill it. The median of the rounds counts.
//! 2. The same on the directory of the last round: a start that has something to recover.

use std::{path::Path, time::Duration};

use anyhow::Result;

use crate::{
    Settings,
    node::{self, Node},
    report::Report,
    sample, usage,
};

/// Long enough for what happens after the ready file to be over.
const REST: Duration = Duration::from_secs(3);

pub(crate) fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let program = node::program()?;
    let data = |round: usize| settings.dir.join(format!("data-{round}"));
    let last = settings.rounds() - 1;

    // The program itself must be in the page cache, as it is for all but the first start.
    let _ = start(&program, &settings.dir.join("data-warm"), Duration::ZERO)?;
    let mut fresh = Vec::new();
    let mut resident = Vec::new();
    let mut again = Vec::new();
    for round in 0..=last {
        let (ready_millis, bytes) = start(&program, &data(round), REST)?;
        fresh.push(ready_millis);
        resident.push(bytes);
        again.push(start(&program, &data(round), Duration::ZERO)?.0);
    }
    report.figure("start to ready, empty directory", sample::median(&mut fresh), "ms");
    report.figure("start to ready, after a kill", sample::median(&mut again), "ms");
    report.figure("resident memory at rest", sample::median(&mut resident) / 1e6, "MB");
    Ok(())
}

/// Milliseconds to ready, and bytes resident after a rest.
fn start(program: &Path, data_dir: &Path, rest: Duration) -> Result<(f64, f64)> {
    let node = Node::start(program, data_dir)?;
    std::thread::sleep(rest);
    let resident = usage::resident_bytes(node.pid())? as f64;
    let ready_millis = node.ready_after.as_secs_f64() * 1000.0;
    node.stop()?;
    Ok((ready_millis, resident))
}
