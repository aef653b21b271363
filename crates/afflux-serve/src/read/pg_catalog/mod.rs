//! As much of Postgres's system catalogue as its clients look at: `pg_catalog` and
//! `information_schema`, made anew from Afflux's catalog for each query that asks.
//!
//! Honest, not complete: what Afflux has not (indexes, constraints, policies, …) are tables
//! without rows. What clients ask in SQL that the planner does not take is rewritten first, see
//! [`mod@rewrite`]. A query that speaks of none of this pays nothing.

mod functions;
mod rewrite;
mod rows;
mod tables;
mod types;

use std::sync::Arc;

use afflux_catalog::{Catalog, Object};
use datafusion::{
    catalog::{
        CatalogProvider, MemTable, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider,
    },
    execution::{FunctionRegistry, session_state::SessionState},
    sql::sqlparser::ast,
};

pub(super) use rewrite::rewrite;

use super::session::Identity;
use crate::QueryError;

/// What the catalogue is made from.
#[derive(Debug)]
struct Snapshot {
    objects: Vec<Arc<Object>>,
    identity: Identity,
}

/// The owner of everything, until security is switched on.
const OWNER: &str = "afflux";

/// Postgres gives numbers below this to its own objects.
const FIRST_OID: i32 = 16_384;

fn oid_of(object: &Object) -> i32 {
    FIRST_OID.saturating_add(i32::try_from(object.id.0).unwrap_or(i32::MAX))
}

/// Whether a query may speak of the catalogue. Says yes too often rather than too seldom.
pub(super) fn is_needed(query: &ast::Query) -> bool {
    let text = query.to_string().to_ascii_lowercase();
    functions::NAMES.iter().any(|name| text.contains(name))
        || ["pg_", "information_schema", "reg"].iter().any(|word| text.contains(word))
}

/// The objects that a query names, beside the catalogue. Names of other things are the planner's
/// to find missing.
pub(super) fn objects(query: &ast::Query, catalog: &Catalog) -> Vec<Arc<Object>> {
    let mut objects: Vec<Arc<Object>> = Vec::new();
    let _ = ast::visit_relations(query, |name| {
        let parts: Option<Vec<_>> =
            name.0.iter().map(|part| part.as_ident().map(super::query::fold)).collect();
        let found = match parts.as_deref() {
            Some([name]) => catalog.find(name),
            Some([.., schema, name]) if schema == super::query::SCHEMA => catalog.find(name),
            _ => None,
        };
        if let Some(object) = found
            && !objects.iter().any(|known| known.id == object.id)
        {
            objects.push(Arc::clone(object));
        }
        std::ops::ControlFlow::<()>::Continue(())
    });
    objects
}

/// Adds the tables to a database and the functions to a session's state.
pub(super) fn register(
    state: &mut SessionState,
    database: &MemoryCatalogProvider,
    catalog: &Catalog,
    identity: &Identity,
) -> Result<(), QueryError> {
    let objects = catalog.objects().cloned().collect();
    let snapshot = Arc::new(Snapshot { objects, identity: identity.clone() });
    for (schema, tables) in [
        ("pg_catalog", tables::pg_catalog(&snapshot)?),
        ("information_schema", tables::information_schema(&snapshot)?),
    ] {
        let provider = MemorySchemaProvider::new();
        for (name, batch) in tables {
            let table = MemTable::try_new(batch.schema(), vec![vec![batch]])?;
            provider.register_table(name.to_owned(), Arc::new(table))?;
        }
        database.register_schema(schema, Arc::new(provider))?;
    }
    for function in functions::all(&snapshot) {
        state.register_udf(Arc::new(function))?;
    }
    Ok(())
}
