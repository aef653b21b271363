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
//! 1. A snapshot is due once the changelog has grown by enough since the last one; or, so that a
//!    quiet view does not hold on to old parts of the log, if it has grown at all and the last one
//!    lies far back.
//! 2. It begins by pinning the view's contents behind the newest frame (O(1)), with the recorded
//!    positions; `begin` is the offset behind that frame.
//! 3. Beside the epochs that follow, a bounded piece at a time: first the pinned contents, which
//!    are exact, then the state tables by key group, which are as of whenever they are dumped.
//!    Table entries are absolute, so replaying older frames over newer entries ends right.
//! 4. A chunk may hold effects of frames that are not durable yet, and a large frame may even be
//!    overtaken by a chunk. So the manifest waits for all chunks and for every frame that was
//!    computed before the last of them. Until it is there nothing counts.
//!
//! 5. Two complete snapshots are kept. What only older ones need, the changelog's frames before the
//!    older one's `begin` and the chunks before its `first`, may go (see `line::upkeep`).
//!
//! Recovery goes back from the topic's end: a chunk leads to the record before its snapshot's
//! first, until a manifest is found, whose chunks lie between `first` and itself. If any of them
//! can not be read, it goes back further, to the snapshot before.

use std::collections::VecDeque;

use afflux_dataflow::Dataflow;
use afflux_log::{EpochCommit, Isolation, Log, Ticket};
use afflux_record::changelog::{self, EpochFrame, Progress};
use afflux_types::{Classified, ErrorKind, KeyGroup, Offset, Tick, Timestamp, TopicName};
use arrow::datatypes::SchemaRef;

use crate::{
    EngineError, EngineOptions,
    frames::{self, sole_partition},
    view::{Contents, Layout},
};

const CHUNK: u8 = b'C';
const MANIFEST: u8 = b'M';
/// With so many pieces' worth of bytes submitted and not yet durable, it waits.
const PIECES_IN_FLIGHT_MAX: usize = 4;

/// What a snapshot says beside its chunks.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    /// Where the chunks begin.
    pub(crate) first: Offset,
    /// The changelog offset from which frames are to be replayed.
    pub(crate) begin: Offset,
    pub(crate) tick: Tick,
    pub(crate) time: Timestamp,
    pub(crate) progress: Vec<Progress>,
    /// Bytes of all chunks.
    pub(crate) bytes: u64,
}

/// What a complete snapshot needs of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Needs {
    /// The snapshot topic from here on.
    pub(crate) chunks: Offset,
    /// The changelog from here on.
    pub(crate) frames: Offset,
}

/// A snapshot in the log.
pub(crate) struct Found {
    /// Where its manifest is.
    pub(crate) at: Offset,
    pub(crate) manifest: Manifest,
}

/// A pipeline's snapshots: when, and the one under way.
pub(crate) struct Snapshots {
    pub(crate) topic: TopicName,
    /// Changelog bytes since the last complete snapshot began, or since one was given up.
    changelog_bytes: u64,
    /// When the last one began, be it one that was given up.
    began: Tick,
    last_bytes: u64,
    last: Option<Needs>,
    running: Option<Running>,
}

struct Running {
    manifest: Manifest,
    contents: Contents,
    stage: Stage,
    /// What is not yet durable, with its bytes.
    in_flight: VecDeque<(Ticket, u64)>,
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
    /// The snapshot is complete. What the one before it needs is to be kept.
    Completed(Option<Needs>),
}

impl Snapshots {
    pub(crate) fn new(topic: TopicName) -> Self {
        Self {
            topic,
            changelog_bytes: 0,
            began: Tick::ZERO,
            last_bytes: 0,
            last: None,
            running: None,
        }
    }

    /// Counts a frame.
    pub(crate) fn grown(&mut self, frame_bytes: usize) {
        self.changelog_bytes += frame_bytes as u64;
        if let Some(running) = &mut self.running {
            running.changelog_bytes += frame_bytes as u64;
        }
    }

    /// Whether one should begin at this tick.
    pub(crate) fn due(&self, options: &EngineOptions, tick: Tick) -> bool {
        let enough = options.snapshot_bytes_min.max(2 * self.last_bytes);
        let far = options.history_bytes_min.max(8 * self.last_bytes);
        let behind = tick.0.saturating_sub(self.began.0);
        self.running.is_none()
            && (self.changelog_bytes > enough || self.changelog_bytes > 0 && behind > far)
    }

