//! DDL: statements become records of the DDL topic, and only then part of the catalog.
//!
//! What a statement does, one at a time:
//! 1. resolve it against the catalog: names, the plan, where a view begins in sources read from
//!    their latest records on, the rows of a CSV file; build the dataflow once to learn whether
//!    this build can run the plan,
//! 2. make the engine's own topics that the object will need (left empty if what follows fails;
//!    an object of the same number finds them so),
//! 3. append the change, with a table's rows, as one group, and wait until it is durable,
//! 4. apply it to the published catalog and tell the line.
//!
//! ```text
//! __afflux_ddl        record key    object id u64 | random u64, both big endian
//!                     record value  catalog change (JSON)
//! __afflux_table_N    record key    chunk u32 big endian
//!                     record value  Arrow IPC stream of some of the rows
//! ```
//! The random half of a creation's key is where the view's incarnation comes from: it differs
//! even where a data directory made anew gives out the same ids again.
//!
//! Blocks, so it never runs on the line's thread.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use afflux_catalog::{Catalog, Change, Object, ObjectKind, Start, Table, View};
use afflux_codec::csv;
use afflux_dataflow::Dataflow;
use afflux_env::OpenMode;
use afflux_log::{
    Appended, Entry, EpochCommit, Isolation, Log, Ticket, TopicSpec, error::AppendError,
};
use afflux_plan::{Column, Plan};
use afflux_record::changelog;
use afflux_sql::{CreateSource, CreateTable, CreateView, CsvFile, Drop, DropKind, Statement};
use afflux_types::{ErrorKind, ObjectId, Offset, Tick, TopicName, TopicPartition};
use arrow::{
    array::RecordBatch,
    compute::concat_batches,
    datatypes::Field,
    ipc::{reader::StreamReader, writer::StreamWriter},
};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{
    EngineError,
    frames::{self, sole_partition},
    published::{Published, PublishedView, Recent, Shared},
    status::{Counters, PipelineState},
    token::ViewIncarnation,
    view::{Contents, Layout},
};

/// What a statement that defines something has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DdlOutcome {
    /// PostgreSQL's command tag, such as `CREATE MATERIALIZED VIEW`.
    pub tag: String,
    /// What the user may want to know besides.
    pub notices: Vec<String>,
}

/// What the line is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Run the pipeline of a new view, which is published already.
    Start(ObjectId),
    /// Stop the pipeline of a dropped view, which is published no longer, and remove the topics of
    /// a dropped object. Dead letters stay: they are the user's.
    Stop(ObjectId),
}

/// Runs statements, one at a time.
pub(crate) struct Ddl {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
    one_at_a_time: Mutex<()>,
    /// Waits for a ticket. A test that drives the log by hand has to do that meanwhile.
    settle: Settle,
}

/// How a ticket is waited for.
pub(crate) type Settle = Box<dyn Fn(Ticket) -> Result<Appended, AppendError> + Send + Sync>;

/// Rows per chunk of a table.
const CHUNK_ROWS: usize = 16_384;

/// Where the changes of the catalog lie.
pub(crate) fn ddl_topic() -> TopicName {
    internal("ddl")
}

/// Where the frames of a pipeline lie.
pub(crate) fn pipeline_topic(id: ObjectId) -> TopicName {
    internal(&format!("pipeline_{id}"))
}

/// Where the snapshots of a pipeline lie.
pub(crate) fn snapshot_topic(id: ObjectId) -> TopicName {
    internal(&format!("snapshots_{id}"))
}

/// Where the dead letters of a view go.
pub(crate) fn dead_letter_topic(object: &Object) -> Result<TopicName, EngineError> {
    Ok(TopicName::new(&format!("{}_dlq", object.name))?)
}

fn table_topic(id: ObjectId) -> TopicName {
    internal(&format!("table_{id}"))
}

fn internal(name: &str) -> TopicName {
    TopicName::new(&format!("{}{name}", TopicName::INTERNAL_PREFIX))
        .expect("a short name of legal characters")
}

