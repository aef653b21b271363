//! Reads a whole journal and says what is there. Changes nothing.
//!
//! 1. Files are read frame by frame in the order of their positions, those with an index too,
//!    which a start does not read. What counts is what counts for `journal::recovery`.
//! 2. An invalid frame in a sealed file with a good index does not keep the node from starting:
//!    it is noted, and the walk goes on at the next valid one. Unless the log's own metadata lie
//!    there, which a start does read.
//! 3. Any other invalid frame is the torn tail, or, by a proof behind it, where the walk stops.
//!    It stops too at a file without its first page, of the wrong length, or that is missing.
//! 4. What lies behind is searched for frames, to tell what would be lost.
//! 5. If the walk did not stop, files with what was compacted are read too.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    path::Path,
    sync::Arc,
};

use afflux_env::Disk;
use afflux_record::{
    batch,
    frame::{BatchMeta, Commit, FRAME_ALIGN, FrameHeader, Kind, Piece, read_group},
};
use afflux_types::{Incarnation, JournalPosition};
use bytes::Bytes;

use super::Damage;
use crate::{
    error::OpenError,
    journal::{
        FIRST_PAGE, Identity, IndexFile, JournalFile, Last, Reader, base_of, check_header,
        check_offsets, explain, is_usable, proof,
    },
    meta::{Change, META_STREAM, Meta},
};

/// A journal file.
pub(super) struct Found {
    pub(super) file: Arc<JournalFile>,
    /// Its first page, if it is the page of this file.
    pub(super) page: Option<Identity>,
    /// What is wrong with its page or its length.
    fault: Option<String>,
    /// Its index, if a start would go by it.
    index: Option<IndexFile>,
}

impl Found {
    /// Behind its last position, whatever its length is now.
    pub(super) fn end(&self) -> u64 {
        self.page.map_or(self.file.end(), |page| page.base.saturating_add(page.capacity))
    }
}

/// The batches of one partition in a stretch of the journal.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Span {
    /// Behind the last offset.
    pub(super) end: i64,
    /// How many offsets they take.
    pub(super) records: u64,
}

/// What a stretch of the journal holds.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    pub(super) frames: u64,
    pub(super) groups: u64,
    pub(super) streams: BTreeMap<u32, Span>,
    pub(super) changes: Vec<Change>,
    /// The first offset of changes of metadata.
    pub(super) changes_from: Option<i64>,
    /// Above every producer id in it.
    pub(super) producer_ids: i64,
}

impl Stretch {
    fn take(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        read: impl Fn(&[Piece]) -> io::Result<Bytes>,
    ) -> Result<(), String> {
        match header.kind {
            Kind::Group => {
                let (_, entries) = read_group(payload).map_err(|error| error.to_string())?;
                for (meta, start) in &entries {
                    let batch = &payload[*start..*start + meta.bytes as usize];
                    self.batch(meta, || Ok(Bytes::copy_from_slice(batch)))?;
                }
                self.groups += 1;
            }
            Kind::Commit => {
                let commit = Commit::decode(payload).map_err(|error| error.to_string())?;
                let lists = commit.pieces(header.position.0);
                let lists = lists.ok_or("its chunks do not hold its batches")?;
                for (meta, list) in commit.entries.iter().zip(lists) {
                    self.batch(meta, || read(&list))?;
                }
                self.groups += 1;
            }
            Kind::Chunk | Kind::Seal | Kind::Open | Kind::Close => {}
        }
        self.frames += 1;
        Ok(())
    }

    fn batch(
        &mut self,
        meta: &BatchMeta,
        bytes: impl FnOnce() -> io::Result<Bytes>,
    ) -> Result<(), String> {
        let span = self.streams.entry(meta.stream).or_default();
        check_offsets(meta, span.end)?;
        span.end = meta.next_offset().0;
        span.records += u64::try_from(meta.last_offset_delta).unwrap_or(0) + 1;
        self.producer_ids = self.producer_ids.max(meta.producer.0.saturating_add(1));
        if meta.stream == META_STREAM {
            self.changes_from.get_or_insert(meta.base_offset.0);
            let bytes = bytes().map_err(|error| error.to_string())?;
            batch::verify_crc(&bytes).map_err(|error| error.to_string())?;
            for record in afflux_record::records(&bytes) {
                let value = record.map_err(|error| error.to_string())?.value.unwrap_or_default();
                let change = Change::read(&value)?;
                self.changes.push(change);
            }
        }
        Ok(())
    }
}

