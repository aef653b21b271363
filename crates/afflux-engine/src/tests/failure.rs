//! One pipeline's trouble is its own; a node's is over when its cause is.

use std::time::Duration;

use afflux_env::{Disk, sim::Sim};
use afflux_log::LogOptions;
use afflux_types::{Classified, ErrorKind};

use super::world::{World, log_options, name, options};
use crate::{EngineError, EngineOptions, PipelineState, line::Step};

fn world(sim: &Sim) -> World {
    world_with(sim, options())
}

fn world_with(sim: &Sim, options: EngineOptions) -> World {
    let world = World::open_with(sim, options).unwrap();
    define(&world);
    world
}

fn define(world: &World) {
    for topic in ["a", "b"] {
        world.topic(topic, 2).unwrap();
        world
            .sql(&format!(
                "CREATE SOURCE IF NOT EXISTS {topic} (v BIGINT, ts TIMESTAMP(3),
                     WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
                 ) WITH (topic = '{topic}', format = 'json', idle_timeout = '1 second');
                 CREATE MATERIALIZED VIEW IF NOT EXISTS {topic}_sum AS
                     SELECT sum(v) AS v FROM {topic};"
            ))
            .unwrap();
    }
}

fn values(values: &[i64]) -> Vec<String> {
    values.iter().map(|v| format!("{{\"v\":{v}}}")).collect()
}

fn state(world: &World, view: &str) -> PipelineState {
    world.shared.status().into_iter().find(|status| status.name == view).unwrap().state
}

#[test]
fn a_pipeline_whose_topic_is_deleted_says_so_and_the_others_go_on() {
    let sim = Sim::new(1);
    let mut world = world(&sim);
    world.sql("CREATE MATERIALIZED VIEW over AS SELECT v FROM a_sum;").unwrap();
    drop(world.produce("a", 0, &values(&[1])));
    assert!(world.settle());
    world.log.delete_topic(&name("a")).unwrap();
    drop(world.produce("b", 0, &values(&[2])));
    assert!(world.settle());
    for view in ["a_sum", "over"] {
        let PipelineState::Failed { error } = state(&world, view) else { panic!("{view}") };
        assert!(error.contains("a-"), "{view}: {error}");
        let pinned = world.pin(&[view]).unwrap_err();
        assert!(matches!(&pinned, EngineError::Failed { view: v, .. } if v == view), "{pinned}");
        assert!(pinned.hint().is_some());
    }
    assert_eq!(world.rows("b_sum"), ["{\"v\":2}"]);
    world.sql("DROP MATERIALIZED VIEW over; DROP MATERIALIZED VIEW a_sum;").unwrap();
    let unknown =
        world.sql("CREATE SOURCE c (v BIGINT) WITH (topic = 'c', format = 'json');").unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    assert!(world.settle());
    assert_eq!(world.shared.status().len(), 1);
}

#[test]
fn a_sum_out_of_range_is_a_dead_letter_or_stops_its_pipeline_alone() {
    let sim = Sim::new(2);
    let mut world = world(&sim);
    world
        .sql(
            "CREATE MATERIALIZED VIEW per_v AS SELECT v, sum(v) AS total FROM a GROUP BY v;
             CREATE MATERIALIZED VIEW over AS SELECT sum(total) AS total FROM per_v;",
        )
        .unwrap();
    drop(world.produce("a", 0, &values(&[i64::MAX, i64::MAX - 1])));
    drop(world.produce("b", 0, &values(&[2])));
    assert!(world.settle());
    // Nothing is ever taken back from the source: the row that is too much is left out.
    assert_eq!(world.rows("a_sum"), [format!("{{\"v\":{}}}", i64::MAX)]);
    let letters = world.records("a_sum_dlq", 0);
    assert_eq!(letters.len(), 1);
    let status = world.shared.status();
    let counted = status.iter().find(|status| status.name == "a_sum").expect("it runs");
    assert_eq!(counted.counters.dead_letters, 1);
    let value = String::from_utf8(letters[0].value.clone().unwrap().to_vec()).unwrap();
    assert!(value.contains(&(i64::MAX - 1).to_string()), "{value}");
    let reason = letters[0].headers[0].value.clone().unwrap();
    assert!(String::from_utf8(reason.to_vec()).unwrap().contains("out of range"));
    // Over a view it can not be: what is too much now may be taken back later.
    let PipelineState::Failed { error } = state(&world, "over") else {
        panic!("{:?}", state(&world, "over"))
    };
    assert!(error.contains("out of range"), "{error}");
    assert_eq!(world.rows("per_v").len(), 2);
    assert_eq!(world.rows("b_sum"), ["{\"v\":2}"]);
}

