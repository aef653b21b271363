//! What DataFusion's planner asks: tables of the catalog, functions, types.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use afflux_catalog::{Catalog, Object};
use afflux_plan::Column;
use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use datafusion::{
    common::{DataFusionError, Result, TableReference, config::ConfigOptions},
    datasource::TableType,
    execution::SessionStateDefaults,
    functions, functions_aggregate, functions_window,
    logical_expr::{
        AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF,
        planner::{ContextProvider, ExprPlanner, RelationPlanner, TypePlanner},
    },
    sql::sqlparser::ast,
};

use crate::{
    SqlError,
    error::{nearest, sqlstate},
    tumble::Windows,
    types::column_type,
};

/// An object of the catalog as DataFusion scans it.
pub(crate) struct ObjectTable {
    pub(crate) object: Arc<Object>,
    schema: SchemaRef,
}

impl ObjectTable {
    fn new(object: &Arc<Object>) -> Self {
        Self { object: Arc::clone(object), schema: Arc::new(Column::schema(object.columns())) }
    }
}

impl TableSource for ObjectTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
    fn table_type(&self) -> TableType {
        TableType::Base
    }
}

/// Functions by name and alias. They never change.
struct Functions {
    scalar: HashMap<String, Arc<ScalarUDF>>,
    aggregate: HashMap<String, Arc<AggregateUDF>>,
    window: HashMap<String, Arc<WindowUDF>>,
    planners: Vec<Arc<dyn ExprPlanner>>,
}

static FUNCTIONS: LazyLock<Functions> = LazyLock::new(|| Functions {
    scalar: by_name(
        // version() is DataFusion's, which says nothing to whoever asks.
        functions::all_default_functions().into_iter().filter(|f| f.name() != "version").collect(),
        |f| (f.name(), f.aliases()),
    ),
    aggregate: by_name(functions_aggregate::all_default_aggregate_functions(), |f| {
        (f.name(), f.aliases())
    }),
    window: by_name(functions_window::all_default_window_functions(), |f| (f.name(), f.aliases())),
    planners: SessionStateDefaults::default_expr_planners(),
});

fn by_name<T>(
    functions: Vec<Arc<T>>,
    names: impl Fn(&T) -> (&str, &[String]),
) -> HashMap<String, Arc<T>> {
    let mut map = HashMap::new();
    for function in functions {
        let (name, aliases) = names(&function);
        for name in aliases.iter().map(String::as_str).chain([name]) {
            map.insert(name.to_owned(), Arc::clone(&function));
        }
    }
    map
}

/// The function that a wrong name is most like.
pub(crate) fn nearest_function(name: &str) -> Option<&'static str> {
    let aggregates = ["count", "sum", "avg", "min", "max"];
    nearest(name, FUNCTIONS.scalar.keys().map(String::as_str).chain(aggregates))
}

/// One planning over one catalog.
pub(crate) struct Context<'a> {
    catalog: &'a Catalog,
    options: ConfigOptions,
    relations: [Arc<dyn RelationPlanner>; 1],
}

impl<'a> Context<'a> {
    pub(crate) fn new(catalog: &'a Catalog) -> Self {
        Self { catalog, options: ConfigOptions::default(), relations: [Arc::new(Windows)] }
    }
}

/// The object that a table reference names.
pub(crate) fn resolve(
    catalog: &Catalog,
    reference: &TableReference,
) -> std::result::Result<Arc<Object>, SqlError> {
    let name = reference.table();
    if let Some(schema) = reference.schema()
        && schema != "public"
    {
        return Err(SqlError::invalid(
            sqlstate::UNDEFINED_TABLE,
            format!("there is no schema \"{schema}\""),
        )
        .with_hint("write the name without a schema"));
    }
    if let Some(object) = catalog.find(name) {
        return Ok(Arc::clone(object));
    }
    Err(unknown_object(catalog, name))
}

/// The error about a name that no object has.
pub(crate) fn unknown_object(catalog: &Catalog, name: &str) -> SqlError {
    let error = SqlError::new(
        afflux_types::ErrorKind::NotFound,
        sqlstate::UNDEFINED_TABLE,
        format!("there is no source, table or view \"{name}\""),
    );
    match nearest(name, catalog.objects().map(|object| object.name.as_str())) {
        Some(near) => error.with_hint(format!("did you mean \"{near}\"?")),
        None => error.with_hint("SHOW SOURCES, SHOW TABLES and SHOW VIEWS list what there is"),
    }
}

impl ContextProvider for Context<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        match resolve(self.catalog, &name) {
            Ok(object) => Ok(Arc::new(ObjectTable::new(&object))),
            Err(error) => Err(DataFusionError::External(Box::new(error))),
        }
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &FUNCTIONS.planners
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        &self.relations
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(Types))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        FUNCTIONS.scalar.get(name).cloned()
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        FUNCTIONS.aggregate.get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        FUNCTIONS.window.get(name).cloned()
    }

    fn get_variable_type(&self, _variable_names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        FUNCTIONS.scalar.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        ["count", "sum", "avg", "min", "max"].map(str::to_owned).to_vec()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Casts take the same types as columns.
#[derive(Debug)]
struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> Result<Option<FieldRef>> {
        match column_type(sql_type) {
            Ok(data_type) => Ok(Some(Arc::new(Field::new("", data_type, true)))),
            Err(error) => Err(DataFusionError::External(Box::new(error))),
        }
    }
}
