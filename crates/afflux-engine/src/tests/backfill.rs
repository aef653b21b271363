//! Views made over what is there already, and views that go.

use std::path::Path;

use afflux_env::{Disk, OpenMode, sim::Sim};

use super::world::{World, name};
use crate::{EngineError, PipelineState, ddl, line::Step};

const SOURCE: &str = "CREATE SOURCE s (k TEXT, v BIGINT) WITH (topic = 's', format = 'json');";
const PER_K: &str = "CREATE MATERIALIZED VIEW per_k AS
    SELECT k, count(*) AS n FROM s GROUP BY k;";

fn records(range: std::ops::Range<i64>) -> Vec<String> {
    range.map(|v| format!("{{\"k\":\"k{}\",\"v\":{v}}}", v % 3)).collect()
}

fn counts(total: i64) -> Vec<String> {
    (0..3)
        .map(|k| (k, (0..total).filter(|v| v % 3 == k).count()))
        .filter(|(_, n)| *n > 0)
        .map(|(k, n)| format!("{{\"k\":\"k{k}\",\"n\":{n}}}"))
        .collect()
}

fn world(sim: &Sim) -> World {
    let world = World::open(sim).unwrap();
    world.topic("s", 1).unwrap();
    world.sql(SOURCE).unwrap();
    world
}

#[test]
fn a_new_view_works_through_the_past_in_bounded_epochs_and_joins() {
    let sim = Sim::new(1);
    let mut world = world(&sim);
    for at in 0..1500 {
        drop(world.produce("s", 0, &records(at * 10..at * 10 + 10)));
        world.log.step();
    }
    assert!(world.settle());
    world.sql(PER_K).unwrap();
    let mut catching_up = 0;
    loop {
        let logged = world.log.step();
        let step = world.line.step();
        match world.pin(&["per_k"]) {
            Ok(_) => break,
            Err(EngineError::CatchingUp { view, .. }) => assert_eq!(view, "per_k"),
            Err(error) => panic!("{error}"),
        }
        catching_up += 1;
        assert!(logged || step == Step::Again, "it stands still");
    }
    assert!(catching_up > 20, "{catching_up}");
    assert_eq!(world.rows("per_k"), counts(15_000));
    let frames = world.end(ddl::pipeline_topic(world.id("per_k")).as_str(), 0).0;
    assert!(frames > 20, "{frames}");
    drop(world.produce("s", 0, &records(15_000..15_001)));
    assert!(world.settle());
    assert_eq!(world.rows("per_k"), counts(15_001));
}

#[test]
fn a_view_over_a_view_begins_with_its_contents() {
    let sim = Sim::new(2);
    let mut world = world(&sim);
    world.sql(PER_K).unwrap();
    drop(world.produce("s", 0, &records(0..10)));
    assert!(world.settle());
    // In flight while the view over it is made.
    drop(world.produce("s", 0, &records(10..20)));
    world.line.step();
    world
        .sql(
            "CREATE MATERIALIZED VIEW sizes AS SELECT n, count(*) AS ks FROM per_k GROUP BY n;
             CREATE MATERIALIZED VIEW both AS SELECT k FROM s UNION ALL SELECT k FROM per_k;",
        )
        .unwrap();
    assert!(world.settle());
    assert_eq!(world.rows("sizes"), ["{\"n\":6,\"ks\":1}", "{\"n\":7,\"ks\":2}"]);
    assert_eq!(world.rows("both").len(), 23);
    drop(world.produce("s", 0, &records(20..21)));
    assert!(world.settle());
    drop(world);
    let mut world = World::open(&sim).unwrap();
    assert!(world.settle());
    drop(world.produce("s", 0, &records(21..22)));
    assert!(world.settle());
    assert_eq!(world.rows("sizes"), ["{\"n\":7,\"ks\":2}", "{\"n\":8,\"ks\":1}"]);
    assert_eq!(world.rows("both").len(), 25);
}

#[test]
fn a_source_may_begin_at_its_latest_record() {
    let sim = Sim::new(3);
    let mut world = World::open(&sim).unwrap();
    world.topic("s", 1).unwrap();
    drop(world.produce("s", 0, &records(0..10)));
    assert!(world.settle());
    world
        .sql(&format!(
            "{} {PER_K}",
            SOURCE.replace("'json')", "'json', scan_startup_mode = 'latest')")
        ))
        .unwrap();
    assert!(world.settle());
    assert!(world.rows("per_k").is_empty());
    drop(world.produce("s", 0, &records(10..11)));
    assert!(world.settle());
    drop(world);
    let mut world = World::open(&sim).unwrap();
    assert!(world.settle());
    assert_eq!(world.rows("per_k"), ["{\"k\":\"k1\",\"n\":1}"]);
}

