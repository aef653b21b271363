//! What all connections share, and what those who answer requests have in common.

use std::{cmp::Ordering, collections::HashSet, hash::Hash, net::SocketAddr, sync::Arc};

use afflux_env::{Env, network::BoxFuture};
use afflux_log::{EmbeddedLog, Log as _, Topic};
use afflux_types::{LeaderEpoch, TopicId, TopicName};
use kafka_protocol::{
    ResponseError,
    messages::{BrokerId, TopicName as WireTopicName},
    protocol::{Encodable, HeaderVersion, StrBytes},
};
use parking_lot::Mutex;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Semaphore,
    task::JoinError,
};

use crate::{
    Options,
    budget::Budget,
    buffers::Buffers,
    groups::Groups,
    transactions::Transactions,
    wire::{self, Answer},
};

/// This node's number. It is alone.
pub(crate) const NODE: BrokerId = BrokerId(1);

/// The topic of committed offsets, by Kafka's name.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The topic of what transactional ids are up to, by Kafka's name.
pub(crate) const TRANSACTIONS_TOPIC: &str = "__transaction_state";

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
    /// Held by who makes a topic for a client.
    pub(crate) naming: Mutex<()>,
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
    /// Whether others may wait for what the request takes of the budget.
    pub(crate) is_long: bool,
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
