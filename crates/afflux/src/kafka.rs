//! What the Kafka clients of this binary share: settings, and what their errors mean.

use std::time::Duration;

use rdkafka::{
    ClientConfig,
    client::{Client, ClientContext},
    error::KafkaError,
    metadata::{Metadata, MetadataPartition},
    types::RDKafkaErrorCode,
};

use crate::failure::{Failure, Status};

/// How long a node may take to answer.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Settings for a client of the node at HOST:PORT.
pub(crate) fn config(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", address)
        .set("client.id", "afflux")
        // A name is looked up as nodes do that listen at one: version 4 first.
        .set("broker.address.family", if address.starts_with('[') { "v6" } else { "v4" })
        .set("socket.nagle.disable", "true")
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "200");
    config
}

/// What an error of the client means to the user.
pub(crate) fn failure(address: &str, error: &KafkaError) -> Failure {
    use RDKafkaErrorCode as Code;
    let code = match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    };
    match code {
        Some(
            Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::Resolve
            | Code::MessageTimedOut,
        ) => unreachable(address),
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
            Failure::new(Status::Failed, "there is no such topic")
                .hint("`afflux topic list` shows those there are")
        }
        Some(code) => Failure::new(Status::Failed, format!("{error} ({code})")),
        None => Failure::new(Status::Failed, error.to_string()),
    }
}

/// Nobody answers there.
pub(crate) fn unreachable(address: &str) -> Failure {
    Failure::new(Status::Unreachable, format!("the node at {address} can not be reached"))
        .hint("start one with `afflux up`, or name its address with --kafka HOST:PORT")
}

/// Nothing has that name.
pub(crate) fn unknown_topic(topic: &str) -> Failure {
    Failure::new(Status::Failed, format!("there is no topic \"{topic}\""))
        .hint(format!("create it with `afflux topic create {topic}`"))
}

/// All topics of the node.
pub(crate) fn topics<C: ClientContext>(
    address: &str,
    client: &Client<C>,
) -> Result<Metadata, Failure> {
    client.fetch_metadata(None, ANSWER_WITHIN).map_err(|error| failure(address, &error))
}

/// The partitions of a topic, in order.
pub(crate) fn partitions<C: ClientContext>(
    address: &str,
    client: &Client<C>,
    topic: &str,
) -> Result<Vec<i32>, Failure> {
    // All topics are asked for, because asking for one by name may create it.
    let metadata = topics(address, client)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let found = found.ok_or_else(|| unknown_topic(topic))?;
    let mut partitions: Vec<_> = found.partitions().iter().map(MetadataPartition::id).collect();
    partitions.sort_unstable();
    Ok(partitions)
}
