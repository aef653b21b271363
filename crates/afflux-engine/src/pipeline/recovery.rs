//! A pipeline as the log has it.
//!
//! 1. The newest snapshot that can be read is restored, then the frames behind it. What can not be
//!    read of a snapshot is left behind with all that was restored of it, and the one before it is
//!    taken, whose frames are kept too.
//! 2. Without a snapshot there must be every frame.
//! 3. Without a frame it stands at the beginning: where `CREATE` has fixed it, or at the first
//!    records that are there.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use afflux_catalog::{Object, ObjectKind, View};
use afflux_dataflow::Dataflow;
use afflux_log::Log;
use afflux_record::changelog::{EpochFrame, Progress};
use afflux_types::{Classified, ErrorKind, Offset, Tick, Timestamp};

use super::{Pipeline, inputs::Inputs};
use crate::{
    EngineError, ddl,
    frames::{self, sole_partition},
    published::Shared,
    snapshot::Snapshots,
    status::Counters,
    view::Contents,
};

impl Pipeline {
    /// Brings a pipeline back from the log, or makes a new one that stands at the beginning.
    pub(crate) fn open(shared: &Shared, object: &Arc<Object>) -> Result<Self, EngineError> {
        let ObjectKind::View(view) = &object.kind else {
            return Err(EngineError::Unknown(format!("view {}", object.id)));
        };
        let log = shared.log.as_ref();
        let mut below = Offset(i64::MAX);
        loop {
            let mut pipeline = Self::empty(shared, object, view)?;
            if let Some(damaged) = pipeline.restore(log, below)? {
                below = damaged;
                continue;
            }
            if pipeline.last_frame_tick.is_none() {
                pipeline.start(log, view)?;
            } else {
                pipeline.sources.iter_mut().try_for_each(|source| source.restored(log))?;
            }
            return Ok(pipeline);
        }
    }

    fn empty(shared: &Shared, object: &Arc<Object>, view: &View) -> Result<Self, EngineError> {
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
        Ok(Self {
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
        })
    }

    /// Restores the newest snapshot below an offset of its topic, and the frames behind it. If the
    /// snapshot is damaged, nothing is to be used, and its place is the answer.
    fn restore(&mut self, log: &dyn Log, below: Offset) -> Result<Option<Offset>, EngineError> {
        let schema = Arc::clone(self.layout.schema());
        let bounds = log.bounds(&sole_partition(&self.topic))?;
        let mut begin = Offset::ZERO;
        let mut snapshots = Snapshots::new(self.snapshots.topic.clone());
        if let Some(found) = snapshots.newest(log, &schema, below)? {
            let restored = snapshots.restore(log, &schema, &found, |chunk| self.apply(&chunk));
            match restored {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tracing::error!(view = %self.object.name, %error, "a snapshot is damaged");
                    return Ok(Some(found.at));
                }
                restored => restored?,
            }
            begin = found.manifest.begin;
            self.stand_at(found.manifest.tick, found.manifest.time, &found.manifest.progress);
        } else if bounds.start > Offset::ZERO {
            let reason = "no snapshot can be read, and without one there must be every frame";
            return Err(frames::unreadable(&snapshots.topic, &reason));
        }
        self.snapshots = snapshots;
        let topic = self.topic.clone();
        frames::replay(log, &topic, (begin, bounds.end), &schema, |stored| {
            self.apply(&stored.frame)?;
            self.stand_at(stored.frame.tick, stored.frame.time, &stored.frame.progress);
            self.snapshots.grown(stored.bytes);
            Ok(())
        })?;
        self.next_frame = bounds.end;
        Ok(None)
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
                view.durable = Some(*next);
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
    fn start(&mut self, log: &dyn Log, view: &View) -> Result<(), EngineError> {
        for source in &mut self.sources {
            let fixed = view.starts.get(&source.id);
            for (nth, partition) in source.partitions.iter_mut().enumerate() {
                partition.next = match fixed.and_then(|starts| starts.get(nth)) {
                    Some(start) => *start,
                    None => log.bounds(&partition.partition)?.start,
                };
            }
        }
        Ok(())
    }
}
