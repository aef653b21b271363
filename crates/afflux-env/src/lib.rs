//! The seam to the world: clock, disk, network and randomness.
//!
//! Everything below the edges reaches the world through an [`Env`] and through nothing
//! else, so that a whole node can run on [`sim`] with a seed and be cut off at any write.
//! This crate decides nothing: it has no retry, no format and no policy.
//!
//! | part | real | simulated |
//! |---|---|---|
//! | [`Clock`] | the machine's | moved by the test |
//! | [`Disk`] | a directory | memory; unsynced pages persist in any order at a crash |
//! | [`Network`] | TCP | pairs of in-memory pipes |
//! | [`Random`] | the system's | a seed |

pub mod clock;
pub mod disk;
pub mod huge;
pub mod interposed;
pub mod network;
pub mod random;
pub mod real;
pub mod sim;

use std::sync::Arc;

pub use clock::Clock;
pub use disk::{DIRECT_SLACK_BYTES, Disk, File, Lock, OpenMode, Room};
pub use huge::{HUGE_PAGE_BYTES, prefer_huge_pages};
pub use interposed::{Interpose, Interposed};
pub use network::{Connection, Listener, Network};
pub use random::Random;

/// All of the world that a component may touch. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Listeners and connections.
    pub network: Arc<dyn Network>,
    /// Randomness.
    pub random: Arc<dyn Random>,
}
