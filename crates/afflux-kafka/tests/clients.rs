//! Clients in other languages, each in a process of its own. `cargo xtask test` puts them in
//! place and says where they are; without them these tests fail.

mod support;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use afflux_kafka::Options;
use support::Server;

/// Where the Python is that has confluent-kafka.
const PYTHON: &str = "AFFLUX_TEST_PYTHON";
/// The class path of Kafka's Java client.
const JAVA_CLASS_PATH: &str = "AFFLUX_TEST_JAVA_CLASSPATH";

/// The value of a variable that `cargo xtask test` sets.
fn place(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run `cargo xtask test`, which installs the clients")
    })
}

/// Runs a client; its output, which is also that of the test if it fails.
fn run(command: &mut Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{command:?}: {error}: run `cargo xtask test`, which installs the clients")
        });
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

#[test]
fn kcat_produces_consumes_and_resumes_in_a_group() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let kcat = |server: &Server, arguments: &[&str], input: &str| {
        let mut command = Command::new("kcat");
        command.args(["-q", "-b", &server.bootstrap()]).args(arguments);
        run(&mut command, input)
    };
    let lines = |from: usize, to: usize| -> String {
        let line = |number| format!("key-{}:{number}\n", number % 11);
        (from..to).map(line).collect::<Vec<_>>().concat()
    };
    let sorted = |output: &str| -> Vec<usize> {
        let mut numbers: Vec<usize> = output.lines().map(|line| line.parse().unwrap()).collect();
        numbers.sort_unstable();
        numbers
    };
    let idempotent = ["-P", "-t", "kcat", "-K", ":", "-X", "enable.idempotence=true"];
    kcat(&server, &idempotent, &lines(0, 500));
    let all = kcat(&server, &["-C", "-t", "kcat", "-o", "beginning", "-e"], "");
    assert_eq!(sorted(&all), (0..500).collect::<Vec<_>>());

    let group = ["-X", "auto.offset.reset=earliest", "-c", "500", "-G", "kcat-group", "kcat"];
    assert_eq!(sorted(&kcat(&server, &group, "")), (0..500).collect::<Vec<_>>());
    kcat(&server, &idempotent, &lines(500, 1_000));
    drop(server);

    let server = Server::start(directory.path());
    assert_eq!(sorted(&kcat(&server, &group, "")), (500..1_000).collect::<Vec<_>>());
    let listed = kcat(&server, &["-L"], "");
    assert!(listed.contains("topic \"kcat\" with 4 partitions"), "{listed}");
    let commits = kcat(&server, &["-C", "-t", "__consumer_offsets", "-o", "beginning", "-e"], "");
    assert!(!commits.is_empty());
}

#[test]
fn the_python_client_uses_transactions_and_kcat_sees_what_was_committed() {
    let python = place(PYTHON);
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let mut command = Command::new(&python);
    run(command.arg(source("python/transactions.py")).arg(server.bootstrap()), "");
    let count = |isolation: &str| {
        let mut command = Command::new("kcat");
        command.args(["-q", "-b", &server.bootstrap(), "-C", "-t", "in", "-o", "beginning", "-e"]);
        run(command.args(["-X", &format!("isolation.level={isolation}")]), "").lines().count()
    };
    assert_eq!((count("read_committed"), count("read_uncommitted")), (300, 451));
}

#[test]
fn the_python_client_produces_shares_and_resumes() {
    let python = place(PYTHON);
    let directory = tempfile::tempdir().unwrap();
    for part in ["first", "second"] {
        let server = Server::start(directory.path());
        let mut command = Command::new(&python);
        command.arg(source("python/conformance.py")).args([&server.bootstrap(), part]);
        run(&mut command, "");
    }
}

/// A listener that has members of the consumer protocol say soon what they did.
fn start_brisk(directory: &tempfile::TempDir) -> Server {
    let group_consumer_heartbeat = Duration::from_millis(200);
    let options = Options { group_consumer_heartbeat, ..Options::default() };
    Server::start_with(directory.path(), options)
}

#[test]
fn the_python_client_administers() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let mut command = Command::new(place(PYTHON));
    run(command.arg(source("python/admin.py")).arg(server.bootstrap()), "");
}

#[test]
fn the_python_client_reads_what_compaction_leaves() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let mut command = Command::new(place(PYTHON));
    run(command.arg(source("python/compaction.py")).arg(server.bootstrap()), "");
}

#[test]
fn a_live_group_of_python_clients_moves_to_the_consumer_protocol_and_back() {
    let directory = tempfile::tempdir().unwrap();
    let server = start_brisk(&directory);
    let mut command = Command::new(place(PYTHON));
    command.arg(source("python/conformance.py")).args([&server.bootstrap(), "modern"]);
    run(&mut command, "");
}

/// A Java program of these tests, compiled.
struct Java {
    class: &'static str,
    class_path: String,
    _classes: tempfile::TempDir,
}

impl Java {
    fn compile(class: &'static str) -> Self {
        let class_path = place(JAVA_CLASS_PATH);
        let classes = tempfile::tempdir().unwrap();
        let mut compile = Command::new("javac");
        compile.args(["-cp", &class_path, "-d"]).arg(classes.path());
        run(compile.arg(source(&format!("java/{class}.java"))), "");
        let class_path = format!("{}:{class_path}", classes.path().display());
        Self { class, class_path, _classes: classes }
    }

    fn run(&self, arguments: &[&str]) {
        let mut command = Command::new("java");
        command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", &self.class_path]);
        run(command.arg(self.class).args(arguments), "");
    }

    /// Runs both parts of it, each on a listener of its own over the same log.
    fn run_parts(&self) {
        let directory = tempfile::tempdir().unwrap();
        for part in ["first", "second"] {
            let server = Server::start(directory.path());
            self.run(&[&server.bootstrap(), part]);
        }
    }
}

#[test]
fn the_java_client_produces_shares_and_resumes() {
    Java::compile("Conformance").run_parts();
}

#[test]
fn the_java_client_administers() {
    Java::compile("Administration").run_parts();
}

#[test]
fn the_java_client_uses_transactions() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    Java::compile("Transactions").run(&[&server.bootstrap()]);
}

#[test]
fn a_live_group_of_java_clients_moves_to_the_consumer_protocol_and_back() {
    let directory = tempfile::tempdir().unwrap();
    let server = start_brisk(&directory);
    Java::compile("Conformance").run(&[&server.bootstrap(), "modern"]);
}
