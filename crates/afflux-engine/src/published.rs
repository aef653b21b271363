//! What readers may see: the views as of the last durable tick, and who waits for the next.
//!
//! The line writes it ([`Published`] under one short lock, then a wake-up), readers copy from it.
//! All live views stand at one tick here at any moment, so whatever is taken under one lock is
//! one cut of the node. Copying a version of a view is O(1).

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use afflux_catalog::{Catalog, Object, ObjectKind};
use afflux_env::Env;
use afflux_log::Log;
use afflux_record::changelog::Changes;
use afflux_types::{ObjectId, Offset, Tick, TopicName};
use arrow::{
    array::{ArrayRef, RecordBatch},
    datatypes::SchemaRef,
};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::{
    EngineError, EngineOptions,
    status::{Counters, PipelineState, PipelineStatus},
    token::ViewIncarnation,
    view::{Contents, Layout},
};

/// What the handle, the followers and the line have in common.
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) options: EngineOptions,
    pub(crate) published: Mutex<Published>,
    /// Turns of followers that read the log.
    pub(crate) log_readers: Arc<Semaphore>,
    /// Moves at every publication.
    pub(crate) changed: watch::Sender<u64>,
}

/// All that readers may see.
pub(crate) struct Published {
    pub(crate) catalog: Catalog,
    /// The line's last durable tick: that of every live view.
    pub(crate) tick: Tick,
    pub(crate) views: HashMap<ObjectId, PublishedView>,
    pub(crate) tables: HashMap<ObjectId, RecordBatch>,
    /// Why nothing will be published any more.
    pub(crate) halted: Option<String>,
}

impl Default for Published {
    fn default() -> Self {
        Self {
            catalog: Catalog::default(),
            tick: Tick::ZERO,
            views: HashMap::new(),
            tables: HashMap::new(),
            halted: None,
        }
    }
}

/// One view.
pub(crate) struct PublishedView {
    pub(crate) object: Arc<Object>,
    pub(crate) layout: Arc<Layout>,
    pub(crate) incarnation: ViewIncarnation,
    pub(crate) topic: TopicName,
    pub(crate) state: PipelineState,
    pub(crate) contents: Contents,
    pub(crate) tick: Tick,
    /// Behind the last frame that `contents` holds.
    pub(crate) next_frame: Offset,
    pub(crate) recent: Recent,
    pub(crate) counters: Counters,
}

/// The newest frames of a view, for followers that keep up.
#[derive(Default)]
pub(crate) struct Recent {
    frames: VecDeque<RecentFrame>,
    bytes: usize,
}

/// A durable frame.
#[derive(Clone)]
pub(crate) struct RecentFrame {
    pub(crate) offset: Offset,
    pub(crate) tick: Tick,
    pub(crate) changes: Option<Arc<Changes>>,
    pub(crate) bytes: usize,
}

impl Recent {
    /// Adds the newest and lets go of the oldest.
    pub(crate) fn push(&mut self, frame: RecentFrame, bytes_max: usize) {
        self.bytes += frame.bytes;
        self.frames.push_back(frame);
        while self.bytes > bytes_max && self.frames.len() > 1 {
            let Some(oldest) = self.frames.pop_front() else { break };
            self.bytes -= oldest.bytes;
        }
    }

    /// The first frame at or behind an offset; none if it may be older than what is kept.
    pub(crate) fn at(&self, offset: Offset) -> Option<&RecentFrame> {
        let at = self.frames.partition_point(|frame| frame.offset < offset);
        if at == 0 && self.frames.front().is_none_or(|first| first.offset > offset) {
            return None;
        }
        self.frames.get(at)
    }

    /// Where the frames behind a tick begin; none if that may be older than what is kept.
    pub(crate) fn behind(&self, tick: Tick, next_frame: Offset) -> Option<Offset> {
        if self.frames.front().is_none_or(|first| first.tick > tick) {
            return None;
        }
        let at = self.frames.partition_point(|frame| frame.tick <= tick);
        Some(self.frames.get(at).map_or(next_frame, |frame| frame.offset))
    }
}

/// Relations as of one durable tick. Holds memory as long as it lives; cheap otherwise.
#[derive(Debug)]
pub struct Pinned {
    /// The tick that all of them have completed.
    pub tick: Tick,
    /// In the order in which they were asked for.
    pub relations: Vec<PinnedRelation>,
}

/// A view or a static table as of one tick.
#[derive(Debug, Clone)]
pub struct PinnedRelation {
    /// Its definition.
    pub object: Arc<Object>,
    rows: Rows,
}

#[derive(Debug, Clone)]
enum Rows {
    View { layout: Arc<Layout>, contents: Contents },
    Table(RecordBatch),
}

impl PinnedRelation {
    /// Its columns.
    pub fn schema(&self) -> SchemaRef {
        match &self.rows {
            Rows::View { layout, .. } => Arc::clone(layout.schema()),
            Rows::Table(batch) => batch.schema(),
        }
    }

