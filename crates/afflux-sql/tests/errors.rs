//! What is wrong with a statement: kind, SQLSTATE, what the message and the hint say, and where.
// tidy(long-file): one table of what is refused, and with which words.

mod fixture;

use afflux_sql::{SqlError, parse, plan_view, query_objects};
use afflux_types::{Classified, ErrorKind};
use fixture::{catalog, plan_text, query};

fn expect(error: &SqlError, sql: &str, kind: ErrorKind, sqlstate: &str, parts: &[&str]) {
    let text = format!("{error} | {}", error.hint().unwrap_or_default());
    assert_eq!((error.kind(), error.sqlstate()), (kind, sqlstate), "{sql}\n{text}");
    for part in parts {
        assert!(text.contains(part), "{sql}\n{text}\nhas no {part:?}");
    }
}

#[test]
fn statements_that_do_not_parse() {
    use ErrorKind::{Invalid, Unsupported};
    let check = |sql: &str, kind, sqlstate: &str, parts: &[&str]| {
        let error = parse(sql).expect_err(sql);
        expect(&error, sql, kind, sqlstate, parts);
    };
    check(
        "SELEC 1",
        Invalid,
        "42601",
        &["expected a statement, found \"SELEC\"", "line 1, column 1"],
    );
    check("SELECT 1;\n  FOO", Invalid, "42601", &["found \"FOO\"", "line 2, column 3"]);
    check("SELECT 'x", Invalid, "42601", &["line 1, column 8"]);
    check("SELECT (1", Invalid, "42601", &["end of the statement", "line 1"]);
    check("SELECT 1 1", Invalid, "42601", &["expected the end of the statement", "column 10"]);
    check("SELECT é FROM", Invalid, "42601", &["end of the statement"]);
    check(
        "CREATE",
        Invalid,
        "42601",
        &["SOURCE, TABLE or MATERIALIZED VIEW", "end of the statement"],
    );
    check("CREATE VIEW v AS SELECT 1", Unsupported, "0A000", &["no CREATE VIEW", "MATERIALIZED"]);
    check("CREATE INDEX i ON t (a)", Unsupported, "0A000", &["no CREATE INDEX"]);
    check("CREATE OR REPLACE SOURCE s (a INT)", Unsupported, "0A000", &["drop the object"]);
    check("DROP TABLE t CASCADE", Unsupported, "0A000", &["drop the views"]);
    check("DROP TABLE a, b", Unsupported, "0A000", &["one DROP for each"]);
    check("DROP INDEX i", Invalid, "42601", &["SOURCE, TABLE or MATERIALIZED VIEW"]);
    check("INSERT INTO t VALUES (1)", Unsupported, "0A000", &["produce records to a topic"]);
    check("WITH x AS (SELECT 1) DELETE FROM t", Unsupported, "0A000", &["produce records"]);
    check("ALTER TABLE t ADD a INT", Unsupported, "0A000", &["ALTER"]);
    check("EXPLAIN ANALYZE SELECT 1", Unsupported, "0A000", &["takes no options"]);
    check("EXPLAIN CREATE TABLE t FROM 'x'", Unsupported, "0A000", &["explains queries"]);
    check("DROP SOURCE a.b", Unsupported, "0A000", &["no schema \"a\""]);
    check("DESCRIBE \"\"", Invalid, "42602", &["empty"]);
}

