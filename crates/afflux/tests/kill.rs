//! The node of the demo is killed fifty times during the replay, and nothing shows of it.
//!
//! 1. The node has a crash plan: in every other life it ends itself by SIGKILL in the middle of a
//!    commit, after the write that holds it and before it is published, and writes that down.
//! 2. In the lives between, this test kills it from outside, after as many epochs of that life as
//!    the seed chooses.
//! 3. When fifty kills are counted the test lets the replay come to its end; the demo itself then
//!    compares both views with the batch recomputation.
//!
//! The replay's clock stands while the node is away, and the replay is nearly twice as long as fifty
//! lives take on a machine that has four times as much to do as it can.

#![cfg(unix)]

mod support;

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{afflux, text};

const SEED: u64 = 20_130_101;
const KILLS: usize = 50;
const MID_COMMIT_MIN: usize = 25;
/// Epochs that the test leaves a node at most.
const EPOCHS_MAX: u64 = 10;

fn ledger_lines(ledger: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(ledger).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// How many epochs a node has committed in this life, over all pipelines; none if it has gone.
fn epochs(http: &str) -> Option<u64> {
    let answer = ureq::get(format!("http://{http}/v1/status")).call();
    assert!(!matches!(answer, Err(ureq::Error::StatusCode(_))), "{answer:?}");
    let text = answer.ok()?.body_mut().read_to_string().ok()?;
    let status: Value = serde_json::from_str(&text).expect("JSON");
    let pipelines = status["pipelines"].as_array().expect("a list");
    Some(pipelines.iter().map(|pipeline| pipeline["epochs"].as_u64().expect("a number")).sum())
}

#[test]
fn fifty_kills_leave_no_trace() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = dir.path().join("ledger");
    let spared = ledger.with_extension("spared");
    let mut demo = afflux()
        .args(["demo", "--json", "--until-done", "--days", "90", "--speed", "1"])
        .args(["--kafka", "127.0.0.1:0", "--postgres", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .env("AFFLUX_TEST_CRASH", format!("{SEED}:{KILLS}:{}", ledger.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the demo starts");
    let mut random = SEED;
    let mut done = Value::Null;
    let mut lives = 0;
    let mut http = None;
    for line in BufReader::new(demo.stdout.take().expect("piped")).lines() {
        let event: Value = serde_json::from_str(&line.expect("text")).expect("JSON");
        match event["event"].as_str().expect("a name") {
            "addresses" => http = event["http"].as_str().map(str::to_owned),
            "node" => {
                lives += 1;
                // By now it may have ended itself, and another may have followed it unseen. What
                // it has written says whether this life was left to us.
                let pid = event["pid"].as_i64().expect("a process id");
                let spared = std::fs::read_to_string(&spared).unwrap_or_default();
                if spared == pid.to_string() {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let enough = 1 + (random >> 33) % EPOCHS_MAX;
                    let http = http.as_ref().expect("views are there before any commit");
                    let mut committed = Some(0);
                    while committed.is_some_and(|committed| committed < enough) {
                        committed = epochs(http);
                    }
                    // Without its answer the demo is over, and tells why behind its last line.
                    if committed.is_some() {
                        support::append(&ledger, "outside");
                        let pid = Pid::from_raw(pid as i32).expect("a process id");
                        kill_process(pid, Signal::KILL).expect("nobody else ends this life");
                    }
                }
            }
            "done" => done = event,
            _ => {}
        }
    }
    let said = text(demo.stderr.take().expect("piped"));
    let status = demo.wait().expect("it ends");
    let mut kinds: HashMap<String, usize> = HashMap::new();
    for line in ledger_lines(&ledger) {
        *kinds.entry(line).or_default() += 1;
    }
    println!("lives: {lives}, kills: {kinds:?}, {done}");
    assert!(status.success(), "{status}: {said}");
    let count = |kind: &str| kinds.get(kind).copied().unwrap_or(0);
    assert!(count("written") > 0 && count("synced") > 0, "{kinds:?}");
    assert!(count("written") + count("synced") >= MID_COMMIT_MIN, "{kinds:?}");
    assert_eq!(kinds.values().sum::<usize>(), KILLS, "{kinds:?}: {said}");
    assert_eq!(done["restarts"], KILLS);
    assert_eq!(done["views_equal"], true);
}