/// Where the journal can not be followed any more.
#[derive(Debug)]
pub(super) struct Stop {
    pub(super) damage: Damage,
    /// The file in which it ends; if not `inside`, the first one that is all lost.
    pub(super) file: usize,
    pub(super) inside: bool,
}

/// A journal as it was found.
pub(super) struct Walk {
    pub(super) found: Vec<Found>,
    /// What stands before the stop, or all.
    pub(super) kept: Stretch,
    /// What stands behind it, as far as it can be read.
    pub(super) lost: Stretch,
    /// The last frame before the stop.
    pub(super) last: Last,
    /// Behind it.
    pub(super) end: u64,
    /// The highest incarnation that any frame or first page has.
    pub(super) incarnation_max: Incarnation,
    /// Whether something of a last write is left behind the end.
    pub(super) torn: bool,
    /// What is damaged without keeping the node from starting.
    pub(super) passed: Vec<Damage>,
    pub(super) stop: Option<Stop>,
    /// The files with what was compacted that are there.
    pub(super) compacted: BTreeSet<u64>,
    /// The file that a repair of this stop has begun, and not finished.
    pub(super) begun: Option<usize>,
    follows: bool,
}

/// What is done about an invalid place.
enum Step {
    /// A start would look at it.
    Stop,
    /// It would not: here is the next frame.
    On(u64),
    /// It would not, and the file ends with it.
    Sealed,
}

enum Ended {
    Sealed,
    /// With the reason, if it is known without looking behind.
    Invalid(u64, Option<String>),
}

/// Reads the journal in a directory.
pub(super) fn walk(disk: &dyn Disk, dir: &Path, journal: u128) -> Result<Walk, OpenError> {
    let walk = Walk::once(disk, dir, journal, None)?;
    // A file that was given back is told of far behind its place.
    let mut meta = Meta::new();
    let changes = walk.kept.changes.iter().chain(&walk.lost.changes);
    changes.for_each(|change| meta.apply(change.clone()));
    let missing = walk.gaps().find(|(_, gap)| !meta.is_recycled(gap.start, gap.end - gap.start));
    if let Some((behind, _)) = missing {
        return Walk::once(disk, dir, journal, Some(behind));
    }
    let mut walk = walk;
    if walk.stop.is_none() {
        walk.passed.extend(super::compacted::damage(disk, dir, journal, &meta));
    }
    Ok(walk)
}

fn find(disk: &dyn Disk, dir: &Path, journal: u128) -> Result<Vec<Found>, OpenError> {
    let mut found = Vec::new();
    for path in disk.list(dir).map_err(|error| OpenError::io(dir, error))? {
        let Some(base) = base_of(&path) else { continue };
        let opened = JournalFile::open(disk, &path, base);
        let (file, page) = opened.map_err(|error| OpenError::io(&path, error))?;
        let fault = file.is_whole(page, journal).err();
        let page = page.filter(|page| page.journal == journal && page.base == base);
        let index = IndexFile::open(disk, dir, journal, base)
            .filter(|index| fault.is_none() && is_usable(disk, index));
        found.push(Found { file: Arc::new(file), page, fault, index });
    }
    found.sort_by_key(|found| found.file.base);
    Ok(found)
}

/// The bytes of a staged batch.
fn read_pieces(found: &[Found], pieces: &[Piece]) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    for piece in pieces {
        let behind = found.partition_point(|found| found.file.base <= piece.position.0);
        let file = behind.checked_sub(1).and_then(|at| found.get(at));
        let file = &file.ok_or(io::ErrorKind::NotFound)?.file;
        let within = piece.position.0 + u64::from(piece.bytes) <= file.end();
        let from = bytes.len();
        bytes.resize(from + if within { piece.bytes as usize } else { 0 }, 0);
        file.read(&mut bytes[from..], piece.position.0)?;
    }
    Ok(bytes.into())
}

