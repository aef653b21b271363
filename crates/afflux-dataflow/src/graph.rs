//! The graph of one pipeline.
//!
//! 1. [`Dataflow::begin`] sets the epoch's time. In a pipeline's first epoch the rows of static
//!    tables go in before anything else.
//! 2. [`Dataflow::push`] takes a batch from an input down to the operators that keep state, which
//!    take it in, or to the output: each operator is stepped until the batch is worked off, and
//!    what a step gives goes down before the next one ([`crate::FUEL_ROWS`]).
//! 3. [`Dataflow::finish`] raises the watermarks (an operator's is the lowest of its inputs'),
//!    then goes through the operators in topological order: each one with state says what
//!    changed, which goes down the graph as in 2.
//! 4. What reached the output is consolidated.
//!
//! State tables: those that the plan names, and [`META_TABLE`]:
//! ```text
//! key  "started"                       the first epoch is over
//! key  "watermark" | operator u32 LE   the watermark by which its rows are late, i64 LE
//! ```
//! After an error the dataflow is in the middle of an epoch and to be dropped.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
    ops::Range,
    sync::Arc,
};

use afflux_plan::{Column, Expr, Operator, OperatorKind, Plan};
use afflux_record::changelog::{self, Changes, TableDelta};
use afflux_state::{DeltaBuilder, Reader, StateError};
use afflux_types::{ObjectId, OperatorId, TableId, Timestamp};
use arrow::{
    array::{Array, RecordBatch},
    datatypes::SchemaRef,
};

use crate::{
    BuildError, DataflowError,
    aggregate::{Aggregation, Spec},
    consolidate::{consolidate, together},
    error::internal,
    expression::{self, Clock},
    lookup::Lookup,
    operator::{FUEL_ROWS, Operator as _, Pending},
    stateless::{Filter, Pass, Project, Tumble, rewrap},
};

/// The state table of the graph itself.
pub const META_TABLE: TableId = TableId(u32::MAX);

const STARTED: &[u8] = b"started";
const WATERMARK: &[u8] = b"watermark";

/// Where changes come into the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// What to push to.
    pub operator: OperatorId,
    /// What is read.
    pub kind: InputKind,
    /// What [`Dataflow::push`] takes for it: exactly these columns.
    pub columns: Vec<Column>,
}

/// What an input reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputKind {
    /// The records of a source.
    Source {
        /// The source.
        object: ObjectId,
        /// Which of the source's columns to push, in this order.
        projection: Vec<usize>,
    },
    /// The changes of a view, all of its columns; its contents first.
    View {
        /// The view.
        object: ObjectId,
    },
}

/// What one epoch changed.
#[derive(Debug, Clone, Default)]
pub struct Epoch {
    /// What changed in the view. Consolidated: each row once, with its weight, those that are
    /// taken away first. Where the plan proves the view append-only, rows are as they came, equal
    /// ones one by one, without weights.
    pub changes: Option<Changes>,
    /// What changed in the state.
    pub tables: Vec<TableDelta>,
    /// Rows that could not be computed with.
    pub rejected: Vec<RejectedRow>,
    /// How many rows came after their window was closed and were dropped.
    pub late_rows: u64,
}

/// A row that an operator could not compute with. It is left out of everything behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct RejectedRow {
    /// Which operator.
    pub operator: OperatorId,
    /// The row as the operator got it: a batch of one row.
    pub row: RecordBatch,
    /// Why, for a human.
    pub reason: String,
}

#[derive(Debug)]
enum Step {
    Pass(Pass),
    /// A static table, until its rows went out.
    Table(RecordBatch),
    Filter(Filter),
    Project(Project),
    Tumble(Tumble),
    Aggregate(Box<Aggregation>),
    Lookup(Box<Lookup>),
}

