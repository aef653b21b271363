//! Statements other than queries, as they are parsed.

mod fixture;

use afflux_catalog::{Format, LatePolicy, Source, Start, Watermark};
use afflux_plan::Column;
use afflux_sql::{
    CsvFile, Drop, DropKind, SOURCE_OPTIONS, Session, Show, Statement, TABLE_OPTIONS, parse,
};
use afflux_types::TopicName;
use arrow::datatypes::{DataType, TimeUnit};

/// What every source needs.
const OPTIONS: &str = "WITH (topic = 't', format = 'json')";

fn one(sql: &str) -> Statement {
    let mut statements = parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!(statements.len(), 1, "{sql}");
    statements.pop().expect("one statement")
}

fn source(sql: &str) -> Source {
    match one(sql) {
        Statement::CreateSource(create) => create.source,
        other => panic!("{sql}: {other:?}"),
    }
}

#[test]
fn a_source_is_what_it_says() {
    let sql = "CREATE SOURCE IF NOT EXISTS Departures (
            flight INT NOT NULL, \"Carrier\" TEXT, ts TIMESTAMP(3) NOT NULL NULL,
            WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
        ) WITH (topic = 'departures', 'format' = 'JSON', 'scan.startup.mode' = 'latest-offset',
                idle_timeout = '1 minute', late = drop)";
    let Statement::CreateSource(create) = one(&format!("  {sql} ; ")) else { panic!("{sql}") };
    assert_eq!((create.name.as_str(), create.if_not_exists), ("departures", true));
    assert_eq!(create.sql, sql);
    let expected = Source {
        topic: TopicName::new("departures").expect("a name"),
        format: Format::Json,
        columns: vec![
            Column::new("flight", DataType::Int32, false),
            Column::new("Carrier", DataType::Utf8, true),
            Column::new("ts", DataType::Timestamp(TimeUnit::Millisecond, None), false),
        ],
        watermark: Some(Watermark { column: 2, delay_ms: 5_000 }),
        start: Start::Latest,
        idle_timeout_ms: 60_000,
        late: LatePolicy::Drop,
    };
    assert_eq!(create.source, expected);
}

#[test]
fn a_source_has_defaults() {
    let plain = source("CREATE SOURCE s (a INT) WITH (topic = 't', format = 'json')");
    assert_eq!(plain.watermark, None);
    assert_eq!((plain.start, plain.idle_timeout_ms), (Start::Earliest, 30_000));
}

#[test]
fn a_watermark_stands_where_flink_or_the_others_put_it() {
    let check = |sql: &str, delay_ms| {
        let watermark = source(sql).watermark;
        assert_eq!(watermark, Some(Watermark { column: 0, delay_ms }), "{sql}");
    };
    let minus = "ts - INTERVAL '5' SECOND";
    check(&format!("CREATE SOURCE s (ts TIMESTAMP, WATERMARK FOR ts AS {minus}) {OPTIONS}"), 5_000);
    check(&format!("CREATE SOURCE s (ts TIMESTAMP) {OPTIONS} WATERMARK FOR ts AS {minus}"), 5_000);
    check(&format!("CREATE SOURCE s (ts TIMESTAMP) WATERMARK FOR ts AS {minus} {OPTIONS}"), 5_000);
    check(&format!("CREATE SOURCE s (ts TIMESTAMP, WATERMARK FOR ts AS ts) {OPTIONS}"), 0);
    for (interval, delay_ms) in [
        ("'1 minute 30 seconds'", 90_000),
        ("'2' HOURS", 7_200_000),
        ("'0.001' SECOND", 1),
        ("'1' DAY", 86_400_000),
    ] {
        let clause = format!("WATERMARK FOR ts AS ts - INTERVAL {interval}");
        check(&format!("CREATE SOURCE s (ts TIMESTAMP, {clause}) {OPTIONS}"), delay_ms);
    }
}

