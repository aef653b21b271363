//! The line: cuts the log into ticks, takes every pipeline to them, publishes what is durable.
//!
//! One step, synchronous and bounded, driven by the engine's thread or by a test:
//! 1. take commands: pipelines to start and to stop,
//! 2. publish, in order, the passes that have become durable,
//! 3. open one pipeline that waits to be opened; the line begins, once all have been opened, at
//!    the highest tick of any of them, or at the log's end,
//! 4. stop here if too much is in flight, or if waiting a little lets more input share the cost,
//! 5. make a pass: take the log's next tick, and every pipeline, oldest first (a view is older
//!    than the views over it), to it.
//!
//! A pipeline that is behind the line first makes one bounded epoch of its own towards the tick
//! at which the line stands. When it has come there, and all views that it reads are on the line,
//! it joins, and completes the pass's tick with the others. A view over views begins at that
//! moment, with their contents; after a restart it goes on with their frames from the log.
//!
//! Pipelines that read each other are a family. Their frames of a pass travel in one group, which
//! has a frame of each that is live, be it one without changes: so the log, which may let a group
//! overtake a large one of other topics, keeps the family's groups in order, and if it refuses
//! one, it refuses the later ones of the family too (see `frames`). They are closed then, and
//! opened again from what is durable; nobody has seen what they had computed.
//!
//! A pass is published when its groups are durable and the log is durable up to its tick: also a
//! tick that changed nothing must not name a position that a crash could take away.

mod flight;
mod upkeep;
mod upstream;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use afflux_catalog::Object;
use afflux_log::Log;
use afflux_types::{Classified, ErrorKind, ObjectId, Offset, Tick, Timestamp};
use tokio::sync::mpsc;

use self::{
    flight::{PassInFlight, Work},
    upstream::{Upstream, live_feeds, upstreams},
};
use crate::{
    EngineError,
    ddl::Command,
    pipeline::{Feed, Pass, Pipeline},
    published::{Recent, Shared},
    source::{SourceInput, Sources},
    status::PipelineState,
};

/// What to do behind a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Step again at once.
    Again,
    /// Wait for the disk, a command, or:
    Wait {
        /// a time (of the monotonic clock, as a span from now),
        until: Option<Duration>,
        /// something new in the log.
        on_append: bool,
    },
    /// The log is closed or broken: there is nothing more to do.
    Halted,
}

/// All pipelines of the node. See the module.
pub(crate) struct Line {
    shared: Arc<Shared>,
    log: Arc<dyn Log>,
    commands: mpsc::UnboundedReceiver<Command>,
    taken: VecDeque<Command>,
    sources: Sources,
    /// Oldest first.
    slots: Vec<Slot>,
    /// All live pipelines have completed this.
    tick: Tick,
    begun: bool,
    time: Timestamp,
    in_flight: VecDeque<PassInFlight>,
    in_flight_bytes: usize,
    /// The monotonic time before which a small pass would not pay.
    not_before: Duration,
    generation: u64,
    /// Objects that were dropped, and whose topics are still there.
    dropped: Vec<ObjectId>,
}

struct Slot {
    id: ObjectId,
    object: Arc<Object>,
    /// Counts openings, so that what an earlier one had in flight is not taken for this one's.
    generation: u64,
    /// Which pipelines read each other, directly or not: those with the same number.
    family: ObjectId,
    state: SlotState,
}

enum SlotState {
    /// To be opened, not before a monotonic time.
    Closed {
        not_before: Duration,
    },
    Running(Box<Pipeline>),
    Failed,
}

impl Line {
    pub(crate) fn new(shared: Arc<Shared>, commands: mpsc::UnboundedReceiver<Command>) -> Self {
        let log = Arc::clone(&shared.log);
        let objects: Vec<_> =
            shared.published.lock().views.values().map(|view| Arc::clone(&view.object)).collect();
        let mut line = Self {
            sources: Sources::new(Arc::clone(&log)),
            log,
            shared,
            commands,
            taken: VecDeque::new(),
            slots: Vec::new(),
            tick: Tick::ZERO,
            begun: false,
            time: Timestamp::MIN,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            not_before: Duration::ZERO,
            generation: 0,
            dropped: Vec::new(),
        };
        for object in objects {
            line.add(object);
        }
        line
    }

    pub(crate) fn log(&self) -> Arc<dyn Log> {
        Arc::clone(&self.log)
    }

