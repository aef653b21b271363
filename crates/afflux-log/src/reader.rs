//! Reading batches: what the index names, from memory or from disk.
//!
//! 1. Under the sequencer's lock the index is asked and what is hot is taken, shared. For the
//!    rest only files and places are noted.
//! 2. Without the lock, much that is old is read in whole blocks, which others may want too
//!    (`blocks`): batches of one partition lie scattered between those of others, and many small
//!    reads would take a disk's round trip each.
//! 3. A pass of compaction wants most of what it goes through, once, and nobody else does: it reads
//!    as much as one call can, past all that keeps something for others.
//! 4. Other places are read through the system's cache: what lies near each other at once, and the
//!    system is told of the stretch of a file in which all of it lies.
//!
//! Every batch read from disk is checked: its offset, its checksum. What can not be read, or is not
//! what was written, harms nothing beside it: who asks for all gets what lies before it, and who asks
//! for it an error.
//!
//! Entries of sealed files come from their index file, through a small cache.

use std::{collections::VecDeque, io, sync::Arc};

use afflux_env::Disk;
use afflux_record::{Header, batch};
use afflux_types::{LeaderEpoch, Offset, TopicPartition};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    blocks::Blocks,
    door::Request,
    error::ReadError,
    index::{IndexEntry, Run, WHOLE},
    journal::{IndexFile, JournalFile, READ_BYTES_MAX, Section},
    memory,
    sequencer::Sequencer,
    sweep::Sweep,
};

/// Places on disk that are this near are read with one call.
const GAP_BYTES_MAX: u64 = 16 << 10;
/// The most that one call reads, unless one batch is larger.
const SPAN_BYTES_MAX: u64 = 1 << 20;

/// All of a stretch is read if at least one byte in so many of it is wanted. What is read for the
/// others stays in memory for the readers of other partitions, who come the same way.
const SPARSE_MAX: u64 = 64;
/// An answer keeps the blocks that it is in if at least one of so many of their bytes is wanted, or
/// else is copied. One that is as large as a block may lie in two.
const DENSE_MAX: u64 = 3;
/// From this part of a block on it is worth it to read whole blocks.
const BLOCK_PART_MIN: u64 = 16;

/// Who reads this much of a partition at once comes back for what follows,
const AHEAD_FROM_BYTES: u64 = 256 << 10;
/// so at most this much of it is read while the answer is sent.
const AHEAD_BYTES_MAX: u64 = 4 << 20;

/// Bytes of a batch, or where they are.
#[derive(Debug, Clone)]
enum Source {
    Hot(Bytes),
    Disk(Arc<JournalFile>, u64, u32),
}

/// A batch to be read.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) entry: IndexEntry,
    sources: Vec<Source>,
    /// Whether it lies in one piece, as it is to be read.
    is_whole: bool,
    /// Whether its file is written no more.
    is_sealed: bool,
}

impl Wanted {
    /// A batch of which nothing is read.
    pub(crate) fn nothing_of(entry: &IndexEntry) -> Self {
        Self { entry: *entry, sources: Vec::new(), is_whole: true, is_sealed: true }
    }

    /// Whether all of it is in memory.
    pub(crate) fn is_hot(&self) -> bool {
        self.sources.iter().all(|source| matches!(source, Source::Hot(_)))
    }
}

/// Where the entries of a sealed file are from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Home<'a> {
    pub(crate) run: &'a Run,
    pub(crate) section: &'a Section,
}

/// Where the bytes at a position are; `None` if the file is gone.
fn source(state: &Sequencer, position: u64, bytes: u32) -> Option<Source> {
    if let Some(hot) = state.hot.get(position, bytes as usize) {
        return Some(Source::Hot(hot));
    }
    let (_, file) = state.files.range(..=position).next_back()?;
    Some(Source::Disk(file.file.clone(), position, bytes))
}

