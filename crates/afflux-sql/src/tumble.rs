//! `TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' HOUR))` in logical plans.
//!
//! DataFusion knows no windowing table functions. [`Windows`] plans the table factor, [`Tumble`]
//! is the node that stands for it until it is lowered.

use std::{cmp::Ordering, collections::HashSet, fmt, sync::Arc};

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::{
    common::{DFSchema, DFSchemaRef, DataFusionError, ExprSchema, Result, TableReference},
    logical_expr::{
        Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore,
        planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning},
    },
    sql::sqlparser::ast,
};

use crate::{SqlError, error::sqlstate, parser::fold, types::interval_ms};

/// The columns that a window adds, in this order.
pub(crate) const WINDOW_COLUMNS: [&str; 3] = ["window_start", "window_end", "window_time"];

/// Rows with the tumbling window that their time falls into.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Tumble {
    pub(crate) input: LogicalPlan,
    pub(crate) time: Expr,
    pub(crate) size_ms: i64,
    pub(crate) offset_ms: i64,
    schema: DFSchemaRef,
}

impl Tumble {
    fn new(input: LogicalPlan, time: Expr, size_ms: i64, offset_ms: i64) -> Result<Self> {
        let Expr::Column(column) = &time else {
            return Err(DataFusionError::Internal(format!("{time} is not a column")));
        };
        let time_type = input.schema().field_from_column(column)?.data_type().clone();
        let mut fields: Vec<(Option<TableReference>, FieldRef)> =
            input.schema().iter().map(|(q, field)| (q.cloned(), Arc::clone(field))).collect();
        let added = WINDOW_COLUMNS.map(|name| Field::new(name, time_type.clone(), false));
        fields.extend(added.map(|field| (None, Arc::new(field))));
        let schema =
            DFSchema::new_with_metadata(fields, input.schema().as_ref().metadata().clone())?;
        Ok(Self { input, time, size_ms, offset_ms, schema: Arc::new(schema) })
    }
}

impl PartialOrd for Tumble {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (&self.input, &self.time, self.size_ms, self.offset_ms).partial_cmp(&(
            &other.input,
            &other.time,
            other.size_ms,
            other.offset_ms,
        ))
    }
}

impl UserDefinedLogicalNodeCore for Tumble {
    fn name(&self) -> &'static str {
        "Tumble"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![self.time.clone()]
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        WINDOW_COLUMNS.iter().map(|name| (*name).to_owned()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tumble: {} size={} ms", self.time, self.size_ms)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let (Ok([time]), Ok([input])) =
            (<[Expr; 1]>::try_from(exprs), <[LogicalPlan; 1]>::try_from(inputs))
        else {
            return Err(DataFusionError::Internal("a window has one input".to_owned()));
        };
        Self::new(input, time, self.size_ms, self.offset_ms)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let Expr::Column(column) = &self.time else { return None };
        let width = self.input.schema().fields().len();
        let mut needed: Vec<_> = output_columns.iter().copied().filter(|c| *c < width).collect();
        needed.push(self.input.schema().maybe_index_of_column(column)?);
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

/// Plans windowing table functions.
#[derive(Debug)]
pub(crate) struct Windows;

impl RelationPlanner for Windows {
    fn plan_relation(
        &self,
        relation: ast::TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let (name, arguments, alias) = match &relation {
            ast::TableFactor::TableFunction { expr: ast::Expr::Function(call), alias } => {
                match &call.args {
                    ast::FunctionArguments::List(list) => (&call.name, &list.args, alias),
                    _ => return Ok(RelationPlanning::Original(Box::new(relation))),
                }
            }
            ast::TableFactor::Table { name, args: Some(args), alias, .. } => {
                (name, &args.args, alias)
            }
            ast::TableFactor::Pivot { .. }
            | ast::TableFactor::Unpivot { .. }
            | ast::TableFactor::MatchRecognize { .. } => {
                return fail(SqlError::unsupported(format!("{relation} is not there")));
            }
            _ => return Ok(RelationPlanning::Original(Box::new(relation))),
        };
        let plan = match name.to_string().to_lowercase().as_str() {
            "tumble" => tumble(arguments, context)?,
            other => {
                return fail(
                    SqlError::unsupported(format!("there is no table function {other}"))
                        .with_hint("the only one is TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL …)"),
                );
            }
        };
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))))
    }
}

fn fail<T>(error: SqlError) -> Result<T> {
    Err(DataFusionError::External(Box::new(error)))
}

fn wrong_arguments() -> SqlError {
    SqlError::invalid(sqlstate::SYNTAX, "TUMBLE takes a table, a DESCRIPTOR and an INTERVAL")
        .with_hint("write TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' HOUR))")
}

