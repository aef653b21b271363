//! The embedded log: the journal of this node behind the [`Log`] door.
//!
//! This module joins the parts: it opens a directory, runs the threads and answers calls.
//! What is decided is decided in `sequencer`, `meta`, `producers`, `transactions`, `settings` and
//! `journal::recovery`.
//!
//! Threads:
//! * the writer takes what waits, writes it, syncs it, publishes it (`write_step`);
//! * the keeper makes the next file ready, writes indexes of sealed files, drops what is too old
//!   (`retention`), compacts (`compaction`) and gives dead files back (`keep_step`, in `keeper`);
//! * the reader reads old blocks before somebody needs them (`blocks`).
//!
//! A log opened with [`EmbeddedLog::open_stepped`] has no threads: whoever holds it calls
//! [`EmbeddedLog::step`], and blocking calls step by themselves. So a test decides what happens
//! when.

use std::{
    borrow::Borrow,
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll, Wake, Waker},
    thread::{self, JoinHandle, Thread},
};

use afflux_env::{Env, Lock};
use afflux_types::{
    JournalPosition, Offset, ProducerId, Timestamp, TopicId, TopicName, TopicPartition,
};
use parking_lot::{Condvar, Mutex, ReentrantMutex, RwLock};
use tokio::sync::watch;

use crate::{
    blocks::Blocks,
    contract::{Appended, Batches, Entry, Group, Isolation, Log, Ticket, TicketSender, TopicSpec},
    door::Request,
    error::{AppendError, OpenError, ReadError, TopicError, TrimError},
    group,
    meta::{Change, Meta, Topic},
    options::LogOptions,
    reader::Sections,
    sequencer::{Outcomes, Sequencer},
    settings::Settings,
    sweep::Sweep,
};

/// Producer ids are taken from the journal in blocks of this size.
const PRODUCER_IDS_BLOCK: i64 = 1000;

/// The journal of this node. Its last handle's drop shuts it down.
pub struct EmbeddedLog {
    pub(crate) shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads and the callers share.
pub(crate) struct Shared {
    pub(crate) env: Env,
    /// The journal's directory.
    pub(crate) dir: PathBuf,
    pub(crate) journal: u128,
    pub(crate) options: LogOptions,
    pub(crate) meta: RwLock<Meta>,
    /// Held while metadata changes, so that one change is durable before the next is decided.
    /// Holds the producer ids that may be handed out: the next, and the end of the block.
    pub(crate) changes: Mutex<(i64, i64)>,
    pub(crate) state: Mutex<Sequencer>,
    /// Wakes the writer.
    pub(crate) work: Condvar,
    /// Wakes the keeper.
    pub(crate) chores: Condvar,
    /// Something died since the keeper last looked.
    pub(crate) dead: AtomicBool,
    pub(crate) keeper: Mutex<crate::keeper::Keeper>,
    pub(crate) retention: Mutex<crate::retention::Retention>,
    pub(crate) compaction: Mutex<crate::compaction::Compaction>,
    pub(crate) appended: watch::Sender<JournalPosition>,
    pub(crate) durable: watch::Sender<JournalPosition>,
    pub(crate) sections: Sections,
    pub(crate) blocks: Blocks,
    pub(crate) stepped: bool,
    /// Held by who steps, on whichever thread; a step may have to wait for others.
    pub(crate) stepping: ReentrantMutex<()>,
    /// The data directory's lock, given up on shutdown.
    pub(crate) lock: Mutex<Option<Box<dyn Lock>>>,
}

impl EmbeddedLog {
    /// Opens the log in a data directory, made if absent, and starts its threads.
    pub fn open(env: &Env, dir: &Path, options: LogOptions) -> Result<Self, OpenError> {
        let log = Self::open_stepped_as(env, dir, options, false)?;
        let spawn = |name: &str, run: Box<dyn FnOnce(&Shared) + Send>| {
            let shared = log.shared.clone();
            let thread = thread::Builder::new().name(name.to_owned());
            thread.spawn(move || run(&shared)).map_err(|error| OpenError::io(dir, error))
        };
        let ahead = log.shared.blocks.open();
        let threads = vec![
            spawn("journal-writer", Box::new(Shared::run_writer))?,
            spawn("journal-keeper", Box::new(Shared::run_keeper))?,
            spawn("journal-reader", Box::new(move |shared| shared.blocks.run(&ahead)))?,
        ];
        *log.threads.lock() = threads;
        Ok(log)
    }

