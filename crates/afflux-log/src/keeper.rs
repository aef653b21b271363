//! What has to be done beside writing: the next file, indexes of sealed files, retention, dead
//! files, compaction.
//!
//! How a dead file is given back, and what a crash at each step leaves:
//! 1. A sealed file is dead if no partition that still exists has a batch in it that it still
//!    shows and that was not compacted, and no staged group that was committed in another file and
//!    is still shown has bytes in it. The last one that is indexed stays while its index knows
//!    producers: at a start nothing else may tell what they have written.
//! 2. If only the log's own changes of metadata keep it, their sum is appended as a snapshot.
//!    (One more snapshot.)
//! 3. That the file is given back is appended and waited for. (Known at the next start: the file
//!    is taken as a spare.)
//! 4. Its index is removed, and it becomes a spare; if there are enough of those, or somebody has
//!    begun to read it since, it is removed. (As after 3.)
//!
//! The next file is made of zeros, since each sync of a file that was written before is one of data
//! alone. But where files are filled faster than [`ZEROS_BELOW`], the disk has no time for bytes that
//! are overwritten at once, and syncs are large: then there is only room for it, until it gets quieter
//! (decision 0008).
//!
//! A file of compaction that the metadata names no more is removed. (Or at the next start.)

use std::{
    io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hashbrown::HashSet;

use crate::{
    embedded::{Shared, resolve},
    journal::{COMPACTED, Identity, IndexFile, JournalFile, Sealing, gather, install, spare_path},
    meta::{Change, META_STREAM},
    sequencer::{FileState, Outcomes, Sequencer},
};

/// How often the disk is asked for room while it is full.
const FULL_RETRY: Duration = Duration::from_millis(250);

/// Zeros are written while less than so many bytes a second are appended.
const ZEROS_BELOW: u64 = 400 << 20;

/// What the keeper remembers.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    /// Files that can be used again.
    pub(crate) spares: Vec<PathBuf>,
    /// The number of the next spare to be made.
    pub(crate) spare_next: u64,
    /// When the disk was last found full.
    full_at: Option<Duration>,
    /// When the next file was made ready, right after the present one was begun.
    made_at: Option<Duration>,
}

impl Keeper {
    /// Whether the present file of this size was filled, or may yet be, sooner than zeros for the
    /// next one would be worth it.
    fn is_hurried(&self, capacity: u64, now: Duration) -> bool {
        let enough = Duration::from_secs_f64(capacity as f64 / ZEROS_BELOW as f64);
        self.made_at.is_some_and(|at| now.saturating_sub(at) < enough)
    }
}

impl Shared {
    /// Something died: there may be files to be given back.
    pub(crate) fn look_for_dead_files(&self) {
        self.dead.store(true, Ordering::Release);
        // Under the lock, or the keeper might just be about to wait.
        let _state = self.state.lock();
        self.chores.notify_one();
    }

    /// Does one round of chores. Whether there was anything to do.
    pub(crate) fn keep_step(&self) -> bool {
        let prepared = self.prepare_step() || self.dress_step();
        let indexed = self.index_step();
        let retained = self.retain_step();
        let recycled = self.recycle_step();
        self.compact_step() || recycled || retained || indexed || prepared
    }

    pub(crate) fn run_keeper(&self) {
        loop {
            if self.keep_step() {
                continue;
            }
            let mut state = self.state.lock();
            if state.is_failed() || (state.closed && !state.is_busy()) {
                return;
            }
            // Also while it closes: groups that are still under way may need the next file.
            let due = self.dead.load(Ordering::Acquire)
                || self.retention_is_due()
                || self.compaction_is_due()
                || state.next.is_none() && state.full.is_none();
            if due {
                continue;
            }
            let is_bare = state.next.as_ref().is_some_and(|next| next.is_bare());
            if state.full.is_some() || !state.sealed.is_empty() || is_bare {
                self.chores.wait_for(&mut state, FULL_RETRY);
            } else {
                self.chores.wait_for(&mut state, self.options.retention_check);
            }
        }
    }

