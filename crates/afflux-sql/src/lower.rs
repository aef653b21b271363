//! Logical plans to operators.
//!
//! 1. Bottom up, each node of the logical plan becomes no, one or a few operators. The result of
//!    a node is a [`Relation`]: the operator that gives it, and what is proven about its rows.
//! 2. The first columns of a relation are those of the node's schema. There may be more behind
//!    them, which nothing names.
//! 3. A join's static side becomes no operator: it is resolved to the table, its columns and its
//!    filters, which a `Lookup` and what follows it take up.
//! 4. At the end the output gets its names and types that every edge can write.
//!
//! What is proven: append-only (a source's rows never change; an aggregate's do), the key (the
//! group columns, carried through projections), and which columns are event time or bounds of
//! a window over event time, so that an aggregate knows when a group is final.

use std::any::Any;

use afflux_catalog::ObjectKind;
use afflux_plan::{
    AggregateCall, AggregateFunction, BinaryOperator, Column, ColumnType, Expr, JoinKind, Operator,
    OperatorKind, Plan, StateTable,
};
use afflux_types::{ObjectId, OperatorId, TableId};
use arrow::datatypes::{DataType, IntervalUnit};
use datafusion::{
    common::{
        DFSchema, NullEquality,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{self as df, Distinct, JoinType, LogicalPlan},
};

use crate::{
    SqlError,
    context::ObjectTable,
    error::sqlstate,
    expr::{self, cast, has_now, replace_columns, truth},
    planner::{duplicate_column, from_datafusion},
    tumble::Tumble,
};

/// The version of the aggregates' state layout.
const AGGREGATE_LAYOUT: u16 = 1;

/// What is known about a column's times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Nothing.
    Plain,
    /// The column that the source's watermark is about.
    EventTime,
    /// A bound of a window over event time, from this operator and of this length.
    Window { tumble: OperatorId, size_ms: i64, part: Part },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Start,
    End,
    Time,
}

/// The output of an operator, and what is proven about it.
#[derive(Debug, Clone)]
struct Relation {
    id: OperatorId,
    columns: Vec<Column>,
    roles: Vec<Role>,
    append_only: bool,
    key: Option<Vec<usize>>,
}

/// The plan of a logical plan.
pub(crate) fn lower(logical: &LogicalPlan) -> Result<Plan, SqlError> {
    let mut lowering = Lowering { operators: Vec::new(), tables: 0 };
    let relation = lowering.relation(logical)?;
    let relation = lowering.output(relation, logical.schema())?;
    Ok(Plan { version: Plan::VERSION, operators: lowering.operators, key: relation.key })
}

