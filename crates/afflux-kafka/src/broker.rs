//! What all connections share, and who answers which request.

use std::{cmp::Ordering, collections::HashSet, hash::Hash, net::SocketAddr, sync::Arc};

use afflux_env::{Env, network::BoxFuture};
use afflux_log::{EmbeddedLog, Log as _, Topic};
use afflux_types::{LeaderEpoch, TopicId, TopicName};
use bytes::Bytes;
use kafka_protocol::{
    ResponseError,
    messages::{
        ApiKey, ApiVersionsResponse, BrokerId, TopicName as WireTopicName,
        api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey},
    },
    protocol::{Encodable, HeaderVersion, StrBytes},
};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Semaphore,
    task::JoinError,
};

use crate::{
    Options, api,
    budget::Budget,
    buffers::Buffers,
    client_name, configs, fetch,
    groups::Groups,
    list_offsets, metadata, partitions, produce, replicas, topics,
    transaction::EPOCH_BUMP,
    transactions::Transactions,
    wire::{self, Answer, Request, Unreadable},
};

/// This node's number. It is alone.
pub(crate) const NODE: BrokerId = BrokerId(1);

/// The topic of committed offsets, by Kafka's name.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The topic of what transactional ids are up to, by Kafka's name.
pub(crate) const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// What clients and tools are told beside the requests, by Kafka's names (KIP-584): which group
/// protocols and which transactions there are.
const FEATURES: [(&str, i16); 2] = [("group.version", 1), ("transaction.version", EPOCH_BUMP)];

/// Why one of several things that a request asks for is not done.
pub(crate) type Refusal = (ResponseError, String);

/// What all connections share.
pub(crate) struct Broker {
    pub(crate) env: Env,
    pub(crate) log: Arc<EmbeddedLog>,
    pub(crate) options: Options,
    /// What requests are read into.
    pub(crate) buffers: Buffers,
    /// What requests and answers may take.
    pub(crate) budget: Budget,
    /// Where clients are told to connect.
    pub(crate) host: StrBytes,
    pub(crate) port: i32,
    pub(crate) groups: Groups,
    pub(crate) transactions: Transactions,
    /// Has nothing to give, and is closed once the node stops. Who waits is woken in turn, which
    /// a watch leaves to chance.
    pub(crate) stopping: Semaphore,
}

/// Who asks, and in which words.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) version: i16,
    pub(crate) correlation: i32,
    /// What the client calls itself.
    pub(crate) client: StrBytes,
    pub(crate) peer: SocketAddr,
}

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is answered.
    Respond(Answer),
    /// The client wants no answer.
    Silent,
    /// The connection ends, and why.
    Close(String),
}

/// An answer on its way. What has to happen in the order of requests has happened already.
pub(crate) type Pending = BoxFuture<'static, Outcome>;

impl Context {
    /// Encodes an answer in the request's version.
    pub(crate) fn respond<T: Encodable + HeaderVersion>(&self, body: &T) -> Outcome {
        match wire::encode(self.correlation, self.version, body) {
            Ok(answer) => Outcome::Respond(answer),
            Err(reason) => Outcome::Close(reason),
        }
    }
}

/// A request that was looked over, and takes no more memory than it did on the wire.
pub(crate) struct Asked {
    context: Context,
    /// None if it is `ApiVersions` in a version that is not known: the one request that a client sends
    /// without knowing which versions there are.
    request: Option<Request>,
    /// How long it was on the wire, and how many elements it has.
    pub(crate) size: (usize, usize),
}

impl Asked {
    /// Whether it brings records: then it waits for room in the log's queue. What keeps groups alive
    /// does not.
    pub(crate) fn produces(&self) -> bool {
        self.request.as_ref().is_some_and(|request| request.api.key == ApiKey::Produce)
    }
}

