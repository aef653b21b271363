//! What clients write about the catalogue, in words that the planner takes.
//!
//! 1. `pg_class` without a schema is `pg_catalog.pg_class`; functions lose their schema.
//! 2. A SELECT over a table that has never a row is one without rows and without the expressions
//!    over it, many of which the planner would refuse. Its columns keep their names.
//! 3. Casts to Postgres's own types become casts or calls: `'v'::regclass` is the number of `v`,
//!    `oid::regclass` its name.
//! 4. `OPERATOR(pg_catalog.~)` is `~`, `COLLATE` is left out.
//! 5. `array_to_string(ARRAY(SELECT … FROM pg_options_to_table(x)), …)` is `x`: options are kept
//!    as they are shown.
//!
//! Queries that do not speak of the catalogue pass unchanged.

use std::ops::ControlFlow;

use afflux_catalog::Catalog;
use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArguments, Ident, ObjectName, ObjectNamePart, Query, Select, SelectItem, SetExpr,
    TableFactor, Value, VisitMut, VisitorMut,
};

use super::{is_needed, tables::EMPTY};
use crate::read::query::fold;

/// The query as the planner takes it.
pub(in crate::read) fn rewrite(query: &Query, catalog: &Catalog) -> Query {
    let mut query = query.clone();
    if is_needed(&query) {
        let _ = query.visit(&mut Rewriter { catalog });
    }
    query
}

struct Rewriter<'a> {
    catalog: &'a Catalog,
}