/// Notes where a batch is; `None` if its file is gone.
pub(crate) fn want(
    state: &Sequencer,
    entry: &IndexEntry,
    home: Option<Home<'_>>,
) -> Option<Wanted> {
    let place = match home {
        Some(home) if home.run.is_compacted() => {
            Some(home.run.index.base + u64::from(entry.pieces))
        }
        _ => (entry.pieces == WHOLE).then_some(entry.at),
    };
    let sources = if let Some(place) = place {
        vec![source(state, place, entry.bytes)?]
    } else {
        let (_, file) = state.files.range(..=entry.at).next_back()?;
        let lists = home.map_or(&file.pieces, |home| &home.section.pieces);
        let list = lists.get(entry.pieces as usize)?;
        list.iter().map(|p| source(state, p.position.0, p.bytes)).collect::<Option<_>>()?
    };
    Some(Wanted { entry: *entry, sources, is_whole: place.is_some(), is_sealed: home.is_some() })
}

/// Reads what was noted: all of it, or what lies before the first batch that can not be read, or the
/// reason if that is the first of all.
pub(crate) fn fetch(
    request: &Request<'_>,
    wanted: &[Wanted],
    blocks: &Blocks,
) -> Result<Vec<Bytes>, ReadError> {
    let mut batches = Vec::with_capacity(wanted.len());
    let mut stretch: Option<Stretch<'_>> = None;
    while batches.len() < wanted.len() {
        let rest = &wanted[batches.len()..];
        match fetch_next(request, rest, blocks, &mut stretch, &mut batches) {
            Err(error) if batches.is_empty() => return Err(error),
            Err(_) => break,
            Ok(()) => {}
        }
    }
    Ok(batches)
}

/// Reads the first of the wanted batches, and maybe more.
fn fetch_next<'a>(
    request: &Request<'a>,
    wanted: &'a [Wanted],
    blocks: &Blocks,
    stretch: &mut Option<Stretch<'a>>,
    batches: &mut Vec<Bytes>,
) -> Result<(), ReadError> {
    let partition = request.partition;
    let first = &wanted[0];
    match &first.sources[..] {
        [] => batches.push(Bytes::new()),
        [Source::Hot(bytes)] if first.is_whole => batches.push(bytes.clone()),
        [Source::Disk(file, place, bytes)] if first.is_whole => {
            let stretch = match stretch {
                Some(stretch) if stretch.file.id == file.id => stretch,
                other => other.insert(Stretch::begin(wanted, file, (blocks, request))),
            };
            match stretch.get(first, *place, *bytes, blocks) {
                Some(batch) => {
                    check(partition, &first.entry, (&batch, *place), file)?;
                    batches.push(batch);
                }
                None => read_near(partition, wanted, stretch.at_once, batches)?,
            }
        }
        _ => batches.push(join(partition, first)?),
    }
    Ok(())
}

/// Whether enough of a stretch is wanted to read all of it.
pub(crate) fn is_worth_all(length: u64, wanted: u64) -> bool {
    length <= wanted * SPARSE_MAX
}

/// Where in a file what is wanted from the disk lies, and how it is read.
struct Stretch<'a> {
    file: &'a Arc<JournalFile>,
    from: u64,
    to: u64,
    /// How much of it is wanted.
    bytes: u64,
    /// What it is a part of.
    sweep: Option<&'a Sweep>,
    in_blocks: bool,
    /// Past all that keeps something for others.
    at_once: bool,
}

