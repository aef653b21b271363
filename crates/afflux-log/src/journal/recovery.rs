//! What counts after a crash.
//!
//! 1. Every journal file must have its first page and its full length.
//! 2. In the order of their positions: a file with a good index beside it was sealed, and is not
//!    read. Any other is read frame by frame. A frame is valid if its checksum holds, it stands
//!    where it says, its number follows the last one's and its incarnation is not lower.
//! 3. At the first invalid frame, everything behind it is searched for valid frames of the same
//!    or a later incarnation. If one of them was written when the invalid place was known to be
//!    durable, what was durable is damaged: the log does not open, and says where and how it
//!    knows. Otherwise this is the torn tail of the last write: it is cut, and what lies behind
//!    it can not come back, since the next incarnation's frames forbid lower ones behind them.
//! 4. The valid part is synced: it may have been in memory only when the process died, and is
//!    about to be shown to readers.
//! 5. Sealed files that were read get their index. The changes of metadata are folded. Files
//!    that are missing must have been given back.
//! 6. Files with what was compacted, which the metadata names, take the place of what they stand
//!    for, wherever that is still found. If no index tells of the producers of files that were
//!    given back, these files tell of theirs.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use afflux_env::Disk;
use afflux_record::frame::{
    BatchMeta, Commit, FRAME_HEADER_BYTES, FrameHeader, Kind, frame_bytes, read_group,
};
use afflux_types::{Incarnation, Timestamp};
use bytes::Bytes;
use hashbrown::HashMap;

use super::{
    compacted_file::{open as open_compacted, recall},
    file::{FIRST_PAGE, JournalFile, base_of, spare_number},
    frames::{Last, Reader, check_header, check_offsets, explain, proof},
    index_file::{IndexFile, Section, encode_producers, path_of},
    sealing::{Sealing, gather, install, run_of},
};
use crate::{
    error::OpenError,
    index::{IndexEntry, Run, Stream, WHOLE},
    meta::{Change, Compacted, META_STREAM, Meta},
    producers::Producers,
    sequencer::FileState,
};

/// A journal as it was found.
pub(crate) struct Recovered {
    pub(crate) files: BTreeMap<u64, FileState>,
    pub(crate) streams: HashMap<u32, Stream>,
    pub(crate) meta: Meta,
    /// Where the next frame goes.
    pub(crate) tail: u64,
    /// The last frame's number.
    pub(crate) sequence: u64,
    /// The last frame's incarnation.
    pub(crate) incarnation: Incarnation,
    /// Behind the last group.
    pub(crate) groups_end: u64,
    /// The file with the tail; `None` in a new journal.
    pub(crate) file: Option<Arc<JournalFile>>,
    /// The prepared one behind it.
    pub(crate) next: Option<Arc<JournalFile>>,
    /// Files that can be used again.
    pub(crate) spares: Vec<PathBuf>,
}

/// Opens the journal's files and checks what can be checked without reading them.
struct Found {
    files: Vec<Arc<JournalFile>>,
    spares: Vec<PathBuf>,
}

fn find(disk: &dyn Disk, dir: &Path, journal: u128) -> Result<Found, OpenError> {
    let mut found = Found { files: Vec::new(), spares: Vec::new() };
    for path in disk.list(dir).map_err(|error| OpenError::io(dir, error))? {
        if spare_number(&path).is_some() {
            found.spares.push(path);
            continue;
        }
        let Some(base) = base_of(&path) else { continue };
        let opened = JournalFile::open(disk, &path, base);
        let (file, identity) = opened.map_err(|error| OpenError::io(&path, error))?;
        if let Err(reason) = file.is_whole(identity, journal) {
            return Err(OpenError::Corrupt { path, position: base, reason });
        }
        found.files.push(Arc::new(file));
    }
    found.files.sort_by_key(|file| file.base);
    Ok(found)
}

