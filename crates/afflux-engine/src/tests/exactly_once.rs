//! A run that is cut off anywhere ends like one that was not.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use afflux_env::{
    Random,
    sim::{Failure, Operation, Sim, SimRandom},
};
use proptest::prelude::*;

use super::world::{Client, World, options, rows};
use crate::{EngineOptions, line::Step};

const PARTITIONS: usize = 2;

const SQL: &str = "
    CREATE SOURCE IF NOT EXISTS orders (
        k TEXT NOT NULL, v BIGINT NOT NULL, ts TIMESTAMP(3),
        WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
    ) WITH (topic = 'orders', format = 'json', idle_timeout = '1 hour');
    CREATE MATERIALIZED VIEW IF NOT EXISTS per_k AS
        SELECT k, count(*) AS n, sum(v) AS total FROM orders GROUP BY k;
    CREATE MATERIALIZED VIEW IF NOT EXISTS whole AS
        SELECT count(*) AS n, sum(v) AS total FROM orders;
    CREATE MATERIALIZED VIEW IF NOT EXISTS sizes AS
        SELECT n, count(*) AS ks FROM per_k GROUP BY n;
    CREATE MATERIALIZED VIEW IF NOT EXISTS big AS SELECT k, v FROM orders WHERE v > 7;
    CREATE MATERIALIZED VIEW IF NOT EXISTS minutes AS
        SELECT window_start, count(*) AS n
        FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
        GROUP BY window_start, window_end;
";

const VIEWS: [&str; 5] = ["per_k", "whole", "sizes", "big", "minutes"];

/// One record that is to be produced, and what it says, if it can be read.
#[derive(Debug, Clone)]
struct Input {
    text: String,
    row: Option<(String, i64, i64)>,
}

/// The records of each partition, their times rising.
fn inputs(random: &SimRandom, count: usize) -> Vec<Vec<Input>> {
    let partition = |_| {
        let mut minute = 0;
        let record = |_| {
            minute += random.below(40) as i64;
            if random.below(12) == 0 {
                return Input { text: format!("{{oops {minute}"), row: None };
            }
            let (k, v) = (format!("k{}", random.below(9)), random.below(10) as i64);
            let (hour, min, second) = (minute / 3600, minute / 60 % 60, minute % 60);
            let ts = format!("2024-01-01T{hour:02}:{min:02}:{second:02}Z");
            let text = format!("{{\"k\":\"{k}\",\"v\":{v},\"ts\":\"{ts}\"}}");
            Input { text, row: Some((k, v, minute / 60)) }
        };
        (0..count).map(record).collect()
    };
    (0..PARTITIONS).map(partition).collect()
}

/// What the views must hold in the end, worked out the plain way.
fn expected(inputs: &[Vec<Input>]) -> BTreeMap<&'static str, Vec<String>> {
    let good: Vec<_> = inputs.iter().flatten().filter_map(|input| input.row.clone()).collect();
    let mut per_k: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    let mut minutes: BTreeMap<i64, i64> = BTreeMap::new();
    for (k, v, minute) in &good {
        let group = per_k.entry(k).or_default();
        *group = (group.0 + 1, group.1 + v);
        *minutes.entry(*minute).or_default() += 1;
    }
    let mut sizes: BTreeMap<i64, i64> = BTreeMap::new();
    for (n, _) in per_k.values() {
        *sizes.entry(*n).or_default() += 1;
    }
    let sum: i64 = good.iter().map(|(_, v, _)| v).sum();
    let sum = if good.is_empty() { "null".to_owned() } else { sum.to_string() };
    let mut expected = BTreeMap::from([
        (
            "per_k",
            per_k
                .iter()
                .map(|(k, (n, total))| format!("{{\"k\":\"{k}\",\"n\":{n},\"total\":{total}}}"))
                .collect::<Vec<_>>(),
        ),
        ("whole", vec![format!("{{\"n\":{},\"total\":{sum}}}", good.len())]),
        ("sizes", sizes.iter().map(|(n, ks)| format!("{{\"n\":{n},\"ks\":{ks}}}")).collect()),
        (
            "big",
            good.iter()
                .filter(|(_, v, _)| *v > 7)
                .map(|(k, v, _)| format!("{{\"k\":\"{k}\",\"v\":{v}}}"))
                .collect(),
        ),
        (
            "minutes",
            minutes
                .iter()
                .map(|(m, n)| {
                    let at = format!("2024-01-01T{:02}:{:02}:00Z", m / 60, m % 60);
                    format!("{{\"window_start\":\"{at}\",\"n\":{n}}}")
                })
                .collect(),
        ),
    ]);
    for rows in expected.values_mut() {
        rows.sort();
    }
    expected
}