impl Step {
    fn step(
        &mut self,
        input: &mut Pending,
        fuel: usize,
        rejected: &mut Vec<RejectedRow>,
    ) -> Result<Option<Changes>, DataflowError> {
        match self {
            Self::Pass(pass) => pass.step(input, fuel, rejected),
            // It has no input.
            Self::Table(_) => Ok(None),
            Self::Filter(filter) => filter.step(input, fuel, rejected),
            Self::Project(project) => project.step(input, fuel, rejected),
            Self::Tumble(tumble) => tumble.step(input, fuel, rejected),
            Self::Lookup(lookup) => lookup.step(input, fuel, rejected),
            Self::Aggregate(aggregation) => aggregation.step(input, fuel, rejected),
        }
    }
}

#[derive(Debug)]
struct Node {
    id: OperatorId,
    step: Step,
    schema: SchemaRef,
    inputs: Vec<usize>,
    consumers: Vec<usize>,
    append_only: bool,
    is_input: bool,
    watermark: Timestamp,
}

/// A pipeline's computation and its state.
#[derive(Debug)]
pub struct Dataflow {
    nodes: Vec<Node>,
    inputs: Vec<Input>,
    clock: Clock,
    fuel: usize,
    /// Whether the first epoch is over or under way.
    started: bool,
    starting: bool,
    output: Vec<Changes>,
    rejected: Vec<RejectedRow>,
}

impl Dataflow {
    /// A dataflow without state, for a plan and the static tables that it reads.
    pub fn new(plan: &Plan, tables: &HashMap<ObjectId, RecordBatch>) -> Result<Self, BuildError> {
        let clock = Clock::default();
        let mut nodes: Vec<Node> = Vec::with_capacity(plan.operators.len());
        let mut inputs = Vec::new();
        let mut state = HashSet::from([META_TABLE]);
        for operator in &plan.operators {
            let node = node(operator, plan, &nodes, tables, &clock)?;
            if let Step::Aggregate(aggregation) = &node.step
                && !state.insert(aggregation.table())
            {
                let reason = "its state table is another operator's".to_owned();
                return Err(BuildError::Broken { operator: operator.id, reason });
            }
            let at = nodes.len();
            for &input in &node.inputs {
                nodes[input].consumers.push(at);
            }
            nodes.push(node);
            inputs.extend(input(operator));
        }
        let Some(output) = nodes.last() else {
            let reason = "the plan has no operator".to_owned();
            return Err(BuildError::Broken { operator: OperatorId(0), reason });
        };
        for field in output.schema.fields() {
            if !changelog::supports(field.data_type()) {
                let reason = format!("a view's column of type {}", field.data_type());
                return Err(BuildError::Unsupported { operator: output.id, reason });
            }
        }
        Ok(Self {
            nodes,
            inputs,
            clock,
            fuel: FUEL_ROWS,
            started: false,
            starting: false,
            output: Vec::new(),
            rejected: Vec::new(),
        })
    }

    /// With another number of rows a step. It decides nothing but memory and pace.
    #[must_use]
    pub fn with_fuel(mut self, rows: NonZeroUsize) -> Self {
        self.fuel = rows.get();
        self
    }

    /// What has to be pushed.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// The columns of [`Epoch::changes`].
    pub fn schema(&self) -> &SchemaRef {
        &self.nodes[self.nodes.len() - 1].schema
    }

    /// Applies state that an earlier run wrote: snapshots, then deltas in changelog order, all
    /// before the first epoch.
    pub fn restore(&mut self, delta: &TableDelta) -> Result<(), StateError> {
        if delta.table == META_TABLE {
            return self.restore_meta(delta);
        }
        for node in &mut self.nodes {
            if let Step::Aggregate(aggregation) = &mut node.step
                && aggregation.table() == delta.table
            {
                return aggregation.restore(delta);
            }
        }
        Err(StateError::UnknownTable(delta.table))
    }

    fn restore_meta(&mut self, delta: &TableDelta) -> Result<(), StateError> {
        for (key, value) in delta.keys.iter().zip(&delta.values) {
            let key = key.unwrap_or_default();
            if key == STARTED {
                self.started = true;
                continue;
            }
            let mut key = Reader::new(META_TABLE, key);
            if key.bytes(WATERMARK.len())? != WATERMARK {
                return Err(key.damaged("its key is unknown"));
            }
            let id = OperatorId(key.u32()?);
            let watermark = Timestamp(Reader::new(META_TABLE, value.unwrap_or_default()).i64()?);
            for node in self.nodes.iter_mut().filter(|node| node.id == id) {
                if let Step::Aggregate(aggregation) = &mut node.step {
                    aggregation.set_watermark(watermark);
                }
            }
        }
        Ok(())
    }