    /// Whether one is under way.
    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Begins one. The manifest names the place behind the newest frame, `contents` are the
    /// view's there.
    pub(crate) fn begin(&mut self, manifest: Manifest, contents: Contents) {
        self.began = manifest.tick;
        self.running = Some(Running {
            contents,
            stage: Stage::Rows { after: None },
            in_flight: VecDeque::new(),
            changelog_bytes: 0,
            traces: manifest.begin,
            manifest,
        });
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
        while let Some((ticket, _)) = running.in_flight.front_mut() {
            match ticket.poll_now() {
                None => break,
                Some(Ok(_)) => drop(running.in_flight.pop_front()),
                Some(Err(error)) => {
                    // Not at once again: whatever was in the way may stay there.
                    tracing::warn!(topic = %self.topic, %error, "a snapshot was given up");
                    self.changelog_bytes = 0;
                    self.running = None;
                    return Ok(Stepped::Idle);
                }
            }
        }
        let landed = running.in_flight.is_empty();
        let in_flight_bytes: u64 = running.in_flight.iter().map(|(_, bytes)| bytes).sum();
        match &running.stage {
            Stage::Closing if landed => {
                let needs = running.manifest.needs();
                self.last_bytes = running.manifest.bytes;
                self.changelog_bytes = running.changelog_bytes;
                self.running = None;
                Ok(Stepped::Completed(self.last.replace(needs)))
            }
            Stage::Manifest if landed && durable >= running.traces => {
                running.submit_manifest(log, &self.topic, now)?;
                Ok(Stepped::Dumped)
            }
            Stage::Rows { .. } | Stage::Groups { .. }
                if in_flight_bytes < (PIECES_IN_FLIGHT_MAX * bytes_max) as u64 =>
            {
                running.traces = computed;
                running.dump(log, &self.topic, now, dataflow, layout, bytes_max)?;
                Ok(Stepped::Dumped)
            }
            _ => Ok(Stepped::Waiting),
        }
    }

    /// The newest snapshot whose manifest lies below an offset and can be read.
    pub(crate) fn newest(
        &self,
        log: &dyn Log,
        schema: &SchemaRef,
        below: Offset,
    ) -> Result<Option<Found>, EngineError> {
        let bounds = log.bounds(&sole_partition(&self.topic))?;
        let mut end = bounds.end.min(below);
        while end > bounds.start {
            let at = Offset(end.0 - 1);
            end = match self.look_at(log, schema, at) {
                Ok(Record::Manifest(manifest)) => return Ok(Some(Found { at, manifest })),
                Ok(Record::Chunk { first }) => first.min(at),
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tracing::error!(topic = %self.topic, %at, %error, "part of a snapshot is damaged");
                    at
                }
                Err(error) => return Err(error),
            };
        }
        Ok(None)
    }

    fn look_at(
        &self,
        log: &dyn Log,
        schema: &SchemaRef,
        at: Offset,
    ) -> Result<Record, EngineError> {
        let damaged = |what: &str| frames::unreadable(&self.topic, &format!("offset {at}: {what}"));
        let record = frames::record(log, &self.topic, at, Isolation::Appended)?;
        let (key, value) = record.ok_or_else(|| damaged("there is no record"))?;
        let number = |from: usize| {
            let bytes = key.get(from..).and_then(|rest| rest.first_chunk::<8>());
            bytes.map(|bytes| Offset(i64::from_be_bytes(*bytes)))
        };
        match (key.first(), number(1), number(9)) {
            (Some(&CHUNK), Some(first), _) => Ok(Record::Chunk { first }),
            (Some(&MANIFEST), Some(first), Some(begin)) => {
                let EpochFrame { tick, time, progress, .. } = changelog::decode(&value, schema)
                    .map_err(|error| damaged(&error.to_string()))?;
                Ok(Record::Manifest(Manifest { first, begin, tick, time, progress, bytes: 0 }))
            }
            _ => Err(damaged("its key is none of a snapshot")),
        }
    }

    /// Hands a snapshot's chunks to `each`, in order.
    pub(crate) fn restore(
        &mut self,
        log: &dyn Log,
        schema: &SchemaRef,
        Found { at, manifest }: &Found,
        mut each: impl FnMut(EpochFrame) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let (topic, first) = (&self.topic, manifest.first);
        let mut bytes = 0;
        frames::scan(log, topic, (first, *at), Isolation::Appended, |_, key, value| {
            if key.get(1..9) != Some(&first.0.to_be_bytes()[..]) {
                // Of a snapshot that was given up while this was on its way.
                return Ok(());
            }
            bytes += value.len() as u64;
            each(
                changelog::decode(value, schema)
                    .map_err(|error| frames::unreadable(topic, &error))?,
            )
        })?;
        self.last_bytes = bytes;
        self.began = manifest.tick;
        self.last = Some(manifest.needs());
        Ok(())
    }
}

/// A record of the snapshot topic.
enum Record {
    Chunk { first: Offset },
    Manifest(Manifest),
}

impl Manifest {
    fn needs(&self) -> Needs {
        Needs { chunks: self.first, frames: self.begin }
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
        let key = [&[CHUNK][..], &self.manifest.first.0.to_be_bytes()].concat();
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
        let Manifest { first, begin, .. } = self.manifest;
        let (first, begin) = (first.0.to_be_bytes(), begin.0.to_be_bytes());
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
        let unsupported =
            |error: &dyn std::fmt::Display| EngineError::Unsupported(error.to_string());
        let value = changelog::encode(frame).map_err(|error| unsupported(&error))?;
        let changelog =
            frames::entry(topic, now, key, &value).map_err(|error| unsupported(&error))?;
        let (outputs, expected) = (Vec::new(), Vec::new());
        let commit = EpochCommit { tick: frame.tick, changelog, outputs, expected };
        let bytes = value.len() as u64;
        self.in_flight.push_back((log.submit(commit), bytes));
        Ok(bytes)
    }
}
