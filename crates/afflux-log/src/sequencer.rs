//! The sequencer: gives groups their place in the journal and in their partitions.
//!
//! All under one lock, no I/O. A group's way through it:
//! 1. `submit`: duplicates of idempotent producers are set aside, errors answered.
//! 2. Space is reserved. If the frame does not fit into the present file, the file is sealed and
//!    the prepared next one begun. If that is not there yet, the group is deferred; if it can not
//!    be made because the disk is full, the group is refused.
//! 3. Journal position and offsets are assigned, the batches are indexed and put into the hot
//!    tail: from here on the engine may read them. The frame waits in `queue`. If all its topics
//!    are relaxed, its ticket is resolved now.
//! 4. `take` hands waiting frames to the writer, capped in bytes, of one file.
//! 5. `publish` moves the durable position, resolves tickets and shows offsets to everybody.
//!
//! A large group goes another way: it is deferred, and `admit`, called before each write, queues
//! one of its chunks a time between other producers' frames. When the last chunk has its place, a
//! commit frame adopts them all and the batches get their offsets. Groups for a partition that a
//! deferred group waits for are deferred behind it, so that a partition keeps its order. What is
//! deferred is not acknowledged, relaxed or not: whoever handed it in counts it, and a large group
//! leaves others their room on the way to the disk.
//!
//! A failed write or sync is the end: every waiting and every later ticket is told so. What had
//! got offsets may or may not be in the journal; only recovery can say.

mod file_state;
mod staging;

use std::{
    collections::{BTreeMap, BinaryHeap, VecDeque},
    io,
    sync::Arc,
};

use afflux_record::frame::{self, FRAME_HEADER_BYTES, Kind, frame_bytes};
use afflux_types::{Incarnation, JournalPosition, LeaderEpoch, Offset, Timestamp};
use hashbrown::HashMap;

use staging::Deferred;

pub(crate) use file_state::FileState;

use crate::{
    contract::{Appended, TicketSender},
    error::AppendError,
    group::{Body, Prepared},
    hot::HotTail,
    index::{IndexEntry, Stream, WHOLE},
    journal::{FIRST_PAGE, Frame, JournalFile, Payload, WriteBatch, encode_producers},
    options::LogOptions,
    producers::{Verdict, is_numbered, is_tracked},
};

/// Kept back in the last file for changes of the log's own metadata, so that topics can be
/// removed when the disk is full.
const META_RESERVE: u64 = 64 << 10;

/// A file that is full; its index file is to be written once the seal is durable.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) base: u64,
    pub(crate) end: u64,
    pub(crate) sequence: u64,
    pub(crate) incarnation: Incarnation,
    /// The state at the seal, not later: later batches may not survive a crash.
    pub(crate) producers: Vec<u8>,
}

/// A frame on its way, and what happens once it is durable.
#[derive(Debug)]
struct Queued {
    frame: Frame,
    file: Arc<JournalFile>,
    /// Streams and where they end with this frame.
    ends: Vec<(u32, i64)>,
    ticket: Option<(TicketSender, Appended)>,
}

/// A ticket that waits for a position to be durable.
struct Waiter {
    end: u64,
    ticket: TicketSender,
    appended: Appended,
}

impl PartialEq for Waiter {
    fn eq(&self, other: &Self) -> bool {
        self.end == other.end
    }
}
impl Eq for Waiter {}
impl PartialOrd for Waiter {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Waiter {
    /// The nearest is the greatest: a heap gives it first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.end.cmp(&self.end)
    }
}

/// Of each batch of a group: where it is, and its end, if it is there already.
type Verdicts = Vec<Option<(Offset, u64)>>;

/// Tickets to be resolved once the lock is let go.
pub(crate) type Outcomes = Vec<(TicketSender, Result<Appended, AppendError>)>;

