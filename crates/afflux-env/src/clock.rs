//! Time.

use std::time::Duration;

use afflux_types::Timestamp;

use crate::network::BoxFuture;

/// Tells the time, and wakes who waits for it.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time. May jump, in either direction.
    fn now(&self) -> Timestamp;

    /// Time since some fixed start. Never goes back.
    fn monotonic(&self) -> Duration;

    /// Resolves once so much time has passed. What is real needs a runtime, and counts whole
    /// milliseconds.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()>;
}
