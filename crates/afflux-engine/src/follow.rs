//! Followers of a view: a snapshot, then whole ticks, for ever.
//!
//! A [`Follower`] holds a position and, during its snapshot, one pinned version of the view;
//! nothing else, so a slow one costs nothing. It is not fed: it asks.
//!
//! 1. Without a token: wait until the view is live, pin it, and hand its rows out in bounded
//!    events. The pinned version's end in the changelog is where the changes begin.
//! 2. With a token: find the first frame behind the token's tick, in memory or by bisecting the
//!    changelog topic, and go on there. If that place is gone, or the token is of another life
//!    of the view, say so ([`Event::Reset`]) and begin with a snapshot.
//! 3. Changes: the next frame, from memory if it is recent enough, else from the log.
//!
//! The log is read on threads for blocking work, one frame at a time, and by a few followers at
//! once: the others wait their turn, and those that keep up never read it.

use std::sync::Arc;

use afflux_log::{Isolation, Log, error::ReadError};
use afflux_record::changelog::Changes;
use afflux_types::{ObjectId, Offset, Tick, TopicName};
use arrow::datatypes::SchemaRef;
use tokio::sync::watch;

use crate::{
    EngineError,
    frames::{self, StoredFrame},
    published::{PublishedView, Shared, columns},
    status::PipelineState,
    token::{ResumeToken, ViewIncarnation},
    view::Contents,
};

/// How many followers may read the log at once.
pub(crate) const LOG_READERS_MAX: usize = 4;

/// What a follower is told.
#[derive(Debug, Clone)]
pub enum Event {
    /// Rows of the view as of a tick. Several of these make the whole snapshot.
    Snapshot {
        /// The tick.
        tick: Tick,
        /// Some of the rows, weights positive.
        rows: Changes,
        /// Whether the snapshot is complete with this.
        last: bool,
    },
    /// All that a tick changed, consolidated: a row that changed is there with weight -1 as it
    /// was and with +1 as it is.
    Changes {
        /// The tick.
        tick: Tick,
        /// The changes, at least one.
        changes: Changes,
    },
    /// Forget everything: a snapshot follows.
    Reset {
        /// Why.
        reason: String,
    },
}

/// Follows one view.
pub struct Follower {
    shared: Arc<Shared>,
    view: ObjectId,
    name: String,
    incarnation: ViewIncarnation,
    stage: Stage,
    token: Option<ResumeToken>,
    changed: watch::Receiver<u64>,
}

enum Stage {
    Begin(Option<ResumeToken>),
    Snapshot { tick: Tick, contents: Contents, after: Option<Box<[u8]>>, next: Offset },
    Tail { next: Offset },
}

/// What the lock told.
enum Found {
    Nothing,
    Event(Event),
    Stored(Lookup),
    Again,
}

/// What is to be read in the log.
struct Lookup {
    topic: TopicName,
    schema: SchemaRef,
    what: Sought,
}

enum Sought {
    /// The frame at this offset.
    Frame(Offset),
    /// Where the frames behind a tick begin, at most at this offset.
    Behind(Tick, Offset),
}

/// What the log told.
#[expect(clippy::large_enum_variant, reason = "one at a time, and nearly always the large one")]
enum Answer {
    Frame(StoredFrame),
    Behind(Offset),
    /// It is not durable yet.
    NotYet,
    /// It is no longer kept.
    Gone,
}

impl Lookup {
    /// Asks the log. Blocks.
    fn ask(&self, log: &dyn Log) -> Result<Answer, EngineError> {
        let answer = match self.what {
            Sought::Frame(offset) => {
                self.frame(log, offset).map(|frame| frame.map_or(Answer::NotYet, Answer::Frame))
            }
            Sought::Behind(tick, below) => self.behind(log, tick, below),
        };
        match answer {
            Err(EngineError::Read(ReadError::OffsetOutOfRange { .. })) => Ok(Answer::Gone),
            answer => answer,
        }
    }

    fn frame(&self, log: &dyn Log, offset: Offset) -> Result<Option<StoredFrame>, EngineError> {
        frames::at(log, &self.topic, offset, Isolation::Uncommitted, &self.schema)
    }