fn tumble(
    arguments: &[ast::FunctionArg],
    context: &mut dyn RelationPlannerContext,
) -> Result<LogicalPlan> {
    let Some([data, time, size, offset]) = in_order(arguments) else {
        return fail(wrong_arguments());
    };
    let (Some(data), Some(time), Some(size)) = (data, time, size) else {
        return fail(wrong_arguments());
    };
    let input = context.plan(relation(data).map_or_else(fail, Ok)?)?;
    let Some(ident) = descriptor(time) else { return fail(wrong_arguments()) };
    let time = context.sql_to_expr(ast::Expr::Identifier(ident), input.schema())?;
    let Expr::Column(column) = &time else { return fail(wrong_arguments()) };
    match input.schema().field_from_column(column)?.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            return fail(
                SqlError::unsupported(format!("the time of a window, {column}, counts seconds"))
                    .with_hint("cast it to TIMESTAMP(3) first"),
            );
        }
        DataType::Timestamp(..) => {}
        other => {
            return fail(SqlError::invalid(
                sqlstate::DATATYPE_MISMATCH,
                format!("the time of a window has to be a TIMESTAMP; {column} is {other}"),
            ));
        }
    }
    let names = input.schema().fields();
    if let Some(taken) = WINDOW_COLUMNS.iter().find(|name| names.iter().any(|f| f.name() == **name))
    {
        return fail(
            SqlError::unsupported(format!("the table of TUMBLE has a column {taken} already"))
                .with_hint("rename it in a subquery or a WITH clause"),
        );
    }
    let size_ms = interval_ms(size).map_or_else(fail, Ok)?;
    if size_ms == 0 {
        return fail(SqlError::invalid(
            sqlstate::INVALID_PARAMETER,
            "the length of a window has to be positive",
        ));
    }
    let offset_ms = match offset {
        Some(offset) => interval_ms(offset).map_or_else(fail, Ok)? % size_ms,
        None => 0,
    };
    let node = Tumble::new(input, time, size_ms, offset_ms)?;
    Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
}

/// The arguments in Flink's order: data, time column, size, offset.
fn in_order(arguments: &[ast::FunctionArg]) -> Option<[Option<&ast::Expr>; 4]> {
    const NAMES: [&str; 4] = ["data", "timecol", "size", "offset"];
    let mut found = [None; 4];
    for (at, argument) in arguments.iter().enumerate() {
        let (slot, argument) = match argument {
            ast::FunctionArg::Unnamed(argument) => (at, argument),
            ast::FunctionArg::Named { name, arg, .. } => {
                (NAMES.iter().position(|known| *known == fold(name))?, arg)
            }
            ast::FunctionArg::ExprNamed { name: ast::Expr::Identifier(name), arg, .. } => {
                (NAMES.iter().position(|known| *known == fold(name))?, arg)
            }
            ast::FunctionArg::ExprNamed { .. } => return None,
        };
        let ast::FunctionArgExpr::Expr(expr) = argument else { return None };
        if found.get_mut(slot)?.replace(expr).is_some() {
            return None;
        }
    }
    Some(found)
}

/// The relation that the first argument names.
fn relation(data: &ast::Expr) -> std::result::Result<ast::TableFactor, SqlError> {
    let idents = match data {
        ast::Expr::Identifier(ident) => vec![ident.clone()],
        ast::Expr::CompoundIdentifier(idents) => idents.clone(),
        ast::Expr::Subquery(query) => {
            return Ok(ast::TableFactor::Derived {
                lateral: false,
                subquery: query.clone(),
                alias: None,
                sample: None,
            });
        }
        _ => return Err(wrong_arguments()),
    };
    Ok(ast::TableFactor::Table {
        name: ast::ObjectName::from(idents),
        alias: None,
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    })
}

/// The table that a `TUMBLE` reads, if it reads one by its name.
pub(crate) fn named_input(arguments: &[ast::FunctionArg]) -> Option<ast::ObjectName> {
    match relation(in_order(arguments)?[0]?).ok()? {
        ast::TableFactor::Table { name, .. } => Some(name),
        _ => None,
    }
}

/// The column in `DESCRIPTOR(column)`.
fn descriptor(expr: &ast::Expr) -> Option<ast::Ident> {
    let ast::Expr::Function(call) = expr else { return None };
    let ast::FunctionArguments::List(list) = &call.args else { return None };
    match list.args.as_slice() {
        [ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(ast::Expr::Identifier(ident)))]
            if call.name.to_string().eq_ignore_ascii_case("descriptor") =>
        {
            Some(ident.clone())
        }
        _ => None,
    }
}
