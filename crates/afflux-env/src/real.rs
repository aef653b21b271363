//! The real world: the machine's clock, a directory, TCP and the system's randomness.
//!
//! Thin by intent: whatever is decided here can not be simulated.

mod direct;
mod disk;
mod network;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use afflux_types::Timestamp;

use crate::{Clock, Env, Random, network::BoxFuture};

pub use disk::RealDisk;
pub use network::RealNetwork;

/// All of the real world.
pub fn env() -> Env {
    Env {
        clock: Arc::new(RealClock::new()),
        disk: Arc::new(RealDisk),
        network: Arc::new(RealNetwork),
        random: Arc::new(RealRandom),
    }
}

/// The machine's clock.
#[derive(Debug)]
pub struct RealClock {
    start: Instant,
}

impl RealClock {
    /// A clock whose monotonic time starts now.
    #[expect(clippy::disallowed_methods, reason = "this is the clock that the rule speaks of")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for RealClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for RealClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that the rule speaks of")]
    fn now(&self) -> Timestamp {
        let now = SystemTime::now();
        Timestamp(match now.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        })
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }
}

/// The system's randomness.
#[derive(Debug)]
pub struct RealRandom;

impl Random for RealRandom {
    fn next_u64(&self) -> u64 {
        // A system without randomness can not even open a socket safely: nothing to go on with.
        getrandom::u64().expect("the system gives random numbers")
    }
}
