//! What readers need of a node, and no more.
//!
//! The engine is one; a test's is another, which can hold back a tick, fail or reset at will.

use std::{pin::Pin, sync::Arc};

use afflux_catalog::{Catalog, Object};
use afflux_record::changelog::Changes;
use afflux_sql::Statement;
use afflux_types::{ObjectId, Tick};
use arrow::{array::ArrayRef, datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;

use crate::QueryError;

/// A node, as readers see it.
#[async_trait]
pub(crate) trait Node: Send + Sync + 'static {
    /// What exists now.
    fn catalog(&self) -> Catalog;
    /// Runs a statement that changes the catalog; returns once that is durable.
    async fn execute(&self, statement: Statement) -> Result<Outcome, QueryError>;
    /// Views and tables as they were at one durable tick.
    async fn pin(&self, objects: &[ObjectId]) -> Result<Pinned, QueryError>;
    /// The changes of a view, from a resume token on or from its contents.
    fn follow(&self, view: ObjectId, from: Option<&str>) -> Result<Box<dyn Follow>, QueryError>;
    /// The pipelines, oldest first.
    fn pipelines(&self) -> Vec<PipelineState>;
    /// The topics that clients may see, by name, with their partition counts.
    fn topics(&self) -> Vec<(String, i32)>;
}

/// What a changed catalog answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Postgres's command tag.
    pub(crate) tag: String,
    /// What the user should know.
    pub(crate) notices: Vec<String>,
}

/// Some relations at one tick.
pub(crate) struct Pinned {
    pub(crate) tick: Tick,
    pub(crate) relations: Vec<(Arc<Object>, Arc<dyn Relation>)>,
}

/// The contents of a view or table at a tick. Never changes.
pub(crate) trait Relation: Send + Sync + 'static {
    /// The columns.
    fn schema(&self) -> SchemaRef;
    /// The columns that identify a row, if proven and if [`Relation::get`] works.
    fn key(&self) -> Option<&[usize]>;
    /// All rows, each as often as it occurs.
    fn batches(&self) -> Result<Vec<RecordBatch>, QueryError>;
    /// The row of a key: one array of length one a key column, of the column's type.
    fn get(&self, key: &[ArrayRef]) -> Result<Option<RecordBatch>, QueryError>;
}

/// A view's changes, as they become durable.
#[async_trait]
pub(crate) trait Follow: Send {
    /// The next event. Dropping the future loses none.
    async fn next(&mut self) -> Result<Event, QueryError>;
    /// The resume token behind the last event; none before a snapshot is complete.
    fn token(&self) -> Option<String>;
}

/// What follows in a view's stream.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A part of the view's contents.
    Snapshot { tick: Tick, rows: Changes, last: bool },
    /// What one tick changed.
    Changes { tick: Tick, changes: Changes },
    /// Everything known so far is void; a snapshot follows.
    Reset { reason: String },
}

/// How a pipeline is doing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PipelineState {
    pub(crate) view: String,
    /// `live`, `catching up` or `failed`.
    pub(crate) state: &'static str,
    /// How far behind, or why it failed.
    pub(crate) detail: Option<String>,
    pub(crate) tick: Tick,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) records_in: u64,
    pub(crate) epochs: u64,
    pub(crate) late_rows: u64,
    pub(crate) dead_letters: u64,
}

/// A boxed stream of batches.
pub(crate) type BatchStream =
    Pin<Box<dyn futures::Stream<Item = Result<RecordBatch, QueryError>> + Send>>;
