//! Statements that nest, chain or repeat: each is planned, or refused before it costs anything.

mod fixture;

use fixture::{catalog, plan_text, query};

/// Statements of n parts within or behind each other.
fn deep(n: usize) -> Vec<String> {
    let repeat = |text: &str| text.repeat(n);
    vec![
        format!("SELECT {} AS x FROM departures", vec!["delay"; n].join(" + ")),
        format!("SELECT {}delay{} AS x FROM departures", repeat("abs("), repeat(")")),
        format!("SELECT {}cancelled AS x FROM departures", repeat("NOT ")),
        format!("SELECT delay {} AS x FROM departures", repeat("NOTNULL ")),
        format!("SELECT carrier {} AS x FROM departures", repeat("SIMILAR TO 'a' ")),
        vec!["SELECT carrier FROM departures"; n].join(" MINUS "),
        format!("SELECT flight FROM departures WHERE {}", vec!["delay = 1"; n].join(" OR ")),
        vec!["SELECT carrier, dest FROM departures"; n].join(" UNION ALL "),
        format!(
            "SELECT {}1{} AS x FROM departures",
            repeat("CASE WHEN cancelled THEN "),
            repeat(" END")
        ),
        (0..n).fold("SELECT carrier FROM departures".to_owned(), |query, _| {
            format!("SELECT carrier FROM ({query}) x WHERE carrier > 'a'")
        }),
    ]
}

/// Statements that would be 2^n times as large once they are planned.
fn doubling(n: usize) -> Vec<String> {
    let within = |(before, after): (&str, &str), core: &str| {
        format!("{}{core}{}", before.repeat(n), after.repeat(n))
    };
    let select = |expr: String| format!("SELECT {expr} AS x FROM departures");
    let with =
        (1..=n).fold("WITH t0 AS (SELECT carrier FROM departures)".to_owned(), |text, at| {
            let before = at - 1;
            format!("{text}, t{at} AS (SELECT * FROM t{before} UNION ALL SELECT * FROM t{before})")
        });
    vec![
        select(within(("coalesce(", ", '')"), "tail")),
        select(within(("nvl(", ", 1)"), "flight")),
        select(within(("(", " BETWEEN false AND true)"), "cancelled")),
        select(within(("(", " IN (cancelled, true))"), "cancelled")),
        select(within(("CASE WHEN ", " THEN cancelled ELSE true END"), "cancelled")),
        (0..n).fold("SELECT delay FROM departures".to_owned(), |query, _| {
            format!("SELECT delay + delay AS delay FROM ({query}) x WHERE delay > 1")
        }),
        format!("{with} SELECT * FROM t{n}"),
    ]
}

#[test]
fn what_is_too_deep_or_too_large_is_refused() {
    for sql in deep(40).into_iter().chain(doubling(40)) {
        if let Err(error) = plan_text(&sql, &catalog()) {
            assert!(["54001", "0A000"].contains(&error.sqlstate()), "{error}: {sql}");
        }
    }
    for sql in deep(5_000) {
        let error = query(&sql).expect_err("too deep");
        assert_eq!(error.sqlstate(), "54001", "{error}");
    }
    for sql in doubling(20) {
        let error = plan_text(&sql, &catalog()).expect_err(&sql);
        assert_eq!(error.sqlstate(), "54001", "{error}: {sql}");
    }
}

#[test]
fn what_is_long_or_repeats_a_little_plans() {
    let list = (0..5_000).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let long = format!("SELECT flight FROM departures WHERE flight IN ({list})");
    let ranges = vec!["delay BETWEEN 1 AND 2"; 100].join(" OR ");
    let wide: Vec<_> = (0..500).map(|n| format!("coalesce(tail, '') AS c{n}")).collect();
    let wide = format!("SELECT {} FROM departures", wide.join(", "));
    let ranges = format!("SELECT flight FROM departures WHERE {ranges}");
    for sql in doubling(4).into_iter().chain([long, ranges, wide]) {
        if let Err(error) = plan_text(&sql, &catalog()) {
            panic!("{error}: {sql}");
        }
    }
}