/// Looks a frame over. An error ends the connection.
pub(crate) fn look_over(peer: SocketAddr, frame: Bytes) -> Result<Asked, Unreadable> {
    let header = wire::parse_header(&frame)?;
    let bytes = frame.len();
    if header.key == ApiKey::ApiVersions as i16
        && !api::find(header.key).is_some_and(|api| api.serves(header.version))
    {
        let context =
            Context { version: 0, correlation: header.correlation, client: StrBytes::new(), peer };
        return Ok(Asked { context, request: None, size: (bytes, 0) });
    }
    let request = wire::parse(header, frame)?;
    let context = Context {
        version: request.header.version,
        correlation: request.header.correlation,
        client: request.header.client.clone(),
        peer,
    };
    Ok(Asked { context, size: (bytes, request.elements), request: Some(request) })
}

/// Begins a request. An error ends the connection.
pub(crate) fn begin(broker: &Arc<Broker>, asked: Asked) -> Result<Pending, Unreadable> {
    let context = asked.context;
    let Some(request) = asked.request else {
        let body = api_versions(0, Some(ResponseError::UnsupportedVersion));
        return Ok(Box::pin(async move { context.respond(&body) }));
    };
    dispatch(broker, context, request)
}

// tidy(long-function): a table, one line a request.
fn dispatch(
    broker: &Arc<Broker>,
    context: Context,
    mut request: Request,
) -> Result<Pending, Unreadable> {
    /// Answers when its turn comes, without waiting for anything.
    macro_rules! plain {
        ($answer:path) => {{
            let body = request.decode()?;
            let broker = Arc::clone(broker);
            Box::pin(async move {
                let answer = $answer(&broker, &context, body);
                context.respond(&answer)
            })
        }};
    }
    /// Begins when its turn comes, and answers when it is done.
    macro_rules! later {
        ($answer:path) => {{
            let body = request.decode()?;
            let broker = Arc::clone(broker);
            Box::pin(async move {
                let answer = $answer(&broker, &context, body).await;
                context.respond(&answer)
            })
        }};
    }
    Ok(match request.api.key {
        ApiKey::Produce => produce::start(broker, context, request.decode()?),
        ApiKey::Fetch => {
            let body = request.decode()?;
            let broker = Arc::clone(broker);
            Box::pin(async move { Outcome::Respond(fetch::answer(&broker, &context, body).await) })
        }
        ApiKey::ApiVersions => {
            let body = match client_name::check(&context, &request.decode()?) {
                Ok(()) => api_versions(context.version, None),
                Err(error) => ApiVersionsResponse::default().with_error_code(error.code()),
            };
            Box::pin(async move { context.respond(&body) })
        }
        ApiKey::ListOffsets => later!(list_offsets::answer),
        ApiKey::Metadata => later!(metadata::answer),
        ApiKey::DescribeCluster => plain!(metadata::describe_cluster),
        ApiKey::FindCoordinator => plain!(metadata::find_coordinator),
        ApiKey::InitProducerId => later!(Transactions::init_producer_id),
        ApiKey::AddPartitionsToTxn => later!(Transactions::add_partitions),
        ApiKey::AddOffsetsToTxn => later!(Transactions::add_offsets),
        ApiKey::TxnOffsetCommit => later!(Groups::commit_in_transaction),
        ApiKey::EndTxn => later!(Transactions::end),
        ApiKey::WriteTxnMarkers => later!(Transactions::write_markers),
        ApiKey::DescribeProducers => plain!(Transactions::describe_producers),
        ApiKey::DescribeTransactions => plain!(Transactions::describe),
        ApiKey::ListTransactions => plain!(Transactions::list),
        ApiKey::CreateTopics => later!(topics::create),
        ApiKey::DeleteTopics => later!(topics::delete),
        ApiKey::JoinGroup => later!(Groups::join),
        ApiKey::SyncGroup => later!(Groups::sync),
        ApiKey::Heartbeat => plain!(Groups::heartbeat),
        ApiKey::LeaveGroup => later!(Groups::leave),
        ApiKey::OffsetCommit => later!(Groups::commit),
        ApiKey::OffsetFetch => plain!(Groups::fetch_offsets),
        ApiKey::DescribeGroups => plain!(Groups::describe),
        ApiKey::ListGroups => plain!(Groups::list),
        ApiKey::DescribeConfigs => plain!(configs::describe),
        ApiKey::AlterConfigs => later!(configs::alter),
        ApiKey::IncrementalAlterConfigs => later!(configs::alter_some),
        ApiKey::ListConfigResources => plain!(configs::list_resources),
        ApiKey::CreatePartitions => later!(partitions::create),
        ApiKey::DeleteRecords => later!(partitions::delete_records),
        ApiKey::OffsetForLeaderEpoch => later!(partitions::epoch_ends),
        ApiKey::DescribeLogDirs => later!(partitions::log_dirs),
        ApiKey::DescribeTopicPartitions => plain!(metadata::describe_partitions),
        ApiKey::ElectLeaders => plain!(replicas::elect),
        ApiKey::AlterPartitionReassignments => plain!(replicas::reassign),
        ApiKey::ListPartitionReassignments => plain!(replicas::list_reassignments),
        ApiKey::DeleteGroups => later!(Groups::delete),
        ApiKey::OffsetDelete => later!(Groups::delete_offsets),
        ApiKey::ConsumerGroupHeartbeat => later!(Groups::consumer_heartbeat),
        ApiKey::ConsumerGroupDescribe => plain!(Groups::describe_consumer),
        _ => return Err(Unreadable::UnknownApi(request.header.key)),
    })
}

