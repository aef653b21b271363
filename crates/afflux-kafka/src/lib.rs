//! The Kafka listener: clients of Apache Kafka produce, consume, form groups and use transactions
//! here.
//!
//! ```text
//!  connection ──▶ wire, guard ──▶ dispatch ─▶ produce · fetch · list_offsets · metadata
//!  (frames,       (header,        (who    ├─▶ topics · partitions · configs · replicas
//!   order,         shape)         answers)├─▶ groups ───────▶ group         ╮ pure
//!   budget)                          │    ╰─▶ transactions ─▶ transaction   ╯ coordinators
//!                                    ▼
//!                                   log
//! ```
//! Not here: storage, sequences of idempotent producers (the log's), security.
//!
//! Absences that hold: nothing here copies a record batch on its way in or out, unless its topic's
//! settings ask for it (`intake`) or its whole request is small (`connection`), and what was not read
//! record by record is not taken; no length in a request reserves memory before the bytes are there;
//! an acknowledged record is durable, unless its topic is `relaxed`; an answer never overtakes an
//! earlier one of its connection, and no request holds up other connections (`budget`).

mod access;
mod api;
mod broker;
mod budget;
mod buffers;
mod client_name;
mod code;
mod compatibility;
mod configs;
mod connection;
mod dispatch;
mod fetch;
mod fields;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod group;
mod groups;
mod guard;
mod intake;
mod list_offsets;
mod metadata;
mod partitions;
mod produce;
mod replicas;
mod rewriting;
mod settings;
mod topics;
mod transaction;
mod transactions;
mod wire;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use afflux_env::{Env, Listener};
use afflux_log::{EmbeddedLog, LogOptions, error::ReadError};
use afflux_record::BatchError;
use afflux_types::{Classified, ErrorKind, Offset};
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

pub use broker::is_internal;
pub use compatibility::page as compatibility_page;
pub use settings::{NodeSettingError, page as settings_page};

use crate::{
    broker::Broker, budget::Budget, buffers::Buffers, groups::Groups, transactions::Transactions,
};

/// How long answers in flight may take once the node stops.
const FAREWELL: Duration = Duration::from_secs(1);

