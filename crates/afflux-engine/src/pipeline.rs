//! One view's pipeline: its dataflow, its positions, its epochs and its recovery.
//!
//! An epoch takes the pipeline from its tick to a later one:
//! 1. read what its sources hold up to there (decoded once for all, see `source`) and take what
//!    the line feeds it of other views,
//! 2. work out the watermarks; without input, and with no watermark risen, only the tick moves,
//! 3. push everything into the dataflow and finish the epoch,
//! 4. if anything changed, make one frame of it: changes of the view, of the state, and of the
//!    positions since the last frame, with the dead letters beside it.
//!
//! Positions that moved without a change of anything are written now and then, so that a restart
//! does not read the same far stretch again.
//!
//! Opening restores the newest snapshot and the frames behind it. What was read and not recorded
//! is read again; nothing of it was visible.

mod inputs;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use afflux_catalog::{Object, ObjectKind, Start};
use afflux_dataflow::Dataflow;
use afflux_log::{Entry, Isolation, Log};
use afflux_record::changelog::{self, Changes, EpochFrame, Progress};
use afflux_types::{ObjectId, Offset, OperatorId, Tick, Timestamp, TopicName};
use arrow::{array::Array, datatypes::SchemaRef};

use self::inputs::Inputs;
use crate::{
    EngineError, ddl,
    dead_letter::{self, DeadLetter},
    frames::{self, sole_partition},
    published::{Shared, columns},
    snapshot::{Manifest, Snapshots, Stepped},
    source::{SourceInput, Sources},
    status::Counters,
    view::{Contents, Layout},
};

/// Input bytes after which positions are recorded even if nothing changed.
const UNRECORDED_BYTES_MAX: u64 = 4 << 20;

/// A pipeline that runs.
pub(crate) struct Pipeline {
    pub(crate) object: Arc<Object>,
    pub(crate) layout: Arc<Layout>,
    topic: TopicName,
    dead_letters: TopicName,
    dataflow: Dataflow,
    reads: Vec<(OperatorId, Reads)>,
    pub(crate) sources: Vec<SourceInput>,
    pub(crate) views: Vec<ViewInput>,
    /// Everything up to here is in the dataflow.
    pub(crate) tick: Tick,
    time: Timestamp,
    last_frame_tick: Option<Tick>,
    /// The offset that the next frame will get.
    pub(crate) next_frame: Offset,
    watermarks: Vec<(OperatorId, Timestamp)>,
    unrecorded_bytes: u64,
    /// The view as of its last durable frame.
    pub(crate) contents: Contents,
    /// Changes of frames that are submitted and not yet durable.
    pub(crate) pending: VecDeque<Option<Arc<Changes>>>,
    /// What the epoch of the present pass has changed.
    pub(crate) output: Option<Arc<Changes>>,
    pub(crate) counters: Counters,
    snapshots: Snapshots,
    /// Whether it is on the line.
    pub(crate) live: bool,
}

enum Reads {
    Source { index: usize, columns: Vec<usize> },
    View { index: usize },
}

/// Another view that is read.
pub(crate) struct ViewInput {
    pub(crate) id: ObjectId,
    topic: TopicName,
    schema: SchemaRef,
    /// The first of its frames that is not yet read; none while its contents are not yet in.
    pub(crate) next: Option<Offset>,
    recorded: Option<Offset>,
}

/// What an epoch gets of one view.
#[derive(Default)]
pub(crate) struct Feed {
    pub(crate) changes: Vec<Arc<Changes>>,
    /// Where the view's frames go on behind that.
    pub(crate) next: Option<Offset>,
}

/// An epoch that is to be made durable.
pub(crate) struct Submission {
    pub(crate) offset: Offset,
    pub(crate) tick: Tick,
    pub(crate) changes: Option<Arc<Changes>>,
    pub(crate) bytes: usize,
    pub(crate) frame: Entry,
    pub(crate) outputs: Vec<Entry>,
}

/// What all epochs of a pass have in common.
pub(crate) struct Pass<'a> {
    pub(crate) log: &'a dyn Log,
    pub(crate) sources: &'a mut Sources,
    pub(crate) now: Timestamp,
    /// Whether nothing was appended behind the pass's tick.
    pub(crate) at_end: bool,
}

