//! What a pipeline gets of the views that it reads.

use std::sync::Arc;

use afflux_catalog::{Object, ObjectKind};
use afflux_log::Log;
use afflux_plan::OperatorKind;
use afflux_record::changelog::Changes;
use afflux_types::{ObjectId, Offset, Tick, TopicPartition};

use super::{Slot, SlotState};
use crate::{
    EngineError, ddl,
    frames::sole_partition,
    pipeline::{Feed, Pipeline},
    published::columns,
};

/// The views that a pipeline reads, as the pass has left them.
pub(super) struct Upstream {
    /// Whether all are on the line.
    pub(super) live: bool,
    /// The lowest of their ticks; none if it reads no view.
    pub(super) tick: Option<Tick>,
    /// Where the frames of each end.
    pub(super) frames: Vec<Offset>,
    topics: Vec<TopicPartition>,
}

impl Upstream {
    pub(super) fn of(pipeline: &Pipeline, before: &[Slot]) -> Self {
        let mut upstream = Self { live: true, tick: None, frames: Vec::new(), topics: Vec::new() };
        for view in &pipeline.views {
            let found = before.iter().find(|slot| slot.id == view.id);
            let (live, tick, end) = match found.map(|slot| &slot.state) {
                Some(SlotState::Running(p)) => (p.live, p.tick, p.next_frame),
                _ => (false, Tick::ZERO, Offset::ZERO),
            };
            upstream.live &= live;
            // Only views whose contents are in hold their reader back.
            if view.next.is_some() {
                upstream.tick = Some(upstream.tick.map_or(tick, |lowest| lowest.min(tick)));
            }
            upstream.frames.push(end);
            upstream.topics.push(sole_partition(&ddl::pipeline_topic(view.id)));
        }
        upstream
    }

    /// Whether all of their frames have come into the log: a large one may take its time.
    pub(super) fn appended(&self, log: &dyn Log) -> Result<bool, EngineError> {
        for (topic, end) in self.topics.iter().zip(&self.frames) {
            if log.bounds(topic)?.end < *end {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What the views that a pipeline on the line reads have changed in this pass; all of their
/// contents, if it begins now.
pub(super) fn live_feeds(pipeline: &Pipeline, before: &[Slot]) -> Result<Vec<Feed>, EngineError> {
    let mut feeds = Vec::with_capacity(pipeline.views.len());
    for view in &pipeline.views {
        let found = before.iter().find(|slot| slot.id == view.id);
        let Some(SlotState::Running(upstream)) = found.map(|slot| &slot.state) else {
            return Err(EngineError::Failed {
                view: pipeline.object.name.clone(),
                error: "a view that it reads has stopped".to_owned(),
            });
        };
        let changes = if view.next.is_some() {
            upstream.output.iter().cloned().collect()
        } else {
            contents(upstream)?
        };
        feeds.push(Feed { changes, next: Some(upstream.next_frame) });
    }
    Ok(feeds)
}

/// The views that a view reads.
pub(super) fn upstreams(object: &Object) -> Vec<ObjectId> {
    let ObjectKind::View(view) = &object.kind else { return Vec::new() };
    view.plan
        .operators
        .iter()
        .filter_map(|operator| match operator.kind {
            OperatorKind::View { object } => Some(object),
            _ => None,
        })
        .collect()
}

/// All that a view holds as of its last epoch, in pieces.
fn contents(view: &Pipeline) -> Result<Vec<Arc<Changes>>, EngineError> {
    const PIECE_BYTES: usize = 1 << 20;
    let contents = view.contents_now()?;
    let mut pieces = Vec::new();
    let mut after = None;
    loop {
        let chunk = view
            .layout
            .chunk(&contents, after.as_deref(), PIECE_BYTES)
            .map_err(|error| columns(&view.object, error))?;
        if !chunk.rows.is_empty() {
            pieces.push(Arc::new(chunk.rows));
        }
        after = chunk.next;
        if after.is_none() {
            return Ok(pieces);
        }
    }
}
