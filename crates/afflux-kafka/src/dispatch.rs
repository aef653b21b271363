//! Who answers which request.
//!
//! A frame is looked over first, which takes no more memory than it has: what its request would take,
//! and whether it waits for others, is known before it is begun.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use kafka_protocol::{
    ResponseError,
    messages::{
        ApiKey, ApiVersionsResponse,
        api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey},
    },
    protocol::StrBytes,
};

use crate::{
    api::{self, Api},
    broker::{Broker, Context, Outcome, Pending},
    budget::{self, SHORT_BYTES},
    client_name, configs, fetch,
    groups::Groups,
    list_offsets, metadata, partitions, produce, replicas, topics,
    transaction::EPOCH_BUMP,
    transactions::Transactions,
    wire::{self, Header, Request, Unreadable},
};

/// What clients and tools are told beside the requests, by Kafka's names (KIP-584): which group
/// protocols and which transactions there are.
const FEATURES: [(&str, i16); 2] = [("group.version", 1), ("transaction.version", EPOCH_BUMP)];

/// A request that was looked over, and takes no more memory than it did on the wire.
pub(crate) struct Asked {
    context: Context,
    /// None if it is `ApiVersions` in a version that is not known: the one request that a client sends
    /// without knowing which versions there are.
    request: Option<Request>,
    /// What it takes of the budget.
    pub(crate) cost: usize,
}

impl Asked {
    fn new(peer: SocketAddr, header: Header, cost: usize, request: Option<Request>) -> Self {
        let Header { version, correlation, client, .. } = header;
        let is_long = cost > SHORT_BYTES;
        Self { context: Context { version, correlation, client, peer, is_long }, request, cost }
    }

    /// Whether it brings records: then it waits for room in the log's queue. What keeps groups alive
    /// does not.
    pub(crate) fn produces(&self) -> bool {
        self.request.as_ref().is_some_and(|request| request.api.key == ApiKey::Produce)
    }

    /// Whether it waits for requests of others, of a group's members: it can not keep from them what
    /// they need to come. What it brings is its group's then, and nothing else of it is kept.
    pub(crate) fn waits_for_others(&self) -> bool {
        let waits = |key| matches!(key, ApiKey::JoinGroup | ApiKey::SyncGroup);
        self.request.as_ref().is_some_and(|request| waits(request.api.key))
    }
}

/// Looks a frame over. An error ends the connection.
pub(crate) fn look_over(peer: SocketAddr, frame: Bytes) -> Result<Asked, Unreadable> {
    let header = wire::parse_header(&frame)?;
    let bytes = frame.len();
    let is_known = |api: &Api| api.serves(header.version);
    if header.key == ApiKey::ApiVersions as i16 && !api::find(header.key).is_some_and(is_known) {
        let header = Header { version: 0, client: StrBytes::new(), ..header };
        return Ok(Asked::new(peer, header, budget::cost(bytes, 0), None));
    }
    let request = wire::parse(header, frame)?;
    let cost = budget::cost(bytes, request.elements);
    Ok(Asked::new(peer, request.header.clone(), cost, Some(request)))
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
