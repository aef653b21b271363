//! Queries and the plans that they become, as text.

mod fixture;

use fixture::{catalog, check, query};

#[test]
fn filters_and_projections_read_only_what_they_need() {
    check(
        "SELECT flight, delay FROM departures WHERE delay > 15 AND carrier = 'UA'",
        "
        View: no key, append-only
          Project: flight, delay
            Filter: ((delay > 15.0) AND (carrier = 'UA'))
              Source departures: flight Int32!, carrier Utf8, delay Float64
        ",
    );
    check(
        "SELECT d.* FROM arrivals d",
        "
        View: no key, append-only
          Source arrivals: flight Int32, dest Utf8, delay Float64, at Timestamp(ms)
        ",
    );
    check(
        "SELECT code, upper(name) AS name FROM airlines WHERE fleet > 3",
        "
        View: no key, append-only
          Project: code, upper(name) AS name
            Filter: (fleet > 3)
              Table airlines: code Utf8!, name Utf8, fleet Int32
        ",
    );
}

#[test]
fn expressions_have_their_types_resolved() {
    check(
        "SELECT CASE WHEN delay > 1 THEN 'late' ELSE 'ok' END,
                extract(hour FROM ts), cast(delay AS int) AS whole, coalesce(tail, '?') AS tail,
                delay BETWEEN 1 AND 2 AS near, carrier IN ('a', 'b', 'c', 'd') AS listed,
                carrier || dest AS both, NOT cancelled AS flown, -delay AS early, price * 2 AS twice,
                carrier IS NULL AS unknown, carrier LIKE 'U%' AS u, position('x' IN carrier) AS x
         FROM departures",
        "
        View: no key, append-only
          Project: CASE WHEN (delay > 1.0) THEN 'late' ELSE 'ok' END AS case, \
         date_part('HOUR', ts) AS extract, CAST(delay AS Int32) AS whole, \
         CASE WHEN tail IS NOT NULL THEN tail ELSE '?' END AS tail, \
         ((delay >= 1.0) AND (delay <= 2.0)) AS near, \
         carrier IN ('a', 'b', 'c', 'd') AS listed, (carrier || dest) AS both, \
         NOT cancelled AS flown, -delay AS early, (price * 2) AS twice, \
         carrier IS NULL AS unknown, carrier LIKE 'U%' AS u, strpos(carrier, 'x') AS x
            Source departures: carrier Utf8, dest Utf8, tail Utf8, delay Float64, \
         price Decimal128(8, 2), cancelled Boolean, ts Timestamp(ms)
        ",
    );
    check(
        "SELECT NULL AS n, 1 + 2 AS i, 1.5 AS f, true AS b, DATE '2020-01-01' AS d, x'ff' AS raw,
                INTERVAL '1 month 2 days 3 hours' AS v
         FROM arrivals",
        "
        View: no key, append-only
          Project: CAST(NULL AS Utf8) AS n, 3 AS i, 1.5 AS f, true AS b, '2020-01-01' AS d, \
         decode('ff', 'hex') AS raw, INTERVAL '1 months 2 d 3 h' AS v
            Source arrivals: flight Int32
        ",
    );
}

