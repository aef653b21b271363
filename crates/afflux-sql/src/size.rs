//! How large a query's plan can become while it is optimised, told before it is.
//!
//! What is written once may be planned several times: a filter takes a projection's expressions
//! in place of its columns on its way down, `coalesce(a, b)` becomes `CASE WHEN a IS NOT NULL THEN
//! a …`, a `WITH` query stands wherever it is named. Of n within each other there would be 2^n, of
//! a text of a few hundred bytes. So:
//!
//! 1. Bottom up, each column of a node gets the size of its expression written out over the
//!    leaves: that of its own, with the sizes of the input's columns in their place.
//! 2. The sizes of all nodes are added up, and the walk ends where the sum gets too large.
//!
//! Literals are not counted: a list of many is long, and nothing makes it longer.

use datafusion::{
    common::{
        Column, Result,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Expr, LogicalPlan},
};

use crate::{SqlError, error::sqlstate, planner::from_datafusion};

/// Generous: it takes a second or two to plan as much in a debug build.
const SIZE_MAX: u64 = 50_000;

/// Refuses a plan that has not been optimised and may become too large when it is.
pub fn check_size(plan: &LogicalPlan) -> Result<(), SqlError> {
    let mut sizes = Sizes { sum: 0 };
    sizes.columns(plan).map_err(|error| from_datafusion(&error))?;
    if sizes.is_exceeded() {
        return Err(SqlError::invalid(
            sqlstate::STATEMENT_TOO_COMPLEX,
            "the statement becomes too large where it repeats parts of itself",
        )
        .with_hint("make a view of what is used several times, and read that"));
    }
    Ok(())
}

struct Sizes {
    sum: u64,
}

impl Sizes {
    fn is_exceeded(&self) -> bool {
        self.sum > SIZE_MAX
    }

    fn add(&mut self, size: u64) {
        self.sum = self.sum.saturating_add(size);
    }

    /// The sizes of a node's columns; any, once the sum is exceeded.
    fn columns(&mut self, plan: &LogicalPlan) -> Result<Vec<u64>> {
        self.add(1);
        let inputs = plan.inputs();
        let mut below = Vec::new();
        for input in &inputs {
            if self.is_exceeded() {
                return Ok(Vec::new());
            }
            below.push(self.columns(input)?);
        }
        plan.apply_subqueries(|subquery| {
            if !self.is_exceeded() {
                self.columns(subquery)?;
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        if self.is_exceeded() {
            return Ok(Vec::new());
        }
        let of_column = |column: &Column| {
            let found = inputs.iter().zip(&below).find_map(|(input, sizes)| {
                Some(sizes[input.schema().maybe_index_of_column(column)?])
            });
            found.unwrap_or(1)
        };
        let mut own = Vec::new();
        plan.apply_expressions(|expr| {
            own.push(size(expr, &of_column));
            Ok(TreeNodeRecursion::Continue)
        })?;
        own.iter().for_each(|&size| self.add(size));
        let mut columns = match plan {
            LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_) => own,
            // Rows of several inputs: what goes down goes down each.
            LogicalPlan::Union(_) => (0..plan.schema().fields().len())
                .map(|at| below.iter().filter_map(|sizes| sizes.get(at)).copied().max())
                .map(Option::unwrap_or_default)
                .collect(),
            _ => below.concat(),
        };
        columns.resize(plan.schema().fields().len(), 1);
        Ok(columns)
    }
}

/// How many expressions there will be of one, at most and about.
fn size(expr: &Expr, of_column: &impl Fn(&Column) -> u64) -> u64 {
    let repeated = match expr {
        Expr::Column(column) => return of_column(column),
        Expr::Literal(..) => return 0,
        Expr::Between(_) | Expr::Case(_) => 3,
        // Short lists become chains of OR.
        Expr::InList(list) if list.list.len() <= 3 => 3,
        Expr::ScalarFunction(call) if matches!(call.name(), "coalesce" | "nvl" | "ifnull") => 2,
        _ => 1,
    };
    let mut parts = 0_u64;
    // It fails for nothing, and what is below a failure is not counted.
    let _ = expr.apply_children(|child| {
        parts = parts.saturating_add(size(child, of_column));
        Ok(TreeNodeRecursion::Continue)
    });
    parts.saturating_mul(repeated).saturating_add(1)
}
