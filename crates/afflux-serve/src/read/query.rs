//! One SELECT through DataFusion.
//!
//! 1. Names in the text are looked up in the catalog; what they stand for is pinned at one tick.
//! 2. A session over just these relations, and the small Postgres catalogue, plans the query.
//! 3. The answer's columns are named as PostgreSQL names them.
//! 4. The plan runs in one partition, within the memory that all reads of the node share, until
//!    it is done or interrupted. Nothing spills: a node's disk belongs to its log.

use std::{collections::HashMap, sync::Arc};

use afflux_catalog::{Catalog, Object, ObjectKind};
use afflux_plan::Column;
use afflux_sql::Query;
use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::{DataType, Fields, Schema, SchemaRef},
};
use datafusion::{
    catalog::{
        CatalogProvider, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
        SchemaProvider,
    },
    common::{DataFusionError, ParamValues},
    execution::{
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::{GreedyMemoryPool, TrackConsumersPool},
        runtime_env::RuntimeEnvBuilder,
        session_state::{SessionState, SessionStateBuilder},
    },
    logical_expr::LogicalPlan,
    physical_plan::{displayable, execute_stream},
    prelude::SessionConfig,
    scalar::ScalarValue,
    sql::{parser::Statement as PlannerStatement, sqlparser::ast},
};
use futures::StreamExt;

use super::{interrupt::Interrupt, pg_catalog, relation::PinnedTable, session::Identity, show};
use crate::{
    QueryError,
    node::{BatchStream, Node},
};

/// The name that every connection's database has for the planner.
const DATABASE: &str = "afflux";
/// The schema of all objects.
pub(super) const SCHEMA: &str = "public";

/// Plans queries and starts them. One for a node.
pub(super) struct Planner {
    node: Arc<dyn Node>,
    /// All functions, no relations.
    base: SessionState,
}

/// What is known of a query before it runs.
#[derive(Debug)]
pub(super) struct Described {
    /// The types of `$1`, `$2`, …
    pub(super) parameters: Vec<DataType>,
    /// The columns of the answer.
    pub(super) schema: SchemaRef,
}

impl Planner {
    /// Reads together use at most this much memory for what they sort, join and aggregate.
    pub(super) fn new(node: Arc<dyn Node>, memory_bytes_max: usize) -> Result<Self, QueryError> {
        let pool = TrackConsumersPool::new(
            GreedyMemoryPool::new(memory_bytes_max),
            std::num::NonZeroUsize::MIN,
        );
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(pool))
            .with_disk_manager_builder(
                DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled),
            )
            .build_arc()?;
        let mut config = SessionConfig::new()
            .with_target_partitions(1)
            .with_default_catalog_and_schema(DATABASE, SCHEMA)
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(false);
        config.options_mut().sql_parser.map_string_types_to_utf8view = false;
        config.options_mut().sql_parser.collect_spans = true;
        // Times with a zone are kept and shown in UTC.
        config.options_mut().execution.time_zone = Some("UTC".to_owned());
        let base = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(runtime)
            .with_default_features()
            .build();
        Ok(Self { node, base })
    }

    /// The node that is read.
    pub(super) fn node(&self) -> &Arc<dyn Node> {
        &self.node
    }

    /// Starts a query. The answer's batches come from one tick.
    pub(super) async fn run(
        &self,
        query: &Query,
        parameters: Vec<ScalarValue>,
        identity: &Identity,
        interrupt: &Interrupt,
    ) -> Result<(SchemaRef, BatchStream), QueryError> {
        let catalog = self.node.catalog();
        let objects = readable(query, &catalog)?;
        let pinned = interrupt.limit(self.pin(&objects)).await?;
        let state = self.state(pinned, query, &catalog, identity)?;
        let steps = async {
            let plan = plan(&state, query, &catalog).await?;
            let plan = plan.with_param_values(ParamValues::from(parameters))?;
            let plan = state.create_physical_plan(&plan).await?;
            Ok(execute_stream(plan, state.task_ctx())?)
        };
        let batches = interrupt.limit(steps).await?;
        let schema = named(&batches.schema(), query);
        let to = Arc::clone(&schema);
        let rename = move |batch: RecordBatch| {
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let columns = batch.columns().to_vec();
            let batch = RecordBatch::try_new_with_options(Arc::clone(&to), columns, &options);
            batch.map_err(|error| DataFusionError::from(error).into())
        };
        let batches = interrupt.clone().limit_stream(batches);
        Ok((schema, batches.map(move |batch| batch.and_then(&rename)).boxed()))
    }

    /// What a query takes and answers. `known` are the types that the client has given.
    pub(super) async fn describe(
        &self,
        query: &Query,
        known: &[Option<DataType>],
        identity: &Identity,
    ) -> Result<Described, QueryError> {
        let catalog = self.node.catalog();
        let state = self.state(columns(&readable(query, &catalog)?), query, &catalog, identity)?;
        let plan = plan(&state, query, &catalog).await?;
        let mut inferred: HashMap<usize, Option<DataType>> = HashMap::new();
        for (name, data_type) in plan.get_parameter_types()? {
            let number = name.trim_start_matches('$').parse::<usize>().ok().filter(|n| *n > 0);
            let number = number.ok_or_else(|| {
                QueryError::invalid(format!("\"{name}\" is not a parameter"))
                    .with_sqlstate("42P02")
                    .with_hint("write parameters as $1, $2, …")
            })?;
            inferred.insert(number - 1, data_type);
        }
        let count = inferred.keys().map(|n| n + 1).max().unwrap_or(0).max(known.len());
        if count > usize::from(u16::MAX) {
            return Err(QueryError::invalid("a statement takes at most 65535 parameters")
                .with_sqlstate("54000"));
        }
        let parameters: Vec<_> = (0..count)
            .map(|n| {
                let given = known.get(n).cloned().flatten();
                given.or_else(|| inferred.get(&n).cloned().flatten()).unwrap_or(DataType::Utf8)
            })
            .collect();
        let nulls = parameters.iter().map(ScalarValue::try_from).collect::<Result<Vec<_>, _>>()?;
        let plan = plan.with_param_values(ParamValues::from(nulls))?;
        let plan = state.optimize(&plan)?;
        Ok(Described { parameters, schema: named(plan.schema().inner(), query) })
    }

    /// How a query would be run, a line a step: read, or kept up to date if it reads a source.
    pub(super) async fn explain(
        &self,
        query: &Query,
        identity: &Identity,
    ) -> Result<Vec<String>, QueryError> {
        let catalog = self.node.catalog();
        let reads_a_source = afflux_sql::query_objects(query, &catalog)
            .is_ok_and(|objects| objects.iter().any(|o| matches!(o.kind, ObjectKind::Source(_))));
        if reads_a_source {
            return Ok(show::plan(&afflux_sql::plan_view(query, &catalog)?, &catalog));
        }
        let state = self.state(columns(&readable(query, &catalog)?), query, &catalog, identity)?;
        let plan = plan(&state, query, &catalog).await?;
        let plan = state.create_physical_plan(&plan).await?;
        let text = displayable(plan.as_ref()).indent(false).to_string();
        Ok(text.lines().map(str::to_owned).collect())
    }

    async fn pin(&self, objects: &[Arc<Object>]) -> Result<Tables, QueryError> {
        if objects.is_empty() {
            return Ok(Tables::new());
        }
        let ids: Vec<_> = objects.iter().map(|object| object.id).collect();
        let pinned = self.node.pin(&ids).await?;
        tracing::trace!(tick = pinned.tick.0, relations = pinned.relations.len(), "pinned");
        let table = |(object, relation): (Arc<Object>, _)| {
            (object.name.clone(), PinnedTable::new(relation))
        };
        Ok(pinned.relations.into_iter().map(table).collect())
    }

    fn state(
        &self,
        tables: Tables,
        query: &Query,
        catalog: &Catalog,
        identity: &Identity,
    ) -> Result<SessionState, QueryError> {
        let schema = MemorySchemaProvider::new();
        for (name, table) in tables {
            schema.register_table(name, Arc::new(table))?;
        }
        let database = MemoryCatalogProvider::new();
        database.register_schema(SCHEMA, Arc::new(schema))?;
        let mut base = self.base.clone();
        if pg_catalog::is_needed(query.ast()) {
            pg_catalog::register(&mut base, &database, catalog, identity)?;
        }
        let list = MemoryCatalogProviderList::new();
        datafusion::catalog::CatalogProviderList::register_catalog(
            &list,
            DATABASE.to_owned(),
            Arc::new(database),
        );
        Ok(SessionStateBuilder::new_from_existing(base).with_catalog_list(Arc::new(list)).build())
    }
}