/// Makes one of the engine's own topics, or a dead-letter topic.
pub(crate) fn ensure_topic(log: &dyn Log, name: TopicName) -> Result<(), EngineError> {
    Ok(log.ensure_topic(&TopicSpec { name, partitions: 1 })?)
}

/// Removes the topics that belong to an object alone.
pub(crate) fn remove_topics(log: &dyn Log, id: ObjectId) -> Result<(), EngineError> {
    for topic in [pipeline_topic(id), snapshot_topic(id), table_topic(id)] {
        if log.partition_count(&topic).is_some() {
            log.remove_topic(&topic)?;
        }
    }
    Ok(())
}

/// Folds the DDL topic: catalog, static tables and views, none of them live yet.
pub(crate) fn load(shared: &Shared) -> Result<(), EngineError> {
    let log = shared.log.as_ref();
    let topic = ddl_topic();
    ensure_topic(log, topic.clone())?;
    let end = log.bounds(&sole_partition(&topic))?.end;
    let mut catalog = Catalog::default();
    let mut incarnations = HashMap::new();
    let mut dropped = Vec::new();
    frames::scan(log, &topic, (Offset::ZERO, end), Isolation::Appended, |_, key, value| {
        let change = Catalog::decode(value)?;
        match &change {
            Change::Create(object) => {
                let random = key.last_chunk::<4>().copied().unwrap_or_default();
                incarnations.insert(object.id, ViewIncarnation(u32::from_be_bytes(random)));
            }
            Change::Drop { id } => dropped.push(*id),
        }
        catalog = catalog.apply(&change)?;
        Ok(())
    })?;
    // What was dropped right before the node stopped may have left its topics.
    for id in dropped {
        remove_topics(log, id)?;
    }
    let mut published = shared.published.lock();
    for object in catalog.objects() {
        match &object.kind {
            ObjectKind::Source(_) => {}
            ObjectKind::Table(table) => {
                published.tables.insert(object.id, load_table(log, object.id, table)?);
            }
            ObjectKind::View(view) => {
                let incarnation = incarnations.get(&object.id).copied();
                let incarnation = incarnation.unwrap_or(ViewIncarnation(0));
                publish_view(&mut published, object, view, incarnation)?;
            }
        }
    }
    published.catalog = catalog;
    Ok(())
}

fn publish_view(
    published: &mut Published,
    object: &Arc<Object>,
    view: &View,
    incarnation: ViewIncarnation,
) -> Result<(), EngineError> {
    let layout = Layout::new(Column::schema(view.plan.columns()), view.plan.key.clone())
        .map_err(|error| EngineError::Unsupported(error.to_string()))?;
    let layout = Arc::new(layout);
    let view = PublishedView {
        object: Arc::clone(object),
        incarnation,
        topic: pipeline_topic(object.id),
        state: PipelineState::CatchingUp { lag_bytes: 0 },
        contents: Contents::empty(),
        tick: Tick::ZERO,
        next_frame: Offset::ZERO,
        recent: Recent::default(),
        counters: Counters::default(),
        layout,
    };
    published.views.insert(object.id, view);
    Ok(())
}

/// The static tables that a plan reads.
pub(crate) fn tables_of(published: &Published, plan: &Plan) -> HashMap<ObjectId, RecordBatch> {
    let table = |id: ObjectId| Some((id, published.tables.get(&id)?.clone()));
    plan.objects().into_iter().filter_map(table).collect()
}

impl Ddl {
    pub(crate) fn new(
        shared: Arc<Shared>,
        commands: mpsc::UnboundedSender<Command>,
        settle: Settle,
    ) -> Self {
        Self { shared, commands, one_at_a_time: Mutex::new(()), settle }
    }

