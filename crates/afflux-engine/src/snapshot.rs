//! Fuzzy snapshots of a pipeline, in the log.
//!
//! ```text
//! __afflux_snapshots_N
//!   chunk     key    'C' | first i64                  (big endian)
//!             value  EpochFrame: table entries of some key groups, or some rows of the view
//!   manifest  key    'M' | first i64 | begin i64
//!             value  EpochFrame: tick, time and positions; no tables, no changes
//! ```
//! `first` is the offset of the snapshot's first chunk, `begin` the changelog offset from which
//! frames are to be replayed over it.
//!
//! 1. A snapshot is due once the changelog has grown by enough since the last one.
//! 2. It begins by pinning the view's contents behind the newest frame (O(1)), with the recorded
//!    positions; `begin` is the offset behind that frame.
//! 3. Beside the epochs that follow, a bounded piece at a time: first the pinned contents, which
//!    are exact, then the state tables by key group, which are as of whenever they are dumped.
//!    Table entries are absolute, so replaying older frames over newer entries ends right.
//! 4. A chunk may hold effects of frames that are not durable yet, and a large frame may even be
//!    overtaken by a chunk. So the manifest waits for all chunks and for every frame that was
//!    computed before the last of them. Until it is there nothing counts.
//!
//! Recovery goes back from the topic's end: a chunk leads to the record before its snapshot's
//! first, until a manifest is found, whose chunks lie between `first` and itself.

use std::collections::VecDeque;

use afflux_dataflow::Dataflow;
use afflux_log::{EpochCommit, Isolation, Log, Ticket};
use afflux_record::changelog::{self, EpochFrame, Progress};
use afflux_types::{KeyGroup, Offset, Tick, Timestamp, TopicName};
use arrow::datatypes::SchemaRef;

use crate::{
    EngineError, EngineOptions,
    frames::{self, sole_partition},
    view::{Contents, Layout},
};

const CHUNK: u8 = b'C';
const MANIFEST: u8 = b'M';
/// Chunks that may be submitted and not yet durable.
const IN_FLIGHT_MAX: usize = 4;
const READ_BYTES: usize = 1 << 20;

/// What a snapshot says beside its chunks.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    /// The changelog offset from which frames are to be replayed.
    pub(crate) begin: Offset,
    pub(crate) tick: Tick,
    pub(crate) time: Timestamp,
    pub(crate) progress: Vec<Progress>,
    /// Bytes of all chunks.
    pub(crate) bytes: u64,
}

/// A pipeline's snapshots: when, and the one under way.
pub(crate) struct Snapshots {
    topic: TopicName,
    /// Changelog bytes since the last complete snapshot began.
    changelog_bytes: u64,
    last_bytes: u64,
    running: Option<Running>,
}

struct Running {
    manifest: Manifest,
    first: Offset,
    contents: Contents,
    stage: Stage,
    in_flight: VecDeque<Ticket>,
    changelog_bytes: u64,
    /// Frames before this may have left their traces in a chunk.
    traces: Offset,
}

enum Stage {
    Rows { after: Option<Box<[u8]>> },
    Groups { next: u8, at_once: u8 },
    Manifest,
    Closing,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stepped {
    /// There is no snapshot under way.
    Idle,
    /// A piece was dumped.
    Dumped,
    /// It waits for the disk.
    Waiting,
    /// The snapshot is complete.
    Completed,
}

impl Snapshots {
    pub(crate) fn new(topic: TopicName) -> Self {
        Self { topic, changelog_bytes: 0, last_bytes: 0, running: None }
    }

    /// Counts a frame.
    pub(crate) fn grown(&mut self, frame_bytes: usize) {
        self.changelog_bytes += frame_bytes as u64;
        if let Some(running) = &mut self.running {
            running.changelog_bytes += frame_bytes as u64;
        }
    }

    /// Whether one should begin.
    pub(crate) fn due(&self, options: &EngineOptions) -> bool {
        let enough = options.snapshot_bytes_min.max(2 * self.last_bytes);
        self.running.is_none() && self.changelog_bytes > enough
    }

