//! Follows view `routes` as any browser would, and takes the time from send call to sight.
//!
//! 1. The sender counts the landings of each route as it sends them, and notes for some of them
//!    (a sample) the moment just before the send call: the k-th landing of route r, at t.
//! 2. This thread follows the view's changes over server-sent events. A row of route r with a
//!    count of at least k shows that landing: the sample's latency is now - t.
//! 3. When the node goes away the stream is resumed from its last token, as often as need be.
//!    Samples that waited for a restart count with all of their wait.
//!
//! A count of at least k shows the k-th landing for sure only if the route's records arrive in the
//! order in which they were sent. Those of one plane do; those of several planes may lie in
//! several partitions, so within one flight of batches the k-th shown may be the (k+1)-th sent.
//! Over a whole sample that evens out: as many are shown a place early as a place late.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::Deserialize;

use crate::{
    demo::screen::Route,
    failure::Failure,
    http::{Event, Node},
};

/// How long to wait before a stream that broke is resumed.
const RESUME_AFTER: Duration = Duration::from_millis(20);

/// What is known of the view. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Watch {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    numbers: HashMap<(String, String), usize>,
    /// Per route: samples not yet seen, in the order of their counts.
    waiting: Vec<VecDeque<(u64, Instant)>>,
    latencies: Vec<Duration>,
    rows: HashMap<(String, String), Route>,
    shown: u64,
    failure: Option<Failure>,
}

#[derive(Deserialize)]
struct Changes {
    changes: Vec<Change>,
}

#[derive(Deserialize)]
struct Change {
    weight: i64,
    row: RouteRow,
}

#[derive(Deserialize)]
struct RouteRow {
    origin: String,
    dest: String,
    flights: u64,
    mean_delay: Option<f64>,
}

impl Watch {
    /// Begins to follow the view. `routes` are numbered as the sender numbers them.
    pub(crate) fn start(node: Node, routes: &[(String, String)]) -> Result<Self, Failure> {
        let numbers = routes.iter().cloned().zip(0..).collect();
        let waiting = vec![VecDeque::new(); routes.len()];
        let shared = Shared { numbers, waiting, ..Shared::default() };
        let watch = Self { shared: Arc::new(Mutex::new(shared)) };
        let follower = watch.clone();
        std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || follower.follow(&node))
            .context("starting the thread that follows the view")?;
        Ok(watch)
    }

    /// Notes that the k-th landing of a route is about to be sent.
    pub(crate) fn expect(&self, route: u16, count: u64, at: Instant) {
        self.shared().waiting[route as usize].push_back((count, at));
    }

    /// How many landings the view shows, over all routes.
    pub(crate) fn shown(&self) -> u64 {
        self.shared().shown
    }

    /// The busiest routes.
    pub(crate) fn top(&self, count: usize) -> Vec<Route> {
        let mut rows: Vec<_> = self.shared().rows.values().cloned().collect();
        rows.sort_by(|a, b| {
            b.flights.cmp(&a.flights).then_with(|| (&a.origin, &a.dest).cmp(&(&b.origin, &b.dest)))
        });
        rows.truncate(count);
        rows
    }

    /// The latencies of all samples that were seen, ascending, and how many were not.
    pub(crate) fn latencies(&self) -> (Vec<Duration>, usize) {
        let mut shared = self.shared();
        shared.latencies.sort_unstable();
        let unseen = shared.waiting.iter().map(VecDeque::len).sum();
        (shared.latencies.clone(), unseen)
    }

    /// An error if the view can not be followed.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.shared().failure.take().map_or(Ok(()), Err)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, node: &Node) {
        let mut token = None;
        loop {
            if let Err(failure) = self.follow_once(node, &mut token)
                && !failure.is_passing()
            {
                self.shared().failure = Some(failure);
                return;
            }
            std::thread::sleep(RESUME_AFTER);
        }
    }

    fn follow_once(&self, node: &Node, token: &mut Option<String>) -> Result<(), Failure> {
        let mut changes = node.changes("routes", token.as_deref())?;
        let mut snapshot_goes_on = false;
        while let Some(event) = changes.next_event()? {
            // The moment at which the row is in the reader's hands.
            let now = Instant::now();
            let begins_anew =
                event.kind == "reset" || (event.kind == "snapshot" && !snapshot_goes_on);
            snapshot_goes_on = event.kind == "snapshot" && event.id.is_none();
            self.shared().apply(&event, begins_anew, now)?;
            if let Some(id) = event.id {
                *token = Some(id);
            }
        }
        Ok(())
    }
}

impl Shared {
    fn apply(&mut self, event: &Event, begins_anew: bool, now: Instant) -> Result<(), Failure> {
        if begins_anew {
            self.rows.clear();
            self.shown = 0;
        }
        if event.kind == "reset" {
            return Ok(());
        }
        let changes: Changes = serde_json::from_str(&event.data)
            .with_context(|| format!("reading an event of view routes: {:.200}", event.data))?;
        let (gone, come): (Vec<_>, Vec<_>) =
            changes.changes.into_iter().partition(|change| change.weight < 0);
        for Change { row, .. } in gone {
            if let Some(old) = self.rows.remove(&(row.origin, row.dest)) {
                self.shown -= old.flights;
            }
        }
        for Change { row, .. } in come {
            let RouteRow { origin, dest, flights, mean_delay } = row;
            self.shown += flights;
            let key = (origin.clone(), dest.clone());
            if let Some(&number) = self.numbers.get(&key) {
                let waiting = &mut self.waiting[number];
                while let Some((_, at)) = waiting.pop_front_if(|(count, _)| *count <= flights) {
                    self.latencies.push(now.saturating_duration_since(at));
                }
            }
            if let Some(old) = self.rows.insert(key, Route { origin, dest, flights, mean_delay }) {
                self.shown -= old.flights;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, id: Option<&str>, data: &str) -> Event {
        Event { kind: kind.to_owned(), id: id.map(str::to_owned), data: data.to_owned() }
    }

    #[test]
    fn a_sample_is_seen_once_its_count_is_reached() {
        let mut shared = Shared::default();
        shared.numbers.insert(("JFK".to_owned(), "LAX".to_owned()), 0);
        shared.waiting.push(VecDeque::new());
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        shared.waiting[0].extend([(1, at(0)), (2, at(5)), (3, at(6))]);
        let row = |weight: i64, flights: u64| {
            format!(
                r#"{{"weight":{weight},"row":{{"origin":"JFK","dest":"LAX","flights":{flights},"mean_delay":1.5}}}}"#
            )
        };
        let snapshot = event("snapshot", Some("t"), r#"{"tick":1,"changes":[]}"#);
        shared.apply(&snapshot, true, at(1)).expect("an event");
        assert_eq!(shared.latencies, []);
        let two = format!(r#"{{"tick":2,"changes":[{}]}}"#, row(1, 2));
        shared.apply(&event("changes", Some("u"), &two), false, at(10)).expect("an event");
        assert_eq!(shared.latencies, [Duration::from_millis(10), Duration::from_millis(5)]);
        assert_eq!(shared.shown, 2);
        // New before old: the pair is one change all the same.
        let three = format!(r#"{{"tick":3,"changes":[{},{}]}}"#, row(1, 3), row(-1, 2));
        shared.apply(&event("changes", Some("v"), &three), false, at(11)).expect("an event");
        assert_eq!(shared.shown, 3);
        assert_eq!(shared.latencies.len(), 3);
        shared.apply(&event("reset", None, "{}"), true, at(12)).expect("an event");
        assert_eq!((shared.shown, shared.rows.len()), (0, 0));
    }
}