    /// Opens the log without threads: see the module.
    pub fn open_stepped(env: &Env, dir: &Path, options: LogOptions) -> Result<Self, OpenError> {
        Self::open_stepped_as(env, dir, options, true)
    }

    fn open_stepped_as(
        env: &Env,
        dir: &Path,
        options: LogOptions,
        stepped: bool,
    ) -> Result<Self, OpenError> {
        let shared = crate::open::open(env, dir, options, stepped)?;
        Ok(Self { shared: Arc::new(shared), threads: Mutex::new(Vec::new()) })
    }

    /// Whether it has no threads: what blocks may then run on whichever thread steps it.
    pub fn is_stepped(&self) -> bool {
        self.shared.stepped
    }

    /// Does what the threads would do next. Whether there was anything to do.
    pub fn step(&self) -> bool {
        let _alone = self.shared.stepping.lock();
        let kept = self.shared.keep_step();
        self.shared.write_step() || kept
    }

    /// Takes a group. Never blocks; the ticket resolves once the group is durable.
    pub fn append(&self, group: &Group) -> Ticket {
        self.append_expecting(group, &[])
    }

    /// The same, if these partitions end at these offsets when the group gets its place.
    pub(crate) fn append_expecting(
        &self,
        group: &Group,
        expected: &[(TopicPartition, Offset)],
    ) -> Ticket {
        let (sender, ticket) = Ticket::new();
        self.take([(group, sender)].into_iter(), expected);
        ticket
    }

    /// Takes batches that have nothing to do with each other, in their order, as if each were
    /// appended alone; the log's lock is taken, and those who wait for it are woken, once.
    pub fn append_each(&self, batches: Vec<(Entry, TicketSender)>) {
        let groups = batches.into_iter();
        self.take(groups.map(|(entry, sender)| (Group { entries: vec![entry] }, sender)), &[]);
    }

    fn take(
        &self,
        groups: impl Iterator<Item = (impl Borrow<Group>, TicketSender)>,
        expected: &[(TopicPartition, Offset)],
    ) {
        let shared = &*self.shared;
        let time = shared.env.clock.now();
        let meta = shared.meta.read();
        let mut prepared = Vec::with_capacity(groups.size_hint().0);
        for (group, sender) in groups {
            match group::prepare(&meta, &shared.options, group.borrow(), expected, time) {
                Ok(group) => prepared.push((group, sender)),
                Err(error) => sender.resolve(Err(error)),
            }
        }
        drop(meta);
        if !prepared.is_empty() {
            shared.submit(prepared);
        }
    }

    /// Resolves once what has its place and is not durable takes less memory than the limit.
    /// Whoever appends for others waits for this before it reads more from them. Of what has no place
    /// yet, no ticket is resolved: that is for them to count.
    pub async fn ready(&self) {
        let mut durable = self.shared.durable.subscribe();
        loop {
            durable.borrow_and_update();
            let goes_on = {
                let state = self.shared.state.lock();
                let below = state.in_flight_bytes() < self.shared.options.in_flight_bytes_max;
                below || state.is_failed() || state.closed
            };
            if goes_on {
                return;
            }
            if durable.changed().await.is_err() {
                return;
            }
        }
    }

