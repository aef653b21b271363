//! Plans out of stages. Each stage takes rows `(k text, v integer, f float, t time)` and gives
//! rows of the same columns, so that any sequence of stages is a plan.

use std::collections::HashMap;

use afflux_plan::{
    AggregateCall, AggregateFunction, BinaryOperator, Column, ColumnType, Expr, JoinKind, Operator,
    OperatorKind, Plan, Scalar, StateTable, UnaryOperator,
};
use afflux_types::{ObjectId, OperatorId, TableId};
use arrow::datatypes::DataType;
use proptest::prelude::*;

use crate::rows::{Row, Value, time_type};

pub(crate) const TABLE: ObjectId = ObjectId(100);
const WINDOW_MS: i64 = 5_000;

#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// `v > n`.
    Greater(i64),
    /// `v <> 0 AND 10 / v > n`: the guard holds.
    Guarded(i64),
    /// `10 / v > n`: some rows fail.
    Divided(i64),
    /// `v + n`, `v / 2`.
    Shift(i64),
    /// One group a `k`.
    ByKey(Picks),
    /// One group a window and `k`.
    Windowed(Picks),
    /// One group.
    All(Picks),
    /// `SELECT DISTINCT`.
    Distinct,
    /// A join with the table on `k`, or on `k` and `v`.
    Join { left: bool, both: bool },
    /// All rows, and once more those with `v > n`.
    UnionGreater(i64),
    /// All rows and those of the table.
    UnionTable,
}

/// Which aggregates become `v`, `f` and `t`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Picks {
    v: u8,
    f: u8,
    t: u8,
    filter: bool,
}

pub(crate) fn stage() -> impl Strategy<Value = Stage> {
    let n = -3i64..4;
    let picks = (0u8..5, 0u8..5, 0u8..2, any::<bool>()).prop_map(|(v, f, t, filter)| Picks {
        v,
        f,
        t,
        filter,
    });
    prop_oneof![
        n.clone().prop_map(Stage::Greater),
        n.clone().prop_map(Stage::Guarded),
        n.clone().prop_map(Stage::Divided),
        n.clone().prop_map(Stage::Shift),
        picks.clone().prop_map(Stage::ByKey),
        picks.clone().prop_map(Stage::Windowed),
        picks.prop_map(Stage::All),
        Just(Stage::Distinct),
        (any::<bool>(), any::<bool>()).prop_map(|(left, both)| Stage::Join { left, both }),
        n.prop_map(Stage::UnionGreater),
        Just(Stage::UnionTable),
    ]
}

pub(crate) fn columns() -> Vec<Column> {
    vec![
        Column::new("k", DataType::Utf8, true),
        Column::new("v", DataType::Int64, true),
        Column::new("f", DataType::Float64, true),
        Column::new("t", time_type(), true),
    ]
}

/// The static table: keys that are there once, twice and not at all.
pub(crate) fn tables() -> HashMap<ObjectId, Vec<Row>> {
    let row = |k: Value, v: i64| vec![k, Value::Int(v), Value::float(0.5), Value::Time(7_000)];
    let text = |k: &str| Value::Text(k.to_owned());
    HashMap::from([(
        TABLE,
        vec![row(text("a"), 1), row(text("a"), 2), row(text("b"), 1), row(Value::Null, 1)],
    )])
}

pub(crate) fn int(value: i64) -> Expr {
    scalar(DataType::Int64, &value.to_string())
}

pub(crate) fn scalar(data_type: DataType, text: &str) -> Expr {
    Expr::Literal(Scalar { scalar_type: ColumnType(data_type), value: Some(text.to_owned()) })
}

pub(crate) fn binary(op: BinaryOperator, left: Expr, right: Expr) -> Expr {
    Expr::Binary { op, left: Box::new(left), right: Box::new(right) }
}

/// A plan while it grows.
#[derive(Default)]
pub(crate) struct Graph {
    pub(crate) operators: Vec<Operator>,
}