/// Which requests are served. Told that its version is not, a client only needs the range of the
/// request that it sent.
fn api_versions(version: i16, error: Option<ResponseError>) -> ApiVersionsResponse {
    let served = api::SERVED
        .iter()
        .filter(|api| error.is_none() || api.key == ApiKey::ApiVersions)
        .map(|api| {
            ApiVersion::default()
                .with_api_key(api.key as i16)
                .with_min_version(api.version_min)
                .with_max_version(api.version_max)
        });
    let supported = FEATURES.map(|(name, level)| {
        SupportedFeatureKey::default()
            .with_name(StrBytes::from_static_str(name))
            // Older clients can not read a 0 here.
            .with_min_version(i16::from(version < 4))
            .with_max_version(level)
    });
    let finalized = FEATURES.map(|(name, level)| {
        FinalizedFeatureKey::default()
            .with_name(StrBytes::from_static_str(name))
            .with_min_version_level(level)
            .with_max_version_level(level)
    });
    ApiVersionsResponse::default()
        .with_error_code(error.map_or(0, |error| error.code()))
        .with_api_keys(served.collect())
        .with_supported_features(supported.to_vec())
        .with_finalized_features_epoch(0)
        .with_finalized_features(finalized.to_vec())
}

impl Broker {
    /// The leader epoch that answers carry.
    pub(crate) fn leader_epoch(&self) -> i32 {
        let LeaderEpoch(epoch) = self.log.leader_epoch();
        epoch
    }

    /// Refuses who thinks that it is another epoch (KIP-320): it has to look where things are now, and
    /// whether what it has read still stands there. -1 thinks nothing.
    pub(crate) fn check_epoch(&self, current: i32) -> Result<(), ResponseError> {
        match current.cmp(&self.leader_epoch()) {
            _ if current == -1 => Ok(()),
            Ordering::Equal => Ok(()),
            Ordering::Less => Err(ResponseError::FencedLeaderEpoch),
            Ordering::Greater => Err(ResponseError::UnknownLeaderEpoch),
        }
    }

    /// Waits until the node stops.
    pub(crate) async fn stopping(&self) {
        // Nobody gets in: this ends with the semaphore alone.
        let _ = self.stopping.acquire().await;
    }

