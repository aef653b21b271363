//! Joins with static tables.

use afflux_catalog::ObjectKind;
use afflux_plan::{Column, Expr, JoinKind, OperatorKind};
use afflux_types::ObjectId;
use arrow::datatypes::DataType;
use datafusion::{
    common::NullEquality,
    logical_expr::{self as df, JoinType, LogicalPlan},
};

use super::{Lowering, Relation, Role, columns_of, lower_all, object_table};
use crate::{
    SqlError,
    expr::{self, cast, replace_columns},
    planner::from_datafusion,
};

impl Lowering {
    pub(super) fn join(&mut self, join: &df::Join) -> Result<Relation, SqlError> {
        if join.null_equality == NullEquality::NullEqualsNull {
            return Err(SqlError::unsupported("a join can not match nulls")
                .with_hint("write = instead of IS NOT DISTINCT FROM"));
        }
        let (left, right) = (static_side(&join.left)?, static_side(&join.right)?);
        let (kind, table, flipped) = match (join.join_type, left, right) {
            (JoinType::Inner, _, Some(table)) => (JoinKind::Inner, table, false),
            (JoinType::Inner, Some(table), None) => (JoinKind::Inner, table, true),
            (JoinType::Left, _, Some(table)) => (JoinKind::Left, table, false),
            (JoinType::Right, Some(table), _) => (JoinKind::Left, table, true),
            (JoinType::Inner | JoinType::Left | JoinType::Right, _, _) => {
                return Err(SqlError::unsupported("a join of two streams is not there yet")
                    .with_hint(
                        "one side of a join has to be a static table; for LEFT JOIN the right one",
                    ));
            }
            (other, _, _) => {
                return Err(SqlError::unsupported(format!("{other} JOIN is not there yet"))
                    .with_hint("there are INNER and LEFT JOIN with a static table"));
            }
        };
        if join.on.is_empty() {
            return Err(SqlError::unsupported("a join without an equality is not there yet")
                .with_hint("join ON stream.column = table.column"));
        }
        if kind == JoinKind::Left && !table.filters.is_empty() {
            return Err(left_condition("on the table"));
        }
        if kind == JoinKind::Left && table.exprs.iter().any(|e| !matches!(e, Expr::Column(_))) {
            return Err(SqlError::unsupported(
                "LEFT JOIN takes a static table as it is, not a query over it",
            )
            .with_hint("compute with its columns in the SELECT"));
        }
        let (stream, table_plan) =
            if flipped { (&join.right, &join.left) } else { (&join.left, &join.right) };
        let input = self.relation(stream)?;
        let mut on = Vec::new();
        let mut exprs: Vec<_> = (0..input.columns.len()).map(Expr::Column).collect();
        let mut columns = input.columns.clone();
        for (left, right) in &join.on {
            let (ours, theirs) = if flipped { (right, left) } else { (left, right) };
            let ours_type = df::ExprSchemable::get_type(ours, stream.schema())
                .map_err(|error| from_datafusion(&error))?;
            let ours = expr::lower(ours, stream.schema())?;
            let theirs = table.resolve(&expr::lower(theirs, table_plan.schema())?);
            let (ours, column) = table.equality(ours, &ours_type, &theirs)?;
            let at = exprs.iter().position(|known| *known == ours).unwrap_or_else(|| {
                let key_type = table.columns[column].column_type.0.clone();
                columns.push(Column::new(format!("_{}", exprs.len()), key_type, true));
                exprs.push(ours);
                exprs.len() - 1
            });
            on.push((at, column));
        }
        let input = if exprs.len() == input.columns.len() {
            input
        } else {
            self.project(input, exprs, columns)?
        };
        let joined = self.lookup(input, &table, on, kind)?;
        self.joined(joined, join, stream, table_plan, &table, kind, flipped)
    }

    fn lookup(
        &mut self,
        input: Relation,
        table: &StaticSide,
        on: Vec<(usize, usize)>,
        kind: JoinKind,
    ) -> Result<Relation, SqlError> {
        let mut columns = input.columns.clone();
        columns.extend(table.columns.iter().cloned().map(|mut column| {
            column.nullable |= kind == JoinKind::Left;
            column
        }));
        let mut roles = input.roles;
        roles.resize(columns.len(), Role::Plain);
        // Where the table's key is compared, a row finds one row at most.
        let finds_one = table.key.as_ref().is_some_and(|key| {
            key.iter().all(|column| on.iter().any(|(_, theirs)| theirs == column))
        });
        let key = input.key.filter(|_| finds_one);
        let width = input.columns.len();
        let kind = OperatorKind::Lookup { table: table.object, on, kind };
        let id = self.push(kind, vec![input.id], &columns, input.append_only);
        let mut relation = Relation { id, columns, roles, append_only: input.append_only, key };
        for filter in &table.filters {
            let predicate = replace_columns(filter, &|column| Expr::Column(width + column));
            relation = self.filter(relation, predicate)?;
        }
        Ok(relation)
    }

