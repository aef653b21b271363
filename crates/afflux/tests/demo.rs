//! `afflux demo` on the first days of the year: the whole main job, in small.

mod support;

use serde_json::Value;
use support::{afflux, run};

fn demo(words: &[&str]) -> std::process::Command {
    let mut command = afflux();
    command
        .args(["demo", "--json", "--until-done"])
        .args(["--kafka", "127.0.0.1:0", "--postgres", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .args(words);
    command
}

fn event<'a>(events: &'a [Value], name: &str) -> &'a Value {
    events.iter().find(|event| event["event"] == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn the_views_of_a_week_equal_the_batch_recomputation() {
    let events = run(&mut demo(&["--days", "7", "--speed", "max"])).json();
    let done = event(&events, "done");
    assert_eq!(done["views_equal"], true);
    // Departures of the week in UTC, and their landings, counted in the table by other means.
    assert_eq!((&done["departures"], &done["arrivals"]), (&5_920.into(), &5_917.into()));
    assert!(done["latency_samples"].as_u64().expect("a number") > 0);
    assert!(done["latency_p50_ms"].as_f64() <= done["latency_p99_ms"].as_f64());
    assert_eq!(done["restarts"], 0);
    let addresses = event(&events, "addresses");
    let psql = addresses["psql"].as_str().expect("text");
    assert!(psql.contains(addresses["postgres"].as_str().expect("text")), "{psql}");
}

#[test]
fn what_people_read_says_how_it_went() {
    let words = ["demo", "--until-done", "--days", "1", "--speed", "max"];
    let anywhere = ["--kafka", "127.0.0.1:0", "--postgres", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let said = run(afflux().args(words).args(anywhere)).ok();
    for part in ["views equal the batch recomputation", "/views/routes", "records/s", "p50", "p99"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// Repeated, the flights lie ahead of the clock; a topic refuses such records unless it is told.
#[test]
fn the_flights_of_years_to_come_are_taken() {
    let years = ["--days", "1", "--years", "30", "--speed", "max"];
    let done = run(&mut demo(&years)).json().pop().expect("an outcome");
    assert_eq!((&done["views_equal"], &done["departures"]), (&true.into(), &(30 * 694).into()));
}

#[test]
fn a_record_that_is_missing_is_noticed() {
    // One of each topic: the first record is a departure, the thousandth a landing.
    for dropped in ["0", "1000"] {
        let done = run(&mut demo(&["--days", "2", "--speed", "max", "--drop-record", dropped]));
        assert!(done.out.contains("\"views_equal\":false"), "{done:#?}");
        assert!(done.out.contains("\"event\":\"difference\""), "{done:#?}");
        done.fails(1, &["error: the views differ from the batch recomputation"]);
    }
}

#[test]
fn a_replay_begins_on_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let data = data.to_str().expect("text");
    let words = ["--days", "1", "--speed", "max", "--data-dir", data];
    run(&mut demo(&words)).json();
    run(&mut demo(&words)).fails(1, &["error: topic \"departures\" exists already", "hint: "]);
}

#[cfg(unix)]
#[test]
fn the_node_of_a_demo_never_outlives_it() {
    use std::{
        io::{BufRead, BufReader},
        process::Stdio,
    };

    use rustix::process::{Pid, Signal, kill_process};

    for (signal, status) in [(Signal::INT, Some(0)), (Signal::KILL, None)] {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        let mut command = afflux();
        let mut child = command
            .args(["demo", "--json", "--kafka", "127.0.0.1:0"])
            .args(["--postgres", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"])
            .arg(&data)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let shows = |line: &str| line.contains("\"event\":\"progress\"");
        assert!(lines.by_ref().any(|line| shows(&line.expect("text"))), "it replays");
        kill_process(Pid::from_raw(child.id() as i32).expect("an id"), signal).expect("it runs");
        assert_eq!(child.wait().expect("it ends").code(), status, "{signal:?}");
        // Another node can have the directory as soon as the first has let go of it.
        let mut up = support::up(&data);
        let status = std::iter::repeat_with(|| run(&mut up).status).find(|status| *status != 4);
        assert_eq!(status, Some(0), "{signal:?}");
    }
}
