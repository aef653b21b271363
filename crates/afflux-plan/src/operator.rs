//! The graph: operators in topological order, the last one the output.

use afflux_types::{ObjectId, OperatorId, TableId};
use serde::{Deserialize, Serialize};

use crate::{Column, ColumnType, Expr};

/// A resolved dataflow graph of one view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The encoding's version.
    pub version: u16,
    /// Each operator behind all of its inputs. The last one is the view.
    pub operators: Vec<Operator>,
    /// Output columns that are proven to identify a row; `None` where nothing is proven and a
    /// row may occur several times. `Some([])` means at most one row.
    pub key: Option<Vec<usize>>,
}

impl Plan {
    /// The version that this build writes. Older ones are read.
    pub const VERSION: u16 = 1;

    /// The operator whose output is the view. A plan has at least one.
    pub fn output(&self) -> &Operator {
        self.operators.last().expect("a plan has an operator")
    }

    /// The columns of the view.
    pub fn columns(&self) -> &[Column] {
        &self.output().columns
    }

    /// The objects that the plan reads, each once.
    pub fn objects(&self) -> Vec<ObjectId> {
        let mut objects = Vec::new();
        for operator in &self.operators {
            let object = match &operator.kind {
                OperatorKind::Source { object, .. }
                | OperatorKind::View { object }
                | OperatorKind::Table { object }
                | OperatorKind::Lookup { table: object, .. } => *object,
                _ => continue,
            };
            if !objects.contains(&object) {
                objects.push(object);
            }
        }
        objects
    }
}

/// One node of the graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// Permanent within the plan.
    pub id: OperatorId,
    /// What it does.
    pub kind: OperatorKind,
    /// Where its input comes from, in the order that the kind says.
    pub inputs: Vec<OperatorId>,
    /// Its output.
    pub columns: Vec<Column>,
    /// Whether it is proven to emit weight +1 only.
    pub append_only: bool,
}

/// What an operator does. All of them work on Z-set batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperatorKind {
    /// Records of a source's topic, decoded. No input. The source's definition says how times
    /// and watermarks arise.
    Source {
        /// The source.
        object: ObjectId,
        /// Which of its columns are read, in output order.
        columns: Vec<usize>,
    },
    /// The changes of another view, its contents first. No input.
    View {
        /// The view.
        object: ObjectId,
    },
    /// The rows of a static table, once, before anything else. No input.
    Table {
        /// The table.
        object: ObjectId,
    },
    /// Rows for which the predicate is true. One input.
    Filter {
        /// A Boolean.
        predicate: Expr,
    },
    /// One output column an expression. One input.
    Project {
        /// The expressions.
        exprs: Vec<Expr>,
    },
    /// Appends `window_start`, `window_end` and `window_time` (= end - 1 ms) of the tumbling
    /// window that a row's time falls into: `[start, end)`, aligned to the epoch plus `offset`.
    /// Rows without a time are rejected. One input.
    Tumble {
        /// The column with the time, a timestamp.
        time: usize,
        /// The window's length in milliseconds, positive.
        size_ms: i64,
        /// The alignment's offset in milliseconds.
        offset_ms: i64,
    },
    /// Groups and aggregates. Output: the group columns, then the aggregates. One input.
    /// With no group column there is always exactly one group.
    Aggregate {
        /// Input columns to group by.
        group: Vec<usize>,
        /// What is computed.
        aggregates: Vec<AggregateCall>,
        /// The input column with the window's end, if the group columns hold one. A row whose
        /// window ends at or before the watermark is late and is dropped and counted; a group
        /// whose window ends at or before the watermark is final and its state is freed.
        window_end: Option<usize>,
        /// Where the accumulators live.
        state: StateTable,
    },
    /// For each row the matching rows of a static table. Output: the row's columns, then the
    /// table's. One input.
    Lookup {
        /// The table.
        table: ObjectId,
        /// Pairs of an input column and a table column that must be equal. Null equals nothing.
        on: Vec<(usize, usize)>,
        /// What happens to a row without a match.
        kind: JoinKind,
    },
    /// All rows of all inputs, which have the same columns.
    Union,
}

/// What happens to a row without a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinKind {
    /// It is left out.
    Inner,
    /// It stays, with nulls for the table's columns.
    Left,
}

/// One aggregate of an [`OperatorKind::Aggregate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AggregateCall {
    /// Which.
    pub function: AggregateFunction,
    /// The input column; none only for `count(*)`.
    pub argument: Option<usize>,
    /// A Boolean input column: rows where it is not true do not count (`FILTER (WHERE …)`).
    pub filter: Option<usize>,
    /// What it returns. `count` Int64; `sum` Int64, UInt64, Float64 or Decimal128; `avg` Float64
    /// or Decimal128; `min`, `max` the argument's type.
    pub returns: ColumnType,
}

/// The aggregate functions. Nulls are left out, as in SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are SQL's")]
pub enum AggregateFunction {
    Count,
    Sum,
    Avg,
    Min,
    Max,
}

/// A keyed state table of an operator. Its layout is the operator's own and versioned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateTable {
    /// Permanent within the plan.
    pub id: TableId,
    /// The version of the layout.
    pub layout: u16,
}