/// The sequencer's state.
pub(crate) struct Sequencer {
    pub(crate) options: LogOptions,
    incarnation: Incarnation,
    /// Where the next frame goes.
    tail: u64,
    /// The last frame's number.
    sequence: u64,
    durable: u64,
    /// Behind the last group.
    pub(crate) groups_end: u64,
    /// The file that is written.
    file: Arc<JournalFile>,
    /// The one behind it, empty.
    pub(crate) next: Option<Arc<JournalFile>>,
    pub(crate) files: BTreeMap<u64, FileState>,
    pub(crate) streams: HashMap<u32, Stream>,
    pub(crate) hot: HotTail,
    pub(crate) sealed: VecDeque<Sealed>,
    queue: VecDeque<Queued>,
    /// Taken by the writer, not yet durable.
    writing: Vec<Queued>,
    deferred: VecDeque<Deferred>,
    /// Streams of deferred groups, each with how many wait for it.
    deferred_streams: HashMap<u32, usize>,
    /// A group waits for a file.
    pub(crate) wants_file: bool,
    staged_next: u64,
    waiters: BinaryHeap<Waiter>,
    in_flight_bytes: usize,
    /// The disk is full: how much a new file needs and how much is free.
    pub(crate) full: Option<(u64, u64)>,
    failed: Option<Arc<io::Error>>,
    pub(crate) closed: bool,
}

/// Where the sequencer begins.
pub(crate) struct Start {
    pub(crate) incarnation: Incarnation,
    pub(crate) tail: u64,
    pub(crate) sequence: u64,
    pub(crate) groups_end: u64,
    pub(crate) file: Arc<JournalFile>,
    pub(crate) next: Option<Arc<JournalFile>>,
    pub(crate) files: BTreeMap<u64, FileState>,
    pub(crate) streams: HashMap<u32, Stream>,
}

impl Sequencer {
    pub(crate) fn new(options: LogOptions, start: Start) -> Self {
        let hot = HotTail::new(options.hot_bytes, start.tail);
        Self {
            options,
            incarnation: start.incarnation,
            tail: start.tail,
            sequence: start.sequence,
            durable: start.tail,
            groups_end: start.groups_end,
            file: start.file,
            next: start.next,
            files: start.files,
            streams: start.streams,
            hot,
            sealed: VecDeque::new(),
            queue: VecDeque::new(),
            writing: Vec::new(),
            deferred: VecDeque::new(),
            deferred_streams: HashMap::new(),
            wants_file: false,
            staged_next: 0,
            waiters: BinaryHeap::new(),
            in_flight_bytes: 0,
            full: None,
            failed: None,
            closed: false,
        }
    }

