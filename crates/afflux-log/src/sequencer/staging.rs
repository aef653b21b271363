//! Groups that do not get their place at once: large ones, those behind them, those for which
//! there is no file yet. See the module above for the rules.

use std::sync::Arc;

use afflux_record::frame::{
    self, Commit, FRAME_HEADER_BYTES, Kind, PREFIX_BYTES, Piece, frame_bytes,
};
use afflux_types::JournalPosition;

use super::{Outcomes, Sequencer};
use crate::{
    contract::{Appended, TicketSender},
    error::AppendError,
    group::{Body, Prepared},
    index::{IndexEntry, WHOLE},
    journal::{JournalFile, Payload},
    memory,
};

/// A group without a place yet.
pub(super) struct Deferred {
    pub(super) group: Prepared,
    pub(super) ticket: TicketSender,
    pub(super) staged: Option<Staged>,
}

/// How far the staging of a group is.
pub(super) struct Staged {
    number: u64,
    /// The batch, and the byte in it, that come next.
    next: (usize, usize),
    pub(super) chunks: Vec<Piece>,
}

impl Sequencer {
    fn disk_full(&self) -> Option<AppendError> {
        let (needed, free) = self.full?;
        Some(AppendError::DiskFull { needed, free })
    }

    pub(super) fn defer(&mut self, group: Prepared, ticket: TicketSender, out: &mut Outcomes) {
        if self.wants_file
            && let Some(error) = self.disk_full()
        {
            self.wants_file = !self.deferred.is_empty();
            return out.push((ticket, Err(error)));
        }
        self.count(&group);
        let staged = matches!(group.body, Body::Staged(_)).then(|| {
            self.staged_next += 1;
            Staged { number: self.staged_next, next: (0, 0), chunks: Vec::new() }
        });
        self.deferred.push_back(Deferred { group, ticket, staged });
    }

    fn count(&mut self, group: &Prepared) {
        for meta in &group.metas {
            *self.deferred_streams.entry(meta.stream).or_default() += 1;
        }
    }

    pub(super) fn undefer(&mut self) -> Option<Deferred> {
        let deferred = self.deferred.pop_front()?;
        for meta in &deferred.group.metas {
            if let Some(count) = self.deferred_streams.get_mut(&meta.stream) {
                *count -= 1;
                if *count == 0 {
                    self.deferred_streams.remove(&meta.stream);
                }
            }
        }
        Some(deferred)
    }

    /// The next file is there.
    pub(crate) fn file_ready(&mut self, file: Arc<JournalFile>) {
        self.next = Some(file);
        self.wants_file = false;
        self.full = None;
    }

    /// The next file can not be made. Groups that wait for it are refused.
    pub(crate) fn disk_is_full(&mut self, needed: u64, free: u64, out: &mut Outcomes) {
        self.full = Some((needed, free));
        if self.wants_file {
            self.wants_file = false;
            while let Some(deferred) = self.undefer() {
                out.push((deferred.ticket, Err(AppendError::DiskFull { needed, free })));
            }
        }
    }

    /// Gives deferred groups their places, as far as there is space, and at most one chunk.
    pub(crate) fn admit(&mut self, out: &mut Outcomes) {
        while !self.wants_file
            && let Some(front) = self.deferred.front()
        {
            if front.staged.is_none() {
                let Some(Deferred { group, ticket, .. }) = self.undefer() else { return };
                if let Some((group, ticket)) = self.sequence(group, ticket, out) {
                    self.put_back(group, ticket, None);
                    return;
                }
                continue;
            }
            let Some(Deferred { group, ticket, staged: Some(mut staged) }) = self.undefer() else {
                return;
            };
            let streams = &self.streams;
            if !group.metas.iter().all(|meta| streams.contains_key(&meta.stream)) {
                let gone = group.metas.iter().position(|m| !streams.contains_key(&m.stream));
                let partition = group.partitions[gone.unwrap_or(0)].clone();
                out.push((ticket, Err(AppendError::UnknownPartition(partition))));
                continue;
            }
            if self.stage_chunk(&group, &mut staged) {
                if let Some((group, ticket)) = self.commit(group, ticket, &staged, out) {
                    self.put_back(group, ticket, Some(staged));
                }
            } else {
                self.put_back(group, ticket, Some(staged));
            }
            return;
        }
    }

