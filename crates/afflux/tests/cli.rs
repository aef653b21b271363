//! The command line, whole processes against a real node.

mod support;

use std::{
    io::Write,
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, Producer},
};
use serde_json::json;
use support::{Node, afflux, run, run_with, up};

#[test]
fn a_node_tells_where_it_serves_and_ends_cleanly() {
    let node = Node::start();
    let ready = std::fs::read_to_string(node.dir.path().join("ready.json")).expect("a ready file");
    let ready: serde_json::Value = serde_json::from_str(&ready).expect("JSON");
    assert_eq!(ready, json!({ "kafka": node.kafka, "postgres": node.postgres, "http": node.http }));
    let (status, _dir) = node.stop();
    assert_eq!(status.code(), Some(0));
}

#[cfg(unix)]
#[test]
fn signals_end_a_node_cleanly() {
    use rustix::process::{Pid, Signal, kill_process};

    for signal in [Signal::INT, Signal::TERM] {
        let node = Node::start();
        let pid = Pid::from_raw(node.pid() as i32).expect("a process id");
        kill_process(pid, signal).expect("it runs");
        assert_eq!(node.wait().code(), Some(0), "{signal:?}");
    }
}

#[test]
fn who_stops_reading_ends_a_command_without_a_fault() {
    for command in [&["version"][..], &["version", "--json"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = afflux().args(command).stdout(writer).output().expect("it runs");
        assert!(output.status.success(), "{command:?}: {}", output.status);
        assert!(output.stderr.is_empty(), "{command:?}: {}", support::text(&output.stderr[..]));
    }
}

#[test]
fn topics_are_created_listed_described_and_deleted() {
    let node = Node::start();
    assert_eq!(node.run(&["topic", "list"]).ok(), "no topics\n");
    node.run(&["topic", "create", "orders", "--partitions", "3"]).ok();
    assert_eq!(
        node.run(&["topic", "list", "--json"]).json(),
        [json!({ "topic": "orders", "partitions": 3 })]
    );
    assert_eq!(
        node.run(&["topic", "describe", "orders", "--json"]).json(),
        (0..3)
            .map(|p| json!({ "topic": "orders", "partition": p, "start": 0, "end": 0 }))
            .collect::<Vec<_>>()
    );
    node.run(&["topic", "create", "orders"]).fails(1, &["error: topic \"orders\" exists already"]);
    node.run(&["topic", "create", "a b"])
        .fails(1, &["error: \"a b\" is not a topic name", "hint: "]);
    node.run(&["topic", "delete", "orders"]).ok();
    let create = ["topic", "create", "kept", "--json", "--config"];
    let run = |setting| node.run(&[&create[..], &[setting]].concat());
    run("retention.ms=often").fails(1, &["error: topic \"kept\" can not be set up", "hint: "]);
    run("retention").fails(2, &["NAME=VALUE"]);
    assert_eq!(run("retention.ms=-1").json(), [json!({ "topic": "kept", "created": true })]);
    assert_eq!(
        node.run(&["topic", "delete", "kept", "--json"]).json(),
        [json!({ "topic": "kept", "deleted": true })]
    );
    assert_eq!(node.run(&["topic", "list", "--json"]).ok(), "");
    let unknown = ["error: there is no topic \"orders\"", "hint: "];
    node.run(&["topic", "delete", "orders"]).fails(1, &unknown);
    node.run(&["topic", "describe", "orders"]).fails(1, &unknown);
    node.run(&["consume", "orders"]).fails(1, &unknown);
    run_with(&mut node.command(&["produce", "orders"]), "x\n").fails(1, &unknown);
}

#[test]
fn lines_become_records_and_records_lines() {
    let node = Node::start();
    node.run(&["topic", "create", "orders"]).ok();
    run_with(&mut node.command(&["produce", "orders", "-k", ":"]), "a:1\nb:2\na:3:4\n").ok();
    assert_eq!(node.run(&["consume", "orders", "--from-beginning", "-n", "3"]).ok(), "1\n2\n3:4\n");
    let records = node.run(&["consume", "orders", "--from-beginning", "-n", "3", "--json"]).json();
    assert_eq!(records[2]["key"], "a");
    assert_eq!(records[2]["value"], "3:4");
    assert_eq!(records[2]["offset"], 2);
    assert!(records[2]["timestamp"].as_i64().expect("a number") > 1_600_000_000_000);
    run_with(&mut node.command(&["produce", "orders", "-k", "="]), "a=1\nb\n")
        .fails(1, &["line 2 has no \"=\""]);
}

#[test]
fn records_are_read_however_they_are_packed() {
    let node = Node::start();
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        let setting = format!("compression.type={codec}");
        node.run(&["topic", "create", codec, "--config", &setting]).ok();
        run_with(&mut node.command(&["produce", codec]), "1\n1\n").ok();
        let consume = ["consume", codec, "--from-beginning", "-n", "2"];
        assert_eq!(node.run(&consume).ok(), "1\n1\n", "{codec}");
    }
}