    /// Makes the next file ready, if it is not. Whether it was made, or groups refused for it.
    pub(crate) fn prepare_step(&self) -> bool {
        let (base, filled, capacity, incarnation) = {
            let state = self.state.lock();
            if state.next.is_some() || state.is_failed() || (state.closed && !state.is_busy()) {
                return false;
            }
            let capacity = (state.capacity() * 2).min(self.options.file_bytes);
            (
                state.next_base(),
                state.capacity(),
                capacity.max(state.capacity().min(self.options.file_bytes)),
                state.epoch().0,
            )
        };
        let now = self.env.clock.monotonic();
        let mut keeper = self.keeper.lock();
        let recently = |at: Duration| now.saturating_sub(at) < FULL_RETRY;
        if !self.stepped && keeper.full_at.is_some_and(recently) {
            return false;
        }
        let is_hurried = keeper.is_hurried(filled, now);
        let made = self.make_file(&mut keeper, (base, capacity), incarnation, is_hurried);
        keeper.made_at = Some(self.env.clock.monotonic());
        let mut outcomes = Outcomes::new();
        let mut becomes_full = false;
        let mut state = self.state.lock();
        let ready = match made {
            Ok(file) => {
                keeper.full_at = None;
                state.file_ready(file);
                true
            }
            Err(Unmade::Full { needed, free }) => {
                becomes_full = state.full.is_none();
                if becomes_full {
                    tracing::warn!(needed, free, "the disk is full: appends are refused");
                }
                keeper.full_at = Some(now);
                state.disk_is_full(needed, free, &mut outcomes);
                false
            }
            Err(Unmade::Io(error)) => {
                tracing::error!(%error, "the next journal file can not be made");
                state.fail(&Arc::new(error), &mut outcomes);
                false
            }
        };
        let failed = state.is_failed();
        drop(state);
        if becomes_full {
            self.retain_soon();
        }
        self.work.notify_one();
        let refused = !outcomes.is_empty();
        resolve(outcomes);
        if failed {
            // Whoever watches what is durable learns of the end by it.
            self.durable.send_modify(|_| {});
        }
        ready || refused
    }

    /// Writes the zeros of the next file if it is only room and that hurries no more. Whether it did.
    fn dress_step(&self) -> bool {
        let now = self.env.clock.monotonic();
        let file = {
            let keeper = self.keeper.lock();
            let mut state = self.state.lock();
            let is_due = !keeper.is_hurried(state.capacity(), now) && !state.is_failed();
            let Some(next) = state.next.take_if(|next| is_due && next.is_bare()) else {
                return false;
            };
            next
        };
        // Without them it is as good a file, only slower.
        if let Err(error) = file.dress() {
            tracing::warn!(%error, path = %file.path.display(), "zeros can not be written");
        }
        self.state.lock().file_ready(file);
        self.work.notify_one();
        true
    }

    fn make_file(
        &self,
        keeper: &mut Keeper,
        (base, capacity): (u64, u64),
        incarnation: i32,
        is_hurried: bool,
    ) -> Result<Arc<JournalFile>, Unmade> {
        let disk = &*self.env.disk;
        let mut is_bare = false;
        let (spare, capacity) = if let Some(spare) = keeper.spares.pop() {
            let len = disk.open(&spare, afflux_env::OpenMode::Read).and_then(|file| file.len());
            (spare, len.map_err(Unmade::Io)?)
        } else {
            let (needed, free) = self.room_for(capacity).map_err(Unmade::Io)?;
            if free < needed {
                return Err(Unmade::Full { needed, free });
            }
            let spare = spare_path(&self.dir, keeper.spare_next);
            keeper.spare_next += 1;
            let made = if is_hurried {
                JournalFile::make_bare(disk, &spare, capacity)
            } else {
                JournalFile::make_spare(disk, &spare, capacity).map(|()| false)
            };
            is_bare = made.map_err(|error| {
                let _ = disk.remove(&spare);
                match error.kind() {
                    io::ErrorKind::StorageFull => Unmade::Full { needed, free },
                    _ => Unmade::Io(error),
                }
            })?;
            (spare, capacity)
        };
        let incarnation = afflux_types::Incarnation(incarnation as u32);
        let identity = Identity { journal: self.journal, base, capacity, incarnation };
        let file = JournalFile::put_in_use(disk, &spare, &self.dir, identity);
        let file = file.map_err(Unmade::Io)?;
        file.set_bare(is_bare);
        Ok(Arc::new(file))
    }

