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
//! Opening restores a snapshot and the frames behind it (see `recovery`). What was read and not
//! recorded is read again; nothing of it was visible.

mod catch_up;
mod inputs;
mod recovery;

use std::{collections::VecDeque, sync::Arc};

use afflux_catalog::Object;
use afflux_dataflow::Dataflow;
use afflux_log::{Entry, Log};
use afflux_record::changelog::{self, Changes, EpochFrame, Progress};
use afflux_types::{ObjectId, Offset, OperatorId, Tick, Timestamp, TopicName};
use arrow::{array::Array, datatypes::SchemaRef};

use crate::{
    EngineError, ddl,
    dead_letter::{self, DeadLetter},
    frames::{self, sole_partition},
    published::{Shared, columns},
    snapshot::{Manifest, Snapshots, Stepped},
    source::{SourceInput, SourcePartition, Sources},
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
    /// Frames that are submitted and not yet durable.
    pending: VecDeque<Pending>,
    /// What the epoch of the present pass has changed.
    pub(crate) output: Option<Arc<Changes>>,
    pub(crate) counters: Counters,
    snapshots: Snapshots,
    /// Whether it is on the line.
    pub(crate) live: bool,
}

/// What a frame on its way says.
struct Pending {
    changes: Option<Arc<Changes>>,
    /// Where it leaves each view that is read.
    views: Vec<Option<Offset>>,
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
    /// As a durable frame has it: what a restart needs of the view's frames begins here.
    durable: Option<Offset>,
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
    /// Of the frame.
    pub(crate) bytes: usize,
    /// With what goes beside it.
    pub(crate) bytes_all: usize,
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
    /// The view's contents as of the last epoch, durable or not.
    pub(crate) fn contents_now(&self) -> Result<Contents, EngineError> {
        let mut contents = self.contents.clone();
        for changes in self.pending.iter().filter_map(|pending| pending.changes.as_ref()) {
            self.layout
                .apply(&mut contents, changes)
                .map_err(|error| columns(&self.object, error))?;
        }
        Ok(contents)
    }

    /// The oldest frame that was pending is durable: applies its changes to the view.
    pub(crate) fn landed(&mut self) -> Result<(), EngineError> {
        let Some(Pending { changes, views }) = self.pending.pop_front() else { return Ok(()) };
        for (view, durable) in self.views.iter_mut().zip(views) {
            view.durable = durable;
        }
        changes.map_or(Ok(()), |changes| self.publish(&changes))
    }

    fn publish(&mut self, changes: &Changes) -> Result<(), EngineError> {
        self.layout.apply(&mut self.contents, changes).map_err(|error| columns(&self.object, error))
    }

    /// From where on a restart needs the frames of a view; none if it needs none.
    pub(crate) fn needs_of(&self, view: ObjectId) -> Option<Offset> {
        self.views.iter().find(|input| input.id == view).and_then(|input| input.durable)
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
        for source in &mut self.sources {
            source.grow(pass.log)?;
        }
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
        let ends = ends(pass.log, source, target)?;
        for (partition, end) in source.partitions.iter().zip(&ends) {
            if *end < partition.next {
                check_not_remade(pass.log, &self.object, partition)?;
            }
        }
        let ranges = source.ranges(&ends);
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
                    // What an open transaction holds back is still to come.
                    log.bounds(&partition.partition).is_ok_and(|bounds| {
                        bounds.end <= partition.next || at_end && bounds.decided == bounds.end
                    })
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
        let letters: usize = outputs.iter().map(|entry| entry.batch.len()).sum();
        let changes = frame.changes.map(Arc::new);
        let offset = self.next_frame;
        self.next_frame = Offset(offset.0 + 1);
        self.last_frame_tick = Some(tick);
        self.time = time;
        self.unrecorded_bytes = 0;
        self.counters.epochs += 1;
        self.snapshots.grown(bytes.len());
        let views = self.views.iter().map(|view| view.recorded).collect();
        self.pending.push_back(Pending { changes: changes.clone(), views });
        self.output.clone_from(&changes);
        let bytes_all = bytes.len() + letters;
        Ok(Submission {
            offset,
            tick,
            changes,
            bytes: bytes.len(),
            bytes_all,
            frame: entry,
            outputs,
        })
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
        let tick = self.last_frame_tick.unwrap_or(self.tick);
        if self.snapshots.due(&shared.options, tick) {
            let mut progress: Vec<_> = self
                .sources
                .iter()
                .flat_map(|source| &source.partitions)
                .filter(|partition| partition.is_recorded())
                .map(partition_progress)
                .collect();
            progress.extend(
                self.views.iter().filter_map(|v| Some(view_progress(&v.topic, v.recorded?))),
            );
            let first = log.bounds(&sole_partition(&self.snapshots.topic))?.end;
            let (begin, time) = (self.next_frame, self.time);
            let manifest = Manifest { first, begin, tick, time, progress, bytes: 0 };
            self.snapshots.begin(manifest, self.contents_now()?);
        }
        let now = shared.env.clock.now();
        let bytes_max = shared.options.snapshot_step_bytes_max;
        let durable = Offset(self.next_frame.0 - self.pending.len() as i64);
        let frames = (self.next_frame, durable);
        let stepped =
            self.snapshots.step(log, now, frames, &self.dataflow, &self.layout, bytes_max)?;
        if matches!(stepped, Stepped::Completed(_)) {
            self.counters.snapshots += 1;
        }
        Ok(stepped)
    }

    /// Whether a snapshot is under way.
    pub(crate) fn is_snapshotting(&self) -> bool {
        self.snapshots.is_running()
    }
}

fn partition_progress(partition: &SourcePartition) -> Progress {
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

/// A partition can not end before what was read of it.
fn check_not_remade(
    log: &dyn Log,
    view: &Object,
    SourcePartition { partition, next, .. }: &SourcePartition,
) -> Result<(), EngineError> {
    let end = log.bounds(partition)?.end;
    if end >= *next {
        return Ok(());
    }
    Err(EngineError::Failed {
        view: view.name.clone(),
        error: format!(
            "{partition} ends at {end} and was read up to {next}: its topic was made anew"
        ),
    })
}