    /// Whether one is under way.
    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Begins one. The manifest names the place behind the newest frame, `contents` are the
    /// view's there.
    pub(crate) fn begin(
        &mut self,
        log: &dyn Log,
        manifest: Manifest,
        contents: Contents,
    ) -> Result<(), EngineError> {
        let first = log.bounds(&sole_partition(&self.topic))?.end;
        let manifest_begin = manifest.begin;
        self.running = Some(Running {
            manifest,
            first,
            contents,
            stage: Stage::Rows { after: None },
            in_flight: VecDeque::new(),
            changelog_bytes: 0,
            traces: manifest_begin,
        });
        Ok(())
    }

    /// Dumps one piece, or looks whether the disk has caught up. Frames before `computed` are in
    /// the state, those before `durable` are durable.
    pub(crate) fn step(
        &mut self,
        log: &dyn Log,
        now: Timestamp,
        (computed, durable): (Offset, Offset),
        dataflow: &Dataflow,
        layout: &Layout,
        bytes_max: usize,
    ) -> Result<Stepped, EngineError> {
        let Some(running) = &mut self.running else { return Ok(Stepped::Idle) };
        while let Some(ticket) = running.in_flight.front_mut() {
            match ticket.poll_now() {
                None => break,
                Some(Ok(_)) => drop(running.in_flight.pop_front()),
                Some(Err(error)) => {
                    tracing::warn!(topic = %self.topic, %error, "a snapshot was given up");
                    self.running = None;
                    return Ok(Stepped::Idle);
                }
            }
        }
        let landed = running.in_flight.is_empty();
        match &running.stage {
            Stage::Closing if landed => {
                self.last_bytes = running.manifest.bytes;
                self.changelog_bytes = running.changelog_bytes;
                self.running = None;
                Ok(Stepped::Completed)
            }
            Stage::Manifest if landed && durable >= running.traces => {
                running.submit_manifest(log, &self.topic, now)?;
                Ok(Stepped::Dumped)
            }
            Stage::Rows { .. } | Stage::Groups { .. }
                if running.in_flight.len() < IN_FLIGHT_MAX =>
            {
                running.traces = computed;
                running.dump(log, &self.topic, now, dataflow, layout, bytes_max)?;
                Ok(Stepped::Dumped)
            }
            _ => Ok(Stepped::Waiting),
        }
    }

    /// Finds the newest complete snapshot and hands its chunks to `each`, in order.
    pub(crate) fn restore(
        &mut self,
        log: &dyn Log,
        schema: &SchemaRef,
        mut each: impl FnMut(EpochFrame) -> Result<(), EngineError>,
    ) -> Result<Option<Manifest>, EngineError> {
        let Some((at, first, mut manifest)) = self.newest(log, schema)? else { return Ok(None) };
        let mut from = first;
        while from < at {
            let range = (from, at);
            let topic = &self.topic;
            from = frames::scan(log, topic, range, READ_BYTES, Isolation::Appended, |_, k, v| {
                if k.get(1..9) != Some(&first.0.to_be_bytes()[..]) {
                    // Of a snapshot that was given up while this was on its way.
                    return Ok(());
                }
                manifest.bytes += v.len() as u64;
                each(changelog::decode(v, schema).map_err(|error| unreadable(topic, &error))?)
            })?;
        }
        self.last_bytes = manifest.bytes;
        Ok(Some(manifest))
    }

