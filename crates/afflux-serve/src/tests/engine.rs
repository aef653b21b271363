//! The listeners in front of a real engine on a real log.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use afflux_engine::{Engine, EngineOptions};
use afflux_log::{EmbeddedLog, Entry, Group, Log, LogOptions, TopicSpec};
use afflux_record::{Compression, batch::Builder};
use afflux_types::{Timestamp, TopicName, TopicPartition};
use serde_json::{Value, json};

use super::http::{Events, query};
use crate::{ServeOptions, Serving, serve};

const FLIGHTS: &str = "
    CREATE SOURCE flights (carrier VARCHAR, origin VARCHAR, delay BIGINT)
        WITH (topic = 'flights', format = 'json');
    CREATE MATERIALIZED VIEW carriers AS
        SELECT carrier, count(*) AS flights, sum(delay) AS delay FROM flights GROUP BY carrier;
    CREATE MATERIALIZED VIEW origins AS
        SELECT origin, count(*) AS flights, sum(delay) AS delay FROM flights GROUP BY origin;
    CREATE MATERIALIZED VIEW busy AS SELECT carrier, flights FROM carriers WHERE flights > 100;
";

struct Node {
    log: Arc<EmbeddedLog>,
    engine: Engine,
    serving: Serving,
    _folder: tempfile::TempDir,
}