#[test]
fn now_is_the_epochs_and_never_folded() {
    check(
        "SELECT flight, current_date AS day FROM departures WHERE seen > now() - INTERVAL '1 hour'",
        "
        View: no key, append-only
          Project: flight, CAST(now() AS Date32) AS day
            Filter: (CAST(seen AS Timestamp(ns, \"UTC\")) > \
         CAST((CAST(now() AS Timestamp(ns)) - INTERVAL '1 h') AS Timestamp(ns, \"UTC\")))
              Source departures: flight Int32!, seen Timestamp(ms, \"UTC\")
        ",
    );
}

#[test]
fn group_columns_are_the_key() {
    check(
        "SELECT carrier, sum(distance) AS s, avg(price) AS p, count(delay) AS c, min(ts) AS t
         FROM departures GROUP BY 1",
        "
        View: key (carrier)
          Aggregate: group (carrier) compute sum(distance), avg(price), count(delay), min(ts) \
         [state 0]
            Source departures: carrier Utf8, delay Float64, distance Int64, \
         price Decimal128(8, 2), ts Timestamp(ms)
        ",
    );
    check(
        "SELECT count(*) FROM departures",
        "
        View: one row
          Aggregate: group () compute count(*) [state 0]
            Source departures: flight Int32!
        ",
    );
    check(
        "SELECT count(*) AS n, upper(carrier) AS c FROM departures GROUP BY upper(carrier)",
        "
        View: key (c)
          Project: count AS n, _0 AS c
            Aggregate: group (_0) compute count(*) [state 0]
              Project: upper(carrier) AS _0
                Source departures: carrier Utf8
        ",
    );
    check(
        "SELECT count(*) AS n FROM departures GROUP BY carrier",
        "
        View: no key
          Project: count AS n
            Aggregate: group (carrier) compute count(*) [state 0]
              Source departures: carrier Utf8
        ",
    );
    check(
        "SELECT carrier, count(*) FILTER (WHERE delay > 0) AS n FROM departures
         GROUP BY carrier HAVING count(*) > 3 AND carrier > 'A'",
        "
        View: key (carrier)
          Project: carrier, count#1 AS n
            Filter: (count#2 > 3)
              Aggregate: group (carrier) compute count(*) where _1, count(*) [state 0]
                Project: carrier, (delay > 0.0) AS _1
                  Filter: (carrier > 'A')
                    Source departures: carrier Utf8, delay Float64
        ",
    );
    check(
        "SELECT md5(carrier) AS m, sum(flight) AS s FROM departures GROUP BY md5(carrier)",
        "
        View: key (m)
          Project: CAST(m AS Utf8) AS m, s
            Aggregate: group (_0) compute sum(_1) [state 0]
              Project: md5(carrier) AS _0, CAST(flight AS Int64) AS _1
                Source departures: flight Int32!, carrier Utf8
        ",
    );
}

#[test]
fn distinct_rows_of_a_stream_stay() {
    check(
        "SELECT DISTINCT carrier, dest FROM departures",
        "
        View: key (carrier, dest), append-only
          Aggregate: group (carrier, dest) [state 0]
            Source departures: carrier Utf8, dest Utf8
        ",
    );
    check(
        "SELECT carrier FROM departures UNION SELECT dest FROM arrivals",
        "
        View: key (carrier), append-only
          Aggregate: group (carrier) [state 0]
            Union
              Source departures: carrier Utf8
              Project: dest AS carrier
                Source arrivals: dest Utf8
        ",
    );
}

#[test]
fn unions_keep_every_row() {
    check(
        "SELECT flight, delay FROM departures UNION ALL SELECT n, mean FROM per_carrier",
        "
        View: no key
          Union
            Project: CAST(flight AS Int64) AS flight, delay
              Source departures: flight Int32!, delay Float64
            Project: n AS flight, mean AS delay
              View per_carrier: carrier Utf8, n Int64!, mean Float64
        ",
    );
    check(
        "SELECT count(*) FROM
         (SELECT carrier FROM departures UNION ALL SELECT dest FROM arrivals) u",
        "
        View: one row
          Aggregate: group () compute count(*) [state 0]
            Union
              Project: true AS one
                Source departures: flight Int32!
              Project: true AS one
                Source arrivals: flight Int32
        ",
    );
}

#[test]
fn subqueries_and_ctes_are_seen_through() {
    check(
        "WITH d AS (SELECT carrier, delay * 2 AS twice FROM departures WHERE delay > 1)
         SELECT s.carrier, s.a + 1 AS b
         FROM (SELECT carrier, avg(twice) AS a FROM d GROUP BY carrier) s WHERE s.a > 10",
        "
        View: key (carrier)
          Project: carrier, (avg_twice + 1.0) AS b
            Filter: (avg_twice > 10.0)
              Aggregate: group (carrier) compute avg(twice) [state 0]
                Project: carrier, (delay * 2.0) AS twice
                  Filter: (delay > 1.0)
                    Source departures: carrier Utf8, delay Float64
        ",
    );
}

#[test]
fn windows_over_event_time_become_final() {
    let per_hour = "
        View: key (window_start, carrier)
          Project: window_start, carrier, count AS n
            Aggregate: group (window_start, window_end, carrier) compute count(*) \
         final at window_end [state 0]
              Project: carrier, window_start, window_end
                Tumble: ts by 1 h
                  Source departures: carrier Utf8, ts Timestamp(ms)
        ";
    for table in [
        "TABLE(TUMBLE(TABLE departures, DESCRIPTOR(ts), INTERVAL '1' HOUR))",
        "TABLE(TUMBLE(DATA => TABLE departures, TIMECOL => DESCRIPTOR(ts), SIZE => INTERVAL '1 hour'))",
        "TABLE(TUMBLE(TABLE departures, DESCRIPTOR(ts), INTERVAL '60' MINUTES)) AS w",
        "TUMBLE(departures, DESCRIPTOR(ts), INTERVAL '1' HOUR) w",
        "TUMBLE((SELECT carrier, ts FROM departures), DESCRIPTOR(ts), INTERVAL '1' HOUR)",
    ] {
        let sql = format!(
            "SELECT window_start, carrier, count(*) AS n FROM {table}
             GROUP BY window_start, window_end, carrier"
        );
        check(&sql, per_hour);
    }
}

#[test]
fn the_end_of_a_window_reaches_its_aggregate() {
    check(
        "SELECT window_start, count(*) AS n
         FROM TABLE(TUMBLE(TABLE departures, DESCRIPTOR(ts), INTERVAL '15' MINUTE, INTERVAL '5' MINUTE))
         WHERE carrier = 'UA' AND window_start > TIMESTAMP '2013-01-01' GROUP BY window_start",
        "
        View: key (window_start)
          Aggregate: group (window_start) compute count(*) final at window_end [state 0]
            Project: window_start, (window_start + INTERVAL '15 min') AS window_end
              Filter: (window_start > '2013-01-01T00:00:00')
                Project: window_start
                  Tumble: ts by 15 min from 5 min
                    Filter: (carrier = 'UA')
                      Source departures: carrier Utf8, ts Timestamp(ms)
        ",
    );
    check(
        "SELECT window_time, count(*) AS n
         FROM TABLE(TUMBLE(TABLE departures, DESCRIPTOR(ts), INTERVAL '1' DAY)) GROUP BY window_time",
        "
        View: key (window_time)
          Aggregate: group (window_time) compute count(*) final at window_end [state 0]
            Project: window_time, (window_time + INTERVAL '1 ms') AS window_end
              Tumble: ts by 1 d
                Source departures: ts Timestamp(ms)
        ",
    );
    check(
        "SELECT w.window_start, a.name, count(*) AS n
         FROM TABLE(TUMBLE(TABLE departures, DESCRIPTOR(ts), INTERVAL '1' HOUR)) w
         JOIN airlines a ON w.carrier = a.code GROUP BY w.window_start, a.name",
        "
        View: key (window_start, name)
          Aggregate: group (window_start, name) compute count(*) final at window_end [state 0]
            Project: window_start, name, (window_start + INTERVAL '1 h') AS window_end
              Lookup airlines (inner): carrier = code
                Project: carrier, window_start
                  Tumble: ts by 1 h
                    Source departures: carrier Utf8, ts Timestamp(ms)
        ",
    );
}

#[test]
fn windows_without_a_watermark_stay_open() {
    // Not the watermark's column.
    check(
        "SELECT window_start, count(*) AS n
         FROM TABLE(TUMBLE(TABLE departures, DESCRIPTOR(seen), INTERVAL '1' HOUR))
         GROUP BY window_start",
        "
        View: key (window_start)
          Aggregate: group (window_start) compute count(*) [state 0]
            Project: window_start
              Tumble: seen by 1 h
                Source departures: seen Timestamp(ms, \"UTC\")
        ",
    );
    // A source without one.
    check(
        "SELECT window_start, count(*) AS n
         FROM TABLE(TUMBLE(TABLE arrivals, DESCRIPTOR(at), INTERVAL '1' HOUR)) GROUP BY window_start",
        "
        View: key (window_start)
          Aggregate: group (window_start) compute count(*) [state 0]
            Project: window_start
              Tumble: at by 1 h
                Source arrivals: at Timestamp(ms)
        ",
    );
    // Rows that an aggregate may take back.
    check(
        "SELECT window_start, sum(n) AS n FROM
         (SELECT window_start, carrier, count(*) AS n
          FROM TABLE(TUMBLE(TABLE departures, DESCRIPTOR(ts), INTERVAL '1' HOUR))
          GROUP BY window_start, window_end, carrier) x GROUP BY window_start",
        "
        View: key (window_start)
          Aggregate: group (window_start) compute sum(n) [state 1]
            Project: window_start, count AS n
              Aggregate: group (window_start, window_end, carrier) compute count(*) \
         final at window_end [state 0]
                Project: carrier, window_start, window_end
                  Tumble: ts by 1 h
                    Source departures: carrier Utf8, ts Timestamp(ms)
        ",
    );
    // A time that is computed.
    check(
        "SELECT window_start, count(*) AS n FROM
         TUMBLE((SELECT ts + INTERVAL '1 day' AS t FROM departures), DESCRIPTOR(t), INTERVAL '1' HOUR)
         GROUP BY window_start",
        "
        View: key (window_start)
          Aggregate: group (window_start) compute count(*) [state 0]
            Project: window_start
              Tumble: t by 1 h
                Project: (ts + INTERVAL '1 d') AS t
                  Source departures: ts Timestamp(ms)
        ",
    );
}

#[test]
fn static_tables_are_looked_up() {
    check(
        "SELECT d.flight, a.name FROM departures d LEFT JOIN airlines a ON d.carrier = a.code",
        "
        View: no key, append-only
          Project: flight, name
            Lookup airlines (left): carrier = code
              Source departures: flight Int32!, carrier Utf8
        ",
    );
    check(
        "SELECT d.flight, a.name FROM airlines a RIGHT JOIN departures d ON a.code = d.carrier
         WHERE a.name = 'x'",
        "
        View: no key, append-only
          Project: flight, name
            Filter: (name = 'x')
              Project: name, flight
                Lookup airlines (left): carrier = code
                  Source departures: flight Int32!, carrier Utf8
        ",
    );
    check(
        "SELECT d.flight, a.name FROM airlines a JOIN departures d
         ON a.code = upper(d.carrier) AND d.delay > a.fleet WHERE a.name LIKE 'U%'",
        "
        View: no key, append-only
          Project: flight, name
            Filter: (delay > CAST(fleet AS Float64))
              Project: code, name, fleet, flight, carrier, delay
                Filter: name LIKE 'U%'
                  Lookup airlines (inner): _3 = code
                    Project: flight, carrier, delay, upper(carrier) AS _3
                      Source departures: flight Int32!, carrier Utf8, delay Float64
        ",
    );
    check(
        "SELECT d.flight, a.name FROM departures d, airlines a WHERE a.fleet = d.distance",
        "
        View: no key, append-only
          Project: flight, name
            Lookup airlines (inner): _2 = fleet
              Project: flight, distance, TRY_CAST(distance AS Int32) AS _2
                Source departures: flight Int32!, distance Int64
        ",
    );
    check(
        "SELECT a.name AS n1, b.name AS n2 FROM departures d
         JOIN airlines a ON d.carrier = a.code JOIN airlines b ON d.dest = b.code",
        "
        View: no key, append-only
          Project: name#1 AS n1, name#3 AS n2
            Lookup airlines (inner): dest = code
              Project: dest, name
                Lookup airlines (inner): carrier = code
                  Source departures: carrier Utf8, dest Utf8
        ",
    );
    check(
        "SELECT flight, a.name, code FROM departures
         JOIN (SELECT code AS carrier, upper(name) AS name, code FROM airlines WHERE fleet > 1) a
         USING (carrier)",
        "
        View: no key, append-only
          Project: flight, upper(name) AS name, code
            Filter: (fleet > 1)
              Lookup airlines (inner): carrier = code
                Source departures: flight Int32!, carrier Utf8
        ",
    );
}

#[test]
fn views_are_read_by_views() {
    check(
        "SELECT max(n) AS most FROM per_carrier",
        "
        View: one row
          Aggregate: group () compute max(n) [state 0]
            Project: n
              View per_carrier: carrier Utf8, n Int64!, mean Float64
        ",
    );
    check(
        "SELECT n, carrier FROM per_carrier WHERE n > 3",
        "
        View: key (carrier)
          Project: n, carrier
            Filter: (n > 3)
              Project: carrier, n
                View per_carrier: carrier Utf8, n Int64!, mean Float64
        ",
    );
    check(
        "SELECT flight FROM late",
        "
        View: no key, append-only
          Project: flight
            View late: flight Int32!, delay Float64
        ",
    );
}

#[test]
fn names_of_columns_can_stand_before_the_query() {
    check(
        "CREATE MATERIALIZED VIEW v (airline, \"How many\") AS
         SELECT carrier, count(*) FROM departures GROUP BY carrier",
        "
        View: key (airline)
          Aggregate: group (carrier) compute count(*) [state 0]
            Source departures: carrier Utf8
        ",
    );
    let plan = afflux_sql::plan_view(
        &query("CREATE MATERIALIZED VIEW v (a, \"B\") AS SELECT flight, delay + 1 FROM departures")
            .expect("parses"),
        &catalog(),
    )
    .expect("plans");
    let names: Vec<_> = plan.columns().iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["a", "B"]);
}