    fn newest(
        &self,
        log: &dyn Log,
        schema: &SchemaRef,
    ) -> Result<Option<(Offset, Offset, Manifest)>, EngineError> {
        let bounds = log.bounds(&sole_partition(&self.topic))?;
        let mut end = bounds.end;
        while end > bounds.start {
            let at = Offset(end.0 - 1);
            let mut record = None;
            let topic = &self.topic;
            frames::scan(log, topic, (at, end), 1, Isolation::Appended, |_, key, value| {
                record = Some((key.clone(), value.clone()));
                Ok(())
            })?;
            let damaged = |what: &str| EngineError::Unreadable {
                topic: topic.clone(),
                reason: format!("offset {at}: {what}"),
            };
            let Some((key, value)) = record else { return Err(damaged("there is no record")) };
            let number = |from: usize| {
                let bytes = key.get(from..).and_then(|rest| rest.first_chunk::<8>());
                bytes.map(|bytes| Offset(i64::from_be_bytes(*bytes)))
            };
            let first = number(1).ok_or_else(|| damaged("its key is too short"))?;
            if key[0] == MANIFEST {
                let begin = number(9).ok_or_else(|| damaged("its key is too short"))?;
                let EpochFrame { tick, time, progress, .. } =
                    changelog::decode(&value, schema).map_err(|error| unreadable(topic, &error))?;
                return Ok(Some((at, first, Manifest { begin, tick, time, progress, bytes: 0 })));
            }
            end = first.min(at);
        }
        Ok(None)
    }
}

impl Running {
    fn dump(
        &mut self,
        log: &dyn Log,
        topic: &TopicName,
        now: Timestamp,
        dataflow: &Dataflow,
        layout: &Layout,
        bytes_max: usize,
    ) -> Result<(), EngineError> {
        let mut frame = EpochFrame {
            tick: self.manifest.tick,
            time: now,
            progress: Vec::new(),
            tables: Vec::new(),
            changes: None,
        };
        match &mut self.stage {
            Stage::Rows { after } => {
                let chunk = layout
                    .chunk(&self.contents, after.as_deref(), bytes_max)
                    .map_err(|error| EngineError::Unsupported(error.to_string()))?;
                frame.changes = (!chunk.rows.is_empty()).then_some(chunk.rows);
                self.stage = match chunk.next {
                    Some(next) => Stage::Rows { after: Some(next) },
                    None => Stage::Groups { next: 0, at_once: 1 },
                };
            }
            Stage::Groups { next, at_once } => {
                let end = next.saturating_add(*at_once).min(KeyGroup::COUNT);
                frame.tables = dataflow.snapshot(*next..end);
                let bytes: usize = frame
                    .tables
                    .iter()
                    .map(|delta| delta.keys.values().len() + delta.values.values().len())
                    .sum();
                let at_once = if bytes < bytes_max / 2 { at_once.saturating_mul(2) } else { 1 };
                self.stage = if end == KeyGroup::COUNT {
                    Stage::Manifest
                } else {
                    Stage::Groups { next: end, at_once }
                };
            }
            Stage::Manifest | Stage::Closing => return Ok(()),
        }
        if frame.tables.is_empty() && frame.changes.is_none() {
            return Ok(());
        }
        let key = [&[CHUNK][..], &self.first.0.to_be_bytes()].concat();
        self.manifest.bytes += self.submit(log, topic, now, &key, &frame)?;
        Ok(())
    }

    fn submit_manifest(
        &mut self,
        log: &dyn Log,
        topic: &TopicName,
        now: Timestamp,
    ) -> Result<(), EngineError> {
        let frame = EpochFrame {
            tick: self.manifest.tick,
            time: self.manifest.time,
            progress: self.manifest.progress.clone(),
            tables: Vec::new(),
            changes: None,
        };
        let (first, begin) = (self.first.0.to_be_bytes(), self.manifest.begin.0.to_be_bytes());
        let key = [&[MANIFEST][..], &first, &begin].concat();
        self.submit(log, topic, now, &key, &frame)?;
        self.stage = Stage::Closing;
        Ok(())
    }

    fn submit(
        &mut self,
        log: &dyn Log,
        topic: &TopicName,
        now: Timestamp,
        key: &[u8],
        frame: &EpochFrame,
    ) -> Result<u64, EngineError> {
        let value = changelog::encode(frame).map_err(|error| unreadable(topic, &error))?;
        let changelog = frames::entry(topic, now, key, &value)
            .map_err(|error| EngineError::Unsupported(error.to_string()))?;
        let commit = EpochCommit { tick: frame.tick, changelog, outputs: Vec::new() };
        self.in_flight.push_back(log.submit(commit));
        Ok(value.len() as u64)
    }
}

fn unreadable(topic: &TopicName, error: &dyn std::fmt::Display) -> EngineError {
    EngineError::Unreadable { topic: topic.clone(), reason: error.to_string() }
}