/// How the listener behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where clients are told to connect, if not where the listener is bound. Needed when that is
    /// not an address of theirs: behind a proxy, or bound to all interfaces.
    pub advertised: Option<(String, u16)>,
    /// What clients are told the cluster is called.
    pub cluster_id: String,
    /// Whether asking for a topic makes it.
    pub create_topics: bool,
    /// How many partitions a topic gets whose maker does not say.
    pub partitions: i32,
    /// The longest request taken, in bytes.
    pub frame_bytes_max: usize,
    /// The most bytes of requests that have no answer yet, over all connections: a half for those
    /// that come, the other for those that are there. One request may be more, and what is short and
    /// does not produce does not count.
    pub request_bytes_max: usize,
    /// The most bytes of answers that their clients have not taken yet, over all connections; what is
    /// short does not count. Beyond that those of Fetch are small, and others have to be taken soon.
    pub answer_bytes_max: usize,
    /// The most bytes of batches in one answer, but for a first batch that is larger.
    pub fetch_bytes_max: usize,
    /// The most connections; more wait to be accepted.
    pub connections_max: usize,
    /// How long a request may take from its first byte to its last, not counting what it waits for us,
    /// and how long a client may take nothing of its answer.
    pub stall_max: Duration,
    /// How long a connection may be without a request. Clients connect again by themselves, and
    /// one that is gone without a word must not keep its place.
    pub idle_max: Duration,
    /// How long a group that was empty waits for members that start together.
    pub group_initial_delay: Duration,
    /// The shortest session that a member of a classic group may ask for.
    pub group_session_min: Duration,
    /// The longest session that a member of a classic group may ask for.
    pub group_session_max: Duration,
    /// The most members of a classic group.
    pub group_members_max: usize,
    /// The longest metadata that may be committed with an offset, in bytes.
    pub offset_metadata_bytes_max: usize,
    /// How long a partition remembers an idempotent producer that does not write. That is for the
    /// log to do: who opens it hands this on (`LogOptions::producer_retention`).
    pub producer_retention: Duration,
    /// The longest that a transaction may be allowed to take.
    pub transaction_timeout_max: Duration,
    /// How long a transactional id is remembered that nobody uses.
    pub transaction_id_retention: Duration,
    /// How often it is looked for transactions that take too long.
    pub transaction_check: Duration,
    /// How many records of transactions there may be that say nothing any more, beside twice as
    /// many as do: then all is written anew.
    pub transaction_records_spare: u32,
    /// How often members of the consumer protocol are told to be heard of.
    pub group_consumer_heartbeat: Duration,
    /// The least that this can be set to for a group.
    pub group_consumer_heartbeat_min: Duration,
    /// The most.
    pub group_consumer_heartbeat_max: Duration,
    /// How long a member of the consumer protocol is not missed.
    pub group_consumer_session: Duration,
    /// The least that this can be set to for a group.
    pub group_consumer_session_min: Duration,
    /// The most.
    pub group_consumer_session_max: Duration,
    /// The most members of a group of the consumer protocol.
    pub group_consumer_members_max: usize,
    /// How long a commit is kept that no member of its group needs.
    pub group_offsets_retention: Duration,
    /// How often it is looked for such commits.
    pub group_offsets_check: Duration,
    /// How many records of groups and commits there may be that say nothing any more, beside
    /// twice as many as do: then all is written anew.
    pub group_records_spare: u32,
    /// How many bytes of records are written anew at once; between, others commit.
    pub rewrite_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            advertised: None,
            cluster_id: "afflux".to_owned(),
            create_topics: true,
            partitions: 4,
            frame_bytes_max: 100 << 20,
            request_bytes_max: 256 << 20,
            answer_bytes_max: 256 << 20,
            fetch_bytes_max: 8 << 20,
            connections_max: 4096,
            stall_max: Duration::from_mins(1),
            idle_max: Duration::from_mins(10),
            group_initial_delay: Duration::from_millis(200),
            group_session_min: Duration::from_secs(6),
            group_session_max: Duration::from_mins(30),
            group_members_max: 1_000,
            offset_metadata_bytes_max: 4096,
            producer_retention: LogOptions::default().producer_retention,
            transaction_timeout_max: Duration::from_mins(15),
            transaction_id_retention: Duration::from_hours(7 * 24),
            transaction_check: Duration::from_secs(1),
            transaction_records_spare: 1_000,
            group_consumer_heartbeat: Duration::from_secs(5),
            group_consumer_heartbeat_min: Duration::from_secs(5),
            group_consumer_heartbeat_max: Duration::from_secs(15),
            group_consumer_session: Duration::from_secs(45),
            group_consumer_session_min: Duration::from_secs(45),
            group_consumer_session_max: Duration::from_mins(1),
            group_consumer_members_max: 1_000,
            group_offsets_retention: Duration::from_hours(7 * 24),
            group_offsets_check: Duration::from_mins(10),
            group_records_spare: 1_000,
            rewrite_bytes: 256 << 10,
        }
    }
}

/// The listener can not start, for what groups and transactions have stored can not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The log does not give it.
    #[error("reading what groups and transactions have stored: {0}")]
    Read(#[from] ReadError),
    /// A batch of it is malformed.
    #[error(
        "reading what groups and transactions have stored: the batch at offset {offset}: {source}"
    )]
    Batch {
        /// Where in `__consumer_offsets` or `__transaction_state`.
        offset: Offset,
        /// What is wrong with it.
        source: BatchError,
    },
}

impl Classified for StartError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Read(error) => error.kind(),
            Self::Batch { .. } => ErrorKind::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Read(error) => error.hint(),
            Self::Batch { .. } => None,
        }
    }
}

/// [`start`], and what it gives, in one.
pub async fn serve(
    env: Env,
    log: Arc<EmbeddedLog>,
    listener: Box<dyn Listener>,
    options: Options,
    shutdown: watch::Receiver<bool>,
) -> Result<(), StartError> {
    start(env, log, listener, options, shutdown).await?.await;
    Ok(())
}