impl Pipeline {
    /// Brings a pipeline back from the log, or makes a new one that stands at the beginning.
    /// Sources read from their latest records begin at `line`.
    pub(crate) fn open(
        shared: &Shared,
        object: &Arc<Object>,
        line: Tick,
    ) -> Result<Self, EngineError> {
        let ObjectKind::View(view) = &object.kind else {
            return Err(EngineError::Unknown(format!("view {}", object.id)));
        };
        let log = shared.log.as_ref();
        let (layout, tables, reads, sources, views) = {
            let published = shared.published.lock();
            let missing = || EngineError::Unknown(format!("view {}", object.id));
            let layout = Arc::clone(&published.views.get(&object.id).ok_or_else(missing)?.layout);
            let tables = ddl::tables_of(&published, &view.plan);
            let mut inputs = Inputs::default();
            for operator in &view.plan.operators {
                inputs.add(operator.id, &operator.kind, log, &published)?;
            }
            (layout, tables, inputs.reads, inputs.sources, inputs.views)
        };
        let dataflow = Dataflow::new(&view.plan, &tables)
            .map_err(|error| EngineError::Unsupported(error.to_string()))?;
        let mut pipeline = Self {
            object: Arc::clone(object),
            topic: ddl::pipeline_topic(object.id),
            dead_letters: ddl::dead_letter_topic(object)?,
            dataflow,
            reads,
            sources,
            views,
            tick: Tick::ZERO,
            time: Timestamp::MIN,
            last_frame_tick: None,
            next_frame: Offset::ZERO,
            watermarks: Vec::new(),
            unrecorded_bytes: 0,
            contents: Contents::empty(),
            pending: VecDeque::new(),
            output: None,
            counters: Counters::default(),
            snapshots: Snapshots::new(ddl::snapshot_topic(object.id)),
            live: false,
            layout,
        };
        pipeline.restore(log)?;
        if pipeline.last_frame_tick.is_none() {
            pipeline.start(log, line)?;
        }
        Ok(pipeline)
    }

    fn restore(&mut self, log: &dyn Log) -> Result<(), EngineError> {
        let schema = Arc::clone(self.layout.schema());
        let mut snapshots = std::mem::replace(
            &mut self.snapshots,
            Snapshots::new(ddl::snapshot_topic(self.object.id)),
        );
        let manifest = snapshots.restore(log, &schema, |chunk| self.apply(&chunk))?;
        self.snapshots = snapshots;
        let mut begin = Offset::ZERO;
        if let Some(manifest) = manifest {
            begin = manifest.begin;
            self.stand_at(manifest.tick, manifest.time, &manifest.progress);
        }
        let end = log.bounds(&sole_partition(&self.topic))?.end;
        let topic = self.topic.clone();
        frames::replay(log, &topic, (begin, end), Isolation::Appended, &schema, |stored| {
            self.apply(&stored.frame)?;
            self.stand_at(stored.frame.tick, stored.frame.time, &stored.frame.progress);
            self.snapshots.grown(stored.bytes);
            Ok(())
        })?;
        self.next_frame = end;
        Ok(())
    }

    fn apply(&mut self, frame: &EpochFrame) -> Result<(), EngineError> {
        for delta in &frame.tables {
            self.dataflow.restore(delta).map_err(|error| EngineError::Unreadable {
                topic: self.topic.clone(),
                reason: error.to_string(),
            })?;
        }
        match &frame.changes {
            Some(changes) => self.publish(changes),
            None => Ok(()),
        }
    }

    fn stand_at(&mut self, tick: Tick, time: Timestamp, progress: &[Progress]) {
        self.tick = tick;
        self.time = time;
        self.last_frame_tick = Some(tick);
        // Sources over the same topic: their positions come in the order of the sources.
        let mut seen: HashMap<_, usize> = HashMap::new();
        for Progress { partition, next, watermark } in progress {
            let view = self.views.iter_mut().find(|view| view.topic == partition.topic);
            if let Some(view) = view {
                view.next = Some(*next);
                view.recorded = Some(*next);
                continue;
            }
            let nth = seen.entry(partition).or_default();
            let source =
                self.sources.iter_mut().filter(|s| s.source.topic == partition.topic).nth(*nth);
            *nth += 1;
            if let Some(source) = source {
                source.restore(partition.partition.0 as usize, *next, *watermark);
            }
        }
    }

