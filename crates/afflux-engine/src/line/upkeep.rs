//! What the line does beside its passes: snapshots, and giving back what nobody needs any more.
//!
//! When a snapshot is complete, this may go:
//! 1. of the snapshot topic, what lies before the chunks of the snapshot before it;
//! 2. of the changelog, the frames before those that the snapshot before it needs, but none of
//!    the promised history ([`crate::EngineOptions::history_bytes_min`]), and none that a view
//!    over this one has still to read after a restart. One that has stopped keeps all of them,
//!    until it is dropped.
//!
//! What a crash keeps from being given back goes with the next snapshot.

use afflux_log::error::TrimError;
use afflux_types::{ObjectId, Offset, Tick};

use super::{Line, Slot, SlotState, upstreams};
use crate::{
    ddl,
    frames::sole_partition,
    snapshot::{Needs, Stepped},
};

impl Line {
    /// Goes on with every snapshot; whether any piece was dumped.
    pub(super) fn snapshot_all(&mut self) -> bool {
        let mut dumped = false;
        for index in 0..self.slots.len() {
            let SlotState::Running(pipeline) = &mut self.slots[index].state else { continue };
            match pipeline.snapshot(&self.shared) {
                Ok(Stepped::Dumped) => dumped = true,
                Ok(Stepped::Completed(Some(needs))) => {
                    if let Err(error) = self.trim(index, needs) {
                        // The next snapshot's end is the next occasion.
                        let view = &self.slots[index].object.name;
                        tracing::warn!(%view, %error, "old changes of a view stay where they are");
                    }
                }
                Ok(Stepped::Idle | Stepped::Waiting | Stepped::Completed(None)) => {}
                Err(error) => self.fail(index, &error),
            }
        }
        dumped
    }

    fn trim(&self, index: usize, needs: Needs) -> Result<(), TrimError> {
        let log = self.log.as_ref();
        let id = self.slots[index].id;
        log.trim(&sole_partition(&ddl::snapshot_topic(id)), needs.chunks)?;
        let changelog = sole_partition(&ddl::pipeline_topic(id));
        let durable = log.durable().borrow().0;
        let history = Tick(durable.saturating_sub(self.shared.options.history_bytes_min));
        // The frame before them too: it tells a follower that none is missing.
        let promised = log.ends(history, std::slice::from_ref(&changelog))?;
        let promised = promised.into_iter().map(|from| Offset((from.0 - 1).max(0)));
        let readers = self.slots[index..].iter().filter_map(|slot| needed_by(slot, id));
        let before = promised.chain(readers).fold(needs.frames, Offset::min);
        log.trim(&changelog, before)
    }

    /// Removes the topics of views that were dropped and have nothing in flight any more: a
    /// commit for a topic that is gone would be refused, with all of its family.
    pub(super) fn see_off(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        let (waiting, gone): (Vec<_>, Vec<_>) =
            dropped.into_iter().partition(|id| self.has_in_flight(*id));
        self.dropped = waiting;
        for id in gone {
            if let Err(error) = ddl::remove_topics(self.log.as_ref(), id) {
                // The next start tries again.
                tracing::warn!(%error, object = %id, "topics of a dropped object stay");
            }
        }
    }
}

/// From where on a pipeline may yet read the frames of a view; none if it reads none of them.
fn needed_by(slot: &Slot, view: ObjectId) -> Option<Offset> {
    if !upstreams(&slot.object).contains(&view) {
        return None;
    }
    match &slot.state {
        SlotState::Running(reader) => reader.needs_of(view),
        SlotState::Closed { .. } | SlotState::Failed => Some(Offset::ZERO),
    }
}