    /// Makes a topic whose records stay until somebody removes them. Blocks for one sync.
    pub fn create_topic(&self, spec: &TopicSpec) -> Result<Arc<Topic>, TopicError> {
        self.create_topic_with(spec, Settings::kept())
    }

    /// Removes a topic and all its records. Blocks for one sync.
    pub fn delete_topic(&self, name: &TopicName) -> Result<(), TopicError> {
        let _changes = self.shared.changes.lock();
        let topic = self.topic(name).ok_or_else(|| TopicError::Unknown(name.clone()))?;
        self.shared.change(&Change::Remove(topic.id))?;
        self.shared.meta.write().apply(Change::Remove(topic.id));
        let mut state = self.shared.state.lock();
        for stream in topic.streams() {
            state.streams.remove(&stream);
        }
        drop(state);
        self.shared.look_for_dead_files();
        Ok(())
    }

    /// Drops a partition's records below an offset, at most its durable end; where it begins
    /// now. Blocks for one sync.
    pub fn trim(&self, partition: &TopicPartition, before: Offset) -> Result<Offset, TrimError> {
        let mut outcomes = self.trim_all(&[(partition.clone(), before)]);
        outcomes.pop().unwrap_or(Err(TrimError::Append(AppendError::Closed)))
    }

    /// A topic by its name.
    pub fn topic(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.shared.meta.read().topic(name).cloned()
    }

    /// All topics, Afflux's own too, in the order of their creation.
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        self.shared.meta.read().topics().to_vec()
    }

