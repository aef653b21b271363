//! Runs plans on a [`Log`](afflux_log::Log): ticks, epochs, commits, view tables, followers.
//!
//! The engine knows no wire protocol and plans no SQL of its own accord; it does not know whether
//! its log is embedded or a cluster, and it never touches disk, network or clock but through
//! `afflux-env`.
//!
//! ```text
//!  statements ──▶ ddl ──▶ __afflux_ddl ──▶ catalog
//!                                            │ start, stop
//!  topics ──▶ source (decoded once a tick) ──▶ line ──▶ pipeline (a Dataflow) ──▶ EpochCommit
//!                                            │ durable
//!                                            ▼
//!                 pin, follow  ◀── published (views, versioned by tick)
//! ```
//!
//! - [`Engine`]: the handle; a thread of its own runs the line.
//! - `line`: cuts the log into ticks, takes every pipeline to them, publishes what is durable.
//! - `pipeline`: one view's dataflow, its positions, its recovery.
//! - `source`: records to columns, watermarks, dead letters.
//! - `snapshot`: fuzzy dumps of state into the log.
//! - `view`, `published`, `follow`: what readers see.

mod ddl;
mod dead_letter;
mod engine;
mod error;
mod follow;
mod frames;
mod line;
mod options;
mod pipeline;
mod published;
mod snapshot;
mod source;
mod status;
mod token;
mod view;

#[cfg(test)]
mod tests;

pub use ddl::DdlOutcome;
pub use engine::{Engine, StartError};
pub use error::EngineError;
pub use follow::{Event, Follower};
pub use options::EngineOptions;
pub use published::{Pinned, PinnedRelation};
pub use status::{Counters, PipelineState, PipelineStatus};
pub use token::{InvalidToken, ResumeToken, ViewIncarnation};