#[test]
fn sources_that_are_wrong() {
    use ErrorKind::{Invalid, Unsupported};
    const WITH: &str = "WITH (topic = 't', format = 'json')";
    let check = |sql: &str, kind, sqlstate: &str, parts: &[&str]| {
        let sql = format!("CREATE SOURCE s {}", sql.replace("$WITH", WITH));
        let error = parse(&sql).expect_err(&sql);
        expect(&error, &sql, kind, sqlstate, parts);
    };
    check("$WITH", Invalid, "42P16", &["no columns"]);
    check("(a INT)", Invalid, "22023", &["option topic is missing", "WITH (topic"]);
    check("(a INT) WITH (topic = 't')", Invalid, "22023", &["option format is missing"]);
    check(
        "(a INT) WITH (topic = 't t', format = 'json')",
        Invalid,
        "22023",
        &["topic name", "letters"],
    );
    check(
        "(a INT) WITH (topic = '__afflux_ddl', format = 'json')",
        Invalid,
        "22023",
        &["own topics"],
    );
    check(
        "(a INT) WITH (topic = 't', format = 'avro')",
        Unsupported,
        "0A000",
        &["'avro'", "'json'", "column 44"],
    );
    check(
        "(a INT) WITH (topics = 't')",
        Invalid,
        "22023",
        &[
            "no option \"topics\"",
            "did you mean topic?",
            "topic, format, scan_startup_mode, idle_timeout, late",
            "column 31",
        ],
    );
    check("(a INT) WITH (topic = 't', topic = 'u')", Invalid, "42601", &["given twice"]);
    check(
        "(a INT) WITH (topic = 't', format = 'json', late = 'update')",
        Unsupported,
        "0A000",
        &["late", "use 'drop'"],
    );
    check(
        "(a INT) WITH (topic = 't', format = 'json', idle_timeout = 'soon')",
        Invalid,
        "22023",
        &["\"soon\" is not an interval"],
    );
    check(
        "(a INT) WITH (topic = 't', format = 'json', idle_timeout = '1 month')",
        Invalid,
        "22023",
        &["no fixed length"],
    );
    check("(a INT, A TEXT) $WITH", Invalid, "42701", &["two columns \"a\""]);
    check("(a) $WITH", Invalid, "42601", &["the type of \"a\""]);
    check("(a XML) $WITH", Unsupported, "0A000", &["no type XML", "TIMESTAMP", "column 20"]);
    check("(a INT[]) $WITH", Unsupported, "0A000", &["no type INT[]"]);
    check("(a DECIMAL) $WITH", Unsupported, "0A000", &["DECIMAL(p, s)"]);
    check("(a DECIMAL(40, 2)) $WITH", Invalid, "22023", &["out of range"]);
    check("(a DECIMAL(4, 5)) $WITH", Invalid, "22023", &["out of range"]);
    check("(a TIMESTAMP(12)) $WITH", Invalid, "22023", &["0 to 9"]);
    check("(a INTERVAL) $WITH", Unsupported, "0A000", &["INTERVAL"]);
    check("(a INT PRIMARY KEY) $WITH", Unsupported, "0A000", &["PRIMARY", "NOT NULL"]);
    check("(a INT, PRIMARY KEY (a)) $WITH", Unsupported, "0A000", &["PRIMARY"]);
    check("(a INT DEFAULT 3) $WITH", Unsupported, "0A000", &["DEFAULT"]);
    check("(a INT, WATERMARK FOR b AS b) $WITH", Invalid, "42703", &["no column \"b\""]);
    check(
        "(tss TIMESTAMP, WATERMARK FOR ts AS ts) $WITH",
        Invalid,
        "42703",
        &["did you mean \"tss\"?"],
    );
    check("(a INT, WATERMARK FOR a AS a) $WITH", Invalid, "42804", &["no TIMESTAMP"]);
    check(
        "(a TIMESTAMP, WATERMARK FOR a AS a + INTERVAL '1' SECOND) $WITH",
        Unsupported,
        "0A000",
        &["WATERMARK FOR ts AS ts -"],
    );
    check(
        "(a TIMESTAMP, WATERMARK FOR a AS a - 5) $WITH",
        Invalid,
        "42601",
        &["expected an interval"],
    );
    check(
        "(a TIMESTAMP, WATERMARK FOR a AS a - INTERVAL '1' MONTH) $WITH",
        Invalid,
        "22023",
        &["use days"],
    );
    check(
        "(a TIMESTAMP, WATERMARK FOR a AS a, WATERMARK FOR a AS a) $WITH",
        Invalid,
        "42601",
        &["two watermarks"],
    );
    check(
        "(a TIMESTAMP, WATERMARK FOR a AS a) $WITH WATERMARK FOR a AS a",
        Invalid,
        "42601",
        &["end of the statement"],
    );
}