/// A run: its world, its clients, and what has been produced.
struct Run<'a> {
    sim: Sim,
    world: Option<World>,
    inputs: &'a [Vec<Input>],
    clients: Vec<Client>,
    restarts: usize,
    /// How far back tokens lead at least.
    history_bytes_min: u64,
}

impl<'a> Run<'a> {
    fn new(seed: u64, inputs: &'a [Vec<Input>]) -> Self {
        let clients = VIEWS.iter().map(|_| Client::default()).collect();
        let history_bytes_min = options().history_bytes_min;
        Self { sim: Sim::new(seed), world: None, inputs, clients, restarts: 0, history_bytes_min }
    }

    /// Opens the world if it is not open, and defines what is not yet defined. False if the
    /// machine stops meanwhile.
    fn ready(&mut self) -> bool {
        if self.world.is_none() {
            let options = EngineOptions {
                history_bytes_min: self.history_bytes_min,
                snapshot_bytes_min: 512,
                snapshot_step_bytes_max: 1 << 10,
                ..options()
            };
            let Ok(world) = World::open_with(&self.sim, options) else { return false };
            let ready =
                world.topic("orders", PARTITIONS as i32).and_then(|()| world.sql(SQL)).is_ok();
            self.world = Some(world);
            return ready;
        }
        true
    }

    /// Produces the next records of a partition.
    fn produce(&mut self, partition: usize, count: usize) {
        let world = self.world.as_ref().unwrap();
        let from = world.end("orders", partition as i32).0 as usize;
        let all = &self.inputs[partition];
        let values: Vec<_> =
            all[from..all.len().min(from + count)].iter().map(|i| i.text.clone()).collect();
        if !values.is_empty() {
            // Acknowledged or not: after a restart the log says what is there.
            drop(world.produce("orders", partition as i32, &values));
        }
    }

    /// Drives the run by chance to its end. At a planned stop the machine restarts.
    fn finish(&mut self, random: &SimRandom) {
        let mut idle = 0;
        loop {
            if self.sim.disk.is_stopped() || !self.ready() {
                self.restart();
                continue;
            }
            let mut followers: Vec<_> = {
                let world = self.world.as_ref().unwrap();
                let each = VIEWS.iter().zip(&self.clients);
                each.map(|(view, client)| world.follow(view, client.token)).collect()
            };
            while !self.sim.disk.is_stopped() {
                match random.below(8) {
                    0 | 1 => self.produce(random.below(PARTITIONS as u64) as usize, 5),
                    2 | 3 => {
                        self.world.as_ref().unwrap().log.step();
                    }
                    4 => self.sim.clock.advance(Duration::from_millis(random.below(9))),
                    _ => {
                        if self.world.as_mut().unwrap().line.step() == Step::Halted {
                            assert!(self.sim.disk.is_stopped(), "the line gave up");
                        }
                    }
                }
                if random.below(4) == 0 {
                    self.check_cut();
                    let each = self.clients.iter_mut().zip(&mut followers);
                    each.for_each(|(client, follower)| client.drain(follower));
                }
                let world = self.world.as_ref().unwrap();
                let all = (0..PARTITIONS).all(|partition| {
                    world.end("orders", partition as i32).0 as usize == self.inputs[partition].len()
                });
                idle = if all { idle + 1 } else { 0 };
                let settled = idle > 20 && self.world.as_mut().unwrap().settle();
                if settled && !self.sim.disk.is_stopped() {
                    let each = self.clients.iter_mut().zip(&mut followers);
                    each.for_each(|(client, follower)| client.drain(follower));
                    return;
                }
            }
            self.clients.iter_mut().for_each(Client::disconnect);
        }
    }

