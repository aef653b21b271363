//! The log: the only truth.
//!
//! [`Log`] is the engine's door to it, [`EmbeddedLog`] the journal of this node behind that door.
//! Nothing here knows what records say, which clients send them or what views are made of them.
//!
//! | module | does |
//! |---|---|
//! | `contract`, `error` | what the engine, the listeners and the log agree on |
//! | `embedded` | joins the parts below: the calls and the two threads |
//! | `door` | reads and ticks behind the `Log` trait |
//! | `open` | a data directory: lock, format, recovery |
//! | `group` | groups into bytes, before any lock |
//! | `sequencer` | gives groups their place and their offsets; pure, no I/O |
//! | `producers` | idempotent producers; pure |
//! | `transactions` | which transactions a partition has open, had aborted; pure |
//! | `meta` | topics and the like, a fold of records; pure |
//! | `settings` | what can be set for a topic; pure |
//! | `admin` | topics are made, changed, grown, trimmed; what they hold |
//! | `retention` | which records are old enough to go |
//! | `compaction` | of all records with one key the newest stays |
//! | `index`, `hot` | where batches lie; pure |
//! | `reader` | batches from memory or disk |
//! | `blocks` | what was read of sealed files last |
//! | `sweep` | old batches of many partitions at once |
//! | `memory` | what frames and batches lie in, used over and over |
//! | `keeper` | next file, index files, dead files |
//! | `journal` | the files and their bytes |
//! | `repair` | reads a whole journal, and cuts what is corrupt out of it |

mod admin;
mod blocks;
mod compaction;
mod contract;
mod door;
mod embedded;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod group;
mod hot;
mod index;
mod journal;
mod keeper;
mod memory;
mod meta;
mod open;
mod options;
mod producers;
mod reader;
pub mod repair;
mod retention;
mod sequencer;
pub mod settings;
mod sweep;
mod transactions;

pub use admin::{AttributeError, EpochEnd};
pub use contract::{
    AbortedTransaction, Appended, Batches, Bounds, Entry, EpochCommit, Group, Isolation, Log,
    Ticket, TicketSender, TopicSpec,
};
pub use embedded::EmbeddedLog;
pub use meta::{Attributes, Topic};
pub use options::LogOptions;
pub use producers::ProducerState;
pub use sweep::Sweep;
pub use transactions::OpenTransaction;
