//! Refuses what the parser understands and DataFusion would pass over in silence, so that no
//! clause of a view is read and ignored.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{self, Spanned, Visit, Visitor};

use crate::{SqlError, parser::position};

/// Checks a query's clauses.
pub(crate) fn check(query: &ast::Query) -> Result<(), SqlError> {
    match query.visit(&mut Shape) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Shape;

type Flow = ControlFlow<Box<SqlError>>;

fn refuse(present: bool, what: &str, at: Option<crate::Position>) -> Flow {
    if present {
        let error = SqlError::unsupported(format!("a view can not have {what}")).at(at);
        ControlFlow::Break(Box::new(error))
    } else {
        ControlFlow::Continue(())
    }
}

/// The place of a node of the syntax tree.
fn place(node: &impl Spanned) -> Option<crate::Position> {
    position(node.span().start)
}

impl Visitor for Shape {
    type Break = Box<SqlError>;

    fn pre_visit_query(&mut self, query: &ast::Query) -> Flow {
        let at = place(query);
        refuse(query.fetch.is_some(), "FETCH yet", at)?;
        refuse(!query.locks.is_empty(), "FOR UPDATE or FOR SHARE", at)?;
        refuse(query.for_clause.is_some(), "FOR XML, JSON or BROWSE", at)?;
        refuse(query.settings.is_some(), "SETTINGS", at)?;
        refuse(query.format_clause.is_some(), "FORMAT", at)?;
        refuse(!query.pipe_operators.is_empty(), "pipe operators", at)?;
        if query.with.as_ref().is_some_and(|with| with.recursive) {
            return refuse(true, "WITH RECURSIVE yet", at);
        }
        set_operations(&query.body)
    }

    fn pre_visit_select(&mut self, select: &ast::Select) -> Flow {
        let at = place(select);
        refuse(select.select_modifiers.is_some(), "modifiers of SELECT", at)?;
        refuse(select.top.is_some(), "TOP", at)?;
        refuse(select.into.is_some(), "SELECT INTO", at)?;
        refuse(!select.lateral_views.is_empty(), "LATERAL VIEW", at)?;
        refuse(select.prewhere.is_some(), "PREWHERE", at)?;
        refuse(!select.connect_by.is_empty(), "CONNECT BY", at)?;
        refuse(!select.cluster_by.is_empty(), "CLUSTER BY", at)?;
        refuse(!select.distribute_by.is_empty(), "DISTRIBUTE BY", at)?;
        refuse(!select.sort_by.is_empty(), "SORT BY", at)?;
        refuse(!select.named_window.is_empty(), "WINDOW yet", at)?;
        refuse(select.qualify.is_some(), "QUALIFY yet", at)?;
        refuse(select.value_table_mode.is_some(), "SELECT AS STRUCT or VALUE", at)
    }

    fn pre_visit_table_factor(&mut self, factor: &ast::TableFactor) -> Flow {
        let at = place(factor);
        match factor {
            ast::TableFactor::Table {
                with_hints,
                version,
                with_ordinality,
                partitions,
                json_path,
                sample,
                index_hints,
                ..
            } => {
                refuse(!with_hints.is_empty() || !index_hints.is_empty(), "table hints", at)?;
                refuse(version.is_some(), "FOR SYSTEM_TIME AS OF yet", at)?;
                refuse(*with_ordinality, "WITH ORDINALITY", at)?;
                refuse(!partitions.is_empty(), "PARTITION", at)?;
                refuse(json_path.is_some(), "a path behind a table", at)?;
                refuse(sample.is_some(), "TABLESAMPLE", at)
            }
            ast::TableFactor::Derived { lateral, sample, .. } => {
                refuse(*lateral, "LATERAL yet", at)?;
                refuse(sample.is_some(), "TABLESAMPLE", at)
            }
            ast::TableFactor::Function { lateral, .. } => refuse(*lateral, "LATERAL yet", at),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &ast::Expr) -> Flow {
        if let ast::Expr::AtTimeZone { .. } = expr {
            // DataFusion keeps the zone where PostgreSQL gives local time.
            return refuse(true, "AT TIME ZONE yet", place(expr));
        }
        let ast::Expr::Function(call) = expr else { return ControlFlow::Continue(()) };
        let at = place(expr);
        refuse(!call.within_group.is_empty(), "WITHIN GROUP yet", at)?;
        let parameters = !matches!(call.parameters, ast::FunctionArguments::None);
        refuse(parameters, "parameters of functions", at)?;
        match &call.args {
            ast::FunctionArguments::List(list) => {
                refuse(!list.clauses.is_empty(), "clauses in the arguments of functions", at)
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// `EXCEPT` and `INTERSECT` would become joins that the user never wrote.
fn set_operations(body: &ast::SetExpr) -> Flow {
    let mut body = body;
    while let ast::SetExpr::SetOperation { op, left, right, .. } = body {
        if !matches!(op, ast::SetOperator::Union) {
            return refuse(true, &format!("{op} yet"), place(body));
        }
        if let ast::SetExpr::SetOperation { .. } = right.as_ref() {
            set_operations(right)?;
        }
        body = left;
    }
    ControlFlow::Continue(())
}
