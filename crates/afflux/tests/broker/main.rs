//! The broker is killed two hundred times under load, and keeps what it promised.
//!
//! 1. In every other life the node ends itself by SIGKILL, between a write for a client and its
//!    sync, or between the sync and its acknowledgement, and writes that down. What counts are
//!    writes that hold [`TEXT`]: records, groups' offsets and transactions' states all do.
//! 2. In the lives between, it is killed from outside, after as many acknowledgements as the seed
//!    chooses; before that it may be stopped (SIGSTOP) until requests have piled up.
//! 3. All the while clients go on ([`clients`]), and write down what they were told.
//! 4. When enough kills are counted the clients come to their end, everything is read once more,
//!    and the simulator's own checkers hold what they were told against what is there.

#![cfg(unix)]

#[path = "../../../afflux-kafka/tests/simulator/checkers/mod.rs"]
#[allow(dead_code, reason = "the simulator's worlds have more in them")]
mod checkers;
mod clients;
#[path = "../../../afflux-kafka/tests/simulator/history.rs"]
#[allow(dead_code, reason = "the same")]
mod history;
#[path = "../support/mod.rs"]
mod support;

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdin, Stdio},
    sync::Arc,
};

use checkers::faults;
use clients::{Consumer, Producer, Progress, Transactions};
use history::History;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::afflux;

const SEED: u64 = 1_000_003;
const KILLS: usize = 200;
/// What all that is written for clients holds.
const TEXT: &str = "killed";
/// Acknowledgements that a life has at most before it is killed from outside.
const ACKS_MAX: u64 = 60;
/// So many requests pile up while the node is stopped.
const PILE: u64 = 8;

fn lines(ledger: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(ledger).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A node, and what it reads: it ends by itself when that ends, so also when this test does.
struct Life {
    node: Child,
    input: ChildStdin,
}

/// Starts a node, and gives its address once it serves; none if it ended before.
fn start(dir: &Path, kafka: &str) -> (Life, Option<String>) {
    let plan = format!("{SEED}:{KILLS}/{TEXT}:{}", dir.join("ledger").display());
    let mut node = afflux()
        .args(["up", "--json", "--until-stdin-ends", "--kafka", kafka])
        .args(["--postgres", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"])
        .arg(dir.join("data"))
        .env("AFFLUX_TEST_CRASH", plan)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the node starts");
    let mut line = String::new();
    let out = node.stdout.take().expect("piped");
    BufReader::new(out).read_line(&mut line).expect("text");
    let said: Option<Value> = serde_json::from_str(&line).ok();
    let address = said.and_then(|said| Some(said["kafka"].as_str()?.to_owned()));
    // Kept apart: waiting for a child would close it.
    let input = node.stdin.take().expect("piped");
    (Life { node, input }, address)
}

fn signal(node: &Child, signal: Signal) {
    let pid = Pid::from_raw(node.id() as i32).expect("a process id");
    kill_process(pid, signal).expect("nobody else ends this life");
}

/// Numbers that follow from the seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % end
    }
}

/// Ends this life as the seed says.
fn end_life(node: &Child, progress: &Progress, random: &mut Random) -> &'static str {
    progress.wait_for_acks(1 + random.below(ACKS_MAX));
    let stops = random.below(3) == 0;
    if stops {
        signal(node, Signal::STOP);
        progress.wait_for_pile(PILE);
        if random.below(2) == 0 {
            signal(node, Signal::CONT);
            progress.wait_for_acks(1 + random.below(ACKS_MAX));
        }
    }
    signal(node, Signal::KILL);
    if stops { "stopped" } else { "outside" }
}

#[test]
fn two_hundred_kills_break_no_promise() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = dir.path().join("ledger");
    let (mut life, address) = start(dir.path(), "127.0.0.1:0");
    let address = address.expect("the first life serves");
    clients::make_topics(&address);

    let progress = Arc::new(Progress::default());
    let producers = [0, 1].map(|number| Producer::start(&address, number, &progress));
    let transactions = Transactions::start(&address, &progress);
    let consumer = Consumer::start(&address, &progress);

    let mut random = Random(SEED);
    let mut kills: HashMap<String, usize> = HashMap::new();
    while lines(&ledger).len() < KILLS {
        let spared = std::fs::read_to_string(ledger.with_extension("spared")).unwrap_or_default();
        if spared == life.node.id().to_string() {
            let kind = end_life(&life.node, &progress, &mut random);
            support::append(&ledger, kind);
        }
        let status = life.node.wait().expect("it ends");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
        // Another's connection may have the port for a moment.
        loop {
            let (started, serves) = start(dir.path(), &address);
            life = started;
            if serves.is_some() {
                break;
            }
            // It may also have ended itself by the plan while it told where it serves.
            if life.node.wait().expect("it ends").code().is_none() {
                break;
            }
        }
    }
    for line in lines(&ledger) {
        *kills.entry(line).or_default() += 1;
    }

    let batches = producers.into_iter().flat_map(Producer::end);
    let mut history = History { batches: batches.collect(), ..History::default() };
    history.transactions = transactions.end();
    let (consumed, last) = consumer.end(&address, &progress);
    history.batches.extend(last);
    history.polls = consumed.polls;
    history.commits = consumed.commits;
    history.looks = consumed.looks;
    history.found = clients::read_all(&address);
    println!("kills: {kills:?}; {history}");
    let findings = faults(&history);
    assert!(findings.is_empty(), "{findings:#?}");
    drop(life.input);
    assert!(life.node.wait().expect("it ends").success());

    let count = |kind: &str| kills.get(kind).copied().unwrap_or(0);
    assert_eq!(kills.values().sum::<usize>(), KILLS);
    assert!(count("written") + count("synced") >= KILLS / 2, "{kills:?}");
    for kind in ["written", "synced", "outside", "stopped"] {
        assert!(count(kind) > 0, "{kills:?}");
    }
}