#[test]
fn a_group_goes_on_where_it_was() {
    let node = Node::start();
    node.run(&["topic", "create", "orders"]).ok();
    run_with(&mut node.command(&["produce", "orders"]), "1\n2\n3\n").ok();
    let consume = ["consume", "orders", "--group", "g", "--from-beginning", "-n"];
    let first = node.run(&[&consume[..], &["2"]].concat()).ok();
    assert_eq!(first, "1\n2\n");
    assert_eq!(node.run(&[&consume[..], &["1"]].concat()).ok(), "3\n");
}

#[test]
fn statements_run_in_turn_and_print_rows() {
    let node = Node::start();
    node.run(&["topic", "create", "orders"]).ok();
    let file = node.dir.path().join("orders.sql");
    std::fs::write(
        &file,
        "-- a source; and a view\n\
         CREATE SOURCE orders (id INT NOT NULL, name VARCHAR) WITH (topic = 'orders', format = 'json');\n\
         CREATE MATERIALIZED VIEW totals AS SELECT name, count(*) AS n FROM orders GROUP BY name;\n",
    )
    .expect("a file");
    node.run(&["sql", "-f", file.to_str().expect("text")]).ok();
    let lines =
        "{\"id\":1,\"name\":\"a\"}\n{\"id\":2,\"name\":\"a;\"}\n{\"id\":3,\"name\":\"a\"}\n";
    run_with(&mut node.command(&["produce", "orders"]), lines).ok();
    let query = "SELECT name, n FROM totals ORDER BY name";
    // Acknowledged records reach the view at the next tick.
    while node.sql(query).len() < 2 {}
    assert_eq!(node.sql(query), [json!({ "name": "a", "n": 2 }), json!({ "name": "a;", "n": 1 })]);
    assert_eq!(
        node.run(&["sql", "-c", query]).ok(),
        "name  n\n----  -\na     2\na;    1\n(2 rows)\n"
    );
    assert_eq!(
        run_with(&mut node.command(&["sql"]), "SELECT 1 AS one; SELECT 2 AS two").ok(),
        "one\n---\n  1\n(1 row)\ntwo\n---\n  2\n(1 row)\n"
    );
    // What comes before a mistake is done.
    let wrong = node.run(&["sql", "--json", "-c", "SELECT 1 AS one; SELECT nothing FROM totals"]);
    assert_eq!(wrong.out, "{\"one\":1}\n");
    wrong.fails(1, &["error: ", "nothing"]);
    node.run(&["sql", "-c", "SELEC 1"]).fails(1, &["error: ", "line 1, column "]);
    node.run(&["sql", "-f", "/no/such/file"]).fails(1, &["error: reading /no/such/file"]);
}

#[test]
fn what_was_acknowledged_outlives_a_kill() {
    let node = Node::start();
    node.run(&["topic", "create", "orders", "-p", "2"]).ok();
    run_with(&mut node.command(&["produce", "orders"]), "1\n2\n3\n").ok();
    let node = Node::start_in(node.kill());
    let mut lines: Vec<_> = node
        .run(&["consume", "orders", "--from-beginning", "-n", "3"])
        .ok()
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    assert_eq!(lines, ["1", "2", "3"]);
}

#[test]
fn a_port_in_use_is_told_with_its_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    for flag in ["--kafka", "--postgres", "--http"] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = afflux();
        command.arg("up").arg("--data-dir").arg(dir.path().join("data"));
        for other in ["--kafka", "--postgres", "--http"] {
            command.args([other, if other == flag { &address } else { "127.0.0.1:0" }]);
        }
        run(&mut command).fails(4, &["error: ", &address, "in use", "hint: ", flag]);
        assert!(!dir.path().join("data").exists(), "nothing is touched");
    }
}