    /// The leader epoch that batches get.
    pub(crate) fn epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.incarnation.0 as i32)
    }

    /// Everything before this is durable.
    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    /// Bytes that have their place and are not yet durable.
    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes
    }

    /// Where the file behind the present one begins.
    pub(crate) fn next_base(&self) -> u64 {
        self.file.end()
    }

    /// The present file's length.
    pub(crate) fn capacity(&self) -> u64 {
        self.file.capacity
    }

    /// The first journal file that a group under way may have bytes in.
    pub(crate) fn staging_from(&self) -> u64 {
        let staged = self.deferred.iter().filter_map(|deferred| deferred.staged.as_ref());
        let first = staged.filter_map(|staged| staged.chunks.first()).map(|c| c.position.0).min();
        first.unwrap_or(u64::MAX)
    }

    /// Whether there is something to write.
    pub(crate) fn has_work(&self) -> bool {
        !self.queue.is_empty() || (!self.deferred.is_empty() && !self.wants_file)
    }

    /// Whether groups are still under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.failed.is_none()
            && !(self.queue.is_empty() && self.writing.is_empty() && self.deferred.is_empty())
    }

    fn refusal(&self) -> Option<AppendError> {
        match &self.failed {
            Some(error) => Some(AppendError::Failed(error.clone())),
            None => self.closed.then_some(AppendError::Closed),
        }
    }

    /// Begins an incarnation: the first frame to be written.
    pub(crate) fn open(&mut self) {
        self.mark(Kind::Open);
    }

    /// Takes nothing more.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// The last frame: says that everything before it was durable.
    pub(crate) fn last_words(&mut self) {
        self.mark(Kind::Close);
    }

    fn mark(&mut self, kind: Kind) {
        if let Some(position) = self.reserve(0, true) {
            self.enqueue(position, kind, Payload::empty(), Vec::new(), None);
        }
    }

    /// Takes a group. Its ticket is resolved later, or by the caller with what is added to
    /// `outcomes`.
    pub(crate) fn submit(&mut self, group: Prepared, ticket: TicketSender, out: &mut Outcomes) {
        if let Some(error) = self.refusal() {
            return out.push((ticket, Err(error)));
        }
        let blocked = self.wants_file && !group.is_meta
            || group.metas.iter().any(|meta| self.deferred_streams.contains_key(&meta.stream));
        if blocked || matches!(group.body, Body::Staged(_)) {
            return self.defer(group, ticket, out);
        }
        if let Some((group, ticket)) = self.sequence(group, ticket, out) {
            self.wants_file = true;
            self.defer(group, ticket, out);
        }
    }

    /// What is to be done with each batch: `Some` for those that are there already.
    fn judge(&self, group: &Prepared) -> Result<Verdicts, AppendError> {
        group.check_ends(&self.streams)?;
        let mut verdicts = Vec::with_capacity(group.metas.len());
        let mut numbered: Vec<(u32, i64)> = Vec::new();
        for (meta, partition) in group.metas.iter().zip(&group.partitions) {
            let partition = || partition.clone();
            let Some(stream) = self.streams.get(&meta.stream) else {
                return Err(AppendError::UnknownPartition(partition()));
            };
            if !is_tracked(meta) {
                verdicts.push(None);
                continue;
            }
            let who = (meta.stream, meta.producer.0);
            if is_numbered(meta) && numbered.contains(&who) {
                let reason = "a group takes one numbered batch a producer and partition".to_owned();
                return Err(AppendError::Malformed { partition: partition(), reason });
            }
            numbered.push(who);
            let producer = meta.producer.0;
            verdicts.push(match stream.producers.check(meta) {
                Verdict::New => None,
                Verdict::Duplicate { base_offset, end } => Some((base_offset, end)),
                Verdict::Forgotten => {
                    return Err(AppendError::DuplicateSequence {
                        partition: partition(),
                        producer,
                        sequence: meta.base_sequence,
                    });
                }
                Verdict::OutOfOrder { last } => {
                    return Err(AppendError::OutOfOrderSequence {
                        partition: partition(),
                        producer,
                        last,
                        got: meta.base_sequence,
                    });
                }
                Verdict::Fenced { current } => {
                    return Err(AppendError::ProducerFenced {
                        partition: partition(),
                        producer,
                        epoch: meta.producer_epoch.0,
                        epoch_current: current,
                    });
                }
                Verdict::Outside => {
                    let partition = partition();
                    return Err(AppendError::OutsideTransaction { partition, producer });
                }
            });
        }
        Ok(verdicts)
    }

    /// Answers a retry once the originals are durable.
    fn answer_duplicates(
        &mut self,
        verdicts: &[Option<(Offset, u64)>],
        append_time: Timestamp,
        ticket: TicketSender,
        out: &mut Outcomes,
    ) {
        let end = verdicts.iter().flatten().map(|(_, end)| *end).max().unwrap_or(0);
        let base_offsets = verdicts.iter().flatten().map(|(offset, _)| *offset).collect();
        let appended = Appended { base_offsets, end: JournalPosition(end), append_time };
        if end <= self.durable {
            out.push((ticket, Ok(appended)));
        } else {
            self.waiters.push(Waiter { end, ticket, appended });
        }
    }

    /// Judges a group. If nothing of it is to be written its ticket is answered, and there is
    /// nothing more to do.
    fn judged(
        &mut self,
        group: &Prepared,
        ticket: TicketSender,
        out: &mut Outcomes,
    ) -> Option<(Verdicts, TicketSender)> {
        match self.judge(group) {
            Err(error) => out.push((ticket, Err(error))),
            Ok(verdicts) if !verdicts.is_empty() && verdicts.iter().all(Option::is_some) => {
                self.answer_duplicates(&verdicts, group.time, ticket, out);
            }
            Ok(verdicts) => return Some((verdicts, ticket)),
        }
        None
    }

    /// Gives a whole group its place; the group itself if there is no space.
    fn sequence(
        &mut self,
        mut group: Prepared,
        ticket: TicketSender,
        out: &mut Outcomes,
    ) -> Option<(Prepared, TicketSender)> {
        let (verdicts, ticket) = self.judged(&group, ticket, out)?;
        if verdicts.iter().any(Option::is_some) {
            let keep: Vec<bool> = verdicts.iter().map(Option::is_none).collect();
            // Only now that nothing can be refused any more; a group that is put off is judged
            // again, and its duplicates must still be in it.
            if !self.has_room(group.bytes(), group.is_meta) {
                self.wants_file = true;
                return Some((group, ticket));
            }
            group.retain(&keep);
        }
        let Some(position) = self.reserve(group.bytes(), group.is_meta) else {
            self.wants_file = true;
            return Some((group, ticket));
        };
        let mut assigned = self.assign(&mut group).into_iter();
        let base_offsets = verdicts
            .iter()
            .map(|verdict| match verdict {
                Some((offset, _)) => *offset,
                None => assigned.next().unwrap_or(Offset::ZERO),
            })
            .collect();
        let Body::Whole(mut payload, starts) = group.body else { return None };
        let epoch = self.epoch();
        let end = position + frame_bytes(payload.len()) as u64;
        let mut ends = Vec::with_capacity(group.metas.len());
        for (meta, start) in group.metas.iter().zip(&starts) {
            let batch = &mut payload[*start..*start + meta.bytes as usize];
            // A batch that parsed has a header to patch.
            let _ = afflux_record::batch::patch(batch, meta.base_offset, epoch);
            let at = position + (FRAME_HEADER_BYTES + start) as u64;
            self.index(meta, IndexEntry::new(meta, at, epoch.0, WHOLE), group.time, end);
            ends.push((meta.stream, meta.next_offset().0));
        }
        // The originals of left-out duplicates lie before this frame: they are durable with it.
        let appended =
            Appended { base_offsets, end: JournalPosition(end), append_time: group.time };
        let ticket = if group.is_relaxed {
            out.push((ticket, Ok(appended)));
            None
        } else {
            Some((ticket, appended))
        };
        self.enqueue(position, Kind::Group, Payload::of_group(payload, &starts), ends, ticket);
        self.boundary(end);
        None
    }

    /// Assigns offsets to all batches of a group.
    fn assign(&mut self, group: &mut Prepared) -> Vec<Offset> {
        let mut ends: HashMap<u32, i64> = HashMap::new();
        let streams = &self.streams;
        group
            .metas
            .iter_mut()
            .map(|meta| {
                let end = ends
                    .entry(meta.stream)
                    .or_insert_with(|| streams.get(&meta.stream).map_or(0, |stream| stream.end));
                meta.base_offset = Offset(*end);
                *end = meta.next_offset().0;
                meta.base_offset
            })
            .collect()
    }

    fn index(&mut self, meta: &frame::BatchMeta, entry: IndexEntry, time: Timestamp, end: u64) {
        if let Some(stream) = self.streams.get_mut(&meta.stream) {
            stream.add(meta, entry, time, end);
        }
    }

    fn boundary(&mut self, end: u64) {
        self.groups_end = end;
        if let Some(state) = self.files.get_mut(&self.file.base) {
            state.boundary(end);
        }
    }

    fn fits(&self, payload: usize, is_meta: bool) -> bool {
        let reserve = if is_meta { 0 } else { META_RESERVE.min(self.file.capacity / 16) };
        let reserve = if self.next.is_some() { 0 } else { reserve };
        let needed = frame_bytes(payload) as u64 + frame_bytes(0) as u64 + reserve;
        self.tail + needed <= self.file.end()
    }

    fn has_room(&self, payload: usize, is_meta: bool) -> bool {
        self.fits(payload, is_meta) || self.next.is_some()
    }

    /// Finds the place for a frame, in the next file if need be; `None` if there is none yet.
    fn reserve(&mut self, payload: usize, is_meta: bool) -> Option<u64> {
        if !self.fits(payload, is_meta) {
            let next = self.next.take()?;
            self.roll(next);
        }
        Some(self.tail)
    }

    /// Seals the present file and begins the next.
    fn roll(&mut self, next: Arc<JournalFile>) {
        let position = self.tail;
        self.enqueue(position, Kind::Seal, Payload::empty(), Vec::new(), None);
        let groups_end = self.groups_end;
        if let Some(state) = self.files.get_mut(&self.file.base) {
            state.seal_boundaries(groups_end);
        }
        let producers =
            encode_producers(self.streams.iter().map(|(number, s)| (*number, &s.producers)));
        self.sealed.push_back(Sealed {
            base: self.file.base,
            end: self.tail,
            sequence: self.sequence,
            incarnation: self.incarnation,
            producers,
        });
        self.tail = next.base + FIRST_PAGE;
        self.files.insert(next.base, FileState::new(next.clone()));
        self.file = next;
    }

    fn enqueue(
        &mut self,
        position: u64,
        kind: Kind,
        payload: Payload,
        ends: Vec<(u32, i64)>,
        ticket: Option<(TicketSender, Appended)>,
    ) {
        self.sequence += 1;
        self.in_flight_bytes += payload.len();
        self.hot.push(position + FRAME_HEADER_BYTES as u64, payload.bytes.clone());
        let frame = Frame { position, sequence: self.sequence, kind, payload };
        self.tail = frame.end();
        self.queue.push_back(Queued { frame, file: self.file.clone(), ends, ticket });
    }

    /// What was queued last, if its checksum is worth taking beside the writer.
    pub(crate) fn last_large(&self) -> Option<Payload> {
        let last = self.queue.back().map(|queued| queued.frame.payload.clone());
        last.filter(Payload::is_large)
    }

    /// Hands waiting frames to the writer: of one file, at most the configured bytes.
    pub(crate) fn take(&mut self) -> Option<WriteBatch> {
        let file = self.queue.front()?.file.clone();
        let mut frames = Vec::new();
        let mut bytes = 0;
        while let Some(queued) = self.queue.front()
            && queued.file.base == file.base
            && (frames.is_empty()
                || bytes + queued.frame.payload.len() <= self.options.write_bytes_max)
        {
            let Some(queued) = self.queue.pop_front() else { break };
            bytes += queued.frame.payload.len();
            frames.push(queued.frame.clone());
            self.writing.push(queued);
        }
        Some(WriteBatch { file, frames, incarnation: self.incarnation, durable: self.durable })
    }

    /// What was taken is durable.
    pub(crate) fn publish(&mut self, out: &mut Outcomes) {
        for queued in std::mem::take(&mut self.writing) {
            self.durable = queued.frame.end();
            self.in_flight_bytes -= queued.frame.payload.len();
            for (number, end) in queued.ends {
                if let Some(stream) = self.streams.get_mut(&number) {
                    stream.durable = stream.durable.max(end);
                }
            }
            if let Some((ticket, appended)) = queued.ticket {
                out.push((ticket, Ok(appended)));
            }
        }
        self.hot.written(self.durable);
        while self.waiters.peek().is_some_and(|waiter| waiter.end <= self.durable) {
            if let Some(Waiter { ticket, appended, .. }) = self.waiters.pop() {
                out.push((ticket, Ok(appended)));
            }
        }
    }

    /// A write or a sync failed: nothing is certain any more.
    pub(crate) fn fail(&mut self, error: &Arc<io::Error>, out: &mut Outcomes) {
        self.failed.get_or_insert_with(|| error.clone());
        let failed = || Err(AppendError::Failed(error.clone()));
        let queued = self.writing.drain(..).chain(self.queue.drain(..));
        out.extend(queued.filter_map(|queued| queued.ticket).map(|(ticket, _)| (ticket, failed())));
        out.extend(self.waiters.drain().map(|waiter| (waiter.ticket, failed())));
        while let Some(deferred) = self.undefer() {
            out.push((deferred.ticket, failed()));
        }
    }

    /// Whether the journal has failed.
    pub(crate) fn is_failed(&self) -> bool {
        self.failed.is_some()
    }

    pub(crate) fn failure(&self) -> Option<Arc<io::Error>> {
        self.failed.clone()
    }

    /// Forgets producers that have long been silent.
    pub(crate) fn expire_producers(&mut self, now: Timestamp) {
        let silent = self.options.producer_retention;
        self.streams.values_mut().for_each(|stream| stream.producers.expire(now, silent));
    }

    /// A group boundary at or behind a position, as near as they are remembered.
    pub(crate) fn boundary_at(&self, position: u64) -> u64 {
        let from = self.files.range(..=position).next_back().map_or(0, |(base, _)| *base);
        self.files
            .range(from..)
            .find_map(|(_, state)| {
                let boundaries = state.boundaries();
                let at = boundaries.partition_point(|boundary| *boundary < position);
                boundaries.get(at).copied()
            })
            .unwrap_or(self.groups_end)
    }
}