    /// Begins an epoch. `now` is its `now()`.
    pub fn begin(&mut self, now: Timestamp) {
        self.clock.set(now);
    }

    /// Takes changes of an input.
    pub fn push(&mut self, input: OperatorId, changes: Changes) -> Result<(), DataflowError> {
        self.start()?;
        let at = self.nodes.iter().position(|node| node.id == input && node.is_input);
        let at = at.ok_or(DataflowError::UnknownInput(input))?;
        let wrong =
            |reason: &str| DataflowError::WrongInput { operator: input, reason: reason.to_owned() };
        if let Some(weights) = &changes.weights {
            if weights.len() != changes.len() || weights.null_count() > 0 {
                return Err(wrong("it has not one weight a row"));
            }
            if self.nodes[at].append_only && weights.values().iter().any(|weight| *weight < 0) {
                return Err(wrong("it takes rows back, but the plan says that it never does"));
            }
        }
        let changes = rewrap(input, changes, &self.nodes[at].schema)
            .map_err(|error| wrong(&error.to_string()))?;
        self.send(at, changes)
    }

    /// Ends the epoch. `watermarks` of the inputs; one that is not named keeps its watermark, one
    /// that was never named has none.
    pub fn finish(
        &mut self,
        watermarks: &[(OperatorId, Timestamp)],
    ) -> Result<Epoch, DataflowError> {
        self.start()?;
        for at in 0..self.nodes.len() {
            let node = &self.nodes[at];
            let given = watermarks.iter().find(|(id, _)| node.is_input && *id == node.id);
            let watermark = match (given, &node.step) {
                (Some((_, watermark)), _) => *watermark,
                (None, Step::Table(_)) => Timestamp(i64::MAX),
                (None, _) => {
                    let inputs = node.inputs.iter().map(|&input| self.nodes[input].watermark);
                    inputs.min().unwrap_or(Timestamp::MIN)
                }
            };
            let node = &mut self.nodes[at];
            node.watermark = node.watermark.max(watermark);
        }
        let mut tables = Vec::new();
        let mut meta = DeltaBuilder::new(META_TABLE);
        let mut late_rows = 0;
        for at in 0..self.nodes.len() {
            let Node { id, watermark, step: Step::Aggregate(aggregation), .. } =
                &mut self.nodes[at]
            else {
                continue;
            };
            let known = aggregation.watermark();
            let mut delta = DeltaBuilder::new(aggregation.table());
            let emitted = aggregation.finish(*watermark, &mut delta)?;
            late_rows += aggregation.take_late_rows();
            if aggregation.is_windowed() && aggregation.watermark() != known {
                put_watermark(*id, aggregation.watermark(), &mut meta);
            }
            tables.extend(delta.finish());
            if let Some(changes) = emitted {
                self.forward(at, changes)?;
            }
        }
        if std::mem::take(&mut self.starting) {
            meta.put(STARTED, |_| {});
        }
        tables.extend(meta.finish());
        let changes = self.take_output()?;
        Ok(Epoch { changes, tables, rejected: std::mem::take(&mut self.rejected), late_rows })
    }

    /// All state of some key groups. Between a finish and the next begin.
    pub fn snapshot(&self, groups: Range<u8>) -> Vec<TableDelta> {
        let mut tables = Vec::new();
        let mut meta = DeltaBuilder::new(META_TABLE);
        for node in &self.nodes {
            if let Step::Aggregate(aggregation) = &node.step {
                tables.extend(aggregation.snapshot(&groups));
                if aggregation.is_windowed() {
                    put_watermark(node.id, aggregation.watermark(), &mut meta);
                }
            }
        }
        // The graph's own table is not keyed; it goes with the first group.
        if groups.contains(&0) && self.started {
            meta.put(STARTED, |_| {});
            tables.extend(meta.finish());
        }
        tables
    }

