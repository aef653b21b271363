//! Whole processes: nodes on free ports, and commands against them.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

#[cfg(unix)]
pub mod terminal;

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// The command, with no setting inherited from whoever runs the tests.
pub fn afflux() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_afflux"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AFFLUX_") {
            command.env_remove(name);
        }
    }
    command.env("NO_COLOR", "1");
    command
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    /// The output of a command that must succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "{self:#?}");
        self.out
    }

    /// The words of a command that must fail in one way, saying certain things.
    #[track_caller]
    pub fn fails(self, status: i32, says: &[&str]) {
        assert_eq!(self.status, status, "{self:#?}");
        for part in says {
            assert!(self.err.contains(part), "no {part:?} in {self:#?}");
        }
    }

    /// The output as one JSON value a line.
    #[track_caller]
    pub fn json(self) -> Vec<Value> {
        let out = self.ok();
        out.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

/// Runs a command to its end, with some input.
pub fn run_with(command: &mut Command, input: &str) -> Done {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    // One that fails early may not read its input.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("the command ends");
    Done {
        status: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Done {
    run_with(command, "")
}

/// A running node.
pub struct Node {
    child: Option<Child>,
    pub kafka: String,
    pub postgres: String,
    pub http: String,
    pub dir: TempDir,
}

/// The command that runs a node on free ports.
pub fn up(data_dir: &Path) -> Command {
    let mut command = afflux();
    command.args(["up", "--json", "--until-stdin-ends", "--data-dir"]).arg(data_dir).args([
        "--kafka",
        "127.0.0.1:0",
        "--postgres",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
    ]);
    command
}

impl Node {
    /// Starts one in a directory of its own.
    pub fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a directory"))
    }

    /// Starts one, and waits until it says where it serves.
    pub fn start_in(dir: TempDir) -> Self {
        Self::start_with(dir, &[])
    }

    /// As [`Self::start_in`], with more words.
    pub fn start_with(dir: TempDir, words: &[&str]) -> Self {
        let mut child = up(&dir.path().join("data"))
            .args(words)
            .arg("--ready-file")
            .arg(dir.path().join("ready.json"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the node starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        let addresses: Value = serde_json::from_str(&line).expect("the node says where it serves");
        let address = |name: &str| addresses[name].as_str().expect("an address").to_owned();
        Self {
            child: Some(child),
            kafka: address("kafka"),
            postgres: address("postgres"),
            http: address("http"),
            dir,
        }
    }

    /// A command that talks to it, given its words.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = afflux();
        command.args(words).env("AFFLUX_KAFKA", &self.kafka).env("AFFLUX_HTTP", &self.http);
        command
    }

    /// Runs a command that talks to it.
    pub fn run(&self, words: &[&str]) -> Done {
        run(&mut self.command(words))
    }

    /// Runs one statement and gives the rows.
    #[track_caller]
    pub fn sql(&self, statement: &str) -> Vec<Value> {
        self.run(&["sql", "--json", "-c", statement]).json()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running node").id()
    }

    /// Ends it by SIGKILL and gives its directory back.
    pub fn kill(mut self) -> TempDir {
        let mut child = self.child.take().expect("a running node");
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        std::mem::replace(&mut self.dir, tempfile::tempdir().expect("a directory"))
    }

    /// Asks it to end, by the end of its input, and gives how it did and its directory.
    pub fn stop(mut self) -> (ExitStatus, TempDir) {
        let mut child = self.child.take().expect("a running node");
        drop(child.stdin.take());
        let status = child.wait().expect("it ends");
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().expect("a directory"));
        (status, dir)
    }

    /// Waits until it ends by itself or by a signal.
    pub fn wait(mut self) -> ExitStatus {
        self.child.take().expect("a running node").wait().expect("it ends")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// All that a reader gives, as text.
pub fn text(mut reader: impl Read) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    text
}

/// Adds a line to a file.
pub fn append(file: &Path, line: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).open(file).expect("it is there");
    file.write_all(format!("{line}\n").as_bytes()).expect("a line");
}
