//! A pinned relation as DataFusion reads it.
//!
//! 1. If the filters give every key column a constant, the row is looked up by its key.
//! 2. Otherwise all batches are scanned, only the columns that the query needs.
//!
//! Filters are applied above in both cases: a lookup is a faster scan, never another answer.

use std::{fmt, sync::Arc};

use arrow::{array::ArrayRef, datatypes::SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    datasource::{TableType, memory::MemorySourceConfig},
    error::{DataFusionError, Result},
    logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown},
    physical_plan::ExecutionPlan,
    scalar::ScalarValue,
};

use crate::{QueryError, node::Relation};

/// A table whose rows are pinned, or not there because a statement is only being described.
pub(super) struct PinnedTable {
    schema: SchemaRef,
    relation: Option<Arc<dyn Relation>>,
}

impl PinnedTable {
    /// The rows of a relation.
    pub(super) fn new(relation: Arc<dyn Relation>) -> Self {
        Self { schema: relation.schema(), relation: Some(relation) }
    }

    /// Only the columns: for planning.
    pub(super) fn columns(schema: SchemaRef) -> Self {
        Self { schema, relation: None }
    }

    /// The constants that the filters equate the key columns with, if they do so for all.
    fn lookup(&self, filters: &[Expr]) -> Result<Option<Vec<ArrayRef>>> {
        let Some(key) = self.relation.as_ref().and_then(|relation| relation.key()) else {
            return Ok(None);
        };
        if key.is_empty() {
            return Ok(None);
        }
        key.iter()
            .map(|column| {
                let field = self.schema.field(*column);
                let value = filters.iter().find_map(|filter| match equated(filter) {
                    Some((name, value)) if name == field.name() => Some(value),
                    _ => None,
                });
                // A value of another type is compared by the rules of that comparison, not by
                // the key's bytes: that is the scan's work.
                match value {
                    Some(value) if value.data_type() == *field.data_type() && !value.is_null() => {
                        value.to_array().map(Some)
                    }
                    _ => Ok(None),
                }
            })
            .collect()
    }
}

/// `column = constant`, either way round.
fn equated(filter: &Expr) -> Option<(&str, &ScalarValue)> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = filter else {
        return None;
    };
    match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _))
        | (Expr::Literal(value, _), Expr::Column(column)) => Some((&column.name, value)),
        _ => None,
    }
}

impl fmt::Debug for PinnedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedTable").field("schema", &self.schema).finish_non_exhaustive()
    }
}

fn external(error: QueryError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[async_trait]
impl TableProvider for PinnedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let useful = |filter: &&Expr| match equated(filter) {
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(useful).collect())
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let batches = match (&self.relation, self.lookup(filters)?) {
            (None, _) => Vec::new(),
            (Some(relation), Some(key)) => {
                relation.get(&key).map_err(external)?.into_iter().collect()
            }
            (Some(relation), None) => relation.batches().map_err(external)?,
        };
        let schema = Arc::clone(&self.schema);
        Ok(MemorySourceConfig::try_new_exec(&[batches], schema, projection.cloned())?)
    }
}
