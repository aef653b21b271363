//! Where queries compute: on threads of their own.
//!
//! Not on those of the listeners, for two reasons. A query that sorts a million rows must not
//! hold up a producer's acknowledgement; and planning recurses as deep as a statement nests,
//! which a thread's usual stack does not bear.
//!
//! 1. Parsing a text is a task here, so is planning and running a statement. A task ends with
//!    whoever asked for it, unless it changes the catalog.
//! 2. Its batches pass through a channel that holds [`BATCHES_AHEAD`] of them: a reader that is
//!    slow holds back its own query.
//! 3. The last message says that it is the last. If it is missing, the task has crashed, and the
//!    answer so far is not taken for all of it.

use std::{future::Future, sync::Arc, thread::available_parallelism};

use afflux_sql::{Query, Statement};
use arrow::{
    datatypes::{DataType, SchemaRef},
    record_batch::RecordBatch,
};
use datafusion::scalar::ScalarValue;
use futures::{StreamExt, stream};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    interrupt::Interrupt,
    query::{Described, Planner},
    session::Identity,
};
use crate::{
    QueryError,
    node::{BatchStream, Node, Outcome},
};

/// Planning takes up to 40 KiB a level where nothing is optimised. Untouched, a stack costs
/// address space alone.
const STACK_BYTES: usize = 64 << 20;
/// Batches that are computed before the reader has taken the last one.
const BATCHES_AHEAD: usize = 2;

/// Runs queries. One for a node.
pub(crate) struct Queries {
    planner: Arc<Planner>,
    /// None only while this is dropped.
    threads: Option<Runtime>,
}

impl Drop for Queries {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

type Message = Result<Option<RecordBatch>, QueryError>;

fn query_of(statement: &Statement) -> Result<&Query, QueryError> {
    match statement {
        Statement::Query(query) | Statement::Explain(query) => Ok(query),
        _ => Err(QueryError::internal("only queries are planned")),
    }
}

fn crashed() -> QueryError {
    QueryError::internal("the query has crashed").with_hint("the node's log says where: report it")
}

impl Queries {
    /// Reads together use at most this much memory for what they sort, join and aggregate.
    pub(crate) fn new(node: Arc<dyn Node>, memory_bytes_max: usize) -> Result<Self, QueryError> {
        let planner = Arc::new(Planner::new(node, memory_bytes_max)?);
        let threads = Builder::new_multi_thread()
            .worker_threads(available_parallelism().map_or(2, usize::from))
            .thread_name("afflux-read")
            .thread_stack_size(STACK_BYTES)
            .enable_time()
            .build()
            .map_err(|error| QueryError::internal(format!("no threads for queries: {error}")))?;
        Ok(Self { planner, threads: Some(threads) })
    }

    /// The node that is read.
    pub(crate) fn node(&self) -> &Arc<dyn Node> {
        self.planner.node()
    }

    fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<AbortOnDropHandle<T>, QueryError> {
        let threads = self.threads.as_ref().ok_or_else(crashed)?;
        Ok(AbortOnDropHandle::new(threads.spawn(task)))
    }

    /// The statements of a text.
    pub(super) async fn parse(&self, text: &str) -> Result<Vec<Arc<Statement>>, QueryError> {
        let text = text.to_owned();
        let task = self.spawn(async move { afflux_sql::parse(&text) })?;
        let statements = task.await.map_err(|_| crashed())??;
        Ok(statements.into_iter().map(Arc::new).collect())
    }

    /// Starts a query. The answer's batches come from one tick.
    pub(super) async fn run(
        &self,
        statement: &Arc<Statement>,
        parameters: Vec<ScalarValue>,
        identity: &Identity,
        interrupt: Interrupt,
    ) -> Result<(SchemaRef, BatchStream), QueryError> {
        let (planner, statement, identity) =
            (Arc::clone(&self.planner), Arc::clone(statement), identity.clone());
        let (started, start) = tokio::sync::oneshot::channel();
        let (sender, receiver) = mpsc::channel::<Message>(BATCHES_AHEAD);
        let task = self.spawn(async move {
            let outcome = match query_of(&statement) {
                Ok(query) => planner.run(query, parameters, &identity, &interrupt).await,
                Err(error) => Err(error),
            };
            let mut batches = match outcome {
                Ok((schema, batches)) => {
                    let _ = started.send(Ok(schema));
                    batches
                }
                Err(error) => return drop(started.send(Err(error))),
            };
            while let Some(batch) = batches.next().await {
                let failed = batch.is_err();
                if sender.send(batch.map(Some)).await.is_err() || failed {
                    return;
                }
            }
            let _ = sender.send(Ok(None)).await;
        })?;
        let schema = start.await.map_err(|_| crashed())??;
        let batches = stream::unfold(Some((receiver, task)), |state| async {
            let (mut receiver, task) = state?;
            match receiver.recv().await {
                Some(Ok(Some(batch))) => Some((Ok(batch), Some((receiver, task)))),
                Some(Ok(None)) => None,
                Some(Err(error)) => Some((Err(error), None)),
                None => Some((Err(crashed()), None)),
            }
        });
        Ok((schema, batches.boxed()))
    }

    /// What a query takes and answers. `known` are the types that the client has given.
    pub(super) async fn describe(
        &self,
        statement: &Arc<Statement>,
        known: &[Option<DataType>],
        identity: &Identity,
    ) -> Result<Described, QueryError> {
        let (planner, statement) = (Arc::clone(&self.planner), Arc::clone(statement));
        let (known, identity) = (known.to_vec(), identity.clone());
        let task =
            self.spawn(
                async move { planner.describe(query_of(&statement)?, &known, &identity).await },
            )?;
        task.await.map_err(|_| crashed())?
    }

    /// How a query would be run, a line a step.
    pub(super) async fn explain(
        &self,
        statement: &Arc<Statement>,
        identity: &Identity,
    ) -> Result<Vec<String>, QueryError> {
        let (planner, statement, identity) =
            (Arc::clone(&self.planner), Arc::clone(statement), identity.clone());
        let task =
            self.spawn(async move { planner.explain(query_of(&statement)?, &identity).await })?;
        task.await.map_err(|_| crashed())?
    }

    /// Runs a statement that changes the catalog. It is not cancelled: otherwise it would be
    /// done or not without its client knowing which.
    pub(super) async fn change(&self, statement: &Arc<Statement>) -> Result<Outcome, QueryError> {
        let (node, statement) = (Arc::clone(self.node()), Arc::clone(statement));
        let task = self.spawn(async move { node.execute(Statement::clone(&statement)).await })?;
        task.detach().await.map_err(|_| crashed())?
    }
}