    /// Finds the first frame behind a tick by halves: ticks rise with offsets.
    fn behind(&self, log: &dyn Log, tick: Tick, below: Offset) -> Result<Answer, EngineError> {
        let start = log.bounds(&frames::sole_partition(&self.topic))?.start;
        // Invariant: frames before `low` have ticks up to `tick`, those from `high` on later ones.
        let (mut low, mut high) = (start, below);
        while low < high {
            let middle = Offset(low.0 + (high.0 - low.0) / 2);
            match self.frame(log, middle)? {
                Some(found) if found.frame.tick <= tick => low = Offset(middle.0 + 1),
                _ => high = middle,
            }
        }
        // What was before the first that is kept may have been behind the tick too.
        let gone = low == start && start > Offset::ZERO;
        Ok(if gone { Answer::Gone } else { Answer::Behind(low) })
    }
}

impl Follower {
    pub(crate) fn new(
        shared: Arc<Shared>,
        view: ObjectId,
        from: Option<ResumeToken>,
    ) -> Result<Self, EngineError> {
        let changed = shared.changed.subscribe();
        let (name, incarnation) = {
            let published = shared.published.lock();
            let found = published.views.get(&view);
            let found = found.ok_or_else(|| EngineError::Unknown(format!("view {view}")))?;
            (found.object.name.clone(), found.incarnation)
        };
        Ok(Self {
            shared,
            view,
            name,
            incarnation,
            stage: Stage::Begin(from),
            token: from,
            changed,
        })
    }

    /// Where to resume behind the last event; none before the first snapshot is complete.
    pub fn token(&self) -> Option<ResumeToken> {
        self.token
    }

    /// The next event. May be dropped while it waits; nothing is lost.
    pub async fn next(&mut self) -> Result<Event, EngineError> {
        loop {
            self.changed.mark_unchanged();
            match self.look()? {
                Found::Event(event) => return Ok(event),
                Found::Again => continue,
                Found::Nothing => {}
                Found::Stored(lookup) => match self.ask(lookup).await? {
                    Answer::NotYet => {}
                    answer => match self.answered(answer) {
                        Some(event) => return Ok(event),
                        None => continue,
                    },
                },
            }
            if self.changed.changed().await.is_err() {
                return Err(EngineError::Halted("the engine is gone".to_owned()));
            }
        }
    }