impl Node {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let env = afflux_env::real::env();
        let small = LogOptions { free_bytes_min: 0, ..LogOptions::default() };
        let log = Arc::new(EmbeddedLog::open(&env, folder.path(), small).unwrap());
        let name = TopicName::new("flights").unwrap();
        log.create_topic(&TopicSpec { name, partitions: 2 }).unwrap();
        let door = Arc::clone(&log) as Arc<dyn Log>;
        let engine = Engine::start(env.clone(), door, EngineOptions::default()).unwrap();
        let topics = Arc::new(|| vec![(TopicName::new("flights").unwrap(), 2)]);
        let loopback = "127.0.0.1:0".parse().unwrap();
        let options =
            ServeOptions { postgres: loopback, http: loopback, ..ServeOptions::default() };
        let serving = serve(&env, engine.clone(), topics, options).await.unwrap();
        Self { log, engine, serving, _folder: folder }
    }

    /// Appends flights, all of them at once; durable when it returns.
    async fn fly(&self, partition: i32, flights: &[(&str, &str, i64)]) {
        let mut batch = Builder::new(Compression::None);
        for (carrier, origin, delay) in flights {
            let value = json!({"carrier": carrier, "origin": origin, "delay": delay}).to_string();
            batch.push(Timestamp(1_000), None, Some(value.as_bytes()));
        }
        let partition = TopicPartition::new(TopicName::new("flights").unwrap(), partition);
        let entry = Entry { partition, batch: batch.finish().unwrap() };
        self.log.append(&Group { entries: vec![entry] }).await.unwrap();
    }

    async fn rows(&self, text: &str) -> Value {
        let (status, lines) = query(&self.serving, text).await;
        assert_eq!(status, 200, "{text}: {lines:?}");
        Value::Array(lines)
    }

    /// Reads until it has caught up with the last append.
    async fn rows_until(&self, text: &str, expected: &Value) {
        let caught_up = tokio::time::timeout(super::http::PATIENCE, async {
            while self.rows(text).await != *expected {
                tokio::task::yield_now().await;
            }
        });
        if caught_up.await.is_err() {
            assert_eq!(self.rows(text).await, *expected, "{text}");
        }
    }

    async fn stop(self) {
        self.serving.shutdown().await;
        self.engine.shutdown().await;
        self.log.shutdown();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_run_on_the_engine() {
    let node = Node::start().await;
    node.rows(FLIGHTS).await;
    node.fly(0, &[("UA", "EWR", 3), ("AA", "JFK", -2), ("UA", "LGA", 1)]).await;
    node.rows_until(
        "SELECT * FROM carriers ORDER BY carrier",
        &json!([
            {"carrier": "AA", "flights": 1, "delay": -2},
            {"carrier": "UA", "flights": 2, "delay": 4},
        ]),
    )
    .await;
    let check = async |text: &str, expected: Value| assert_eq!(node.rows(text).await, expected);
    check("SELECT delay FROM carriers WHERE carrier = 'UA'", json!([{"delay": 4}])).await;
    check("SELECT delay FROM carriers WHERE carrier = 'XX'", json!([])).await;
    check(
        "SELECT c.carrier, o.origin FROM carriers c JOIN origins o ON c.flights = o.flights \
         ORDER BY 2",
        json!([
            {"carrier": "AA", "origin": "EWR"},
            {"carrier": "AA", "origin": "JFK"},
            {"carrier": "AA", "origin": "LGA"},
        ]),
    )
    .await;
    check("SELECT count(*) AS n FROM busy", json!([{"n": 0}])).await;
    check(
        "SELECT relname FROM pg_class WHERE relkind = 'm' ORDER BY 1",
        json!([{"relname": "busy"}, {"relname": "carriers"}, {"relname": "origins"}]),
    )
    .await;
    let (status, lines) = query(&node.serving, "DROP MATERIALIZED VIEW carriers").await;
    assert_eq!((status, &lines[0]["error"]["sqlstate"]), (400, &json!("2BP01")));
    let (status, lines) = query(&node.serving, "DROP MATERIALIZED VIEW nothing").await;
    assert_eq!((status, &lines[0]["error"]["kind"]), (404, &json!("not found")), "{lines:?}");
    let (status, lines) = query(&node.serving, FLIGHTS).await;
    assert_eq!((status, &lines[0]["error"]["sqlstate"]), (409, &json!("42P07")));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_changes_add_up_to_the_view() {
    let node = Node::start().await;
    node.rows(FLIGHTS).await;
    node.fly(0, &[("UA", "EWR", 3)]).await;
    node.rows_until("SELECT flights FROM carriers", &json!([{"flights": 1}])).await;
    let path = "/v1/views/carriers/changes";
    let mut events = Events::open(&node.serving, path, "").await;
    let snapshot = events.next().await;
    let row = json!({"carrier": "UA", "flights": 1, "delay": 3});
    assert_eq!(snapshot.data["changes"], json!([{"weight": 1, "row": row}]));
    node.fly(1, &[("UA", "EWR", 1)]).await;
    let live = events.next().await;
    let mut changes = live.data["changes"].as_array().unwrap().clone();
    changes.sort_by_key(|change| change["weight"].as_i64());
    let next = json!({"carrier": "UA", "flights": 2, "delay": 4});
    assert_eq!(changes, [json!({"weight": -1, "row": row}), json!({"weight": 1, "row": next})]);
    drop(events);
    let resume = format!("{path}?resume={}", snapshot.id.unwrap());
    let again = Events::open(&node.serving, &resume, "").await.next().await;
    assert_eq!((again.id, again.data), (live.id, live.data));
    let void = format!("{path}?resume=00000000-1");
    let reset = Events::open(&node.serving, &void, "").await.next().await;
    assert_eq!(reset.name, "reset");
    node.stop().await;
}

/// Two views over one topic, one of them twice removed: one SELECT over them sees one cut of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_select_sees_one_tick_under_load() {
    let node = Arc::new(Node::start().await);
    node.rows(FLIGHTS).await;
    let done = Arc::new(AtomicBool::new(false));
    let producer = tokio::spawn({
        let (node, done) = (Arc::clone(&node), Arc::clone(&done));
        async move {
            let carriers = ["UA", "AA", "DL", "B6", "WN"];
            let origins = ["EWR", "JFK", "LGA"];
            for n in 0..400_i64 {
                let flight = |k: i64| {
                    (carriers[((n + k) % 5) as usize], origins[((n * k) % 3) as usize], n - k)
                };
                let flights: Vec<_> = (0..=n % 7).map(flight).collect();
                node.fly((n % 2) as i32, &flights).await;
            }
            done.store(true, Ordering::SeqCst);
        }
    });
    let text = "SELECT c.n AS c_n, o.n AS o_n, c.d AS c_d, o.d AS o_d, b.wrong FROM \
        (SELECT sum(flights) AS n, sum(delay) AS d FROM carriers) c, \
        (SELECT sum(flights) AS n, sum(delay) AS d FROM origins) o, \
        (SELECT count(*) AS wrong FROM busy FULL JOIN \
            (SELECT * FROM carriers WHERE flights > 100) c ON busy.carrier = c.carrier \
            WHERE busy.flights IS DISTINCT FROM c.flights) b";
    let mut seen = std::collections::BTreeSet::new();
    while !done.load(Ordering::SeqCst) {
        let rows = node.rows(text).await;
        let row = &rows[0];
        assert_eq!(
            (&row["c_n"], &row["c_d"], &row["wrong"]),
            (&row["o_n"], &row["o_d"], &json!(0))
        );
        seen.insert(row["c_n"].as_i64().unwrap_or(0));
    }
    producer.await.unwrap();
    let total: i64 = (0..400).map(|n| 1 + n % 7).sum();
    node.rows_until("SELECT sum(flights) AS n FROM carriers", &json!([{"n": total}])).await;
    // Otherwise the test has looked at nothing that moves.
    assert!(seen.len() > 1, "{seen:?}");
    Arc::into_inner(node).expect("the producer has ended").stop().await;
}