    /// What a new file needs, and what is there for it: on the disk, and up to the log's own
    /// limit. The less of both counts.
    pub(crate) fn room_for(&self, capacity: u64) -> io::Result<(u64, u64)> {
        let free = self.env.disk.room(&self.dir)?.free;
        // Spares are used up before a file is made.
        let own: u64 = self.state.lock().files.values().map(|file| file.file.capacity).sum();
        let most = self.options.bytes_max.unwrap_or((own + free) / 10 * 9);
        let needed = capacity + self.options.free_bytes_min;
        if most.saturating_sub(own) < capacity {
            return Ok((capacity, most.saturating_sub(own)));
        }
        Ok((needed, free))
    }

    /// Writes the index of the oldest sealed file that is durable. Whether it did.
    fn index_step(&self) -> bool {
        let content = {
            let mut state = self.state.lock();
            let durable = state.durable();
            let Some(sealed) = state.sealed.front().filter(|sealed| sealed.end <= durable) else {
                return false;
            };
            let sealing = Sealing {
                journal: self.journal,
                end: sealed.end,
                sequence: sealed.sequence,
                incarnation: sealed.incarnation,
                producers: sealed.producers.clone(),
            };
            let base = sealed.base;
            let Some(file) = state.files.get(&base) else {
                state.sealed.pop_front();
                return true;
            };
            gather(file, state.streams.iter(), sealing)
        };
        // A cache: the log goes on without it, and it is tried again.
        let index = match IndexFile::write(&*self.env.disk, &self.dir, &content) {
            Ok(index) => Arc::new(index),
            Err(error) => {
                tracing::warn!(%error, base = content.base, "the index of a journal file can not be written");
                return false;
            }
        };
        let state = &mut *self.state.lock();
        if let Some(file) = state.files.get_mut(&content.base) {
            install(file, &mut state.streams, &index);
        }
        state.sealed.pop_front();
        true
    }

    /// Gives back one dead file. Whether it did.
    fn recycle_step(&self) -> bool {
        if !self.dead.swap(false, Ordering::AcqRel) {
            return false;
        }
        if self.remove_compacted() {
            self.dead.store(true, Ordering::Release);
            return true;
        }
        let Some((base, capacity, has_meta)) = dead_file(&self.state.lock()) else { return false };
        // Appending needs room, which this is about to make: what fails is tried when the next
        // thing dies.
        let given_back = {
            let _changes = self.changes.lock();
            let snapshot = if has_meta { self.snapshot_meta() } else { Ok(()) };
            snapshot.and_then(|()| {
                let change = Change::Recycle(base, capacity);
                self.change(&change)?;
                self.meta.write().apply(change);
                Ok(())
            })
        };
        if let Err(error) = given_back {
            tracing::warn!(%error, base, "a dead journal file can not be given back now");
            return false;
        }
        let file = {
            let state = &mut *self.state.lock();
            let Some(file) = state.files.remove(&base) else { return false };
            for stream in state.streams.values_mut() {
                stream.runs.retain(|run| run.index.base != base);
            }
            file.file
        };
        self.dead.store(true, Ordering::Release);
        if let Err(error) = self.give_back(&file) {
            let path = file.path.display();
            tracing::warn!(%error, %path, "a dead journal file stays where it is");
        }
        true
    }