    /// Sets the positions of a pipeline that has never run.
    fn start(&mut self, log: &dyn Log, line: Tick) -> Result<(), EngineError> {
        for source in &mut self.sources {
            for partition in &mut source.partitions {
                partition.next = match source.source.start {
                    Start::Earliest => log.bounds(&partition.partition)?.start,
                    Start::Latest => {
                        let ends = log.ends(line, std::slice::from_ref(&partition.partition))?;
                        ends.first().copied().unwrap_or(Offset::ZERO)
                    }
                };
            }
        }
        Ok(())
    }

    /// Whether the contents of all views that it reads are in.
    pub(crate) fn has_begun(&self) -> bool {
        self.views.iter().all(|view| view.next.is_some())
    }

    /// A tick to catch up to: `limit` if that is near enough, else a step towards it.
    pub(crate) fn step_towards(
        &self,
        log: &dyn Log,
        limit: Tick,
        bytes_max: u64,
    ) -> Result<Tick, EngineError> {
        const RECORDS_NEAR: i64 = 4096;
        let mut records = 0;
        for source in &self.sources {
            let ends = ends(log, source, limit)?;
            let left = source.partitions.iter().zip(&ends).map(|(p, end)| end.0 - p.next.0);
            records += left.map(|left| left.max(0)).sum::<i64>();
        }
        if records <= RECORDS_NEAR {
            return Ok(limit);
        }
        let mut span = bytes_max;
        loop {
            let tick = log.next_tick(self.tick, span).min(limit);
            let mut there = tick == limit;
            for source in &self.sources {
                let ends = ends(log, source, tick)?;
                there |= source.partitions.iter().zip(&ends).any(|(p, end)| *end > p.next);
            }
            if there {
                return Ok(tick);
            }
            // Nothing of ours in that stretch of the log: look further.
            span = span.saturating_mul(2);
        }
    }

    /// What frames of a view up to a tick hold, from where this pipeline stands in them.
    pub(crate) fn feed_from_log(
        &self,
        log: &dyn Log,
        index: usize,
        (to, tick): (Offset, Tick),
    ) -> Result<Feed, EngineError> {
        let view = &self.views[index];
        let Some(from) = view.next else { return Ok(Feed::default()) };
        let mut feed = Feed { changes: Vec::new(), next: Some(from) };
        let isolation = Isolation::Appended;
        frames::replay(log, &view.topic, (from, to), isolation, &view.schema, |stored| {
            if stored.frame.tick <= tick && feed.next.is_some_and(|next| next <= stored.offset) {
                feed.next = Some(Offset(stored.offset.0 + 1));
                feed.changes.extend(stored.frame.changes.map(Arc::new));
            }
            Ok(())
        })?;
        Ok(feed)
    }

    /// The view's contents as of the last epoch, durable or not.
    pub(crate) fn contents_now(&self) -> Result<Contents, EngineError> {
        let mut contents = self.contents.clone();
        for changes in self.pending.iter().flatten() {
            self.layout
                .apply(&mut contents, changes)
                .map_err(|error| columns(&self.object, error))?;
        }
        Ok(contents)
    }

    /// Applies changes of a durable frame to the view.
    pub(crate) fn publish(&mut self, changes: &Changes) -> Result<(), EngineError> {
        self.layout.apply(&mut self.contents, changes).map_err(|error| columns(&self.object, error))
    }