/// What has been read so far.
struct Scan<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    journal: u128,
    state: Recovered,
    /// The last indexed file, while the producers at its end are not yet loaded from it.
    producers_from: Option<Arc<IndexFile>>,
    /// An index that turned out to be damaged where it was needed.
    damaged: Option<PathBuf>,
    /// Whether nothing told of the producers of files that were given back.
    forgot: bool,
    /// Whether the number of the next frame is known: not behind a file that was given back.
    follows: bool,
}

/// Why the reading of a file ended.
enum Ended {
    Sealed,
    Invalid(u64),
}

impl Scan<'_> {
    fn load_producers(&mut self) {
        let Some(index) = self.producers_from.take() else { return };
        match index.producers(self.disk) {
            Some(producers) => {
                let streams = &mut self.state.streams;
                streams.values_mut().for_each(|stream| stream.producers = Producers::default());
                for (number, producers) in producers {
                    streams.entry(number).or_default().producers = producers;
                }
            }
            None => self.damaged = Some(index.path().to_owned()),
        }
    }

    /// Takes a sealed file as its index tells.
    fn take_index(&mut self, file: &Arc<JournalFile>, index: IndexFile) {
        let index = Arc::new(index);
        for (section, run) in index.runs.iter().enumerate() {
            let stream = self.state.streams.entry(run.stream).or_default();
            stream.skip_to(run.base);
            stream.end = run.end;
            stream.runs.push(run_of(&index, section));
        }
        self.state.sequence = index.sequence;
        self.state.incarnation = index.incarnation;
        self.state.tail = index.end;
        if let Some(last) = index.boundaries.last() {
            self.state.groups_end = *last;
        }
        self.producers_from = Some(index.clone());
        let mut state = FileState::new(file.clone());
        state.index = Some(index);
        self.state.files.insert(file.base, state);
    }

    /// Reads a file without an index.
    fn read(&mut self, file: &Arc<JournalFile>) -> Result<Ended, OpenError> {
        self.forgot |= self.state.files.is_empty() && file.base > 0;
        self.load_producers();
        self.state.files.insert(file.base, FileState::new(file.clone()));
        let mut reader = Reader::new(file);
        let mut position = file.base + FIRST_PAGE;
        loop {
            self.state.tail = position;
            let frame = reader.frame(position).map_err(|error| OpenError::io(&file.path, error))?;
            let Some((header, payload)) = frame else { return Ok(Ended::Invalid(position)) };
            let follows =
                !self.follows || header.sequence.checked_sub(1) == Some(self.state.sequence);
            if !follows || header.incarnation < self.state.incarnation {
                return Ok(Ended::Invalid(position));
            }
            let end = header.end().0;
            let corrupt = |reason: String| OpenError::Corrupt {
                path: file.path.clone(),
                position,
                reason: format!("a frame with a good checksum makes no sense: {reason}"),
            };
            check_header(&header, file).map_err(&corrupt)?;
            match header.kind {
                Kind::Group => {
                    let (time, entries) =
                        read_group(payload).map_err(|error| corrupt(error.to_string()))?;
                    for (meta, start) in entries {
                        let at = position + (FRAME_HEADER_BYTES + start) as u64;
                        self.index(&header, &meta, at, WHOLE, time, end).map_err(&corrupt)?;
                    }
                    self.boundary(file.base, end);
                }
                Kind::Commit => {
                    let commit =
                        Commit::decode(payload).map_err(|error| corrupt(error.to_string()))?;
                    let lists = commit
                        .pieces(position)
                        .ok_or_else(|| corrupt("its chunks do not hold its batches".to_owned()))?;
                    for (meta, list) in commit.entries.iter().zip(lists) {
                        let from: Vec<u64> = list
                            .iter()
                            .filter_map(|p| self.state.files.range(..=p.position.0).next_back())
                            .map(|(from, _)| *from)
                            .filter(|from| *from != file.base)
                            .collect();
                        let Some(state) = self.state.files.get_mut(&file.base) else { continue };
                        state.foreign.extend(from.into_iter().map(|from| (meta.stream, from)));
                        state.pieces.push(list.into());
                        let pieces = (state.pieces.len() - 1) as u32;
                        self.index(&header, meta, position, pieces, commit.time, end)
                            .map_err(&corrupt)?;
                    }
                    self.boundary(file.base, end);
                }
                Kind::Chunk | Kind::Seal | Kind::Open | Kind::Close => {}
            }
            self.state.sequence = header.sequence;
            self.state.incarnation = header.incarnation;
            self.follows = true;
            position = end;
            if header.kind == Kind::Seal {
                self.state.tail = end;
                return Ok(Ended::Sealed);
            }
        }
    }

    fn index(
        &mut self,
        header: &FrameHeader,
        meta: &BatchMeta,
        at: u64,
        pieces: u32,
        time: Timestamp,
        end: u64,
    ) -> Result<(), String> {
        let stream = self.state.streams.entry(meta.stream).or_default();
        check_offsets(meta, stream.end)?;
        stream.skip_to(meta.base_offset.0);
        let entry = IndexEntry::new(meta, at, header.incarnation.0 as i32, pieces);
        stream.add(meta, entry, time, end);
        Ok(())
    }

    fn boundary(&mut self, base: u64, end: u64) {
        self.state.groups_end = end;
        if let Some(state) = self.state.files.get_mut(&base) {
            state.boundary(end);
        }
    }

    /// Writes the index of a sealed file that was read, and drops its entries.
    fn write_index(&mut self, file: &Arc<JournalFile>) -> Result<(), OpenError> {
        if self.damaged.is_some() {
            // This attempt does not know all producers: what it writes would be wrong.
            return Ok(());
        }
        let streams = self.state.streams.iter();
        let producers = encode_producers(streams.map(|(number, s)| (*number, &s.producers)));
        let groups_end = self.state.groups_end;
        let Some(state) = self.state.files.get_mut(&file.base) else { return Ok(()) };
        state.seal_boundaries(groups_end);
        let content = gather(
            state,
            self.state.streams.iter(),
            Sealing {
                journal: self.journal,
                end: self.state.tail,
                sequence: self.state.sequence,
                incarnation: self.state.incarnation,
                producers,
            },
        );
        let index = IndexFile::write(self.disk, self.dir, &content)
            .map_err(|error| OpenError::io(&path_of(self.dir, file.base), error))?;
        install(state, &mut self.state.streams, &Arc::new(index));
        Ok(())
    }

    /// Decides about an invalid frame: an error if it was durable.
    fn judge(&self, position: u64, files: &[Arc<JournalFile>]) -> Result<(), OpenError> {
        let last = Last { sequence: self.state.sequence, incarnation: self.state.incarnation };
        match proof(files, position, last) {
            Ok(None) => Ok(()),
            Ok(Some(proof)) => Err(OpenError::Corrupt {
                path: files[0].path.clone(),
                position,
                reason: explain(&proof),
            }),
            Err((file, error)) => Err(OpenError::io(&file.path, error)),
        }
    }
}

