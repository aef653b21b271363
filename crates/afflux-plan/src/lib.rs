//! The dataflow graph, as data.
//!
//! `afflux-sql` (and later Python) writes a [`Plan`], `afflux-dataflow` runs it, and the catalog
//! keeps it in the log. It is resolved once, at `CREATE`: a restart never plans again. So ids,
//! state layouts and function versions in it are permanent, and its JSON encoding is versioned
//! ([`Plan::VERSION`], fixtures per version under `tests/`).
//!
//! Nothing here plans, optimises or computes.

mod encoding;
mod expr;
mod operator;
mod text;
mod types;

pub use expr::{BinaryOperator, Expr, Scalar, UnaryOperator};
pub use operator::{
    AggregateCall, AggregateFunction, JoinKind, Operator, OperatorKind, Plan, StateTable,
};
pub use types::{Column, ColumnType, UnknownType};