    /// Runs a statement that defines or removes something; session statements do nothing.
    pub(crate) fn execute(&self, statement: Statement) -> Result<DdlOutcome, EngineError> {
        let _turn = self.one_at_a_time.lock();
        if let Some(reason) = &self.shared.published.lock().halted {
            return Err(EngineError::Halted(reason.clone()));
        }
        match statement {
            Statement::CreateSource(create) => self.create_source(create),
            Statement::CreateTable(create) => self.create_table(create),
            Statement::CreateView(create) => self.create_view(create),
            Statement::Drop(drop) => self.drop_object(&drop),
            Statement::Session(session) => Ok(done(session.tag(), Vec::new())),
            Statement::Query(_)
            | Statement::Explain(_)
            | Statement::Show(_)
            | Statement::Describe { .. } => Err(EngineError::Unsupported(
                "the statement asks for rows; it is answered by the read side".to_owned(),
            )),
        }
    }

    fn create_source(&self, create: CreateSource) -> Result<DdlOutcome, EngineError> {
        const TAG: &str = "CREATE SOURCE";
        let catalog = self.catalog();
        if let Some(there) = taken(&catalog, &create.name, create.if_not_exists, TAG) {
            return there;
        }
        let topic = &create.source.topic;
        if topic.is_internal() || self.shared.log.partition_count(topic).is_none() {
            return Err(EngineError::UnknownTopic(topic.clone()));
        }
        self.create(&catalog, create.name, create.sql, ObjectKind::Source(create.source), vec![])?;
        Ok(done(TAG, Vec::new()))
    }

    fn create_table(&self, create: CreateTable) -> Result<DdlOutcome, EngineError> {
        const TAG: &str = "CREATE TABLE";
        let catalog = self.catalog();
        if let Some(there) = taken(&catalog, &create.name, create.if_not_exists, TAG) {
            return there;
        }
        let key = create.key.as_deref().unwrap_or_default();
        let rows = self.read_csv(&create.file, create.columns.as_deref(), key)?;
        let id = catalog.next_id();
        let topic = table_topic(id);
        ensure_topic(self.shared.log.as_ref(), topic.clone())?;
        let entries = self.table_entries(&topic, &rows)?;
        let columns = Column::of_schema(&rows.schema());
        let table = Table { columns, rows: rows.num_rows() as u64, key: create.key };
        let notice = format!("{} rows", rows.num_rows());
        // Before the catalog has it, so that nobody finds the table without its rows.
        self.shared.published.lock().tables.insert(id, rows);
        self.create(&catalog, create.name, create.sql, ObjectKind::Table(table), entries)
            .inspect_err(|_| drop(self.shared.published.lock().tables.remove(&id)))?;
        Ok(done(TAG, vec![notice]))
    }

    fn create_view(&self, create: CreateView) -> Result<DdlOutcome, EngineError> {
        const TAG: &str = "CREATE MATERIALIZED VIEW";
        let catalog = self.catalog();
        if let Some(there) = taken(&catalog, &create.name, create.if_not_exists, TAG) {
            return there;
        }
        let plan = afflux_sql::plan_view(&create.query, &catalog)?;
        let unsupported = |what: &dyn std::fmt::Display| EngineError::Unsupported(what.to_string());
        for column in plan.columns() {
            if !changelog::supports(&column.column_type.0) {
                let name = &column.name;
                return Err(unsupported(&format!(
                    "column \"{name}\" has type {}, which views do not hold yet",
                    column.column_type
                )));
            }
        }
        let tables = tables_of(&self.shared.published.lock(), &plan);
        Dataflow::new(&plan, &tables).map_err(|error| unsupported(&error))?;
        Layout::new(Column::schema(plan.columns()), plan.key.clone())
            .map_err(|error| unsupported(&error))?;
        let (id, log) = (catalog.next_id(), self.shared.log.as_ref());
        let dead_letters = TopicName::new(&format!("{}_dlq", create.name))?;
        for topic in [pipeline_topic(id), snapshot_topic(id), dead_letters] {
            ensure_topic(log, topic)?;
        }
        let starts = starts(log, &catalog, &plan)?;
        let view = View { plan, starts };
        self.create(&catalog, create.name, create.sql, ObjectKind::View(view), vec![])?;
        let _ = self.commands.send(Command::Start(id));
        Ok(done(TAG, Vec::new()))
    }

