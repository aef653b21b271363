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
//! group columns, carried through projections and through joins that find at most one row; a
//! table's primary key), and which columns are event time or bounds of
//! a window over event time, so that an aggregate knows when a group is final.

mod aggregate;
mod join;
mod refuse;

use std::any::Any;

use afflux_catalog::ObjectKind;
use afflux_plan::{Column, ColumnType, Expr, Operator, OperatorKind, Plan};
use afflux_types::OperatorId;
use arrow::datatypes::{DataType, IntervalUnit};
use datafusion::{
    common::DFSchema,
    logical_expr::{self as df, Distinct, LogicalPlan},
};

pub(crate) use refuse::check;
use refuse::check_node;

use crate::{
    SqlError,
    context::ObjectTable,
    expr::{self, cast, count_columns, has_now, replace_columns, truth},
    planner::duplicate_column,
    tumble::Tumble,
};

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
            ObjectKind::Table(table) => {
                let kind = OperatorKind::Table { object: object.id };
                self.whole(kind, all, true, table.key.clone(), &read)?
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
        if identity && self.renamed(&input, &columns) {
            return Ok(Relation { columns, ..input });
        }
        let roles: Vec<_> = exprs
            .iter()
            .map(|expr| source(expr).map_or(Role::Plain, |column| input.roles[column]))
            .collect();
        let carries = |expr: &Expr, column: usize| {
            key_source(expr, &input.columns)
                .is_some_and(|at| at == column || same_window(input.roles[at], input.roles[column]))
        };
        let carried = |column: usize| exprs.iter().position(|expr| carries(expr, column));
        let key =
            input.key.as_ref().and_then(|key| key.iter().map(|&column| carried(column)).collect());
        let append_only = input.append_only;
        let (below, exprs) = self.merged(input.id, exprs);
        let id = self.push(OperatorKind::Project { exprs }, vec![below], &columns, append_only);
        Ok(Relation { id, columns, roles, append_only, key })
    }

    /// New names for the columns of an operator that makes them: no projection is needed.
    fn renamed(&mut self, input: &Relation, columns: &[Column]) -> bool {
        let Some(last) = self.operators.last_mut() else { return false };
        let makes_columns =
            matches!(last.kind, OperatorKind::Aggregate { .. } | OperatorKind::Project { .. });
        let types = |columns: &[Column]| -> Vec<_> {
            columns.iter().map(|c| (c.column_type.clone(), c.nullable)).collect()
        };
        if last.id != input.id || !makes_columns || types(columns) != types(&last.columns) {
            return false;
        }
        last.columns = columns.to_vec();
        true
    }

    /// A projection of a projection is one, where nothing is computed twice.
    fn merged(&mut self, below: OperatorId, exprs: Vec<Expr>) -> (OperatorId, Vec<Expr>) {
        let Some(last) = self.operators.last() else { return (below, exprs) };
        let OperatorKind::Project { exprs: inner } = &last.kind else { return (below, exprs) };
        if last.id != below {
            return (below, exprs);
        }
        let mut uses = vec![0_usize; inner.len()];
        for expr in &exprs {
            count_columns(expr, &mut uses);
        }
        let computed = |expr: &Expr| !matches!(expr, Expr::Column(_) | Expr::Literal(_));
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

/// The column that an expression gives, at most in another type that tells the same values apart.
fn key_source(expr: &Expr, columns: &[Column]) -> Option<usize> {
    match expr {
        Expr::Column(column) => Some(*column),
        Expr::Cast { expr, to, or_null: false } => {
            let column = key_source(expr, columns)?;
            let from = &columns[column].column_type.0;
            let width = |data_type: &DataType| data_type.primitive_width().unwrap_or(0);
            let wider =
                from.is_signed_integer() && to.0.is_signed_integer() && width(from) <= width(&to.0);
            (wider || (from.is_string() && to.0.is_string())).then_some(column)
        }
        _ => None,
    }
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