/// Reads what groups and transactions have stored. What it gives serves Kafka clients until
/// `shutdown` becomes true (or its sender is gone); then answers in flight get a moment to end.
pub async fn start(
    env: Env,
    log: Arc<EmbeddedLog>,
    listener: Box<dyn Listener>,
    options: Options,
    shutdown: watch::Receiver<bool>,
) -> Result<impl Future<Output = ()> + Send, StartError> {
    let (groups, transactions) = rebuild(&env, &log, &options).await?;
    let (host, port) = advertised(&options, listener.address());
    let places = Arc::new(Semaphore::new(options.connections_max));
    let broker = Arc::new(Broker {
        budget: Budget::new(&options),
        buffers: Buffers::default(),
        naming: Mutex::new(()),
        stopping: Semaphore::new(0),
        env,
        log,
        options,
        host,
        port,
        groups,
        transactions,
    });
    // A crash may have come between the end of a topic and that of what was committed for it.
    Groups::forget_topics(&broker).await;
    Transactions::recover(&broker).await;
    Ok(listen(broker, listener, places, shutdown))
}

/// What groups and transactions do by themselves. Ends by a fault alone.
async fn coordinate(broker: Arc<Broker>) {
    let (run, deliver) = (Groups::run(&broker), Groups::deliver(&broker));
    let keep_small = Groups::keep_small(&broker);
    tokio::join!(run, deliver, keep_small, Transactions::run(&broker));
}

async fn listen(
    broker: Arc<Broker>,
    listener: Box<dyn Listener>,
    places: Arc<Semaphore>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    // Whoever lets go of this ends that, too.
    let mut coordinating = JoinSet::new();
    coordinating.spawn(coordinate(Arc::clone(&broker)));
    loop {
        let place = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stopping| *stopping) => break,
            // Only a fault of its own ends it, and nobody could join a group any more.
            _ = coordinating.join_next() => return,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let accepted = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stopping| *stopping) => break,
            _ = coordinating.join_next() => return,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((connection, peer)) => {
                let broker = Arc::clone(&broker);
                connections.spawn(async move {
                    connection::serve(broker, connection, peer).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: others must end before more can begin.
                tracing::warn!(%error, "a connection could not be accepted");
                broker.env.clock.sleep(Duration::from_millis(100)).await;
            }
        }
    }
    broker.stopping.close();
    tokio::select! {
        biased;
        () = async { while connections.join_next().await.is_some() {} } => {}
        () = broker.env.clock.sleep(FAREWELL) => {}
    }
    connections.shutdown().await;
    coordinating.shutdown().await;
}

/// What the log holds of groups and transactions.
async fn rebuild(
    env: &Env,
    log: &Arc<EmbeddedLog>,
    options: &Options,
) -> Result<(Groups, Transactions), StartError> {
    let settings = group::Settings {
        initial_delay: options.group_initial_delay,
        session_min: options.group_session_min,
        session_max: options.group_session_max,
        members_max: options.group_members_max,
        consumer_members_max: options.group_consumer_members_max,
        ..group::Settings::default()
    };
    let (env, options) = (env.clone(), options.clone());
    broker::blocking(log, move |log| {
        let (timeout_max, retention) =
            (options.transaction_timeout_max, options.transaction_id_retention);
        let transactions = Transactions::rebuild(&env, log, timeout_max, retention)?;
        Ok((Groups::rebuild(&env, log, settings, &options)?, transactions))
    })
    .await
    .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Where clients are told to connect. Who listens on all interfaces and does not say where it can
/// be reached can be reached from this machine.
fn advertised(options: &Options, bound: SocketAddr) -> (StrBytes, i32) {
    let (host, port) = match &options.advertised {
        Some((host, port)) => (host.clone(), *port),
        None if bound.ip().is_unspecified() => ("localhost".to_owned(), bound.port()),
        None => (bound.ip().to_string(), bound.port()),
    };
    (StrBytes::from_string(host), i32::from(port))
}