/// Refuses what no view can have, before any rewriting hides it.
pub(crate) fn check(logical: &LogicalPlan) -> Result<(), SqlError> {
    let mut found = Ok(());
    let visited = logical.apply(|node| {
        found = check_node(node);
        Ok(if found.is_ok() { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    visited.map_err(|error| from_datafusion(&error))?;
    found
}

fn check_node(node: &LogicalPlan) -> Result<(), SqlError> {
    match node {
        LogicalPlan::Window(_) => {
            return Err(SqlError::unsupported("a view can not have window functions yet")
                .with_hint("group by the windows of TUMBLE"));
        }
        LogicalPlan::Sort(_) => {
            return Err(SqlError::unsupported("a view has no order")
                .with_hint("leave ORDER BY out here, and write it where you read the view"));
        }
        LogicalPlan::Limit(_) => {
            return Err(SqlError::unsupported("a view can not have LIMIT or OFFSET yet")
                .with_hint("leave it out here, and write it where you read the view"));
        }
        LogicalPlan::Distinct(Distinct::On(_)) => {
            return Err(SqlError::unsupported("DISTINCT ON is not there yet")
                .with_hint("use GROUP BY with min() or max()"));
        }
        LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => {
            return Err(SqlError::unsupported("a view has to read a source, a table or a view")
                .with_hint("constant rows belong into a table"));
        }
        LogicalPlan::RecursiveQuery(_) => {
            return Err(SqlError::unsupported("WITH RECURSIVE is not there yet"));
        }
        LogicalPlan::Unnest(_) => {
            return Err(SqlError::unsupported("a view can not have UNNEST yet"));
        }
        _ => {}
    }
    let mut found = Ok(());
    let visited = node.apply_expressions(|expr| {
        expr.apply(|expr| {
            let refused = matches!(
                expr,
                df::Expr::ScalarSubquery(_)
                    | df::Expr::InSubquery(_)
                    | df::Expr::Exists(_)
                    | df::Expr::SetComparison(_)
                    | df::Expr::OuterReferenceColumn(..)
                    | df::Expr::WindowFunction(_)
                    | df::Expr::Placeholder(_)
                    | df::Expr::GroupingSet(_)
                    | df::Expr::SimilarTo(_)
                    | df::Expr::Unnest(_)
            );
            if refused {
                found = Err(expr::refused(expr));
            }
            Ok(if refused { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })
    });
    visited.map_err(|error| from_datafusion(&error))?;
    found
}

struct Lowering {
    operators: Vec<Operator>,
    tables: u32,
}

impl Lowering {
    fn relation(&mut self, node: &LogicalPlan) -> Result<Relation, SqlError> {
        match node {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(alias) => self.relation(&alias.input),
            LogicalPlan::Projection(projection) => {
                let input = self.relation(&projection.input)?;
                if projection.expr.is_empty() {
                    return Ok(input);
                }
                let exprs = lower_all(&projection.expr, projection.input.schema())?;
                self.project(input, exprs, columns_of(&projection.schema))
            }
            LogicalPlan::Filter(filter) => {
                let input = self.relation(&filter.input)?;
                let predicate = expr::lower(&filter.predicate, filter.input.schema())?;
                self.filter(input, predicate)
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let relation = self.relation(input)?;
                let width = input.schema().fields().len();
                let columns = relation.columns[..width].to_vec();
                let group = (0..width).collect();
                self.group(relation, group, Vec::new(), columns)
            }
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Extension(extension) => {
                let node: &dyn Any = extension.node.as_any();
                match node.downcast_ref::<Tumble>() {
                    Some(tumble) => self.tumble(tumble),
                    None => Err(unknown_node(extension.node.name())),
                }
            }
            other => {
                check_node(other)?;
                let text = other.display().to_string();
                Err(unknown_node(text.split([':', ' ']).next().unwrap_or_default()))
            }
        }
    }

    fn push(
        &mut self,
        kind: OperatorKind,
        inputs: Vec<OperatorId>,
        columns: &[Column],
        append_only: bool,
    ) -> OperatorId {
        let id = OperatorId(self.operators.len() as u32);
        let columns = columns.to_vec();
        self.operators.push(Operator { id, kind, inputs, columns, append_only });
        id
    }

    fn scan(&mut self, scan: &df::TableScan) -> Result<Relation, SqlError> {
        let table = object_table(scan)?;
        let object = &table.object;
        let all = object.columns();
        let mut read: Vec<usize> = match &scan.projection {
            Some(columns) => columns.clone(),
            None => (0..all.len()).collect(),
        };
        if read.is_empty() {
            // count(*): a batch without columns has no rows.
            read.push(0);
        }
        let mut relation = match &object.kind {
            ObjectKind::Source(source) => {
                let columns: Vec<_> = read.iter().map(|&column| all[column].clone()).collect();
                let event_time = source.watermark.as_ref().map(|watermark| watermark.column);
                let roles = read
                    .iter()
                    .map(|&c| if Some(c) == event_time { Role::EventTime } else { Role::Plain })
                    .collect();
                let kind = OperatorKind::Source { object: object.id, columns: read };
                let id = self.push(kind, Vec::new(), &columns, true);
                Relation { id, columns, roles, append_only: true, key: None }
            }
            ObjectKind::Table(_) => {
                let kind = OperatorKind::Table { object: object.id };
                self.whole(kind, all, true, None, &read)?
            }
            ObjectKind::View(view) => {
                let kind = OperatorKind::View { object: object.id };
                let append_only = view.plan.output().append_only;
                self.whole(kind, all, append_only, view.plan.key.clone(), &read)?
            }
        };
        for filter in &scan.filters {
            let predicate = expr::lower(filter, &scan.projected_schema)?;
            relation = self.filter(relation, predicate)?;
        }
        Ok(relation)
    }

    /// An operator that gives all columns of an object, and the ones that are read of them.
    fn whole(
        &mut self,
        kind: OperatorKind,
        all: &[Column],
        append_only: bool,
        key: Option<Vec<usize>>,
        read: &[usize],
    ) -> Result<Relation, SqlError> {
        let id = self.push(kind, Vec::new(), all, append_only);
        let columns = all.to_vec();
        let roles = vec![Role::Plain; all.len()];
        let relation = Relation { id, columns, roles, append_only, key };
        let names = read.iter().map(|&column| all[column].clone()).collect();
        self.project(relation, read.iter().copied().map(Expr::Column).collect(), names)
    }

    fn project(
        &mut self,
        input: Relation,
        exprs: Vec<Expr>,
        columns: Vec<Column>,
    ) -> Result<Relation, SqlError> {
        check_now(&input, exprs.iter())?;
        let source = |expr: &Expr| match expr {
            Expr::Column(column) => Some(*column),
            _ => None,
        };
        let identity = exprs.iter().enumerate().all(|(at, expr)| source(expr) == Some(at));
        if identity && columns == input.columns {
            return Ok(input);
        }
        let roles: Vec<_> = exprs
            .iter()
            .map(|expr| source(expr).map_or(Role::Plain, |column| input.roles[column]))
            .collect();
        let key = input.key.as_ref().and_then(|key| {
            key.iter()
                .map(|&column| {
                    exprs.iter().position(|expr| {
                        source(expr).is_some_and(|at| {
                            at == column || same_window(input.roles[at], input.roles[column])
                        })
                    })
                })
                .collect()
        });
        let append_only = input.append_only;
        let (below, exprs) = self.merged(input.id, exprs);
        let id = self.push(OperatorKind::Project { exprs }, vec![below], &columns, append_only);
        Ok(Relation { id, columns, roles, append_only, key })
    }

    /// A projection of a projection is one, where nothing is computed twice.
    fn merged(&mut self, below: OperatorId, exprs: Vec<Expr>) -> (OperatorId, Vec<Expr>) {
        let Some(last) = self.operators.last() else { return (below, exprs) };
        let OperatorKind::Project { exprs: inner } = &last.kind else { return (below, exprs) };
        let computed = |expr: &Expr| !matches!(expr, Expr::Column(_) | Expr::Literal(_));
        if last.id != below || (inner.iter().any(computed) && exprs.iter().any(computed)) {
            return (below, exprs);
        }
        let mut uses = vec![0_usize; inner.len()];
        for expr in &exprs {
            if let Expr::Column(column) = expr {
                uses[*column] += 1;
            }
        }
        if inner.iter().zip(&uses).any(|(expr, uses)| computed(expr) && *uses > 1) {
            return (below, exprs);
        }
        let exprs = exprs
            .iter()
            .map(|expr| replace_columns(expr, &|column| inner[column].clone()))
            .collect();
        let below = last.inputs[0];
        self.operators.pop();
        (below, exprs)
    }

    fn filter(&mut self, input: Relation, predicate: Expr) -> Result<Relation, SqlError> {
        check_now(&input, std::iter::once(&predicate))?;
        let kind = OperatorKind::Filter { predicate };
        let id = self.push(kind, vec![input.id], &input.columns, input.append_only);
        Ok(Relation { id, ..input })
    }

    fn tumble(&mut self, node: &Tumble) -> Result<Relation, SqlError> {
        let width = node.input.schema().fields().len();
        let mut input = self.relation(&node.input)?;
        if input.columns.len() != width {
            // The window's columns come right behind those that have names.
            let exprs = (0..width).map(Expr::Column).collect();
            let columns = input.columns[..width].to_vec();
            input = self.project(input, exprs, columns)?;
        }
        let Expr::Column(time) = expr::lower(&node.time, node.input.schema())? else {
            return Err(SqlError::internal("the time of a window is no column"));
        };
        let is_event_time = input.roles[time] == Role::EventTime;
        let (size_ms, offset_ms) = (node.size_ms, node.offset_ms);
        let mut columns = input.columns.clone();
        let added = columns_of(df::UserDefinedLogicalNodeCore::schema(node)).split_off(width);
        columns.extend(added);
        let kind = OperatorKind::Tumble { time, size_ms, offset_ms };
        let id = self.push(kind, vec![input.id], &columns, input.append_only);
        let mut roles = input.roles;
        roles.extend([Part::Start, Part::End, Part::Time].map(|part| {
            if is_event_time { Role::Window { tumble: id, size_ms, part } } else { Role::Plain }
        }));
        Ok(Relation { id, columns, roles, append_only: input.append_only, key: input.key })
    }

    fn aggregate(&mut self, node: &df::Aggregate) -> Result<Relation, SqlError> {
        let schema = node.input.schema();
        let input = self.relation(&node.input)?;
        let mut arguments = Arguments { exprs: Vec::new(), width: input.columns.len() };
        let mut group = Vec::new();
        for expr in &node.group_expr {
            group.push(arguments.column(expr::lower(expr, schema)?));
        }
        let mut calls = Vec::new();
        for (at, expr) in node.aggr_expr.iter().enumerate() {
            let returns = node.schema.field(node.group_expr.len() + at).data_type();
            calls.push(aggregate_call(expr, returns, schema, &mut arguments)?);
        }
        let relation = if arguments.exprs.is_empty() {
            input
        } else {
            let mut columns = input.columns.clone();
            let mut exprs: Vec<_> = (0..input.columns.len()).map(Expr::Column).collect();
            for (at, (expr, data_type)) in arguments.typed(schema, node)?.into_iter().enumerate() {
                columns.push(Column::new(format!("_{at}"), data_type, true));
                exprs.push(expr);
            }
            self.project(input, exprs, columns)?
        };
        self.group(relation, group, calls, columns_of(&node.schema))
    }

    fn group(
        &mut self,
        mut input: Relation,
        group: Vec<usize>,
        aggregates: Vec<AggregateCall>,
        columns: Vec<Column>,
    ) -> Result<Relation, SqlError> {
        let window_end = match group.iter().find_map(|&column| match input.roles[column] {
            Role::Window { tumble, .. } if input.append_only => Some((column, tumble)),
            _ => None,
        }) {
            Some((column, tumble)) => {
                let (relation, end) = self.window_end(input, column, tumble)?;
                input = relation;
                Some(end)
            }
            None => None,
        };
        let append_only = input.append_only && aggregates.is_empty();
        let mut roles: Vec<_> = group.iter().map(|&column| input.roles[column]).collect();
        let mut key: Vec<usize> = Vec::new();
        for at in 0..group.len() {
            if !key.iter().any(|&known| same_window(roles[known], roles[at])) {
                key.push(at);
            }
        }
        roles.resize(columns.len(), Role::Plain);
        if !append_only {
            // What an aggregate emits comes when it changes, not in the order of event time.
            roles
                .iter_mut()
                .filter(|role| **role == Role::EventTime)
                .for_each(|r| *r = Role::Plain);
        }
        let state = StateTable { id: TableId(self.tables), layout: AGGREGATE_LAYOUT };
        self.tables += 1;
        let kind = OperatorKind::Aggregate { group, aggregates, window_end, state };
        let id = self.push(kind, vec![input.id], &columns, append_only);
        Ok(Relation { id, columns, roles, append_only, key: Some(key) })
    }

    /// The column with the end of the window that `column` is a bound of; computed if only
    /// another bound is left.
    fn window_end(
        &mut self,
        input: Relation,
        column: usize,
        tumble: OperatorId,
    ) -> Result<(Relation, usize), SqlError> {
        let is_end = |role: &Role| matches!(role, Role::Window { tumble: t, part: Part::End, .. } if *t == tumble);
        if let Some(end) = input.roles.iter().position(is_end) {
            return Ok((input, end));
        }
        let Role::Window { size_ms, part, .. } = input.roles[column] else {
            return Err(SqlError::internal("a window without bounds"));
        };
        let ahead = if part == Part::Start { size_ms } else { 1 };
        let end = Expr::Binary {
            op: BinaryOperator::Add,
            left: Box::new(Expr::Column(column)),
            right: Box::new(expr::interval(ahead)),
        };
        let at = input.columns.len();
        let mut exprs: Vec<_> = (0..at).map(Expr::Column).collect();
        exprs.push(end);
        let mut columns = input.columns.clone();
        let end_type = columns[column].column_type.0.clone();
        columns.push(Column::new("window_end", end_type, false));
        Ok((self.project(input, exprs, columns)?, at))
    }

    fn union(&mut self, node: &df::Union) -> Result<Relation, SqlError> {
        let mut columns = columns_of(&node.schema);
        let mut inputs = Vec::new();
        for input in &node.inputs {
            let relation = self.relation(input)?;
            let exprs = if columns.is_empty() {
                vec![truth()]
            } else {
                (0..columns.len()).map(Expr::Column).collect()
            };
            let own = if columns.is_empty() {
                vec![Column::new("one", DataType::Boolean, false)]
            } else {
                relation.columns[..columns.len()].to_vec()
            };
            inputs.push(self.project(relation, exprs, own)?);
        }
        if columns.is_empty() {
            columns.push(Column::new("one", DataType::Boolean, false));
        }
        let width = columns.len();
        for (at, column) in columns.iter_mut().enumerate() {
            column.nullable = inputs.iter().any(|input| input.columns[at].nullable);
        }
        let event_time = |at: usize| inputs.iter().all(|input| input.roles[at] == Role::EventTime);
        let roles = (0..width)
            .map(|at| if event_time(at) { Role::EventTime } else { Role::Plain })
            .collect();
        let append_only = inputs.iter().all(|input| input.append_only);
        let ids = inputs.iter().map(|input| input.id).collect();
        let id = self.push(OperatorKind::Union, ids, &columns, append_only);
        Ok(Relation { id, columns, roles, append_only, key: None })
    }

    fn join(&mut self, join: &df::Join) -> Result<Relation, SqlError> {
        if join.null_equality == NullEquality::NullEqualsNull {
            return Err(SqlError::unsupported("a join can not match nulls")
                .with_hint("write = instead of IS NOT DISTINCT FROM"));
        }
        let (left, right) = (static_side(&join.left)?, static_side(&join.right)?);
        let (kind, table, flipped) = match (join.join_type, left, right) {
            (JoinType::Inner, _, Some(table)) => (JoinKind::Inner, table, false),
            (JoinType::Inner, Some(table), None) => (JoinKind::Inner, table, true),
            (JoinType::Left, _, Some(table)) => (JoinKind::Left, table, false),
            (JoinType::Right, Some(table), _) => (JoinKind::Left, table, true),
            (JoinType::Inner | JoinType::Left | JoinType::Right, _, _) => {
                return Err(SqlError::unsupported("a join of two streams is not there yet")
                    .with_hint(
                        "one side of a join has to be a static table; for LEFT JOIN the right one",
                    ));
            }
            (other, _, _) => {
                return Err(SqlError::unsupported(format!("{other} JOIN is not there yet"))
                    .with_hint("there are INNER and LEFT JOIN with a static table"));
            }
        };
        if join.on.is_empty() {
            return Err(SqlError::unsupported("a join without an equality is not there yet")
                .with_hint("join ON stream.column = table.column"));
        }
        let (stream, table_plan) =
            if flipped { (&join.right, &join.left) } else { (&join.left, &join.right) };
        let input = self.relation(stream)?;
        let mut on = Vec::new();
        let mut arguments = Arguments { exprs: Vec::new(), width: input.columns.len() };
        for (left, right) in &join.on {
            let (ours, theirs) = if flipped { (right, left) } else { (left, right) };
            let ours = expr::lower(ours, stream.schema())?;
            let theirs = table.resolve(&expr::lower(theirs, table_plan.schema())?);
            let (ours, column) = table.equality(ours, &theirs, &input.columns)?;
            on.push((arguments.column(ours), column));
        }
        let input = if arguments.exprs.is_empty() {
            input
        } else {
            let mut exprs: Vec<_> = (0..input.columns.len()).map(Expr::Column).collect();
            let mut columns = input.columns.clone();
            for (at, expr) in arguments.exprs.iter().enumerate() {
                let pair = on.iter().find(|(ours, _)| *ours == arguments.width + at);
                let key_type = pair.map(|(_, theirs)| table.columns[*theirs].column_type.clone());
                let column_type = key_type.unwrap_or(ColumnType(DataType::Null));
                columns.push(Column { name: format!("_{at}"), column_type, nullable: true });
                exprs.push(expr.clone());
            }
            self.project(input, exprs, columns)?
        };
        let joined = self.lookup(input, &table, on, kind)?;
        self.joined(joined, join, stream, table_plan, &table, kind, flipped)
    }

    fn lookup(
        &mut self,
        input: Relation,
        table: &StaticSide,
        on: Vec<(usize, usize)>,
        kind: JoinKind,
    ) -> Result<Relation, SqlError> {
        let mut columns = input.columns.clone();
        columns.extend(table.columns.iter().cloned().map(|mut column| {
            column.nullable |= kind == JoinKind::Left;
            column
        }));
        let mut roles = input.roles;
        roles.resize(columns.len(), Role::Plain);
        let width = input.columns.len();
        let kind = OperatorKind::Lookup { table: table.object, on, kind };
        let id = self.push(kind, vec![input.id], &columns, input.append_only);
        // Several rows of the table may match one row: nothing proves that its key stays one.
        let mut relation =
            Relation { id, columns, roles, append_only: input.append_only, key: None };
        for filter in &table.filters {
            let predicate = replace_columns(filter, &|column| Expr::Column(width + column));
            relation = self.filter(relation, predicate)?;
        }
        Ok(relation)
    }

    /// The columns of a join in the order of its schema, and its remaining condition.
    #[expect(clippy::too_many_arguments, reason = "the parts of one join")]
    fn joined(
        &mut self,
        looked_up: Relation,
        join: &df::Join,
        stream: &LogicalPlan,
        table_plan: &LogicalPlan,
        table: &StaticSide,
        kind: JoinKind,
        flipped: bool,
    ) -> Result<Relation, SqlError> {
        let behind = looked_up.columns.len() - table.columns.len();
        let ours = (0..stream.schema().fields().len()).map(Expr::Column);
        let theirs = table.exprs[..table_plan.schema().fields().len()]
            .iter()
            .map(|expr| replace_columns(expr, &|column| Expr::Column(behind + column)));
        let exprs: Vec<_> =
            if flipped { theirs.chain(ours).collect() } else { ours.chain(theirs).collect() };
        let names = columns_of(&join.schema);
        let relation =
            if exprs.is_empty() { looked_up } else { self.project(looked_up, exprs, names)? };
        match &join.filter {
            None => Ok(relation),
            Some(filter) if kind == JoinKind::Inner => {
                let predicate = expr::lower(filter, &join.schema)?;
                self.filter(relation, predicate)
            }
            Some(filter) => Err(SqlError::unsupported(format!(
                "LEFT JOIN … ON can not have the condition {filter} yet"
            ))
            .with_hint("only equalities with the table's columns; filter the table in a view")),
        }
    }

    /// The view's own columns: named once each, of types that every edge can write.
    fn output(&mut self, relation: Relation, schema: &DFSchema) -> Result<Relation, SqlError> {
        let mut columns = columns_of(schema);
        let mut exprs = Vec::new();
        for (at, column) in columns.iter_mut().enumerate() {
            let data_type = relation.columns[at].column_type.0.clone();
            let written = written_type(&data_type, &column.name)?;
            let expr = Expr::Column(at);
            exprs.push(if written == data_type { expr } else { cast(expr, &written, false) });
            column.column_type = ColumnType(written);
            column.nullable = relation.columns[at].nullable;
        }
        for (at, column) in columns.iter().enumerate() {
            if columns[..at].iter().any(|other| other.name == column.name) {
                return Err(duplicate_column(&column.name));
            }
        }
        self.project(relation, exprs, columns)
    }
}

/// The type as which the view gives a column.
fn written_type(data_type: &DataType, name: &str) -> Result<DataType, SqlError> {
    Ok(match data_type {
        DataType::Null | DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Date64 => DataType::Date32,
        DataType::Dictionary(_, values) => written_type(values, name)?,
        DataType::Timestamp(unit, Some(zone)) if zone.as_ref() != "UTC" => {
            DataType::Timestamp(*unit, Some("UTC".into()))
        }
        DataType::Duration(_) => DataType::Interval(IntervalUnit::MonthDayNano),
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::FixedSizeList(..)
        | DataType::Struct(_)
        | DataType::Map(..)
        | DataType::Union(..)
        | DataType::RunEndEncoded(..) => {
            return Err(SqlError::unsupported(format!(
                "the column \"{name}\" can not be of the type {data_type} yet"
            ))
            .with_hint("take a part of it, or make it a text"));
        }
        other => other.clone(),
    })
}

fn same_window(left: Role, right: Role) -> bool {
    match (left, right) {
        (Role::Window { tumble: left, .. }, Role::Window { tumble: right, .. }) => left == right,
        _ => false,
    }
}

/// `now()` over rows that can be taken back would not take back what it gave.
fn check_now<'a>(
    input: &Relation,
    mut exprs: impl Iterator<Item = &'a Expr>,
) -> Result<(), SqlError> {
    if input.append_only || !exprs.any(has_now) {
        return Ok(());
    }
    Err(SqlError::unsupported("now() can not be over rows that change")
        .with_hint("use now() below the aggregate, or where you read the view"))
}

fn lower_all(exprs: &[df::Expr], schema: &DFSchema) -> Result<Vec<Expr>, SqlError> {
    exprs.iter().map(|expr| expr::lower(expr, schema)).collect()
}

fn columns_of(schema: &DFSchema) -> Vec<Column> {
    schema
        .fields()
        .iter()
        .map(|field| Column::new(field.name(), field.data_type().clone(), field.is_nullable()))
        .collect()
}

fn object_table(scan: &df::TableScan) -> Result<&ObjectTable, SqlError> {
    let source: &dyn Any = scan.source.as_ref();
    source.downcast_ref().ok_or_else(|| SqlError::internal("a scan of an unknown table"))
}

fn unknown_node(name: &str) -> SqlError {
    SqlError::unsupported(format!("a view can not have {name} yet"))
}

/// Columns that an operator needs and its input may have to compute first.
struct Arguments {
    /// What is computed, behind the input's own columns.
    exprs: Vec<Expr>,
    /// How many columns the input has.
    width: usize,
}

impl Arguments {
    fn column(&mut self, expr: Expr) -> usize {
        if let Expr::Column(column) = expr {
            return column;
        }
        let at = self.exprs.iter().position(|known| *known == expr).unwrap_or_else(|| {
            self.exprs.push(expr);
            self.exprs.len() - 1
        });
        self.width + at
    }

    /// The computed columns with the types that the logical plan proves.
    fn typed(
        &self,
        schema: &DFSchema,
        node: &df::Aggregate,
    ) -> Result<Vec<(Expr, DataType)>, SqlError> {
        let mut types: Vec<Option<DataType>> = vec![None; self.exprs.len()];
        let mut note = |expr: &df::Expr| -> Result<(), SqlError> {
            let lowered = expr::lower(expr, schema)?;
            if let Some(at) = self.exprs.iter().position(|known| *known == lowered) {
                let data_type = df::ExprSchemable::get_type(expr, schema);
                types[at] = Some(data_type.map_err(|error| from_datafusion(&error))?);
            }
            Ok(())
        };
        for expr in &node.group_expr {
            note(expr)?;
        }
        for expr in &node.aggr_expr {
            let params = &aggregate_function(expr)?.params;
            params.args.iter().try_for_each(&mut note)?;
            params.filter.iter().try_for_each(|filter| note(filter))?;
        }
        self.exprs
            .iter()
            .zip(types)
            .map(|(expr, data_type)| {
                let missing = || SqlError::internal("a computed column without a type");
                Ok((expr.clone(), data_type.ok_or_else(missing)?))
            })
            .collect()
    }
}

fn aggregate_function(expr: &df::Expr) -> Result<&df::expr::AggregateFunction, SqlError> {
    match expr {
        df::Expr::Alias(alias) => aggregate_function(&alias.expr),
        df::Expr::AggregateFunction(call) => Ok(call),
        other => Err(expr::refused(other)),
    }
}

fn aggregate_call(
    expr: &df::Expr,
    returns: &DataType,
    schema: &DFSchema,
    arguments: &mut Arguments,
) -> Result<AggregateCall, SqlError> {
    let call = aggregate_function(expr)?;
    let (name, params) = (call.func.name(), &call.params);
    let function = match name {
        "count" => AggregateFunction::Count,
        "sum" => AggregateFunction::Sum,
        "avg" => AggregateFunction::Avg,
        "min" => AggregateFunction::Min,
        "max" => AggregateFunction::Max,
        other => {
            return Err(SqlError::unsupported(format!("the aggregate {other}() is not there yet"))
                .with_hint("there are count, sum, avg, min and max"));
        }
    };
    if params.distinct && !matches!(function, AggregateFunction::Min | AggregateFunction::Max) {
        return Err(SqlError::unsupported(format!("{name}(DISTINCT …) is not there yet"))
            .with_hint("select distinct rows in a subquery, then aggregate them"));
    }
    if !params.order_by.is_empty() || params.null_treatment.is_some() {
        return Err(SqlError::unsupported(format!(
            "{name}() takes neither ORDER BY nor IGNORE NULLS"
        )));
    }
    let argument = match params.args.as_slice() {
        [df::Expr::Literal(value, _)] if name == "count" && !value.is_null() => None,
        [] if name == "count" => None,
        [argument] => Some(arguments.column(expr::lower(argument, schema)?)),
        _ => {
            return Err(SqlError::unsupported(format!("{name}() takes one argument")));
        }
    };
    let legal = match function {
        AggregateFunction::Count => *returns == DataType::Int64,
        AggregateFunction::Sum => matches!(
            returns,
            DataType::Int64 | DataType::UInt64 | DataType::Float64 | DataType::Decimal128(..)
        ),
        AggregateFunction::Avg => {
            matches!(returns, DataType::Float64 | DataType::Decimal128(..))
        }
        AggregateFunction::Min | AggregateFunction::Max => {
            !returns.is_nested() && !matches!(returns, DataType::Null | DataType::Interval(_))
        }
    };
    if !legal {
        return Err(SqlError::invalid(
            sqlstate::DATATYPE_MISMATCH,
            format!("{name}() can not give the type {returns}"),
        )
        .with_hint("cast its argument"));
    }
    let filter = match &params.filter {
        Some(filter) => Some(arguments.column(expr::lower(filter, schema)?)),
        None => None,
    };
    Ok(AggregateCall { function, argument, filter, returns: ColumnType(returns.clone()) })
}

/// A static table as one side of a join, with what lies between the two.
struct StaticSide {
    object: ObjectId,
    /// All columns of the table.
    columns: Vec<Column>,
    /// The side's columns, over those of the table.
    exprs: Vec<Expr>,
    /// What its rows have to fulfil, over the table's columns.
    filters: Vec<Expr>,
}

impl StaticSide {
    /// An expression over the side's columns as one over the table's.
    fn resolve(&self, expr: &Expr) -> Expr {
        replace_columns(expr, &|column| self.exprs[column].clone())
    }

    /// An equality as a value of the stream and a column of the table of the same type.
    fn equality(
        &self,
        ours: Expr,
        theirs: &Expr,
        stream: &[Column],
    ) -> Result<(Expr, usize), SqlError> {
        let compared = |expr: &Expr| match expr {
            Expr::Column(column) => stream.get(*column).map(|c| c.column_type.0.clone()),
            Expr::Cast { to, .. } | Expr::Call { returns: to, .. } => Some(to.0.clone()),
            Expr::Literal(scalar) => Some(scalar.scalar_type.0.clone()),
            _ => None,
        };
        match theirs {
            Expr::Column(column) => {
                let key_type = &self.columns[*column].column_type.0;
                let ours = match compared(&ours) {
                    Some(own) if own == *key_type => ours,
                    _ => cast(ours, key_type, true),
                };
                Ok((ours, *column))
            }
            // The stream's type is the wider one: what does not fit the table's matches nothing.
            Expr::Cast { expr, to, .. } => match expr.as_ref() {
                Expr::Column(column)
                    if self.columns[*column].column_type.0.is_integer() && to.0.is_integer() =>
                {
                    Ok((cast(ours, &self.columns[*column].column_type.0, true), *column))
                }
                _ => Err(not_a_column(theirs)),
            },
            _ => Err(not_a_column(theirs)),
        }
    }
}

fn not_a_column(_expr: &Expr) -> SqlError {
    SqlError::unsupported(
        "a join compares with a column of the static table, not with an expression",
    )
    .with_hint("write stream.column = table.column, both of one type; cast the stream's side")
}

/// The static table that a plan reads, if it only reads one.
fn static_side(node: &LogicalPlan) -> Result<Option<StaticSide>, SqlError> {
    match node {
        LogicalPlan::TableScan(scan) => {
            let object = &object_table(scan)?.object;
            let ObjectKind::Table(table) = &object.kind else { return Ok(None) };
            let columns = table.columns.clone();
            let exprs: Vec<_> = match &scan.projection {
                Some(read) => read.iter().copied().map(Expr::Column).collect(),
                None => (0..columns.len()).map(Expr::Column).collect(),
            };
            Ok(Some(StaticSide { object: object.id, columns, exprs, filters: Vec::new() }))
        }
        LogicalPlan::SubqueryAlias(alias) => static_side(&alias.input),
        LogicalPlan::Projection(projection) => {
            let Some(mut side) = static_side(&projection.input)? else { return Ok(None) };
            let exprs = lower_all(&projection.expr, projection.input.schema())?;
            side.exprs = exprs.iter().map(|expr| side.resolve(expr)).collect();
            Ok(Some(side))
        }
        LogicalPlan::Filter(filter) => {
            let Some(mut side) = static_side(&filter.input)? else { return Ok(None) };
            let predicate = expr::lower(&filter.predicate, filter.input.schema())?;
            side.filters.push(side.resolve(&predicate));
            Ok(Some(side))
        }
        _ => Ok(None),
    }
}
