//! The names of output columns: as PostgreSQL gives them (`FigureColname`, `parse_target.c`).
//!
//! 1. A column, a function or a keyword that stands for one gives its own name.
//! 2. A cast has the name of what is cast, else that of its type; a `CASE` that of its `ELSE`,
//!    else `case`.
//! 3. Everything else is `?column?`.
//!
//! A view's columns get these names before it is planned. The columns of an answer get them
//! behind it: there, a name may be there twice.

use datafusion::sql::sqlparser::ast;

use crate::{Query, SqlError, error::sqlstate, parser::fold, planner::duplicate_column};

/// The name of what has none.
const UNNAMED: &str = "?column?";

/// How much a name says: that of a type or of `CASE` gives way to one from within.
#[derive(PartialEq)]
enum Strength {
    Weak,
    Strong,
}

impl Query {
    /// The names of the answer's columns, of which there are so many; `None` where the column
    /// has the name that the planner gives it.
    pub fn column_names(&self, width: usize) -> Vec<Option<String>> {
        let mut names = vec![None; width];
        let Some(select) = first_select(&self.ast.body) else { return names };
        let items = &select.projection;
        let is_one = |item: &&ast::SelectItem| {
            matches!(item, ast::SelectItem::UnnamedExpr(_) | ast::SelectItem::ExprWithAlias { .. })
        };
        // How many columns a * stands for shows only from both ends.
        let before = items.iter().take_while(is_one).count();
        let behind =
            if before == items.len() { 0 } else { items.iter().rev().take_while(is_one).count() };
        let from_front = items[..before].iter().enumerate();
        let from_back = items.iter().rev().take(behind).enumerate();
        let from_back = from_back.filter_map(|(at, item)| Some((width.checked_sub(at + 1)?, item)));
        for (at, item) in from_front.chain(from_back) {
            if let (ast::SelectItem::UnnamedExpr(expr), Some(name)) = (item, names.get_mut(at)) {
                *name = name_of(expr);
            }
        }
        names
    }
}

/// Gives each output column of a view its name: one of those given, else its own.
pub(crate) fn name_columns(query: &mut ast::Query, names: &[ast::Ident]) -> Result<(), SqlError> {
    if !names.is_empty() {
        return rename(query, names);
    }
    let Some(select) = first_select_mut(&mut query.body) else { return Ok(()) };
    let mut seen: Vec<String> = Vec::new();
    for item in &mut select.projection {
        let place = ast::Spanned::span(item).start;
        let name = match item {
            ast::SelectItem::UnnamedExpr(expr) => match name_of(expr) {
                None => figure(expr).map(|(name, _)| name),
                Some(name) => {
                    let alias = ast::Ident::with_quote('"', name.clone());
                    *item = ast::SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                    Some(name)
                }
            },
            ast::SelectItem::ExprWithAlias { alias, .. } => Some(fold(alias)),
            _ => None,
        };
        let Some(name) = name else { continue };
        if seen.contains(&name) {
            return Err(duplicate_column(&name).at(crate::parser::position(place)));
        }
        seen.push(name);
    }
    Ok(())
}

/// `CREATE MATERIALIZED VIEW v (a, b) AS …`: the query with other names.
fn rename(query: &mut ast::Query, names: &[ast::Ident]) -> Result<(), SqlError> {
    let select = first_select_mut(&mut query.body);
    let wildcard = |item: &ast::SelectItem| {
        matches!(item, ast::SelectItem::Wildcard(_) | ast::SelectItem::QualifiedWildcard(..))
    };
    let Some(select) = select.filter(|s| !s.projection.iter().any(wildcard)) else {
        return Err(SqlError::unsupported("names of columns do not go with *")
            .with_hint("name the columns in the SELECT"));
    };
    if select.projection.len() != names.len() {
        return Err(SqlError::invalid(
            sqlstate::INVALID_TABLE,
            format!("{} names for {} columns", names.len(), select.projection.len()),
        ));
    }
    for (at, (item, alias)) in select.projection.iter_mut().zip(names).enumerate() {
        if names[..at].iter().any(|other| fold(other) == fold(alias)) {
            return Err(
                duplicate_column(&fold(alias)).at(crate::parser::position(alias.span.start))
            );
        }
        let (ast::SelectItem::UnnamedExpr(expr) | ast::SelectItem::ExprWithAlias { expr, .. }) =
            item
        else {
            continue;
        };
        *item = ast::SelectItem::ExprWithAlias { expr: expr.clone(), alias: alias.clone() };
    }
    Ok(())
}