    /// A topic by its id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.shared.meta.read().topics().iter().find(|topic| topic.id == id).cloned()
    }

    /// A producer id that was never handed out before, nor will be again. Blocks for one sync
    /// now and then.
    pub fn next_producer_id(&self) -> Result<ProducerId, AppendError> {
        let mut ids = self.shared.changes.lock();
        if ids.0 == ids.1 {
            let end = ids.1 + PRODUCER_IDS_BLOCK;
            self.shared.change(&Change::ProducerIds(end))?;
            self.shared.meta.write().apply(Change::ProducerIds(end));
            ids.1 = end;
        }
        ids.0 += 1;
        Ok(ProducerId(ids.0 - 1))
    }

    /// Batches of a partition from an offset on: at most `bytes_max` of them, but at least one
    /// if there is any. Never waits.
    pub fn fetch(
        &self,
        partition: &TopicPartition,
        from: Offset,
        bytes_max: usize,
        isolation: Isolation,
    ) -> Result<Batches, ReadError> {
        self.read(partition, from, Offset(i64::MAX), bytes_max, isolation)
    }

    /// The same if all of it is in memory; `None` if a disk would have to be asked.
    pub fn fetch_hot(
        &self,
        partition: &TopicPartition,
        from: Offset,
        bytes_max: usize,
        isolation: Isolation,
    ) -> Result<Option<Batches>, ReadError> {
        let to = Offset(i64::MAX);
        self.shared.read_hot(&Request::new(partition, (from, to), bytes_max, isolation))
    }

    /// As [`Self::fetch`], of a partition that a sweep takes: nothing if it is ahead of it.
    pub fn fetch_along(
        &self,
        sweep: &Sweep,
        partition: &TopicPartition,
        from: Offset,
        bytes_max: usize,
        isolation: Isolation,
    ) -> Result<Batches, ReadError> {
        let request = Request::new(partition, (from, Offset(i64::MAX)), bytes_max, isolation);
        Ok(self.shared.read(Request { sweep: Some(sweep), ..request })?.batches)
    }

    /// The first durable record with a timestamp at or after `time`: its offset and timestamp.
    pub fn offset_at(
        &self,
        partition: &TopicPartition,
        time: Timestamp,
    ) -> Result<Option<(Offset, Timestamp)>, ReadError> {
        let mut from = self.bounds(partition)?.start;
        while let Some(candidate) =
            self.shared.late_batch(partition, self.stream(partition)?, from, time)?
        {
            // What was trimmed may end within a batch.
            let first = Offset(candidate).max(from);
            let batches = self.fetch(partition, first, 1, Isolation::Uncommitted)?;
            let Some(batch) = batches.batches.first() else { return Ok(None) };
            for record in afflux_record::records(batch) {
                let record = record.map_err(|error| ReadError::Corrupt {
                    partition: partition.clone(),
                    offset: Offset(candidate),
                    reason: error.to_string(),
                })?;
                if record.timestamp >= time && record.offset >= from {
                    return Ok(Some((record.offset, record.timestamp)));
                }
            }
            from = batches.next;
        }
        Ok(None)
    }

    /// Why the journal takes nothing any more, if it failed. Those who watch [`Log::durable`] are
    /// woken when that happens.
    pub fn failure(&self) -> Option<Arc<std::io::Error>> {
        self.shared.state.lock().failure()
    }

    /// Takes nothing more, waits for what is under way, and ends the threads. What is shut down
    /// stays readable. A second call does nothing.
    pub fn shutdown(&self) {
        self.shared.close();
        self.shared.blocks.close();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
        if self.shared.lock.lock().take().is_some() {
            self.shared.last_words();
        }
    }

    pub(crate) fn stream(&self, partition: &TopicPartition) -> Result<u32, ReadError> {
        self.shared.stream(partition)
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Shared {
    pub(crate) fn stream(&self, partition: &TopicPartition) -> Result<u32, ReadError> {
        self.meta
            .read()
            .topic(&partition.topic)
            .and_then(|topic| topic.stream(partition.partition.0))
            .ok_or_else(|| ReadError::UnknownPartition(partition.clone()))
    }

    fn submit(&self, groups: impl IntoIterator<Item = (group::Prepared, TicketSender)>) {
        let mut outcomes = Outcomes::new();
        let mut state = self.state.lock();
        for (group, sender) in groups {
            state.submit(group, sender, &mut outcomes);
        }
        let appended = state.groups_end;
        let has_work = state.has_work();
        let wants_file = state.next.is_none();
        let large = state.last_large();
        drop(state);
        self.show_appended(appended);
        if has_work {
            self.work.notify_one();
        }
        if wants_file {
            self.chores.notify_one();
        }
        resolve(outcomes);
        if let Some(large) = large {
            large.crc();
        }
    }

    fn show_appended(&self, end: u64) {
        self.appended.send_if_modified(|shown| {
            let moved = shown.0 < end;
            shown.0 = shown.0.max(end);
            moved
        });
    }

    /// Appends a change of metadata and waits until it is durable. The caller holds `changes`.
    pub(crate) fn change(&self, change: &Change) -> Result<Appended, AppendError> {
        let (sender, ticket) = Ticket::new();
        let time = self.env.clock.now();
        self.submit([(crate::open::meta_group(&self.options, change, time)?, sender)]);
        self.settle(ticket)
    }

    /// Waits for a ticket, on any thread; steps if there are no threads to do so.
    fn settle(&self, mut ticket: Ticket) -> Result<Appended, AppendError> {
        if !self.stepped {
            return block_on(ticket);
        }
        loop {
            if let Some(outcome) = ticket.poll_now() {
                return outcome;
            }
            let _alone = self.stepping.lock();
            self.prepare_step();
            self.write_step();
        }
    }

    /// Writes, syncs and publishes what waits. Whether there was anything.
    pub(crate) fn write_step(&self) -> bool {
        let mut outcomes = Outcomes::new();
        let mut state = self.state.lock();
        if state.is_failed() || !state.has_work() {
            return false;
        }
        state.admit(&mut outcomes);
        let batch = state.take();
        let appended = state.groups_end;
        let wants_file = state.next.is_none();
        drop(state);
        if wants_file {
            self.chores.notify_one();
        }
        self.show_appended(appended);
        resolve(std::mem::take(&mut outcomes));
        let Some(batch) = batch else { return true };
        let written = batch.commit();
        let mut state = self.state.lock();
        match written {
            Ok(()) => state.publish(&mut outcomes),
            Err(error) => {
                tracing::error!(%error, path = %batch.file.path.display(), "the journal failed");
                state.fail(&Arc::new(error), &mut outcomes);
            }
        }
        let durable = state.durable();
        let sealed = !state.sealed.is_empty();
        drop(state);
        self.durable.send_replace(JournalPosition(durable));
        if sealed {
            self.chores.notify_one();
        }
        resolve(outcomes);
        true
    }

    fn run_writer(&self) {
        loop {
            if self.write_step() {
                continue;
            }
            let mut state = self.state.lock();
            if state.is_failed() || (state.closed && !state.is_busy()) {
                // The keeper waits for the writer's end.
                self.chores.notify_one();
                return;
            }
            if !state.has_work() {
                self.work.wait(&mut state);
            }
        }
    }

    fn close(&self) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.close();
        drop(state);
        self.work.notify_one();
        self.chores.notify_one();
        if self.stepped {
            let _alone = self.stepping.lock();
            while self.write_step() {}
        }
        // Those who wait for room or for durable groups look again, and see the end.
        self.durable.send_modify(|_| {});
        self.appended.send_modify(|_| {});
    }

    /// Writes that everything is durable, so that later damage can be told from a torn tail.
    fn last_words(&self) {
        let mut state = self.state.lock();
        if state.is_failed() || state.is_busy() {
            return;
        }
        state.last_words();
        // Two writes if the frame did not fit into the present file.
        while let Some(batch) = state.take() {
            if let Err(error) = batch.commit() {
                tracing::warn!(%error, "the journal's last frame was not written");
                return;
            }
            state.publish(&mut Outcomes::new());
        }
    }

    /// The base offset of the first durable batch from an offset on that has a record at or
    /// after a time.
    fn late_batch(
        &self,
        partition: &TopicPartition,
        stream: u32,
        from: Offset,
        time: Timestamp,
    ) -> Result<Option<i64>, ReadError> {
        // Both at once: a file that is sealed in between moves from the second to the first.
        let (runs, live) = {
            let state = self.state.lock();
            let Some(stream) = state.streams.get(&stream) else { return Ok(None) };
            let runs = stream.runs.iter();
            let runs = runs.filter(|run| run.end > from.0 && run.max_timestamp >= time.0);
            let mut live = stream.live.iter().take_while(|entry| entry.next() <= stream.durable);
            let live = live.find(|entry| entry.next() > from.0 && entry.max_timestamp >= time.0);
            (runs.cloned().collect::<Vec<_>>(), live.map(|entry| entry.base))
        };
        for run in runs {
            let section = self.sections.get(&*self.env.disk, partition, &run)?;
            let mut entries = run.entries(&section).iter();
            if let Some(entry) =
                entries.find(|entry| entry.next() > from.0 && entry.max_timestamp >= time.0)
            {
                return Ok(Some(entry.base));
            }
        }
        Ok(live)
    }
}

/// Resolves tickets, after the lock is let go.
pub(crate) fn resolve(outcomes: Outcomes) {
    for (ticket, outcome) in outcomes {
        ticket.resolve(outcome);
    }
}

/// Wakes a parked thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a ticket on this thread, whether or not it belongs to an async runtime: what it
/// waits for happens on the journal's own threads. Unconstrained, for a task whose budget is used
/// up would be woken only once it yields, which it does not.
pub(crate) fn block_on(ticket: Ticket) -> Result<Appended, AppendError> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut ticket = pin!(tokio::task::unconstrained(ticket));
    loop {
        match ticket.as_mut().poll(&mut cx) {
            Poll::Ready(outcome) => return outcome,
            Poll::Pending => thread::park(),
        }
    }
}