    /// Resolves when the oldest pass in flight, or a command, is worth a step.
    pub(crate) async fn stirred(&mut self) {
        let front = self.in_flight.front_mut();
        let waiting = front.and_then(|pass| pass.commits.iter_mut().find(|c| c.outcome.is_none()));
        let command = match waiting {
            Some(commit) => tokio::select! {
                outcome = &mut commit.ticket => {
                    commit.outcome = Some(outcome);
                    return;
                }
                command = self.commands.recv() => command,
            },
            None => self.commands.recv().await,
        };
        match command {
            Some(command) => self.taken.push_back(command),
            // The handle is gone; the thread is told otherwise.
            None => std::future::pending().await,
        }
    }

    /// Whether there is no pipeline, so that nobody cares what is appended.
    pub(crate) fn is_unused(&self) -> bool {
        self.slots.is_empty() && self.in_flight.is_empty()
    }

    /// Does the next piece of work. Never waits.
    pub(crate) fn step(&mut self) -> Step {
        while let Ok(command) = self.commands.try_recv() {
            self.taken.push_back(command);
        }
        while let Some(command) = self.taken.pop_front() {
            self.obey(&command);
        }
        if !self.publish_durable() {
            return Step::Halted;
        }
        self.see_off();
        let now = self.shared.env.clock.monotonic();
        if self.open_one(now) {
            return Step::Again;
        }
        if !self.begun {
            self.begin();
        }
        let options = &self.shared.options;
        if self.in_flight.len() >= options.in_flight_ticks_max
            || self.in_flight_bytes >= options.in_flight_bytes_max
        {
            return Step::Wait { until: None, on_append: false };
        }
        let behind = self.log.appended().borrow().0.saturating_sub(self.tick.0);
        if now < self.not_before && behind < options.pause_bytes_max {
            return Step::Wait {
                until: Some(self.not_before.saturating_sub(now)),
                on_append: false,
            };
        }
        let worked = self.pass();
        if worked { Step::Again } else { self.wait(now) }
    }

    /// What there is to wait for when there is nothing to do.
    fn wait(&self, now: Duration) -> Step {
        const SNAPSHOT_POLL: Duration = Duration::from_millis(5);
        let wall = self.shared.env.clock.now();
        let mut until: Option<Duration> = None;
        let mut at = |wait: Duration| until = Some(until.map_or(wait, |until| until.min(wait)));
        for slot in &self.slots {
            match &slot.state {
                SlotState::Closed { not_before } => at(not_before.saturating_sub(now)),
                SlotState::Running(pipeline) => {
                    if pipeline.is_snapshotting() {
                        at(SNAPSHOT_POLL);
                    }
                    if pipeline.live {
                        for deadline in
                            pipeline.sources.iter().filter_map(SourceInput::idle_deadline)
                        {
                            at(deadline.since(wall));
                        }
                    }
                }
                SlotState::Failed => {}
            }
        }
        Step::Wait { until, on_append: true }
    }

    fn obey(&mut self, command: &Command) {
        match *command {
            Command::Start(id) => {
                let object = {
                    let published = self.shared.published.lock();
                    published.views.get(&id).map(|view| Arc::clone(&view.object))
                };
                if let Some(object) = object {
                    self.add(object);
                }
            }
            Command::Stop(id) => {
                self.slots.retain(|slot| slot.id != id);
                self.relate();
                self.dropped.push(id);
                let published = self.shared.published.lock();
                self.sources.retain(|source| published.catalog.get(source).is_some());
            }
        }
    }

    fn add(&mut self, object: Arc<Object>) {
        self.generation += 1;
        let slot = Slot {
            id: object.id,
            family: object.id,
            object,
            generation: self.generation,
            state: SlotState::Closed { not_before: Duration::ZERO },
        };
        let at = self.slots.partition_point(|other| other.id < slot.id);
        if self.slots.get(at).is_none_or(|other| other.id != slot.id) {
            self.slots.insert(at, slot);
            self.relate();
        }
    }

    /// Works out which pipelines read each other.
    fn relate(&mut self) {
        let mut family: HashMap<ObjectId, ObjectId> =
            self.slots.iter().map(|slot| (slot.id, slot.id)).collect();
        for slot in &self.slots {
            for upstream in upstreams(&slot.object) {
                let (Some(&one), Some(&other)) = (family.get(&upstream), family.get(&slot.id))
                else {
                    continue;
                };
                family.values_mut().filter(|f| **f == other).for_each(|f| *f = one);
            }
        }
        for slot in &mut self.slots {
            slot.family = family[&slot.id];
        }
    }