    /// Begins a pipeline's life, once.
    fn start(&mut self) -> Result<(), DataflowError> {
        if self.started {
            return Ok(());
        }
        self.started = true;
        self.starting = true;
        for node in &mut self.nodes {
            if let Step::Aggregate(aggregation) = &mut node.step {
                aggregation.start()?;
            }
        }
        for at in 0..self.nodes.len() {
            if let Step::Table(rows) = &self.nodes[at].step {
                let rows = Changes::additions(rows.clone());
                self.forward(at, rows)?;
            }
        }
        Ok(())
    }

    /// Lets a node work on changes, and hands on what it makes of them.
    fn send(&mut self, at: usize, changes: Changes) -> Result<(), DataflowError> {
        let mut input = Pending::new(changes);
        let fuel = self.fuel;
        while let Some(made) = self.nodes[at].step.step(&mut input, fuel, &mut self.rejected)? {
            debug_assert!(made.len() <= fuel, "a step gave {} rows of {fuel}", made.len());
            self.forward(at, made)?;
        }
        debug_assert!(input.is_empty(), "a step left rows behind");
        Ok(())
    }

    /// Hands on what a node emits.
    fn forward(&mut self, at: usize, changes: Changes) -> Result<(), DataflowError> {
        if changes.is_empty() {
            return Ok(());
        }
        if at + 1 == self.nodes.len() {
            self.output.push(changes);
            return Ok(());
        }
        for consumer in 0..self.nodes[at].consumers.len() {
            self.send(self.nodes[at].consumers[consumer], changes.clone())?;
        }
        Ok(())
    }

    fn take_output(&mut self) -> Result<Option<Changes>, DataflowError> {
        let output = std::mem::take(&mut self.output);
        let node = &self.nodes[self.nodes.len() - 1];
        let fault = internal(node.id);
        // An aggregation emits each of its rows once; of an append-only view none is taken back.
        if node.append_only || matches!(node.step, Step::Aggregate(_)) {
            return together(&node.schema, &output).map_err(fault);
        }
        consolidate(&node.schema, &output).map_err(fault)
    }
}

fn put_watermark(operator: OperatorId, watermark: Timestamp, meta: &mut DeltaBuilder) {
    let key = [WATERMARK, &operator.0.to_le_bytes()].concat();
    meta.put(&key, |out| out.extend_from_slice(&watermark.0.to_le_bytes()));
}

fn input(operator: &Operator) -> Option<Input> {
    let kind = match &operator.kind {
        OperatorKind::Source { object, columns } => {
            InputKind::Source { object: *object, projection: columns.clone() }
        }
        OperatorKind::View { object } => InputKind::View { object: *object },
        _ => return None,
    };
    Some(Input { operator: operator.id, kind, columns: operator.columns.clone() })
}

fn node(
    operator: &Operator,
    plan: &Plan,
    nodes: &[Node],
    tables: &HashMap<ObjectId, RecordBatch>,
    clock: &Clock,
) -> Result<Node, BuildError> {
    let id = operator.id;
    let broken = |reason: &str| BuildError::Broken { operator: id, reason: reason.to_owned() };
    let position = |input: &OperatorId| nodes.iter().position(|node| node.id == *input);
    let inputs: Option<Vec<usize>> = operator.inputs.iter().map(position).collect();
    let inputs = inputs.ok_or_else(|| broken("an input is not before it"))?;
    let count = inputs.len();
    let fits = match &operator.kind {
        OperatorKind::Source { .. } | OperatorKind::View { .. } | OperatorKind::Table { .. } => {
            count == 0
        }
        OperatorKind::Union => count > 0,
        _ => count == 1,
    };
    if !fits {
        return Err(broken("it has not as many inputs as it needs"));
    }
    let schema: SchemaRef = Arc::new(Column::schema(&operator.columns));
    let upstream: &[Column] = inputs.first().map_or(&[], |&input| &plan.operators[input].columns);
    let input = inputs.first().map(|&input| nodes[input].schema.clone());
    let input = input.unwrap_or_else(|| schema.clone());
    let append_only = inputs.iter().all(|&input| nodes[input].append_only);
    let context =
        Context { operator, upstream, input, append_only, schema: schema.clone(), tables, clock };
    if operator.kind == OperatorKind::Union {
        let types = |schema: &SchemaRef| {
            schema.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>()
        };
        if inputs.iter().any(|&input| types(&nodes[input].schema) != types(&schema)) {
            return Err(broken("its inputs have other columns"));
        }
    }
    let step = context.step()?;
    let is_input = matches!(operator.kind, OperatorKind::Source { .. } | OperatorKind::View { .. });
    Ok(Node {
        id,
        step,
        schema,
        inputs,
        consumers: Vec::new(),
        append_only: operator.append_only,
        is_input,
        watermark: Timestamp::MIN,
    })
}