    /// Runs an epoch up to a tick; `feeds` has one for each view that is read.
    pub(crate) fn epoch(
        &mut self,
        pass: &mut Pass<'_>,
        target: Tick,
        feeds: Vec<Feed>,
    ) -> Result<Option<Submission>, EngineError> {
        let now = pass.now.max(self.time);
        let fresh = self.last_frame_tick.is_none();
        let mut input: Vec<(usize, Changes)> = Vec::new();
        let mut dead = Vec::new();
        for index in 0..self.sources.len() {
            self.read_source(pass, index, target, &mut input, &mut dead)?;
        }
        for (index, feed) in feeds.into_iter().enumerate() {
            self.views[index].next = feed.next.or(self.views[index].next);
            for (at, (_, reads)) in self.reads.iter().enumerate() {
                if matches!(reads, Reads::View { index: view } if *view == index) {
                    input.extend(feed.changes.iter().map(|c| (at, Changes::clone(c))));
                }
            }
        }
        self.tick = target;
        let watermarks = self.watermarks(pass, now);
        if input.is_empty() && dead.is_empty() && !fresh && watermarks == self.watermarks {
            if self.unrecorded_bytes <= UNRECORDED_BYTES_MAX {
                return Ok(None);
            }
            return self.submission(target, now, Vec::new(), None, &[]).map(Some);
        }
        let failed = |error: &dyn std::fmt::Display| EngineError::Failed {
            view: self.object.name.clone(),
            error: error.to_string(),
        };
        self.dataflow.begin(now);
        for (at, changes) in input {
            self.counters.rows_in += changes.len() as u64;
            self.dataflow.push(self.reads[at].0, changes).map_err(|error| failed(&error))?;
        }
        let epoch = self.dataflow.finish(&watermarks).map_err(|error| failed(&error))?;
        self.watermarks = watermarks;
        self.counters.late_rows += epoch.late_rows;
        dead.extend(epoch.rejected.iter().map(|rejected| DeadLetter::of_row(rejected, now)));
        let changes = epoch.changes.filter(|changes| !changes.is_empty());
        let tables: Vec<_> =
            epoch.tables.into_iter().filter(|delta| !delta.keys.is_empty()).collect();
        let nothing = changes.is_none() && tables.is_empty() && dead.is_empty();
        if nothing && !fresh && self.unrecorded_bytes <= UNRECORDED_BYTES_MAX {
            return Ok(None);
        }
        if !dead.is_empty() {
            // Somebody may have deleted it since the view was made.
            if pass.log.partition_count(&self.dead_letters).is_none() {
                ddl::ensure_topic(pass.log, self.dead_letters.clone())?;
            }
            self.counters.dead_letters += dead.len() as u64;
        }
        self.submission(target, now, tables, changes, &dead).map(Some)
    }

    fn read_source(
        &mut self,
        pass: &mut Pass<'_>,
        index: usize,
        target: Tick,
        input: &mut Vec<(usize, Changes)>,
        dead: &mut Vec<DeadLetter>,
    ) -> Result<(), EngineError> {
        let source = &mut self.sources[index];
        let ranges = source.ranges(&ends(pass.log, source, target)?);
        if ranges.is_empty() {
            return Ok(());
        }
        let decoded = pass.sources.decode(source.id, &source.source, ranges.clone())?;
        source.advance(&ranges, &decoded);
        self.counters.records_in += decoded.records;
        self.unrecorded_bytes += decoded.bytes + decoded.records * 16;
        dead.extend(decoded.dead.iter().cloned());
        if decoded.batch.num_rows() == 0 {
            return Ok(());
        }
        for (at, (_, reads)) in self.reads.iter().enumerate() {
            let Reads::Source { index: source, columns: wanted } = reads else { continue };
            if *source == index {
                let batch =
                    decoded.batch.project(wanted).map_err(|error| columns(&self.object, error))?;
                input.push((at, Changes { batch, weights: None }));
            }
        }
        Ok(())
    }

    fn watermarks(&mut self, pass: &Pass<'_>, now: Timestamp) -> Vec<(OperatorId, Timestamp)> {
        let log = pass.log;
        let at_end = pass.at_end;
        let marks: Vec<_> = self
            .sources
            .iter_mut()
            .map(|source| {
                source.watermark(now, |partition| {
                    at_end
                        || log
                            .bounds(&partition.partition)
                            .is_ok_and(|bounds| bounds.end <= partition.next)
                })
            })
            .collect();
        self.reads
            .iter()
            .filter_map(|(operator, reads)| match reads {
                Reads::Source { index, .. } => Some((*operator, marks[*index]?)),
                Reads::View { .. } => None,
            })
            .collect()
    }

