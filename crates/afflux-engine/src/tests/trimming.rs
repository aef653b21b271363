//! What nobody needs any more is given back, and nothing else.

use std::path::Path;

use afflux_env::{
    Disk, OpenMode,
    sim::{Failure, Operation, Sim},
};
use afflux_log::{Entry, Group, Log, LogOptions};
use afflux_record::{Compression, batch::Builder};
use afflux_types::{Offset, Timestamp};

use super::world::{Client, World, log_options, name, options};
use crate::{EngineOptions, PipelineState, ddl, frames::sole_partition};

const SOURCES: &str = "
    CREATE SOURCE s (k BIGINT, v BIGINT) WITH (topic = 's', format = 'json');
    CREATE SOURCE q (k BIGINT, v BIGINT) WITH (topic = 'q', format = 'json');";
const SUMS: &str = "CREATE MATERIALIZED VIEW sums AS SELECT k, sum(v) AS v FROM s GROUP BY k;";

fn world(sim: &Sim, options: EngineOptions) -> World {
    let world = World::open_as(sim, small_files(), options).unwrap();
    for topic in ["s", "q"] {
        world.topic(topic, 1).unwrap();
    }
    world.sql(SOURCES).unwrap();
    world.sql(SUMS).unwrap();
    world
}

fn small_files() -> LogOptions {
    LogOptions { file_bytes: 16 << 10, first_file_bytes: 16 << 10, ..log_options() }
}

/// No more snapshots.
fn no_snapshots() -> EngineOptions {
    EngineOptions { snapshot_bytes_min: 1 << 40, history_bytes_min: 1 << 40, ..options() }
}

fn produce(world: &World, topic: &str, range: std::ops::Range<i64>) {
    let values: Vec<_> = range.map(|v| format!("{{\"k\":{},\"v\":{v}}}", v % 20)).collect();
    drop(world.produce(topic, 0, &values));
}

fn sums(total: i64) -> Vec<String> {
    let sum = |k| (0..total).filter(|v| v % 20 == k).sum::<i64>();
    let mut rows: Vec<_> = (0..20).map(|k| format!("{{\"k\":{k},\"v\":{}}}", sum(k))).collect();
    rows.sort();
    rows
}

fn journal_files(sim: &Sim) -> Vec<std::path::PathBuf> {
    let mut files = sim.disk.list(Path::new("/data/journal")).unwrap();
    files.retain(|path| path.extension().is_some_and(|is| is == "journal"));
    files
}

fn start(world: &World, view: &str) -> Offset {
    let topic = sole_partition(&ddl::pipeline_topic(world.id(view)));
    world.log.bounds(&topic).unwrap().start
}

#[test]
fn the_disk_does_not_grow_while_the_state_does_not() {
    let sim = Sim::new(1);
    let history_bytes_min = 32 << 10;
    let options = EngineOptions { history_bytes_min, ..options() };
    let mut world = world(&sim, options.clone());
    // One that changes now and then, and one over another.
    world
        .sql(
            "CREATE MATERIALIZED VIEW quiet AS SELECT k, sum(v) AS v FROM q GROUP BY k;
             CREATE MATERIALIZED VIEW whole AS SELECT count(*) AS ks, sum(v) AS v FROM sums;",
        )
        .unwrap();
    let (mut most, mut written) = (0, 0);
    let mut tokens = Vec::new();
    let mut total = 0;
    for round in 0..1500 {
        produce(&world, "s", total..total + 10);
        total += 10;
        if round % 100 == 0 {
            produce(&world, "q", round..round + 1);
        }
        assert!(world.settle());
        // As retention would.
        for topic in ["s", "q"] {
            world.log.trim(&sole_partition(&name(topic)), world.end(topic, 0)).unwrap();
        }
        if round == 700 {
            drop(world);
            world = World::open_as(&sim, small_files(), options.clone()).unwrap();
            assert!(world.settle());
        }
        if round % 10 == 0 {
            let mut client = Client::default();
            client.drain(&mut world.follow("sums", None));
            tokens.push((world.log.durable().borrow().0, client.token.unwrap()));
        }
        most = most.max(journal_files(&sim).len());
        written = world.log.durable().borrow().0;
    }
    assert!(written > 200 * (16 << 10), "{written}");
    assert!(most < 40, "{most} files");
    assert!(start(&world, "sums") > Offset(1000), "{}", start(&world, "sums"));
    assert!(start(&world, "quiet") > Offset(0));
    // Whoever is within the promised history goes on, whoever is not begins again.
    let mut resets = 0;
    for (at, token) in tokens {
        let mut client = Client::default();
        client.drain(&mut world.follow("sums", Some(token)));
        assert!(client.resets == 0 || at + history_bytes_min < written, "{at} {written}");
        if client.resets > 0 {
            assert_eq!(client.rows(), world.rows("sums"));
            resets += 1;
        }
    }
    assert!(resets > 100, "{resets}");
    drop(world);
    let mut world = World::open_as(&sim, small_files(), options).unwrap();
    assert!(world.settle());
    assert_eq!(world.rows("sums"), sums(total));
    assert_eq!(world.rows("quiet").len(), 1);
    let all: i64 = (0..total).sum();
    assert_eq!(world.rows("whole"), [format!("{{\"ks\":20,\"v\":{all}}}")]);
    // With the views goes all that is theirs.
    world
        .sql(
            "DROP MATERIALIZED VIEW whole; DROP MATERIALIZED VIEW sums;
             DROP MATERIALIZED VIEW quiet; DROP SOURCE s; DROP SOURCE q;",
        )
        .unwrap();
    assert!(world.settle());
    let left: Vec<_> = world.log.topics().iter().map(|topic| topic.name.to_string()).collect();
    assert_eq!(left, ["__afflux_ddl", "s", "q", "sums_dlq", "quiet_dlq", "whole_dlq"]);
    assert!(journal_files(&sim).len() < 8, "{:?}", journal_files(&sim));
}

