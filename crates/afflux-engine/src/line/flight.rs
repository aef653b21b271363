//! What is on its way to the disk: groups to submit, and passes to publish when they are durable.

use std::sync::Arc;

use afflux_log::{Appended, EpochCommit, Ticket, error::AppendError};
use afflux_record::changelog::Changes;
use afflux_types::{ObjectId, Offset, Tick};

use super::{Line, Slot, SlotState};
use crate::{EngineError, pipeline::Submission, published::RecentFrame, status::PipelineState};

/// A pass on its way to the disk.
pub(super) struct PassInFlight {
    pub(super) tick: Tick,
    pub(super) commits: Vec<CommitInFlight>,
    /// Who joined the line in it.
    pub(super) joined: Vec<(ObjectId, u64)>,
    pub(super) bytes: usize,
}

pub(super) struct CommitInFlight {
    pub(super) ticket: Ticket,
    pub(super) outcome: Option<Result<Appended, AppendError>>,
    pub(super) frames: Vec<FrameInFlight>,
}

pub(super) struct FrameInFlight {
    pub(super) id: ObjectId,
    pub(super) generation: u64,
    pub(super) offset: Offset,
    pub(super) tick: Tick,
    pub(super) changes: Option<Arc<Changes>>,
    pub(super) bytes: usize,
}

/// What a pass has to make durable.
#[derive(Default)]
pub(super) struct Work {
    pub(super) frames: Vec<((ObjectId, u64, ObjectId), Submission)>,
    pub(super) joined: Vec<(ObjectId, u64)>,
    /// Whether anything but the tick moved.
    pub(super) moved: bool,
}

impl Work {
    pub(super) fn add(&mut self, owner: (ObjectId, u64, ObjectId), submission: Option<Submission>) {
        if let Some(submission) = submission {
            self.moved = true;
            self.frames.push((owner, submission));
        }
    }

    /// Leaves out what a pipeline that failed, or one over it, had to say.
    pub(super) fn forget(&mut self, slots: &[Slot], index: usize) {
        let id = slots[index].id;
        self.frames.retain(|((owner, ..), _)| *owner != id);
        self.joined.retain(|(owner, _)| *owner != id);
    }

    /// Submits one group a family.
    pub(super) fn submit(self, line: &mut Line, tick: Tick) {
        let mut families: Vec<(ObjectId, EpochCommit, Vec<FrameInFlight>)> = Vec::new();
        let mut bytes = 0;
        for ((id, generation, family), submission) in self.frames {
            let Submission { offset, tick, changes, frame, outputs, .. } = submission;
            bytes += submission.bytes_all;
            let place = (frame.partition.clone(), offset);
            let flown =
                FrameInFlight { id, generation, offset, tick, changes, bytes: submission.bytes };
            match families.iter_mut().find(|(other, ..)| *other == family) {
                Some((_, commit, frames)) => {
                    commit.outputs.push(frame);
                    commit.outputs.extend(outputs);
                    // Of two frames of one pipeline the first tells where its topic must end.
                    if frames.iter().all(|frame| frame.id != id) {
                        commit.expected.push(place);
                    }
                    frames.push(flown);
                }
                None => families.push((
                    family,
                    EpochCommit { tick, changelog: frame, outputs, expected: vec![place] },
                    vec![flown],
                )),
            }
        }
        let commits = families
            .into_iter()
            .map(|(_, commit, frames)| CommitInFlight {
                ticket: line.log.submit(commit),
                outcome: None,
                frames,
            })
            .collect::<Vec<_>>();
        // A tick that changed nothing replaces the one before it, if that did not either.
        let bare = commits.is_empty() && self.joined.is_empty();
        match line.in_flight.back_mut() {
            Some(last) if bare && last.commits.is_empty() && last.joined.is_empty() => {
                last.tick = tick;
            }
            _ => {
                line.in_flight.push_back(PassInFlight {
                    tick,
                    commits,
                    joined: self.joined,
                    bytes,
                });
            }
        }
        line.in_flight_bytes += bytes;
    }
}

impl Line {
    /// Publishes what has become durable, oldest first. False if the log is done for.
    pub(super) fn publish_durable(&mut self) -> bool {
        let durable = self.log.durable().borrow().0;
        let mut any = false;
        while let Some(pass) = self.in_flight.front_mut() {
            for commit in &mut pass.commits {
                if commit.outcome.is_none() {
                    commit.outcome = commit.ticket.poll_now();
                }
            }
            if pass.commits.iter().any(|commit| commit.outcome.is_none()) || pass.tick.0 > durable {
                break;
            }
            let Some(pass) = self.in_flight.pop_front() else { break };
            self.in_flight_bytes -= pass.bytes;
            if let Err(error) = self.publish(pass) {
                let mut published = self.shared.published.lock();
                published.halted = Some(error.to_string());
                drop(published);
                self.shared.wake();
                return false;
            }
            any = true;
        }
        if any {
            self.shared.wake();
        }
        true
    }

    fn publish(&mut self, pass: PassInFlight) -> Result<(), AppendError> {
        let mut frames = Vec::new();
        for commit in pass.commits {
            let outcome = commit.outcome.unwrap_or(Err(AppendError::Closed));
            match outcome {
                Err(error @ (AppendError::Failed(_) | AppendError::Closed)) => return Err(error),
                outcome => self.settle(commit.frames, &outcome, &mut frames),
            }
        }
        let recent_bytes_max = self.shared.options.recent_bytes_max;
        let mut published = self.shared.published.lock();
        for (id, frame) in frames {
            let Some(view) = published.views.get_mut(&id) else { continue };
            view.next_frame = Offset(frame.offset.0 + 1);
            view.tick = frame.tick;
            view.recent.push(frame, recent_bytes_max);
        }
        for slot in &self.slots {
            let SlotState::Running(pipeline) = &slot.state else { continue };
            let Some(view) = published.views.get_mut(&slot.id) else { continue };
            view.contents = pipeline.contents.clone();
            view.counters = pipeline.counters;
            if pass.joined.contains(&(slot.id, slot.generation)) {
                view.state = PipelineState::Live;
            }
            match &mut view.state {
                PipelineState::Live => view.tick = view.tick.max(pass.tick),
                PipelineState::CatchingUp { lag_bytes } => {
                    *lag_bytes = pass.tick.0.saturating_sub(view.tick.0);
                }
                PipelineState::Failed { .. } => {}
            }
        }
        published.tick = published.tick.max(pass.tick);
        Ok(())
    }

    /// Applies frames of one group to their views, or stops whose frames were refused.
    fn settle(
        &mut self,
        flown: Vec<FrameInFlight>,
        outcome: &Result<Appended, AppendError>,
        frames: &mut Vec<(ObjectId, RecentFrame)>,
    ) {
        for frame in flown {
            let mine = |s: &Slot| s.id == frame.id && s.generation == frame.generation;
            let Some(index) = self.slots.iter().position(mine) else { continue };
            let SlotState::Running(pipeline) = &mut self.slots[index].state else { continue };
            let landed = match outcome {
                Ok(_) => pipeline.landed(),
                Err(error) => Err(EngineError::Append(error.clone())),
            };
            match landed {
                Ok(()) => {
                    let FrameInFlight { id, offset, tick, changes, bytes, .. } = frame;
                    frames.push((id, RecentFrame { offset, tick, changes, bytes }));
                }
                Err(error) => self.fail(index, &error),
            }
        }
    }
}