impl VisitorMut for Rewriter<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if empty_selects(&mut query.body) {
            // It could name columns that are gone, and there is nothing to order.
            query.order_by = None;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_relation(&mut self, name: &mut ObjectName) -> ControlFlow<()> {
        if let [ObjectNamePart::Identifier(ident)] = name.0.as_slice() {
            let folded = fold(ident);
            if folded.starts_with("pg_") && self.catalog.find(&folded).is_none() {
                name.0.insert(0, ObjectNamePart::Identifier(Ident::new("pg_catalog")));
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr {
            if let Some(options) = shown_options(function) {
                *expr = options;
            } else if matches!(function.args, FunctionArguments::Subquery(_)) {
                // `ARRAY(SELECT …)`: only over what Afflux has none of.
                *expr = null();
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Collate { expr: inner, .. } => *expr = take(inner),
            Expr::Function(function) => unqualify(&mut function.name),
            Expr::BinaryOp { op, .. } => {
                if let BinaryOperator::PGCustomBinaryOperator(names) = op
                    && let Some(plain) = names.last().and_then(|name| plain_operator(name))
                {
                    *op = plain;
                }
            }
            Expr::Cast { kind, expr: inner, data_type, .. } if *kind != CastKind::TryCast => {
                if let Some(new) = cast(inner, data_type) {
                    *expr = new;
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn take(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, null())
}

fn null() -> Expr {
    Expr::Value(Value::Null.with_empty_span())
}

fn plain_operator(name: &str) -> Option<BinaryOperator> {
    Some(match name {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "=" => BinaryOperator::Eq,
        "<>" => BinaryOperator::NotEq,
        _ => return None,
    })
}

/// `pg_catalog.f` is `f`.
fn unqualify(name: &mut ObjectName) {
    if let [ObjectNamePart::Identifier(schema), _] = name.0.as_slice()
        && fold(schema) == "pg_catalog"
    {
        name.0.remove(0);
    }
}

/// The last part of a type's name, if it is one of Postgres's own.
fn type_name(data_type: &DataType) -> Option<String> {
    match data_type {
        DataType::Custom(name, _) => {
            let parts: Vec<_> =
                name.0.iter().filter_map(|part| part.as_ident()).map(fold).collect();
            match parts.as_slice() {
                [name] => Some(name.clone()),
                [schema, name] if schema == "pg_catalog" => Some(name.clone()),
                _ => None,
            }
        }
        DataType::Regclass => Some("regclass".to_owned()),
        _ => None,
    }
}

fn cast(inner: &mut Expr, data_type: &DataType) -> Option<Expr> {
    let literal = matches!(
        inner,
        Expr::Value(value) if matches!(value.value, Value::SingleQuotedString(_))
    );
    let to = |data_type: DataType, inner: &mut Expr| {
        Some(Expr::Cast {
            kind: CastKind::Cast,
            expr: Box::new(take(inner)),
            data_type,
            array: false,
            format: None,
        })
    };
    match type_name(data_type)?.as_str() {
        "regclass" if literal => Some(call("to_regclass", vec![take(inner)])),
        "regclass" => Some(call("afflux_relation_name", vec![take(inner)])),
        "regtype" if literal => Some(call("to_regtype", vec![take(inner)])),
        "regtype" => Some(call("format_type", vec![take(inner), null()])),
        "regnamespace" | "regrole" | "regproc" | "regprocedure" | "text" | "name" | "char"
        | "varchar" | "bpchar" => to(DataType::Text, inner),
        "oid" | "int4" | "xid" => to(DataType::Int(None), inner),
        "int8" => to(DataType::BigInt(None), inner),
        "int2" => to(DataType::SmallInt(None), inner),
        "bool" => to(DataType::Boolean, inner),
        _ => None,
    }
}

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments.into_iter().map(|e| FunctionArg::Unnamed(FunctionArgExpr::Expr(e)));
    Expr::Function(Function {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::new(name))]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(ast::FunctionArgumentList {
            duplicate_treatment: None,
            args: args.collect(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn last_name(name: &ObjectName) -> Option<String> {
    name.0.last()?.as_ident().map(fold)
}

/// The `x` of `array_to_string(ARRAY(SELECT … FROM pg_options_to_table(x)), …)`.
fn shown_options(function: &Function) -> Option<Expr> {
    if last_name(&function.name)? != "array_to_string" {
        return None;
    }
    let FunctionArguments::List(list) = &function.args else { return None };
    let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Function(array)))) =
        list.args.first()
    else {
        return None;
    };
    let FunctionArguments::Subquery(query) = &array.args else { return None };
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let arguments = match &select.from.first()?.relation {
        TableFactor::Table { name, args: Some(args), .. }
            if last_name(name)? == "pg_options_to_table" =>
        {
            &args.args
        }
        _ => return None,
    };
    match arguments.first()? {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(options)) => Some(options.clone()),
        _ => None,
    }
}

/// Empties the SELECTs that have no rows; says whether there is nothing else.
fn empty_selects(body: &mut SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => empty_select(select),
        SetExpr::SetOperation { left, right, .. } => {
            let (left, right) = (empty_selects(left), empty_selects(right));
            left && right
        }
        _ => false,
    }
}

fn empty_select(select: &mut Select) -> bool {
    let driven = select.from.iter().any(|from| has_never_rows(&from.relation));
    // Without GROUP BY, an aggregate over no rows is a row; `*` needs the columns.
    let names: Option<Vec<_>> = select.projection.iter().map(column_name).collect();
    let Some(names) = names else { return false };
    if !driven || select.projection.iter().any(aggregates) {
        return false;
    }
    let column = |name| SelectItem::ExprWithAlias {
        expr: Expr::Cast {
            kind: CastKind::Cast,
            expr: Box::new(null()),
            data_type: DataType::Text,
            array: false,
            format: None,
        },
        alias: Ident::with_quote('"', name),
    };
    // The planner wants names to differ; nobody can tell, as there are no rows to read by name.
    let mut known = Vec::<String>::new();
    for name in names {
        let times = known.iter().filter(|other| **other == name).count();
        known.push(if times == 0 { name } else { format!("{name}_{times}") });
    }
    select.projection = known.into_iter().map(column).collect();
    select.selection = Some(Expr::Value(Value::Boolean(false).with_empty_span()));
    select.from.clear();
    select.distinct = None;
    select.having = None;
    select.group_by = ast::GroupByExpr::Expressions(Vec::new(), Vec::new());
    true
}

fn has_never_rows(relation: &TableFactor) -> bool {
    let TableFactor::Table { name, args: None, .. } = relation else { return false };
    let parts: Vec<_> = name.0.iter().filter_map(|part| part.as_ident()).map(fold).collect();
    let table = match parts.as_slice() {
        [table] => table,
        [schema, table] if schema == "pg_catalog" => table,
        _ => return false,
    };
    EMPTY.iter().any(|(empty, _)| empty == table)
}

fn column_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(fold(alias)),
        SelectItem::UnnamedExpr(expr) => Some(match expr {
            Expr::Identifier(ident) => fold(ident),
            Expr::CompoundIdentifier(parts) => fold(parts.last()?),
            Expr::Function(function) => last_name(&function.name)?,
            Expr::Case { .. } => "case".to_owned(),
            _ => "?column?".to_owned(),
        }),
        _ => None,
    }
}

fn aggregates(item: &SelectItem) -> bool {
    let (SelectItem::ExprWithAlias { expr, .. } | SelectItem::UnnamedExpr(expr)) = item else {
        return false;
    };
    matches!(expr, Expr::Function(function)
        if last_name(&function.name).is_some_and(|name|
            matches!(name.as_str(), "count" | "sum" | "min" | "max" | "avg" | "bool_or" | "bool_and")))
}
