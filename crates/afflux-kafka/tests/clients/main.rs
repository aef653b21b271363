//! Clients in other languages, each in a process of its own. `cargo xtask test` puts them in
//! place and says where they are; without them these tests fail.
//!
//! 1. All of a table (`table.rs`) go through the same scenarios (`scenarios.rs`), told command by
//!    command what to do (`program.rs`, `tests/programs`).
//! 2. Apache Kafka's command line tools and Streams do what they do (`tools.rs`).
//! 3. Apache Kafka itself (`apache.rs`) is held against the same expectations.
//! 4. What one client alone can do has programs of its own.

mod apache;
#[expect(dead_code, reason = "only what is asked over a connection")]
#[path = "../support/client.rs"]
mod client;
mod edges;
mod java;
mod program;
mod rust;
mod scenarios;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod tools;

use std::{
    ffi::OsStr,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use afflux_kafka::Options;
use apache::Apache;
use program::{Commands, Program};
use scenarios::{Broker, Stage};
use support::Server;
use tempfile::TempDir;

/// Where the Python is that has the clients for it.
const PYTHON: &str = "AFFLUX_TEST_PYTHON";
/// Where Node finds its modules.
const NODE_PATH: &str = "AFFLUX_TEST_NODE_PATH";
/// Where the programs in Go are.
const GO_CLIENTS: &str = "AFFLUX_TEST_GO_CLIENTS";

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
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(path)
}

/// A node of ours, with its log: no topic is made by asking for it, and members of the consumer
/// protocol say soon what they did.
struct Afflux {
    directory: TempDir,
    server: Option<Server>,
}

impl Afflux {
    fn start() -> Self {
        let mut node = Self { directory: tempfile::tempdir().unwrap(), server: None };
        node.restart();
        node
    }
}

impl Broker for Afflux {
    fn bootstrap(&self) -> String {
        self.server.as_ref().unwrap().bootstrap()
    }

    fn restart(&mut self) {
        self.server = None;
        let options = Options {
            create_topics: false,
            group_consumer_heartbeat: Duration::from_millis(200),
            group_consumer_heartbeat_min: Duration::from_millis(200),
            ..Options::default()
        };
        self.server = Some(Server::start_with(self.directory.path(), options));
    }
}

/// Tries a client of the table with all that it has.
fn check(name: &str, command: &mut Command) {
    check_with(&mut Afflux::start(), name, Box::new(Program::start(command)));
}

fn check_with(broker: &mut dyn Broker, name: &str, program: Box<dyn Commands>) {
    let client = table::CLIENTS.iter().find(|client| client.name.starts_with(name)).unwrap();
    scenarios::run(client, Stage { program, broker, name: name.replace(' ', "-") });
}

fn program(interpreter: impl AsRef<OsStr>, path: &str) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(source(path));
    command
}

fn go(name: &str) -> Command {
    Command::new(Path::new(&place(GO_CLIENTS)).join(name))
}

/// The Java client, compiled against the older one.
fn java_client() -> java::Program {
    java::Program::compile("Client", java::KAFKA_3)
}

#[test]
fn rdkafka() {
    check_with(&mut Afflux::start(), "rdkafka", Box::new(rust::Client::new()));
}

#[test]
fn confluent_kafka_python() {
    check("confluent-kafka-python", &mut program(place(PYTHON), "confluent.py"));
}

#[test]
fn kafka_python() {
    check("kafka-python", &mut program(place(PYTHON), "kafka_python.py"));
}

#[test]
fn aiokafka() {
    check("aiokafka", &mut program(place(PYTHON), "aio.py"));
}

#[test]
fn kcat() {
    check("kcat", &mut program(place(PYTHON), "kcat.py"));
}

#[test]
fn kafkajs() {
    check("KafkaJS", program("node", "kafkajs.js").env("NODE_PATH", place(NODE_PATH)));
}

#[test]
fn java_3() {
    check("Java 3", &mut java_client().command(java::KAFKA_3));
}

#[test]
fn java_4() {
    check("Java 4", &mut java_client().command(java::KAFKA));
}

#[test]
fn franz_go() {
    check("franz-go", &mut go("franz"));
}

#[test]
fn sarama() {
    check("sarama", &mut go("sarama"));
}

/// Partitions move from one to another of its members, and the others go on.
#[test]
fn a_group_of_python_clients_cooperates() {
    let node = Afflux::start();
    run(program(place(PYTHON), "cooperative.py").arg(node.bootstrap()), "");
}

#[test]
fn kafkas_tools() {
    tools::check(&Afflux::start().bootstrap());
}

#[test]
fn kafka_streams_counts_words_exactly_once() {
    let program = java::Program::compile("WordCount", java::KAFKA);
    let mut node = Afflux::start();
    for part in ["first", "second"] {
        run(program.command(java::KAFKA).args([&node.bootstrap(), part]), "");
        node.restart();
    }
}

/// What is expected of the node is what Apache Kafka does.
#[test]
fn apache_kafka_does_the_same() {
    let mut kafka = Apache::start();
    check_with(&mut kafka, "franz-go", Box::new(Program::start(&mut go("franz"))));
    let java = java_client();
    let started = Program::start(&mut java.command(java::KAFKA));
    check_with(&mut kafka, "Java 4", Box::new(started));
    run(program(place(PYTHON), "cooperative.py").arg(kafka.bootstrap()), "");
    tools::check(&kafka.bootstrap());
}

/// What is asked wrongly is refused as Apache Kafka refuses it.
#[test]
fn errors_are_those_of_apache_kafka() {
    let (kafka, node) = (Apache::start(), Afflux::start());
    let (expected, found) = (edges::ask(&kafka.bootstrap()), edges::ask(&node.bootstrap()));
    let mut told = Vec::new();
    for ((what, kafkas), (_, ours)) in expected.iter().zip(&found) {
        if (kafkas != ours) != edges::DIFFERENT.contains(&what.as_str()) {
            told.push(format!("{what}: {kafkas:?}, not {ours:?}"));
        }
    }
    assert!(told.is_empty(), "{} of {}:\n{}", told.len(), found.len(), told.join("\n"));
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
fn the_python_client_reads_what_compaction_leaves() {
    let node = Afflux::start();
    run(program(place(PYTHON), "compaction.py").arg(node.bootstrap()), "");
}

#[test]
fn the_java_client_and_streams_read_what_compaction_leaves() {
    let node = Afflux::start();
    let program = java::Program::compile("Compaction", java::KAFKA);
    run(program.command(java::KAFKA).arg(node.bootstrap()), "");
}

#[test]
fn a_live_group_of_python_clients_moves_to_the_consumer_protocol_and_back() {
    let node = Afflux::start();
    run(program(place(PYTHON), "group_protocols.py").arg(node.bootstrap()), "");
}

#[test]
fn a_live_group_of_java_clients_moves_to_the_consumer_protocol_and_back() {
    let node = Afflux::start();
    let program = java::Program::compile("GroupProtocols", java::KAFKA);
    run(program.command(java::KAFKA).arg(node.bootstrap()), "");
}

#[test]
fn the_java_client_administers() {
    let program = java::Program::compile("Administration", java::KAFKA);
    let mut node = Afflux::start();
    for part in ["first", "second"] {
        run(program.command(java::KAFKA).args([&node.bootstrap(), part]), "");
        node.restart();
    }
}

#[test]
fn the_java_client_ends_a_transaction_that_hangs() {
    let node = Afflux::start();
    let program = java::Program::compile("HangingTransaction", java::KAFKA);
    run(program.command(java::KAFKA).arg(node.bootstrap()), "");
}