#[test]
fn where_a_view_begins_is_settled_when_it_is_made() {
    let sim = Sim::new(6);
    let mut world = World::open(&sim).unwrap();
    world.topic("s", 1).unwrap();
    drop(world.produce("s", 0, &records(0..10)));
    assert!(world.settle());
    let latest = SOURCE.replace("'json')", "'json', scan_startup_mode = 'latest')");
    world.sql(&format!("{latest} {PER_K}")).unwrap();
    drop(world.produce("s", 0, &records(10..12)));
    while world.log.step() {}
    // Its pipeline has not run yet.
    drop(world);
    sim.disk.crash();
    let mut world = World::open(&sim).unwrap();
    drop(world.produce("s", 0, &records(12..13)));
    assert!(world.settle());
    let expected = ["{\"k\":\"k0\",\"n\":1}", "{\"k\":\"k1\",\"n\":1}", "{\"k\":\"k2\",\"n\":1}"];
    assert_eq!(world.rows("per_k"), expected);
}

#[test]
fn a_dropped_view_is_gone_with_all_that_was_its_own() {
    let sim = Sim::new(4);
    let mut world = world(&sim);
    world.sql(PER_K).unwrap();
    world.sql("CREATE MATERIALIZED VIEW over AS SELECT n FROM per_k;").unwrap();
    drop(world.produce("s", 0, &records(0..10)));
    assert!(world.settle());
    let topic = ddl::pipeline_topic(world.id("over"));
    let mut follower = world.follow("over", None);
    while follower.try_next().unwrap().is_some() {}
    let in_use = world.sql("DROP MATERIALIZED VIEW per_k;");
    assert!(in_use.unwrap_err().to_string().contains("used by over"));
    let kind = world.sql("DROP SOURCE over;").unwrap_err();
    assert!(matches!(kind, EngineError::WrongKind { .. }), "{kind}");
    world.sql("DROP MATERIALIZED VIEW over;").unwrap();
    assert!(follower.try_next().is_err());
    assert!(world.settle());
    assert!(world.log.topic(&topic).is_none());
    assert!(world.log.topic(&name("over_dlq")).is_some());
    assert_eq!(world.shared.status().len(), 1);
    let notices = world.ddl.execute(
        afflux_sql::parse("DROP MATERIALIZED VIEW IF EXISTS over;").unwrap().pop().unwrap(),
    );
    assert_eq!(notices.unwrap().notices.len(), 1);
    // The rest goes on, and the name is free.
    drop(world.produce("s", 0, &records(10..12)));
    assert!(world.settle());
    assert_eq!(world.rows("per_k"), counts(12));
    let old = follower.token();
    world.sql("CREATE MATERIALIZED VIEW over AS SELECT k FROM per_k;").unwrap();
    assert!(world.settle());
    let mut again = world.follow("over", old);
    assert!(matches!(again.try_next().unwrap(), Some(crate::Event::Reset { .. })));
    // Followers hold the log open.
    drop((follower, again, world));
    let mut world = World::open(&sim).unwrap();
    assert!(world.settle());
    assert_eq!(world.rows("over").len(), 3);
}

#[test]
fn a_table_comes_from_a_file_and_lives_in_the_log() {
    let sim = Sim::new(5);
    let mut world = world(&sim);
    let path = Path::new("/data/names.csv");
    let file = sim.disk.open(path, OpenMode::Create).unwrap();
    file.write_all_at(b"code,name\nk0,zero\nk1,\"one, or so\"\n", 0).unwrap();
    let missing = world.sql("CREATE TABLE t FROM '/nowhere.csv';").unwrap_err();
    assert!(missing.to_string().contains("/nowhere.csv"), "{missing}");
    world.sql("CREATE TABLE names FROM '/data/names.csv';").unwrap();
    sim.disk.remove(path).unwrap();
    world
        .sql(
            "CREATE MATERIALIZED VIEW named AS
              SELECT s.v, names.name FROM s LEFT JOIN names ON s.k = names.code;",
        )
        .unwrap();
    drop(world.produce("s", 0, &records(0..3)));
    assert!(world.settle());
    let expected = [
        "{\"v\":0,\"name\":\"zero\"}",
        "{\"v\":1,\"name\":\"one, or so\"}",
        "{\"v\":2,\"name\":null}",
    ];
    assert_eq!(world.rows("named"), expected);
    drop(world);
    let mut world = World::open(&sim).unwrap();
    assert!(world.settle());
    assert_eq!(world.rows("named"), expected);
    assert_eq!(world.rows("names").len(), 2);
    drop(world.produce("s", 0, &records(3..4)));
    assert!(world.settle());
    assert_eq!(world.rows("named").len(), 4);
    let in_use = world.sql("DROP TABLE names;").unwrap_err();
    assert!(in_use.to_string().contains("used by named"), "{in_use}");
    assert!(world.shared.status().iter().all(|status| status.state == PipelineState::Live));
}