#[test]
fn tables_that_are_wrong() {
    use ErrorKind::{Invalid, Unsupported};
    let check = |sql: &str, kind, sqlstate: &str, parts: &[&str]| {
        let error = parse(sql).expect_err(sql);
        expect(&error, sql, kind, sqlstate, parts);
    };
    check("CREATE TABLE t (a INT)", Invalid, "42P16", &["no file", "FROM 'file.csv'"]);
    check("CREATE TABLE t AS SELECT 1", Unsupported, "0A000", &["MATERIALIZED VIEW"]);
    check("CREATE TABLE t FROM x", Invalid, "42601", &["line 1"]);
    check("CREATE TABLE t FROM 'a' WITH (path = 'b')", Invalid, "42601", &["path is given twice"]);
    check(
        "CREATE TABLE t FROM 'a' WITH (delimiter = ',,')",
        Invalid,
        "22023",
        &["one ASCII character"],
    );
    check(
        "CREATE TABLE t FROM 'a' WITH (header = maybe)",
        Unsupported,
        "0A000",
        &["'true' or 'false'"],
    );
    check("CREATE TABLE t FROM 'a' WITH (format = 'parquet')", Unsupported, "0A000", &["'csv'"]);
    check(
        "CREATE TABLE t FROM 'a' WITH (topic = 'b')",
        Invalid,
        "22023",
        &["path, format, header, delimiter, null"],
    );
    check(
        "CREATE TABLE t (a TIMESTAMP, WATERMARK FOR a AS a) FROM 'a'",
        Invalid,
        "42P16",
        &["no watermark"],
    );
}