impl<'a> Stretch<'a> {
    /// That of a file, of which something is wanted.
    fn begin(
        wanted: &'a [Wanted],
        file: &'a Arc<JournalFile>,
        (blocks, request): (&Blocks, &Request<'a>),
    ) -> Self {
        let sweep = request.sweep;
        let (in_blocks, at_once) = (false, false);
        let mut stretch = Self { file, from: u64::MAX, to: 0, bytes: 0, sweep, in_blocks, at_once };
        for wanted in wanted {
            if let [Source::Disk(same, at, bytes)] = &wanted.sources[..]
                && same.id == file.id
            {
                let bytes = u64::from(*bytes);
                stretch.from = stretch.from.min(*at);
                stretch.to = stretch.to.max(at + bytes);
                stretch.bytes += bytes;
            }
        }
        let is_sealed = wanted.first().is_some_and(|wanted| wanted.is_sealed);
        let is_much =
            stretch.bytes >= blocks.block_bytes / BLOCK_PART_MIN && stretch.is_worth_all();
        let is_dense = stretch.length() <= stretch.bytes * DENSE_MAX;
        stretch.at_once = is_sealed && is_much && is_dense && request.pass.is_some();
        stretch.in_blocks = is_sealed && !stretch.at_once && (is_much || sweep.is_some());
        match sweep {
            _ if stretch.at_once => {}
            // That was done for all who go along.
            Some(_) if stretch.in_blocks => {}
            None if stretch.in_blocks => blocks.will_read(file, stretch.from, stretch.ahead()),
            _ => stretch.announce(),
        }
        stretch
    }

    /// A batch, if it is there or is to be read in blocks.
    fn get(&mut self, wanted: &Wanted, place: u64, bytes: u32, blocks: &Blocks) -> Option<Bytes> {
        if self.at_once || !wanted.is_sealed || !(self.in_blocks || blocks.asks(self.file, place)) {
            return None;
        }
        let got = blocks.get(self.file, place, bytes as usize);
        if got.is_none() && self.in_blocks {
            self.in_blocks = false;
            self.announce();
        }
        // What is kept for a client that is slow to take it is not much more than it.
        let is_dense = match self.sweep {
            Some(sweep) => sweep.is_dense,
            None => blocks.bytes_of(self.file, self.from, self.to) <= self.bytes * DENSE_MAX,
        };
        got.map(|batch| if is_dense { batch } else { copied(&batch) })
    }

    fn length(&self) -> u64 {
        self.to - self.from
    }

    fn is_worth_all(&self) -> bool {
        is_worth_all(self.length(), self.bytes)
    }

    /// Where what will be read ends: now, and next.
    fn ahead(&self) -> u64 {
        let goes_on = self.bytes >= AHEAD_FROM_BYTES;
        self.to + if goes_on { self.length().min(AHEAD_BYTES_MAX) } else { 0 }
    }

    /// Tells the system what will be read, unless that is done with one call anyway.
    fn announce(&self) {
        let ahead = self.ahead();
        if (ahead > self.to || self.length() > self.bytes) && self.is_worth_all() {
            self.file.will_read(self.from, ahead - self.from);
        }
    }
}

/// Reads the first of the wanted batches and what lies near it with one call; `at_once`: as much as
/// one call can, past the system's cache.
fn read_near(
    partition: &TopicPartition,
    wanted: &[Wanted],
    at_once: bool,
    batches: &mut Vec<Bytes>,
) -> Result<(), ReadError> {
    // Those of which nothing is wanted may lie between the others.
    let mut places = wanted.iter().map_while(|wanted| match &wanted.sources[..] {
        [] => Some((&wanted.entry, None)),
        [Source::Disk(file, at, bytes)] if wanted.is_whole => {
            Some((&wanted.entry, Some((file, *at, u64::from(*bytes)))))
        }
        _ => None,
    });
    let Some((first, Some((file, from, bytes)))) = places.next() else { return Ok(()) };
    let mut near = vec![(first, Some((from, bytes)))];
    let mut end = from + bytes;
    let most = READ_BYTES_MAX as u64;
    let (gap_max, span_max) = if at_once { (most, most) } else { (GAP_BYTES_MAX, SPAN_BYTES_MAX) };
    for (entry, place) in places {
        if let Some((same, at, bytes)) = place {
            let is_near =
                same.id == file.id && at <= end + gap_max && at + bytes - from <= span_max;
            if !is_near {
                break;
            }
            end = at + bytes;
        }
        near.push((entry, place.map(|(_, at, bytes)| (at, bytes))));
    }
    let all = (end - from) as usize;
    let span = if at_once && all <= READ_BYTES_MAX {
        file.read_much(from, all).map_err(|error| broken(file, error))
    } else {
        read(file, from, all)
    };
    let span = match span {
        // It may be another that can not be read.
        Err(_) if near.len() > 1 => {
            near.truncate(1);
            read(file, from, bytes as usize)?
        }
        span => span?,
    };
    for (entry, place) in near {
        let Some((place, bytes)) = place else {
            batches.push(Bytes::new());
            continue;
        };
        let start = (place - from) as usize;
        let batch = span.slice(start..start + bytes as usize);
        check(partition, entry, (&batch, place), file)?;
        batches.push(batch);
    }
    Ok(())
}

fn read(file: &JournalFile, at: u64, bytes: usize) -> Result<Bytes, ReadError> {
    let mut buf = memory::take(bytes);
    read_onto(file, &mut buf, at, bytes)?;
    Ok(memory::share(buf))
}

fn read_onto(
    file: &JournalFile,
    buf: &mut Vec<u8>,
    at: u64,
    bytes: usize,
) -> Result<(), ReadError> {
    file.read_onto(buf, bytes, at).map_err(|error| broken(file, error))
}

fn broken(file: &JournalFile, error: io::Error) -> ReadError {
    ReadError::Io { path: file.path.clone(), source: Arc::new(error) }
}

/// The same bytes in memory of their own.
fn copied(bytes: &[u8]) -> Bytes {
    let mut copy = memory::take(bytes.len());
    copy.extend_from_slice(bytes);
    memory::share(copy)
}

/// Joins the pieces of a staged batch. Its offset was not known when they were written.
fn join(partition: &TopicPartition, wanted: &Wanted) -> Result<Bytes, ReadError> {
    let entry = &wanted.entry;
    let mut joined = memory::take(entry.bytes as usize);
    for source in &wanted.sources {
        match source {
            Source::Hot(bytes) => joined.extend_from_slice(bytes),
            Source::Disk(file, at, bytes) => read_onto(file, &mut joined, *at, *bytes as usize)?,
        }
    }
    let corrupt = |reason: String| ReadError::Corrupt {
        partition: partition.clone(),
        offset: Offset(entry.base),
        reason,
    };
    batch::patch(&mut joined, Offset(entry.base), LeaderEpoch(entry.epoch))
        .and_then(|()| batch::verify_crc(&joined))
        .map_err(|error| corrupt(error.to_string()))?;
    Ok(memory::share(joined))
}

fn check(
    partition: &TopicPartition,
    entry: &IndexEntry,
    (bytes, place): (&[u8], u64),
    file: &JournalFile,
) -> Result<(), ReadError> {
    let wrong = match Header::parse(bytes) {
        Ok(header) if header.base_offset.0 == entry.base && header.bytes == bytes.len() => {
            batch::verify_crc(bytes).err().map(|error| error.to_string())
        }
        Ok(header) => Some(format!("a batch with offset {} is there", header.base_offset)),
        Err(error) => Some(error.to_string()),
    };
    let Some(wrong) = wrong else { return Ok(()) };
    Err(ReadError::Corrupt {
        partition: partition.clone(),
        offset: Offset(entry.base),
        reason: format!("{}, position {}: {wrong}", file.path.display(), place),
    })
}

/// Sections of index files, the last used first.
#[derive(Debug)]
pub(crate) struct Sections {
    cached: Mutex<VecDeque<(u64, u32, Arc<Section>)>>,
    bytes_max: usize,
}

impl Sections {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { cached: Mutex::new(VecDeque::new()), bytes_max }
    }