fn first_select(body: &ast::SetExpr) -> Option<&ast::Select> {
    match body {
        ast::SetExpr::Select(select) => Some(select),
        ast::SetExpr::Query(query) => first_select(&query.body),
        ast::SetExpr::SetOperation { left, .. } => first_select(left),
        _ => None,
    }
}

fn first_select_mut(body: &mut ast::SetExpr) -> Option<&mut ast::Select> {
    match body {
        ast::SetExpr::Select(select) => Some(select),
        ast::SetExpr::Query(query) => first_select_mut(&mut query.body),
        ast::SetExpr::SetOperation { left, .. } => first_select_mut(left),
        _ => None,
    }
}

/// The name of an item without `AS`; none for a column, which has its own everywhere.
fn name_of(expr: &ast::Expr) -> Option<String> {
    if matches!(expr, ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_)) {
        return None;
    }
    Some(figure(expr).map_or_else(|| UNNAMED.to_owned(), |(name, _)| name))
}

fn figure(expr: &ast::Expr) -> Option<(String, Strength)> {
    let strong = |name: &str| Some((name.to_owned(), Strength::Strong));
    let or_weak = |inner: Option<(String, Strength)>, name: String| {
        inner.filter(|(_, strength)| *strength == Strength::Strong).or(Some((name, Strength::Weak)))
    };
    match expr {
        ast::Expr::Identifier(ident) => Some((fold(ident), Strength::Strong)),
        ast::Expr::CompoundIdentifier(idents) => Some((fold(idents.last()?), Strength::Strong)),
        ast::Expr::CompoundFieldAccess { root, access_chain } => {
            let field = access_chain.iter().rev().find_map(|access| match access {
                ast::AccessExpr::Dot(ast::Expr::Identifier(ident)) => Some(fold(ident)),
                _ => None,
            });
            field.map_or_else(|| figure(root), |field| Some((field, Strength::Strong)))
        }
        ast::Expr::Nested(expr) | ast::Expr::Collate { expr, .. } => figure(expr),
        ast::Expr::Function(call) => {
            Some((fold(call.name.0.last()?.as_ident()?), Strength::Strong))
        }
        ast::Expr::Cast { expr, data_type, .. } => or_weak(figure(expr), type_name(data_type)),
        ast::Expr::TypedString(text) => or_weak(None, type_name(&text.data_type)),
        ast::Expr::Interval(_) => or_weak(None, "interval".to_owned()),
        ast::Expr::Value(value) if matches!(value.value, ast::Value::Boolean(_)) => {
            or_weak(None, "bool".to_owned())
        }
        ast::Expr::Case { else_result, .. } => {
            or_weak(else_result.as_deref().and_then(figure), "case".to_owned())
        }
        ast::Expr::Subquery(query) => match first_select(&query.body)?.projection.first()? {
            ast::SelectItem::UnnamedExpr(expr) => figure(expr),
            ast::SelectItem::ExprWithAlias { alias, .. } => Some((fold(alias), Strength::Strong)),
            _ => None,
        },
        ast::Expr::Extract { .. } => strong("extract"),
        ast::Expr::Ceil { .. } => strong("ceil"),
        ast::Expr::Floor { .. } => strong("floor"),
        ast::Expr::Substring { shorthand, .. } => {
            strong(if *shorthand { "substr" } else { "substring" })
        }
        ast::Expr::Trim { trim_where, .. } => strong(match trim_where {
            Some(ast::TrimWhereField::Leading) => "ltrim",
            Some(ast::TrimWhereField::Trailing) => "rtrim",
            _ => "btrim",
        }),
        ast::Expr::Position { .. } => strong("position"),
        ast::Expr::Overlay { .. } => strong("overlay"),
        ast::Expr::AtTimeZone { .. } => strong("timezone"),
        ast::Expr::Exists { .. } => strong("exists"),
        ast::Expr::Array(_) => strong("array"),
        ast::Expr::Tuple(_) => strong("row"),
        _ => None,
    }
}

