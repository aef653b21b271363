//! The way to the line, in bounded steps: by stretches of the journal, as long as enough of the
//! pipeline's input is ahead of it.

use std::sync::Arc;

use afflux_log::{Isolation, Log};
use afflux_types::{Offset, Tick};

use super::{Feed, Pipeline, ends};
use crate::{
    EngineError,
    frames::{self, sole_partition},
};

/// With at most so many records ahead one step takes the rest.
const RECORDS_NEAR: i64 = 4096;
/// How many records a frame of a view counts for.
const FRAME_RECORDS: i64 = 256;

impl Pipeline {
    /// Whether the contents of all views that it reads are in.
    pub(crate) fn has_begun(&self) -> bool {
        self.views.iter().all(|view| view.next.is_some())
    }

    /// A tick to catch up to: `limit` if that is near enough, else a step towards it.
    pub(crate) fn step_towards(
        &self,
        log: &dyn Log,
        limit: Tick,
        bytes_max: u64,
    ) -> Result<Tick, EngineError> {
        if self.ahead(log, limit)? <= RECORDS_NEAR {
            return Ok(limit);
        }
        let mut span = bytes_max;
        loop {
            let tick = log.next_tick(self.tick, span).min(limit);
            if tick == limit || self.ahead(log, tick)? > 0 {
                return Ok(tick);
            }
            // Nothing of ours in that stretch of the log: look further.
            span = span.saturating_mul(2);
        }
    }

    /// About how many records there are up to a tick that it has not read.
    fn ahead(&self, log: &dyn Log, tick: Tick) -> Result<i64, EngineError> {
        let mut records = 0;
        for source in &self.sources {
            let ends = ends(log, source, tick)?;
            let ahead = source.partitions.iter().zip(&ends).map(|(p, end)| end.0 - p.next.0);
            records += ahead.map(|ahead| ahead.max(0)).sum::<i64>();
        }
        for view in &self.views {
            let Some(next) = view.next else { continue };
            let ends = log.ends(tick, &[sole_partition(&view.topic)])?;
            let frames = ends.first().map_or(0, |end| (end.0 - next.0).max(0));
            records += frames.saturating_mul(FRAME_RECORDS);
        }
        Ok(records)
    }

    /// What frames of a view up to a tick hold, from where this pipeline stands in them.
    pub(crate) fn feed_from_log(
        &self,
        log: &dyn Log,
        index: usize,
        (to, tick): (Offset, Tick),
    ) -> Result<Feed, EngineError> {
        let view = &self.views[index];
        let Some(mut next) = view.next else { return Ok(Feed::default()) };
        let mut changes = Vec::new();
        while next < to {
            let stored = frames::at(log, &view.topic, next, Isolation::Appended, &view.schema)?;
            let stored = stored.ok_or_else(|| {
                frames::unreadable(&view.topic, &format_args!("there is no frame at {next}"))
            })?;
            // Ticks rise with offsets.
            if stored.frame.tick > tick {
                break;
            }
            next = Offset(next.0 + 1);
            changes.extend(stored.frame.changes.map(Arc::new));
        }
        Ok(Feed { changes, next: Some(next) })
    }
}
