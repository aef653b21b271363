//! Queries to plans: DataFusion resolves, coerces and simplifies; `lower` makes operators.

use std::{ops::ControlFlow, sync::Arc};

use afflux_catalog::{Catalog, Object};
use afflux_plan::Plan;
use datafusion::{
    common::{DataFusionError, SchemaError, TableReference, config::ConfigOptions},
    logical_expr::LogicalPlan,
    optimizer::{
        Analyzer, Optimizer, OptimizerContext, OptimizerRule,
        eliminate_cross_join::EliminateCrossJoin,
        extract_equijoin_predicate::ExtractEquijoinPredicate,
        optimize_projections::OptimizeProjections, push_down_filter::PushDownFilter,
        simplify_expressions::SimplifyExpressions,
    },
    sql::{
        parser::Statement as DFStatement,
        planner::{ParserOptions, SqlToRel},
        resolve::resolve_table_references,
        sqlparser::ast::{self, Visit, Visitor},
    },
};

use crate::{
    Position, Query, SqlError,
    context::{Context, nearest_function, resolve},
    error::{nearest, sqlstate},
    lower, names, shape, size, stack, tumble,
};

/// The plan of a materialised view.
pub fn plan_view(query: &Query, catalog: &Catalog) -> Result<Plan, SqlError> {
    stack::with(query.depth, || {
        shape::check(&query.ast)?;
        let mut ast = query.ast.clone();
        names::name_columns(&mut ast, &query.columns)?;
        lower::lower(&logical(*ast, catalog)?)
    })
}

/// The objects of the catalog that a query reads, each once. Tables of PostgreSQL's own schemas
/// (`pg_catalog`, `information_schema`) are not among them.
pub fn query_objects(query: &Query, catalog: &Catalog) -> Result<Vec<Arc<Object>>, SqlError> {
    stack::with(query.depth, || objects(query, catalog))
}

fn objects(query: &Query, catalog: &Catalog) -> Result<Vec<Arc<Object>>, SqlError> {
    let statement = ast::Statement::Query(query.ast.clone());
    let mut windowed = Windowed::default();
    let _ = statement.visit(&mut windowed);
    let (mut references, ctes) =
        resolve_table_references(&DFStatement::Statement(Box::new(statement)), true)
            .map_err(|error| from_datafusion(&error))?;
    references.retain(|reference| !windowed.functions.contains(&reference.table().to_owned()));
    let windowed = windowed.inputs.into_iter().filter(|input| !ctes.contains(input));
    let mut objects: Vec<Arc<Object>> = Vec::new();
    for reference in references.into_iter().chain(windowed) {
        let is_system = match reference.schema() {
            Some(schema) => matches!(schema, "pg_catalog" | "information_schema"),
            None => {
                reference.table().starts_with("pg_") && catalog.find(reference.table()).is_none()
            }
        };
        if is_system {
            continue;
        }
        let object = resolve(catalog, &reference)?;
        if !objects.iter().any(|known| known.id == object.id) {
            objects.push(object);
        }
    }
    Ok(objects)
}

/// The tables that windowing table functions read by name.
#[derive(Default)]
struct Windowed {
    inputs: Vec<TableReference>,
    functions: Vec<String>,
}

impl Visitor for Windowed {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &ast::TableFactor) -> ControlFlow<()> {
        let arguments = match factor {
            ast::TableFactor::TableFunction { expr: ast::Expr::Function(call), .. } => {
                match &call.args {
                    ast::FunctionArguments::List(list) => &list.args,
                    _ => return ControlFlow::Continue(()),
                }
            }
            ast::TableFactor::Table { name, args: Some(args), .. } => {
                self.functions.push(name.to_string().to_lowercase());
                &args.args
            }
            _ => return ControlFlow::Continue(()),
        };
        let input = tumble::named_input(arguments).and_then(|name| {
            datafusion::sql::planner::object_name_to_table_reference(name, true).ok()
        });
        self.inputs.extend(input);
        ControlFlow::Continue(())
    }
}

/// The optimised logical plan of a query.
fn logical(query: ast::Query, catalog: &Catalog) -> Result<LogicalPlan, SqlError> {
    let context = Context::new(catalog);
    let options =
        ParserOptions::new().with_map_string_types_to_utf8view(false).with_collect_spans(true);
    let planned = SqlToRel::new_with_options(&context, options)
        .sql_statement_to_plan(ast::Statement::Query(Box::new(query)))
        .map_err(|error| from_datafusion(&error))?;
    size::check_size(&planned)?;
    lower::check(&planned)?;
    let analyzed = Analyzer::new()
        .execute_and_check(planned, &ConfigOptions::default(), |_, _| {})
        .map_err(|error| from_datafusion(&error))?;
    // now() stays: it is the epoch's, not the planning's.
    let config = OptimizerContext::new().without_query_execution_start_time();
    let rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        Arc::new(SimplifyExpressions::new()),
        Arc::new(ExtractEquijoinPredicate::new()),
        Arc::new(EliminateCrossJoin::new()),
        Arc::new(PushDownFilter::new()),
        Arc::new(OptimizeProjections::new()),
    ];
    Optimizer::with_rules(rules)
        .optimize(analyzed, &config, |_, _| {})
        .map_err(|error| from_datafusion(&error))
}

