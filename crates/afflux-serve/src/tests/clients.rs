//! Real clients: psql and psycopg, against the listener.

use std::{
    process::{Command, Stdio},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, Date32Array, Decimal128Array, StringArray},
    record_batch::RecordBatch,
};

use super::{http::PATIENCE, served};
use crate::Serving;

/// Runs a client to its end, while the listener goes on.
pub(super) async fn run(mut command: Command) -> (bool, String) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let program = command.get_program().to_owned();
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = tokio::time::timeout(PATIENCE, output).await.expect("it ends").unwrap();
    let output = output.unwrap_or_else(|error| {
        panic!("{program:?} does not start ({error}): run `cargo xtask test`")
    });
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.into_owned())
}

async fn psql(serving: &Serving, commands: &[&str]) -> (bool, String) {
    let mut command = Command::new("psql");
    let port = serving.postgres_address().port().to_string();
    command.args(["-X", "-h", "127.0.0.1", "-U", "anybody", "-d", "anything", "-p", &port]);
    for text in commands {
        command.args(["-c", text]);
    }
    run(command).await
}

/// Runs one command of psql and looks for parts of what it prints.
async fn check_psql(serving: &Serving, command: &str, expected: &[&str]) {
    let (success, text) = psql(serving, &[command]).await;
    assert!(success, "{command}: {text}");
    for part in expected {
        assert!(text.contains(part), "{command} lacks {part:?}:\n{text}");
    }
}

#[tokio::test]
async fn psql_describes_sources_tables_and_views() {
    let (node, serving) = served().await;
    let names = ["carrier", "founded", "fleet"];
    let columns: [ArrayRef; 3] = [
        Arc::new(StringArray::from(vec!["AA"])),
        Arc::new(Date32Array::from(vec![-15_237])),
        Arc::new(Decimal128Array::from(vec![95_600]).with_precision_and_scale(9, 2).unwrap()),
    ];
    let airlines = RecordBatch::try_from_iter(names.into_iter().zip(columns)).unwrap();
    node.add_table("airlines", &airlines);
    let check = async |command: &str, expected: &[&str]| {
        check_psql(&serving, command, expected).await;
    };
    check("\\dt", &["public | airlines | table | afflux", "(1 row)"]).await;
    check("\\dt+", &["public | airlines | table | afflux", "(1 row)"]).await;
    check("\\dt *.*", &["airlines"]).await;
    check("\\dv", &["Did not find any relations."]).await;
    check("\\dvm", &["public | carriers | materialized view | afflux", "(1 row)"]).await;
    check("\\dE", &["public | flights | foreign table | afflux", "(1 row)"]).await;
    check("\\d", &["airlines", "carriers", "flights", "(3 rows)"]).await;
    check("\\d+", &["airlines", "carriers", "flights", "(3 rows)"]).await;
    let table = [
        "Table \"public.airlines\"",
        " carrier | text ",
        " founded | date ",
        " fleet   | numeric(9,2) ",
    ];
    check("\\d airlines", &table).await;
    check("\\d public.airlines", &table).await;
    check("\\d+ airlines", &table).await;
    let view = ["Materialized view \"public.carriers\"", " flights | bigint "];
    check("\\d carriers", &view).await;
    check("\\d+ carriers", &view).await;
    check("\\d+ carriers", &["View definition:", "count(*) AS flights"]).await;
    let source = [
        "Foreign table \"public.flights\"",
        " at      | timestamp without time zone ",
        "Server: log",
        "FDW options: (topic 'departures', format 'json')",
    ];
    check("\\d flights", &source).await;
    check("\\d+ flights", &source).await;
    check("\\d carr*", &view).await;
    check("SELECT * FROM airlines", &[" AA      | 1928-04-14 | 956.00"]).await;
    let copied = "\\copy (SELECT * FROM airlines) TO STDOUT";
    let (success, text) = psql(&serving, &[copied]).await;
    assert!(!success && text.contains("COPY"), "{text}");
}

#[tokio::test]
async fn psql_reads_and_describes() {
    let (_node, serving) = served().await;
    let check = async |command: &str, expected: &[&str]| {
        check_psql(&serving, command, expected).await;
    };
    check(
        "SELECT * FROM carriers ORDER BY 1",
        &[" carrier | flights | delay ", " AA      |       7 |   1.5"],
    )
    .await;
    check("SELECT 1; SELECT 2", &["(1 row)"]).await;
    check("\\d", &["public | carriers | materialized view | afflux", "flights  | foreign table"])
        .await;
    check("\\dm", &["carriers"]).await;
    check("\\d+", &["carriers"]).await;
    check("\\dt", &["Did not find any relations."]).await;
    check("\\dv", &["Did not find any relations."]).await;
    check("\\dn", &["public | afflux"]).await;
    check("\\l", &["anything"]).await;
    check("\\du", &["afflux"]).await;
    check(
        "\\d carriers",
        &[
            "Materialized view \"public.carriers\"",
            " flights | bigint",
            " delay   | double precision",
        ],
    )
    .await;
    check(
        "\\d flights",
        &[
            "Foreign table \"public.flights\"",
            "timestamp",
            "Server: log",
            "topic 'departures', format 'json'",
        ],
    )
    .await;
    check("\\conninfo", &["database \"anything\" as user \"anybody\""]).await;
    let (success, text) = psql(&serving, &["SELECT nosuch\nFROM carriers"]).await;
    assert!(!success && text.contains("LINE 1: SELECT nosuch"), "{text}");
    let (success, text) = psql(&serving, &["\\d nothing"]).await;
    assert!(!success || text.contains("Did not find any relation named \"nothing\""), "{text}");
}

#[tokio::test]
async fn psycopg_prepares_binds_and_fetches() {
    let python = std::env::var("AFFLUX_TEST_PYTHON").unwrap_or_else(|_| {
        panic!("AFFLUX_TEST_PYTHON names no python with psycopg: run `cargo xtask test`")
    });
    let (_node, serving) = served().await;
    let mut command = Command::new(python);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/psycopg_client.py");
    command.arg(script).arg(serving.postgres_address().port().to_string());
    let (success, text) = run(command).await;
    assert!(success && text.contains("all is well"), "{text}");
}