#[test]
fn kafka_clients_connect_where_they_are_told() {
    // What the node advertises is a door in front of it.
    let door = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = door.local_addr().expect("an address").to_string();
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start_with(dir, &["--kafka-advertised", &address]);
    let (passed, behind) = (Arc::new(AtomicU32::new(0)), node.kafka.clone());
    let count = passed.clone();
    std::thread::spawn(move || {
        for client in door.incoming().map_while(Result::ok) {
            count.fetch_add(1, Ordering::SeqCst);
            let node = TcpStream::connect(&behind).expect("the node is there");
            for (mut from, mut to) in [(&client, &node), (&node, &client)]
                .map(|(from, to)| (from.try_clone().expect("one"), to.try_clone().expect("one")))
            {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    node.run(&["topic", "create", "orders"]).ok();
    run_with(&mut node.command(&["produce", "orders"]), "1\n2\n").ok();
    assert_eq!(node.run(&["consume", "orders", "--from-beginning", "-n", "2"]).ok(), "1\n2\n");
    assert!(passed.load(Ordering::SeqCst) > 0, "nobody came through the door");
}

#[test]
fn listening_everywhere_needs_an_address_to_tell() {
    let everywhere = |words: &[&str]| {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = afflux();
        command.args(["up", "--until-stdin-ends", "--data-dir"]).arg(dir.path().join("data"));
        command.args(["--kafka", "0.0.0.0:0", "--postgres", "127.0.0.1:0"]);
        run(command.args(["--http", "127.0.0.1:0"]).args(words))
    };
    let done = everywhere(&[]);
    let told = "warning: Kafka clients are told to connect to localhost:";
    assert!(done.err.contains(told) && done.err.contains("--kafka-advertised"), "{done:#?}");
    done.ok();
    let done = everywhere(&["--kafka-advertised", "streams.example.com:9092"]);
    assert_eq!(done.err, "");
    assert!(done.ok().contains(", clients are told streams.example.com:9092\n"));
}

#[test]
fn a_node_answers_to_the_names_that_it_was_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start_with(dir, &["--http-host", "streams.example.com"]);
    let check = |host: &str, expected: &str| {
        let mut stream = TcpStream::connect(&node.http).expect("it listens");
        let request = format!("GET /health HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let answer = support::text(stream);
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{host}: {answer}");
    };
    check("streams.example.com:8080", "200");
    check("other.example.com:8080", "421");
}

#[test]
fn what_holds_for_kafka_clients_can_be_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let words = ["offsets.retention.minutes=60", "num.partitions=7"];
    let node = Node::start_with(dir, &words.map(|word| ["--kafka-config", word]).concat());
    let client: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", &node.kafka).create().expect("a client");
    let asked = client.client().fetch_metadata(Some("asked"), Duration::from_mins(1));
    assert_eq!(asked.expect("an answer").topics()[0].partitions().len(), 7);
    let check = |change: fn(&mut Command) -> &mut Command, says: &[&str]| {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        run(change(&mut up(&data))).fails(4, says);
        assert!(!data.exists(), "nothing is touched");
    };
    let unknown = ["error: the node has no Kafka setting log.dirs", "hint: docs/node-settings.md"];
    check(|up| up.args(["--kafka-config", "log.dirs=x"]), &unknown);
    let none = ["error: the Kafka setting max.connections can not be \"0\": "];
    check(|up| up.env("AFFLUX_KAFKA_CONFIG", "num.partitions=7,max.connections=0"), &none);
    check(
        |up| {
            let create = "auto.create.topics.enable=true";
            up.args(["--no-auto-create-topics", "--kafka-config", create])
        },
        &["error: the Kafka setting auto.create.topics.enable is given twice"],
    );
}

#[test]
fn a_data_directory_in_use_is_told() {
    let node = Node::start();
    run(&mut up(&node.dir.path().join("data"))).fails(4, &["error: ", "in use", "hint: "]);
}

#[test]
fn a_data_directory_that_can_not_be_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a file");
    run(&mut up(&file.join("data"))).fails(4, &["error: ", "data directory", "hint: "]);
}

#[test]
fn a_data_directory_of_another_version_is_told() {
    let (_, dir) = Node::start().stop();
    let data = dir.path().join("data");
    std::fs::write(data.join("format"), "afflux 999 00\n").expect("a file");
    run(&mut up(&data)).fails(4, &["error: ", "not a data directory of this version", "hint: "]);
}

#[test]
fn a_damaged_journal_is_told_and_left_alone() {
    let node = Node::start();
    node.run(&["topic", "create", "orders"]).ok();
    run_with(&mut node.command(&["produce", "orders"]), &"a line\n".repeat(1_000)).ok();
    let (_, dir) = node.stop();
    let data = dir.path().join("data");
    let journal = std::fs::read_dir(data.join("journal")).expect("a directory");
    let path = journal.map(|file| file.expect("a file").path()).min().expect("the first file");
    let mut bytes = std::fs::read(&path).expect("a file");
    let at = bytes.windows(6).position(|bytes| bytes == b"a line").expect("what was produced");
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).expect("a file");
    run(&mut up(&data)).fails(5, &["error: ", "is damaged at position", "afflux journal repair"]);
    assert!(std::fs::read(&path).expect("a file") == bytes, "nothing is repaired by guessing");
    // A journal that ends too early is damaged too: what is missing was durable.
    std::fs::write(&path, &bytes[..at]).expect("a file");
    run(&mut up(&data)).fails(5, &["error: ", "is damaged at position", "hint: "]);
}

#[test]
fn what_is_damaged_is_cut_out_on_demand() {
    let node = Node::start();
    node.run(&["topic", "create", "orders"]).ok();
    for line in ["first\n", "second\n", "third\n"] {
        run_with(&mut node.command(&["produce", "orders"]), line).ok();
    }
    let journal = |dir: &Path, words: &[&str]| {
        let mut command = afflux();
        command.arg("journal").args(words).arg("--data-dir").arg(dir);
        run_with(&mut command, "")
    };
    let check = ["check", "--json"];
    journal(&node.dir.path().join("data"), &check).fails(4, &["in use", "hint: "]);
    let (_, dir) = node.stop();
    let data = dir.path().join("data");
    let sound = &journal(&data, &check).json()[0];
    assert_eq!((&sound["damage"], &sound["behind"]), (&json!([]), &json!([])));
    assert!(sound["groups"].as_u64().expect("a number") >= 4);
    journal(&data, &["repair", "--yes"]).fails(1, &["nothing to repair", "hint: "]);

    let files = std::fs::read_dir(data.join("journal")).expect("a directory");
    let path = files.map(|file| file.expect("a file").path()).min().expect("the first file");
    let mut bytes = std::fs::read(&path).expect("a file");
    let at = bytes.windows(6).position(|bytes| bytes == b"second").expect("what was produced");
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).expect("a file");
    let checked = journal(&data, &check);
    assert_eq!(checked.status, 1);
    let found: serde_json::Value = serde_json::from_str(&checked.out).expect("JSON");
    assert_eq!(found["damage"][0]["stops_the_node"], true);
    let behind = found["behind"].as_array().expect("a list");
    let orders = behind.iter().find(|loss| loss["partition"] == "orders-0").expect("the topic");
    assert_eq!((&orders["from"], &orders["to"]), (&json!(1), &json!(3)));
    journal(&data, &["check"]).fails(1, &["damaged in 1 place", "afflux journal repair"]);
    journal(&data, &["repair"]).fails(1, &["nothing was changed", "--yes"]);
    assert!(std::fs::read(&path).expect("a file") == bytes);

    let done = journal(&data, &["repair", "--yes"]).ok();
    assert!(done.contains("quarantine") && done.contains("orders-0, offsets 1 to 3"), "{done}");
    let node = Node::start_in(dir);
    let consumed = node.run(&["consume", "orders", "--from-beginning", "-n", "1", "--json"]).json();
    assert_eq!((&consumed[0]["value"], &consumed[0]["offset"]), (&json!("first"), &json!(0)));
    run_with(&mut node.command(&["produce", "orders"]), "again\n").ok();
    let consumed = node.run(&["consume", "orders", "--from-beginning", "-n", "2"]).ok();
    assert_eq!(consumed, "first\nagain\n");
}

