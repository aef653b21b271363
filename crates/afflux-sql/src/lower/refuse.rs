//! What no view can have.

use std::any::Any;

use afflux_catalog::ObjectKind;
use datafusion::{
    common::tree_node::{TreeNode, TreeNodeRecursion},
    logical_expr::{self as df, Distinct, LogicalPlan},
};

use super::object_table;
use crate::{SqlError, context::ObjectTable, expr, planner::from_datafusion, tumble::Tumble};

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

/// A watermark says that rows are complete up to a time. Those of a view are added and taken back
/// after that: no window over them could ever close.
fn check_window(tumble: &Tumble) -> Result<(), SqlError> {
    let mut view = None;
    let visited = tumble.input.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(ObjectTable { object, .. }) = object_table(scan)
            && matches!(object.kind, ObjectKind::View(_))
        {
            view = Some(object.name.clone());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    visited.map_err(|error| from_datafusion(&error))?;
    match view {
        None => Ok(()),
        Some(view) => Err(SqlError::unsupported(format!(
            "a window can not be over rows of the view \"{view}\", which has no watermark"
        ))
        .with_hint(
            "take the window of the source itself, or group the view by date_bin() or \
             date_trunc(), whose groups stay open",
        )),
    }
}

pub(super) fn check_node(node: &LogicalPlan) -> Result<(), SqlError> {
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
        LogicalPlan::Extension(extension) => {
            let node: &dyn Any = extension.node.as_any();
            if let Some(tumble) = node.downcast_ref::<Tumble>() {
                check_window(tumble)?;
            }
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
