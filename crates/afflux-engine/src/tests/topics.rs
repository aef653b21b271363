//! Topics that change under the views that read them: more partitions, records deleted.

use afflux_env::sim::Sim;
use afflux_types::{Offset, TopicPartition};

use super::world::{World, name};

const SOURCE: &str = "CREATE SOURCE s (k TEXT, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '0'
    SECOND) WITH (topic = 's', format = 'json', scan_startup_mode = 'START');";
const PER_K: &str = "CREATE MATERIALIZED VIEW per_k AS SELECT k, count(*) AS n FROM s GROUP BY k;";
const PER_MINUTE: &str = "CREATE MATERIALIZED VIEW per_minute AS
    SELECT window_start, count(*) AS n FROM TUMBLE(TABLE s, DESCRIPTOR(at), INTERVAL '1' MINUTE)
    GROUP BY window_start, window_end;";

fn record(k: &str, minute: u32) -> Vec<String> {
    vec![format!("{{\"k\":\"{k}\",\"at\":\"2024-01-01T00:{minute:02}:30\"}}")]
}

fn world(sim: &Sim, start: &str, view: &str) -> World {
    let mut world = World::open(sim).unwrap();
    world.topic("s", 1).unwrap();
    world.sql(&format!("{} {view}", SOURCE.replace("START", start))).unwrap();
    assert!(world.settle());
    world
}

fn reopened(sim: &Sim, world: World) -> World {
    drop(world);
    sim.disk.crash();
    let mut world = World::open(sim).unwrap();
    assert!(world.settle());
    world
}

#[test]
fn partitions_that_are_added_are_read_from_their_first_record() {
    for start in ["earliest", "latest"] {
        let sim = Sim::new(1);
        let mut world = world(&sim, start, PER_K);
        drop(world.produce("s", 0, &record("a", 0)));
        world.log.grow_topic(&name("s"), 3).unwrap();
        drop(world.produce("s", 2, &record("b", 0)));
        assert!(world.settle());
        let both = ["{\"k\":\"a\",\"n\":1}", "{\"k\":\"b\",\"n\":1}"];
        assert_eq!(world.rows("per_k"), both, "{start}");
        world = reopened(&sim, world);
        assert_eq!(world.rows("per_k"), both, "{start}");
        // Durable, and not yet seen by the pipeline when the node ends.
        world.log.grow_topic(&name("s"), 4).unwrap();
        for partition in [1, 3] {
            drop(world.produce("s", partition, &record("b", 0)));
        }
        while world.log.step() {}
        world = reopened(&sim, world);
        assert_eq!(world.rows("per_k"), [both[0], "{\"k\":\"b\",\"n\":3}"], "{start}");
    }
}

#[test]
fn time_does_not_go_back_for_a_partition_that_is_added() {
    let sim = Sim::new(2);
    let mut world = world(&sim, "earliest", PER_MINUTE);
    drop(world.produce("s", 0, &record("a", 0)));
    drop(world.produce("s", 0, &record("a", 5)));
    assert!(world.settle());
    let late = |world: &World| world.shared.status()[0].counters.late_rows;
    let closed = world.rows("per_minute");
    assert_eq!((closed.len(), late(&world)), (2, 0));
    world.log.grow_topic(&name("s"), 2).unwrap();
    while world.log.step() {}
    // The first minute is over, wherever its rows come from, and after a restart too.
    drop(world.produce("s", 1, &record("b", 0)));
    assert!(world.settle());
    assert_eq!((world.rows("per_minute"), late(&world)), (closed.clone(), 1));
    world.log.grow_topic(&name("s"), 3).unwrap();
    while world.log.step() {}
    world = reopened(&sim, world);
    drop(world.produce("s", 2, &record("b", 0)));
    assert!(world.settle());
    // The late row of before changed nothing, so that it was read was not recorded.
    assert_eq!((world.rows("per_minute"), late(&world)), (closed, 2));
}

#[test]
fn records_deleted_before_they_were_read_are_told_of() {
    let sim = Sim::new(3);
    let mut world = world(&sim, "earliest", PER_K);
    drop(world.produce("s", 0, &record("a", 0)));
    assert!(world.settle());
    for _ in 0..3 {
        drop(world.produce("s", 0, &record("gone", 1)));
    }
    drop(world.produce("s", 0, &record("a", 2)));
    while world.log.step() {}
    let partition = TopicPartition::new(name("s"), 0);
    world.log.trim(&partition, Offset(4)).unwrap();
    assert!(world.settle());
    assert_eq!(world.rows("per_k"), ["{\"k\":\"a\",\"n\":2}"]);
    let letters = world.records("per_k_dlq", 0);
    assert_eq!(letters.len(), 1);
    let header = |name: &str| {
        let found =
            letters[0].headers.iter().find(|header| header.name == name.as_bytes()).unwrap();
        String::from_utf8(found.value.as_ref().unwrap().to_vec()).unwrap()
    };
    assert_eq!(header("afflux.source.offset"), "1");
    assert!(header("afflux.error.reason").contains("offsets 1 to 4 of s"), "{letters:?}");
    // What was read and recorded is not missed.
    world.log.trim(&partition, Offset(5)).unwrap();
    world = reopened(&sim, world);
    assert_eq!(world.records("per_k_dlq", 0).len(), 1);
}
