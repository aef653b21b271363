//! Reading batches: what the index names, from memory or from disk.
//!
//! 1. Under the sequencer's lock the index is asked and what is hot is taken, shared. For the
//!    rest only files and places are noted.
//! 2. Without the lock, the system is told of the stretch of a file in which the batches lie, if
//!    enough of it is wanted: batches of one partition lie scattered between those of others, and
//!    many small reads of what is not in memory would take a disk's round trip each. What lies
//!    near each other is read at once. Every batch read from disk is checked: its offset, its
//!    checksum.
//!
//! Entries of sealed files come from their index file, through a small cache; such a read ends
//! with the file, and the next one goes on behind it.

use std::{collections::VecDeque, io, sync::Arc};

use afflux_env::Disk;
use afflux_record::{Header, batch};
use afflux_types::{LeaderEpoch, Offset, TopicPartition};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    error::ReadError,
    index::{IndexEntry, Run, WHOLE},
    journal::{IndexFile, JournalFile, Section},
    memory,
    sequencer::Sequencer,
};

/// Places on disk that are this near are read with one call.
const GAP_BYTES_MAX: u64 = 16 << 10;
/// The most that one call reads, unless one batch is larger.
const SPAN_BYTES_MAX: u64 = 1 << 20;

/// A stretch is announced if at least one byte in so many of it is wanted. What is read for the
/// others stays in memory for the readers of other partitions, who come the same way.
const SPARSE_MAX: u64 = 64;

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
}

impl Wanted {
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
    Some(Wanted { entry: *entry, sources, is_whole: place.is_some() })
}

/// Reads what was noted.
pub(crate) fn fetch(
    partition: &TopicPartition,
    wanted: &[Wanted],
) -> Result<Vec<Bytes>, ReadError> {
    announce(wanted);
    let mut batches = Vec::with_capacity(wanted.len());
    let mut at = 0;
    while at < wanted.len() {
        match &wanted[at].sources[..] {
            [Source::Hot(bytes)] if wanted[at].is_whole => {
                batches.push(bytes.clone());
                at += 1;
            }
            [Source::Disk(file, from, bytes)] if wanted[at].is_whole => {
                let near = near(&wanted[at..], file, *from, *bytes);
                let places = || {
                    wanted[at..at + near].iter().filter_map(|wanted| match &wanted.sources[..] {
                        [Source::Disk(_, place, bytes)] => Some((wanted, *place, *bytes)),
                        _ => None,
                    })
                };
                let end =
                    places().next_back().map_or(*from, |(_, at, bytes)| at + u64::from(bytes));
                let span = read(file, *from, (end - from) as usize)?;
                for (wanted, place, bytes) in places() {
                    let start = (place - from) as usize;
                    let batch = span.slice(start..start + bytes as usize);
                    check(partition, &wanted.entry, (&batch, place), file)?;
                    batches.push(batch);
                }
                at += near;
            }
            _ => {
                batches.push(join(partition, &wanted[at])?);
                at += 1;
            }
        }
    }
    Ok(batches)
}

/// Tells the system what will be read: now, unless that is done with one call anyway, and next.
fn announce(wanted: &[Wanted]) {
    let on_disk = wanted.iter().filter_map(|wanted| match &wanted.sources[..] {
        [Source::Disk(file, at, bytes)] => Some((file, *at, u64::from(*bytes))),
        _ => None,
    });
    let mut stretch: Option<(&Arc<JournalFile>, u64, u64, u64)> = None;
    for (file, at, bytes) in on_disk {
        // A read ends with the file that it began in; only a live index spans two.
        stretch = match stretch {
            Some((same, from, _, sum)) if same.base == file.base => {
                Some((same, from, at + bytes, sum + bytes))
            }
            Some(other) => Some(other),
            None => Some((file, at, at + bytes, bytes)),
        };
    }
    if let Some((file, from, to, bytes)) = stretch {
        let length = to - from;
        let goes_on = bytes >= AHEAD_FROM_BYTES;
        let ahead = if goes_on { length.min(AHEAD_BYTES_MAX) } else { 0 };
        if (goes_on || length > bytes) && length <= bytes * SPARSE_MAX {
            file.will_read(from, length + ahead);
        }
    }
}

/// How many of the wanted batches can be read at once with the first.
fn near(wanted: &[Wanted], file: &Arc<JournalFile>, from: u64, bytes: u32) -> usize {
    let mut end = from + u64::from(bytes);
    let mut count = 1;
    for next in &wanted[1..] {
        match &next.sources[..] {
            [Source::Disk(same, at, bytes)]
                if next.is_whole
                    && same.base == file.base
                    && *at <= end + GAP_BYTES_MAX
                    && at + u64::from(*bytes) - from <= SPAN_BYTES_MAX =>
            {
                end = at + u64::from(*bytes);
                count += 1;
            }
            _ => break,
        }
    }
    count
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
    file.read_onto(buf, bytes, at)
        .map_err(|source| ReadError::Io { path: file.path.clone(), source: Arc::new(source) })
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
