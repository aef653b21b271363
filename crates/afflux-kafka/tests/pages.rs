//! Pages that are made from the code say what it says.

#[path = "clients/table.rs"]
mod table;

use std::{fmt::Write, path::Path};

fn check(name: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    if std::env::var_os("AFFLUX_WRITE_DOCS").is_some() {
        std::fs::write(&path, page).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "docs/{name} is stale: AFFLUX_WRITE_DOCS=1 writes it anew");
}

#[test]
fn topic_settings_are_those_of_their_declaration() {
    check("topic-settings.md", &afflux_log::settings::page());
}

#[test]
fn node_settings_are_those_of_their_declaration() {
    check("node-settings.md", &afflux_kafka::settings_page());
}

#[test]
fn kafka_compatibility_is_that_of_the_served_requests() {
    let page = afflux_kafka::compatibility_page() + &clients();
    check("kafka-compatibility.md", &page);
}

/// What has tests of its own.
const BESIDE: &str = "

Beside these the tests run what Apache Kafka 4.3.1 comes with: its command line tools (topics,
configs, groups, offsets, transactions, log directories, console producer and consumer, and those
that measure producers and consumers), its formatters of `__consumer_offsets` and
`__transaction_state`, and Kafka Streams counting words with
`processing.guarantee=exactly_once_v2` and reading a table from a compacted topic; and a group
of librdkafka's consumers that cooperate (`cooperative-sticky`), which come and go. Some three
hundred requests that ask for what is not there, or can not be, are put to the node and to Apache
Kafka 4.3.1, and answered with the same codes, but for these. A fetch that names in which epoch of the
leader its last record was is served whatever it names, which only followers do. Where Kafka
says `UNKNOWN_SERVER_ERROR`, a topic without a name is described as `INVALID_TOPIC_EXCEPTION`, and an
operation on settings that is not known is `INVALID_REQUEST`. Settings which are not known can not be
deleted, and `cleanup.policy` can not be empty. Records at other offsets than their places in the
batch, or of other lengths than they say, are `INVALID_RECORD` in every batch: Kafka takes some of
them, for readers to stumble over. Of two topics in one request whose names collide one is made.

Clients bring tests of their own that want a broker. Not with every change, but last on 22 November
2026, those of librdkafka 2.12.1 and confluent-kafka-go 2.12.0 (with both group protocols), rdkafka
(Rust) 0.39.0, franz-go 1.22.2, sarama 1.61.1, kafka-go 0.4.51, watermill-kafka 3.0.6 and kafka-python
3.0.12 were run against a node, as far as one node without authentication can do what they want, and
what failed against Apache Kafka 4.3.1 too. What fails here alone asks for quotas, SCRAM users, the
quorum, other features or directories, changes settings of the node, sets `file.delete.delay.ms`,
takes the leader epoch of a new topic for 0, wants the first record of a new topic to take longer than
100 milliseconds, or asks for a removed topic and minds that it is made again.
";

/// What the page says of clients.
fn clients() -> String {
    let mut page = "
## Clients

All tests of a change run each of these against a node, with auto-creation of topics off. A number
says why a client has nothing for a row; the node is the reason of none.

| |"
    .to_owned();
    let mut notes: Vec<&str> = Vec::new();
    for client in table::CLIENTS {
        let _ = write!(page, " {} |", client.name);
    }
    page.push_str("\n|---|");
    page.push_str(&"---|".repeat(table::CLIENTS.len()));
    for (name, what) in table::SCENARIOS {
        let _ = write!(page, "\n| {what} |");
        for client in table::CLIENTS {
            let Some(why) = client.lacks(name) else {
                page.push_str(" yes |");
                continue;
            };
            let number = notes.iter().position(|note| *note == why).unwrap_or_else(|| {
                notes.push(why);
                notes.len() - 1
            });
            let _ = write!(page, " {} |", number + 1);
        }
    }
    page.push('\n');
    for (index, note) in notes.iter().enumerate() {
        let _ = write!(page, "\n{}. It {note}.", index + 1);
    }
    page + BESIDE
}