impl Walk {
    fn once(
        disk: &dyn Disk,
        dir: &Path,
        journal: u128,
        missing_before: Option<usize>,
    ) -> Result<Self, OpenError> {
        let found = find(disk, dir, journal)?;
        let pages = found.iter().filter_map(|found| found.page);
        let mut walk = Self {
            incarnation_max: pages.map(|page| page.incarnation).max().unwrap_or(Incarnation(0)),
            found,
            kept: Stretch::default(),
            lost: Stretch::default(),
            last: Last { sequence: 0, incarnation: Incarnation(0) },
            end: 0,
            torn: false,
            passed: Vec::new(),
            stop: None,
            compacted: super::compacted::find(disk, dir)?,
            begun: None,
            follows: false,
        };
        let mut ended = false;
        for at in 0..walk.found.len() {
            let found = &walk.found[at];
            let missing = (missing_before == Some(at))
                .then(|| "the file in front of it is missing".to_owned());
            let bad_page = || found.fault.clone().filter(|_| found.page.is_none());
            if let Some(reason) = missing.or_else(bad_page) {
                walk.stop(at, false, at, reason);
                ended = true;
                break;
            }
            walk.follows &= at > 0 && walk.found[at - 1].end() == found.file.base;
            if let Ended::Invalid(position, reason) = walk.read(disk, at)? {
                walk.judge(at, position, reason)?;
                ended = true;
                break;
            }
        }
        if !ended && !walk.found.is_empty() {
            let files = walk.found.len();
            walk.stop(files, false, files - 1, "the file behind it is missing".to_owned());
        }
        walk.salvage()?;
        Ok(walk)
    }

    /// Files of which something is kept.
    pub(super) fn kept_files(&self) -> &[Found] {
        let kept = self.stop.as_ref().map(|stop| stop.file + usize::from(stop.inside));
        let tail = || self.found.partition_point(|found| found.file.base <= self.end);
        &self.found[..kept.unwrap_or_else(tail)]
    }

    /// Stretches of the journal that have no file, each with the file behind it.
    pub(super) fn gaps(&self) -> impl Iterator<Item = (usize, Range<u64>)> {
        let mut end = 0;
        let files = self.kept_files().iter().enumerate().map(move |(at, found)| {
            let gap = end..found.file.base;
            end = found.end();
            (at, gap)
        });
        files.filter(|(_, gap)| !gap.is_empty())
    }

    fn stop(&mut self, file: usize, inside: bool, of: usize, reason: String) {
        let path = self.found[of].file.path.clone();
        let damage = Damage { path, position: JournalPosition(self.end), reason, stops: true };
        self.stop = Some(Stop { damage, file, inside });
    }

    fn read(&mut self, disk: &dyn Disk, at: usize) -> Result<Ended, OpenError> {
        let file = self.found[at].file.clone();
        let io = |error| OpenError::io(&file.path, error);
        let mut reader = Reader::new(&file);
        let mut position = file.base + FIRST_PAGE;
        loop {
            self.end = position;
            let frame = reader.frame(position).map_err(io)?.filter(|(header, _)| {
                (!self.follows || header.sequence.checked_sub(1) == Some(self.last.sequence))
                    && header.incarnation >= self.last.incarnation
            });
            let Some((header, payload)) = frame else {
                match self.step_over(disk, at, &mut reader, position)? {
                    Step::Stop => return Ok(Ended::Invalid(position, None)),
                    Step::On(next) => position = next,
                    Step::Sealed => return Ok(Ended::Sealed),
                }
                continue;
            };
            let Self { found, kept, .. } = self;
            let fault = found[at].fault.clone().filter(|_| header.kind == Kind::Seal);
            let taken = match fault {
                Some(fault) => Err(fault),
                None => check_header(&header, &file)
                    .and_then(|()| kept.take(&header, payload, |pieces| read_pieces(found, pieces)))
                    .map_err(|r| format!("a frame with a good checksum makes no sense: {r}")),
            };
            if let Err(reason) = taken {
                return Ok(Ended::Invalid(position, Some(reason)));
            }
            self.saw(&header);
            self.follows = true;
            position = header.end().0;
            if header.kind == Kind::Seal {
                self.end = position;
                return Ok(Ended::Sealed);
            }
        }
    }

    fn saw(&mut self, header: &FrameHeader) {
        self.last = Last { sequence: header.sequence, incarnation: header.incarnation };
        self.incarnation_max = self.incarnation_max.max(header.incarnation);
    }