/// Reads a batch from disk.
pub(crate) fn read_batch(
    files: &BTreeMap<u64, FileState>,
    entry: &IndexEntry,
    section: Option<&Section>,
) -> io::Result<Bytes> {
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let mut buf = vec![0; entry.bytes as usize];
    let find = |position: u64| files.range(..=position).next_back().map(|(_, state)| state);
    if entry.pieces == WHOLE {
        find(entry.at).ok_or_else(missing)?.file.read(&mut buf, entry.at)?;
    } else {
        let state = find(entry.at).ok_or_else(missing)?;
        let lists = section.map_or(&state.pieces, |section| &section.pieces);
        let mut filled = 0;
        for piece in &**lists.get(entry.pieces as usize).ok_or_else(missing)? {
            let part = &mut buf[filled..filled + piece.bytes as usize];
            find(piece.position.0).ok_or_else(missing)?.file.read(part, piece.position.0)?;
            filled += piece.bytes as usize;
        }
    }
    Ok(buf.into())
}

/// Reads all changes of metadata that are still there.
fn fold_meta(disk: &dyn Disk, state: &Recovered, dir: &Path) -> Result<Meta, OpenError> {
    let mut meta = Meta::new();
    let Some(stream) = state.streams.get(&META_STREAM) else { return Ok(meta) };
    let mut fold = |entry: &IndexEntry, section: Option<&Section>| {
        let file = state.files.range(..=entry.at).next_back().map(|(_, state)| &state.file.path);
        let path = file.map_or(dir, |path| path.as_path());
        let batch =
            read_batch(&state.files, entry, section).map_err(|error| OpenError::io(path, error))?;
        let corrupt = |reason: String| OpenError::Corrupt {
            path: path.to_owned(),
            position: entry.at,
            reason: format!("the log's own metadata: {reason}"),
        };
        afflux_record::batch::verify_crc(&batch).map_err(|error| corrupt(error.to_string()))?;
        for record in afflux_record::records(&batch) {
            let record = record.map_err(|error| corrupt(error.to_string()))?;
            let change = Change::read(&record.value.unwrap_or_default());
            meta.apply(change.map_err(&corrupt)?);
        }
        Ok::<(), OpenError>(())
    };
    for run in &stream.runs {
        let section = run
            .index
            .section(disk, run.section)
            .map_err(|error| OpenError::io(run.index.path(), error))?;
        for entry in &section.entries {
            fold(entry, Some(&section))?;
        }
    }
    for entry in &stream.live {
        fold(entry, None)?;
    }
    Ok(meta)
}