    /// The entries of a run.
    pub(crate) fn get(
        &self,
        disk: &dyn Disk,
        partition: &TopicPartition,
        run: &Run,
    ) -> Result<Arc<Section>, ReadError> {
        let index: &IndexFile = &run.index;
        let mut cached = self.cached.lock();
        let hit = cached.iter().position(|(base, s, _)| (*base, *s) == (index.base, run.section));
        if let Some(found) = hit.and_then(|hit| cached.remove(hit)) {
            let section = found.2.clone();
            cached.push_front(found);
            return Ok(section);
        }
        drop(cached);
        let read = index.section(disk, run.section);
        let section = Arc::new(read.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ReadError::Corrupt {
                partition: partition.clone(),
                offset: Offset(run.base),
                reason: format!(
                    "the index {} is damaged: stop the node, remove that file and start again, it \
                     will be built anew",
                    index.path().display()
                ),
            },
            _ => ReadError::Io { path: index.path().to_owned(), source: Arc::new(error) },
        })?);
        let mut cached = self.cached.lock();
        cached.push_front((index.base, run.section, section.clone()));
        let mut bytes = 0;
        let kept = cached.iter().take_while(|(_, _, section)| {
            bytes += section.bytes();
            bytes <= self.bytes_max
        });
        let kept = kept.count().max(1);
        cached.truncate(kept);
        Ok(section)
    }
}