/// What an operator is built of.
struct Context<'a> {
    operator: &'a Operator,
    /// The columns of the first input.
    upstream: &'a [Column],
    input: SchemaRef,
    /// Whether all inputs are.
    append_only: bool,
    schema: SchemaRef,
    tables: &'a HashMap<ObjectId, RecordBatch>,
    clock: &'a Clock,
}

impl Context<'_> {
    fn step(&self) -> Result<Step, BuildError> {
        let id = self.operator.id;
        Ok(match &self.operator.kind {
            OperatorKind::Source { .. } | OperatorKind::View { .. } | OperatorKind::Union => {
                Step::Pass(Pass { operator: id, schema: self.schema.clone() })
            }
            OperatorKind::Table { object } => {
                let rows = Changes::additions(self.table(*object)?.clone());
                let rows = rewrap(id, rows, &self.schema)
                    .map_err(|error| self.broken(&error.to_string()))?;
                Step::Table(rows.batch)
            }
            OperatorKind::Filter { predicate } => {
                self.timeless(predicate)?;
                Step::Filter(Filter::new(
                    id,
                    predicate,
                    &self.input,
                    self.schema.clone(),
                    self.clock,
                )?)
            }
            OperatorKind::Project { exprs } => {
                exprs.iter().try_for_each(|expr| self.timeless(expr))?;
                Step::Project(Project::new(
                    id,
                    exprs,
                    &self.input,
                    self.schema.clone(),
                    self.clock,
                )?)
            }
            OperatorKind::Tumble { time, size_ms, offset_ms } => Step::Tumble(Tumble::new(
                id,
                *time,
                *size_ms,
                *offset_ms,
                self.upstream,
                self.schema.clone(),
            )?),
            OperatorKind::Aggregate { group, aggregates, window_end, state } => {
                Step::Aggregate(Box::new(Aggregation::new(&Spec {
                    operator: id,
                    group,
                    aggregates,
                    window_end: *window_end,
                    table: state.id,
                    layout: state.layout,
                    input: self.upstream,
                    append_only: self.append_only,
                    schema: self.schema.clone(),
                })?))
            }
            OperatorKind::Lookup { table: object, on, kind } => {
                let rows = self.table(*object)?;
                Step::Lookup(Box::new(Lookup::new(
                    id,
                    rows,
                    on,
                    *kind,
                    self.upstream,
                    self.schema.clone(),
                )?))
            }
        })
    }

    fn table(&self, object: ObjectId) -> Result<&RecordBatch, BuildError> {
        self.tables.get(&object).ok_or(BuildError::MissingTable(object))
    }

    fn broken(&self, reason: &str) -> BuildError {
        BuildError::Broken { operator: self.operator.id, reason: reason.to_owned() }
    }

    /// A row that is taken back has to be computed as it was when it was added.
    fn timeless(&self, expr: &Expr) -> Result<(), BuildError> {
        if self.append_only || !expression::reads_clock(expr) {
            return Ok(());
        }
        let reason = "now() over rows that may be taken back later".to_owned();
        Err(BuildError::Unsupported { operator: self.operator.id, reason })
    }
}
