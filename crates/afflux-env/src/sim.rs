//! The simulated world: everything in memory, everything from one seed.
//!
//! Nothing moves by itself: time stands still until a test moves it, nothing is durable until
//! it is synced, and a failure comes where the test has put it.

mod disk;
mod network;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use afflux_types::Timestamp;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{Clock, Env, Random, network::BoxFuture};

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
    time: Mutex<Time>,
    /// Who waits is woken by the machine's time.
    wakes_by_itself: AtomicBool,
    start: Timestamp,
}

#[derive(Debug, Default)]
struct Time {
    elapsed: Duration,
    /// How far the wall clock is ahead of that, in milliseconds, or behind it.
    ahead: i64,
    /// Who waits until when, each with a number.
    sleepers: BTreeMap<(Duration, u64), oneshot::Sender<()>>,
    sleepers_ever: u64,
}

impl Default for SimClock {
    fn default() -> Self {
        Self {
            time: Mutex::default(),
            wakes_by_itself: AtomicBool::new(true),
            start: Timestamp(1_704_067_200_000),
        }
    }
}

impl SimClock {
    /// Moves time forward, and wakes in their order those who waited for that.
    pub fn advance(&self, by: Duration) {
        let mut time = self.time.lock();
        time.elapsed += by;
        let now = time.elapsed;
        let later = time.sleepers.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut time.sleepers, later);
        drop(time);
        for sleeper in due.into_values() {
            // Some wait no more.
            let _ = sleeper.send(());
        }
    }

    /// Sets the wall clock so many milliseconds ahead of the time that has passed, or behind it.
    /// Nothing else moves, and nobody wakes.
    pub fn set_wall(&self, ahead: i64) {
        self.time.lock().ahead = ahead;
    }

    /// From now on waiting takes simulated time only: whoever moves it moves all. Else it takes
    /// the machine's, for tests whose time stands still.
    pub fn wake_sleepers(&self) {
        self.wakes_by_itself.store(false, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let time = self.time.lock();
        Timestamp(self.start.saturating_add(time.elapsed).0.saturating_add(time.ahead))
    }

    fn monotonic(&self) -> Duration {
        self.time.lock().elapsed
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        if self.wakes_by_itself.load(Ordering::SeqCst) {
            return Box::pin(tokio::time::sleep(time));
        }
        if time.is_zero() {
            return Box::pin(std::future::ready(()));
        }
        let (sleeper, woken) = oneshot::channel();
        let mut now = self.time.lock();
        now.sleepers_ever += 1;
        let place = (now.elapsed.saturating_add(time), now.sleepers_ever);
        now.sleepers.insert(place, sleeper);
        Box::pin(async move {
            // A clock that is gone wakes nobody.
            if woken.await.is_err() {
                std::future::pending::<()>().await;
            }
        })
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

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn the_wall_clock_is_set_apart_from_the_other() {
        let clock = SimClock::default();
        clock.wake_sleepers();
        let mut sleeper = clock.sleep(Duration::from_secs(1));
        let start = clock.now();
        let shows = |seconds: i64| assert_eq!(clock.now(), Timestamp(start.0 + seconds * 1_000));
        clock.set_wall(7_000);
        shows(7);
        clock.set_wall(-2_000);
        shows(-2);
        assert_eq!(clock.monotonic(), Duration::ZERO);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(sleeper.as_mut().poll(&mut cx).is_pending());
        clock.advance(Duration::from_secs(1));
        shows(-1);
        assert!(sleeper.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn sleepers_wake_when_time_is_moved() {
        let clock = SimClock::default();
        clock.wake_sleepers();
        let seconds = [3, 1, 2, 0];
        let mut sleepers = seconds.map(|time| clock.sleep(Duration::from_secs(time)));
        let mut cx = Context::from_waker(Waker::noop());
        for (advance, expected) in
            [(0, [false, false, false, true]), (1, [false, true, false, true]), (2, [true; 4])]
        {
            clock.advance(Duration::from_secs(advance));
            for ((sleeper, seconds), expected) in sleepers.iter_mut().zip(seconds).zip(expected) {
                let is_awake = sleeper.as_mut().poll(&mut cx) == Poll::Ready(());
                assert_eq!(is_awake, expected, "{seconds} s");
                if is_awake {
                    // It would sleep on.
                    *sleeper = Box::pin(std::future::ready(()));
                }
            }
        }
    }
}
