//! Grouping: what is computed first, what is final when.

use afflux_plan::{
    AggregateCall, AggregateFunction, BinaryOperator, Column, ColumnType, Expr, OperatorKind,
    StateTable,
};
use afflux_types::{OperatorId, TableId};
use arrow::datatypes::DataType;
use datafusion::{common::DFSchema, logical_expr as df};

use super::{Lowering, Part, Relation, Role, columns_of, same_window};
use crate::{SqlError, error::sqlstate, expr, planner::from_datafusion};

/// The version of the aggregates' state layout.
const AGGREGATE_LAYOUT: u16 = 1;

impl Lowering {
    pub(super) fn aggregate(&mut self, node: &df::Aggregate) -> Result<Relation, SqlError> {
        let schema = node.input.schema();
        let input = self.relation(&node.input)?;
        let mut arguments = Arguments::default();
        let mut group = Vec::new();
        for expr in &node.group_expr {
            group.push(arguments.add(expr, schema)?);
        }
        let mut calls = Vec::new();
        for (at, expr) in node.aggr_expr.iter().enumerate() {
            let returns = node.schema.field(node.group_expr.len() + at).data_type();
            calls.push(aggregate_call(expr, returns, schema, &mut arguments)?);
        }
        let plain = |expr: &Expr| match expr {
            Expr::Column(column) => Some(*column),
            _ => None,
        };
        let as_they_are: Option<Vec<usize>> = arguments.exprs.iter().map(plain).collect();
        let relation = if let Some(columns) = as_they_are {
            // No projection: the aggregate picks its columns from the input.
            for at in &mut group {
                *at = columns[*at];
            }
            for call in &mut calls {
                call.argument = call.argument.map(|at| columns[at]);
                call.filter = call.filter.map(|at| columns[at]);
            }
            input
        } else {
            let columns = arguments
                .exprs
                .iter()
                .zip(&arguments.types)
                .enumerate()
                .map(|(at, (expr, (data_type, nullable)))| match plain(expr) {
                    Some(column) => input.columns[column].clone(),
                    None => Column::new(format!("_{at}"), data_type.clone(), *nullable),
                })
                .collect();
            self.project(input, arguments.exprs, columns)?
        };
        let mut columns = columns_of(&node.schema);
        for (column, at) in columns.iter_mut().zip(&group) {
            column.name.clone_from(&relation.columns[*at].name);
        }
        for (column, call) in columns[group.len()..].iter_mut().zip(&calls) {
            column.name = call_name(call, &relation.columns);
        }
        self.group(relation, group, calls, columns)
    }

    pub(super) fn group(
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
}

/// What an aggregate needs of its input, each once, with type and whether it can be null.
#[derive(Default)]
struct Arguments {
    exprs: Vec<Expr>,
    types: Vec<(DataType, bool)>,
}

impl Arguments {
    /// The position of an expression.
    fn add(&mut self, expr: &df::Expr, schema: &DFSchema) -> Result<usize, SqlError> {
        let lowered = expr::lower(expr, schema)?;
        if let Some(at) = self.exprs.iter().position(|known| *known == lowered) {
            return Ok(at);
        }
        let (_, field) =
            df::ExprSchemable::to_field(expr, schema).map_err(|error| from_datafusion(&error))?;
        self.exprs.push(lowered);
        self.types.push((field.data_type().clone(), field.is_nullable()));
        Ok(self.exprs.len() - 1)
    }
}

/// A name for an aggregate that has none of its own.
fn call_name(call: &AggregateCall, columns: &[Column]) -> String {
    let function = match call.function {
        AggregateFunction::Count => "count",
        AggregateFunction::Sum => "sum",
        AggregateFunction::Avg => "avg",
        AggregateFunction::Min => "min",
        AggregateFunction::Max => "max",
    };
    match call.argument {
        Some(argument) if !columns[argument].name.starts_with('_') => {
            format!("{function}_{}", columns[argument].name)
        }
        _ => function.to_owned(),
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
        [argument] => Some(arguments.add(argument, schema)?),
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
        Some(filter) => Some(arguments.add(filter, schema)?),
        None => None,
    };
    Ok(AggregateCall { function, argument, filter, returns: ColumnType(returns.clone()) })
}
