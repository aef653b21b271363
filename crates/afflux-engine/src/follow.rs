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

use std::sync::Arc;

use afflux_log::error::ReadError;
use afflux_record::changelog::Changes;
use afflux_types::{ObjectId, Offset, Tick};
use tokio::sync::watch;

use crate::{
    EngineError,
    frames::{self, StoredFrame},
    published::{PublishedView, RecentFrame, Shared, columns},
    status::PipelineState,
    token::{ResumeToken, ViewIncarnation},
    view::Contents,
};

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
    Frame(RecentFrame),
    /// Read the log in this range.
    Stored(Offset, Offset),
    /// Bisect the log for the first frame behind the tick, below this offset.
    Bisect(Tick, Offset),
    Again,
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
            if let Some(event) = self.try_next()? {
                return Ok(event);
            }
            if self.changed.changed().await.is_err() {
                return Err(EngineError::Halted("the engine is gone".to_owned()));
            }
        }
    }

    /// The next event, if there is one by now.
    pub fn try_next(&mut self) -> Result<Option<Event>, EngineError> {
        loop {
            match self.look()? {
                Found::Nothing => return Ok(None),
                Found::Event(event) => return Ok(Some(event)),
                Found::Again => {}
                Found::Frame(frame) => {
                    self.stage = Stage::Tail { next: Offset(frame.offset.0 + 1) };
                    if let Some(changes) = frame.changes {
                        self.arrived(frame.tick);
                        let changes = Changes::clone(&changes);
                        return Ok(Some(Event::Changes { tick: frame.tick, changes }));
                    }
                }
                Found::Stored(from, to) => {
                    if let Some(event) = self.stored(from, to)? {
                        return Ok(Some(event));
                    }
                }
                Found::Bisect(tick, below) => {
                    if let Some(event) = self.bisect(tick, below)? {
                        return Ok(Some(event));
                    }
                }
            }
        }
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
            Stage::Tail { next } if *next < view.next_frame => Ok(match view.recent.at(*next) {
                Some(frame) => Found::Frame(frame.clone()),
                None => Found::Stored(*next, view.next_frame),
            }),
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
            None => Ok(Found::Bisect(token.tick, view.next_frame)),
        }
    }

    /// The first frame with changes in the log from an offset on.
    fn stored(&mut self, from: Offset, to: Offset) -> Result<Option<Event>, EngineError> {
        let (topic, schema) = self.place()?;
        match frames::first(self.shared.log.as_ref(), &topic, (from, to), &schema) {
            Ok(Some(StoredFrame { offset, frame, .. })) => {
                self.stage = Stage::Tail { next: Offset(offset.0 + 1) };
                Ok(frame.changes.map(|changes| {
                    self.arrived(frame.tick);
                    Event::Changes { tick: frame.tick, changes }
                }))
            }
            Ok(None) => {
                self.stage = Stage::Tail { next: to };
                Ok(None)
            }
            Err(EngineError::Read(ReadError::OffsetOutOfRange { .. })) => {
                Ok(Some(self.reset("the changes from there on are no longer kept")))
            }
            Err(error) => Err(error),
        }
    }

    /// Finds the first frame behind a tick by halves: ticks rise with offsets.
    fn bisect(&mut self, tick: Tick, below: Offset) -> Result<Option<Event>, EngineError> {
        let (topic, schema) = self.place()?;
        let log = Arc::clone(&self.shared.log);
        let start = log.bounds(&frames::sole_partition(&topic))?.start;
        // Invariant: frames before `low` have ticks up to `tick`, those from `high` on later ones.
        let (mut low, mut high) = (start, below);
        while low < high {
            let middle = Offset(low.0 + (high.0 - low.0) / 2);
            match frames::first(log.as_ref(), &topic, (middle, high), &schema) {
                Ok(Some(found)) if found.frame.tick <= tick => low = Offset(found.offset.0 + 1),
                Ok(_) => high = middle,
                Err(EngineError::Read(ReadError::OffsetOutOfRange { .. })) => {
                    return Ok(Some(self.reset("the changes from there on are no longer kept")));
                }
                Err(error) => return Err(error),
            }
        }
        if low == start && start > Offset::ZERO {
            return Ok(Some(self.reset("the changes from there on are no longer kept")));
        }
        self.stage = Stage::Tail { next: low };
        Ok(None)
    }

    fn place(&self) -> Result<(afflux_types::TopicName, arrow::datatypes::SchemaRef), EngineError> {
        let published = self.shared.published.lock();
        let view = published.views.get(&self.view);
        let view = view.ok_or_else(|| EngineError::Unknown(format!("view \"{}\"", self.name)))?;
        Ok((view.topic.clone(), Arc::clone(view.layout.schema())))
    }
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