    /// How many rows there are.
    pub fn row_count(&self) -> u64 {
        match &self.rows {
            Rows::View { contents, .. } => contents.rows(),
            Rows::Table(batch) => batch.num_rows() as u64,
        }
    }

    /// Positions of the columns that identify a row; none where rows may repeat.
    pub fn key(&self) -> Option<&[usize]> {
        match &self.rows {
            Rows::View { layout, .. } => layout.key(),
            Rows::Table(_) => None,
        }
    }

    /// All rows, in key order, in batches of at most 8,192; none if there are no rows.
    pub fn batches(&self) -> Result<Vec<RecordBatch>, EngineError> {
        match &self.rows {
            Rows::View { layout, contents } => {
                layout.batches(contents).map_err(|error| columns(&self.object, error))
            }
            Rows::Table(batch) => Ok(vec![batch.clone()]),
        }
    }

    /// The row of a full key: one array of one value per column of [`Self::key`], in that order
    /// and of those types. None if there is no such row, or no key.
    pub fn get(&self, key: &[ArrayRef]) -> Result<Option<RecordBatch>, EngineError> {
        match &self.rows {
            Rows::View { layout, contents } => {
                layout.get(contents, key).map_err(|error| columns(&self.object, error))
            }
            Rows::Table(_) => Ok(None),
        }
    }
}

/// An arrow error as one of a view.
pub(crate) fn columns(object: &Object, error: arrow::error::ArrowError) -> EngineError {
    EngineError::Columns { view: object.name.clone(), source: Arc::new(error) }
}

impl Shared {
    /// Tells everybody who waits that something was published.
    pub(crate) fn wake(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    /// All of the relations at one tick, or what they wait for.
    fn try_pin(&self, ids: &[ObjectId]) -> Result<Result<Pinned, EngineError>, EngineError> {
        let published = self.published.lock();
        if let Some(reason) = &published.halted {
            return Err(EngineError::Halted(reason.clone()));
        }
        let mut relations = Vec::with_capacity(ids.len());
        let mut waiting: Option<(u64, &str)> = None;
        for id in ids {
            let object = published
                .catalog
                .get(*id)
                .ok_or_else(|| EngineError::Unknown(format!("object {id}")))?;
            let rows = match &object.kind {
                ObjectKind::Source(_) => return Err(EngineError::NotReadable(object.name.clone())),
                ObjectKind::Table(_) => published.tables.get(id).cloned().map(Rows::Table),
                ObjectKind::View(_) => match published.views.get(id) {
                    None => None,
                    Some(view) => match &view.state {
                        PipelineState::Live => Some(Rows::View {
                            layout: Arc::clone(&view.layout),
                            contents: view.contents.clone(),
                        }),
                        PipelineState::CatchingUp { lag_bytes } => {
                            let most = waiting.map_or(0, |(lag, _)| lag);
                            waiting = Some(((*lag_bytes).max(most), &object.name));
                            continue;
                        }
                        PipelineState::Failed { error } => {
                            return Err(EngineError::Failed {
                                view: object.name.clone(),
                                error: error.clone(),
                            });
                        }
                    },
                },
            };
            match rows {
                Some(rows) => relations.push(PinnedRelation { object: Arc::clone(object), rows }),
                None => waiting = waiting.or(Some((0, &object.name))),
            }
        }
        Ok(match waiting {
            None => Ok(Pinned { tick: published.tick, relations }),
            Some((lag_bytes, view)) => {
                Err(EngineError::CatchingUp { view: view.to_owned(), lag_bytes })
            }
        })
    }

    /// Pins now or says what is in the way.
    #[cfg(test)]
    pub(crate) fn pin_now(&self, ids: &[ObjectId]) -> Result<Pinned, EngineError> {
        self.try_pin(ids).and_then(|pinned| pinned)
    }

    /// Waits until all of the relations are at one tick and pins them there.
    pub(crate) async fn pin(&self, ids: &[ObjectId]) -> Result<Pinned, EngineError> {
        let mut changed = self.changed.subscribe();
        let deadline = tokio::time::sleep(self.options.pin_timeout);
        tokio::pin!(deadline);
        loop {
            let waiting = match self.try_pin(ids)? {
                Ok(pinned) => return Ok(pinned),
                Err(waiting) => waiting,
            };
            tokio::select! {
                _ = changed.changed() => {}
                () = &mut deadline => return Err(waiting),
            }
        }
    }

    /// One line per pipeline, oldest view first.
    pub(crate) fn status(&self) -> Vec<PipelineStatus> {
        let published = self.published.lock();
        let mut status: Vec<_> = published
            .views
            .iter()
            .map(|(id, view)| PipelineStatus {
                view: *id,
                name: view.object.name.clone(),
                state: view.state.clone(),
                tick: view.tick,
                rows: view.contents.rows(),
                bytes: view.contents.bytes(),
                counters: view.counters,
            })
            .collect();
        status.sort_by_key(|status| status.view);
        status
    }
}
