//! The page `docs/kafka-compatibility.md`, made from the table of served requests (`api`) and from
//! what is said here of each.
//!
//! A note says what differs from Apache Kafka, from a client's point of view; where there is none,
//! nothing is known to differ. Requests that are not served are listed with the reason.

use std::fmt::Write;

use kafka_protocol::messages::ApiKey;

use crate::api;

const INTRODUCTION: &str = "\
# Kafka compatibility

<!-- Made from crates/afflux-kafka/src/api.rs and compatibility.rs; a test holds that they agree. -->

Which requests of the Kafka protocol are served, in which versions, and what differs from Apache
Kafka 4.1. [kafka.md](kafka.md) says what that means for clients, [topic-settings.md](topic-settings.md)
which settings topics have.

## Served

| request | versions | of Kafka's | what differs |
|---|---|---|---|
";

const NOT_SERVED: &str = "
## Not served

Clients are not told of these, and a request of that kind ends its connection.

| requests | why |
|---|---|
";

/// What differs in a request that is served.
fn note(key: ApiKey) -> &'static str {
    match key {
        ApiKey::Produce => {
            "Served from version 3 on; 0 is listed since old librdkafka looks for it. `acks` 1 and \
             -1 are the same: both are what the topic's `durability` says. Every record is read: one \
             at another offset than its place in the batch, or of another length than it says, is \
             refused in compressed batches and in others, and so is a batch that unpacks to more \
             than 64 MiB"
        }
        ApiKey::Fetch => {
            "Sessions are declined: each request names all that it wants. One of very many \
             partitions, from 350 to 700 on by how many topics they are of, waits a second at most"
        }
        ApiKey::ListOffsets => "Nothing is tiered: the latest tiered offset is -1",
        ApiKey::InitProducerId => "Two-phase commit (KIP-939) is refused",
        ApiKey::WriteTxnMarkers => {
            "Ends the transaction as a whole, in all its partitions. The coordinator's epoch is not \
             checked: there is one coordinator"
        }
        ApiKey::DescribeProducers => "The coordinator's epoch is always -1",
        ApiKey::JoinGroup => {
            "What members say of themselves may have 4 MiB together. A group that was empty waits \
             200 ms by default (`group.initial.rebalance.delay.ms`), not 3 s"
        }
        ApiKey::ConsumerGroupHeartbeat => {
            "Expressions are those of Rust's `regex`, not RE2's. What members say of themselves may \
             have 4 MiB together"
        }
        ApiKey::Metadata => "One node",
        ApiKey::DescribeCluster => {
            "One node, which is the controller too. Endpoints of controllers are refused"
        }
        ApiKey::CreateTopics => {
            "One replica, on node 1. At most 10,000 partitions. Names that collide in metrics are \
             refused within a request, too"
        }
        ApiKey::CreatePartitions => "One replica, on node 1. At most 10,000 partitions",
        ApiKey::AddPartitionsToTxn => {
            "At most some 21,800 partitions; to more it answers `TRANSACTION_ABORTABLE`, before \
             version 5 `POLICY_VIOLATION`"
        }
        ApiKey::DescribeConfigs => "Topics, groups, and the node with what it was started with",
        ApiKey::AlterConfigs | ApiKey::IncrementalAlterConfigs => {
            "Topics and groups; the node's settings come from its command line"
        }
        ApiKey::ListConfigResources => "Topics, the node, and groups for which something is set",
        ApiKey::OffsetForLeaderEpoch => {
            "Each start of the node begins an epoch; no record that was shown is taken back by one"
        }
        ApiKey::DescribeLogDirs => "One directory, the journal's, with batches as they are stored",
        ApiKey::DescribeTopicPartitions => "One replica",
        ApiKey::ElectLeaders => "The one node leads all: no election is ever needed",
        ApiKey::AlterPartitionReassignments => {
            "Only to where the partition is, which is done at once"
        }
        ApiKey::ListPartitionReassignments => "None is ever under way",
        ApiKey::FindCoordinator => "Share groups have none",
        ApiKey::ListTransactions => "Expressions are those of Rust's `regex`",
        _ => "",
    }
}

/// Why a request is not served.
fn reason(key: ApiKey) -> &'static str {
    use ApiKey as K;
    match key {
        K::SaslHandshake
        | K::SaslAuthenticate
        | K::DescribeAcls
        | K::CreateAcls
        | K::DeleteAcls
        | K::CreateDelegationToken
        | K::RenewDelegationToken
        | K::ExpireDelegationToken
        | K::DescribeDelegationToken
        | K::DescribeUserScramCredentials
        | K::AlterUserScramCredentials => "There is no authentication or access control yet",
        K::DescribeClientQuotas | K::AlterClientQuotas => "There are no quotas yet",
        K::ShareGroupHeartbeat
        | K::ShareGroupDescribe
        | K::ShareFetch
        | K::ShareAcknowledge
        | K::DescribeShareGroupOffsets
        | K::AlterShareGroupOffsets
        | K::DeleteShareGroupOffsets => "There are no queues (share groups) yet",
        K::GetTelemetrySubscriptions | K::PushTelemetry => "Clients' metrics are not collected",
        K::AlterReplicaLogDirs => "There is one journal for all partitions",
        _ => "Between brokers and controllers: there is one node, which is both",
    }
}

/// The page `docs/kafka-compatibility.md`.
pub fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    let all = || (0..i16::MAX).filter_map(|number| ApiKey::try_from(number).ok());
    let range =
        |from: i16, to: i16| if from == to { to.to_string() } else { format!("{from}–{to}") };
    for key in all() {
        let Some(api) = api::find(key as i16) else { continue };
        let kafkas = key.valid_versions();
        let here = range(api.version_min, api.version_max);
        let there = range(kafkas.min, kafkas.max);
        let _ = writeln!(page, "| {key:?} | {here} | {there} | {} |", note(key));
    }
    page.push_str(NOT_SERVED);
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for key in all().filter(|key| api::find(*key as i16).is_none()) {
        match reasons.iter_mut().find(|(known, _)| *known == reason(key)) {
            Some((_, keys)) => keys.push(format!("{key:?}")),
            None => reasons.push((reason(key), vec![format!("{key:?}")])),
        }
    }
    for (reason, keys) in reasons {
        let _ = writeln!(page, "| {} | {reason} |", keys.join(", "));
    }
    page
}