    /// A topic that clients may see, by name.
    pub(crate) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        let name = TopicName::new(name).ok().filter(|name| !is_hidden(name))?;
        self.log.topic(&name)
    }

    /// A topic that clients may see, by id.
    pub(crate) fn topic_by_id(&self, id: uuid::Uuid) -> Option<Arc<Topic>> {
        self.log.topic_by_id(TopicId(id)).filter(|topic| !is_hidden(&topic.name))
    }

    /// A topic that clients may see, or why there is none.
    pub(crate) fn known_topic(&self, name: &str) -> Result<Arc<Topic>, Refusal> {
        TopicName::new(name)
            .map_err(|error| (ResponseError::InvalidTopicException, error.to_string()))?;
        let unknown =
            || (ResponseError::UnknownTopicOrPartition, format!("there is no topic {name}"));
        self.topic(name).ok_or_else(unknown)
    }

    /// A topic that clients may change, or why there is none.
    pub(crate) fn changeable_topic(&self, name: &str) -> Result<Arc<Topic>, Refusal> {
        let topic = self.known_topic(name)?;
        check_changeable(&topic.name).map(|()| topic)
    }

    /// All topics that clients may see.
    pub(crate) fn topics(&self) -> Vec<Arc<Topic>> {
        let mut topics = self.log.topics();
        topics.retain(|topic| !is_hidden(&topic.name));
        topics
    }
}

/// Whether a topic is Afflux's own: neither listed, nor read, nor written by clients.
pub(crate) fn is_hidden(name: &TopicName) -> bool {
    name.is_internal()
}

/// Whether a topic is one of Kafka's internal ones: listed and read by clients, but not written,
/// made, changed or removed by them.
pub fn is_internal(name: &TopicName) -> bool {
    [OFFSETS_TOPIC, TRANSACTIONS_TOPIC].contains(&name.as_str())
}

/// Refuses topics that only the node itself writes, makes, changes and removes.
pub(crate) fn check_changeable(name: &TopicName) -> Result<(), Refusal> {
    if is_hidden(name) || is_internal(name) {
        let message = format!("{name} is the node's own: no client changes it");
        return Err((ResponseError::InvalidTopicException, message));
    }
    Ok(())
}

/// What a request names, each once.
pub(crate) fn once<T, K: Eq + Hash>(
    named: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> K,
) -> impl Iterator<Item = T> {
    let mut seen = HashSet::new();
    named.into_iter().filter(move |one| seen.insert(key(one)))
}

/// What a request names more than once: Kafka refuses each of them, in one answer.
pub(crate) fn repeated<T: Clone + Eq + Hash>(named: impl Iterator<Item = T>) -> HashSet<T> {
    let mut seen = HashSet::new();
    named.filter(|one| !seen.insert(one.clone())).collect()
}

/// Runs to its end, whether or not its client waits for it: what was begun has to be settled.
pub(crate) async fn to_its_end<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> T {
    let task = tokio::spawn(task);
    task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Does what blocks where that holds nobody up. With a log that is stepped it takes its turn among
/// all other tasks, so that a simulated world's seed decides when it comes.
pub(crate) async fn blocking<T: Send + 'static>(
    log: &Arc<EmbeddedLog>,
    work: impl FnOnce(&Arc<EmbeddedLog>) -> T + Send + 'static,
) -> Result<T, JoinError> {
    let log = Arc::clone(log);
    let working = if log.is_stepped() {
        tokio::spawn(async move { work(&log) })
    } else {
        tokio::task::spawn_blocking(move || work(&log))
    };
    working.await
}

/// Does what takes a while, and lets other tasks be done elsewhere meanwhile.
pub(crate) fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// A topic's name for an answer.
pub(crate) fn wire_name(name: &TopicName) -> WireTopicName {
    WireTopicName(text(name.as_str()))
}

/// A string for an answer.
pub(crate) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use afflux_env::sim::Sim;
    use afflux_log::{Entry, Group};
    use afflux_types::TopicPartition;

    use super::*;
    pub(crate) use crate::fuzzing::broker::alone;

    /// Fills a broker's disk, but for room for a few small records.
    pub(crate) async fn fill(sim: &Sim, broker: &Broker, partition: &TopicPartition) {
        sim.disk.set_capacity(0);
        loop {
            let mut builder = afflux_record::batch::Builder::new(afflux_record::Compression::None);
            builder.push(afflux_types::Timestamp(0), None, Some(&[0; 3_000]));
            let (partition, batch) = (partition.clone(), builder.finish().unwrap());
            let appended = broker.log.append(&Group { entries: vec![Entry { partition, batch }] });
            if appended.await.is_err() {
                return;
            }
        }
    }
}