const WHOLE: &str = "
    CREATE MATERIALIZED VIEW whole AS SELECT count(*) AS ks, sum(v) AS v FROM sums;";

/// As many rounds as are asked for, however often the machine stops: each produces, computes, and
/// drops from the source what was computed, as retention would, so that only the views' own topics
/// hold it still. How often it stopped, and the world in the end.
fn rounds(sim: &Sim, rounds: i64) -> (usize, World) {
    let options = EngineOptions {
        history_bytes_min: 0,
        snapshot_bytes_min: 0,
        snapshot_step_bytes_max: 1 << 10,
        ..options()
    };
    let sql = format!("{SOURCES}{SUMS}{WHOLE}").replace("SOURCE", "SOURCE IF NOT EXISTS");
    let sql = sql.replace("VIEW", "VIEW IF NOT EXISTS");
    let mut clients = ["sums", "whole"].map(|view| (view, Client::default()));
    let mut stops = 0;
    loop {
        if sim.disk.is_stopped() {
            sim.disk.crash();
            stops += 1;
            assert!(stops < 5, "it never comes back");
        }
        let opened = World::open_as(sim, small_files(), options.clone()).and_then(|world| {
            let topics = ["s", "q"].into_iter().try_for_each(|topic| world.topic(topic, 1));
            let ready = topics.and_then(|()| world.sql(&sql));
            ready.map_err(|error| error.to_string()).map(|_| world)
        });
        let mut world = match opened {
            Ok(world) => world,
            Err(error) => {
                assert!(sim.disk.is_stopped(), "{error}");
                continue;
            }
        };
        while world.settle() && !sim.disk.is_stopped() {
            for (view, client) in &mut clients {
                client.drain(&mut world.follow(view, client.token));
            }
            let end = world.end("s", 0);
            if let Err(error) = world.log.trim(&sole_partition(&name("s")), end) {
                assert!(sim.disk.is_stopped(), "{error}");
            }
            if end.0 >= rounds * 20 {
                let held = clients.map(|(view, client)| (client.rows() == world.rows(view), view));
                assert_eq!(held, [(true, "sums"), (true, "whole")], "what clients know");
                return (stops, world);
            }
            produce(&world, "s", end.0..end.0 + 20);
        }
        for (_, client) in &mut clients {
            client.disconnect();
        }
    }
}

#[test]
fn a_crash_at_any_write_gives_back_nothing_that_is_needed() {
    crash_at_any(Operation::Write);
}

#[test]
fn a_crash_at_any_sync_gives_back_nothing_that_is_needed() {
    crash_at_any(Operation::Sync);
}

