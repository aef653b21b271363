//! HTTP as raw bytes over loopback.

use std::{sync::Arc, time::Duration};

use arrow::{
    array::{ArrayRef, StringArray},
    record_batch::RecordBatch,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use super::{rows, served, served_with};
use crate::Serving;

/// Longer than anything here takes on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// Sends a request as it is and reads the answer to the end of the connection.
async fn exchange(serving: &Serving, request: &str) -> (u16, String, String) {
    let mut socket = TcpStream::connect(serving.http_address()).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = if head.to_lowercase().contains("transfer-encoding: chunked") {
        unchunked(body)
    } else {
        body.to_owned()
    };
    (status, head.to_owned(), body)
}

fn unchunked(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        out.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    out
}

async fn get(serving: &Serving, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let (status, _, body) = exchange(serving, &request).await;
    (status, body)
}

async fn sql(serving: &Serving, body: &str) -> (u16, Vec<Value>) {
    let request = format!(
        "POST /v1/sql HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (status, _, body) = exchange(serving, &request).await;
    (status, body.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

pub(super) async fn query(serving: &Serving, text: &str) -> (u16, Vec<Value>) {
    sql(serving, &json!({ "query": text }).to_string()).await
}

#[tokio::test]
async fn queries_answer_a_row_a_line() {
    let (node, serving) = served().await;
    let check = async |text: &str, expected: Value| {
        let (status, lines) = query(&serving, text).await;
        assert_eq!((status, Value::Array(lines)), (200, expected), "{text}");
    };
    check("SELECT 1 AS one", json!([{"one": 1}])).await;
    check(
        "SELECT * FROM carriers ORDER BY carrier",
        json!([
            {"carrier": "AA", "flights": 7, "delay": 1.5},
            {"carrier": "UA", "flights": 3, "delay": null},
        ]),
    )
    .await;
    check("SELECT sum(flights) AS n FROM carriers", json!([{"n": 10}])).await;
    check("SELECT carrier FROM carriers WHERE flights > 100", json!([])).await;
    assert_eq!(node.lookups_and_scans().0, 0);
    check("SELECT flights FROM carriers WHERE carrier = 'UA'", json!([{"flights": 3}])).await;
    check("SELECT flights FROM public.carriers WHERE 'XX' = carrier", json!([])).await;
    check(
        "SELECT count(*) AS n FROM carriers WHERE carrier = 'AA' AND flights = 8",
        json!([{"n": 0}]),
    )
    .await;
    assert_eq!(node.lookups_and_scans(), (3, 3));
    check("SELECT sum(flights), 1 FROM carriers", json!([{"sum": 10, "?column?": 1}])).await;
    let names = ["carrier", "title"];
    let columns = [vec!["AA", "UA"], vec!["American", "United"]];
    let columns = columns.map(|c| Arc::new(StringArray::from(c)) as ArrayRef);
    let airlines = RecordBatch::try_from_iter(names.into_iter().zip(columns)).unwrap();
    node.add_table("airlines", &airlines);
    check(
        "SELECT title, flights FROM carriers JOIN airlines USING (carrier) ORDER BY 1",
        json!([{"title": "American", "flights": 7}, {"title": "United", "flights": 3}]),
    )
    .await;
    check("SHOW TABLES", json!([{"name": "airlines", "rows": 2}])).await;
    check("SHOW VIEWS", json!([{"name": "carriers", "state": "live"}])).await;
    check("SHOW TOPICS", json!([{"name": "departures", "partitions": 4}])).await;
    check(
        "BEGIN; SET statement_timeout = '5s'; SHOW statement_timeout",
        json!([{"statement_timeout": "5s"}]),
    )
    .await;
    check(
        "CREATE MATERIALIZED VIEW more AS SELECT carrier FROM carriers",
        json!([{"done": "CREATE MATERIALIZED VIEW", "notices": ["it is only a fake"]}]),
    )
    .await;
    check("", json!([])).await;
}

#[tokio::test]
async fn errors_say_what_where_and_what_to_do() {
    let (_node, serving) = served().await;
    let check = async |text: &str, status: u16, sqlstate: &str, position: Value| {
        let (actual, lines) = query(&serving, text).await;
        assert_eq!(lines.len(), 1, "{lines:?}");
        let error = &lines[0]["error"];
        assert_eq!(
            (actual, &error["sqlstate"], &error["position"]),
            (status, &json!(sqlstate), &position),
            "{text}: {error}"
        );
        assert!(!error["message"].as_str().unwrap().is_empty());
    };
    check("SELEC 1", 400, "42601", json!({"line": 1, "column": 1})).await;
    check("SELECT *\nFROM nothing", 404, "42P01", json!(null)).await;
    check("SELECT * FROM flights", 400, "42809", json!(null)).await;
    check("SELECT nosuch FROM carriers", 400, "42703", json!({"line": 1, "column": 8})).await;
    check("SELECT 1/0", 400, "22012", json!(null)).await;
    check("SELECT nofunction(1)", 400, "42883", json!({"line": 1, "column": 8})).await;
    check("SELECT 1; SELECT 2", 400, "42601", json!(null)).await;
    let nested = format!("SELECT {}1{}", "coalesce(".repeat(30), ", 2)".repeat(30));
    check(&nested, 400, "54001", json!(null)).await;
    check("SELECT 1, 2", 400, "42701", json!(null)).await;
    let (status, lines) = sql(&serving, "SELECT 1").await;
    assert_eq!((status, lines[0]["error"]["sqlstate"].as_str()), (400, Some("08P01")));
    let (status, _) = sql(&serving, r#"{"query": "SELECT 1", "extra": 1}"#).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn statements_end_when_their_time_is_up() {
    let (node, serving) =
        served_with(|options| options.statement_timeout = Some(Duration::from_millis(20))).await;
    node.get_stuck();
    let (status, lines) = query(&serving, "SELECT * FROM carriers").await;
    assert_eq!((status, lines[0]["error"]["sqlstate"].as_str()), (503, Some("57014")));
}

#[tokio::test]
async fn reads_are_bounded_in_memory() {
    let (_node, serving) = served_with(|options| options.read_memory_bytes_max = 64 << 10).await;
    let many = "SELECT a.value AS a, b.value AS b FROM generate_series(1, 2000) AS a \
                CROSS JOIN generate_series(1, 2000) AS b ORDER BY 1, 2";
    let (status, lines) = query(&serving, many).await;
    assert_eq!((status, lines[0]["error"]["sqlstate"].as_str()), (507, Some("53200")));
}

#[tokio::test]
async fn requests_of_strangers_are_refused() {
    let (_node, serving) = served().await;
    let check = async |headers: &str, expected: u16| {
        let request = format!("GET /health HTTP/1.1\r\n{headers}connection: close\r\n\r\n");
        let (status, head, _) = exchange(&serving, &request).await;
        assert_eq!(status, expected, "{headers:?}");
        if status != 400 || headers.contains("host") {
            assert!(head.contains("cross-origin-resource-policy: same-origin"), "{head}");
        }
    };
    check("host: localhost\r\n", 200).await;
    check(&format!("host: {}\r\n", serving.http_address()), 200).await;
    check("host: evil.example.com\r\n", 421).await;
    check("host: localhost\r\norigin: http://evil.example.com\r\n", 403).await;
    check("", 400).await;
}

#[tokio::test]
async fn bodies_and_heads_are_bounded() {
    let (_node, serving) = served_with(|options| options.body_bytes_max = 100).await;
    let (status, _) = query(&serving, &format!("SELECT '{}'", "x".repeat(200))).await;
    assert_eq!(status, 413);
    let request = format!(
        "GET /health HTTP/1.1\r\nhost: localhost\r\nx: {}\r\nconnection: close\r\n\r\n",
        "x".repeat(300 << 10)
    );
    assert_eq!(exchange(&serving, &request).await.0, 431);
}

#[tokio::test]
async fn a_body_that_stops_coming_is_not_waited_for() {
    let (_node, serving) =
        served_with(|options| options.body_time_max = Duration::from_millis(20)).await;
    let request = "POST /v1/sql HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
        content-length: 10\r\n\r\n{";
    assert_eq!(exchange(&serving, request).await.0, 408);
}

#[tokio::test]
async fn connections_are_bounded() {
    let (_node, serving) = served_with(|options| options.connections_max = 1).await;
    let mut first = Events::open(&serving, "/v1/views/carriers/changes", "").await;
    first.next().await;
    let (status, ..) = exchange(&serving, "").await;
    assert_eq!(status, 503);
}

#[tokio::test]
async fn state_is_told() {
    let (_node, serving) = served().await;
    assert_eq!(get(&serving, "/health").await, (200, "ok\n".to_owned()));
    assert_eq!(get(&serving, "/ready").await, (200, "ready\n".to_owned()));
    let (status, text) = get(&serving, "/v1/status").await;
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &value["pipelines"][0]["rows"]), (200, &json!(2)));
    let (_, text) = get(&serving, "/metrics").await;
    assert!(text.contains("afflux_view_rows{view=\"carriers\"} 2\n"), "{text}");
    assert_eq!(get(&serving, "/nothing").await.0, 404);
    let (_, text) = get(&serving, "/").await;
    assert!(text.contains("href=\"/views/carriers\""), "{text}");
    assert_eq!(get(&serving, "/views/carriers").await.0, 200);
    assert_eq!(get(&serving, "/views/nothing").await.0, 404);
    assert_eq!(get(&serving, "/assets/view.js").await.0, 200);
    assert_eq!(get(&serving, "/assets/..%2f..%2fetc").await.0, 404);
}

/// A reader of server-sent events that keeps to the standard and nothing more.
pub(super) struct Events {
    lines: tokio::io::Lines<BufReader<TcpStream>>,
}

#[derive(Debug)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) id: Option<String>,
    pub(super) data: Value,
}

impl Events {
    pub(super) async fn open(serving: &Serving, path: &str, headers: &str) -> Self {
        let mut socket = TcpStream::connect(serving.http_address()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(socket).lines();
        let head = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        assert!(head.contains("200"), "{head}");
        while !lines.next_line().await.unwrap().unwrap().is_empty() {}
        Self { lines }
    }

    pub(super) async fn next(&mut self) -> Event {
        let (mut name, mut id, mut data) = (String::new(), None, String::new());
        loop {
            // Lines of chunk sizes hold no colon and are passed over with the comments.
            let line = timeout(PATIENCE, self.lines.next_line()).await.unwrap().unwrap().unwrap();
            match line.split_once(':').map(|(field, value)| (field, value.trim_start())) {
                Some(("event", value)) => name = value.to_owned(),
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("data", value)) => data.push_str(value),
                _ if line.is_empty() && !data.is_empty() => {
                    let data = serde_json::from_str(&data).unwrap();
                    return Event { name, id, data };
                }
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn changes_are_followed_and_resumed() {
    let (node, serving) = served().await;
    let path = "/v1/views/carriers/changes";
    let mut events = Events::open(&serving, path, "").await;
    let first = events.next().await;
    assert_eq!((first.name.as_str(), &first.id), ("snapshot", &None));
    let second = events.next().await;
    assert_eq!(second.name, "snapshot");
    let token = second.id.unwrap();
    let weights = [&first.data["changes"], &second.data["changes"]].map(|c| c[0]["weight"].clone());
    assert_eq!(weights, [json!(1), json!(1)]);

    node.change("carriers", rows(&[("UA", 3, None), ("UA", 4, Some(2.0))]), vec![-1, 1]);
    let live = events.next().await;
    assert_eq!(live.name, "changes");
    assert_eq!(
        live.data["changes"],
        json!([
            {"weight": -1, "row": {"carrier": "UA", "flights": 3, "delay": null}},
            {"weight": 1, "row": {"carrier": "UA", "flights": 4, "delay": 2.0}},
        ])
    );
    drop(events);

    for (path, headers) in [
        (format!("{path}?resume={token}"), String::new()),
        (path.to_owned(), format!("last-event-id: {token}\r\n")),
        (format!("{path}?resume=cafe0001-0"), format!("last-event-id: {token}\r\n")),
    ] {
        let mut resumed = Events::open(&serving, &path, &headers).await;
        let again = resumed.next().await;
        assert_eq!(
            (again.name.as_str(), again.id, again.data),
            ("changes", live.id.clone(), live.data.clone())
        );
    }

    node.trim();
    let mut late = Events::open(&serving, &format!("{path}?resume={token}"), "").await;
    let reset = late.next().await;
    assert_eq!((reset.name.as_str(), reset.id.as_deref()), ("reset", Some("")));
    assert_eq!(reset.data["reason"], json!("too long ago"));
    assert_eq!(late.next().await.name, "snapshot");

    assert_eq!(get(&serving, &format!("{path}?resume=what")).await.0, 400);
    assert_eq!(get(&serving, "/v1/views/nothing/changes").await.0, 404);
    assert_eq!(get(&serving, "/v1/views/flights/changes").await.0, 400);
}

#[tokio::test]
async fn a_dropped_view_ends_the_stream_with_the_reason() {
    let (_node, serving) = served().await;
    let mut events = Events::open(&serving, "/v1/views/carriers/changes", "").await;
    while events.next().await.id.is_none() {}
    let (status, _) = query(&serving, "DROP MATERIALIZED VIEW carriers").await;
    assert_eq!(status, 200);
    let last = events.next().await;
    assert_eq!((last.name.as_str(), &last.data["error"]["kind"]), ("error", &json!("not found")));
}

#[tokio::test]
async fn stopping_ends_live_streams() {
    let (node, serving) = served().await;
    let mut events = Events::open(&serving, "/v1/views/carriers/changes", "").await;
    events.next().await;
    timeout(PATIENCE, serving.shutdown()).await.unwrap();
    while let Some(line) =
        timeout(PATIENCE, events.lines.next_line()).await.unwrap().unwrap_or(None)
    {
        assert!(!line.contains("error"), "{line}");
    }
    // Nothing holds on to the node any more.
    assert_eq!(Arc::strong_count(&node), 1);
}

#[tokio::test]
async fn long_and_deep_statements_are_answered_or_refused() {
    let (_node, serving) = served().await;
    let check = async |text: String, expected: u16| {
        let (status, lines) = query(&serving, &text).await;
        assert_eq!(status, expected, "{}…: {lines:?}", &text[..30]);
        if status == 400 {
            assert_eq!(lines[0]["error"]["sqlstate"], json!("54001"));
        }
    };
    let chain = |part: &str, count: usize| format!("SELECT 1 AS n{}", part.repeat(count));
    for (part, longest) in
        [(" + 1", 450), (" || 'x'", 450), (" UNION ALL SELECT 1", 450), ("::int::bigint", 220)]
    {
        let part_of = |count| format!("SELECT 1{}", part.repeat(count));
        check(part_of(longest), 200).await;
        check(part_of(longest * 10), 400).await;
    }
    check(chain(" WHERE true", 1) + &" AND 1 = 1".repeat(220), 200).await;
    check(chain(" WHERE true", 1) + &" OR 1 = 2".repeat(3_000), 400).await;
    check(format!("SELECT 1 WHERE 1 IN (2{})", ", 3".repeat(9_000)), 200).await;
    check(format!("SELECT {}1{}", "(".repeat(50), ")".repeat(50)), 200).await;
    check(format!("SELECT {}1{}", "(".repeat(9_000), ")".repeat(9_000)), 400).await;
}
