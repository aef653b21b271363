//! Opening a data directory.
//!
//! ```text
//! DIR/lock      held while the log is open
//! DIR/format    "afflux 1 <journal id>\n": the version of everything below, and whose it is
//! DIR/journal/  the journal's files, their indexes, spares
//! ```
//! 1. The lock is taken: who else has the directory open keeps it.
//! 2. The format is checked, or written if the directory is empty.
//! 3. The journal is recovered (`journal::recovery`).
//! 4. A frame of the new incarnation is written and synced behind what was recovered. From here
//!    on nothing behind the cut can come back.

use std::{
    io,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use afflux_env::{Disk, Env, Lock, OpenMode};
use afflux_record::{
    Compression, Header,
    batch::Builder,
    frame::{BatchMeta, frame_bytes},
};
use afflux_types::{JournalPosition, Timestamp, TopicName, TopicPartition};
use parking_lot::{Condvar, Mutex, ReentrantMutex, RwLock};
use tokio::sync::watch;

use crate::{
    blocks::Blocks,
    compaction::Compaction,
    contract::{Entry, Group},
    embedded::Shared,
    error::{AppendError, OpenError},
    group::{self, Prepared},
    journal::{
        self, FIRST_PAGE, Identity, JournalFile, Recovered, recover, spare_path, write_whole,
    },
    keeper::Keeper,
    meta::{Change, META_STREAM},
    options::LogOptions,
    reader::Sections,
    retention::Retention,
    sequencer::{FileState, Sequencer, Start},
};

const FORMAT: &str = "afflux 1 ";

/// A change of metadata as a group.
pub(crate) fn meta_group(
    options: &LogOptions,
    change: &Change,
    time: Timestamp,
) -> Result<Prepared, AppendError> {
    let name = TopicName::new("__afflux_log").map_err(|_| AppendError::Closed)?;
    let partition = TopicPartition::new(name, 0);
    let malformed =
        |reason: String| AppendError::Malformed { partition: partition.clone(), reason };
    let value = serde_json::to_vec(change).map_err(|error| malformed(error.to_string()))?;
    let mut builder = Builder::new(Compression::None);
    builder.push(time, None, Some(&value));
    let batch = builder.finish().map_err(|error| malformed(error.to_string()))?;
    let header = Header::parse(&batch).map_err(|error| malformed(error.to_string()))?;
    let metas = vec![BatchMeta::new(META_STREAM, &header, &batch)];
    let group = Group { entries: vec![Entry { partition, batch }] };
    let mut prepared = group::build(options, &group, metas, time)?;
    prepared.is_meta = true;
    Ok(prepared)
}

/// Reads the format file: whose journal it is. `None` if there is no such file.
pub(crate) fn read_format(disk: &dyn Disk, dir: &Path) -> Result<Option<u128>, OpenError> {
    let path = dir.join("format");
    let io = |error| OpenError::io(&path, error);
    let file = match disk.open(&path, OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(io)?,
    };
    let len = file.len().map_err(io)?.min(256) as usize;
    let mut text = vec![0; len];
    file.read_exact_at(&mut text, 0).map_err(io)?;
    let text = String::from_utf8_lossy(&text);
    let id = text.strip_prefix(FORMAT).map(str::trim_end);
    let id = id.and_then(|id| u128::from_str_radix(id, 16).ok());
    let found = || format!("it says \"{}\"", text.trim_end().escape_debug());
    id.map(Some).ok_or_else(|| OpenError::Version { path: path.clone(), found: found() })
}

/// Reads the format file, or writes it.
fn format(env: &Env, dir: &Path) -> Result<u128, OpenError> {
    let disk = &*env.disk;
    if let Some(id) = read_format(disk, dir)? {
        return Ok(id);
    }
    refuse_strangers(disk, dir)?;
    let random = &env.random;
    let id = (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64());
    let path = dir.join("format");
    write_whole(disk, &path, format!("{FORMAT}{id:032x}\n").as_bytes())
        .map_err(|error| OpenError::io(&path, error))?;
    Ok(id)
}

/// A journal without a format file is of a version that we do not know, or damaged.
fn refuse_strangers(disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
    let path = dir.join("journal");
    match disk.list(&path) {
        Ok(paths) if !paths.is_empty() => Err(OpenError::Version {
            path: dir.join("format"),
            found: "it is missing, but there is a journal".to_owned(),
        }),
        _ => Ok(()),
    }
}

fn check_options(options: &LogOptions) -> Result<(), OpenError> {
    let smallest = options.first_file_bytes.min(options.file_bytes);
    let largest_frame = frame_bytes(options.whole_group_bytes_max.max(options.chunk_bytes) + 64);
    if smallest < FIRST_PAGE * 2
        || !smallest.is_multiple_of(FIRST_PAGE)
        || !options.file_bytes.is_multiple_of(FIRST_PAGE)
    {
        return Err(OpenError::Options("files are whole pages, at least two"));
    }
    if options.bytes_max.is_some_and(|most| most < options.file_bytes * 4) {
        return Err(OpenError::Options("the log's limit has no room for four files"));
    }
    if largest_frame as u64 * 5 / 4 + FIRST_PAGE > smallest {
        return Err(OpenError::Options("the largest frame does not fit into the smallest file"));
    }
    Ok(())
}

pub(crate) fn take_lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn Lock>, OpenError> {
    let path = dir.join("lock");
    disk.lock(&path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::InUse(dir.to_owned()),
        _ => OpenError::io(&path, error),
    })
}