    fn drop_object(&self, drop: &Drop) -> Result<DdlOutcome, EngineError> {
        let tag = format!("DROP {}", drop.kind.words());
        let catalog = self.catalog();
        let Some(object) = catalog.find(&drop.name).cloned() else {
            if drop.if_exists {
                let notice = format!("\"{}\" does not exist, skipping", drop.name);
                return Ok(done(&tag, vec![notice]));
            }
            return Err(EngineError::Unknown(format!(
                "{} \"{}\"",
                drop.kind.words().to_lowercase(),
                drop.name
            )));
        };
        let kind = match &object.kind {
            ObjectKind::Source(_) => DropKind::Source,
            ObjectKind::Table(_) => DropKind::Table,
            ObjectKind::View(_) => DropKind::View,
        };
        if kind != drop.kind {
            return Err(EngineError::WrongKind {
                name: drop.name.clone(),
                is: lower(kind),
                expected: lower(drop.kind),
            });
        }
        let change = Change::Drop { id: object.id };
        let after = catalog.apply(&change)?;
        self.append(object.id, 0, &change, vec![])?;
        {
            let mut published = self.shared.published.lock();
            published.catalog = after;
            published.views.remove(&object.id);
            published.tables.remove(&object.id);
        }
        self.shared.wake();
        let _ = self.commands.send(Command::Stop(object.id));
        Ok(done(&tag, Vec::new()))
    }

    fn catalog(&self) -> Catalog {
        self.shared.published.lock().catalog.clone()
    }

    fn create(
        &self,
        catalog: &Catalog,
        name: String,
        sql: String,
        kind: ObjectKind,
        rows: Vec<Entry>,
    ) -> Result<(), EngineError> {
        let object = Object { id: catalog.next_id(), name, sql, kind };
        let change = Change::Create(Box::new(object.clone()));
        let after = catalog.apply(&change)?;
        let random = self.shared.env.random.next_u64();
        self.append(object.id, random, &change, rows)?;
        let mut published = self.shared.published.lock();
        if let ObjectKind::View(view) = &object.kind {
            let object = Arc::new(object.clone());
            let incarnation = ViewIncarnation(random as u32);
            publish_view(&mut published, &object, view, incarnation)?;
        }
        published.catalog = after;
        drop(published);
        self.shared.wake();
        Ok(())
    }

    fn append(
        &self,
        id: ObjectId,
        random: u64,
        change: &Change,
        rows: Vec<Entry>,
    ) -> Result<(), EngineError> {
        let topic = ddl_topic();
        let key = [id.0.to_be_bytes(), random.to_be_bytes()].concat();
        let now = self.shared.env.clock.now();
        let changelog = frames::entry(&topic, now, &key, &Catalog::encode(change))
            .map_err(|error| EngineError::Unsupported(error.to_string()))?;
        let tick = Tick(self.shared.log.appended().borrow().0);
        let commit = EpochCommit { tick, changelog, outputs: rows, expected: Vec::new() };
        (self.settle)(self.shared.log.submit(commit))?;
        Ok(())
    }

