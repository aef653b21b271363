//! The tour of README.md, as it is written there, against the demo: what it shows must work.

#![cfg(unix)]

mod support;

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{afflux, run};

/// A command line of the tour, or a script.
#[derive(Debug, PartialEq)]
enum Step {
    Shell(String),
    Python(String),
}

/// The blocks of code of the README's tour.
fn tour() -> Vec<Step> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(path).expect("the README");
    let (_, tour) = readme.split_once("\n## A short tour\n").expect("a tour");
    let (tour, _) = tour.split_once("\n## ").expect("something behind it");
    let (mut steps, mut script) = (Vec::new(), None::<String>);
    for line in tour.lines() {
        match (&mut script, line.strip_prefix("```")) {
            (None, Some(language)) => {
                assert_eq!(language, "python", "say here how to run it");
                script = Some(String::new());
            }
            (Some(_), Some(_)) => steps.extend(script.take().map(Step::Python)),
            (Some(text), None) => text.extend([line, "\n"]),
            (None, None) => steps.extend(line.strip_prefix("    ").map(|c| Step::Shell(c.into()))),
        }
    }
    steps
}

/// A demo that has replayed two days and stays.
struct Demo {
    child: Child,
    /// Held, so that it can go on writing.
    _out: BufReader<ChildStdout>,
    addresses: Value,
}

impl Demo {
    fn start() -> Self {
        let mut child = afflux()
            .args(["demo", "--json", "--days", "2", "--speed", "max"])
            .args(["--kafka", "127.0.0.1:0", "--postgres", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the demo starts");
        let mut addresses = Value::Null;
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        for line in out.by_ref().lines() {
            let event: Value = serde_json::from_str(&line.expect("text")).expect("JSON");
            match event["event"].as_str() {
                Some("addresses") => addresses = event,
                Some("over") => break,
                _ => {}
            }
        }
        let demo = Self { child, _out: out, addresses };
        let count = ["sql", "--json", "-c", "SELECT count(*) AS n FROM routes"];
        let rows = || run(afflux().args(count).env("AFFLUX_HTTP", demo.address("http"))).json();
        while rows()[0]["n"].as_u64() < Some(5) {}
        demo
    }

    fn address(&self, name: &str) -> &str {
        self.addresses[name].as_str().expect("an address")
    }

    /// A text of the README with this demo's addresses instead of the usual ones.
    fn here(&self, text: &str) -> String {
        let port = |name| self.address(name).rsplit(':').next().expect("a port").to_owned();
        text.replace("127.0.0.1:9092", self.address("kafka"))
            .replace("127.0.0.1:8080", self.address("http"))
            .replace("-p 5433", &format!("-p {}", port("postgres")))
            .replace("port=5433", &format!("port={}", port("postgres")))
    }

    fn stop(mut self) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("an id");
        kill_process(pid, Signal::INT).expect("it runs");
        assert_eq!(self.child.wait().expect("it ends").code(), Some(0));
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Its node ends with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shell(command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec {command}")]);
    shell
}

/// The lines of a command that goes on for ever, up to the first that begins in some way.
fn lines_until(mut command: Command, prefix: &str) -> Vec<String> {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
        lines.push(line.expect("text"));
        if lines.last().is_some_and(|line| line.starts_with(prefix)) {
            break;
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    lines
}

#[test]
fn the_tour_works_as_it_is_written() {
    let python = std::env::var("AFFLUX_TEST_PYTHON").unwrap_or_else(|_| {
        panic!("AFFLUX_TEST_PYTHON names no python with the clients: run `cargo xtask test`")
    });
    let demo = Demo::start();
    let mut programs = Vec::new();
    for step in tour() {
        match step {
            Step::Python(script) => {
                let script = demo.here(&script);
                let out = run(Command::new(&python).args(["-c", &script])).ok();
                assert_eq!(out.lines().count(), 10, "{out}");
                assert!(out.starts_with("('customer 0', 100, 4950.0)\n"), "{out}");
                programs.push("python".to_owned());
            }
            Step::Shell(command) => {
                let command = demo.here(&command);
                let program = command.split(' ').next().expect("a word").to_owned();
                match program.as_str() {
                    "psql" => {
                        let out = run(&mut shell(&command)).ok();
                        assert!(out.contains("origin") && out.contains("(5 rows)"), "{out}");
                    }
                    "curl" => {
                        let lines = lines_until(shell(&command), "data: ");
                        assert!(lines.contains(&"event: snapshot".to_owned()), "{lines:?}");
                    }
                    "kcat" => {
                        let out = run(&mut shell(&command)).ok();
                        assert_eq!(out.lines().count(), 3, "{out}");
                        assert!(out.lines().all(|line| line.contains("\"dest\"")), "{out}");
                    }
                    _ => panic!("say here what {command:?} is to answer"),
                }
                programs.push(program);
            }
        }
    }
    assert_eq!(programs, ["psql", "curl", "kcat", "python"]);
    demo.stop();
}
