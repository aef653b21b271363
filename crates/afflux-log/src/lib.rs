//! The log: the only truth.
//!
//! [`Log`] is the engine's door to it, [`EmbeddedLog`] the journal of this node behind that door.

mod contract;
pub mod error;

pub use contract::{
    Appended, Batches, Bounds, Entry, EpochCommit, Group, Isolation, Log, Ticket, TicketSender,
    TopicSpec,
};
