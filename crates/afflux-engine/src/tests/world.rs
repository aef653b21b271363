//! A node without threads: the log and the line move when the test says so.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use afflux_codec::json;
use afflux_env::sim::Sim;
use afflux_log::{EmbeddedLog, Entry, Group, Isolation, Log, LogOptions, Ticket, TopicSpec};
use afflux_record::{
    Compression,
    batch::{self, Builder, Record},
    changelog::Changes,
};
use afflux_types::{ObjectId, Offset, Timestamp, TopicName, TopicPartition};

use crate::{
    EngineError, EngineOptions, Event, Follower, Pinned, ResumeToken,
    ddl::Ddl,
    engine,
    line::{Line, Step},
    published::Shared,
};

pub(crate) struct World {
    pub(crate) log: Arc<EmbeddedLog>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) ddl: Ddl,
    pub(crate) line: Line,
}

/// Small files and small groups, so that a short run meets every case.
pub(crate) fn log_options() -> LogOptions {
    LogOptions {
        file_bytes: 256 << 10,
        first_file_bytes: 256 << 10,
        write_bytes_max: 16 << 10,
        whole_group_bytes_max: 700,
        chunk_bytes: 256,
        hot_bytes: 16 << 10,
        block_bytes: 4 << 10,
        block_cache_bytes: 16 << 10,
        index_cache_bytes: 4 << 10,
        free_bytes_min: 0,
        spares_max: 2,
        ..LogOptions::default()
    }
}

/// Small ticks and small bounds, for the same reason.
pub(crate) fn options() -> EngineOptions {
    EngineOptions {
        tick_bytes_max: 2 << 10,
        catch_up_bytes_max: 1 << 10,
        in_flight_ticks_max: 4,
        recent_bytes_max: 2 << 10,
        follow_bytes_max: 64,
        history_bytes_min: 1 << 20,
        snapshot_bytes_min: 4 << 10,
        snapshot_step_bytes_max: 256,
        ..EngineOptions::default()
    }
}

pub(crate) fn name(topic: &str) -> TopicName {
    TopicName::new(topic).unwrap()
}

impl World {
    pub(crate) fn open(sim: &Sim) -> Result<Self, String> {
        Self::open_with(sim, options())
    }

    pub(crate) fn open_with(sim: &Sim, options: EngineOptions) -> Result<Self, String> {
        Self::open_as(sim, log_options(), options)
    }

    pub(crate) fn open_as(
        sim: &Sim,
        log_options: LogOptions,
        options: EngineOptions,
    ) -> Result<Self, String> {
        let log = EmbeddedLog::open_stepped(&sim.env(), Path::new("/data"), log_options)
            .map_err(|error| error.to_string())?;
        let log = Arc::new(log);
        let stepped = Arc::clone(&log);
        let settle = Box::new(move |mut ticket: Ticket| {
            loop {
                if let Some(outcome) = ticket.poll_now() {
                    return outcome;
                }
                assert!(stepped.step(), "a ticket waits for nothing");
            }
        });
        let (shared, ddl, line) = engine::by_hand(sim.env(), log.clone(), options, settle)
            .map_err(|error| error.to_string())?;
        Ok(Self { log, shared, ddl, line })
    }

    pub(crate) fn topic(&self, topic: &str, partitions: i32) -> Result<(), EngineError> {
        Ok(self.log.ensure_topic(&TopicSpec { name: name(topic), partitions })?)
    }

    pub(crate) fn sql(&self, text: &str) -> Result<Vec<String>, EngineError> {
        afflux_sql::parse(text)?
            .into_iter()
            .map(|statement| self.ddl.execute(statement).map(|outcome| outcome.tag))
            .collect()
    }

    pub(crate) fn produce(&self, topic: &str, partition: i32, values: &[String]) -> Ticket {
        let mut builder = Builder::new(Compression::None);
        for value in values {
            builder.push(Timestamp(1), Some(b"key"), Some(value.as_bytes()));
        }
        let partition = TopicPartition::new(name(topic), partition);
        self.log
            .append(&Group { entries: vec![Entry { partition, batch: builder.finish().unwrap() }] })
    }