impl Graph {
    pub(crate) fn add(
        &mut self,
        kind: OperatorKind,
        inputs: &[OperatorId],
        columns: Vec<Column>,
        append_only: bool,
    ) -> OperatorId {
        // Ids are names, not positions.
        let id = OperatorId(self.operators.len() as u32 * 10 + 3);
        self.operators.push(Operator { id, kind, inputs: inputs.to_vec(), columns, append_only });
        id
    }

    pub(crate) fn columns(&self, id: OperatorId) -> Vec<Column> {
        self.operators.iter().find(|operator| operator.id == id).unwrap().columns.clone()
    }

    fn is_append_only(&self, id: OperatorId) -> bool {
        self.operators.iter().find(|operator| operator.id == id).unwrap().append_only
    }

    pub(crate) fn plan(self) -> Plan {
        Plan { version: Plan::VERSION, operators: self.operators, key: None }
    }

    pub(crate) fn filter(&mut self, input: OperatorId, predicate: Expr) -> OperatorId {
        let (columns, append_only) = (self.columns(input), self.is_append_only(input));
        self.add(OperatorKind::Filter { predicate }, &[input], columns, append_only)
    }

    pub(crate) fn project(
        &mut self,
        input: OperatorId,
        exprs: Vec<Expr>,
        columns: Vec<Column>,
    ) -> OperatorId {
        let append_only = self.is_append_only(input);
        self.add(OperatorKind::Project { exprs }, &[input], columns, append_only)
    }

    pub(crate) fn tumble(&mut self, input: OperatorId, time: usize, size_ms: i64) -> OperatorId {
        let mut columns = self.columns(input);
        for name in ["window_start", "window_end", "window_time"] {
            columns.push(Column::new(name, time_type(), false));
        }
        let kind = OperatorKind::Tumble { time, size_ms, offset_ms: 1_000 };
        let append_only = self.is_append_only(input);
        self.add(kind, &[input], columns, append_only)
    }

    pub(crate) fn aggregate(
        &mut self,
        input: OperatorId,
        group: Vec<usize>,
        aggregates: Vec<AggregateCall>,
        window_end: Option<usize>,
    ) -> OperatorId {
        let from = self.columns(input);
        let mut columns: Vec<Column> = group.iter().map(|&column| from[column].clone()).collect();
        columns
            .extend(aggregates.iter().map(|call| Column::new("a", call.returns.0.clone(), true)));
        let state = StateTable { id: TableId(self.operators.len() as u32), layout: 1 };
        let kind = OperatorKind::Aggregate { group, aggregates, window_end, state };
        self.add(kind, &[input], columns, false)
    }