    /// Passes an invalid place of a sealed file if a start does not read it.
    fn step_over(
        &mut self,
        disk: &dyn Disk,
        at: usize,
        reader: &mut Reader<'_>,
        position: u64,
    ) -> Result<Step, OpenError> {
        let Found { file, index: Some(index), .. } = &self.found[at] else {
            return Ok(Step::Stop);
        };
        let io = |error| OpenError::io(&file.path, error);
        let mut from = position + FRAME_ALIGN as u64;
        let mut next = None;
        while let Some(header) = reader.find(from).map_err(io)? {
            if header.position.0 >= index.end || self.last.is_before(&header) {
                next = Some(header.position.0).filter(|next| *next < index.end);
                break;
            }
            from = header.position.0 + FRAME_ALIGN as u64;
        }
        let damaged = position..next.unwrap_or(index.end);
        let metadata = index.runs.iter().position(|run| run.stream == META_STREAM);
        if let Some(section) = metadata {
            let section = index.section(disk, section as u32).map_err(io)?;
            if section.entries.iter().any(|entry| damaged.contains(&entry.at)) {
                return Ok(Step::Stop);
            }
        }
        let reason = format!(
            "up to position {} it is not what was written; the node starts all the same, and \
             whoever reads what was here is told",
            damaged.end
        );
        let path = file.path.clone();
        self.passed.push(Damage {
            path,
            position: JournalPosition(position),
            reason,
            stops: false,
        });
        self.follows = false;
        if let Some(next) = next {
            return Ok(Step::On(next));
        }
        self.last = Last { sequence: index.sequence, incarnation: index.incarnation };
        self.end = index.end;
        Ok(Step::Sealed)
    }

    /// Decides about an invalid frame: the torn tail, or a stop.
    fn judge(&mut self, at: usize, position: u64, reason: Option<String>) -> Result<(), OpenError> {
        if let Some(reason) = reason.or_else(|| self.found[at].fault.clone()) {
            self.stop(at, true, at, reason);
            return Ok(());
        }
        let files: Vec<_> = self.found[at..].iter().map(|found| found.file.clone()).collect();
        let proof = proof(&files, position, self.last);
        if let Some(proof) = proof.map_err(|(file, error)| OpenError::io(&file.path, error))? {
            self.stop(at, true, at, explain(&proof));
            return Ok(());
        }
        // Files behind the tail hold nothing, but a start looks at their first pages.
        let fault = (at + 1..self.found.len()).find(|at| self.found[*at].fault.is_some());
        if let Some(of) = fault {
            let reason = self.found[of].fault.clone().unwrap_or_default();
            self.stop(at, true, of, reason);
            return Ok(());
        }
        let mut reader = Reader::new(&files[0]);
        let word = reader.get(position, FRAME_ALIGN);
        let word = word.map_err(|error| OpenError::io(&files[0].path, error))?;
        self.torn = word.is_some_and(|word| word.iter().any(|byte| *byte != 0));
        Ok(())
    }

    /// The file, of those from `first` on, that a repair of a stop at a position begins behind it.
    fn find_begun(&self, first: usize, position: u64) -> Result<Option<usize>, OpenError> {
        for at in first..self.found.len() {
            let file = &self.found[at].file;
            let mut reader = Reader::new(file);
            let frame = reader.frame(file.base + FIRST_PAGE);
            let frame = frame.map_err(|error| OpenError::io(&file.path, error))?;
            let Some((header, payload)) = frame else { continue };
            let mut stretch = Stretch::default();
            let read = |pieces: &[Piece]| read_pieces(&self.found, pieces);
            if stretch.take(&header, payload, read).is_ok()
                && stretch.changes.contains(&Change::Cut(position, file.base))
            {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Reads what it can behind the stop.
    fn salvage(&mut self) -> Result<(), OpenError> {
        let Some(Stop { damage, file: first, inside }) = &self.stop else { return Ok(()) };
        let (first, position) = (*first, damage.position.0);
        let from = if *inside { position } else { 0 };
        self.begun = self.find_begun(first + usize::from(*inside), position)?;
        let mut last = self.last;
        for at in first..self.begun.unwrap_or(self.found.len()) {
            let file = self.found[at].file.clone();
            let io = |error| OpenError::io(&file.path, error);
            let mut reader = Reader::new(&file);
            let mut next = from.max(file.base + FIRST_PAGE);
            while let Some(header) = reader.find(next).map_err(io)? {
                if header.incarnation <= Incarnation::MAX {
                    self.incarnation_max = self.incarnation_max.max(header.incarnation);
                }
                next = header.position.0 + FRAME_ALIGN as u64;
                if last.is_before(&header)
                    && let Some((header, payload)) = reader.frame(header.position.0).map_err(io)?
                {
                    let Self { found, lost, .. } = self;
                    // What makes no sense is lost, whatever it was.
                    let _ = lost.take(&header, payload, |pieces| read_pieces(found, pieces));
                    last = Last { sequence: header.sequence, incarnation: header.incarnation };
                    next = header.end().0;
                }
            }
        }
        Ok(())
    }
}