    fn restart(&mut self) {
        self.world = None;
        self.sim.disk.crash();
        self.restarts += 1;
        assert!(self.restarts < 5, "it never comes back");
    }

    /// One cut of all views never shows a state that never was.
    fn check_cut(&self) {
        let Ok(pinned) = self.world.as_ref().unwrap().pin(&["per_k", "whole", "sizes"]) else {
            return;
        };
        let number = |row: &str, name: &str| -> i64 {
            let at = row.find(&format!("\"{name}\":")).unwrap() + name.len() + 3;
            let end = row[at..].find([',', '}']).unwrap();
            row[at..at + end].parse().unwrap_or(0)
        };
        let sum = |nth, name| rows(&pinned, nth).iter().map(|row| number(row, name)).sum::<i64>();
        assert_eq!(sum(0, "n"), sum(1, "n"));
        assert_eq!(sum(0, "total"), sum(1, "total"));
        assert_eq!(rows(&pinned, 0).len() as i64, sum(2, "ks"));
    }

    fn check_end(&self) {
        let world = self.world.as_ref().unwrap();
        let expected = expected(self.inputs);
        for (view, client) in VIEWS.iter().zip(&self.clients) {
            assert_eq!(world.rows(view), expected[view], "{view}");
            assert_eq!(client.rows(), expected[view], "what a client knows of {view}");
            assert!(client.resets == 0 || self.history_bytes_min == 0);
        }
        for view in ["per_k", "whole", "big", "minutes"] {
            let mut letters = BTreeSet::new();
            for record in world.records(&format!("{view}_dlq"), 0) {
                let header = |name: &str| {
                    let found = record.headers.iter().find(|h| h.name == name.as_bytes());
                    let value = found.and_then(|header| header.value.clone()).unwrap();
                    String::from_utf8(value.to_vec()).unwrap()
                };
                assert_eq!(header("afflux.source.topic"), "orders");
                assert!(!header("afflux.error.reason").is_empty());
                assert_eq!(record.key.as_deref(), Some(&b"key"[..]));
                let place: (usize, usize) = (
                    header("afflux.source.partition").parse().unwrap(),
                    header("afflux.source.offset").parse().unwrap(),
                );
                let input = &self.inputs[place.0][place.1];
                assert!(input.row.is_none());
                assert_eq!(record.value.as_deref(), Some(input.text.as_bytes()));
                assert!(letters.insert(place), "{view}: {place:?} twice");
            }
            let bad = self.inputs.iter().flatten().filter(|input| input.row.is_none()).count();
            assert_eq!(letters.len(), bad, "{view}");
        }
    }
}

#[test]
fn a_crash_at_any_write_or_sync_changes_nothing() {
    let inputs = inputs(&SimRandom::new(1), 120);
    let new = |seed| Run { history_bytes_min: 0, ..Run::new(seed, &inputs) };
    let mut calm = new(1);
    calm.finish(&SimRandom::new(2));
    calm.check_end();
    assert_eq!(calm.restarts, 0);
    let world = calm.world.as_ref().unwrap();
    let snapshots: u64 = world.shared.status().iter().map(|s| s.counters.snapshots).sum();
    assert!(snapshots > 0, "the run is long enough for snapshots");
    let mut crashes = 0;
    for operation in [Operation::Write, Operation::Sync] {
        let count = calm.sim.disk.count(operation);
        assert!(count > 50, "{operation:?}: {count}");
        for nth in 1..=count {
            let mut run = new(nth);
            run.sim.disk.fail_at(operation, nth, Failure::Crash);
            run.finish(&SimRandom::new(2));
            run.check_end();
            crashes += run.restarts;
        }
    }
    assert!(crashes > 100, "{crashes}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_order_of_events_ends_like_a_recomputation(seed in any::<u64>(), crash in 1..400_u64) {
        let random = SimRandom::new(seed);
        let count = 1 + random.below(80) as usize;
        let inputs = inputs(&random, count);
        let mut run = Run::new(random.next_u64(), &inputs);
        run.sim.disk.fail_at(Operation::Write, crash, Failure::Crash);
        run.finish(&random);
        run.check_end();
    }
}