    fn read_csv(
        &self,
        file: &CsvFile,
        columns: Option<&[Column]>,
        key: &[usize],
    ) -> Result<RecordBatch, EngineError> {
        let failed =
            |kind, reason: String| EngineError::File { path: file.path.clone(), reason, kind };
        let read = || {
            let opened = self.shared.env.disk.open(Path::new(&file.path), OpenMode::Read)?;
            let mut bytes = vec![0; opened.len()? as usize];
            opened.read_exact_at(&mut bytes, 0)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => failed(ErrorKind::NotFound, "no such file".to_owned()),
            _ => failed(ErrorKind::Unavailable, error.to_string()),
        })?;
        let fields: Option<Vec<Field>> = columns.map(|columns| {
            Column::schema(columns).fields().iter().map(|field| field.as_ref().clone()).collect()
        });
        let format =
            csv::Format { header: file.header, delimiter: file.delimiter, null: file.null.clone() };
        csv::read(&bytes, fields.as_deref(), key, &format)
            .map_err(|error| failed(ErrorKind::Invalid, error.to_string()))
    }

    fn table_entries(
        &self,
        topic: &TopicName,
        rows: &RecordBatch,
    ) -> Result<Vec<Entry>, EngineError> {
        let now = self.shared.env.clock.now();
        let starts = (0..rows.num_rows()).step_by(CHUNK_ROWS);
        starts
            .enumerate()
            .map(|(chunk, start)| {
                let slice = rows.slice(start, CHUNK_ROWS.min(rows.num_rows() - start));
                let mut stream = Vec::new();
                let write = |stream: &mut Vec<u8>| {
                    let mut writer = StreamWriter::try_new(stream, &slice.schema())?;
                    writer.write(&slice)?;
                    writer.finish()
                };
                write(&mut stream).map_err(|error| EngineError::Unsupported(error.to_string()))?;
                frames::entry(topic, now, &(chunk as u32).to_be_bytes(), &stream)
                    .map_err(|error| EngineError::Unsupported(error.to_string()))
            })
            .collect()
    }
}

/// Where a view begins in the sources that it reads from their latest records on: here and now.
fn starts(
    log: &dyn Log,
    catalog: &Catalog,
    plan: &Plan,
) -> Result<BTreeMap<ObjectId, Vec<Offset>>, EngineError> {
    let mut starts = BTreeMap::new();
    for id in plan.objects() {
        let Some(ObjectKind::Source(source)) = catalog.get(id).map(|object| &object.kind) else {
            continue;
        };
        if source.start == Start::Latest {
            let topic = &source.topic;
            let count = log.partition_count(topic);
            let count = count.ok_or_else(|| EngineError::UnknownTopic(topic.clone()))?;
            let ends = (0..count)
                .map(|partition| log.bounds(&TopicPartition::new(topic.clone(), partition)))
                .map(|bounds| Ok(bounds?.end))
                .collect::<Result<_, EngineError>>()?;
            starts.insert(id, ends);
        }
    }
    Ok(starts)
}

fn load_table(log: &dyn Log, id: ObjectId, table: &Table) -> Result<RecordBatch, EngineError> {
    let topic = table_topic(id);
    let schema = Arc::new(Column::schema(&table.columns));
    let end = log.bounds(&sole_partition(&topic))?.end;
    let unreadable = |error: &dyn std::fmt::Display| frames::unreadable(&topic, error);
    let mut batches = Vec::new();
    frames::scan(log, &topic, (Offset::ZERO, end), Isolation::Appended, |_, _, value| {
        let reader = StreamReader::try_new(value.as_ref(), None)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>);
        batches.extend(reader.map_err(|error| unreadable(&error))?);
        Ok(())
    })?;
    concat_batches(&schema, &batches).map_err(|error| unreadable(&error))
}

fn taken(
    catalog: &Catalog,
    name: &str,
    if_not_exists: bool,
    tag: &str,
) -> Option<Result<DdlOutcome, EngineError>> {
    catalog.find(name)?;
    Some(if if_not_exists {
        Ok(done(tag, vec![format!("\"{name}\" exists already, skipping")]))
    } else {
        Err(afflux_catalog::CatalogError::Exists(name.to_owned()).into())
    })
}

fn done(tag: &str, notices: Vec<String>) -> DdlOutcome {
    DdlOutcome { tag: tag.to_owned(), notices }
}

fn lower(kind: DropKind) -> &'static str {
    match kind {
        DropKind::Source => "source",
        DropKind::Table => "table",
        DropKind::View => "materialized view",
    }
}
