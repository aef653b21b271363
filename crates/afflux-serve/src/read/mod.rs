//! Statements to answers: the one read path behind Postgres and HTTP alike.
//!
//! Nothing here knows a protocol. A [`Session`] takes parsed statements and gives an [`Answer`].

mod interrupt;
mod pg_catalog;
mod query;
mod relation;
mod session;
mod settings;
mod show;
mod threads;

pub(crate) use session::{Answer, Identity, Session};
pub(crate) use threads::Queries;