fn crash_at_any(operation: Operation) {
    const ROUNDS: i64 = 14;
    let calm = Sim::new(1);
    let (_, world) = rounds(&calm, ROUNDS);
    for view in ["sums", "whole"] {
        let snapshots = sole_partition(&ddl::snapshot_topic(world.id(view)));
        let snapshots = world.log.bounds(&snapshots).unwrap();
        assert!(start(&world, view) > Offset(2), "{view}: changes were given back");
        assert!(snapshots.start > Offset::ZERO, "{view}: snapshots were given back");
    }
    let written = world.log.durable().borrow().0.div_ceil(small_files().file_bytes) as usize;
    assert!(journal_files(&calm).len() < written, "files were given back");
    let expected = [world.rows("sums"), world.rows("whole")];
    assert_eq!(expected[0], sums(ROUNDS * 20));
    let count = calm.disk.count(operation);
    let mut crashes = 0;
    for nth in 1..=count {
        let sim = Sim::new(nth);
        sim.disk.fail_at(operation, nth, Failure::Crash);
        let (stops, world) = rounds(&sim, ROUNDS);
        assert_eq!([world.rows("sums"), world.rows("whole")], expected, "{operation:?} {nth}");
        crashes += stops as u64;
    }
    // All but those at the calm run's end, of the log that is closed.
    assert!(crashes > 200 && crashes + 5 > count, "{crashes} of {count}");
}

/// A world whose view has at least two snapshots, the number of records that went in, and the
/// snapshot topic's records.
fn with_snapshots(sim: &Sim) -> (World, i64, Vec<afflux_record::batch::Record>) {
    let options = EngineOptions { history_bytes_min: 0, ..options() };
    let mut world = world(sim, options);
    let mut total = 0;
    while start(&world, "sums") == Offset::ZERO {
        produce(&world, "s", total..total + 10);
        total += 10;
        assert!(world.settle());
    }
    // Behind the last snapshot too.
    produce(&world, "s", total..total + 10);
    assert!(world.settle());
    let topic = ddl::snapshot_topic(world.id("sums"));
    let from = world.log.bounds(&sole_partition(&topic)).unwrap().start;
    let records = world.records_from(topic.as_str(), 0, from);
    (world, total + 10, records)
}

#[test]
fn a_snapshot_that_can_not_be_read_leads_to_the_one_before() {
    type Forge = fn(Offset, &afflux_record::batch::Record) -> Vec<(Vec<u8>, Vec<u8>)>;
    let check = |what: &str, forge: Forge| {
        let sim = Sim::new(2);
        let (world, total, records) = with_snapshots(&sim);
        let topic = ddl::snapshot_topic(world.id("sums"));
        let manifest = records.iter().rfind(|record| record.key.as_ref().unwrap()[0] == b'M');
        let end = world.end(topic.as_str(), 0);
        for (key, value) in forge(end, manifest.unwrap()) {
            let mut builder = Builder::new(Compression::None);
            builder.push(Timestamp(1), Some(&key), Some(&value));
            let (partition, batch) = (sole_partition(&topic), builder.finish().unwrap());
            drop(world.log.append(&Group { entries: vec![Entry { partition, batch }] }));
        }
        while world.log.step() {}
        drop(world);
        let mut world = World::open_as(&sim, small_files(), options()).unwrap();
        assert!(world.settle());
        assert_eq!(world.rows("sums"), sums(total), "{what}");
        produce(&world, "s", total..total + 5);
        assert!(world.settle());
        assert_eq!(world.rows("sums"), sums(total + 5), "{what}");
    };
    check("a chunk without its manifest", |first, _| {
        vec![([&b"C"[..], &first.0.to_be_bytes()[..]].concat(), b"rubbish".to_vec())]
    });
    check("a chunk that is damaged", |first, manifest| {
        let begin = &manifest.key.as_ref().unwrap()[9..];
        let first = &first.0.to_be_bytes()[..];
        let value = manifest.value.as_ref().unwrap().to_vec();
        vec![
            ([&b"C"[..], first].concat(), b"rubbish".to_vec()),
            ([&b"M"[..], first, begin].concat(), value),
        ]
    });
    check("a manifest that is damaged", |first, _| {
        let first = &first.0.to_be_bytes()[..];
        vec![([&b"M"[..], first, first].concat(), b"rubbish".to_vec())]
    });
    check("a key that is damaged", |_, _| vec![(b"M".to_vec(), b"rubbish".to_vec())]);
}