#[test]
fn queries_that_are_no_view() {
    use ErrorKind::{Invalid, NotFound, Unsupported};
    let check = |sql: &str, kind, sqlstate: &str, parts: &[&str]| {
        let error = plan_text(sql, &catalog()).expect_err(sql);
        expect(&error, sql, kind, sqlstate, parts);
    };
    // Names.
    check(
        "SELECT carier FROM departures",
        Invalid,
        "42703",
        &["no column \"carier\"", "did you mean \"carrier\"?", "line 1, column 8"],
    );
    check("SELECT zzz FROM airlines", Invalid, "42703", &["the columns are code, name, fleet"]);
    check("SELECT x.carrier FROM departures d", Invalid, "42703", &["x.carrier"]);
    check(
        "SELECT carrier\nFROM departurs",
        NotFound,
        "42P01",
        &["\"departurs\"", "did you mean \"departures\"?", "line 2, column 6"],
    );
    check("SELECT a FROM zzz", NotFound, "42P01", &["SHOW SOURCES"]);
    check("SELECT flight FROM foo.departures", Invalid, "42P01", &["no schema \"foo\""]);
    check(
        "SELECT uppper(carrier) FROM departures",
        Invalid,
        "42883",
        &["uppper()", "did you mean upper()?"],
    );
    check(
        "SELECT name FROM airlines a JOIN airlines b ON a.code = b.code",
        Invalid,
        "42702",
        &["several tables"],
    );
    check(
        "SELECT delay - 1, delay + 1 FROM departures",
        Invalid,
        "42701",
        &["two columns \"?column?\"", "AS", "line 1, column 19"],
    );
    for input in ["TABLE united", "(SELECT ts FROM united UNION ALL SELECT at FROM arrivals)"] {
        check(
            &format!(
                "SELECT window_start, count(*) AS n
                 FROM TABLE(TUMBLE({input}, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY window_start"
            ),
            Unsupported,
            "0A000",
            &["the view \"united\"", "no watermark", "date_bin"],
        );
    }
    check(
        "SELECT carrier, dest AS carrier FROM departures",
        Invalid,
        "42701",
        &["two columns \"carrier\"", "column 17"],
    );
    check("SELECT *, carrier FROM departures", Invalid, "42701", &["two columns \"carrier\""]);
    check(
        "SELECT * FROM airlines a JOIN airlines b ON a.code = b.code",
        Invalid,
        "42701",
        &["two columns \"code\""],
    );
    check(
        "CREATE MATERIALIZED VIEW v (a) AS SELECT carrier, dest FROM departures",
        Invalid,
        "42P16",
        &["1 names for 2 columns"],
    );
    check(
        "CREATE MATERIALIZED VIEW v (a) AS SELECT * FROM departures",
        Unsupported,
        "0A000",
        &["do not go with *"],
    );
    // Types.
    check("SELECT delay + carrier AS x FROM departures", Invalid, "42804", &["Float64 + Utf8"]);
    check("SELECT flight FROM departures WHERE delay", Invalid, "42804", &["not Boolean"]);
    check("SELECT flight FROM departures WHERE delay = 'abc'", Invalid, "22023", &["'abc'"]);
    check(
        "SELECT sum(cancelled) FROM departures",
        Invalid,
        "42804",
        &["sum() does not take Boolean"],
    );
    check("SELECT cast(delay AS foo) FROM departures", Unsupported, "0A000", &["no type foo"]);
    check(
        "SELECT carrier, delay FROM departures GROUP BY carrier",
        Invalid,
        "42803",
        &["departures.delay", "GROUP BY"],
    );
    check(
        "SELECT regexp_match(carrier, 'x') AS m FROM departures",
        Unsupported,
        "0A000",
        &["List"],
    );
    // What a view can not have.
    check("SELECT random() AS r FROM departures", Unsupported, "0A000", &["random() is volatile"]);
    check("SELECT flight FROM departures WHERE uuid() = 'a'", Unsupported, "0A000", &["volatile"]);
    check(
        "SELECT carrier, now() AS t FROM per_carrier",
        Unsupported,
        "0A000",
        &["rows that change"],
    );
    check(
        "SELECT flight FROM departures ORDER BY flight",
        Unsupported,
        "0A000",
        &["no order", "where you read the view"],
    );
    check("SELECT flight FROM departures LIMIT 3", Unsupported, "0A000", &["LIMIT"]);
    check(
        "SELECT flight FROM departures FETCH FIRST 3 ROWS ONLY",
        Unsupported,
        "0A000",
        &["FETCH"],
    );
    check("SELECT flight FROM departures FOR UPDATE", Unsupported, "0A000", &["FOR UPDATE"]);
    check(
        "SELECT flight FROM departures TABLESAMPLE BERNOULLI (10)",
        Unsupported,
        "0A000",
        &["TABLESAMPLE"],
    );
    check(
        "SELECT row_number() OVER () AS n FROM departures",
        Unsupported,
        "0A000",
        &["window functions", "TUMBLE"],
    );
    check(
        "SELECT flight FROM departures QUALIFY row_number() OVER () = 1",
        Unsupported,
        "0A000",
        &["QUALIFY"],
    );
    check(
        "SELECT count(DISTINCT carrier) FROM departures",
        Unsupported,
        "0A000",
        &["count(DISTINCT …)", "subquery"],
    );
    check(
        "SELECT stddev(delay) FROM departures",
        Unsupported,
        "0A000",
        &["stddev()", "count, sum, avg, min and max"],
    );
    check(
        "SELECT DISTINCT ON (carrier) carrier, dest FROM departures",
        Unsupported,
        "0A000",
        &["DISTINCT ON"],
    );
    check(
        "SELECT carrier FROM departures GROUP BY ROLLUP (carrier)",
        Unsupported,
        "0A000",
        &["ROLLUP"],
    );
    check(
        "SELECT flight FROM departures WHERE carrier IN (SELECT code FROM airlines)",
        Unsupported,
        "0A000",
        &["subqueries"],
    );
    check(
        "SELECT (SELECT max(fleet) FROM airlines) AS m FROM departures",
        Unsupported,
        "0A000",
        &["subqueries"],
    );
    check(
        "SELECT flight FROM departures d WHERE EXISTS (SELECT 1 FROM airlines WHERE code = d.carrier)",
        Unsupported,
        "0A000",
        &["subqueries"],
    );
    check(
        "SELECT carrier FROM departures EXCEPT SELECT code FROM airlines",
        Unsupported,
        "0A000",
        &["EXCEPT"],
    );
    check(
        "WITH RECURSIVE r AS (SELECT 1 AS a) SELECT a FROM r",
        Unsupported,
        "0A000",
        &["RECURSIVE"],
    );
    check("SELECT 1 AS one", Unsupported, "0A000", &["has to read"]);
    check("VALUES (1)", Unsupported, "0A000", &["has to read"]);
    check("SELECT $1 AS x FROM departures", Invalid, "42704", &["parameters"]);
    check(
        "SELECT ts AT TIME ZONE 'UTC' AS t FROM departures",
        Unsupported,
        "0A000",
        &["AT TIME ZONE"],
    );
    check(
        "SELECT carrier LIKE 'a!%' ESCAPE '!' AS l FROM departures",
        Unsupported,
        "0A000",
        &["backslash"],
    );
    // Joins.
    check(
        "SELECT d.flight FROM departures d JOIN arrivals a ON d.flight = a.flight",
        Unsupported,
        "0A000",
        &["two streams", "static table"],
    );
    check(
        "SELECT d.flight FROM departures d JOIN per_carrier p ON d.carrier = p.carrier",
        Unsupported,
        "0A000",
        &["two streams"],
    );
    check(
        "SELECT a.name FROM airlines a LEFT JOIN departures d ON d.carrier = a.code",
        Unsupported,
        "0A000",
        &["two streams"],
    );
    check(
        "SELECT d.flight FROM departures d FULL JOIN airlines a ON d.carrier = a.code",
        Unsupported,
        "0A000",
        &["INNER and LEFT"],
    );
    check(
        "SELECT d.flight FROM departures d CROSS JOIN airlines a",
        Unsupported,
        "0A000",
        &["without an equality"],
    );
    check(
        "SELECT d.flight FROM departures d JOIN airlines a ON d.delay > a.fleet",
        Unsupported,
        "0A000",
        &["without an equality"],
    );
    check(
        "SELECT d.flight FROM departures d JOIN airlines a ON d.carrier = upper(a.code)",
        Unsupported,
        "0A000",
        &["not with an expression"],
    );
    check(
        "SELECT d.flight FROM departures d JOIN airlines a ON d.delay = a.fleet",
        Unsupported,
        "0A000",
        &["of one type"],
    );
    check(
        "SELECT d.flight FROM departures d JOIN airlines a ON d.carrier IS NOT DISTINCT FROM a.code",
        Unsupported,
        "0A000",
        &[],
    );
    check(
        "SELECT d.flight FROM departures d LEFT JOIN airlines a ON d.carrier = a.code AND a.fleet > 3",
        Unsupported,
        "0A000",
        &["LEFT JOIN"],
    );
    check(
        "SELECT d.flight FROM departures d LEFT JOIN airlines a ON d.carrier = a.code AND d.delay > 3",
        Unsupported,
        "0A000",
        &["LEFT JOIN"],
    );
    check(
        "SELECT a.n FROM departures d LEFT JOIN (SELECT code, upper(name) AS n FROM airlines) a ON d.carrier = a.code",
        Unsupported,
        "0A000",
        &["LEFT JOIN"],
    );
    // Windows.
    check(
        "SELECT flight FROM TABLE(HOP(TABLE departures, DESCRIPTOR(ts), INTERVAL '1' HOUR, INTERVAL '2' HOUR))",
        Unsupported,
        "0A000",
        &["no table function hop"],
    );
    check(
        "SELECT value FROM generate_series(1, 3)",
        Unsupported,
        "0A000",
        &["no table function generate_series"],
    );
    check(
        "SELECT flight FROM TABLE(TUMBLE(TABLE departures))",
        Invalid,
        "42601",
        &["a table, a DESCRIPTOR and an INTERVAL"],
    );
    check(
        "SELECT flight FROM TABLE(TUMBLE(TABLE departures, ts, INTERVAL '1' HOUR))",
        Invalid,
        "42601",
        &["DESCRIPTOR(ts)"],
    );
    check(
        "SELECT flight FROM TABLE(TUMBLE(TABLE departures, DESCRIPTOR(carrier), INTERVAL '1' HOUR))",
        Invalid,
        "42804",
        &["has to be a TIMESTAMP"],
    );
    check(
        "SELECT flight FROM TABLE(TUMBLE(TABLE departures, DESCRIPTOR(tss), INTERVAL '1' HOUR))",
        Invalid,
        "42703",
        &["did you mean \"ts\"?"],
    );
    check(
        "SELECT flight FROM TABLE(TUMBLE(TABLE departurs, DESCRIPTOR(ts), INTERVAL '1' HOUR))",
        NotFound,
        "42P01",
        &["did you mean \"departures\"?"],
    );
    check(
        "SELECT flight FROM TABLE(TUMBLE(TABLE departures, DESCRIPTOR(ts), INTERVAL '0' HOUR))",
        Invalid,
        "22023",
        &["positive"],
    );
    check(
        "SELECT flight FROM TABLE(TUMBLE(TABLE departures, DESCRIPTOR(ts), INTERVAL '1' MONTH))",
        Invalid,
        "22023",
        &["no fixed length"],
    );
    check(
        "SELECT flight FROM TABLE(TUMBLE(TABLE departures, DESCRIPTOR(ts), INTERVAL '1.0001' SECOND))",
        Invalid,
        "22023",
        &["milliseconds"],
    );
}

#[test]
fn a_query_names_what_it_reads() {
    let check = |sql: &str, expected: &[&str]| {
        let objects = query_objects(&query(sql).expect(sql), &catalog()).expect(sql);
        let names: Vec<_> = objects.iter().map(|object| object.name.as_str()).collect();
        assert_eq!(names, expected, "{sql}");
    };
    check("SELECT 1", &[]);
    check("SELECT * FROM late", &["late"]);
    check(
        "SELECT * FROM LATE l JOIN public.per_carrier p ON true WHERE l.flight IN (SELECT 1 FROM late)",
        &["late", "per_carrier"],
    );
    check("WITH late AS (SELECT * FROM per_carrier) SELECT * FROM late", &["per_carrier"]);
    check("SELECT * FROM pg_catalog.pg_class, information_schema.tables, pg_type", &[]);
    check(
        "SELECT window_start FROM TABLE(TUMBLE(TABLE departures, DESCRIPTOR(ts), INTERVAL '1' HOUR))",
        &["departures"],
    );
    check(
        "SELECT window_start FROM TUMBLE(departures, DESCRIPTOR(ts), INTERVAL '1' HOUR)",
        &["departures"],
    );
    check(
        "WITH d AS (SELECT * FROM late) SELECT 1 FROM TABLE(TUMBLE(TABLE d, DESCRIPTOR(ts), INTERVAL '1' HOUR))",
        &["late"],
    );
    let error = query_objects(&query("SELECT * FROM lat").expect("parses"), &catalog());
    let error = error.expect_err("there is no lat");
    expect(&error, "lat", ErrorKind::NotFound, "42P01", &["did you mean \"late\"?"]);
}

#[test]
fn no_text_makes_it_panic() {
    let seeds = [
        "SELECT window_start, count(*) AS n FROM TABLE(TUMBLE(TABLE departures, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY window_start",
        "CREATE SOURCE s (a INT NOT NULL, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND) WITH (topic = 't', format = 'json')",
        "SELECT d.flight, a.name FROM departures d LEFT JOIN airlines a ON d.carrier = a.code WHERE d.delay > 3 -- é",
        "SET a TO 'b'; SHOW CREATE VIEW x; EXPLAIN SELECT 1; DROP VIEW IF EXISTS \"x y\"",
    ];
    let catalog = catalog();
    for seed in seeds {
        let words: Vec<&str> = seed.split_inclusive(' ').collect();
        for at in 0..words.len() {
            let without: String =
                words.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, word)| *word).collect();
            let mut swapped = words.clone();
            swapped.swap(at, words.len() - 1 - at);
            for text in [without, words[..at].concat(), swapped.concat()] {
                for statement in parse(&text).unwrap_or_default() {
                    if let afflux_sql::Statement::Query(query) = statement {
                        let _ = plan_view(&query, &catalog);
                        let _ = query_objects(&query, &catalog);
                    }
                }
            }
        }
    }
}
