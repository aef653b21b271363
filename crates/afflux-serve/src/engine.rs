//! The engine as the node that readers see.

use std::sync::Arc;

use afflux_catalog::{Catalog, CatalogError};
use afflux_engine::{
    Engine, EngineError, Event as EngineEvent, Follower, InvalidToken, PipelineState as State,
};
use afflux_sql::Statement;
use afflux_types::{ObjectId, TopicName};
use arrow::{array::ArrayRef, datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;

use crate::{
    QueryError,
    node::{Event, Follow, Node, Outcome, Pinned, PipelineState, Relation},
};

/// Lists the topics that clients may see, with their partition counts.
pub type TopicList = Arc<dyn Fn() -> Vec<(TopicName, i32)> + Send + Sync>;

/// An engine, and the log's topics.
pub(crate) struct EngineNode {
    pub(crate) engine: Engine,
    pub(crate) topics: TopicList,
}

impl From<EngineError> for QueryError {
    fn from(error: EngineError) -> Self {
        let sqlstate = match &error {
            EngineError::Sql(error) => return Self::from(error.clone()),
            EngineError::WrongKind { .. } | EngineError::NotReadable(_) => "42809",
            EngineError::Catalog(CatalogError::InUse { .. }) => "2BP01",
            EngineError::UnknownTopic(_) => "42704",
            EngineError::File { .. } => "58P01",
            EngineError::Failed { .. } => "55000",
            EngineError::Halted(_) => "57P01",
            _ => return Self::from_classified(&error),
        };
        Self::from_classified(&error).with_sqlstate(sqlstate)
    }
}

#[async_trait]
impl Node for EngineNode {
    fn catalog(&self) -> Catalog {
        self.engine.catalog()
    }

    async fn execute(&self, statement: Statement) -> Result<Outcome, QueryError> {
        let outcome = self.engine.execute(statement).await?;
        Ok(Outcome { tag: outcome.tag, notices: outcome.notices })
    }

    async fn pin(&self, objects: &[ObjectId]) -> Result<Pinned, QueryError> {
        let pinned = self.engine.pin(objects).await?;
        let relations = pinned.relations.into_iter().map(|relation| {
            (Arc::clone(&relation.object), Arc::new(relation) as Arc<dyn Relation>)
        });
        Ok(Pinned { tick: pinned.tick, relations: relations.collect() })
    }

    fn follow(&self, view: ObjectId, from: Option<&str>) -> Result<Box<dyn Follow>, QueryError> {
        let from = from.map(str::parse).transpose();
        let from = from.map_err(|error: InvalidToken| {
            QueryError::from_classified(&error).with_sqlstate("22023")
        })?;
        Ok(Box::new(self.engine.follow(view, from)?))
    }

    fn pipelines(&self) -> Vec<PipelineState> {
        let state = |status: afflux_engine::PipelineStatus| {
            let (state, detail) = match status.state {
                State::Live => ("live", None),
                State::CatchingUp { lag_bytes } => {
                    ("catching up", Some(format!("{lag_bytes} bytes behind")))
                }
                State::Failed { error } => ("failed", Some(error)),
            };
            PipelineState {
                view: status.name,
                state,
                detail,
                tick: status.tick,
                rows: status.rows,
                bytes: status.bytes,
                records_in: status.counters.records_in,
                epochs: status.counters.epochs,
                late_rows: status.counters.late_rows,
                dead_letters: status.counters.dead_letters,
            }
        };
        self.engine.status().into_iter().map(state).collect()
    }

    fn topics(&self) -> Vec<(String, i32)> {
        (self.topics)().into_iter().map(|(name, count)| (name.to_string(), count)).collect()
    }
}

impl Relation for afflux_engine::PinnedRelation {
    fn schema(&self) -> SchemaRef {
        self.schema()
    }

    fn key(&self) -> Option<&[usize]> {
        self.key()
    }

    fn batches(&self) -> Result<Vec<RecordBatch>, QueryError> {
        Ok(self.batches()?)
    }

    fn get(&self, key: &[ArrayRef]) -> Result<Option<RecordBatch>, QueryError> {
        Ok(self.get(key)?)
    }
}

#[async_trait]
impl Follow for Follower {
    async fn next(&mut self) -> Result<Event, QueryError> {
        Ok(match self.next().await? {
            EngineEvent::Snapshot { tick, rows, last } => Event::Snapshot { tick, rows, last },
            EngineEvent::Changes { tick, changes } => Event::Changes { tick, changes },
            EngineEvent::Reset { reason } => Event::Reset { reason },
        })
    }

    fn token(&self) -> Option<String> {
        self.token().map(|token| token.to_string())
    }
}