    async fn ask(&self, lookup: Lookup) -> Result<Answer, EngineError> {
        let halted = |error: &dyn std::fmt::Display| EngineError::Halted(error.to_string());
        let turn = Arc::clone(&self.shared.log_readers).acquire_owned().await;
        let turn = turn.map_err(|error| halted(&error))?;
        let log = Arc::clone(&self.shared.log);
        let asked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            lookup.ask(log.as_ref())
        });
        asked.await.map_err(|error| halted(&error))?
    }

    /// The next event, if there is one by now. Blocks while it reads the log.
    #[cfg(test)]
    pub(crate) fn try_next(&mut self) -> Result<Option<Event>, EngineError> {
        loop {
            match self.look()? {
                Found::Nothing => return Ok(None),
                Found::Event(event) => return Ok(Some(event)),
                Found::Again => {}
                Found::Stored(lookup) => match lookup.ask(self.shared.log.as_ref())? {
                    Answer::NotYet => return Ok(None),
                    answer => {
                        if let Some(event) = self.answered(answer) {
                            return Ok(Some(event));
                        }
                    }
                },
            }
        }
    }

    /// Goes on with what the log told.
    fn answered(&mut self, answer: Answer) -> Option<Event> {
        match answer {
            Answer::Frame(StoredFrame { offset, frame, .. }) => {
                self.step(offset, frame.tick, frame.changes)
            }
            Answer::Behind(next) => {
                self.stage = Stage::Tail { next };
                None
            }
            Answer::NotYet => None,
            Answer::Gone => Some(self.reset("the changes from there on are no longer kept")),
        }
    }

    /// Moves behind a frame.
    fn step(&mut self, offset: Offset, tick: Tick, changes: Option<Changes>) -> Option<Event> {
        self.stage = Stage::Tail { next: Offset(offset.0 + 1) };
        changes.map(|changes| {
            self.arrived(tick);
            Event::Changes { tick, changes }
        })
    }

    fn arrived(&mut self, tick: Tick) {
        self.token = Some(ResumeToken { incarnation: self.incarnation, tick });
    }

    fn reset(&mut self, reason: &str) -> Event {
        self.stage = Stage::Begin(None);
        self.token = None;
        Event::Reset { reason: reason.to_owned() }
    }

    fn look(&mut self) -> Result<Found, EngineError> {
        let shared = Arc::clone(&self.shared);
        let published = shared.published.lock();
        let Some(view) = published.views.get(&self.view) else {
            return Err(EngineError::Unknown(format!("view \"{}\"", self.name)));
        };
        match &mut self.stage {
            Stage::Begin(from) => {
                let from = *from;
                self.begin(view, from, published.halted.as_deref())
            }
            Stage::Snapshot { tick, contents, after, next } => {
                let (tick, next, layout) = (*tick, *next, Arc::clone(&view.layout));
                let object = Arc::clone(&view.object);
                drop(published);
                let bytes_max = shared.options.follow_bytes_max;
                let chunk = layout
                    .chunk(contents, after.as_deref(), bytes_max)
                    .map_err(|error| columns(&object, error))?;
                let last = chunk.next.is_none();
                if last {
                    self.stage = Stage::Tail { next };
                    self.arrived(tick);
                } else {
                    *after = chunk.next;
                }
                Ok(Found::Event(Event::Snapshot { tick, rows: chunk.rows, last }))
            }
            Stage::Tail { next } if *next < view.next_frame => match view.recent.at(*next) {
                Some(frame) => {
                    let (offset, tick) = (frame.offset, frame.tick);
                    let changes = frame.changes.as_deref().cloned();
                    Ok(self.step(offset, tick, changes).map_or(Found::Again, Found::Event))
                }
                None => Ok(stored(view, Sought::Frame(*next))),
            },
            Stage::Tail { .. } => waiting(view, published.halted.as_deref()),
        }
    }

    fn begin(
        &mut self,
        view: &PublishedView,
        from: Option<ResumeToken>,
        halted: Option<&str>,
    ) -> Result<Found, EngineError> {
        let Some(token) = from else {
            if view.state != PipelineState::Live {
                return waiting(view, halted);
            }
            self.stage = Stage::Snapshot {
                tick: view.tick,
                contents: view.contents.clone(),
                after: None,
                next: view.next_frame,
            };
            return Ok(Found::Again);
        };
        if token.incarnation != view.incarnation {
            return Ok(Found::Event(self.reset("the token is of another life of the view")));
        }
        if self.shared.log.was_cut(token.tick) {
            return Ok(Found::Event(self.reset("what the token stands for was cut by a repair")));
        }
        if token.tick > view.tick {
            // A durable tick of an earlier run may lie ahead of what this run has reached.
            if token.tick.0 > self.shared.log.appended().borrow().0 {
                return Ok(Found::Event(self.reset("the token is ahead of the log")));
            }
            return waiting(view, halted);
        }
        match view.recent.behind(token.tick, view.next_frame) {
            Some(next) => {
                self.stage = Stage::Tail { next };
                Ok(Found::Again)
            }
            None => Ok(stored(view, Sought::Behind(token.tick, view.next_frame))),
        }
    }
}

fn stored(view: &PublishedView, what: Sought) -> Found {
    let (topic, schema) = (view.topic.clone(), Arc::clone(view.layout.schema()));
    Found::Stored(Lookup { topic, schema, what })
}

/// Nothing yet, unless nothing will come.
fn waiting(view: &PublishedView, halted: Option<&str>) -> Result<Found, EngineError> {
    if let Some(reason) = halted {
        return Err(EngineError::Halted(reason.to_owned()));
    }
    if let PipelineState::Failed { error } = &view.state {
        let view = view.object.name.clone();
        return Err(EngineError::Failed { view, error: error.clone() });
    }
    Ok(Found::Nothing)
}
