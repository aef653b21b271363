//! A node, put together: the log, the engine, and the listeners in front of them.
//!
//! Beside it, for a node that does not start: [`journal`]. Not here: flags, signals, the terminal.
//! A process that runs a node hands over a [`Config`] and decides when to stop.
//!
//! [`Node::start`]:
//! 1. binds the three addresses, so that a port in use is told before anything is touched;
//! 2. opens the log in the data directory, which recovers it, and takes the directory's lock;
//! 3. starts the engine on it, which brings the views back in the background;
//! 4. serves Kafka, Postgres and HTTP clients;
//! 5. writes the ready file, whole, by a rename.
//!
//! [`Node::stop`] goes the other way: listeners first, the log last, so that nothing is
//! acknowledged that the log has not made durable.

mod config;
mod crash;
mod error;
pub mod journal;
mod listen;
mod node;

pub use config::{Addresses, Config};
pub use crash::CrashPlan;
pub use error::{Listener, StartError};
pub use node::Node;