#[test]
fn a_bit_that_flips_in_a_snapshot_leads_to_the_one_before() {
    let sim = Sim::new(3);
    let (world, total, records) = with_snapshots(&sim);
    drop(world);
    // Until the file with the newest snapshot is sealed: such a file is not read again at a start.
    let world = World::open_as(&sim, small_files(), no_snapshots()).unwrap();
    for at in 0..100 {
        drop(world.produce("q", 0, &vec![format!("{{\"k\":{at},\"v\":1}}"); 20]));
        while world.log.step() {}
    }
    drop(world);
    let key = |nth: usize| records[nth].key.as_ref().unwrap();
    let newest = records.iter().rposition(|record| record.key.as_ref().unwrap()[0] == b'M');
    let first = &key(newest.unwrap())[1..9];
    let chunk = records.iter().find(|r| r.key.as_ref().unwrap()[1..9] == *first).unwrap();
    let needle = chunk.value.as_ref().unwrap();
    let mut flipped = 0;
    for path in journal_files(&sim) {
        let file = sim.disk.open(&path, OpenMode::Write).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            file.write_all_at(&[bytes[at + 20] ^ 1], at as u64 + 20).unwrap();
            file.sync_data().unwrap();
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1);
    let mut world = World::open_as(&sim, small_files(), no_snapshots()).unwrap();
    assert!(world.settle());
    assert_eq!(world.rows("sums"), sums(total));
}

#[test]
fn without_a_snapshot_and_without_all_frames_a_view_says_so() {
    let sim = Sim::new(4);
    let (world, _, _) = with_snapshots(&sim);
    let topic = sole_partition(&ddl::snapshot_topic(world.id("sums")));
    let end = world.log.bounds(&topic).unwrap().end;
    world.log.trim(&topic, end).unwrap();
    drop(world);
    let mut world = World::open_as(&sim, small_files(), options()).unwrap();
    assert!(world.settle());
    let error = world.pin(&["sums"]).unwrap_err().to_string();
    assert!(error.contains("no snapshot can be read"), "{error}");
}

#[test]
fn a_reader_that_has_stopped_keeps_what_it_has_yet_to_read_and_catches_up_in_steps() {
    let sim = Sim::new(5);
    let options = EngineOptions { history_bytes_min: 0, ..options() };
    let mut world = world(&sim, options.clone());
    world
        .sql(
            "CREATE MATERIALIZED VIEW both AS
                 SELECT k, v FROM q UNION ALL SELECT k, v FROM sums WHERE v >= 0;",
        )
        .unwrap();
    produce(&world, "s", 0..20);
    assert!(world.settle());
    world.log.delete_topic(&name("q")).unwrap();
    let mut total = 20;
    for _ in 0..600 {
        produce(&world, "s", total..total + 10);
        total += 10;
        assert!(world.settle());
    }
    let status = world.shared.status();
    assert!(matches!(status[1].state, PipelineState::Failed { .. }), "{:?}", status[1]);
    assert!(status[0].counters.snapshots > 2);
    assert_eq!(start(&world, "sums"), Offset::ZERO);
    world.topic("q", 1).unwrap();
    let both = ddl::pipeline_topic(world.id("both"));
    let before = world.end(both.as_str(), 0).0;
    drop(world);
    let mut world = World::open_as(&sim, small_files(), options).unwrap();
    assert!(world.settle());
    assert_eq!(world.rows("both"), sums(total));
    let epochs = world.end(both.as_str(), 0).0 - before;
    assert!(epochs > 20, "{epochs}");
    // And now it may go.
    while start(&world, "sums") == Offset::ZERO {
        produce(&world, "s", total..total + 10);
        total += 10;
        assert!(world.settle() && total < 100_000);
    }
    assert_eq!(world.rows("both"), sums(total));
}

#[test]
fn a_view_that_is_dropped_takes_nobody_with_it() {
    let sim = Sim::new(6);
    let mut world = world(&sim, options());
    world.sql("CREATE MATERIALIZED VIEW over AS SELECT v FROM sums;").unwrap();
    assert!(world.settle());
    // Large enough to be staged: its commit is on its way for a while.
    produce(&world, "s", 0..100);
    while world.log.step() {}
    while world.line.step() == crate::line::Step::Again {}
    let topic = ddl::pipeline_topic(world.id("over"));
    world.sql("DROP MATERIALIZED VIEW over;").unwrap();
    world.line.step();
    assert!(world.log.topic(&topic).is_some(), "a commit for it is on its way");
    assert!(world.settle());
    assert!(world.log.topic(&topic).is_none());
    assert_eq!(world.shared.status()[0].state, PipelineState::Live);
    assert_eq!(world.rows("sums"), sums(100));
}