    /// Opens the first pipeline that is due; whether there was one.
    fn open_one(&mut self, now: Duration) -> bool {
        let due = |slot: &Slot| {
            matches!(slot.state, SlotState::Closed { not_before } if not_before <= now)
                && !self.has_in_flight(slot.id)
        };
        let Some(index) = self.slots.iter().position(due) else { return false };
        let line = if self.begun { self.tick } else { self.log.next_tick(Tick::ZERO, u64::MAX) };
        let slot = &mut self.slots[index];
        match Pipeline::open(&self.shared, &slot.object) {
            Ok(pipeline) => {
                let mut published = self.shared.published.lock();
                if let Some(view) = published.views.get_mut(&slot.id) {
                    view.contents = pipeline.contents.clone();
                    view.tick = pipeline.tick;
                    view.next_frame = pipeline.next_frame;
                    // An earlier opening's frames may end before this one's begin.
                    view.recent = Recent::default();
                    let lag_bytes = line.0.saturating_sub(pipeline.tick.0);
                    view.state = PipelineState::CatchingUp { lag_bytes };
                }
                drop(published);
                slot.state = SlotState::Running(Box::new(pipeline));
                self.shared.wake();
            }
            Err(error) => self.fail(index, &error),
        }
        true
    }

    fn begin(&mut self) {
        self.begun = true;
        let ticks = self.slots.iter().filter_map(|slot| match &slot.state {
            SlotState::Running(pipeline) if pipeline.tick > Tick::ZERO => Some(pipeline.tick),
            _ => None,
        });
        self.tick = ticks.max().unwrap_or_else(|| self.log.next_tick(Tick::ZERO, u64::MAX));
    }

    fn has_in_flight(&self, id: ObjectId) -> bool {
        let frames = self.in_flight.iter().flat_map(|pass| &pass.commits).flat_map(|c| &c.frames);
        frames.into_iter().any(|frame| frame.id == id)
    }

    /// Stops a pipeline, and all that read it. Those whose trouble may pass are opened again.
    fn fail(&mut self, index: usize, error: &EngineError) {
        let again = matches!(error.kind(), ErrorKind::Full | ErrorKind::Unavailable)
            && !matches!(error, EngineError::Failed { .. });
        let not_before =
            self.shared.env.clock.monotonic().saturating_add(self.shared.options.retry_after);
        let mut failed = vec![self.slots[index].id];
        let mut published = self.shared.published.lock();
        for slot in &mut self.slots[index..] {
            let is_it = slot.id == failed[0];
            let upstream = upstreams(&slot.object).into_iter().find(|id| failed.contains(id));
            if !is_it && upstream.is_none() {
                continue;
            }
            let reason = match (&upstream, error) {
                (None, EngineError::Failed { error, .. }) => error.clone(),
                (None, error) => error.to_string(),
                (Some(_), error) => format!("a view that it reads failed: {error}"),
            };
            tracing::error!(view = %slot.object.name, error = %reason, again, "a pipeline stopped");
            if !is_it {
                failed.push(slot.id);
            }
            self.generation += 1;
            slot.generation = self.generation;
            slot.state = if again { SlotState::Closed { not_before } } else { SlotState::Failed };
            if let Some(view) = published.views.get_mut(&slot.id) {
                view.state = PipelineState::Failed { error: reason };
            }
        }
        drop(published);
        self.shared.wake();
    }

    /// One pass; whether anything moved.
    fn pass(&mut self) -> bool {
        let started = self.shared.env.clock.monotonic();
        let at = self.tick;
        let mut tick = self.log.next_tick(at, self.shared.options.tick_bytes_max);
        let mut work = Work::default();
        if tick == at && self.heartbeat(&mut work) {
            tick = self.log.next_tick(at, self.shared.options.tick_bytes_max);
        }
        let behind = |slot: &Slot| matches!(&slot.state, SlotState::Running(p) if !p.live);
        if tick == at && !self.slots.iter().any(behind) {
            return self.snapshot_all();
        }
        self.time = self.time.max(self.shared.env.clock.now());
        let at_end = self.log.next_tick(tick, u64::MAX) == tick;
        for index in 0..self.slots.len() {
            if let Err(error) = self.advance(index, (at, tick), at_end, &mut work) {
                work.forget(&self.slots, index);
                self.fail(index, &error);
            }
        }
        self.sources.end_pass();
        self.complete_families(&mut work);
        self.tick = tick;
        let had_input = work.moved;
        let moved = (tick > at) | had_input;
        work.submit(self, tick);
        self.snapshot_all();
        if had_input {
            let ended = self.shared.env.clock.monotonic();
            let pause = (ended.saturating_sub(started) * 2).min(self.shared.options.pause_max);
            self.not_before = ended + pause;
        }
        moved
    }