/// An error of DataFusion as ours.
pub(crate) fn from_datafusion(error: &DataFusionError) -> SqlError {
    let place = |span: Option<datafusion::common::Span>| {
        span.map(|span| Position { line: span.start.line, column: span.start.column })
    };
    match error {
        DataFusionError::External(inner) => match inner.downcast_ref::<SqlError>() {
            Some(error) => error.clone(),
            None => SqlError::internal(inner.to_string()),
        },
        DataFusionError::Diagnostic(diagnostic, inner) => {
            from_datafusion(inner).at(place(diagnostic.span))
        }
        DataFusionError::Context(_, inner) => from_datafusion(inner),
        DataFusionError::Shared(inner) => from_datafusion(inner),
        DataFusionError::Collection(errors) => match errors.first() {
            Some(first) => from_datafusion(first),
            None => SqlError::internal(error.to_string()),
        },
        DataFusionError::SchemaError(schema, _) => from_schema(schema),
        DataFusionError::SQL(parser, _) => SqlError::invalid(sqlstate::SYNTAX, parser.to_string()),
        DataFusionError::NotImplemented(message) => SqlError::unsupported(sentence(message)),
        DataFusionError::Plan(message) => from_plan(message),
        DataFusionError::Execution(message) => {
            SqlError::invalid(sqlstate::INVALID_PARAMETER, sentence(message))
        }
        DataFusionError::ArrowError(arrow, _) => {
            SqlError::invalid(sqlstate::INVALID_PARAMETER, sentence(&arrow.to_string()))
        }
        other => SqlError::internal(sentence(&other.to_string())),
    }
}

fn from_schema(error: &SchemaError) -> SqlError {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let error = SqlError::invalid(
                sqlstate::UNDEFINED_COLUMN,
                format!("there is no column \"{}\"", field.flat_name().replace('"', "")),
            );
            let known = || valid_fields.iter().map(|field| field.name.as_str());
            match nearest(&field.name, known()) {
                Some(near) => error.with_hint(format!("did you mean \"{near}\"?")),
                None if valid_fields.is_empty() => error,
                None => {
                    let mut known: Vec<_> = known().collect();
                    known.dedup();
                    error.with_hint(format!("the columns are {}", known.join(", ")))
                }
            }
        }
        SchemaError::AmbiguousReference { field } => SqlError::invalid(
            sqlstate::AMBIGUOUS_COLUMN,
            format!("the column \"{}\" is in several tables", field.name),
        )
        .with_hint(format!("write table.{}", field.name)),
        SchemaError::DuplicateQualifiedField { name, .. }
        | SchemaError::DuplicateUnqualifiedField { name } => duplicate_column(name),
    }
}

/// Two output columns of one name.
pub(crate) fn duplicate_column(name: &str) -> SqlError {
    SqlError::invalid(sqlstate::DUPLICATE_COLUMN, format!("there are two columns \"{name}\""))
        .with_hint("give one of them another name with AS")
}

/// DataFusion's planning errors are texts.
fn from_plan(message: &str) -> SqlError {
    let first = message.lines().next().unwrap_or_default();
    let quoted = |mark: char| first.split(mark).nth(1).unwrap_or_default();
    if first.starts_with("Invalid function") {
        let name = quoted('\'');
        let error = SqlError::invalid(
            sqlstate::UNDEFINED_FUNCTION,
            format!("there is no function {name}()"),
        );
        return match nearest_function(name) {
            Some(near) => error.with_hint(format!("did you mean {near}()?")),
            None => error,
        };
    }
    if let Some((_, rest)) = first.split_once("While expanding wildcard, column \"")
        && let Some((column, _)) = rest.split_once('"')
    {
        let message = format!("the column {column} is neither grouped by nor aggregated");
        return SqlError::invalid(sqlstate::GROUPING, message)
            .with_hint("add it to GROUP BY, or use an aggregate of it");
    }
    if let Some((_, rest)) = first.split_once("non-boolean predicate '")
        && let Some((condition, returns)) = rest.split_once("' returning ")
    {
        let message = format!("the condition {condition} is {returns}, not Boolean");
        return SqlError::invalid(sqlstate::DATATYPE_MISMATCH, message);
    }
    if first.contains("failed to match any signature")
        && let Some((_, rest)) = first.split_once("but received ")
    {
        let received = rest.split([' ', ',']).next().unwrap_or_default();
        let message = format!("{}() does not take {received}", quoted('\''));
        return SqlError::invalid(sqlstate::DATATYPE_MISMATCH, message)
            .with_hint("cast its arguments");
    }
    if first.contains("require unique expression names") {
        let name = quoted('"');
        let name = name.rsplit_once(" AS ").map_or(name, |(_, alias)| alias);
        return duplicate_column(name.rsplit_once('.').map_or(name, |(_, column)| column));
    }
    let code = if ["coerce", "type", "Type", "non-boolean"].iter().any(|word| first.contains(word))
    {
        sqlstate::DATATYPE_MISMATCH
    } else {
        sqlstate::SYNTAX
    };
    SqlError::invalid(code, sentence(first))
}

/// One line, without DataFusion's own prefixes.
fn sentence(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default().trim().trim_end_matches('.');
    let prefixes = ["Error during planning: ", "This feature is not implemented: ", "Cast error: "];
    prefixes.iter().fold(line, |line, prefix| line.strip_prefix(prefix).unwrap_or(line)).to_owned()
}
