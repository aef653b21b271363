//! The flights demo at full speed: how many records a second become rows in both of its views.
//!
//! The demo itself does all of it, as a user runs it: it replays the year again and again through
//! librdkafka, waits until both views show the last record, and compares them with a
//! recomputation in one batch. Here it is only started, and what it says at the end is read.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{
    Settings, node,
    report::{Reference, Report},
};

/// What the project wants at least.
const WANTED_A_SECOND: f64 = 200_000.0;

/// The line with which the demo ends.
#[derive(Debug, Deserialize)]
struct Done {
    records: u64,
    records_per_second: f64,
    latency_p50_ms: Option<f64>,
    latency_p99_ms: Option<f64>,
    views_equal: bool,
}

pub(crate) fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let seconds = if settings.quick { "5" } else { "60" };
    let mut demo = Command::new(node::program()?)
        .args(["demo", "--speed", "max", "--seconds", seconds, "--until-done", "--json"])
        .args(["--kafka", "127.0.0.1:0", "--postgres", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(settings.dir.join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the demo")?;
    let said = demo.stdout.take().context("the demo's output is not there")?;
    let done = done(said);
    let status = demo.wait().context("wait for the demo")?;
    let done = done.with_context(|| format!("the demo ended without a result: {status}"))?;
    ensure!(
        status.success() && done.views_equal,
        "the views differ from the batch recomputation, so the speed means nothing"
    );
    let wanted = Reference { name: "the least wanted".to_owned(), value: WANTED_A_SECOND };
    report.compared("records kept in both views", done.records_per_second, "records/s", &wanted);
    report.figure("records", done.records as f64, "records");
    // The demo takes samples; it may be over before the first.
    if let (Some(p50), Some(p99)) = (done.latency_p50_ms, done.latency_p99_ms) {
        report.figure("send call to row shown at full speed, p50", p50, "ms");
        report.figure("send call to row shown at full speed, p99", p99, "ms");
    }
    Ok(())
}

/// The last event of the demo's output, one JSON object a line.
fn done(output: impl Read) -> Result<Done> {
    #[derive(Deserialize)]
    struct Event {
        event: String,
    }
    let mut last = None;
    for line in BufReader::new(output).lines() {
        let line = line.context("read what the demo says")?;
        let event: Event = serde_json::from_str(&line)
            .with_context(|| format!("the demo said no JSON: {line}"))?;
        if event.event == "done" {
            last = Some(serde_json::from_str(&line).context("read the demo's result")?);
        }
    }
    last.context("it said nothing of its end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_the_event_at_the_end() {
        let output = "{\"event\":\"node\",\"pid\":7}\n\
            {\"event\":\"done\",\"records\":9,\"seconds\":1.5,\"records_per_second\":6.0,\
             \"latency_p50_ms\":null,\"latency_p99_ms\":2.5,\"views_equal\":true}\n";
        let done = done(output.as_bytes()).unwrap();
        assert_eq!((done.records, done.views_equal), (9, true));
        assert_eq!((done.latency_p50_ms, done.latency_p99_ms), (None, Some(2.5)));
    }

    #[test]
    fn an_output_without_a_result_is_an_error() {
        for output in ["", "{\"event\":\"node\"}\n", "{\"event\":\"done\"}\n", "hello\n"] {
            assert!(done(output.as_bytes()).is_err(), "{output}");
        }
    }
}
