//! The operators: a plan, run over Z-set batches.
//!
//! A [`Dataflow`] is a pipeline's computation and its state, and nothing else: no clock, no disk,
//! no network, no thread. The engine pushes decoded batches in, calls [`Dataflow::finish`] at a
//! tick and gets what changed in the view and in the state. Given the same state and the same
//! pushes it does the same, so state and changes can be logged together and replayed.
//!
//! Everything works on batches of bounded size ([`FUEL_ROWS`]). Expressions are made into
//! DataFusion's physical expressions once, when the graph is built; nothing is planned or allocated
//! per row.

mod aggregate;
mod consolidate;
mod error;
mod evaluate;
mod expression;
mod graph;
mod key;
mod lookup;
mod operator;
mod stateless;

pub use error::{BuildError, DataflowError};
pub use graph::{Dataflow, Epoch, Input, InputKind, META_TABLE, RejectedRow};
pub use operator::FUEL_ROWS;