    /// One frame, and the letters beside it.
    fn submission(
        &mut self,
        tick: Tick,
        time: Timestamp,
        tables: Vec<changelog::TableDelta>,
        changes: Option<Changes>,
        dead: &[DeadLetter],
    ) -> Result<Submission, EngineError> {
        let progress = self.progress_since_last_frame();
        let frame = EpochFrame { tick, time, progress, tables, changes };
        let unsupported =
            |error: &dyn std::fmt::Display| EngineError::Unsupported(error.to_string());
        let bytes = changelog::encode(&frame).map_err(|error| unsupported(&error))?;
        let entry = frames::frame_entry(&self.topic, self.next_frame, time, &bytes)
            .map_err(|error| unsupported(&error))?;
        let outputs =
            dead_letter::entries(&self.dead_letters, dead).map_err(|error| unsupported(&error))?;
        let changes = frame.changes.map(Arc::new);
        let offset = self.next_frame;
        self.next_frame = Offset(offset.0 + 1);
        self.last_frame_tick = Some(tick);
        self.time = time;
        self.unrecorded_bytes = 0;
        self.counters.epochs += 1;
        self.snapshots.grown(bytes.len());
        self.pending.push_back(changes.clone());
        self.output.clone_from(&changes);
        Ok(Submission { offset, tick, changes, bytes: bytes.len(), frame: entry, outputs })
    }

    /// A frame without changes at the pipeline's tick; none if there is a frame of that tick.
    pub(crate) fn bare_frame(&mut self, now: Timestamp) -> Result<Option<Submission>, EngineError> {
        if self.last_frame_tick >= Some(self.tick) {
            return Ok(None);
        }
        let output = self.output.take();
        let submission = self.submission(self.tick, now.max(self.time), Vec::new(), None, &[]);
        self.output = output;
        submission.map(Some)
    }

    fn progress_since_last_frame(&mut self) -> Vec<Progress> {
        let moved: Vec<_> = self
            .sources
            .iter()
            .flat_map(|source| &source.partitions)
            .filter(|p| p.recorded != (p.next, p.watermark))
            .map(|p| p.partition.clone())
            .collect();
        let mut progress = Vec::with_capacity(moved.len() + self.views.len());
        for partition in self.sources.iter_mut().flat_map(|source| &mut source.partitions) {
            if moved.contains(&partition.partition) {
                partition.recorded = (partition.next, partition.watermark);
                progress.push(partition_progress(partition));
            }
        }
        for view in &mut self.views {
            if let Some(next) = view.next.filter(|_| view.next != view.recorded) {
                view.recorded = view.next;
                progress.push(view_progress(&view.topic, next));
            }
        }
        progress
    }

    /// Begins or continues a snapshot; tells whether to come back soon.
    pub(crate) fn snapshot(&mut self, shared: &Shared) -> Result<Stepped, EngineError> {
        let log = shared.log.as_ref();
        if self.snapshots.due(&shared.options) {
            let mut progress: Vec<_> = self
                .sources
                .iter()
                .flat_map(|source| &source.partitions)
                .filter(|partition| partition.recorded.0 >= Offset::ZERO)
                .map(partition_progress)
                .collect();
            progress.extend(
                self.views.iter().filter_map(|v| Some(view_progress(&v.topic, v.recorded?))),
            );
            let manifest = Manifest {
                begin: self.next_frame,
                tick: self.last_frame_tick.unwrap_or(self.tick),
                time: self.time,
                progress,
                bytes: 0,
            };
            let contents = self.contents_now()?;
            self.snapshots.begin(log, manifest, contents)?;
        }
        let now = shared.env.clock.now();
        let bytes_max = shared.options.snapshot_step_bytes_max;
        let durable = Offset(self.next_frame.0 - self.pending.len() as i64);
        let frames = (self.next_frame, durable);
        let stepped =
            self.snapshots.step(log, now, frames, &self.dataflow, &self.layout, bytes_max)?;
        if stepped == Stepped::Completed {
            self.counters.snapshots += 1;
        }
        Ok(stepped)
    }

    /// Whether a snapshot is under way.
    pub(crate) fn is_snapshotting(&self) -> bool {
        self.snapshots.is_running()
    }
}

fn partition_progress(partition: &crate::source::SourcePartition) -> Progress {
    let (next, watermark) = partition.recorded;
    Progress { partition: partition.partition.clone(), next, watermark }
}

fn view_progress(topic: &TopicName, next: Offset) -> Progress {
    Progress { partition: sole_partition(topic), next, watermark: Timestamp::MIN }
}

/// Where a source's partitions ended at a tick.
fn ends(log: &dyn Log, source: &SourceInput, tick: Tick) -> Result<Vec<Offset>, EngineError> {
    let partitions: Vec<_> = source.partitions.iter().map(|p| p.partition.clone()).collect();
    Ok(log.ends(tick, &partitions)?)
}
