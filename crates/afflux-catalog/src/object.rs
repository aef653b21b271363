//! The definitions, as they stand in the DDL topic.

use std::collections::BTreeMap;

use afflux_plan::{Column, Plan};
use afflux_types::{ObjectId, Offset, TopicName};
use serde::{Deserialize, Serialize};

/// A named thing that SQL can speak of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Never used again, also after a drop.
    pub id: ObjectId,
    /// Folded as SQL folds identifiers (lower case unless quoted).
    pub name: String,
    /// The statement that made it, as the user wrote it.
    pub sql: String,
    /// What it is.
    pub kind: ObjectKind,
}

impl Object {
    /// Its columns.
    pub fn columns(&self) -> &[Column] {
        match &self.kind {
            ObjectKind::Source(source) => &source.columns,
            ObjectKind::Table(table) => &table.columns,
            ObjectKind::View(view) => view.plan.columns(),
        }
    }
}

/// What an object is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// A topic with a schema.
    Source(Source),
    /// Rows that never change.
    Table(Table),
    /// A query that is kept up to date.
    View(View),
}

/// A topic, read with a schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The topic.
    pub topic: TopicName,
    /// How payloads are encoded.
    pub format: Format,
    /// The columns, in order.
    pub columns: Vec<Column>,
    /// Event time, if declared.
    pub watermark: Option<Watermark>,
    /// Where a new pipeline starts.
    pub start: Start,
    /// How long a partition that is read to its end may stay silent before the others'
    /// watermarks no longer wait for it. Milliseconds.
    pub idle_timeout_ms: u64,
    /// What happens to late rows.
    pub late: LatePolicy,
}

/// `WATERMARK FOR column AS column - INTERVAL …`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// The column with the event time: a timestamp.
    pub column: usize,
    /// How far the watermark stays behind the latest time seen. Milliseconds.
    pub delay_ms: u64,
}

/// How payloads are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object a record.
    Json,
}

/// Where a new pipeline starts to read (`scan.startup.mode` in Flink's words).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// At the first record that is still there.
    Earliest,
    /// Behind the last record at the time.
    Latest,
}

/// What happens to a row whose window is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatePolicy {
    /// It is dropped and counted.
    Drop,
}

/// Rows loaded once. They lie in the log, as Arrow IPC streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The columns, in order.
    pub columns: Vec<Column>,
    /// How many rows there are.
    pub rows: u64,
    /// The columns of the primary key, if one was declared: no two rows have the same values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Vec<usize>>,
}

/// A materialised view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The resolved plan. Never planned again.
    pub plan: Plan,
    /// Where it begins in sources with [`Start::Latest`]: in each of their partitions behind the
    /// last record that was there when the view was made.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub starts: BTreeMap<ObjectId, Vec<Offset>>,
}
