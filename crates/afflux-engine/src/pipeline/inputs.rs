//! What a plan reads: its sources and views, each once.

use std::sync::Arc;

use afflux_catalog::{ObjectKind, Source};
use afflux_log::Log;
use afflux_plan::OperatorKind;
use afflux_types::{ObjectId, OperatorId};

use super::{Reads, ViewInput};
use crate::{EngineError, ddl, published::Published, source::SourceInput};

/// What a plan reads.
#[derive(Default)]
pub(super) struct Inputs {
    pub(super) reads: Vec<(OperatorId, Reads)>,
    pub(super) sources: Vec<SourceInput>,
    pub(super) views: Vec<ViewInput>,
}

impl Inputs {
    /// Adds an operator, if it reads anything but static tables.
    pub(super) fn add(
        &mut self,
        operator: OperatorId,
        kind: &OperatorKind,
        log: &dyn Log,
        published: &Published,
    ) -> Result<(), EngineError> {
        match kind {
            OperatorKind::Source { object, columns } => {
                let index = self.source(*object, log, published)?;
                self.reads.push((operator, Reads::Source { index, columns: columns.clone() }));
            }
            OperatorKind::View { object } => {
                let index = self.view(*object, published)?;
                self.reads.push((operator, Reads::View { index }));
            }
            _ => {}
        }
        Ok(())
    }

    fn source(
        &mut self,
        id: ObjectId,
        log: &dyn Log,
        published: &Published,
    ) -> Result<usize, EngineError> {
        if let Some(known) = self.sources.iter().position(|source| source.id == id) {
            return Ok(known);
        }
        let source: &Source = match published.catalog.get(id).map(|object| &object.kind) {
            Some(ObjectKind::Source(source)) => source,
            _ => return Err(EngineError::Unknown(format!("source {id}"))),
        };
        let count = log
            .partition_count(&source.topic)
            .ok_or_else(|| EngineError::UnknownTopic(source.topic.clone()))?;
        self.sources.push(SourceInput::new(id, source.clone(), count));
        Ok(self.sources.len() - 1)
    }

    fn view(&mut self, id: ObjectId, published: &Published) -> Result<usize, EngineError> {
        if let Some(known) = self.views.iter().position(|view| view.id == id) {
            return Ok(known);
        }
        let view = published.views.get(&id);
        let view = view.ok_or_else(|| EngineError::Unknown(format!("view {id}")))?;
        self.views.push(ViewInput {
            id,
            topic: ddl::pipeline_topic(id),
            schema: Arc::clone(view.layout.schema()),
            next: None,
            recorded: None,
            durable: None,
        });
        Ok(self.views.len() - 1)
    }
}
