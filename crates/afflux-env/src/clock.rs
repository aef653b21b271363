//! Time.

use std::time::Duration;

use afflux_types::Timestamp;

/// Tells the time. Waiting is not here: what waits is woken by a notification or asks the
/// runtime at the edge.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time. May jump, in either direction.
    fn now(&self) -> Timestamp;

    /// Time since some fixed start. Never goes back.
    fn monotonic(&self) -> Duration;
}