#[test]
fn types_are_postgres_and_flinks() {
    let check = |sql: &str, expected: DataType| {
        let columns =
            source(&format!("CREATE SOURCE s (a {sql}) WITH (topic = 't', format = 'json')"))
                .columns;
        assert_eq!(columns[0].column_type.0, expected, "{sql}");
    };
    let utc = || Some("UTC".into());
    for sql in ["BOOLEAN", "BOOL"] {
        check(sql, DataType::Boolean);
    }
    for sql in ["SMALLINT", "INT2", "TINYINT"] {
        check(sql, DataType::Int16);
    }
    for sql in ["INT", "INTEGER", "INT4"] {
        check(sql, DataType::Int32);
    }
    for sql in ["BIGINT", "INT8"] {
        check(sql, DataType::Int64);
    }
    for sql in ["REAL", "FLOAT4", "FLOAT(24)"] {
        check(sql, DataType::Float32);
    }
    for sql in ["DOUBLE PRECISION", "DOUBLE", "FLOAT8", "FLOAT", "FLOAT(53)"] {
        check(sql, DataType::Float64);
    }
    for sql in ["DECIMAL(10, 2)", "NUMERIC(10, 2)", "DEC(10, 2)"] {
        check(sql, DataType::Decimal128(10, 2));
    }
    check("NUMERIC(10)", DataType::Decimal128(10, 0));
    for sql in ["TEXT", "VARCHAR", "VARCHAR(10)", "STRING", "CHARACTER VARYING"] {
        check(sql, DataType::Utf8);
    }
    check("DATE", DataType::Date32);
    check("TIMESTAMP", DataType::Timestamp(TimeUnit::Microsecond, None));
    check("TIMESTAMP(0)", DataType::Timestamp(TimeUnit::Millisecond, None));
    check("TIMESTAMP(3)", DataType::Timestamp(TimeUnit::Millisecond, None));
    check("TIMESTAMP(6) WITHOUT TIME ZONE", DataType::Timestamp(TimeUnit::Microsecond, None));
    check("TIMESTAMP(9)", DataType::Timestamp(TimeUnit::Nanosecond, None));
    check("TIMESTAMP(3) WITH TIME ZONE", DataType::Timestamp(TimeUnit::Millisecond, utc()));
    check("TIMESTAMPTZ", DataType::Timestamp(TimeUnit::Microsecond, utc()));
    check("TIMESTAMP_LTZ(3)", DataType::Timestamp(TimeUnit::Millisecond, utc()));
    for sql in ["BYTEA", "BYTES", "VARBINARY"] {
        check(sql, DataType::Binary);
    }
}

#[test]
fn a_table_comes_from_a_file() {
    let check = |sql: &str, columns: usize, expected: CsvFile| {
        let Statement::CreateTable(create) = one(sql) else { panic!("{sql}") };
        assert_eq!(create.columns.map_or(0, |columns| columns.len()), columns, "{sql}");
        assert_eq!(create.file, expected, "{sql}");
    };
    let file = |header, delimiter, null: &str| CsvFile {
        path: "a.csv".to_owned(),
        header,
        delimiter,
        null: null.to_owned(),
    };
    check("CREATE TABLE t FROM 'a.csv'", 0, file(true, b',', ""));
    check("CREATE TABLE t (a INT, b TEXT) FROM 'a.csv'", 2, file(true, b',', ""));
    check(
        "CREATE TABLE IF NOT EXISTS t FROM 'a.csv' WITH (header = false, delimiter = ';', null = 'NA')",
        0,
        file(false, b';', "NA"),
    );
    check(
        "CREATE TABLE t WITH (path = 'a.csv', format = 'csv', header = 'true', delimiter = '\\t')",
        0,
        file(true, b'\t', ""),
    );
}

#[test]
fn a_table_may_have_a_primary_key() {
    let check = |items: &str, expected: Result<Option<&[usize]>, &str>| {
        let sql = format!("CREATE TABLE t {items} FROM 'a.csv'");
        match (parse(&sql), expected) {
            (Ok(mut statements), Ok(expected)) => {
                let Some(Statement::CreateTable(create)) = statements.pop() else {
                    panic!("{sql}")
                };
                assert_eq!(create.key.as_deref(), expected, "{sql}");
                let nullable = |at: &usize| create.columns.as_ref().expect("columns")[*at].nullable;
                assert!(!expected.unwrap_or_default().iter().any(nullable), "{sql}");
            }
            (Err(error), Err(expected)) => {
                let text = format!("{} {error}", error.sqlstate());
                assert!(text.contains(expected), "{sql}: {text}");
            }
            (found, _) => panic!("{sql}: {found:?}, not {expected:?}"),
        }
    };
    check("(a INT)", Ok(None));
    check("(a INT PRIMARY KEY, b TEXT)", Ok(Some(&[0])));
    check("(a INT, b TEXT NOT NULL PRIMARY KEY)", Ok(Some(&[1])));
    check("(a INT, b TEXT, PRIMARY KEY (b, A))", Ok(Some(&[1, 0])));
    check("(PRIMARY KEY (a, b), a INT, b TEXT)", Ok(Some(&[0, 1])));
    check("(primary TEXT PRIMARY KEY)", Ok(Some(&[0])));
    check("(a INT PRIMARY KEY, b TEXT PRIMARY KEY)", Err("42P16 two primary keys"));
    check("(a INT, PRIMARY KEY (b))", Err("42703 the table has no column \"b\""));
    check("(a INT, PRIMARY KEY (a, a))", Err("42701 there are two columns \"a\""));
    check("(PRIMARY KEY (a))", Err("42703 the table has no column \"a\""));
    check("(a INT UNIQUE)", Err("0A000"));
}