#[test]
fn a_full_disk_stops_nothing_for_good() {
    let sim = Sim::new(3);
    let mut world = world(&sim);
    drop(world.produce("a", 0, &values(&[1])));
    assert!(world.settle());
    sim.disk.set_capacity(0);
    let mut sum = 1;
    // Until the log refuses: what is acknowledged must be in the view in the end.
    for nth in 0..100_000 {
        let mut ticket = world.produce("a", 0, &vec![values(&[nth]).remove(0); 50]);
        assert!(world.settle());
        match ticket.poll_now().unwrap() {
            Ok(_) => sum += nth * 50,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Full, "{error}");
                break;
            }
        }
    }
    assert_eq!(sim.disk.room(std::path::Path::new("/data")).unwrap().free, 0);
    sim.disk.set_capacity(1 << 40);
    for _ in 0..3 {
        sim.clock.advance(Duration::from_secs(2));
        assert!(world.settle());
    }
    let mut ticket = world.produce("a", 0, &values(&[7]));
    assert!(world.settle());
    ticket.poll_now().unwrap().unwrap();
    assert_eq!(world.rows("a_sum"), [format!("{{\"v\":{}}}", sum + 7)]);
    drop(world);
    let mut world = World::open(&sim).unwrap();
    assert!(world.settle());
    assert_eq!(world.rows("a_sum"), [format!("{{\"v\":{}}}", sum + 7)]);
}