    fn put_back(&mut self, group: Prepared, ticket: TicketSender, staged: Option<Staged>) {
        self.count(&group);
        self.deferred.push_front(Deferred { group, ticket, staged });
    }

    /// Queues one chunk; whether the group is all staged.
    fn stage_chunk(&mut self, group: &Prepared, staged: &mut Staged) -> bool {
        let Body::Staged(batches) = &group.body else { return true };
        let (mut batch, mut byte) = staged.next;
        if batch == batches.len() {
            return true;
        }
        let mut payload = memory::take(PREFIX_BYTES + self.options.chunk_bytes);
        frame::put_chunk(&mut payload, staged.number, staged.chunks.len() as u32);
        while batch < batches.len() && payload.len() < PREFIX_BYTES + self.options.chunk_bytes {
            let room = PREFIX_BYTES + self.options.chunk_bytes - payload.len();
            let bytes = &batches[batch][byte..];
            let taken = bytes.len().min(room);
            payload.extend_from_slice(&bytes[..taken]);
            byte += taken;
            if taken == bytes.len() {
                (batch, byte) = (batch + 1, 0);
            }
        }
        let Some(position) = self.reserve(payload.len(), false) else {
            self.wants_file = true;
            return false;
        };
        let start = position + (FRAME_HEADER_BYTES + PREFIX_BYTES) as u64;
        let bytes = (payload.len() - PREFIX_BYTES) as u32;
        staged.chunks.push(Piece { position: JournalPosition(start), bytes });
        staged.next = (batch, byte);
        let payload = Payload::new(memory::share(payload));
        self.enqueue(position, Kind::Chunk, payload, Vec::new(), None);
        batch == batches.len()
    }

    /// Gives a staged group its offsets; the group itself if there is no space.
    fn commit(
        &mut self,
        mut group: Prepared,
        ticket: TicketSender,
        staged: &Staged,
        out: &mut Outcomes,
    ) -> Option<(Prepared, TicketSender)> {
        let (verdicts, ticket) = self.judged(&group, ticket, out)?;
        if let Some(at) = verdicts.iter().position(Option::is_some) {
            // The chunks are written as they are: a part of them can not be left out.
            let reason = "it was written before, the rest of its large group was not".to_owned();
            let partition = group.partitions[at].clone();
            out.push((ticket, Err(AppendError::Malformed { partition, reason })));
            return None;
        }
        let size = Commit::encoded_bytes(staged.chunks.len(), group.metas.len());
        let Some(position) = self.reserve(size, false) else {
            self.wants_file = true;
            return Some((group, ticket));
        };
        let base_offsets = self.assign(&mut group);
        let end = position + frame_bytes(size) as u64;
        let commit =
            Commit { time: group.time, chunks: staged.chunks.clone(), entries: group.metas };
        let lists = commit.pieces(position).unwrap_or_default();
        let epoch = self.epoch().0;
        let mut ends = Vec::with_capacity(commit.entries.len());
        for (meta, list) in commit.entries.iter().zip(lists) {
            let pieces = self.keep_pieces(meta.stream, list);
            self.index(meta, IndexEntry::new(meta, position, epoch, pieces), group.time, end);
            ends.push((meta.stream, meta.next_offset().0));
        }
        let appended =
            Appended { base_offsets, end: JournalPosition(end), append_time: group.time };
        let payload = Payload::new(commit.encode().into());
        self.enqueue(position, Kind::Commit, payload, ends, Some((ticket, appended)));
        self.boundary(end);
        None
    }

    fn keep_pieces(&mut self, stream: u32, list: Vec<Piece>) -> u32 {
        let base = self.file.base;
        let foreign: Vec<u64> = list
            .iter()
            .filter_map(|piece| self.files.range(..=piece.position.0).next_back())
            .map(|(from, _)| *from)
            .filter(|from| *from != base)
            .collect();
        let Some(state) = self.files.get_mut(&base) else { return WHOLE };
        state.foreign.extend(foreign.into_iter().map(|from| (stream, from)));
        state.pieces.push(list.into());
        (state.pieces.len() - 1) as u32
    }
}