#[test]
fn a_view_keeps_its_text() {
    let sql = "CREATE MATERIALIZED VIEW IF NOT EXISTS V AS\n  SELECT 'é' AS a\n  FROM s";
    let Statement::CreateView(create) = one(&format!("{sql};")) else { panic!("{sql}") };
    assert_eq!((create.name.as_str(), create.if_not_exists), ("v", true));
    assert_eq!(create.sql, sql);
    assert_eq!(create.query.text(), "SELECT 'é' AS a\n  FROM s");
}

#[test]
fn small_statements() {
    let check = |sql: &str, expected: Statement| assert_eq!(one(sql), expected, "{sql}");
    let drop = |kind, if_exists| Statement::Drop(Drop { kind, name: "x".to_owned(), if_exists });
    check("DROP SOURCE x", drop(DropKind::Source, false));
    check("drop table if exists X", drop(DropKind::Table, true));
    check("DROP MATERIALIZED VIEW public.x RESTRICT", drop(DropKind::View, false));
    check("DROP VIEW x", drop(DropKind::View, false));
    let name = || "x".to_owned();
    check("SHOW SOURCES", Statement::Show(Show::Sources));
    check("SHOW TABLES", Statement::Show(Show::Tables));
    check("SHOW VIEWS", Statement::Show(Show::Views));
    check("SHOW MATERIALIZED VIEWS", Statement::Show(Show::Views));
    check("SHOW TOPICS", Statement::Show(Show::Topics));
    check("SHOW PIPELINES", Statement::Show(Show::Pipelines));
    for kind in ["", "SOURCE ", "TABLE ", "VIEW ", "MATERIALIZED VIEW "] {
        check(&format!("SHOW CREATE {kind}x"), Statement::Show(Show::Create { name: name() }));
    }
    let parameter = |name: &str| Statement::Show(Show::Parameter(name.to_owned()));
    check("SHOW server_version", parameter("server_version"));
    check("SHOW TRANSACTION ISOLATION LEVEL", parameter("transaction_isolation"));
    check("SHOW TIME ZONE", parameter("timezone"));
    check("SHOW ALL", parameter("all"));
    check("DESCRIBE x", Statement::Describe { name: name() });
    check("DESC TABLE x", Statement::Describe { name: name() });
}

#[test]
fn session_statements_are_taken() {
    let check = |sql: &str, tag: &str| {
        let Statement::Session(session) = one(sql) else { panic!("{sql}") };
        assert_eq!(session.tag(), tag, "{sql}");
    };
    check("BEGIN", "BEGIN");
    check("START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY", "BEGIN");
    check("COMMIT", "COMMIT");
    check("END TRANSACTION", "COMMIT");
    check("ROLLBACK", "ROLLBACK");
    check("ABORT", "ROLLBACK");
    check("DISCARD ALL", "DISCARD ALL");
    check("DEALLOCATE ALL", "DEALLOCATE");
    check("CLOSE ALL", "CLOSE CURSOR");
    check("RESET ALL", "RESET");
    let set = |sql: &str, name: &str, value: &str| {
        let expected = Session::Set { name: name.to_owned(), value: value.to_owned() };
        assert_eq!(one(sql), Statement::Session(expected), "{sql}");
    };
    set("SET client_encoding = 'UTF8'", "client_encoding", "UTF8");
    set("SET SESSION DateStyle TO ISO", "datestyle", "ISO");
    set("SET search_path TO public, pg_catalog", "search_path", "public , pg_catalog");
    set("SET TIME ZONE 'UTC'", "time", "ZONE UTC");
}

#[test]
fn texts_hold_several_statements() {
    let check = |sql: &str, count: usize| {
        assert_eq!(parse(sql).expect(sql).len(), count, "{sql}");
    };
    check("", 0);
    check(" ;; -- nothing\n ; /* here */", 0);
    check("SELECT 1; SELECT 2", 2);
    check("SELECT ';' AS a; SHOW TABLES;", 2);
    check("SELECT $1::int AS a, $2", 1);
    check("TABLE late", 1);
    check("(SELECT 1 AS a) UNION ALL VALUES (2)", 1);
    let error = parse("SELECT 1; SELEC 2").expect_err("the second is wrong");
    assert_eq!(error.position().map(|at| (at.line, at.column)), Some((1, 11)));
}

#[test]
fn the_reference_page_lists_the_options() {
    let page = include_str!("../../../docs/sql.md");
    for option in SOURCE_OPTIONS.iter().chain(TABLE_OPTIONS) {
        let row = format!(
            "| `{}` | {} | {} | {} |",
            option.name,
            option.values,
            option.default.unwrap_or("required"),
            option.about
        );
        assert!(page.contains(&row), "docs/sql.md lacks the row\n{row}");
    }
}