    /// Removes a file of compaction that is not in use any more. Whether there was one.
    fn remove_compacted(&self) -> bool {
        let used: HashSet<u64> = {
            let meta = self.meta.read();
            meta.compacted().values().flat_map(|c| &c.files).map(|file| file.base).collect()
        };
        let file = {
            let state = &mut *self.state.lock();
            let mut compacted = state.files.range(COMPACTED..).map(|(base, _)| *base);
            let Some(unused) = compacted.find(|base| !used.contains(base)) else { return false };
            for stream in state.streams.values_mut() {
                stream.runs.retain(|run| run.index.base != unused);
            }
            state.files.remove(&unused)
        };
        // Who has it open reads on.
        if let Some(FileState { file, .. }) = file
            && let Err(error) = self.env.disk.remove(&file.path)
        {
            tracing::warn!(%error, path = %file.path.display(), "a file stays where it is");
        }
        true
    }

    fn snapshot_meta(&self) -> Result<(), crate::error::AppendError> {
        let snapshot = Change::Snapshot(self.meta.read().clone());
        let appended = self.change(&snapshot)?;
        if let (Some(stream), Some(offset)) =
            (self.state.lock().streams.get_mut(&META_STREAM), appended.base_offsets.first())
        {
            stream.start = offset.0;
        }
        Ok(())
    }

    /// Of a file that is in `files` no more, so that nobody begins to read it.
    fn give_back(&self, file: &Arc<JournalFile>) -> io::Result<()> {
        let disk = &*self.env.disk;
        disk.remove(&crate::journal::index_path(&self.dir, file.base))?;
        let mut keeper = self.keeper.lock();
        // Somebody may have begun since the file was found dead: a file that is removed stays
        // readable for who has it open, one that is written again does not.
        let unread = Arc::strong_count(file) == 1;
        if unread && keeper.spares.len() < self.options.spares_max {
            let spare = spare_path(&self.dir, keeper.spare_next);
            keeper.spare_next += 1;
            disk.rename(&file.path, &spare)?;
            keeper.spares.push(spare);
        } else {
            disk.remove(&file.path)?;
        }
        disk.sync_dir(&self.dir)
    }
}

/// Why a file was not made.
enum Unmade {
    Full { needed: u64, free: u64 },
    Io(io::Error),
}

/// The oldest dead file: its base, its length, and whether changes of metadata keep it.
fn dead_file(state: &Sequencer) -> Option<(u64, u64, bool)> {
    let staging = state.staging_from();
    let mut indexes = state.files.range(..COMPACTED).rev().filter_map(|(_, f)| f.index.as_ref());
    let newest = indexes.next().filter(|index| index.knows_producers()).map(|index| index.base);
    let shows = |stream: u32, end: i64| {
        state.streams.get(&stream).is_some_and(|stream| stream.shown_from() < end)
    };
    state.files.range(..COMPACTED).find_map(|(base, file)| {
        let index = file.index.as_ref()?;
        if index.end > state.durable() || staging < file.file.end() || newest == Some(*base) {
            return None;
        }
        let foreign = state.files.values().any(|other| {
            let mut open = other.foreign.iter();
            let kept = other.index.iter().any(|index| {
                let mut foreign = index.foreign.iter().filter(|(_, from)| from == base);
                let run = |stream| index.runs.iter().find(|run| run.stream == stream);
                foreign.any(|(stream, _)| run(*stream).is_some_and(|r| shows(r.stream, r.end)))
            });
            kept || open.any(|(s, from)| from == base && state.streams.contains_key(s))
        });
        let mut runs = index.runs.iter();
        if foreign || runs.any(|run| run.stream != META_STREAM && shows(run.stream, run.end)) {
            return None;
        }
        let has_meta =
            index.runs.iter().any(|r| r.stream == META_STREAM && shows(META_STREAM, r.end));
        Some((*base, file.file.capacity, has_meta))
    })
}
