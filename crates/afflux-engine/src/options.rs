//! What a node may set about its engine.

use std::time::Duration;

/// Bounds and policies of the engine. The defaults suit two cores and a few GiB.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The most journal bytes that one tick of the line spans.
    pub tick_bytes_max: u64,
    /// The most journal bytes that one epoch of a pipeline that catches up spans.
    pub catch_up_bytes_max: u64,
    /// How many ticks may be submitted and not yet durable.
    pub in_flight_ticks_max: usize,
    /// How many bytes of frames may be submitted and not yet durable.
    pub in_flight_bytes_max: usize,
    /// The longest that the line waits under load for more input to share an epoch's fixed cost.
    pub pause_max: Duration,
    /// Input that is never waited upon: with so many journal bytes there, the line goes on.
    pub pause_bytes_max: u64,
    /// Frames of a view that are kept in memory for followers; slower ones read the log.
    pub recent_bytes_max: usize,
    /// The most bytes of one event of a follower's snapshot.
    pub follow_bytes_max: usize,
    /// How long a reader waits for views that catch up.
    pub pin_timeout: Duration,
    /// How far back in the journal, in bytes, a view's changes are kept at least, and so resume
    /// tokens lead on. A view that changed at all also begins a snapshot once its last one lies
    /// further back than this, and than eight times its size.
    pub history_bytes_min: u64,
    /// A snapshot begins once the changelog has grown by this since the last one, and by twice
    /// the last one's size.
    pub snapshot_bytes_min: u64,
    /// The most bytes of a snapshot that are dumped at once, beside an epoch.
    pub snapshot_step_bytes_max: usize,
    /// How long the engine waits before it opens a pipeline again that failed for want of room.
    pub retry_after: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            tick_bytes_max: 4 << 20,
            catch_up_bytes_max: 2 << 20,
            in_flight_ticks_max: 32,
            in_flight_bytes_max: 32 << 20,
            pause_max: Duration::from_millis(20),
            pause_bytes_max: 512 << 10,
            recent_bytes_max: 8 << 20,
            follow_bytes_max: 256 << 10,
            pin_timeout: Duration::from_secs(30),
            history_bytes_min: 1 << 30,
            snapshot_bytes_min: 16 << 20,
            snapshot_step_bytes_max: 512 << 10,
            retry_after: Duration::from_secs(1),
        }
    }
}