#[test]
fn a_silent_partition_holds_time_only_until_it_is_idle() {
    let sim = Sim::new(4);
    let mut world = world(&sim);
    world
        .sql(
            "CREATE MATERIALIZED VIEW minutes AS SELECT window_start, count(*) AS n
             FROM TABLE(TUMBLE(TABLE a, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
             GROUP BY window_start, window_end;",
        )
        .unwrap();
    let at = |minute: i64| vec![format!("{{\"v\":1,\"ts\":\"2024-01-01T00:{minute:02}:30Z\"}}")];
    let late = |world: &World| {
        let status = world.shared.status();
        status.iter().find(|status| status.name == "minutes").unwrap().counters.late_rows
    };
    drop(world.produce("a", 0, &at(10)));
    assert!(world.settle());
    // Nothing from partition 1 yet: no row is late.
    drop(world.produce("a", 0, &at(5)));
    assert!(world.settle());
    assert_eq!(late(&world), 0);
    sim.clock.advance(Duration::from_millis(900));
    drop(world.produce("a", 0, &at(20)));
    assert!(world.settle());
    // The line knows when to look again, though nothing comes.
    let Step::Wait { until: Some(until), .. } = world.line.step() else { panic!() };
    assert!(until <= Duration::from_millis(100), "{until:?}");
    sim.clock.advance(until);
    assert!(world.settle());
    drop(world.produce("a", 1, &at(5)));
    assert!(world.settle());
    assert_eq!(late(&world), 1);
    assert_eq!(world.rows("minutes").len(), 3);
}

#[test]
fn a_quiet_node_makes_no_work() {
    let sim = Sim::new(5);
    let mut world = world(&sim);
    drop(world.produce("a", 0, &values(&[1])));
    assert!(world.settle());
    let end = *afflux_log::Log::appended(world.log.as_ref()).borrow();
    for _ in 0..10 {
        assert!(matches!(world.line.step(), Step::Wait { on_append: true, .. }));
    }
    assert_eq!(*afflux_log::Log::appended(world.log.as_ref()).borrow(), end);
}

#[test]
fn what_is_in_flight_is_bounded() {
    let sim = Sim::new(6);
    let mut world = world_with(&sim, EngineOptions { in_flight_ticks_max: 3, ..options() });
    assert!(world.settle());
    let mut waits = 0;
    for nth in 0..50 {
        drop(world.produce("a", 0, &values(&[nth])));
        // The disk stands still.
        if let Step::Wait { until: None, on_append: false } = world.line.step() {
            waits += 1;
        }
    }
    assert!(waits > 40, "{waits}");
    assert!(world.settle());
    assert_eq!(world.rows("a_sum"), [format!("{{\"v\":{}}}", 49 * 50 / 2)]);
}

#[test]
fn what_was_computed_behind_a_refused_commit_is_refused_too() {
    let mut refused_and_taken = 0;
    for seed in 0..40 {
        let sim = Sim::new(seed);
        let log_options = LogOptions { whole_group_bytes_max: 4000, ..log_options() };
        let mut world = World::open_as(&sim, log_options, options()).unwrap();
        world.topic("a", 1).unwrap();
        world.topic("filler", 1).unwrap();
        world
            .sql(
                "CREATE SOURCE a (v BIGINT) WITH (topic = 'a', format = 'json');
                 CREATE MATERIALIZED VIEW a_sum AS SELECT sum(v) AS v FROM a;",
            )
            .unwrap();
        assert!(world.settle());
        sim.disk.set_capacity(0);
        // Little room is left, more or less of it from seed to seed.
        drop(world.produce("filler", 0, &["x".repeat(1 + seed as usize * 89)]));
        loop {
            let mut ticket = world.produce("filler", 0, &["x".repeat(3500)]);
            while world.log.step() {}
            if !matches!(ticket.poll_now(), Some(Ok(_))) {
                break;
            }
        }
        // Small and large commits, with letters, on their way together.
        let mut bad = 0;
        for count in [1, 12, 1] {
            let mut ticket = world.produce("a", 0, &vec!["oops".to_owned(); count]);
            if ticket.poll_now().is_none() {
                bad += count;
            }
            world.line.step();
        }
        while world.log.step() {}
        let before = world.records("a_sum_dlq", 0).len();
        sim.disk.set_capacity(1 << 40);
        for _ in 0..3 {
            sim.clock.advance(Duration::from_secs(2));
            assert!(world.settle());
        }
        let mut places = std::collections::BTreeSet::new();
        let letters = world.records("a_sum_dlq", 0);
        for letter in &letters {
            let offset = letter.headers.iter().find(|h| *h.name == b"afflux.source.offset"[..]);
            assert!(places.insert(offset.unwrap().value.clone()), "seed {seed}: a letter twice");
        }
        assert_eq!(places.len(), bad, "seed {seed}");
        refused_and_taken += usize::from(before < bad);
    }
    assert!(refused_and_taken > 5, "{refused_and_taken}");
}

#[test]
fn letters_on_their_way_count_too() {
    let sim = Sim::new(7);
    let (in_flight_ticks_max, in_flight_bytes_max) = (1000, 10 << 10);
    let options = EngineOptions { in_flight_ticks_max, in_flight_bytes_max, ..options() };
    let log_options = LogOptions { chunk_bytes: 4 << 10, ..log_options() };
    let mut world = World::open_as(&sim, log_options, options).unwrap();
    define(&world);
    assert!(world.settle());
    let mut waits = 0;
    for _ in 0..50 {
        drop(world.produce("a", 0, &["x".repeat(300)]));
        // The disk stands still.
        if let Step::Wait { until: None, on_append: false } = world.line.step() {
            waits += 1;
        }
    }
    assert!(waits > 20, "{waits}");
    assert!(world.settle());
    assert_eq!(world.records("a_sum_dlq", 0).len(), 50);
}

#[test]
fn a_topic_that_was_made_anew_is_not_taken_for_the_old_one() {
    let sim = Sim::new(8);
    let mut world = world(&sim);
    drop(world.produce("a", 0, &values(&[1, 2, 3])));
    assert!(world.settle());
    world.log.delete_topic(&name("a")).unwrap();
    world.topic("a", 2).unwrap();
    drop(world.produce("a", 0, &values(&[4])));
    assert!(world.settle());
    let PipelineState::Failed { error } = state(&world, "a_sum") else { panic!() };
    assert!(error.contains("a-0") && error.contains("made anew"), "{error}");
}