/// Reads the journal in a directory.
pub(crate) fn recover(disk: &dyn Disk, dir: &Path, journal: u128) -> Result<Recovered, OpenError> {
    loop {
        match attempt(disk, dir, journal)? {
            Ok(recovered) => return Ok(recovered),
            // Without it, its journal file is read instead.
            Err(damaged) => {
                tracing::warn!(path = %damaged.display(), "a damaged index is built again");
                disk.remove(&damaged).map_err(|error| OpenError::io(&damaged, error))?;
            }
        }
    }
}

/// Whether the metadata's entries can be read, which are needed at once.
pub(crate) fn is_usable(disk: &dyn Disk, index: &IndexFile) -> bool {
    let section = index.runs.iter().position(|run| run.stream == META_STREAM);
    section.is_none_or(|section| index.section(disk, section as u32).is_ok())
}

/// One attempt; the inner error is the damaged index that stands in its way.
fn attempt(
    disk: &dyn Disk,
    dir: &Path,
    journal: u128,
) -> Result<Result<Recovered, PathBuf>, OpenError> {
    let Found { files, spares } = find(disk, dir, journal)?;
    let state = Recovered {
        files: BTreeMap::new(),
        streams: HashMap::new(),
        meta: Meta::new(),
        tail: 0,
        sequence: 0,
        incarnation: Incarnation(0),
        groups_end: 0,
        file: None,
        next: None,
        spares,
    };
    let mut scan = Scan {
        disk,
        dir,
        journal,
        state,
        producers_from: None,
        damaged: None,
        forgot: false,
        follows: false,
    };
    let mut behind = None;
    for (i, file) in files.iter().enumerate() {
        if i > 0 && files[i - 1].end() != file.base {
            scan.follows = false;
        }
        let index = IndexFile::open(disk, dir, journal, file.base);
        if let Some(index) = index.filter(|index| is_usable(disk, index)) {
            scan.take_index(file, index);
            scan.follows = true;
            continue;
        }
        match scan.read(file)? {
            Ended::Sealed => {
                file.sync().map_err(|error| OpenError::io(&file.path, error))?;
                scan.write_index(file)?;
            }
            Ended::Invalid(position) => {
                scan.judge(position, &files[i..])?;
                file.sync().map_err(|error| OpenError::io(&file.path, error))?;
                scan.state.file = Some(file.clone());
                behind = Some(i + 1);
                break;
            }
        }
    }
    scan.load_producers();
    if let Some(damaged) = scan.damaged.take() {
        return Ok(Err(damaged));
    }
    finish(scan, &files, behind).map(Ok)
}

