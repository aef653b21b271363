//! What a repair writes and moves, decided from what was read. Pure.

use std::{io, ops::Range, path::Path};

use afflux_record::{
    Compression,
    batch::{self, Builder},
    frame::{FrameHeader, Kind, put_entry, put_group},
};
use afflux_types::{Incarnation, JournalPosition, LeaderEpoch, Offset, Timestamp};
use bytes::BytesMut;

use super::{
    compacted,
    walk::{Found, Stop, Walk},
};
use crate::{
    error::OpenError,
    journal::FIRST_PAGE,
    meta::{Change, META_STREAM, Meta},
};

/// Added to the highest producer id that is known: some may have been handed out by what can not
/// be read.
const PRODUCER_IDS_UNKNOWN: i64 = 1 << 20;
/// Left out behind the last position that is known: there may have been files that are gone.
const POSITIONS_UNKNOWN: u64 = 1 << 32;

/// What is to be done.
pub(super) struct Plan {
    /// Everything from here...
    pub(super) from: u64,
    /// ...to here is cut; the journal goes on there.
    pub(super) to: u64,
    /// What the file at `to` and its frames carry.
    pub(super) incarnation: Incarnation,
    /// The first frame there; none if the file is there already.
    pub(super) first: Option<Vec<u8>>,
    /// The file, by its place in the walk, that is sealed at `from`, and the seal.
    pub(super) seal: Option<(usize, FrameHeader)>,
    /// The files that are moved aside.
    pub(super) aside: Range<usize>,
}

/// The plan for what a walk of a directory stopped at; none if it did not stop.
pub(super) fn plan(walk: &Walk, dir: &Path, time: Timestamp) -> Result<Option<Plan>, OpenError> {
    let Some(Stop { damage, file, inside }) = &walk.stop else { return Ok(None) };
    let from = damage.position.0;
    let kept = file + usize::from(*inside);
    let begun = walk.begun.map(|at| &walk.found[at]);
    let behind_all = walk.found.iter().map(Found::end).max().unwrap_or(0);
    let fresh = (behind_all + POSITIONS_UNKNOWN).next_multiple_of(FIRST_PAGE);
    let to = begun.map_or(fresh, |found| found.file.base);
    let begun_page = begun.and_then(|found| found.page);
    let incarnation = match begun_page {
        Some(page) => Some(page.incarnation),
        // The start behind the repair needs one as well.
        None => walk.incarnation_max.next().filter(|it| it.next().is_some()),
    };
    let incarnation = incarnation.ok_or_else(|| OpenError::Exhausted(dir.to_owned()))?;
    let seal = FrameHeader {
        position: JournalPosition(from),
        sequence: walk.last.sequence + 1,
        durable: JournalPosition(from),
        incarnation,
        length: 0,
        kind: Kind::Seal,
    };
    let header = FrameHeader {
        position: JournalPosition(to + FIRST_PAGE),
        sequence: seal.sequence + 1,
        durable: JournalPosition(to),
        kind: Kind::Group,
        ..seal
    };
    let first = || first_frame(walk, &changes(walk, from, to), header, time);
    let first = begun.is_none().then(first).transpose();
    let first = first.map_err(|error| OpenError::io(dir, error))?;
    Ok(Some(Plan {
        from,
        to,
        incarnation,
        first,
        seal: inside.then_some((*file, seal)),
        aside: kept..walk.begun.unwrap_or(walk.found.len()),
    }))
}

/// What the log will know of itself.
pub(super) enum Metadata {
    /// What stands before the cut.
    Kept(Meta),
    /// Its beginning was summed up behind the cut, and given back: that sum, as near as may be to
    /// what was true at the cut.
    Restated(Meta),
    /// That sum can not be read, or nothing stands before the cut.
    Gone,
}

/// Finds out what the log knew of itself at the cut.
pub(super) fn metadata(walk: &Walk) -> Metadata {
    let fold = |changes: &[Change]| {
        let mut meta = Meta::new();
        for change in changes {
            meta.apply(change.clone());
        }
        meta
    };
    let is_sum = |change: &Change| matches!(change, Change::Snapshot(_));
    let kept = &walk.kept;
    if kept.groups == 0 {
        return Metadata::Gone;
    }
    if kept.changes_from == Some(0) || kept.changes.iter().any(is_sum) {
        return Metadata::Kept(fold(&kept.changes));
    }
    let Some(sum) = walk.lost.changes.iter().position(is_sum) else { return Metadata::Gone };
    let mut meta = fold(&walk.lost.changes[sum..=sum]);
    for change in &walk.lost.changes[..sum] {
        match change {
            Change::Create(topic) => meta.apply(Change::Remove(topic.id)),
            // What is still there shows itself.
            Change::Trim(stream, _) => meta.untrim(*stream),
            Change::Trims(starts) => starts.iter().for_each(|(stream, _)| meta.untrim(*stream)),
            _ => {}
        }
    }
    Metadata::Restated(meta)
}

/// What the log has to know of itself that stood in what is cut, and of the cut.
fn changes(walk: &Walk, from: u64, to: u64) -> Vec<Change> {
    let mut changes = Vec::new();
    let (kept, told) = match metadata(walk) {
        Metadata::Kept(meta) => (meta, 0),
        Metadata::Restated(meta) => {
            changes.push(Change::Snapshot(meta.clone()));
            let is_sum = |change: &Change| matches!(change, Change::Snapshot(_));
            let sum = walk.lost.changes.iter().position(is_sum);
            (meta, sum.map_or(0, |sum| sum + 1))
        }
        Metadata::Gone => (Meta::new(), 0),
    };
    changes.extend(compacted::changes(walk, &kept, told));
    let mut all = kept.clone();
    walk.lost.changes.iter().for_each(|change| all.apply(change.clone()));
    // That files before the cut were given back may have been told behind it.
    let gaps = walk.gaps().map(|(_, gap)| gap);
    let end = walk.kept_files().last().map_or(0, Found::end);
    let unknown = gaps
        .chain(std::iter::once(end..to))
        .filter(|gap| !gap.is_empty() && !kept.is_recycled(gap.start, gap.end - gap.start));
    changes.extend(unknown.map(|gap| Change::Recycle(gap.start, gap.end - gap.start)));
    changes.push(Change::Cut(from, to));
    let seen = walk.kept.producer_ids.max(walk.lost.producer_ids);
    let known = kept.producer_ids_next.max(all.producer_ids_next).max(seen);
    changes.push(Change::ProducerIds(known.saturating_add(PRODUCER_IDS_UNKNOWN)));
    changes
}

/// A group of changes of metadata, as a frame.
fn first_frame(
    walk: &Walk,
    changes: &[Change],
    header: FrameHeader,
    time: Timestamp,
) -> io::Result<Vec<u8>> {
    let mut builder = Builder::new(Compression::None);
    for change in changes {
        let value = serde_json::to_vec(change)?;
        builder.push(time, None, Some(&value));
    }
    let batch = builder.finish().map_err(io::Error::other)?;
    let mut batch = BytesMut::from(&batch[..]);
    let offset = walk.kept.streams.get(&META_STREAM).map_or(0, |span| span.end);
    batch::patch(&mut batch, Offset(offset), LeaderEpoch(header.incarnation.0 as i32))
        .map_err(io::Error::other)?;
    let mut payload = Vec::new();
    put_group(&mut payload, time, 1);
    put_entry(&mut payload, META_STREAM, &batch);
    let header = FrameHeader { length: payload.len() as u32, ..header };
    let mut frame = header.encode(&payload).to_vec();
    frame.extend_from_slice(&payload);
    Ok(frame)
}
