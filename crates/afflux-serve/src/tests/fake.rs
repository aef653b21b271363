//! A node without a log: views hold what a test puts into them, ticks pass when it says so.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use afflux_catalog::{Catalog, Change, Object, ObjectKind, Table, View};
use afflux_plan::Column;
use afflux_record::changelog::Changes;
use afflux_sql::Statement;
use afflux_types::{ErrorKind, ObjectId, Tick};
use arrow::{
    array::{Array, ArrayRef, Int64Array},
    compute::{concat_batches, kernels::cmp::eq},
    datatypes::SchemaRef,
    record_batch::RecordBatch,
};
use async_trait::async_trait;
use tokio::sync::watch;

use crate::{
    QueryError,
    node::{Event, Follow, Node, Outcome, Pinned, PipelineState, Relation},
};

pub(super) struct FakeNode {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

struct State {
    catalog: Catalog,
    contents: HashMap<ObjectId, RecordBatch>,
    /// All that has happened, with the tick and the view.
    history: Vec<(Tick, ObjectId, Changes)>,
    /// Tokens below this are void.
    history_start: Tick,
    tick: Tick,
    /// Pins wait for ever.
    stuck: bool,
    lookups: u64,
    scans: u64,
}

impl FakeNode {
    pub(super) fn new() -> Arc<Self> {
        let state = State {
            catalog: Catalog::default(),
            contents: HashMap::new(),
            history: Vec::new(),
            history_start: Tick::ZERO,
            tick: Tick(1),
            stuck: false,
            lookups: 0,
            scans: 0,
        };
        Arc::new(Self { state: Arc::new(Mutex::new(state)), changed: watch::Sender::new(0) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Runs DDL.
    pub(super) fn ddl(&self, text: &str) {
        for statement in afflux_sql::parse(text).unwrap() {
            self.apply(statement).unwrap();
        }
    }

    /// Adds a static table.
    pub(super) fn add_table(&self, name: &str, batch: &RecordBatch) {
        let mut state = self.state();
        let columns = Column::of_schema(&batch.schema());
        let kind = ObjectKind::Table(Table { columns, rows: batch.num_rows() as u64, key: None });
        let id = state.catalog.next_id();
        let object = Object { id, name: name.into(), sql: format!("CREATE TABLE {name}"), kind };
        state.catalog = state.catalog.apply(&Change::Create(Box::new(object))).unwrap();
        state.contents.insert(id, batch.clone());
    }

    /// One tick's changes of a view; rows with weight -1 go, the others come.
    pub(super) fn change(&self, view: &str, columns: Vec<ArrayRef>, weights: Vec<i64>) {
        let mut state = self.state();
        let object = Arc::clone(state.catalog.find(view).unwrap());
        let schema = Arc::new(Column::schema(object.columns()));
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        state.tick = Tick(state.tick.0 + 1);
        let held =
            state.contents.remove(&object.id).unwrap_or_else(|| RecordBatch::new_empty(schema));
        let held = weights.iter().enumerate().fold(held, |held, (row, weight)| {
            let changed = batch.slice(row, 1);
            if *weight > 0 {
                concat_batches(&held.schema(), [&held, &changed]).unwrap()
            } else {
                let at = (0..held.num_rows()).find(|row| held.slice(*row, 1) == changed).unwrap();
                let parts = [held.slice(0, at), held.slice(at + 1, held.num_rows() - at - 1)];
                concat_batches(&held.schema(), &parts).unwrap()
            }
        });
        state.contents.insert(object.id, held);
        let changes = Changes { batch, weights: Some(Int64Array::from(weights)) };
        let tick = state.tick;
        state.history.push((tick, object.id, changes));
        drop(state);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Forgets the past: who resumes from there is reset.
    pub(super) fn trim(&self) {
        let mut state = self.state();
        state.history_start = Tick(state.tick.0 + 1);
    }

    /// From now on reads wait for ever.
    pub(super) fn get_stuck(&self) {
        self.state().stuck = true;
    }

    pub(super) fn lookups_and_scans(&self) -> (u64, u64) {
        let state = self.state();
        (state.lookups, state.scans)
    }

    fn apply(&self, statement: Statement) -> Result<Outcome, QueryError> {
        let mut state = self.state();
        let id = state.catalog.next_id();
        let (change, tag) = match statement {
            Statement::CreateSource(source) => {
                let kind = ObjectKind::Source(source.source);
                let object = Object { id, name: source.name, sql: source.sql, kind };
                (Change::Create(Box::new(object)), "CREATE SOURCE")
            }
            Statement::CreateView(view) => {
                let plan = afflux_sql::plan_view(&view.query, &state.catalog)?;
                let kind =
                    ObjectKind::View(View { plan, starts: std::collections::BTreeMap::new() });
                let object = Object { id, name: view.name, sql: view.sql, kind };
                (Change::Create(Box::new(object)), "CREATE MATERIALIZED VIEW")
            }
            Statement::Drop(drop) => {
                let found = state.catalog.find(&drop.name);
                let id = found.map(|object| object.id).ok_or_else(|| {
                    QueryError::new(ErrorKind::NotFound, format!("there is no \"{}\"", drop.name))
                })?;
                (Change::Drop { id }, "DROP MATERIALIZED VIEW")
            }
            _ => return Err(QueryError::unsupported("not by this fake")),
        };
        state.catalog =
            state.catalog.apply(&change).map_err(|e| QueryError::from_classified(&e))?;
        let notices = vec!["it is only a fake".to_owned()];
        Ok(Outcome { tag: tag.to_owned(), notices })
    }
}

struct FakeRelation {
    batch: RecordBatch,
    key: Option<Vec<usize>>,
    state: Arc<Mutex<State>>,
}

impl Relation for FakeRelation {
    fn schema(&self) -> SchemaRef {
        self.batch.schema()
    }

    fn key(&self) -> Option<&[usize]> {
        self.key.as_deref()
    }

    fn batches(&self) -> Result<Vec<RecordBatch>, QueryError> {
        self.state.lock().unwrap().scans += 1;
        Ok(vec![self.batch.clone()])
    }

    fn get(&self, key: &[ArrayRef]) -> Result<Option<RecordBatch>, QueryError> {
        self.state.lock().unwrap().lookups += 1;
        let columns = self.key.as_ref().unwrap();
        let is_it = |row: usize| {
            columns.iter().zip(key).all(|(column, value)| {
                let cell = self.batch.column(*column).slice(row, 1);
                assert_eq!(cell.data_type(), value.data_type());
                eq(&cell, value).unwrap().value(0)
            })
        };
        Ok((0..self.batch.num_rows()).find(|row| is_it(*row)).map(|row| self.batch.slice(row, 1)))
    }
}

struct FakeFollower {
    state: Arc<Mutex<State>>,
    changed: watch::Receiver<u64>,
    view: ObjectId,
    from: Option<Tick>,
    /// What is handed out before anything else.
    pending: Vec<Event>,
}

impl FakeFollower {
    fn snapshot(&mut self) {
        let state = self.state.lock().unwrap();
        let object = state.catalog.get(self.view).unwrap();
        let schema = Arc::new(Column::schema(object.columns()));
        let empty = RecordBatch::new_empty(schema);
        let batch = state.contents.get(&self.view).cloned().unwrap_or(empty);
        let half = batch.num_rows() / 2;
        let part = |from: usize, count: usize, last| Event::Snapshot {
            tick: state.tick,
            rows: Changes::additions(batch.slice(from, count)),
            last,
        };
        self.pending = vec![part(half, batch.num_rows() - half, true), part(0, half, false)];
        self.from = Some(state.tick);
    }
}

#[async_trait]
impl Follow for FakeFollower {
    async fn next(&mut self) -> Result<Event, QueryError> {
        loop {
            if let Some(event) = self.pending.pop() {
                if matches!(event, Event::Reset { .. }) {
                    self.snapshot();
                }
                return Ok(event);
            }
            self.changed.mark_unchanged();
            {
                let state = self.state.lock().unwrap();
                if state.catalog.get(self.view).is_none() {
                    return Err(QueryError::new(ErrorKind::NotFound, "the view was dropped"));
                }
                let behind = |(tick, view, _): &&(Tick, ObjectId, Changes)| {
                    *view == self.view && Some(*tick) > self.from
                };
                if let Some((tick, _, changes)) = state.history.iter().find(behind) {
                    self.from = Some(*tick);
                    return Ok(Event::Changes { tick: *tick, changes: changes.clone() });
                }
            }
            self.changed.changed().await.map_err(|_| QueryError::internal("gone"))?;
        }
    }

    fn token(&self) -> Option<String> {
        self.from.map(|tick| format!("cafe0001-{tick}"))
    }
}

#[async_trait]
impl Node for FakeNode {
    fn catalog(&self) -> Catalog {
        self.state().catalog.clone()
    }

    async fn execute(&self, statement: Statement) -> Result<Outcome, QueryError> {
        let outcome = self.apply(statement);
        self.changed.send_modify(|version| *version += 1);
        outcome
    }

    async fn pin(&self, objects: &[ObjectId]) -> Result<Pinned, QueryError> {
        if self.state().stuck {
            std::future::pending::<()>().await;
        }
        let state = self.state();
        let relation = |id: &ObjectId| {
            let object = Arc::clone(state.catalog.get(*id).unwrap());
            let schema = Arc::new(Column::schema(object.columns()));
            let key = match &object.kind {
                ObjectKind::View(view) => view.plan.key.clone(),
                _ => None,
            };
            let empty = RecordBatch::new_empty(schema);
            let batch = state.contents.get(id).cloned().unwrap_or(empty);
            let relation = FakeRelation { batch, key, state: Arc::clone(&self.state) };
            (object, Arc::new(relation) as Arc<dyn Relation>)
        };
        Ok(Pinned { tick: state.tick, relations: objects.iter().map(relation).collect() })
    }

    fn follow(&self, view: ObjectId, from: Option<&str>) -> Result<Box<dyn Follow>, QueryError> {
        let bad = || QueryError::invalid("that is not a resume token");
        let from = from
            .map(|text| text.strip_prefix("cafe0001-")?.parse().ok().map(Tick))
            .map(|tick| tick.ok_or_else(bad))
            .transpose()?;
        let start = self.state().history_start;
        let mut follower = FakeFollower {
            state: Arc::clone(&self.state),
            changed: self.changed.subscribe(),
            view,
            from,
            pending: Vec::new(),
        };
        match from {
            Some(tick) if tick < start => {
                follower.pending.push(Event::Reset { reason: "too long ago".to_owned() });
                follower.from = None;
            }
            Some(_) => {}
            None => follower.snapshot(),
        }
        Ok(Box::new(follower))
    }

    fn pipelines(&self) -> Vec<PipelineState> {
        let state = self.state();
        let views = state.catalog.objects().filter(|o| matches!(o.kind, ObjectKind::View(_)));
        views
            .map(|object| PipelineState {
                view: object.name.clone(),
                state: "live",
                detail: None,
                tick: state.tick,
                rows: state.contents.get(&object.id).map_or(0, |batch| batch.num_rows() as u64),
                bytes: 0,
                records_in: 5,
                epochs: 0,
                late_rows: 0,
                dead_letters: 0,
            })
            .collect()
    }

    fn topics(&self) -> Vec<(String, i32)> {
        vec![("departures".to_owned(), 4)]
    }
}
