//! The SQL dialect: text to [`Statement`]s, queries to [`afflux_plan::Plan`]s.
//!
//! Nothing here runs anything, keeps anything or knows a topic: it reads text and a
//! [`Catalog`](afflux_catalog::Catalog) and answers with data. What the dialect does not do
//! answers with an error that says so, never with a plan that does something else.
//!
//! 1. [`parse`] cuts a text into statements. DDL is parsed here, word by word, over sqlparser's
//!    tokens; types, expressions and queries are parsed by sqlparser as they are.
//! 2. [`plan_view`] lets DataFusion resolve a query's names and types, coerce, fold constants
//!    and push filters down (`now()` is never folded),
//! 3. and lowers the logical plan to operators: expressions with explicit casts, the columns of
//!    sources pruned, what is append-only and what is a key derived bottom up.
//!
//! `docs/sql.md` is the reference.

mod context;
mod ddl;
mod depth;
mod dialect;
mod error;
mod expr;
mod lower;
mod names;
mod options;
mod parser;
mod planner;
mod shape;
mod size;
mod stack;
mod statement;
mod tumble;
mod types;

pub use error::{Position, SqlError};
pub use options::{OptionSpec, SOURCE_OPTIONS, TABLE_OPTIONS};
pub use parser::parse;
pub use planner::{plan_view, query_objects};
pub use size::check_size;
pub use statement::{
    CreateSource, CreateTable, CreateView, CsvFile, Drop, DropKind, Query, Session, Show, Statement,
};