    /// Takes one pipeline through the pass.
    fn advance(
        &mut self,
        index: usize,
        (at, tick): (Tick, Tick),
        at_end: bool,
        work: &mut Work,
    ) -> Result<(), EngineError> {
        let (before, rest) = self.slots.split_at_mut(index);
        let Slot { id, generation, family, state: SlotState::Running(pipeline), .. } = &mut rest[0]
        else {
            return Ok(());
        };
        let owner = (*id, *generation, *family);
        let log = self.log.as_ref();
        let mut pass = Pass { log, sources: &mut self.sources, now: self.time, at_end: false };
        pipeline.output = None;
        if !pipeline.live {
            let upstream = Upstream::of(pipeline, before);
            let began = pipeline.has_begun();
            let limit = upstream.tick.map_or(at, |tick| tick.min(at));
            if began && !upstream.appended(log)? {
                // Frames that it has to read are on their way.
                return Ok(());
            }
            if pipeline.tick < limit && (began || !pipeline.sources.is_empty()) {
                let bytes_max = self.shared.options.catch_up_bytes_max;
                let target = pipeline.step_towards(log, limit, bytes_max)?;
                let feeds = pipeline.views.iter().enumerate().map(|(nth, view)| {
                    let to = upstream.frames.get(nth).copied().unwrap_or(Offset::ZERO);
                    match view.next {
                        Some(_) => pipeline.feed_from_log(log, nth, (to, target)),
                        None => Ok(Feed::default()),
                    }
                });
                let feeds = feeds.collect::<Result<Vec<_>, _>>()?;
                work.add(owner, pipeline.epoch(&mut pass, target, feeds)?);
                work.moved = true;
            }
            let only_views = pipeline.sources.is_empty() && !began;
            if !upstream.live || !(pipeline.tick >= at || only_views) {
                return Ok(());
            }
            pipeline.output = None;
            pipeline.live = true;
            work.joined.push((owner.0, owner.1));
            work.moved = true;
        } else if tick == at {
            return Ok(());
        }
        let feeds = live_feeds(pipeline, before)?;
        pass.at_end = at_end;
        if tick > pipeline.tick || feeds.iter().any(|feed| !feed.changes.is_empty()) {
            let submission = pipeline.epoch(&mut pass, tick, feeds)?;
            work.moved |= submission.is_some();
            work.add(owner, submission);
        }
        Ok(())
    }

    /// Adds frames without changes, so that each group of a family has one of each of its live
    /// pipelines. See the module.
    fn complete_families(&mut self, work: &mut Work) {
        let families: HashSet<ObjectId> =
            work.frames.iter().map(|((_, _, family), _)| *family).collect();
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            let owner = (slot.id, slot.generation, slot.family);
            let SlotState::Running(pipeline) = &mut slot.state else { continue };
            let is_in = work.frames.iter().any(|((id, ..), _)| *id == owner.0);
            if is_in || !pipeline.live || !families.contains(&owner.2) {
                continue;
            }
            match pipeline.bare_frame(self.time) {
                Ok(submission) => work.add(owner, submission),
                Err(error) => self.fail(index, &error),
            }
        }
    }

    /// Gives the log a tick behind this one if an idle partition waits for it.
    fn heartbeat(&mut self, work: &mut Work) -> bool {
        let now = self.shared.env.clock.now();
        for slot in &mut self.slots {
            let owner = (slot.id, slot.generation, slot.family);
            let SlotState::Running(pipeline) = &mut slot.state else { continue };
            let due = pipeline.live
                && pipeline
                    .sources
                    .iter()
                    .filter_map(SourceInput::idle_deadline)
                    .any(|at| at <= now);
            if !due {
                continue;
            }
            match pipeline.bare_frame(now) {
                Ok(submission) => {
                    work.add(owner, submission);
                    self.complete_families(work);
                    let at = self.tick;
                    std::mem::take(work).submit(self, at);
                    return true;
                }
                Err(error) => {
                    tracing::error!(%error, "a heartbeat can not be written");
                    return false;
                }
            }
        }
        false
    }
}
