//! The handle and its thread, as servers use them.

use std::{
    future::{Future, poll_fn},
    path::Path,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use afflux_codec::json;
use afflux_env::sim::Sim;
use afflux_log::{EmbeddedLog, Entry, Group, Log, LogOptions, TopicSpec};
use afflux_record::{Compression, batch::Builder};
use afflux_sql::Statement;
use afflux_types::{Timestamp, TopicPartition};

use super::world::{log_options, name};
use crate::{Engine, EngineError, EngineOptions, Event, PipelineState};

fn open(sim: &Sim, options: EngineOptions) -> (Arc<EmbeddedLog>, Engine) {
    open_with(sim, log_options(), options)
}

fn open_with(
    sim: &Sim,
    log_options: LogOptions,
    options: EngineOptions,
) -> (Arc<EmbeddedLog>, Engine) {
    let log = EmbeddedLog::open(&sim.env(), Path::new("/data"), log_options).unwrap();
    let log = Arc::new(log);
    let engine = Engine::start(sim.env(), log.clone(), options).unwrap();
    (log, engine)
}

async fn sql(engine: &Engine, text: &str) -> Result<Vec<String>, EngineError> {
    let mut tags = Vec::new();
    for statement in afflux_sql::parse(text)? {
        tags.push(engine.execute(statement).await?.tag);
    }
    Ok(tags)
}

async fn produce(log: &EmbeddedLog, value: i64) {
    let mut builder = Builder::new(Compression::None);
    builder.push(Timestamp(1), None, Some(format!("{{\"v\":{value}}}").as_bytes()));
    let partition = TopicPartition::new(name("s"), 0);
    let batch = builder.finish().unwrap();
    log.append(&Group { entries: vec![Entry { partition, batch }] }).await.unwrap();
}

#[tokio::test]
async fn a_served_engine_defines_reads_follows_and_stops() {
    let sim = Sim::new(1);
    let (log, engine) = open(&sim, EngineOptions::default());
    log.ensure_topic(&TopicSpec { name: name("s"), partitions: 1 }).unwrap();
    let tags = sql(
        &engine,
        "CREATE SOURCE s (v BIGINT) WITH (topic = 's', format = 'json');
         CREATE MATERIALIZED VIEW total AS SELECT sum(v) AS v FROM s;
         BEGIN;",
    )
    .await
    .unwrap();
    assert_eq!(tags, ["CREATE SOURCE", "CREATE MATERIALIZED VIEW", "BEGIN"]);
    let view = engine.catalog().find("total").unwrap().id;
    // A view can be read as soon as it is made: the read waits.
    let pinned = engine.pin(&[view]).await.unwrap();
    assert_eq!(json::rows(&pinned.relations[0].batches().unwrap()[0]), ["{\"v\":null}"]);
    let mut follower = engine.follow(view, None).unwrap();
    assert!(matches!(follower.next().await.unwrap(), Event::Snapshot { last: true, .. }));
    for value in 1..=20 {
        produce(&log, value).await;
    }
    let mut rows = Vec::new();
    while rows != ["{\"v\":210}"] {
        let Event::Changes { tick, changes } = follower.next().await.unwrap() else { panic!() };
        assert_eq!(follower.token().unwrap().tick, tick);
        rows = json::rows(&changes.batch);
        rows.retain(|row| !row.contains("null"));
        if let Some(last) = rows.iter().position(|row| row == "{\"v\":210}") {
            rows = vec![rows.remove(last)];
        }
    }
    let pinned = engine.pin(&[view]).await.unwrap();
    assert_eq!(json::rows(&pinned.relations[0].batches().unwrap()[0]), rows);
    assert!(pinned.tick >= follower.token().unwrap().tick);
    assert_eq!(engine.status()[0].state, PipelineState::Live);
    assert_eq!(engine.status()[0].counters.records_in, 20);
    engine.shutdown().await;
    assert_eq!(engine.halted().await, "shut down");
    assert!(matches!(follower.next().await, Err(EngineError::Halted(_))));
    assert!(matches!(engine.pin(&[view]).await, Err(EngineError::Halted(_))));
    let late = engine.execute(Statement::Describe { name: "total".to_owned() }).await;
    assert!(matches!(late, Err(EngineError::Halted(_))));
    log.shutdown();
    let (log, engine) = open(&sim, EngineOptions::default());
    let again = engine.pin(&[view]).await.unwrap();
    assert_eq!(json::rows(&again.relations[0].batches().unwrap()[0]), rows);
    let mut resumed = engine.follow(view, follower.token()).unwrap();
    produce(&log, 1).await;
    let Event::Changes { changes, .. } = resumed.next().await.unwrap() else { panic!() };
    assert_eq!(changes.len(), 2);
    engine.shutdown().await;
}

/// Whatever may be created has to be computed, read back from the log and computed again, on the
/// stacks that the engine's threads have.
#[tokio::test]
async fn a_view_as_deep_as_may_be_is_computed_and_comes_back() {
    let sim = Sim::new(3);
    let roomy = LogOptions { chunk_bytes: 8 << 10, ..log_options() };
    let open = || open_with(&sim, roomy.clone(), EngineOptions::default());
    let (log, engine) = open();
    log.ensure_topic(&TopicSpec { name: name("s"), partitions: 1 }).unwrap();
    let sum = vec!["v"; 490].join(" + ");
    let any = vec!["abs(v) = 3"; 245].join(" OR ");
    let view = format!("CREATE MATERIALIZED VIEW deep AS SELECT {sum} AS v, {any} AS w FROM s;");
    let source = "CREATE SOURCE s (v BIGINT) WITH (topic = 's', format = 'json');";
    sql(&engine, &format!("{source}{view}")).await.unwrap();
    produce(&log, 2).await;
    let view = engine.catalog().find("deep").unwrap().id;
    engine.shutdown().await;
    log.shutdown();
    let (log, engine) = open();
    let mut follower = engine.follow(view, None).unwrap();
    produce(&log, 3).await;
    let mut rows = Vec::new();
    while rows.len() < 2 {
        rows.extend(match follower.next().await.unwrap() {
            Event::Snapshot { rows, .. } => json::rows(&rows.batch),
            Event::Changes { changes, .. } => json::rows(&changes.batch),
            Event::Reset { .. } => Vec::new(),
        });
    }
    assert_eq!(rows, ["{\"v\":980,\"w\":false}", "{\"v\":1470,\"w\":true}"]);
    engine.shutdown().await;
}

#[tokio::test]
async fn a_reader_does_not_wait_for_ever() {
    let sim = Sim::new(2);
    let (log, engine) = open(&sim, EngineOptions::default());
    log.ensure_topic(&TopicSpec { name: name("s"), partitions: 1 }).unwrap();
    sql(
        &engine,
        "CREATE SOURCE s (v BIGINT) WITH (topic = 's', format = 'json');
         CREATE MATERIALIZED VIEW total AS SELECT sum(v) AS v FROM s;",
    )
    .await
    .unwrap();
    let catalog = engine.catalog();
    let (source, view) = (catalog.find("s").unwrap().id, catalog.find("total").unwrap().id);
    let error = engine.pin(&[view, source]).await.unwrap_err();
    assert!(matches!(error, EngineError::NotReadable(_)), "{error}");
    engine.shutdown().await;
    log.shutdown();
    // A node whose line never runs.
    let log = Arc::new(EmbeddedLog::open(&sim.env(), Path::new("/data"), log_options()).unwrap());
    let options = EngineOptions { pin_timeout: Duration::ZERO, ..EngineOptions::default() };
    let shared = crate::engine::shared(sim.env(), log, options).unwrap();
    let error = shared.pin(&[view]).await.unwrap_err();
    assert!(matches!(&error, EngineError::CatchingUp { view, .. } if view == "total"), "{error}");
}

#[tokio::test]
async fn followers_read_the_log_in_turns_and_elsewhere() {
    let sim = Sim::new(3);
    let options = EngineOptions { recent_bytes_max: 1, ..EngineOptions::default() };
    let (log, engine) = open(&sim, options);
    log.ensure_topic(&TopicSpec { name: name("s"), partitions: 1 }).unwrap();
    sql(
        &engine,
        "CREATE SOURCE s (v BIGINT) WITH (topic = 's', format = 'json');
         CREATE MATERIALIZED VIEW all_v AS SELECT v FROM s;",
    )
    .await
    .unwrap();
    let view = engine.catalog().find("all_v").unwrap().id;
    engine.pin(&[view]).await.unwrap();
    let mut slow = engine.follow(view, None).unwrap();
    assert!(matches!(slow.next().await.unwrap(), Event::Snapshot { last: true, .. }));
    let mut fast = engine.follow(view, slow.token()).unwrap();
    for value in 0..5 {
        produce(&log, value).await;
        // The newest frame is in memory.
        assert!(matches!(fast.next().await.unwrap(), Event::Changes { .. }));
    }
    let all = crate::follow::LOG_READERS_MAX as u32;
    let turns = engine.log_readers().acquire_many_owned(all).await.unwrap();
    {
        let mut next = pin!(slow.next());
        let polled = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx)));
        assert!(polled.await.is_pending(), "it is not its turn");
    }
    drop(turns);
    for value in 0..5 {
        let Event::Changes { changes, .. } = slow.next().await.unwrap() else { panic!() };
        assert_eq!(json::rows(&changes.batch), [format!("{{\"v\":{value}}}")]);
    }
    engine.shutdown().await;
}
