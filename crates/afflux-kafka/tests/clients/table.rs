//! What every client is tried with, and what each of them lacks. The page
//! `docs/kafka-compatibility.md` shows it; `scenarios.rs` has what is done.

/// Scenarios: name, and what a client does in it.
pub(crate) const SCENARIOS: &[(&str, &str)] = &[
    ("none", "produce and consume without compression"),
    ("gzip", "the same, with gzip"),
    ("snappy", "with snappy"),
    ("lz4", "with lz4"),
    ("zstd", "with zstd"),
    ("record", "keys and values that are null or empty, timestamps"),
    ("headers", "headers, some of one name, some empty"),
    ("header-order", "headers of one name with another between them"),
    ("header-null", "headers without a value"),
    ("idempotent", "an idempotent producer"),
    ("group", "two members of a group share, commit, and one leaves"),
    ("consumer-protocol", "the same, by the newer protocol (KIP-848)"),
    ("restart", "a group goes on at its commit when the node is back"),
    ("transactions", "commit, abort, read what is committed"),
    ("fence", "a newer producer of an id fences the older"),
    ("process", "a topic into another with its offsets, exactly once"),
    ("topics", "create, describe, give partitions to, delete a topic"),
    ("configs", "describe and alter settings"),
    ("delete-records", "delete records up to an offset"),
    ("groups", "list and describe groups"),
    ("delete-group", "delete a group, which must be empty"),
    ("times", "offsets by time, and at the ends"),
    ("unknown-topic", "a topic that nobody made is an error"),
    ("too-large", "a batch above max.message.bytes is an error"),
];

/// A client.
pub(crate) struct Client {
    /// What it is called, and the version that is tried.
    pub(crate) name: &'static str,
    /// Scenarios that it has nothing for, and why.
    pub(crate) lacks: &'static [(&'static [&'static str], &'static str)],
}

impl Client {
    /// Why it has nothing for a scenario, if it has nothing.
    pub(crate) fn lacks(&self, scenario: &str) -> Option<&'static str> {
        self.lacks.iter().find(|(names, _)| names.contains(&scenario)).map(|(_, why)| *why)
    }
}

const CLASSIC_ALONE: (&[&str], &str) = (&["consumer-protocol"], "has the classic protocol alone");

const HEADERS_HAVE_VALUES: (&[&str], &str) = (&["header-null"], "has no headers without a value");

pub(crate) const CLIENTS: &[Client] = &[
    Client {
        name: "rdkafka (Rust) 0.39.0",
        lacks: &[(&["configs"], "does not tell that a setting was refused")],
    },
    Client { name: "confluent-kafka-python 2.16.1", lacks: &[] },
    Client { name: "kafka-python 3.0.12", lacks: &[CLASSIC_ALONE, HEADERS_HAVE_VALUES] },
    Client {
        name: "aiokafka 0.14.0",
        lacks: &[CLASSIC_ALONE, (&["delete-group"], "cannot delete groups")],
    },
    Client {
        name: "KafkaJS 2.2.4",
        lacks: &[
            CLASSIC_ALONE,
            HEADERS_HAVE_VALUES,
            (&["header-order"], "has headers by their names, without an order"),
        ],
    },
    Client { name: "Java 3.9.2", lacks: &[] },
    Client { name: "Java 4.3.1", lacks: &[] },
    Client { name: "franz-go 1.22.2", lacks: &[] },
    Client { name: "sarama 1.61.1", lacks: &[CLASSIC_ALONE] },
    Client {
        name: "kcat 1.7.1",
        lacks: &[
            (&["zstd"], "is built without it in Debian"),
            (&["record", "headers", "header-order", "header-null", "times"], "sets no timestamps"),
            (
                &["group", "consumer-protocol", "restart"],
                "commits by itself alone; a test of its own tries that",
            ),
            (
                &["transactions", "fence", "process"],
                "commits one transaction at its end, and aborts none",
            ),
            (
                &["topics", "configs", "delete-records", "groups", "delete-group"],
                "does not administer",
            ),
        ],
    },
];
