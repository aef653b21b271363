//! Readers of every kind: Postgres clients, HTTP clients, browsers.
//!
//! What it is: two listeners over one read path. Statements of both protocols go through the same
//! [`read`]; reads see one durable tick; live readers follow the same changes.
//!
//! What it is not: it keeps no data and plans no view. Everything that lasts is the engine's.
//!
//! ```text
//!  psql, drivers ──▶ postgres ──▶ read ──▶ node (the engine)
//!  curl, scripts ──▶ http ──────▶ read        ▲
//!  browsers ───────▶ http ──── changes ───────┘
//! ```
//!
//! 1. [`serve`] binds both listeners, or says which address is taken.
//! 2. Each connection is a task. Its client's going away cancels what it waits for.
//! 3. [`Serving::shutdown`] stops accepting, lets answers end, and cuts off what takes too long.

mod accept;
mod engine;
mod error;
mod http;
mod node;
mod postgres;
mod read;
#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use afflux_engine::Engine;
use afflux_env::{Env, Listener};
use afflux_types::{Classified, ErrorKind};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use engine::TopicList;
pub use error::{Position, QueryError};

/// How long answers may take to end once the node stops.
const GRACE: Duration = Duration::from_secs(5);

/// Where and how to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeOptions {
    /// The Postgres listener's address; port 0 for any free one.
    pub postgres: SocketAddr,
    /// The HTTP listener's address; port 0 for any free one.
    pub http: SocketAddr,
    /// Names that HTTP clients may know the node by, beside loopback names and its address.
    pub http_hosts: Vec<String>,
    /// How many connections each listener serves at once.
    pub connections_max: usize,
    /// The longest message of a Postgres client, in bytes.
    pub message_bytes_max: usize,
    /// The longest body of an HTTP request, in bytes.
    pub body_bytes_max: usize,
    /// How long the body of an HTTP request may take to come.
    pub body_time_max: Duration,
    /// How long a statement may run unless its session says otherwise; none for ever.
    pub statement_timeout: Option<Duration>,
    /// What all reads together may use for sorting, joining and grouping, in bytes.
    pub read_memory_bytes_max: usize,
}

impl Default for ServeOptions {
    /// Loopback, the usual ports, and limits for a small machine.
    fn default() -> Self {
        Self {
            postgres: SocketAddr::from(([127, 0, 0, 1], 5433)),
            http: SocketAddr::from(([127, 0, 0, 1], 8080)),
            http_hosts: Vec::new(),
            connections_max: 1_000,
            message_bytes_max: 16 << 20,
            body_bytes_max: 1 << 20,
            body_time_max: Duration::from_secs(30),
            statement_timeout: Some(Duration::from_mins(1)),
            read_memory_bytes_max: 256 << 20,
        }
    }
}

/// A listener that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("can not listen for {protocol} clients at {address}: {reason}")]
pub struct BindError {
    /// `Postgres` or `HTTP`.
    pub protocol: &'static str,
    /// The address that was asked for.
    pub address: SocketAddr,
    reason: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl BindError {
    fn new(protocol: &'static str, address: SocketAddr, source: io::Error) -> Self {
        let reason = match source.kind() {
            io::ErrorKind::AddrInUse => "another process uses the port",
            io::ErrorKind::AddrNotAvailable => "this machine does not have the address",
            io::ErrorKind::PermissionDenied => "the system does not allow the port",
            _ => "the system refuses",
        };
        Self { protocol, address, reason, source }
    }
}

impl Classified for BindError {
    fn kind(&self) -> ErrorKind {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => ErrorKind::AlreadyExists,
            _ => ErrorKind::Invalid,
        }
    }

    fn hint(&self) -> Option<String> {
        let flag = self.protocol.to_lowercase();
        Some(match self.source.kind() {
            io::ErrorKind::AddrInUse => format!(
                "stop what listens there, or choose another port: --{flag} {}:0 takes any free one",
                self.address.ip()
            ),
            io::ErrorKind::PermissionDenied => {
                format!("choose a port above 1023 with --{flag} {}:PORT", self.address.ip())
            }
            _ => format!("choose an address of this machine with --{flag} HOST:PORT"),
        })
    }
}

/// Both listeners, at work.
pub struct Serving {
    postgres: SocketAddr,
    http: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Serving {
    /// Where Postgres clients connect, the port never 0.
    pub fn postgres_address(&self) -> SocketAddr {
        self.postgres
    }

    /// Where HTTP clients connect, the port never 0.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Stops: no new connections, no new requests; what is being answered may end, within
    /// seconds.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!(connections = self.tasks.len(), "clients are cut off");
        }
    }
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A listener could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The planner could not be set up.
    #[error(transparent)]
    Setup(#[from] QueryError),
}

impl Classified for ServeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Bind(error) => error.kind(),
            Self::Setup(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Bind(error) => error.hint(),
            Self::Setup(error) => error.hint(),
        }
    }
}

/// Serves an engine. Both listeners are bound when this returns; they work as long as the runtime
/// that this is called on, or until [`Serving::shutdown`].
pub async fn serve(
    env: &Env,
    engine: Engine,
    topics: TopicList,
    options: ServeOptions,
) -> Result<Serving, ServeError> {
    start(env, Arc::new(engine::EngineNode { engine, topics }), options).await
}

async fn start(
    env: &Env,
    node: Arc<dyn node::Node>,
    options: ServeOptions,
) -> Result<Serving, ServeError> {
    let postgres = bind(env, "Postgres", options.postgres).await?;
    let http = bind(env, "HTTP", options.http).await?;
    let queries = Arc::new(read::Queries::new(node, options.read_memory_bytes_max)?);
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let serving = Serving {
        postgres: postgres.address(),
        http: http.address(),
        stop: stop.clone(),
        tasks: tasks.clone(),
    };
    let random = Arc::clone(&env.random);
    let front =
        postgres::Postgres::new(Arc::clone(&queries), options.clone(), random, stop.clone());
    tasks.spawn(Arc::new(front).serve(postgres, tasks.clone()));
    let front = http::Http::new(queries, options, serving.http, stop);
    tasks.spawn(Arc::new(front).serve(http, tasks.clone()));
    Ok(serving)
}

async fn bind(
    env: &Env,
    protocol: &'static str,
    address: SocketAddr,
) -> Result<Box<dyn Listener>, BindError> {
    let listened = env.network.listen(address).await;
    listened.map_err(|error| BindError::new(protocol, address, error))
}