    fn stage(&mut self, input: OperatorId, stage: &Stage) -> OperatorId {
        let column = Expr::Column;
        let ten_by_v = || binary(BinaryOperator::Divide, int(10), column(1));
        let greater = |expr: Expr, n: i64| binary(BinaryOperator::Greater, expr, int(n));
        match stage {
            Stage::Greater(n) => self.filter(input, greater(column(1), *n)),
            Stage::Divided(n) => self.filter(input, greater(ten_by_v(), *n)),
            Stage::Guarded(n) => {
                let guard = binary(BinaryOperator::NotEqual, column(1), int(0));
                self.filter(input, binary(BinaryOperator::And, guard, greater(ten_by_v(), *n)))
            }
            Stage::Shift(n) => {
                let v = binary(BinaryOperator::Add, column(1), int(*n));
                let v = binary(BinaryOperator::Divide, v, int(2));
                self.project(input, vec![column(0), v, column(2), column(3)], columns())
            }
            Stage::ByKey(picks) => {
                let input = self.with_flag(input);
                let grouped = self.aggregate(input, vec![0], picks.calls(), None);
                let exprs = (0..4).map(column).collect();
                self.project(grouped, exprs, columns())
            }
            Stage::Windowed(picks) => {
                let input = self.with_flag(input);
                let windowed = self.tumble(input, 3, WINDOW_MS);
                let grouped = self.aggregate(windowed, vec![6, 0], picks.calls(), Some(6));
                let exprs = vec![column(1), column(2), column(3), column(0)];
                self.project(grouped, exprs, columns())
            }
            Stage::All(picks) => {
                let input = self.with_flag(input);
                let grouped = self.aggregate(input, vec![], picks.calls(), None);
                let name = scalar(DataType::Utf8, "a");
                self.project(grouped, vec![name, column(0), column(1), column(2)], columns())
            }
            Stage::Distinct => self.aggregate(input, vec![0, 1, 2, 3], vec![], None),
            Stage::Join { left, both } => {
                let joined = [self.columns(input), columns()].concat();
                let on = if *both { vec![(0, 0), (1, 1)] } else { vec![(0, 0)] };
                let kind = if *left { JoinKind::Left } else { JoinKind::Inner };
                let kind = OperatorKind::Lookup { table: TABLE, on, kind };
                let append_only = self.is_append_only(input);
                let joined = self.add(kind, &[input], joined, append_only);
                self.project(joined, vec![column(0), column(5), column(2), column(3)], columns())
            }
            Stage::UnionGreater(n) => {
                let some = self.filter(input, greater(column(1), *n));
                let append_only = self.is_append_only(input);
                self.add(OperatorKind::Union, &[input, some], columns(), append_only)
            }
            Stage::UnionTable => {
                let table = self.add(OperatorKind::Table { object: TABLE }, &[], columns(), true);
                let append_only = self.is_append_only(input);
                self.add(OperatorKind::Union, &[table, input], columns(), append_only)
            }
        }
    }

    /// Appends `v IS NOT NULL AND v > 0`.
    fn with_flag(&mut self, input: OperatorId) -> OperatorId {
        let known = Expr::Unary { op: UnaryOperator::IsNotNull, expr: Box::new(Expr::Column(1)) };
        let positive = binary(BinaryOperator::Greater, Expr::Column(1), int(0));
        let mut exprs: Vec<Expr> = (0..4).map(Expr::Column).collect();
        exprs.push(binary(BinaryOperator::And, known, positive));
        let mut columns = columns();
        columns.push(Column::new("positive", DataType::Boolean, true));
        self.project(input, exprs, columns)
    }
}

impl Picks {
    fn calls(self) -> Vec<AggregateCall> {
        use AggregateFunction::{Avg, Count, Max, Min, Sum};
        let whole = DataType::Int64;
        let float = DataType::Float64;
        let (v, v_argument) =
            [(Count, None), (Count, Some(2)), (Sum, Some(1)), (Min, Some(1)), (Max, Some(1))]
                [usize::from(self.v)];
        let (f, f_argument) =
            [(Avg, 1), (Avg, 2), (Sum, 2), (Min, 2), (Max, 2)][usize::from(self.f)];
        let t = [Min, Max][usize::from(self.t)];
        vec![
            call(v, v_argument, self.filter.then_some(4), whole),
            call(f, Some(f_argument), None, float),
            call(t, Some(3), None, time_type()),
        ]
    }
}

pub(crate) fn call(
    function: AggregateFunction,
    argument: Option<usize>,
    filter: Option<usize>,
    returns: DataType,
) -> AggregateCall {
    AggregateCall { function, argument, filter, returns: ColumnType(returns) }
}

/// A plan that reads a source (append-only) or a view.
pub(crate) fn plan(append_only: bool, stages: &[Stage]) -> Plan {
    let mut graph = Graph::default();
    let kind = if append_only {
        OperatorKind::Source { object: ObjectId(1), columns: vec![0, 1, 2, 3] }
    } else {
        OperatorKind::View { object: ObjectId(1) }
    };
    let mut last = graph.add(kind, &[], columns(), append_only);
    for stage in stages {
        last = graph.stage(last, stage);
    }
    graph.plan()
}
