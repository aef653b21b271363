//! What the engine tells about its pipelines.

use afflux_types::{ObjectId, Tick};

/// One pipeline, at the moment of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineStatus {
    /// The view that it keeps.
    pub view: ObjectId,
    /// The view's name.
    pub name: String,
    /// Whether it keeps up.
    pub state: PipelineState,
    /// The tick that its readers see.
    pub tick: Tick,
    /// Rows in the view.
    pub rows: u64,
    /// Bytes of keys and rows in the view.
    pub bytes: u64,
    /// What it has counted since the node started.
    pub counters: Counters,
}

/// Whether a pipeline keeps up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PipelineState {
    /// It is on the line: its view is as fresh as any.
    Live,
    /// It works through what was there before it; its view can not be read yet.
    CatchingUp {
        /// Journal bytes between its tick and the line's.
        lag_bytes: u64,
    },
    /// It stopped, and says why. The others go on.
    Failed {
        /// What happened.
        error: String,
    },
}

/// What a pipeline has counted since the node started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records read from topics.
    pub records_in: u64,
    /// Rows of theirs, or of other views, that went in.
    pub rows_in: u64,
    /// Rows whose window was closed.
    pub late_rows: u64,
    /// Records and rows that went to the dead-letter topic.
    pub dead_letters: u64,
    /// Epochs that changed something.
    pub epochs: u64,
    /// Snapshots completed.
    pub snapshots: u64,
}