/// A compacted file and its run.
type Compacts = Vec<(Arc<JournalFile>, Run)>;

/// Puts what was compacted of a partition in the place of what was found of it.
fn take_compacted(
    (disk, dir, journal): (&dyn Disk, &Path, u128),
    (number, compacted): (u32, &Compacted),
    stream: &mut Stream,
    files: &mut BTreeMap<u64, FileState>,
) -> Result<Compacts, OpenError> {
    // It was told to begin behind what is missing of it in the journal.
    if stream.start <= compacted.to {
        stream.start = 0;
    }
    let mut opened = Compacts::with_capacity(compacted.files.len());
    for named in &compacted.files {
        let (file, run) = open_compacted(disk, dir, journal, (number, named))?;
        files.insert(named.base, FileState::new(file.clone()));
        opened.push((file, run));
    }
    let mut runs: Vec<Run> = opened.iter().map(|(_, run)| run.clone()).collect();
    let last = runs.pop();
    stream.compact(0, compacted.to, last);
    stream.runs.splice(0..0, runs);
    Ok(opened)
}

fn recall_producers(
    disk: &dyn Disk,
    compacted: &Compacts,
    stream: &mut Stream,
) -> Result<(), OpenError> {
    let known = stream.producers.states().map(|state| state.id.0).collect();
    for (file, run) in compacted {
        recall(disk, (file, run), &known, &mut stream.producers)
            .map_err(|error| OpenError::io(&file.path, error))?;
    }
    Ok(())
}

/// Checks the chain and joins what was read.
fn finish(
    scan: Scan<'_>,
    files: &[Arc<JournalFile>],
    behind: Option<usize>,
) -> Result<Recovered, OpenError> {
    let Scan { disk, dir, journal, mut state, forgot, .. } = scan;
    let Some(behind) = behind else {
        return match files.last() {
            None => Ok(state),
            Some(last) => Err(OpenError::Corrupt {
                path: last.path.clone(),
                position: last.end(),
                reason: "the file behind it is missing".to_owned(),
            }),
        };
    };
    state.meta = fold_meta(disk, &state, dir)?;
    let mut expected = 0;
    for file in &files[..behind] {
        let missing = file.base.checked_sub(expected);
        if missing.is_none_or(|bytes| bytes > 0 && !state.meta.is_recycled(expected, bytes)) {
            return Err(OpenError::Corrupt {
                path: file.path.clone(),
                position: expected,
                reason: "the file in front of it is missing".to_owned(),
            });
        }
        expected = file.end();
    }
    for file in &files[behind..] {
        if file.base == expected {
            state.next = Some(file.clone());
        } else {
            state.spares.push(file.path.clone());
        }
    }
    let given_back: Vec<u64> = state
        .files
        .iter()
        .filter(|(base, file)| state.meta.is_recycled(**base, file.file.capacity))
        .map(|(base, _)| *base)
        .collect();
    for base in given_back {
        if let Some(file) = state.files.remove(&base) {
            state.spares.push(file.file.path.clone());
            state.streams.values_mut().for_each(|s| s.runs.retain(|run| run.index.base != base));
        }
    }
    let mut streams: HashMap<u32, Stream> = HashMap::new();
    let numbers = state.meta.topics().iter().flat_map(|topic| topic.streams());
    for number in numbers.chain([META_STREAM]) {
        let mut stream = state.streams.remove(&number).unwrap_or_default();
        if let Some(compacted) = state.meta.compacted().get(&number) {
            let from = (disk, dir, journal);
            let runs = take_compacted(from, (number, compacted), &mut stream, &mut state.files)?;
            if forgot {
                recall_producers(disk, &runs, &mut stream)?;
            }
        }
        stream.start = stream.start.max(state.meta.start(number).0);
        stream.end = stream.end.max(stream.start);
        stream.durable = stream.end;
        streams.insert(number, stream);
    }
    state.streams = streams;
    // The tail's frame may be a seal's, for which a file's end always has room.
    debug_assert!(state.tail + frame_bytes(0) as u64 <= expected);
    Ok(state)
}
