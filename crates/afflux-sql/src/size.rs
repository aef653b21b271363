//! How large a query's plan can become, told before it is made and before it is optimised.
//!
//! What is written once may be planned several times: a filter takes a projection's expressions
//! in place of its columns on its way down, `coalesce(a, b)` becomes `CASE WHEN a IS NOT NULL THEN
//! a …`, a `WITH` query stands wherever it is named. Of n within each other there would be 2^n, of
//! a text of a few hundred bytes. So:
//!
//! 1. In the syntax tree, the relations that a query names are counted; a `WITH` query counts as
//!    much as the ones that it names.
//! 2. In the plan, bottom up, each column of a node gets the size of its expression written out over the
//!    leaves: that of its own, with the sizes of the input's columns in their place.
//! 3. The sizes of all nodes are added up, and the walk ends where the sum gets too large.
//!
//! Literals are not counted: a list of many is long, and nothing makes it longer.

use std::{collections::HashMap, ops::ControlFlow};

use datafusion::{
    common::{
        Column, Result,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Expr, LogicalPlan},
    sql::sqlparser::ast::{self, Visit, Visitor},
};

use crate::{SqlError, error::sqlstate, parser::fold, planner::from_datafusion};

/// As many relations as a statement may name, each time that it does.
const RELATIONS_MAX: u64 = 2_000;

/// As much as the nodes and expressions of a plan may become.
const SIZE_MAX: u64 = 50_000;

/// Refuses a query that names too many relations.
pub(crate) fn check_relations(query: &ast::Query) -> Result<(), SqlError> {
    match query.visit(&mut Relations::default()) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(too_large()),
    }
}

#[derive(Default)]
struct Relations {
    /// How many relations each `WITH` query comes to, by its name, which is taken to be the
    /// statement's only one.
    with: HashMap<String, u64>,
    /// The `WITH` queries that come next, and their names.
    names: HashMap<*const ast::Query, String>,
    /// How many relations the queries have that are being looked at, innermost last.
    counts: Vec<u64>,
}

impl Relations {
    fn add(&mut self, relations: u64) -> ControlFlow<()> {
        let Some(count) = self.counts.last_mut() else { return ControlFlow::Continue(()) };
        *count += relations;
        if *count > RELATIONS_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Visitor for Relations {
    type Break = ();

    fn pre_visit_query(&mut self, query: &ast::Query) -> ControlFlow<()> {
        let queries = query.with.iter().flat_map(|with| &with.cte_tables);
        self.names.extend(queries.map(|cte| (&raw const *cte.query, fold(&cte.alias.name))));
        self.counts.push(0);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &ast::Query) -> ControlFlow<()> {
        let count = self.counts.pop().unwrap_or_default();
        match self.names.remove(&std::ptr::from_ref(query)) {
            Some(name) => {
                self.with.insert(name, count);
                ControlFlow::Continue(())
            }
            None => self.add(count),
        }
    }

    fn pre_visit_relation(&mut self, relation: &ast::ObjectName) -> ControlFlow<()> {
        let last = relation.0.last().and_then(|part| part.as_ident()).map(fold);
        let with = last.and_then(|name| self.with.get(&name).copied());
        self.add(with.unwrap_or(1))
    }

    fn pre_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<()> {
        // TUMBLE takes a relation's name as an argument.
        let ast::Expr::Identifier(name) = expr else { return ControlFlow::Continue(()) };
        self.add(self.with.get(&fold(name)).copied().unwrap_or_default())
    }
}

/// Refuses a plan that has not been optimised and may become too large when it is.
pub fn check_size(plan: &LogicalPlan) -> Result<(), SqlError> {
    let mut sizes = Sizes { sum: 0 };
    sizes.columns(plan).map_err(|error| from_datafusion(&error))?;
    if sizes.is_exceeded() {
        return Err(too_large());
    }
    Ok(())
}

fn too_large() -> SqlError {
    SqlError::invalid(
        sqlstate::STATEMENT_TOO_COMPLEX,
        "the statement becomes too large where it repeats parts of itself",
    )
    .with_hint("make a view of what is used several times, and read that")
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
        self.add(own.iter().copied().fold(0, u64::saturating_add));
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
        Expr::Between(_) => 2,
        // Short lists become chains of OR.
        Expr::InList(list) if list.list.len() <= 3 => 3,
        Expr::ScalarFunction(call) if matches!(call.name(), "coalesce" | "nvl" | "ifnull") => 2,
        _ => 1,
    };
    // The conditions of a CASE that gives a truth value come before each of its results.
    let conditions = match expr {
        Expr::Case(case) => case.when_then_expr.as_slice(),
        _ => &[],
    };
    let is_condition =
        |part| conditions.iter().any(|(when, _)| std::ptr::eq(&raw const **when, part));
    let mut parts = 0_u64;
    // It fails for nothing, and what is below a failure is not counted.
    let _ = expr.apply_children(|child| {
        let repeated = if is_condition(child) { 3 } else { repeated };
        parts = parts.saturating_add(size(child, of_column).saturating_mul(repeated));
        Ok(TreeNodeRecursion::Continue)
    });
    parts.saturating_add(1)
}