type Tables = Vec<(String, PinnedTable)>;

fn columns(objects: &[Arc<Object>]) -> Tables {
    let table = |object: &Arc<Object>| {
        let schema = Arc::new(Column::schema(object.columns()));
        (object.name.clone(), PinnedTable::columns(schema))
    };
    objects.iter().map(table).collect()
}

async fn plan(
    state: &SessionState,
    query: &Query,
    catalog: &Catalog,
) -> Result<LogicalPlan, QueryError> {
    let query = pg_catalog::rewrite(query.ast(), catalog);
    let statement = PlannerStatement::Statement(Box::new(ast::Statement::Query(Box::new(query))));
    let plan = state.statement_to_plan(statement).await?;
    afflux_sql::check_size(&plan)?;
    Ok(plan)
}

/// An answer's columns under the names that PostgreSQL gives them.
fn named(schema: &SchemaRef, query: &Query) -> SchemaRef {
    let names = query.column_names(schema.fields().len());
    let fields = schema.fields().iter().zip(names).map(|(field, name)| match name {
        Some(name) => Arc::new(field.as_ref().clone().with_name(name)),
        None => Arc::clone(field),
    });
    Arc::new(Schema::new_with_metadata(fields.collect::<Fields>(), schema.metadata().clone()))
}

/// The objects that a query names and that hold rows.
fn readable(query: &Query, catalog: &Catalog) -> Result<Vec<Arc<Object>>, QueryError> {
    let objects = if pg_catalog::is_needed(query.ast()) {
        pg_catalog::objects(query.ast(), catalog)
    } else {
        afflux_sql::query_objects(query, catalog)?
    };
    match objects.iter().find(|object| matches!(object.kind, ObjectKind::Source(_))) {
        Some(object) => {
            let name = &object.name;
            Err(QueryError::invalid(format!("\"{name}\" is a source: it keeps no rows"))
                .with_sqlstate("42809")
                .with_hint(format!(
                    "CREATE MATERIALIZED VIEW … AS SELECT … FROM {name}, then read the view"
                )))
        }
        None => Ok(objects),
    }
}

/// An identifier as SQL folds it.
pub(super) fn fold(ident: &ast::Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}