    /// The columns of a join in the order of its schema, and its remaining condition.
    #[expect(clippy::too_many_arguments, reason = "the parts of one join")]
    fn joined(
        &mut self,
        looked_up: Relation,
        join: &df::Join,
        stream: &LogicalPlan,
        table_plan: &LogicalPlan,
        table: &StaticSide,
        kind: JoinKind,
        flipped: bool,
    ) -> Result<Relation, SqlError> {
        let behind = looked_up.columns.len() - table.columns.len();
        let ours = (0..stream.schema().fields().len()).map(Expr::Column);
        let theirs = table.exprs[..table_plan.schema().fields().len()]
            .iter()
            .map(|expr| replace_columns(expr, &|column| Expr::Column(behind + column)));
        let exprs: Vec<_> =
            if flipped { theirs.chain(ours).collect() } else { ours.chain(theirs).collect() };
        let names = columns_of(&join.schema);
        let relation =
            if exprs.is_empty() { looked_up } else { self.project(looked_up, exprs, names)? };
        match &join.filter {
            None => Ok(relation),
            Some(filter) if kind == JoinKind::Inner => {
                let predicate = expr::lower(filter, &join.schema)?;
                self.filter(relation, predicate)
            }
            Some(filter) => Err(left_condition(&filter.to_string())),
        }
    }
}

/// A static table as one side of a join, with what lies between the two.
struct StaticSide {
    object: ObjectId,
    /// All columns of the table.
    columns: Vec<Column>,
    /// Its declared key.
    key: Option<Vec<usize>>,
    /// The side's columns, over those of the table.
    exprs: Vec<Expr>,
    /// What its rows have to fulfil, over the table's columns.
    filters: Vec<Expr>,
}

impl StaticSide {
    /// An expression over the side's columns as one over the table's.
    fn resolve(&self, expr: &Expr) -> Expr {
        replace_columns(expr, &|column| self.exprs[column].clone())
    }

    /// An equality as a value of the stream and a column of the table of the same type.
    fn equality(
        &self,
        ours: Expr,
        ours_type: &DataType,
        theirs: &Expr,
    ) -> Result<(Expr, usize), SqlError> {
        let (column, compared_as) = match theirs {
            Expr::Column(column) => (*column, None),
            Expr::Cast { expr, to, .. } => match expr.as_ref() {
                Expr::Column(column) => (*column, Some(&to.0)),
                _ => return Err(not_a_column()),
            },
            _ => return Err(not_a_column()),
        };
        let key_type = &self.columns[column].column_type.0;
        match compared_as {
            None if ours_type == key_type => Ok((ours, column)),
            // The stream's integers are the wider ones: what does not fit the table's matches
            // nothing.
            Some(wider) if key_type.is_integer() && wider.is_integer() => {
                Ok((cast(ours, key_type, true), column))
            }
            _ => Err(not_a_column()),
        }
    }
}

fn left_condition(condition: &str) -> SqlError {
    SqlError::unsupported(format!("LEFT JOIN … ON can not have a condition {condition} yet"))
        .with_hint("there are only equalities of a column of the stream and one of the table")
}

fn not_a_column() -> SqlError {
    SqlError::unsupported(
        "a join compares with a column of the static table, not with an expression",
    )
    .with_hint("write stream.column = table.column, both of one type; cast the stream's side")
}

/// The static table that a plan reads, if it only reads one.
fn static_side(node: &LogicalPlan) -> Result<Option<StaticSide>, SqlError> {
    match node {
        LogicalPlan::TableScan(scan) => {
            let object = &object_table(scan)?.object;
            let ObjectKind::Table(table) = &object.kind else { return Ok(None) };
            let columns = table.columns.clone();
            let exprs: Vec<_> = match &scan.projection {
                Some(read) => read.iter().copied().map(Expr::Column).collect(),
                None => (0..columns.len()).map(Expr::Column).collect(),
            };
            let (key, filters) = (table.key.clone(), Vec::new());
            Ok(Some(StaticSide { object: object.id, columns, key, exprs, filters }))
        }
        LogicalPlan::SubqueryAlias(alias) => static_side(&alias.input),
        LogicalPlan::Projection(projection) => {
            let Some(mut side) = static_side(&projection.input)? else { return Ok(None) };
            let exprs = lower_all(&projection.expr, projection.input.schema())?;
            side.exprs = exprs.iter().map(|expr| side.resolve(expr)).collect();
            Ok(Some(side))
        }
        LogicalPlan::Filter(filter) => {
            let Some(mut side) = static_side(&filter.input)? else { return Ok(None) };
            let predicate = expr::lower(&filter.predicate, filter.input.schema())?;
            side.filters.push(side.resolve(&predicate));
            Ok(Some(side))
        }
        _ => Ok(None),
    }
}
