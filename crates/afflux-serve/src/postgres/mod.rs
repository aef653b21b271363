//! The Postgres listener: wire protocol version 3, for psql, drivers and tools.
//!
//! Not a database: no transactions, no writes to tables. What it takes and answers is in
//! `docs/postgres.md`; why it is built this way in `docs/decisions/0003-postgres-front.md`.

mod cancel;
mod connection;
mod extended;
mod frontend;
mod numeric;
mod parameters;
mod rows;
mod values;
mod wire;

use std::sync::Arc;

use afflux_env::{Connection, Listener, Random};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{QueryError, ServeOptions, accept::accept, read::Queries};

/// What all sessions share.
pub(crate) struct Postgres {
    queries: Arc<Queries>,
    options: ServeOptions,
    random: Arc<dyn Random>,
    cancels: Arc<cancel::Cancels>,
    stop: CancellationToken,
}

impl Postgres {
    pub(crate) fn new(
        queries: Arc<Queries>,
        options: ServeOptions,
        random: Arc<dyn Random>,
        stop: CancellationToken,
    ) -> Self {
        Self { queries, options, random, cancels: Arc::default(), stop }
    }

    /// Serves a listener until the node stops.
    pub(crate) async fn serve(self: Arc<Self>, listener: Box<dyn Listener>, sessions: TaskTracker) {
        let free = Arc::new(Semaphore::new(self.options.connections_max));
        while let Some((connection, peer)) = accept(listener.as_ref(), &self.stop).await {
            let server = Arc::clone(&self);
            tracing::debug!(%peer, "a Postgres client has connected");
            match Arc::clone(&free).try_acquire_owned() {
                Ok(permit) => sessions.spawn(async move {
                    let wire = wire::Wire::new(connection, server.options.message_bytes_max);
                    connection::serve(server, wire).await;
                    drop(permit);
                }),
                Err(_) => sessions.spawn(server.turn_away(connection)),
            };
        }
    }

    async fn turn_away(self: Arc<Self>, connection: Box<dyn Connection>) {
        let mut wire = wire::Wire::new(connection, self.options.message_bytes_max);
        let error = QueryError::new(
            afflux_types::ErrorKind::Unavailable,
            format!("all {} connections are taken", self.options.connections_max),
        )
        .with_sqlstate("53300")
        .with_hint("close some, or use a connection pool");
        connection::refuse(&mut wire, error).await;
    }
}