/// Opens a data directory.
pub(crate) fn open(
    env: &Env,
    dir: &Path,
    options: LogOptions,
    stepped: bool,
) -> Result<Shared, OpenError> {
    check_options(&options)?;
    let disk = &*env.disk;
    let journal_dir = dir.join("journal");
    disk.create_dir_all(&journal_dir).map_err(|error| OpenError::io(dir, error))?;
    let lock = take_lock(disk, dir)?;
    let journal = format(env, dir)?;
    let mut recovered = recover(disk, &journal_dir, journal)?;
    let exhausted = || OpenError::Exhausted(dir.to_owned());
    let incarnation = recovered.incarnation.next().ok_or_else(exhausted)?;
    let mut keeper = Keeper::default();
    tidy(disk, &journal_dir, &mut recovered, &mut keeper, &options)?;
    let mut make = |base: u64, capacity: u64| {
        let identity = Identity { journal, base, capacity, incarnation };
        first_file(env, &journal_dir, identity, &mut keeper, &options)
    };
    let file = if let Some(file) = recovered.file.take() {
        file
    } else {
        let file = make(0, options.first_file_bytes.min(options.file_bytes))?;
        recovered.files.insert(0, FileState::new(file.clone()));
        recovered.tail = FIRST_PAGE;
        recovered.streams.entry(META_STREAM).or_default();
        file
    };
    // A tail at the very end of its file leaves room for a seal and nothing else.
    let room = recovered.tail + 2 * frame_bytes(0) as u64 <= file.end();
    if !room && recovered.next.is_none() {
        recovered.next = Some(make(file.end(), file.capacity)?);
    }
    let ids = recovered.meta.producer_ids_next;
    let start = Start {
        incarnation,
        tail: recovered.tail,
        sequence: recovered.sequence,
        groups_end: recovered.groups_end,
        file,
        next: recovered.next,
        files: recovered.files,
        streams: recovered.streams,
    };
    let state = begin(Sequencer::new(options.clone(), start))?;
    let due = env.clock.monotonic() + options.retention_check;
    Ok(Shared {
        env: env.clone(),
        dir: journal_dir,
        journal,
        sections: Sections::new(options.index_cache_bytes),
        blocks: Blocks::new(&options),
        retention: Mutex::new(Retention::begin_at(due)),
        compaction: Mutex::new(Compaction::begin_at(due)),
        options,
        meta: RwLock::new(recovered.meta),
        changes: Mutex::new((ids, ids)),
        appended: watch::Sender::new(JournalPosition(state.groups_end)),
        durable: watch::Sender::new(JournalPosition(state.durable())),
        state: Mutex::new(state),
        work: Condvar::new(),
        chores: Condvar::new(),
        dead: AtomicBool::new(true),
        keeper: Mutex::new(keeper),
        stepped,
        stepping: ReentrantMutex::default(),
        lock: Mutex::new(Some(lock)),
    })
}

/// Makes the new incarnation durable.
fn begin(mut state: Sequencer) -> Result<Sequencer, OpenError> {
    state.open();
    while let Some(batch) = state.take() {
        batch.commit().map_err(|error| OpenError::io(&batch.file.path, error))?;
        state.publish(&mut Vec::new());
    }
    Ok(state)
}

/// Makes a file that is needed at once.
fn first_file(
    env: &Env,
    dir: &Path,
    identity: Identity,
    keeper: &mut Keeper,
    options: &LogOptions,
) -> Result<Arc<JournalFile>, OpenError> {
    let disk = &*env.disk;
    let spare = spare_path(dir, keeper.spare_next);
    keeper.spare_next += 1;
    let free = disk.room(dir).map_err(|error| OpenError::io(dir, error))?.free;
    let needed = identity.capacity + options.free_bytes_min;
    let full = || OpenError::DiskFull { path: dir.to_owned(), needed, free };
    if free < needed {
        return Err(full());
    }
    JournalFile::make_spare(disk, &spare, identity.capacity).map_err(|error| {
        let _ = disk.remove(&spare);
        match error.kind() {
            io::ErrorKind::StorageFull => full(),
            _ => OpenError::io(&spare, error),
        }
    })?;
    let file = JournalFile::put_in_use(disk, &spare, dir, identity);
    Ok(Arc::new(file.map_err(|error| OpenError::io(&spare, error))?))
}

/// Removes what a crash left half made, and counts spares.
fn tidy(
    disk: &dyn Disk,
    dir: &Path,
    recovered: &mut Recovered,
    keeper: &mut Keeper,
    options: &LogOptions,
) -> Result<(), OpenError> {
    for path in disk.list(dir).map_err(|error| OpenError::io(dir, error))? {
        if journal::is_leftover(&path, |base| recovered.files.contains_key(&base)) {
            disk.remove(&path).map_err(|error| OpenError::io(&path, error))?;
        }
    }
    // New spares must not take the names of old ones.
    let numbers = recovered.spares.iter().filter_map(|path| journal::spare_number(path));
    keeper.spare_next = numbers.max().map_or(0, |last| last + 1);
    for path in std::mem::take(&mut recovered.spares) {
        let whole = |len: u64| {
            len >= options.first_file_bytes.min(options.file_bytes)
                && len.is_multiple_of(FIRST_PAGE)
        };
        let io = |error| OpenError::io(&path, error);
        let len = disk.open(&path, OpenMode::Read).and_then(|file| file.len()).map_err(io)?;
        if !whole(len) || keeper.spares.len() >= options.spares_max {
            disk.remove(&path).map_err(io)?;
            continue;
        }
        // A file that was given back, or prepared behind a cut, still has the name of its place.
        let mut spare = path.clone();
        if journal::spare_number(&path).is_none() {
            spare = spare_path(dir, keeper.spare_next);
            keeper.spare_next += 1;
            disk.rename(&path, &spare).map_err(io)?;
        }
        keeper.spares.push(spare);
    }
    disk.sync_dir(dir).map_err(|error| OpenError::io(dir, error))
}