#[test]
fn nobody_there_is_told() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let free = free.to_string();
    let check = |words: &[&str]| {
        let mut command = afflux();
        command.args(words).env("AFFLUX_KAFKA", &free).env("AFFLUX_HTTP", &free);
        run(&mut command).fails(3, &["error: ", "can not be reached", "hint: "]);
    };
    check(&["sql", "-c", "SELECT 1"]);
    check(&["topic", "list"]);
    check(&["topic", "create", "t"]);
    check(&["produce", "t"]);
    check(&["consume", "t"]);
}

#[test]
fn wrong_command_lines_are_status_2() {
    let check = |words: &[&str]| run(afflux().args(words)).fails(2, &["error: "]);
    check(&["nothing"]);
    check(&["up", "--kafka", "nowhere"]);
    check(&["up", "--kafka-advertised", "nowhere"]);
    check(&["up", "--log-bytes-max", "1"]);
    check(&["up", "--kafka-config", "num.partitions"]);
    check(&["demo", "--speed", "0"]);
    check(&["sql", "-c", "SELECT 1", "-f", "x"]);
    check(&["topic", "create", "t", "--partitions", "0"]);
}

#[test]
fn version_help_and_completions() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(run(afflux().arg("version")).ok(), format!("afflux {version}\n"));
    assert_eq!(run(afflux().args(["version", "--json"])).json(), [json!({ "version": version })]);
    let help = run(afflux().arg("--help")).ok();
    assert!(help.contains("Exit status:") && !help.contains('\x1b'), "{help}");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(run(afflux().args(["completions", shell])).ok().contains("demo"), "{shell}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let node = Node::start();
    node.run(&["topic", "create", "orders"]).ok();
    let lines = "a line\n".repeat(20_000);
    run_with(&mut node.command(&["produce", "orders"]), &lines).ok();
    let mut child = node
        .command(&["consume", "orders", "--from-beginning"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn the_example_names_the_file_that_the_demo_replaces() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let sql = std::fs::read_to_string(root.join("examples/flights/flights.sql")).expect("the SQL");
    assert!(sql.contains("'examples/flights/airlines.csv'"));
    assert!(root.join("examples/flights/airlines.csv").exists());
}
