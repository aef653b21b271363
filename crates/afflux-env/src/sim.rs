//! The simulated world: everything in memory, everything from one seed.
//!
//! Nothing moves by itself: time stands still until a test moves it, nothing is durable until
//! it is synced, and a failure comes where the test has put it.

mod disk;
mod network;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use afflux_types::Timestamp;
use parking_lot::Mutex;

use crate::{Clock, Env, Random};

pub use disk::{Failure, Operation, SimDisk};
pub use network::SimNetwork;

/// A simulated world, its parts within the test's reach.
#[derive(Clone)]
pub struct Sim {
    /// Time.
    pub clock: Arc<SimClock>,
    /// Files.
    pub disk: Arc<SimDisk>,
    /// Pipes.
    pub network: Arc<SimNetwork>,
    /// Numbers.
    pub random: Arc<SimRandom>,
}

impl Sim {
    /// A new world. The same seed and the same calls give the same world.
    pub fn new(seed: u64) -> Self {
        Self {
            clock: Arc::new(SimClock::default()),
            disk: Arc::new(SimDisk::new(seed)),
            network: Arc::new(SimNetwork::default()),
            random: Arc::new(SimRandom::new(seed)),
        }
    }

    /// What components are given.
    pub fn env(&self) -> Env {
        Env {
            clock: self.clock.clone(),
            disk: self.disk.clone(),
            network: self.network.clone(),
            random: self.random.clone(),
        }
    }
}

/// A clock that a test moves. Starts at 2024-01-01T00:00:00Z.
#[derive(Debug)]
pub struct SimClock {
    elapsed_nanos: AtomicU64,
    start: Timestamp,
}

impl Default for SimClock {
    fn default() -> Self {
        Self { elapsed_nanos: AtomicU64::new(0), start: Timestamp(1_704_067_200_000) }
    }
}

impl SimClock {
    /// Moves time forward.
    pub fn advance(&self, by: Duration) {
        self.elapsed_nanos.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.start.saturating_add(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.elapsed_nanos.load(Ordering::SeqCst))
    }
}

/// Numbers that follow from a seed (`SplitMix64`, by Steele, Lea and Flood, 2014).
#[derive(Debug)]
pub struct SimRandom(Mutex<u64>);

impl SimRandom {
    /// Numbers from a seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    /// A number below `bound`, which is not 0. Its bias does not matter to tests.
    pub fn below(&self, bound: u64) -> u64 {
        self.next_u64() % bound
    }
}

impl Random for SimRandom {
    fn next_u64(&self) -> u64 {
        let mut state = self.0.lock();
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