/// A type's name in PostgreSQL's catalogue.
fn type_name(data_type: &ast::DataType) -> String {
    use ast::DataType as Sql;
    let name = match data_type {
        Sql::Boolean | Sql::Bool => "bool",
        Sql::SmallInt(_) | Sql::Int2(_) | Sql::TinyInt(_) => "int2",
        Sql::Int(_) | Sql::Integer(_) | Sql::Int4(_) => "int4",
        Sql::BigInt(_) | Sql::Int8(_) => "int8",
        Sql::Real | Sql::Float4 => "float4",
        Sql::Float(ast::ExactNumberInfo::Precision(bits)) if *bits <= 24 => "float4",
        Sql::Double(_) | Sql::DoublePrecision | Sql::Float(_) | Sql::Float8 => "float8",
        Sql::Decimal(_) | Sql::Numeric(_) | Sql::Dec(_) => "numeric",
        Sql::Varchar(_) | Sql::CharVarying(_) | Sql::CharacterVarying(_) => "varchar",
        Sql::Char(_) | Sql::Character(_) => "bpchar",
        Sql::Timestamp(_, ast::TimezoneInfo::WithTimeZone | ast::TimezoneInfo::Tz) => "timestamptz",
        other => {
            let text = other.to_string().to_lowercase();
            return text.split(['(', ' ']).next().unwrap_or_default().to_owned();
        }
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use crate::{Statement, parse};

    #[test]
    fn names_are_postgresqls() {
        let check = |items: &str, expected: &[&str]| {
            let sql = format!("SELECT {items} FROM t");
            let Some(Statement::Query(query)) = parse(&sql).expect(&sql).pop() else {
                panic!("{sql}")
            };
            let names = query.column_names(expected.len());
            let names: Vec<_> = names.iter().map(|name| name.as_deref().unwrap_or("-")).collect();
            assert_eq!(names, expected, "{sql}");
        };
        check("count(*), SUM(a), count(*)", &["count", "sum", "count"]);
        check("a, t.a, a AS b, \"A\"", &["-", "-", "-", "-"]);
        check("a + 1, -a, 1, 'x', NULL, a IS NULL, NOT a", &["?column?"; 7]);
        check("a LIKE 'x', a IN (1), a BETWEEN 1 AND 2", &["?column?"; 3]);
        check("a::int, (a)::text, CAST(upper(a) AS text)", &["a", "a", "upper"]);
        check("1::int, '1'::bigint, CAST(1 + 1 AS smallint)", &["int4", "int8", "int2"]);
        check("1::float, 1::real, 1::decimal(3, 1)", &["float8", "float4", "numeric"]);
        check("'x'::varchar(3), '2020-01-01'::date", &["varchar", "date"]);
        check("'x'::timestamp, 'x'::timestamptz", &["timestamp", "timestamptz"]);
        check("'x'::timestamp(3) with time zone", &["timestamptz"]);
        check("DATE '2020-01-01', INTERVAL '1 day', true", &["date", "interval", "bool"]);
        check("CASE WHEN a THEN b END, CASE WHEN a THEN b ELSE c END", &["case", "c"]);
        check("CASE WHEN a THEN b ELSE 1 END, CASE WHEN a THEN 1 ELSE 1::int END", &["case"; 2]);
        check(
            "now(), current_date, coalesce(a, 1), nullif(a, 1)",
            &["now", "current_date", "coalesce", "nullif"],
        );
        check(
            "extract(hour FROM a), substring(a FROM 2), substr(a, 2)",
            &["extract", "substring", "substr"],
        );
        check(
            "trim(a), trim(LEADING 'x' FROM a), position('x' IN a)",
            &["btrim", "ltrim", "position"],
        );
        check("ceil(a), floor(a), (a), (a + 1)", &["ceil", "floor", "a", "?column?"]);
        check(
            "EXISTS (SELECT 1), (SELECT max(x) FROM u), (SELECT 1 AS y)",
            &["exists", "max", "y"],
        );
        check("sum(a) OVER (), count(*) FILTER (WHERE a)", &["sum", "count"]);
        check("max(a), *, min(a)", &["max", "-", "-", "min"]);
        check("*, 1", &["-", "?column?"]);
        check("*", &["-", "-"]);
        check("t.*, 1, u.*", &["-", "-", "-"]);
        check("1 UNION SELECT 2 AS b", &["?column?"]);
    }
}