    pub(crate) fn end(&self, topic: &str, partition: i32) -> Offset {
        self.log.bounds(&TopicPartition::new(name(topic), partition)).unwrap().end
    }

    /// Moves log and line until neither has anything to do. False if the log is done for.
    pub(crate) fn settle(&mut self) -> bool {
        loop {
            let logged = self.log.step();
            match self.line.step() {
                Step::Again => {}
                Step::Halted => return false,
                Step::Wait { .. } if logged => {}
                Step::Wait { .. } => return true,
            }
        }
    }

    pub(crate) fn id(&self, view: &str) -> ObjectId {
        self.shared.published.lock().catalog.find(view).unwrap_or_else(|| panic!("{view}")).id
    }

    pub(crate) fn pin(&self, views: &[&str]) -> Result<Pinned, EngineError> {
        let ids: Vec<_> = views.iter().map(|view| self.id(view)).collect();
        self.shared.pin_now(&ids)
    }

    /// The rows of a view as JSON, sorted.
    pub(crate) fn rows(&self, view: &str) -> Vec<String> {
        rows(&self.pin(&[view]).unwrap(), 0)
    }

    pub(crate) fn follow(&self, view: &str, from: Option<ResumeToken>) -> Follower {
        Follower::new(Arc::clone(&self.shared), self.id(view), from).unwrap()
    }

    /// All durable records of a partition.
    pub(crate) fn records(&self, topic: &str, partition: i32) -> Vec<Record> {
        self.records_from(topic, partition, Offset::ZERO)
    }

    /// All durable records of a partition from an offset on.
    pub(crate) fn records_from(
        &self,
        topic: &str,
        partition: i32,
        mut from: Offset,
    ) -> Vec<Record> {
        let partition = TopicPartition::new(name(topic), partition);
        let end = self.log.bounds(&partition).unwrap().durable;
        let mut records = Vec::new();
        while from < end {
            let read =
                self.log.read(&partition, from, end, 1 << 20, Isolation::Uncommitted).unwrap();
            for batch in &read.batches {
                let all = batch::records(batch).map(Result::unwrap);
                records.extend(all.filter(|record| record.offset >= from));
            }
            from = read.next;
        }
        records
    }
}

/// The rows of the n-th relation as JSON, sorted.
pub(crate) fn rows(pinned: &Pinned, nth: usize) -> Vec<String> {
    let batches = pinned.relations[nth].batches().unwrap();
    let mut rows: Vec<String> = batches.iter().flat_map(json::rows).collect();
    rows.sort();
    rows
}

/// What a client that follows a view knows.
#[derive(Default)]
pub(crate) struct Client {
    rows: BTreeMap<String, i64>,
    pub(crate) token: Option<ResumeToken>,
    pub(crate) resets: usize,
    pub(crate) ticks: usize,
}

impl Client {
    /// Takes all that there is by now.
    pub(crate) fn drain(&mut self, follower: &mut Follower) {
        while let Some(event) = follower.try_next().unwrap() {
            match event {
                Event::Snapshot { rows, .. } => self.apply(&rows),
                Event::Changes { tick, changes } => {
                    assert!(self.token.is_none_or(|token| token.tick < tick), "ticks rise");
                    self.apply(&changes);
                    self.ticks += 1;
                }
                Event::Reset { .. } => {
                    self.rows.clear();
                    self.resets += 1;
                }
            }
            self.token = follower.token();
        }
    }

    /// Forgets a snapshot that was not complete.
    pub(crate) fn disconnect(&mut self) {
        if self.token.is_none() {
            self.rows.clear();
        }
    }

    fn apply(&mut self, changes: &Changes) {
        for (nth, row) in json::rows(&changes.batch).into_iter().enumerate() {
            let weight = self.rows.entry(row.clone()).or_default();
            *weight += changes.weight(nth);
            if *weight == 0 {
                self.rows.remove(&row);
            }
        }
        // Only between the rows of one tick may a row seem to be there less than no times.
        assert!(self.rows.values().all(|weight| *weight > 0), "{:?}", self.rows);
    }

    pub(crate) fn rows(&self) -> Vec<String> {
        let times = |(row, weight): (&String, &i64)| vec![row.clone(); *weight as usize];
        self.rows.iter().flat_map(times).collect()
    }
}
